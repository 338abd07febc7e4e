#!/usr/bin/env bash
# Tries pgkeep with servers and clients of PostgreSQL 14, 16, 17 and 18 (15 is what all other tests use): databases, cluster
# backups, WAL and recovery to a point in time, with each version's own programs as judges. Fetches what is missing.
#
#   tests/acceptance/postgresql_versions.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec tests/run.sh --test it versions::

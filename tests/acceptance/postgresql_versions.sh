#!/usr/bin/env bash
# Runs the tests of databases, tenants, archiving, cluster backups and recovery with servers and clients of PostgreSQL 16,
# 17 and 18 (all other tests use 15, and tests/it/versions.rs takes databases from each version to each). Fetches what is
# missing.
# These servers are built without ICU.
#
#   tests/acceptance/postgresql_versions.sh [VERSION]...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
(($#)) || set -- 16 17 18
for version; do
    printf 'PostgreSQL %s\n' "$version"
    PGKEEP_TEST_POSTGRES=$version tests/run.sh --test it -- \
        wal pitr backup:: restore:: objects:: tenants:: --skip a_locale_of_icu --skip cleanup_wal:: --skip test_restore::
done

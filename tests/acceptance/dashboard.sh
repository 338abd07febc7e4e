#!/usr/bin/env bash
# The page of `pgkeep status --html` in a real browser: pages of three lives (all well, some things wrong, nothing there)
# in Chromium, each at three widths, light and dark. Nothing may be in the console or be loaded from anywhere, axe-core must
# find nothing, tables must sort and filter from the keyboard.
#
#   tests/acceptance/dashboard.sh [DIRECTORY]    leaves a picture of each view in DIRECTORY
#
# Chromium and npm are installed from Debian if they are missing; puppeteer-core and axe-core come from npm into a
# directory that is removed at the end. Ends with a line PASS and exit code 0, or with what was found.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export LC_ALL=C.UTF-8
umask 022

tests/run.sh --install-only chromium npm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pictures=${1:-$work/pictures}
mkdir -p "$pictures" "$work/pages" "$work/node"
pictures=$(cd "$pictures" && pwd)

printf '== pages\n'
# The test writes them: from catalogs that it fills, with the stores of the tests.
PGKEEP_TEST_PAGES=$work/pages tests/run.sh --test it -- status::requirement_6_24_the_page_shows
pages=("$work"/pages/*.html)
((${#pages[@]} == 3)) || { printf 'dashboard.sh: %d pages instead of 3\n' "${#pages[@]}" >&2; exit 1; }

printf '== browser\n'
(cd "$work/node" && npm init -y >/dev/null && npm install --silent --no-audit --no-fund puppeteer-core@24 axe-core@4)
script=$PWD/tests/acceptance/dashboard.mjs
(cd "$work/node" && CHROMIUM=$(command -v chromium) node "$script" "$pictures" "${pages[@]}")
echo PASS

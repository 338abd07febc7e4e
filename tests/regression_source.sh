#!/usr/bin/env bash
# Provides PostgreSQL's own regression tests, ready to run, for the newest PostgreSQL server that Debian's packages have
# installed here: tests/regression_database.sh then makes the regression database out of them.
#
#   tests/regression_source.sh          root or an ordinary user; sudo only if a compiler or bzip2 has to be installed
#
# Leaves behind, below $PGKEEP_REGRESSION_DIR (default: target/regression), one directory per major version:
#   <major>/sql expected data ...       src/test/regress of the server's source package
#   <major>/schedule                    the tests to run
#   <major>/regress.so ...              the libraries that they load
#   <major>/stamp                       written last: what this was made for
#
# A run that finds the stamp right does nothing; a run that was killed leaves no stamp, and the next one starts afresh.
set -euo pipefail
umask 022 # the server reads these files, and it runs as somebody else

repository=$(cd "$(dirname "$0")/.." && pwd)
root=${PGKEEP_REGRESSION_DIR:-$repository/target/regression}

fail() { # message, hint
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

postgres=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)
[ -x "$postgres" ] || fail "no PostgreSQL server in /usr/lib/postgresql" "Install the package postgresql."
bindir=${postgres%/postgres}
version=$("$postgres" --version | awk '{print $3}')
major=${version%%[!0-9]*}
regress=$("$bindir/pg_config" --pgxs)
regress=${regress%/makefiles/pgxs.mk}/test/regress/pg_regress
[ -x "$regress" ] || fail "no $regress" "Install the package postgresql-client-$major."

# The script itself is part of the stamp: whoever changes it gets what the changed one makes.
stamp="PostgreSQL $version, recipe $(sha256sum <"$0" | cut -c -16)"
ready() { [ "$(cat "$root/$major/stamp" 2>/dev/null)" = "$stamp" ]; }

# Before the lock, so that it serves also who may only read what another user has made.
if ready; then exit 0; fi
mkdir -p "$root"
root=$(cd "$root" && pwd)
exec 9>"$root/lock"
flock 9 # two at once would remove each other's work
if ready; then exit 0; fi

if ! command -v gcc >/dev/null || ! command -v bzip2 >/dev/null || [ ! -e /usr/include/stdio.h ]; then
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends gcc libc6-dev bzip2
fi

work=$root/$major.partial
rm -rf "$work"
mkdir -p "$work/apt/sources" "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/headers"
cd "$work"

# apt with sources, lists and cache of its own, so that the machine's stay as they are and no root is needed. The
# machine's sources are copied with "deb-src" beside each "deb", and only what is asked for below is fetched: component
# main, indexes of packages and of sources, no others that some installed tool wants to have.
deb='^\s*deb\s+(\[([^]]*)\]\s*)?(\S+\s+\S+)\s(.*\s)?main(\s.*)?$' # 2: options, 3: address and suite
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -r "$list" ] || sed -nE "s/$deb/deb [target=Packages \\2] \\3 main\\ndeb-src [target=Sources \\2] \\3 main/p" \
        "$list" >"apt/sources/${list##*/}"
done
for list in /etc/apt/sources.list.d/*.sources; do
    [ ! -r "$list" ] || sed -E \
        -e '/^Types:(.*\s)?deb(\s|$)/ s/.*/Types: deb deb-src\nTargets: Packages Sources/' \
        -e '/^Components:(.*\s)?main(\s|$)/ s/.*/Components: main/' \
        "$list" >"apt/sources/${list##*/}"
done
cat >apt/conf <<EOF
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$work/apt/sources";
Dir::State::Lists "$work/apt/lists";
Dir::Cache "$work/apt/cache";
Acquire::Languages "none";
APT::Sandbox::User "root";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
EOF

# One source that cannot be reached, or has no packages in source form, need not matter: whether the ones that count are
# there is seen by what can be had.
apt-get -c apt/conf update >apt/log 2>&1 || true

# Fetches one version of a package and prints which: the installed one or the next newer, else the next older; within a
# major version all fit one another. A mirror may list a version and not have it (a fresh security update): then the
# next one is tried.
fetch() { # index (Packages or Sources), package, command...
    local index=$1 package=$2 offers offered older=() newer=()
    offers=$(apt-cache -c apt/conf madison "$package" |
        awk -v wanted="$index" '$NF == wanted {print $3}' | sort -Vu)
    for offered in $offers; do
        if dpkg --compare-versions "$offered" ge "$version"; then
            newer+=("$offered")
        else
            older=("$offered" "${older[@]}")
        fi
    done
    for offered in "${newer[@]}" "${older[@]}"; do
        if apt-get -c apt/conf -qq "${@:3}" "$package=$offered" >>apt/log 2>&1; then echo "$offered" && return; fi
    done
    cat apt/log >&2
    fail "apt cannot fetch $package ($index)" \
        "Check the network, and that a mirror in /etc/apt/sources.list.d has it for PostgreSQL $major."
}

# The headers are only unpacked: installing their package would bring a whole clang and LLVM along.
tests=$(fetch Sources "postgresql-$major" source --download-only --tar-only)
headers=$(fetch Packages "postgresql-server-dev-$major" download)
echo "PostgreSQL $version: regression tests of $tests, headers of $headers"
tar -xf postgresql-*.orig.tar.* --no-same-owner --no-same-permissions --strip-components=4 \
    --wildcards '*/src/test/regress/*'
dpkg-deb -x postgresql-server-dev-*.deb headers

# -fwrapv and -fno-strict-aliasing: PostgreSQL's code is written for these two.
gcc -shared -fPIC -O2 -fwrapv -fno-strict-aliasing -I "headers/usr/include/postgresql/$major/server" \
    -o regress.so regress.c

# The tests find every library in one directory. PostgreSQL's tests have used these two of contrib's up to version 17.
for library in autoinc refint; do
    ln -s "$("$bindir/pg_config" --pkglibdir)/$library.so" .
done

# The test of tablespaces makes directories inside the server's, and drops all that it made: nothing for the database.
sed '/^test: tablespace$/d' parallel_schedule >schedule

rm -rf apt headers postgresql-*
echo "$stamp" >stamp
rm -rf "${root:?}/$major"
mv "$work" "$root/$major"

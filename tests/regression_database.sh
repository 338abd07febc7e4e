#!/usr/bin/env bash
# Makes PostgreSQL's regression database on a running scratch server: a database with nearly every kind of object that
# pg_dump knows, kept for just that by PostgreSQL's own tests, which dump, upgrade and compare it.
#
#   tests/regression_database.sh BINDIR SOCKET_DIR PORT USER DATABASE WORKDIR
#
# BINDIR       the server's programs, e.g. /usr/lib/postgresql/15/bin
# SOCKET_DIR   where the server listens; USER, a superuser, must get in without a password
# DATABASE     is made, in UTF8, with settings of its own (ALTER DATABASE ... SET); pg_regress cannot quote a double
#              quote in its name, and some expected outputs call it "regression". Roles regress_* come and go: one
#              run at a time on a server
# WORKDIR      for output; server and caller must both be able to write in it, so best run this as the server's user
#
# Wants what tests/regression_source.sh makes. A test whose output differs is no failure here: output depends on locale,
# build and settings, and only the database counts.
set -euo pipefail

fail() { # message, hint
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

[ $# = 6 ] || fail "6 arguments wanted, $# given" "Usage: $0 BINDIR SOCKET_DIR PORT USER DATABASE WORKDIR"
bindir=$1 socket_dir=$2 port=$3 user=$4 database=$5 workdir=$6

version=$("$bindir/postgres" --version | awk '{print $3}')
source=${PGKEEP_REGRESSION_DIR:-$(cd "$(dirname "$0")/.." && pwd)/target/regression}/${version%%[!0-9]*}
[ -r "$source/stamp" ] || fail "no regression tests in $source, or not for $(id -un) to read" \
    "Run tests/regression_source.sh; with PGKEEP_REGRESSION_DIR, put them where everybody can read."
source=$(cd "$source" && pwd) # the functions in C keep this path
regress=$("$bindir/pg_config" --pgxs)
regress=${regress%/makefiles/pgxs.mk}/test/regress/pg_regress

unset "${!PG@}" # the caller's PGOPTIONS, PGDATABASE ... would change what the tests make
# The tests switch off cheap plans, which makes the rest look worth compiling: time for nothing.
export PGOPTIONS="-c jit=off"

sql() { # database, query
    "$bindir/psql" -XAtq -v ON_ERROR_STOP=1 -h "$socket_dir" -p "$port" -U "$user" -d "$1" -c "$2"
}

# pg_regress would drop a database of this name.
there=$(sql postgres "SELECT count(*) FROM pg_database WHERE datname = '${database//\'/\'\'}'")
[ "$there" = 0 ] || fail "the database $database is already there" "Drop it, or start with a new scratch server."

mkdir -p "$workdir"
log=$workdir/pg_regress.log
status=0
"$regress" --bindir="$bindir" --host="$socket_dir" --port="$port" --user="$user" --dbname="$database" --encoding=UTF8 \
    --inputdir="$source" --outputdir="$workdir" --dlpath="$source" --schedule="$source/schedule" \
    --max-concurrent-tests=20 >"$log" 2>&1 || status=$?

# 1 says that outputs differ; above, the tests could not be run.
if [ "$status" -gt 1 ]; then
    tail -n 20 "$log" >&2
    fail "pg_regress gave up with status $status" "See $log and the server's log."
fi

# After a crash the server comes back, with a part of the tests done: the tables alone would not tell.
crash='crash of another server process|server closed the connection unexpectedly'
if crashed=$(grep -rlE "$crash" "$workdir/results"); then
    fail "the server crashed in ${crashed//$'\n'/ }" "See $log and the server's log."
fi
tables=$(sql "$database" "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")
[ "$tables" -ge 200 ] || fail "only $tables tables came to be in $database" "See $log and $workdir/regression.diffs."

differing=$(grep -cE 'FAILED|^not ok' "$log") || true
echo "database $database: $tables tables; tests with another output than PostgreSQL's: $differing (see $log)"

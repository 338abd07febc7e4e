#!/usr/bin/env bash
# Shows pgkeep at work on a real PostgreSQL, from nothing: a database is backed up, dropped, restored and proven
# equal. Missing packages are installed; all else happens in one temporary directory that is removed at the end.
set -euo pipefail

usage() {
    cat <<'END'
usage: examples/quickstart.sh [--size small|large] [--binary PATH] [--keep]

  --size SIZE    small: a database of about 60 MB (the default)
                 large: about 1 GB; needs some 3 GB in TMPDIR (/tmp)
  --binary PATH  use this pgkeep instead of building one
  --keep         leave the server running and the files in place, to look around
END
}

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=examples/scratch_server.sh
source "$here/scratch_server.sh"

# Prints each table with its number of rows and a checksum of all their values, whatever the order of the rows.
fingerprint() {
    psql --dbname shop --no-align --tuples-only <<'END'
select format('select %L, count(*), sum(hashtextextended(t::text, 0)) from %s t', oid::regclass, oid::regclass)
  from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by relname
\gexec
END
}

size=small binary='' keep=''
while (($#)); do
    case $1 in
    --size) size=${2:?--size needs a value} && shift ;;
    --binary) binary=${2:?--binary needs a value} && shift ;;
    --keep) keep=yes ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done
case $size in
small) rows=160000 ;;
large) rows=3100000 ;;
*) usage >&2 && exit 2 ;;
esac

begin ''

step 'make a database' psql --command 'create database shop'
step 'fill it with 50 tenants' psql --dbname shop --set "rows=$rows" --file sample_data.sql

step 'see how large it is' psql --dbname shop --no-align --tuples-only \
    --command "select 'shop: ' || pg_size_pretty(pg_database_size('shop'))"

settings quickstart

step 'make the catalog and the store' pgkeep init
# 3 says: there are warnings. They don't keep a backup from working.
step 'see that a backup would work' pgkeep check || (($? == 3))
step 'back the database up' pgkeep backup database shop

announce 'remember what is in it' count the rows of each table and add up their hashes
fingerprint >before
awk -F '|' '{ printf "%-14s %9d rows   checksum %s\n", $1, $2, $3 }' before
step 'destroy it' psql --command 'drop database shop'
step 'bring it back' pgkeep restore latest --mode full --yes
announce 'compare' the same again
fingerprint >after
diff before after >&2 || die 'the restored database differs (< before, > after)'
echo 'identical'

step 'prove every stored byte' pgkeep verify --deep
step 'see the backups' pgkeep list
step 'see one of them' pgkeep show latest

awk -F '|' '{ rows += $2 } END {
    printf "\nquickstart: %d tables, %d rows: identical after the restore\n", NR, rows
}' after

#!/usr/bin/env bash
# One customer's data is wrecked while all customers are working; the customer goes back to the second before, and
# everybody else's later work stays. On a real PostgreSQL with WAL archiving, in one temporary directory that is removed at
# the end. Missing packages are installed.
set -euo pipefail

usage() {
    cat <<'END'
usage: examples/tenant_time_travel.sh [--binary PATH] [--keep]

  --binary PATH  use this pgkeep instead of building one
  --keep         leave the server running and the files in place, to look around
END
}

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=examples/scratch_server.sh
source "$here/scratch_server.sh"

# What a customer has: rows and a checksum of each table.
customer() {
    psql --dbname shop --no-align --tuples-only --set "id=$1" <<'END'
select 'tenants', count(*), sum(hashtextextended(t::text, 0)) from tenants t where id = :id
union all select 'users', count(*), sum(hashtextextended(t::text, 0)) from users t where tenant_id = :id
union all select 'accounts', count(*), sum(hashtextextended(t::text, 0)) from accounts t where tenant_id = :id
union all select 'transactions', count(*), sum(hashtextextended(t::text, 0)) from transactions t where tenant_id = :id
order by 1
END
}

# Customers at work: books for everybody but number 17, some hundred times, then ends by itself.
working() {
    for _ in {1..300}; do
        psql --dbname shop <<'END' || return
insert into transactions (tenant_id, account_id, amount, booked_at, memo, details)
select tenant_id, id, 1, now(), 'later', '{}' from accounts where tenant_id <> 17 order by random() limit 20;
update accounts set balance = balance + 1 where id in (select id from accounts where tenant_id <> 17 order by random() limit 5);
END
        sleep 0.05
    done
}

count_later() {
    psql --dbname shop --no-align --tuples-only --command "select count(*) from transactions where memo = 'later' and tenant_id <> 17"
}

binary='' keep=''
while (($#)); do
    case $1 in
    --binary) binary=${2:?--binary needs a value} && shift ;;
    --keep) keep=yes ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done

begin "archive_mode = on
archive_command = '/bin/false'"

step 'make a database' psql --command 'create database shop'
step 'fill it with 50 customers' psql --dbname shop --set rows=40000 --file sample_data.sql
settings travel
as_user sed -i 's/^PGDATABASE=.*/PGDATABASE=shop/' pgkeep.env
step 'make the catalog and the store' pgkeep init
announce 'let the server archive its WAL' archive_command = "'pgkeep wal-push %p'"
psql --command "alter system set archive_command = '$work/bin/pgkeep --env-file $work/pgkeep.env wal-push %p'"
psql --command 'select pg_reload_conf()' --no-align --tuples-only >/dev/null
step 'back the cluster up' pgkeep backup cluster --fast
announce 'see who the customers are' pgkeep list --tenants
pgkeep list --tenants | head -n 8

announce 'customers are at work' insert and update, until this script has ended its story
working &
worker=$!
sleep 1
customer 17 >before
good=$(psql --no-align --tuples-only --command "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')")
printf 'at %s customer 17 has\n' "$good"
awk -F '|' '{ printf "  %-14s %9d rows\n", $1, $2 }' before
sleep 1
announce 'somebody wrecks customer 17' delete and update
psql --dbname shop <<'END'
delete from transactions where tenant_id = 17 and id % 2 = 0;
update accounts set balance = 0 where tenant_id = 17;
update users set email = 'gone' || id where tenant_id = 17;
END
customer 17 >wrecked
! diff -q before wrecked >/dev/null || die 'nothing was wrecked'
sleep 1
# The last seconds are archived when the segment is full, or ended.
segment=$(psql --no-align --tuples-only --command 'select pg_walfile_name(pg_switch_wal())')
for _ in {1..120}; do
    archived=$(psql --no-align --tuples-only --command "select last_archived_wal >= '$segment' from pg_stat_archiver")
    [[ $archived != t ]] || break
    sleep 0.5
done
[[ $archived == t ]] || die "$segment is not archived"
later=$(count_later)

step 'see what would be done' pgkeep restore --mode pitr --tenant 17 --target-time "$good" --dry-run
step 'bring customer 17 back' pgkeep restore --mode pitr --tenant 17 --target-time "$good" --yes --prove-others || (($? == 3))
announce 'compare' customer 17 before and after
customer 17 >after
diff before after >&2 || die 'customer 17 differs (< before, > after)'
echo 'customer 17 is as it was'
wait "$worker" || die 'the other customers could not work'
now=$(count_later)
((now > later)) || die 'the other customers were kept from working'
printf "\ntenant_time_travel: customer 17 is as it was at %s; %d later bookings of others, %d of them made meanwhile, are all there\n" \
    "$good" "$now" "$((now - later))"

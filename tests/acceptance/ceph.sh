#!/usr/bin/env bash
# Three places with a production object store: pgkeep from `init` to recovery on a bare host, with Ceph's radosgw in the
# places of R2 (over TLS) and B2 (plain, with versions), and a real PostgreSQL.
#
#   tests/acceptance/ceph.sh [PGKEEP]           tries this program (target/release/pgkeep, built if it is not given)
#   tests/acceptance/ceph.sh --server-only      only Ceph and the S3 that pgkeep needs of it, without pgkeep
#
# On one machine, loopback only: one monitor, one OSD on a sparse file, two gateways, all as an ordinary user, in one
# directory that is removed at the end. Packages of Debian's that are missing are installed, which takes root, and
# removed at the end unless KEEP_PACKAGES is set. Ends with a line PASS and exit code 0, or with FAIL and the step.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export LC_ALL=C.UTF-8
umask 022
export PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-~/.cargo}/bin

step='beginning' explained='' work='' pids=() installed=() had_ceph_user=''

say() {
    step=$*
    printf '== %s\n' "$*"
}

die() {
    printf 'ceph.sh: %s: %s\n' "$step" "$*" >&2
    exit 1
}

# --- the end, however it comes ---------------------------------------------------------------------------------------

stop() { # pid: asks, then insists
    kill "$1" 2>/dev/null || return 0
    for ((i = 0; i < 100; i++)); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

finish() {
    local code=$?
    trap '' EXIT INT TERM
    if ((code)) && [[ $work && ! $explained ]]; then
        tail -n 15 "$work"/*.log >&2 2>/dev/null || true
    fi
    # PostgreSQL and the gateways before what they stand on.
    for ((p = ${#pids[@]} - 1; p >= 0; p--)); do
        stop "${pids[p]}"
    done
    [[ -z $work ]] || rm -rf "$work"
    if ((${#installed[@]})) && [[ ! ${KEEP_PACKAGES:-} ]]; then
        DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 purge --yes "${installed[@]}" >/dev/null ||
            printf 'ceph.sh: these packages are left: %s\n' "${installed[*]}" >&2
        if [[ ! $had_ceph_user ]] && id ceph &>/dev/null; then
            userdel ceph 2>/dev/null || true
            rm -rf /var/lib/ceph /var/log/ceph
        fi
    fi
    if ((code)); then
        printf 'FAIL: %s\n' "$step" >&2
    else
        printf 'PASS\n'
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# --- what is needed --------------------------------------------------------------------------------------------------

packages() {
    dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | awk '/^ii/ { print $2 }' | sort
}

install_missing() {
    local missing=()
    command -v radosgw >/dev/null || missing+=(radosgw)
    command -v ceph-mon >/dev/null || missing+=(ceph-mon)
    command -v ceph-osd >/dev/null || missing+=(ceph-osd)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v curl >/dev/null || missing+=(curl)
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    ((EUID == 0)) || die "missing: ${missing[*]}; ask an administrator to run: apt-get install ${missing[*]}"
    id ceph &>/dev/null && had_ceph_user=yes
    local before
    before=$(packages)
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update || true
    "${apt[@]}" install --yes --no-install-recommends "${missing[@]}" >/dev/null || die 'apt-get failed'
    mapfile -t installed < <(comm -13 <(printf '%s\n' "$before") <(packages))
}

# Runs a command as an ordinary user, in the directory of this run.
as_user() {
    if ((EUID == 0)); then
        setpriv --reuid=postgres --regid=postgres --init-groups -- env HOME="$work" "$@"
    else
        "$@"
    fi
}

# Starts a server in the background; its pid is in $pid, and it is stopped at the end.
serve() { # name, command...
    local log=$work/$1.log
    shift
    if ((EUID == 0)); then
        setpriv --reuid=postgres --regid=postgres --init-groups -- env HOME="$work" "$@" >>"$log" 2>&1 &
    else
        "$@" >>"$log" 2>&1 &
    fi
    pid=$!
    pids+=("$pid")
}

# Waits for a command to succeed, for at most a minute.
await() { # what, command...
    local what=$1
    shift
    for ((n = 0; n < 240; n++)); do
        if "$@" &>/dev/null; then
            return 0
        fi
        sleep 0.25
    done
    die "waited in vain for $what"
}

free_ports() { # how many
    python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))
PYTHON
}

# --- Ceph ------------------------------------------------------------------------------------------------------------

# On stderr are warnings about keyrings that it does not need; they are shown when something fails.
ceph_() {
    as_user timeout 60 ceph --conf "$work/ceph.conf" --keyring "$work/admin.keyring" --connect-timeout 30 "$@" \
        2>>"$work/admin.log"
}

start_ceph() {
    say 'starting Ceph'
    local fsid osd_uuid
    read -r mon_port r2_port b2_port < <(free_ports 3)
    fsid=$(</proc/sys/kernel/random/uuid)
    osd_uuid=$(</proc/sys/kernel/random/uuid)
    as_user mkdir -p "$work"/{mon,osd,run,rgw-r2,rgw-b2}
    as_user tee "$work/ceph.conf" >/dev/null <<CONF
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:$mon_port/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
run_dir = $work/run
admin_socket = $work/run/\$name.\$pid.asok
crash_dir = $work/run
log_file = $work/\$name.log
log_to_stderr = false
mon_data = $work/mon
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
mon_osd_full_ratio = 0.99
osd_data = $work/osd
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_crush_update_on_start = false
osd_memory_target = 1073741824
osd_scrub_begin_hour = 0
bluestore_block_size = 8589934592
rgw_thread_pool_size = 64
rgw_enable_usage_log = false
CONF

    as_user ceph-authtool --create-keyring "$work/admin.keyring" --gen-key -n client.admin \
        --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
    as_user ceph-authtool --create-keyring "$work/mon.keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
    as_user ceph-authtool "$work/mon.keyring" --import-keyring "$work/admin.keyring" >/dev/null
    as_user monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon_port/0]" "$work/monmap" >/dev/null
    as_user ceph-mon --conf "$work/ceph.conf" --mkfs -i a --monmap "$work/monmap" --keyring "$work/mon.keyring"
    serve mon ceph-mon --conf "$work/ceph.conf" -f -i a
    await 'the monitor' ceph_ quorum_status

    ceph_ osd require-osd-release pacific --yes-i-really-mean-it &>/dev/null || true
    ceph_ osd new "$osd_uuid" >/dev/null
    ceph_ auth get-or-create osd.0 mon 'allow profile osd' osd 'allow *' -o "$work/osd/keyring"
    ceph_ osd crush add osd.0 1.0 root=default host=loopback &>/dev/null
    as_user ceph-osd --conf "$work/ceph.conf" --mkfs -i 0 --osd-uuid "$osd_uuid" --keyring "$work/osd/keyring" \
        &>>"$work/mkfs.log" || die 'no OSD could be made'
    serve osd ceph-osd --conf "$work/ceph.conf" -f -i 0
    await 'the OSD' osd_is_up
}

osd_is_up() {
    ceph_ osd stat | grep -q '1 up'
}

make_certificates() {
    say 'making a certificate authority of its own'
    as_user openssl req -x509 -newkey rsa:2048 -nodes -days 90 -subj '/CN=pgkeep acceptance CA' \
        -addext 'basicConstraints=critical,CA:TRUE' -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
    as_user openssl req -newkey rsa:2048 -nodes -subj '/CN=localhost' \
        -keyout "$work/server.key" -out "$work/server.csr" 2>/dev/null
    as_user tee "$work/server.ext" >/dev/null <<<'subjectAltName = DNS:localhost, IP:127.0.0.1'
    as_user openssl x509 -req -in "$work/server.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial \
        -days 90 -extfile "$work/server.ext" -out "$work/server.pem" 2>/dev/null
}

# A gateway for each place, so that one can be away.
start_gateway() { # r2|b2
    local endpoint
    if [[ $1 == r2 ]]; then
        endpoint="ssl_endpoint=127.0.0.1:$r2_port ssl_certificate=$work/server.pem ssl_private_key=$work/server.key"
    else
        endpoint="endpoint=127.0.0.1:$b2_port"
    fi
    ceph_ auth get-or-create "client.rgw.$1" mon 'allow rw' osd 'allow rwx' -o "$work/rgw-$1/keyring"
    serve "rgw-$1" radosgw --conf "$work/ceph.conf" -f -n "client.rgw.$1" --keyring "$work/rgw-$1/keyring" \
        --rgw-data "$work/rgw-$1" --rgw-frontends "beast $endpoint"
    gateway[$1]=$pid
    await "the gateway of $1" curl -s --cacert "$work/ca.pem" -o /dev/null "${url[$1]}/"
}

declare -A gateway=() url=() key=() secret=()

s3() { # place, status that is expected, curl's arguments; the answer's body is in $work/answer
    local place=$1 expected=$2 status
    shift 2
    status=$(curl -s --max-time 60 --cacert "$work/ca.pem" --aws-sigv4 aws:amz:us-east-1:s3 \
        -u "${key[$place]}:${secret[$place]}" -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \
        -o "$work/answer" -w '%{http_code}' "$@") || die "curl $*: $?"
    [[ $status == "$expected" ]] || die "$*: HTTP $status, expected $expected: $(<"$work/answer")"
}

start_gateways() {
    say 'starting two gateways with a user and a bucket each'
    url=([r2]="https://127.0.0.1:$r2_port" [b2]="http://127.0.0.1:$b2_port")
    local place
    for place in r2 b2; do
        start_gateway $place
        key[$place]=KEY${place^^} secret[$place]=secret/$place+$RANDOM$RANDOM
        as_user radosgw-admin --conf "$work/ceph.conf" --keyring "$work/admin.keyring" user create \
            --uid="$place" --display-name="$place" --access-key="${key[$place]}" --secret-key="${secret[$place]}" \
            >/dev/null 2>>"$work/admin.log" || die "no user $place"
        s3 $place 200 -X PUT "${url[$place]}/$place-bucket"
    done
    printf '%s' '<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>' >"$work/versioning"
    s3 b2 200 -T "$work/versioning" "${url[b2]}/b2-bucket?versioning="
}

# What pgkeep will rest on, with somebody else's client: the gateways are as strict as they should be.
check_gateways() {
    say 'asking the gateways'
    local place
    printf hello >"$work/hello"
    for place in r2 b2; do
        local object=${url[$place]}/$place-bucket/a/key
        s3 $place 200 -T "$work/hello" "$object"
        s3 $place 206 -H 'range: bytes=1-3' "$object"
        [[ $(<"$work/answer") == ell ]] || die "a range is not what was asked for: $(<"$work/answer")"
        local right=${secret[$place]}
        secret[$place]=wrong
        s3 $place 403 "$object"
        secret[$place]=$right
        s3 $place 204 -X DELETE "$object"
        s3 $place 404 "$object"
    done
    s3 b2 403 "${url[b2]}/r2-bucket?list-type=2"
    s3 b2 200 "${url[b2]}/b2-bucket?versions="
    grep -q '<DeleteMarker>' "$work/answer" || die 'the bucket of b2 keeps no versions'
    if curl -s --max-time 10 -o /dev/null "${url[r2]}/"; then
        die 'the gateway of r2 is trusted without its authority'
    fi
}

# --- pgkeep ----------------------------------------------------------------------------------------------------------

start_postgresql() {
    say 'starting PostgreSQL'
    local bin candidate
    for candidate in /usr/lib/postgresql/*/bin; do
        bin=$candidate
    done
    export PATH=$bin:$PATH
    as_user "$bin/initdb" -D "$work/data" -U postgres -A trust --no-sync >"$work/initdb.log" 2>&1
    serve postgresql "$bin/postgres" -D "$work/data" -k "$work" -c listen_addresses= -c fsync=off
    await 'PostgreSQL' as_user psql -h "$work" -U postgres -c 'SELECT 1'
    # Large enough for an upload in several parts, whatever it is compressed to.
    sql postgres 'CREATE DATABASE app'
    sql app "CREATE TABLE tenants (id int PRIMARY KEY, name text NOT NULL);
             INSERT INTO tenants SELECT n, 'tenant ' || n FROM generate_series(1, 100) n;
             CREATE TABLE documents (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text NOT NULL);
             INSERT INTO documents SELECT n, 1 + n % 100,
                    (SELECT string_agg(md5(n || '/' || m), '') FROM generate_series(1, 40) m)
               FROM generate_series(1, 60000) n" >/dev/null
}

sql() { # database, statement
    as_user psql -XAtq -v ON_ERROR_STOP=1 -h "$work" -U postgres -d "$1" -c "$2"
}

contents() { # database
    sql "$1" "SELECT (SELECT count(*) || ' ' || sum(hashtextextended(t::text, 0)) FROM tenants t),
                     (SELECT count(*) || ' ' || sum(hashtextextended(d::text, 0)) FROM documents d)"
}

settings() { # places...: the env file with a key, the server, and the credentials of these places alone
    local place
    as_user install -m 600 /dev/null "$work/pgkeep.env"
    {
        printf '%s\n' BACKUP_CLUSTER=acceptance "BACKUP_STATE_DIR=$work/state" "BACKUP_ENCRYPTION_KEY=$fernet_key" \
            "PGHOST=$work" PGUSER=postgres PGDATABASE=app
        for place; do
            case $place in
                local) printf '%s\n' "BACKUP_LOCAL_DIR=$work/store" ;;
                r2) printf '%s\n' "R2_ENDPOINT=${url[r2]}" R2_BUCKET=r2-bucket "R2_ACCESS_KEY=${key[r2]}" \
                    "R2_SECRET_KEY=${secret[r2]}" ;;
                b2) printf '%s\n' "B2_ENDPOINT=${url[b2]}" B2_BUCKET_NAME=b2-bucket B2_REGION=us-east-1 \
                    "B2_KEY_ID=${key[b2]}" "B2_APPLICATION_KEY=${secret[b2]}" ;;
            esac
        done
    } | as_user tee "$work/pgkeep.env" >/dev/null
}

pgkeep() { # exit code that is expected, arguments...
    local expected=$1 code=0
    shift
    # The authority of the gateway's certificate: pgkeep takes the system's, or those that this variable names.
    as_user env SSL_CERT_FILE="$work/ca.pem" PGKEEP_ENV_FILE="$work/pgkeep.env" "$work/bin/pgkeep" "$@" \
        >"$work/pgkeep.log" 2>&1 || code=$?
    if ((code != expected)); then
        explained=yes
        cat "$work/pgkeep.log" >&2
        die "pgkeep $*: exit code $code, expected $expected"
    fi
}

# The README's section of this name: one cloud is away, the state directory, the local store and the database are gone,
# the settings are a key and the other cloud's credentials, and the command is the one that is written there.
machine_is_gone() { # the contents that are expected
    say 'the machine is gone, as the README says'
    local command kept
    command=$(awk '/^## / { inside = $0 == "## The machine is gone" } inside && /^pgkeep restore/' README.md)
    [[ $command == 'pgkeep restore latest --yes' ]] || die "the README's command is another one: $command"
    kept=$(mktemp -d "$work/kept.XXXXXX")
    mv "$work/state" "$work/store" "$kept"
    stop "${gateway[r2]}"
    sql postgres 'DROP DATABASE app'
    settings b2
    # shellcheck disable=SC2086 # it is several words
    pgkeep 0 ${command#pgkeep }
    [[ $(contents app) == "$1" ]] || die "other rows than were backed up: $(contents app)"
    pgkeep 0 list
    as_user rm -rf "$work/state"
    mv "$kept"/* "$work"
    start_gateway r2
}

try_pgkeep() {
    local before place
    fernet_key=$(as_user "$work/bin/pgkeep" key new)
    settings local r2 b2

    say 'init, check, backup, verify with all three places'
    pgkeep 0 init
    pgkeep 0 check
    pgkeep 0 backup database app
    pgkeep 0 verify

    say 'b2 is away: the backup is made, the copy is owed'
    stop "${gateway[b2]}"
    sql app "INSERT INTO documents VALUES (0, 1, 'while b2 was away')"
    before=$(contents app)
    pgkeep 3 backup database app

    say 'b2 is back: sync makes the copy'
    start_gateway b2
    pgkeep 0 sync
    pgkeep 0 verify
    for place in r2 b2; do
        s3 $place 200 "${url[$place]}/$place-bucket?uploads="
        if grep -q '<Upload>' "$work/answer"; then
            die "an upload to $place was left unfinished"
        fi
    done

    say 'a copy in r2 is damaged: verify finds it, sync makes it anew'
    local object
    s3 r2 200 "${url[r2]}/r2-bucket?list-type=2"
    object=$(grep -o 'acceptance/backups/[^<]*/data\.00000' "$work/answer" | tail -n 1)
    [[ $object ]] || die "no volume is listed: $(<"$work/answer")"
    s3 r2 200 -T "$work/hello" "${url[r2]}/r2-bucket/$object"
    pgkeep 4 verify
    pgkeep 0 sync
    pgkeep 0 verify --deep

    say 'B2 keeps no version of what was deleted or overwritten'
    s3 b2 200 "${url[b2]}/b2-bucket?versions="
    local left
    left=$(sed 's/<\(Version\|DeleteMarker\)>/\n&/g' "$work/answer" | grep '<Key>acceptance/')
    [[ $left ]] || die "no object is listed: $(<"$work/answer")"
    if left=$(grep -e '^<DeleteMarker>' -e '<IsLatest>false' <<<"$left"); then
        die "deleted, or overwritten, and still paid for: $left"
    fi

    machine_is_gone "$before"

    # And every place alone brings all back.
    as_user mv "$work/store" "$work/kept"
    for place in r2 b2 local; do
        say "bare host with nothing but the key and $place"
        as_user rm -rf "$work/state" "$work/store"
        if [[ $place == local ]]; then
            as_user mv "$work/kept" "$work/store"
            stop "${gateway[r2]}"
            stop "${gateway[b2]}"
        fi
        settings $place
        pgkeep 0 catalog rebuild
        pgkeep 0 restore latest --yes --to-database "from_$place"
        [[ $(contents "from_$place") == "$before" ]] || die "other rows than were backed up: $(contents "from_$place")"

        say "the same in one command, from $place"
        as_user rm -rf "$work/state"
        sql postgres "DROP DATABASE \"from_$place\""
        pgkeep 0 restore latest --yes --to-database "from_$place"
        [[ $(contents "from_$place") == "$before" ]] || die "other rows than were backed up: $(contents "from_$place")"
    done
}

# --- in order --------------------------------------------------------------------------------------------------------

program=${1:-}
if [[ ! $program ]]; then
    say 'building pgkeep'
    cargo build --quiet --locked --release
    program=${CARGO_TARGET_DIR:-target}/release/pgkeep
fi
[[ $program == --server-only || -x $program ]] || die "$program is not a program"

install_missing
work=$(mktemp -d "${TMPDIR:-/tmp}/pgkeep-ceph.XXXXXX")
chmod 755 "$work"
if ((EUID == 0)); then
    chown postgres:postgres "$work"
fi
start_ceph
make_certificates
start_gateways
check_gateways
if [[ $program != --server-only ]]; then
    # Where the ordinary user may read it, wherever it was built.
    mkdir "$work/bin"
    install -m 755 "$program" "$work/bin/pgkeep"
    start_postgresql
    try_pgkeep
fi
say 'clearing up'

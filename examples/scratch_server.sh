# For the scripts beside this one, which source it: a scratch PostgreSQL in a temporary directory, and pgkeep, with whatever
# is missing installed. It sets $postgres, $work and $user, and expects $binary and $keep.
# shellcheck shell=bash

script=$(basename "$0" .sh)
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work='' steps=0

die() {
    printf '%s: %s\n' "$script" "$*" >&2
    exit 1
}

# Announces a step, showing the command that does it as one would type it.
announce() {
    local word command=''
    for word in "${@:2}"; do
        [[ $word != *' '* ]] || word="'$word'"
        command+=" $word"
    done
    steps=$((steps + 1))
    printf '\n== %d. %s:%s\n' "$steps" "$1" "$command"
}

# Announces a step and does it.
step() {
    announce "$@"
    "${@:2}"
}

# Prints the directory of the newest PostgreSQL that has both the server's and the clients' programs.
find_postgres() {
    local bin
    while read -r bin; do
        if [[ -x $bin/initdb && -x $bin/pg_dump && -x $bin/psql ]]; then
            printf '%s\n' "$bin"
            return
        fi
    done < <(
        printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV # Debian, Ubuntu
        printf '%s\n' /usr/pgsql-*/bin | sort -rV          # RHEL and its kin
        tr ':' '\n' <<<"$PATH"
    )
    return 1
}

install_packages() {
    command -v apt-get >/dev/null ||
        die "missing: $* (names of Debian's packages; there is no apt-get here: install the like and run this again)"
    local as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "missing: $*; ask an administrator to run: apt-get install $*"
        as_root=(sudo)
    fi
    printf '%s: installing %s\n' "$script" "$*"
    # A machine that has just been started may still be installing its updates: wait for the lock.
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    if ! { "${apt[@]}" update && "${apt[@]}" install --yes --no-install-recommends "$@"; }; then
        die "apt-get could not install: $*"
    fi
}

# The server, its clients and pgkeep run as an ordinary user (PostgreSQL refuses root) and in an empty environment:
# nobody's PGHOST, BACKUP_* or ~/.pgpass can lead them away from the temporary directory.
as_user() {
    "${become[@]}" env -i "PATH=$work/bin:$postgres:/usr/bin:/bin" "HOME=$work" "TMPDIR=$work" LC_ALL=C.UTF-8 \
        "TERM=${TERM:-dumb}" "$@"
}

psql() {
    as_user "PGHOST=$work" PGUSER=postgres psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 "$@"
}

pgkeep() {
    as_user "PGKEEP_ENV_FILE=$work/pgkeep.env" pgkeep "$@"
}

# Runs at every end, also after Ctrl-C. The server is stopped by its data directory, so no other can be meant.
cleanup() {
    trap '' INT TERM HUP
    [[ -n $work ]] || return
    if [[ $keep ]]; then
        cat <<END

kept: $work, and the server that runs there. To look around, as the user $user:
  PGKEEP_ENV_FILE=$work/pgkeep.env $work/bin/pgkeep list
  $postgres/psql --host=$work --username=postgres shop
to end it:
  $postgres/pg_ctl stop -D $work/data && rm -rf $work
END
        return
    fi
    cd /
    if [[ -e $work/data/postmaster.pid ]]; then
        # Nothing is to survive, so there is no checkpoint to wait for.
        as_user pg_ctl stop --silent -D "$work/data" -m immediate || true
    fi
    rm -rf "$work"
}

# Installs and builds what is missing, and starts the server.
#
#   begin SETTINGS...   SETTINGS: more lines for postgresql.conf
begin() {
    # What is needed: a PostgreSQL server; to build, also Rust and a C compiler (SQLite and zstd are C).
    missing=()
    find_postgres >/dev/null || missing+=(postgresql)
    if [[ $binary ]]; then
        [[ -f $binary && -x $binary ]] || die "not a program: $binary"
        binary=$(realpath "$binary")
    else
        command -v cc >/dev/null || missing+=(build-essential)
        # A shell opened before Rust was installed doesn't know it yet.
        PATH=$PATH:${CARGO_HOME:-~/.cargo}/bin
        command -v cargo >/dev/null || die "missing: cargo; install Rust as https://rustup.rs says and run this again"
    fi
    if ((${#missing[@]})); then
        install_packages "${missing[@]}"
    fi
    postgres=$(find_postgres) || die "PostgreSQL's programs (initdb, pg_dump, psql) are still not to be found"

    if [[ ! $binary ]]; then
        announce 'build pgkeep' cargo build --release --locked
        # Cargo says where the program is: its configuration may have put the target directory anywhere.
        binary=$(cd "$project" && cargo build --release --locked --message-format=json-render-diagnostics |
            sed -n 's/.*"executable":"\([^"]*\/pgkeep\)".*/\1/p')
        [[ -x $binary ]] || die 'cargo has built no program named pgkeep'
    fi

    become=() user=$(id -un)
    if ((EUID == 0)); then
        user=postgres # PostgreSQL's packages make this user
        id "$user" &>/dev/null || die "PostgreSQL refuses root, and there is no user $user: run this as an ordinary user"
        become=(setpriv "--reuid=$user" "--regid=$user" --init-groups)
    fi

    umask 077
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
    work=$(mktemp -d "${TMPDIR:-/tmp}/pgkeep.XXXXXX")
    # The user may be allowed to read neither this checkout nor its target directory.
    mkdir "$work/bin"
    cp "$binary" "$work/bin/pgkeep"
    cp "$project/examples/sample_data.sql" "$work"
    if ((EUID == 0)); then
        chown -R "$user:" "$work"
    fi
    cd "$work" || exit
    as_user test -w "$work" || die "the user $user cannot use $work: set TMPDIR to a directory open to all"

    announce 'start a scratch PostgreSQL' initdb and pg_ctl start
    as_user initdb --pgdata="$work/data" --username=postgres --auth=trust --data-checksums >initdb.log 2>&1 ||
        die "initdb failed: $(<initdb.log)"
    # Trust is safe here: the only way in is a socket in a directory that nobody else may enter.
    as_user tee --append data/postgresql.conf >/dev/null <<END
listen_addresses = ''
unix_socket_directories = '$work'
$1
END
    as_user pg_ctl start --silent -w -D "$work/data" -l "$work/server.log" ||
        die "PostgreSQL did not start: $(<server.log)"
    psql --command 'select version()' --no-align --tuples-only
}

# Writes the settings of a cluster of this name, with a new key.
settings() {
    announce 'write the settings, with a new key' pgkeep key new
    key=$(as_user pgkeep key new)
    as_user tee pgkeep.env <<END | sed 's/^\(BACKUP_ENCRYPTION_KEY\)=.*/\1=(a secret)/'
BACKUP_CLUSTER=$1
BACKUP_STATE_DIR=$work/state
BACKUP_ENCRYPTION_KEY=$key
BACKUP_LOCAL_DIR=$work/backups
PGHOST=$work
PGPORT=5432
PGUSER=postgres
PGDATABASE=postgres
END
}

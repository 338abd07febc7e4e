#!/usr/bin/env bash
# Runs every test, as root or as an ordinary user; first installs what they need and is missing. A test is never skipped
# for want of something: what cannot be installed ends the run.
#
#   tests/run.sh [ARGUMENT]...                  arguments go to cargo test
#   tests/run.sh --install-only [PACKAGE]...    only installs; besides, the packages whose program bears their name
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The machine's language and the caller's umask must not decide how a test ends.
export LC_ALL=C.UTF-8
umask 022
# An ordinary user of Debian doesn't see daemons (cron); a shell opened before Rust was installed doesn't see cargo.
export PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-~/.cargo}/bin

die() {
    printf 'tests: %s\n' "$*" >&2
    exit 1
}

# Notes a package as missing if the command that tells whether it is there fails.
need() { # package, command
    "${@:2}" &>/dev/null || missing+=("$1")
}

install_packages() {
    command -v apt-get >/dev/null || die "missing: $* (Debian's packages; the tests run on Debian and Ubuntu)"
    local as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "missing: $*; ask an administrator to run: apt-get install $*"
        as_root=(sudo)
    fi
    printf 'tests: installing %s\n' "$*"
    # A machine that has just been started may still be installing its updates: wait for the lock.
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    if ! { "${apt[@]}" update && "${apt[@]}" install --yes --no-install-recommends "$@"; }; then
        die "apt-get could not install: $*"
    fi
}

# Root's tests run PostgreSQL as the user postgres. Where that user may not enter (a checkout in /root), the tests run
# in a copy, so that the server can read the regression tests, the fixtures and what cargo built.
leave_private_directory() {
    local copy=/var/cache/pgkeep-tests
    local as_postgres=(setpriv --reuid=postgres --regid=postgres --init-groups)
    if ! "${as_postgres[@]}" test -w "${TMPDIR:-/tmp}"; then
        export TMPDIR=/tmp
    fi
    if "${as_postgres[@]}" test -r "$PWD/Cargo.toml"; then
        return
    fi
    printf 'tests: the user postgres cannot read %s: testing a copy in %s\n' "$PWD" "$copy"
    mkdir -p "$copy"
    # What was built there before is kept, so that only what changed is built again.
    find "$copy" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
    tar --create --exclude=./target --mode=a+rX . | tar --extract --directory="$copy"
    unset CARGO_TARGET_DIR
    cd "$copy"
}

install_only='' missing=()
if [[ ${1:-} == --install-only ]]; then
    install_only=yes
    shift
    for package; do
        need "$package" command -v "$package"
    done
fi
need postgresql compgen -G '/usr/lib/postgresql/*/bin/postgres'
need build-essential command -v cc
need bzip2 command -v bzip2
[[ ! -e .git ]] || need git command -v git
need curl command -v curl
need openssl command -v openssl
need strace command -v strace
need systemd command -v systemd-analyze
need zsh command -v zsh
need fish command -v fish
need cron command -v cron
need libfaketime compgen -G '/usr/lib/*/faketime/libfaketime.so.1'
need python3-venv /usr/bin/python3 -c 'import ensurepip'
if ((${#missing[@]})); then
    install_packages "${missing[@]}"
fi
command -v cargo >/dev/null || die 'missing: cargo; install Rust as https://rustup.rs says and run this again'

if ((EUID == 0)); then
    leave_private_directory
fi

# For examples/restore_without_pgkeep.py, to hold pgkeep's ciphers against somebody else's, and as a mail server.
export PGKEEP_TEST_PYTHON=$PWD/target/test-python/bin/python
if ! "$PGKEEP_TEST_PYTHON" -c 'import aiosmtpd, cryptography, zstandard' &>/dev/null; then
    /usr/bin/python3 -m venv --clear target/test-python
    "$PGKEEP_TEST_PYTHON" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
        aiosmtpd cryptography zstandard
fi

bash tests/regression_source.sh
bash tests/postgres_versions.sh "$PGKEEP_TEST_PYTHON"

if [[ ! $install_only ]]; then
    # They wait, for servers and for each other, about as long as they compute.
    export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
    # Without a standard input, so that a run at a terminal is the same as one without.
    exec cargo test --locked "$@" </dev/null
fi

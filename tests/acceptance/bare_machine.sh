#!/usr/bin/env bash
# The README on a machine that has nothing but Rust and apt: both of its commands, as root and as an ordinary user, and
# then its sections "From nothing to a nightly backup", "Point-in-time recovery in ten minutes" and "The machine is gone",
# command by command as they are written there, on servers that Debian's packages start.
#
#   tests/acceptance/bare_machine.sh [--tests] [quickstart | newcomer | readme]...
#
#   quickstart   root runs examples/quickstart.sh
#   newcomer     an ordinary user who may use sudo does, on another such machine
#   readme       root follows the README, on a third one; then that one is gone, and a fourth has nothing but the
#                directory with the backups and the key
#   --tests      the first two also run tests/run.sh; takes some 20 minutes each
#
# The machines are directories made by debootstrap (installed if it is missing), with process and mount namespaces of
# their own, removed at the end with all that runs in them. Takes root and some 6 GB in TMPDIR. What is tried is the last
# commit. Ends with a line PASS and exit code 0, or with FAIL and the step.
# shellcheck disable=SC1091,SC2016 # os-release is the machine's; what stands in single quotes is run elsewhere
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export LC_ALL=C.UTF-8
umask 022

step='beginning' work='' tests='' walks=()

say() {
    step=$*
    printf '== %s\n' "$*"
}

die() {
    printf 'bare_machine.sh: %s: %s\n' "$step" "$*" >&2
    exit 1
}

finish() {
    local code=$?
    trap '' EXIT INT TERM
    [[ -z $work ]] || rm -rf --one-file-system "$work"
    if ((code)); then
        printf 'FAIL: %s\n' "$step" >&2
    else
        printf 'PASS\n'
    fi
    exit "$code"
}

# --- machines --------------------------------------------------------------------------------------------------------

# Debian as debootstrap makes it, with apt, sudo, this machine's Rust, and what a network of this one's needs.
make_first_machine() {
    say 'making a bare machine'
    command -v debootstrap >/dev/null ||
        env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install --yes debootstrap >/dev/null ||
        die 'debootstrap cannot be installed'
    local base=$work/base codename
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    debootstrap --variant=minbase --include=ca-certificates,sudo "$codename" "$base" >"$work/debootstrap.log" 2>&1 ||
        die "debootstrap: $(tail -n 5 "$work/debootstrap.log")"
    local file
    for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/apt/sources.list.d/debian.sources; do
        [[ ! -e $file ]] || cp -L "$file" "$base$file"
    done
    if [[ -e $base/etc/apt/sources.list.d/debian.sources ]]; then
        rm -f "$base/etc/apt/sources.list"
    fi
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp -t "$base/usr/local/share/ca-certificates" {} +
    chroot "$base" update-ca-certificates >/dev/null 2>&1
    mkdir "$base/opt/rust"
    tar --create --directory="$(rustc --print sysroot)" --exclude=./share . | tar --extract --directory="$base/opt/rust"
    local program
    for program in "$base"/opt/rust/bin/*; do
        ln -s "/opt/rust/bin/${program##*/}" "$base/usr/local/bin"
    done
    chroot "$base" useradd --create-home --shell /bin/bash newcomer
    echo 'newcomer ALL=(ALL) NOPASSWD: ALL' >"$base/etc/sudoers.d/newcomer"
}

# A new machine with the checkout in the user's home directory.
machine() { # user
    rm -rf --one-file-system "$work/machine"
    cp -a "$work/base" "$work/machine"
    home=$(chroot "$work/machine" bash -c "echo ~$1")
    git clone --quiet --no-hardlinks . "$work/machine$home/pgkeep"
    chroot "$work/machine" chown -R "$1:" "$home/pgkeep"
}

# Runs a script from standard input as this user, in the checkout. What it starts ends with it. The output is shown when
# it fails. The directory becomes the root of a namespace of its own, because what chroot makes a root may have no user
# namespaces, in which tests mount their small disks.
on_machine() { # user
    local code=0
    unshare --pid --fork --mount --kill-child /bin/bash -c '
        set -e
        mount --bind "$2" "$2"
        cd "$2"
        mkdir -p .old
        pivot_root . .old
        mount -t proc proc /proc
        mount -t devpts devpts /dev/pts
        mount -t tmpfs tmpfs /dev/shm
        umount -l /.old
        cat >/run/walk.sh
        chmod 644 /run/walk.sh
        exec setpriv --reuid="$0" --regid="$0" --init-groups env -i HOME="$1" USER="$0" TERM=dumb \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            bash -c "cd ~/pgkeep && exec bash -euo pipefail /run/walk.sh" </dev/null
        ' "$1" "$home" "$work/machine" >"$work/walk.log" 2>&1 || code=$?
    ((code == 0)) || {
        tail -n 60 "$work/walk.log" >&2
        die "exit code $code"
    }
}

# --- what is tried ---------------------------------------------------------------------------------------------------

both_commands() { # user
    machine "$1"
    say "examples/quickstart.sh as $1"
    on_machine "$1" <<<'examples/quickstart.sh; test -z "$(ls -A /tmp)"'
    grep -x 'quickstart: .* identical after the restore' "$work/walk.log" || die 'it does not say that all is identical'
    [[ $tests ]] || return 0
    say "tests/run.sh as $1"
    on_machine "$1" <<<'tests/run.sh'
    grep '^test result' "$work/walk.log"
}

# Prints the blocks of this language in a section of the README, up to the next one.
blocks() { # heading, language ('' for none)
    awk -v heading="## $1" -v fence="\`\`\`$2" '
        /^## / { inside = $0 == heading }
        inside && block && /^```$/ { block = 0; next }
        inside && block { print }
        inside && !block && !other && $0 == fence { block = 1; next }
        inside && !block && /^```/ { other = !other }
    ' README.md
}

# The README's own words, but for: the name of the database, which the operator has; the time, which he notes; the
# service manager, which a directory lacks.
follow_readme() {
    machine root
    say 'the README, from nothing to a restored row'
    local installation recovery archiving
    installation=$(blocks 'From nothing to a nightly backup' sh)
    archiving=$(blocks 'Point-in-time recovery in ten minutes' '')
    recovery=$(blocks 'Point-in-time recovery in ten minutes' sh |
        sed -e 's/^date --iso-8601=seconds$/noted=$(&)/' -e 's/2026-11-25T14:02:00+00:00/"$noted"/')
    [[ $installation == *' crontab.example'* && $recovery == *'--target-time "$noted" --start'* &&
        $archiving == *archive_command* ]] || die 'the README is not what this script was written for'
    {
        cat <<'END'
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends postgresql build-essential cron >/dev/null
printf '#!/bin/sh\n[ "$1 $2" = "restart postgresql" ] && exec pg_ctlcluster 15 main restart\n' >/usr/local/bin/systemctl
chmod 755 /usr/local/bin/systemctl
pg_ctlcluster 15 main start
runuser -u postgres -- createdb shop
runuser -u postgres -- psql --quiet --dbname shop --set rows=20000 <examples/sample_data.sql
# The machine's only user so far asks for the restored database's rows.
exec </dev/null
PS4='\n$ '
set -x
END
        printf '%s\n' "$installation" | grep -v '^sudo -u postgres dropdb'
        cat <<'END'
set +x
[ "$(runuser -u postgres -- psql -XAtc 'select count(*) from users' rehearsal)" -gt 0 ]
runuser -u postgres -- dropdb rehearsal
runuser -u postgres -- crontab -l | cmp - crontab.example
set -x
END
        printf "cat >>/etc/postgresql/15/main/postgresql.conf <<'CONF'\n%s\nCONF\n" "$archiving"
        printf '%s\n' "$recovery"
        echo 'echo "readme: done"'
    } | on_machine root
    grep -qx ' *4711' "$work/walk.log" || die 'the row is not there again'
    tail -n 1 "$work/walk.log" | grep -x 'readme: done' || die 'it did not come to its end'
    machine_is_gone
}

# What is left of the machine: the directory with the backups, and the key in the operator's password manager.
machine_is_gone() {
    say 'the README, the machine is gone'
    local installation command key
    mv "$work/machine/var/backups/pgkeep" "$work/backups"
    # What was built need not be built a second time.
    mv "$work/machine$home/pgkeep/target" "$work/target"
    key=$(sed -n 's/^BACKUP_ENCRYPTION_KEY=//p' "$work/machine/etc/pgkeep/pgkeep.env")
    installation=$(blocks 'From nothing to a nightly backup' sh | sed '/^cd \/$/,$d' |
        sed "s|\$(pgkeep key new)|$key|")
    command=$(blocks 'The machine is gone' sh)
    [[ $installation == *"BACKUP_ENCRYPTION_KEY=$key"* && $command == 'pgkeep restore latest --yes' ]] ||
        die 'the README is not what this script was written for'
    machine root
    mv "$work/backups" "$work/machine/var/backups/pgkeep"
    mv "$work/target" "$work/machine$home/pgkeep/target"
    {
        cat <<'END'
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends postgresql build-essential >/dev/null
pg_ctlcluster 15 main start
set -x
END
        printf '%s\n' "$installation"
        cat <<END
chown -R postgres: /var/backups/pgkeep
cd /
sudo -u postgres $command
set +x
[ "\$(runuser -u postgres -- psql -XAtc 'select count(*) from users' shop)" -gt 0 ]
echo "gone: done"
END
    } | on_machine root
    tail -n 1 "$work/walk.log" | grep -x 'gone: done' || die 'it did not come to its end'
}

# --- in order --------------------------------------------------------------------------------------------------------

while (($#)); do
    case $1 in
        --tests) tests=yes ;;
        quickstart | newcomer | readme) walks+=("$1") ;;
        *) die "unknown: $1" ;;
    esac
    shift
done
((${#walks[@]})) || walks=(quickstart newcomer readme)
((EUID == 0)) || die 'takes root'
[[ -z $(git status --porcelain) ]] || printf 'bare_machine.sh: what is not committed is not tried\n' >&2

trap finish EXIT
trap 'exit 130' INT TERM
work=$(mktemp -d "${TMPDIR:-/tmp}/pgkeep-bare.XXXXXX")
chmod 755 "$work"
make_first_machine
for walk in "${walks[@]}"; do
    case $walk in
        quickstart) both_commands root ;;
        newcomer) both_commands newcomer ;;
        readme) follow_readme ;;
    esac
done

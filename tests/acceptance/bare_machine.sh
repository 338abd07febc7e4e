#!/usr/bin/env bash
# The README on a machine that has nothing but Rust and apt: both of its commands, as root and as an ordinary user, and
# then its sections "From nothing to a nightly backup", "Point-in-time recovery in ten minutes", "The machine is gone" and
# "From an empty machine to a mailed alert", command by command as they are written there, on servers that Debian's packages
# start.
#
#   tests/acceptance/bare_machine.sh [--tests] [--built TARGET] [quickstart | newcomer | readme | alert]...
#
#   quickstart   root runs examples/quickstart.sh
#   newcomer     an ordinary user who may use sudo does, on another such machine
#   readme       root follows the README, on a third one; then that one is gone, and a fourth has nothing but the
#                directory with the backups and the key
#   alert        root follows it from nothing to a mailed alert for an archiver that has stopped
#   --tests      the first two also run tests/run.sh; takes some 20 minutes each
#   --built      all begin with what cargo has built in this target directory, instead of with nothing
#
# The machines are directories made by debootstrap (installed if it is missing), with process and mount namespaces of
# their own, removed at the end with all that runs in them. Takes root and some 6 GB in TMPDIR. What is tried is the last
# commit. Ends with a line PASS and exit code 0, or with FAIL and the step.
# shellcheck disable=SC2016 # what stands in single quotes is run elsewhere
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export LC_ALL=C.UTF-8
umask 022

# shellcheck source=tests/acceptance/machines.sh
. tests/acceptance/machines.sh

tests='' built='' walks=()

# --- what is tried ---------------------------------------------------------------------------------------------------

both_commands() { # user
    machine "$1"
    give_built "$1"
    say "examples/quickstart.sh as $1"
    on_machine "$1" <<<'examples/quickstart.sh; test -z "$(ls -A /tmp)"'
    grep -x 'quickstart: .* identical after the restore' "$work/walk.log" || die 'it does not say that all is identical'
    if [[ ! $tests ]]; then
        [[ ! $built ]] || keep_built
        return
    fi
    say "tests/run.sh as $1"
    on_machine "$1" <<<'tests/run.sh'
    grep '^test result' "$work/walk.log"
}

# The README's own words, but for: the name of the database, which the operator has; the time, which he notes; the
# service manager, which a directory lacks.
follow_readme() {
    machine root
    give_built root
    say 'the README, from nothing to a restored row'
    local installation recovery archiving
    installation=$(blocks '## From nothing to a nightly backup' sh)
    archiving=$(blocks '## Point-in-time recovery in ten minutes' '')
    recovery=$(blocks '## Point-in-time recovery in ten minutes' sh |
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
        printf '%s\n' "$installation" | with_warnings | grep -v '^sudo -u postgres dropdb'
        cat <<'END'
set +x
[ "$(runuser -u postgres -- psql -XAtc 'select count(*) from users' rehearsal)" -gt 0 ]
runuser -u postgres -- dropdb rehearsal
runuser -u postgres -- crontab -l | cmp - crontab.example
set -x
END
        printf "cat >>/etc/postgresql/15/main/postgresql.conf <<'CONF'\n%s\nCONF\n" "$archiving"
        printf '%s\n' "$recovery" | with_warnings
        echo 'echo "readme: done"'
    } | on_machine root
    grep -qx ' *4711' "$work/walk.log" || die 'the row is not there again'
    tail -n 1 "$work/walk.log" | grep -x 'readme: done' || die 'it did not come to its end'
    machine_is_gone
}

# What was built on a machine need not be built a second time.
keep_built() {
    mv "$work/machine$home/pgkeep/target" "$work/target"
}

give_built() { # user
    if [[ -e $work/target ]]; then
        mv "$work/target" "$work/machine$home/pgkeep/target"
        chroot "$work/machine" chown -R "$1:" "$home/pgkeep/target"
    fi
}

# What is left of the machine: the directory with the backups, and the key in the operator's password manager.
machine_is_gone() {
    say 'the README, the machine is gone'
    local installation command key
    mv "$work/machine/var/backups/pgkeep" "$work/backups"
    keep_built
    key=$(sed -n 's/^BACKUP_ENCRYPTION_KEY=//p' "$work/machine/etc/pgkeep/pgkeep.env")
    installation=$(blocks '## From nothing to a nightly backup' sh | sed '/^cd \/$/,$d' |
        sed "s|\$(pgkeep key new)|$key|")
    command=$(blocks '## The machine is gone' sh)
    [[ $installation == *"BACKUP_ENCRYPTION_KEY=$key"* && $command == 'pgkeep restore latest --yes' ]] ||
        die 'the README is not what this script was written for'
    machine root
    mv "$work/backups" "$work/machine/var/backups/pgkeep"
    give_built root
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
    keep_built
}

# The README's own words, but for the mail server's name and login, which the operator has, and the service manager. The mail
# server is somebody else's making and insists on STARTTLS and a login; whom the machine trusts has signed its certificate.
follow_alert() {
    machine root
    give_built root
    say 'the README, from an empty machine to a mailed alert'
    local installation archiving restarted alert
    installation=$(blocks '## From nothing to a nightly backup' sh | sed '/ pgkeep backup database$/,$d')
    archiving=$(blocks '## Point-in-time recovery in ten minutes' '')
    restarted=$(blocks '## Point-in-time recovery in ten minutes' sh | sed '/ pgkeep backup cluster/,$d')
    alert=$(blocks '### From an empty machine to a mailed alert' sh | sed -e 's/=mail.example.com$/=localhost/' \
        -e 's/^SMTP_USER=.*/SMTP_USER=pgkeep/' -e 's/^SMTP_PASSWORD=.*/SMTP_PASSWORD=sesame/')
    [[ $installation == *' pgkeep check' && $archiving == *archive_command* && $restarted == *' pgkeep check' &&
        $alert == *SMTP_HOST=localhost*' pgkeep watch'*'RESET archive_command'*' pgkeep watch' ]] ||
        die 'the README is not what this script was written for'
    {
        cat <<'END'
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends postgresql build-essential openssl python3-aiosmtpd >/dev/null
printf '#!/bin/sh\n[ "$1 $2" = "restart postgresql" ] && exec pg_ctlcluster 15 main restart\n' >/usr/local/bin/systemctl
chmod 755 /usr/local/bin/systemctl
mkdir ~/mail
cd ~/mail
openssl req -batch -x509 -newkey rsa:2048 -nodes -days 90 -subj '/CN=the machine trusts it' -keyout ca.key \
    -out /usr/local/share/ca-certificates/mail.crt
openssl req -batch -newkey rsa:2048 -nodes -subj '/CN=localhost' -keyout key.pem -out request.pem
echo subjectAltName=DNS:localhost >names
openssl x509 -req -in request.pem -CA /usr/local/share/ca-certificates/mail.crt -CAkey ca.key -CAcreateserial -days 90 \
    -extfile names -out cert.pem
update-ca-certificates >/dev/null
cd -
python3 tests/it/smtp.py starttls login port=587 cert="$HOME/mail/cert.pem" key="$HOME/mail/key.pem" >~/mails &
pg_ctlcluster 15 main start
runuser -u postgres -- createdb shop
exec </dev/null
PS4='\n$ '
SECONDS=0
set -x
END
        printf '%s\n' "$installation" | with_warnings
        printf "cat >>/etc/postgresql/15/main/postgresql.conf <<'CONF'\n%s\nCONF\n" "$archiving"
        printf '%s\n' "$restarted" "$alert" | with_warnings
        cat <<'END'
set +x
cat ~/mails
for subject in 'this is a test' 'WARNING: ' 'CRITICAL: what was written' 'CRITICAL: over: ' 'WARNING: over: '; do
    grep -F '"you@example.com"' ~/mails | grep -F "\"subject\": \"[pgkeep main] $subject" >/dev/null || {
        echo "no mail: $subject"
        exit 1
    }
done
echo "from an empty machine to all its mails: $SECONDS s"
echo 'alert: done'
END
    } | on_machine root
    tail -n 1 "$work/walk.log" | grep -x 'alert: done' || die 'it did not come to its end'
    grep -h '^from an empty machine' "$work/walk.log"
}

# --- in order --------------------------------------------------------------------------------------------------------

while (($#)); do
    case $1 in
        --tests) tests=yes ;;
        --built)
            built=$2
            shift
            ;;
        quickstart | newcomer | readme | alert) walks+=("$1") ;;
        *) die "unknown: $1" ;;
    esac
    shift
done
((${#walks[@]})) || walks=(quickstart newcomer readme alert)
[[ -z $(git status --porcelain) ]] || printf 'bare_machine.sh: what is not committed is not tried\n' >&2

begin
make_first_machine
add_rust
if [[ $built ]]; then
    mkdir "$work/target"
    cp -a "$built/release" "$work/target"
fi
for walk in "${walks[@]}"; do
    case $walk in
        quickstart) both_commands root ;;
        newcomer) both_commands newcomer ;;
        readme) follow_readme ;;
        alert) follow_alert ;;
    esac
done

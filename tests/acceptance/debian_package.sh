#!/usr/bin/env bash
# The Debian package: built with cargo-deb, looked at by lintian, and then installed, upgraded, removed, installed again and
# purged on a machine that has nothing but apt, by the README's section "Debian package" word by word.
#
#   tests/acceptance/debian_package.sh [PACKAGE]    tries this one instead of building it
#
# Takes root and some 2 GB in TMPDIR. cargo-deb is installed below target if it is missing (some minutes). Ends with a line
# PASS and exit code 0, or with FAIL and the step.
# shellcheck disable=SC2016 # what stands in single quotes is run elsewhere
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export LC_ALL=C.UTF-8
umask 022
# shellcheck source=tests/acceptance/machines.sh
. tests/acceptance/machines.sh

package=${1:-}
begin
if [[ ! $package ]]; then
    say 'building'
    package=$(examples/debian/build.sh "$work/pgkeep.deb")
fi
cp "$package" "$work/first.deb"

say 'what is in it'
dpkg-deb --info "$work/first.deb"
depends=$(dpkg-deb --field "$work/first.deb" Depends)
[[ $depends == *libc6* && $depends == *postgresql-common* && $depends != *ssl* ]] || die "depends on: $depends"
if command -v lintian >/dev/null; then
    lintian --fail-on error "$work/first.deb" || die 'lintian finds errors'
else
    printf 'left out: lintian, which is not installed\n'
fi

# As the next version will be, with other settings by default.
say 'making a next version of it'
dpkg-deb --raw-extract "$work/first.deb" "$work/next"
sed -i 's/^Version: .*/Version: 99.0-1/' "$work/next/DEBIAN/control"
echo '# of the next version' >>"$work/next/etc/pgkeep/pgkeep.env"
(cd "$work/next" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb --root-owner-group --build "$work/next" "$work/next.deb" >/dev/null

make_first_machine
machine root
cp "$work/first.deb" "$work/machine$home/pgkeep/$(dpkg-deb --field "$work/first.deb" Package Version Architecture |
    sed 's/.*: //' | paste -sd _).deb"
cp "$work/next.deb" "$work/machine$home/pgkeep/"
installation=$(blocks '## Debian package' sh)
[[ $installation == *'apt-get install ./pgkeep_'* && $installation == *'pgkeep key new'* ]] ||
    die 'the README is not what this script was written for'

say 'installed, used, upgraded, removed, installed again, purged'
{
    cat <<'END'
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends postgresql cron >/dev/null
pg_ctlcluster 15 main start
runuser -u postgres -- createdb shop
runuser -u postgres -- psql --quiet --dbname shop --set rows=2000 <examples/sample_data.sql
PS4='\n$ '
set -x
END
    # Where nobody answers.
    printf '%s\n' "$installation" | with_warnings | sed 's/apt-get install/apt-get -qq install --yes/'
    cat <<'END'
cd ~/pgkeep
is() { # path, mode owner group
    [ "$(stat --format '%a %U %G' "$1")" = "$2" ] || { stat "$1"; exit 1; }
}
as_installed() {
    is /etc/pgkeep '750 root postgres'
    is /etc/pgkeep/pgkeep.env '600 postgres postgres'
    is /etc/pgkeep/key '600 postgres postgres'
    is /var/lib/pgkeep '700 postgres postgres'
    is /var/backups/pgkeep '700 postgres postgres'
    is /usr/bin/pgkeep '755 root root'
}
as_installed
pgkeep --version
zcat -f /usr/share/man/man1/pgkeep.1.gz | grep -q 'backup'
for page in pgkeep-restore pgkeep-backup-cluster pgkeep-wal-push; do
    zcat "/usr/share/man/man1/$page.1.gz" | grep -q "^\.TH $page"
done
[ -z "$(find /usr/share/man -name '*wal-prefetch*')" ]
bash -c '. /usr/share/bash-completion/completions/pgkeep && complete -p pgkeep'
grep -q '^#compdef pgkeep' /usr/share/zsh/vendor-completions/_pgkeep
grep -q 'complete -c pgkeep' /usr/share/fish/vendor_completions.d/pgkeep.fish
# No timer is enabled, and there is one for each line of the crontab.
[ "$(find /usr/lib/systemd/system /lib/systemd/system/ -name 'pgkeep-*.timer' | sort -u | wc -l)" -ge 10 ]
[ -z "$(find /etc/systemd -name 'pgkeep*')" ]
runuser -u postgres -- crontab -l | cmp - /usr/share/doc/pgkeep/crontab.example
dpkg-query --show --showformat '${Conffiles}' pgkeep | grep ' /etc/pgkeep/pgkeep.env '
[ "$(ldd /usr/bin/pgkeep | grep -cE 'ssl|crypto' || :)" = 0 ]
[ "$(cd / && runuser -u postgres -- pgkeep --output json list | grep -c '"kind": *"database"')" -ge 1 ]

: an upgrade keeps settings that somebody has changed, and their owner
grep -q '^PGDATABASE=shop' /etc/pgkeep/pgkeep.env
cp -p /etc/pgkeep/pgkeep.env /root/env.before
dpkg --force-confold --install ./next.deb
cmp /etc/pgkeep/pgkeep.env /root/env.before
as_installed
dpkg-query --show pgkeep | grep 99.0
backups=$(find /var/backups/pgkeep -type f | sort | xargs sha256sum)
listed=$(cd / && runuser -u postgres -- pgkeep list)

: removing leaves all that is not the program
crontab -u postgres -l >/root/crontab
mkdir -p /etc/systemd/system/timers.target.wants
ln -s /usr/lib/systemd/system/pgkeep-verify.timer /etc/systemd/system/timers.target.wants/
dpkg --remove pgkeep 2>/root/said
cat /root/said
grep -q 'still called by:' /root/said && grep -q /var/spool/cron/crontabs/postgres /root/said
[ ! -e /usr/bin/pgkeep ] && [ ! -e /usr/share/man/man1/pgkeep.1.gz ]
[ -z "$(find /etc/systemd -name 'pgkeep*')" ]
cmp /etc/pgkeep/pgkeep.env /root/env.before
[ ! -e /etc/pgkeep/pgkeep.env.removed ]
[ -e /var/lib/pgkeep/catalog.sqlite ]
[ "$(find /var/backups/pgkeep -type f | sort | xargs sha256sum)" = "$backups" ]

: installed again it goes on where it was
dpkg --force-confold --install ./next.deb
as_installed
[ "$(cd / && runuser -u postgres -- pgkeep list)" = "$listed" ]
(cd / && runuser -u postgres -- pgkeep verify --deep)

: a key in the settings outlives the package, and so do the backups
sed -i "s|^BACKUP_ENCRYPTION_KEY_FILE=.*|BACKUP_ENCRYPTION_KEY=$(cat /etc/pgkeep/key)|" /etc/pgkeep/pgkeep.env
backups=$(find /var/backups/pgkeep -type f | sort | xargs sha256sum)
dpkg --purge pgkeep
[ ! -e /etc/pgkeep/pgkeep.env ] && [ ! -e /var/lib/pgkeep ]
is /etc/pgkeep/key '600 postgres postgres'
is /etc/pgkeep/pgkeep.env.removed '600 postgres postgres'
grep -qxF "BACKUP_ENCRYPTION_KEY=$(cat /etc/pgkeep/key)" /etc/pgkeep/pgkeep.env.removed
[ "$(find /var/backups/pgkeep -type f | sort | xargs sha256sum)" = "$backups" ]
if dpkg-query --show pgkeep; then exit 1; fi

: installed again with another key, an upgrade and a second removal leave the first key
dpkg --install ./pgkeep_*.deb
cp -p /etc/pgkeep/pgkeep.env.removed /root/env.first
printf 'BACKUP_ENCRYPTION_KEY = another\n' >>/etc/pgkeep/pgkeep.env
dpkg --force-confold --install ./next.deb
cmp /etc/pgkeep/pgkeep.env.removed /root/env.first
: answered Y, the settings of before are beside the new ones until dpkg deletes them
dpkg --force-confold --install ./pgkeep_*.deb
dpkg --force-confnew --install ./next.deb
grep -q another /etc/pgkeep/pgkeep.env.dpkg-old
dpkg --purge pgkeep
[ ! -e /etc/pgkeep/pgkeep.env.dpkg-old ]
cmp /etc/pgkeep/pgkeep.env.removed /root/env.first
is /etc/pgkeep/pgkeep.env.removed.1 '600 postgres postgres'
grep -qxF 'BACKUP_ENCRYPTION_KEY = another' /etc/pgkeep/pgkeep.env.removed.1

: what dpkg-statoverride was told holds for the directories that are made
rm -rf /var/lib/pgkeep
dpkg-statoverride --add root postgres 0770 /var/lib/pgkeep
dpkg --install ./pgkeep_*.deb
is /var/lib/pgkeep '770 root postgres'
dpkg --purge pgkeep
dpkg-statoverride --remove /var/lib/pgkeep

: without backups and keys nothing is left
rm -r /etc/pgkeep /var/backups/pgkeep
dpkg --install ./pgkeep_*.deb
is /etc/pgkeep/pgkeep.env '600 postgres postgres'
dpkg --purge pgkeep
[ ! -e /etc/pgkeep ] && [ ! -e /var/lib/pgkeep ] && [ ! -e /var/backups/pgkeep ]
echo 'package: done'
END
} | on_machine root
tail -n 1 "$work/walk.log" | grep -x 'package: done' || die 'it did not come to its end'

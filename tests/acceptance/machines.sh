# shellcheck shell=bash disable=SC1091,SC2016 # os-release is the machine's; what stands in single quotes is run elsewhere
# Machines to try something on, for the scripts beside this one, which source it: directories made by debootstrap
# (installed if it is missing), with process and mount namespaces of their own, removed at the end with all that runs in
# them. Whoever sources it is root, stands in the project's directory, and calls begin first.

step='beginning' work='' home=''

say() {
    step=$*
    printf '== %s\n' "$*"
}

die() {
    printf '%s: %s: %s\n' "${0##*/}" "$step" "$*" >&2
    exit 1
}

# Makes the directory for all that follows. At the end it goes, and PASS or FAIL with the step is said.
begin() {
    ((EUID == 0)) || die 'takes root'
    trap finish EXIT
    trap 'exit 130' INT TERM
    work=$(mktemp -d "${TMPDIR:-/tmp}/pgkeep-bare.XXXXXX")
    chmod 755 "$work"
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

# Debian as debootstrap makes it, with apt, sudo, and what a network of this one's needs; and an ordinary user.
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
    chroot "$base" useradd --create-home --shell /bin/bash newcomer
    echo 'newcomer ALL=(ALL) NOPASSWD: ALL' >"$base/etc/sudoers.d/newcomer"
}

# This machine's Rust, for those that follow.
add_rust() {
    local base=$work/base program
    mkdir "$base/opt/rust"
    tar --create --directory="$(rustc --print sysroot)" --exclude=./share . | tar --extract --directory="$base/opt/rust"
    for program in "$base"/opt/rust/bin/*; do
        ln -s "/opt/rust/bin/${program##*/}" "$base/usr/local/bin"
    done
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

# `pgkeep check` in commands may have warnings (3): the disk of whoever tries this may be nearly full.
with_warnings() {
    sed 's/ pgkeep check$/& || [ $? = 3 ]/'
}

# Prints the blocks of this language in a section of the README, up to the next one of the same or a higher level.
blocks() { # heading with its #, language ('' for none)
    awk -v heading="$1" -v fence="\`\`\`$2" '
        BEGIN { depth = index(heading, " ") - 1 }
        !block && !other && /^#+ / && index($0, " ") - 1 <= depth { inside = $0 == heading }
        inside && block && /^```$/ { block = 0; next }
        inside && block { print }
        inside && !block && !other && $0 == fence { block = 1; next }
        inside && !block && /^```/ { other = !other }
    ' README.md
}

#!/usr/bin/env bash
# Builds the Debian package and prints where it is.
#
#   examples/debian/build.sh [DIRECTORY]    puts it there instead of into target/debian
#
# Needs Rust, a C compiler and dpkg-dev; cargo-deb is installed below target if it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
umask 022

target=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR=$target PATH=$target/cargo-deb/bin:$PATH
command -v cargo-deb >/dev/null ||
    CARGO_TARGET_DIR=$target/cargo-deb/build cargo install --quiet --locked --root "$target/cargo-deb" cargo-deb >&2

cargo build --release --locked >&2
# What the program prints of itself becomes files.
made=$target/release/package
rm -rf "$made"
mkdir -p "$made/man"
"$target/release/pgkeep" man --to-dir "$made/man" >&2
gzip -9 --no-name "$made"/man/*
for shell in bash zsh fish; do
    "$target/release/pgkeep" completions "$shell" >"$made/pgkeep.$shell"
done
cargo deb --quiet --no-build ${1:+--output "$1"}

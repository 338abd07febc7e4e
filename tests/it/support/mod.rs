//! What the tests stand on: the program, a PostgreSQL server, places for a test's files, text without what differs
//! from run to run.
//!
//! All of a test process's files lie in one directory, see [`base`]. However the process ends, its servers are stopped
//! and that directory is removed. Run as root, pgkeep and PostgreSQL run as the user `postgres`.

#![allow(dead_code, unused_imports, reason = "the tests and the benchmarks use each a part of it")]

pub(crate) mod archiving;
pub(crate) mod cluster;
pub(crate) mod dialog;
pub(crate) mod faults;
pub(crate) mod life;
pub(crate) mod many;
mod place;
pub(crate) mod proxy;
mod run;
pub(crate) mod s3;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) use archiving::Archiving;
pub(crate) use cluster::{Cluster, cluster, quoted};
pub(crate) use place::Place;
pub(crate) use run::{Run, Running, run};
pub(crate) use tidy::tidy;

/// The project's directory.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program under test. Its directory holds nothing else, so that it can stand in a PATH.
pub(crate) fn pgkeep_binary() -> &'static Path {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
        // The ordinary user may be allowed to read neither this checkout nor its target directory.
        let directory = base().join("bin");
        std::fs::create_dir(&directory).expect("make a directory for the program");
        open_to_all(&directory);
        let binary = directory.join("pgkeep");
        std::fs::copy(env!("CARGO_BIN_EXE_pgkeep"), &binary).expect("copy the program");
        open_to_all(&binary);
        binary
    });
    &BINARY
}

/// Who runs PostgreSQL and pgkeep when root runs the tests.
const ORDINARY_USER: &str = "postgres";

/// Whether root runs the tests.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs as an ordinary user, without input, in an environment with nothing but a home and a PATH.
pub(crate) fn ordinary(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        let user = format!("--reuid={ORDINARY_USER}");
        let group = format!("--regid={ORDINARY_USER}");
        command.args([&user, &group, "--init-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .env_clear()
        .env("HOME", base())
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// Gives a file or directory to the ordinary user.
pub(crate) fn give(path: &Path) {
    static IDS: LazyLock<(u32, u32)> = LazyLock::new(|| {
        let id = |which: &str| {
            let output = Command::new("id").args([which, ORDINARY_USER]).output().expect("run id");
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            text.parse().unwrap_or_else(|_| panic!("there is no user {ORDINARY_USER}: install postgresql"))
        };
        (id("-u"), id("-g"))
    });
    if is_root() {
        let (user, group) = *IDS;
        std::os::unix::fs::chown(path, Some(user), Some(group)).expect("give a file to the ordinary user");
    }
}

/// Makes a directory or program usable by everybody.
fn open_to_all(path: &Path) {
    set_mode(path, 0o755);
}

/// Sets a file's permissions.
pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set permissions");
}

/// A number that no other call in this process gets.
pub(crate) fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The directory of this test process. A shell waits for the end of the process, however it comes (the pipe closes
/// then), stops the servers that were started in here and removes it.
pub(crate) fn base() -> &'static Path {
    static BASE: LazyLock<PathBuf> = LazyLock::new(|| {
        let directory = tempfile::Builder::new().prefix("pgkeep-it-").tempdir().expect("make a directory");
        let directory = directory.keep();
        open_to_all(&directory);
        keep_watch(&directory);
        directory
    });
    &BASE
}

fn keep_watch(directory: &Path) {
    use std::os::unix::process::CommandExt;
    // The servers belong to the ordinary user, so pg_ctl must be called as that one. `pg_ctl` is beside the server's
    // program, whose path is the first word of postmaster.opts.
    let script = r#"
        trap '' INT TERM HUP
        cat >/dev/null
        for data in "$1"/*/data; do
            [ -e "$data/postmaster.pid" ] || continue
            read -r postgres rest <"$data/postmaster.opts"
            set -- "$1" "${postgres%/*}/pg_ctl" stop -s -D "$data" -m immediate
            base=$1
            shift
            if [ "$(id -u)" = 0 ]; then
                setpriv --reuid=postgres --regid=postgres --init-groups -- "$@" || true
            else
                "$@" || true
            fi
            set -- "$base"
        done
        rm -rf "$1"
    "#;
    let mut watcher = Command::new("/bin/sh");
    watcher
        .args(["-c", script, "pgkeep-it"])
        .arg(directory)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A Ctrl-C at the terminal is for the tests; what is left to do then is done after it.
        .process_group(0);
    let watcher = watcher.spawn().expect("start a shell");
    // Neither closed nor waited for by us: the end of the process does the one and makes the other impossible.
    std::mem::forget(watcher);
}

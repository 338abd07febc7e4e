//! `crontab.example`: it installs as it is, and its line for the database fires under a real cron.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Place, Running, cluster, is_root, pgkeep_binary, project, run};

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Runs a script with a private `/var/spool/cron`, and with nothing of the machine's own timetable, in a namespace
/// whose processes all go when it is left. `$1` is the crontab.
fn in_a_world_of_its_own(script: &str, crontab: &Path) -> Command {
    let prepared = format!(
        "set -e
         mount -t tmpfs -o mode=755 tmpfs /var/spool/cron
         mount -t tmpfs -o mode=755 tmpfs /run
         mount -t tmpfs -o mode=755 tmpfs /etc/cron.d
         touch /run/crontab
         mount --bind /run/crontab /etc/crontab
         mkdir /var/spool/cron/crontabs
         {script}"
    );
    let mut unshare = Command::new("unshare");
    // An ordinary user is root in there, and nobody else.
    unshare.args(if is_root() { &["--mount"][..] } else { &["--user", "--map-root-user", "--mount"][..] });
    unshare
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &prepared, "cron"])
        .arg(crontab);
    unshare.env_clear().env("PATH", PATH).current_dir("/").stdin(Stdio::null());
    unshare
}

/// Installs the crontab of the user who owns the backups.
const INSTALL: &str = "chgrp crontab /var/spool/cron/crontabs
    chmod 1730 /var/spool/cron/crontabs
    crontab -u postgres \"$1\"";

/// crontab gets its right to write there from a group, which an ordinary user's namespace doesn't have.
const PUT: &str = "chmod 1730 /var/spool/cron/crontabs
    cp \"$1\" /var/spool/cron/crontabs/root
    chmod 600 /var/spool/cron/crontabs/root";

/// An ordinary user's namespace forbids setgroups, which cron insists on.
const START_WITHOUT_GROUPS: &str =
    "exec strace -qq -f --seccomp-bpf -o /dev/null -e trace=setgroups -e inject=setgroups:retval=0 cron -f";

#[test]
fn the_example_is_what_crontab_takes() {
    let place = Place::new();
    let crontab = place.put("crontab", &fs::read(project().join("crontab.example")).unwrap());
    if is_root() {
        let script = format!("{INSTALL}\ncrontab -u postgres -l");
        let shown = run(&mut in_a_world_of_its_own(&script, &crontab)).ok().stdout;
        assert!(shown.contains("\n0 2 * * * pgkeep --quiet backup database\n"), "{shown}");
        return;
    }
    // -T since cron 3.0pl1-163, -n before.
    let tries =
        ["-T", "-n"].map(|flag| run(Command::new("crontab").arg(flag).arg(&crontab).env("PATH", PATH)));
    assert!(tries.iter().any(|run| run.code == 0), "{tries:?}");
}

#[test]
fn the_line_for_the_database_fires_under_a_real_cron() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    place.set("PGDATABASE", &shop);
    let example = fs::read_to_string(project().join("crontab.example")).unwrap();
    let replaced = |text: &str, from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), 1, "{from} in crontab.example");
        text.replacen(from, to, 1)
    };
    let mut text = replaced(&example, "\n0 2 * * * pgkeep", "\n* * * * * pgkeep");
    text = replaced(
        &text,
        "\nPGKEEP_ENV_FILE=/etc/pgkeep/pgkeep.env\n",
        &format!("\nPGKEEP_ENV_FILE={}\n", place.env_file().display()),
    );
    let programs = pgkeep_binary().parent().unwrap().display();
    text = replaced(&text, "\nPATH=/usr/local/bin:", &format!("\nPATH={programs}:"));
    // Nobody on this machine is to get mail of a test.
    text = replaced(&text, "\nMAILTO=root\n", "\nMAILTO=\"\"\n");
    let crontab = place.put("crontab", text.as_bytes());

    let script =
        if is_root() { format!("{INSTALL}\nexec cron -f") } else { format!("{PUT}\n{START_WITHOUT_GROUPS}") };
    let mut cron = Running::start(&mut in_a_world_of_its_own(&script, &crontab));
    let begun = Instant::now();
    let ended = loop {
        let ended = place.catalog(
            "SELECT outcome, exit_code, message FROM runs
              WHERE command = 'backup database' AND ended_at IS NOT NULL ORDER BY started_at LIMIT 1",
        );
        if !ended.is_empty() {
            break ended;
        }
        assert!(cron.is_running(), "cron ended: {:?}", cron.wait());
        assert!(
            begun.elapsed() < Duration::from_secs(150),
            "cron did not run the line in {:?}",
            begun.elapsed()
        );
        std::thread::sleep(Duration::from_millis(250));
    };
    drop(cron);
    assert_eq!(ended, [["done", "0", ""]]);
    assert_eq!(
        place.catalog("SELECT database, status, rows FROM backups LIMIT 1"),
        [[&shop, "complete", "1550"]]
    );
    place.pgkeep(&["verify", "--deep"]).ok();
}

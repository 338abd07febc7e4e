//! `crontab.example`: it installs as it is, and each of its lines fires under a real cron, when it should.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, TimeDelta, Utc};

use crate::support::{Archiving, Place, Running, give, is_root, pgkeep_binary, project, run, set_mode};

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Runs a script with a private `/var/spool/cron`, and with nothing of the machine's own timetable, in a namespace
/// whose processes all go when it is left. `$1` is the crontab.
fn in_a_world_of_its_own(script: &str, crontab: &Path) -> Command {
    let prepared = format!(
        "set -e
         mount -t tmpfs -o mode=755 tmpfs /var/spool/cron
         mount -t tmpfs -o mode=755 tmpfs /run
         mount -t tmpfs tmpfs /dev/shm
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
const WITHOUT_GROUPS: &str =
    "strace -qq -f --seccomp-bpf -o /dev/null -e trace=setgroups -e inject=setgroups:retval=0";

/// What makes cron's clock another one. What cron starts has the machine's: cron gives its jobs no variable of its own.
pub(crate) fn libfaketime() -> PathBuf {
    let entries = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut found = entries.map(|path| path.join("faketime/libfaketime.so.1")).filter(|path| path.exists());
    found.next().expect("libfaketime: install it, as tests/run.sh does")
}

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

/// The crontab with every line active, for this place; what it starts is written down by a program in its PATH.
fn crontab_of(place: &Place) -> PathBuf {
    let mut text = fs::read_to_string(project().join("crontab.example")).unwrap();
    let mut replace = |from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), 1, "{from} in crontab.example");
        text = text.replacen(from, to, 1);
    };
    for directory in ["bin", "www"] {
        fs::create_dir(place.path(directory)).unwrap();
        give(&place.path(directory));
    }
    let path = |name: &str| place.path(name).display().to_string();
    replace(
        "\nPGKEEP_ENV_FILE=/etc/pgkeep/pgkeep.env\n",
        &format!("\nPGKEEP_ENV_FILE={}\n", path("pgkeep.env")),
    );
    replace("\nPATH=/usr/local/bin:", &format!("\nPATH={}:", path("bin")));
    replace("/var/lib/pgkeep/www/status.html", &path("www/status.html"));
    replace("/var/lib/node_exporter/pgkeep.prom", &path("www/pgkeep.prom"));
    // Nobody on this machine is to get mail of a test.
    replace("\nMAILTO=root\n", "\nMAILTO=\"\"\n");
    for line in ["0 1 * * * pgkeep", "0 5 * * 0 pgkeep", "*/5 * * * * pgkeep --quiet status"] {
        replace(&format!("\n#{line}"), &format!("\n{line}"));
    }
    // An ordinary user is root in the namespace, which PostgreSQL would not run as, and is himself again for pgkeep.
    let himself = if is_root() {
        String::new()
    } else {
        let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        format!("unshare --user --map-user={user} --map-group={group} ")
    };
    let wrapper = format!(
        "#!/bin/sh
         echo \"began $*\" >>'{log}'
         {himself}'{}' \"$@\"
         code=$?
         echo \"ended $code $*\" >>'{log}'
         exit $code
        ",
        pgkeep_binary().display(),
        log = path("log"),
    );
    set_mode(&place.put("bin/pgkeep", wrapper.as_bytes()), 0o755);
    place.put("crontab", text.as_bytes())
}

/// The lines of the log that say `began` or `ended`: what stood behind `pgkeep --quiet`, and the exit code.
fn fired(log: &str, what: &str) -> BTreeMap<String, String> {
    let parse = |line: &str| {
        let (code, words) = line.strip_prefix(what)?.split_once(" --quiet ")?;
        let words = words.split(" --html").next()?;
        Some((words.to_owned(), code.trim().to_owned()))
    };
    log.lines().filter_map(parse).collect()
}

/// Real cron and the real crontab, only that for cron a minute takes three seconds, and that the hours between in which
/// nothing else happens are left out.
#[test]
fn every_line_fires_at_its_time_under_a_real_cron_and_leaves_the_row_of_a_success() {
    const EACH_FIVE_MINUTES: [&str; 3] = ["run-due", "status", "watch"];
    // 2 November 2026 is a Monday, the 8th a Sunday, and the first of December a Tuesday.
    const TIMES: [(&str, &[&str]); 10] = [
        ("2026-11-02 00:59:40", &["backup cluster"]),
        ("2026-11-02 01:59:40", &["backup database"]),
        ("2026-11-02 02:59:40", &[]),
        ("2026-11-08 02:59:40", &["backup config"]),
        ("2026-12-01 02:59:40", &["test-restore"]),
        ("2026-11-02 01:29:40", &["verify --repair --max-time 25m"]),
        ("2026-11-02 13:44:40", &["sync"]),
        ("2026-11-02 03:59:40", &["cleanup"]),
        ("2026-11-02 04:59:40", &[]),
        ("2026-11-08 04:59:40", &["verify --deep"]),
    ];
    // The checkpoint with which a cluster backup begins is not to spare the disk.
    let archiving = Archiving::new(&[("checkpoint_completion_target", "0")]);
    let place = &archiving.place;
    let shop = archiving.cluster.fresh_shop();
    place.set("PGDATABASE", &shop);
    archiving.begin();
    let crontab = crontab_of(place);
    let at = (Utc::now() + TimeDelta::seconds(1)).to_rfc3339_opts(SecondsFormat::Secs, true);
    place.pgkeep(&["backup", "config", "--at", &at]).ok();

    let (install, program) = if is_root() { (INSTALL, "") } else { (PUT, WITHOUT_GROUPS) };
    for (time, fires) in TIMES {
        let log = place.put("log", b"");
        let script = format!(
            "{install}\nexec {program} env TZ=UTC LD_PRELOAD='{}' FAKETIME='@{time} x20' NO_FAKE_STAT=1 cron -f",
            libfaketime().display()
        );
        let wanted: BTreeSet<&str> = fires.iter().chain(&EACH_FIVE_MINUTES).copied().collect();
        let mut cron = Running::start(&mut in_a_world_of_its_own(&script, &crontab));
        let begun = Instant::now();
        let has = |what: &str| {
            let log = fs::read_to_string(&log).unwrap();
            wanted.iter().all(|words| fired(&log, what).contains_key(*words))
        };
        while !has("ended") {
            assert!(cron.is_running(), "{time}: cron ended: {:?}", cron.wait());
            let log = fs::read_to_string(&log).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(100), "{time}: not {wanted:?}:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(cron);
        let log = fs::read_to_string(&log).unwrap();
        let began = fired(&log, "began");
        assert_eq!(began.keys().map(String::as_str).collect::<BTreeSet<_>>(), wanted, "{time}: {log}");
        for (words, code) in fired(&log, "ended") {
            // The page is written, and the code of its line says how things are.
            let is_well = code == "0" || words == "status";
            assert!(is_well, "{time}: {log}\n{:?}", place.catalog("SELECT command, message FROM runs"));
        }
    }
    let rows = place.catalog(
        "SELECT arguments, outcome, exit_code, message, terminal FROM runs
         WHERE command NOT IN ('init', 'run-due', 'watch') AND job_id IS NULL ORDER BY started_at",
    );
    let of_cron = TIMES.iter().flat_map(|(_, fires)| *fires);
    let expected: Vec<Vec<String>> = of_cron
        .map(|words| [&format!("--quiet {words}"), "done", "0", "", "none"].map(str::to_owned).to_vec())
        .collect();
    assert_eq!(rows, expected);
    let job = place
        .catalog("SELECT jobs.state, runs.outcome, runs.priority FROM jobs JOIN runs ON job_id = jobs.id");
    assert_eq!(job, [["done", "done", "8"]], "what was put off has run, once");
    let page = fs::read_to_string(place.path("www/status.html")).unwrap();
    assert!(page.contains(&shop) && place.path("www/pgkeep.prom").exists());
    let kinds = place
        .catalog("SELECT type, count(*) FROM backups WHERE status = 'complete' GROUP BY type ORDER BY type");
    assert_eq!(kinds, [["cluster", "1"], ["config", "2"], ["database", "1"]]);
    assert_eq!(place.catalog("SELECT purpose, state FROM restore_log GROUP BY 1, 2"), [["test", "done"]]);
}

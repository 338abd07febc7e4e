//! What a cluster backup leaves out and waits for, and what a restore into a directory does at its end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::clouds::Cloud;
use crate::pitr::{backup, fresh, restore, until_promoted};
use crate::support::faults::{through, wait_for};
use crate::support::proxy::{Fault, Rule};
use crate::support::s3::Options;
use crate::support::{Archiving, Cluster, Running, run};
use crate::wal_faults::{push, ready};

#[test]
fn a_restored_directory_is_flushed_before_a_server_can_start_on_it() {
    let archiving = Archiving::ready();
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    backup(&archiving);
    archiving.archive();
    let directory = fresh();
    let data = directory.join("data");
    let traced = archiving.place.path("traced");
    let strace = |calls: &[&str]| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq"]).args(calls).arg("-o").arg(&traced);
        let restoring = archiving.place.command(&["restore", "latest", "--to-dir", data.to_str().unwrap()]);
        run(&mut through(&mut strace, &restoring))
    };
    // What can't be flushed is no restored directory.
    let failed = strace(&["-e", "trace=syncfs", "-e", "inject=syncfs:error=EIO"]);
    assert!(fs::read_to_string(&traced).unwrap().contains("(INJECTED)"), "nothing was flushed");
    let failed = failed.fails_with(40);
    assert!(failed.stderr.contains("Input/output error"), "{}", failed.stderr);
    assert!(!data.join("global/pg_control").exists());
    restore(&archiving, &directory, &["--force"]).ok();
    let server = Cluster::around(directory.clone(), archiving.cluster.bindir.clone());
    server.start_again();
    until_promoted(&server);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "1000");
    server.shut_down();
    fs::remove_dir_all(&data).unwrap();
    // And first the flush, then the file without which no server starts.
    strace(&["-e", "trace=syncfs,rename,renameat,renameat2"]).ok();
    let text = fs::read_to_string(&traced).unwrap();
    let flushed = text.lines().position(|line| line.contains("syncfs") && line.ends_with("= 0"));
    let placed = text.lines().position(|line| line.contains("rename") && line.contains("/global/pg_control"));
    assert!(flushed.unwrap() < placed.unwrap(), "{text}");
}

/// All files and directories below it, but what is written there by its name.
fn paths(top: &Path, but: &[&str]) -> BTreeSet<String> {
    let found = run(Command::new("find").arg(top).args(["-mindepth", "1", "-printf", "%P\n"])).ok().stdout;
    found.lines().filter(|path| !but.contains(path)).map(ToOwned::to_owned).collect()
}

/// `pg_basebackup` leaves out what the manual says: so does pgkeep, file by file.
#[test]
fn what_is_left_out_is_what_pg_basebackup_leaves_out() {
    let archiving = Archiving::ready();
    let psql = |sql: &str| archiving.cluster.psql("postgres", sql);
    psql("CREATE UNLOGGED TABLE u (n int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 5000)");
    let mut session = archiving.cluster.client("psql");
    let temporary = "CREATE TEMPORARY TABLE t AS SELECT generate_series(1, 50000) AS n";
    session.args(["-Xq", "-d", "postgres", "-c", temporary, "-c", "SELECT pg_sleep(600)"]);
    let session = Running::start(&mut session);
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_for("the session", || (psql(sleeping) == "1").then_some(()));
    psql("VACUUM u");
    psql("CHECKPOINT");
    // Those that are the server's own, or this backup's.
    let own = [
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "recovery.signal",
        "standby.signal",
        "postmaster.pid",
        "postmaster.opts",
    ];
    let there = paths(archiving.cluster.data(), &own);
    let copied = archiving.place.path("copied");
    let mut copy = archiving.cluster.client("pg_basebackup");
    copy.args(["-Fp", "-X", "none", "--checkpoint=fast", "-D"]).arg(&copied);
    let copy = run(&mut copy);
    assert_eq!(copy.code, 0, "{}", copy.stderr);
    backup(&archiving);
    let directory = fresh();
    restore(&archiving, &directory, &[]).ok();
    let theirs = paths(&copied, &own);
    let ours = paths(&directory.join("data"), &own);
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).cloned().collect::<Vec<String>>()
    };
    assert_eq!(only(&ours, &theirs), [""; 0], "only in the restored directory");
    assert_eq!(only(&theirs, &ours), [""; 0], "only in that of pg_basebackup");
    // And there was something to leave out.
    let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
    let is_temporary = |path: &&String| regex::Regex::new(r"^t\d+_\d+").unwrap().is_match(&name(path));
    assert!(there.iter().any(|path| is_temporary(&path)), "{there:?}");
    assert_eq!(ours.iter().find(is_temporary), None);
    let unlogged = psql("SELECT pg_relation_filepath('u')");
    let forks = |of: &BTreeSet<String>| -> Vec<String> {
        let ends = of.iter().filter_map(|path| path.strip_prefix(&unlogged).map(ToOwned::to_owned));
        ends.filter(|end| end.is_empty() || end.starts_with('_')).collect()
    };
    assert!(forks(&there).len() > 1, "{:?}", forks(&there));
    assert_eq!(forks(&ours), ["_init"]);
    drop(session);
}

#[test]
fn a_cluster_backup_says_which_store_is_late() {
    let archiving = Archiving::new(&[]);
    let mut r2 = Cloud::start(Options::default());
    r2.is_r2_of(&archiving.place);
    archiving.place.init();
    archiving.place.set("BACKUP_MIN_COPIES", "2");
    archiving.place.set("BACKUP_ARCHIVE_TIMEOUT", "8s");
    // The server archives nothing; what is archived by hand gets only as far as the local store.
    r2.proxy.fail(
        Rule::new(Fault::Status { status: 403, code: "AccessDenied", retry_after: None }).on("PUT", "wal"),
    );
    let mut making = archiving.place.start(&[], &["backup", "cluster", "--fast"]);
    let mut pushed = 0;
    while making.is_running() {
        for name in ready(&archiving) {
            let run = push(&archiving, &name);
            assert_eq!(run.code, 40, "{}", run.stderr);
            pushed += 1;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(pushed > 0);
    let late = making.wait().fails_with(30);
    assert!(late.stderr.contains("(only in local)"), "{}", late.stderr);
    assert!(archiving.place.backups().is_empty());
    r2.proxy.heal();
    // A store that can't be asked is named.
    r2.proxy.fail(Rule::new(Fault::Reset).on("GET", "wal"));
    let away = archiving.place.pgkeep(&["backup", "cluster", "--fast"]).fails_with(40);
    assert!(away.stderr.contains("not every store could be asked: "), "{}", away.stderr);
    assert!(away.stderr.contains("store r2"), "{}", away.stderr);
    r2.proxy.heal();
    r2.proxy.go_away();
    let away = archiving.place.pgkeep(&["backup", "cluster", "--fast"]).fails_with(40);
    assert!(away.stderr.contains("store r2"), "{}", away.stderr);
    assert!(archiving.place.backups().is_empty());
}

#[test]
fn with_the_action_shutdown_the_server_ends_at_the_target() {
    let archiving = Archiving::ready();
    let psql = |sql: &str| archiving.cluster.psql("postgres", sql);
    psql("CREATE TABLE t AS SELECT 1 AS n");
    backup(&archiving);
    psql("INSERT INTO t VALUES (2)");
    psql("SELECT pg_create_restore_point('here')");
    psql("INSERT INTO t VALUES (3)");
    archiving.archive();
    let directory = fresh();
    let arguments = [
        "--output",
        "json",
        "--target-name",
        "here",
        "--start",
        "--port",
        "5433",
        "--target-action",
        "shutdown",
    ];
    let report = restore(&archiving, &directory, &arguments).ok().json();
    assert_eq!(report["reached"]["state"], "shut down", "{report}");
    let data = directory.join("data");
    assert!(!data.join("postmaster.pid").exists());
    // It has stopped there for good: started again it has to be told to go on.
    let server = Cluster::around(directory, archiving.cluster.bindir.clone());
    let conf = data.join("postgresql.auto.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\nrecovery_target_action = 'promote'\n")).unwrap();
    server.start_again();
    until_promoted(&server);
    assert_eq!(server.psql("postgres", "SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), "1,2");
}

//! Cluster backups and recovery to a point in time, proven by PostgreSQL's own tools and by what is in the rows.

use std::fs;
use std::path::PathBuf;

use crate::support::{Archiving, Cluster, Run, base, give, ordinary, run, set_mode, unique};

/// A directory for a restored server and its socket; nothing is in it.
pub(crate) fn fresh() -> PathBuf {
    let directory = base().join(format!("re{}", unique()));
    fs::create_dir(&directory).unwrap();
    set_mode(&directory, 0o755);
    give(&directory);
    directory
}

/// Makes a cluster backup; returns the report.
pub(crate) fn backup(archiving: &Archiving) -> serde_json::Value {
    archiving.place.pgkeep(&["--output", "json", "backup", "cluster", "--fast"]).ok().json()
}

/// Restores into `directory/data` with these arguments.
pub(crate) fn restore(archiving: &Archiving, directory: &std::path::Path, arguments: &[&str]) -> Run {
    let data = directory.join("data");
    let mut all = vec!["restore", "latest", "--to-dir", data.to_str().unwrap()];
    all.extend(arguments);
    archiving.place.pgkeep(&all)
}

/// Restores, starts the server and waits until it has promoted itself.
pub(crate) fn recover(archiving: &Archiving, arguments: &[&str]) -> Cluster {
    let directory = fresh();
    restore(archiving, &directory, arguments).ok();
    let server = Cluster::around(directory, archiving.cluster.bindir.clone());
    server.start_again();
    until_promoted(&server);
    server
}

pub(crate) fn until_promoted(server: &Cluster) {
    for _ in 0..600 {
        if server.psql("postgres", "SELECT pg_is_in_recovery()") == "f" {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("still in recovery: {}", server.log());
}

/// The time now as the server has it.
pub(crate) fn now(cluster: &Cluster) -> String {
    cluster.psql(
        "postgres",
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    )
}

fn tool(cluster: &Cluster, program: &str, arguments: &[&str]) -> Run {
    run(ordinary(cluster.bindir.join(program)).env("LC_ALL", "C.UTF-8").args(arguments))
}

#[test]
fn a_row_deleted_at_14_03_is_there_again_after_a_restore_to_14_02() {
    let archiving = Archiving::ready();
    archiving
        .cluster
        .psql("postgres", "CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 1000)");
    let report = backup(&archiving);
    assert_eq!(report["kind"], "cluster");
    archiving.cluster.psql("postgres", "INSERT INTO t VALUES (4711)");
    let before = now(&archiving.cluster);
    archiving.cluster.psql("postgres", "DELETE FROM t WHERE n = 4711");
    archiving.archive();
    let server = recover(&archiving, &["--target-time", &before]);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t WHERE n = 4711"), "1");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "1001");
    assert_eq!(server.psql("postgres", "SHOW archive_mode"), "off", "a copy archives nowhere");
    let server = recover(&archiving, &[]);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "1000", "the end of the archive");
}

#[test]
fn the_last_transaction_of_a_segment_is_the_one_that_pg_waldump_finds() {
    let archiving = Archiving::ready();
    let sql = "DO $$ BEGIN FOR n IN 1..500 LOOP PERFORM pg_logical_emit_message(true, 'test', repeat('x', n * 7)); \
               COMMIT; END LOOP; END $$";
    archiving.cluster.psql("postgres", sql);
    let name = archiving.archive();
    let wanted = archiving.place.path(&name);
    archiving.place.pgkeep(&["wal-fetch", &name, wanted.to_str().unwrap()]).ok();
    let found = pgkeep::postgres::wal_records::stops(&fs::read(&wanted).unwrap());
    let mut dump = ordinary(archiving.cluster.bindir.join("pg_waldump"));
    let dumped = run(dump.env("TZ", "UTC").arg(&wanted));
    let commits: Vec<&str> = dumped.stdout.lines().filter(|line| line.contains("desc: COMMIT")).collect();
    assert!(commits.len() > 10, "{}", dumped.stdout);
    let last = commits.last().unwrap().split("COMMIT ").nth(1).unwrap();
    let time = found.last_transaction.unwrap().format("%Y-%m-%d %H:%M:%S%.6f").to_string();
    assert!(last.starts_with(&time), "{last} {time}");
    let lsn = dumped.stdout.lines().last().unwrap().split("lsn: ").nth(1).unwrap();
    let position: pgkeep::model::Lsn = lsn.split(',').next().unwrap().parse().unwrap();
    assert_eq!(found.last_record, Some(position), "{}", dumped.stdout.lines().last().unwrap());
}

#[test]
fn what_was_restored_passes_postgresqls_own_checks() {
    let archiving = Archiving::new(&[]);
    archiving.begin();
    archiving.cluster.psql("postgres", "CREATE UNLOGGED TABLE u (n int); INSERT INTO u VALUES (1)");
    archiving
        .cluster
        .psql("postgres", "CREATE TABLE t AS SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n");
    backup(&archiving);
    let directory = fresh();
    restore(&archiving, &directory, &["--mode", "full"]).ok();
    let data = directory.join("data");
    let verified = tool(&archiving.cluster, "pg_verifybackup", &["-n", data.to_str().unwrap()]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    for gone in ["postmaster.pid", "pgkeep.restore", "global/pg_control.pgkeep", "pg_wal/RECOVERYXLOG"] {
        assert!(!data.join(gone).exists(), "{gone}");
    }
    let server = Cluster::around(directory, archiving.cluster.bindir.clone());
    server.start_again();
    until_promoted(&server);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "20000");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM u"), "0", "unlogged tables are emptied");
    server.psql("postgres", "CREATE EXTENSION amcheck");
    let checked = run(server.client("pg_amcheck").args(["--all", "--heapallindexed"]));
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
}

#[test]
fn started_by_pgkeep_the_server_is_followed_to_its_target() {
    let archiving = Archiving::ready();
    backup(&archiving);
    archiving.cluster.psql("postgres", "CREATE TABLE t (n int)");
    archiving.cluster.psql("postgres", "SELECT pg_create_restore_point('before the trouble')");
    archiving.cluster.psql("postgres", "DROP TABLE t");
    archiving.archive();
    let directory = fresh();
    let socket = format!("unix_socket_directories = '{}'", directory.display());
    // What the settings of the original say of its socket holds for the copy, too; it gets a port of its own.
    assert!(!socket.is_empty());
    let arguments = [
        "--output",
        "json",
        "--target-name",
        "before the trouble",
        "--start",
        "--port",
        "5433",
        "--target-action",
        "pause",
    ];
    let report = restore(&archiving, &directory, &arguments).ok().json();
    assert_eq!(report["reached"]["state"], "paused", "{report}");
    // Where it really stopped is what the server says.
    let mut psql = archiving.cluster.client("psql");
    let sql = "SELECT pg_last_wal_replay_lsn(), \
               to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    psql.env("PGPORT", "5433").args(["-XAtq", "-d", "postgres", "-c", sql]);
    let said = run(&mut psql).ok().stdout;
    let reached = format!(
        "{}|{}",
        report["reached"]["lsn"].as_str().unwrap(),
        report["reached"]["time"].as_str().unwrap()
    );
    assert_eq!(reached, said.trim(), "{report}");
    let mut psql = archiving.cluster.client("psql");
    psql.env("PGPORT", "5433").args(["-XAtq", "-d", "postgres", "-c", "SELECT count(*) FROM t"]);
    assert_eq!(run(&mut psql).ok().stdout.trim(), "0");
    let data = directory.join("data");
    let stopped =
        tool(&archiving.cluster, "pg_ctl", &["stop", "-s", "-m", "fast", "-D", data.to_str().unwrap()]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
}

//! Targets that only the WAL itself knows, and targets that are not in it: found out before anything is written.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use crate::pitr::{backup, fresh, now, recover, restore};
use crate::pitr_faults::{archive_on, takes_over};
use crate::support::{Archiving, Cluster, pgkeep_binary};

#[test]
fn a_restore_point_and_a_transaction_lead_to_the_backup_before_them() {
    let archiving = Archiving::ready();
    let psql = |sql: &str| archiving.cluster.psql("postgres", sql);
    psql("CREATE TABLE t (n int)");
    let first = backup(&archiving);
    psql("INSERT INTO t VALUES (1)");
    psql("SELECT pg_create_restore_point('monday')");
    let number =
        psql("WITH it AS (INSERT INTO t VALUES (2) RETURNING 1) SELECT pg_current_xact_id() FROM it");
    psql("INSERT INTO t VALUES (3)");
    archiving.fill_segments(3);
    archiving.archive();
    let second = backup(&archiving);
    psql("INSERT INTO t VALUES (4)");
    psql("SELECT pg_create_restore_point('tuesday')");
    psql("INSERT INTO t VALUES (5)");
    archiving.fill_segments(2);
    archiving.archive();
    let plan = |arguments: &[&str]| {
        let all = [&["--dry-run", "--output", "json"], arguments].concat();
        restore(&archiving, &fresh(), &all).ok().json()["plan"]["backup"].clone()
    };
    assert_eq!(plan(&["--target-name", "monday"]), first["id"]);
    assert_eq!(plan(&["--target-name", "tuesday"]), second["id"]);
    assert_eq!(plan(&["--target-xid", &number]), first["id"]);
    let server = recover(&archiving, &["--target-name", "monday"]);
    assert_eq!(server.psql("postgres", "SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), "1");
    let server = recover(&archiving, &["--target-xid", &number]);
    assert_eq!(server.psql("postgres", "SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), "1,2");
    let directory = fresh();
    let run = restore(&archiving, &directory, &["--target-name", "mondy"]).fails_with(5);
    assert!(run.stderr.contains("restore point \"mondy\""), "{}", run.stderr);
    restore(&archiving, &directory, &["--target-xid", "4000000000"]).fails_with(5);
    restore(&archiving, &directory, &["--target-name", "a\nb"]).fails_with(2);
    assert!(!directory.join("data").exists());
}

#[test]
fn a_restore_point_that_lies_across_two_segments_is_found() {
    let archiving = Archiving::ready();
    backup(&archiving);
    let psql = |sql: &str| archiving.cluster.psql("postgres", sql);
    // A record of 104 bytes that begins 64 bytes before the end of its segment.
    let sql = "DO $$ DECLARE gap bigint; BEGIN PERFORM pg_switch_wal(); \
               PERFORM pg_logical_emit_message(false, 'x', 'first'); \
               gap := 1048576 - (pg_current_wal_insert_lsn() - '0/0'::pg_lsn) % 1048576; \
               WHILE gap > 20000 LOOP PERFORM pg_logical_emit_message(false, 'x', repeat('y', 8000)); \
               gap := 1048576 - (pg_current_wal_insert_lsn() - '0/0'::pg_lsn) % 1048576; END LOOP; \
               WHILE gap > 104 LOOP PERFORM pg_logical_emit_message(false, 'x', 'z'); \
               gap := 1048576 - (pg_current_wal_insert_lsn() - '0/0'::pg_lsn) % 1048576; END LOOP; \
               PERFORM pg_create_restore_point('across'); END $$";
    psql(sql);
    psql("CREATE TABLE t (n int)");
    archiving.archive();
    let run = restore(&archiving, &fresh(), &["--dry-run", "--target-name", "across"]).ok();
    assert!(run.stdout.contains("at the restore point \"across\""), "{}", run.stdout);
}

#[test]
fn a_position_behind_the_last_record_and_a_time_in_wal_without_transactions_are_refused() {
    let archiving = Archiving::ready();
    let report = backup(&archiving);
    archiving.fill_segments(40);
    let last = archiving.archive();
    let end = archiving.cluster.psql("postgres", "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn");
    let segment = end.parse::<u64>().unwrap() / (1 << 20) * (1 << 20);
    let behind = pgkeep::model::Lsn(segment - 16);
    let directory = fresh();
    let run = restore(&archiving, &directory, &["--target-lsn", &behind.to_string()]).fails_with(5);
    assert!(run.stderr.contains("can't be reached"), "{last} {}", run.stderr);
    let run = restore(&archiving, &directory, &["--target-time", "2199-01-01T00:00:00Z"]).fails_with(5);
    assert!(run.stderr.contains("can't be reached"), "{}", run.stderr);
    assert!(!directory.join("data").exists());
    let stop = report["wal"]["stop_lsn"].as_str().unwrap().to_owned();
    restore(&archiving, &directory, &["--dry-run", "--target-lsn", &stop]).ok();
}

#[test]
fn a_time_leads_to_the_newest_backup_that_ends_before_it() {
    let archiving = Archiving::ready();
    let psql = |sql: &str| archiving.cluster.psql("postgres", sql);
    psql("CREATE TABLE t (n int)");
    let mut times = vec![now(&archiving.cluster)];
    let mut backups = Vec::new();
    for n in 1..=2 {
        backups.push(backup(&archiving)["id"].clone());
        psql(&format!("INSERT INTO t VALUES ({n})"));
        times.push(now(&archiving.cluster));
        psql("INSERT INTO t VALUES (0)");
    }
    archiving.archive();
    let plan =
        |time: &str| restore(&archiving, &fresh(), &["--dry-run", "--output", "json", "--target-time", time]);
    for (time, id) in times[1..].iter().zip(&backups) {
        assert_eq!(plan(time).ok().json()["plan"]["backup"], *id, "{time}");
    }
    let run = plan(&times[0]).fails_with(5);
    assert!(run.stderr.contains("hint: "), "{}", run.stderr);
    let server = recover(&archiving, &["--target-time", &times[1]]);
    assert_eq!(server.psql("postgres", "SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), "1");
    let server = recover(&archiving, &["--target-time", &times[2]]);
    assert_eq!(server.psql("postgres", "SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), "0,1,2");
}

#[test]
fn the_timeline_of_the_backup_is_followed_when_it_is_asked_for() {
    let archiving = Archiving::ready();
    let psql = |sql: &str| archiving.cluster.psql("postgres", sql);
    psql("CREATE TABLE t (n int)");
    backup(&archiving);
    psql("INSERT INTO t VALUES (1)");
    let fork = now(&archiving.cluster);
    psql("INSERT INTO t VALUES (2)");
    archiving.archive();
    // A second timeline begins between the two rows, and gets a row of its own.
    archiving.cluster.shut_down();
    let second = recover(&archiving, &["--target-time", &fork, "--keep-archiving"]);
    takes_over(&archiving, &second);
    second.psql("postgres", "INSERT INTO t VALUES (10)");
    archive_on(&archiving, &second);
    let rows = "SELECT string_agg(n::text, ',' ORDER BY n) FROM t";
    for (timeline, expected) in [("current", "1,2"), ("1", "1,2"), ("latest", "1,10"), ("2", "1,10")] {
        let server = recover(&archiving, &["--target-timeline", timeline]);
        assert_eq!(server.psql("postgres", rows), expected, "{timeline}");
    }
}

/// What servers have that nobody has told otherwise, and what large ones are made with.
#[test]
fn segments_of_16_and_of_128_megabytes_are_archived_and_replayed() {
    for size in ["16", "128"] {
        let options = [("archive_mode", "on"), ("archive_command", "/bin/false"), ("min_wal_size", "256MB")];
        let made = Cluster::made_with(&[&format!("--wal-segsize={size}")], &options);
        let archiving = Archiving::on(made);
        archiving.begin();
        assert_eq!(archiving.cluster.psql("postgres", "SHOW wal_segment_size"), format!("{size}MB"));
        archiving
            .cluster
            .psql("postgres", "CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 1000) n");
        backup(&archiving);
        archiving
            .cluster
            .psql("postgres", "INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1001, 80000) n");
        let before = now(&archiving.cluster);
        archiving.cluster.psql("postgres", "DELETE FROM t");
        archiving.archive();
        let server = recover(&archiving, &["--target-time", &before]);
        assert_eq!(server.psql("postgres", "SELECT count(*), max(n) FROM t"), "80000|80000", "{size}");
    }
}

/// Root restores, and the files belong to who owned them; anybody else's belong to himself.
#[test]
fn owners_and_modes_come_back() {
    let archiving = Archiving::ready();
    backup(&archiving);
    let directory = fresh();
    let data = directory.join("data");
    if crate::support::is_root() {
        // With settings in the environment, which is warned of: an env file must belong to who reads it.
        let mut command = Command::new(pgkeep_binary());
        command.env_clear().envs(archiving.place.settings());
        command.args(["restore", "latest", "--mode", "full", "--to-dir", data.to_str().unwrap()]);
        crate::support::run(&mut command).ended_with(3);
    } else {
        restore(&archiving, &directory, &["--mode", "full"]).ok();
    }
    let of = |path: &Path| fs::symlink_metadata(path).map(|it| (it.uid(), it.gid(), it.mode())).unwrap();
    let original = archiving.cluster.data();
    for name in [
        "",
        "PG_VERSION",
        "base",
        "base/1",
        "base/1/1259",
        "global/pg_control",
        "pg_wal",
        "postgresql.conf",
        "pg_xact",
    ] {
        assert_eq!(of(&data.join(name)), of(&original.join(name)), "{name}");
    }
}

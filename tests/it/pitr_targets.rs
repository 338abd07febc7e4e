//! Targets that only the WAL itself knows, and targets that are not in it: found out before anything is written.

use crate::pitr::{backup, fresh, recover, restore};
use crate::support::Archiving;

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

//! Recovery in harder cases: load, timelines, holes, stores that go away, tablespaces, damaged pages, standbys, and runs that
//! are cut off.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::process::Signal;

use crate::clouds::Cloud;
use crate::pitr::{backup, fresh, now, recover, restore, until_promoted};
use crate::support::faults::{stopped_at, wait_for};
use crate::support::proxy::{Fault, Rule};
use crate::support::s3::Options;
use crate::support::{Archiving, Cluster, Place, Running, base, give, ordinary, run, set_mode, unique};

fn pgbench(cluster: &Cluster, arguments: &[&str]) -> Running {
    let mut command = cluster.client("pgbench");
    command.args(arguments).arg("postgres");
    Running::start(&mut command)
}

/// The sums that pgbench keeps equal, and the number of its transactions.
fn balance(cluster: &Cluster) -> String {
    cluster.psql(
        "postgres",
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
                (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
                (SELECT count(*) FROM pgbench_history)",
    )
}

#[track_caller]
fn assert_balanced(sums: &str) {
    let fields: Vec<&str> = sums.split('|').collect();
    assert!(fields[1..4].iter().all(|sum| *sum == fields[0]), "{sums}");
}

#[test]
fn under_full_load_a_recorded_instant_comes_back_with_an_exact_balance_sheet() {
    // Pages are read while they are written: a checksum that is wrong must be read again before it is believed.
    let cluster = Cluster::made_with(
        &["--wal-segsize=1", "--data-checksums"],
        &[("archive_mode", "on"), ("archive_command", "/bin/false"), ("max_wal_senders", "5")],
    );
    let archiving = Archiving::on(cluster);
    archiving.begin();
    pgbench(&archiving.cluster, &["-i", "-q", "-s", "1"]).wait().ok();
    let load = pgbench(&archiving.cluster, &["-c", "4", "-T", "6"]);
    std::thread::sleep(Duration::from_millis(500));
    backup(&archiving);
    let middle = now(&archiving.cluster);
    load.wait().ok();
    let (recorded, instant) = (balance(&archiving.cluster), now(&archiving.cluster));
    pgbench(&archiving.cluster, &["-c", "2", "-t", "200"]).wait().ok();
    archiving.archive();
    let server = recover(&archiving, &["--target-time", &instant]);
    assert_eq!(balance(&server), recorded);
    let server = recover(&archiving, &["--target-time", &middle]);
    let sums = balance(&server);
    assert_balanced(&sums);
    assert_ne!(sums, recorded, "an instant under load");
    server.psql("postgres", "CREATE EXTENSION amcheck");
    let checked = run(server.client("pg_amcheck").args(["-d", "postgres", "--heapallindexed"]));
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
}

#[test]
fn just_before_and_just_after_a_dropped_table_by_time_position_and_transaction() {
    let archiving = Archiving::ready();
    backup(&archiving);
    let sql = |sql: &str| archiving.cluster.psql("postgres", sql);
    sql("CREATE TABLE precious (n int); INSERT INTO precious VALUES (1), (2)");
    let (before, position) = (now(&archiving.cluster), sql("SELECT pg_current_wal_insert_lsn()"));
    sql("DROP TABLE precious");
    let after = now(&archiving.cluster);
    sql("CREATE TABLE later (n int)");
    let transaction = sql("INSERT INTO later VALUES (7) RETURNING pg_current_xact_id()");
    sql("INSERT INTO later VALUES (8)");
    archiving.archive();
    let there = |server: &Cluster, table: &str| {
        server.psql("postgres", &format!("SELECT to_regclass('{table}') IS NOT NULL")) == "t"
    };
    let server = recover(&archiving, &["--target-time", &before]);
    assert_eq!((there(&server, "precious"), there(&server, "later")), (true, false));
    let server = recover(&archiving, &["--target-lsn", &position]);
    assert_eq!((there(&server, "precious"), there(&server, "later")), (true, false));
    let server = recover(&archiving, &["--target-time", &after]);
    assert_eq!((there(&server, "precious"), there(&server, "later")), (false, false));
    let server = recover(&archiving, &["--target-xid", &transaction]);
    assert_eq!(server.psql("postgres", "SELECT array_agg(n) FROM later"), "{7}");
}

/// Makes a restored server take the original's place.
pub(crate) fn takes_over(archiving: &Archiving, server: &Cluster) {
    archiving.place.set("PGHOST", &server.socket_dir.display().to_string());
    archiving.place.init();
}

pub(crate) fn archive_on(archiving: &Archiving, server: &Cluster) {
    let name = server.psql(
        "postgres",
        "SELECT pg_walfile_name(pg_current_wal_insert_lsn()) FROM pg_logical_emit_message(true, 'test', 'x')",
    );
    server.psql("postgres", "SELECT pg_switch_wal()");
    for _ in 0..600 {
        if archiving.archived().iter().any(|file| file.starts_with(&name)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{name} is not archived: {}", server.log());
}

#[test]
fn timelines_follow_each_other_and_an_earlier_one_can_still_be_reached() {
    let archiving = Archiving::ready();
    let one = &archiving.cluster;
    one.psql("postgres", "CREATE TABLE t (word text)");
    backup(&archiving);
    let say = |server: &Cluster, word: &str| {
        server.psql("postgres", &format!("INSERT INTO t VALUES ('{word}')"));
        std::thread::sleep(Duration::from_millis(20));
        now(server)
    };
    let words =
        |server: &Cluster| server.psql("postgres", "SELECT string_agg(word, ' ' ORDER BY word) FROM t");
    let a = say(one, "a");
    say(one, "b");
    archive_on(&archiving, one);
    one.shut_down();

    let two = recover(&archiving, &["--target-time", &a, "--keep-archiving"]);
    takes_over(&archiving, &two);
    let c = say(&two, "c");
    say(&two, "d");
    archive_on(&archiving, &two);
    assert_eq!(words(&two), "a c d");
    two.shut_down();

    let three = recover(&archiving, &["--target-time", &c, "--keep-archiving"]);
    takes_over(&archiving, &three);
    assert_eq!(words(&three), "a c");
    say(&three, "e");
    archive_on(&archiving, &three);
    assert_eq!(three.psql("postgres", "SELECT timeline_id FROM pg_control_checkpoint()"), "3");

    // The end of each, and an earlier point of the first.
    for (timeline, expected) in [("1", "a b"), ("2", "a c d"), ("3", "a c e")] {
        let server = recover(&archiving, &["--target-timeline", timeline]);
        assert_eq!(words(&server), expected, "timeline {timeline}");
    }
    let server = recover(&archiving, &["--target-timeline", "1", "--target-time", &a]);
    assert_eq!(words(&server), "a");
    let report = archiving.place.pgkeep(&["--output", "json", "list", "--recoverable"]).ok().json();
    let timelines: Vec<u64> = report["windows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|window| window["timeline"].as_u64().unwrap())
        .collect();
    assert_eq!(timelines, [1, 2, 3], "{report}");
    // A new backup on the new timeline, and back.
    backup(&archiving);
    say(&three, "f");
    archive_on(&archiving, &three);
    assert_eq!(words(&recover(&archiving, &[])), "a c e f");
}

/// Removes a segment from the local store.
pub(crate) fn lose(archiving: &Archiving, name: &str) {
    let directory = archiving.place.store().join(format!("test/wal/{}/{}", &name[..8], &name[8..16]));
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.file_name().to_str().unwrap().starts_with(name) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn a_hole_in_one_store_is_bridged_and_one_in_all_is_refused_with_the_times() {
    let archiving = Archiving::new(&[]);
    let r2 = Cloud::start(Options::default());
    r2.is_r2_of(&archiving.place);
    archiving.begin();
    backup(&archiving);
    archiving.cluster.psql("postgres", "CREATE TABLE early (n int)");
    archiving.archive();
    archiving.cluster.psql("postgres", "CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
    let before = now(&archiving.cluster);
    let hole = archiving.archive();
    archiving.cluster.psql("postgres", "INSERT INTO t VALUES (2)");
    archiving.archive();
    lose(&archiving, &hole);
    let server = recover(&archiving, &[]);
    assert_eq!(server.psql("postgres", "SELECT sum(n) FROM t"), "3", "bridged by the cloud");
    let key = r2.bucket().keys().into_iter().find(|key| key.contains(&format!("/{hole}-"))).unwrap();
    r2.bucket().lose(&key);
    let directory = fresh();
    let refused = restore(&archiving, &directory, &[]).fails_with(5);
    assert!(refused.stderr.contains(&format!("{hole} is in no store")), "{}", refused.stderr);
    // The ledger knows as soon as somebody has looked.
    let old = "UPDATE wal_segments SET stored_at = '2026-01-01T00:00:00.000Z'";
    rusqlite::Connection::open(archiving.place.state().join("catalog.sqlite"))
        .unwrap()
        .execute(old, [])
        .unwrap();
    archiving.place.pgkeep(&["verify"]).fails_with(4);
    let ledger = archiving.place.pgkeep(&["list", "--recoverable"]);
    assert_eq!(ledger.code, 4, "{}", ledger.stdout);
    assert!(ledger.stdout.contains(&hole), "{}", ledger.stdout);
    let late = restore(&archiving, &directory, &["--target-time", &now(&archiving.cluster)]).fails_with(5);
    assert!(late.stderr.contains("the last transaction before it ended at 20"), "{}", late.stderr);
    assert!(!directory.join("data").exists(), "refused before a byte is written");
    // With what the hint says it goes as far as can be.
    let hint = refused.stderr.split("--target-lsn ").nth(1).unwrap().split_whitespace().next().unwrap();
    let server = recover(&archiving, &["--target-lsn", hint.trim_end_matches('.')]);
    assert_eq!(server.psql("postgres", "SELECT to_regclass('t') IS NULL"), "t", "made behind the hole");
    restore(&archiving, &directory, &["--target-time", &before]).fails_with(5);
    archiving.place.pgkeep(&["catalog", "check"]).ok();
    // While a store can't be asked, nothing is said to be lost.
    let mut r2 = r2;
    r2.proxy.go_away();
    restore(&archiving, &directory, &[]).fails_with(40);
}

#[test]
fn what_can_never_be_reached_is_refused_with_the_nearest_times() {
    let archiving = Archiving::ready();
    let early = now(&archiving.cluster);
    let report = backup(&archiving);
    archiving.archive();
    let directory = fresh();
    let run = restore(&archiving, &directory, &["--target-time", &early]).fails_with(5);
    let first = report["consistent_at"].as_str().unwrap();
    assert!(run.stderr.contains(first), "{}", run.stderr);
    let run = restore(&archiving, &directory, &["--target-time", "2199-01-01T00:00:00Z"]).fails_with(5);
    assert!(run.stderr.contains("the last transaction in the archive ended at"), "{}", run.stderr);
    restore(&archiving, &directory, &["--target-lsn", "FFFF/0"]).fails_with(5);
    restore(&archiving, &directory, &["--target-timeline", "7"]).fails_with(5);
    restore(&archiving, &directory, &["--target-time", "2026-11-25 14:02"]).fails_with(2);
    assert!(!directory.join("data").exists());
    // And without any cluster backup.
    let other = Archiving::ready();
    restore(&other, &directory, &[]).fails_with(1);
    other.place.pgkeep(&["list", "--recoverable"]).fails_with(1);
}

/// Starts the server, which may come up for readers, and waits until it is gone again without having been promoted.
fn breaks_off(server: &Cluster) {
    server.try_start();
    wait_for("the server to break off", || (!server.data().join("postmaster.pid").exists()).then_some(()));
    assert!(!server.log().contains("archive recovery complete"), "{}", server.log());
}

#[test]
fn a_store_that_goes_away_during_replay_breaks_recovery_off_and_does_not_open_for_writes() {
    let archiving = Archiving::new(&[]);
    let mut r2 = Cloud::start(Options::default());
    r2.is_r2_of(&archiving.place);
    archiving.place.unset("BACKUP_LOCAL_DIR");
    archiving.begin();
    backup(&archiving);
    archiving.cluster.psql("postgres", "CREATE TABLE t (n int)");
    for n in 0..6 {
        archiving.cluster.psql("postgres", &format!("INSERT INTO t VALUES ({n})"));
        archiving.archive();
    }
    let directory = fresh();
    restore(&archiving, &directory, &[]).ok();
    let server = Cluster::around(directory, archiving.cluster.bindir.clone());
    r2.proxy.fail(Rule::new(Fault::Reset).on("GET", "/wal/").from(4));
    breaks_off(&server);
    assert!(server.log().contains("restore"), "{}", server.log());
    r2.proxy.heal();
    r2.proxy.go_away();
    breaks_off(&server);
    r2.proxy.come_back();
    server.start_again();
    until_promoted(&server);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "6");
}

#[test]
fn tablespaces_come_back_where_they_were_or_where_they_are_put_and_pg_wal_may_be_a_link() {
    let outside = base().join(format!("outside{}", unique()));
    fs::create_dir(&outside).unwrap();
    set_mode(&outside, 0o755);
    give(&outside);
    let directory = |name: &str| {
        let path = outside.join(name);
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o700);
        give(&path);
        path
    };
    let wal = directory("wal");
    let cluster = Cluster::made_with(
        &["--wal-segsize=1", "--waldir", wal.to_str().unwrap()],
        &[("archive_mode", "on"), ("archive_command", "/bin/false")],
    );
    let archiving = Archiving::on(cluster);
    archiving.begin();
    for name in ["one", "two"] {
        let path = directory(name);
        archiving
            .cluster
            .psql("postgres", &format!("CREATE TABLESPACE {name} LOCATION '{}'", path.display()));
        let table =
            format!("CREATE TABLE in_{name} TABLESPACE {name} AS SELECT generate_series(1, 5000) AS n");
        archiving.cluster.psql("postgres", &table);
    }
    backup(&archiving);
    archiving.cluster.psql("postgres", "INSERT INTO in_one VALUES (0); INSERT INTO in_two VALUES (0)");
    archiving.archive();
    let place = fresh();
    let refused = restore(&archiving, &place, &[]).fails_with(5);
    assert!(refused.stderr.contains("--tablespace"), "the original's are in use: {}", refused.stderr);
    let moved = |name: &str| format!("{}={}", outside.join(name).display(), place.join(name).display());
    let (one, two) = (moved("one"), moved("two"));
    restore(&archiving, &place, &["--tablespace", &one, "--tablespace", "/nowhere=/x"]).fails_with(2);
    restore(&archiving, &place, &["--tablespace", &one, "--tablespace", &two]).ok();
    let verified =
        run(ordinary(archiving.cluster.bindir.join("pg_verifybackup")).arg("-n").arg(place.join("data")));
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    let server = Cluster::around(place.clone(), archiving.cluster.bindir.clone());
    server.start_again();
    until_promoted(&server);
    for name in ["one", "two"] {
        assert_eq!(server.psql("postgres", &format!("SELECT count(*) FROM in_{name}")), "5001");
        let location =
            format!("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '{name}'");
        assert_eq!(server.psql("postgres", &location), place.join(name).display().to_string());
    }
    // Over itself, in place, tablespaces and all.
    server.shut_down();
    let tablespaces = ["--tablespace", &one, "--tablespace", &two];
    restore(&archiving, &place, &[&tablespaces[..], &["--force"]].concat()).fails_with(5);
    restore(&archiving, &place, &[&tablespaces[..], &["--force", "--yes"]].concat()).ok();
    // The settings of the socket went with what was there.
    let server_again = Cluster::around(place, archiving.cluster.bindir.clone());
    server_again.start_again();
    until_promoted(&server_again);
    assert_eq!(server_again.psql("postgres", "SELECT count(*) FROM in_two"), "5001");
    server_again.shut_down();
    std::mem::forget(server_again);
}

#[test]
fn a_damaged_page_is_named_and_the_backup_is_kept() {
    let cluster = Cluster::made_with(
        &["--wal-segsize=1", "--data-checksums"],
        &[("archive_mode", "on"), ("archive_command", "/bin/false")],
    );
    let archiving = Archiving::on(cluster);
    archiving.begin();
    archiving
        .cluster
        .psql("postgres", "CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 5000) n");
    let clean = archiving.place.pgkeep(&["backup", "cluster", "--fast"]).ok();
    assert!(!clean.stdout.contains("checksum"), "{}", clean.stdout);
    let file = archiving.cluster.psql("postgres", "SELECT pg_relation_filepath('t')");
    archiving.cluster.shut_down();
    let relation = fs::OpenOptions::new().write(true).open(archiving.cluster.data().join(&file)).unwrap();
    relation.write_all_at(b"rot", 7 * 8192 + 4000).unwrap();
    // Garbage, its LSN too; and a header of zeroes over rows.
    relation.write_all_at(&[0xA5; 8192], 9 * 8192).unwrap();
    relation.write_all_at(&[0; 24], 11 * 8192).unwrap();
    drop(relation);
    archiving.cluster.start_again();
    let run = archiving.place.pgkeep(&["--output", "json", "backup", "cluster", "--fast"]).ended_with(4);
    let report = run.json();
    assert_eq!(report["damaged_pages"], serde_json::json!([{ "file": file, "blocks": [7, 9, 11] }]));
    let alerts = archiving.place.catalog("SELECT alert_type, severity FROM alerts");
    assert_eq!(alerts, [["damaged-pages", "CRITICAL"]]);
    let id = report["id"].as_str().unwrap();
    let shown = archiving.place.pgkeep(&["show", id]).ok().stdout;
    assert!(shown.contains(&format!("damaged: {file}, page 7, 9, 11\n")), "{shown}");
    let is_there = archiving.place.backups().iter().any(|path| path.ends_with(id));
    assert!(is_there, "{:?}", archiving.place.backups());
    archiving.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn a_table_of_1_gb_that_is_truncated_and_vacuumed_while_it_is_read_comes_back_whole() {
    let archiving = Archiving::new(&[("autovacuum", "off"), ("max_wal_size", "4GB")]);
    archiving.begin();
    // So that reading takes a while.
    archiving.place.set("BACKUP_COMPRESSION", "zstd:19");
    let psql = |sql: &str| archiving.cluster.psql("postgres", sql);
    psql("CREATE TABLE steps (at pg_lsn); CREATE TABLE t (n int, text text)");
    let fill = |rows: u32| {
        format!("INSERT INTO t SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, {rows}) n")
    };
    psql(&fill(1_050_000));
    psql("CREATE INDEX ON t (n)");
    let size: u64 = psql("SELECT pg_relation_size('t')").parse().unwrap();
    assert!(size > 1 << 30, "{size}");
    let running =
        archiving.place.start(&[], &["--output", "json", "backup", "cluster", "--fast", "--jobs", "1"]);
    let in_backup_mode = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_tablespace_location%' \
                          AND state = 'idle' AND pid <> pg_backend_pid()";
    wait_for("the backup to read", || (psql(in_backup_mode) != "0").then_some(()));
    // In the middle of the table, and until all of this is done.
    std::thread::sleep(Duration::from_millis(700));
    running.signal(Signal::STOP);
    for sql in [
        "DELETE FROM t WHERE n > 900000",
        // Gives the end of the file back.
        "VACUUM t",
        "INSERT INTO steps SELECT pg_current_wal_insert_lsn()",
        "TRUNCATE t",
        &fill(60_000),
        "DELETE FROM t WHERE n % 3 = 0",
        "VACUUM t",
        "UPDATE t SET text = 'x' WHERE n % 5 = 0",
        "INSERT INTO steps SELECT pg_current_wal_insert_lsn()",
    ] {
        psql(sql);
    }
    running.signal(Signal::CONT);
    let report = running.wait().ok().json();
    let stop = report["wal"]["stop_lsn"].as_str().unwrap();
    let during = psql(&format!("SELECT count(*) FROM steps WHERE at < '{stop}'"));
    assert_eq!(during, "2", "the backup was over before the table was cut off");
    let expected = psql("SELECT count(*), sum(hashtext(text)::bigint) FROM t");
    archiving.archive();
    let server = recover(&archiving, &[]);
    assert_eq!(server.psql("postgres", "SELECT count(*), sum(hashtext(text)::bigint) FROM t"), expected);
    server.psql("postgres", "CREATE EXTENSION amcheck");
    let checked = run(server.client("pg_amcheck").args(["-d", "postgres", "--heapallindexed"]));
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
}

#[test]
fn a_standby_is_backed_up_and_made() {
    let archiving = Archiving::ready();
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    backup(&archiving);
    archiving.archive();
    // A standby out of the archive.
    let directory = fresh();
    restore(&archiving, &directory, &["--standby"]).ok();
    assert!(directory.join("data/standby.signal").exists());
    let standby = Cluster::around(directory, archiving.cluster.bindir.clone());
    standby.start_again();
    assert_eq!(standby.psql("postgres", "SELECT pg_is_in_recovery()"), "t");
    archiving.cluster.psql("postgres", "INSERT INTO t VALUES (0)");
    archiving.archive();
    for round in 0.. {
        if standby.psql("postgres", "SELECT count(*) FROM t") == "1001" {
            break;
        }
        assert!(round < 300, "it does not follow: {}", standby.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    // A backup of the standby; its primary goes on archiving.
    let place = Place::on(&standby);
    for name in ["BACKUP_LOCAL_DIR", "BACKUP_ENCRYPTION_KEY"] {
        place.set(name, &archiving.place.setting(name));
    }
    place.init();
    let running = place.start(&[], &["--output", "json", "backup", "cluster", "--fast"]);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(500));
        archiving.archive();
    }
    let report = running.wait().ok().json();
    archiving.place.pgkeep(&["catalog", "rebuild"]).ok();
    let id = report["id"].as_str().unwrap();
    let directory = fresh();
    let data = directory.join("data");
    archiving.place.pgkeep(&["restore", id, "--to-dir", data.to_str().unwrap()]).ok();
    let server = Cluster::around(directory, archiving.cluster.bindir.clone());
    server.start_again();
    until_promoted(&server);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "1001");
}

#[test]
fn a_backup_that_is_cut_off_leaves_the_server_out_of_backup_mode_and_nothing_behind() {
    let archiving = Archiving::ready();
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    for step in ["ClusterModeBegun", "ClusterFilesRead", "ClusterArchived", "BackupVolumesStored"] {
        for how in ["kill", "int", "fail"] {
            let run = stopped_at(&archiving.place, &["backup", "cluster", "--fast"], step, how);
            // A signal that comes when nothing is left to be broken off changes nothing any more.
            assert!(run.code != 0 || how == "int", "{step}:{how}");
            let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgkeep%'";
            for round in 0.. {
                if archiving.cluster.psql("postgres", sessions) == "0" {
                    break;
                }
                assert!(round < 100, "{step}:{how}: a session is left");
                std::thread::sleep(Duration::from_millis(50));
            }
            let next = archiving.place.pgkeep(&["backup", "cluster", "--fast"]).ok();
            assert!(!next.stderr.contains("warning"), "{step}:{how}: {}", next.stderr);
            let backups = archiving.place.backups();
            for backup in &backups {
                assert!(backup.join("manifest").exists(), "{step}:{how}: {}", backup.display());
            }
        }
    }
}

#[test]
fn a_cluster_backup_needs_an_archive_and_says_who_is_late() {
    let without = Cluster::own(&[]);
    let place = Place::on(&without);
    place.init();
    let run = place.pgkeep(&["backup", "cluster"]).fails_with(30);
    assert!(run.stderr.contains("archive_mode is off"), "{}", run.stderr);
    let archiving = Archiving::new(&[]);
    archiving.place.init();
    archiving.place.set("BACKUP_ARCHIVE_TIMEOUT", "2s");
    let run = archiving.place.pgkeep(&["backup", "cluster", "--fast"]).fails_with(30);
    assert!(run.stderr.contains("archive_command fails at"), "{}", run.stderr);
    assert!(archiving.place.backups().is_empty());
}

//! Cluster backups of servers that are not as usual, and what changes while they are read.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use crate::pitr::{backup, fresh, recover, restore, until_promoted};
use crate::support::faults::wait_for;
use crate::support::{Archiving, Cluster, Place, ordinary, run};

#[test]
fn a_relation_that_is_dropped_between_listing_and_reading_is_left_out_and_the_rest_is_whole() {
    let archiving = Archiving::new(&[("autovacuum", "off"), ("max_wal_size", "2GB")]);
    archiving.begin();
    // So that reading takes a while.
    archiving.place.set("BACKUP_COMPRESSION", "zstd:19");
    let psql = |sql: &str| archiving.cluster.psql("postgres", sql);
    let make = |from: u32, to: u32| {
        for number in from..to {
            psql(&format!("CREATE TABLE small_{number} AS SELECT generate_series(1, 100) AS n"));
        }
    };
    make(0, 20);
    psql("CREATE TABLE large AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 150000) n");
    make(20, 40);
    psql("CHECKPOINT");
    let sql = "SELECT string_agg(pg_relation_filepath(oid), ' ') FROM pg_class WHERE relname LIKE 'small_%'";
    let listed: BTreeSet<String> = psql(sql).split(' ').map(ToOwned::to_owned).collect();
    assert_eq!(listed.len(), 40);
    let running = archiving.place.start(&[], &["--output", "json", "backup", "cluster", "--fast", "-j", "1"]);
    let in_backup_mode = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_tablespace_location%' \
                          AND state = 'idle' AND pid <> pg_backend_pid()";
    wait_for("the backup to read", || (psql(in_backup_mode) != "0").then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    running.signal(Signal::STOP);
    for number in 1..40 {
        psql(&format!("DROP TABLE small_{number}"));
    }
    // Only now the files go.
    psql("CHECKPOINT");
    running.signal(Signal::CONT);
    running.wait().ok();
    let expected = psql("SELECT count(*), sum(hashtext(t)::bigint) FROM large");
    archiving.archive();
    let server = recover(&archiving, &[]);
    let manifest = std::fs::read_to_string(server.data().join("backup_manifest")).unwrap();
    let is_read = |path: &&String| manifest.contains(&format!("\"{path}\""));
    assert!(!listed.iter().all(|path| is_read(&path)), "all had been read before they were dropped");
    assert_eq!(server.psql("postgres", "SELECT count(*), sum(hashtext(t)::bigint) FROM large"), expected);
    let left = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relname LIKE 'small_%'";
    assert_eq!(server.psql("postgres", left), "small_0");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM small_0"), "100");
    server.psql("postgres", "CREATE EXTENSION amcheck");
    let checked = run(server.client("pg_amcheck").args(["-d", "postgres", "--heapallindexed"]));
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
}

#[test]
fn a_standby_that_streams_is_backed_up() {
    let archiving = Archiving::ready();
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    backup(&archiving);
    archiving.archive();
    let directory = fresh();
    restore(&archiving, &directory, &["--standby"]).ok();
    let standby = Cluster::around(directory, archiving.cluster.bindir.clone());
    let file = standby.data().join("postgresql.auto.conf");
    let mut settings = std::fs::read_to_string(&file).unwrap();
    let primary = format!("host={} port=5432 user=postgres", archiving.cluster.socket_dir.display());
    settings.extend(["primary_conninfo = '", &primary, "'\n"]);
    std::fs::write(&file, settings).unwrap();
    standby.start_again();
    let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    wait_for("the standby to stream", || {
        (archiving.cluster.psql("postgres", streaming) == "1").then_some(())
    });
    // Never archived before the backup is begun: it comes through the stream alone.
    archiving.cluster.psql("postgres", "INSERT INTO t VALUES (0)");
    wait_for("the row", || (standby.psql("postgres", "SELECT count(*) FROM t") == "1001").then_some(()));
    let place = Place::on(&standby);
    for name in ["BACKUP_LOCAL_DIR", "BACKUP_ENCRYPTION_KEY"] {
        place.set(name, &archiving.place.setting(name));
    }
    place.init();
    let mut running = place.start(&[], &["--output", "json", "backup", "cluster", "--fast"]);
    while running.is_running() {
        std::thread::sleep(Duration::from_millis(300));
        archiving.archive();
    }
    let report = running.wait().ok().json();
    archiving.place.pgkeep(&["catalog", "rebuild"]).ok();
    let directory = fresh();
    let data = directory.join("data");
    let id = report["id"].as_str().unwrap();
    archiving.place.pgkeep(&["restore", id, "--to-dir", data.to_str().unwrap()]).ok();
    let server = Cluster::around(directory, archiving.cluster.bindir.clone());
    server.start_again();
    until_promoted(&server);
    // What belongs to the source does not follow into the copy: only the standby itself streams.
    assert_eq!(archiving.cluster.psql("postgres", streaming), "1");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "1001");
}

#[test]
fn the_control_file_that_is_restored_is_that_of_the_source() {
    let archiving = Archiving::ready();
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    let report = backup(&archiving);
    let directory = fresh();
    restore(&archiving, &directory, &["--mode", "full"]).ok();
    let told = |data: &std::path::Path| -> Vec<(String, String)> {
        let mut tool = ordinary(archiving.cluster.bindir.join("pg_controldata"));
        let told = run(tool.env("LC_ALL", "C.UTF-8").arg("-D").arg(data)).ok().stdout;
        let line = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        told.lines().filter_map(line).collect()
    };
    let (source, restored) = (told(archiving.cluster.data()), told(&directory.join("data")));
    assert_eq!(source.len(), restored.len());
    // Checkpoints go on in the source; all else is the same.
    let changes = |name: &str| {
        ["Latest checkpoint", "pg_control last modified", "Time of latest checkpoint", "Minimum recovery"]
            .iter()
            .any(|word| name.starts_with(word))
    };
    for (one, other) in source.iter().zip(&restored) {
        assert!(one == other || (one.0 == other.0 && changes(&one.0)), "{one:?} {other:?}");
    }
    let value = |name: &str| &restored.iter().find(|(found, _)| found == name).unwrap().1;
    assert_eq!(value("Database cluster state"), "in production");
    let lsn = |text: &str| text.parse::<pgkeep::model::Lsn>().unwrap();
    let redo = lsn(value("Latest checkpoint's REDO location"));
    let wal = &report["wal"];
    assert!(redo >= lsn(wal["start_lsn"].as_str().unwrap()), "{redo} {wal}");
    assert!(redo <= lsn(wal["stop_lsn"].as_str().unwrap()), "{redo} {wal}");
}

#[test]
fn replay_is_followed_with_its_position_the_time_reached_and_segments_a_second() {
    let archiving = Archiving::ready();
    backup(&archiving);
    archiving.cluster.psql("postgres", "CREATE TABLE t (n int)");
    // Enough for several looks.
    archiving.fill_segments(150);
    archiving.archive();
    let directory = fresh();
    let data = directory.join("data");
    let arguments =
        ["-v", "restore", "latest", "--to-dir", data.to_str().unwrap(), "--start", "--port", "5434"];
    let run = archiving.place.pgkeep(&arguments).ok();
    // Takes the server down with it.
    let _server = Cluster::around(directory, archiving.cluster.bindir.clone());
    let line =
        regex::Regex::new(r"replay: at [0-9A-F]+/[0-9A-F]+, 20[0-9T:.-]+Z, [0-9.]+ segments/s").unwrap();
    assert!(line.is_match(&run.stderr), "{}", run.stderr);
}

#[test]
fn a_server_with_too_little_wal_is_refused_and_told_what_to_set() {
    let cluster = Cluster::own(&[("wal_level", "minimal"), ("max_wal_senders", "0")]);
    let place = Place::on(&cluster);
    let init = place.pgkeep(&["init"]).ok();
    assert!(init.stdout.contains("archive_mode: off (wal_level is minimal)"), "{}", init.stdout);
    let run = place.pgkeep(&["backup", "cluster"]).fails_with(30);
    insta::assert_snapshot!(run.message());
    assert_eq!(
        place.catalog("SELECT command, outcome FROM runs WHERE command <> 'init'"),
        [["backup cluster", "failed"]]
    );
}

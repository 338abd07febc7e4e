//! The catalog as a whole: what it refuses, what it keeps, who may write at the same time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod history;
mod rows;
mod telling;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use chrono::TimeDelta;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::model::{
    BackupId, BackupKind, ClusterName, Codec, Digest, RunId, StoreName, Timestamp, parse_timestamp,
};
use crate::system::caller::Caller;

const IMPATIENT: Options = Options { busy_timeout: Duration::from_millis(100), durable: true };

fn place() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("catalog.sqlite");
    (place, path)
}

fn fresh() -> (TempDir, Catalog) {
    let (place, path) = place();
    (place, Catalog::create(&path).unwrap())
}

fn at(seconds: i64) -> Timestamp {
    parse_timestamp("2026-11-22T02:00:00.250Z").unwrap() + TimeDelta::seconds(seconds)
}

fn fault(error: &anyhow::Error) -> &Fault {
    error.downcast_ref().expect("an error with a kind")
}

fn kind<T: std::fmt::Debug>(result: anyhow::Result<T>) -> Kind {
    fault(&result.unwrap_err()).kind
}

fn caller() -> Caller {
    Caller {
        user: "postgres".to_owned(),
        sudo_user: Some("ada".to_owned()),
        host: "db1".to_owned(),
        terminal: "none".to_owned(),
    }
}

fn begin_run(catalog: &Catalog, number: u32) -> anyhow::Result<RunId> {
    let id = RunId::new(number);
    catalog.runs().begin(&NewRun {
        id: id.clone(),
        command: "backup database".to_owned(),
        arguments: "shop".to_owned(),
        caller: caller(),
        pid: 4711,
        scratch_directory: Some("/scratch".to_owned()),
        staging_directory: Some("/store/.staging".to_owned()),
        priority: None,
        job_id: None,
        started_at: at(i64::from(number)),
    })?;
    Ok(id)
}

fn id(number: u32) -> BackupId {
    BackupId::new(at(i64::from(number)), BackupKind::Database, number)
}

fn backup(number: u32, database: &str) -> BackupRow {
    BackupRow {
        id: id(number),
        kind: BackupKind::Database,
        database: Some(database.to_owned()),
        tenant_id: Some("t1".to_owned()),
        filename: format!("main/backups/{}", id(number)),
        status: BackupStatus::Complete,
        size_bytes: 1000,
        original_size_bytes: 9000,
        compressed_size_bytes: 900,
        checksum: Digest::from_bytes([7; 32]),
        local_path: Some("/store/main".to_owned()),
        r2_path: Some("r2".to_owned()),
        b2_path: Some("b2".to_owned()),
        parent: Some(id(99)),
        codec: Codec::Zstd(1),
        rows: Some(12),
        entries: 3,
        postgres_version: Some("15.18".to_owned()),
        system_identifier: Some("7443245234523452345".to_owned()),
        format_version: 1,
        pgkeep_version: "0.1.0".to_owned(),
        run_id: None,
        started_at: at(i64::from(number)),
        finished_at: at(i64::from(number) + 5),
        seconds: 5.0,
        consistent_at: None,
        before_restore: false,
        pin: None,
        wal: None,
    }
}

fn copy(number: u32, object: &str, state: CopyState) -> CopyRow {
    CopyRow {
        backup_id: id(number),
        object: object.to_owned(),
        store: StoreName::Local,
        size_bytes: 500,
        sha256: Digest::from_bytes([9; 32]),
        state,
        seen_at: None,
        proven_at: None,
        proven_how: None,
        note: None,
    }
}

fn key(number: u32, object: &str) -> CopyKey {
    CopyKey { backup_id: id(number), object: object.to_owned(), store: StoreName::Local }
}

fn new_restore() -> NewRestore {
    NewRestore {
        run_id: None,
        backup_id: id(1),
        purpose: Purpose::Restore,
        store: None,
        initiated_by: "ada".to_owned(),
        tenant_ids: Some(vec!["t1".to_owned(), "t\"2".to_owned()]),
        mode: RestoreMode::Full,
        target_timestamp: Some(at(7)),
        source_database: Some("shop".to_owned()),
        target_database: Some("shop2".to_owned()),
        target_directory: None,
        started_at: at(0),
    }
}

const PLACES: RestorePlaces<'static> =
    RestorePlaces { system_identifier: Some(u64::MAX), staging: "shop_new", previous: Some("shop_old") };

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn end_as(state: RestoreState) -> RestoreEnd {
    RestoreEnd { state, message: None, rows: None, checks: None, at: at(61) }
}

#[test]
fn a_catalog_is_made_private_and_making_it_again_changes_nothing() {
    let (_place, path) = place();
    let catalog = Catalog::create(&path).unwrap();
    catalog.backups().record(&backup(1, "shop"), &[]).unwrap();
    for file in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
        let mode = fs::metadata(path.with_file_name(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let again = Catalog::create(&path).unwrap();
    assert!(again.backups().get(&id(1)).unwrap().is_some());
    assert_eq!(again.check().unwrap(), Vec::<String>::new());
}

#[test]
fn every_connection_is_durable_and_checks_references() {
    let (_place, catalog) = fresh();
    let catalog = Catalog::open(catalog.path()).unwrap();
    let connection = catalog.connection();
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((number("synchronous"), number("foreign_keys")), (2, 1));
    assert_eq!(number("busy_timeout"), 30_000);
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn where_no_catalog_is_init_is_named() {
    let (_place, path) = place();
    let error = Catalog::open(&path).unwrap_err();
    assert_eq!(fault(&error).kind, Kind::NotInitialised);
    assert!(fault(&error).hint.as_ref().unwrap().contains("pgkeep init"));
    // What an init leaves that is killed between making the file and filling it.
    fs::write(&path, "").unwrap();
    assert_eq!(kind(Catalog::open(&path)), Kind::NotInitialised);
    Catalog::create(&path).unwrap();
    assert!(Catalog::open(&path).is_ok());
    assert_eq!(kind(Catalog::create(Path::new("/nowhere/at/all/catalog.sqlite"))), Kind::Store);
}

#[test]
fn a_catalog_of_a_newer_version_is_refused_with_both_versions() {
    let (_place, catalog) = fresh();
    catalog.connection().pragma_update(None, "user_version", 99).unwrap();
    for result in [Catalog::open(catalog.path()), Catalog::create(catalog.path())] {
        let error = result.unwrap_err();
        assert_eq!(fault(&error).kind, Kind::NotInitialised);
        assert!(error.to_string().contains("schema version 99"), "{error}");
        assert!(error.to_string().contains("up to 8"), "{error}");
        assert!(fault(&error).hint.as_ref().unwrap().contains("newer pgkeep"));
    }
}

/// A catalog as the first version of pgkeep made it, with a run, a backup and a restore that have not ended well.
fn of_the_first_schema(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(include_str!("migrations/001_first.sql")).unwrap();
    connection
        .execute_batch(
            "PRAGMA application_id = 1885825904; PRAGMA user_version = 1;
             INSERT INTO runs (id, command, arguments, user, host, terminal, pid, pgkeep_version, started_at)
               VALUES ('00000001', 'restore', '', 'ada', 'db1', 'none', 1, '0.1.0', '2026-11-22T02:00:00.000Z');
             INSERT INTO restore_log (run_id, backup_id, initiated_by, restore_mode, target_database,
                                      staging_database, started_at)
               VALUES ('00000001', '20261122T010000Z-database-00000001', 'ada', 'full', 'shop', 'shop_restore_1',
                       '2026-11-22T02:00:00.000Z');
             INSERT INTO backups (id, type, filename, status, size_bytes, original_size_bytes,
                                  compressed_size_bytes, checksum, codec, entries, format_version, pgkeep_version,
                                  started_at, finished_at, seconds)
               VALUES ('20261122T010000Z-database-00000001', 'database',
                       'first/backups/20261122T010000Z-database-00000001/', 'complete', 1, 1, 1,
                       '0000000000000000000000000000000000000000000000000000000000000000', 'zstd:5', 1, 1, '0.1.0',
                       '2026-11-22T01:00:00.000Z', '2026-11-22T01:00:01.000Z', 1.0)",
        )
        .unwrap();
}

#[test]
fn a_catalog_of_the_first_schema_is_brought_up_to_date_and_loses_nothing() {
    let (_place, path) = place();
    of_the_first_schema(&path);
    let catalog = Catalog::open(&path).unwrap();
    let version: i64 =
        catalog.connection().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 8);
    assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
    let run = catalog.runs().unfinished().unwrap().remove(0);
    assert_eq!((run.scratch_directory, run.staging_directory), (None, None));
    let restore = catalog.restores().unsettled().unwrap().remove(0);
    assert_eq!(restore.staging_database.as_deref(), Some("shop_restore_1"));
    assert_eq!((restore.system_identifier, restore.database_oid), (None, None));
    assert_eq!(catalog.backups().list(&BackupFilter::default()).unwrap().len(), 1);
    // Whose backups they are, it knows by their names.
    catalog.take_for(&cluster("first")).unwrap();
    assert_eq!(kind(catalog.take_for(&cluster("second"))), Kind::Refused);
    // And it is not done twice.
    drop(catalog);
    let again = Catalog::open(&path).unwrap();
    again.restores().set_places(restore.id, PLACES).unwrap();
    again.restores().set_database(restore.id, 16_384).unwrap();
}

#[test]
fn a_catalog_belongs_to_one_cluster_from_the_first_backup_on() {
    let (_place, catalog) = fresh();
    for name in ["one", "other", "main"] {
        catalog.refuse_another_cluster(&cluster(name)).unwrap();
        catalog.take_for(&cluster(name)).unwrap();
    }
    // What a run may have stored that has not ended counts as well.
    let run = begin_run(&catalog, 1).unwrap();
    catalog.take_for(&cluster("main")).unwrap();
    catalog.runs().set_subject(&run, &[&id(1)]).unwrap();
    assert_eq!(kind(catalog.take_for(&cluster("other"))), Kind::Refused);
    assert!(catalog.runs().mark_died(&run).unwrap());
    catalog.take_for(&cluster("other")).unwrap();
    catalog.take_for(&cluster("main")).unwrap();

    catalog.backups().record(&backup(1, "shop"), &[]).unwrap();
    for refused in [catalog.take_for(&cluster("other")), catalog.refuse_another_cluster(&cluster("other"))] {
        let error = refused.unwrap_err();
        assert_eq!(fault(&error).kind, Kind::Refused);
        assert!(
            error.to_string().contains("is that of the cluster main, and BACKUP_CLUSTER is other"),
            "{error}"
        );
        assert!(fault(&error).hint.as_ref().unwrap().contains("BACKUP_CLUSTER=main"));
    }
    catalog.take_for(&cluster("main")).unwrap();
    catalog.refuse_another_cluster(&cluster("main")).unwrap();
}

#[test]
fn another_programs_file_is_refused_and_left_as_it_is() {
    let (_place, path) = place();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    let before = fs::read(&path).unwrap();
    assert_eq!(kind(Catalog::open(&path)), Kind::Refused);
    assert_eq!(kind(Catalog::create(&path)), Kind::Refused);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn garbage_in_place_of_a_catalog_is_damage_and_rebuild_is_named() {
    let (_place, path) = place();
    fs::write(&path, "this is not a catalog at all. ".repeat(500)).unwrap();
    for result in [Catalog::open(&path), Catalog::create(&path)] {
        let error = result.unwrap_err();
        assert_eq!(fault(&error).kind, Kind::Damaged, "{error:#}");
        assert!(fault(&error).hint.as_ref().unwrap().contains("pgkeep catalog rebuild"));
    }
}

#[test]
fn a_catalog_that_lost_its_end_is_damage() {
    let (_place, catalog) = fresh();
    for number in 0..200 {
        catalog
            .backups()
            .record(&backup(number, "shop"), &[copy(number, "manifest", CopyState::Good)])
            .unwrap();
    }
    let path = catalog.path().to_owned();
    drop(catalog);
    let length = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    let error = Catalog::open(&path).and_then(|catalog| catalog.backups().list(&BackupFilter::default()));
    assert_eq!(kind(error), Kind::Damaged);
}

#[test]
fn a_check_finds_broken_pages_and_dangling_references() {
    let (_place, catalog) = fresh();
    for number in 0..200 {
        catalog.backups().record(&backup(number, "shop"), &[]).unwrap();
    }
    {
        let connection = catalog.connection();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        connection.execute("UPDATE backups SET run_id = 'nobody' WHERE id = ?", [id(3).as_str()]).unwrap();
    }
    assert_eq!(catalog.check().unwrap(), ["a row of backups speaks of something that is not in runs"]);

    let path = catalog.path().to_owned();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'backups'";
    let page: i64 = catalog.connection().query_row(sql, [], |row| row.get(0)).unwrap();
    drop(catalog);
    let mut bytes = fs::read(&path).unwrap();
    let page = usize::try_from(page - 1).unwrap() * 4096;
    bytes[page..page + 4096].fill(0xA5);
    fs::write(&path, bytes).unwrap();
    let found = Catalog::open(&path).unwrap().check().unwrap();
    assert!(found.len() > 1 || found[0].contains("damaged"), "{found:?}");
}

#[test]
fn a_value_that_pgkeep_did_not_write_is_damage() {
    let (_place, catalog) = fresh();
    catalog.backups().record(&backup(1, "shop"), &[]).unwrap();
    catalog.connection().execute("UPDATE backups SET codec = 'lz4:1'", []).unwrap();
    let error = catalog.backups().get(&id(1)).unwrap_err();
    assert_eq!(fault(&error).kind, Kind::Damaged);
    assert!(format!("{error:#}").contains("lz4:1"), "{error:#}");
}

#[test]
fn a_catalog_that_another_process_holds_is_locked_after_the_timeout() {
    let (_place, catalog) = fresh();
    let holder = Connection::open(catalog.path()).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let other = Catalog::open_with(catalog.path(), IMPATIENT).unwrap();
    // Reading goes on beside the writer.
    assert!(other.runs().recent(5).unwrap().is_empty());
    let error = begin_run(&other, 1).unwrap_err();
    assert_eq!(fault(&error).kind, Kind::Locked, "{error:#}");
    holder.execute_batch("ROLLBACK").unwrap();
    begin_run(&other, 1).unwrap();
}

#[test]
fn a_full_disk_and_a_read_only_one_are_faults_of_the_store_and_change_nothing() {
    let (_place, catalog) = fresh();
    let pages: i64 = catalog.connection().pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    catalog.connection().pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    let copies: Vec<CopyRow> =
        (0..500).map(|number| copy(1, &format!("data.{number:05}"), CopyState::Good)).collect();
    let error = catalog.backups().record(&backup(1, "shop"), &copies).unwrap_err();
    assert_eq!(fault(&error).kind, Kind::Store, "{error:#}");
    assert!(error.to_string().contains("no space is left"), "{error:#}");
    assert!(format!("{error:#}").ends_with(": database or disk is full (SQLite error 13)"), "{error:#}");
    assert!(catalog.backups().get(&id(1)).unwrap().is_none());

    catalog.connection().pragma_update(None, "query_only", true).unwrap();
    let error = begin_run(&catalog, 1).unwrap_err();
    assert_eq!(fault(&error).kind, Kind::Store, "{error:#}");
}

#[test]
fn eight_writers_at_once_all_get_their_turn() {
    let (_place, path) = place();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let path = &path;
            scope.spawn(move || {
                // They also make it at the same time.
                let catalog = Catalog::create(path).unwrap();
                for number in 0..50 {
                    let run = begin_run(&catalog, thread * 1000 + number).unwrap();
                    assert!(catalog.runs().get(&run).unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(Catalog::open(&path).unwrap().runs().recent(1000).unwrap().len(), 400);
}

#[test]
fn a_catalog_that_is_being_made_is_never_taken_for_something_else() {
    for _ in 0..60 {
        let (_place, path) = place();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| Catalog::create(&path).unwrap());
                scope.spawn(|| match Catalog::open(&path) {
                    Ok(_) => {}
                    Err(error) => assert_eq!(fault(&error).kind, Kind::NotInitialised, "{error:#}"),
                });
            }
        });
        assert!(Catalog::open(&path).is_ok());
    }
}

#[test]
fn threads_may_share_one_catalog() {
    let (_place, catalog) = fresh();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let catalog = &catalog;
            scope.spawn(move || (0..10).for_each(|n| drop(begin_run(catalog, thread * 100 + n).unwrap())));
        }
    });
    assert_eq!(catalog.runs().recent(1000).unwrap().len(), 40);
}

//! The catalog as a whole: what it refuses, what it keeps, who may write at the same time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

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
        assert!(error.to_string().contains("up to 7"), "{error}");
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
    assert_eq!(version, 7);
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

#[test]
fn a_run_is_written_down_from_begin_to_end() {
    let (_place, catalog) = fresh();
    let (one, two) = (begin_run(&catalog, 1).unwrap(), begin_run(&catalog, 2).unwrap());
    catalog.runs().set_subject(&one, &[&id(1)]).unwrap();
    let unfinished = catalog.runs().unfinished().unwrap();
    assert_eq!(unfinished.iter().map(|run| &run.id).collect::<Vec<_>>(), [&one, &two]);

    catalog.runs().end(&one, RunOutcome::Failed, 30, Some("server gone"), at(3)).unwrap();
    let run = catalog.runs().get(&one).unwrap().unwrap();
    assert_eq!((run.outcome, run.exit_code, run.seconds), (RunOutcome::Failed, Some(30), Some(2.0)));
    assert_eq!((run.message.as_deref(), run.ended_at), (Some("server gone"), Some(at(3))));
    assert_eq!((run.user.as_str(), run.sudo_user.as_deref(), run.pid), ("postgres", Some("ada"), 4711));
    assert_eq!(run.subject.as_deref(), Some(id(1).as_str()));
    assert_eq!(run.scratch_directory.as_deref(), Some("/scratch"));
    assert_eq!(run.staging_directory.as_deref(), Some("/store/.staging"));
    let json = serde_json::to_value(&run).unwrap();
    assert_eq!(json["ended_at"], "2026-11-22T02:00:03.250Z");
    assert_eq!((&json["id"], &json["outcome"]), (&"00000001".into(), &"failed".into()));

    assert!(catalog.runs().mark_died(&two).unwrap());
    assert!(!catalog.runs().mark_died(&one).unwrap());
    assert!(catalog.runs().unfinished().unwrap().is_empty());
    assert_eq!(catalog.runs().recent(1).unwrap()[0].outcome, RunOutcome::Died);
    assert_eq!(kind(catalog.runs().end(&RunId::new(9), RunOutcome::Done, 0, None, at(9))), Kind::Bug);
}

#[test]
fn a_clock_that_was_set_back_makes_no_negative_duration() {
    let (_place, catalog) = fresh();
    let run = begin_run(&catalog, 100).unwrap();
    catalog.runs().end(&run, RunOutcome::Done, 0, None, at(0)).unwrap();
    assert_eq!(catalog.runs().get(&run).unwrap().unwrap().seconds, Some(0.0));
}

#[test]
fn a_backup_is_recorded_once_and_missing_copies_are_added() {
    let (_place, catalog) = fresh();
    let mut first = backup(1, "shop");
    first.run_id = Some(begin_run(&catalog, 1).unwrap());
    catalog.backups().record(&first, &[copy(1, "manifest", CopyState::Good)]).unwrap();
    catalog.copies().prove(&[key(1, "manifest")], Proof::Read, at(9)).unwrap();

    let second = BackupRow { rows: None, run_id: None, ..backup(1, "other") };
    let copies = [copy(1, "manifest", CopyState::Owed), copy(1, "data.00000", CopyState::Owed)];
    catalog.backups().record(&second, &copies).unwrap();
    assert_eq!(catalog.backups().get(&id(1)).unwrap(), Some(first));
    let known = catalog.copies().of(&id(1)).unwrap();
    let states: Vec<_> = known.iter().map(|copy| (copy.object.as_str(), copy.state)).collect();
    assert_eq!(states, [("data.00000", CopyState::Owed), ("manifest", CopyState::Good)]);
    assert_eq!(known[1].proven_how, Some(Proof::Read));
}

#[test]
fn a_backup_of_an_unknown_run_is_not_half_recorded() {
    let (_place, catalog) = fresh();
    let orphan = BackupRow { run_id: Some(RunId::new(5)), ..backup(1, "shop") };
    assert_eq!(kind(catalog.backups().record(&orphan, &[])), Kind::Bug);
    let strange = [copy(1, "manifest", CopyState::Good), copy(2, "manifest", CopyState::Good)];
    assert_eq!(kind(catalog.backups().record(&backup(1, "shop"), &strange)), Kind::Bug);
    assert!(catalog.backups().get(&id(1)).unwrap().is_none());
}

#[test]
fn backups_are_found_by_beginning_and_listed_newest_first() {
    let (_place, catalog) = fresh();
    for (number, database) in [(1, "shop"), (3, "shop"), (2, "blog"), (4, "shop")] {
        catalog.backups().record(&backup(number, database), &[]).unwrap();
    }
    catalog.backups().set_status(&id(4), BackupStatus::Deleted).unwrap();
    catalog.backups().set_status(&id(3), BackupStatus::Deleting).unwrap();
    let ids = |rows: Vec<BackupRow>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
    let backups = catalog.backups();
    assert_eq!(ids(backups.list(&BackupFilter::default()).unwrap()), [id(2), id(1)]);
    let shop = BackupFilter { database: Some("shop"), ..BackupFilter::default() };
    assert_eq!(ids(backups.list(&shop).unwrap()), [id(1)]);
    let configs = BackupFilter { kind: Some(BackupKind::Config), ..BackupFilter::default() };
    assert!(backups.list(&configs).unwrap().is_empty());

    let newest =
        |database| backups.newest_complete(Some(BackupKind::Database), database).unwrap().map(|row| row.id);
    assert_eq!((newest(None), newest(Some("shop")), newest(Some("x"))), (Some(id(2)), Some(id(1)), None));

    assert_eq!(ids(backups.find_prefix("20261122T0200").unwrap()), [id(3), id(2), id(1)]);
    assert_eq!(ids(backups.find_prefix(id(2).as_str()).unwrap()), [id(2)]);
    // Signs that mean something to LIKE and GLOB mean nothing here.
    for none in ["%", "_", "*", "2026112%", "latest"] {
        assert!(backups.find_prefix(none).unwrap().is_empty(), "{none}");
    }
    assert_eq!(kind(backups.set_status(&id(9), BackupStatus::Deleted)), Kind::Bug);
}

#[test]
fn being_listed_proves_less_than_being_read() {
    let (_place, catalog) = fresh();
    let states = [
        ("a", CopyState::Good),
        ("b", CopyState::Damaged),
        ("c", CopyState::Missing),
        ("d", CopyState::Deleting),
    ];
    let copies: Vec<CopyRow> = states.iter().map(|(object, state)| copy(1, object, *state)).collect();
    catalog.backups().record(&backup(1, "shop"), &copies).unwrap();
    let keys = ["a", "b", "c", "d", "unknown"].map(|object| key(1, object));
    let known = || {
        let copies = catalog.copies().of(&id(1)).unwrap();
        copies.into_iter().map(|c| (c.state, c.seen_at, c.proven_at, c.proven_how)).collect::<Vec<_>>()
    };
    let (one, two) = (Some(at(1)), Some(at(2)));

    catalog.copies().prove(&keys[..1], Proof::Decrypted, at(1)).unwrap();
    catalog.copies().prove(&keys, Proof::Listed, at(2)).unwrap();
    assert_eq!(
        known(),
        [
            (CopyState::Good, two, one, Some(Proof::Decrypted)),
            (CopyState::Damaged, two, two, Some(Proof::Listed)),
            (CopyState::Good, two, two, Some(Proof::Listed)),
            (CopyState::Deleting, None, None, None),
        ]
    );
    let three = Some(at(3));
    catalog.copies().prove(&keys, Proof::Listed, at(3)).unwrap();
    assert_eq!(
        known(),
        [
            (CopyState::Good, three, one, Some(Proof::Decrypted)),
            (CopyState::Damaged, three, two, Some(Proof::Listed)),
            (CopyState::Good, three, two, Some(Proof::Listed)),
            (CopyState::Deleting, None, None, None),
        ],
        "the first time that it was listed, and the last"
    );
    catalog.copies().prove(&keys, Proof::Read, at(4)).unwrap();
    let proven = |how| (CopyState::Good, Some(at(4)), Some(at(4)), Some(how));
    let (read, decrypted) = (proven(Proof::Read), proven(Proof::Decrypted));
    // The same bytes again: what they were once found good for, they are.
    assert_eq!(known(), [decrypted, read, read, (CopyState::Deleting, None, None, None)]);
    catalog.copies().prove(&keys, Proof::Written, at(4)).unwrap();
    let written = proven(Proof::Written);
    assert_eq!(known(), [written, written, written, (CopyState::Deleting, None, None, None)], "another copy");
}

#[test]
fn a_copy_that_was_gone_and_is_listed_again_is_proven_no_more() {
    let (_place, catalog) = fresh();
    catalog.backups().record(&backup(1, "shop"), &[copy(1, "a", CopyState::Good)]).unwrap();
    let a = [key(1, "a")];
    catalog.copies().prove(&a, Proof::Restored, at(1)).unwrap();
    catalog.copies().prove(&a, Proof::Read, at(2)).unwrap();
    let known = || {
        let copy = catalog.copies().of(&id(1)).unwrap().remove(0);
        (copy.state, copy.proven_at, copy.proven_how)
    };
    assert_eq!(known(), (CopyState::Good, Some(at(2)), Some(Proof::Restored)));
    catalog.copies().set_states(&[(key(1, "a"), CopyState::Missing, "gone".to_owned())]).unwrap();
    assert_eq!(known(), (CopyState::Missing, Some(at(2)), Some(Proof::Restored)));
    catalog.copies().prove(&a, Proof::Listed, at(3)).unwrap();
    assert_eq!(known(), (CopyState::Good, Some(at(3)), Some(Proof::Listed)));
}

#[test]
fn the_proof_of_a_wal_file_grows_and_is_lost_with_the_copy() {
    let (_place, catalog) = fresh();
    let wal = catalog.wal();
    let row = WalRow {
        file: "000000010000000000000001".parse().unwrap(),
        content_sha256: "ab".repeat(32).parse().unwrap(),
        store: StoreName::R2,
        size_bytes: 9,
        state: CopyState::Good,
        stored_at: Some(at(1)),
        note: None,
    };
    wal.record(std::slice::from_ref(&row)).unwrap();
    let known = || {
        let copy = wal.provable().unwrap().remove(0);
        (copy.row.state, copy.proven_at, copy.proven_how)
    };
    assert_eq!(known(), (CopyState::Good, Some(at(1)), Some(Proof::Written)));
    wal.prove(&[&row], Proof::Decrypted, at(2)).unwrap();
    assert_eq!(known(), (CopyState::Good, Some(at(2)), Some(Proof::Decrypted)));
    assert!(wal.set_state(&row, CopyState::Damaged, Some("bits")).unwrap());
    assert_eq!(known(), (CopyState::Damaged, Some(at(2)), Some(Proof::Decrypted)));
    wal.prove(&[&row], Proof::Decrypted, at(3)).unwrap();
    assert_eq!(known(), (CopyState::Good, Some(at(3)), Some(Proof::Decrypted)));
    assert!(wal.set_state(&row, CopyState::Missing, None).unwrap());
    assert!(wal.provable().unwrap().is_empty());
    wal.found_again(&row, at(4)).unwrap();
    assert_eq!(known(), (CopyState::Good, Some(at(4)), Some(Proof::Listed)));
    // What is being deleted is of no matter to anybody who looks.
    assert!(wal.set_state(&row, CopyState::Deleting, None).unwrap());
    assert!(!wal.set_state(&row, CopyState::Missing, None).unwrap());
    wal.prove(&[&row], Proof::Decrypted, at(5)).unwrap();
    wal.found_again(&row, at(5)).unwrap();
    assert_eq!(wal.all().unwrap()[0].state, CopyState::Deleting);
}

#[test]
fn what_the_stores_hold_is_kept_by_day() {
    let (_place, catalog) = fresh();
    let day = TimeDelta::days(1);
    catalog.usage().record(&[], at(1)).unwrap();
    catalog.usage().record(&[(StoreName::Local, 10, 1), (StoreName::R2, 8, 1)], at(1)).unwrap();
    catalog.usage().record(&[(StoreName::Local, 20, 2)], at(2)).unwrap();
    catalog.usage().record(&[(StoreName::Local, 30, 3)], at(1) + day).unwrap();
    let all = catalog.usage().since("2026-11-22").unwrap();
    let all: Vec<_> = all.iter().map(|it| (it.day.as_str(), it.store, it.bytes, it.objects)).collect();
    assert_eq!(
        all,
        [
            ("2026-11-22", StoreName::Local, 20, 2),
            ("2026-11-22", StoreName::R2, 8, 1),
            ("2026-11-23", StoreName::Local, 30, 3)
        ]
    );
    assert_eq!(catalog.usage().since("2026-11-23").unwrap().len(), 1);
}

#[test]
fn the_state_of_a_copy_is_written_down_with_what_was_found() {
    let (_place, catalog) = fresh();
    catalog.backups().record(&backup(1, "shop"), &[copy(1, "data.00000", CopyState::Good)]).unwrap();
    let copies = catalog.copies();
    let found = "volume is 3 bytes short";
    let there = (key(1, "data.00000"), CopyState::Damaged, found.to_owned());
    copies.set_states(std::slice::from_ref(&there)).unwrap();
    let known = copies.of(&id(1)).unwrap().remove(0);
    assert_eq!((known.state, known.note.as_deref()), (CopyState::Damaged, Some(found)));
    let elsewhere = CopyKey { store: StoreName::B2, ..key(1, "data.00000") };
    let elsewhere = copies.set_states(&[there, (elsewhere, CopyState::Damaged, String::new())]);
    assert_eq!(kind(elsewhere), Kind::Bug);
}

#[test]
fn a_restore_is_written_down_from_begin_to_end() {
    let (_place, catalog) = fresh();
    let log = catalog.restores();
    let number = log.begin(&new_restore()).unwrap();
    let dead = log.begin(&new_restore()).unwrap();
    log.set_places(number, PLACES).unwrap();
    log.set_places(dead, PLACES).unwrap();
    log.set_database(number, u32::MAX).unwrap();
    assert_eq!(log.unfinished().unwrap().len(), 2);
    log.end(
        number,
        &RestoreEnd {
            state: RestoreState::Done,
            message: Some("fine".to_owned()),
            rows: Some(42),
            checks: Some(serde_json::json!({ "tables": 4 })),
            at: at(61),
        },
    )
    .unwrap();
    log.end(dead, &end_as(RestoreState::Died)).unwrap();
    assert!(log.unfinished().unwrap().is_empty());

    let mut known = log.recent(5).unwrap();
    let (done, died) = (known.remove(1), known.remove(0));
    assert_eq!((died.state, died.ended_at, died.seconds), (RestoreState::Died, None, None));
    assert_eq!((done.state, done.seconds, done.rows), (RestoreState::Done, Some(61.0), Some(42)));
    assert_eq!(done.tenant_ids, new_restore().tenant_ids);
    assert_eq!(done.target_timestamp, Some(at(7)));
    assert_eq!(done.staging_database, None, "it has become the one in use");
    assert_eq!(died.staging_database.as_deref(), Some("shop_new"));
    assert_eq!(done.system_identifier.as_deref(), Some("18446744073709551615"));
    assert_eq!((done.database_oid, died.database_oid), (Some(u32::MAX), None));
    assert_eq!(done.previous_database.as_deref(), Some("shop_old"));
    assert_eq!(done.checks, Some(serde_json::json!({ "tables": 4 })));
    assert_eq!(serde_json::to_value(&done).unwrap()["target_timestamp"], "2026-11-22T02:00:07.250Z");
    assert_eq!(kind(log.set_places(99, PLACES)), Kind::Bug);
    assert_eq!(kind(log.set_database(99, 1)), Kind::Bug);
    assert_eq!(kind(log.clear_staging(99)), Kind::Bug);
}

#[test]
fn a_restore_is_settled_when_it_has_ended_and_left_no_staging_database() {
    let (_place, catalog) = fresh();
    let log = catalog.restores();
    let unsettled = || log.unsettled().unwrap().into_iter().map(|restore| restore.id).collect::<Vec<_>>();
    let (failed, running) = (log.begin(&new_restore()).unwrap(), log.begin(&new_restore()).unwrap());
    log.set_places(failed, PLACES).unwrap();
    log.end(failed, &end_as(RestoreState::Failed)).unwrap();
    assert_eq!(unsettled(), [failed, running]);
    log.clear_staging(failed).unwrap();
    assert_eq!(unsettled(), [running]);
    log.end(running, &end_as(RestoreState::Done)).unwrap();
    assert!(unsettled().is_empty());
}

#[test]
fn every_word_reads_back_and_is_accepted_by_its_table() {
    fn round_trip<T: FromStr + PartialEq + std::fmt::Debug + Copy>(all: &[T], word: fn(T) -> &'static str) {
        for one in all {
            assert_eq!(word(*one).parse::<T>().ok(), Some(*one));
        }
        assert!("nonsense".parse::<T>().is_err());
    }
    round_trip(RunOutcome::ALL, RunOutcome::as_str);
    round_trip(BackupStatus::ALL, BackupStatus::as_str);
    round_trip(CopyState::ALL, CopyState::as_str);
    round_trip(Proof::ALL, Proof::as_str);
    round_trip(RestoreMode::ALL, RestoreMode::as_str);
    round_trip(RestoreState::ALL, RestoreState::as_str);

    let (_place, catalog) = fresh();
    catalog.backups().record(&backup(1, "shop"), &[copy(1, "data", CopyState::Good)]).unwrap();
    for (number, outcome) in (1..).zip(RunOutcome::ALL) {
        let run = begin_run(&catalog, number).unwrap();
        match outcome {
            RunOutcome::Running => {}
            RunOutcome::Died => assert!(catalog.runs().mark_died(&run).unwrap()),
            _ => catalog.runs().end(&run, *outcome, 0, None, at(90)).unwrap(),
        }
        assert_eq!(catalog.runs().get(&run).unwrap().unwrap().outcome, *outcome);
    }
    for status in BackupStatus::ALL {
        catalog.backups().set_status(&id(1), *status).unwrap();
        assert_eq!(catalog.backups().get(&id(1)).unwrap().unwrap().status, *status);
    }
    for how in Proof::ALL {
        catalog.copies().prove(&[key(1, "data")], *how, at(1)).unwrap();
    }
    for state in CopyState::ALL {
        catalog.copies().set_states(&[(key(1, "data"), *state, String::new())]).unwrap();
        assert_eq!(catalog.copies().of(&id(1)).unwrap()[0].state, *state);
    }
    for mode in RestoreMode::ALL {
        let number = catalog.restores().begin(&NewRestore { mode: *mode, ..new_restore() }).unwrap();
        assert_eq!(catalog.restores().recent(1).unwrap()[0].mode, *mode);
        for state in RestoreState::ALL.iter().filter(|state| **state != RestoreState::Running) {
            catalog.restores().end(number, &end_as(*state)).unwrap();
            assert_eq!(catalog.restores().recent(1).unwrap()[0].state, *state);
        }
    }
}

#[test]
fn the_last_test_of_each_database_that_passed_is_found_and_its_place_is_kept_until_it_is_gone() {
    let (_place, catalog) = fresh();
    let restores = catalog.restores();
    let test = |database: &str, state| {
        let new = NewRestore {
            purpose: Purpose::Test,
            store: Some(StoreName::R2),
            source_database: Some(database.to_owned()),
            ..new_restore()
        };
        let number = restores.begin(&new).unwrap();
        restores.set_places(number, PLACES).unwrap();
        let phases = serde_json::json!({ "load": number });
        restores.set_measured(number, &Measured { phases, bytes_fetched: 7, wal_segments: 3 }).unwrap();
        restores.end(number, &end_as(state)).unwrap();
        number
    };
    let done = RestoreState::Done;
    let [_, shop, bank] = [test("shop", done), test("shop", done), test("bank", done)];
    test("bank", RestoreState::Failed);
    let plain = restores.begin(&new_restore()).unwrap();
    restores.end(plain, &end_as(done)).unwrap();
    let found = restores.last_tests().unwrap();
    assert_eq!(found.iter().map(|it| it.id).collect::<Vec<_>>(), [bank, shop]);
    let of_bank = &found[0];
    assert_eq!(
        (of_bank.purpose, of_bank.store, of_bank.wal_segments),
        (Purpose::Test, Some(StoreName::R2), Some(3))
    );
    assert_eq!(of_bank.phases, Some(serde_json::json!({ "load": bank })));
    assert_eq!(of_bank.staging_database.as_deref(), Some("shop_new"), "dropped it is only when that is said");
    restores.clear_staging(bank).unwrap();
    assert!(restores.unsettled().unwrap().iter().all(|it| it.id != bank));
}

#[test]
fn the_history_of_another_catalog_is_taken_over_once_and_nothing_of_it_is_alive() {
    let (place, own) = fresh();
    let (_other_place, other) = fresh();
    let cluster: ClusterName = "main".parse().unwrap();
    for catalog in [&own, &other] {
        catalog.take_for(&cluster).unwrap();
    }
    assert_ne!(own.lineage().unwrap(), other.lineage().unwrap());
    assert_eq!(own.lineage().unwrap(), own.lineage().unwrap());
    // What the stores say is known already; the proof of one copy was better, another copy was damaged.
    let copies = [copy(1, "data.00000", CopyState::Good), copy(1, "manifest", CopyState::Good)];
    own.backups().record(&backup(1, "shop"), &copies).unwrap();
    own.copies().prove(&[key(1, "data.00000"), key(1, "manifest")], Proof::Listed, at(50)).unwrap();
    let running = begin_run(&other, 1).unwrap();
    let done = begin_run(&other, 2).unwrap();
    other.runs().end(&done, RunOutcome::Done, 0, None, at(9)).unwrap();
    other.backups().record(&BackupRow { run_id: Some(done.clone()), ..backup(1, "shop") }, &copies).unwrap();
    other.copies().prove(&[key(1, "data.00000")], Proof::Decrypted, at(20)).unwrap();
    other
        .copies()
        .set_states(&[(key(1, "manifest"), CopyState::Damaged, "a flipped bit".to_owned())])
        .unwrap();
    other.backups().record(&backup(2, "shop"), &[]).unwrap();
    other.backups().set_status(&id(2), BackupStatus::Deleted).unwrap();
    other.backups().record(&backup(3, "shop"), &[]).unwrap();
    let restore =
        other.restores().begin(&NewRestore { run_id: Some(running.clone()), ..new_restore() }).unwrap();
    other.restores().set_places(restore, PLACES).unwrap();
    other
        .connection()
        .execute_batch(
            "INSERT INTO alerts (alert_type, severity, message, created_at)
             VALUES ('owed', 'WARNING', 'r2 is away', '2026-11-22T02:00:00.000Z')",
        )
        .unwrap();
    let saved = place.path().join("saved.sqlite");
    other.copy_to(&saved).unwrap();

    let (taken, missing) = own.take_history(&saved).unwrap();
    assert_eq!(taken, Taken { runs: 2, restores: 1, alerts: 1, deleted: 1, proofs: 1 });
    assert_eq!(missing, [id(3)], "complete there, newer than all that is here, and not here");
    assert_eq!(own.runs().get(&running).unwrap().unwrap().outcome, RunOutcome::Died);
    assert_eq!(own.runs().get(&done).unwrap().unwrap().outcome, RunOutcome::Done);
    assert!(own.runs().unsettled().unwrap().is_empty() && own.restores().unsettled().unwrap().is_empty());
    assert_eq!(own.backups().get(&id(1)).unwrap().unwrap().run_id, Some(done));
    let known = own.copies().of(&id(1)).unwrap();
    assert_eq!((known[0].state, known[0].proven_how), (CopyState::Good, Some(Proof::Decrypted)));
    assert_eq!((known[1].state, known[1].note.as_deref()), (CopyState::Damaged, Some("a flipped bit")));
    // Again, and after the run that was alive has ended.
    let nothing = Taken { proofs: 0, ..Taken::default() };
    assert_eq!(own.take_history(&saved).unwrap().0, nothing);
    other.runs().end(&running, RunOutcome::Failed, 40, Some("no"), at(90)).unwrap();
    std::fs::remove_file(&saved).unwrap();
    other.copy_to(&saved).unwrap();
    own.take_history(&saved).unwrap();
    assert_eq!(own.runs().get(&running).unwrap().unwrap().outcome, RunOutcome::Failed);
    assert_eq!(own.check().unwrap(), Vec::<String>::new());
}

#[test]
fn the_history_of_another_cluster_or_server_is_refused_and_an_older_schema_is_brought_up_to_date() {
    let (place, own) = fresh();
    own.take_for(&"first".parse().unwrap()).unwrap();
    own.backups().record(&backup(1, "shop"), &[]).unwrap();
    let saved = place.path().join("saved.sqlite");
    of_the_first_schema(&saved);
    let (taken, _) = own.take_history(&saved).unwrap();
    assert_eq!((taken.runs, taken.restores), (1, 1));

    let (_place, other) = fresh();
    other.take_for(&"second".parse().unwrap()).unwrap();
    assert_eq!(kind(own.take_history(other.path())), Kind::Refused);
    let (_place, other) = fresh();
    other.take_for(&"first".parse().unwrap()).unwrap();
    let of_another = BackupRow { system_identifier: Some("7".to_owned()), ..backup(2, "shop") };
    other.backups().record(&of_another, &[]).unwrap();
    assert_eq!(kind(own.take_history(other.path())), Kind::Refused);
}

#[test]
fn a_run_that_could_not_clear_up_is_settled_although_it_has_ended() {
    let (_place, catalog) = fresh();
    let run = begin_run(&catalog, 1).unwrap();
    catalog.runs().leave_unsettled(&run).unwrap();
    catalog.runs().end(&run, RunOutcome::Failed, 40, None, at(9)).unwrap();
    assert!(catalog.runs().unfinished().unwrap().is_empty());
    assert_eq!(catalog.runs().unsettled().unwrap().len(), 1);
    assert!(!catalog.runs().mark_died(&run).unwrap(), "it had ended, and its outcome stays");
    assert!(catalog.runs().unsettled().unwrap().is_empty());
    assert_eq!(catalog.runs().get(&run).unwrap().unwrap().outcome, RunOutcome::Failed);
}

/// The sums that triggers keep are those that the rows themselves have, whatever was done to them.
#[test]
fn the_sums_of_the_archive_are_those_of_its_rows() {
    let (_place, catalog) = fresh();
    let mut state = 0x9E37_79B9_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let states = ["good", "owed", "missing", "damaged", "deleting"];
    let stores = [StoreName::Local, StoreName::R2, StoreName::B2];
    let names = [
        "00000001000000000000000A",
        "00000001000000000000000B",
        "000000010000000100000000",
        "00000002.history",
    ];
    for _ in 0..600 {
        let segment = names[random(4) as usize];
        let (sha, store) = (format!("{:064x}", random(2)), stores[random(3) as usize]);
        let (word, hour) = (states[random(5) as usize], at(i64::try_from(random(4)).unwrap() * 1800));
        let sql = match random(3) {
            0 => {
                "DELETE FROM wal_segments WHERE segment = ?1 AND content_sha256 = ?2 AND store = ?3 AND ?4 <> ?5"
            }
            1 => {
                "UPDATE wal_segments SET state = ?4, stored_at = ?5, size_bytes = size_bytes + 1 \
                  WHERE segment = ?1 AND content_sha256 = ?2 AND store = ?3"
            }
            _ => {
                "INSERT INTO wal_segments (timeline, segment, content_sha256, store, size_bytes, state, stored_at) \
                  VALUES (1, ?1, ?2, ?3, 7, ?4, ?5) ON CONFLICT (segment, content_sha256, store) DO UPDATE \
                  SET state = excluded.state, size_bytes = excluded.size_bytes"
            }
        };
        let at = crate::model::timestamp_text(hour);
        catalog
            .write("change", |it| it.execute(sql, rusqlite::params![segment, sha, store.as_str(), word, at]))
            .unwrap();
    }
    let rows = |sql: &str| {
        catalog
            .read("compare", |connection| {
                let mut statement = connection.prepare(sql)?;
                let rows = statement.query_map([], |row| {
                    (0..8).map(|column| row.get::<_, rusqlite::types::Value>(column)).collect()
                })?;
                rows.collect::<rusqlite::Result<Vec<Vec<_>>>>()
            })
            .unwrap()
    };
    let kept = rows(
        "SELECT block, store, files, bytes, segments, owed, missing, damaged FROM wal_blocks \
         WHERE files + owed + missing + damaged > 0 ORDER BY 1, 2",
    );
    let counted = rows(
        "SELECT substr(segment, 1, 16), store, sum(state = 'good'), sum(iif(state = 'good', size_bytes, 0)), \
         sum(state = 'good' AND length(segment) = 24), sum(state = 'owed'), sum(state = 'missing'), \
         sum(state = 'damaged') FROM wal_segments WHERE state <> 'deleting' GROUP BY 1, 2 ORDER BY 1, 2",
    );
    assert!(counted.len() > 4, "{counted:?}");
    assert_eq!(kept, counted);
    let kept =
        rows("SELECT hour, store, files, bytes, 0, 0, 0, 0 FROM wal_hours WHERE files > 0 ORDER BY 1, 2");
    let counted = rows(
        "SELECT substr(stored_at, 1, 13), store, count(*), sum(size_bytes), 0, 0, 0, 0 FROM wal_segments \
         WHERE state = 'good' AND stored_at IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2",
    );
    assert_eq!(kept, counted);
    let clash = "SELECT count(*) FROM wal_blocks WHERE clashing = 1";
    let clashing: i64 = catalog.read("ask", |it| it.query_row(clash, [], |row| row.get(0))).unwrap();
    assert!(clashing > 0, "two contents under one name are noticed");
}

#[test]
fn a_test_that_was_refused_or_that_read_another_store_does_not_make_a_failure_good() {
    let (_place, catalog) = fresh();
    let restores = catalog.restores();
    let mut second = 0;
    let mut test = |store, state| {
        second += 1;
        let new = NewRestore {
            purpose: Purpose::Test,
            store: Some(store),
            tenant_ids: None,
            started_at: at(second),
            ..new_restore()
        };
        let number = restores.begin(&new).unwrap();
        restores.set_places(number, PLACES).unwrap();
        restores.end(number, &end_as(state)).unwrap();
        restores.clear_staging(number).unwrap();
        let tests = catalog.facts(at(100)).unwrap().tests;
        tests.iter().map(|it| (it.store.unwrap(), it.refused)).collect::<Vec<_>>()
    };
    let (local, r2) = (StoreName::Local, StoreName::R2);
    let none: [(StoreName, bool); 0] = [];
    assert_eq!(test(local, RestoreState::Refused), [(local, true)]);
    assert_eq!(test(local, RestoreState::Done), none);
    assert_eq!(test(r2, RestoreState::Failed), [(r2, false)]);
    assert_eq!(test(r2, RestoreState::Refused), [(r2, false)]);
    assert_eq!(test(local, RestoreState::Done), [(r2, false)]);
    assert_eq!(test(local, RestoreState::Refused), [(r2, false)]);
    assert_eq!(test(r2, RestoreState::Done), [(local, true)]);
    assert_eq!(test(local, RestoreState::Done), none);
}

/// Who waits for what, of all messages.
fn waiting(catalog: &Catalog, now: Timestamp) -> Vec<String> {
    let due = catalog.alerts().due(now).unwrap();
    due.iter().map(|it| format!("{} {}", it.recipient.address, it.event.as_str())).collect()
}

fn to(addresses: &'static [&'static str]) -> impl Fn(Severity) -> Audience {
    move |_| Audience {
        not_before: at(0),
        recipients: addresses
            .iter()
            .map(|it| Recipient { channel: crate::model::Channel::Email, address: (*it).to_owned() })
            .collect(),
    }
}

#[test]
fn what_was_found_before_there_was_a_channel_is_told_when_there_is_one() {
    let (_place, catalog) = fresh();
    let alerts = catalog.alerts();
    let hour = Duration::from_hours(1);
    alerts.raise("wal-refused", Severity::Critical, "two servers", at(1)).unwrap();
    alerts.raise("copy-damaged", Severity::Warning, "told by another", at(1)).unwrap();
    alerts.raise("wal-conflict", Severity::Critical, "of an earlier pgkeep", at(1)).unwrap();
    catalog
        .write("test", |it| {
            it.execute("UPDATE alerts SET notification_channels = '[]' WHERE alert_type <> 'wal-refused'", [])
        })
        .unwrap();
    for _ in 0..2 {
        alerts.route(&to(&[]), hour, at(2)).unwrap();
        assert_eq!(waiting(&catalog, at(2)), [""; 0]);
    }
    for _ in 0..2 {
        alerts.route(&to(&["ada"]), hour, at(3)).unwrap();
        assert_eq!(waiting(&catalog, at(3)), ["ada raised", "ada raised"]);
    }
}

#[test]
fn a_message_that_waits_for_one_recipient_keeps_nothing_from_the_others() {
    let (_place, catalog) = fresh();
    let alerts = catalog.alerts();
    let (hour, both) = (Duration::from_hours(1), to(&["ada", "bob"]));
    alerts.raise("wal-refused", Severity::Critical, "two servers", at(0)).unwrap();
    alerts.route(&both, hour, at(0)).unwrap();
    let first = alerts.due(at(0)).unwrap();
    assert_eq!(waiting(&catalog, at(0)), ["ada raised", "bob raised"]);
    alerts.delivered(&first[..1], at(1)).unwrap();
    alerts.route(&both, hour, at(3000)).unwrap();
    assert_eq!(waiting(&catalog, at(3000)), ["bob raised"]);
    alerts.route(&both, hour, at(3700)).unwrap();
    assert_eq!(waiting(&catalog, at(3700)), ["bob raised", "ada repeated"]);
    alerts.route(&both, hour, at(9000)).unwrap();
    assert_eq!(waiting(&catalog, at(9000)), ["bob raised", "ada repeated"], "each has one that waits");
}

#[test]
fn who_was_told_by_an_earlier_version_is_told_the_end_once() {
    let (_place, catalog) = fresh();
    let alerts = catalog.alerts();
    let (hour, both) = (Duration::from_hours(10), to(&["ada", "bob"]));
    alerts.raise("wal-refused", Severity::Critical, "two servers", at(0)).unwrap();
    let of_before = "INSERT INTO deliveries (alert_id, channel, recipient, event, state, attempts, not_before, created_at, \
                     delivered_at) SELECT id, 'email', ?1, 'raised', 'delivered', 1, created_at, created_at, created_at \
                     FROM alerts";
    catalog
        .write("test", |it| {
            // For all of them; and one that was repeated after the upgrade.
            it.execute(of_before, [""])?;
            it.execute(of_before, ["bob"])?;
            it.execute(
                "UPDATE alerts SET notification_channels = '[\"email\"]', closed_at = last_seen_at, \
                 closed_message = 'over'",
                [],
            )
        })
        .unwrap();
    for _ in 0..2 {
        alerts.route(&both, hour, at(1)).unwrap();
        let mut told = waiting(&catalog, at(1));
        told.sort();
        assert_eq!(told, ["ada closed", "bob closed"]);
    }
}

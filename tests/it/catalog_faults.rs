//! A catalog that is locked, broken, lost or from the future: no backup is lost, and the way out works.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::faults::{assert_no_trace, leftovers, listed};
use crate::support::{Place, cluster, give};

/// A place with two backups.
fn place() -> (Place, Vec<String>) {
    let place = Place::ready();
    let database = cluster().fresh_shop();
    place.backup(&database);
    place.backup(&database);
    let backups = listed(&place);
    assert_eq!(backups.len(), 2);
    (place, backups)
}

/// Moves the catalog away, as the hint says.
fn move_away(place: &Place) {
    for ending in ["", "-wal", "-shm"] {
        let file = place.state().join(format!("catalog.sqlite{ending}"));
        if file.exists() {
            fs::rename(&file, place.path(&format!("broken{ending}"))).expect("move the catalog away");
        }
    }
}

/// Every backup is in the list again, whole, and the next one works.
#[track_caller]
fn rebuild(place: &Place, backups: &[String]) {
    move_away(place);
    let rebuilt = place.pgkeep(&["catalog", "rebuild", "--output", "json"]).ok().json();
    assert_eq!(rebuilt["added"].as_array().unwrap().len(), backups.len());
    assert_eq!(listed(place), backups);
    place.pgkeep(&["catalog", "check"]).ok();
    place.pgkeep(&["verify", "--deep"]).ok();
    place.backup("postgres");
    assert_eq!(leftovers(place), [""; 0]);
}

fn catalog(place: &Place) -> std::path::PathBuf {
    place.state().join("catalog.sqlite")
}

/// Puts bytes into the catalog's file, and nothing beside it.
fn overwrite(place: &Place, bytes: &[u8]) {
    for ending in ["-wal", "-shm"] {
        let _ = fs::remove_file(place.state().join(format!("catalog.sqlite{ending}")));
    }
    fs::write(catalog(place), bytes).expect("overwrite the catalog");
    give(&catalog(place));
}

#[test]
fn a_catalog_that_another_process_holds_is_waited_for_and_then_said_to_be_held() {
    let place = Place::ready();
    let other = rusqlite::Connection::open(catalog(&place)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let run = place.pgkeep(&["backup", "database", "postgres"]).fails_with(11);
    assert!(begun.elapsed() > Duration::from_secs(20), "gave up after {:?}", begun.elapsed());
    insta::assert_snapshot!(run.message());
    // Whoever only looks need not wait.
    assert_eq!(listed(&place), [""; 0]);
    assert_eq!(place.backups().len(), 0);
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    assert_eq!(leftovers(&place), [""; 0]);
    place.backup("postgres");
}

#[test]
fn a_catalog_that_is_held_for_a_while_is_only_waited_for() {
    let place = Place::ready();
    let other = rusqlite::Connection::open(catalog(&place)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let running = place.start(&[], &["backup", "database", "postgres"]);
    std::thread::sleep(Duration::from_secs(2));
    other.execute_batch("ROLLBACK").unwrap();
    running.wait().ok();
    assert_eq!(listed(&place).len(), 1);
}

#[test]
fn a_catalog_of_garbage_is_refused_and_can_be_made_anew() {
    let (place, backups) = place();
    overwrite(&place, &vec![0x5a; 40_000]);
    for command in
        [&["list"][..], &["backup", "database", "postgres"], &["catalog", "check"], &["catalog", "rebuild"]]
    {
        insta::assert_snapshot!(
            "garbage",
            place.pgkeep(command).fails_with(4).message().replace("create the", "open the")
        );
    }
    assert_eq!(place.backups().len(), 2, "no backup is lost");
    rebuild(&place, &backups);
}

#[test]
fn a_catalog_that_is_cut_short_is_refused_and_can_be_made_anew() {
    let (place, backups) = place();
    // All of it into the file itself.
    let all = rusqlite::Connection::open(catalog(&place)).unwrap();
    all.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(all);
    let bytes = fs::read(catalog(&place)).unwrap();
    overwrite(&place, &bytes[..bytes.len() / 2]);
    let run = place.pgkeep(&["catalog", "check"]).ended_with(4);
    assert!(run.stdout.contains("damaged") || run.stderr.contains("damaged"), "{}{}", run.stdout, run.stderr);
    let run = place.pgkeep(&["backup", "database", "postgres"]).fails_with(4);
    assert!(run.stderr.contains("pgkeep catalog rebuild"), "{}", run.stderr);
    insta::assert_snapshot!(run.message());
    assert_eq!(place.backups().len(), 2, "no backup is lost");
    rebuild(&place, &backups);
}

#[test]
fn a_catalog_with_a_torn_page_is_found_by_check() {
    let (place, backups) = place();
    let all = rusqlite::Connection::open(catalog(&place)).unwrap();
    all.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let page: usize = all
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'backups'", [], |row| {
            row.get::<_, i64>(0)
        })
        .map(|page| usize::try_from(page).unwrap())
        .unwrap();
    drop(all);
    let mut bytes = fs::read(catalog(&place)).unwrap();
    bytes[(page - 1) * 4096..page * 4096].fill(0xff);
    overwrite(&place, &bytes);
    let run = place.pgkeep(&["catalog", "check"]).ended_with(4);
    assert!(run.stdout.contains("damaged") || run.stderr.contains("damaged"), "{}{}", run.stdout, run.stderr);
    rebuild(&place, &backups);
}

#[test]
fn an_empty_catalog_is_none() {
    let (place, backups) = place();
    overwrite(&place, b"");
    let run = place.pgkeep(&["list"]).fails_with(10);
    insta::assert_snapshot!(run.message());
    rebuild(&place, &backups);
}

#[test]
fn a_catalog_of_a_newer_version_is_refused_and_left_as_it_is() {
    let (place, backups) = place();
    let newer = rusqlite::Connection::open(catalog(&place)).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    for command in [&["list"][..], &["backup", "database", "postgres"], &["init"], &["catalog", "rebuild"]] {
        insta::assert_snapshot!("newer", place.pgkeep(command).fails_with(10).message());
    }
    let newer = rusqlite::Connection::open(catalog(&place)).unwrap();
    let version: i64 = newer.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 99);
    drop(newer);
    rebuild(&place, &backups);
}

#[test]
fn the_sqlite_file_of_another_program_is_not_touched() {
    let place = Place::new();
    fs::create_dir(place.state()).unwrap();
    give(&place.state());
    let foreign = rusqlite::Connection::open(catalog(&place)).unwrap();
    foreign.execute_batch("CREATE TABLE songs (title TEXT); INSERT INTO songs VALUES ('a')").unwrap();
    drop(foreign);
    give(&catalog(&place));
    insta::assert_snapshot!(place.pgkeep(&["init"]).fails_with(5).message());
    let foreign = rusqlite::Connection::open(catalog(&place)).unwrap();
    let tables: i64 = foreign.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

#[test]
fn a_lost_catalog_is_made_anew_out_of_the_store() {
    let (place, backups) = place();
    let before = place.pgkeep(&["list", "--output", "json"]).ok().json();
    fs::remove_dir_all(place.state()).unwrap();
    insta::assert_snapshot!(place.pgkeep(&["list"]).fails_with(10).message());
    place.pgkeep(&["catalog", "rebuild"]).ok();
    assert_eq!(place.pgkeep(&["list", "--output", "json"]).ok().json(), before, "the list is the same");
    let again = place.pgkeep(&["catalog", "rebuild", "--output", "json"]).ok().json();
    assert_eq!((again["added"].as_array().unwrap().len(), again["known"].as_u64()), (0, Some(2)));
    place
        .pgkeep(&["restore", &backups[1], "--to-database", &format!("copy_of_{}", crate::support::unique())])
        .ok();
}

#[test]
fn a_rebuild_takes_in_what_is_whole_and_names_what_is_not() {
    let (place, backups) = place();
    let directory = place.store().join("test/backups").join(&backups[0]);
    fs::remove_file(directory.join("data.00000")).unwrap();
    move_away(&place);
    let run = place.pgkeep(&["catalog", "rebuild"]).ended_with(3);
    assert!(run.stdout.contains(&backups[0]) && run.stdout.contains("warning"), "{}", run.stdout);
    insta::assert_snapshot!(crate::support::tidy(&run.stdout));
    assert_eq!(listed(&place), [&*backups[1]]);
}

#[test]
fn a_failed_run_with_a_broken_catalog_leaves_nothing_in_the_store() {
    let place = Place::ready();
    let held = rusqlite::Connection::open(catalog(&place)).unwrap();
    held.execute_batch(
        "CREATE TRIGGER refuse BEFORE UPDATE OF subject ON runs BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    .unwrap();
    let run = place.pgkeep(&["backup", "database", "postgres"]);
    assert_ne!(run.code, 0);
    held.execute_batch("DROP TRIGGER refuse").unwrap();
    drop(held);
    assert_no_trace(&place, "failed", run.code);
    place.backup("postgres");
}

#[test]
fn a_backup_that_the_catalog_cannot_take_is_kept_and_taken_in_later() {
    let place = Place::ready();
    let held = rusqlite::Connection::open(catalog(&place)).unwrap();
    held.execute_batch("CREATE TRIGGER refuse BEFORE INSERT ON backups BEGIN SELECT RAISE(ABORT, 'no'); END")
        .unwrap();
    let run = place.pgkeep(&["backup", "database", "postgres"]);
    assert_ne!(run.code, 0);
    assert!(
        run.stderr.contains("is stored and whole; `pgkeep catalog rebuild` takes it in"),
        "{}",
        run.stderr
    );
    held.execute_batch("DROP TRIGGER refuse").unwrap();
    drop(held);
    assert_eq!((listed(&place).len(), place.backups().len()), (0, 1));
    let verify = place.pgkeep(&["verify"]).ended_with(3);
    assert!(verify.stdout.contains("the catalog does not know this backup"), "{}", verify.stdout);
    place.pgkeep(&["catalog", "rebuild"]).ok();
    assert_eq!(listed(&place).len(), 1);
    place.pgkeep(&["verify", "--deep"]).ok();
    assert_eq!(leftovers(&place), [""; 0]);
}

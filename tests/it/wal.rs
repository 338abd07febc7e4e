//! Archiving and fetching WAL: `wal-push` and `wal-fetch` as PostgreSQL calls them.

use std::fs;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::support::{Archiving, give};

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[test]
fn the_server_archives_through_pgkeep_and_gets_its_segments_back() {
    let archiving = Archiving::ready();
    let name = archiving.archive();
    let path = archiving.cluster.data().join("pg_wal").join(&name);
    let bytes = fs::read(&path).unwrap();
    let archived = archiving.archived();
    assert!(archived.contains(&format!("{name}-{}", sha256(&bytes))), "{archived:?}");
    let fetched = archiving.place.path("fetched");
    let run = archiving.place.pgkeep(&["wal-fetch", &name, fetched.to_str().unwrap()]).ok();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "the server's log is not for that");
    assert_eq!(fs::read(&fetched).unwrap(), bytes);
    let rows = archiving
        .place
        .catalog(&format!("SELECT store, state, content_sha256 FROM wal_segments WHERE segment = '{name}'"));
    assert_eq!(rows, [["local", "good", &sha256(&bytes)]]);
    assert_eq!(archiving.cluster.psql("postgres", "SELECT failed_count FROM pg_stat_archiver"), "0");
}

#[test]
fn the_same_segment_again_is_fine_and_other_bytes_are_refused() {
    let archiving = Archiving::ready();
    let name = archiving.archive();
    let copy = archiving.place.path("copies");
    fs::create_dir(&copy).unwrap();
    give(&copy);
    let copy = copy.join(&name);
    let bytes = fs::read(archiving.cluster.data().join("pg_wal").join(&name)).unwrap();
    fs::write(&copy, &bytes).unwrap();
    let before = archiving.archived();
    let again = ["--output", "json", "wal-push", copy.to_str().unwrap()];
    let run = archiving.place.pgkeep(&again).ok();
    assert_eq!(run.json()["known"], true);
    let mut other = bytes;
    let last = other.len() - 1;
    other[last] ^= 1;
    fs::write(&copy, &other).unwrap();
    let run = archiving.place.pgkeep(&again).fails_with(5);
    assert!(run.stderr.contains("nothing was overwritten"), "{}", run.stderr);
    assert_eq!(archiving.archived(), before);
    let alerts = archiving.place.catalog("SELECT alert_type, severity FROM alerts");
    assert_eq!(alerts, [["wal-refused", "CRITICAL"]]);
}

#[test]
fn histories_backup_labels_and_partial_segments_are_archived_under_the_same_rule() {
    let archiving = Archiving::ready();
    let segment = archiving.archive();
    let directory = archiving.place.path("files");
    fs::create_dir(&directory).unwrap();
    give(&directory);
    let bytes = fs::read(archiving.cluster.data().join("pg_wal").join(&segment)).unwrap();
    let partial =
        format!("{}{:08X}.partial", &segment[..16], u32::from_str_radix(&segment[16..], 16).unwrap());
    for (name, content) in [
        ("00000002.history".to_owned(), b"1\t0/3000000\tno recovery target specified\n".to_vec()),
        (format!("{segment}.00000028.backup"), b"START WAL LOCATION: 0/3000028\n".to_vec()),
        (partial.clone(), bytes.clone()),
    ] {
        let path = directory.join(&name);
        fs::write(&path, &content).unwrap();
        let push = || archiving.place.pgkeep(&["--output", "json", "wal-push", path.to_str().unwrap()]);
        assert_eq!(push().ok().json()["known"], false, "{name}");
        assert_eq!(push().ok().json()["known"], true, "{name}");
        let mut other = content.clone();
        let last = other.len() - 2;
        other[last] ^= 1;
        fs::write(&path, &other).unwrap();
        let refused = push().fails_with(5);
        assert!(refused.stderr.contains("nothing was overwritten"), "{}", refused.stderr);
        let fetched = archiving.place.path("fetched");
        archiving.place.pgkeep(&["wal-fetch", &name, fetched.to_str().unwrap()]).ok();
        assert_eq!(fs::read(&fetched).unwrap(), content, "{name}");
    }
    // What is partial is not taken for the segment.
    let whole = archiving.archived().into_iter().filter(|name| name.starts_with(&format!("{segment}-")));
    assert_eq!(whole.count(), 1);
}

#[test]
fn what_the_catalog_knows_as_archived_and_no_store_has_is_not_the_end_of_the_archive() {
    let archiving = Archiving::ready();
    archiving.archive();
    let last = archiving.archive();
    archiving.place.pgkeep(&["list"]).ok();
    let wanted = archiving.place.path("wanted");
    let fetch = || archiving.place.pgkeep(&["wal-fetch", &last, wanted.to_str().unwrap()]);
    fetch().ok();
    let directory = format!("store/test/wal/{}/{}", &last[..8], &last[8..16]);
    for name in archiving.place.files(&directory).into_iter().filter(|name| name.starts_with(&last)) {
        fs::remove_file(archiving.place.path(&directory).join(name)).unwrap();
    }
    let run = fetch().fails_with(200);
    assert!(run.stderr.contains("was archived and is in no store any more"), "{}", run.stderr);
}

#[test]
fn waiting_segments_are_archived_together_and_acknowledged_later() {
    let archiving = Archiving::new(&[]);
    archiving.place.init();
    archiving.fill_segments(20);
    let last = archiving.switch();
    archiving.archive_through("");
    archiving.wait_for(&last);
    assert!(archiving.archived().iter().any(|name| name.starts_with(&last)));
    let acknowledged = fs::read_to_string(archiving.place.state().join("archive/acknowledged.json")).unwrap();
    assert!(acknowledged.contains(&last), "{acknowledged}");
    let segments = archiving.place.catalog("SELECT count(*) FROM wal_segments WHERE state = 'good'");
    assert!(segments[0][0].parse::<u32>().unwrap() >= 20, "{segments:?}");
    assert_eq!(archiving.place.files("store/.staging/wal"), [""; 0]);
    // Those that were archived with the first are known when the server comes to them.
    let path = archiving.cluster.data().join("pg_wal").join(&last).display().to_string();
    let again = archiving.place.pgkeep(&["--output", "json", "wal-push", &path]).ok();
    assert_eq!(again.json()["known"], true);
}

#[test]
fn what_is_not_in_the_archive_is_not_there_and_what_cannot_be_told_is_something_else() {
    let archiving = Archiving::ready();
    let first = archiving.archive();
    let hole = archiving.archive();
    let last = archiving.archive();
    let wanted = archiving.place.path("wanted");
    let wanted = wanted.to_str().unwrap();
    let next = format!("{}{:08X}", &last[..16], u32::from_str_radix(&last[16..], 16).unwrap() + 3);
    archiving.place.pgkeep(&["wal-fetch", &next, wanted]).fails_with(1);
    archiving.place.pgkeep(&["wal-fetch", "00000002.history", wanted]).fails_with(1);
    let left = archiving.place.files(".").into_iter().filter(|name| name.contains("wanted"));
    assert_eq!(left.collect::<Vec<_>>(), [""; 0]);
    // A hole.
    let directory = format!("store/test/wal/{}/{}", &hole[..8], &hole[8..16]);
    let file = archiving.place.files(&directory).into_iter().find(|name| name.starts_with(&hole)).unwrap();
    let file = archiving.place.path(&directory).join(file);
    let kept = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let run = archiving.place.pgkeep(&["wal-fetch", &hole, wanted]).fails_with(200);
    assert!(run.stderr.contains("hole"), "{}", run.stderr);
    // Damage.
    let mut damaged = kept.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&file, damaged).unwrap();
    let run = archiving.place.pgkeep(&["wal-fetch", &hole, wanted]).fails_with(200);
    assert!(run.stderr.contains("does not fit its seal"), "{}", run.stderr);
    fs::write(&file, kept).unwrap();
    give(&file);
    archiving.place.pgkeep(&["wal-fetch", &hole, wanted]).ok();
    // A disk that is not mounted, wrong settings, a wrong command line.
    fs::rename(archiving.place.store(), archiving.place.path("elsewhere")).unwrap();
    archiving.place.pgkeep(&["wal-fetch", &next, wanted]).fails_with(200);
    archiving.place.set("BACKUP_JOBS", "many");
    archiving.place.pgkeep(&["wal-fetch", &first, wanted]).fails_with(200);
    archiving.place.pgkeep(&["wal-fetch", &first]).fails_with(200);
    // A standby asks again: an ordinary failure does not end it.
    fs::write(archiving.place.path("standby.signal"), "").unwrap();
    archiving.place.pgkeep(&["wal-fetch", &first, wanted]).fails_with(40);
}

#[test]
fn segments_are_got_beforehand_and_outside_of_pg_wal() {
    let archiving = Archiving::ready();
    archiving.fill_segments(12);
    let last = archiving.archive();
    let names: Vec<String> =
        archiving.archived().iter().map(|name| name[..24].to_owned()).filter(|name| *name <= last).collect();
    assert!(names.len() > 10, "{names:?}");
    let mut beforehand = 0;
    for name in &names {
        let wanted = archiving.place.path("wanted");
        let arguments = ["--output", "json", "wal-fetch", name, wanted.to_str().unwrap()];
        let report = archiving.place.pgkeep(&arguments).ok().json();
        beforehand += usize::from(report["store"].is_null());
        let bytes = fs::read(&wanted).unwrap();
        assert!(archiving.archived().contains(&format!("{name}-{}", sha256(&bytes))), "{name}");
        std::thread::sleep(Duration::from_millis(30));
    }
    assert!(beforehand > names.len() / 2, "{beforehand} of {}", names.len());
    let lying = archiving.place.files("state/prefetch");
    assert!(!lying.iter().any(|name| name.ends_with(".unfinished")), "{lying:?}");
}

#[test]
fn a_server_that_was_started_in_another_directory_hands_on_a_path_that_is_passed_over() {
    let archiving = Archiving::ready();
    // As `pg_ctl -D data` does.
    archiving.archive_through("PGDATA=data");
    archiving.archive();
    assert_eq!(archiving.cluster.psql("postgres", "SELECT failed_count FROM pg_stat_archiver"), "0");
}

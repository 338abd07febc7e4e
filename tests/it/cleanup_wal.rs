//! WAL goes only when nothing needs it: proven by recovering to points all over the window after cleanups.

use crate::cleanup::{age, assert_settled, cleanup};
use crate::pitr::{backup, now, recover};
use crate::support::Archiving;
use crate::support::faults::stopped_at;

/// Makes archived WAL of all names up to this one so many days older.
fn age_wal(archiving: &Archiving, until: &str, days: i64) {
    archiving.place.catalog(&format!(
        "UPDATE wal_segments SET stored_at = strftime('%Y-%m-%dT%H:%M:%fZ', stored_at, '-{days} days') \
         WHERE segment <= '{until}'"
    ));
}

/// A server with a table, and a row in it for each word.
fn ready() -> Archiving {
    let archiving = Archiving::ready();
    archiving.cluster.psql("postgres", "CREATE TABLE t (n int)");
    archiving
}

fn say(archiving: &Archiving, number: u32) -> String {
    archiving.cluster.psql("postgres", &format!("INSERT INTO t VALUES ({number})"));
    let instant = now(&archiving.cluster);
    archiving.archive();
    instant
}

fn last(archiving: &Archiving, instant: &str) -> String {
    let server = recover(archiving, &["--target-time", instant]);
    server.psql("postgres", "SELECT max(n) FROM t")
}

#[test]
fn wal_that_nothing_needs_goes_and_every_promised_point_is_still_reached() {
    let archiving = ready();
    let place = &archiving.place;
    let mut ids = Vec::new();
    let mut instants = Vec::new();
    for round in 0..4_u32 {
        ids.push(backup(&archiving)["id"].as_str().unwrap().to_owned());
        instants.push(say(&archiving, round * 2 + 1));
        instants.push(say(&archiving, round * 2 + 2));
    }
    let names: Vec<String> = archiving.archived().iter().map(|name| name[..24].to_owned()).collect();
    // 200, 120 and 95 days; the second is wanted. What was archived before the last backup is as old.
    place.pgkeep(&["keep", &ids[1], "--reason", "wanted"]).ok();
    let first_of = |id: &str| {
        place.pgkeep(&["--output", "json", "show", id]).ok().json()["wal"]["first_segment"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (second, third) = (first_of(&ids[1]), first_of(&ids[2]));
    age_wal(&archiving, &first_of(&ids[3]), 95);
    for (id, days) in ids.iter().zip([200, 120, 95]) {
        age(place, id, days);
    }
    place.set("BACKUP_KEEP_MIN", "1");
    let shown = cleanup(place, &["--dry-run"]).ok().json();
    let reasons: Vec<&str> =
        shown["backups"].as_array().unwrap().iter().map(|it| it["reasons"][0].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        ["0 of 90 days old", "WAL from here reaches day 0", "pinned, wanted", "200 days old"],
        "{shown}"
    );
    let done = cleanup(place, &[]).ok().json();
    assert_eq!(done["wal"], shown["wal"]);
    let left: Vec<String> = archiving.archived().iter().map(|name| name[..24].to_owned()).collect();
    assert!(
        !left.contains(&names[0]) && left.contains(&second) && left.contains(&third),
        "{names:?} {left:?}"
    );
    assert!(left.len() < names.len());
    // From the third backup on all of it is there.
    assert!(names.iter().filter(|name| **name >= third).all(|name| left.contains(name)));
    // What was deleted is no hole.
    let ledger = place.pgkeep(&["--output", "json", "list", "--recoverable"]).ok().json();
    assert_eq!(ledger["windows"].as_array().map(Vec::len), Some(2), "{ledger}");
    assert!(ledger["windows"].as_array().unwrap().iter().all(|window| window.get("missing").is_none()));
    for (number, instant) in (5..=8).zip(&instants[4..]) {
        // The last one is at the end of the archive: nothing has ended after it.
        if number < 8 {
            assert_eq!(last(&archiving, instant), number.to_string(), "{instant}");
        }
    }
    assert_eq!(recover(&archiving, &[]).psql("postgres", "SELECT max(n) FROM t"), "8");
    let directory = crate::pitr::fresh().join("data");
    let to = directory.to_str().unwrap();
    place.pgkeep(&["restore", &ids[1], "--to-dir", to, "--mode", "full"]).ok();
    // A server that was restored may go on asking for its WAL for a day.
    place
        .catalog("UPDATE restore_log SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', started_at, '-3 days')");
    assert_settled(place);
    let rebuilt = place.pgkeep(&["--output", "json", "catalog", "rebuild"]).ok().json();
    assert_eq!(rebuilt["wal_files"].as_u64(), Some(archiving.archived().len() as u64), "{rebuilt}");
}

#[test]
fn killed_while_wal_goes_the_next_one_finishes() {
    let archiving = ready();
    let place = &archiving.place;
    for step in ["CleanupPlanned", "CleanupMarked", "CleanupWalGone", "CleanupCleared"] {
        backup(&archiving);
        say(&archiving, 1);
        let id = backup(&archiving)["id"].as_str().unwrap().to_owned();
        say(&archiving, 2);
        let first =
            place.pgkeep(&["--output", "json", "show", &id]).ok().json()["wal"]["first_segment"].clone();
        age_wal(&archiving, first.as_str().unwrap(), 95);
        place.catalog(&format!(
            "UPDATE backups SET consistent_at = strftime('%Y-%m-%dT%H:%M:%fZ', consistent_at, '-95 days') \
             WHERE id <> '{id}' AND status = 'complete'"
        ));
        age(place, &id, 91);
        place.set("BACKUP_KEEP_MIN", "1");
        stopped_at(place, &["cleanup", "--yes"], step, "kill").ended_with(137);
        cleanup(place, &["--yes"]).ok();
        let first = first.as_str().unwrap();
        let archived = archiving.archived();
        let older: Vec<&String> = archived.iter().filter(|name| name[..24] < *first).collect();
        let rows = || place.catalog("SELECT segment, store, state, stored_at FROM wal_segments");
        assert!(older.is_empty(), "{step}: {older:?} before {first}: {:?}", rows());
        // Nothing is lost that is needed.
        place.pgkeep(&["list", "--recoverable"]).ok();
        assert_eq!(recover(&archiving, &[]).psql("postgres", "SELECT max(n) FROM t"), "2");
        place.catalog(
            "UPDATE restore_log SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', started_at, '-3 days')",
        );
        place.pgkeep(&["verify"]).ok();
    }
}

#[test]
fn a_running_cluster_backup_and_an_unknown_one_keep_all_wal() {
    let archiving = ready();
    let place = &archiving.place;
    let first = backup(&archiving)["id"].as_str().unwrap().to_owned();
    say(&archiving, 1);
    let id = backup(&archiving)["id"].as_str().unwrap().to_owned();
    let segment =
        place.pgkeep(&["--output", "json", "show", &id]).ok().json()["wal"]["first_segment"].clone();
    age_wal(&archiving, segment.as_str().unwrap(), 95);
    age(place, &first, 100);
    age(place, &id, 91);
    place.set("BACKUP_KEEP_MIN", "1");
    let count = |report: &serde_json::Value| report["wal"].as_array().unwrap().len();
    assert_eq!(count(&cleanup(place, &["--dry-run", "--yes"]).ok().json()), 1);
    // It waits for its WAL to be archived.
    archiving.cluster.set("archive_command", "/bin/false");
    let waiting = place.start(&[], &["backup", "cluster", "--fast"]);
    crate::support::faults::wait_for("the backup to run", || {
        (!place
            .catalog("SELECT id FROM runs WHERE command = 'backup cluster' AND outcome = 'running'")
            .is_empty())
        .then_some(())
    });
    let report = cleanup(place, &["--dry-run", "--yes"]).ok().json();
    assert_eq!(count(&report), 0, "{report}");
    assert_eq!(report["wal_kept"], "a cluster backup is being made");
    archiving.archive_through("");
    waiting.wait().ok();
    // One that only a store knows of may need any of it.
    place.catalog(&format!("DELETE FROM copies WHERE backup_id = '{first}'"));
    place.catalog(&format!("DELETE FROM backups WHERE id = '{first}'"));
    let report = cleanup(place, &["--dry-run", "--yes"]).ended_with(3).json();
    assert_eq!(count(&report), 0);
    assert!(report["wal_kept"].as_str().unwrap().starts_with(&first), "{report}");
}

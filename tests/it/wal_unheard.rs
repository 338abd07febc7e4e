//! A gap in the WAL is called a hole only when every store that may have what is missing has answered, and when no cleanup
//! has made it.

use std::fs;

use serde_json::Value;

use crate::cleanup::{age, cleanup};
use crate::clouds::Cloud;
use crate::pitr::backup;
use crate::support::s3::Options;
use crate::support::{Archiving, Place};

/// A server that archives to the local store and to R2; one copy is enough, as with two stores of which one may be away.
fn with_r2() -> (Archiving, Cloud) {
    let archiving = Archiving::new(&[]);
    let r2 = Cloud::start(Options::default());
    r2.is_r2_of(&archiving.place);
    archiving.place.set("BACKUP_MIN_COPIES", "1");
    archiving.begin();
    (archiving, r2)
}

fn recoverable(place: &Place, code: i32) -> Value {
    place.pgkeep(&["--output", "json", "list", "--recoverable"]).ended_with(code).json()
}

fn open_alerts(place: &Place) -> Vec<String> {
    let open = place.catalog(
        "SELECT alert_type FROM alerts WHERE closed_at IS NULL AND alert_type LIKE 'wal-%' ORDER BY alert_type",
    );
    open.into_iter().flatten().collect()
}

/// Nobody calls it a hole: neither the ledger, nor `verify`, nor `status`, nor an alert.
#[track_caller]
fn assert_unknown(place: &Place, missing: &str) {
    let ledger = recoverable(place, 3);
    assert_eq!(
        (&ledger["windows"][0]["unknown"], &ledger["unheard"]),
        (&missing.into(), &serde_json::json!(["r2"]))
    );
    assert_eq!(ledger["windows"][0]["missing"], Value::Null, "{ledger}");
    let verified = place.pgkeep(&["--output", "json", "verify"]).ended_with(3).json();
    assert_eq!(verified["wal_holes"], serde_json::json!([]));
    let warnings = verified["warnings"].to_string();
    assert!(warnings.contains(missing) && warnings.contains("r2 may have them"), "{verified}");
    let status = place.pgkeep(&["--output", "json", "status"]).json();
    assert!(
        status["windows"].as_array().unwrap().iter().all(|it| it.get("missing").is_none_or(Value::is_null))
    );
    assert_eq!(open_alerts(place), ["wal-unheard"]);
}

/// Makes what is archived older than what may still be on its way.
fn age_all(place: &Place) {
    place.catalog("UPDATE wal_segments SET stored_at = strftime('%Y-%m-%dT%H:%M:%fZ', stored_at, '-1 hour')");
}

fn lose_local(archiving: &Archiving, name: &str) {
    let files = archiving.place.files("store/test/wal");
    let file = files.iter().find(|path| path.contains(&format!("/{name}-"))).expect("an archived segment");
    fs::remove_file(archiving.place.store().join("test/wal").join(file)).unwrap();
}

#[test]
fn a_catalog_that_was_made_while_a_store_was_away_does_not_call_what_that_has_a_hole() {
    let (archiving, mut r2) = with_r2();
    let place = &archiving.place;
    backup(&archiving);
    let names: Vec<String> = (0..3).map(|_| archiving.archive()).collect();
    // The local store never got the second one, and everything but the stores is lost.
    lose_local(&archiving, &names[1]);
    fs::remove_dir_all(place.state()).unwrap();
    r2.proxy.go_away();
    place.pgkeep(&["catalog", "rebuild"]).fails_with(3);
    age_all(place);
    assert_unknown(place, &names[1]);
    // That somebody has seen it changes nothing.
    let id = place.catalog("SELECT id FROM alerts WHERE alert_type = 'wal-unheard'")[0][0].clone();
    place.pgkeep(&["alerts", "ack", &id]).ok();
    assert_unknown(place, &names[1]);
    // The other store answers, and there is no gap.
    r2.proxy.come_back();
    place.pgkeep(&["verify"]);
    let ledger = recoverable(place, 0);
    assert_eq!(
        (ledger["windows"].as_array().map(Vec::len), &ledger["unheard"]),
        (Some(1), &serde_json::json!([]))
    );
    assert_eq!(open_alerts(place), [""; 0]);
    // When it answers that it has not got it either, it is a hole.
    let key = r2.bucket().keys().into_iter().find(|key| key.contains(&format!("/{}-", names[1]))).unwrap();
    r2.bucket().lose(&key);
    age_all(place);
    place.pgkeep(&["verify"]).fails_with(4);
    assert_eq!(recoverable(place, 4)["windows"][0]["missing"], names[1].as_str());
    // And stays one when it is away again: it has said so.
    r2.proxy.go_away();
    let verified = place.pgkeep(&["--output", "json", "verify"]).ended_with(4).json();
    assert_eq!(verified["wal_holes"][0]["first"], names[1].as_str());
    assert_eq!(open_alerts(place), ["wal-hole"]);
}

#[test]
fn what_another_host_may_have_archived_to_a_store_that_is_away_is_no_hole() {
    let (archiving, mut r2) = with_r2();
    let place = &archiving.place;
    backup(&archiving);
    let names: Vec<String> = (0..3).map(|_| archiving.archive()).collect();
    // As it is where another host has archived the second one to R2 alone: this catalog has never heard of it.
    lose_local(&archiving, &names[1]);
    place.catalog(&format!("DELETE FROM wal_segments WHERE segment = '{}'", names[1]));
    age_all(place);
    r2.proxy.go_away();
    place.pgkeep(&["verify"]).ended_with(3);
    assert_unknown(place, &names[1]);
    r2.proxy.come_back();
    place.pgkeep(&["verify", "--repair"]).ended_with(0);
    recoverable(place, 0);
    assert_eq!(open_alerts(place), [""; 0]);
}

#[test]
fn what_cleanup_has_deleted_is_no_hole_for_a_catalog_that_was_made_anew() {
    let archiving = Archiving::ready();
    let place = &archiving.place;
    let id = |report: Value| report["id"].as_str().unwrap().to_owned();
    let first_of = |id: &str| {
        let shown = place.pgkeep(&["--output", "json", "show", id]).ok().json();
        shown["wal"]["first_segment"].as_str().unwrap().to_owned()
    };
    let ids: Vec<String> = (0..3)
        .map(|_| {
            let made = id(backup(&archiving));
            archiving.archive();
            archiving.archive();
            made
        })
        .collect();
    place.pgkeep(&["keep", &ids[0], "--reason", "wanted"]).ok();
    place.set("BACKUP_KEEP_MIN", "1");
    let make_old = || {
        let second = first_of(&ids[1]);
        place.catalog(&format!(
            "UPDATE wal_segments SET stored_at = strftime('%Y-%m-%dT%H:%M:%fZ', stored_at, '-95 days') \
             WHERE segment <= '{second}'"
        ));
        age(place, &ids[0], 200);
        age(place, &ids[1], 95);
    };
    make_old();
    let done = cleanup(place, &[]).ok().json();
    assert_ne!(done["wal_copies_deleted"], 0, "{done}");
    recoverable(place, 0);
    let before = place.catalog("SELECT first, last FROM wal_deleted");
    // Files and times: what the stores say of when they were archived is what is left to be known.
    let second = first_of(&ids[1]);
    let old = std::time::SystemTime::now() - std::time::Duration::from_hours(95 * 24);
    for path in place.files("store/test/wal") {
        let name = path.rsplit('/').next().unwrap();
        if name.contains('-') && name[..24] <= *second {
            let file =
                fs::File::options().write(true).open(place.store().join("test/wal").join(&path)).unwrap();
            file.set_modified(old).unwrap();
        }
    }
    fs::remove_dir_all(place.state()).unwrap();
    fs::remove_dir_all(place.store().join("test/catalog")).unwrap();
    place.pgkeep(&["catalog", "rebuild"]).ok();
    // What was deleted before the first backup is between nothing.
    assert_eq!(place.catalog("SELECT first, last FROM wal_deleted"), before[before.len() - 1..]);
    let ledger = recoverable(place, 0);
    assert_eq!(ledger["windows"].as_array().map(Vec::len), Some(2), "{ledger}");
    let verified = place.pgkeep(&["--output", "json", "verify"]).ok().json();
    assert_eq!(verified["wal_holes"], serde_json::json!([]));
    assert_eq!(open_alerts(place), [""; 0]);
    // What is missing within the days is a hole, whoever made the catalog.
    place.pgkeep(&["init"]).ok();
    let lost = archiving.archive();
    archiving.archive();
    lose_local(&archiving, &lost);
    fs::remove_dir_all(place.state()).unwrap();
    fs::remove_dir_all(place.store().join("test/catalog")).unwrap();
    place.pgkeep(&["catalog", "rebuild"]).ok();
    let windows = recoverable(place, 4)["windows"].clone();
    assert!(windows.as_array().unwrap().iter().any(|window| window["missing"] == lost.as_str()), "{windows}");
}

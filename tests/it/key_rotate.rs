//! `pgkeep key rotate`: manifests under a new key, old keys counted, cut off at every step.

use std::fs;

use crate::clouds::Clouds;
use crate::support::faults::stopped_at;
use crate::support::{Archiving, Place, cluster, ordinary, pgkeep_binary, run};

fn new_key() -> String {
    run(ordinary(pgkeep_binary()).args(["key", "new"])).ok().stdout.trim().to_owned()
}

fn rotate(place: &Place, code: i32) -> serde_json::Value {
    place.pgkeep(&["--output", "json", "key", "rotate"]).ended_with(code).json()
}

/// A place with this many backups of a shop under a key, which is returned.
fn sealed(place: &Place, backups: usize) -> (String, String) {
    let shop = cluster().fresh_shop();
    for _ in 0..backups {
        place.backup(&shop);
    }
    (shop, place.setting("BACKUP_ENCRYPTION_KEY"))
}

#[test]
fn manifests_open_with_the_new_key_alone_and_payloads_stay_as_they_are() {
    let place = Place::ready();
    let (shop, old) = sealed(&place, 2);
    let volumes: Vec<Vec<u8>> =
        place.backups().iter().map(|backup| fs::read(backup.join("data.00000")).unwrap()).collect();
    let new = new_key();
    place.set("BACKUP_ENCRYPTION_KEY", &format!("{new},{old}"));
    let report = rotate(&place, 0);
    assert_eq!(
        (&report["backups"], &report["manifests"], &report["resealed"]),
        (&2.into(), &2.into(), &2.into())
    );
    // What is saved of the catalog is under the old one until the next runs have replaced it.
    assert_eq!(report["needed"][0]["manifests"], 0);
    assert_eq!(report["needed"][0]["in_settings"], true);
    let again = rotate(&place, 0);
    assert_eq!((&again["resealed"], &again["manifests"]), (&0.into(), &2.into()));
    let third = rotate(&place, 0);
    assert_eq!(
        (&third["needed"], third["unneeded"].as_array().map(Vec::len)),
        (&serde_json::json!([]), Some(1))
    );

    place.set("BACKUP_ENCRYPTION_KEY", &new);
    place.pgkeep(&["verify", "--deep"]).ok();
    place.pgkeep(&["restore", "latest", "--to-database", &format!("{shop}_new")]).ok();
    let after: Vec<Vec<u8>> =
        place.backups().iter().map(|backup| fs::read(backup.join("data.00000")).unwrap()).collect();
    assert_eq!(after, volumes);
    let known = place.catalog("SELECT b.checksum = c.sha256 FROM backups b JOIN copies c ON c.backup_id = b.id AND c.object = 'manifest'");
    assert_eq!(known, [["1"], ["1"]]);
    fs::remove_dir_all(place.state()).unwrap();
    place.pgkeep(&["catalog", "rebuild"]).ok();
    // The old one opens nothing any more.
    place.set("BACKUP_ENCRYPTION_KEY", &old);
    place.pgkeep(&["verify", "--deep"]).fails_with(12);
}

#[test]
fn killed_at_any_step_every_backup_can_be_read_and_the_next_run_does_the_rest() {
    let place = Place::ready();
    let (shop, mut keys) = sealed(&place, 3);
    for step in ["KeyBegun", "KeySealed", "KeyRecorded"] {
        for how in ["kill", "int", "fail"] {
            keys = format!("{},{keys}", new_key());
            place.set("BACKUP_ENCRYPTION_KEY", &keys);
            let cut = stopped_at(&place, &["key", "rotate"], step, how);
            assert_ne!(cut.code, 0, "{step}:{how}");
            for id in place.catalog("SELECT id FROM backups") {
                place.pgkeep(&["restore", &id[0], "--dry-run", "--to-database", &format!("{shop}_dry")]).ok();
            }
            let report = rotate(&place, 0);
            assert_eq!(report["manifests"], 3, "{step}:{how}: {report}");
            place.pgkeep(&["verify", "--deep"]).ok();
            let first = keys.split(',').next().unwrap().to_owned();
            place.set("BACKUP_ENCRYPTION_KEY", &first);
            place.pgkeep(&["verify", "--deep"]).ok();
            place.set("BACKUP_ENCRYPTION_KEY", &keys);
        }
    }
}

#[test]
fn a_store_that_is_away_is_caught_up_at_the_next_run() {
    let mut clouds = Clouds::ready();
    let place = &clouds.place;
    let (_, old) = sealed(place, 1);
    let new = new_key();
    place.set("BACKUP_ENCRYPTION_KEY", &format!("{new},{old}"));
    clouds.r2.proxy.go_away();
    let report = rotate(place, 3);
    assert_eq!((&report["resealed"], report["away"].as_array().map(Vec::len)), (&2.into(), Some(1)));
    assert_eq!(report["unneeded"], serde_json::json!([]), "what the other store has nobody knows");
    clouds.r2.proxy.come_back();
    // Each copy is what the catalog says of it.
    place.pgkeep(&["verify", "--deep"]).ok();
    let report = rotate(place, 0);
    assert_eq!((&report["resealed"], &report["manifests"]), (&1.into(), &3.into()));
    place.set("BACKUP_ENCRYPTION_KEY", &new);
    place.pgkeep(&["verify", "--deep"]).ok();
    place.pgkeep(&["sync"]).ok();
}

#[test]
fn wal_keeps_its_key_which_is_counted_and_named() {
    let archiving = Archiving::ready();
    let place = &archiving.place;
    let last = archiving.archive();
    let old = place.setting("BACKUP_ENCRYPTION_KEY");
    let new = new_key();
    place.set("BACKUP_ENCRYPTION_KEY", &format!("{new},{old}"));
    archiving.archive();
    let report = rotate(place, 0);
    let needed = &report["needed"][0];
    assert_eq!((&needed["in_settings"], &needed["last_wal_file"]), (&true.into(), &last.as_str().into()));
    assert!(needed["wal_files"].as_u64() > Some(0), "{report}");
    assert_eq!(report["unneeded"], serde_json::json!([]));
    // Taken out too early: said, and put back nothing is lost.
    place.set("BACKUP_ENCRYPTION_KEY", &new);
    let report = rotate(place, 3);
    assert_eq!(report["needed"][0]["in_settings"], false);
    let wanted = place.path("wanted");
    place.pgkeep(&["wal-fetch", &last, wanted.to_str().unwrap()]).fails_with(200);
    place.set("BACKUP_ENCRYPTION_KEY", &format!("{new},{old}"));
    place.pgkeep(&["wal-fetch", &last, wanted.to_str().unwrap()]).ok();
    let text = place.pgkeep(&["key", "rotate"]).ok().stdout;
    assert!(text.contains(&format!("(up to {last})")), "{text}");
}

#[test]
fn without_the_old_key_nothing_is_changed() {
    let place = Place::ready();
    let (_, old) = sealed(&place, 1);
    let before = fs::read(place.backups()[0].join("manifest")).unwrap();
    place.set("BACKUP_ENCRYPTION_KEY", &new_key());
    let report = rotate(&place, 3);
    assert_eq!((&report["manifests"], &report["needed"][0]["in_settings"]), (&0.into(), &false.into()));
    assert_eq!(fs::read(place.backups()[0].join("manifest")).unwrap(), before);
    place.set("BACKUP_ENCRYPTION_KEY", &old);
    place.pgkeep(&["verify", "--deep"]).ok();
}

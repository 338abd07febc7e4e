//! That a backup is to be kept is said in the stores: it outlives the catalog, other hosts hold to it, and nobody without
//! the key can take it back.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::cleanup::{age, aged, cleanup, going};
use crate::clouds::Clouds;
use crate::support::faults::stopped_at;
use crate::support::{Place, cluster};

/// The wishes in the local store: backup and name.
fn said(place: &Place) -> Vec<String> {
    let found = place.files("store/test/kept");
    found.into_iter().filter(|name| name.contains('/')).collect()
}

/// The catalog is gone, and so are its saved copies; all that is left is what is in the store.
fn lose_the_catalog(place: &Place, ids: &[String], days: &[i64]) {
    fs::remove_dir_all(place.state()).unwrap();
    fs::remove_dir_all(place.store().join("test/catalog")).unwrap();
    place.pgkeep(&["catalog", "rebuild"]);
    for (id, days) in ids.iter().zip(days) {
        age(place, id, *days);
    }
}

#[test]
fn a_wish_outlives_the_catalog_and_its_saved_copies() {
    const DAYS: [i64; 5] = [100, 95, 3, 2, 0];
    let place = Place::ready();
    let ids = aged(&place, &cluster().fresh_shop(), &DAYS);
    let kept =
        place.pgkeep(&["--output", "json", "keep", &ids[0], "--reason", "the auditors' one"]).ok().json();
    assert_eq!(said(&place).len(), 1);
    lose_the_catalog(&place, &ids, &DAYS);
    let listed = place.pgkeep(&["--output", "json", "list"]).ok().json();
    let row = listed["backups"].as_array().unwrap().iter().find(|row| row["id"] == ids[0].as_str()).unwrap();
    assert_eq!(row["kept"], kept["kept"], "who, when and why");
    assert_eq!(going(&cleanup(&place, &[]).ok().json()), [ids[1].clone()]);
    place.pgkeep(&["unkeep", &ids[0]]).ok();
    assert_eq!(said(&place).len(), 2);
    lose_the_catalog(&place, &ids, &DAYS);
    // Of the two words the last one counts, and when the backup is gone nothing is left to be said.
    assert_eq!(going(&cleanup(&place, &[]).ok().json()), [ids[0].clone()]);
    assert_eq!(said(&place), [""; 0]);
    place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn the_cleanup_of_another_host_holds_to_it() {
    const DAYS: [i64; 4] = [100, 3, 2, 0];
    let clouds = Clouds::ready();
    let ids = aged(&clouds.place, &cluster().fresh_shop(), &DAYS);
    let second = Place::new();
    second.set("BACKUP_ENCRYPTION_KEY", &clouds.place.setting("BACKUP_ENCRYPTION_KEY"));
    clouds.settings_of_r2(&second);
    clouds.settings_of_b2(&second);
    second.init();
    second.pgkeep(&["catalog", "rebuild"]).ok();
    second.pgkeep(&["sync"]).ok();
    for (id, days) in ids.iter().zip(DAYS) {
        age(&second, id, days);
    }
    assert_eq!(going(&cleanup(&second, &["--dry-run"]).ok().json()), [ids[0].clone()]);
    clouds.place.pgkeep(&["keep", &ids[0], "--reason", "wanted here"]).ok();
    // The other host's catalog has never heard of it.
    let plan = cleanup(&second, &[]).ok().json();
    assert_eq!(going(&plan), [""; 0]);
    let verdict =
        plan["backups"].as_array().unwrap().iter().find(|it| it["backup"] == ids[0].as_str()).unwrap();
    assert_eq!(verdict["reasons"][0], "pinned, wanted here");
    // Its own local store did not have the word, and has it now.
    assert_eq!(said(&second).len(), 1);
    second.pgkeep(&["unkeep", &ids[0]]).ok();
    assert_eq!(going(&cleanup(&clouds.place, &[]).ok().json()), [ids[0].clone()]);
    for cloud in [&clouds.r2, &clouds.b2] {
        assert!(
            !cloud.bucket().keys().iter().any(|key| key.contains("/kept/")),
            "nothing is left to be said"
        );
    }
}

#[test]
fn a_store_that_was_away_is_told_by_the_next_cleanup() {
    let mut clouds = Clouds::ready();
    let ids = aged(&clouds.place, &cluster().fresh_shop(), &[100, 3, 2, 0]);
    clouds.r2.proxy.go_away();
    let run = clouds.place.pgkeep(&["keep", &ids[0], "--reason", "wanted"]).ended_with(3);
    assert!(run.stdout.contains("not said in every store"), "{}", run.stdout);
    clouds.r2.proxy.come_back();
    let of_r2 = |clouds: &Clouds| {
        clouds.r2.bucket().keys().into_iter().filter(|key| key.starts_with("test/kept/")).count()
    };
    assert_eq!(of_r2(&clouds), 0);
    assert_eq!(going(&cleanup(&clouds.place, &[]).ok().json()), [""; 0]);
    assert_eq!(of_r2(&clouds), 1);
}

#[test]
fn a_wish_that_does_not_open_keeps_the_backup_and_takes_nothing_back() {
    const DAYS: [i64; 4] = [100, 3, 2, 0];
    let place = Place::ready();
    let ids = aged(&place, &cluster().fresh_shop(), &DAYS);
    place.pgkeep(&["keep", &ids[0], "--reason", "wanted"]).ok();
    let path: PathBuf = place.store().join("test/kept").join(&said(&place)[0]);
    let genuine = fs::read(&path).unwrap();
    // What somebody writes there who has no key: the same bytes under a name that takes it back.
    let forged = path.with_file_name("29991231T235959999Z-unkept");
    fs::write(&forged, &genuine).unwrap();
    crate::support::give(&forged);
    lose_the_catalog(&place, &ids, &DAYS);
    let report = cleanup(&place, &[]).ended_with(3).json();
    assert_eq!(going(&report), [""; 0]);
    let warned = |report: &Value| report["warnings"].to_string();
    assert!(warned(&report).contains("need not be kept any more can't be read"), "{report}");
    fs::remove_file(&forged).unwrap();
    let mut broken = genuine;
    let last = broken.len() - 20;
    broken[last] ^= 1;
    fs::write(&path, &broken).unwrap();
    lose_the_catalog(&place, &ids, &DAYS);
    assert_eq!(going(&cleanup(&place, &[]).ended_with(3).json()), [""; 0]);
    let shown = place.pgkeep(&["list"]).ok().stdout;
    assert!(shown.contains("(kept: a wish that can't be read)"), "{shown}");
    // Said again it can be read, and nobody is warned any more.
    place.pgkeep(&["keep", &ids[0], "--reason", "again"]).ok();
    assert_eq!(going(&cleanup(&place, &[]).ok().json()), [""; 0]);
}

#[test]
fn killed_before_the_stores_know_the_next_cleanup_tells_them() {
    let place = Place::ready();
    let ids = aged(&place, &cluster().fresh_shop(), &[100, 3, 2, 0]);
    stopped_at(&place, &["keep", &ids[0], "--reason", "wanted"], "KeepWritten", "kill").ended_with(137);
    assert_eq!(said(&place), [""; 0]);
    assert_eq!(going(&cleanup(&place, &[]).ok().json()), [""; 0]);
    assert_eq!(said(&place).len(), 1);
    stopped_at(&place, &["unkeep", &ids[0]], "KeepWritten", "kill").ended_with(137);
    assert_eq!(going(&cleanup(&place, &[]).ok().json()), [ids[0].clone()]);
    assert_eq!(said(&place), [""; 0]);
}

/// A word as another host says it, whose clock is so much ahead: the object of a `keep` or `unkeep` under a later time.
fn said_later(place: &Place, from: &str, later: &str) {
    let directory = place.store().join("test/kept");
    fs::rename(directory.join(from), directory.join(later)).unwrap();
}

#[test]
fn the_last_word_counts_whatever_the_clocks_say() {
    let place = Place::ready();
    let ids = aged(&place, &cluster().fresh_shop(), &[100, 3, 2, 0]);
    // As if it had been said by a host whose clock is a year ahead.
    place.pgkeep(&["keep", &ids[0], "--reason", "from elsewhere"]).ok();
    let name = said(&place)[0].clone();
    said_later(&place, &name, &format!("{}/20990101T000000000Z-kept", ids[0]));
    place.pgkeep(&["unkeep", &ids[0]]).ended_with(0);
    assert_eq!(going(&cleanup(&place, &["--dry-run"]).ended_with(0).json()), [ids[0].clone()]);
    place.pgkeep(&["keep", &ids[0], "--reason", "after all"]).ended_with(0);
    assert_eq!(going(&cleanup(&place, &[]).ended_with(0).json()), [""; 0]);
    let shown = place.pgkeep(&["list"]).ok().stdout;
    assert!(shown.contains("(kept: after all)"), "{shown}");
}

#[test]
fn what_another_host_has_deleted_is_not_said_to_be_kept() {
    let place = Place::ready();
    let ids = aged(&place, &cluster().fresh_shop(), &[100, 3, 2, 0]);
    fs::remove_dir_all(place.store().join("test/backups").join(&ids[0])).unwrap();
    let refused = place.pgkeep(&["keep", &ids[0], "--reason", "wanted"]).fails_with(1);
    assert!(refused.stderr.contains("in no store any more"), "{}", refused.stderr);
}

#[test]
fn a_store_that_was_away_and_has_the_word_and_the_backup_brings_it_back() {
    let mut clouds = Clouds::ready();
    let ids = aged(&clouds.place, &cluster().fresh_shop(), &[100, 3, 2, 0]);
    clouds.place.pgkeep(&["keep", &ids[0], "--reason", "wanted"]).ok();
    // As another host's cleanup, which can't reach R2, sees it: only that one has the word.
    clouds.place.catalog("UPDATE backups SET kept_at = NULL, kept_by = NULL, kept_reason = NULL");
    fs::remove_dir_all(clouds.place.store().join("test/kept")).unwrap();
    for key in clouds.b2.bucket().keys().into_iter().filter(|key| key.starts_with("test/kept/")) {
        clouds.b2.bucket().lose(&key);
    }
    clouds.r2.proxy.go_away();
    assert_eq!(going(&cleanup(&clouds.place, &[]).ended_with(3).json()), [ids[0].clone()]);
    clouds.r2.proxy.come_back();
    let report = cleanup(&clouds.place, &[]).ended_with(3).json();
    assert!(report["warnings"].to_string().contains("still whole in r2 and stays"), "{report}");
    let shown = clouds.place.pgkeep(&["list"]).ok().stdout;
    assert!(shown.contains(&ids[0]), "{shown}");
    clouds.place.pgkeep(&["sync"]).ok();
    assert_eq!(going(&cleanup(&clouds.place, &[]).ok().json()), [""; 0]);
    let shown = clouds.place.pgkeep(&["list"]).ok().stdout;
    assert!(shown.contains("(kept: wanted)"), "{shown}");
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

//! What a command asks of the clouds, request by request: each costs time and money.

use std::collections::BTreeSet;
use std::fs;

use crate::clouds::{Cloud, Clouds};
use crate::support::{give, many};

/// Three pages of a listing.
const BACKUPS: usize = 25;
const OBJECTS: usize = 100;

/// The first page of the backups, and one that follows.
const FIRST: &str = "GET /keep?list-type=2&max-keys=1000&prefix=test%2Fbackups%2F";
const NEXT: &str = "GET /keep?list-type=2&max-keys=1000&prefix=test%2Fbackups%2F&continuation-token=";
const IDENTITY: &str = "GET /keep/test/identity";

/// Three stores with 2,500 objects each, all of them known to the catalog.
fn many_objects() -> Clouds {
    let clouds = Clouds::ready();
    many::fill_catalog(&clouds.place, BACKUPS, OBJECTS, &["local", "r2", "b2"]);
    // They are said to have been made long ago.
    clouds.place.set("BACKUP_PROOF_MAX_AGE", "10000d");
    let (r2, b2) = (clouds.r2.bucket(), clouds.b2.bucket());
    for key in many::keys("test", BACKUPS, OBJECTS) {
        r2.write(&key, many::CONTENT);
        b2.write(&key, many::CONTENT);
        let path = clouds.place.store().join(&key);
        let directory = path.parent().unwrap();
        fs::create_dir_all(directory).unwrap();
        give(directory);
        fs::write(&path, many::CONTENT).unwrap();
    }
    clouds
}

/// What the cloud is asked meanwhile, sorted, without what saving the catalog at the run's end takes: that is looked at
/// here, once and for all.
#[track_caller]
fn asked(cloud: &Cloud, meanwhile: impl FnOnce()) -> Vec<String> {
    let before = cloud.proxy.seen().len();
    meanwhile();
    let mut seen = cloud.proxy.seen().split_off(before);
    seen.sort();
    let of_catalog =
        |request: &mut String| request.contains("test/catalog/") || request.contains("test%2Fcatalog");
    let saving: Vec<String> = seen.extract_if(.., of_catalog).collect();
    let [list, head, put] = saving.as_slice() else { panic!("{saving:#?}") };
    assert!(list.starts_with("GET /keep?list-type=2&max-keys=1000&prefix=test%2Fcatalog%2F"), "{list}");
    let saved = head.strip_prefix("HEAD ");
    assert!(saved.is_some() && saved == put.strip_prefix("PUT "), "{saving:#?}");
    assert_eq!(seen.remove(0), IDENTITY, "asked for once more before the catalog is written");
    seen
}

#[track_caller]
fn assert_one_listing(asked: &[String]) {
    // The backups once, page by page, and the WAL once.
    assert_eq!(asked.len(), 5, "{asked:#?}");
    assert_eq!(asked[0], IDENTITY);
    assert_eq!(asked[1], FIRST);
    assert!(asked[4].ends_with("prefix=test%2Fwal%2F"), "{asked:#?}");
    let tokens: BTreeSet<_> = asked[2..4].iter().filter_map(|request| request.strip_prefix(NEXT)).collect();
    assert_eq!(tokens.len(), 2, "{asked:#?}");
}

#[test]
fn verify_lists_each_store_once_and_asks_for_no_single_object() {
    let clouds = many_objects();
    let b2_asked = asked(&clouds.b2, || {
        let r2_asked = asked(&clouds.r2, || {
            let report = clouds.place.pgkeep(&["--output", "json", "verify"]).ok().json();
            assert_eq!(report["objects"], 3 * BACKUPS * OBJECTS);
        });
        assert_one_listing(&r2_asked);
    });
    assert_one_listing(&b2_asked);
}

#[test]
fn verify_asks_no_more_where_objects_are_missing_or_of_another_size() {
    let clouds = many_objects();
    let bucket = clouds.b2.bucket();
    for key in many::keys("test", BACKUPS, OBJECTS).iter().step_by(50) {
        bucket.lose(key);
    }
    for key in many::keys("test", BACKUPS, OBJECTS).iter().skip(1).step_by(100) {
        bucket.change(key, |bytes| bytes.push(b'x'));
    }
    let asked = asked(&clouds.b2, || {
        let report = clouds.place.pgkeep(&["--output", "json", "verify"]).ended_with(4).json();
        assert_eq!(report["findings"].as_array().unwrap().len(), 50 + 25);
    });
    assert_one_listing(&asked);
}

#[test]
fn verify_of_one_store_asks_the_others_only_whose_they_are() {
    let clouds = many_objects();
    let b2_asked = asked(&clouds.b2, || {
        let r2_asked = asked(&clouds.r2, || {
            clouds.place.pgkeep(&["verify", "--store", "r2"]).ok();
        });
        assert_one_listing(&r2_asked);
    });
    assert_eq!(b2_asked, [IDENTITY]);
}

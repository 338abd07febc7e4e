//! One suite for every store and every layer: what [`pgkeep::store`] promises, each of them keeps.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgkeep::model::StoreName;
use pgkeep::store::{
    Body, Clock, Limits, LocalStore, MachineClock, Part, Patience, Rate, Retried, S3Place, S3Store, Store,
    StoreErrorKind, Throttled, Verified, cloud,
};
use pgkeep::system::Secret;

use crate::support::s3::{Options, S3};

/// Larger than one part, and no multiple of it.
const LARGE: usize = (40 << 20) + 1;

/// A bucket of this server as a place.
pub(crate) fn place(s3: &S3, endpoint: String, bucket: &str, keeps_versions: bool) -> S3Place {
    s3.bucket(bucket);
    S3Place {
        name: if keeps_versions { StoreName::B2 } else { StoreName::R2 },
        endpoint,
        region: "auto".to_owned(),
        bucket: bucket.to_owned(),
        access_key: s3.access_key().to_owned(),
        secret_key: Secret::new(s3.secret_key()),
        keeps_versions,
    }
}

/// A store in that bucket, without layers.
pub(crate) fn bare(s3: &S3, bucket: &str) -> S3Store {
    S3Store::with_limits(place(s3, s3.endpoint(), bucket, false), Limits::default()).unwrap()
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(MachineClock::default())
}

/// Fast enough not to be noticed.
fn rate() -> Rate {
    Rate::new(1 << 40, clock())
}

/// Everything that is a store, each with a place of its own, and what they stand on.
struct All {
    stores: Vec<(&'static str, Arc<dyn Store>)>,
    directory: tempfile::TempDir,
    _servers: (S3, S3),
}

impl All {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (r2, b2) = (S3::start(), S3::with(Options::b2()));
        let local = |name: &str| LocalStore::new(directory.path().join(name));
        let patience = Patience::default();
        let versions = || place(&b2, b2.endpoint(), "with-versions", true);
        let stores: Vec<(&'static str, Arc<dyn Store>)> = vec![
            ("local", Arc::new(local("plain"))),
            ("s3", Arc::new(bare(&r2, "plain"))),
            ("s3 with versions", Arc::new(S3Store::new(versions()).unwrap())),
            ("verified local", Arc::new(Verified::new(local("verified")))),
            ("verified s3", Arc::new(Verified::new(bare(&r2, "verified")))),
            ("throttled local", Arc::new(Throttled::new(local("throttled"), rate()))),
            ("throttled s3", Arc::new(Throttled::new(bare(&r2, "throttled"), rate()))),
            ("retried local", Arc::new(Retried::new(local("retried"), patience, clock()))),
            ("retried s3", Arc::new(Retried::new(bare(&r2, "retried"), patience, clock()))),
            ("cloud", cloud(place(&r2, r2.endpoint(), "cloud", false), Some(1 << 40)).unwrap()),
            ("cloud with versions", cloud(place(&b2, b2.endpoint(), "cloud", true), None).unwrap()),
        ];
        Self { stores, directory, _servers: (r2, b2) }
    }

    fn each(&self) -> impl Iterator<Item = (&'static str, &dyn Store)> {
        self.stores.iter().map(|(name, store)| (*name, &**store))
    }
}

/// Bytes that differ everywhere, so that no part can stand for another.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn file(directory: &Path, bytes: &[u8]) -> Body {
    let path = directory.join(format!("to-send-{}", bytes.len()));
    std::fs::write(&path, bytes).unwrap();
    Body::file(path, bytes.len() as u64)
}

#[tokio::test]
async fn what_was_put_is_read_whole_and_by_ranges() {
    let all = All::new();
    for (name, store) in all.each() {
        let content = bytes(1_000);
        store.put("main/a b+c/object", Body::Bytes(content.clone())).await.unwrap();
        let info = store.head("main/a b+c/object").await.unwrap().unwrap();
        assert_eq!((info.key.as_str(), info.size), ("main/a b+c/object", 1_000), "{name}");
        assert!(info.modified.is_some(), "{name} says when it was written");
        assert_eq!(store.get_small("main/a b+c/object").await.unwrap().unwrap(), content, "{name}");
        for (offset, length) in [(0, 1_000), (0, 1), (999, 1), (17, 500), (500, 0)] {
            let part = store.get("main/a b+c/object", offset, length).await.unwrap();
            assert_eq!(
                part,
                content[offset as usize..(offset + length) as usize],
                "{name} {offset} {length}"
            );
        }
        let sent = file(all.directory.path(), &bytes(5_000));
        store.put("main/file", sent.clone()).await.unwrap();
        assert_eq!(store.get_small("main/file").await.unwrap().unwrap(), bytes(5_000), "{name}");
        let Body::File { path, .. } = sent else { unreachable!() };
        assert!(path.exists(), "{name} leaves the file where it is");
    }
}

#[tokio::test]
async fn what_is_not_there_is_absent_and_deleting_it_is_fine() {
    let all = All::new();
    for (name, store) in all.each() {
        assert_eq!(store.head("main/nothing").await.unwrap(), None, "{name}");
        assert_eq!(store.get_small("main/nothing").await.unwrap(), None, "{name}");
        let error = store.get("main/nothing", 0, 1).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Absent, "{name}: {error}");
        assert_eq!(error.store, store.name(), "{name}");
        assert!(error.to_string().contains(&store.locate("main/nothing")), "{name}: {error}");
        store.delete("main/nothing").await.unwrap();
    }
}

#[tokio::test]
async fn what_is_put_again_is_replaced_as_a_whole() {
    let all = All::new();
    for (name, store) in all.each() {
        for content in [bytes(900), bytes(20), Vec::new(), bytes(300)] {
            store.put("main/again", Body::Bytes(content.clone())).await.unwrap();
            assert_eq!(store.get_small("main/again").await.unwrap(), Some(content.clone()), "{name}");
            assert_eq!(store.head("main/again").await.unwrap().unwrap().size, content.len() as u64, "{name}");
        }
        store.delete_old_versions("main/again").await.unwrap();
        assert_eq!(store.get_small("main/again").await.unwrap(), Some(bytes(300)), "{name}");
    }
}

#[tokio::test]
async fn a_range_beyond_the_end_is_short_and_no_part_of_it_comes() {
    let all = All::new();
    for (name, store) in all.each() {
        store.put("main/short", Body::Bytes(bytes(100))).await.unwrap();
        store.put("main/empty", Body::Bytes(Vec::new())).await.unwrap();
        for (key, offset, length) in [("main/short", 0, 101), ("main/short", 100, 1), ("main/empty", 0, 1)] {
            let error = store.get(key, offset, length).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Short, "{name} {key} {offset}: {error}");
        }
    }
}

#[tokio::test]
async fn a_list_holds_what_is_under_the_prefix_and_nothing_else() {
    let all = All::new();
    for (name, store) in all.each() {
        for key in ["main/b/2", "main/a/1", "main/a/0/deep", "main/ab", "other/a/1"] {
            store.put(key, Body::Bytes(key.as_bytes().to_vec())).await.unwrap();
        }
        let listed = |objects: Vec<pgkeep::store::ObjectInfo>| -> Vec<(String, u64)> {
            objects.into_iter().map(|object| (object.key, object.size)).collect()
        };
        let expected = [("main/a/0/deep".to_owned(), 13), ("main/a/1".to_owned(), 8)];
        assert_eq!(listed(store.list("main/a/").await.unwrap()), expected, "{name}");
        assert_eq!(store.list("main/").await.unwrap().len(), 4, "{name}");
        assert_eq!(store.list("").await.unwrap().len(), 5, "{name}");
        assert_eq!(store.list("none/").await.unwrap(), [], "{name}");
    }
}

#[tokio::test]
async fn what_was_deleted_is_gone_and_may_be_deleted_again() {
    let all = All::new();
    for (name, store) in all.each() {
        for content in ["first", "second"] {
            store.put("main/gone/object", Body::Bytes(content.into())).await.unwrap();
        }
        for _ in 0..2 {
            store.delete("main/gone/object").await.unwrap();
            assert_eq!(store.head("main/gone/object").await.unwrap(), None, "{name}");
            assert_eq!(store.list("main/").await.unwrap(), [], "{name}");
        }
        store.put("main/gone/object", Body::Bytes(b"back".into())).await.unwrap();
        assert_eq!(store.get_small("main/gone/object").await.unwrap(), Some(b"back".into()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_deleted_at_once_and_their_neighbours_stay() {
    let all = All::new();
    for (name, store) in all.each() {
        let keys: Vec<String> = (0..30).map(|n| format!("main/many/{}/a & <b> {n}", n % 3)).collect();
        for content in ["first", "second"] {
            for key in &keys[..20] {
                store.put(key, Body::Bytes(content.into())).await.unwrap();
            }
        }
        store.put("main/many/0/a & <b>", Body::Bytes(b"neighbour".into())).await.unwrap();
        // Ten of them were never there.
        for _ in 0..2 {
            store.delete_many(&keys).await.unwrap();
            let left = store.list("main/").await.unwrap();
            assert_eq!(
                left.iter().map(|it| it.key.as_str()).collect::<Vec<_>>(),
                ["main/many/0/a & <b>"],
                "{name}"
            );
        }
        store.delete_many(&["main/many/0/a & <b>".to_owned()]).await.unwrap();
        store.delete_many(&[]).await.unwrap();
        assert_eq!(store.list("main/").await.unwrap(), [], "{name}");
        let told = store.clock().await.unwrap().unwrap();
        assert!((chrono::Utc::now() - told).num_seconds().abs() < 60, "{name}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_arrives_whole_from_a_file_and_from_memory() {
    let all = All::new();
    let content = bytes(LARGE);
    let sent = file(all.directory.path(), &content);
    for (name, store) in all.each() {
        store.put("main/large", sent.clone()).await.unwrap();
        assert_eq!(store.head("main/large").await.unwrap().unwrap().size, LARGE as u64, "{name}");
        assert!(store.get("main/large", 0, LARGE as u64).await.unwrap() == content, "{name}");
        let (offset, length) = ((16 << 20) - 5, (16 << 20) + 10);
        let part = store.get("main/large", offset as u64, length as u64).await.unwrap();
        assert!(part == content[offset..offset + length], "{name}");
        store.delete("main/large").await.unwrap();
    }
    // Only those that send by parts make a difference between the two.
    for (name, store) in all.each().filter(|(_, store)| store.parts().is_some()) {
        store.put("main/large", Body::Bytes(content.clone())).await.unwrap();
        assert!(store.get_small("main/large").await.unwrap().unwrap() == content, "{name}");
        store.delete("main/large").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_objects_are_listed_each_once() {
    let s3 = S3::start();
    let (bucket, store) = (s3.bucket("many"), cloud(place(&s3, s3.endpoint(), "many", false), None).unwrap());
    for number in 0..10_000 {
        bucket.write(&format!("main/wal/{number:08}"), b"x".to_vec());
    }
    bucket.write("main/zzz", b"not asked for".to_vec());
    let keys: Vec<String> =
        store.list("main/wal/").await.unwrap().into_iter().map(|object| object.key).collect();
    let expected: Vec<String> = (0..10_000).map(|number| format!("main/wal/{number:08}")).collect();
    assert!(keys == expected, "{} keys", keys.len());
    assert_eq!(s3.requests_of("ListObjectsV2"), 10, "a page holds a thousand");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_keeps_versions_keeps_nothing_of_what_was_deleted() {
    let b2 = S3::with(Options::b2());
    let (bucket, store) =
        (b2.bucket("versions"), cloud(place(&b2, b2.endpoint(), "versions", true), None).unwrap());
    for content in ["one", "two", "three"] {
        store.put("main/a", Body::Bytes(content.into())).await.unwrap();
    }
    store.put("main/ab", Body::Bytes(b"its neighbour".into())).await.unwrap();
    assert_eq!(bucket.versions("main/a"), 3);
    store.delete_old_versions("main/a").await.unwrap();
    assert_eq!((bucket.versions("main/a"), bucket.read("main/a")), (1, b"three".to_vec()));
    store.put("main/a", Body::Bytes(b"four".into())).await.unwrap();
    store.delete("main/a").await.unwrap();
    assert_eq!(bucket.versions("main/a"), 0, "no version and no mark of a deletion is left");
    assert_eq!(bucket.stored_bytes(), 13, "its neighbour is all there is");
    for content in ["one", "two"] {
        store.put("main/a", Body::Bytes(content.into())).await.unwrap();
    }
    b2.change(|options| options.page_size = 2);
    b2.forget_requests();
    store.delete_many(&["main/a".to_owned(), "main/none".to_owned()]).await.unwrap();
    assert_eq!((bucket.versions("main/a"), bucket.stored_bytes()), (0, 13));
    assert_eq!(
        (b2.requests_of("DeleteObjects"), b2.requests_of("DeleteObject")),
        (2, 0),
        "old versions, then the newest"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_completed_are_found_and_given_up() {
    let s3 = S3::start();
    let (bucket, store) =
        (s3.bucket("uploads"), cloud(place(&s3, s3.endpoint(), "uploads", false), None).unwrap());
    s3.change(|options| options.page_size = 2);
    let parts = store.parts().unwrap();
    for key in ["main/a", "main/b", "main/b", "main/c", "other/a"] {
        let upload = parts.begin_upload(key).await.unwrap();
        parts.put_part(&upload, 1, &Part::new(b"a part".to_vec().into())).await.unwrap();
    }
    bucket.age(Duration::from_hours(1));
    let _young = parts.begin_upload("main/young").await.unwrap();
    let an_hour = chrono::Utc::now() - chrono::TimeDelta::minutes(30);
    assert_eq!(store.abort_unfinished("main/", an_hour).await.unwrap(), 4);
    let mut left: Vec<String> = bucket.uploads().into_iter().map(|upload| upload.key).collect();
    left.sort();
    assert_eq!(left, ["main/young", "other/a"], "neither what is new nor what is another's");
    assert_eq!(store.abort_unfinished("main/", an_hour).await.unwrap(), 0);
}

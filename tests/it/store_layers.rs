//! The layers around a store, each on a store that does what the test tells it, by a clock that takes no time.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pgkeep::model::StoreName;
use pgkeep::store::{
    Body, Clock, ObjectInfo, Part, PartBuffers, PartStore, PartTag, Patience, Rate, ReadStore, Retried,
    Store, StoreError, StoreErrorKind, Throttled, Upload, Verified,
};

use crate::store_conformance::{bytes, file};

const PART: u64 = 1_000;

/// Time passes only by waiting.
#[derive(Debug, Default)]
struct TestClock(Mutex<Vec<Duration>>);

impl TestClock {
    fn waits(&self) -> Vec<Duration> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl Clock for TestClock {
    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap().iter().sum()
    }

    async fn sleep(&self, time: Duration) {
        self.0.lock().unwrap().push(time);
        tokio::task::yield_now().await;
    }
}

/// A store of one object that fails as told: each call takes the next of the failures that are meant for it.
#[derive(Debug, Default)]
struct Told {
    failures: Mutex<VecDeque<(&'static str, StoreErrorKind)>>,
    calls: Mutex<Vec<String>>,
    object: Mutex<Option<Vec<u8>>>,
    parts: Mutex<Vec<(u32, Bytes)>>,
    /// Bytes that it loses of what it is given, without a word.
    loses: usize,
    busy: AtomicUsize,
    busiest: AtomicUsize,
    /// Parts stay under way until there were so many at once.
    gathers: usize,
    /// The first part stays under way until so many others have come.
    first_waits_for: usize,
}

/// One such store for the layer and for the test that looks at it.
#[derive(Debug, Clone)]
struct Fake(Arc<Told>);

impl Deref for Fake {
    type Target = Told;

    fn deref(&self) -> &Told {
        &self.0
    }
}

impl Told {
    fn failing(failures: &[(&'static str, StoreErrorKind)]) -> Self {
        Self { failures: Mutex::new(failures.iter().copied().collect()), ..Self::default() }
    }

    fn call(&self, call: &str) -> Result<(), StoreError> {
        self.calls.lock().unwrap().push(call.to_owned());
        let mut failures = self.failures.lock().unwrap();
        match failures.iter().position(|(meant, _)| call.starts_with(meant)) {
            Some(place) => Err(failure(failures.remove(place).unwrap().1)),
            None => Ok(()),
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|made| *made == call).count()
    }

    fn keep(&self, mut bytes: Vec<u8>) {
        bytes.truncate(bytes.len().saturating_sub(self.loses));
        *self.object.lock().unwrap() = Some(bytes);
    }
}

fn failure(kind: StoreErrorKind) -> StoreError {
    let (operation, place) = ("write", "told".to_owned());
    StoreError { store: StoreName::R2, operation, place, kind, cause: "as told".to_owned() }
}

#[async_trait]
impl ReadStore for Fake {
    fn name(&self) -> StoreName {
        StoreName::R2
    }

    fn locate(&self, key: &str) -> String {
        key.to_owned()
    }

    async fn get(&self, _: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.call("get")?;
        let length = (length as usize).saturating_sub(self.loses);
        Ok(self.object.lock().unwrap().as_ref().unwrap()[offset as usize..offset as usize + length].to_vec())
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        self.call("head")?;
        let size = self.object.lock().unwrap().as_ref().map(|bytes| bytes.len() as u64);
        Ok(size.map(|size| ObjectInfo { key: key.to_owned(), size, modified: None }))
    }

    async fn list(&self, _: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.call("list").map(|()| Vec::new())
    }
}

#[async_trait]
impl Store for Fake {
    async fn put(&self, _: &str, body: Body) -> Result<(), StoreError> {
        self.call("put")?;
        let Body::Bytes(bytes) = body else { unreachable!() };
        self.keep(bytes);
        Ok(())
    }

    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        self.call("delete")
    }

    fn parts(&self) -> Option<&dyn PartStore> {
        Some(self)
    }
}

#[async_trait]
impl PartStore for Fake {
    fn part_size(&self, _: u64) -> u64 {
        PART
    }

    fn parts_at_once(&self) -> usize {
        3
    }

    fn buffers(&self) -> PartBuffers {
        PartBuffers::default()
    }

    async fn begin_upload(&self, key: &str) -> Result<Upload, StoreError> {
        self.call("begin")?;
        Ok(Upload { key: key.to_owned(), id: "1".to_owned() })
    }

    async fn put_part(&self, _: &Upload, number: u32, part: &Part) -> Result<PartTag, StoreError> {
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.busiest.fetch_max(busy, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let few = || self.busiest.load(Ordering::SeqCst) < self.gathers;
        let first = || number == 1 && self.parts.lock().unwrap().len() < self.first_waits_for;
        for _ in 0..5_000 {
            if !few() && !first() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.busy.fetch_sub(1, Ordering::SeqCst);
        self.call(&format!("part {number}"))?;
        self.parts.lock().unwrap().push((number, part.bytes().clone()));
        Ok(PartTag { number, tag: number.to_string() })
    }

    async fn complete_upload(&self, _: &Upload, parts: &[PartTag], size: u64) -> Result<(), StoreError> {
        self.call("complete")?;
        let held = self.parts.lock().unwrap().clone();
        let part = |tag: &PartTag| held.iter().find(|(number, _)| *number == tag.number).unwrap().1.clone();
        let whole: Vec<u8> = parts.iter().flat_map(part).collect();
        assert_eq!(whole.len() as u64, size);
        self.keep(whole);
        Ok(())
    }

    async fn abort_upload(&self, _: &Upload) -> Result<(), StoreError> {
        self.call("abort")
    }
}

fn retried(told: Told) -> (Fake, Arc<TestClock>, Retried<Fake>) {
    let (told, clock) = (Fake(Arc::new(told)), Arc::new(TestClock::default()));
    let store = Retried::new(told.clone(), Patience::default(), Arc::clone(&clock) as Arc<dyn Clock>);
    (told, clock, store)
}

const BUSY: StoreErrorKind = StoreErrorKind::SlowDown { wait: None };

#[tokio::test]
async fn what_passes_is_repeated_with_waits_that_may_grow() {
    let kinds = [
        BUSY,
        StoreErrorKind::Server,
        StoreErrorKind::Broken,
        StoreErrorKind::Timeout,
        StoreErrorKind::Differs,
    ];
    let (told, clock, store) = retried(Told::failing(&kinds.map(|kind| ("put", kind))));
    store.put("key", Body::Bytes(vec![7])).await.unwrap();
    assert_eq!(told.count("put"), 6);
    let (waits, patience) = (clock.waits(), Patience::default());
    assert_eq!(waits.len(), 5);
    for (n, wait) in waits.iter().enumerate() {
        let bound = patience.first * 2_u32.pow(n as u32);
        assert!(*wait <= bound.min(patience.longest), "wait {n} is {wait:?} of {bound:?}");
    }
}

#[tokio::test]
async fn waits_differ_from_run_to_run() {
    let mut waits = Vec::new();
    for _ in 0..20 {
        let (_, clock, store) = retried(Told::failing(&[("head", BUSY)]));
        store.head("key").await.unwrap();
        waits.extend(clock.waits());
    }
    waits.sort();
    waits.dedup();
    assert!(waits.len() > 15, "{waits:?}");
}

#[tokio::test]
async fn what_cannot_pass_is_not_repeated() {
    for kind in [
        StoreErrorKind::Absent,
        StoreErrorKind::Short,
        StoreErrorKind::Denied,
        StoreErrorKind::Credentials,
        StoreErrorKind::Clock,
        StoreErrorKind::NoBucket,
        StoreErrorKind::Full,
        StoreErrorKind::ReadOnly,
        StoreErrorKind::Untrusted,
        StoreErrorKind::Failed,
    ] {
        let (told, clock, store) = retried(Told::failing(&[("put", kind)]));
        let error = store.put("key", Body::Bytes(vec![7])).await.unwrap_err();
        assert_eq!((error.kind, error.cause.as_str()), (kind, "as told"));
        assert_eq!((told.count("put"), clock.waits().len()), (1, 0), "{kind:?}");
    }
}

#[tokio::test]
async fn a_busy_store_is_left_alone_for_as_long_as_it_says() {
    let asked = Duration::from_secs(40);
    let (_, clock, store) =
        retried(Told::failing(&[("head", StoreErrorKind::SlowDown { wait: Some(asked) })]));
    store.head("key").await.unwrap();
    assert!(clock.waits()[0] >= asked, "{:?}", clock.waits());
    let too_long = StoreErrorKind::SlowDown { wait: Some(Duration::from_mins(10)) };
    let (told, clock, store) = retried(Told::failing(&[("head", too_long)]));
    assert_eq!(store.head("key").await.unwrap_err().kind, too_long);
    assert_eq!(
        (told.count("head"), clock.waits().len()),
        (1, 0),
        "longer than the patience: no use in waiting"
    );
}

#[tokio::test]
async fn patience_has_an_end_and_the_error_says_so() {
    let (told, clock, store) = retried(Told::failing(&[("get", BUSY); 100]));
    let error = store.get("key", 0, 1).await.unwrap_err();
    assert_eq!(told.count("get"), Patience::default().attempts as usize);
    assert!(clock.elapsed() <= Patience::default().total);
    assert!(error.cause.starts_with("as told (given up after 8 attempts in "), "{}", error.cause);
}

#[tokio::test]
async fn a_store_that_stayed_away_is_asked_only_once_until_it_answers() {
    let away = StoreErrorKind::Unreachable;
    let (told, _, store) = retried(Told::failing(&[("head", away); 6]));
    let few = Patience::default().attempts_to_connect as usize;
    assert_eq!(store.head("key").await.unwrap_err().kind, away);
    assert_eq!(told.count("head"), few);
    for more in 1..=6 - few {
        assert_eq!(store.head("key").await.unwrap_err().kind, away);
        assert_eq!(told.count("head"), few + more);
    }
    store.head("key").await.unwrap();
    told.failures.lock().unwrap().push_back(("head", away));
    store.head("key").await.unwrap();
    assert_eq!(told.count("head"), 9, "it has answered, so it is waited for again");
}

#[tokio::test]
async fn a_part_that_fails_is_sent_again_alone() {
    let failing = Told::failing(&[("part 2", BUSY), ("part 2", BUSY), ("complete", BUSY)]);
    let (told, _, store) = retried(Told { gathers: 3, ..failing });
    let directory = tempfile::tempdir().unwrap();
    let content = bytes(5 * PART as usize + 1);
    store.put("key", file(directory.path(), &content)).await.unwrap();
    assert!(told.object.lock().unwrap().as_ref() == Some(&content));
    let counts: Vec<usize> = (1..=6).map(|number| told.count(&format!("part {number}"))).collect();
    assert_eq!(counts, [1, 3, 1, 1, 1, 1]);
    assert_eq!((told.count("begin"), told.count("complete"), told.count("abort")), (1, 2, 0));
    assert_eq!(told.busiest.load(Ordering::SeqCst), 3, "as many at once as the store takes, and no more");
    let sizes: Vec<usize> = told.parts.lock().unwrap().iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!((sizes.iter().filter(|size| **size == PART as usize).count(), sizes.contains(&1)), (5, true));
}

#[tokio::test]
async fn a_part_that_takes_long_keeps_no_other_waiting_and_has_its_place() {
    let (told, _, store) = retried(Told { first_waits_for: 5, ..Told::default() });
    let directory = tempfile::tempdir().unwrap();
    let content = bytes(5 * PART as usize + 1);
    store.put("key", file(directory.path(), &content)).await.unwrap();
    let order: Vec<u32> = told.parts.lock().unwrap().iter().map(|(number, _)| *number).collect();
    assert_eq!(order.last(), Some(&1), "{order:?}");
    assert!(told.object.lock().unwrap().as_ref() == Some(&content));
}

#[tokio::test]
async fn an_upload_that_fails_is_given_up() {
    let (told, _, store) = retried(Told::failing(&[("part 3", StoreErrorKind::Denied)]));
    let error = store.put("key", Body::Bytes(bytes(5_000))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert_eq!((told.count("complete"), told.count("abort")), (0, 1));
    assert_eq!(*told.object.lock().unwrap(), None);

    let failures = [("part 3", StoreErrorKind::Denied), ("abort", StoreErrorKind::Failed)];
    let (_, _, store) = retried(Told::failing(&failures));
    let error = store.put("key", Body::Bytes(bytes(5_000))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied, "the first error counts, not the one of clearing up");
}

#[tokio::test]
async fn the_rate_holds_over_all_parts_and_repeats_pay() {
    let (told, clock) = (
        Fake(Arc::new(Told::failing(&[("part 2", BUSY), ("part 2", BUSY)]))),
        Arc::new(TestClock::default()),
    );
    let rate = Rate::new(PART / 10, Arc::clone(&clock) as Arc<dyn Clock>);
    let none = Patience { first: Duration::ZERO, ..Patience::default() };
    let throttled = Throttled::new(told.clone(), rate);
    let store = Retried::new(throttled, none, Arc::clone(&clock) as Arc<dyn Clock>);
    store.put("key", Body::Bytes(bytes(4 * PART as usize))).await.unwrap();
    // Six parts were sent at ten seconds each; the first goes at once, and a request after them would wait for all.
    let begun: u64 = clock.elapsed().as_secs();
    assert!(begun >= 50, "{begun} s: {:?}", clock.waits());
    store.get("key", 0, 1).await.unwrap();
    assert!(clock.elapsed().as_secs() >= 60, "reading waits its turn, too");
}

#[tokio::test]
async fn a_store_that_loses_bytes_without_a_word_is_found_out() {
    let lying = || Fake(Arc::new(Told { loses: 1, ..Told::default() }));
    let store = Verified::new(lying());
    let error = store.put("key", Body::Bytes(vec![1, 2, 3])).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Differs);
    assert!(error.cause.contains("took 3 bytes") && error.cause.contains("has 2 now"), "{error}");
    assert_eq!(store.get("key", 0, 2).await.unwrap_err().kind, StoreErrorKind::Differs);

    let large = lying();
    let error = Verified::new(large.clone()).put("key", Body::Bytes(bytes(2_500))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Differs);
    assert_eq!(large.count("abort"), 1);
    let honest = Verified::new(Fake(Arc::default()));
    honest.put("key", Body::Bytes(bytes(2_500))).await.unwrap();
}

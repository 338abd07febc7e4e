//! Faults above the retry: what all the layers could not mend reaches the code that holds several stores, which then
//! does without that store and does not ask it again and again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use pgkeep::model::{Stage, StoreName};
use pgkeep::store::{
    Body, LocalStore, ObjectInfo, Placing, ReadReplicas, ReadStore, Store, StoreError, StoreErrorKind, cloud,
};
use pgkeep::system::Stop;

use crate::store_conformance::{bytes, place};
use crate::support::s3::{Options, S3};

/// Every failure that a store may end with.
const KINDS: [StoreErrorKind; 9] = [
    StoreErrorKind::Unreachable,
    StoreErrorKind::Timeout,
    StoreErrorKind::Broken,
    StoreErrorKind::Denied,
    StoreErrorKind::NoBucket,
    StoreErrorKind::Full,
    StoreErrorKind::SlowDown { wait: None },
    StoreErrorKind::Differs,
    StoreErrorKind::Credentials,
];

/// A whole store, layers and all, of which one call fails, counted from 0, without reaching it.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Store>,
    call: usize,
    kind: StoreErrorKind,
    calls: AtomicUsize,
}

impl Faulty {
    fn over(inner: Arc<dyn Store>, call: usize, kind: StoreErrorKind) -> Arc<Self> {
        Arc::new(Self { inner, call, kind, calls: AtomicUsize::new(0) })
    }

    fn call(&self, key: &str) -> Result<(), StoreError> {
        if self.calls.fetch_add(1, Ordering::SeqCst) != self.call {
            return Ok(());
        }
        let (store, place) = (self.name(), key.to_owned());
        Err(StoreError { store, operation: "ask for", place, kind: self.kind, cause: "as told".to_owned() })
    }
}

#[async_trait]
impl ReadStore for Faulty {
    fn name(&self) -> StoreName {
        self.inner.name()
    }

    fn locate(&self, key: &str) -> String {
        self.inner.locate(key)
    }

    async fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.call(key)?;
        self.inner.get(key, offset, length).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        self.call(key)?;
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.call(prefix)?;
        self.inner.list(prefix).await
    }
}

#[async_trait]
impl Store for Faulty {
    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.call(key)?;
        self.inner.put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.call(key)?;
        self.inner.delete(key).await
    }
}

/// Three whole stores and the servers of two of them.
struct Three {
    stores: [Arc<dyn Store>; 3],
    servers: [S3; 2],
}

impl Three {
    fn new(directory: &Path) -> Self {
        let (r2, b2) = (S3::start(), S3::with(Options::b2()));
        let stores: [Arc<dyn Store>; 3] = [
            Arc::new(LocalStore::new(directory.to_owned())),
            cloud(place(&r2, r2.endpoint(), "keep", false), None).unwrap(),
            cloud(place(&b2, b2.endpoint(), "keep", true), None).unwrap(),
        ];
        Self { stores, servers: [r2, b2] }
    }

    /// The stores, one of them faulty.
    fn with_faulty(
        &self,
        index: usize,
        call: usize,
        kind: StoreErrorKind,
    ) -> (Vec<Arc<dyn Store>>, Arc<Faulty>) {
        let faulty = Faulty::over(Arc::clone(&self.stores[index]), call, kind);
        let mut stores = self.stores.to_vec();
        stores[index] = Arc::clone(&faulty) as Arc<dyn Store>;
        (stores, faulty)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_above_the_retry_takes_no_more_and_the_others_take_all() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::new(&directory.path().join("store"));
    let keys = |run: usize| {
        ["data.00000", "data.00001", "manifest"].map(|name| format!("main/backups/{run}/{name}"))
    };
    let mut run = 0;
    for index in 0..3 {
        for kind in KINDS {
            for call in 0..3 {
                run += 1;
                let keys = keys(run);
                let (stores, faulty) = three.with_faulty(index, call, kind);
                let mut placing = Placing::begin(&stores, &Arc::new(Stage::new(0)));
                for key in &keys[..2] {
                    let path = directory.path().join(format!("volume-{run}-{}", &key[key.len() - 1..]));
                    std::fs::write(&path, bytes(1_000)).unwrap();
                    placing.volume(key, path, 1_000).await.unwrap();
                }
                placing.last(&keys[2], b"the manifest").await;
                for placed in placing.finish(&Stop::default()).await {
                    let at = format!("{} {kind:?} at call {call} of {index}", placed.store);
                    let failed = placed.store == faulty.name();
                    assert_eq!(placed.keys, keys[..if failed { call } else { 3 }], "{at}");
                    assert_eq!(placed.error.map(|error| error.kind), failed.then_some(kind), "{at}");
                    let there = three.stores.iter().find(|store| store.name() == placed.store).unwrap();
                    let listed = there.list(&format!("main/backups/{run}/")).await.unwrap();
                    let listed: Vec<String> = listed.into_iter().map(|object| object.key).collect();
                    assert_eq!(listed, placed.keys, "{at}");
                }
                // It was not asked again: what is above the retry does not retry. (What a cloud holds that is not what
                // was sent is removed.)
                let removed = usize::from(kind == StoreErrorKind::Differs && index > 0);
                let asked = faulty.calls.load(Ordering::SeqCst);
                assert_eq!(asked, call + 1 + removed, "{kind:?} at {call} of {index}");
            }
        }
    }
    drop(three.servers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_above_the_retry_is_answered_by_the_next_store() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::new(&directory.path().join("store"));
    for store in &three.stores {
        store.put("main/small", Body::Bytes(b"small".to_vec())).await.unwrap();
    }
    for index in 0..3 {
        for kind in KINDS {
            let (mut stores, faulty) = three.with_faulty(index, 0, kind);
            stores.rotate_left(index);
            let reading = ReadReplicas::new(stores.into_iter().map(|store| store as Arc<dyn ReadStore>));
            for _ in 0..3 {
                assert_eq!(reading.get_small("main/small").await.unwrap().unwrap(), b"small", "{kind:?}");
            }
            assert_eq!(faulty.calls.load(Ordering::SeqCst), 1, "{kind:?}: it is asked last from then on");
            assert_eq!(reading.away()[0].0, faulty.name());
        }
    }
    drop(three.servers);
}

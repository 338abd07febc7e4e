//! The volumes of one backup on their way to all stores at once, while the next volume is being made.
//!
//! The local store takes a volume over by renaming; from there it is sent to each cloud by a lane of that cloud's
//! own. A cloud that is slow holds up neither the others nor the source, because what it has yet to send lies in the
//! local store anyway. Without a local store a bounded number of volumes waits in the spool. A cloud that has failed
//! at one volume gets no more of this backup: what it missed is copied later.
//!
//! The manifest goes the same way, behind the volumes. So each store has a whole backup as soon as it has taken
//! everything itself, the local one at once, and who is cut off while a cloud is slow has lost only that cloud's copy.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::failure::StoreResult;
use super::replicas::local_path;
use super::{Body, FileSums, Store, StoreError, StoreErrorKind};
use crate::model::{Fault, Kind, Stage, StoreName};
use crate::system::{Stop, durable};

/// How many volumes may wait in the spool when no local store holds them.
const SPOOLED: usize = 3;

/// What became of a backup's volumes in one store.
#[derive(Debug)]
pub struct Placed {
    /// The store.
    pub store: StoreName,
    /// The keys of what it has.
    pub keys: Vec<String>,
    /// Why it lacks the others, if it does.
    pub error: Option<StoreError>,
}

/// Volumes on their way.
#[derive(Debug)]
pub struct Placing {
    local: Option<(Arc<dyn Store>, Placed)>,
    lanes: Vec<Lane>,
    running: JoinSet<()>,
    room: Arc<Semaphore>,
}

/// The way to one cloud.
#[derive(Debug)]
struct Lane {
    queue: mpsc::UnboundedSender<Parcel>,
    placed: Arc<Mutex<Placed>>,
}

/// An object for one cloud.
#[derive(Debug)]
struct Parcel {
    key: String,
    size: u64,
    what: What,
}

/// Where the object's bytes are.
#[derive(Debug, Clone)]
enum What {
    File(Arc<Lying>),
    Bytes(Arc<[u8]>),
}

impl What {
    fn body(&self, size: u64) -> Body {
        match self {
            Self::File(file) => Body::File { path: file.path.clone(), size, sums: file.sums.clone() },
            Self::Bytes(bytes) => Body::Bytes(bytes.to_vec()),
        }
    }
}

/// Where a volume lies while it is sent; one in the spool goes when nobody needs it any more.
#[derive(Debug)]
struct Lying {
    path: PathBuf,
    spooled: Option<OwnedSemaphorePermit>,
    /// Made by the first cloud that it is sent to.
    sums: FileSums,
}

impl Drop for Lying {
    fn drop(&mut self) {
        if self.spooled.is_some() {
            // What stays is removed with the run's directory.
            let _ = durable::remove_file_if_there(&self.path);
        }
    }
}

impl Placing {
    /// Begins with these stores; `sent` counts what the clouds have taken.
    pub fn begin(stores: &[Arc<dyn Store>], sent: &Arc<Stage>) -> Self {
        let mut running = JoinSet::new();
        let (mut local, mut lanes) = (None, Vec::new());
        for store in stores {
            let placed = Placed { store: store.name(), keys: Vec::new(), error: None };
            if store.name() == StoreName::Local {
                local = Some((Arc::clone(store), placed));
                continue;
            }
            let (queue, parcels) = mpsc::unbounded_channel();
            let placed = Arc::new(Mutex::new(placed));
            running.spawn(send(Arc::clone(store), parcels, Arc::clone(&placed), Arc::clone(sent)));
            lanes.push(Lane { queue, placed });
        }
        Self { local, lanes, running, room: Arc::new(Semaphore::new(SPOOLED)) }
    }

    /// Takes over a finished, flushed file as the object of this key in all stores. An error when no store is left that
    /// could take it.
    pub async fn volume(&mut self, key: &str, path: PathBuf, size: u64) -> anyhow::Result<()> {
        self.place(key, path, size, |_| true).await
    }

    /// The same for some of the stores.
    pub async fn place(
        &mut self,
        key: &str,
        path: PathBuf,
        size: u64,
        to: impl Fn(StoreName) -> bool,
    ) -> anyhow::Result<()> {
        let mut lying = None;
        let local = self.local.as_mut().filter(|(_, placed)| placed.error.is_none() && to(StoreName::Local));
        if let Some((store, placed)) = local {
            match store.put(key, Body::file(path.clone(), size)).await {
                Ok(()) => {
                    placed.keys.push(key.to_owned());
                    lying = Some(Lying {
                        path: local_path(&**store, key),
                        spooled: None,
                        sums: FileSums::default(),
                    });
                }
                Err(error) => placed.error = Some(error),
            }
        }
        let open = || self.lanes.iter().filter(|lane| lane.is_open() && to(lane.store()));
        let lying = match lying {
            Some(lying) => lying,
            // Nobody would ever send it on, and nobody has it.
            None if open().next().is_none() => return Err(self.first_failure()),
            None => {
                // Waits for the slowest cloud: the spool has its bound.
                let permit = Arc::clone(&self.room).acquire_owned().await?;
                Lying { path, spooled: Some(permit), sums: FileSums::default() }
            }
        };
        self.hand_out(key, size, &What::File(Arc::new(lying)), to);
        Ok(())
    }

    /// Gives the last object of a backup to every store that takes, or has yet to take, all the others: at once to
    /// the local store, to a cloud when it has the rest.
    pub async fn last(&mut self, key: &str, bytes: &[u8]) {
        if let Some((store, placed)) = self.local.as_mut().filter(|(_, placed)| placed.error.is_none()) {
            match store.put(key, Body::Bytes(bytes.to_vec())).await {
                Ok(()) => placed.keys.push(key.to_owned()),
                Err(error) => placed.error = Some(error),
            }
        }
        self.hand_out(key, bytes.len() as u64, &What::Bytes(bytes.into()), |_| true);
    }

    /// Sends an object that lies in the local store already to some of the clouds.
    pub fn forward(&mut self, key: &str, path: PathBuf, size: u64, to: impl Fn(StoreName) -> bool) {
        self.hand_out(
            key,
            size,
            &What::File(Arc::new(Lying { path, spooled: None, sums: FileSums::default() })),
            to,
        );
    }

    fn hand_out(&self, key: &str, size: u64, what: &What, to: impl Fn(StoreName) -> bool) {
        for lane in self.lanes.iter().filter(|lane| lane.is_open() && to(lane.store())) {
            let parcel = Parcel { key: key.to_owned(), size, what: what.clone() };
            // A lane that has ended in this moment has said why.
            let _ = lane.queue.send(parcel);
        }
    }

    /// Whether the store still takes objects.
    pub fn takes(&self, store: StoreName) -> bool {
        let local = self.local.iter().any(|(_, placed)| placed.store == store && placed.error.is_none());
        local || self.lanes.iter().any(|lane| lane.store() == store && lane.is_open())
    }

    /// Waits until every cloud has taken its volumes or failed. Breaks off what is being sent when `stop` is asked for.
    pub async fn finish(mut self, stop: &Stop) -> Vec<Placed> {
        let lanes = std::mem::take(&mut self.lanes);
        // The queues end here, and with them, when all is sent, the lanes.
        let placed: Vec<_> = lanes.into_iter().map(|lane| lane.placed).collect();
        let all = async { while self.running.join_next().await.is_some() {} };
        tokio::select! {
            () = all => {}
            () = stop.requested() => {}
        }
        self.running.shutdown().await;
        let local = self.local.take().map(|(_, placed)| placed);
        let taken = |placed: Arc<Mutex<Placed>>| {
            let mut placed = placed.lock().unwrap_or_else(PoisonError::into_inner);
            Placed { store: placed.store, keys: std::mem::take(&mut placed.keys), error: placed.error.take() }
        };
        local.into_iter().chain(placed.into_iter().map(taken)).collect()
    }

    /// Breaks off what is being sent; nothing is on its way any more when this returns.
    pub async fn abandon(mut self) {
        self.lanes.clear();
        self.running.shutdown().await;
    }

    fn first_failure(&mut self) -> anyhow::Error {
        let local = self.local.as_mut().and_then(|(_, placed)| placed.error.take());
        let cloud = || {
            self.lanes
                .iter()
                .find_map(|lane| lane.placed.lock().unwrap_or_else(PoisonError::into_inner).error.take())
        };
        match local.or_else(cloud) {
            Some(error) => match Err::<(), _>(error).fault() {
                Err(error) => error,
                Ok(()) => Fault::new(Kind::Bug, "no failure").into(),
            },
            None => Fault::new(Kind::Bug, "no store to write a volume to").into(),
        }
    }
}

impl Lane {
    fn store(&self) -> StoreName {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner).store
    }

    fn is_open(&self) -> bool {
        !self.queue.is_closed() && self.placed.lock().unwrap_or_else(PoisonError::into_inner).error.is_none()
    }
}

/// Sends one object after the other; stops for good at the first that fails.
async fn send(
    store: Arc<dyn Store>,
    mut parcels: mpsc::UnboundedReceiver<Parcel>,
    placed: Arc<Mutex<Placed>>,
    sent: Arc<Stage>,
) {
    while let Some(Parcel { key, size, what }) = parcels.recv().await {
        let result = store.put(&key, what.body(size)).await;
        if let Err(error) = &result
            && error.kind == StoreErrorKind::Differs
        {
            // Of the right size and with the wrong bytes: a listing would take it for a good copy.
            let _ = store.delete(&key).await;
        }
        let mut placed = placed.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                placed.keys.push(key);
                if matches!(what, What::File(_)) {
                    sent.add(size);
                }
            }
            Err(error) => {
                placed.error = Some(error);
                return;
            }
        }
    }
}

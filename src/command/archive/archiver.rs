//! Archives one file of WAL in all stores at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use chrono::Utc;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::away::Away;
use super::look;
use super::registration::Registration;
use super::staged::Staged;
use crate::catalog::{CopyState, WalRow};
use crate::command::{context, stores};
use crate::config::Settings;
use crate::format::keyring::Keyring;
use crate::format::names;
use crate::model::{Digest, Fault, FaultContext as _, Kind, StoreName};
use crate::pipeline::{SealFile, seal_file, sha256_of};
use crate::source::wal::WalFile;
use crate::store::{Body, Replicas, Store, StoreError};
use crate::system::{Step, Stop, step};

/// How long those that are slower are waited for when enough stores have the file, at least and at most.
const LEAST_GRACE: Duration = Duration::from_secs(2);
const MOST_GRACE: Duration = Duration::from_secs(15);

/// Everything that archiving takes.
pub(in crate::command) struct Archiver {
    pub(in crate::command) settings: Settings,
    keyring: Keyring,
    replicas: Replicas,
    registration: Mutex<Registration>,
    away: Mutex<Away>,
    stop: Stop,
}

/// A file that is in enough stores.
#[derive(Debug)]
pub(in crate::command) struct Pushed {
    pub(in crate::command) sha256: Digest,
    /// As it was sealed now; 0 when the stores had it.
    pub(in crate::command) stored_bytes: u64,
    pub(in crate::command) stores: Vec<StoreName>,
    /// Those that lack it, and why.
    pub(in crate::command) owed: BTreeMap<StoreName, String>,
    /// Whether it was there already.
    pub(in crate::command) known: bool,
}

impl Pushed {
    /// What the catalog is to know of it.
    pub(in crate::command) fn rows(&self, file: &WalFile) -> Vec<WalRow> {
        let row = |store: StoreName, state, stored_at, note| WalRow {
            file: file.name.clone(),
            content_sha256: self.sha256,
            store,
            size_bytes: self.stored_bytes,
            state,
            stored_at,
            note,
        };
        let good = self.stores.iter().map(|store| row(*store, CopyState::Good, Some(Utc::now()), None));
        let owed = self.owed.iter();
        let owed = owed.map(|(store, why)| row(*store, CopyState::Owed, None, Some(why.clone())));
        good.chain(owed).collect()
    }
}

/// What a store said of the file.
enum Answer {
    /// It has it, or has taken it.
    Has,
    /// It has other bytes under that name.
    Another(Digest),
}

/// Where the sealed bytes lie while they are sent.
struct Sealed {
    sha256: Digest,
    size: u64,
    path: PathBuf,
    /// Removes the file, unless a store has taken it over.
    _staged: Option<Staged>,
}

impl Archiver {
    /// Reads what it takes; asks no store.
    pub(in crate::command) fn open(settings: Settings, stop: Stop) -> anyhow::Result<Self> {
        let keyring = context::keyring(&settings)?;
        let registration = Registration::load(&settings)?;
        let replicas = stores::replicas(&settings)?;
        let away = Mutex::new(Away::load(&settings));
        Ok(Self { settings, keyring, replicas, registration: Mutex::new(registration), away, stop })
    }

    fn registration(&self) -> Registration {
        self.registration.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn away(&self) -> std::sync::MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a file of another server.
    pub(in crate::command) fn refuse_strangers(&self, file: &WalFile) -> anyhow::Result<()> {
        Ok(self.registration().refuse_strangers(file)?)
    }

    /// How many stores must have a file before it counts.
    pub(in crate::command) fn min_copies(&self) -> usize {
        self.replicas.min_copies()
    }

    /// The stores that are asked now: those that are left alone for a while only where there are not enough others.
    fn candidates(&self) -> (Vec<Arc<dyn Store>>, BTreeMap<StoreName, String>) {
        let away = self.away();
        let (mut asked, mut owed) = (Vec::new(), BTreeMap::new());
        for store in self.replicas.each() {
            match away.rests(store.name()) {
                None => asked.push(Arc::clone(store)),
                Some(why) => {
                    owed.insert(store.name(), why.to_owned());
                }
            }
        }
        if asked.len() >= self.min_copies() {
            return (asked, owed);
        }
        (self.replicas.each().map(Arc::clone).collect(), BTreeMap::new())
    }

    /// Archives the file: 0 only when enough stores have it for good. Compresses on so many threads.
    ///
    /// Other bytes under the same name: [`Kind::Refused`], and nothing is overwritten. Not in enough stores:
    /// [`Kind::Store`]. What was stored before an error stays, and is found the next time.
    pub(in crate::command) async fn push(
        self: &Arc<Self>,
        file: &Arc<WalFile>,
        threads: usize,
    ) -> anyhow::Result<Pushed> {
        let begun = Instant::now();
        let (stores, mut owed) = self.candidates();
        let local = stores.iter().find(|store| store.name() == StoreName::Local).cloned();
        let mut answers: BTreeMap<StoreName, Result<Answer, StoreError>> = BTreeMap::new();
        // What lies on this machine is looked at first: if it is there, nothing has to be compressed.
        let mut sealed = None;
        if let Some(local) = &local {
            match self.look(&**local, file).await {
                Ok(found) if !found.is_empty() => {
                    let sha256 = summed(file).await?;
                    let same = found.iter().find(|it| it.sha256 == sha256);
                    let Some(same) = same else {
                        return Err(other_bytes(file, &sha256, &found[0].sha256, StoreName::Local));
                    };
                    let path = PathBuf::from(local.locate(&same.key));
                    sealed = Some(Sealed { sha256, size: same.size, path, _staged: None });
                    answers.insert(StoreName::Local, Ok(Answer::Has));
                }
                Ok(_) => {}
                Err(error) => {
                    answers.insert(StoreName::Local, Err(error));
                }
            }
        }
        let known = sealed.is_some();
        let mut sealed = match sealed {
            Some(sealed) => sealed,
            None => self.seal(file, threads).await?,
        };
        step::reached(Step::WalSealed)?;
        let key = names::wal_file(&self.settings.cluster, &file.name, &sealed.sha256);
        if let Some(local) = local.filter(|_| !answers.contains_key(&StoreName::Local)) {
            let body = Body::File { path: sealed.path.clone(), size: sealed.size };
            let taken = local.put(&key, body).await.map(|()| Answer::Has);
            if taken.is_ok() {
                sealed.path = PathBuf::from(local.locate(&key));
            }
            answers.insert(StoreName::Local, taken);
        }
        step::reached(Step::WalStoredHere)?;
        self.send(&stores, file, &sealed, &key, begun, &mut answers).await?;
        let mut held = Vec::new();
        for (store, answer) in answers {
            let learned = match answer {
                Ok(_) => {
                    held.push(store);
                    self.away().learn(store, Ok(()))
                }
                Err(error) => {
                    let why = error.to_string();
                    let learned = self.away().learn(store, Err(&why));
                    owed.insert(store, why);
                    learned
                }
            };
            if learned {
                // Only a reminder: the next run would learn it again.
                let _ = self.away().clone().save(&self.settings);
            }
        }
        if held.len() < self.min_copies() {
            return Err(self.too_few(file, &held, &owed).into());
        }
        Ok(Pushed { sha256: sealed.sha256, stored_bytes: sealed.size, stores: held, owed, known })
    }

    /// Sends to all other stores at once, until all have answered, or enough have and the others take too long.
    async fn send(
        &self,
        stores: &[Arc<dyn Store>],
        file: &Arc<WalFile>,
        sealed: &Sealed,
        key: &str,
        begun: Instant,
        answers: &mut BTreeMap<StoreName, Result<Answer, StoreError>>,
    ) -> anyhow::Result<()> {
        let mut lanes: FuturesUnordered<_> = stores
            .iter()
            .filter(|store| !answers.contains_key(&store.name()))
            .map(|store| async move { (store, self.lane(&**store, file, sealed, key).await) })
            .collect();
        let mut waiting: Vec<&Arc<dyn Store>> =
            stores.iter().filter(|store| !answers.contains_key(&store.name())).collect();
        let mut deadline = None;
        while !waiting.is_empty() {
            let has = |answer: &Result<Answer, StoreError>| matches!(answer, Ok(Answer::Has));
            if deadline.is_none()
                && answers.values().filter(|answer| has(answer)).count() >= self.min_copies()
            {
                let grace = (begun.elapsed() * 2).clamp(LEAST_GRACE, MOST_GRACE);
                deadline = Some(Instant::now() + grace);
            }
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = lanes.next() => {
                    let Some((store, answer)) = answer else { break };
                    if let Ok(Answer::Another(other)) = &answer {
                        return Err(other_bytes(file, &sealed.sha256, other, store.name()));
                    }
                    waiting.retain(|other| other.name() != store.name());
                    answers.insert(store.name(), answer);
                }
                () = late => {
                    for store in waiting {
                        answers.insert(store.name(), Err(too_slow(&**store, key, begun.elapsed())));
                    }
                    break;
                }
                () = self.stop.requested() => self.stop.check()?,
            }
        }
        Ok(())
    }

    /// One store: is it this cluster's, what has it of this name, and if nothing, here it is.
    async fn lane(
        &self,
        store: &dyn Store,
        file: &WalFile,
        sealed: &Sealed,
        key: &str,
    ) -> Result<Answer, StoreError> {
        let found = self.look(store, file).await?;
        match found.iter().find(|it| it.sha256 == sealed.sha256).or(found.first()) {
            Some(same) if same.sha256 == sealed.sha256 => return Ok(Answer::Has),
            Some(other) => return Ok(Answer::Another(other.sha256)),
            None => {}
        }
        store.put(key, Body::File { path: sealed.path.clone(), size: sealed.size }).await?;
        Ok(Answer::Has)
    }

    async fn look(&self, store: &dyn Store, file: &WalFile) -> Result<Vec<look::Archived>, StoreError> {
        let mut registration = self.registration();
        if registration.admit(store).await? {
            self.registration.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&registration);
            // Learned again by the next run if it can't be kept.
            let _ = registration.save(&self.settings);
        }
        look::at_name(store, &self.settings.cluster, &file.name).await
    }

    /// Compresses and seals into a file beside the local store, or where else there is room.
    async fn seal(self: &Arc<Self>, file: &Arc<WalFile>, threads: usize) -> anyhow::Result<Sealed> {
        let (archiver, file) = (Arc::clone(self), Arc::clone(file));
        let sealing = spawn_blocking(move || {
            let mut failed = None;
            for directory in archiver.replicas.staging() {
                match archiver.seal_into(directory, &file, threads) {
                    Ok(sealed) => return Ok(sealed),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            Err(failed.unwrap_or_else(|| anyhow::anyhow!("no directory to write into")))
        });
        sealing.await.context("seal a WAL file")?.or_fault(|| {
            Fault::new(Kind::Store, "seal a WAL file")
                .hint("Make room on the disk; the server keeps the file and tries again.")
        })
    }

    fn seal_into(&self, directory: &Path, file: &WalFile, threads: usize) -> anyhow::Result<Sealed> {
        let staged = Staged::create(directory)?;
        let plan = SealFile {
            file: &file.file,
            size: file.size,
            sha256: None,
            codec: self.settings.wal_compression,
            keyring: &self.keyring,
            now: u64::try_from(Utc::now().timestamp()).unwrap_or(0),
            threads,
        };
        let owner = |sha256: &Digest| names::wal_owner(&file.name, sha256);
        let (sha256, size) = seal_file(&plan, owner, &mut staged.file())?;
        // Durable before any store is told that it has it.
        staged.flush()?;
        Ok(Sealed { sha256, size, path: staged.path().to_owned(), _staged: Some(staged) })
    }

    fn too_few(&self, file: &WalFile, held: &[StoreName], owed: &BTreeMap<StoreName, String>) -> Fault {
        let why: Vec<&str> = owed.values().map(String::as_str).collect();
        let message = format!(
            "{} is in {} of at least {} stores (BACKUP_MIN_COPIES): {}",
            file.name,
            held.len(),
            self.min_copies(),
            why.join("; ")
        );
        Fault::new(Kind::Store, message).hint(
            "The server keeps it and tries again, so no WAL is lost as long as its disk has room; mend the store.",
        )
    }
}

async fn summed(file: &Arc<WalFile>) -> anyhow::Result<Digest> {
    let file = Arc::clone(file);
    spawn_blocking(move || sha256_of(&file.file, file.size)).await.context("hash a WAL file")?
}

fn other_bytes(file: &WalFile, ours: &Digest, theirs: &Digest, store: StoreName) -> anyhow::Error {
    let message = format!(
        "{} is in store {store} with other bytes (SHA-256 {theirs}, this file's is {ours}): nothing was overwritten",
        file.name
    );
    Fault::new(Kind::Refused, message)
        .hint(
            "Two servers archive under one name, or this one was put back to an earlier state: find out which is the \
             right one, and give the other one a BACKUP_CLUSTER of its own (`pgkeep init`).",
        )
        .into()
}

fn too_slow(store: &dyn Store, key: &str, after: Duration) -> StoreError {
    StoreError {
        store: store.name(),
        operation: "write",
        place: store.locate(key),
        kind: crate::store::StoreErrorKind::Timeout,
        cause: format!("not done after {:.1} s, when enough other stores had it", after.as_secs_f64()),
    }
}

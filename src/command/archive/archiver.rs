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
use super::registration::Registration;
use super::staged::Staged;
use super::{checked, look};
use crate::catalog::{CopyState, WalRow};
use crate::command::{context, stores};
use crate::config::Settings;
use crate::format::keyring::Keyring;
use crate::format::names;
use crate::model::{Digest, Fault, FaultContext as _, Kind, StoreName};
use crate::pipeline::{SealFile, seal_file, sha256_of};
use crate::source::wal::WalFile;
use crate::store::{Body, Replicas, Store, StoreError, StoreErrorKind};
use crate::system::{Step, Stop, step};

/// How long those that are slower are waited for when enough stores have the file, at least and at most.
const LEAST_GRACE: Duration = Duration::from_secs(5);
const MOST_GRACE: Duration = Duration::from_secs(30);
/// How long a store may take to say what it has, and the one on this machine (a mount of another's that hangs) to take a
/// file.
const LOOKING: Duration = Duration::from_secs(10);
const TAKING: Duration = Duration::from_mins(1);
/// Less than this no sealed file has.
const LEAST_BYTES: u64 = 64;

/// Everything that archiving takes.
pub(in crate::command) struct Archiver {
    pub(in crate::command) settings: Settings,
    keyring: Arc<Keyring>,
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

/// What a store has said so far.
enum Answer {
    /// It has it, or has taken it.
    Has,
    /// It has nothing under that name, or nothing of use.
    Lacks,
}

type Answers = BTreeMap<StoreName, Result<Answer, StoreError>>;

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
        let keyring = Arc::new(context::keyring(&settings)?);
        let registration = Registration::load(&settings)?;
        // The server's disk fills when WAL waits: no rate limit.
        let replicas = stores::replicas(&Settings { rate_limit: None, ..settings.clone() })?;
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

    /// The fingerprint of the key that seals.
    pub(in crate::command) fn key(&self) -> &str {
        self.keyring.fingerprint()
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
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            stores.iter().cloned().partition(|store| store.name() == StoreName::Local);
        // What lies on this machine is looked at first: if it is there and good, nothing has to be compressed.
        let mut answers = Answers::new();
        let mut sealed = None;
        let mut sha256 = None;
        if let Some(local) = here.first() {
            match self.look(&**local, file).await {
                Ok(found) => {
                    if !found.is_empty() {
                        sha256 = Some(summed(file).await?);
                    }
                    if let (Some(sha256), Some(other)) = (&sha256, other_than(sha256.as_ref(), &found)) {
                        return Err(other_bytes(file, sha256, &other, StoreName::Local));
                    }
                    if let Some(found) = found.into_iter().next() {
                        sealed = self.good(&**local, found).await;
                    }
                    let answer = if sealed.is_some() { Answer::Has } else { Answer::Lacks };
                    answers.insert(StoreName::Local, Ok(answer));
                }
                Err(error) => {
                    answers.insert(StoreName::Local, Err(error));
                }
            }
        }
        let known = sealed.is_some();
        let beside_local = matches!(answers.get(&StoreName::Local), Some(Ok(_)));
        let sealing = async {
            match sealed {
                Some(sealed) => Ok(sealed),
                None => self.seal(file, threads, beside_local).await,
            }
        };
        let looks = elsewhere.iter().map(|store| self.look(&**store, file));
        // All are asked before any of them is written to: what must not be stored is then in none of them.
        let looking = async { Ok::<_, anyhow::Error>(futures_util::future::join_all(looks).await) };
        let both = async { tokio::try_join!(sealing, looking) };
        let (mut sealed, looks) = self.stop.or(both).await?;
        step::reached(Step::WalSealed)?;
        self.stop.check()?;
        for (store, found) in elsewhere.iter().zip(looks) {
            let answer = match found {
                Ok(found) => {
                    if let Some(other) = other_than(Some(&sealed.sha256), &found) {
                        return Err(other_bytes(file, &sealed.sha256, &other, store.name()));
                    }
                    let has = found.iter().any(|it| it.size >= LEAST_BYTES);
                    Ok(if has { Answer::Has } else { Answer::Lacks })
                }
                Err(error) => Err(error),
            };
            answers.insert(store.name(), answer);
        }
        let key = names::wal_file(&self.settings.cluster, &file.name, &sealed.sha256);
        if let Some(local) = here.first().filter(|_| matches!(answers[&StoreName::Local], Ok(Answer::Lacks)))
        {
            let body = Body::file(sealed.path.clone(), sealed.size);
            let taking = tokio::time::timeout(TAKING, local.put(&key, body)).await;
            let taken = taking.unwrap_or_else(|_| Err(hangs(&**local, "write", &key, TAKING)));
            if taken.is_ok() {
                sealed.path = PathBuf::from(local.locate(&key));
            }
            answers.insert(StoreName::Local, taken.map(|()| Answer::Has));
        }
        step::reached(Step::WalStoredHere)?;
        self.stop.check()?;
        self.send(&elsewhere, &sealed, &key, begun, &mut answers).await?;
        let mut held = Vec::new();
        for (store, answer) in answers {
            let learned = match answer {
                Ok(_) => {
                    held.push(store);
                    self.away().learn(store, Ok(()), false)
                }
                Err(error) => {
                    let why = error.to_string();
                    let is_slow = error.kind == StoreErrorKind::Timeout;
                    let learned = self.away().learn(store, Err(&why), is_slow);
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

    /// Sends to all stores that lack it at once, until all have it, or enough have and the others take too long.
    async fn send(
        &self,
        stores: &[Arc<dyn Store>],
        sealed: &Sealed,
        key: &str,
        begun: Instant,
        answers: &mut Answers,
    ) -> anyhow::Result<()> {
        let mut waiting: Vec<&Arc<dyn Store>> =
            stores.iter().filter(|store| matches!(answers[&store.name()], Ok(Answer::Lacks))).collect();
        // One for all stores: the first that sends it sums it up.
        let body = Body::file(sealed.path.clone(), sealed.size);
        let mut lanes: FuturesUnordered<_> = waiting
            .iter()
            .map(|store| async { (store.name(), store.put(key, body.clone()).await) })
            .collect();
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
                    waiting.retain(|other| other.name() != store);
                    answers.insert(store, answer.map(|()| Answer::Has));
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

    /// The copy on this machine, if it can be opened and is what its name says: the clouds are given it as it is.
    async fn good(&self, local: &dyn Store, found: look::Archived) -> Option<Sealed> {
        let path = PathBuf::from(local.locate(&found.key));
        let owner = names::wal_owner(&found.name, &found.sha256);
        let checked = checked::file(path.clone(), owner, found.sha256, &self.keyring).await;
        let sealed = Sealed { sha256: found.sha256, size: found.size, path, _staged: None };
        checked.is_ok().then_some(sealed)
    }

    /// What a store has of this name, if it is this cluster's.
    async fn look(&self, store: &dyn Store, file: &WalFile) -> Result<Vec<look::Archived>, StoreError> {
        let looking = async {
            let mut registration = self.registration();
            if registration.admit(store).await? {
                self.registration.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&registration);
                // Learned again by the next run if it can't be kept.
                let _ = registration.save(&self.settings);
            }
            look::at_name(store, &self.settings.cluster, &file.name).await
        };
        let place = names::wal_group(&self.settings.cluster, &file.name);
        let looked = tokio::time::timeout(LOOKING, looking).await;
        looked.unwrap_or_else(|_| Err(hangs(store, "list", &place, LOOKING)))
    }

    /// Compresses and seals into a file beside the local store, or where else there is room.
    async fn seal(
        self: &Arc<Self>,
        file: &Arc<WalFile>,
        threads: usize,
        beside_local: bool,
    ) -> anyhow::Result<Sealed> {
        let (archiver, file) = (Arc::clone(self), Arc::clone(file));
        let name = file.name.to_string();
        let sealing = spawn_blocking(move || {
            let mut failed = None;
            // Where the local store is not mounted, its place is not to be filled.
            let is_local = |directory: &&PathBuf| {
                archiver.settings.local_dir.as_ref().is_some_and(|local| directory.starts_with(local))
            };
            let usable = |directory: &&PathBuf| beside_local || !is_local(directory);
            for directory in archiver.replicas.staging().iter().filter(usable) {
                match archiver.seal_into(directory, &file, threads) {
                    Ok(sealed) => return Ok(sealed),
                    Err(error) if is_refused(&error) => return Err(error),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            Err(failed.unwrap_or_else(|| anyhow::anyhow!("no directory to write into")))
        });
        let sealed = sealing.await.context("seal a WAL file")?;
        if sealed.as_ref().is_err_and(is_refused) {
            let message = format!("{name} was written to while it was archived");
            return Fault::new(Kind::Refused, message)
                .hint("Look at who else writes into pg_wal; the server offers the file again.")
                .err();
        }
        sealed.or_fault(|| {
            Fault::new(Kind::Store, "seal a WAL file")
                .hint("Make room on the disk; the server keeps the file and tries again.")
        })
    }

    fn seal_into(&self, directory: &Path, file: &WalFile, threads: usize) -> anyhow::Result<Sealed> {
        let staged = Staged::create(directory)?;
        let plan = SealFile {
            file: &file.file,
            size: file.size,
            codec: self.settings.wal_compression,
            keyring: &self.keyring,
            now: u64::try_from(Utc::now().timestamp()).unwrap_or(0),
            threads,
        };
        let owner = |sha256: &Digest| names::wal_owner(&file.name, sha256);
        let (sha256, size) = seal_file(&plan, owner, staged.writer())?;
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

fn is_refused(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Fault>().is_some_and(|fault| fault.kind == Kind::Refused)
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

/// Other bytes than these under the same name.
fn other_than(sha256: Option<&Digest>, found: &[look::Archived]) -> Option<Digest> {
    found.iter().map(|it| it.sha256).find(|found| Some(found) != sha256)
}

fn hangs(store: &dyn Store, operation: &'static str, key: &str, after: Duration) -> StoreError {
    StoreError {
        store: store.name(),
        operation,
        place: store.locate(key),
        kind: StoreErrorKind::Timeout,
        cause: format!("no answer within {} s", after.as_secs()),
    }
}

fn too_slow(store: &dyn Store, key: &str, after: Duration) -> StoreError {
    StoreError {
        store: store.name(),
        operation: "write",
        place: store.locate(key),
        kind: StoreErrorKind::Timeout,
        cause: format!("not done after {:.1} s, when enough other stores had it", after.as_secs_f64()),
    }
}

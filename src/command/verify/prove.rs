//! Copies read in full: each summed up, WAL opened, whole backups decrypted in the same pass.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::compare::Held;
use super::whole::Hashing;
use crate::catalog::{CopyRow, CopyState, Proof, WalCopy, WalRow};
use crate::command::archive::checked::{self, Unproven};
use crate::command::volumes::{BadCopy, Volumes};
use crate::command::{Context, judge, manifests, stores};
use crate::format::keyring::Keyring;
use crate::format::manifest::ManifestHead;
use crate::format::names;
use crate::model::{Digest, Fault, Kind, Stage, StoreName, Timestamp};
use crate::pipeline::{Discard, Unpack, read_hashed, unpack};
use crate::store::{ReadReplicas, ReadStore, StoreError};

/// A copy that can be read in full.
pub(super) struct Candidate {
    pub(super) what: What,
    /// When its bytes were last found right, or written; `None`: never.
    pub(super) proof: Option<Timestamp>,
    /// Since when it is known, at the latest since its last proof.
    pub(super) since: Timestamp,
}

/// An object of a backup, with the index of its backup in its store, or a WAL file.
pub(super) enum What {
    Object(usize, CopyRow),
    Wal(WalCopy),
}

impl Candidate {
    pub(super) fn size(&self) -> u64 {
        match &self.what {
            What::Object(_, copy) => copy.size_bytes,
            What::Wal(copy) => copy.row.size_bytes,
        }
    }

    pub(super) fn store(&self) -> StoreName {
        match &self.what {
            What::Object(_, copy) => copy.store,
            What::Wal(copy) => copy.row.store,
        }
    }
}

/// What is read in one go.
pub(super) enum Unit {
    /// All that can be read of a backup in a store, decrypted: by index.
    Whole { held: usize, copies: Vec<usize> },
    /// One copy.
    Copy(usize),
}

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    /// Copies that are what they should be.
    pub(super) proven: Vec<(usize, Proof)>,
    pub(super) wrong: Vec<Wrong>,
    /// The store went away.
    pub(super) away: Option<(StoreName, String)>,
    /// The time was over before it was begun.
    pub(super) is_late: bool,
}

impl Outcome {
    /// Takes in what reading a copy came to.
    fn take_in(&mut self, store: StoreName, index: usize, read: Result<Proof, Fail>) {
        let wrong = |state, message, is_sure| Wrong { what: Object::Copy(index), state, message, is_sure };
        match read {
            Ok(how) => self.proven.push((index, how)),
            Err(Fail::Copy(state, message)) => self.wrong.push(wrong(state, message, true)),
            Err(Fail::Key(message)) => self.wrong.push(wrong(CopyState::Damaged, message, false)),
            Err(Fail::Store(why)) => self.away = self.away.take().or(Some((store, why))),
            Err(Fail::Gone) => {}
        }
    }
}

/// Something that is not what it should be.
pub(super) struct Wrong {
    pub(super) what: Object,
    pub(super) state: CopyState,
    pub(super) message: String,
    /// Whether the catalog is to know: not of a file that only seems to need another key.
    pub(super) is_sure: bool,
}

/// A copy, or a backup in a store as a whole.
#[derive(Clone, Copy)]
pub(super) enum Object {
    Copy(usize),
    All(usize),
}

/// Why a copy could not be proven.
enum Fail {
    /// It is not what it should be.
    Copy(CopyState, String),
    /// The same, but the key may be to blame.
    Key(String),
    /// The store could not be asked, and why.
    Store(String),
    /// It is being deleted, or was.
    Gone,
}

/// What reading takes.
pub(super) struct Proving<'a> {
    pub(super) context: &'a Context,
    pub(super) keyring: Option<Arc<Keyring>>,
    pub(super) held: &'a [Held],
    pub(super) candidates: &'a [Candidate],
    pub(super) stage: Stage,
    /// Nothing is begun behind it, but for the first.
    pub(super) deadline: Option<Instant>,
    begun: AtomicBool,
    /// Stores that went away meanwhile.
    gone: Mutex<HashSet<StoreName>>,
    /// Decrypting uses all cores for itself.
    decrypting: tokio::sync::Mutex<()>,
}

impl<'a> Proving<'a> {
    pub(super) fn new(
        context: &'a Context,
        keyring: Option<Arc<Keyring>>,
        held: &'a [Held],
        candidates: &'a [Candidate],
        stage: Stage,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            context,
            keyring,
            held,
            candidates,
            stage,
            deadline,
            begun: AtomicBool::new(false),
            gone: Mutex::default(),
            decrypting: tokio::sync::Mutex::default(),
        }
    }

    /// Reads one unit. Nothing is written down here.
    pub(super) async fn prove(&self, unit: Unit) -> anyhow::Result<Outcome> {
        self.context.stop.check()?;
        let (store, backup) = match &unit {
            Unit::Whole { held, .. } => (self.held[*held].store, Some(&self.held[*held])),
            Unit::Copy(index) => (self.candidates[*index].store(), None),
        };
        let mut outcome = Outcome::default();
        if self.gone.lock().unwrap_or_else(PoisonError::into_inner).contains(&store) {
            return Ok(outcome);
        }
        let is_first = !self.begun.swap(true, Ordering::Relaxed);
        if !is_first && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            outcome.is_late = true;
            return Ok(outcome);
        }
        let Some(reader) = self.context.reading().each().find(|reader| reader.name() == store) else {
            return Ok(outcome);
        };
        match (unit, backup) {
            (Unit::Whole { held, copies }, Some(backup)) => {
                self.whole(reader, held, backup, &copies, &mut outcome).await?;
            }
            (Unit::Copy(index), _) => self.copy(reader, index, &mut outcome).await?,
            (Unit::Whole { .. }, None) => {}
        }
        if let Some((store, _)) = &outcome.away {
            self.gone.lock().unwrap_or_else(PoisonError::into_inner).insert(*store);
        }
        Ok(outcome)
    }

    async fn copy(
        &self,
        store: &Arc<dyn ReadStore>,
        index: usize,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let (read, how) = match &self.candidates[index].what {
            What::Object(_, copy) => (self.read(store, copy).await?, Proof::Read),
            What::Wal(copy) => (self.open(store, &copy.row).await?, Proof::Decrypted),
        };
        outcome.take_in(store.name(), index, read.map(|()| how));
        Ok(())
    }

    /// Decrypts a backup out of one store, and sums its objects up in the same pass; what that did not come to is read by
    /// itself.
    async fn whole(
        &self,
        store: &Arc<dyn ReadStore>,
        held: usize,
        backup: &Held,
        copies: &[usize],
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let Some(keyring) = &self.keyring else {
            for index in copies {
                self.copy(store, *index, outcome).await?;
            }
            return Ok(());
        };
        let turn = self.decrypting.lock().await;
        let stores = ReadReplicas::only(Arc::clone(store));
        let volumes = Volumes::of(&stores, &self.context.settings.cluster, &backup.backup);
        let sizes = backup.copies.iter().map(|copy| (copy.object.clone(), copy.size_bytes)).collect();
        let volumes = Arc::new(Hashing::around(volumes, sizes));
        let unpacked = self.unpack(&stores, &volumes, backup, keyring).await;
        drop(turn);
        let (decrypted, other) = match unpacked {
            Ok(()) => (Ok(()), None),
            Err(error) => match self.blame(store, &stores, backup, error).await {
                Ok(fail) => (Err(fail), None),
                Err(error) => (Err(Fail::Gone), Some(error)),
            },
        };
        let digests = volumes.digests();
        for index in copies {
            let What::Object(_, copy) = &self.candidates[*index].what else { continue };
            let read = match digests.get(&copy.object) {
                Some((found, size)) if *size == copy.size_bytes => {
                    self.stage.add(copy.size_bytes);
                    if *found == copy.sha256 { Ok(()) } else { Err(not_that(copy, *found)) }
                }
                // There is no sense in going on with a store that is away.
                _ if matches!(decrypted, Err(Fail::Store(_))) || outcome.away.is_some() => continue,
                _ => self.read(store, copy).await?,
            };
            outcome.take_in(store.name(), *index, read.map(|()| Proof::Read));
        }
        // One changed bit may make a manifest seem to need another key: then its checksum has said so.
        if let Some(error) = other.filter(|_| outcome.wrong.is_empty()) {
            return Err(error);
        }
        match decrypted {
            Ok(()) => outcome.proven.iter_mut().for_each(|(_, how)| *how = Proof::Decrypted),
            Err(Fail::Copy(state, message)) => {
                // What the seals say is more exact than a checksum; it may be all there is to say.
                if outcome.wrong.is_empty() && copies.len() == backup.objects {
                    outcome.proven.clear();
                }
                outcome.wrong.push(Wrong { what: Object::All(held), state, message, is_sure: false });
            }
            Err(Fail::Key(_) | Fail::Gone) => {}
            Err(Fail::Store(why)) => outcome.away = Some((store.name(), why)),
        }
        Ok(())
    }

    /// Reads a copy and compares its SHA-256 with that of what was stored; needs no key.
    async fn read(&self, store: &Arc<dyn ReadStore>, copy: &CopyRow) -> anyhow::Result<Result<(), Fail>> {
        let key = names::object(&self.context.settings.cluster, &copy.backup_id, &copy.object);
        let get = async |offset, length| store.get(&key, offset, length).await;
        let found = self.context.stop.or(read_hashed(copy.size_bytes, None, &self.stage, get)).await?;
        let fail = match found {
            Ok(found) if found == copy.sha256 => return Ok(Ok(())),
            Ok(found) => not_that(copy, found),
            Err(error) => self.failed(store, &copy.object, &error).await?,
        };
        // What is removed while it is read is neither missing nor damaged.
        let known = self.context.catalog.copies().of(&copy.backup_id)?;
        let mut known = known.iter().filter(|known| known.object == copy.object && known.store == copy.store);
        let is_wanted = known.any(|known| known.state != CopyState::Deleting);
        Ok(Err(if is_wanted { fail } else { Fail::Gone }))
    }

    /// Opens a WAL file and compares the SHA-256 of what is in it with that in its name.
    async fn open(&self, store: &Arc<dyn ReadStore>, row: &WalRow) -> anyhow::Result<Result<(), Fail>> {
        let Some(keyring) = &self.keyring else { return Ok(Err(Fail::Gone)) };
        let cluster = &self.context.settings.cluster;
        let opened = self.context.stop.or(checked::stored(store, cluster, row, keyring)).await?;
        let fail = match opened {
            Ok(()) => {
                self.stage.add(row.size_bytes);
                return Ok(Ok(()));
            }
            Err(Unproven::Store(error)) => self.failed(store, row.file.as_str(), &error).await?,
            Err(Unproven::Copy(fault)) if fault.kind == Kind::Damaged => {
                self.condemned(store, CopyState::Damaged, fault.message).await?
            }
            // One flipped bit in its header makes a copy seem to need another key, or to be of a later format.
            Err(Unproven::Copy(fault)) if self.opens_elsewhere(row, keyring).await? => {
                self.condemned(store, CopyState::Damaged, fault.message).await?
            }
            Err(Unproven::Copy(fault)) => Fail::Key(fault.message),
        };
        let known = self.context.catalog.wal().of(&row.file)?;
        let mut known = known
            .iter()
            .filter(|known| known.store == row.store && known.content_sha256 == row.content_sha256);
        let is_wanted = known.any(|known| known.state != CopyState::Deleting);
        Ok(Err(if is_wanted { fail } else { Fail::Gone }))
    }

    /// Whether another copy of the file opens with the keys that there are.
    async fn opens_elsewhere(&self, row: &WalRow, keyring: &Arc<Keyring>) -> anyhow::Result<bool> {
        let cluster = &self.context.settings.cluster;
        for other in self.context.catalog.wal().of(&row.file)? {
            let is_other = other.store != row.store && other.content_sha256 == row.content_sha256;
            let mut stores = self.context.reading().each();
            let store = stores.find(|store| is_other && store.name() == other.store);
            if let Some(store) = store.filter(|_| other.state == CopyState::Good)
                && checked::stored(store, cluster, &other, keyring).await?.is_ok()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a failed read says.
    async fn failed(
        &self,
        store: &Arc<dyn ReadStore>,
        object: &str,
        error: &StoreError,
    ) -> anyhow::Result<Fail> {
        match BadCopy::of(object, error) {
            Some(bad) => self.condemned(store, bad.state, bad.why).await,
            // A disk that can't read this one file is not away.
            None if error.store == StoreName::Local => {
                self.condemned(store, CopyState::Damaged, error.to_string()).await
            }
            None => Ok(Fail::Store(error.to_string())),
        }
    }

    /// What kept a backup from being decrypted. The outer error: not the copies' fault, but the key, or the end that was
    /// asked for.
    async fn blame(
        &self,
        store: &Arc<dyn ReadStore>,
        stores: &ReadReplicas,
        backup: &Held,
        error: anyhow::Error,
    ) -> anyhow::Result<Fail> {
        let verdict = judge(&error);
        let is_damaged = verdict.exit_code == Kind::Damaged.exit_code();
        let failed =
            stores.away().into_iter().next().filter(|_| verdict.exit_code == Kind::Store.exit_code());
        let fail = match failed {
            Some((store, why)) if store != StoreName::Local => return Ok(Fail::Store(why)),
            // Here, too, a disk that can't read one file is not away.
            Some((_, why)) => self.condemned(store, CopyState::Damaged, why).await?,
            None if is_damaged => self.condemned(store, CopyState::Damaged, verdict.message).await?,
            None => return Err(error),
        };
        let known = self.context.catalog.copies().of(&backup.backup)?;
        let mut known = known.iter().filter(|known| known.store == backup.store);
        let is_wanted = known.any(|known| known.state != CopyState::Deleting);
        Ok(if is_wanted { fail } else { Fail::Gone })
    }

    /// Opens every frame and compares the SHA-256 of every file with that of what was read.
    async fn unpack(
        &self,
        stores: &ReadReplicas,
        volumes: &Arc<Hashing>,
        backup: &Held,
        keyring: &Keyring,
    ) -> anyhow::Result<()> {
        let (settings, id) = (&self.context.settings, &backup.backup);
        let fetched = manifests::fetch(settings, stores, id, keyring).await?;
        volumes.add(names::MANIFEST, &fetched.object);
        let manifest = fetched.manifest;
        if manifest.id != *id {
            return Fault::new(Kind::Damaged, format!("the manifest of {id} is that of {}", manifest.id))
                .err();
        }
        let ManifestHead { fingerprint, .. } = ManifestHead::read(&fetched.object, id)?;
        self.context.catalog.backups().sealed_with(id, &fingerprint)?;
        let manifest = Arc::new(manifest);
        let request = Unpack {
            entries: (0..manifest.entries.len()).collect(),
            stage: self.context.progress.bytes("decrypt", manifest.original_size),
            manifest: Arc::clone(&manifest),
        };
        let volumes = Arc::clone(volumes);
        unpack(request, volumes, Discard, self.context.stop.clone()).await?;
        Ok(())
    }

    /// What a failed read says about the copy, if the store is still there. A disk that was unmounted or died a moment
    /// ago would condemn every copy on it, one after the other.
    async fn condemned(
        &self,
        store: &Arc<dyn ReadStore>,
        state: CopyState,
        why: String,
    ) -> anyhow::Result<Fail> {
        let cluster = &self.context.settings.cluster;
        let asked = async { Ok(stores::still_there(cluster, &**store).await) };
        Ok(match self.context.stop.or(asked).await? {
            Ok(()) => Fail::Copy(state, why),
            Err(gone) => Fail::Store(gone.to_string()),
        })
    }
}

fn not_that(copy: &CopyRow, found: Digest) -> Fail {
    let message = format!("its SHA-256 is {found}, it was stored with {}", copy.sha256);
    Fail::Copy(CopyState::Damaged, message)
}

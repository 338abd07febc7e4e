//! `pgkeep verify`: what is stored, compared with what should be; `--deep` reads all of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{TimeDelta, Utc};
use serde::Serialize;

use super::archive::reconcile::{self, WalFinding};
use super::listing::{self, Listings, Objects};
use super::manifests;
use super::stores::{self, Absent};
use super::volumes::{BadCopy, Volumes};
use super::{Context, Report};
use crate::catalog::{BackupRow, CopyKey, CopyRow, CopyState, Proof};
use crate::format::keyring::Keyring;
use crate::format::names;
use crate::model::{BackupId, Fault, Kind, Stage, StoreName};
use crate::pipeline::{Discard, Unpack, read_hashed, unpack};
use crate::store::{ObjectInfo, ReadReplicas, ReadStore};
use crate::system::{Step, step};

/// How long volumes without a manifest may be those of a backup that somebody else is making: another host, or another
/// state directory, of which this catalog knows nothing. Longer than any one volume takes.
pub(super) const GRACE: TimeDelta = TimeDelta::hours(24);

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// One backup; without it all.
    pub backup: Option<String>,
    /// Read everything instead of listing it.
    pub deep: bool,
    /// One store; without it all.
    pub store: Option<StoreName>,
}

/// The catalog's rows of copies, by backup and store.
type Rows = HashMap<(BackupId, StoreName), Vec<CopyRow>>;

/// What is wrong with one object.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The backup.
    pub backup: BackupId,
    /// The store.
    pub store: StoreName,
    /// The object within the backup.
    pub object: String,
    /// `missing`, `damaged`, `owed`, `unknown`, or `unfinished`, which is no fault.
    pub state: &'static str,
    /// What is wrong, in words.
    pub message: String,
}

/// The catalog does not know it.
const UNKNOWN: &str = "unknown";
/// The catalog does not know it, and somebody may be making it.
const UNFINISHED: &str = "unfinished";

impl Finding {
    /// Whether something is not as it should be.
    pub fn is_fault(&self) -> bool {
        self.state != UNFINISHED
    }
}

/// A store that could not be looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Away {
    /// The store.
    pub store: StoreName,
    /// Why.
    pub message: String,
}

/// What was looked at and found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Whether all was read.
    pub deep: bool,
    /// Whether it was also decrypted; without a key it is not.
    pub decrypted: bool,
    /// Backups.
    pub backups: u64,
    /// Objects in all stores.
    pub objects: u64,
    /// Stored bytes that were read.
    pub bytes_read: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Copies of archived WAL files, in all stores; of one backup alone they are not looked at.
    pub wal_copies: u64,
    /// What is wrong with others.
    pub wal_findings: Vec<WalFinding>,
    /// Stores that could not be looked at, or not to the end.
    pub away: Vec<Away>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Report for VerifyReport {
    fn shortfall(&self) -> Option<Kind> {
        let faults = self.findings.iter().filter(|finding| finding.is_fault());
        let owed = CopyState::Owed.as_str();
        let (incomplete, damaged): (Vec<_>, Vec<_>) =
            faults.partition(|finding| finding.state == UNKNOWN || finding.state == owed);
        let (wal_owed, wal_damaged): (Vec<_>, Vec<_>) =
            self.wal_findings.iter().partition(|finding| finding.state == CopyState::Owed);
        if !damaged.is_empty() || !wal_damaged.is_empty() {
            Some(Kind::Damaged)
        } else if !wal_owed.is_empty() || !incomplete.is_empty() || !self.away.is_empty() {
            Some(Kind::Incomplete)
        } else {
            None
        }
    }
}

/// Verifies and writes down what is proven. Every store is listed once.
pub async fn run(context: &Context, request: &VerifyRequest) -> anyhow::Result<VerifyReport> {
    let clock = Instant::now();
    let backups = manifests::chosen(&context.catalog, request.backup.as_deref())?;
    if let Some(store) = request.store.filter(|store| context.replicas.get(*store).is_none()) {
        return Fault::new(Kind::Settings, format!("store {store} is not configured"))
            .hint("Leave out --store, or set what the store needs (README, \"Settings\").")
            .err();
    }
    let (listings, away) = context.stop.or(look(context, request.store)).await?;
    let keyring = if request.deep { key_if_set(context)? } else { None };
    let mut rows = Rows::new();
    for row in listing::reconcile(context, &listings)? {
        rows.entry((row.backup_id.clone(), row.store)).or_default().push(row);
    }
    let mut report = VerifyReport {
        deep: request.deep,
        decrypted: keyring.is_some(),
        backups: backups.len() as u64,
        objects: 0,
        bytes_read: 0,
        findings: Vec::new(),
        wal_copies: 0,
        wal_findings: Vec::new(),
        away,
        seconds: 0.0,
    };
    let total: u64 = backups.iter().map(|row| row.size_bytes).sum();
    let stores: Vec<_> =
        context.reading().each().filter(|store| listings.listed.contains_key(&store.name())).collect();
    let stage = context.progress.bytes("verify", if request.deep { total * stores.len() as u64 } else { 0 });
    if request.backup.is_none() {
        let of: Vec<_> = stores.iter().map(|store| Arc::clone(store)).collect();
        let (copies, findings, failed) = reconcile::reconcile(context, &of).await?;
        (report.wal_copies, report.wal_findings) = (copies, findings);
        let failed = failed.iter().map(|error| Away { store: error.store, message: error.to_string() });
        report.away.extend(failed);
    }
    for store in stores {
        let strange = strange(&listings.listed[&store.name()], &rows, store.name());
        for row in &backups {
            context.stop.check()?;
            let copies = rows.remove(&(row.id.clone(), store.name())).unwrap_or_default();
            let objects = listings.listed[&store.name()].get(&row.id);
            let verifying = Verifying { context, store, row, objects, listings: &listings, stage: &stage };
            if let Err(away) = verifying.run(copies, request.deep, keyring.as_ref(), &mut report).await? {
                report.away.push(away);
                break;
            }
        }
        if request.backup.is_none() {
            report.findings.extend(unknown(context, store.name(), &strange)?);
        }
    }
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

/// Lists the stores. One that does not hold the cluster's identity is away: it may be the empty directory in which a
/// disk should be mounted, and says nothing about what is on that disk.
async fn look(context: &Context, only: Option<StoreName>) -> anyhow::Result<(Listings, Vec<Away>)> {
    let mut listings = listing::take(context, only).await;
    let mut away: Vec<Away> =
        listings.failed.iter().map(|error| Away { store: error.store, message: error.to_string() }).collect();
    match stores::presence(context).await {
        Ok(presence) => {
            for Absent { store, why } in presence.absent {
                let Some(objects) = listings.listed.get(&store) else { continue };
                // Its identity alone may be lost. But of a disk that was unmounted meanwhile this may be half a list.
                let reading = context.reading().each().find(|reading| reading.name() == store);
                let message = match reading.filter(|_| !objects.is_empty()) {
                    Some(reading) => {
                        let there = stores::still_there(&context.settings.cluster, &**reading).await;
                        there.err().map(|error| error.to_string())
                    }
                    None => Some(why),
                };
                if let Some(message) = message {
                    listings.listed.remove(&store);
                    away.push(Away { store, message });
                }
            }
        }
        // The identity is lost, and backups are there: they can be looked at.
        Err(error)
            if super::judge(&error).exit_code == Kind::NotInitialised.exit_code()
                && listings.listed.values().any(|objects| !objects.is_empty()) =>
        {
            listings.listed.retain(|_, objects| !objects.is_empty());
        }
        Err(error) => return Err(error),
    }
    if let (true, Some(first)) = (listings.listed.is_empty(), away.first()) {
        return Fault::new(Kind::Store, format!("no store could be looked at: {}", first.message))
            .hint("Run `pgkeep check` to see what works and what does not.")
            .err();
    }
    Ok((listings, away))
}

fn key_if_set(context: &Context) -> anyhow::Result<Option<Keyring>> {
    if context.settings.keys.is_empty() { Ok(None) } else { context.keyring().map(Some) }
}

/// Listed backups with an object of which there is no row. The catalog is asked about these alone: to ask about each of
/// thousands would take longer than to list them.
fn strange<'a>(
    listed: &'a Objects,
    rows: &Rows,
    store: StoreName,
) -> Vec<(&'a BackupId, &'a BTreeMap<String, ObjectInfo>)> {
    let is_known = |backup: &BackupId, objects: &BTreeMap<String, ObjectInfo>| {
        let copies = rows.get(&(backup.clone(), store)).map_or(&[][..], Vec::as_slice);
        let known: HashSet<&str> = copies.iter().map(|copy| copy.object.as_str()).collect();
        objects.keys().all(|name| known.contains(name.as_str()))
    };
    listed.iter().filter(|(backup, objects)| !is_known(backup, objects)).collect()
}

/// Backups that lie in a store and that the catalog does not know; not those that are being made now.
fn unknown(
    context: &Context,
    store: StoreName,
    strange: &[(&BackupId, &BTreeMap<String, ObjectInfo>)],
) -> anyhow::Result<Vec<Finding>> {
    let being_made = listing::being_made(context)?;
    let mut findings = Vec::new();
    for &(backup, objects) in strange {
        if being_made.contains(backup.as_str()) {
            continue;
        }
        // One that was made while this verify was running is known, and its objects are too.
        if context.catalog.backups().get(backup)?.is_some() {
            let known: HashSet<String> =
                context.catalog.copies().of(backup)?.into_iter().map(|copy| copy.object).collect();
            let extra = objects.keys().filter(|name| !known.contains(*name));
            findings.extend(extra.map(|object| Finding {
                backup: backup.clone(),
                store,
                object: object.clone(),
                state: UNKNOWN,
                message: "it does not belong to the backup".to_owned(),
            }));
            continue;
        }
        let (state, message) = if objects.contains_key(names::MANIFEST) {
            (UNKNOWN, "the catalog does not know this backup; `pgkeep catalog rebuild` takes it in")
        } else if is_young(objects) {
            (UNFINISHED, "perhaps being made by another host; if not, it was left behind by one that died")
        } else {
            (UNKNOWN, "left behind by a backup that did not come to its end")
        };
        let (object, message) = (String::from("*"), message.to_owned());
        findings.push(Finding { backup: backup.clone(), store, object, state, message });
    }
    Ok(findings)
}

/// Whether something was written to it within the time of grace; a store that tells no times is not waited for.
fn is_young(objects: &BTreeMap<String, ObjectInfo>) -> bool {
    let newest = objects.values().filter_map(|info| info.modified).max();
    newest.is_some_and(|modified| Utc::now() - modified < GRACE)
}

/// One backup in one store.
struct Verifying<'a> {
    context: &'a Context,
    store: &'a Arc<dyn ReadStore>,
    row: &'a BackupRow,
    /// What the store lists of it.
    objects: Option<&'a BTreeMap<String, ObjectInfo>>,
    listings: &'a Listings,
    stage: &'a Stage,
}

/// Why a copy could not be proven.
enum Wrong {
    /// It is not what it should be.
    Copy(CopyState, String),
    /// The store could not be asked, and why.
    Store(String),
}

impl Verifying<'_> {
    /// The inner error: the store went away meanwhile.
    async fn run(
        self,
        copies: Vec<CopyRow>,
        deep: bool,
        keyring: Option<&Keyring>,
        report: &mut VerifyReport,
    ) -> anyhow::Result<Result<(), Away>> {
        let (mut proven, mut all_good, mut away) = (Vec::new(), true, None);
        for copy in &copies {
            self.context.stop.check()?;
            report.objects += 1;
            match self.look_at(copy, deep).await? {
                Ok(bytes) => {
                    report.bytes_read += bytes;
                    proven.push(self.key(copy));
                }
                Err(Wrong::Copy(CopyState::Deleting, _)) => {}
                Err(Wrong::Copy(state, message)) => {
                    all_good = false;
                    if state != copy.state {
                        self.note(copy, state, &message)?;
                    }
                    report.findings.push(self.finding(&copy.object, state, message));
                }
                Err(Wrong::Store(message)) => {
                    away = Some(self.away(message));
                    break;
                }
            }
        }
        if deep && !copies.is_empty() {
            step::reached(Step::VerifyRead)?;
            let mut how = Proof::Read;
            // A backup of which the store has only a part can't be decrypted there.
            let lacking = away.is_some() || copies.iter().any(|copy| copy.state == CopyState::Owed);
            if let Some(keyring) = keyring.filter(|_| !lacking) {
                match self.decrypt(keyring).await? {
                    Ok(()) => how = Proof::Decrypted,
                    Err(Wrong::Copy(state, message)) => {
                        // What the seals say is more exact than a checksum; it may be all there is to say.
                        if all_good {
                            proven.clear();
                        }
                        report.findings.push(self.finding("*", state, message));
                    }
                    Err(Wrong::Store(message)) => away = Some(self.away(message)),
                }
            }
            self.context.catalog.copies().prove(&proven, how, Utc::now())?;
        }
        Ok(away.map_or(Ok(()), Err))
    }

    /// Compares a copy with what the store lists, and when all is to be read, with what it holds; the number of bytes
    /// that were read.
    async fn look_at(&self, copy: &CopyRow, deep: bool) -> anyhow::Result<Result<u64, Wrong>> {
        let info = self.objects.and_then(|objects| objects.get(&copy.object));
        let listed = match (listing::compare(copy, info), copy.state) {
            // Written after the store was listed.
            _ if self.listings.is_older_than(copy) => Ok(()),
            (Err((state, message)), _) => Err(Wrong::Copy(state, message)),
            // Of the right size, and once found damaged: read again, somebody may have put the right bytes back.
            (Ok(()), CopyState::Good) => Ok(()),
            (Ok(()), CopyState::Damaged) if deep => Ok(()),
            (Ok(()), state) => Err(Wrong::Copy(state, copy.note.clone().unwrap_or_default())),
        };
        match listed {
            Ok(()) if deep => self.read(copy).await,
            Ok(()) => Ok(Ok(0)),
            Err(wrong) => Ok(Err(wrong)),
        }
    }

    /// Reads a copy and compares its SHA-256 with that of what was stored; needs no key.
    async fn read(&self, copy: &CopyRow) -> anyhow::Result<Result<u64, Wrong>> {
        let key = names::object(&self.context.settings.cluster, &self.row.id, &copy.object);
        let get = async |offset, length| self.store.get(&key, offset, length).await;
        let found = self.context.stop.or(read_hashed(copy.size_bytes, None, self.stage, get)).await?;
        let error = match found {
            Ok(found) if found == copy.sha256 => return Ok(Ok(copy.size_bytes)),
            Ok(found) => {
                let message = format!("its SHA-256 is {found}, it was stored with {}", copy.sha256);
                return Ok(Err(Wrong::Copy(CopyState::Damaged, message)));
            }
            Err(error) => error,
        };
        match BadCopy::of(&copy.object, &error) {
            Some(bad) => self.condemned(bad.state, bad.why).await,
            // A disk that can't read this one file is not away.
            None if error.store == StoreName::Local => {
                self.condemned(CopyState::Damaged, error.to_string()).await
            }
            None => Ok(Wrong::Store(error.to_string())),
        }
        .map(Err)
    }

    /// Opens every frame and compares the SHA-256 of every file with that of what was read.
    async fn decrypt(&self, keyring: &Keyring) -> anyhow::Result<Result<(), Wrong>> {
        let stores = ReadReplicas::only(Arc::clone(self.store));
        let Err(error) = self.unpack(&stores, keyring).await else { return Ok(Ok(())) };
        let verdict = super::judge(&error);
        let is_damaged = verdict.exit_code == Kind::Damaged.exit_code();
        let failed =
            stores.away().into_iter().next().filter(|_| verdict.exit_code == Kind::Store.exit_code());
        match failed {
            Some((store, why)) if store != StoreName::Local => Ok(Wrong::Store(why)),
            // Here, too, a disk that can't read one file is not away.
            Some((_, why)) => self.condemned(CopyState::Damaged, why).await,
            None if is_damaged => self.condemned(CopyState::Damaged, verdict.message).await,
            // Not the copy's fault: the key, or the end that was asked for.
            None => Err(error),
        }
        .map(Err)
    }

    async fn unpack(&self, stores: &ReadReplicas, keyring: &Keyring) -> anyhow::Result<()> {
        let (settings, id) = (&self.context.settings, &self.row.id);
        let manifest = manifests::fetch(settings, stores, id, keyring).await?.manifest;
        if manifest.id != self.row.id {
            return Fault::new(Kind::Damaged, format!("the manifest of {id} is that of {}", manifest.id))
                .err();
        }
        let manifest = Arc::new(manifest);
        let request = Unpack {
            entries: (0..manifest.entries.len()).collect(),
            stage: self.context.progress.bytes("decrypt", manifest.original_size),
            manifest: Arc::clone(&manifest),
        };
        let volumes = Volumes::of(stores, &settings.cluster, id);
        unpack(request, Arc::new(volumes), Discard, self.context.stop.clone()).await?;
        Ok(())
    }

    /// What a failed read says about the copy, if the store is still there. A disk that was unmounted or died a moment
    /// ago would condemn every copy on it, one after the other.
    async fn condemned(&self, state: CopyState, why: String) -> anyhow::Result<Wrong> {
        let cluster = &self.context.settings.cluster;
        let asked = async { Ok(stores::still_there(cluster, &**self.store).await) };
        Ok(match self.context.stop.or(asked).await? {
            Ok(()) => Wrong::Copy(state, why),
            Err(gone) => Wrong::Store(gone.to_string()),
        })
    }

    fn away(&self, message: String) -> Away {
        Away { store: self.store.name(), message }
    }

    fn note(&self, copy: &CopyRow, state: CopyState, message: &str) -> anyhow::Result<()> {
        let (id, store) = (self.row.id.clone(), self.store.name());
        self.context.catalog.copies().set_states(&[(self.key(copy), state, message.to_owned())])?;
        self.context.catalog.backups().set_places(&[(id, store, None)])
    }

    fn key(&self, copy: &CopyRow) -> CopyKey {
        CopyKey { backup_id: self.row.id.clone(), object: copy.object.clone(), store: self.store.name() }
    }

    fn finding(&self, object: &str, state: CopyState, message: String) -> Finding {
        let state = state.as_str();
        Finding {
            backup: self.row.id.clone(),
            store: self.store.name(),
            object: object.to_owned(),
            state,
            message,
        }
    }
}

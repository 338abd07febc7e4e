//! `pgkeep verify`: what is stored, compared with what should be; `--deep` reads all of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{TimeDelta, Utc};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::manifests::{self, Volumes};
use super::{Context, Report};
use crate::catalog::{BackupRow, CopyKey, CopyRow, CopyState, Proof};
use crate::format::keyring::Keyring;
use crate::format::names;
use crate::model::{BackupId, Digest, Fault, Kind, Stage, StoreName};
use crate::pipeline::{Discard, Unpack, unpack};
use crate::store::{ObjectInfo, ReadReplicas, ReadStore, StoreResult};
use crate::system::{Step, step};

/// Stored bytes read at once.
const READ_BYTES: u64 = 4 * 1024 * 1024;

/// How long volumes without a manifest may be those of a backup that somebody else is making: another host, or another
/// state directory, of which this catalog knows nothing. Longer than any one volume takes.
const GRACE: TimeDelta = TimeDelta::hours(24);

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// One backup; without it all.
    pub backup: Option<String>,
    /// Read everything instead of listing it.
    pub deep: bool,
}

/// What is wrong with one object.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The backup.
    pub backup: BackupId,
    /// The store.
    pub store: StoreName,
    /// The object within the backup.
    pub object: String,
    /// `missing`, `damaged`, `unknown`, or `unfinished`, which is no fault.
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
    /// Duration in seconds.
    pub seconds: f64,
}

impl Report for VerifyReport {
    fn shortfall(&self) -> Option<Kind> {
        let mut faults = self.findings.iter().filter(|finding| finding.is_fault()).peekable();
        faults.peek()?;
        let unknown = faults.all(|finding| finding.state == UNKNOWN);
        Some(if unknown { Kind::Incomplete } else { Kind::Damaged })
    }
}

/// Verifies and writes down what is proven.
pub async fn run(context: &Context, request: &VerifyRequest) -> anyhow::Result<VerifyReport> {
    let clock = Instant::now();
    let backups = manifests::chosen(&context.catalog, request.backup.as_deref())?;
    manifests::refuse_absent_stores(context).await?;
    let keyring = if request.deep { key_if_set(context)? } else { None };
    let mut report = VerifyReport {
        deep: request.deep,
        decrypted: keyring.is_some(),
        backups: backups.len() as u64,
        objects: 0,
        bytes_read: 0,
        findings: Vec::new(),
        seconds: 0.0,
    };
    let total: u64 = backups.iter().map(|row| row.size_bytes).sum();
    let stage = context.progress.bytes("verify", if request.deep { total } else { 0 });
    for store in context.reading().each() {
        let listed = store.list(&names::backups(&context.settings.cluster)).await.fault()?;
        let mut listed = by_backup(context, listed);
        for row in &backups {
            context.stop.check()?;
            let objects = listed.remove(&row.id).unwrap_or_default();
            let verifying = Verifying { context, store, row, objects, stage: &stage };
            verifying.run(request.deep, keyring.as_ref(), &mut report).await?;
        }
        if request.backup.is_none() {
            report.findings.extend(unknown(context, store.name(), &listed)?);
        }
    }
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

fn key_if_set(context: &Context) -> anyhow::Result<Option<Keyring>> {
    if context.settings.keys.is_empty() { Ok(None) } else { context.keyring().map(Some) }
}

type Listed = BTreeMap<BackupId, BTreeMap<String, ObjectInfo>>;

fn by_backup(context: &Context, objects: Vec<ObjectInfo>) -> Listed {
    let mut backups = Listed::new();
    for info in objects {
        if let Some((id, object)) = names::parse_object(&context.settings.cluster, &info.key) {
            backups.entry(id).or_default().insert(object, info);
        }
    }
    backups
}

/// Backups that lie in a store and that the catalog does not know; not those that are being made now.
fn unknown(context: &Context, store: StoreName, listed: &Listed) -> anyhow::Result<Vec<Finding>> {
    let runs = context.catalog.runs().unfinished()?;
    let being_made: HashSet<String> = runs.into_iter().filter_map(|run| run.subject).collect();
    let mut findings = Vec::new();
    for (backup, objects) in listed {
        // Made while this verify was running.
        let known = context.catalog.backups().get(backup)?.is_some();
        if being_made.contains(backup.as_str()) || known {
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
    objects: BTreeMap<String, ObjectInfo>,
    stage: &'a Stage,
}

impl Verifying<'_> {
    async fn run(
        self,
        deep: bool,
        keyring: Option<&Keyring>,
        report: &mut VerifyReport,
    ) -> anyhow::Result<()> {
        let copies = self.context.catalog.copies().of(&self.row.id)?;
        let copies: Vec<CopyRow> =
            copies.into_iter().filter(|copy| copy.store == self.store.name()).collect();
        let (mut proven, mut all_good) = (Vec::new(), true);
        for copy in &copies {
            self.context.stop.check()?;
            report.objects += 1;
            let looked = if let Some(finding) = self.look(copy) {
                Err(finding)
            } else if deep {
                self.read(copy).await
            } else {
                Ok(0)
            };
            match looked {
                Ok(bytes) => {
                    report.bytes_read += bytes;
                    proven.push(self.key(copy));
                }
                Err((state, message)) => {
                    all_good = false;
                    self.note(copy, state, &message)?;
                    report.findings.push(self.finding(&copy.object, state, message));
                }
            }
        }
        step::reached(Step::VerifyRead)?;
        let mut how = if deep { Proof::Read } else { Proof::Listed };
        if let (true, Some(keyring)) = (deep, keyring) {
            match self.decrypt(keyring).await {
                Ok(()) => how = Proof::Decrypted,
                Err(error) => {
                    let verdict = super::judge(&error);
                    if verdict.exit_code != Kind::Damaged.exit_code() {
                        return Err(error);
                    }
                    // What the seals say is more exact than a checksum; it may be all there is to say.
                    if all_good {
                        proven.clear();
                    }
                    report.findings.push(self.finding("*", CopyState::Damaged, verdict.message));
                }
            }
        }
        self.context.catalog.copies().prove(&proven, how, Utc::now())
    }

    /// What the listing says about a copy.
    fn look(&self, copy: &CopyRow) -> Option<(CopyState, String)> {
        match self.objects.get(&copy.object) {
            None => Some((CopyState::Missing, "it is not there".to_owned())),
            Some(info) if info.size != copy.size_bytes => Some((
                CopyState::Damaged,
                format!("it has {} bytes, {} were stored", info.size, copy.size_bytes),
            )),
            Some(_) => None,
        }
    }

    /// Reads a copy and compares its SHA-256 with that of what was stored; needs no key.
    async fn read(&self, copy: &CopyRow) -> Result<u64, (CopyState, String)> {
        let key = names::object(&self.context.settings.cluster, &self.row.id, &copy.object);
        let mut hasher = Sha256::new();
        let mut offset = 0;
        while offset < copy.size_bytes {
            let length = READ_BYTES.min(copy.size_bytes - offset);
            let bytes = self.store.get(&key, offset, length).await;
            let bytes = bytes.map_err(|error| (CopyState::Damaged, error.to_string()))?;
            let hashed = tokio::task::spawn_blocking(move || {
                hasher.update(&bytes);
                hasher
            });
            hasher = hashed.await.map_err(|error| (CopyState::Damaged, error.to_string()))?;
            offset += length;
            self.stage.add(length);
        }
        let found = Digest::from_bytes(hasher.finalize().into());
        if found == copy.sha256 {
            return Ok(copy.size_bytes);
        }
        Err((CopyState::Damaged, format!("its SHA-256 is {found}, it was stored with {}", copy.sha256)))
    }

    /// Opens every frame and compares the SHA-256 of every file with that of what was read.
    async fn decrypt(&self, keyring: &Keyring) -> anyhow::Result<()> {
        let (settings, id) = (&self.context.settings, &self.row.id);
        let stores = ReadReplicas::only(Arc::clone(self.store));
        let (manifest, _) = manifests::fetch(settings, &stores, id, keyring).await?;
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

    fn note(&self, copy: &CopyRow, state: CopyState, message: &str) -> anyhow::Result<()> {
        let copies = self.context.catalog.copies();
        copies.set_state(&self.row.id, &copy.object, self.store.name(), state, Some(message))
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

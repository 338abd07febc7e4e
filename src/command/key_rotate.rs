//! `pgkeep key rotate`: every manifest under the first key of the settings, and which keys are needed for what.
//!
//! A manifest is replaced as a whole, in one store after the other, and the catalog learns of it afterwards. Under which
//! key it is says each copy itself, so that whoever is cut off leaves backups that open with the keys of the settings;
//! the next run finds out what is done and does the rest. Payloads stay as they are: their keys stand in the manifests.
//!
//! The header of a WAL file, which holds its key, is a part of every frame's seal (SPEC.md, section 3). It can't be
//! sealed anew without all of the file, so WAL keeps its key until it is removed; here it is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::stores::{self, Absent};
use super::{Context, Report, wishes};
use crate::catalog::{BackupFilter, BackupStatus, CopyKey, CopyState, Proof};
use crate::format::keyring::Keyring;
use crate::format::manifest::{Manifest, ManifestHead};
use crate::format::names;
use crate::format::volume::VolumeHeader;
use crate::model::{BackupId, Digest, Fault, Kind, StoreName, Timestamp};
use crate::store::{Body, ObjectInfo, Store, StoreError};
use crate::system::{Step, step};

/// How many headers of WAL files are read at the same time.
const AT_ONCE: usize = 16;
/// A header of an object that opens by itself is shorter.
const HEADER: u64 = 1024;
/// How long after a file was written the catalog may have heard of it.
const WRITTEN: TimeDelta = TimeDelta::minutes(1);

/// What was done, and what is needed.
#[derive(Debug, Clone, Serialize)]
pub struct RotateReport {
    /// The fingerprint of the key that seals.
    pub key: String,
    /// Backups that were looked at.
    pub backups: u64,
    /// Copies of their manifests that are under that key.
    pub manifests: u64,
    /// Those of them that were sealed anew by this run.
    pub resealed: u64,
    /// Other keys that something needs.
    pub needed: Vec<NeededKey>,
    /// Keys of the settings that nothing needs, which is certain only when every store was there.
    pub unneeded: Vec<String>,
    /// Stores that could not be looked at.
    pub away: Vec<AwayStore>,
    /// What could not be done.
    pub warnings: Vec<String>,
    /// Duration in seconds.
    pub seconds: f64,
}

/// A key that something needs.
#[derive(Debug, Clone, Serialize)]
pub struct NeededKey {
    /// Its fingerprint.
    pub key: String,
    /// Whether the settings have it.
    pub in_settings: bool,
    /// Copies of manifests.
    pub manifests: u64,
    /// WAL files.
    pub wal_files: u64,
    /// The last of them by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_wal_file: Option<String>,
    /// Saved catalogs, of which the next runs remove those of this machine.
    pub saved_catalogs: u64,
    /// Words about what is to be kept that could not be said again under the new key.
    pub wishes: u64,
}

/// A store that could not be looked at.
#[derive(Debug, Clone, Serialize)]
pub struct AwayStore {
    /// The store.
    pub store: StoreName,
    /// Why.
    pub message: String,
}

impl Report for RotateReport {
    fn shortfall(&self) -> Option<Kind> {
        let lacks_key = self.needed.iter().any(|key| !key.in_settings);
        (lacks_key || !self.away.is_empty() || !self.warnings.is_empty()).then_some(Kind::Incomplete)
    }
}

/// Seals anew, and counts.
pub async fn run(context: &Context) -> anyhow::Result<RotateReport> {
    let clock = Instant::now();
    let keyring = context.keyring()?;
    // Neither must a manifest come back that is being removed, nor be copied while it changes.
    let _turns = (
        context.turn("cleanup", "seal manifests anew while nothing is removed").await?,
        context.turn("sync", "seal manifests anew while no copies are made").await?,
    );
    let presence = context.stop.or(stores::presence(context)).await?;
    let away = |Absent { store, why }: Absent| AwayStore { store, message: why };
    let mut rotating = Rotating {
        context,
        keyring: &keyring,
        stores: presence.present,
        found: BTreeMap::new(),
        report: RotateReport {
            key: keyring.fingerprint().to_owned(),
            backups: 0,
            manifests: 0,
            resealed: 0,
            needed: Vec::new(),
            unneeded: Vec::new(),
            away: presence.absent.into_iter().map(away).collect(),
            warnings: Vec::new(),
            seconds: 0.0,
        },
    };
    rotating.manifests().await?;
    // A few words each: they are said again under the new key, and what they have overtaken goes.
    let warnings = wishes::say_again(context, &rotating.stores).await?;
    rotating.report.warnings.extend(warnings);
    rotating.objects_alone().await?;
    let mut report = rotating.concluded();
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

struct Rotating<'a> {
    context: &'a Context,
    keyring: &'a Keyring,
    /// Those that are there and have answered so far.
    stores: Vec<Arc<dyn Store>>,
    /// By fingerprint.
    found: BTreeMap<String, NeededKey>,
    report: RotateReport,
}

/// One store's copy of a manifest.
struct Copy {
    store: Arc<dyn Store>,
    bytes: Vec<u8>,
    fingerprint: String,
}

impl Rotating<'_> {
    async fn manifests(&mut self) -> anyhow::Result<()> {
        let backups = self.context.catalog.backups().list(&BackupFilter::default())?;
        let stage = self.context.progress.rows("manifests", backups.len() as u64);
        step::reached(Step::KeyBegun)?;
        for row in backups {
            self.context.stop.check()?;
            self.report.backups += 1;
            if let Err(error) = self.manifest(&row.id).await {
                self.context.stop.check()?;
                let verdict = super::judge(&error);
                // What is wrong with one manifest is no reason to leave the others.
                if verdict.exit_code == Kind::Bug.exit_code() {
                    return Err(error);
                }
                self.report.warnings.push(format!("{}: {}", row.id, verdict.message));
            }
            stage.add(1);
        }
        Ok(())
    }

    /// One backup's manifest in all stores that have it.
    async fn manifest(&mut self, id: &BackupId) -> anyhow::Result<()> {
        let key = names::object(&self.context.settings.cluster, id, names::MANIFEST);
        let copies = self.copies(id, &key).await;
        let first = self.keyring.fingerprint();
        let resealed = match copies.iter().find(|copy| copy.fingerprint == first) {
            // What an earlier run has begun is what the other stores get.
            Some(done) => done.bytes.clone(),
            None if copies.is_empty() => return Ok(()),
            None => self.resealed(id, &copies)?,
        };
        Manifest::open(&resealed, id, self.keyring)?;
        let mut held = Vec::new();
        for copy in copies {
            let name = copy.store.name();
            if copy.fingerprint == first {
                self.report.manifests += 1;
                held.push((name, copy.bytes));
                continue;
            }
            // One that was removed meanwhile must not come back.
            let row = self.context.catalog.backups().get(id)?;
            if row.is_none_or(|row| row.status != BackupStatus::Complete) {
                return Ok(());
            }
            match copy.store.put(&key, Body::Bytes(resealed.clone())).await {
                Ok(()) => {
                    step::reached(Step::KeySealed)?;
                    self.report.manifests += 1;
                    self.report.resealed += 1;
                    held.push((name, resealed.clone()));
                    // The one under the old key would stay as an older version where a store keeps such.
                    if let Err(error) = copy.store.delete_old_versions(&key).await {
                        self.report.warnings.push(format!("delete the manifest under the old key: {error}"));
                    }
                }
                Err(error) => {
                    self.needs(&copy.fingerprint).manifests += 1;
                    self.is_away(&error);
                }
            }
        }
        self.write_down(id, &resealed, &held)?;
        step::reached(Step::KeyRecorded)
    }

    /// The object under the first key, out of the first copy that opens.
    fn resealed(&mut self, id: &BackupId, copies: &[Copy]) -> anyhow::Result<Vec<u8>> {
        let mut wrong = None;
        for copy in copies {
            match Manifest::reseal(&copy.bytes, id, self.keyring, u64::try_from(Utc::now().timestamp())?) {
                Ok(object) => return Ok(object),
                Err(fault) => wrong = wrong.or(Some(fault)),
            }
        }
        for copy in copies {
            self.needs(&copy.fingerprint).manifests += 1;
        }
        Err(wrong.unwrap_or_else(|| Fault::new(Kind::Bug, "no copy, and no reason")).into())
    }

    /// What each store that is there has; damaged ones are said and left to `sync`.
    async fn copies(&mut self, id: &BackupId, key: &str) -> Vec<Copy> {
        let asked = join_all(self.stores.iter().map(|store| store.get_small(key))).await;
        let mut copies = Vec::new();
        for (store, answer) in self.stores.clone().into_iter().zip(asked) {
            match answer {
                Ok(None) => {}
                Err(error) => self.is_away(&error),
                Ok(Some(bytes)) => match ManifestHead::read(&bytes, id) {
                    Ok(head) => copies.push(Copy { store, bytes, fingerprint: head.fingerprint }),
                    Err(fault) => {
                        let name = store.name();
                        let why = format!("store {name}: {}; `pgkeep sync` mends it", fault.message);
                        self.report.warnings.push(why);
                    }
                },
            }
        }
        copies
    }

    /// Lets the catalog know what the stores hold now. Copies that are owed will be made of the new object.
    fn write_down(&self, id: &BackupId, object: &[u8], held: &[(StoreName, Vec<u8>)]) -> anyhow::Result<()> {
        let copies = self.context.catalog.copies();
        let key = |store| CopyKey { backup_id: id.clone(), object: names::MANIFEST.to_owned(), store };
        let (mut became, mut proven, mut size_before) = (Vec::new(), Vec::new(), None);
        for row in copies.of(id)?.into_iter().filter(|row| row.object == names::MANIFEST) {
            size_before = size_before.or(Some(row.size_bytes));
            let own = held.iter().find(|(store, _)| *store == row.store).map(|(_, bytes)| bytes.as_slice());
            let bytes = match own {
                Some(bytes) => bytes,
                None if row.state == CopyState::Good => continue,
                None => object,
            };
            let (size, sha256) = (bytes.len() as u64, sum(bytes));
            if own.is_some() && (row.sha256 != sha256 || row.state != CopyState::Good) {
                proven.push(key(row.store));
            }
            became.push((key(row.store), size, sha256));
        }
        copies.became(&became)?;
        copies.prove(&proven, Proof::Written, Utc::now())?;
        let grown = i64::try_from(object.len())? - i64::try_from(size_before.unwrap_or(object.len() as u64))?;
        let backups = self.context.catalog.backups();
        backups.resealed(id, grown, sum(object))?;
        backups.sealed_with(id, self.keyring.fingerprint())
    }

    /// Under which keys WAL files and saved catalogs are.
    async fn objects_alone(&mut self) -> anyhow::Result<()> {
        let cluster = self.context.settings.cluster.clone();
        let prefixes = [names::wal(&cluster), names::saved_catalogs(&cluster), names::wishes(&cluster)];
        // The same object is the same in every store; what lies on this machine costs nothing to read.
        let mut objects: BTreeMap<String, (Arc<dyn Store>, ObjectInfo)> = BTreeMap::new();
        for prefix in &prefixes {
            let listed = join_all(self.stores.iter().map(|store| store.list(prefix))).await;
            for (store, listed) in self.stores.clone().into_iter().zip(listed) {
                match listed {
                    Ok(listed) => {
                        for info in listed {
                            objects.entry(info.key.clone()).or_insert_with(|| (Arc::clone(&store), info));
                        }
                    }
                    Err(error) => self.is_away(&error),
                }
            }
        }
        let stage = self.context.progress.rows("keys of WAL", objects.len() as u64);
        let mut sealed: BTreeMap<String, Timestamp> = BTreeMap::new();
        let reading = stream::iter(objects.into_iter().map(|(key, (store, info))| async move {
            let head = store.get(&key, 0, info.size.min(HEADER)).await;
            (key, info.modified, head)
        }));
        let mut reading = std::pin::pin!(reading.buffered(AT_ONCE));
        while let Some((key, modified, head)) =
            self.context.stop.or(async { Ok(reading.next().await) }).await?
        {
            stage.add(1);
            let head = match head {
                Ok(head) => head,
                Err(error) => {
                    self.report.warnings.push(format!("under which key it is can't be told: {error}"));
                    continue;
                }
            };
            let header = VolumeHeader::decode(&head).map(|(header, _)| header);
            let Some(fingerprint) =
                header.ok().and_then(|header| Keyring::named(&header.sealed_key).map(ToOwned::to_owned))
            else {
                self.report.warnings.push(format!("{key} is damaged: under which key it is can't be told"));
                continue;
            };
            let needed = self.needs(&fingerprint);
            match names::parse_wal(&cluster, &key) {
                Some((file, _)) => {
                    needed.wal_files += 1;
                    let last = needed.last_wal_file.take().max(Some(file.to_string()));
                    needed.last_wal_file = last;
                    // Its row is a little younger than the file.
                    let at = modified.unwrap_or_else(Utc::now) + WRITTEN;
                    sealed.entry(fingerprint).and_modify(|known| *known = at.max(*known)).or_insert(at);
                }
                None if names::parse_wish(&cluster, &key).is_some() => needed.wishes += 1,
                None => needed.saved_catalogs += 1,
            }
        }
        if self.report.away.is_empty() && self.report.warnings.is_empty() {
            self.context.catalog.wal().all_sealed_with(&sealed)?;
        }
        Ok(())
    }

    fn needs(&mut self, fingerprint: &str) -> &mut NeededKey {
        let in_settings = self.keyring.fingerprints().any(|known| known == fingerprint);
        self.found.entry(fingerprint.to_owned()).or_insert_with(|| NeededKey {
            key: fingerprint.to_owned(),
            in_settings,
            manifests: 0,
            wal_files: 0,
            last_wal_file: None,
            saved_catalogs: 0,
            wishes: 0,
        })
    }

    /// A store that has failed is asked no more in this run.
    fn is_away(&mut self, error: &StoreError) {
        self.context.reading().failed(error);
        self.stores.retain(|store| store.name() != error.store);
        if self.report.away.iter().all(|away| away.store != error.store) {
            self.report.away.push(AwayStore { store: error.store, message: error.to_string() });
        }
    }

    fn concluded(self) -> RotateReport {
        let Self { keyring, mut found, mut report, .. } = self;
        found.remove(keyring.fingerprint());
        if report.away.is_empty() && report.warnings.is_empty() {
            let others = keyring.fingerprints().skip(1).filter(|key| !found.contains_key(*key));
            report.unneeded = others.map(ToOwned::to_owned).collect();
        }
        report.needed = found.into_values().collect();
        report
    }
}

fn sum(bytes: &[u8]) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(&Sha256::digest(bytes));
    Digest::from_bytes(digest)
}

//! Manifests and the cluster's identity as commands need them: read from the stores, written down in the catalog.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};

use super::Context;
use super::volumes::BadCopy;
use crate::catalog::{
    BackupFilter, BackupRow, BackupStatus, Catalog, CopyKey, CopyRow, CopyState, Proof, WalPlace,
};
use crate::config::Settings;
use crate::format::identity::Identity;
use crate::format::keyring::Keyring;
use crate::format::manifest::{Manifest, ManifestHead};
use crate::format::names;
use crate::model::{BackupId, BackupKind, Digest, Fault, Kind, RunId, StoreName, Timestamp};
use crate::pipeline::Refusal;
use crate::store::ReadReplicas;

/// A backup whose manifest is in the stores.
pub(super) struct Stored<'a> {
    pub(super) manifest: &'a Manifest,
    /// The manifest as it is stored.
    pub(super) object: &'a [u8],
    /// What each store has of it; what one lacks is owed. Of a store that is not in the list nothing is known.
    pub(super) held: &'a [Held],
}

/// What a store has of a backup.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) store: StoreName,
    /// Names of the objects that it has in their full size.
    pub(super) objects: BTreeSet<String>,
    /// How it is known that it has them.
    pub(super) how: Proof,
    /// Why it lacks others.
    pub(super) why: Option<String>,
}

impl Held {
    /// Out of what a store lists of it, names and sizes; `sealed` is the size of the manifest as it is stored.
    pub(super) fn of<'a>(
        store: StoreName,
        manifest: &Manifest,
        sealed: u64,
        listed: impl Iterator<Item = (&'a str, u64)>,
    ) -> Self {
        let fits = |(name, size): &(&str, u64)| {
            let volume = manifest.volumes.iter().find(|volume| volume.name == *name);
            volume.map_or(*name == names::MANIFEST && *size == sealed, |volume| volume.size == *size)
        };
        let objects = listed.filter(fits).map(|(name, _)| name.to_owned()).collect();
        Self { store, objects, how: Proof::Listed, why: None }
    }

    /// Whether the store has all of it.
    pub(super) fn is_whole(&self, manifest: &Manifest) -> bool {
        manifest
            .volumes
            .iter()
            .map(|volume| volume.name.as_str())
            .chain([names::MANIFEST])
            .all(|name| self.objects.contains(name))
    }
}

/// Whether every volume is in at least one store.
pub(super) fn is_covered(manifest: &Manifest, held: &[Held]) -> bool {
    manifest.volumes.iter().all(|volume| held.iter().any(|held| held.objects.contains(&volume.name)))
}

/// Fails when there is nothing at all where the stores should be, not even the cluster's identity: a disk that is not
/// mounted must look neither like lost backups nor like none. One store that is there is enough.
pub(super) async fn refuse_absent_stores(context: &Context) -> anyhow::Result<()> {
    let cluster = &context.settings.cluster;
    let mut absent = match super::stores::presence(context).await {
        Ok(_) => return Ok(()),
        Err(error) => Some(error),
    };
    for store in context.reading().by_preference() {
        match store.list(&names::backups(cluster)).await {
            Ok(objects) if !objects.is_empty() => absent = None,
            Ok(_) => {}
            Err(error) => context.reading().failed(&error),
        }
    }
    absent.map_or(Ok(()), Err)
}

/// Refuses to go on when the server is not the one whose backups these are.
pub(super) fn refuse_another_server(identity: &Identity, system_identifier: u64) -> anyhow::Result<()> {
    if identity.system_identifier == system_identifier {
        return Ok(());
    }
    Fault::new(
        Kind::Refused,
        format!(
            "the stores hold the backups of another server under the name {} (system identifier {}, this one is {})",
            identity.cluster, identity.system_identifier, system_identifier
        ),
    )
    .hint("Give this server a BACKUP_CLUSTER and a BACKUP_STATE_DIR of its own, and run `pgkeep init`.")
    .err()
}

/// A manifest as it came from the stores.
pub(super) struct Fetched {
    pub(super) manifest: Manifest,
    /// As it is stored.
    pub(super) object: Vec<u8>,
    /// Copies of it that were not good.
    pub(super) bad: Vec<BadCopy>,
}

/// Reads a backup's manifest from the first store that has a good one, and opens it.
pub(super) async fn fetch(
    settings: &Settings,
    stores: &ReadReplicas,
    id: &BackupId,
    keyring: &Keyring,
) -> anyhow::Result<Fetched> {
    let key = names::object(&settings.cluster, id, names::MANIFEST);
    let (mut bad, mut wrong) = (Vec::new(), Vec::<Refusal>::new());
    for store in stores.by_preference() {
        let fault = match store.get_small(&key).await {
            Ok(Some(object)) => match open(settings, &object, id, keyring) {
                Ok(manifest) => return Ok(Fetched { manifest, object, bad }),
                Err(fault) => {
                    if fault.kind == Kind::Damaged {
                        let (object, why) = (names::MANIFEST.to_owned(), fault.message.clone());
                        bad.push(BadCopy { store: store.name(), object, state: CopyState::Damaged, why });
                    }
                    fault
                }
            },
            Ok(None) => continue,
            Err(error) => {
                stores.failed(&error);
                Fault::from(error)
            }
        };
        wrong.push((store.name(), fault));
    }
    Err(unread(id, wrong).into())
}

/// Why the manifest can't be had, from what is the matter with each store: it is lost only when every copy is, and not
/// when a store that may have a good one is away.
fn unread(id: &BackupId, mut wrong: Vec<Refusal>) -> Fault {
    let Some(worst) =
        wrong.iter().position(|(_, fault)| fault.kind != Kind::Damaged).or(wrong.len().checked_sub(1))
    else {
        return Fault::new(Kind::Damaged, format!("the manifest of {id} is in no store"))
            .hint("Run `pgkeep verify` to see what is left, and restore another backup (`pgkeep list`).");
    };
    let each = wrong.iter().map(|(store, fault)| format!("{store}: {}", fault.message));
    let all = each.collect::<Vec<_>>().join("; ");
    let count = wrong.len();
    let (_, mut fault) = wrong.swap_remove(worst);
    // A key that does not fit is the same everywhere.
    if count > 1 && matches!(fault.kind, Kind::Damaged | Kind::Store) {
        fault.message = format!("the manifest of {id} can be had from no store: {all}");
    }
    fault
}

fn open(settings: &Settings, object: &[u8], id: &BackupId, keyring: &Keyring) -> Result<Manifest, Fault> {
    let manifest = Manifest::open(object, id, keyring)?;
    // The seal says nothing of the key under which the object lies, and clusters may share a Fernet key.
    if manifest.cluster != settings.cluster {
        return Err(Fault::new(
            Kind::Damaged,
            format!("{id} is a backup of the cluster {}, not of {}", manifest.cluster, settings.cluster),
        )
        .hint("Somebody put it there: move it back to where it belongs."));
    }
    Ok(manifest)
}

/// Writes a stored backup into the catalog, with its copies. May run again.
pub(super) fn record(context: &Context, stored: &Stored<'_>, run: Option<&RunId>) -> anyhow::Result<()> {
    let Stored { manifest, object, held } = stored;
    let cluster = &context.settings.cluster;
    let mut checksum = [0; 32];
    checksum.copy_from_slice(&Sha256::digest(object));
    let checksum = Digest::from_bytes(checksum);
    let place = |wanted: StoreName| {
        let directory = names::backup(cluster, &manifest.id);
        let whole = held.iter().any(|held| held.store == wanted && held.is_whole(manifest));
        let store = context.reading().each().find(|store| whole && store.name() == wanted);
        store.map(|store| store.locate(&directory))
    };
    let (started_at, finished_at) = (time(&manifest.started_at)?, time(&manifest.finished_at)?);
    let row = BackupRow {
        id: manifest.id.clone(),
        kind: manifest.kind,
        database: manifest.database_name(),
        tenant_id: manifest.tenant.as_ref().map(|tenant| tenant.id.clone()),
        filename: names::backup(cluster, &manifest.id),
        status: BackupStatus::Complete,
        size_bytes: manifest.stored_size + object.len() as u64,
        original_size_bytes: manifest.original_size,
        compressed_size_bytes: manifest.compressed_size,
        checksum,
        local_path: place(StoreName::Local),
        r2_path: place(StoreName::R2),
        b2_path: place(StoreName::B2),
        parent: None,
        codec: manifest.codec,
        rows: manifest.database_name().map(|_| manifest.rows()),
        entries: manifest.entries.len() as u64,
        postgres_version: Some(version_text(manifest.postgres_version_num)),
        system_identifier: Some(manifest.system_identifier.to_string()),
        format_version: u32::from(manifest.format),
        pgkeep_version: manifest.pgkeep_version.clone(),
        run_id: run.cloned(),
        started_at,
        finished_at,
        seconds: (finished_at - started_at).as_seconds_f64().max(0.0),
        consistent_at: Some(time(&manifest.consistent_at)?),
        before_restore: manifest.tenant.as_ref().is_some_and(|tenant| tenant.before_restore),
        pin: None,
        wal: manifest.physical.as_ref().map(|cluster| WalPlace {
            timeline: cluster.timeline,
            start_lsn: cluster.start_lsn,
            stop_lsn: cluster.stop_lsn,
            wal_segment_size: cluster.wal_segment_size,
            damaged_pages: cluster.damaged_pages.iter().map(|file| file.blocks.len() as u64).sum(),
        }),
    };
    let objects = manifest.volumes.iter().map(|volume| (volume.name.as_str(), volume.size, volume.sha256));
    let objects = objects.chain([(names::MANIFEST, object.len() as u64, checksum)]);
    let now = Utc::now();
    let copy = |(name, size_bytes, sha256): (&str, u64, Digest), held: &Held| {
        let good = held.objects.contains(name);
        CopyRow {
            backup_id: manifest.id.clone(),
            object: name.to_owned(),
            store: held.store,
            size_bytes,
            sha256,
            state: if good { CopyState::Good } else { CopyState::Owed },
            seen_at: good.then_some(now),
            proven_at: good.then_some(now),
            proven_how: good.then_some(held.how),
            note: held.why.clone().filter(|_| !good),
        }
    };
    let copies: Vec<CopyRow> =
        objects.flat_map(|object| held.iter().map(move |held| copy(object, held))).collect();
    context.catalog.backups().record(&row, &copies)?;
    let ManifestHead { fingerprint, .. } = ManifestHead::read(object, &manifest.id)?;
    context.catalog.backups().sealed_with(&manifest.id, &fingerprint)
}

/// `15.18` out of 150018.
pub(super) fn version_text(version_num: u32) -> String {
    format!("{}.{}", version_num / 10_000, version_num % 10_000)
}

fn time(text: &str) -> anyhow::Result<Timestamp> {
    Ok(DateTime::parse_from_rfc3339(text)
        .map_err(|error| Fault::new(Kind::Damaged, format!("\"{text}\" is not a time: {error}")))?
        .to_utc())
}

/// Finds the backup that the operator means: `latest` (of this kind, of this database), an identifier, or the unique
/// beginning of one.
pub(super) fn find(
    catalog: &Catalog,
    text: &str,
    kind: Option<BackupKind>,
    database: Option<&str>,
) -> anyhow::Result<BackupRow> {
    let backups = catalog.backups();
    if text == "latest" {
        return if let Some(row) = backups.newest_complete(kind, database)? {
            Ok(row)
        } else {
            let of = match (kind, database) {
                (_, Some(name)) => format!(" of database \"{name}\""),
                (Some(kind), None) => format!(" of a {kind}"),
                (None, None) => String::new(),
            };
            Fault::new(Kind::NotThere, format!("there is no backup{of}"))
                .hint(
                    "`pgkeep list` shows what there is; if the catalog is new, run `pgkeep catalog rebuild`.",
                )
                .err()
        };
    }
    let mut found = backups.find_prefix(text)?;
    found.retain(|row| row.status == BackupStatus::Complete);
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Fault::new(Kind::NotThere, format!("there is no backup \"{text}\""))
            .hint("`pgkeep list` shows what there is; if the catalog is new, run `pgkeep catalog rebuild`.")
            .err(),
        _ => {
            let names: Vec<&str> = found.iter().map(|row| row.id.as_str()).collect();
            Fault::new(Kind::Usage, format!("\"{text}\" could be {}", names.join(" or ")))
                .hint("Give more of the identifier.")
                .err()
        }
    }
}

/// All complete backups, or one.
pub(super) fn chosen(catalog: &Catalog, text: Option<&str>) -> anyhow::Result<Vec<BackupRow>> {
    match text {
        Some(text) => Ok(vec![find(catalog, text, None, None)?]),
        None => catalog.backups().list(&BackupFilter::default()),
    }
}

/// What each store has of the backup. A store that can't be asked is an error: nobody may take what it has for nothing.
pub(super) async fn holders(
    context: &Context,
    manifest: &Manifest,
    sealed: u64,
) -> anyhow::Result<Vec<Held>> {
    let prefix = names::backup(&context.settings.cluster, &manifest.id);
    let stores: Vec<_> = context.reading().each().collect();
    let listed = join_all(stores.iter().map(|store| store.list(&prefix))).await;
    let mut holders = Vec::new();
    for (store, listed) in stores.into_iter().zip(listed) {
        match listed {
            Ok(objects) => {
                let sizes =
                    objects.iter().filter_map(|info| Some((info.key.strip_prefix(&prefix)?, info.size)));
                holders.push(Held::of(store.name(), manifest, sealed, sizes));
            }
            Err(error) => {
                context.reading().failed(&error);
                return Err(error.into());
            }
        }
    }
    Ok(holders)
}

/// Writes down copies that turned out to be bad, and says so of each.
pub(super) fn mark(context: &Context, id: &BackupId, bad: &[BadCopy]) -> anyhow::Result<Vec<String>> {
    let known = context.catalog.copies().of(id)?;
    let (mut said, mut states, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for BadCopy { store, object, state, why } in bad {
        if known.iter().any(|row| row.object == *object && row.store == *store) {
            let key = CopyKey { backup_id: id.clone(), object: object.clone(), store: *store };
            states.push((key, *state, why.clone()));
            places.push((id.clone(), *store, None));
        }
        said.push(format!("the copy in {store} is bad: {why}"));
    }
    context.catalog.copies().set_states(&states)?;
    context.catalog.backups().set_places(&places)?;
    Ok(said)
}

//! Manifests and the cluster's identity as commands need them: read from the stores, written down in the catalog.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};

use super::Context;
use crate::catalog::{BackupFilter, BackupRow, BackupStatus, Catalog, CopyRow, CopyState, Proof};
use crate::config::Settings;
use crate::format::identity::Identity;
use crate::format::keyring::Keyring;
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::model::{BackupId, BackupKind, ClusterName, Digest, Fault, Kind, RunId, StoreName, Timestamp};
use crate::pipeline::RangeReader;
use crate::store::{ReadReplicas, StoreResult};

/// A backup whose manifest is in the stores.
pub(super) struct Stored<'a> {
    pub(super) manifest: &'a Manifest,
    /// The manifest as it is stored.
    pub(super) object: &'a [u8],
    /// The stores that have it with all its volumes.
    pub(super) stores: &'a [StoreName],
}

/// The identity of the cluster as the stores have it.
pub(super) async fn identity(context: &Context) -> anyhow::Result<Identity> {
    let key = names::identity(&context.settings.cluster);
    if let Some(bytes) = context.reading().get_small(&key).await? {
        Ok(Identity::from_bytes(&bytes)?)
    } else {
        let places: Vec<String> = context.reading().each().map(|store| store.locate(&key)).collect();
        Fault::new(
            Kind::NotInitialised,
            format!("no store knows the cluster: {} is not there", places.join(", ")),
        )
        .hint("Is the disk mounted? If this is a new place for backups, run `pgkeep init`.")
        .err()
    }
}

/// Fails when there is nothing at all where the stores should be, not even the cluster's identity: a disk that is not
/// mounted must look neither like lost backups nor like none.
pub(super) async fn refuse_absent_stores(context: &Context) -> anyhow::Result<()> {
    let objects = context.reading().list(&names::backups(&context.settings.cluster)).await?;
    if objects.is_empty() { identity(context).await.map(|_| ()) } else { Ok(()) }
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

/// Reads a backup's manifest from the first store that has it and opens it.
pub(super) async fn fetch(
    settings: &Settings,
    stores: &ReadReplicas,
    id: &BackupId,
    keyring: &Keyring,
) -> anyhow::Result<(Manifest, Vec<u8>)> {
    let key = names::object(&settings.cluster, id, names::MANIFEST);
    let Some(object) = stores.get_small(&key).await? else {
        return Fault::new(Kind::Damaged, format!("the manifest of {id} is in no store"))
            .hint("Run `pgkeep verify` to see what is left, and restore another backup (`pgkeep list`).")
            .err();
    };
    let manifest = Manifest::open(&object, id, keyring)?;
    // The seal says nothing of the key under which the object lies, and clusters may share a Fernet key.
    if manifest.cluster != settings.cluster {
        return Fault::new(
            Kind::Damaged,
            format!("{id} is a backup of the cluster {}, not of {}", manifest.cluster, settings.cluster),
        )
        .hint("Somebody put it there: move it back to where it belongs.")
        .err();
    }
    Ok((manifest, object))
}

/// Writes a stored backup into the catalog, with its copies. May run again.
pub(super) fn record(context: &Context, stored: &Stored<'_>, run: Option<&RunId>) -> anyhow::Result<()> {
    let Stored { manifest, object, stores } = stored;
    let cluster = &context.settings.cluster;
    let mut checksum = [0; 32];
    checksum.copy_from_slice(&Sha256::digest(object));
    let checksum = Digest::from_bytes(checksum);
    let place = |wanted: StoreName| {
        let directory = names::backup(cluster, &manifest.id);
        let readers = context.reading();
        let store = readers.each().find(|store| store.name() == wanted && stores.contains(&wanted));
        store.map(|store| store.locate(&directory))
    };
    let (started_at, finished_at) = (time(&manifest.started_at)?, time(&manifest.finished_at)?);
    let row = BackupRow {
        id: manifest.id.clone(),
        kind: manifest.kind,
        database: manifest.database.as_ref().map(|database| database.properties.name.clone()),
        tenant_id: None,
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
        rows: Some(manifest.rows()),
        entries: manifest.entries.len() as u64,
        postgres_version: Some(version_text(manifest.postgres_version_num)),
        system_identifier: Some(manifest.system_identifier.to_string()),
        format_version: u32::from(manifest.format),
        pgkeep_version: manifest.pgkeep_version.clone(),
        run_id: run.cloned(),
        started_at,
        finished_at,
        seconds: (finished_at - started_at).as_seconds_f64().max(0.0),
    };
    let objects = manifest.volumes.iter().map(|volume| (volume.name.as_str(), volume.size, volume.sha256));
    let objects = objects.chain([(names::MANIFEST, object.len() as u64, checksum)]);
    let copies: Vec<CopyRow> = objects
        .flat_map(|(name, size, sha256)| {
            stores.iter().map(move |store| (name.to_owned(), size, sha256, *store))
        })
        .map(|(object, size_bytes, sha256, store)| CopyRow {
            backup_id: manifest.id.clone(),
            object,
            store,
            size_bytes,
            sha256,
            state: CopyState::Good,
            seen_at: None,
            proven_at: run.map(|_| Utc::now()),
            proven_how: run.map(|_| Proof::Written),
            note: None,
        })
        .collect();
    context.catalog.backups().record(&row, &copies)
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

/// Finds the backup that the operator means: `latest`, an identifier, or the unique beginning of one.
pub(super) fn find(catalog: &Catalog, text: &str, database: Option<&str>) -> anyhow::Result<BackupRow> {
    let backups = catalog.backups();
    if text == "latest" {
        return if let Some(row) = backups.newest_complete(BackupKind::Database, database)? {
            Ok(row)
        } else {
            let of = database.map_or_else(String::new, |name| format!(" of database \"{name}\""));
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
        Some(text) => Ok(vec![find(catalog, text, None)?]),
        None => catalog.backups().list(&BackupFilter::default()),
    }
}

/// A backup's volumes in the stores.
pub(super) struct Volumes {
    stores: ReadReplicas,
    cluster: ClusterName,
    id: BackupId,
}

impl Volumes {
    pub(super) fn of(stores: ReadReplicas, cluster: &ClusterName, id: &BackupId) -> Self {
        Self { stores, cluster: cluster.clone(), id: id.clone() }
    }
}

#[async_trait]
impl RangeReader for Volumes {
    async fn read(&self, volume: &str, offset: u64, length: u64) -> anyhow::Result<Vec<u8>> {
        self.stores.get(&names::object(&self.cluster, &self.id, volume), offset, length).await
    }
}

/// The stores that hold the manifest and every volume in its full size.
pub(super) async fn holders(context: &Context, manifest: &Manifest) -> anyhow::Result<Vec<StoreName>> {
    let prefix = names::backup(&context.settings.cluster, &manifest.id);
    let mut holders = Vec::new();
    for store in context.reading().each() {
        let objects = store.list(&prefix).await.fault()?;
        let has = |name: &str, size: Option<u64>| {
            objects.iter().any(|info| {
                info.key.strip_prefix(&prefix) == Some(name) && size.is_none_or(|size| size == info.size)
            })
        };
        let volumes = manifest.volumes.iter().all(|volume| has(&volume.name, Some(volume.size)));
        if volumes && has(names::MANIFEST, None) {
            holders.push(store.name());
        }
    }
    Ok(holders)
}

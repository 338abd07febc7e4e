//! `pgkeep backup`: source → frames → compress → seal → digest → volumes → stores, then the manifest, then the catalog.
//! The chain is the same for every kind; `Source` is what a kind adds.

pub mod cluster;
pub mod config;
pub mod database;
pub(super) mod own;
mod storing;
pub mod tenant;

use std::path::PathBuf;
use std::time::Instant;

use chrono::Utc;
use serde::Serialize;

use super::context::staging_of;
use super::manifests::{self, Held, Stored};
use super::stores::{self, Absent, Presence};
use super::{Context, Report, archive};
use crate::format::cluster::{Cluster, DamagedPages};
use crate::format::manifest::{Database, Manifest, SealedKey, Table};
use crate::format::tenant::Tenant;
use crate::format::{self, names};
use crate::model::{BackupId, BackupKind, Fault, Kind, Lsn, Stage, Timestamp, ratio, timestamp_text};
use crate::pipeline::{FinishedEntry, Framer, PackPlan, Packed};
use crate::postgres::Server;
use crate::system::{Step, durable, fill_random, random_u32, step};
use storing::{commit, entries, pump, staging_directories};

/// What a kind of backup reads, opened: nothing is read yet.
trait Source: Sized {
    /// The server's system identifier.
    fn system_identifier(&self) -> u64;

    /// What is going to be read, for those who want to see it.
    fn details(&self) -> String;

    /// About how many bytes.
    fn estimate(&self) -> u64;

    /// Reads everything into the pipeline; succeeds only when all of it was read.
    fn read(
        self,
        framer: Framer,
        stage: Stage,
        context: &Context,
    ) -> impl Future<Output = anyhow::Result<Contents>>;
}

/// What was read, as the manifest keeps it.
struct Contents {
    entries: Vec<(FinishedEntry, Option<Box<Table>>)>,
    consistent_at: Timestamp,
    tool_version: String,
    postgres_version_num: u32,
    warnings: Vec<String>,
    database: Option<Database>,
    tenant: Option<Tenant>,
    /// With the connection on which the backup was made: who is late with the WAL is asked there.
    cluster: Option<(Cluster, Server)>,
}

/// A backup that was made.
#[derive(Debug, Clone, Serialize)]
pub struct BackupReport {
    /// Its identifier.
    pub id: BackupId,
    /// What it holds.
    pub kind: BackupKind,
    /// The database, where it is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The tenant, where it is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The instant whose data it holds.
    pub consistent_at: String,
    /// Tables of a database or a tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<u64>,
    /// Rows of all tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Files of a cluster or of a configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Where a cluster's backup lies in the stream of WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal: Option<WalRange>,
    /// Pages of a cluster whose checksum is wrong: the file, and the numbers of the pages in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged_pages: Vec<DamagedPages>,
    /// Plain bytes.
    pub original_size_bytes: u64,
    /// Stored bytes, manifest included.
    pub size_bytes: u64,
    /// How many times smaller.
    pub ratio: f64,
    /// Duration in seconds.
    pub seconds: f64,
    /// Where the copies are.
    pub places: Vec<String>,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

/// The WAL that a backup needs.
#[derive(Debug, Clone, Serialize)]
pub struct WalRange {
    /// The timeline.
    pub timeline: u32,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// The first segment that replay needs.
    pub first_segment: String,
    /// The last one that it needs in order to be consistent.
    pub last_segment: String,
}

impl Report for BackupReport {
    fn shortfall(&self) -> Option<Kind> {
        if !self.damaged_pages.is_empty() {
            return Some(Kind::Damaged);
        }
        (!self.warnings.is_empty()).then_some(Kind::Incomplete)
    }
}

/// Makes a backup of what `open` opens when it is told the backup's identifier, when its kind has its turn.
async fn run<S: Source, F: Future<Output = anyhow::Result<S>>>(
    context: &Context,
    kind: BackupKind,
    open: impl FnOnce(BackupId) -> F,
) -> anyhow::Result<BackupReport> {
    let _turn = context.turn(&format!("backup-{kind}"), &format!("back up a {kind}")).await?;
    // Before anything is read: without a key nothing could be sealed.
    let keyring = context.keyring()?;
    let presence = present(context).await?;
    let begun = Begun::now(kind)?;
    context.catalog.runs().set_subject(&context.run, &[&begun.id])?;
    one(&Room { context, keyring: &keyring, presence: &presence }, begun, open).await
}

/// A backup that is to be made; the catalog knows of it before anything is written, so that what is left of it is found.
struct Begun {
    id: BackupId,
    at: Timestamp,
}

impl Begun {
    fn now(kind: BackupKind) -> anyhow::Result<Self> {
        let at = Utc::now();
        Ok(Self { id: BackupId::new(at, kind, random_u32()?), at })
    }
}

/// What all backups of a run share.
struct Room<'a> {
    context: &'a Context,
    keyring: &'a format::keyring::Keyring,
    presence: &'a Presence,
}

/// Which stores there are; who gets no copy now is said.
async fn present(context: &Context) -> anyhow::Result<Presence> {
    let presence = context.stop.or(stores::presence(context)).await?;
    for Absent { store, why } in &presence.absent {
        context.progress.note(&format!("warning: store {store} gets no copy now: {why}"));
    }
    Ok(presence)
}

/// Makes one backup. Others of the same run may be made at the same time.
async fn one<S: Source, F: Future<Output = anyhow::Result<S>>>(
    room: &Room<'_>,
    Begun { id, at: begun }: Begun,
    open: impl FnOnce(BackupId) -> F,
) -> anyhow::Result<BackupReport> {
    let Room { context, keyring, presence } = *room;
    step::reached(Step::BackupBegun)?;
    let (clock, kind) = (Instant::now(), id.kind());
    let of_run: Vec<PathBuf> =
        context.replicas.staging().iter().map(|staging| staging_of(staging, &context.run)).collect();
    let staging: Vec<PathBuf> = of_run.iter().map(|of_run| of_run.join(id.as_str())).collect();
    let making = Making { context, keyring, id: &id, begun, staging: &staging, presence };
    let made = making.make(open).await;
    // The volumes of a backup that came to be are under their names; what is left here is of one that did not.
    let tidied: Vec<_> =
        staging.iter().filter_map(|staging| durable::remove_dir_if_there(staging).err()).collect();
    for of_run in &of_run {
        // When no other backup of the run has something in it.
        let _ = std::fs::remove_dir(of_run);
    }
    // A file that was being written at that moment may have come after the others had gone: that is for the next run.
    if !tidied.is_empty()
        && let Err(error) = context.catalog.runs().leave_unsettled(&context.run)
    {
        context.progress.note(&format!("warning: {error:#}"));
    }
    if made.is_err() {
        // No manifest was written: the objects under its name are garbage.
        let prefix = names::backup(&context.settings.cluster, &id);
        let removed = context.replicas.delete_all(&presence.names(), &prefix).await;
        // What could not be removed, or what a cloud may still carry out although nobody waits for it any more, is for
        // the next run to remove.
        if removed.is_err() || presence.clouds() > 0 {
            context.catalog.runs().leave_unsettled(&context.run)?;
        }
        for error in removed.err().into_iter().chain(tidied) {
            context.progress.note(&format!("warning: clear away what is left of {id}: {error:#}"));
        }
    }
    let made = made?;
    // From here on the backup exists, whatever happens to this process: nothing of it is removed any more.
    if let Err(error) = write_down(context, &made) {
        context.progress.note(&format!(
            "{id} is stored and whole; `pgkeep catalog rebuild` takes it in if `pgkeep list` does not show it"
        ));
        return Err(error);
    }
    let Made { manifest, sealed, held, mut warnings, interrupted } = made;
    if interrupted {
        let whole = held.iter().filter(|held| held.is_whole(&manifest)).map(|held| held.store.to_string());
        let whole: Vec<String> = whole.collect();
        return Fault::new(
            Kind::Interrupted,
            format!(
                "interrupted; {id} is whole in {}, the other stores are owed their copies",
                whole.join(", ")
            ),
        )
        .hint("The backup is kept and can be restored; `pgkeep sync` makes the other copies.")
        .err();
    }
    let owed = owed(context, &manifest, &held)?;
    warnings.extend(owed);
    let whole = held.iter().filter(|held| held.is_whole(&manifest));
    let prefix = names::backup(&context.settings.cluster, &manifest.id);
    let place = |held: &Held| context.replicas.get(held.store).map(|store| store.locate(&prefix));
    let places = whole.filter_map(place).collect();
    let size_bytes = manifest.stored_size + sealed.len() as u64;
    let (database, tenant) = (manifest.database_name(), manifest.tenant.as_ref().map(|it| it.id.clone()));
    let cluster = manifest.physical.as_ref();
    Ok(BackupReport {
        id,
        kind,
        consistent_at: manifest.consistent_at.clone(),
        tables: database.as_ref().map(|_| manifest.tables().count() as u64),
        rows: database.as_ref().map(|_| manifest.rows()),
        files: (cluster.is_some() || kind == BackupKind::Config).then_some(manifest.entries.len() as u64),
        wal: cluster.map(|cluster| WalRange {
            timeline: cluster.timeline,
            start_lsn: cluster.start_lsn,
            stop_lsn: cluster.stop_lsn,
            first_segment: cluster.first_segment.clone(),
            last_segment: cluster.last_segment.clone(),
        }),
        damaged_pages: cluster.map(|cluster| cluster.damaged_pages.clone()).unwrap_or_default(),
        database,
        tenant,
        original_size_bytes: manifest.original_size,
        size_bytes,
        ratio: ratio(manifest.original_size, size_bytes),
        seconds: clock.elapsed().as_secs_f64(),
        places,
        warnings,
    })
}

/// A backup whose manifest is stored.
struct Made {
    manifest: Manifest,
    sealed: Vec<u8>,
    held: Vec<Held>,
    warnings: Vec<String>,
    /// The end was asked for while a cloud had yet to take its copy.
    interrupted: bool,
}

fn write_down(context: &Context, made: &Made) -> anyhow::Result<()> {
    step::reached(Step::BackupManifestStored)?;
    let stored = Stored { manifest: &made.manifest, object: &made.sealed, held: &made.held };
    manifests::record(context, &stored, Some(&context.run))?;
    step::reached(Step::BackupRecorded)
}

/// Says which stores lack the backup; an error when fewer have it than must.
fn owed(context: &Context, manifest: &Manifest, held: &[Held]) -> anyhow::Result<Vec<String>> {
    let lacking = held.iter().filter(|held| !held.is_whole(manifest));
    let owed: Vec<String> = lacking
        .map(|held| {
            let why = held.why.as_deref().unwrap_or("it lacks objects");
            format!("store {} has no copy yet, `pgkeep sync` makes it: {why}", held.store)
        })
        .collect();
    let (have, wanted) = (held.len() - owed.len(), context.replicas.min_copies());
    if have >= wanted {
        return Ok(owed);
    }
    // Kept nevertheless: one copy is better than none.
    let message = format!(
        "{} is in {have} of at least {wanted} stores (BACKUP_MIN_COPIES): {}",
        manifest.id,
        owed.join("; ")
    );
    Fault::new(Kind::Store, message)
        .hint("What there is can be restored. Mend the store, then run `pgkeep sync`.")
        .err()
}

/// What making a backup takes besides its source.
struct Making<'a> {
    context: &'a Context,
    keyring: &'a format::keyring::Keyring,
    id: &'a BackupId,
    begun: Timestamp,
    staging: &'a [PathBuf],
    presence: &'a Presence,
}

impl Making<'_> {
    async fn make<S: Source, F: Future<Output = anyhow::Result<S>>>(
        &self,
        open: impl FnOnce(BackupId) -> F,
    ) -> anyhow::Result<Made> {
        let Self { context, id, presence, .. } = *self;
        let settings = &context.settings;
        let source = Box::pin(open(id.clone())).await?;
        let system_identifier = source.system_identifier();
        manifests::refuse_another_server(&presence.identity, system_identifier)?;
        context.progress.detail(&source.details());
        let directories = staging_directories(self.staging, presence)?;
        let mut key = [0; 32];
        fill_random(&mut key)?;
        let pack = PackPlan {
            owner: id.clone(),
            codec: settings.compression,
            key,
            volume_bytes: settings.volume_bytes,
            directories,
        };
        let (mut contents, packed, placing) = pump(context, source, pack, id, presence).await?;
        // A backup that can't be made consistent is none: the WAL comes before the manifest.
        let wal = async {
            if let Some((cluster, server)) = contents.cluster.as_ref() {
                archive::wait::until_archived(context, server, cluster).await?;
                step::reached(Step::ClusterArchived)?;
            }
            Ok(())
        };
        if let Err(error) = context.stop.or(wal).await {
            placing.abandon().await;
            return Err(error);
        }
        let warnings = std::mem::take(&mut contents.warnings);
        let manifest = self.manifest(contents, packed, key, system_identifier);
        let sealed = step::reached(Step::BackupVolumesStored)
            .and_then(|()| context.stop.check())
            .and_then(|()| manifest.seal(self.keyring, u64::try_from(Utc::now().timestamp())?));
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(error) => {
                placing.abandon().await;
                return Err(error);
            }
        };
        let held = commit(context, &manifest, &sealed, placing, presence).await?;
        // One that failed says why.
        let interrupted = held.iter().any(|held| held.why.is_none() && !held.is_whole(&manifest));
        Ok(Made { manifest, sealed, held, warnings, interrupted })
    }

    fn manifest(
        &self,
        contents: Contents,
        packed: Packed,
        key: [u8; 32],
        system_identifier: u64,
    ) -> Manifest {
        let settings = &self.context.settings;
        let Packed { volumes, extents, compressed_size, stored_size } = packed;
        let entries = entries(contents.entries, extents);
        Manifest {
            format: format::VERSION,
            id: self.id.clone(),
            kind: self.id.kind(),
            cluster: settings.cluster.clone(),
            system_identifier,
            started_at: timestamp_text(self.begun),
            consistent_at: timestamp_text(contents.consistent_at),
            finished_at: timestamp_text(Utc::now()),
            pgkeep_version: env!("CARGO_PKG_VERSION").to_owned(),
            postgres_version_num: contents.postgres_version_num,
            tool_version: contents.tool_version,
            codec: settings.compression,
            key: SealedKey::new(key),
            backups: vec![self.id.clone()],
            original_size: entries.iter().map(|entry| entry.size).sum(),
            compressed_size,
            stored_size,
            volumes,
            entries,
            database: contents.database,
            tenant: contents.tenant,
            physical: contents.cluster.map(|(cluster, _)| cluster),
        }
    }
}

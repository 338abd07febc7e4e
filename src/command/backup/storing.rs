//! The middle of the chain: the source, the packer and the stores side by side, and then the manifest, which makes the
//! backup exist.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{Contents, Source};
use crate::catalog::Proof;
use crate::command::Context;
use crate::command::manifests::Held;
use crate::command::stores::{Absent, Presence};
use crate::format::manifest::{Entry, EntryKind, Extent, Manifest, Table};
use crate::format::names;
use crate::model::{BackupId, Bytes, Fault, FaultContext, Kind, StoreName};
use crate::pipeline::{self, Buffers, ClosedVolume, FinishedEntry, Framer, PackPlan, Packed};
use crate::store::{Placed, Placing, StoreResult};
use crate::system::{Step, durable, step};

/// Writes the manifest into each store as soon as it has all volumes, which is the commit point, and waits for all of
/// them. Once one store has the manifest this does not fail any more.
pub(super) async fn commit(
    context: &Context,
    manifest: &Manifest,
    sealed: &[u8],
    mut placing: Placing,
    presence: &Presence,
) -> anyhow::Result<Vec<Held>> {
    let settings = &context.settings;
    let key = names::object(&settings.cluster, &manifest.id, names::MANIFEST);
    placing.last(&key, sealed).await;
    let cut_off = step::reached(Step::BackupManifestPlaced);
    let placed = placing.finish(&context.stop).await;
    cut_off?;
    let prefix = names::backup(&settings.cluster, &manifest.id);
    let (mut held, mut failed) = (Vec::new(), None);
    for Placed { store, keys, error } in placed {
        let objects =
            keys.iter().filter_map(|key| key.strip_prefix(&prefix)).map(ToOwned::to_owned).collect();
        let why = error.as_ref().map(ToString::to_string);
        held.push(Held { store, objects, how: Proof::Written, why });
        failed = failed.or(error);
    }
    if !held.iter().any(|held| held.is_whole(manifest)) {
        context.stop.check()?;
        return match failed {
            Some(error) => Err(error).fault(),
            None => Fault::new(Kind::Bug, "no store took the backup, and none says why").err(),
        };
    }
    let absent = presence.absent.iter().cloned();
    let nothing =
        |Absent { store, why }| Held { store, objects: BTreeSet::new(), how: Proof::Written, why: Some(why) };
    held.extend(absent.map(nothing));
    Ok(held)
}

/// The directories into which volumes may be written, made if need be: beside the local store if that is there, else in
/// the spool, which also helps when the local disk is full.
pub(super) fn staging_directories(staging: &[PathBuf], presence: &Presence) -> anyhow::Result<Vec<PathBuf>> {
    let local_is_away = presence.absent.iter().any(|absent| absent.store == StoreName::Local);
    let only_local = presence.present.iter().all(|store| store.name() == StoreName::Local);
    let (mut made, mut failed) = (Vec::new(), None);
    for (index, directory) in staging.iter().enumerate() {
        let is_spool = index + 1 == staging.len();
        // Nothing is to be written into the empty directory in which a disk should be mounted.
        if (!is_spool && local_is_away) || (is_spool && only_local) {
            continue;
        }
        match durable::create_private_dir(directory) {
            Ok(()) => made.push(directory.clone()),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) if made.is_empty() => Err(error).or_fault(|| {
            Fault::new(Kind::Store, "make the staging directory").hint(crate::command::check::LOCAL_HINT)
        }),
        _ => Ok(made),
    }
}

/// Runs the source, the packer and the storing of volumes side by side until all are done or one has failed.
pub(super) async fn pump<S: Source>(
    context: &Context,
    source: S,
    plan: PackPlan,
    id: &BackupId,
    presence: &Presence,
) -> anyhow::Result<(Contents, Packed, Placing)> {
    let read = context.progress.bytes("read", source.estimate());
    let stored = Arc::new(context.progress.bytes("stored", 0));
    let buffers = Buffers::default();
    // More than one: the source looks after its files in turns and should find room when a turn comes.
    let (frames_in, frames) = mpsc::channel(pipeline::in_flight());
    let (closed_in, closed) = mpsc::channel(1);
    let framer = Framer::new(frames_in, buffers.clone());
    let reading = Box::pin(source.read(framer, read, context));
    let packing = pipeline::pack(plan, frames, closed_in, buffers, stored, context.stop.clone());
    let sent = Arc::new(context.progress.bytes("sent", 0));
    let mut placing = Placing::begin(&presence.present, &sent);
    let storing = store_volumes(context, id, closed, &mut placing);
    match tokio::try_join!(reading, packing, storing) {
        Ok((contents, packed, ())) => {
            // The source has let go of its snapshot; what is still on its way burdens the server no more.
            sent.set_total(packed.stored_size * presence.clouds());
            Ok((contents, packed, placing))
        }
        Err(error) => {
            placing.abandon().await;
            Err(error)
        }
    }
}

/// Takes closed volumes, makes each durable, and gives it its name in the stores.
async fn store_volumes(
    context: &Context,
    id: &BackupId,
    mut closed: mpsc::Receiver<ClosedVolume>,
    placing: &mut Placing,
) -> anyhow::Result<()> {
    while let Some(volume) = closed.recv().await {
        let ClosedVolume { name, path, file, size, .. } = volume;
        let shown = path.display().to_string();
        spawn_blocking(move || file.sync_all())
            .await
            .context("flush a volume")?
            .with_context(|| format!("flush volume {shown}"))?;
        step::reached(Step::BackupVolumeClosed)?;
        let key = names::object(&context.settings.cluster, id, &name);
        context.stop.or(placing.volume(&key, path, size)).await?;
        context.progress.detail(&format!("volume {name} closed, {}", Bytes(size)));
        step::reached(Step::BackupVolumeStored)?;
    }
    Ok(())
}

pub(super) fn entries(
    read: Vec<(FinishedEntry, Option<Box<Table>>)>,
    mut extents: Vec<Vec<Extent>>,
) -> Vec<Entry> {
    let entry = |(finished, table): (FinishedEntry, Option<Box<Table>>)| {
        let extents = extents.get_mut(finished.number as usize).map(std::mem::take).unwrap_or_default();
        Entry {
            name: finished.name,
            kind: EntryKind::File,
            mode: finished.mode,
            size: finished.size,
            sha256: finished.sha256,
            table,
            extents,
        }
    };
    read.into_iter().map(entry).collect()
}

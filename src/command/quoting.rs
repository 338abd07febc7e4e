//! The facts for a quote: where a backup's objects are, and what past test restores took.

use std::collections::{BTreeMap, BTreeSet};

use super::Context;
use crate::catalog::{CopyState, Restore};
use crate::format::manifest::{Manifest, Volume};
use crate::format::names;
use crate::model::{BackupKind, StoreName, WalName};
use crate::pipeline::{part, requests};
use crate::plan::quote::{self, Past, Quote, Work};

/// What fetching all of the backup takes, as far as the catalog knows where it is; `sealed` is the size of its manifest.
pub(super) fn work(context: &Context, manifest: &Manifest, sealed: u64) -> anyhow::Result<Work> {
    let volumes = manifest.volumes.iter().map(|volume| (volume, volume.size, requests(volume)));
    add_up(context, manifest, sealed, volumes)
}

/// The same for some of its entries.
pub(super) fn work_of(
    context: &Context,
    manifest: &Manifest,
    sealed: u64,
    entries: &[usize],
) -> anyhow::Result<Work> {
    let parts = manifest.volumes.iter().enumerate().filter_map(|(number, volume)| {
        let of_entries = entries.iter().flat_map(|entry| &manifest.entries[*entry].extents);
        let here = of_entries.filter(|extent| extent.backup == 0 && extent.volume as usize == number);
        let frames: BTreeSet<u32> = here.map(|extent| extent.frame).collect();
        let (bytes, requests) = part(volume, &frames)?;
        Some((volume, bytes, requests))
    });
    add_up(context, manifest, sealed, parts)
}

/// Volumes with the bytes and the requests for what is wanted of each.
fn add_up<'a>(
    context: &Context,
    manifest: &Manifest,
    sealed: u64,
    volumes: impl Iterator<Item = (&'a Volume, u64, u64)>,
) -> anyhow::Result<Work> {
    let copies = context.catalog.copies().of(&manifest.id)?;
    // As it is read: from the first store in the order that is known to have a good copy.
    let good = |object: &str| -> Option<StoreName> {
        context.settings.stores().iter().copied().find(|store| {
            let is = |copy: &crate::catalog::CopyRow| copy.object == object && copy.store == *store;
            copies.iter().any(|copy| is(copy) && copy.state == CopyState::Good)
        })
    };
    let mut work = Work { requests: 1, ..Work::default() };
    let mut add = |object: &str, size: u64| match good(object) {
        Some(store) => *work.from.entry(store).or_default() += size,
        None => work.nowhere += size,
    };
    add(names::MANIFEST, sealed);
    let mut asked = 0;
    for (volume, bytes, requests) in volumes {
        add(&volume.name, bytes);
        asked += requests;
    }
    work.requests += asked;
    Ok(work)
}

/// Stored bytes of these files of WAL, as they are read: from the first store in the order that has any.
pub(super) fn wal_bytes(context: &Context, segments: &[WalName]) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for group in segments.chunk_by(|one, other| one.timeline() == other.timeline()) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let held = context.catalog.wal().sizes_between(first, last)?;
        bytes += context.settings.stores().iter().find_map(|store| held.get(store)).unwrap_or(&0);
    }
    Ok(bytes)
}

/// What it takes, with the time that the last test restore of this kind says: of the same database, if there was one.
pub(super) fn quote(
    context: &Context,
    kind: BackupKind,
    database: Option<&str>,
    work: Work,
) -> anyhow::Result<Quote> {
    let mut tests = context.catalog.restores().last_tests()?;
    tests.retain(|test| test.backup_id.kind() == kind);
    tests.sort_by_key(|test| test.source_database.as_deref() != database);
    let past = tests.first().and_then(past);
    Ok(quote::quote(work, past.as_ref()))
}

/// `None` where the log does not say enough.
fn past(test: &Restore) -> Option<Past> {
    let phases = test.phases.as_ref()?.as_object()?;
    let phases: BTreeMap<String, f64> =
        phases.iter().filter_map(|(name, seconds)| Some((name.clone(), seconds.as_f64()?))).collect();
    Some(Past {
        at: test.started_at,
        phases,
        bytes: test.bytes_fetched?,
        wal_segments: test.wal_segments.unwrap_or(0),
    })
}

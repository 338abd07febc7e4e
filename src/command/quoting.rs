//! The facts for a quote: where a backup's objects are, and what past test restores took.

use std::collections::BTreeMap;

use super::Context;
use crate::catalog::{CopyState, Restore};
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::model::{BackupKind, StoreName, WalName};
use crate::pipeline::requests;
use crate::plan::quote::{self, Past, Quote, Work};

/// What fetching all of the backup takes, as far as the catalog knows where it is; `sealed` is the size of its manifest.
pub(super) fn work(context: &Context, manifest: &Manifest, sealed: u64) -> anyhow::Result<Work> {
    let copies = context.catalog.copies().of(&manifest.id)?;
    // As it is read: from the first store in the order that is known to have a good copy.
    let good = |object: &str| -> Option<StoreName> {
        context.settings.stores().iter().copied().find(|store| {
            let is = |copy: &crate::catalog::CopyRow| copy.object == object && copy.store == *store;
            copies.iter().any(|copy| is(copy) && copy.state == CopyState::Good)
        })
    };
    let mut work = Work { requests: 1, ..Work::default() };
    let volumes = manifest.volumes.iter().map(|volume| (volume.name.as_str(), volume.size));
    for (object, size) in volumes.chain([(names::MANIFEST, sealed)]) {
        match good(object) {
            Some(store) => *work.from.entry(store).or_default() += size,
            None => work.nowhere += size,
        }
    }
    work.requests += manifest.volumes.iter().map(requests).sum::<u64>();
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

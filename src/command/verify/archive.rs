//! The archive as a whole: holes in the stream of WAL, and files that were archived with different bytes.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{TimeDelta, Utc};

use super::report::{Away, WalConflict, WalContent, WalHole};
use crate::catalog::{BackupFilter, CopyState};
use crate::command::archive::unheard;
use crate::command::{Context, restore_cluster};
use crate::model::{BackupKind, Digest, StoreName, Timestamp, WalKind, WalName, timestamp_text};
use crate::plan::gaps::{self, Gap};
use crate::plan::recovery::{Archive, Base};

/// Segments are archived several at a time, and a later one may be there a while before an earlier one.
const UNDER_WAY: TimeDelta = TimeDelta::minutes(5);

/// What is the matter with the archive.
pub(super) struct Looked {
    pub(super) holes: Vec<WalHole>,
    pub(super) conflicts: Vec<WalConflict>,
    /// Gaps that may be none: a store did not answer.
    pub(super) unknown: Vec<String>,
}

/// Looks at what the catalog knows, after the stores were listed and copies read. What is missing in those that answered may
/// be in one that is away, unless that one has said otherwise before.
pub(super) fn look(context: &Context, away: &[Away]) -> anyhow::Result<Looked> {
    let mut contents: BTreeMap<WalName, BTreeMap<String, (Digest, Vec<StoreName>)>> = BTreeMap::new();
    let mut archived: BTreeMap<WalName, Option<Timestamp>> = BTreeMap::new();
    for row in context.catalog.wal().all()? {
        if row.state != CopyState::Good {
            continue;
        }
        if row.file.kind() == WalKind::Segment {
            let at = archived.entry(row.file.clone()).or_insert(row.stored_at);
            *at = [*at, row.stored_at].into_iter().flatten().min();
        }
        let text = row.content_sha256.to_string();
        let content = contents.entry(row.file).or_default().entry(text);
        content.or_insert_with(|| (row.content_sha256, Vec::new())).1.push(row.store);
    }
    let conflicts = contents.into_iter().filter(|(_, contents)| contents.len() > 1);
    let content = |(sha256, stores): (Digest, Vec<StoreName>)| WalContent { sha256, stores };
    let conflicts = conflicts.map(|(file, contents)| WalConflict {
        file,
        contents: contents.into_values().map(content).collect(),
    });
    let conflicts = conflicts.collect();

    let filter = BackupFilter { kind: Some(BackupKind::Cluster), ..BackupFilter::default() };
    let bases: Vec<Base> =
        context.catalog.backups().list(&filter)?.iter().filter_map(restore_cluster::base).collect();
    let segments: BTreeSet<WalName> = archived.keys().cloned().collect();
    let archive = Archive { segments, histories: context.catalog.wal().histories()?, ..Archive::default() };
    let at = |name: &WalName| archived.get(name).copied().flatten().map(timestamp_text);
    let young = Utc::now() - UNDER_WAY;
    let is_old = |gap: &Gap| archived.get(&gap.next).copied().flatten().is_none_or(|at| at < young);
    let hole = |gap: Gap| WalHole {
        timeline: gap.first.timeline(),
        segments: gap.segments,
        after: gap.previous.as_ref().and_then(at),
        before: at(&gap.next),
        first: gap.first,
        last: gap.last,
    };
    // Where WAL was deleted because nothing needed it any more, nothing is missing.
    let deleted = context.catalog.cleanup().wal_deleted()?;
    let is_missing = |gap: &Gap| {
        !deleted
            .iter()
            .any(|(first, last)| first.as_str() <= gap.first.as_str() && gap.last.as_str() <= last.as_str())
    };
    let gaps = gaps::gaps(&archive, &bases).into_iter().filter(is_missing).filter(is_old);
    let mut looked = Looked { holes: Vec::new(), conflicts, unknown: Vec::new() };
    let mut unheard = unheard::stores(&context.settings, &context.catalog)?;
    unheard.extend(away.iter().map(|away| away.store));
    unheard.sort();
    unheard.dedup();
    let mut silent = BTreeSet::new();
    for gap in gaps {
        let may_have = unheard::that_may_have(&context.catalog, &unheard, &gap.first)?;
        if may_have.is_empty() {
            looked.holes.push(hole(gap));
            continue;
        }
        let stores: Vec<&str> = may_have.iter().map(|store| store.as_str()).collect();
        looked.unknown.push(format!(
            "WAL segments {} to {} are in none of the stores that answered; {} may have them",
            gap.first,
            gap.last,
            stores.join(" or ")
        ));
        silent.extend(may_have);
    }
    // Until they answer, nobody else calls it a hole either.
    let silent: Vec<(StoreName, String)> = away
        .iter()
        .filter(|away| silent.contains(&away.store))
        .map(|away| (away.store, away.message.clone()))
        .collect();
    unheard::note(context, &[], &silent)?;
    Ok(looked)
}

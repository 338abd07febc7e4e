//! Gaps in the WAL that an earlier cleanup has made. Its catalog knew of them; one that was made anew may not.

use std::collections::BTreeMap;

use chrono::Utc;

use super::facts;
use crate::catalog::{BackupFilter, CopyState};
use crate::command::Context;
use crate::command::restore_cluster::base;
use crate::model::{BackupKind, Lsn, Timestamp, WalKind, WalName};
use crate::plan::gaps::{self, Gap};
use crate::plan::recovery::{Archive, Base};

/// Writes down as deleted what `cleanup` may have deleted: what ends where a backup begins that is older than the days of
/// the settings. WAL that was lost there is of no promise: behind that backup every second is reached.
pub(in crate::command) fn write_down(context: &Context) -> anyhow::Result<()> {
    let filter = BackupFilter { kind: Some(BackupKind::Cluster), ..BackupFilter::default() };
    let rows = context.catalog.backups().list(&filter)?;
    let bases: Vec<Base> = rows.iter().filter_map(base).collect();
    if bases.is_empty() {
        return Ok(());
    }
    let mut archived: BTreeMap<WalName, Option<Timestamp>> = BTreeMap::new();
    for row in context.catalog.wal().all()? {
        if row.state == CopyState::Good && row.file.kind() == WalKind::Segment {
            let at = archived.entry(row.file).or_insert(row.stored_at);
            *at = [*at, row.stored_at].into_iter().flatten().min();
        }
    }
    let archive = Archive {
        segments: archived.keys().cloned().collect(),
        histories: context.catalog.wal().histories()?,
        ..Archive::default()
    };
    let begins = facts::rules(context).begins(Utc::now());
    let begins_there = |base: &Base, gap: &Gap| {
        let first = WalName::segment(base.timeline, Lsn(base.start_lsn.0), base.segment_size);
        let archived_at = archived.get(&first).copied().flatten();
        gap.next == first && (base.consistent_at < begins || archived_at.is_some_and(|at| at < begins))
    };
    let gaps = gaps::gaps(&archive, &bases).into_iter();
    let explained: Vec<(WalName, WalName)> = gaps
        .filter(|gap| bases.iter().any(|base| begins_there(base, gap)))
        .map(|gap| (gap.first, gap.last))
        .collect();
    context.catalog.cleanup().note_deleted(&explained, Utc::now())
}

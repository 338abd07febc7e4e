//! `pgkeep list --recoverable`: which points in time can be reached, from which stores, and where the holes are; out of
//! the catalog, so it takes no request to any store.

use std::collections::BTreeMap;

use serde::Serialize;

use super::archive::unrecorded;
use super::restore_cluster::base;
use super::{Report, Shelf};
use crate::catalog::{BackupFilter, CopyState};
use crate::model::{BackupId, BackupKind, Kind, Lsn, WalKind, WalName, timestamp_text};
use crate::plan::ledger::{self, Segment, Window};
use crate::plan::recovery::{Archive, Base};

/// What can be recovered.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverableReport {
    /// Windows of time within which any point can be reached, by timeline and time.
    pub windows: Vec<RecoverableWindow>,
    /// Cluster backups of which the WAL is not all there: they can't be made consistent.
    pub inconsistent: Vec<BackupId>,
}

/// A window of time.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverableWindow {
    /// The timeline along which it is reached.
    pub timeline: u32,
    /// The earliest point.
    pub from: String,
    /// About the latest point: when the last segment was archived.
    pub until: String,
    /// The earliest position.
    pub from_lsn: Lsn,
    /// Where the gapless part ends.
    pub until_lsn: Lsn,
    /// The cluster backups in it.
    pub backups: Vec<BackupId>,
    /// WAL segments in it.
    pub segments: u64,
    /// The stores that alone have all of its WAL.
    pub whole_in: Vec<String>,
    /// The first segment that is missing behind it although there are later ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<WalName>,
    /// The next one that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<WalName>,
}

impl Report for RecoverableReport {
    fn shortfall(&self) -> Option<Kind> {
        let has_hole = self.windows.iter().any(|window| window.missing.is_some());
        if has_hole || !self.inconsistent.is_empty() {
            Some(Kind::Damaged)
        } else if self.windows.is_empty() {
            Some(Kind::NotThere)
        } else {
            None
        }
    }
}

/// Draws up the ledger.
pub fn run(shelf: &Shelf) -> anyhow::Result<RecoverableReport> {
    let bases = bases(shelf)?;
    let windows = windows(shelf, &bases)?;
    let reached = |id: &BackupId| windows.iter().any(|window| window.backups.contains(id));
    let inconsistent = bases.iter().map(|base| base.id.clone()).filter(|id| !reached(id)).collect();
    Ok(RecoverableReport { windows: windows.into_iter().map(shown).collect(), inconsistent })
}

/// The window to which a backup belongs, the one that ends last; `None` when its WAL is not all there.
pub(super) fn window_of(shelf: &Shelf, id: &BackupId) -> anyhow::Result<Option<RecoverableWindow>> {
    let windows = windows(shelf, &bases(shelf)?)?;
    let of_it = windows.into_iter().filter(|window| window.backups.contains(id));
    Ok(of_it.max_by_key(|window| (window.timeline, window.until_lsn)).map(shown))
}

fn bases(shelf: &Shelf) -> anyhow::Result<Vec<Base>> {
    let filter = BackupFilter { kind: Some(BackupKind::Cluster), ..BackupFilter::default() };
    Ok(shelf.catalog.backups().list(&filter)?.iter().filter_map(base).collect())
}

fn windows(shelf: &Shelf, bases: &[Base]) -> anyhow::Result<Vec<Window>> {
    unrecorded::take_in(&shelf.settings, &shelf.catalog)?;
    let mut segments: BTreeMap<WalName, Segment> = BTreeMap::new();
    for row in shelf.catalog.wal().all()? {
        if row.file.kind() != WalKind::Segment || row.state != CopyState::Good {
            continue;
        }
        let segment = segments.entry(row.file).or_default();
        segment.stores.insert(row.store);
        segment.bytes.insert(row.content_sha256);
        segment.archived_at = match (segment.archived_at, row.stored_at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    let histories = Archive { histories: shelf.catalog.wal().histories()?, ..Archive::default() };
    Ok(ledger::windows(bases, &segments, &histories, shelf.settings.stores()))
}

fn shown(window: Window) -> RecoverableWindow {
    let (missing, next) = window.hole.map_or((None, None), |(missing, next)| (Some(missing), Some(next)));
    RecoverableWindow {
        timeline: window.timeline,
        from: timestamp_text(window.from),
        until: timestamp_text(window.until),
        from_lsn: window.from_lsn,
        until_lsn: window.until_lsn,
        backups: window.backups,
        segments: window.segments,
        whole_in: window.whole_in.iter().map(ToString::to_string).collect(),
        missing,
        next,
    }
}

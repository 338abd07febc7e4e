//! `pgkeep list --recoverable`: which points in time can be reached, from which stores, and where the holes are; out of
//! the catalog, so it takes no request to any store.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::archive::{unheard, unrecorded};
use super::restore_cluster::base;
use super::{Report, Shelf};
use crate::catalog::{BackupFilter, Catalog, CopyState, StoredSegment, WalBlock};
use crate::config::Settings;
use crate::model::{BackupId, BackupKind, Kind, Lsn, StoreName, Timestamp, WalName, timestamp_text};
use crate::plan::conditions::Hole;
use crate::plan::ledger::{self, Holdings, Window};
use crate::plan::recovery::{Archive, Base};
use crate::plan::stretches::Stretches;

/// What can be recovered.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverableReport {
    /// Windows of time within which any point can be reached, by timeline and time.
    pub windows: Vec<RecoverableWindow>,
    /// Cluster backups of which the WAL is not all there: they can't be made consistent.
    pub inconsistent: Vec<BackupId>,
    /// Those of which that is not known: a store that could not be asked may have it.
    pub unknown: Vec<BackupId>,
    /// Stores that could not be asked which WAL they have; each may have what is missing here.
    pub unheard: Vec<StoreName>,
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
    /// The first segment behind it that is in no store that could be asked, although there are later ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<WalName>,
}

impl Report for RecoverableReport {
    fn shortfall(&self) -> Option<Kind> {
        let has_hole = self.windows.iter().any(|window| window.missing.is_some());
        if has_hole || !self.inconsistent.is_empty() {
            Some(Kind::Damaged)
        } else if !self.unknown.is_empty() || self.windows.iter().any(|window| window.unknown.is_some()) {
            Some(Kind::Incomplete)
        } else if self.windows.is_empty() {
            Some(Kind::NotThere)
        } else {
            None
        }
    }
}

/// Draws up the ledger.
pub fn run(shelf: &Shelf) -> anyhow::Result<RecoverableReport> {
    let Ledger { windows, inconsistent, unknown, unheard } = ledger(&shelf.settings, &shelf.catalog)?;
    let windows = windows.into_iter().map(shown).collect();
    Ok(RecoverableReport { windows, inconsistent, unknown, unheard })
}

/// Where windows end although later WAL is there and every store that may have what is missing has answered; and whether
/// there are other ends, of which that is not so.
pub(super) fn holes(settings: &Settings, catalog: &Catalog) -> anyhow::Result<(Vec<Hole>, bool)> {
    let windows = ledger(settings, catalog)?.windows;
    let are_unknown = windows.iter().any(|dated| dated.unknown.is_some());
    let hole = |dated: Dated| {
        let (missing, next) = dated.window.hole?;
        Some(Hole { missing: missing.to_string(), next: next.to_string() })
    };
    Ok((windows.into_iter().filter_map(hole).collect(), are_unknown))
}

/// The window to which a backup belongs, the one that ends last; `None` when its WAL is not all there.
pub(super) fn window_of(shelf: &Shelf, id: &BackupId) -> anyhow::Result<Option<RecoverableWindow>> {
    let of_it = ledger(&shelf.settings, &shelf.catalog)?
        .windows
        .into_iter()
        .filter(|dated| dated.window.backups.contains(id));
    Ok(of_it.max_by_key(|dated| (dated.window.timeline, dated.window.until_lsn)).map(shown))
}

/// What can be recovered.
pub(super) struct Ledger {
    /// The windows, by timeline and time.
    pub(super) windows: Vec<Dated>,
    /// Cluster backups that are in none.
    pub(super) inconsistent: Vec<BackupId>,
    /// The same, where a store that could not be asked may have what is missing.
    pub(super) unknown: Vec<BackupId>,
    /// Stores that could not be asked which WAL they have.
    pub(super) unheard: Vec<StoreName>,
}

/// A window with about the latest point in it.
pub(super) struct Dated {
    pub(super) window: Window,
    pub(super) until: Timestamp,
    /// What is missing behind it, if a store that could not be asked may have it: then it is no hole.
    pub(super) unknown: Option<WalName>,
}

/// Draws it up out of the catalog.
pub(super) fn ledger(settings: &Settings, catalog: &Catalog) -> anyhow::Result<Ledger> {
    unrecorded::take_in(settings, catalog)?;
    let bases = bases(catalog)?;
    let blocks = catalog.overview().wal_blocks()?;
    let histories = Archive { histories: catalog.wal().histories()?, ..Archive::default() };
    let mut windows = Vec::new();
    // Where WAL was deleted because nothing needed it any more, nothing is missing.
    let deleted = catalog.cleanup().wal_deleted()?;
    let is_deleted = |missing: &WalName| {
        deleted.iter().any(|(first, last)| (first.as_str()..=last.as_str()).contains(&missing.as_str()))
    };
    let unheard = unheard::stores(settings, catalog)?;
    // One as a rule: it changes only when a server is made anew.
    let sizes: BTreeSet<u32> = bases.iter().map(|base| base.segment_size).collect();
    for size in sizes {
        let of_size: Vec<Base> = bases.iter().filter(|base| base.segment_size == size).cloned().collect();
        let holdings = holdings(catalog, &blocks, size, settings.stores())?;
        for mut window in ledger::windows(&of_size, &holdings, &histories) {
            window.hole.take_if(|(missing, _)| is_deleted(missing));
            let archived_at = match &window.last {
                Some(last) => archived_at(catalog, last)?,
                None => None,
            };
            let unknown = match &window.hole {
                Some((missing, _)) if !unheard::that_may_have(catalog, &unheard, missing)?.is_empty() => {
                    window.hole.take().map(|(missing, _)| missing)
                }
                _ => None,
            };
            windows.push(Dated { until: window.until(archived_at), window, unknown });
        }
    }
    let reached = |id: &BackupId| windows.iter().any(|dated: &Dated| dated.window.backups.contains(id));
    let unreached = bases.iter().map(|base| base.id.clone()).filter(|id| !reached(id)).collect();
    let (inconsistent, unknown) =
        if unheard.is_empty() { (unreached, Vec::new()) } else { (Vec::new(), unreached) };
    Ok(Ledger { windows, inconsistent, unknown, unheard })
}

fn bases(catalog: &Catalog) -> anyhow::Result<Vec<Base>> {
    let filter = BackupFilter { kind: Some(BackupKind::Cluster), ..BackupFilter::default() };
    Ok(catalog.backups().list(&filter)?.iter().filter_map(base).collect())
}

/// When a segment was first stored, as far as that is known.
fn archived_at(catalog: &Catalog, segment: &WalName) -> anyhow::Result<Option<Timestamp>> {
    let rows = catalog.wal().of(segment)?;
    let good = rows.iter().filter(|row| row.state == CopyState::Good);
    Ok(good.filter_map(|row| row.stored_at).min())
}

/// Which segments there are. A block that a store has in full needs no look at its segments; only those with gaps do.
fn holdings(
    catalog: &Catalog,
    blocks: &[WalBlock],
    segment_size: u32,
    stores: &[StoreName],
) -> anyhow::Result<Holdings> {
    let in_a_block = (1_u64 << 32) / u64::from(segment_size);
    let new = || Stretches::new(segment_size);
    let mut holdings = Holdings { all: new(), each: stores.iter().map(|store| (*store, new())).collect() };
    for of_block in blocks.chunk_by(|one, other| one.block == other.block) {
        let name = &of_block[0].block;
        let range = WalName::block(name);
        let is_full = |it: &WalBlock| it.segments == in_a_block && !it.is_clashing;
        if let Some((timeline, from, until)) = range
            && of_block.iter().all(is_full)
        {
            holdings.all.add_range(timeline, from, until);
            for (store, stretches) in &mut holdings.each {
                if of_block.iter().any(|it| it.store == *store) {
                    stretches.add_range(timeline, from, until);
                }
            }
            continue;
        }
        let stored = catalog.overview().segments_of(name)?;
        for of_segment in stored.chunk_by(|one, other| one.file == other.file) {
            // Nobody can say which bytes are the right ones.
            if of_segment.iter().any(|it| it.content_sha256 != of_segment[0].content_sha256) {
                continue;
            }
            holdings.all.add(&of_segment[0].file);
            for (store, stretches) in &mut holdings.each {
                if of_segment.iter().any(|it| it.store == *store) {
                    stretches.add(&of_segment[0].file);
                }
            }
        }
    }
    Ok(holdings)
}

/// The newest segment of those that count which so many stores have, and when the last of these had it.
pub(super) fn newest_safe(
    catalog: &Catalog,
    copies: usize,
    counts: &dyn Fn(&WalName) -> bool,
) -> anyhow::Result<Option<(WalName, Timestamp)>> {
    let blocks = catalog.overview().wal_blocks()?;
    for of_block in blocks.chunk_by(|one, other| one.block == other.block).rev() {
        if of_block.len() < copies {
            continue;
        }
        let stored = catalog.overview().segments_of(&of_block[0].block)?;
        let mut contents: BTreeMap<(&WalName, String), Vec<&StoredSegment>> = BTreeMap::new();
        for it in stored.iter().filter(|it| counts(&it.file)) {
            contents.entry((&it.file, it.content_sha256.to_string())).or_default().push(it);
        }
        for ((file, _), rows) in contents.into_iter().rev() {
            let mut times: Vec<Timestamp> = rows.iter().filter_map(|row| row.stored_at).collect();
            times.sort();
            if let Some(at) = times.get(copies.saturating_sub(1)) {
                return Ok(Some((file.clone(), *at)));
            }
        }
    }
    Ok(None)
}

fn shown(Dated { window, until, unknown }: Dated) -> RecoverableWindow {
    let (missing, next) = window.hole.map_or((None, None), |(missing, next)| (Some(missing), Some(next)));
    RecoverableWindow {
        timeline: window.timeline,
        from: timestamp_text(window.from),
        until: timestamp_text(until),
        from_lsn: window.from_lsn,
        until_lsn: window.until_lsn,
        backups: window.backups,
        segments: window.segments,
        whole_in: window.whole_in.iter().map(ToString::to_string).collect(),
        missing,
        next,
        unknown,
    }
}

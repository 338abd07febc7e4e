//! What can be recovered: windows of time within which any point can be reached, and the holes between them.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BackupId, Digest, Lsn, StoreName, Timestamp, WalName};
use crate::plan::recovery::{self, Archive, Base};

/// What is known of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    /// The stores that have a good copy.
    pub stores: BTreeSet<StoreName>,
    /// The SHA-256 of its bytes: more than one where two servers have written under one name.
    pub bytes: BTreeSet<Digest>,
    /// When it was archived, as far as is known: a little after the last transaction in it.
    pub archived_at: Option<Timestamp>,
}

/// A gapless stretch of the stream of WAL behind one or more cluster backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The timeline along which it is reached.
    pub timeline: u32,
    /// The backups in it, oldest first; recovery may begin with any of them.
    pub backups: Vec<BackupId>,
    /// The earliest point.
    pub from: Timestamp,
    /// The same as a position.
    pub from_lsn: Lsn,
    /// About the latest point: when the last segment was archived. That of the last backup where that is not known.
    pub until: Timestamp,
    /// Where the gapless part ends.
    pub until_lsn: Lsn,
    /// Segments from where the first backup begins.
    pub segments: u64,
    /// The stores from each of which alone all of it can be had, as far as WAL goes.
    pub whole_in: Vec<StoreName>,
    /// What is missing behind it: the segment, and the next one that is there.
    pub hole: Option<(WalName, WalName)>,
}

/// Draws up the windows, by timeline and time.
pub fn windows(
    bases: &[Base],
    segments: &BTreeMap<WalName, Segment>,
    histories: &Archive,
    stores: &[StoreName],
) -> Vec<Window> {
    let having = |store: Option<StoreName>| Archive {
        segments: segments
            .iter()
            .filter(|(_, it)| store.map_or(!it.stores.is_empty(), |store| it.stores.contains(&store)))
            .map(|(name, _)| name.clone())
            .collect(),
        conflicts: segments
            .iter()
            .filter(|(_, it)| it.bytes.len() > 1)
            .map(|(name, _)| name.clone())
            .collect(),
        histories: histories.histories.clone(),
    };
    let all = having(None);
    let each: Vec<(StoreName, Archive)> = stores.iter().map(|store| (*store, having(Some(*store)))).collect();
    let timelines: BTreeSet<u32> =
        bases.iter().map(|base| base.timeline).chain(histories.histories.keys().copied()).collect();
    let mut windows = Vec::new();
    for timeline in timelines {
        let way = all.way_to(timeline);
        let mut on_the_way: Vec<&Base> =
            bases.iter().filter(|base| recovery::is_on_the_way(base, &way)).collect();
        on_the_way.sort_by_key(|base| base.stop_lsn);
        let mut found: Vec<Window> = Vec::new();
        for base in on_the_way {
            let reach = recovery::reach(base, &way, &all);
            // Not even consistent; or it never gets onto this timeline.
            let is_there = base.timeline == timeline
                || reach.segments.last().is_some_and(|last| last.timeline() == timeline);
            if reach.until < base.stop_lsn || !is_there {
                continue;
            }
            if let Some(last) = found.last_mut().filter(|last| last.until_lsn == reach.until) {
                last.backups.push(base.id.clone());
                continue;
            }
            let archived_at = reach.segments.last().and_then(|last| segments.get(last)?.archived_at);
            let is_whole = |archive: &Archive| recovery::reach(base, &way, archive).until == reach.until;
            found.push(Window {
                timeline,
                backups: vec![base.id.clone()],
                from: base.consistent_at,
                from_lsn: base.stop_lsn,
                until: archived_at.unwrap_or(base.consistent_at).max(base.consistent_at),
                until_lsn: reach.until,
                segments: reach.segments.len() as u64,
                whole_in: each.iter().filter(|(_, it)| is_whole(it)).map(|(store, _)| *store).collect(),
                hole: reach.hole,
            });
        }
        windows.extend(found);
    }
    windows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use StoreName::{B2, Local};

    const SIZE: u32 = 1 << 20;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_timestamp(1_795_312_800 + hour * 3600, 0).unwrap()
    }

    fn base(hour: i64, segment: u64) -> Base {
        Base {
            id: BackupId::new(at(hour), crate::model::BackupKind::Cluster, 7),
            timeline: 1,
            start_lsn: Lsn(segment * u64::from(SIZE) + 40),
            stop_lsn: Lsn(segment * u64::from(SIZE) + 900),
            consistent_at: at(hour),
            segment_size: SIZE,
        }
    }

    #[test]
    fn backups_without_a_gap_between_share_a_window_and_a_hole_ends_it() {
        let mut segments = BTreeMap::new();
        for number in [3_u64, 4, 5, 6, 8, 9] {
            let stores = if number == 4 { [Local].into() } else { [Local, B2].into() };
            let archived_at = Some(at(number.cast_signed()));
            let name = WalName::segment(1, Lsn(number * u64::from(SIZE)), SIZE);
            segments.insert(name, Segment { stores, archived_at, bytes: BTreeSet::new() });
        }
        let bases = [base(3, 3), base(5, 5), base(8, 8), base(12, 12)];
        let found = windows(&bases, &segments, &Archive::default(), &[Local, B2]);
        assert_eq!(found.len(), 2, "the last backup is not consistent: {found:?}");
        assert_eq!(found[0].backups, [bases[0].id.clone(), bases[1].id.clone()]);
        assert_eq!((found[0].from, found[0].until, found[0].segments), (at(3), at(6), 4));
        assert_eq!(found[0].whole_in, [Local]);
        let name = |number: u64| WalName::segment(1, Lsn(number * u64::from(SIZE)), SIZE);
        assert_eq!(found[0].hole, Some((name(7), name(8))));
        assert_eq!((found[1].until, found[1].hole.clone()), (at(9), None));
        assert_eq!(found[1].whole_in, [Local, B2]);
    }
}

//! What can be recovered: windows of time within which any point can be reached, and the holes between them.

use std::collections::BTreeSet;

use crate::model::{BackupId, Lsn, StoreName, Timestamp, WalName};
use crate::plan::recovery::{self, Archive, Base};
use crate::plan::stretches::Stretches;

/// What the stores hold of the stream of WAL, in segments of one size.
#[derive(Debug, Clone)]
pub struct Holdings {
    /// The segments that recovery can have from some store: those archived with different bytes are not among them.
    pub all: Stretches,
    /// The same of each store alone, in the order in which they are read.
    pub each: Vec<(StoreName, Stretches)>,
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
    /// The last segment in it.
    pub last: Option<WalName>,
    /// Where the gapless part ends.
    pub until_lsn: Lsn,
    /// Segments from where the first backup begins.
    pub segments: u64,
    /// The stores from each of which alone all of it can be had, as far as WAL goes.
    pub whole_in: Vec<StoreName>,
    /// What is missing behind it: the segment, and the next one that is there.
    pub hole: Option<(WalName, WalName)>,
}

impl Window {
    /// About the latest point, given when the last segment was archived, as far as that is known: a little after the last
    /// transaction in it.
    pub fn until(&self, archived_at: Option<Timestamp>) -> Timestamp {
        archived_at.map_or(self.from, |at| at.max(self.from))
    }
}

/// Draws up the windows, by timeline and time. `bases` are those with segments of the size that `holdings` has.
pub fn windows(bases: &[Base], holdings: &Holdings, histories: &Archive) -> Vec<Window> {
    let timelines: BTreeSet<u32> =
        bases.iter().map(|base| base.timeline).chain(histories.histories.keys().copied()).collect();
    let mut windows = Vec::new();
    for timeline in timelines {
        let way = histories.way_to(timeline);
        let mut on_the_way: Vec<&Base> =
            bases.iter().filter(|base| recovery::is_on_the_way(base, &way)).collect();
        on_the_way.sort_by_key(|base| base.stop_lsn);
        let mut found: Vec<Window> = Vec::new();
        for base in on_the_way {
            let carried = holdings.all.carry(base, &way);
            // Not even consistent; or it never gets onto this timeline.
            let is_there = base.timeline == timeline
                || carried.last.as_ref().is_some_and(|last| last.timeline() == timeline);
            if carried.until < base.stop_lsn || !is_there {
                continue;
            }
            if let Some(last) = found.last_mut().filter(|last| last.until_lsn == carried.until) {
                last.backups.push(base.id.clone());
                continue;
            }
            let is_whole = |stretches: &Stretches| stretches.carry(base, &way).until == carried.until;
            found.push(Window {
                timeline,
                backups: vec![base.id.clone()],
                from: base.consistent_at,
                from_lsn: base.stop_lsn,
                last: carried.last,
                until_lsn: carried.until,
                segments: carried.segments,
                whole_in: holdings
                    .each
                    .iter()
                    .filter(|(_, it)| is_whole(it))
                    .map(|(name, _)| *name)
                    .collect(),
                hole: carried.hole,
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
        let name = |number: u64| WalName::segment(1, Lsn(number * u64::from(SIZE)), SIZE);
        let mut all = Stretches::new(SIZE);
        let mut each = vec![(Local, Stretches::new(SIZE)), (B2, Stretches::new(SIZE))];
        for number in [3_u64, 4, 5, 6, 8, 9] {
            all.add(&name(number));
            each[0].1.add(&name(number));
            if number != 4 {
                each[1].1.add(&name(number));
            }
        }
        let bases = [base(3, 3), base(5, 5), base(8, 8), base(12, 12)];
        let found = windows(&bases, &Holdings { all, each }, &Archive::default());
        assert_eq!(found.len(), 2, "the last backup is not consistent: {found:?}");
        assert_eq!(found[0].backups, [bases[0].id.clone(), bases[1].id.clone()]);
        assert_eq!((found[0].from, found[0].segments, found[0].last.clone()), (at(3), 4, Some(name(6))));
        assert_eq!((found[0].until(Some(at(6))), found[0].until(None)), (at(6), at(3)));
        assert_eq!(found[0].whole_in, [Local]);
        assert_eq!(found[0].hole, Some((name(7), name(8))));
        assert_eq!((found[1].last.clone(), found[1].hole.clone()), (Some(name(9)), None));
        assert_eq!(found[1].whole_in, [Local, B2]);
    }
}

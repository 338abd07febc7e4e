//! Holes in the archive: segments that are in no store although earlier and later ones of the timeline are.

use std::collections::BTreeMap;

use crate::model::{Lsn, WalKind, WalName};
use crate::plan::recovery::{Archive, Base};

/// A run of segments that are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The segment before it, on the same timeline or on the one that it left.
    pub previous: Option<WalName>,
    /// The first that is missing.
    pub first: WalName,
    /// The last.
    pub last: WalName,
    /// How many they are.
    pub segments: u64,
    /// The next one that is there.
    pub next: WalName,
}

/// Finds them, by timeline and position: those that a recovery from one of these backups would come upon. What lies
/// before the first backup is of no use to anybody, and without a backup none is.
pub fn gaps(archive: &Archive, bases: &[Base]) -> Vec<Gap> {
    let Some(size) = bases.iter().max_by_key(|base| base.stop_lsn).map(|base| base.segment_size) else {
        return Vec::new();
    };
    let mut timelines: BTreeMap<u32, Vec<(u64, &WalName)>> = BTreeMap::new();
    for name in archive.segments.iter().filter(|name| name.kind() == WalKind::Segment) {
        if let Some(start) = name.start(size) {
            timelines.entry(name.timeline()).or_default().push((start, name));
        }
    }
    let mut found = Vec::new();
    for (timeline, segments) in &timelines {
        let way = archive.way_to(*timeline);
        // Where replay begins at the earliest that comes along here.
        let begin = bases
            .iter()
            .filter(|base| {
                way.iter().any(|(number, until)| {
                    *number == base.timeline && until.is_none_or(|until| base.stop_lsn <= until)
                })
            })
            .map(|base| base.start_lsn.0 / u64::from(size) * u64::from(size))
            .min();
        let Some(begin) = begin else { continue };
        let mut expected = fork(&way, &timelines, begin, size);
        for (start, name) in segments {
            if let Some((position, previous)) = expected.take()
                && position < *start
                && position >= begin
            {
                found.push(Gap {
                    previous,
                    first: WalName::segment(*timeline, Lsn(position), size),
                    last: WalName::segment(*timeline, Lsn(start - u64::from(size)), size),
                    segments: (start - position) / u64::from(size),
                    next: (*name).clone(),
                });
            }
            expected = Some((start + u64::from(size), Some((*name).clone())));
        }
    }
    found
}

/// Where a timeline's segments begin, when recovery comes from the one before and that is there up to its end; or where the
/// first backup on it begins.
fn fork(
    way: &[(u32, Option<Lsn>)],
    timelines: &BTreeMap<u32, Vec<(u64, &WalName)>>,
    begin: u64,
    size: u32,
) -> Option<(u64, Option<WalName>)> {
    let (parent, until) = way.len().checked_sub(2).and_then(|index| way.get(index))?;
    let position = until.as_ref()?.0 / u64::from(size) * u64::from(size);
    let before = position.checked_sub(u64::from(size))?;
    let last = timelines.get(parent)?.iter().find(|(start, _)| *start == before)?;
    (position >= begin).then(|| (position, Some(last.1.clone())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{BackupId, BackupKind, TimelineHistory, Timestamp};

    const SIZE: u32 = 1 << 20;

    fn name(timeline: u32, number: u64) -> WalName {
        WalName::segment(timeline, Lsn(number * u64::from(SIZE)), SIZE)
    }

    fn base(timeline: u32, number: u64) -> Base {
        let at = Timestamp::UNIX_EPOCH;
        let start = number * u64::from(SIZE);
        Base {
            id: BackupId::new(at, BackupKind::Cluster, 7),
            timeline,
            start_lsn: Lsn(start + 40),
            stop_lsn: Lsn(start + 900),
            consistent_at: at,
            segment_size: SIZE,
        }
    }

    fn archive(segments: &[(u32, u64)]) -> Archive {
        let segments = segments.iter().map(|(timeline, number)| name(*timeline, *number)).collect();
        Archive { segments, ..Archive::default() }
    }

    #[test]
    fn what_is_missing_behind_a_backup_is_named_from_the_first_to_the_last() {
        let found = gaps(&archive(&[(1, 3), (1, 4), (1, 8), (1, 9), (1, 11)]), &[base(1, 3)]);
        let gap = |previous, first, last, next: u64| Gap {
            previous: Some(name(1, previous)),
            first: name(1, first),
            last: name(1, last),
            segments: last - first + 1,
            next: name(1, next),
        };
        assert_eq!(found, [gap(4, 5, 7, 8), gap(9, 10, 10, 11)]);
    }

    #[test]
    fn what_no_backup_needs_is_no_gap() {
        let archive = archive(&[(1, 3), (1, 5), (1, 6)]);
        assert_eq!(gaps(&archive, &[]), []);
        assert_eq!(gaps(&archive, &[base(1, 5)]), []);
        assert_eq!(gaps(&archive, &[base(2, 3)]), [], "another timeline");
    }

    #[test]
    fn the_bounds_of_groups_are_no_gap() {
        let last = (1_u64 << 32) / u64::from(SIZE) - 1;
        assert_eq!(gaps(&archive(&[(1, last), (1, last + 1)]), &[base(1, last)]), []);
    }

    #[test]
    fn a_timeline_begins_where_it_left_the_other() {
        let mut archive = archive(&[(1, 3), (1, 4), (1, 5), (1, 6), (2, 7), (2, 8)]);
        let history = TimelineHistory::parse(b"1\t0/550000\tno recovery target specified\n").unwrap();
        archive.histories.insert(2, history);
        let found = gaps(&archive, &[base(1, 3)]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&found[0].first, &found[0].last), (&name(2, 5), &name(2, 6)));
        assert_eq!(found[0].previous, Some(name(1, 4)));
        archive.segments.extend([name(2, 5), name(2, 6)]);
        assert_eq!(gaps(&archive, &[base(1, 3)]), []);
    }
}

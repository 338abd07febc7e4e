//! Which base backup recovery begins with, and how far the archive carries it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BackupId, Lsn, TimelineHistory, Timestamp, WalKind, WalName};

/// A cluster backup as recovery sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The backup.
    pub id: BackupId,
    /// The timeline on which it was made.
    pub timeline: u32,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// When that was.
    pub consistent_at: Timestamp,
    /// Bytes of a WAL segment.
    pub segment_size: u32,
}

/// Where recovery is to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// As soon as the backup is consistent.
    Consistent,
    /// At the end of the archive.
    End,
    /// Before the first transaction that ended after this time.
    Time(Timestamp),
    /// At this position.
    Lsn(Lsn),
    /// Behind this transaction.
    Transaction(String),
    /// At a point that was named with `pg_create_restore_point()`.
    Name(String),
}

/// What the stores hold of the stream of WAL.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    /// Segments of which there is a copy.
    pub segments: BTreeSet<WalName>,
    /// Those of them that were archived with different bytes: nobody can say which are the right ones.
    pub conflicts: BTreeSet<WalName>,
    /// What the history files say, by timeline.
    pub histories: BTreeMap<u32, TimelineHistory>,
}

impl Archive {
    /// Whether recovery can have this segment.
    fn has(&self, name: &WalName) -> bool {
        self.segments.contains(name) && !self.conflicts.contains(name)
    }

    /// The newest timeline that descends from this one, as PostgreSQL looks for it: one number after the other as long
    /// as there is a history file (`findNewestTimeLine` in `timeline.c`).
    pub fn newest_timeline(&self, from: u32) -> u32 {
        let mut newest = from;
        while self.histories.contains_key(&(newest + 1)) {
            newest += 1;
        }
        newest
    }

    /// The way from the oldest ancestor to this timeline: each with the position where it is left, the last one without.
    pub fn way_to(&self, timeline: u32) -> Vec<(u32, Option<Lsn>)> {
        let ancestors = self.histories.get(&timeline).map(|it| it.ancestors.as_slice()).unwrap_or_default();
        let way = ancestors.iter().map(|ancestor| (ancestor.timeline, Some(ancestor.until)));
        way.chain([(timeline, None)]).collect()
    }
}

/// How far the archive carries a base backup on the way to a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Segments from where replay begins, without a gap, in the order of replay.
    pub segments: Vec<WalName>,
    /// Where the gapless part ends: bytes of the stream from here on are not to be had, or not yet.
    pub until: Lsn,
    /// The first segment that is missing although there are later ones, or that is there with different bytes, and the
    /// next one that is there.
    pub hole: Option<(WalName, WalName)>,
}

/// Whether the way to a timeline leads through this backup: it was made on one of the ancestors before that was left.
pub fn is_on_the_way(base: &Base, way: &[(u32, Option<Lsn>)]) -> bool {
    way.iter().any(|(timeline, until)| {
        *timeline == base.timeline && until.is_none_or(|until| base.stop_lsn <= until)
    })
}

/// The newest backup from which the target can be reached: it must be consistent before it. `bases` in any order.
pub fn choose<'a>(bases: &'a [Base], target: &Target, way: &[(u32, Option<Lsn>)]) -> Option<&'a Base> {
    let fits = |base: &&Base| {
        let before = match target {
            Target::Time(time) => base.consistent_at <= *time,
            Target::Lsn(lsn) => base.stop_lsn <= *lsn,
            Target::Consistent | Target::End | Target::Transaction(_) | Target::Name(_) => true,
        };
        before && is_on_the_way(base, way)
    };
    bases.iter().filter(fits).max_by_key(|base| (base.stop_lsn, base.id.clone()))
}

/// Follows the archive from where the backup begins as far as there is no gap.
pub fn reach(base: &Base, way: &[(u32, Option<Lsn>)], archive: &Archive) -> Reach {
    let size = u64::from(base.segment_size);
    let mut position = base.start_lsn.0 / size * size;
    let mut reach = Reach { segments: Vec::new(), until: Lsn(position), hole: None };
    let from = way.iter().position(|(timeline, _)| *timeline == base.timeline).unwrap_or(way.len());
    for (index, (timeline, until)) in way.iter().enumerate().skip(from) {
        loop {
            // The segment in which a timeline is left is there under the name of the next one, from its beginning.
            if until.is_some_and(|until| until.0 < position + size) {
                break;
            }
            let name = WalName::segment(*timeline, Lsn(position), base.segment_size);
            if !archive.has(&name) {
                let next = later(&way[index..], position, size, archive);
                reach.hole = next.map(|next| (name, next));
                return reach;
            }
            position += size;
            reach.segments.push(name);
            reach.until = Lsn(position);
        }
    }
    reach
}

/// The first segment behind this position on the rest of the way.
fn later(way: &[(u32, Option<Lsn>)], position: u64, size: u64, archive: &Archive) -> Option<WalName> {
    way.iter().find_map(|(timeline, until)| {
        let first = WalName::segment(*timeline, Lsn(position), u32::try_from(size).unwrap_or(u32::MAX));
        archive
            .segments
            .range(first..)
            .take_while(|name| name.timeline() == *timeline)
            .filter(|name| name.kind() == WalKind::Segment && archive.has(name))
            .find(|name| {
                let start = name.start(u32::try_from(size).unwrap_or(u32::MAX));
                until.is_none_or(|until| start.is_some_and(|start| start < until.0))
            })
            .cloned()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::Ancestor;

    const SIZE: u32 = 1 << 20;

    fn base(number: u32, timeline: u32, segment: u64) -> Base {
        let at = Timestamp::from_timestamp(1_795_312_800 + i64::from(number) * 3600, 0).unwrap();
        let id = BackupId::new(at, crate::model::BackupKind::Cluster, number);
        let start = segment * u64::from(SIZE);
        Base {
            id,
            timeline,
            start_lsn: Lsn(start + 40),
            stop_lsn: Lsn(start + 5000),
            consistent_at: at,
            segment_size: SIZE,
        }
    }

    fn archive(segments: &[(u32, std::ops::Range<u64>)], histories: &[(u32, &[(u32, u64)])]) -> Archive {
        let name = |timeline, number| WalName::segment(timeline, Lsn(number * u64::from(SIZE)), SIZE);
        Archive {
            segments: segments
                .iter()
                .flat_map(|(timeline, range)| range.clone().map(move |number| name(*timeline, number)))
                .collect(),
            conflicts: BTreeSet::new(),
            histories: histories
                .iter()
                .map(|(timeline, ancestors)| {
                    let ancestor = |&(timeline, until): &(u32, u64)| Ancestor { timeline, until: Lsn(until) };
                    (*timeline, TimelineHistory { ancestors: ancestors.iter().map(ancestor).collect() })
                })
                .collect(),
        }
    }

    #[test]
    fn the_newest_backup_that_is_consistent_before_the_target_is_chosen() {
        let bases = [base(1, 1, 3), base(3, 1, 30), base(2, 1, 20)];
        let way = [(1, None)];
        let chosen = |target| choose(&bases, &target, &way).map(|base| base.id.clone());
        assert_eq!(chosen(Target::End), Some(bases[1].id.clone()));
        let hour = |hours: i64| Timestamp::from_timestamp(1_795_312_800 + hours * 3600 + 60, 0).unwrap();
        assert_eq!(chosen(Target::Time(hour(2))), Some(bases[2].id.clone()));
        assert_eq!(chosen(Target::Time(hour(0))), None);
        assert_eq!(chosen(Target::Lsn(bases[2].stop_lsn)), Some(bases[2].id.clone()));
        assert_eq!(chosen(Target::Lsn(Lsn(0))), None);
    }

    #[test]
    fn the_way_goes_on_under_the_name_of_the_next_timeline_where_one_is_left() {
        let middle = 5 * u64::from(SIZE) + 100;
        let archive = archive(&[(1, 3..9), (2, 5..8)], &[(2, &[(1, middle)])]);
        let reach_to = |timeline| reach(&base(1, 1, 3), &archive.way_to(timeline), &archive);
        let to_two = reach_to(2);
        assert_eq!((to_two.segments.len(), to_two.hole.clone()), (5, None));
        assert_eq!(to_two.segments.last(), Some(&WalName::segment(2, Lsn(7 * u64::from(SIZE)), SIZE)));
        assert_eq!(reach_to(1).until, Lsn(9 * u64::from(SIZE)));
        assert_eq!(archive.newest_timeline(1), 2);
        assert!(is_on_the_way(&base(1, 1, 3), &archive.way_to(2)));
        assert!(!is_on_the_way(&base(1, 1, 6), &archive.way_to(2)), "made after the switch");
        assert!(!is_on_the_way(&base(1, 3, 3), &archive.way_to(2)));
    }

    #[test]
    fn a_hole_is_told_from_the_end() {
        let with_hole = archive(&[(1, 3..5), (1, 6..8)], &[]);
        let found = reach(&base(1, 1, 3), &with_hole.way_to(1), &with_hole);
        let name = |number| WalName::segment(1, Lsn(number * u64::from(SIZE)), SIZE);
        assert_eq!((found.segments.len(), found.hole), (2, Some((name(5), name(6)))));
        let mut doubtful = archive(&[(1, 3..8)], &[]);
        doubtful.conflicts.insert(name(5));
        let found = reach(&base(1, 1, 3), &doubtful.way_to(1), &doubtful);
        assert_eq!((found.segments.len(), found.hole), (2, Some((name(5), name(6)))));
        let without = archive(&[(1, 3..5)], &[]);
        assert_eq!(reach(&base(1, 1, 3), &without.way_to(1), &without).hole, None);
        // The end of an ancestor is missing, and the next timeline goes on.
        let middle = 7 * u64::from(SIZE) + 100;
        let cut = archive(&[(1, 3..5), (2, 7..9)], &[(2, &[(1, middle)])]);
        let found = reach(&base(1, 1, 3), &cut.way_to(2), &cut);
        let next = WalName::segment(2, Lsn(7 * u64::from(SIZE)), SIZE);
        assert_eq!(found.hole, Some((name(5), next)));
    }
}

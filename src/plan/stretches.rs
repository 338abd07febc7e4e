//! Which WAL segments there are, as stretches without a gap: a hundred thousand segments are a handful of them.

use std::collections::BTreeMap;

use crate::model::{Lsn, WalName};
use crate::plan::recovery::Base;

/// Segments by timeline, as stretches of the stream of WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretches {
    /// Bytes of a segment.
    segment_size: u32,
    /// By timeline: where a stretch begins, and where it ends. No two of them touch.
    timelines: BTreeMap<u32, BTreeMap<u64, u64>>,
}

/// How far stretches carry a base backup on the way to a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Carried {
    /// Segments from where replay begins, without a gap.
    pub(super) segments: u64,
    /// The last one of them.
    pub(super) last: Option<WalName>,
    /// Where the gapless part ends.
    pub(super) until: Lsn,
    /// The first segment that is missing although there are later ones, and the next one that is there.
    pub(super) hole: Option<(WalName, WalName)>,
}

impl Stretches {
    /// None yet, of segments of this size.
    pub fn new(segment_size: u32) -> Self {
        Self { segment_size, timelines: BTreeMap::new() }
    }

    /// Adds a segment; what is no segment of this size is passed over.
    pub fn add(&mut self, segment: &WalName) {
        if let Some(start) = segment.start(self.segment_size) {
            self.add_range(segment.timeline(), start, start + u64::from(self.segment_size));
        }
    }

    /// Adds all segments from one position to another, both at bounds of segments.
    pub fn add_range(&mut self, timeline: u32, from: u64, until: u64) {
        let stretches = self.timelines.entry(timeline).or_default();
        let (mut from, mut until) = (from, until);
        // Those that it touches become one with it.
        if let Some((&before, &end)) = stretches.range(..=from).next_back()
            && end >= from
        {
            from = before;
            until = until.max(end);
        }
        while let Some((&next, &end)) = stretches.range(from..=until).next() {
            stretches.remove(&next);
            until = until.max(end);
        }
        stretches.insert(from, until);
    }

    /// Where the stretch ends that holds this position; `None` where there is none.
    fn end(&self, timeline: u32, position: u64) -> Option<u64> {
        let (_, &end) = self.timelines.get(&timeline)?.range(..=position).next_back()?;
        (end > position).then_some(end)
    }

    /// The first position from here on of which there is a segment.
    fn next(&self, timeline: u32, position: u64) -> Option<u64> {
        if self.end(timeline, position).is_some() {
            return Some(position);
        }
        self.timelines.get(&timeline)?.range(position..).next().map(|(&from, _)| from)
    }

    /// Follows the stretches from where the backup begins as far as there is no gap: what [`super::recovery::reach`] does
    /// one segment after the other.
    pub(super) fn carry(&self, base: &Base, way: &[(u32, Option<Lsn>)]) -> Carried {
        let size = u64::from(self.segment_size);
        let mut position = base.start_lsn.0 / size * size;
        let mut carried = Carried { segments: 0, last: None, until: Lsn(position), hole: None };
        let from = way.iter().position(|(timeline, _)| *timeline == base.timeline).unwrap_or(way.len());
        for (index, (timeline, until)) in way.iter().enumerate().skip(from) {
            // The segment in which a timeline is left is there under the name of the next one, from its beginning.
            let left = until.map_or(u64::MAX, |until| until.0 / size * size);
            if left <= position {
                continue;
            }
            if let Some(end) = self.end(*timeline, position) {
                let end = end.min(left);
                carried.segments += (end - position) / size;
                carried.last = Some(self.name(*timeline, end - size));
                position = end;
                carried.until = Lsn(position);
            }
            if position < left {
                let missing = self.name(*timeline, position);
                carried.hole = self.later(&way[index..], position).map(|next| (missing, next));
                return carried;
            }
        }
        carried
    }

    /// The first segment behind this position on the rest of the way.
    fn later(&self, way: &[(u32, Option<Lsn>)], position: u64) -> Option<WalName> {
        way.iter().find_map(|(timeline, until)| {
            let start = self.next(*timeline, position)?;
            until.is_none_or(|until| start < until.0).then(|| self.name(*timeline, start))
        })
    }

    fn name(&self, timeline: u32, position: u64) -> WalName {
        WalName::segment(timeline, Lsn(position), self.segment_size)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Ancestor, BackupId, BackupKind, TimelineHistory, Timestamp};
    use crate::plan::recovery::{Archive, reach};

    const SIZE: u32 = 1 << 20;

    fn base(timeline: u32, segment: u64) -> Base {
        let at = Timestamp::from_timestamp(1_795_312_800, 0).unwrap();
        Base {
            id: BackupId::new(at, BackupKind::Cluster, 1),
            timeline,
            start_lsn: Lsn(segment * u64::from(SIZE) + 40),
            stop_lsn: Lsn(segment * u64::from(SIZE) + 500),
            consistent_at: at,
            segment_size: SIZE,
        }
    }

    #[test]
    fn stretches_that_touch_become_one_in_any_order() {
        let mut stretches = Stretches::new(SIZE);
        for number in [5_u64, 3, 9, 4, 8, 3] {
            stretches.add(&WalName::segment(1, Lsn(number * u64::from(SIZE)), SIZE));
        }
        stretches.add(&WalName::history(2));
        let size = u64::from(SIZE);
        assert_eq!(stretches.timelines[&1], BTreeMap::from([(3 * size, 6 * size), (8 * size, 10 * size)]));
        assert_eq!(stretches.timelines.len(), 1);
    }

    proptest! {
        /// The same as segment by segment, whatever there is and wherever a timeline is left.
        #[test]
        fn what_is_carried_is_what_is_reached_segment_by_segment(
            one in proptest::collection::btree_set(0_u64..14, 0..14),
            two in proptest::collection::btree_set(0_u64..14, 0..14),
            left in 0_u64..14 * u64::from(SIZE), start in 0_u64..14, from in 1_u32..3, to in 1_u32..3,
        ) {
            let mut stretches = Stretches::new(SIZE);
            let mut archive = Archive::default();
            for (timeline, numbers) in [(1, &one), (2, &two)] {
                for number in numbers {
                    let name = WalName::segment(timeline, Lsn(number * u64::from(SIZE)), SIZE);
                    stretches.add(&name);
                    archive.segments.insert(name);
                }
            }
            let ancestors = vec![Ancestor { timeline: 1, until: Lsn(left) }];
            archive.histories.insert(2, TimelineHistory { ancestors });
            let way = archive.way_to(to);
            let slow = reach(&base(from, start), &way, &archive);
            let fast = stretches.carry(&base(from, start), &way);
            prop_assert_eq!(fast.segments, slow.segments.len() as u64);
            prop_assert_eq!(fast.last.as_ref(), slow.segments.last());
            prop_assert_eq!((fast.until, fast.hole), (slow.until, slow.hole));
        }
    }
}

//! Which WAL is needed: from the newest backup before the window on, along every way that the window needs; and what
//! makes each kept backup consistent.

use std::collections::{BTreeMap, BTreeSet};

use super::{Backup, Facts, Range};
use crate::model::{BackupId, Lsn, Timestamp, WalName};
use crate::plan::recovery::{self, Base, Target};

/// A way to a timeline: its ancestors with where each is left, the timeline itself last.
type Way = Vec<(u32, Option<Lsn>)>;

/// The backups with which recovery to points within the window begins although they are older, with the reason.
pub(super) fn anchors(facts: &Facts) -> Vec<(&BackupId, String)> {
    let (begins, oldest) = (facts.rules.begins(facts.now), facts.rules.oldest(facts.now));
    let mut found: BTreeMap<&BackupId, String> = BTreeMap::new();
    for way in ways(facts) {
        for backup in anchors_of(facts, &way, begins) {
            let Some(base) = backup.base.as_ref().filter(|_| backup.at < oldest) else { continue };
            found.entry(&backup.id).or_insert_with(|| carries(facts, base, &way));
        }
    }
    found.into_iter().collect()
}

/// How far it is this backup from which points are reached.
fn carries(facts: &Facts, from: &Base, way: &Way) -> String {
    let bases = facts.backups.iter().filter_map(|backup| backup.base.as_ref());
    let later = bases.filter(|base| base.stop_lsn > from.stop_lsn && recovery::is_on_the_way(base, way));
    match later.min_by_key(|base| base.stop_lsn) {
        Some(next) => {
            let day = facts.rules.age(next.consistent_at, facts.now);
            format!("WAL from here reaches day {day}")
        }
        None => "WAL from here reaches the end of the archive".to_owned(),
    }
}

/// With what recovery along the way begins, for a point at the beginning of the window and for later ones.
fn anchors_of<'a>(facts: &'a Facts, way: &Way, begins: Timestamp) -> Vec<&'a Backup> {
    let all = |fits: &dyn Fn(&Backup) -> bool| -> Vec<Base> {
        facts.backups.iter().filter(|backup| fits(backup)).filter_map(|it| it.base.clone()).collect()
    };
    let target = Target::Time(begins);
    let mut chosen: Vec<BackupId> = Vec::new();
    for bases in [all(&|_| true), all(&|backup| backup.is_sound)] {
        match recovery::choose(&bases, &target, way) {
            Some(base) => chosen.push(base.id.clone()),
            // The window begins with the first one.
            None => chosen.extend(
                bases.iter().filter(|base| recovery::is_on_the_way(base, way)).map(|base| base.id.clone()),
            ),
        }
    }
    facts.backups.iter().filter(|backup| chosen.contains(&backup.id)).collect()
}

/// The ways on which a point of the window may lie; and those to the newest timeline and to what was archived last,
/// because what a server that stands still wrote last must not go.
fn ways(facts: &Facts) -> Vec<Way> {
    let begins = facts.rules.begins(facts.now);
    let bases = || facts.backups.iter().filter_map(|backup| Some((backup.at, backup.base.as_ref()?)));
    let mut timelines: BTreeSet<u32> = BTreeSet::new();
    timelines.extend(bases().filter(|(at, _)| *at >= begins).map(|(_, base)| base.timeline));
    let in_the_window = |(timeline, span): (&u32, &super::Span)| {
        span.archived_at.is_none_or(|at| at >= begins).then_some(*timeline)
    };
    timelines.extend(facts.spans.iter().filter_map(in_the_window));
    let newest_of_all = bases()
        .map(|(_, base)| base.timeline)
        .chain(facts.spans.keys().copied())
        .chain(facts.histories.histories.keys().copied());
    timelines.extend(newest_of_all.max());
    timelines
        .extend(facts.spans.iter().max_by_key(|(_, span)| span.archived_at).map(|(timeline, _)| *timeline));
    timelines.into_iter().map(|timeline| facts.histories.way_to(timeline)).collect()
}

/// What is needed of a timeline: from a segment on up to another one, or to the end.
type Needed = BTreeMap<u32, Vec<(WalName, Option<WalName>)>>;

/// The WAL that goes, and why the rest stays.
pub(super) fn ranges(facts: &Facts, kept: &BTreeSet<&BackupId>) -> (Vec<Range>, String) {
    if let Some(why) = &facts.wal_stays {
        return (Vec::new(), why.clone());
    }
    let kept_bases: Vec<&Backup> =
        facts.backups.iter().filter(|it| it.base.is_some() && kept.contains(&it.id)).collect();
    if kept_bases.is_empty() {
        let why = "no cluster backup is known, so nobody can say what will need it";
        return (Vec::new(), why.to_owned());
    }
    let begins = facts.rules.begins(facts.now);
    let mut needed = Needed::new();
    for base in kept_bases.iter().filter_map(|backup| backup.base.as_ref()) {
        let size = u64::from(base.segment_size);
        let behind = (base.stop_lsn.0.saturating_sub(1) / size + 1) * size;
        let segment = |position| WalName::segment(base.timeline, Lsn(position), base.segment_size);
        needed.entry(base.timeline).or_default().push((segment(base.start_lsn.0), Some(segment(behind))));
    }
    for way in ways(facts) {
        for base in anchors_of(facts, &way, begins).into_iter().filter_map(|it| it.base.as_ref()) {
            follow(base, &way, &mut needed);
        }
    }
    let used = kept_bases.iter().filter(|backup| backup.in_use).filter_map(|it| it.base.as_ref());
    for base in used {
        // To which point nobody knows.
        for timeline in facts.spans.keys() {
            let way = facts.histories.way_to(*timeline);
            if recovery::is_on_the_way(base, &way) {
                follow(base, &way, &mut needed);
            }
        }
    }
    let mut ranges = Vec::new();
    for (timeline, span) in &facts.spans {
        ranges.extend(between(span, needed.remove(timeline).unwrap_or_default()));
    }
    let why = format!("a kept cluster backup or the last {} days need it", facts.rules.days);
    (ranges, why)
}

/// Everything on the way from where the backup begins.
fn follow(base: &Base, way: &Way, needed: &mut Needed) {
    let size = base.segment_size;
    let from = way.iter().position(|(timeline, _)| *timeline == base.timeline).unwrap_or(way.len());
    let mut position = base.start_lsn;
    for (timeline, until) in way.iter().skip(from) {
        let segment = |position| WalName::segment(*timeline, position, size);
        // The segment in which a timeline is left stays as well: its end is on the next one, its beginning on both.
        let behind = until.map(|until| segment(Lsn(until.0.saturating_add(u64::from(size)))));
        needed.entry(*timeline).or_default().push((segment(position), behind));
        position = until.unwrap_or(position);
    }
}

/// What of the timeline lies between what is needed of it.
fn between(span: &super::Span, mut needed: Vec<(WalName, Option<WalName>)>) -> Vec<Range> {
    needed.sort();
    let mut ranges = Vec::new();
    let mut position = Some(span.first.clone());
    let reason = |what: &str| format!("no kept backup needs it: {what}");
    for (from, to) in needed {
        let Some(begun) = position.clone() else { break };
        if begun < from && begun <= span.last {
            let what = if begun == span.first { "older than the oldest" } else { "between two" };
            ranges.push(Range { from: begun, to: Some(from), reason: reason(what) });
        }
        position = to.map(|to| position.map_or(to.clone(), |position| position.max(to)));
    }
    if let Some(begun) = position.filter(|position| *position <= span.last) {
        ranges.push(Range { from: begun, to: None, reason: reason("the end of a timeline that was left") });
    }
    ranges
}

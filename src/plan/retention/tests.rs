#![allow(clippy::unwrap_used)]
//! Random histories. What can be recovered is found out by walking through segments and timelines as a server does, not
//! by asking the plan or what it uses.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::{Ancestor, Lsn, TimelineHistory};

const SIZE: u32 = 1 << 20;
const HOUR: i64 = 3600;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_timestamp(1_795_312_800 + hours * HOUR, 0).unwrap()
}

fn rules() -> Rules {
    let day = TimeDelta::days(1);
    Rules { days: 90, keep_min: 1, daily: 0, weekly: 0, monthly: 0, yearly: 0, day }
}

fn backup(number: u32, kind: BackupKind, hours: i64) -> Backup {
    Backup {
        id: BackupId::new(at(hours), kind, number),
        kind,
        database: (kind != BackupKind::Cluster).then(|| "shop".to_owned()),
        tenant: None,
        at: at(hours),
        before_restore: false,
        parent: None,
        is_sound: true,
        proof: Proof::Stored,
        pin: None,
        in_use: false,
        base: None,
    }
}

fn facts(now: i64, backups: Vec<Backup>) -> Facts {
    Facts {
        now: at(now),
        rules: rules(),
        backups,
        spans: BTreeMap::new(),
        histories: Archive::default(),
        wal_stays: None,
    }
}

fn texts(facts: &Facts) -> Vec<String> {
    plan(facts).backups.iter().map(Verdict::text).collect()
}

#[test]
fn each_backup_is_told_why_it_stays_or_goes() {
    let day = |days: i64| -days * 24;
    let mut backups: Vec<Backup> = (1..=6_u32)
        .zip([3, 91, 94, 100, 120, 200])
        .map(|(number, age)| backup(number, BackupKind::Database, day(age)))
        .collect();
    backups[2].proof = Proof::Restored;
    backups[3].pin = Some("audit".to_owned());
    backups[5].in_use = true;
    assert_eq!(
        texts(&facts(0, backups)),
        [
            "kept: 3 of 90 days old; the newest; newest that is whole",
            "goes: 91 days old",
            "kept: newest proven by a restore",
            "kept: pinned, audit",
            "goes: 120 days old",
            "kept: a restore uses it",
        ]
    );
}

#[test]
fn the_newest_of_days_weeks_months_and_years_stay() {
    let backups: Vec<Backup> =
        (0..800_u32).map(|age| backup(age, BackupKind::Database, -i64::from(age) * 24)).collect();
    let mut facts = facts(0, backups);
    facts.rules = Rules { days: 5, keep_min: 0, daily: 10, weekly: 4, monthly: 6, yearly: 3, ..rules() };
    let kept: Vec<Verdict> = plan(&facts).backups.into_iter().filter(|verdict| !verdict.goes).collect();
    let count = |word: &str| kept.iter().filter(|it| it.reasons.iter().any(|why| why.contains(word))).count();
    assert_eq!((count("of the day"), count("of the week"), count("of the month")), (10, 4, 6), "{kept:?}");
    assert_eq!((count("of the year"), count("of 5 days old")), (3, 6));
}

#[test]
fn what_undoes_a_restore_is_no_backup_of_the_tenant_unless_there_is_nothing_else() {
    let of = |number, age: i64, before_restore| Backup {
        tenant: Some("7".to_owned()),
        before_restore,
        ..backup(number, BackupKind::Tenant, -age * 24)
    };
    let two = vec![of(1, 95, true), of(2, 100, false), of(3, 101, false)];
    assert_eq!(
        texts(&facts(0, two)),
        ["goes: 95 days old", "kept: the newest; newest that is whole", "goes: 101 days old"]
    );
    assert_eq!(
        texts(&facts(0, vec![of(1, 95, true), of(2, 96, true)])),
        ["kept: the newest; newest that is whole", "goes: 96 days old"]
    );
}

#[test]
fn what_is_damaged_or_unproven_replaces_nothing() {
    let mut backups: Vec<Backup> = [95, 100, 110, 120]
        .into_iter()
        .zip(1..)
        .map(|(age, number)| backup(number, BackupKind::Database, -age * 24))
        .collect();
    backups[0].is_sound = false;
    backups[2].proof = Proof::Decrypted;
    let found = texts(&facts(0, backups));
    assert_eq!(found[0], "kept: the newest");
    assert_eq!(found[1], "kept: the newest; newest that is whole");
    assert_eq!(found[2], "kept: newest proven by decrypting all of it");
    assert_eq!(found[3], "goes: 120 days old");
}

#[test]
fn a_parent_stays_with_its_child() {
    let mut backups: Vec<Backup> = [10, 95, 96, 97]
        .into_iter()
        .zip(1..)
        .map(|(age, number)| backup(number, BackupKind::Database, -age * 24))
        .collect();
    backups[0].parent = Some(backups[2].id.clone());
    backups[2].parent = Some(backups[3].id.clone());
    let goes: Vec<bool> = plan(&facts(0, backups)).backups.iter().map(|verdict| verdict.goes).collect();
    assert_eq!(goes, [false, true, false, false]);
}

/// A timeline of the model: where and when it left which other one.
#[derive(Debug, Clone)]
struct Branch {
    parent: Option<u32>,
    begins: u64,
}

/// A segment: when it was archived, in hours.
type Segments = BTreeMap<(u32, u64), i64>;

/// A server's life and what was archived of it.
#[derive(Debug, Clone, Default)]
struct Model {
    branches: BTreeMap<u32, Branch>,
    segments: Segments,
    bases: Vec<(Backup, u32, u64, u64)>,
    now: i64,
}

/// What happens next in the life of a server.
#[derive(Debug, Clone)]
enum Event {
    /// So many segments, each so many hours after the one before.
    Write { count: u64, hours: i64 },
    /// A base backup that spans so many segments.
    Backup { spans: u64, pinned: bool, sound: bool, proof: u8 },
    /// Segments that get lost, so many back from the end.
    Lose { back: u64, count: u64 },
    /// The server is restored to a segment so many back, and goes on along a new timeline.
    Fork { back: u64 },
    /// Nothing, for so many hours.
    Rest { hours: i64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..12_u64, 1..40_i64).prop_map(|(count, hours)| Event::Write { count, hours }),
        4 => (0..3_u64, prop::bool::weighted(0.1), prop::bool::weighted(0.9), 0..4_u8)
            .prop_map(|(spans, pinned, sound, proof)| Event::Backup { spans, pinned, sound, proof }),
        1 => (0..20_u64, 1..3_u64).prop_map(|(back, count)| Event::Lose { back, count }),
        1 => (0..15_u64).prop_map(|back| Event::Fork { back }),
        1 => (1..1500_i64).prop_map(|hours| Event::Rest { hours }),
    ]
}

impl Model {
    fn live(events: &[Event]) -> Self {
        let mut model = Self::default();
        let (mut timeline, mut position, mut number) = (1, 10, 0);
        model.branches.insert(1, Branch { parent: None, begins: 0 });
        for event in events {
            match *event {
                Event::Write { count, hours } => {
                    for _ in 0..count {
                        model.now += hours;
                        model.segments.insert((timeline, position), model.now);
                        position += 1;
                    }
                }
                Event::Backup { spans, pinned, sound, proof } => {
                    let start = position;
                    for _ in 0..=spans {
                        model.now += 1;
                        model.segments.insert((timeline, position), model.now);
                        position += 1;
                    }
                    number += 1;
                    let mut made = backup(number, BackupKind::Cluster, model.now);
                    made.pin = pinned.then(|| "wanted".to_owned());
                    made.is_sound = sound;
                    made.proof = Proof::ALL[usize::from(proof)];
                    made.base = Some(Base {
                        id: made.id.clone(),
                        timeline,
                        start_lsn: Lsn(start * u64::from(SIZE) + 40),
                        stop_lsn: Lsn((position - 1) * u64::from(SIZE) + 900),
                        consistent_at: made.at,
                        segment_size: SIZE,
                    });
                    model.bases.push((made, timeline, start, position - 1));
                }
                Event::Lose { back, count } => {
                    for lost in 0..count {
                        model.segments.remove(&(timeline, position.saturating_sub(back + lost + 1)));
                    }
                }
                Event::Fork { back } => {
                    let branch = &model.branches[&timeline];
                    let begins = (position - back.min(position)).max(branch.begins + 1);
                    if begins >= position {
                        continue;
                    }
                    let next = u32::try_from(model.branches.len()).unwrap() + 1;
                    model.branches.insert(next, Branch { parent: Some(timeline), begins });
                    (timeline, position) = (next, begins);
                }
                Event::Rest { hours } => model.now += hours,
            }
        }
        model.now += 1;
        model
    }

    /// On which timeline the server reads this segment when it goes to a timeline.
    fn reads(&self, target: u32, segment: u64) -> u32 {
        let mut timeline = target;
        while segment < self.branches[&timeline].begins {
            timeline = self.branches[&timeline].parent.unwrap();
        }
        timeline
    }

    /// The segment in which the way to a timeline leaves this one, behind where any backup in it ends; `None` when it
    /// does not lead through it.
    fn leaves(&self, target: u32, timeline: u32) -> Option<u64> {
        let (mut below, mut leaves) = (target, u64::MAX);
        while below != timeline {
            let Branch { parent, begins } = self.branches[&below];
            (below, leaves) = (parent?, leaves.min(begins));
        }
        Some(leaves)
    }

    /// Whether a server comes to the end of this segment of this timeline, beginning with any backup that is there.
    fn can_reach(
        &self,
        target: u32,
        segment: u64,
        bases: &[(Backup, u32, u64, u64)],
        there: &Segments,
    ) -> bool {
        bases.iter().any(|(_, timeline, start, stop)| {
            *stop <= segment
                && self.leaves(target, *timeline).is_some_and(|leaves| *stop <= leaves)
                && (*start..=segment).all(|needed| there.contains_key(&(self.reads(target, needed), needed)))
        })
    }

    /// Every point that can be reached: the ends of segments, by timeline.
    fn reachable(&self, bases: &[(Backup, u32, u64, u64)], there: &Segments) -> Vec<(u32, u64)> {
        self.segments
            .keys()
            .copied()
            .filter(|(timeline, segment)| self.can_reach(*timeline, *segment, bases, there))
            .collect()
    }

    fn facts(&self, bases: &[(Backup, u32, u64, u64)], there: &Segments) -> Facts {
        let name = |timeline, segment: u64| WalName::segment(timeline, Lsn(segment * u64::from(SIZE)), SIZE);
        let mut spans: BTreeMap<u32, Span> = BTreeMap::new();
        for ((timeline, segment), hours) in there {
            let name = name(*timeline, *segment);
            let span = spans.entry(*timeline).or_insert_with(|| Span {
                first: name.clone(),
                last: name.clone(),
                archived_at: None,
            });
            (span.last, span.archived_at) = (name, Some(at(*hours)));
        }
        let mut histories = Archive::default();
        for number in self.branches.keys().filter(|number| **number > 1) {
            let (mut ancestors, mut timeline) = (Vec::new(), *number);
            while let Branch { parent: Some(parent), begins } = self.branches[&timeline] {
                // In the middle of the segment with which the new timeline begins.
                let until = Lsn(begins * u64::from(SIZE) + 5000);
                ancestors.insert(0, Ancestor { timeline: parent, until });
                timeline = parent;
            }
            histories.histories.insert(*number, TimelineHistory { ancestors });
        }
        let backups = bases.iter().map(|(backup, ..)| backup.clone()).collect();
        Facts { spans, histories, ..facts(self.now, backups) }
    }
}

/// What is left after the plan was carried out.
fn after(
    plan: &Plan,
    bases: &[(Backup, u32, u64, u64)],
    there: &Segments,
) -> (Vec<(Backup, u32, u64, u64)>, Segments) {
    let goes = |id: &BackupId| plan.backups.iter().any(|verdict| verdict.id == *id && verdict.goes);
    let bases = bases.iter().filter(|(backup, ..)| !goes(&backup.id)).cloned().collect();
    let name = |timeline, segment: u64| WalName::segment(timeline, Lsn(segment * u64::from(SIZE)), SIZE);
    let is_in = |range: &Range, name: &WalName| {
        range.from.timeline() == name.timeline()
            && *name >= range.from
            && range.to.as_ref().is_none_or(|to| name < to)
    };
    let stays = |timeline, segment, hours| {
        let name = name(timeline, segment);
        at(hours) >= plan.archived_before || !plan.wal.iter().any(|range| is_in(range, &name))
    };
    let segments = there.iter().filter(|((timeline, segment), hours)| stays(*timeline, *segment, **hours));
    (bases, segments.map(|(key, hours)| (*key, *hours)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_cleanup_every_promised_point_can_still_be_recovered(
        events in prop::collection::vec(event(), 1..60),
        daily in 0..3_usize,
        monthly in 0..3_usize,
    ) {
        let model = Model::live(&events);
        let with = |mut facts: Facts| {
            (facts.rules.daily, facts.rules.monthly) = (daily, monthly);
            facts
        };
        let decided = plan(&with(model.facts(&model.bases, &model.segments)));
        let (bases, segments) = after(&decided, &model.bases, &model.segments);

        let window = model.now - 90 * 24;
        let before = model.reachable(&model.bases, &model.segments);
        for (timeline, segment) in before {
            // The end of a segment is as late as it was archived.
            if model.segments[&(timeline, segment)] >= window {
                prop_assert!(
                    model.can_reach(timeline, segment, &bases, &segments),
                    "timeline {} segment {}: {:#?}", timeline, segment, decided
                );
            }
        }
        // Every backup that is kept can be made consistent, if it could before; pins stay.
        for (backup, timeline, start, stop) in &bases {
            let consistent = |there: &Segments| (*start..=*stop).all(|it| there.contains_key(&(*timeline, it)));
            prop_assert!(!consistent(&model.segments) || consistent(&segments), "{}", backup.id);
        }
        for (backup, ..) in model.bases.iter().filter(|(backup, ..)| backup.pin.is_some()) {
            prop_assert!(bases.iter().any(|(kept, ..)| kept.id == backup.id));
        }
        // Nothing that was archived within the window goes.
        prop_assert!(model.segments.iter().all(|(key, hours)| *hours < window || segments.contains_key(key)));
        // What is best proven is never worse than before.
        let best = |bases: &[(Backup, u32, u64, u64)]| {
            bases.iter().filter(|(it, ..)| it.is_sound).map(|(it, ..)| it.proof).max()
        };
        prop_assert_eq!(best(&model.bases), best(&bases));

        let again = plan(&with(model.facts(&bases, &segments)));
        prop_assert!(again.backups.iter().all(|verdict| !verdict.goes), "{:#?}", again);
        prop_assert_eq!(after(&again, &bases, &segments).1, segments);
    }

    #[test]
    fn every_subject_keeps_its_best_whatever_the_rules(
        made in prop::collection::vec((0..4_u8, 0..3_u8, 0..400_i64, 0..4_usize, any::<bool>(), any::<bool>()), 1..60),
        keep_min in 0..4_usize,
        weekly in 0..3_usize,
        yearly in 0..3_usize,
    ) {
        let kinds = [BackupKind::Database, BackupKind::Tenant, BackupKind::Config, BackupKind::Database];
        let backups: Vec<Backup> = made.iter().zip(1..).map(|(it, number)| {
            let (kind, subject, age, proof, is_sound, before_restore) = *it;
            let kind = kinds[usize::from(kind)];
            Backup {
                tenant: (kind == BackupKind::Tenant).then(|| subject.to_string()),
                database: Some(format!("db{subject}")),
                proof: Proof::ALL[proof],
                before_restore: before_restore && kind == BackupKind::Tenant,
                is_sound,
                ..backup(number, kind, -age * 24)
            }
        }).collect();
        let mut facts = facts(0, backups);
        (facts.rules.keep_min, facts.rules.weekly, facts.rules.yearly) = (keep_min, weekly, yearly);
        let decided = plan(&facts);
        let goes = |it: &Backup| decided.backups.iter().any(|verdict| verdict.id == it.id && verdict.goes);
        let same = |one: &Backup, other: &Backup| {
            (one.kind, &one.database, &one.tenant) == (other.kind, &other.database, &other.tenant)
        };
        for gone in facts.backups.iter().filter(|it| goes(it)) {
            prop_assert!(gone.at < at(0) - TimeDelta::days(90));
            let mut kept = facts.backups.iter().filter(|it| same(it, gone) && !goes(it));
            if gone.is_sound && !gone.before_restore {
                prop_assert!(kept.any(|it| it.is_sound && it.proof >= gone.proof && it.at >= gone.at));
            } else {
                prop_assert!(kept.next().is_some());
            }
        }
        facts.backups.retain(|it| !goes(it));
        prop_assert!(plan(&facts).backups.iter().all(|verdict| !verdict.goes));
    }
}

//! What is kept and what goes: a verdict with its reasons for every backup, and the ranges of WAL that nothing needs.
//!
//! Three promises come before every rule. Any second of the last days that could be reached can be reached afterwards.
//! A backup goes only if one of the same subject stays that is at least as well proven. What a kept backup needs stays.

mod subjects;
#[cfg(test)]
mod tests;
mod wal;

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use crate::model::{BackupId, BackupKind, Timestamp, WalName};
use crate::plan::recovery::{Archive, Base};

/// What the operator wants kept.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How long everything is kept, in days.
    pub days: u32,
    /// How many of the newest backups of each subject stay whatever their age.
    pub keep_min: usize,
    /// Of how many of the last days that have backups the newest one stays.
    pub daily: usize,
    /// The same for weeks, which begin on Monday.
    pub weekly: usize,
    /// The same for months.
    pub monthly: usize,
    /// The same for years.
    pub yearly: usize,
    /// How long a day is: 24 hours, but in tests.
    pub day: TimeDelta,
}

impl Rules {
    /// When the window of days begins for backups.
    fn oldest(&self, now: Timestamp) -> Timestamp {
        now - self.day * i32::try_from(self.days).unwrap_or(i32::MAX)
    }

    /// When it begins for WAL: a quarter of an hour earlier, because the server's clock tells when a transaction ended,
    /// and the archive's when a segment was stored.
    pub fn begins(&self, now: Timestamp) -> Timestamp {
        self.oldest(now) - self.day / 96
    }

    /// How many whole days ago that was.
    pub fn age(&self, at: Timestamp, now: Timestamp) -> i64 {
        (now - at).num_milliseconds() / self.day.num_milliseconds().max(1)
    }
}

/// How well a backup is proven, at the place where it is proven best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// A store said that it has it.
    Stored,
    /// All of it was read, and is what was written.
    Read,
    /// All of it was decrypted.
    Decrypted,
    /// It was restored, and the result was checked.
    Restored,
}

impl Proof {
    const ALL: [Self; 4] = [Self::Stored, Self::Read, Self::Decrypted, Self::Restored];

    const fn words(self) -> &'static str {
        match self {
            Self::Stored => "newest that is whole",
            Self::Read => "newest proven by reading all of it",
            Self::Decrypted => "newest proven by decrypting all of it",
            Self::Restored => "newest proven by a restore",
        }
    }
}

/// A complete backup, as far as keeping it goes.
#[derive(Debug, Clone)]
pub struct Backup {
    /// The backup.
    pub id: BackupId,
    /// What it holds.
    pub kind: BackupKind,
    /// Of which database.
    pub database: Option<String>,
    /// Of which tenant.
    pub tenant: Option<String>,
    /// The instant whose data it holds.
    pub at: Timestamp,
    /// Made so that a restore can be undone.
    pub before_restore: bool,
    /// The backup in which some of its data lies.
    pub parent: Option<BackupId>,
    /// Whether all of it can be had, as far as is known, and no page in it is damaged.
    pub is_sound: bool,
    /// How it is proven.
    pub proof: Proof,
    /// Why somebody wants it kept.
    pub pin: Option<String>,
    /// A restore reads it, or a server that was restored from it may still ask for WAL.
    pub in_use: bool,
    /// Where a cluster's backup lies in the stream of WAL.
    pub base: Option<Base>,
}

/// The archived WAL of a timeline, from end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The first segment.
    pub first: WalName,
    /// The last one.
    pub last: WalName,
    /// When the last ones were archived; `None`: nobody knows.
    pub archived_at: Option<Timestamp>,
}

/// All that the decision depends on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Now.
    pub now: Timestamp,
    /// What the operator wants.
    pub rules: Rules,
    /// The complete backups, in any order.
    pub backups: Vec<Backup>,
    /// The archived WAL by timeline.
    pub spans: BTreeMap<u32, Span>,
    /// Where timelines left their ancestors.
    pub histories: Archive,
    /// Why no WAL may go now, whatever its age.
    pub wal_stays: Option<String>,
}

/// What becomes of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The backup.
    pub id: BackupId,
    /// Whether it goes.
    pub goes: bool,
    /// Why, the weightiest first: `12 of 90 days old`, `94 days old`.
    pub reasons: Vec<String>,
}

impl Verdict {
    /// All of it in one line.
    pub fn text(&self) -> String {
        format!("{}: {}", if self.goes { "goes" } else { "kept" }, self.reasons.join("; "))
    }
}

/// WAL files of one timeline that nothing needs, if they were archived before the window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The first one.
    pub from: WalName,
    /// The first one behind; `None`: to the end of the timeline.
    pub to: Option<WalName>,
    /// The same as text.
    pub reason: String,
}

/// What is kept and what goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For each backup, newest first.
    pub backups: Vec<Verdict>,
    /// The WAL that goes.
    pub wal: Vec<Range>,
    /// If it was archived before this.
    pub archived_before: Timestamp,
    /// Why the other WAL stays.
    pub wal_kept: String,
}

/// Decides.
pub fn plan(facts: &Facts) -> Plan {
    let mut reasons: BTreeMap<&BackupId, Vec<String>> = BTreeMap::new();
    for (id, why) in subjects::kept(facts) {
        reasons.entry(id).or_default().push(why);
    }
    for (id, why) in wal::anchors(facts) {
        reasons.entry(id).or_default().push(why);
    }
    keep_parents(facts, &mut reasons);
    let kept: BTreeSet<&BackupId> = reasons.keys().copied().collect();
    let (wal, wal_kept) = wal::ranges(facts, &kept);
    let mut backups: Vec<&Backup> = facts.backups.iter().collect();
    backups.sort_by(|left, right| (right.at, &right.id).cmp(&(left.at, &left.id)));
    let verdict = |backup: &&Backup| {
        let kept = reasons.get(&backup.id).cloned();
        let age = || vec![format!("{} days old", facts.rules.age(backup.at, facts.now))];
        Verdict { id: backup.id.clone(), goes: kept.is_none(), reasons: kept.unwrap_or_else(age) }
    };
    Plan {
        backups: backups.iter().map(verdict).collect(),
        wal,
        archived_before: facts.rules.begins(facts.now),
        wal_kept,
    }
}

/// A backup stays as long as one that is kept has data in it.
fn keep_parents<'a>(facts: &'a Facts, reasons: &mut BTreeMap<&'a BackupId, Vec<String>>) {
    let by_id: BTreeMap<&BackupId, &Backup> = facts.backups.iter().map(|it| (&it.id, it)).collect();
    let mut waiting: Vec<&BackupId> = reasons.keys().copied().collect();
    while let Some(child) = waiting.pop() {
        let parent = by_id.get(child).and_then(|child| child.parent.as_ref());
        let Some(parent) = parent.and_then(|parent| by_id.get(parent)) else { continue };
        if !reasons.contains_key(&parent.id) {
            waiting.push(&parent.id);
        }
        reasons.entry(&parent.id).or_default().push(format!("{child} has data in it"));
    }
}

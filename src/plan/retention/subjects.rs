//! The rules by age and number. Each kind, and of databases and tenants each one, is a subject of its own.

use std::collections::BTreeMap;

use chrono::Datelike as _;

use super::{Backup, Facts, Proof};
use crate::model::{BackupId, BackupKind, Timestamp};

/// What backups are backups of.
type Subject<'a> = (BackupKind, Option<&'a str>, Option<&'a str>);

/// The name of the period in which a time lies.
type Named = fn(Timestamp) -> String;

/// The backups that stay by these rules, with the reason; a backup may have several.
pub(super) fn kept(facts: &Facts) -> Vec<(&BackupId, String)> {
    let mut kept = Vec::new();
    let mut subjects: BTreeMap<Subject<'_>, Vec<&Backup>> = BTreeMap::new();
    for backup in &facts.backups {
        kept.extend(by_itself(facts, backup).into_iter().map(|why| (&backup.id, why)));
        let subject = (backup.kind, backup.database.as_deref(), backup.tenant.as_deref());
        subjects.entry(subject).or_default().push(backup);
    }
    for backups in subjects.values_mut() {
        // What only undoes a restore is no backup of its subject, unless there is nothing else.
        if backups.iter().any(|backup| !backup.before_restore) {
            backups.retain(|backup| !backup.before_restore);
        }
        backups.sort_by(|left, right| (right.at, &right.id).cmp(&(left.at, &left.id)));
        newest(facts, backups, &mut kept);
        periods(facts, backups, &mut kept);
        best_proven(backups, &mut kept);
    }
    kept
}

/// What is said of one backup without looking at others.
fn by_itself(facts: &Facts, backup: &Backup) -> Vec<String> {
    let mut why = Vec::new();
    why.extend(backup.pin.as_ref().map(|reason| format!("pinned, {reason}")));
    if backup.in_use {
        why.push("a restore uses it".to_owned());
    }
    if backup.at >= facts.rules.oldest(facts.now) {
        let age = facts.rules.age(backup.at, facts.now).max(0);
        why.push(format!("{age} of {} days old", facts.rules.days));
    }
    why
}

/// The newest so many, and the newest of all whatever is the matter with it. Newest first.
fn newest<'a>(facts: &Facts, backups: &[&'a Backup], kept: &mut Vec<(&'a BackupId, String)>) {
    let sound: Vec<&&Backup> = backups.iter().filter(|backup| backup.is_sound).collect();
    let count = facts.rules.keep_min;
    let why = if count == 1 { "the newest".to_owned() } else { format!("one of the newest {count}") };
    kept.extend(sound.into_iter().take(count).map(|backup| (&backup.id, why.clone())));
    kept.extend(backups.first().filter(|it| !it.is_sound).map(|it| (&it.id, "the newest".to_owned())));
}

/// The newest of each of the last days, weeks, months and years that have backups.
fn periods<'a>(facts: &Facts, backups: &[&'a Backup], kept: &mut Vec<(&'a BackupId, String)>) {
    let rules = &facts.rules;
    let kinds: [(&str, usize, Named); 4] = [
        ("day", rules.daily, |at| at.format("%F").to_string()),
        ("week", rules.weekly, |at| format!("{}-W{:02}", at.iso_week().year(), at.iso_week().week())),
        ("month", rules.monthly, |at| at.format("%Y-%m").to_string()),
        ("year", rules.yearly, |at| at.format("%Y").to_string()),
    ];
    for (word, count, period_of) in kinds {
        let mut periods: Vec<(String, &Backup)> = Vec::new();
        for &backup in backups {
            let period = period_of(backup.at);
            let is_full = periods.len() == count;
            match periods.last_mut().filter(|(last, _)| *last == period) {
                // A sound one is worth more than one that is a little newer.
                Some((_, best)) if !best.is_sound && backup.is_sound => *best = backup,
                Some(_) => {}
                None if is_full => break,
                None => periods.push((period, backup)),
            }
        }
        kept.extend(periods.into_iter().map(|(name, it)| (&it.id, format!("that of the {word} {name}"))));
    }
}

/// For each way to prove a backup the newest that is proven so or better: what replaces a backup must be worth as much.
fn best_proven<'a>(backups: &[&'a Backup], kept: &mut Vec<(&'a BackupId, String)>) {
    let mut last: Option<&BackupId> = None;
    // Of one that is the newest by several the strongest is said.
    for proof in Proof::ALL.into_iter().rev() {
        let newest = backups.iter().find(|backup| backup.is_sound && backup.proof >= proof);
        let Some(newest) = newest.filter(|newest| last != Some(&newest.id)) else { continue };
        kept.push((&newest.id, newest.proof.words().to_owned()));
        last = Some(&newest.id);
    }
}

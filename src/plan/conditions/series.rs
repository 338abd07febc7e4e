//! Backups of one series (a kind, and the database or tenant) compared with those before them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Condition, Facts, Limits, Made, age, critical, warning};
use crate::model::{BackupKind, Bytes, Elapsed};

/// With how many backups the newest one is compared, and how many there must be for that.
const COMPARED: usize = 7;
const LEAST: usize = 3;
/// Less than so much longer than usual is no reason to speak of it.
const NOISE: f64 = 60.0;

pub(super) fn evaluate(facts: &Facts, limits: &Limits, found: &mut Vec<Condition>) {
    // Of files of configuration no row comes back.
    let data = facts.backups.iter().filter(|backup| backup.series != BackupKind::Config.as_str());
    let newest = data.map(|backup| backup.finished_at).max();
    if let Some(since) = newest.or(facts.begun) {
        let age = age(since, facts.now);
        if age > limits.backup_age {
            let message = match newest {
                Some(_) => format!("the newest backup is {} old", Elapsed(age)),
                None => format!("there is no backup, {} after pgkeep was set up", Elapsed(age)),
            };
            let limit = Elapsed(limits.backup_age);
            found.push(critical("no-good-backup", "", format!("{message}: more than {limit}")));
        }
    }
    let mut series: BTreeMap<&str, Vec<&Made>> = BTreeMap::new();
    for backup in &facts.backups {
        series.entry(&backup.series).or_default().push(backup);
    }
    for (name, backups) in series {
        let Some((last, before)) = backups.split_first() else { continue };
        let before = &before[..before.len().min(COMPARED)];
        overdue(name, facts, limits, last, before, found);
        size(name, limits, last, before, found);
        duration(name, limits, last, before, found);
    }
}

/// What was backed up again and again, and is not any more.
fn overdue(
    name: &str,
    facts: &Facts,
    limits: &Limits,
    last: &Made,
    before: &[&Made],
    found: &mut Vec<Condition>,
) {
    let times = std::iter::once(last).chain(before.iter().copied()).map(|backup| backup.finished_at);
    let times: Vec<_> = times.collect();
    let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[0] - pair[1]).as_seconds_f64()).collect();
    let Some(usual) = median(&gaps) else { return };
    let limit = limits.backup_age.max(Duration::from_secs_f64((usual * 2.0).max(0.0)));
    let age = age(last.finished_at, facts.now);
    if age > limit {
        let usual = Elapsed(Duration::from_secs_f64(usual.max(0.0)));
        let message =
            format!("the newest backup of {name} is {} old; there was one every {usual}", Elapsed(age));
        found.push(critical("no-good-backup", name, message));
    }
}

fn size(name: &str, limits: &Limits, last: &Made, before: &[&Made], found: &mut Vec<Condition>) {
    let sizes: Vec<f64> = before.iter().map(|backup| backup.bytes as f64).collect();
    let Some(usual) = median(&sizes).filter(|usual| *usual > 0.0) else { return };
    let percent = (last.bytes as f64 - usual) / usual * 100.0;
    if percent.abs() > limits.size_percent as f64 {
        let how = if percent > 0.0 { "more" } else { "less" };
        let message = format!(
            "the newest backup of {name} has {}, {:.0}% {how} than the {} of those before it",
            Bytes(last.bytes),
            percent.abs(),
            Bytes(usual as u64)
        );
        found.push(warning("backup-size", name, message));
    }
}

fn duration(name: &str, limits: &Limits, last: &Made, before: &[&Made], found: &mut Vec<Condition>) {
    let took = Elapsed(Duration::from_secs_f64(last.seconds.max(0.0)));
    if let Some(limit) = limits.backup_duration {
        if last.seconds > limit.as_secs_f64() {
            let message = format!("the newest backup of {name} took {took}, more than {}", Elapsed(limit));
            found.push(warning("backup-duration", name, message));
        }
        return;
    }
    let before: Vec<f64> = before.iter().map(|backup| backup.seconds).collect();
    let Some(usual) = median(&before) else { return };
    if last.seconds > usual * 2.0 && last.seconds - usual > NOISE {
        let usual = Elapsed(Duration::from_secs_f64(usual.max(0.0)));
        let message = format!("the newest backup of {name} took {took}; those before it took {usual}");
        found.push(warning("backup-duration", name, message));
    }
}

/// The middle one; `None` when there are too few to speak of what is usual.
fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    (values.len() >= LEAST).then(|| values[values.len() / 2])
}

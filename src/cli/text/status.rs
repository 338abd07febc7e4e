//! `pgkeep status` on the terminal: one screen, in paragraphs, so that it reads at 40 columns too.

use std::time::Duration;

use super::screen::{Screen, Tone};
use super::{counted, seconds};
use crate::model::{Bytes, Thousands, Timestamp};
use crate::report::{Level, State, days};
use crate::report::{Status, StoreAnswer, StoreStatus};

/// How many alerts and jobs are shown; the rest is counted.
const LINES: usize = 10;

pub(in crate::cli) fn status(status: &Status) -> String {
    let mut screen = Screen::of_stdout();
    draw(status, &mut screen);
    screen.into_text()
}

fn draw(status: &Status, screen: &mut Screen) {
    health(status, screen);
    screen.gap();
    targets(status, screen);
    backups(status, screen);
    stores(status, screen);
    runs(status, screen);
    alerts(status, screen);
    jobs(status, screen);
    for file in &status.written {
        screen.paragraph("WROTE", file, None);
    }
}

fn health(status: &Status, screen: &mut Screen) {
    let health = &status.health;
    let (tone, word) = match health.state {
        State::Good => (Tone::Good, "good"),
        State::Attention => (Tone::Attention, "ATTENTION"),
        State::Critical => (Tone::Critical, "CRITICAL"),
    };
    screen.paragraph("CLUSTER", &format!("{}, {}", status.cluster, minute(status.at)), None);
    screen.paragraph("HEALTH", &format!("{} of 100: {word}", health.score), Some(tone));
    for deduction in &health.deductions {
        let tone = if deduction.level == Level::Critical { Tone::Critical } else { Tone::Attention };
        let what = format!("-{} {}", deduction.points, deduction.what);
        screen.paragraph("", &what, Some(tone));
        screen.paragraph("", &format!("fix: {}", deduction.remedy), Some(Tone::Soft));
    }
}

fn targets(status: &Status, screen: &mut Screen) {
    let (rpo, rto) = (&status.rpo, &status.rto);
    let target = days(Duration::from_secs(rpo.target_seconds));
    let by = match (rpo.by, &rpo.newest) {
        (Some("wal"), Some(newest)) => format!(": WAL up to {newest} is in {}", stores_of(rpo.copies)),
        (Some(_), Some(newest)) => format!(": no WAL is archived, and {newest} is the newest backup"),
        _ => String::new(),
    };
    let (text, is_met) = match rpo.now_seconds {
        None => (format!("everything would be lost now (target {target})"), false),
        Some(age) => {
            let is_met = age <= rpo.target_seconds;
            let word = if is_met { "met" } else { "NOT MET" };
            (
                format!("{} would be lost now, target {target} {word}{by}", days(Duration::from_secs(age))),
                is_met,
            )
        }
    };
    screen.paragraph("RPO", &text, Some(tone(is_met)));
    let target = days(Duration::from_secs(rto.target_seconds));
    let (text, is_met) = match rto.measured_seconds {
        None => (format!("never measured, target {target}"), false),
        Some(took) => {
            let is_met = took <= rto.target_seconds as f64;
            let word = if is_met { "met" } else { "NOT MET" };
            (format!("a restore takes {}, target {target} {word}", seconds(took)), is_met)
        }
    };
    screen.paragraph("RTO", &text, Some(if is_met { Tone::Good } else { Tone::Attention }));
    for test in &rto.tests {
        let took = test.seconds.map_or_else(String::new, |took| format!(" after {}", seconds(took)));
        let ago = ago(status.at, test.started_at);
        screen.paragraph(
            "",
            &format!("test restore of a {} backup, {ago}: {}{took}", test.kind, test.state),
            None,
        );
    }
    let mut label = "RECOVER";
    for window in status.windows.iter().rev().take(LINES) {
        let (from, until) = (minute(window.from), minute(window.until));
        let text = format!("any second from {from} to about {until}, timeline {}", window.timeline);
        screen.paragraph(label, &text, None);
        label = "";
        if let (Some(missing), Some(next)) = (&window.missing, &window.next) {
            let hole = format!("HOLE behind it: {missing} is in no store, {next} is there");
            screen.paragraph("", &hole, Some(Tone::Critical));
        }
    }
    if status.windows.is_empty() {
        screen.paragraph(label, "no point in time: there is no cluster backup with its WAL", None);
    }
    for id in &status.inconsistent {
        screen.paragraph(
            "",
            &format!("{id} can't be made consistent: its WAL is not all there"),
            Some(Tone::Critical),
        );
    }
}

fn backups(status: &Status, screen: &mut Screen) {
    let mut label = "BACKUPS";
    for backup in status.backups.newest.iter().take(LINES) {
        let database = backup.database.as_ref().map_or_else(String::new, |name| format!(" {name}"));
        let stores: Vec<&str> = backup.stores.iter().map(|store| store.as_str()).collect();
        let stores = if stores.is_empty() {
            "whole in no store".to_owned()
        } else {
            format!("in {}", stores.join(", "))
        };
        let text = format!(
            "{}{database}: newest {}, {}, {}, {stores}",
            backup.kind,
            ago(status.at, backup.started_at),
            Bytes(backup.size_bytes),
            seconds(backup.seconds)
        );
        screen.paragraph(label, &text, None);
        label = "";
    }
    more(screen, status.backups.newest.len(), "database");
    let kept: Vec<String> =
        status.backups.complete.iter().map(|of| format!("{} {}", Thousands(of.count), of.kind)).collect();
    screen.paragraph(
        label,
        &if kept.is_empty() { "none".to_owned() } else { format!("kept: {}", kept.join(", ")) },
        None,
    );
}

fn stores(status: &Status, screen: &mut Screen) {
    let mut label = "STORES";
    for store in &status.stores {
        let (tone, text) = store_line(store, status.at);
        screen.paragraph(label, &text, tone);
        label = "";
    }
    if status.stores.is_empty() {
        screen.paragraph(label, "none is configured", Some(Tone::Critical));
    }
}

fn store_line(store: &StoreStatus, now: Timestamp) -> (Option<Tone>, String) {
    let (mut tone, answer) = match store.answer {
        StoreAnswer::Reachable => (None, "answers"),
        StoreAnswer::Away => (Some(Tone::Critical), "AWAY"),
        StoreAnswer::NotAsked => (None, "not asked"),
    };
    let mut parts = vec![
        format!("{}: {answer}", store.store),
        format!("{} in {}", Bytes(store.bytes), counted(store.objects, "object")),
    ];
    for (count, what) in [(store.owed, "owed"), (store.missing, "MISSING"), (store.damaged, "DAMAGED")] {
        if count > 0 {
            parts.push(format!("{} {what}", Thousands(count)));
            tone = tone.or(Some(Tone::Attention));
        }
    }
    if let Some(proof) = store.oldest_proof {
        parts.push(format!("oldest proof {}", ago(now, proof)));
    }
    if let (Some(free), Some(all)) = (store.free_bytes, store.capacity_bytes) {
        parts.push(format!("{} of {} free", Bytes(free), Bytes(all)));
    }
    if let Some(message) = &store.message {
        parts.push(message.clone());
    }
    (tone, parts.join(", "))
}

fn runs(status: &Status, screen: &mut Screen) {
    let mut label = "LAST RUNS";
    for run in &status.runs {
        let took = run.seconds.map_or_else(String::new, |took| format!(" after {}", seconds(took)));
        let message = run.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        let tone = match run.outcome.as_str() {
            "failed" | "died" => Some(Tone::Critical),
            "incomplete" | "interrupted" => Some(Tone::Attention),
            _ => None,
        };
        let (at, outcome) = (minute(run.started_at), &run.outcome);
        screen.paragraph(label, &format!("{at} {}: {outcome}{took}{message}", run.command), tone);
        label = "";
    }
    if status.runs.is_empty() {
        screen.paragraph(label, "none", None);
    }
}

fn alerts(status: &Status, screen: &mut Screen) {
    let mut label = "ALERTS";
    for alert in status.alerts.iter().take(LINES) {
        let tone = match (alert.severity.as_str(), alert.acknowledged_at) {
            (_, Some(_)) => Tone::Soft,
            ("CRITICAL", None) => Tone::Critical,
            _ => Tone::Attention,
        };
        let acknowledged = if alert.acknowledged_at.is_some() { ", acknowledged" } else { "" };
        let since = ago(status.at, alert.created_at);
        let text = format!("{} {}: {} ({since}{acknowledged})", alert.id, alert.severity, alert.message);
        screen.paragraph(label, &text, Some(tone));
        label = "";
    }
    more(screen, status.alerts.len(), "alert");
    if status.alerts.is_empty() {
        screen.paragraph(label, "none open", None);
    }
}

fn jobs(status: &Status, screen: &mut Screen) {
    let mut label = "NEXT JOBS";
    for job in status.jobs.iter().take(LINES) {
        let text = format!(
            "{} {} (job {}, priority {})",
            minute(job.scheduled_for),
            job.command,
            job.id,
            job.priority
        );
        screen.paragraph(label, &text, None);
        label = "";
    }
    more(screen, status.jobs.len(), "job");
    if status.jobs.is_empty() {
        screen.paragraph(label, "none wait; those of cron are in its crontab", None);
    }
}

fn more(screen: &mut Screen, count: usize, what: &str) {
    if count > LINES {
        screen.paragraph(
            "",
            &format!("and {} more", counted((count - LINES) as u64, what)),
            Some(Tone::Soft),
        );
    }
}

fn stores_of(copies: usize) -> String {
    counted(copies as u64, "store")
}

fn tone(is_met: bool) -> Tone {
    if is_met { Tone::Good } else { Tone::Critical }
}

fn minute(at: Timestamp) -> String {
    at.format("%F %H:%MZ").to_string()
}

fn ago(now: Timestamp, then: Timestamp) -> String {
    format!("{} ago", days((now - then).to_std().unwrap_or_default()))
}

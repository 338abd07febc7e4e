//! The page's tables.

use super::escape::html;
use super::said::{minute, since, took, when};
use super::tables::{Cell, Set, markup, number, table, text};
use super::{History, RunLine, Status, StoreAnswer};
use crate::model::{Bytes, Thousands, Timestamp};

/// How many backups the table has at most.
const ROWS: usize = 500;

pub(super) fn alerts(status: &Status) -> String {
    let rows: Vec<Vec<Cell>> = status
        .alerts
        .iter()
        .map(|alert| {
            let (class, order) = match alert.severity.as_str() {
                "CRITICAL" => ("critical", "0"),
                "WARNING" => ("attention", "1"),
                _ => ("good", "2"),
            };
            let acknowledged = alert.acknowledged_at.map_or_else(String::new, |at| {
                let by = alert.acknowledged_by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
                format!("{}{by}", minute(at))
            });
            vec![
                markup(format!("<span class=\"badge {class}\">{}</span>", html(&alert.severity)), order),
                text(&alert.message),
                text(&alert.subject),
                when(alert.created_at),
                number(alert.times.to_string(), alert.times as f64),
                text(acknowledged),
                text(&alert.alert_type),
                number(alert.id.to_string(), alert.id as f64),
            ]
        })
        .collect();
    let columns = [
        ("Severity", Set::Plain),
        ("Message", Set::Long),
        ("About", Set::Plain),
        ("Since", Set::Plain),
        ("Times", Set::Right),
        ("Acknowledged", Set::Plain),
        ("Type", Set::Plain),
        ("No.", Set::Right),
    ];
    table("Open alerts", &columns, &rows, "None.")
}

pub(super) fn stores(status: &Status) -> String {
    let rows: Vec<Vec<Cell>> = status
        .stores
        .iter()
        .map(|store| {
            let (class, word) = match store.answer {
                StoreAnswer::Reachable => ("good", "answers"),
                StoreAnswer::Away => ("critical", "away"),
                StoreAnswer::NotAsked => ("attention", "not asked"),
            };
            let room = match (store.free_bytes, store.capacity_bytes) {
                (Some(free), Some(all)) => format!("{} of {}", Bytes(free), Bytes(all)),
                _ => String::new(),
            };
            let place = match &store.message {
                Some(message) => format!("{}: {message}", store.place),
                None => store.place.clone(),
            };
            let proof = store.oldest_proof;
            vec![
                text(store.store.as_str()),
                markup(format!("<span class=\"badge {class}\">{word}</span>"), word),
                number(Bytes(store.bytes).to_string(), store.bytes as f64),
                number(Thousands(store.objects).to_string(), store.objects as f64),
                number(Thousands(store.backups).to_string(), store.backups as f64),
                number(Thousands(store.wal_files).to_string(), store.wal_files as f64),
                number(Thousands(store.owed).to_string(), store.owed as f64),
                number(
                    Thousands(store.missing + store.damaged).to_string(),
                    (store.missing + store.damaged) as f64,
                ),
                proof.map_or_else(
                    || text(""),
                    |at| {
                        number(format!("{} ago", since(status.at, at)), (status.at - at).num_seconds() as f64)
                    },
                ),
                number(room, store.free_bytes.unwrap_or(0) as f64),
                text(place),
            ]
        })
        .collect();
    let columns = [
        ("Store", Set::Plain),
        ("State", Set::Plain),
        ("Bytes", Set::Right),
        ("Objects", Set::Right),
        ("Backups whole", Set::Right),
        ("WAL files", Set::Right),
        ("Owed", Set::Right),
        ("Missing or damaged", Set::Right),
        ("Oldest proof", Set::Right),
        ("Free", Set::Right),
        ("Place", Set::Long),
    ];
    table("Stores", &columns, &rows, "No store is configured.")
}

pub(super) fn windows(status: &Status) -> String {
    let rows: Vec<Vec<Cell>> = status
        .windows
        .iter()
        .rev()
        .map(|window| {
            let whole: Vec<&str> = window.whole_in.iter().map(|store| store.as_str()).collect();
            let hole = match (&window.missing, &window.next) {
                (Some(missing), Some(next)) => format!("{missing} is missing, {next} is there"),
                _ => String::new(),
            };
            vec![
                number(window.timeline.to_string(), f64::from(window.timeline)),
                when(window.from),
                when(window.until),
                number(Thousands(window.backups).to_string(), window.backups as f64),
                number(Thousands(window.segments).to_string(), window.segments as f64),
                text(if whole.is_empty() { "all together".to_owned() } else { whole.join(", ") }),
                text(hole),
            ]
        })
        .collect();
    let columns = [
        ("Timeline", Set::Right),
        ("Any second from", Set::Plain),
        ("Until about", Set::Plain),
        ("Cluster backups", Set::Right),
        ("WAL segments", Set::Right),
        ("WAL whole in", Set::Plain),
        ("Hole behind it", Set::Long),
    ];
    table(
        "What can be recovered",
        &columns,
        &rows,
        "No point in time: there is no cluster backup with its WAL.",
    )
}

pub(super) fn tests(status: &Status) -> String {
    let rows: Vec<Vec<Cell>> = status
        .rto
        .tests
        .iter()
        .map(|test| {
            let class = if test.state == "done" { "good" } else { "critical" };
            vec![
                text(test.kind.as_str()),
                markup(format!("<span class=\"badge {class}\">{}</span>", html(&test.state)), &test.state),
                when(test.started_at),
                test.seconds.map_or_else(|| text(""), |it| number(took(it), it)),
                test.measured_seconds.map_or_else(|| text("never"), |it| number(took(it), it)),
                text(test.backup.as_str()),
            ]
        })
        .collect();
    let columns = [
        ("Kind", Set::Plain),
        ("Result", Set::Plain),
        ("When", Set::Plain),
        ("Took", Set::Right),
        ("Last success took", Set::Right),
        ("Backup", Set::Plain),
    ];
    table("Last test restore of each kind", &columns, &rows, "None yet: pgkeep test-restore.")
}

pub(super) fn backups(status: &Status, history: &History) -> String {
    let rows: Vec<Vec<Cell>> = history
        .backups
        .iter()
        .rev()
        .take(ROWS)
        .map(|backup| {
            let stores: Vec<&str> = backup.stores.iter().map(|store| store.as_str()).collect();
            vec![
                text(backup.id.as_str()),
                text(backup.kind.as_str()),
                text(backup.database.as_deref().unwrap_or("")),
                text(backup.tenant.as_deref().unwrap_or("")),
                number(Bytes(backup.original_size_bytes).to_string(), backup.original_size_bytes as f64),
                number(Bytes(backup.size_bytes).to_string(), backup.size_bytes as f64),
                number(took(backup.seconds), backup.seconds),
                text(if stores.is_empty() { "none whole".to_owned() } else { stores.join(", ") }),
            ]
        })
        .collect();
    let columns = [
        ("Backup", Set::Plain),
        ("Kind", Set::Plain),
        ("Database", Set::Plain),
        ("Tenant", Set::Plain),
        ("Read", Set::Right),
        ("Stored", Set::Right),
        ("Took", Set::Right),
        ("Whole in", Set::Plain),
    ];
    let _ = status;
    let caption = match history.backups.len() {
        count if count > ROWS => format!("Backups of the last 90 days: the newest {ROWS} of {count}"),
        _ => "Backups of the last 90 days".to_owned(),
    };
    table(&caption, &columns, &rows, "None.")
}

pub(super) fn runs(runs: &[RunLine], now: Timestamp) -> String {
    let rows: Vec<Vec<Cell>> = runs
        .iter()
        .map(|run| {
            let class = match run.outcome.as_str() {
                "done" | "running" => "good",
                "incomplete" | "interrupted" => "attention",
                _ => "critical",
            };
            vec![
                when(run.started_at),
                number(
                    format!("{} ago", since(now, run.started_at)),
                    (now - run.started_at).num_seconds() as f64,
                ),
                text(&run.command),
                markup(format!("<span class=\"badge {class}\">{}</span>", html(&run.outcome)), &run.outcome),
                run.exit_code.map_or_else(|| text(""), |code| number(code.to_string(), f64::from(code))),
                run.seconds.map_or_else(|| text(""), |it| number(took(it), it)),
                text(&run.by),
                text(run.message.as_deref().unwrap_or("")),
            ]
        })
        .collect();
    let columns = [
        ("Begun", Set::Plain),
        ("Ago", Set::Right),
        ("Command", Set::Plain),
        ("Result", Set::Plain),
        ("Code", Set::Right),
        ("Took", Set::Right),
        ("By", Set::Plain),
        ("Message", Set::Long),
    ];
    table("Last runs", &columns, &rows, "None.")
}

pub(super) fn jobs(status: &Status) -> String {
    let rows: Vec<Vec<Cell>> = status
        .jobs
        .iter()
        .map(|job| {
            vec![
                number(job.id.to_string(), job.id as f64),
                when(job.scheduled_for),
                text(&job.command),
                number(job.priority.to_string(), f64::from(job.priority)),
                text(&job.requested_by),
            ]
        })
        .collect();
    let columns = [
        ("No.", Set::Right),
        ("Due", Set::Plain),
        ("Command", Set::Plain),
        ("Priority", Set::Right),
        ("By", Set::Plain),
    ];
    table("Jobs that wait", &columns, &rows, "None. Those of cron are in its crontab.")
}

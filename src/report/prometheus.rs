//! Metrics in the text format that `node_exporter` reads out of `--collector.textfile.directory`
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write;

use super::escape;
use super::{Status, StoreAnswer};
use crate::model::Timestamp;
use crate::plan::health::{RULES, State};

/// One metric as the documentation has it; all are gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its labels besides `cluster`.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn metric(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, labels, help }
}

/// All metrics in the order in which they are written; the README has the same table.
pub const METRICS: [Metric; 38] = [
    metric("pgkeep_build_info", &["version"], "The pgkeep that wrote this; always 1."),
    metric("pgkeep_status_timestamp_seconds", &[], "When this was written."),
    metric("pgkeep_health_score", &[], "The health score, 0 to 100."),
    metric("pgkeep_health_level", &[], "0 good, 1 attention, 2 critical."),
    metric(
        "pgkeep_health_deduction_points",
        &["code"],
        "Points that a rule takes away now; 0 if it does not hold.",
    ),
    metric("pgkeep_rpo_seconds", &[], "Age of the newest data that is safe in enough stores."),
    metric("pgkeep_rpo_target_seconds", &[], "RPO_TARGET."),
    metric("pgkeep_rto_seconds", &["kind"], "How long the newest successful test restore of the kind took."),
    metric("pgkeep_rto_target_seconds", &[], "RTO_TARGET."),
    metric(
        "pgkeep_test_restore_timestamp_seconds",
        &["kind"],
        "When the newest test restore of the kind was begun.",
    ),
    metric(
        "pgkeep_test_restore_success",
        &["kind"],
        "1 if the newest test restore of the kind succeeded, else 0.",
    ),
    metric(
        "pgkeep_recoverable_from_timestamp_seconds",
        &["timeline"],
        "The earliest point of the newest window of the timeline that can be reached.",
    ),
    metric(
        "pgkeep_recoverable_until_timestamp_seconds",
        &["timeline"],
        "About the latest point of that window.",
    ),
    metric("pgkeep_wal_holes", &[], "Windows behind which WAL is missing."),
    metric("pgkeep_inconsistent_backups", &[], "Cluster backups of which the WAL is not all there."),
    metric(
        "pgkeep_store_reachable",
        &["store"],
        "1 if the store answered, else 0; absent if it was not asked.",
    ),
    metric("pgkeep_store_bytes", &["store"], "Bytes of good copies in the store."),
    metric("pgkeep_store_objects", &["store"], "Good copies in the store."),
    metric("pgkeep_store_wal_files", &["store"], "Those of them that are WAL."),
    metric("pgkeep_store_backups", &["store"], "Backups that the store has whole."),
    metric("pgkeep_store_copies_owed", &["store"], "Copies that are owed to the store."),
    metric("pgkeep_store_copies_missing", &["store"], "Copies that the store lost."),
    metric("pgkeep_store_copies_damaged", &["store"], "Copies in the store that are damaged."),
    metric(
        "pgkeep_store_oldest_proof_timestamp_seconds",
        &["store"],
        "When the copy was proven that was proven least lately.",
    ),
    metric("pgkeep_store_capacity_bytes", &["store"], "What fits into the store, where that is known."),
    metric("pgkeep_store_free_bytes", &["store"], "What still fits, where that is known."),
    metric("pgkeep_backups", &["kind"], "Complete backups of the kind."),
    metric("pgkeep_backups_lost", &[], "Backups that no store has whole."),
    metric("pgkeep_backups_short", &[], "Backups in fewer stores than BACKUP_MIN_COPIES."),
    metric(
        "pgkeep_backup_timestamp_seconds",
        &["kind", "database"],
        "When the newest backup of the kind and database was begun.",
    ),
    metric("pgkeep_backup_duration_seconds", &["kind", "database"], "How long that took."),
    metric("pgkeep_backup_size_bytes", &["kind", "database"], "Bytes of one stored copy of it."),
    metric(
        "pgkeep_run_timestamp_seconds",
        &["command"],
        "When the last run of the command that has ended was begun.",
    ),
    metric("pgkeep_run_duration_seconds", &["command"], "How long that took; absent if it died."),
    metric(
        "pgkeep_run_success",
        &["command"],
        "1 if it was done, 0 if it was incomplete, failed, was interrupted or died.",
    ),
    metric("pgkeep_run_exit_code", &["command"], "Its exit code; absent if it died."),
    metric("pgkeep_alerts_open", &["severity"], "Open alerts that nobody has acknowledged."),
    metric("pgkeep_jobs_waiting", &[], "Jobs that wait for their time or their turn."),
];

/// The labels and the value of one sample.
type Sample = (Vec<(&'static str, String)>, f64);

/// Writes all of them: HELP and TYPE of each that has a sample, then its samples.
pub fn metrics(status: &Status) -> String {
    let mut text = String::new();
    for metric in &METRICS {
        let samples = samples(metric.name, status);
        if samples.is_empty() {
            continue;
        }
        // Writing into a string cannot fail.
        let _ = writeln!(text, "# HELP {} {}", metric.name, metric.help);
        let _ = writeln!(text, "# TYPE {} gauge", metric.name);
        for (labels, value) in samples {
            let _ = write!(text, "{}{{cluster=\"{}\"", metric.name, escape::label(&status.cluster));
            for (name, value) in labels {
                let _ = write!(text, ",{name}=\"{}\"", escape::label(&value));
            }
            let _ = writeln!(text, "}} {value}");
        }
    }
    text
}

fn at(time: Timestamp) -> f64 {
    time.timestamp_millis() as f64 / 1000.0
}

fn one(value: f64) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn samples(name: &str, status: &Status) -> Vec<Sample> {
    let name = name.strip_prefix("pgkeep_").unwrap_or(name);
    match name.split_once('_') {
        Some(("store", what)) => of_stores(what, status),
        Some(("backup" | "run", _)) => of_runs(name, status),
        _ => of_all(name, status),
    }
}

fn of_all(name: &str, status: &Status) -> Vec<Sample> {
    match name {
        "build_info" => vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)],
        "status_timestamp_seconds" => one(at(status.at)),
        "health_score" => one(f64::from(status.health.score)),
        "health_level" => one(match status.health.state {
            State::Good => 0.0,
            State::Attention => 1.0,
            State::Critical => 2.0,
        }),
        "health_deduction_points" => RULES
            .iter()
            .map(|rule| {
                let holds = status.health.deductions.iter().any(|found| found.code == rule.code);
                (vec![("code", rule.code.to_owned())], if holds { f64::from(rule.points) } else { 0.0 })
            })
            .collect(),
        "rpo_seconds" => status.rpo.now_seconds.map_or_else(Vec::new, |age| one(age as f64)),
        "rpo_target_seconds" => one(status.rpo.target_seconds as f64),
        "rto_target_seconds" => one(status.rto.target_seconds as f64),
        "rto_seconds" | "test_restore_timestamp_seconds" | "test_restore_success" => of_tests(name, status),
        "recoverable_from_timestamp_seconds" | "recoverable_until_timestamp_seconds" => {
            of_windows(name.contains("from"), status)
        }
        "wal_holes" => one(status.windows.iter().filter(|window| window.missing.is_some()).count() as f64),
        "inconsistent_backups" => one(status.inconsistent.len() as f64),
        "backups" => status
            .backups
            .complete
            .iter()
            .map(|of| (vec![("kind", of.kind.to_string())], of.count as f64))
            .collect(),
        "backups_lost" => one(status.backups.lost as f64),
        "backups_short" => one(status.backups.short as f64),
        "alerts_open" => ["CRITICAL", "WARNING", "INFO"]
            .map(|severity| {
                let open = status.alerts.iter().filter(|alert| alert.severity == severity);
                let count = open.filter(|alert| alert.acknowledged_at.is_none()).count();
                (vec![("severity", severity.to_owned())], count as f64)
            })
            .into(),
        "jobs_waiting" => one(status.jobs.len() as f64),
        _ => Vec::new(),
    }
}

fn of_tests(name: &str, status: &Status) -> Vec<Sample> {
    let of = |test: &super::TestRestore| match name {
        "rto_seconds" => test.measured_seconds,
        "test_restore_timestamp_seconds" => Some(at(test.started_at)),
        _ => Some(f64::from(u8::from(test.state == "done"))),
    };
    let tests = status.rto.tests.iter();
    tests.filter_map(|test| Some((vec![("kind", test.kind.to_string())], of(test)?))).collect()
}

/// The newest window of each timeline: they come by timeline and time.
fn of_windows(from: bool, status: &Status) -> Vec<Sample> {
    let is_last = |index: usize| {
        status.windows.get(index + 1).is_none_or(|next| next.timeline != status.windows[index].timeline)
    };
    let newest = status.windows.iter().enumerate().filter(|(index, _)| is_last(*index));
    newest
        .map(|(_, window)| {
            let time = if from { window.from } else { window.until };
            (vec![("timeline", window.timeline.to_string())], at(time))
        })
        .collect()
}

fn of_stores(what: &str, status: &Status) -> Vec<Sample> {
    let of = |store: &super::StoreStatus| match what {
        "reachable" => match store.answer {
            StoreAnswer::Reachable => Some(1.0),
            StoreAnswer::Away => Some(0.0),
            StoreAnswer::NotAsked => None,
        },
        "bytes" => Some(store.bytes as f64),
        "objects" => Some(store.objects as f64),
        "wal_files" => Some(store.wal_files as f64),
        "backups" => Some(store.backups as f64),
        "copies_owed" => Some(store.owed as f64),
        "copies_missing" => Some(store.missing as f64),
        "copies_damaged" => Some(store.damaged as f64),
        "oldest_proof_timestamp_seconds" => store.oldest_proof.map(at),
        "capacity_bytes" => store.capacity_bytes.map(|bytes| bytes as f64),
        "free_bytes" => store.free_bytes.map(|bytes| bytes as f64),
        _ => None,
    };
    let stores = status.stores.iter();
    stores.filter_map(|store| Some((vec![("store", store.store.to_string())], of(store)?))).collect()
}

fn of_runs(name: &str, status: &Status) -> Vec<Sample> {
    let of_backup = |backup: &super::NewestBackup| match name {
        "backup_timestamp_seconds" => Some(at(backup.started_at)),
        "backup_duration_seconds" => Some(backup.seconds),
        "backup_size_bytes" => Some(backup.size_bytes as f64),
        _ => None,
    };
    let of_run = |run: &super::LastRun| match name {
        "run_timestamp_seconds" => Some(at(run.started_at)),
        "run_duration_seconds" => run.seconds,
        "run_success" => Some(f64::from(u8::from(run.outcome == "done"))),
        "run_exit_code" => run.exit_code.map(f64::from),
        _ => None,
    };
    let backups = status.backups.newest.iter().filter_map(|backup| {
        let database = backup.database.clone().unwrap_or_default();
        Some((vec![("kind", backup.kind.to_string()), ("database", database)], of_backup(backup)?))
    });
    let runs = status.last_runs.iter();
    let runs = runs.filter_map(|run| Some((vec![("command", run.command.clone())], of_run(run)?)));
    backups.chain(runs).collect()
}

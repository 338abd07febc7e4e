//! What was before: for the charts and the calendar of the page.

use std::collections::BTreeMap;

use chrono::{NaiveDate, NaiveDateTime, TimeDelta};

use super::facts::{is_failure, whole_in};
use crate::catalog::BackupFilter;
use crate::command::Shelf;
use crate::model::Timestamp;
use crate::report::{History, PastBackup, PastFailure, ProofAge, UsageDay, WalHour};

/// The spans in which proofs are counted, in days.
const SPANS: [u32; 4] = [1, 7, 30, 90];

pub(super) fn history(shelf: &Shelf, since: Timestamp, now: Timestamp) -> anyhow::Result<History> {
    let overview = shelf.catalog.overview();
    let mut backups: Vec<PastBackup> = shelf
        .catalog
        .backups()
        .list(&BackupFilter::default())?
        .into_iter()
        .filter(|row| row.started_at >= since)
        .map(|row| PastBackup {
            stores: whole_in(&row, shelf.settings.stores()),
            id: row.id,
            kind: row.kind,
            database: row.database,
            tenant: row.tenant_id,
            at: row.started_at,
            seconds: row.seconds,
            size_bytes: row.size_bytes,
            original_size_bytes: row.original_size_bytes,
        })
        .collect();
    backups.reverse();
    let failures = overview
        .ended_runs(since)?
        .into_iter()
        .filter(|run| run.command.starts_with("backup") && is_failure(run))
        .map(|run| PastFailure { at: run.started_at, command: run.command })
        .collect();
    let usage =
        shelf.catalog.usage().since(&since.format("%F").to_string())?.into_iter().filter_map(|held| {
            let at = held.day.parse::<NaiveDate>().ok()?.and_time(chrono::NaiveTime::MIN).and_utc();
            Some(UsageDay { at, store: held.store, bytes: held.bytes })
        });
    let since_spans = SPANS.map(|days| now - TimeDelta::days(i64::from(days)));
    let mut proofs = Vec::new();
    for (store, counts) in overview.proofs(&since_spans)? {
        let spans = SPANS.map(Some).into_iter().chain([None]);
        proofs.extend(spans.zip(counts).map(|(days, copies)| ProofAge { store, days, copies }));
    }
    Ok(History { since, backups, failures, wal: wal(shelf, since)?, usage: usage.collect(), proofs })
}

/// WAL by the hour: of the store that got the most in it, since each should get all of it.
fn wal(shelf: &Shelf, since: Timestamp) -> anyhow::Result<Vec<WalHour>> {
    let mut hours: BTreeMap<String, WalHour> = BTreeMap::new();
    for row in shelf.catalog.overview().wal_hours(since)? {
        let Ok(at) = NaiveDateTime::parse_from_str(&format!("{}:00", row.hour), "%Y-%m-%dT%H:%M") else {
            continue;
        };
        let hour = hours.entry(row.hour).or_insert(WalHour { at: at.and_utc(), files: 0, bytes: 0 });
        if row.files > hour.files {
            (hour.files, hour.bytes) = (row.files, row.bytes);
        }
    }
    Ok(hours.into_values().collect())
}

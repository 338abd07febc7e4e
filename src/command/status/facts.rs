//! What the catalog says, and the facts out of it that decide how healthy it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::TimeDelta;

use super::stores::Answer;
use crate::catalog::{
    BackupFilter, BackupRow, EndedRun, Held, RestoreState, Run, RunOutcome, Severity, TestRun,
};
use crate::command::Shelf;
use crate::command::recoverable::{self, Ledger};
use crate::model::{BackupId, BackupKind, Kind, StoreName, Timestamp, WalName};
use crate::plan::conditions::exposure::{self, Position, Seen};
use crate::plan::health::{Facts, Health, State};
use crate::report::{
    AlertLine, BackupCount, HeldBackups, JobLine, LastRun, NewestBackup, Rpo, Rto, RunLine, Status,
    StoreAnswer, StoreStatus, TestRestore, WindowLine,
};

/// How long a failed run of cron's counts when its command line is never run again: longer than a week, because some run
/// once a week.
const FAILED_FOR: TimeDelta = TimeDelta::days(8);

/// How far back the last run of each command is looked for.
const RUNS: TimeDelta = TimeDelta::days(90);

/// How many test restores are looked at: one for each kind is among them.
const TESTS: usize = 400;

/// Gathers everything but the score.
pub(super) fn gather(shelf: &Shelf, answers: Vec<Answer>, now: Timestamp) -> anyhow::Result<Status> {
    let rows = shelf.catalog.backups().list(&BackupFilter::default())?;
    let Ledger { windows, inconsistent, .. } = recoverable::ledger(&shelf.settings, &shelf.catalog)?;
    // What a store may have that could not be asked can't be counted on.
    let ends_unknown =
        windows.iter().max_by_key(|dated| dated.until).is_some_and(|dated| dated.unknown.is_some());
    let windows: Vec<(WindowLine, Vec<BackupId>)> = windows
        .into_iter()
        .map(|dated| {
            let window = dated.window;
            let (missing, next) =
                window.hole.map_or((None, None), |(missing, next)| (Some(missing), Some(next)));
            let line = WindowLine {
                timeline: window.timeline,
                from: window.from,
                until: dated.until,
                from_lsn: window.from_lsn,
                until_lsn: window.until_lsn,
                backups: window.backups.len() as u64,
                segments: window.segments,
                whole_in: window.whole_in,
                missing,
                next,
            };
            (line, window.backups)
        })
        .collect();
    let overview = shelf.catalog.overview();
    let rpo = rpo(shelf, &rows, &windows, ends_unknown, now)?;
    let alerts = overview.open_alerts()?.into_iter().map(|alert| AlertLine {
        id: alert.id,
        alert_type: alert.alert_type,
        severity: alert.severity.to_string(),
        subject: alert.subject,
        message: alert.message,
        created_at: alert.created_at,
        times: alert.times,
        acknowledged_at: alert.acknowledged_at,
        acknowledged_by: alert.acknowledged_by,
    });
    let jobs = overview.waiting_jobs()?.into_iter().map(|job| JobLine {
        id: job.id,
        command: job.command,
        scheduled_for: job.scheduled_for,
        priority: job.priority,
        requested_by: job.requested_by,
    });
    Ok(Status {
        cluster: shelf.settings.cluster.to_string(),
        at: now,
        health: Health { score: 0, state: State::Critical, deductions: Vec::new() },
        rpo,
        rto: rto(shelf)?,
        inconsistent,
        stores: stores(shelf, &rows, answers)?,
        backups: held(shelf, &rows),
        windows: windows.into_iter().map(|(line, _)| line).collect(),
        runs: shelf.catalog.runs().recent(10)?.into_iter().map(run).collect(),
        last_runs: last_runs(shelf, now)?,
        alerts: alerts.collect(),
        jobs: jobs.collect(),
        written: Vec::new(),
        history: None,
    })
}

/// The facts for the score.
pub(super) fn facts(shelf: &Shelf, status: &Status, now: Timestamp) -> anyhow::Result<Facts> {
    let rows = shelf.catalog.backups().list(&BackupFilter::default())?;
    let age = |at: Timestamp| (now - at).to_std().unwrap_or_default();
    let stores = &status.stores;
    let sum = |of: fn(&StoreStatus) -> u64| stores.iter().map(of).sum::<u64>();
    let open = |severity: Severity| {
        let open = status.alerts.iter().filter(|alert| alert.severity == severity.as_str());
        open.filter(|alert| alert.acknowledged_at.is_none()).count() as u64
    };
    let (hole, old_holes) = holes(status, &rows);
    let tests = &status.rto.tests;
    let successes = overview_tests(shelf)?.into_iter().filter(|test| test.state == RestoreState::Done);
    Ok(Facts {
        rpo_target: shelf.settings.rpo_target,
        rto_target: shelf.settings.rto_target,
        proof_max_age: shelf.settings.proof_max_age,
        rpo: status.rpo.now_seconds.map(Duration::from_secs),
        rto: status.rto.measured_seconds.map(|it| Duration::from_secs_f64(it.max(0.0))),
        tested: successes.map(|test| test.started_at).max().map(age),
        failed_tests: tests
            .iter()
            .filter(|test| test.state != "done")
            .map(|test| test.kind.to_string())
            .collect(),
        newest_backup: rows.iter().filter(|row| is_data(row)).map(|row| row.started_at).max().map(age),
        lost: status.backups.lost,
        short: status.backups.short,
        hole,
        old_holes,
        owed: sum(|store| store.owed),
        missing: sum(|store| store.missing),
        damaged: sum(|store| store.damaged),
        asked: stores.iter().filter(|store| store.answer != StoreAnswer::NotAsked).count(),
        away: stores
            .iter()
            .filter(|store| store.answer == StoreAnswer::Away)
            .map(|store| store.store)
            .collect(),
        oldest_proof: stores.iter().filter_map(|store| store.oldest_proof).min().map(age),
        failed: failed(shelf, now)?,
        critical_alerts: open(Severity::Critical),
        warning_alerts: open(Severity::Warning),
    })
}

/// Whether a backup holds data that a loss of the server would be made good with.
fn is_data(row: &BackupRow) -> bool {
    row.kind != BackupKind::Config && !row.before_restore
}

/// The configured stores that have all of a backup.
pub(super) fn whole_in(row: &BackupRow, stores: &[StoreName]) -> Vec<StoreName> {
    let is_there = |store: &StoreName| match store {
        StoreName::Local => row.local_path.is_some(),
        StoreName::R2 => row.r2_path.is_some(),
        StoreName::B2 => row.b2_path.is_some(),
    };
    stores.iter().copied().filter(is_there).collect()
}

/// Whether WAL is missing behind the newest cluster backup, and how many holes there are behind older ones.
fn holes(status: &Status, rows: &[BackupRow]) -> (bool, u64) {
    let newest = rows.iter().find(|row| row.kind == BackupKind::Cluster);
    let Some(newest) = newest else { return (false, 0) };
    let is_cut_off = status.inconsistent.contains(&newest.id);
    // Windows come by timeline and time: in the last one that begins before it the newest backup lies.
    let consistent_at = newest.consistent_at.unwrap_or(newest.started_at);
    let timeline = newest.wal.map(|wal| wal.timeline);
    let of_it = status
        .windows
        .iter()
        .filter(|window| Some(window.timeline) >= timeline && window.from <= consistent_at)
        .max_by_key(|window| (window.timeline, window.until_lsn));
    let is_holed = of_it.is_some_and(|window| window.missing.is_some());
    let all =
        status.windows.iter().filter(|window| window.missing.is_some()).count() + status.inconsistent.len();
    let hole = is_cut_off || is_holed;
    (hole, (all - usize::from(hole)) as u64)
}

fn rpo(
    shelf: &Shelf,
    rows: &[BackupRow],
    windows: &[(WindowLine, Vec<BackupId>)],
    ends_unknown: bool,
    now: Timestamp,
) -> anyhow::Result<Rpo> {
    let copies = shelf.settings.min_copies;
    let safe = |row: &&BackupRow| is_data(row) && whole_in(row, shelf.settings.stores()).len() >= copies;
    let backup =
        rows.iter().find(safe).map(|row| (row.id.to_string(), row.consistent_at.unwrap_or(row.started_at)));
    // WAL without a cluster backup can't be replayed on anything; and what lies behind a hole can't be reached.
    let reach = windows.iter().map(|(window, _)| window).max_by_key(|window| window.until);
    let seen = shelf.catalog.seen_archived()?.filter(|seen| *seen <= now);
    let wal = match reach {
        None => None,
        Some(window) => newest_wal(shelf, rows, copies)?.map(|(segment, at)| {
            // A server that has written nothing more since has nothing to lose, as long as somebody looks.
            let at = if ends_unknown || window.missing.is_some() {
                at.min(window.until)
            } else {
                seen.map_or(at, |it| it.max(at))
            };
            (segment.to_string(), at)
        }),
    };
    let by = if wal.is_some() { "wal" } else { "backup" };
    let newest = wal.or(backup);
    Ok(Rpo {
        target_seconds: shelf.settings.rpo_target.as_secs(),
        now_seconds: newest.as_ref().map(|(_, at)| (now - *at).to_std().unwrap_or_default().as_secs()),
        by: newest.as_ref().map(|_| by),
        safe_at: newest.as_ref().map(|(_, at)| *at),
        newest: newest.map(|(name, _)| name),
        copies,
    })
}

/// The newest segment that is safe, of those that the server writes as far as somebody has looked.
fn newest_wal(
    shelf: &Shelf,
    rows: &[BackupRow],
    copies: usize,
) -> anyhow::Result<Option<(WalName, Timestamp)>> {
    let segment_size = rows.iter().find_map(|row| row.wal).map(|wal| wal.wal_segment_size);
    let position = shelf.catalog.last_seen()?.zip(segment_size).map(|(seen, segment_size)| {
        let Seen { timeline, lsn, .. } = seen;
        Position { timeline, lsn, segment_size }
    });
    let histories = shelf.catalog.wal().histories()?;
    // A timeline above the last one that was seen may be the server's since.
    let counts = |name: &WalName| {
        position
            .is_none_or(|it| name.timeline() > it.timeline || exposure::is_of_its_line(name, &it, &histories))
    };
    recoverable::newest_safe(&shelf.catalog, copies, &counts)
}

fn overview_tests(shelf: &Shelf) -> anyhow::Result<Vec<TestRun>> {
    shelf.catalog.overview().tests(TESTS)
}

fn rto(shelf: &Shelf) -> anyhow::Result<Rto> {
    let all = overview_tests(shelf)?;
    let kinds: BTreeSet<BackupKind> = all.iter().map(|test| test.backup.kind()).collect();
    let tests: Vec<TestRestore> = kinds
        .into_iter()
        .filter_map(|kind| {
            let mut of_kind = all.iter().filter(|test| test.backup.kind() == kind);
            let newest = of_kind.next()?;
            let success =
                std::iter::once(newest).chain(of_kind).find(|test| test.state == RestoreState::Done);
            Some(TestRestore {
                kind,
                backup: newest.backup.clone(),
                started_at: newest.started_at,
                seconds: newest.seconds,
                state: newest.state.to_string(),
                measured_seconds: success.and_then(|test| test.seconds),
            })
        })
        .collect();
    let measured = tests.iter().filter_map(|test| test.measured_seconds).max_by(f64::total_cmp);
    Ok(Rto { target_seconds: shelf.settings.rto_target.as_secs(), measured_seconds: measured, tests })
}

fn stores(shelf: &Shelf, rows: &[BackupRow], answers: Vec<Answer>) -> anyhow::Result<Vec<StoreStatus>> {
    let overview = shelf.catalog.overview();
    let (backups, wal) = (overview.held_backups()?, overview.held_wal()?);
    let of = |held: &BTreeMap<StoreName, Held>, store| held.get(&store).copied().unwrap_or_default();
    let status = |answer: Answer| {
        let (copies, wal) = (of(&backups, answer.store), of(&wal, answer.store));
        StoreStatus {
            store: answer.store,
            place: answer.place,
            answer: answer.standing,
            message: answer.message,
            bytes: copies.bytes + wal.bytes,
            objects: copies.objects + wal.objects,
            wal_files: wal.objects,
            backups: rows.iter().filter(|row| whole_in(row, &[answer.store]).len() == 1).count() as u64,
            owed: copies.owed + wal.owed,
            missing: copies.missing + wal.missing,
            damaged: copies.damaged + wal.damaged,
            oldest_proof: copies.oldest_proof,
            capacity_bytes: answer.space.map(|space| space.total),
            free_bytes: answer.space.map(|space| space.free),
        }
    };
    Ok(answers.into_iter().map(status).collect())
}

fn held(shelf: &Shelf, rows: &[BackupRow]) -> HeldBackups {
    let mut complete: BTreeMap<BackupKind, u64> = BTreeMap::new();
    let mut newest: BTreeMap<(BackupKind, Option<String>), &BackupRow> = BTreeMap::new();
    let (mut lost, mut short) = (0, 0);
    for row in rows {
        *complete.entry(row.kind).or_insert(0) += 1;
        match whole_in(row, shelf.settings.stores()).len() {
            0 => lost += 1,
            count if count < shelf.settings.min_copies => short += 1,
            _ => {}
        }
        // They come newest first.
        if !row.before_restore {
            newest.entry((row.kind, row.database.clone())).or_insert(row);
        }
    }
    let newest = newest.into_iter().map(|((kind, database), row)| NewestBackup {
        id: row.id.clone(),
        kind,
        database,
        started_at: row.started_at,
        seconds: row.seconds,
        size_bytes: row.size_bytes,
        stores: whole_in(row, shelf.settings.stores()),
    });
    HeldBackups {
        complete: complete.into_iter().map(|(kind, count)| BackupCount { kind, count }).collect(),
        lost,
        short,
        newest: newest.collect(),
    }
}

fn run(run: Run) -> RunLine {
    let by = match &run.sudo_user {
        Some(sudo) => format!("{} ({sudo}) on {}", run.user, run.host),
        None => format!("{} on {}", run.user, run.host),
    };
    RunLine {
        command: run.command,
        started_at: run.started_at,
        seconds: run.seconds,
        outcome: run.outcome.to_string(),
        exit_code: run.exit_code,
        by,
        message: run.message,
    }
}

fn last_runs(shelf: &Shelf, now: Timestamp) -> anyhow::Result<Vec<LastRun>> {
    let mut last: BTreeMap<String, EndedRun> = BTreeMap::new();
    for run in shelf.catalog.overview().ended_runs(now - RUNS)? {
        last.entry(run.command.clone()).or_insert(run);
    }
    let line = |run: EndedRun| LastRun {
        command: run.command,
        started_at: run.started_at,
        seconds: run.seconds,
        outcome: run.outcome.to_string(),
        exit_code: run.exit_code,
    };
    Ok(last.into_values().map(line).collect())
}

/// Whether a run ended in a way that it should not. That another one was at it, or that it made no sense or was not
/// confirmed, is none.
fn is_harmless(run: &EndedRun) -> bool {
    let harmless = [Kind::Usage, Kind::Refused, Kind::Locked].map(Kind::exit_code);
    run.outcome == RunOutcome::Failed && run.exit_code.is_some_and(|code| harmless.contains(&code))
}

pub(super) fn is_failure(run: &EndedRun) -> bool {
    match run.outcome {
        RunOutcome::Failed => !is_harmless(run),
        RunOutcome::Died => true,
        RunOutcome::Running | RunOutcome::Done | RunOutcome::Incomplete | RunOutcome::Interrupted => false,
    }
}

/// The commands of which the last run that was not at a terminal failed, by what was typed in full: a backup of one
/// database says nothing of another one's.
fn failed(shelf: &Shelf, now: Timestamp) -> anyhow::Result<Vec<String>> {
    let mut last: BTreeMap<String, EndedRun> = BTreeMap::new();
    for run in shelf.catalog.overview().ended_runs(now - FAILED_FOR)? {
        // One that was refused or had no turn says nothing of whether the one before it was right.
        if !run.is_at_terminal && run.command != "restore" && !is_harmless(&run) {
            last.entry(run.arguments.clone()).or_insert(run);
        }
    }
    let failed: BTreeSet<String> = last.into_values().filter(is_failure).map(|run| run.command).collect();
    Ok(failed.into_iter().collect())
}

//! What was found wrong: said in alerts, and replaced from a good copy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::Utc;

use super::report::VerifyReport;
use crate::catalog::{CopyState, Severity};
use crate::command::sync::{self, SyncReport, SyncRequest};
use crate::command::{Context, judge};
use crate::model::{BackupId, Kind, StoreName, WalName};
use crate::system::{Step, step};

/// So many alerts of one kind about one store, and no more: a bucket that was emptied is one misfortune.
const ALERTS: usize = 20;

/// A copy that something was the matter with.
struct Said {
    kind: &'static str,
    store: StoreName,
    message: String,
}

/// Raises an alert for each damaged or missing copy; before anything is repaired, so that a crash does not hide it.
pub(super) fn alert_of_damage(context: &Context, report: &VerifyReport) -> anyhow::Result<()> {
    let mut said = Vec::new();
    for finding in report.findings.iter().filter(|finding| finding.is_damage()) {
        let (object, backup, store) = (name(&finding.object), &finding.backup, finding.store);
        said.push(Said {
            kind: kind(finding.state == CopyState::Missing.as_str()),
            store,
            message: format!(
                "{object} of {backup} in store {store} is {}: {}",
                finding.state, finding.message
            ),
        });
    }
    for finding in report.wal_findings.iter().filter(|finding| finding.state != CopyState::Owed) {
        let (file, store, state) = (&finding.file, finding.store, finding.state);
        said.push(Said {
            kind: kind(state == CopyState::Missing),
            store,
            message: format!("WAL file {file} in store {store} is {state}: {}", finding.message),
        });
    }
    raise(context, Severity::Warning, said)?;
    let alerts = context.catalog.alerts();
    for conflict in &report.wal_conflicts {
        let message = format!("{} was archived with different bytes", conflict.file);
        alerts.raise("wal-conflict", Severity::Critical, &message, Utc::now())?;
    }
    Ok(())
}

/// Makes the copies that are lacking out of good ones, as `sync` does. While that is at it itself, it is waited for as long as
/// time is left, then this is left to it.
pub(super) async fn repair(
    context: &Context,
    report: &mut VerifyReport,
    left: Option<Duration>,
) -> anyhow::Result<()> {
    if !report.findings.iter().any(|finding| is_mendable(finding.state)) && report.wal_findings.is_empty() {
        return Ok(());
    }
    let synced = match sync::run(context, SyncRequest { dry_run: false, wait: left }).await {
        Ok(synced) => synced,
        Err(error) if judge(&error).exit_code == Kind::Interrupted.exit_code() => return Err(error),
        // What was found is worth more than that it could not be repaired now.
        Err(error) => {
            report.warnings.push(format!("nothing was repaired: {}", judge(&error).message));
            return Ok(());
        }
    };
    step::reached(Step::RepairMade)?;
    take_in(report, &synced);
    let mut said = Vec::new();
    for finding in report.findings.iter().filter(|finding| finding.is_damage() && finding.repaired) {
        let (object, backup, store) = (name(&finding.object), &finding.backup, finding.store);
        let message = format!("{object} of {backup} in store {store} was {} and is replaced", finding.state);
        said.push(Said { kind: "copy-repaired", store, message });
    }
    let owed = CopyState::Owed;
    for finding in report.wal_findings.iter().filter(|finding| finding.state != owed && finding.repaired) {
        let (file, store, state) = (&finding.file, finding.store, finding.state);
        let message = format!("WAL file {file} in store {store} was {state} and is replaced");
        said.push(Said { kind: "copy-repaired", store, message });
    }
    raise(context, Severity::Info, said)
}

/// What is lost in every store that was asked: nothing can be repaired from anything.
pub(super) fn alert_of_loss(context: &Context, report: &VerifyReport) -> anyhow::Result<()> {
    let mut lost = BTreeSet::new();
    let left = |repaired: bool| !repaired;
    for finding in report.findings.iter().filter(|it| it.is_damage() && left(it.repaired) && it.object != "*")
    {
        lost.insert((finding.backup.clone(), finding.object.clone()));
    }
    let mut copies: BTreeMap<BackupId, BTreeSet<String>> = BTreeMap::new();
    let mut alerts = Vec::new();
    for (backup, object) in lost {
        if !copies.contains_key(&backup) {
            let known = context.catalog.copies().of(&backup)?;
            let good = known.into_iter().filter(|copy| copy.state == CopyState::Good);
            copies.insert(backup.clone(), good.map(|copy| copy.object).collect());
        }
        if copies.get(&backup).is_some_and(|good| !good.contains(&object)) {
            alerts.push(format!("no store has a good copy of {object} of {backup}"));
        }
    }
    let files: BTreeSet<&WalName> = report
        .wal_findings
        .iter()
        .filter(|finding| finding.state != CopyState::Owed && left(finding.repaired))
        .map(|finding| &finding.file)
        .collect();
    for file in files {
        if !context.catalog.wal().of(file)?.iter().any(|row| row.state == CopyState::Good) {
            alerts.push(format!("no store has a good copy of WAL file {file}"));
        }
    }
    for message in few(alerts, "objects and files have no good copy in any store") {
        context.catalog.alerts().raise("copy-lost", Severity::Critical, &message, Utc::now())?;
    }
    Ok(())
}

fn take_in(report: &mut VerifyReport, synced: &SyncReport) {
    let made: BTreeSet<(&BackupId, &str, StoreName)> =
        synced.copies.iter().map(|copy| (&copy.backup, copy.object.as_str(), copy.store)).collect();
    let wal: BTreeSet<(&WalName, StoreName)> =
        synced.wal.made.iter().map(|(file, store)| (file, *store)).collect();
    for finding in &mut report.findings {
        finding.repaired = made.contains(&(&finding.backup, finding.object.as_str(), finding.store));
    }
    for finding in &mut report.wal_findings {
        finding.repaired = wal.contains(&(&finding.file, finding.store));
    }
    // A backup could not be decrypted because of the copies that were replaced; where none was, nobody knows why.
    let mut whole: BTreeMap<(BackupId, StoreName), bool> = BTreeMap::new();
    for finding in report.findings.iter().filter(|finding| finding.object != "*" && finding.is_damage()) {
        *whole.entry((finding.backup.clone(), finding.store)).or_insert(true) &= finding.repaired;
    }
    for finding in report.findings.iter_mut().filter(|finding| finding.object == "*") {
        let key = (finding.backup.clone(), finding.store);
        finding.repaired = finding.is_damage() && whole.get(&key).copied().unwrap_or(false);
    }
    let known: BTreeSet<String> =
        report.away.iter().map(|away| format!("store {} is away", away.store)).collect();
    let is_new = |warning: &&String| !known.iter().any(|known| warning.starts_with(known.as_str()));
    report.warnings.extend(synced.warnings.iter().filter(is_new).cloned());
}

fn is_mendable(state: &str) -> bool {
    [CopyState::Missing, CopyState::Damaged, CopyState::Owed].iter().any(|it| it.as_str() == state)
}

fn kind(is_missing: bool) -> &'static str {
    if is_missing { "copy-missing" } else { "copy-damaged" }
}

fn name(object: &str) -> &str {
    if object == "*" { "all" } else { object }
}

fn raise(context: &Context, severity: Severity, said: Vec<Said>) -> anyhow::Result<()> {
    let mut grouped: BTreeMap<(&str, StoreName), Vec<String>> = BTreeMap::new();
    for Said { kind, store, message } in said {
        grouped.entry((kind, store)).or_default().push(message);
    }
    for ((kind, store), messages) in grouped {
        for message in few(messages, &format!("copies in store {store} are concerned")) {
            context.catalog.alerts().raise(kind, severity, &message, Utc::now())?;
        }
    }
    Ok(())
}

/// Each of them, or when there are many one for all.
fn few(messages: Vec<String>, what: &str) -> Vec<String> {
    match messages.first() {
        Some(first) if messages.len() > ALERTS => {
            vec![format!("{} {what}, such as: {first}", messages.len())]
        }
        _ => messages,
    }
}

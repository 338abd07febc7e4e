//! The row in the log, the proofs, and the alert.

use anyhow::Context as _;
use chrono::Utc;

use super::{Test, TestRestoreRequest, Tested};
use crate::catalog::{
    BackupRow, CopyKey, Measured, NewRestore, Proof, Purpose, RestoreEnd, RestoreMode, RestoreState, Severity,
};
use crate::command::{Context, Interrupted, judge};
use crate::model::{BackupKind, Elapsed, Fault, Kind, StoreName};
use crate::postgres::swap;
use crate::system::{Step, step};

/// The kind of alert that a test restore which passed ends with.
const ALERT: &str = "test-restore";

/// Writes down that the test begins, whatever becomes of it.
pub(super) fn begin(
    context: &Context,
    request: &TestRestoreRequest,
    store: StoreName,
    row: &BackupRow,
) -> anyhow::Result<i64> {
    let is_cluster = row.kind == BackupKind::Cluster;
    let beside = !is_cluster && !request.own_server;
    let name = row.database.as_deref().unwrap_or_default();
    let scratch = context.scratch()?;
    context.catalog.restores().begin(&NewRestore {
        run_id: Some(context.run.clone()),
        backup_id: row.id.clone(),
        purpose: Purpose::Test,
        store: Some(store),
        initiated_by: context.caller.person(),
        tenant_ids: row.tenant_id.clone().map(|tenant| vec![tenant]),
        mode: if is_cluster { RestoreMode::Pitr } else { RestoreMode::Full },
        target_timestamp: request.target_time.filter(|_| is_cluster),
        source_database: row.database.clone(),
        target_database: beside.then(|| swap::derived_name(name, &format!("_test_{}", context.run))),
        target_directory: (!beside).then(|| scratch.display().to_string()),
        started_at: Utc::now(),
    })
}

/// Writes down how it ended, and proves what was read if it went well. That this cannot be done never
/// hides how it ended.
pub(super) fn end(test: &Test<'_>, tested: &mut Tested, result: anyhow::Result<()>) -> anyhow::Result<()> {
    let findings: Vec<String> = tested.findings().cloned().collect();
    tested.passed = result.is_ok() && findings.is_empty();
    if result.is_ok() && !findings.is_empty() {
        tested.kind_of_failure = Some(Kind::Damaged);
    }
    let outcome = Outcome::of(&result, &findings);
    let written = write(test, tested, &outcome).and_then(|()| step::reached(Step::TestRestoreRecorded));
    if let Err(error) = written.context("write down how the test ended") {
        tested.warnings.push(format!("{error:#}"));
        test.context.progress.note(&format!("warning: {error:#}"));
    }
    result.map_err(|error| named(test, error))
}

/// The error as the operator sees it: of which test, and what to do about a copy that is bad.
fn named(test: &Test<'_>, mut error: anyhow::Error) -> anyhow::Error {
    if error.downcast_ref::<Interrupted>().is_some() {
        return error;
    }
    if let Some(fault) = error.downcast_mut::<Fault>().filter(|fault| fault.kind == Kind::Damaged) {
        fault.hint.get_or_insert_with(|| {
            format!(
                "`pgkeep sync` makes a bad copy in {} anew out of a good one; `pgkeep verify --deep` says what else is \
                 damaged.",
                test.store
            )
        });
    }
    error.context(format!("test {} out of {}", test.row.id, test.store))
}

/// Raises the alert that no backup of some kind could be tested at all.
pub(super) fn untested(context: &Context, why: &str) -> anyhow::Result<()> {
    let message = format!("test restore: {why}");
    context.catalog.alerts().raise(ALERT, Severity::Warning, &message, Utc::now())
}

/// How it ended, for the log.
struct Outcome {
    state: RestoreState,
    message: Option<String>,
}

impl Outcome {
    fn of(result: &anyhow::Result<()>, findings: &[String]) -> Self {
        match result {
            Ok(()) if findings.is_empty() => Self { state: RestoreState::Done, message: None },
            Ok(()) => Self { state: RestoreState::Failed, message: Some(findings.join("; ")) },
            Err(error) => {
                let verdict = judge(error);
                let state = match verdict.exit_code {
                    code if code == Kind::Interrupted.exit_code() => RestoreState::Interrupted,
                    code if code == Kind::Refused.exit_code() => RestoreState::Refused,
                    _ => RestoreState::Failed,
                };
                Self { state, message: Some(verdict.message) }
            }
        }
    }
}

fn write(test: &Test<'_>, tested: &Tested, outcome: &Outcome) -> anyhow::Result<()> {
    let (catalog, now) = (&test.context.catalog, Utc::now());
    let restores = catalog.restores();
    restores.set_measured(
        test.entry,
        &Measured {
            phases: serde_json::json!(tested.phases_by_name()),
            bytes_fetched: tested.bytes_fetched,
            wal_segments: tested.wal_segments,
        },
    )?;
    let rows = tested.checks.iter().find(|check| check.name == "rows").map(|check| check.proven.checked);
    restores.end(
        test.entry,
        &RestoreEnd {
            state: outcome.state,
            message: outcome.message.clone(),
            rows,
            checks: Some(serde_json::json!(tested.checks)),
            at: now,
        },
    )?;
    if outcome.state == RestoreState::Done {
        let copies = catalog.copies();
        let read = copies.of(&test.row.id)?.into_iter().filter(|copy| copy.store == test.store);
        let keys: Vec<CopyKey> = read
            .map(|copy| CopyKey { backup_id: copy.backup_id, object: copy.object, store: copy.store })
            .collect();
        copies.prove(&keys, Proof::Restored, now)?;
        catalog.wal().prove_restored(&tested.replayed, test.store, now)?;
    }
    // That one failed is a condition, which is found out from its row in the log.
    if outcome.state == RestoreState::Done {
        let took = Elapsed(std::time::Duration::from_secs_f64(tested.seconds.max(0.0)));
        let message = format!("test restore of {} out of {}: passed in {took}", test.row.id, test.store);
        catalog.alerts().raise(ALERT, Severity::Info, &message, now)?;
    }
    Ok(())
}

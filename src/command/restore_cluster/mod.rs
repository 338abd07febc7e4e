//! `pgkeep restore --to-dir`: a cluster backup into a data directory, and the settings by which the server replays the WAL
//! up to the point that is wanted.
//!
//! Four rooms: `plan` decides and refuses before a byte is written, `carry_out` fills the directory, `start` follows the
//! server until it has reached the target, and here it is written down.

mod carry_out;
mod plan;
mod reachable;
mod start;

use std::path::PathBuf;

use anyhow::Context as _;
use chrono::Utc;
use serde::Serialize;

use super::restore::Phase;
use super::{Context, Report, judge};
use crate::catalog::{NewRestore, Purpose, RestoreEnd, RestoreMode, RestoreState};
use crate::model::Kind;
use crate::plan::recovery::Target;

use plan::Restore;
pub use plan::{ClusterPlan, KeptPlace};
pub(super) use plan::{Restore as PlannedRestore, base};
pub use start::Reached;

/// Which timeline to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineWish {
    /// The newest one in the archive.
    Latest,
    /// That of the backup.
    Current,
    /// This one.
    Number(u32),
}

/// What the server does at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    /// It opens for writing, on a timeline of its own.
    Promote,
    /// It waits, open for reading.
    Pause,
    /// It stops.
    Shutdown,
}

impl TargetAction {
    /// The word in PostgreSQL's settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What to restore, where to, and how far.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct RestoreClusterRequest {
    /// `latest`, an identifier or the beginning of one.
    pub backup: String,
    /// The data directory that is to be.
    pub to_dir: PathBuf,
    /// Where to stop.
    pub target: Target,
    /// Which timeline to follow.
    pub timeline: TimelineWish,
    /// What happens then.
    pub action: TargetAction,
    /// Where tablespaces go: from, to.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// For a server that is to live beside the original: the directory below which all tablespaces go, by their numbers. WAL
    /// in which another one is made is not replayed then.
    pub contained: Option<PathBuf>,
    /// Replace the data directory that is there.
    pub force: bool,
    /// Make a standby: it goes on asking for WAL.
    pub standby: bool,
    /// Let it archive as the original did.
    pub keep_archiving: bool,
    /// Start the server and follow it to the target.
    pub start: bool,
    /// The port for that.
    pub port: Option<u16>,
    /// Only show the plan.
    pub dry_run: bool,
}

/// How it went; with `dry_run` only the plan.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreClusterReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The plan.
    pub plan: ClusterPlan,
    /// What was done, in order.
    pub phases: Vec<Phase>,
    /// Where the server really stopped, if it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
    /// Duration in seconds.
    pub seconds: f64,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

impl Report for RestoreClusterReport {
    fn shortfall(&self) -> Option<Kind> {
        (!self.dry_run && !self.warnings.is_empty()).then_some(Kind::Incomplete)
    }
}

/// Asks the operator whether what is there is to be replaced; an error is a no.
pub type Confirm<'a> = &'a (dyn Fn(&ClusterPlan) -> anyhow::Result<()> + Send + Sync);

/// Restores, or shows what a restore would do.
pub async fn run(
    context: &Context,
    request: &RestoreClusterRequest,
    confirm: Confirm<'_>,
) -> anyhow::Result<RestoreClusterReport> {
    let restore = context.stop.or(Restore::plan(context, request)).await?;
    if request.dry_run {
        return Ok(restore.report());
    }
    let turn = async || context.turn("restore-cluster", "restore a cluster").await;
    let mut held = Some(turn().await?);
    let entry = begin(context, &restore)?;
    let result = async {
        if restore.plan.replaces {
            // Who is asked may have gone home: nobody waits for him.
            drop(held.take());
            confirm(&restore.plan)?;
            held = Some(turn().await?);
            context.hold_again().await?;
            restore.refuse_occupant(request.force)?;
        }
        restore.carry_out(context, request).await
    }
    .await;
    drop(held);
    write_down(context, entry, result)
}

fn begin(context: &Context, restore: &Restore) -> anyhow::Result<i64> {
    let time = |target: &Target| match target {
        Target::Time(time) => Some(*time),
        _ => None,
    };
    let mode = if restore.target == Target::Consistent { RestoreMode::Full } else { RestoreMode::Pitr };
    context.catalog.restores().begin(&NewRestore {
        run_id: Some(context.run.clone()),
        backup_id: restore.manifest.id.clone(),
        purpose: Purpose::Restore,
        store: None,
        initiated_by: context.caller.person(),
        tenant_ids: None,
        mode,
        target_timestamp: time(&restore.target),
        source_database: None,
        target_database: None,
        target_directory: Some(restore.plan.to_dir.clone()),
        started_at: Utc::now(),
    })
}

/// Writes down how it ended. That this cannot be done never hides how it ended.
fn write_down(
    context: &Context,
    entry: i64,
    result: anyhow::Result<RestoreClusterReport>,
) -> anyhow::Result<RestoreClusterReport> {
    let end = match &result {
        Ok(report) => RestoreEnd {
            state: RestoreState::Done,
            message: (!report.warnings.is_empty()).then(|| report.warnings.join("; ")),
            rows: None,
            checks: Some(serde_json::json!({ "phases": report.phases, "reached": report.reached })),
            at: Utc::now(),
        },
        Err(error) => {
            let verdict = judge(error);
            let state = match verdict.exit_code {
                code if code == Kind::Interrupted.exit_code() => RestoreState::Interrupted,
                code if code == Kind::Refused.exit_code() => RestoreState::Refused,
                _ => RestoreState::Failed,
            };
            RestoreEnd { state, message: Some(verdict.message), rows: None, checks: None, at: Utc::now() }
        }
    };
    let written = context.catalog.restores().end(entry, &end).context("write down how the restore ended");
    if let Err(error) = written {
        context.progress.note(&format!("warning: {error:#}"));
    }
    result
}

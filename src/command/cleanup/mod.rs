//! `pgkeep cleanup`: facts out of the catalog → plan → what goes is marked → manifests, volumes and WAL go from each
//! store → the catalog says so.
//!
//! What is marked can no longer be restored and will be gone, now or by the next cleanup: a run that was cut off and a
//! store that is away are caught up with. What nobody here knows of is not touched.

mod carry_out;
mod clocks;
pub(super) mod explained;
mod facts;
mod garbage;

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::stores::{self, Absent};
use super::{Context, Report, listing, wishes};
use crate::catalog::{BackupFilter, BackupRow, DoomedWal, WalStretch};
use crate::model::{BackupId, BackupKind, Fault, Kind, StoreName};
use crate::plan::retention::{self, Plan};
use crate::store::StoreError;
use crate::system::{Step, step};

/// How often it is decided anew because somebody else has changed something meanwhile.
const TRIES: usize = 5;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct CleanupRequest {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Even if it is more than half of everything, or the catalog speaks of another time.
    pub yes: bool,
}

/// What becomes of a backup.
#[derive(Debug, Clone, Serialize)]
pub struct BackupVerdict {
    /// The backup.
    pub backup: BackupId,
    /// What it holds.
    pub kind: BackupKind,
    /// Of which database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Of which tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Bytes of one stored copy.
    pub size_bytes: u64,
    /// Whether it goes.
    pub goes: bool,
    /// Why, the weightiest first.
    pub reasons: Vec<String>,
}

/// WAL that goes.
#[derive(Debug, Clone, Serialize)]
pub struct WalVerdict {
    /// The timeline.
    pub timeline: u32,
    /// The first file.
    pub first: String,
    /// The last.
    pub last: String,
    /// How many.
    pub files: u64,
    /// Copies of them in all stores.
    pub copies: u64,
    /// Bytes in all stores.
    pub bytes: u64,
    /// Why.
    pub reason: String,
}

/// What a store still has of a backup that is being deleted.
#[derive(Debug, Clone, Serialize)]
pub struct StillThere {
    /// The backup.
    pub backup: BackupId,
    /// The stores.
    pub stores: Vec<StoreName>,
}

/// What is left in a store of a backup that never came to be.
#[derive(Debug, Clone, Serialize)]
pub struct Orphan {
    /// The name that it would have had.
    pub backup: BackupId,
    /// The store.
    pub store: StoreName,
    /// Its objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was decided and done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CleanupReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// What becomes of each complete backup, newest first.
    pub backups: Vec<BackupVerdict>,
    /// The WAL that goes.
    pub wal: Vec<WalVerdict>,
    /// Why the other WAL stays.
    pub wal_kept: String,
    /// What was begun and never finished, and goes.
    pub orphans: Vec<Orphan>,
    /// Whether so much goes that it needs `--yes`.
    pub needs_yes: bool,
    /// Backups of which no store has anything any more, those of earlier runs among them.
    pub deleted: Vec<BackupId>,
    /// Backups that are being deleted and of which stores still have something: they are away.
    pub still_there: Vec<StillThere>,
    /// Objects of backups that were deleted, in all stores.
    pub objects_deleted: u64,
    /// Copies of WAL files that were deleted, in all stores.
    pub wal_copies_deleted: u64,
    /// Uploads that were begun a day ago or more and are now given up.
    pub uploads_aborted: u64,
    /// What is not as it should be.
    pub warnings: Vec<String>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Report for CleanupReport {
    fn shortfall(&self) -> Option<Kind> {
        (!self.warnings.is_empty()).then_some(Kind::Incomplete)
    }
}

/// Decides, and carries it out.
pub async fn run(context: &Context, request: CleanupRequest) -> anyhow::Result<CleanupReport> {
    let clock = Instant::now();
    // A copy that is just being made of what goes would come back. To show the plan nobody has to wait.
    let _turns = if request.dry_run {
        None
    } else {
        Some((
            context.turn("cleanup", "clean up").await?,
            context.turn("sync", "clean up while no copies are made").await?,
        ))
    };
    // With one that is set and can't be had, what others want kept can't be read.
    if let Some(fault) = &context.settings.key_fault {
        return Err(fault.clone().into());
    }
    let presence = context.stop.or(stores::presence(context)).await?;
    let mut report = CleanupReport { dry_run: request.dry_run, ..CleanupReport::default() };
    report
        .warnings
        .extend(presence.absent.iter().map(|Absent { store, why }| format!("store {store} is away: {why}")));
    context.stop.or(clocks::agree(context, &presence, request.yes)).await?;
    let mut listings = context.stop.or(async { Ok(listing::take(context, None).await) }).await?;
    listings.listed.retain(|store, _| presence.names().contains(store));
    report.warnings.extend(listings.failed.iter().map(ToString::to_string));
    // What somebody on another host wants kept, or wanted before this catalog was lost.
    let mut learned = wishes::take_in(context).await?;
    if !request.dry_run {
        report.warnings.extend(wishes::revive(context, &listings, &learned)?);
    }
    let unknown = garbage::unknown_clusters(context, &listings)?;
    report.warnings.extend(unknown.first().cloned());
    let garbage = garbage::find(context, &listings)?;
    report.orphans = garbage.iter().map(garbage::Garbage::shown).collect();
    decide(context, request, unknown.first(), &mut report)?;
    if !request.dry_run {
        step::reached(Step::CleanupMarked)?;
        let clearing = carry_out::Clearing { context, presence: &presence, listings: &listings };
        clearing.carry_out(&garbage, &mut report).await?;
        wishes::spread(context, &presence.present, &mut learned).await?;
    }
    let is_new = |failed: &&StoreError| listings.listed.contains_key(&failed.store);
    report.warnings.extend(learned.failed.iter().filter(is_new).map(ToString::to_string));
    report.warnings.extend(learned.warnings);
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

/// Draws up the plan and, unless it is only to be shown, marks what goes.
fn decide(
    context: &Context,
    request: CleanupRequest,
    unknown: Option<&String>,
    report: &mut CleanupReport,
) -> anyhow::Result<()> {
    let cleanup = context.catalog.cleanup();
    for _ in 0..TRIES {
        let instant = cleanup.instant()?;
        let rows = context.catalog.backups().list(&BackupFilter::default())?;
        let facts = facts::gather(context, &rows, unknown)?;
        let plan = retention::plan(&facts);
        let doomed = doomed(context, &plan)?;
        show(&rows, &plan, &doomed, report);
        report.needs_yes = is_most(context, report)?;
        if request.dry_run {
            return Ok(());
        }
        if report.needs_yes && !request.yes {
            return refuse_most(report);
        }
        step::reached(Step::CleanupPlanned)?;
        context.stop.check()?;
        let backups = plan.backups.iter().filter(|verdict| verdict.goes);
        let backups: Vec<(BackupId, String)> =
            backups.map(|verdict| (verdict.id.clone(), verdict.reasons.join("; "))).collect();
        let wal: Vec<WalStretch<'_>> = plan.wal.iter().map(stretch).collect();
        if cleanup.mark(&instant, &backups, &wal, plan.archived_before, facts.now)?.is_some() {
            return Ok(());
        }
    }
    Fault::new(
        Kind::Locked,
        format!("backups and restores began and ended {TRIES} times while it was decided"),
    )
    .hint("Run it again when less is going on.")
    .err()
}

fn stretch(range: &retention::Range) -> WalStretch<'_> {
    WalStretch { timeline: range.from.timeline(), from: &range.from, to: range.to.as_ref() }
}

fn doomed(context: &Context, plan: &Plan) -> anyhow::Result<Vec<Option<DoomedWal>>> {
    let count = |range| context.catalog.cleanup().doomed(&stretch(range), plan.archived_before);
    plan.wal.iter().map(count).collect()
}

fn show(rows: &[BackupRow], plan: &Plan, doomed: &[Option<DoomedWal>], report: &mut CleanupReport) {
    let rows: BTreeMap<&BackupId, &BackupRow> = rows.iter().map(|row| (&row.id, row)).collect();
    let verdicts = plan.backups.iter().filter_map(|verdict| {
        let row = rows.get(&verdict.id)?;
        Some(BackupVerdict {
            backup: verdict.id.clone(),
            kind: row.kind,
            database: row.database.clone(),
            tenant: row.tenant_id.clone(),
            size_bytes: row.size_bytes,
            goes: verdict.goes,
            reasons: verdict.reasons.clone(),
        })
    });
    report.backups = verdicts.collect();
    let wal = plan.wal.iter().zip(doomed).filter_map(|(range, found)| {
        let found = found.clone()?;
        Some(WalVerdict {
            timeline: range.from.timeline(),
            first: found.first,
            last: found.last,
            files: found.files,
            copies: found.copies,
            bytes: found.bytes,
            reason: range.reason.clone(),
        })
    });
    report.wal = wal.collect();
    report.wal_kept.clone_from(&plan.wal_kept);
}

/// Whether more than half of the backups go, of their bytes, or of the WAL.
fn is_most(context: &Context, report: &CleanupReport) -> anyhow::Result<bool> {
    let going = || report.backups.iter().filter(|backup| backup.goes);
    let bytes: u64 = report.backups.iter().map(|backup| backup.size_bytes).sum();
    let going_bytes: u64 = going().map(|backup| backup.size_bytes).sum();
    let copies = report.wal.iter().map(|range| range.copies).sum();
    Ok(going().count() * 2 > report.backups.len()
        || going_bytes.saturating_mul(2) > bytes
        || context.catalog.cleanup().are_most_of_the_wal(copies)?)
}

fn refuse_most(report: &CleanupReport) -> anyhow::Result<()> {
    let going = report.backups.iter().filter(|backup| backup.goes).count();
    let files: u64 = report.wal.iter().map(|range| range.files).sum();
    let all = report.backups.len();
    let message = format!(
        "{going} of {all} backups and {files} WAL files would go, which is more than half of what there is"
    );
    Fault::new(Kind::Refused, message)
        .hint("Look at it with --dry-run; if this is what you want, give --yes. Nothing was done.")
        .err()
}

//! `pgkeep verify`: what is stored, compared with what should be; the copies whose proof is oldest are read in full, with
//! `--deep` all; what is wrong can be replaced from a good copy there and then.

mod archive;
mod compare;
mod prove;
mod repair;
mod report;
mod rolling;
mod whole;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::compare::{Held, Rows};
use self::prove::Candidate;
use self::rolling::{Interval, Read};
use super::archive::reconcile;
use super::listing::{self, Listings};
use super::{Context, manifests};
use crate::catalog::{BackupRow, CopyState, WalCopy};
use crate::format::keyring::Keyring;
use crate::model::{Fault, Kind, StoreName};
use crate::store::ReadStore;
use crate::system::{Step, step};

pub(super) use compare::GRACE;
pub use report::{Away, Finding, Rolling, VerifyReport, WalConflict, WalContent, WalHole};

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// One backup; without it all.
    pub backup: Option<String>,
    /// Read everything, not only those whose turn it is.
    pub deep: bool,
    /// One store; without it all.
    pub store: Option<StoreName>,
    /// Stored bytes to read; without it as the settings say.
    pub budget: Option<u64>,
    /// Begin nothing more after this time.
    pub max_time: Option<Duration>,
    /// Replace what is missing or damaged from good copies.
    pub repair: bool,
}

/// Verifies and writes down what is proven. Every store is listed once.
pub async fn run(context: &Context, request: &VerifyRequest) -> anyhow::Result<VerifyReport> {
    let clock = Instant::now();
    let backups = manifests::chosen(&context.catalog, request.backup.as_deref())?;
    if let Some(store) = request.store.filter(|store| context.replicas.get(*store).is_none()) {
        return Fault::new(Kind::Settings, format!("store {store} is not configured"))
            .hint("Leave out --store, or set what the store needs (README, \"Settings\").")
            .err();
    }
    let (listings, away) = context.stop.or(compare::look(context, request.store)).await?;
    let mut report = VerifyReport::new(request.deep, request.repair, backups.len() as u64, away);
    let stores: Vec<Arc<dyn ReadStore>> = context
        .reading()
        .each()
        .filter(|store| listings.listed.contains_key(&store.name()))
        .map(Arc::clone)
        .collect();
    let all = request.backup.is_none();
    let wal = if all {
        list_wal(context, &listings, &stores, request.deep, &mut report).await?
    } else {
        Vec::new()
    };
    let held = list_backups(context, &listings, &backups, &stores, request, &mut report)?;
    step::reached(Step::VerifyListed)?;

    let has_key = !context.settings.keys.is_empty();
    let candidates = rolling::candidates(&held, if has_key { wal } else { Vec::new() });
    let interval = Interval::of(context)?;
    let budget = request.budget.unwrap_or_else(|| rolling::budget(context, &candidates, interval));
    let read = read(context, &held, &candidates, (request, budget, clock), &mut report).await?;
    step::reached(Step::VerifyProven)?;

    if all && request.store.is_none() {
        if !request.deep {
            report.rolling = Some(rolling::figures(context, &candidates, &read, (budget, interval), &report));
        }
        let looked = archive::look(context, &report.away)?;
        (report.wal_holes, report.wal_conflicts) = (looked.holes, looked.conflicts);
        report.warnings.extend(looked.unknown);
    }
    repair::alert_of_damage(context, &report)?;
    if request.repair {
        let left = request.max_time.map(|time| time.saturating_sub(clock.elapsed()));
        repair::repair(context, &mut report, left).await?;
    }
    repair::alert_of_loss(context, &report)?;
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

/// Compares the WAL of these stores, and returns what can be read of it.
async fn list_wal(
    context: &Context,
    listings: &Listings,
    stores: &[Arc<dyn ReadStore>],
    deep: bool,
    report: &mut VerifyReport,
) -> anyhow::Result<Vec<WalCopy>> {
    for store in stores {
        context.catalog.wal().expect_in(store.name())?;
    }
    let listed = reconcile::reconcile(context, stores).await?;
    listing::note_usage(context, listings, &listed.held)?;
    (report.wal_copies, report.wal_findings) = (listed.copies, listed.findings);
    let failed = listed.failed.iter().map(|error| Away { store: error.store, message: error.to_string() });
    report.away.extend(failed);
    let mut copies = context.catalog.wal().provable()?;
    // Of the right size, and once found damaged: with --deep it is read again.
    copies.retain(|copy| {
        listed.held.contains_key(&copy.row.store) && (copy.row.state == CopyState::Good || deep)
    });
    Ok(copies)
}

/// Compares the backups in these stores.
fn list_backups(
    context: &Context,
    listings: &Listings,
    backups: &[BackupRow],
    stores: &[Arc<dyn ReadStore>],
    request: &VerifyRequest,
    report: &mut VerifyReport,
) -> anyhow::Result<Vec<Held>> {
    let mut rows: Rows = HashMap::new();
    for row in listing::reconcile(context, listings)? {
        rows.entry((row.backup_id.clone(), row.store)).or_default().push(row);
    }
    let mut held = Vec::new();
    for store in stores.iter().map(|store| store.name()) {
        let strange = compare::strange(&listings.listed[&store], &rows, store);
        for row in backups {
            context.stop.check()?;
            let copies = rows.remove(&(row.id.clone(), store)).unwrap_or_default();
            held.push(compare::compare(listings, row, store, copies, request.deep, report));
        }
        if request.backup.is_none() {
            report.findings.extend(compare::unknown(context, store, &strange)?);
        }
    }
    Ok(held)
}

/// Reads what is to be read now: with `--deep` all of it, else what the budget allows. Two that renew proofs at the same
/// time would read the same copies: the second one leaves it to the first.
async fn read(
    context: &Context,
    held: &[Held],
    candidates: &[Candidate],
    (request, budget, begun): (&VerifyRequest, u64, Instant),
    report: &mut VerifyReport,
) -> anyhow::Result<Read> {
    let chosen =
        if request.deep { (0..candidates.len()).collect() } else { rolling::choose(candidates, budget) };
    let _turn = if request.deep || chosen.is_empty() {
        None
    } else {
        match context.turn_now("verify", "read copies") {
            Ok(turn) => Some(turn),
            Err(error) if is_locked(&error) => {
                report.is_busy = true;
                return Ok(Read::default());
            }
            Err(error) => return Err(error),
        }
    };
    let keyring = if request.deep || !chosen.is_empty() { key_if_set(context)? } else { None };
    let has_key = keyring.is_some();
    let units = rolling::units(&chosen, held, candidates, has_key, request.deep);
    let deadline = request.max_time.map(|time| begun + time);
    let read = rolling::read(context, held, candidates, units, (keyring, deadline), report).await?;
    report.decrypted = has_key && (request.deep || !(read.proven.is_empty() || read.is_part_undecrypted));
    if request.deep && read.is_out_of_time {
        report.warnings.push("the time was over before everything was read".to_owned());
    }
    Ok(read)
}

fn is_locked(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Fault>().is_some_and(|fault| fault.kind == Kind::Locked)
}

fn key_if_set(context: &Context) -> anyhow::Result<Option<Keyring>> {
    let is_set = !context.settings.keys.is_empty() || context.settings.key_fault.is_some();
    // One that is set and can't be had is no reason to look less closely without a word.
    if is_set { context.keyring().map(Some) } else { Ok(None) }
}

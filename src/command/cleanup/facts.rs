//! What the plan is drawn up from, out of the catalog.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{TimeDelta, Utc};

use crate::catalog::{BackupRow, Proof, Restore, RestoreState, Run, Standing};
use crate::command::Context;
use crate::command::archive::unrecorded;
use crate::command::context::run_lock;
use crate::command::restore_cluster::base;
use crate::model::{BackupId, BackupKind, RunId, TimelineHistory};
use crate::plan::recovery::Archive;
use crate::plan::retention::{self, Backup, Facts, Rules, Span};
use crate::system::calendar;
use crate::system::lock::FileLock;

/// Restores of the last days are looked for among so many.
const RECENT: usize = 2000;

/// Gathers. `unknown`: that a store has a cluster backup of which the catalog does not know.
pub(super) fn gather(
    context: &Context,
    rows: &[BackupRow],
    unknown: Option<&String>,
) -> anyhow::Result<Facts> {
    unrecorded::take_in(&context.settings, &context.catalog)?;
    let cleanup = context.catalog.cleanup();
    let standings = cleanup.standings(context.settings.stores())?;
    let users = Users::find(context)?;
    let ends = cleanup.wal_ends()?.into_iter();
    let spans: BTreeMap<u32, Span> = ends
        .map(|ends| {
            (ends.timeline, Span { first: ends.first, last: ends.last, archived_at: ends.archived_at })
        })
        .collect();
    let histories = context.catalog.wal().histories()?;
    let orphan = orphan(rows, &spans, &histories);
    let backups = rows.iter().map(|row| {
        let standing = standings.get(&row.id).copied().unwrap_or_default();
        let mut fact = fact(row, standing, users.use_it(&row.id));
        if fact.base.is_some() && fact.pin.is_none() {
            fact.pin.clone_from(&orphan);
        }
        fact
    });
    let wal_stays = if let Some(unknown) = unknown {
        Some(format!("{unknown}; what it needs nobody can say"))
    } else if let Some(orphan) = &orphan {
        Some(format!("{orphan}; `pgkeep catalog rebuild` learns it"))
    } else if users.unsaid {
        Some("a restore has begun that has not said yet what it reads".to_owned())
    } else {
        users.backs_up_the_cluster.then(|| "a cluster backup is being made".to_owned())
    };
    Ok(Facts {
        now: Utc::now(),
        rules: rules(context),
        backups: backups.collect(),
        spans,
        histories: Archive { histories, ..Archive::default() },
        wal_stays,
    })
}

/// A timeline of which nobody knows where it left its ancestors, so that nobody knows either which of their backups and WAL
/// lead to it.
fn orphan(
    rows: &[BackupRow],
    spans: &BTreeMap<u32, Span>,
    histories: &BTreeMap<u32, TimelineHistory>,
) -> Option<String> {
    let timelines: BTreeSet<u32> =
        rows.iter().filter_map(base).map(|base| base.timeline).chain(spans.keys().copied()).collect();
    let lowest = *timelines.first()?;
    let unknown = timelines.into_iter().find(|it| *it > lowest && !histories.contains_key(it))?;
    Some(format!("the history of timeline {unknown} is not known"))
}

pub(super) fn rules(context: &Context) -> Rules {
    let wanted = context.settings.retention;
    Rules {
        days: wanted.days,
        keep_min: wanted.keep_min,
        daily: wanted.daily,
        weekly: wanted.weekly,
        monthly: wanted.monthly,
        yearly: wanted.yearly,
        day: TimeDelta::from_std(calendar::day()).unwrap_or(TimeDelta::days(1)),
    }
}

fn fact(row: &BackupRow, standing: Standing, in_use: bool) -> Backup {
    let proof = match standing.proof {
        _ if standing.is_restored => retention::Proof::Restored,
        Some(Proof::Restored) => retention::Proof::Restored,
        Some(Proof::Decrypted) => retention::Proof::Decrypted,
        Some(Proof::Read) => retention::Proof::Read,
        Some(Proof::Written | Proof::Listed) | None => retention::Proof::Stored,
    };
    Backup {
        id: row.id.clone(),
        kind: row.kind,
        database: row.database.clone(),
        tenant: row.tenant_id.clone(),
        at: row.consistent_at.unwrap_or(row.started_at),
        before_restore: row.before_restore,
        parent: row.parent.clone(),
        is_sound: standing.is_covered && row.wal.is_none_or(|wal| wal.damaged_pages == 0),
        proof,
        pin: row.pin.as_ref().map(|pin| pin.reason.clone()),
        in_use,
        base: base(row),
    }
}

/// Who reads what, or may.
struct Users {
    restored: BTreeSet<BackupId>,
    /// A restore is alive of which nobody knows yet what it reads.
    unsaid: bool,
    backs_up_the_cluster: bool,
}

impl Users {
    fn find(context: &Context) -> anyhow::Result<Self> {
        let restores = context.catalog.restores().recent(RECENT)?;
        let mut users = Self { restored: BTreeSet::new(), unsaid: false, backs_up_the_cluster: false };
        for run in context.catalog.runs().unfinished()? {
            if run.id == context.run || !is_alive(context, &run)? {
                continue;
            }
            users.backs_up_the_cluster |= run.command == "backup cluster";
            let own = restores.iter().filter(|restore| is_of(restore, &run.id));
            let mut reading = own.filter(|restore| restore.state == RestoreState::Running).peekable();
            // Not yet, or between one tenant and the next.
            users.unsaid |= run.command.ends_with("restore") && reading.peek().is_none();
            users.restored.extend(reading.map(|restore| restore.backup_id.clone()));
        }
        // A server that was restored goes on asking for WAL when the restore has ended.
        let lately = Utc::now() - calendar::day();
        let clusters = restores.iter().filter(|restore| {
            restore.backup_id.kind() == BackupKind::Cluster
                && restore.state == RestoreState::Done
                && restore.started_at > lately
        });
        users.restored.extend(clusters.map(|restore| restore.backup_id.clone()));
        Ok(users)
    }

    fn use_it(&self, backup: &BackupId) -> bool {
        self.unsaid || self.restored.contains(backup)
    }
}

fn is_of(restore: &Restore, run: &RunId) -> bool {
    restore.run_id.as_ref() == Some(run)
}

fn is_alive(context: &Context, run: &Run) -> anyhow::Result<bool> {
    FileLock::is_held(&run_lock(&context.settings, &run.id))
}

//! Who may do what can destroy something: `PGKEEP_ADMINS`. It guards against the wrong person at the keyboard, and sees to it
//! that whoever tries is written down; who has the keys of the stores can do without pgkeep.

use chrono::Utc;

use super::context::Context;
use crate::catalog::{NewRestore, Purpose, RestoreEnd, RestoreMode, RestoreState};
use crate::config::Settings;
use crate::model::{BackupId, BackupKind, Fault, Kind};
use crate::system::caller::Caller;

/// Commands that remove, replace, or decide what is removed.
const GUARDED: [&str; 5] = ["restore", "cleanup", "keep", "unkeep", "key rotate"];

/// Whether this person may run that command.
pub(super) fn is_admitted(settings: &Settings, caller: &Caller, command: &str) -> bool {
    settings.admins.is_empty() || !GUARDED.contains(&command) || caller.is_among(&settings.admins)
}

/// Refuses a run that its caller may not make.
pub(super) fn refuse_others(context: &Context, command: &str) -> anyhow::Result<()> {
    let caller = &context.caller;
    if is_admitted(&context.settings, caller, command) {
        return Ok(());
    }
    if command == "restore" {
        log_restore(context, &named(caller))?;
    }
    Err(refusal(caller, command).into())
}

/// What one is told who may not run that command. The attempt is to be written down.
pub(super) fn refusal(caller: &Caller, command: &str) -> Fault {
    let who = named(caller);
    Fault::new(
        Kind::Refused,
        format!("{who} may not run `pgkeep {command}`: PGKEEP_ADMINS does not name them"),
    )
    .hint("Ask one of those whom it names. This attempt is written down.")
}

fn named(caller: &Caller) -> String {
    match &caller.sudo_user {
        Some(sudo_user) => format!("{sudo_user} (through sudo, as {})", caller.user),
        None => caller.user.clone(),
    }
}

/// A restore that was refused stands in the log of restores, with the backup that was named if it is one.
fn log_restore(context: &Context, who: &str) -> anyhow::Result<()> {
    let words = &context.words;
    let named = words.split(' ').find_map(|word| word.parse::<BackupId>().ok());
    let newest = || context.catalog.backups().newest_complete(None::<BackupKind>, None);
    let Some(backup_id) =
        named.map_or_else(|| newest().map(|row| row.map(|row| row.id)), |id| Ok(Some(id)))?
    else {
        return Ok(());
    };
    let entry = context.catalog.restores().begin(&NewRestore {
        run_id: Some(context.run.clone()),
        purpose: Purpose::Restore,
        store: None,
        backup_id,
        initiated_by: context.caller.person(),
        tenant_ids: None,
        mode: RestoreMode::Full,
        target_timestamp: None,
        source_database: None,
        target_database: None,
        target_directory: None,
        started_at: Utc::now(),
    })?;
    let message = Some(format!("{who} is not named in PGKEEP_ADMINS"));
    let end = RestoreEnd { state: RestoreState::Refused, message, rows: None, checks: None, at: Utc::now() };
    context.catalog.restores().end(entry, &end)
}

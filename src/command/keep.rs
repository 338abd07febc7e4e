//! `pgkeep keep` and `pgkeep unkeep`: a backup that stays whatever its age, because somebody wants it.

use chrono::Utc;
use serde::Serialize;

use super::{Context, Report, manifests};
use crate::catalog::Pin;
use crate::model::{BackupId, Fault, Kind};

/// What is wanted of a backup now.
#[derive(Debug, Clone, Serialize)]
pub struct KeepReport {
    /// The backup.
    pub backup: BackupId,
    /// That it is kept whatever its age; nothing after `unkeep`.
    pub kept: Option<Pin>,
    /// What was said of it before.
    pub before: Option<Pin>,
}

impl Report for KeepReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Keeps a backup, for this reason.
pub fn keep(context: &Context, backup: &str, reason: &str) -> anyhow::Result<KeepReport> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().any(char::is_control) {
        return Fault::new(Kind::Usage, "a reason is one line of text")
            .hint("Say why: whoever looks at it in a year wants to know, for example --reason \"audit of 2026\".")
            .err();
    }
    let (at, by) = (Utc::now(), context.caller.user.clone());
    set(context, backup, Some(Pin { at, by, reason: reason.to_owned() }))
}

/// Leaves a backup to the rules again.
pub fn unkeep(context: &Context, backup: &str) -> anyhow::Result<KeepReport> {
    set(context, backup, None)
}

fn set(context: &Context, backup: &str, kept: Option<Pin>) -> anyhow::Result<KeepReport> {
    let row = manifests::find(&context.catalog, backup, None, None)?;
    if !context.catalog.backups().set_pin(&row.id, kept.as_ref(), Utc::now())? {
        return Fault::new(Kind::NotThere, format!("{} is being deleted at this moment", row.id))
            .hint("`pgkeep list` shows what is left.")
            .err();
    }
    Ok(KeepReport { backup: row.id, kept, before: row.pin })
}

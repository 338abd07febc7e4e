//! `pgkeep keep` and `pgkeep unkeep`: a backup that stays whatever its age, because somebody wants it.

use chrono::{SubsecRound as _, Utc};
use serde::Serialize;

use super::{Context, Report, manifests, wishes};
use crate::catalog::{Pin, Wish};
use crate::model::{BackupId, Fault, Kind, Timestamp};
use crate::system::{Step, step};

/// What is wanted of a backup now.
#[derive(Debug, Clone, Serialize)]
pub struct KeepReport {
    /// The backup.
    pub backup: BackupId,
    /// That it is kept whatever its age; nothing after `unkeep`.
    pub kept: Option<Pin>,
    /// What was said of it before.
    pub before: Option<Pin>,
    /// In which stores this could not be said.
    pub warnings: Vec<String>,
}

impl Report for KeepReport {
    fn shortfall(&self) -> Option<Kind> {
        (!self.warnings.is_empty()).then_some(Kind::Incomplete)
    }
}

/// Keeps a backup, for this reason.
pub async fn keep(context: &Context, backup: &str, reason: &str) -> anyhow::Result<KeepReport> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().any(char::is_control) {
        return Fault::new(Kind::Usage, "a reason is one line of text")
            .hint("Say why: whoever looks at it in a year wants to know, for example --reason \"audit of 2026\".")
            .err();
    }
    let (at, by) = (now(), context.caller.user.clone());
    set(context, backup, at, Some(Pin { at, by, reason: reason.to_owned() })).await
}

/// Leaves a backup to the rules again.
pub async fn unkeep(context: &Context, backup: &str) -> anyhow::Result<KeepReport> {
    set(context, backup, now(), None).await
}

/// As the catalog and the names in the stores have it.
fn now() -> Timestamp {
    Utc::now().trunc_subsecs(3)
}

async fn set(
    context: &Context,
    backup: &str,
    at: Timestamp,
    kept: Option<Pin>,
) -> anyhow::Result<KeepReport> {
    let row = manifests::find(&context.catalog, backup, None, None)?;
    if !context.catalog.backups().set_pin(&row.id, kept.as_ref(), at)? {
        return Fault::new(Kind::NotThere, format!("{} is being deleted at this moment", row.id))
            .hint("`pgkeep list` shows what is left.")
            .err();
    }
    step::reached(Step::KeepWritten)?;
    let wish = Wish { backup: row.id, at, pin: kept };
    let warnings = wishes::tell(context, &wish).await;
    Ok(KeepReport { backup: wish.backup, kept: wish.pin, before: row.pin, warnings })
}

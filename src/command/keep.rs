//! `pgkeep keep` and `pgkeep unkeep`: a backup that stays whatever its age, because somebody wants it.

use chrono::{Datelike as _, SubsecRound as _, TimeDelta, Utc};
use futures_util::future::join_all;
use serde::Serialize;

use super::{Context, Report, manifests, wishes};
use crate::catalog::{Pin, Wish};
use crate::format::names;
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
    set(context, backup, Some(reason)).await
}

/// Leaves a backup to the rules again.
pub async fn unkeep(context: &Context, backup: &str) -> anyhow::Result<KeepReport> {
    set(context, backup, None).await
}

async fn set(context: &Context, backup: &str, reason: Option<&str>) -> anyhow::Result<KeepReport> {
    // Another host may have had the last word, or what was deleted there is complete here.
    let learned = wishes::take_in(context).await?;
    let row = manifests::find(&context.catalog, backup, None, None)?;
    let at = after(learned.last_word(context, &row.id)?)?;
    let kept = reason.map(|reason| Pin { at, by: context.caller.person(), reason: reason.to_owned() });
    if !context.catalog.backups().set_pin(&row.id, kept.as_ref(), at)? {
        return Fault::new(Kind::NotThere, format!("{} is being deleted at this moment", row.id))
            .hint("`pgkeep list` shows what is left.")
            .err();
    }
    step::reached(Step::KeepWritten)?;
    let wish = Wish { backup: row.id, at, pin: kept };
    let warnings = wishes::tell(context, &wish).await;
    if wish.pin.is_some() {
        refuse_what_is_gone(context, &wish.backup).await?;
    }
    Ok(KeepReport { backup: wish.backup, kept: wish.pin, before: row.pin, warnings })
}

/// Now, as the catalog and the names in the stores have it; but behind the last word, whatever the clock says: two hosts'
/// clocks differ, and one may have been put back.
fn after(last: Option<Timestamp>) -> anyhow::Result<Timestamp> {
    let now = Utc::now().trunc_subsecs(3);
    let at = last.map_or(now, |last| now.max(last + TimeDelta::milliseconds(1)));
    if at.year() > 9999 {
        return Fault::new(
            Kind::Damaged,
            "somebody has said in a store what is to be kept, at the end of time",
        )
        .hint("Remove the object with that time from the directory `kept` of the store, and run this again.")
        .err();
    }
    Ok(at)
}

/// The cleanup of another host, which this catalog knows nothing of, may have deleted it. What can't be asked may have it.
async fn refuse_what_is_gone(context: &Context, id: &BackupId) -> anyhow::Result<()> {
    let key = names::object(&context.settings.cluster, id, names::MANIFEST);
    let stores: Vec<_> = context.reading().each().collect();
    let asked = async { Ok(join_all(stores.iter().map(|store| store.head(&key))).await) };
    if context.stop.or(asked).await?.into_iter().all(|found| matches!(found, Ok(None))) {
        return Fault::new(
            Kind::NotThere,
            format!("{id} is in no store any more: another host has deleted it"),
        )
        .hint("`pgkeep verify` compares the catalog with the stores, and `pgkeep list` shows what is left.")
        .err();
    }
    Ok(())
}

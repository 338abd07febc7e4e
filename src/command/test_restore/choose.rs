//! Which backups are tested.

use super::{TestRestoreRequest, write_down};
use crate::catalog::{BackupFilter, BackupRow, CopyState};
use crate::command::{Context, manifests};
use crate::model::{BackupKind, Fault, Kind, StoreName};

/// The backups that are meant, and what has to be said of the choice.
pub(super) fn backups(
    context: &Context,
    request: &TestRestoreRequest,
    store: StoreName,
) -> anyhow::Result<(Vec<BackupRow>, Vec<String>)> {
    let mut warnings = Vec::new();
    if let Some(name) = request.backup.as_deref().filter(|name| *name != "latest") {
        let row = manifests::find(&context.catalog, name, None, None)?;
        refuse_target_time(request, &row)?;
        return Ok((vec![row], warnings));
    }
    let mut rows = context.catalog.backups().list(&BackupFilter::default())?;
    rows.retain(|row| is_meant(request, row));
    // The newest first; of each kind, and of each database of its own, the first one counts.
    let mut groups: Vec<Vec<BackupRow>> = Vec::new();
    for row in rows {
        let same = |other: &BackupRow| {
            let by_database = row.kind == BackupKind::Database && row.database != other.database;
            row.kind == other.kind && !by_database
        };
        match groups.iter_mut().find(|group| same(&group[0])) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    if request.backup.is_some() {
        groups.truncate(1);
    }
    let mut chosen = Vec::new();
    for group in groups {
        let newest = &group[0].id;
        let Some(row) = good(context, &group, store)? else {
            let why = format!(
                "{newest} is not whole in {store}, as far as is known, nor is any older one of its kind: none is tested"
            );
            write_down::untested(context, &why)?;
            warnings.push(why);
            continue;
        };
        if row.id != *newest {
            warnings.push(format!(
                "{newest} is not whole in {store}, as far as is known: {} is tested instead",
                row.id
            ));
        }
        chosen.push(row.clone());
    }
    if chosen.is_empty() {
        let message = match warnings.first() {
            Some(warning) => format!("nothing can be tested out of {store}: {warning}"),
            None => "there is no backup to be tested".to_owned(),
        };
        return Fault::new(Kind::NotThere, message)
            .hint("`pgkeep list` shows what there is, `pgkeep sync` makes copies that are owed; --store names another store.")
            .err();
    }
    Ok((chosen, warnings))
}

/// Whether the backup is one of those of which the newest are looked for.
fn is_meant(request: &TestRestoreRequest, row: &BackupRow) -> bool {
    if row.before_restore || row.kind == BackupKind::Config {
        return false;
    }
    if let Some(time) = request.target_time {
        return row.kind == BackupKind::Cluster && row.consistent_at.is_some_and(|at| at <= time);
    }
    if let Some(tenant) = &request.tenant {
        let of_database = request.database.is_none() || row.database == request.database;
        return row.kind == BackupKind::Tenant && row.tenant_id.as_ref() == Some(tenant) && of_database;
    }
    match &request.database {
        Some(_) => row.kind == BackupKind::Database && row.database == request.database,
        None => true,
    }
}

/// The newest of these of which the store has a good copy of everything, as far as the catalog knows.
fn good<'a>(
    context: &Context,
    group: &'a [BackupRow],
    store: StoreName,
) -> anyhow::Result<Option<&'a BackupRow>> {
    for row in group {
        let copies = context.catalog.copies().of(&row.id)?;
        let mut here = copies.iter().filter(|copy| copy.store == store).peekable();
        if here.peek().is_some() && here.all(|copy| copy.state == CopyState::Good) {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

fn refuse_target_time(request: &TestRestoreRequest, row: &BackupRow) -> anyhow::Result<()> {
    if request.target_time.is_none() || row.kind == BackupKind::Cluster {
        return Ok(());
    }
    Fault::new(Kind::Usage, format!("{} is a backup of a {}: it has one instant", row.id, row.kind))
        .hint("--target-time is for cluster backups: name one, or leave the backup out.")
        .err()
}

//! Tenants, their backups and their restores as text.

use std::fmt::Write;

use super::{columns, counted, seconds, warnings};
use crate::command::backup::tenant::TenantsReport as BackupsReport;
use crate::command::restore_tenant::tenant::Mode;
use crate::command::restore_tenant::{OwnPlan, RestoreTenantReport, TenantPlan, TenantRestored};
use crate::command::tenants::TenantsReport;
use crate::model::{Bytes, PlaceKind, Thousands};

pub(in crate::cli) fn backup_tenants(report: &BackupsReport) -> String {
    let mut text = match (&report.database, &report.consistent_at) {
        (Some(database), Some(at)) => format!("tenants of database {database}, as they were at {at}\n"),
        _ => "tenants with databases of their own, each at an instant of its own\n".to_owned(),
    };
    let mut rows = vec![["TENANT", "BACKUP", "ROWS", "STORED"].map(ToOwned::to_owned).to_vec()];
    rows.extend(report.backups.iter().map(|backup| {
        vec![
            backup.tenant.clone().unwrap_or_default(),
            backup.id.to_string(),
            Thousands(backup.rows.unwrap_or(0)).to_string(),
            Bytes(backup.size_bytes).to_string(),
        ]
    }));
    line!(text, "{}", columns(&rows, &[2, 3]).trim_end());
    for failed in &report.failed {
        line!(text, "tenant {}: no backup: {}", failed.tenant, failed.message);
    }
    line!(
        text,
        "{}, {} failed, {}",
        counted(report.backups.len() as u64, "backup"),
        Thousands(report.failed.len() as u64),
        seconds(report.seconds)
    );
    for said in &report.not_covered {
        line!(text, "not covered: {said}");
    }
    let mut said: Vec<String> = report.backups.iter().flat_map(|backup| backup.warnings.clone()).collect();
    said.dedup();
    warnings(&mut text, &said);
    text
}

pub(in crate::cli) fn tenant_plan(plan: &TenantPlan) -> String {
    if let Some(own) = &plan.own {
        return own_plan(plan, own);
    }
    let mode = match plan.mode {
        Mode::Full => "exactly as it was: newer rows go",
        Mode::Merge { take: false } => "what is missing is added, everything else stays",
        Mode::Merge { take: true } => {
            "what is missing is added, what differs becomes as it was, nothing goes"
        }
    };
    let (what, mode) = match &plan.made_of {
        Some(old) => (
            format!("tenant {}, made anew of tenant {old}", plan.tenant),
            "a new tenant; what the database numbers itself is numbered anew",
        ),
        None => (format!("tenant {}", plan.tenant), mode),
    };
    let mut text = format!(
        "{what} of database {}, as it was at {} (out of {})\n  {mode}\n",
        plan.database, plan.consistent_at, plan.backup
    );
    let mut rows = vec![["TABLE", "INSERT", "UPDATE", "DELETE", "LEFT"].map(ToOwned::to_owned).to_vec()];
    rows.extend(plan.tables.iter().map(|table| {
        let counts = [table.insert, table.update, table.delete, table.left];
        let counts = counts.into_iter().map(|count| Thousands(count).to_string());
        std::iter::once(table.table.clone()).chain(counts).collect()
    }));
    line!(text, "{}", columns(&rows, &[1, 2, 3, 4]).trim_end());
    for table in &plan.tables {
        for said in &table.drift {
            line!(text, "note: {}: {said}", table.table);
        }
        for said in &table.examples {
            line!(text, "  {}: {said}", table.table);
        }
        for said in &table.conflicts {
            line!(text, "CONFLICT: {}: {said}", table.table);
        }
    }
    text
}

/// The plan for a tenant with a schema or a database of its own.
fn own_plan(plan: &TenantPlan, own: &OwnPlan) -> String {
    let OwnPlan { kind, name, .. } = own;
    let of = match &plan.made_of {
        Some(old) => format!(", made anew of tenant {old}"),
        None => String::new(),
    };
    let mut text = format!(
        "tenant {}{of}: {kind} {name}, as it was at {} (out of {})\n",
        plan.tenant, plan.consistent_at, plan.backup
    );
    let now = match &own.keep_as {
        Some(kept) if own.drop_old => format!("the one of now is kept as {kept} until the end, then dropped"),
        Some(kept) => format!("the one of now is kept as {kept}"),
        None => "there is none of this name now".to_owned(),
    };
    line!(text, "  {now}");
    let mut rows = vec![["TABLE", "ROWS THEN", "ROWS NOW"].map(ToOwned::to_owned).to_vec()];
    rows.extend(plan.tables.iter().map(|table| {
        let counts = [table.insert, table.delete].map(|count| Thousands(count).to_string());
        std::iter::once(table.table.clone()).chain(counts).collect()
    }));
    // Rows of now are counted in schemas alone: a database's would have to be connected to.
    if *kind == PlaceKind::Database {
        for row in &mut rows {
            row.truncate(2);
        }
        line!(text, "{}", columns(&rows, &[1]).trim_end());
    } else {
        line!(text, "{}", columns(&rows, &[1, 2]).trim_end());
    }
    for connection in &own.connections {
        line!(text, "connected: {connection}");
    }
    text
}

/// What was done to a tenant with something of its own, and how it is undone.
fn own_restored(text: &mut String, own: &OwnPlan, tenant: &TenantRestored) {
    let OwnPlan { kind, name, .. } = own;
    let Some(applied) = &tenant.applied else { return };
    line!(text, "tenant {} restored: {kind} {name}, {}", tenant.plan.tenant, counted(applied.written, "row"));
    let Some(kept) = &tenant.kept_as else {
        if own.replaces {
            line!(text, "the one of before was dropped (--drop-old)");
        }
        return;
    };
    line!(
        text,
        "before it was as in {kind} {kept}, which is kept until you drop it; this undoes the restore:"
    );
    if let Some(sql) = &tenant.undo_sql {
        line!(text, "  {sql}");
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@".contains(&byte);
    if !word.is_empty() && !word.starts_with('-') && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

pub(in crate::cli) fn tenants(report: &TenantsReport) -> String {
    if report.tenants.is_empty() {
        return match &report.database {
            Some(database) => format!("database {database} has no tenants\n"),
            None => "there are no tenants with databases of their own\n".to_owned(),
        };
    }
    let mut rows =
        vec![["TENANT", "ROWS", "SIZE", "NEWEST BACKUP", "AS IT WAS AT"].map(ToOwned::to_owned).to_vec()];
    rows.extend(report.tenants.iter().map(|tenant| {
        vec![
            match &tenant.name {
                Some(name) => format!("{} ({} {name})", tenant.tenant, report.mode),
                None => tenant.tenant.clone(),
            },
            Thousands(tenant.rows).to_string(),
            Bytes(tenant.bytes).to_string(),
            tenant.backup.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
            tenant.consistent_at.clone().unwrap_or_default(),
        ]
    }));
    columns(&rows, &[1, 2])
}

pub(in crate::cli) fn restore_tenant(report: &RestoreTenantReport) -> String {
    let mut text = String::new();
    for tenant in &report.tenants {
        text.push_str(&tenant_plan(&tenant.plan));
        if let (Some(own), true) = (&tenant.plan.own, tenant.applied.is_some()) {
            own_restored(&mut text, own, tenant);
            continue;
        }
        match (&tenant.applied, &tenant.undo) {
            (None, _) => {
                line!(text, "nothing was done (--dry-run)");
            }
            (Some(applied), undo) => {
                line!(
                    text,
                    "tenant {} restored: {} written, {} removed, {} checked",
                    tenant.plan.tenant,
                    counted(applied.written, "row"),
                    counted(applied.removed, "row"),
                    counted(applied.foreign_keys, "foreign key")
                );
                for proven in applied.proven.iter().filter(|proven| proven.same) {
                    line!(
                        text,
                        "  {}: the {} of others are the same, by count and checksum",
                        proven.table,
                        counted(proven.rows, "row")
                    );
                }
                match undo {
                    Some(undo) => {
                        line!(text, "before it was as in {undo}; this undoes the restore:");
                        line!(
                            text,
                            "  pgkeep restore {undo} --tenant {} --mode full --database {}",
                            quoted(&tenant.plan.tenant),
                            quoted(&tenant.plan.database)
                        );
                    }
                    None => {
                        line!(text, "the tenant was not there before, so nothing was saved");
                    }
                }
            }
        }
    }
    for failed in &report.failed {
        line!(text, "tenant {} NOT restored: {}", failed.tenant, failed.message);
    }
    if let Some(quote) = &report.quote {
        super::quote(&mut text, quote);
    }
    let phases: Vec<String> =
        report.phases.iter().map(|phase| format!("{} {}", phase.name, seconds(phase.seconds))).collect();
    line!(text, "{} in all: {}", seconds(report.seconds), phases.join(", "));
    warnings(&mut text, &report.warnings);
    text
}

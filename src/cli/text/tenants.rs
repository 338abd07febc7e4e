//! Tenants, their backups and their restores as text.

use std::fmt::Write;

use super::{columns, counted, seconds, warnings};
use crate::command::backup::tenant::TenantsReport as BackupsReport;
use crate::command::restore_tenant::tenant::Mode;
use crate::command::restore_tenant::{RestoreTenantReport, TenantPlan};
use crate::command::tenants::TenantsReport;
use crate::model::{Bytes, Thousands};

pub(in crate::cli) fn backup_tenants(report: &BackupsReport) -> String {
    let mut text =
        format!("tenants of database {}, as they were at {}\n", report.database, report.consistent_at);
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
        return format!("database {} has no tenants\n", report.database);
    }
    let mut rows =
        vec![["TENANT", "ROWS", "SIZE", "NEWEST BACKUP", "AS IT WAS AT"].map(ToOwned::to_owned).to_vec()];
    rows.extend(report.tenants.iter().map(|tenant| {
        vec![
            tenant.tenant.clone(),
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

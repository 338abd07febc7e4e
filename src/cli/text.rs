//! Reports as text.

use std::fmt::Write;
use std::time::Duration;

use crate::command::backup::BackupReport;
use crate::command::catalog::{CheckReport as CatalogCheck, RebuildReport};
use crate::command::check::{CheckReport, Standing};
use crate::command::init::InitReport;
use crate::command::list::{ListReport, ListedBackup};
use crate::command::recoverable::RecoverableReport;
use crate::command::restore::{RestorePlan, RestoreReport};
use crate::command::restore_cluster::{ClusterPlan, KeptPlace, RestoreClusterReport};
use crate::command::sync::{SyncReport, Unmade};
use crate::command::wal_fetch::WalFetchReport;
use crate::command::wal_push::WalPushReport;
use crate::model::{Bytes, Elapsed, Thousands};

/// Writes a line; writing into a string cannot fail.
macro_rules! line {
    ($text:expr, $($rest:tt)*) => {
        let _ = writeln!($text, $($rest)*);
    };
}

mod alerts;
mod cleanup;
mod config;
mod keys;
mod screen;
mod show;
mod status;
mod tenants;
mod test_restore;
mod verify;

pub(super) use alerts::{acknowledged, alerts, cancelled, jobs, put_off, run_due, tested, watch};
pub(super) use cleanup::{cleanup, keep};
pub(super) use config::restore_config;
pub(super) use keys::key_rotate;
pub(super) use show::show;
pub(super) use status::status;
pub(super) use tenants::{backup_tenants, restore_tenant, tenant_plan, tenants};
use test_restore::quote;
pub(super) use test_restore::test_restore;
pub(super) use verify::verify;

fn seconds(seconds: f64) -> Elapsed {
    Elapsed(Duration::from_secs_f64(seconds.max(0.0)))
}

fn rate(bytes: u64, seconds: f64) -> Bytes {
    Bytes(if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 })
}

fn counted(count: u64, what: &str) -> String {
    if let (Some(stem), true) = (what.strip_suffix('y'), count != 1) {
        return format!("{} {stem}ies", Thousands(count));
    }
    format!("{} {what}{}", Thousands(count), if count == 1 { "" } else { "s" })
}

fn warnings(text: &mut String, warnings: &[String]) {
    for warning in warnings {
        line!(text, "warning: {warning}");
    }
}

pub(super) fn init(report: &InitReport) -> String {
    let mut text = format!("cluster {} (system identifier {})\n", report.cluster, report.system_identifier);
    line!(text, "catalog {}", report.catalog);
    for store in &report.stores {
        let how = if store.written { "written" } else { "was there already" };
        line!(text, "identity {}: {how}", store.place);
    }
    for setting in &report.archive {
        line!(text, "{}: {}", setting.name, setting.text);
        if let Some(hint) = setting.hint {
            line!(text, "  hint: {hint}");
        }
    }
    text
}

/// Nothing when all is well: what is written here ends up in the server's log, for every segment.
pub(super) fn wal_push(report: &WalPushReport) -> String {
    let mut text = String::new();
    for store in &report.owed {
        line!(text, "pgkeep: store {store} is owed {}, `pgkeep sync` copies it", report.file);
    }
    text
}

/// Nothing either.
pub(super) fn wal_fetch(_: &WalFetchReport) -> String {
    String::new()
}

pub(super) fn check(report: &CheckReport) -> String {
    let mut text = String::new();
    let width = report.lines.iter().map(|line| line.subject.len()).max().unwrap_or(0);
    for line in &report.lines {
        let standing = match line.standing {
            Standing::Ok => "ok",
            Standing::Warning => "warning",
            Standing::Fault => "FAULT",
        };
        line!(text, "{standing:<8} {:<width$}  {}", line.subject, line.message.replace('\n', "\n         "));
        if let Some(hint) = &line.hint {
            line!(text, "         {:<width$}  hint: {hint}", "");
        }
    }
    let count = |standing| report.lines.iter().filter(|line| line.standing == standing).count();
    let (faults, warned) = (count(Standing::Fault), count(Standing::Warning));
    line!(
        text,
        "{}",
        match (faults, warned) {
            (0, 0) => "all well".to_owned(),
            (0, _) => format!("{warned} to look at, nothing that keeps a backup from working"),
            _ => format!("{faults} at fault: a backup would not work"),
        }
    );
    text
}

pub(super) fn backup(report: &BackupReport) -> String {
    let mut text = format!("backup {}\n", report.id);
    if let Some(database) = &report.database {
        line!(text, "database {database}, as it was at {}", report.consistent_at);
    }
    if let (Some(rows), Some(tables)) = (report.rows, report.tables) {
        line!(text, "{} rows in {} tables", Thousands(rows), Thousands(tables));
    }
    if let (Some(wal), Some(files)) = (&report.wal, report.files) {
        line!(text, "the cluster, consistent from {} on ({})", report.consistent_at, wal.stop_lsn);
        line!(text, "{} files, WAL from {} to {}", Thousands(files), wal.first_segment, wal.last_segment);
    }
    if let (None, None, Some(files)) = (&report.database, &report.wal, report.files) {
        line!(text, "the configuration, as it was at {}", report.consistent_at);
        line!(text, "{}, with roles and tablespaces", counted(files, "file"));
    }
    line!(
        text,
        "{} read, {} stored ({:.1} times smaller), {} ({}/s)",
        Bytes(report.original_size_bytes),
        Bytes(report.size_bytes),
        report.ratio,
        seconds(report.seconds),
        rate(report.original_size_bytes, report.seconds)
    );
    for place in &report.places {
        line!(text, "in {place}");
    }
    warnings(&mut text, &report.warnings);
    text
}

pub(super) fn cluster_plan(plan: &ClusterPlan) -> String {
    let mut text =
        format!("restore {} (the cluster, consistent from {} on)\n", plan.backup, plan.consistent_at);
    line!(
        text,
        "  fetch {}, write {} in {} into {}",
        Bytes(plan.fetch_bytes),
        Bytes(plan.write_bytes),
        counted(plan.files, "file"),
        plan.to_dir
    );
    if plan.replaces {
        line!(text, "  the data directory that is there is EMPTIED FIRST");
    }
    if let Some(KeptPlace { directory, why }) = &plan.kept_wal {
        line!(text, "  {why}: its pg_wal is kept as {directory}");
    }
    for (from, to) in &plan.tablespaces {
        line!(text, "  tablespace {from} goes to {to}");
    }
    line!(text, "  replay WAL from {} on, along timeline {}", plan.first_segment, plan.timeline);
    let time = plan.until_time.as_ref().map_or_else(String::new, |time| format!(", last transaction {time}"));
    line!(
        text,
        "  in the archive without a gap: {} up to {}{time}",
        counted(plan.segments, "segment"),
        plan.until_lsn
    );
    line!(text, "  stop {}", plan.target);
    quote(&mut text, &plan.quote);
    text
}

pub(super) fn restore_cluster(report: &RestoreClusterReport) -> String {
    if report.dry_run {
        let mut text = cluster_plan(&report.plan);
        warnings(&mut text, &report.warnings);
        text.push_str("nothing was done (--dry-run)\n");
        return text;
    }
    let plan = &report.plan;
    let mut text = format!("restored {} into {} in {}\n", plan.backup, plan.to_dir, seconds(report.seconds));
    for phase in &report.phases {
        line!(text, "  {}: {}", phase.name, seconds(phase.seconds));
    }
    match &report.reached {
        Some(reached) => {
            let lsn = reached.lsn.map_or_else(String::new, |lsn| format!(" at {lsn}"));
            let time =
                reached.time.as_ref().map_or_else(String::new, |time| format!(", last transaction {time}"));
            let timeline =
                reached.timeline.map_or_else(String::new, |timeline| format!(", timeline {timeline}"));
            line!(text, "the server is {}{lsn}{time}{timeline}", reached.state);
            for said in &reached.said {
                line!(text, "  {said}");
            }
            if let Some(connect) = &reached.connect {
                line!(text, "next: {connect}");
            }
        }
        None => {
            line!(text, "next: start the server on it; it replays WAL and stops {}", plan.target);
        }
    }
    if let Some(KeptPlace { directory, why }) = &plan.kept_wal {
        line!(text, "{why}: the old pg_wal is {directory}");
        line!(
            text,
            "  to replay that too, copy its segments into the new pg_wal before the server starts; remove it when all \
             is well"
        );
    }
    warnings(&mut text, &report.warnings);
    text
}

pub(super) fn plan(plan: &RestorePlan) -> String {
    let mut text = format!("restore {} (database {}, ", plan.backup, plan.source_database);
    line!(text, "as it was at {})", plan.consistent_at);
    line!(
        text,
        "  fetch {}, unpack {} into {}",
        Bytes(plan.fetch_bytes),
        Bytes(plan.scratch_bytes),
        plan.scratch_directory
    );
    line!(
        text,
        "  fill and check a new database {} ({} rows in {} tables)",
        plan.staging_database,
        Thousands(plan.rows),
        Thousands(plan.tables)
    );
    match &plan.previous_database {
        Some(previous) => {
            line!(text, "  rename database {} to {previous}", plan.target_database);
            line!(text, "  rename the new one to {}", plan.target_database);
            if plan.drop_old {
                line!(text, "  drop {previous}");
            } else {
                line!(text, "  keep {previous} until you drop it");
            }
        }
        None => {
            line!(text, "  rename it to {} (there is none of that name now)", plan.target_database);
        }
    }
    quote(&mut text, &plan.quote);
    for connection in &plan.connections {
        line!(text, "  in the way: {connection}");
    }
    warnings(&mut text, &plan.warnings);
    text
}

pub(super) fn restore(report: &RestoreReport) -> String {
    if report.dry_run {
        return format!("{}nothing was done (--dry-run)\n", plan(&report.plan));
    }
    let mut text = format!("database {} restored from {}\n", report.plan.target_database, report.plan.backup);
    line!(text, "as it was at {}", report.plan.consistent_at);
    line!(
        text,
        "checked: {} rows in {} tables, every index and constraint valid",
        Thousands(report.checked_rows),
        Thousands(report.checked_tables)
    );
    let phases: Vec<String> =
        report.phases.iter().map(|phase| format!("{} {}", phase.name, seconds(phase.seconds))).collect();
    line!(text, "{} ({})", seconds(report.seconds), phases.join(", "));
    if let Some(kept) = &report.kept_as {
        line!(text, "the replaced database is kept as {kept}");
        line!(text, "  drop it when you no longer need it: DROP DATABASE \"{}\"", kept.replace('"', "\"\""));
    }
    line!(text, "next: vacuumdb --analyze-in-stages {}", report.plan.target_database);
    warnings(&mut text, &report.warnings);
    text
}

pub(super) fn sync(report: &SyncReport) -> String {
    let mut text = String::new();
    let verb = if report.dry_run { "would copy" } else { "copied" };
    for copy in &report.copies {
        let (object, backup, store) = (&copy.object, &copy.backup, copy.store);
        line!(text, "{verb} {object} of {backup} to store {store}, {}", Bytes(copy.size_bytes));
    }
    for (what, unmade) in [("owed", &report.waiting), ("lost, no good copy in any store", &report.lost)] {
        for Unmade { backup, object, stores } in unmade {
            let stores: Vec<&str> = stores.iter().map(|store| store.as_str()).collect();
            line!(text, "{what}: {object} of {backup}, which {} should have", stores.join(" and "));
        }
    }
    let wal = &report.wal;
    if wal.copies > 0 {
        line!(text, "{verb} {} of WAL files, {}", counted(wal.copies, "copy"), Bytes(wal.bytes));
    }
    if wal.waiting > 0 {
        line!(text, "owed: {} of WAL files", counted(wal.waiting, "copy"));
    }
    for name in &wal.lost {
        line!(text, "lost, no good copy in any store: WAL file {name}");
    }
    if report.uploads_aborted > 0 {
        line!(text, "gave up {} begun a day ago or more", counted(report.uploads_aborted, "upload"));
    }
    warnings(&mut text, &report.warnings);
    let is_lacking = !(report.waiting.is_empty() && report.lost.is_empty() && report.warnings.is_empty());
    let all = if !is_lacking && wal.waiting == 0 && wal.lost.is_empty() {
        "; every store has everything"
    } else {
        ""
    };
    let all = if report.dry_run && (!report.copies.is_empty() || wal.copies > 0) { "" } else { all };
    line!(
        text,
        "{verb} {}, {}, {}{all}",
        counted(report.copies.len() as u64, "object"),
        Bytes(report.bytes),
        seconds(report.seconds)
    );
    text
}

pub(super) fn list(report: &ListReport) -> String {
    if report.backups.is_empty() {
        return "no backups\n".to_owned();
    }
    let mut rows = vec![
        ["BACKUP", "DATABASE", "READ", "STORED", "RATIO", "TOOK", "SPEED", "ROWS", "STORES"]
            .map(ToOwned::to_owned)
            .to_vec(),
    ];
    rows.extend(report.backups.iter().map(list_row));
    columns(&rows, &[2, 3, 4, 5, 6, 7])
}

pub(super) fn recoverable(report: &RecoverableReport) -> String {
    let mut text = String::new();
    let unheard: Vec<&str> = report.unheard.iter().map(|store| store.as_str()).collect();
    let unheard = unheard.join(" or ");
    for window in &report.windows {
        line!(
            text,
            "timeline {}: any second from {} to about {}",
            window.timeline,
            window.from,
            window.until
        );
        let backups = counted(window.backups.len() as u64, "cluster backup");
        let segments = counted(window.segments, "WAL segment");
        line!(text, "  {backups}, {segments}, from {} to {}", window.from_lsn, window.until_lsn);
        let whole = if window.whole_in.is_empty() {
            "no store alone, all of them together".to_owned()
        } else {
            window.whole_in.join(", ")
        };
        line!(text, "  the WAL is whole in {whole}");
        if let (Some(missing), Some(next)) = (&window.missing, &window.next) {
            line!(text, "  HOLE behind it: {missing} is in no store, the next that is there is {next}");
        }
        if let Some(unknown) = &window.unknown {
            line!(
                text,
                "  unknown behind it: {unknown} is in no store that could be asked; {} may have it",
                unheard
            );
        }
    }
    for id in &report.inconsistent {
        line!(text, "{id} can't be made consistent: its WAL is not all there");
    }
    for id in &report.unknown {
        line!(
            text,
            "{id}: its WAL is not all in the stores that could be asked; {unheard} may have the rest"
        );
    }
    if report.windows.is_empty() {
        text.push_str("no point in time can be reached: there is no cluster backup with its WAL\n");
    }
    text
}

fn list_row(backup: &ListedBackup) -> Vec<String> {
    let mut stores = backup.stores.join(" ");
    if backup.copies_not_good > 0 {
        let _ = write!(stores, " ({} copies not good)", backup.copies_not_good);
    }
    if let Some(kept) = &backup.kept {
        let _ = write!(stores, " (kept: {})", kept.reason);
    }
    vec![
        backup.id.to_string(),
        match (&backup.database, &backup.tenant) {
            (Some(database), Some(tenant)) => format!("{database}: {tenant}"),
            (database, _) => database.clone().unwrap_or_default(),
        },
        Bytes(backup.original_size_bytes).to_string(),
        Bytes(backup.size_bytes).to_string(),
        format!("{:.1}", backup.ratio),
        seconds(backup.seconds).to_string(),
        format!("{}/s", Bytes(backup.bytes_per_second as u64)),
        backup.rows.map_or_else(String::new, |rows| Thousands(rows).to_string()),
        stores.trim().to_owned(),
    ]
}

/// Lays out rows in columns; those of `right` are set to the right.
fn columns(rows: &[Vec<String>], right: &[usize]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut shown = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if right.contains(&column) {
                write!(shown, "{cell:>width$}  ")
            } else {
                write!(shown, "{cell:<width$}  ")
            };
        }
        line!(text, "{}", shown.trim_end());
    }
    text
}

pub(super) fn rebuild(report: &RebuildReport) -> String {
    let mut text = String::new();
    for id in &report.added {
        line!(text, "took in {id}");
    }
    line!(text, "{} taken in, {} known before", counted(report.added.len() as u64, "backup"), report.known);
    if report.wal_files > 0 {
        line!(text, "{} in the archive", counted(report.wal_files, "WAL file"));
    }
    let history = &report.history;
    if history.runs > 0 {
        let (runs, restores) = (counted(history.runs, "run"), counted(history.restores, "restore"));
        line!(text, "history of another catalog: {runs}, {restores}");
    }
    warnings(&mut text, &report.warnings);
    text
}

pub(super) fn catalog_check(report: &CatalogCheck) -> String {
    if report.findings.is_empty() {
        return "the catalog is whole\n".to_owned();
    }
    report.findings.iter().fold(String::new(), |text, finding| format!("{text}damaged: {finding}\n"))
}

//! What is kept, what goes and what has gone, as text.

use std::fmt::Write;

use super::{columns, counted, seconds, warnings};
use crate::command::cleanup::{BackupVerdict, CleanupReport};
use crate::command::keep::KeepReport;
use crate::model::{Bytes, timestamp_text};

pub(in crate::cli) fn cleanup(report: &CleanupReport) -> String {
    let mut text = String::new();
    let rows: Vec<Vec<String>> = report.backups.iter().map(verdict).collect();
    if !rows.is_empty() {
        text.push_str(&columns(&rows, &[2]));
    }
    for range in &report.wal {
        line!(
            text,
            "WAL of timeline {}: {} to {} go, {}, {}: {}",
            range.timeline,
            range.first,
            range.last,
            counted(range.files, "file"),
            Bytes(range.bytes),
            range.reason
        );
    }
    line!(text, "WAL that stays: {}", report.wal_kept);
    let verb = if report.dry_run { "would remove" } else { "removed" };
    for orphan in &report.orphans {
        line!(
            text,
            "{verb} {} of {} in store {}, {}: it never came to be",
            counted(orphan.objects, "object"),
            orphan.backup,
            orphan.store,
            Bytes(orphan.bytes)
        );
    }
    for waiting in &report.still_there {
        let stores: Vec<&str> = waiting.stores.iter().map(|store| store.as_str()).collect();
        line!(text, "still in store {}: {}; deleted there later", stores.join(" and "), waiting.backup);
    }
    if report.uploads_aborted > 0 {
        line!(text, "gave up {} begun a day ago or more", counted(report.uploads_aborted, "upload"));
    }
    warnings(&mut text, &report.warnings);
    if report.dry_run {
        if report.needs_yes {
            line!(text, "this is more than half of what there is: it needs --yes");
        }
        text.push_str("nothing was done (--dry-run)\n");
        return text;
    }
    line!(
        text,
        "deleted {}, {}, {} of WAL files, {}",
        counted(report.deleted.len() as u64, "backup"),
        counted(report.objects_deleted, "object"),
        counted(report.wal_copies_deleted, "copy"),
        seconds(report.seconds)
    );
    text
}

fn verdict(backup: &BackupVerdict) -> Vec<String> {
    let of = match (&backup.database, &backup.tenant) {
        (Some(database), Some(tenant)) => format!("{database}: {tenant}"),
        (database, _) => database.clone().unwrap_or_default(),
    };
    let what = if backup.goes { "goes" } else { "kept" };
    let why = format!("{what}: {}", backup.reasons.join("; "));
    vec![backup.backup.to_string(), of, Bytes(backup.size_bytes).to_string(), why]
}

pub(in crate::cli) fn keep(report: &KeepReport) -> String {
    let mut text = match (&report.kept, &report.before) {
        (Some(kept), _) => format!("{} is kept whatever its age: {}\n", report.backup, kept.reason),
        (None, Some(before)) => format!(
            "{} is left to the rules again; it was kept since {} by {}: {}\n",
            report.backup,
            timestamp_text(before.at),
            before.by,
            before.reason
        ),
        (None, None) => format!("{} was left to the rules before\n", report.backup),
    };
    warnings(&mut text, &report.warnings);
    text
}

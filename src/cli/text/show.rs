//! One backup in full, as text.

use std::fmt::Write;

use super::{columns, seconds};
use crate::command::show::{ShowReport, ShownPhysical, ShownTable};
use crate::model::{Bytes, Thousands, timestamp_text};

pub(in crate::cli) fn show(report: &ShowReport) -> String {
    let backup = &report.backup;
    let mut text = format!("backup {}\n", backup.id);
    match (&backup.database, &report.wal) {
        (Some(database), _) => {
            line!(text, "database     {database}");
            if let Some(tenant) = &backup.tenant {
                line!(text, "tenant       {tenant}");
            }
        }
        (None, Some(wal)) => {
            line!(text, "cluster      consistent from {} on timeline {}", wal.stop_lsn, wal.timeline);
            line!(
                text,
                "WAL          {} to {}, replay from {}",
                wal.first_segment,
                wal.last_segment,
                wal.start_lsn
            );
            let until = match &report.recoverable {
                None => "not now: its WAL is not all there, see `pgkeep list --recoverable`".to_owned(),
                Some(window) => format!(
                    "to any second until about {} (timeline {}, {})",
                    window.until, window.timeline, window.until_lsn
                ),
            };
            line!(text, "recoverable  {until}");
        }
        (None, None) => {
            line!(text, "holds        a {}", backup.kind);
        }
    }
    if let Some(kept) = &backup.kept {
        line!(text, "kept         since {} by {}: {}", timestamp_text(kept.at), kept.by, kept.reason);
    }
    line!(text, "begun        {}", backup.started_at);
    line!(text, "done         {} ({})", report.finished_at, seconds(backup.seconds));
    line!(
        text,
        "size         {} read, {} stored ({:.1} times smaller, {}), {}/s",
        Bytes(backup.original_size_bytes),
        Bytes(backup.size_bytes),
        backup.ratio,
        report.codec,
        Bytes(backup.bytes_per_second as u64)
    );
    line!(
        text,
        "PostgreSQL   {} (system identifier {})",
        report.postgres_version.as_deref().unwrap_or("-"),
        report.system_identifier.as_deref().unwrap_or("-")
    );
    line!(
        text,
        "made by      pgkeep {}, run {}",
        report.pgkeep_version,
        report.run.as_deref().unwrap_or("unknown")
    );
    for place in &report.places {
        line!(text, "place        {place}");
    }
    let mut rows =
        vec![["OBJECT", "STORE", "SIZE", "STATE", "PROVEN", "HOW"].map(ToOwned::to_owned).to_vec()];
    rows.extend(report.copies.iter().map(|copy| {
        let state = match &copy.note {
            Some(note) => format!("{}: {note}", copy.state),
            None => copy.state.clone(),
        };
        vec![
            copy.object.clone(),
            copy.store.clone(),
            Bytes(copy.size_bytes).to_string(),
            state,
            copy.proven_at.clone().unwrap_or_default(),
            copy.proven_how.clone().unwrap_or_default(),
        ]
    }));
    line!(text, "\n{}", columns(&rows, &[2]));
    match (&report.tables, &report.physical) {
        (Some(tables), _) => text.push_str(&tables_of(tables)),
        (None, Some(physical)) => text.push_str(&parts_of(physical)),
        (None, None) if report.config.is_some() => {
            text.push_str(&super::config::files(report.config.as_deref().unwrap_or_default()));
        }
        (None, None) => {
            line!(text, "what is in it stands in the sealed manifest: no key is set");
        }
    }
    text
}

fn tables_of(tables: &[ShownTable]) -> String {
    let mut rows = vec![["TABLE", "ROWS", "READ"].map(ToOwned::to_owned).to_vec()];
    rows.extend(tables.iter().map(|table| {
        let name = format!("{}.{}", table.schema, table.name);
        vec![name, Thousands(table.rows).to_string(), Bytes(table.size_bytes).to_string()]
    }));
    columns(&rows, &[1, 2])
}

/// What of a data directory is not a file, or is not as it should be.
fn parts_of(physical: &ShownPhysical) -> String {
    let mut text = format!("{} files", Thousands(physical.files));
    text.push_str(if physical.from_standby { ", read from a standby\n" } else { "\n" });
    for tablespace in &physical.tablespaces {
        line!(text, "tablespace {}: {}", tablespace.oid, tablespace.path);
    }
    for left_out in &physical.left_out {
        line!(text, "left out: {left_out}");
    }
    if !physical.data_checksums {
        line!(text, "the server has no data checksums: no page could be checked");
    }
    for file in &physical.damaged_pages {
        let blocks: Vec<String> = file.blocks.iter().map(u32::to_string).collect();
        line!(text, "damaged: {}, page {}", file.file, blocks.join(", "));
    }
    text
}

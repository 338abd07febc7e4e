//! What became of keys, as text.

use std::fmt::Write;

use super::{counted, seconds, warnings};
use crate::command::key_rotate::{NeededKey, RotateReport};

pub(in crate::cli) fn key_rotate(report: &RotateReport) -> String {
    let mut text = format!(
        "{} of {} now under key {}: {} sealed anew, {}\n",
        counted(report.manifests, "copy"),
        counted(report.backups, "manifest"),
        report.key,
        counted(report.resealed, "copy"),
        seconds(report.seconds)
    );
    for key in &report.needed {
        let NeededKey { key, manifests, wal_files, last_wal_file, saved_catalogs, wishes, in_settings } = key;
        let mut what = Vec::new();
        if *manifests > 0 {
            what.push(counted(*manifests, "copy") + " of manifests");
        }
        if *wal_files > 0 {
            let last = last_wal_file.as_ref().map_or_else(String::new, |last| format!(" (up to {last})"));
            what.push(format!("{}{last}", counted(*wal_files, "WAL file")));
        }
        if *wishes > 0 {
            what.push(format!("{} about what is to be kept", counted(*wishes, "word")));
        }
        if *saved_catalogs > 0 {
            what.push(counted(*saved_catalogs, "saved catalog"));
        }
        line!(text, "key {key} is needed by {}", what.join(", "));
        if *in_settings {
            line!(
                text,
                "  leave it in BACKUP_ENCRYPTION_KEY, behind the first, until this says that nothing needs it"
            );
        } else {
            line!(text, "  it is NOT in BACKUP_ENCRYPTION_KEY: put it there, behind the first");
        }
    }
    for key in &report.unneeded {
        line!(text, "key {key} is needed by nothing any more");
    }
    for away in &report.away {
        line!(text, "away: store {}: {}", away.store, away.message);
    }
    warnings(&mut text, &report.warnings);
    if !report.away.is_empty() {
        line!(text, "run this again when all stores are there; until then no key may go");
    }
    text
}

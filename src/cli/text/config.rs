//! Configurations as text.

use std::fmt::Write;

use super::{columns, counted, seconds, warnings};
use crate::command::restore_config::{ConfigFile, RestoreConfigReport};
use crate::model::Bytes;

/// The files of a configuration.
pub(super) fn files(files: &[ConfigFile]) -> String {
    let mut rows = vec![["FILE", "MODE", "SIZE"].map(ToOwned::to_owned).to_vec()];
    rows.extend(
        files
            .iter()
            .map(|file| vec![file.name.clone(), file.mode.clone(), Bytes(file.size_bytes).to_string()]),
    );
    columns(&rows, &[2])
}

pub(in crate::cli) fn restore_config(report: &RestoreConfigReport) -> String {
    let (count, verb) =
        (counted(report.files.len() as u64, "file"), if report.dry_run { "restore" } else { "restored" });
    let mut text =
        format!("{verb} {} (the configuration, as it was at {})\n", report.backup, report.consistent_at);
    line!(text, "{count} into {}:", report.to_dir);
    text.push_str(&files(&report.files));
    if report.dry_run {
        text.push_str("nothing was done (--dry-run)\n");
    } else {
        line!(text, "{}", seconds(report.seconds));
        line!(text, "next: look at each before you put it into its place; globals.sql is for psql");
    }
    warnings(&mut text, &report.warnings);
    text
}

//! What the catalog could not be told, because it was busy, full or broken: kept in a file beside it and taken in by the
//! next run that can. Losing it loses no WAL; listings find it too.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::directory;
use crate::catalog::{Catalog, WalRow};
use crate::config::Settings;
use crate::system::durable;

fn path(settings: &Settings) -> PathBuf {
    directory(settings).join("unrecorded.jsonl")
}

/// Keeps rows for later.
pub(in crate::command) fn keep(settings: &Settings, rows: &[WalRow]) -> anyhow::Result<()> {
    durable::create_private_dir(&directory(settings))?;
    let mut lines = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut lines, row)?;
        lines.push(b'\n');
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path(settings))?;
    file.write_all(&lines)?;
    Ok(())
}

/// Takes in what was kept. A line that was torn by a crash is passed over.
pub(in crate::command) fn take_in(settings: &Settings, catalog: &Catalog) -> anyhow::Result<()> {
    let path = path(settings);
    let taken = path.with_extension("taken");
    // What others add meanwhile goes into a new file; what a run that was killed has taken is taken again.
    if !taken.exists() {
        match std::fs::rename(&path, &taken) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
    }
    let text = std::fs::read_to_string(&taken)?;
    let rows: Vec<WalRow> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    catalog.wal().record(&rows)?;
    durable::remove_file_if_there(&taken)
}

//! What the catalog could not be told, because it was busy, full or broken: kept in a file beside it and taken in by the
//! next run that can. Losing it loses no WAL; listings find it too.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::directory;
use crate::catalog::{Catalog, WalRow};
use crate::config::Settings;
use crate::system::durable;
use crate::system::lock::{Attempt, FileLock};

fn path(settings: &Settings) -> PathBuf {
    directory(settings).join("unrecorded.jsonl")
}

/// A line of it: a copy, or the history of a timeline.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Copy(WalRow),
    History { timeline: u32, text: String },
}

/// Keeps copies and histories for later.
pub(in crate::command) fn keep(
    settings: &Settings,
    rows: &[WalRow],
    histories: &[(u32, String)],
) -> anyhow::Result<()> {
    durable::create_private_dir(&directory(settings))?;
    // Begins with the end of a line: what a crash has torn must not take the next one with it.
    let mut lines = vec![b'\n'];
    let rows = rows.iter().cloned().map(Line::Copy);
    let histories =
        histories.iter().map(|(timeline, text)| Line::History { timeline: *timeline, text: text.clone() });
    for line in rows.chain(histories) {
        serde_json::to_writer(&mut lines, &line)?;
        lines.push(b'\n');
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path(settings))?;
    file.write_all(&lines)?;
    Ok(())
}

/// Takes in what was kept. A line that was torn by a crash is passed over. While another run does the same, nothing.
pub(in crate::command) fn take_in(settings: &Settings, catalog: &Catalog) -> anyhow::Result<()> {
    let path = path(settings);
    let taken = path.with_extension("taken");
    if !path.exists() && !taken.exists() {
        return Ok(());
    }
    let Attempt::Taken(_lock) = FileLock::attempt(&path.with_extension("lock"), "unrecorded")? else {
        return Ok(());
    };
    // What others add meanwhile goes into a new file; what a run that was killed has taken is taken again.
    if !taken.exists() {
        match std::fs::rename(&path, &taken) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
    }
    let text = String::from_utf8_lossy(&std::fs::read(&taken)?).into_owned();
    let (mut rows, mut histories) = (Vec::new(), Vec::new());
    for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        match line {
            Line::Copy(row) => rows.push(row),
            Line::History { timeline, text } => histories.push((timeline, text)),
        }
    }
    catalog.wal().record(&rows)?;
    histories.iter().try_for_each(|(timeline, text)| catalog.wal().record_history(*timeline, text))?;
    durable::remove_file_if_there(&taken)
}

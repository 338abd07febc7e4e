//! Whether what pgkeep has written is for its user alone: directories 0700, files 0600.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::CheckReport;
use crate::config::Settings;

/// So many are looked at in one place at most: an archive may hold hundreds of thousands.
const LOOKS: usize = 20_000;
/// So many are named.
const NAMED: usize = 3;

/// Looks at the state directory and the local store.
pub(super) fn check(settings: &Settings, report: &mut CheckReport) {
    let places = [Some(&settings.state_dir), settings.local_dir.as_ref()];
    let mut open: Vec<PathBuf> = Vec::new();
    for place in places.into_iter().flatten().filter(|place| place.exists()) {
        let result = look(place, &mut open);
        if let Err(error) = result {
            report.warn(
                "permissions",
                format!("{} can't be looked through: {error}", place.display()),
                "Run it as the user who owns it.",
            );
        }
    }
    // The state directory itself is said by its own line.
    open.retain(|path| *path != settings.state_dir);
    let Some(first) = open.first() else {
        return report.ok("permissions", "what is written is for this user alone");
    };
    let named: Vec<String> = open.iter().take(NAMED).map(|path| path.display().to_string()).collect();
    let more = open.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!("open to other users: {}{more}", named.join(", "));
    let hint = format!("Run `chmod go= {}` and the same for the others.", first.display());
    report.warn("permissions", message, &hint);
}

fn look(top: &Path, open: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut waiting = vec![top.to_owned()];
    for _ in 0..LOOKS {
        let Some(path) = waiting.pop() else { break };
        let metadata = match fs::symlink_metadata(&path) {
            // Gone meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        if metadata.is_symlink() {
            continue;
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            open.push(path.clone());
        }
        if metadata.is_dir() {
            match fs::read_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                entries => {
                    for entry in entries? {
                        waiting.push(entry?.path());
                    }
                }
            }
        }
    }
    Ok(())
}

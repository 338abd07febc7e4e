//! Directories that settings name: absolute, because cron, `archive_command` and a shell stand in different places.

use std::path::{Path, PathBuf};

use super::values::Value;
use crate::model::Fault;

/// Reads an absolute path; `home` is only for the proposal in the hint.
pub(super) fn absolute(value: &Value, home: Option<&Path>) -> Result<PathBuf, Fault> {
    let path = Path::new(value.text.as_str());
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let fault = value.fault(format_args!("\"{}\" is not an absolute path", *value.text));
    Err(match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => fault
            .hint(format!("Write it out as {}, because ~ means nothing here.", home.join(rest).display())),
        _ => fault.hint("Begin it with a /, because cron and a shell run in different directories."),
    })
}

/// Whether one of the two is, or lies in, the other.
pub(super) fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

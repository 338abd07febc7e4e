//! Directories that settings name: absolute, because cron, `archive_command` and a shell stand in different places.

use std::path::{Path, PathBuf};

use super::faults::Faults;
use super::values::{Value, Values};
use crate::model::Fault;

/// Reads an absolute path; `home` is only for the proposal in the hint.
pub(super) fn absolute(value: &Value, home: Option<&Path>) -> Result<PathBuf, Fault> {
    absolute_text(value, &value.text, home)
}

fn absolute_text(value: &Value, text: &str, home: Option<&Path>) -> Result<PathBuf, Fault> {
    let path = Path::new(text);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let fault = value.fault(format_args!("\"{text}\" is not an absolute path"));
    Err(match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => fault
            .hint(format!("Write it out as {}, because ~ means nothing here.", home.join(rest).display())),
        _ => fault.hint("Begin it with a /, because cron and a shell run in different directories."),
    })
}

/// Reads absolute paths with commas between them.
pub(super) fn absolute_list(
    values: &Values,
    name: &'static str,
    home: Option<&Path>,
    faults: &mut Faults,
) -> Vec<PathBuf> {
    let Some(value) = values.get(name) else { return Vec::new() };
    let words = value.text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.filter_map(|word| faults.keep(absolute_text(value, word, home))).collect()
}

/// Whether one of the two is, or lies in, the other.
pub(super) fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

//! Completions and manual pages, made of the same definition as the command line.

use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Arguments;
use crate::model::{Fault, Kind};

/// Completions for a shell.
pub(super) fn completions(shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "pgkeep", &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The manual page of the whole.
pub(super) fn page() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut bytes).context("write the manual page")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes that page and one for each command into a directory that is there, and says so.
pub(super) fn pages(directory: &Path) -> anyhow::Result<String> {
    clap_mangen::generate_to(Arguments::command(), directory).with_context(|| {
        Fault::new(Kind::Store, format!("write manual pages into {}", directory.display()))
            .hint("See that the directory exists and that this user may write there.")
    })?;
    Ok(format!("the manual pages are in {}\n", directory.display()))
}

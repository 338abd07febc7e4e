//! From results and errors to exit codes and hints: the one place.

use std::io;

use serde::Serialize;

use crate::catalog::RunOutcome;
use crate::model::{Fault, Kind};
use crate::system::stop::Interrupted;

/// What a command did, for people and programs.
pub trait Report: Serialize {
    /// Why the exit code is not 0 although the command did its work.
    fn shortfall(&self) -> Option<Kind>;
}

/// An error as the operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The process's exit code.
    pub exit_code: u8,
    /// What the code means.
    pub meaning: &'static str,
    /// What was being done, to what, and why it failed.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Finds out what an error is. An error of the operating system that nobody gave a kind is one of disk or store;
/// anything else without a kind is a bug.
pub fn judge(error: &anyhow::Error) -> Verdict {
    let (kind, hint) = if error.downcast_ref::<Interrupted>().is_some() {
        (Kind::Interrupted, Some("Nothing was half done; run the command again.".to_owned()))
    } else if let Some(fault) = error.downcast_ref::<Fault>() {
        (fault.kind, fault.hint.clone().or_else(|| usual_hint(fault.kind).map(ToOwned::to_owned)))
    } else if let Some(cause) = error.chain().find_map(of_the_system) {
        (Kind::Store, Some(hint_for(cause).to_owned()))
    } else {
        (Kind::Bug, Some("Please report it with this message and the command line.".to_owned()))
    };
    // A cause that the message quotes already is not said twice.
    let mut message = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if message.is_empty() {
            message = text;
        } else if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
    }
    Verdict { exit_code: kind.exit_code(), meaning: kind.meaning(), message, hint }
}

/// How a run ended, its exit code, and a word on it, as its row has them.
pub(super) fn ended<T: Report>(result: &anyhow::Result<T>) -> (RunOutcome, u8, Option<String>) {
    match result {
        Ok(report) => match report.shortfall() {
            None => (RunOutcome::Done, 0, None),
            Some(kind) => (RunOutcome::Incomplete, kind.exit_code(), Some(kind.meaning().to_owned())),
        },
        Err(error) => {
            let verdict = judge(error);
            let interrupted = verdict.exit_code == Kind::Interrupted.exit_code();
            let outcome = if interrupted { RunOutcome::Interrupted } else { RunOutcome::Failed };
            (outcome, verdict.exit_code, Some(verdict.message))
        }
    }
}

/// What the operating system says it is, whether it was asked by the standard library or by rustix.
fn of_the_system(cause: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let errno = || cause.downcast_ref::<rustix::io::Errno>().map(|errno| errno.kind());
    cause.downcast_ref::<io::Error>().map(io::Error::kind).or_else(errno)
}

/// What to do about a fault that came without a hint.
fn usual_hint(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Damaged => Some(
            "Nothing was replaced; restore another backup (`pgkeep list`), and see with `pgkeep verify --deep` what \
             else is damaged.",
        ),
        Kind::Postgres => Some("Look into the server's log, and run `pgkeep check`."),
        Kind::Store => Some("Run `pgkeep check` to see what works and what does not."),
        Kind::Bug => Some("Please report it with this message and the command line."),
        _ => None,
    }
}

fn hint_for(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "Make room there and run the command again."
        }
        io::ErrorKind::PermissionDenied => "Run it as the user who owns it, or give this user the right.",
        io::ErrorKind::ReadOnlyFilesystem => "Mount it for writing, or choose another place in the settings.",
        io::ErrorKind::NotFound => "See that the path in the settings exists and is mounted.",
        _ => "Run `pgkeep check` to see what works and what does not.",
    }
}

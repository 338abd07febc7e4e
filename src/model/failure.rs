//! What can go wrong, as the operator sees it: a kind (which is an exit code), a message, a hint.
//!
//! Functions return [`anyhow::Result`]; a [`Fault`] stands somewhere in the error's chain and gives it its
//! kind. `main` asks for the outermost one. An error without a fault is a bug in pgkeep (exit code 70).

use std::fmt;

/// The kinds of failure; each is one exit code, frozen by a test and listed in `--help` and the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What was asked for does not exist.
    NotThere,
    /// The command line makes no sense.
    Usage,
    /// Done, but something is missing or a warning stands.
    Incomplete,
    /// Stored data is damaged.
    Damaged,
    /// Carrying on would destroy something.
    Refused,
    /// No catalog here, or one that a newer pgkeep made.
    NotInitialised,
    /// Another run holds what this one needs.
    Locked,
    /// The encryption key is missing, malformed, or not the one that sealed the data.
    Key,
    /// The settings are wrong.
    Settings,
    /// PostgreSQL or one of its tools failed.
    Postgres,
    /// A store could not be read or written.
    Store,
    /// Something that cannot happen has happened.
    Bug,
    /// A signal asked for the end.
    Interrupted,
    /// `wal-fetch` only: whether the file is in the archive can't be told now.
    CannotTell,
}

impl Kind {
    /// Every kind, in the order of the table in `--help`.
    pub const ALL: [Self; 14] = [
        Self::NotThere,
        Self::Usage,
        Self::Incomplete,
        Self::Damaged,
        Self::Refused,
        Self::NotInitialised,
        Self::Locked,
        Self::Key,
        Self::Settings,
        Self::Postgres,
        Self::Store,
        Self::Bug,
        Self::Interrupted,
        Self::CannotTell,
    ];

    /// The process's exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::NotThere => 1,
            Self::Usage => 2,
            Self::Incomplete => 3,
            Self::Damaged => 4,
            Self::Refused => 5,
            Self::NotInitialised => 10,
            Self::Locked => 11,
            Self::Key => 12,
            Self::Settings => 20,
            Self::Postgres => 30,
            Self::Store => 40,
            Self::Bug => 70,
            Self::Interrupted => 130,
            Self::CannotTell => 200,
        }
    }

    /// What the code means, as the table in `--help` and the README says it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::NotThere => "not there",
            Self::Usage => "usage",
            Self::Incomplete => "done, but incomplete: something is missing or a warning stands",
            Self::Damaged => "damage found",
            Self::Refused => "refused: it would destroy something, or was not confirmed",
            Self::NotInitialised => "not initialised, or the catalog is from a newer version",
            Self::Locked => "locked: another run holds it",
            Self::Key => "wrong or missing key",
            Self::Settings => "settings",
            Self::Postgres => "PostgreSQL",
            Self::Store => "store or disk",
            Self::Bug => "a bug in pgkeep",
            Self::Interrupted => "interrupted",
            Self::CannotTell => "wal-fetch only: can't tell whether the file is in the archive",
        }
    }
}

/// One failure: what was being done to what and why it did not work, and what to do about it.
///
/// The message is lower case without a full stop; the hint is one full sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which exit code it becomes.
    pub kind: Kind,
    /// What was being done, to which thing, and why it failed.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Fault {
    /// Makes a failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// Adds the sentence that says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns it as the error of an [`anyhow::Result`].
    pub fn err<T>(self) -> anyhow::Result<T> {
        Err(anyhow::Error::new(self))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// Gives an error of any sort a kind, keeping it as the cause.
pub trait FaultContext<T> {
    /// Wraps the error into the fault that `describe` makes; its text follows as the cause.
    fn or_fault(self, describe: impl FnOnce() -> Fault) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> FaultContext<T> for Result<T, E> {
    fn or_fault(self, describe: impl FnOnce() -> Fault) -> anyhow::Result<T> {
        self.map_err(|error| error.into().context(describe()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_fault_is_found_through_contexts() {
        let inner: anyhow::Result<()> = Err(std::io::Error::other("no such device").into());
        let error = inner
            .or_fault(|| Fault::new(Kind::Store, "write volume data.00000").hint("Look at the disk."))
            .map_err(|error| error.context("back up the database"))
            .err();
        let error = error.unwrap_or_else(|| anyhow::anyhow!("was no error"));
        assert_eq!(error.downcast_ref::<Fault>().map(|fault| fault.kind), Some(Kind::Store));
        assert_eq!(format!("{error:#}"), "back up the database: write volume data.00000: no such device");
    }

    #[test]
    fn exit_codes_are_frozen() {
        let codes: Vec<u8> = Kind::ALL.iter().map(|kind| kind.exit_code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 10, 11, 12, 20, 30, 40, 70, 130, 200]);
    }
}

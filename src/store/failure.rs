//! What can go wrong with a store, by what can be done about it.

use std::fmt;

use crate::model::{Fault, Kind, StoreName};

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The object is not there.
    Absent,
    /// The object is shorter than what was asked for.
    Short,
    /// No right to do this.
    Denied,
    /// No room left.
    Full,
    /// It can't be written at all (mounted read-only).
    ReadOnly,
    /// Anything else.
    Failed,
}

/// A failure of one operation on one object of one store.
#[derive(Debug)]
pub struct StoreError {
    /// Which store.
    pub store: StoreName,
    /// What was being done: `write`, `read`, `list`, `delete`.
    pub operation: &'static str,
    /// Where the object lies.
    pub place: String,
    /// What sort of failure.
    pub kind: StoreErrorKind,
    /// The cause as text.
    pub cause: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in store {}: {}", self.operation, self.place, self.store, self.cause)
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let (kind, hint) = match error.kind {
            StoreErrorKind::Absent => (Kind::Damaged, "Run `pgkeep verify` to see what else is missing."),
            StoreErrorKind::Short => (Kind::Damaged, "The copy was cut short; run `pgkeep verify --deep`."),
            StoreErrorKind::Denied => (Kind::Store, "Give the user who runs pgkeep the right to it."),
            StoreErrorKind::Full => (Kind::Store, "Make room, or choose another place in the settings."),
            StoreErrorKind::ReadOnly => (Kind::Store, "Mount it for writing, or choose another place."),
            StoreErrorKind::Failed => {
                (Kind::Store, "Run `pgkeep check` to see what works and what does not.")
            }
        };
        Self::new(kind, error.to_string()).hint(hint)
    }
}

/// Store errors become faults when they leave the stores.
pub trait StoreResult<T> {
    /// As a result whose error carries kind and hint.
    fn fault(self) -> anyhow::Result<T>;
}

impl<T> StoreResult<T> for Result<T, StoreError> {
    fn fault(self) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::new(Fault::from(error)))
    }
}

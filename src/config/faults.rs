//! Collects everything that is wrong, so that the operator mends it in one go.

use crate::model::{Fault, Kind};

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct Faults {
    found: Vec<Fault>,
}

impl Faults {
    /// Keeps the fault.
    pub(super) fn add(&mut self, fault: Fault) {
        self.found.push(fault);
    }

    /// Returns the value, or keeps the fault.
    pub(super) fn keep<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.add(fault)).ok()
    }

    /// Makes one fault out of all, if there are any: each on its own line, followed by what to do about it.
    pub(super) fn into_result(mut self) -> Result<(), Fault> {
        match self.found.len() {
            0 => return Ok(()),
            1 => return Err(self.found.remove(0)),
            _ => {}
        }
        let only_the_key = self.found.iter().all(|fault| fault.kind == Kind::Key);
        let mut message = format!("{} settings are wrong:", self.found.len());
        for fault in &self.found {
            message.push_str("\n  ");
            message.push_str(&fault.message);
            if let Some(hint) = &fault.hint {
                message.push_str("\n    ");
                message.push_str(hint);
            }
        }
        let kind = if only_the_key { Kind::Key } else { Kind::Settings };
        Err(Fault::new(kind, message).hint("Correct all of them, then look with `pgkeep check`."))
    }
}

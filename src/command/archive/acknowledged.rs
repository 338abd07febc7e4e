//! WAL files that were archived lately, and those that were archived ahead of their turn: when the archiver offers one of
//! them, nothing is left to do.

use std::collections::VecDeque;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{directory, read, write_lightly};
use crate::config::Settings;
use crate::model::{Digest, StoreName};
use crate::source::wal::{Stamp, WalFile};

/// More than one run archives ahead.
const KEPT: usize = 320;

/// A file that is safe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::command) struct Acknowledgement {
    pub(in crate::command) file: String,
    pub(in crate::command) stamp: Stamp,
    pub(in crate::command) sha256: Digest,
    /// As it is stored on this machine.
    #[serde(default)]
    pub(in crate::command) stored_bytes: u64,
    /// The stores that have it.
    pub(in crate::command) stores: Vec<StoreName>,
}

/// What was archived lately, oldest first.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::command) struct Acknowledged(VecDeque<Acknowledgement>);

fn path(settings: &Settings) -> PathBuf {
    directory(settings).join("acknowledged.json")
}

impl Acknowledged {
    pub(in crate::command) fn load(settings: &Settings) -> Self {
        read(&path(settings)).unwrap_or_default()
    }

    /// The acknowledgement of this very file, unchanged since.
    pub(in crate::command) fn of(&self, file: &WalFile) -> Option<&Acknowledgement> {
        self.0.iter().rfind(|it| it.file == file.name.as_str() && it.stamp == file.stamp)
    }

    pub(in crate::command) fn add(
        &mut self,
        settings: &Settings,
        more: Vec<Acknowledgement>,
    ) -> anyhow::Result<()> {
        self.0.extend(more);
        while self.0.len() > KEPT {
            self.0.pop_front();
        }
        write_lightly(&path(settings), self)
    }
}

//! What `verify` says.

use serde::Serialize;

use super::super::archive::reconcile::WalFinding;
use crate::catalog::CopyState;
use crate::command::Report;
use crate::model::{BackupId, Digest, Kind, StoreName, WalName};

/// What is wrong with one object.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The backup.
    pub backup: BackupId,
    /// The store.
    pub store: StoreName,
    /// The object within the backup.
    pub object: String,
    /// `missing`, `damaged`, `owed`, `unknown`, or `unfinished`, which is no fault.
    pub state: &'static str,
    /// What is wrong, in words.
    pub message: String,
    /// Whether a good copy is in its place now.
    pub repaired: bool,
}

/// The catalog does not know it.
pub(super) const UNKNOWN: &str = "unknown";
/// The catalog does not know it, and somebody may be making it.
pub(super) const UNFINISHED: &str = "unfinished";

impl Finding {
    /// Whether something is not as it should be.
    pub fn is_fault(&self) -> bool {
        self.state != UNFINISHED
    }

    /// Whether it is a copy that was good once.
    pub(super) fn is_damage(&self) -> bool {
        self.state == CopyState::Damaged.as_str() || self.state == CopyState::Missing.as_str()
    }
}

/// A store that could not be looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Away {
    /// The store.
    pub store: StoreName,
    /// Why.
    pub message: String,
}

/// Segments that no store has although there are earlier and later ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalHole {
    /// The timeline.
    pub timeline: u32,
    /// The first segment that is missing.
    pub first: WalName,
    /// The last one.
    pub last: WalName,
    /// How many they are.
    pub segments: u64,
    /// When the segment before them was archived: points in time until about then can be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// When the segment behind them was archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// A WAL file that was archived with different bytes: two servers have written under one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalConflict {
    /// The file.
    pub file: WalName,
    /// What there is under its name.
    pub contents: Vec<WalContent>,
}

/// One of the contents of a WAL file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalContent {
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// The stores that have it.
    pub stores: Vec<StoreName>,
}

/// How the oldest proofs are renewed, a budget's worth at a time.
#[derive(Debug, Clone, Serialize)]
pub struct Rolling {
    /// What this run might read, in stored bytes.
    pub budget: u64,
    /// Copies that it has read in full.
    pub copies_read: u64,
    /// Whether `--max-time` was over before all of it was read.
    pub out_of_time: bool,
    /// Copies in all stores that can be proven.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// After how many runs with this budget all of them have been read once, at most; nothing when the budget is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycle_runs: Option<u64>,
    /// The seconds between two runs.
    pub interval_seconds: f64,
    /// Whether that was measured over the last days, or taken to be an hour.
    pub interval_is_measured: bool,
    /// How long that takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycle_seconds: Option<f64>,
    /// `BACKUP_PROOF_MAX_AGE` in seconds.
    pub max_age_seconds: u64,
    /// Since when the copy that was looked at least recently has not been read; nothing when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_proof: Option<String>,
    /// Copies whose proof is older than it may be.
    pub overdue: u64,
}

impl Rolling {
    /// Whether some proof gets older than it may at this budget.
    pub fn is_too_slow(&self) -> bool {
        self.cycle_seconds.is_some_and(|seconds| seconds > self.max_age_seconds as f64)
    }
}

/// What was looked at and found.
#[derive(Debug, Clone, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each answers a question of its own")]
pub struct VerifyReport {
    /// Whether all was read.
    pub deep: bool,
    /// Whether what was read was also decrypted; without a key it is not, nor where only a part of a backup was read.
    pub decrypted: bool,
    /// Backups.
    pub backups: u64,
    /// Objects in all stores.
    pub objects: u64,
    /// Stored bytes that were read.
    pub bytes_read: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Copies of archived WAL files, in all stores; of one backup alone they are not looked at.
    pub wal_copies: u64,
    /// What is wrong with others.
    pub wal_findings: Vec<WalFinding>,
    /// Segments that are missing in every store.
    pub wal_holes: Vec<WalHole>,
    /// WAL files that were archived with different bytes.
    pub wal_conflicts: Vec<WalConflict>,
    /// How proofs are renewed; nothing when one backup or one store was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Rolling>,
    /// Whether another verify was reading, so that this one only listed.
    #[serde(rename = "busy")]
    pub is_busy: bool,
    /// Whether what was found wrong was to be repaired.
    pub repair: bool,
    /// Stores that could not be looked at, or not to the end.
    pub away: Vec<Away>,
    /// What else is not as it should be.
    pub warnings: Vec<String>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl VerifyReport {
    pub(super) fn new(deep: bool, repair: bool, backups: u64, away: Vec<Away>) -> Self {
        Self {
            deep,
            decrypted: false,
            backups,
            objects: 0,
            bytes_read: 0,
            findings: Vec::new(),
            wal_copies: 0,
            wal_findings: Vec::new(),
            wal_holes: Vec::new(),
            wal_conflicts: Vec::new(),
            rolling: None,
            is_busy: false,
            repair,
            away,
            warnings: Vec::new(),
            seconds: 0.0,
        }
    }
}

impl Report for VerifyReport {
    /// Damage that is left: 4. Damage that was found and repaired is a warning: what happened once may happen again, and
    /// somebody should look after the disk. A copy that was owed and is made now is nothing out of the ordinary.
    fn shortfall(&self) -> Option<Kind> {
        let objects = self.findings.iter().filter(|finding| finding.is_fault());
        let objects = objects.map(|finding| (finding.is_damage(), finding.repaired));
        let wal = self.wal_findings.iter();
        let wal = wal.map(|finding| (finding.state != CopyState::Owed, finding.repaired));
        let all: Vec<(bool, bool)> = objects.chain(wal).collect();
        let is_left = all.iter().any(|(is_damage, repaired)| *is_damage && !repaired);
        let is_late = |rolling: &Rolling| rolling.is_too_slow() || rolling.overdue > 0;
        if is_left || !self.wal_holes.is_empty() || !self.wal_conflicts.is_empty() {
            Some(Kind::Damaged)
        } else if all.iter().any(|(is_damage, repaired)| *is_damage || !repaired)
            || !self.away.is_empty()
            || !self.warnings.is_empty()
            || self.rolling.as_ref().is_some_and(is_late)
        {
            Some(Kind::Incomplete)
        } else {
            None
        }
    }
}

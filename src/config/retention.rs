//! What is kept: `BACKUP_RETENTION_DAYS` and `BACKUP_KEEP_*`.

use super::faults::Faults;
use super::values::Values;

/// Days, and numbers of backups, beyond which nobody means them.
const MOST_DAYS: u64 = 36_500;
const MOST: u64 = 10_000;

/// How long, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// `BACKUP_RETENTION_DAYS`.
    pub days: u32,
    /// `BACKUP_KEEP_MIN`.
    pub keep_min: usize,
    /// `BACKUP_KEEP_DAILY`.
    pub daily: usize,
    /// `BACKUP_KEEP_WEEKLY`.
    pub weekly: usize,
    /// `BACKUP_KEEP_MONTHLY`.
    pub monthly: usize,
    /// `BACKUP_KEEP_YEARLY`.
    pub yearly: usize,
}

/// Reads them.
pub(super) fn read(values: &Values, faults: &mut Faults) -> Retention {
    let mut number = |name, (least, most), otherwise| {
        let value = values.get(name).and_then(|value| faults.keep(value.number(least, most)));
        value.unwrap_or(otherwise)
    };
    Retention {
        days: number("BACKUP_RETENTION_DAYS", (1, MOST_DAYS), 90) as u32,
        keep_min: number("BACKUP_KEEP_MIN", (0, MOST), 2) as usize,
        daily: number("BACKUP_KEEP_DAILY", (0, MOST), 0) as usize,
        weekly: number("BACKUP_KEEP_WEEKLY", (0, MOST), 0) as usize,
        monthly: number("BACKUP_KEEP_MONTHLY", (0, MOST), 0) as usize,
        yearly: number("BACKUP_KEEP_YEARLY", (0, MOST), 0) as usize,
    }
}

//! Brings a catalog's schema up to date, one numbered step after the other.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::values::integer;
use crate::model::{Fault, Kind};

/// Marks a SQLite file as a catalog of pgkeep: the letters `pgkp`.
const APPLICATION_ID: i32 = 0x7067_6B70;

/// The steps in order; the schema's version is how many were taken. Released ones are never changed.
const STEPS: [&str; 8] = [
    include_str!("migrations/001_first.sql"),
    include_str!("migrations/002_settling.sql"),
    include_str!("migrations/003_lineage.sql"),
    include_str!("migrations/004_wal.sql"),
    include_str!("migrations/005_tenants.sql"),
    include_str!("migrations/006_operations.sql"),
    include_str!("migrations/007_telling.sql"),
    include_str!("migrations/008_keys.sql"),
];

/// What a SQLite file is to this version of pgkeep.
pub(super) enum Standing {
    /// An empty file, perhaps left by an `init` that was killed.
    Fresh,
    /// A catalog of this or an earlier version.
    Known {
        /// Whether steps are left to take.
        outdated: bool,
    },
    /// A catalog of a later version.
    Newer(i32),
    /// Another program's file.
    Foreign,
}

/// Looks what the file is. Another process may be filling it at this moment.
pub(super) fn standing(connection: &Connection) -> rusqlite::Result<Standing> {
    // One transaction, so one instant: numbers from before a migration and tables from after it would look like
    // another program's file.
    let instant = Transaction::new_unchecked(connection, TransactionBehavior::Deferred)?;
    let number = |name| instant.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    if application == APPLICATION_ID {
        return Ok(match usize::try_from(version) {
            Ok(taken) if taken <= STEPS.len() => Standing::Known { outdated: taken < STEPS.len() },
            _ => Standing::Newer(version),
        });
    }
    let things: i64 = instant.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(if application == 0 && version == 0 && things == 0 { Standing::Fresh } else { Standing::Foreign })
}

/// Takes the steps that are left. May run at the same time in several processes.
pub(super) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    // Read under the lock: another process may have taken the steps while this one waited.
    let version: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let taken = usize::try_from(version).unwrap_or(STEPS.len()).min(STEPS.len());
    for step in &STEPS[taken..] {
        transaction.execute_batch(step)?;
    }
    if taken < STEPS.len() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", integer(STEPS.len() as u64))?;
    }
    transaction.commit()
}

/// The fault that the catalog is from a later version.
pub(super) fn newer(path: &Path, version: i32) -> Fault {
    Fault::new(
        Kind::NotInitialised,
        format!(
            "the catalog {} has schema version {version}, and pgkeep {} knows versions up to {}",
            path.display(),
            env!("CARGO_PKG_VERSION"),
            STEPS.len()
        ),
    )
    .hint("Use the newer pgkeep that made it.")
}

/// The fault that the file belongs to another program.
pub(super) fn foreign(path: &Path) -> Fault {
    Fault::new(Kind::Refused, format!("{} is a SQLite file of another program", path.display()))
        .hint("Set BACKUP_STATE_DIR to a directory of its own, or move the file away.")
}

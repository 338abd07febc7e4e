//! The one place where SQLite's errors become faults.

use std::path::Path;

use rusqlite::{Error, ErrorCode};

use crate::model::{Fault, Kind};
use crate::system::space;

/// With less than this nothing can be written, however SQLite names it.
const NO_SPACE: u64 = 64 * 1024;

/// Gives the error its fault; its text stays as the cause. `doing` is what was being done, such as
/// "write down the backup".
pub(super) fn describe(path: &Path, doing: &str, error: Error) -> anyhow::Error {
    let fault = fault(path, doing, &error);
    let cause = match error {
        // As it is, its text would say the same thing twice.
        Error::SqliteFailure(failure, Some(text)) => {
            anyhow::anyhow!("{text} (SQLite error {})", failure.extended_code)
        }
        error => anyhow::Error::new(error),
    };
    cause.context(fault)
}

fn fault(path: &Path, doing: &str, error: &Error) -> Fault {
    let catalog = path.display();
    let code = match error {
        Error::SqliteFailure(failure, _) => failure.code,
        // The text of a column is not what its type says.
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::Utf8Error(..) => {
            let what = format!("{doing}: the catalog {catalog} holds a value that pgkeep did not write");
            return damaged(path, what);
        }
        _ => return Fault::new(Kind::Bug, format!("{doing}: the catalog {catalog} was used wrongly")),
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
            Fault::new(Kind::Locked, format!("{doing}: another process holds the catalog {catalog}"))
                .hint("Wait until the other pgkeep, or the sqlite3 that has a transaction open, has ended.")
        }
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            damaged(path, format!("{doing}: the catalog {catalog} is damaged"))
        }
        ErrorCode::DiskFull => full(path, doing),
        // A full disk is also met where SQLite makes its -wal and -shm files, and then it has other names.
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen if is_full(path) => full(path, doing),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen => Fault::new(
            Kind::Store,
            format!("{doing}: the catalog {catalog} cannot be opened for writing"),
        )
        .hint("Run pgkeep as the user whom the state directory belongs to, and see that its disk is not read-only."),
        ErrorCode::SystemIoFailure => {
            Fault::new(Kind::Store, format!("{doing}: reading or writing the catalog {catalog} failed"))
                .hint("Look at the disk's health and at the kernel's messages.")
        }
        _ => Fault::new(Kind::Bug, format!("{doing}: the catalog {catalog} did not accept it")),
    }
}

/// The fault that the file is no longer what it was, with the way out.
pub(super) fn damaged(path: &Path, message: String) -> Fault {
    Fault::new(Kind::Damaged, message).hint(format!(
        "Nothing is lost, because the stores hold the backups: move {} away together with its -wal and -shm files \
         and run `pgkeep catalog rebuild`.",
        path.display()
    ))
}

/// Fails when a change met no row: the caller speaks of something that was never written down.
pub(super) fn require_one(changed: usize, what: impl FnOnce() -> String) -> anyhow::Result<()> {
    if changed == 0 {
        return Fault::new(Kind::Bug, format!("the catalog has {}", what())).err();
    }
    Ok(())
}

fn full(path: &Path, doing: &str) -> Fault {
    let directory = path.parent().unwrap_or(path).display();
    Fault::new(Kind::Store, format!("{doing}: no space is left for the catalog in {directory}"))
        .hint(format!("Make room on the disk that holds {directory}."))
}

fn is_full(path: &Path) -> bool {
    space::of(path).is_ok_and(|space| space.free < NO_SPACE || space.free_files == Some(0))
}

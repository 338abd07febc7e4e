//! The catalog: an index in SQLite of what the stores hold, and the diary of what pgkeep did.
//!
//! Commands write to it after the stores, so losing it loses no backup. All SQL is in this module, one file per
//! table. Every write is one transaction that is durable when the call returns, and takes its lock at the start;
//! several processes and threads may use one catalog at a time. Calls block: for milliseconds as a rule, for
//! [`Options::busy_timeout`] at most while others write.
//!
//! People read it with `sqlite3`, so names are plain and times are text. `migrations/` holds the schema.

mod alerts;
mod backups;
mod certificates;
mod cleanup;
mod cluster;
mod copies;
mod deliveries;
mod failure;
mod history;
mod jobs;
mod keys;
mod migrations;
mod overview;
mod pins;
mod restores;
mod runs;
#[cfg(test)]
mod tests;
mod usage;
mod values;
mod wal;
mod watching;
mod words;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::model::{Fault, FaultContext, Kind};
use crate::system::durable;

pub use alerts::{Alert, Alerts, Severity};
pub use backups::{BackupFilter, BackupRow, BackupStatus, Backups, WalPlace};
pub use certificates::SeenCertificate;
pub use cleanup::{Cleanup, DoomedWal, Instant, Leaving, LeavingWal, Marked, Standing, WalEnds, WalStretch};
pub use copies::{Copies, CopyKey, CopyRow, CopyState, Proof};
pub use deliveries::{Again, Audience, Deliveries, Delivery, Event, Recipient};
pub use history::Taken;
pub use jobs::{Job, JobState, Jobs, NewJob};
pub use overview::{
    EndedRun, Held, HourOfWal, OpenAlert, Overview, StoredSegment, TestRun, WaitingJob, WalBlock,
};
pub use pins::{Pin, Wish};
pub use restores::{
    Measured, NewRestore, Purpose, Restore, RestoreEnd, RestoreMode, RestorePlaces, RestoreState, Restores,
};
pub use runs::{NewRun, Run, RunOutcome, Runs};

pub use usage::{StoreUsage, Usage};
pub use wal::{ListedWal, Wal, WalCopy, WalRow};

use migrations::Standing as FileStanding;

/// How a catalog is used.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long to wait for other writers before it is a fault of kind [`Kind::Locked`].
    pub busy_timeout: Duration,
    /// Whether what is written survives a power failure; else only a crash of pgkeep. For rows that can be made again.
    pub durable: bool,
}

impl Default for Options {
    /// 30 seconds: with 8 writers at once the slowest of a hundred waits for 3.
    fn default() -> Self {
        Self { busy_timeout: Duration::from_secs(30), durable: true }
    }
}

/// An open catalog. Threads may share it; they take turns.
#[derive(Debug)]
pub struct Catalog {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Catalog {
    /// Makes the catalog, readable by its owner only, or opens the one that is there. The directory must exist.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        Self::create_with(path, Options::default())
    }

    /// The same with options. May be repeated after a failure or a kill, and run twice at the same time.
    pub fn create_with(path: &Path, options: Options) -> anyhow::Result<Self> {
        let doing = "create the catalog";
        // SQLite would make it with the umask's rights; its -wal and -shm files take theirs from it.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .or_fault(|| cannot_make(path))?;
        let catalog = Self::connect(path, options, doing)?;
        let prepare = |connection: &Connection| {
            log_ahead(connection, options.busy_timeout)?;
            migrations::migrate(connection)
        };
        match catalog.standing(doing)? {
            FileStanding::Newer(version) => return migrations::newer(path, version).err(),
            FileStanding::Foreign => return migrations::foreign(path).err(),
            FileStanding::Fresh | FileStanding::Known { .. } => catalog.read(doing, prepare)?,
        }
        durable::make_private(path).or_fault(|| cannot_make(path))?;
        durable::sync_parent(path).or_fault(|| cannot_make(path))?;
        Ok(catalog)
    }

    /// Opens the catalog, and brings it to this version's schema if it is from an earlier one.
    ///
    /// Fails with [`Kind::NotInitialised`] when there is none or it is from a newer pgkeep, with
    /// [`Kind::Damaged`] when it is no longer one, with [`Kind::Refused`] when it is another program's.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::open_with(path, Options::default())
    }

    /// The same with options.
    pub fn open_with(path: &Path, options: Options) -> anyhow::Result<Self> {
        let doing = "open the catalog";
        if matches!(path.try_exists(), Ok(false)) {
            return missing(path).err();
        }
        let catalog = Self::connect(path, options, doing)?;
        match catalog.standing(doing)? {
            FileStanding::Fresh => return missing(path).err(),
            FileStanding::Newer(version) => return migrations::newer(path, version).err(),
            FileStanding::Foreign => return migrations::foreign(path).err(),
            FileStanding::Known { outdated: true } => {
                catalog.read("bring the catalog to this version's schema", migrations::migrate)?;
            }
            FileStanding::Known { outdated: false } => {}
        }
        Ok(catalog)
    }

    /// Where the catalog lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The table of pgkeep's runs.
    pub fn runs(&self) -> Runs<'_> {
        Runs::new(self)
    }

    /// The table of backups.
    pub fn backups(&self) -> Backups<'_> {
        Backups::new(self)
    }

    /// The table of copies.
    pub fn copies(&self) -> Copies<'_> {
        Copies::new(self)
    }

    /// The log of restores.
    pub fn restores(&self) -> Restores<'_> {
        Restores::new(self)
    }

    /// The table of alerts.
    pub fn alerts(&self) -> Alerts<'_> {
        Alerts::new(self)
    }

    /// What is kept and what goes, over all tables.
    pub fn cleanup(&self) -> Cleanup<'_> {
        Cleanup::new(self)
    }

    /// The table of jobs.
    pub fn jobs(&self) -> Jobs<'_> {
        Jobs::new(self)
    }

    /// The table of archived WAL files.
    pub fn wal(&self) -> Wal<'_> {
        Wal::new(self)
    }

    /// The table of what stores hold.
    pub fn usage(&self) -> Usage<'_> {
        Usage::new(self)
    }

    /// All of it at one glance.
    pub fn overview(&self) -> Overview<'_> {
        Overview::new(self)
    }

    /// Reads every page and row, and returns what is wrong with them; nothing if all is well.
    pub fn check(&self) -> anyhow::Result<Vec<String>> {
        let found = self.read("check the catalog", |connection| {
            let mut found = Vec::new();
            let mut statement = connection.prepare("PRAGMA integrity_check")?;
            for text in statement.query_map([], |row| row.get::<_, String>(0))? {
                found.push(text?);
            }
            found.retain(|text| text != "ok");
            let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
            let rows = statement.query_map([], |row| {
                let (table, parent): (String, String) = (row.get("table")?, row.get("parent")?);
                Ok(format!("a row of {table} speaks of something that is not in {parent}"))
            })?;
            for text in rows {
                found.push(text?);
            }
            Ok(found)
        });
        match found {
            // Too broken to be checked to the end: that is what was to be found out.
            Err(error) if error.downcast_ref::<Fault>().is_some_and(|fault| fault.kind == Kind::Damaged) => {
                Ok(vec![format!("{error:#}")])
            }
            found => found,
        }
    }

    fn connect(path: &Path, options: Options, doing: &str) -> anyhow::Result<Self> {
        let connect = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            // First, because already the next ones may meet another process.
            connection.busy_timeout(options.busy_timeout)?;
            connection.pragma_update(None, "foreign_keys", true)?;
            // A row that was written must survive a power failure, not only a crash of pgkeep.
            let synchronous = if options.durable { "FULL" } else { "NORMAL" };
            connection.pragma_update(None, "synchronous", synchronous)?;
            if !options.durable {
                // Who closes last would move all from the log into the file, and flush both; others do that.
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            }
            Ok(connection)
        };
        let connection = connect().map_err(|error| failure::describe(path, doing, error))?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    fn standing(&self, doing: &str) -> anyhow::Result<FileStanding> {
        self.read(doing, migrations::standing)
    }

    /// Reads; or writes by itself, in ways that need no transaction around them.
    fn read<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> anyhow::Result<T> {
        work(&self.connection()).map_err(|error| failure::describe(&self.path, doing, error))
    }

    /// Writes in one transaction: all of it is durable on return, or nothing of it happened.
    ///
    /// The lock is taken at the start. Taken after a first read it could be refused at once, however long the
    /// timeout, because another process has written in between.
    fn write<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> anyhow::Result<T> {
        self.read(doing, |connection| {
            let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // Who panicked with it had his transaction rolled back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Switches to the write-ahead log, so that readers and the writer do not wait for each other.
fn log_ahead(connection: &Connection, patience: Duration) -> rusqlite::Result<()> {
    let deadline = std::time::Instant::now() + patience;
    loop {
        let switched = connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()));
        match switched {
            // SQLite does not wait by itself here when two processes do this to one new file.
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && std::time::Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            switched => return switched,
        }
    }
}

fn missing(path: &Path) -> Fault {
    Fault::new(Kind::NotInitialised, format!("there is no catalog at {}", path.display())).hint(
        "Run `pgkeep init` first, as the same user and with the same settings; if there are backups already, \
         `pgkeep catalog rebuild`.",
    )
}

fn cannot_make(path: &Path) -> Fault {
    Fault::new(Kind::Store, format!("create the catalog {}", path.display()))
        .hint("See that its directory exists, belongs to the user who runs pgkeep, and has room.")
}

//! A file of WAL that the server offers to the archive: opened once, and checked against what it claims to be.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::model::{Fault, FaultContext, Kind, WalKind, WalName};
use crate::postgres::wal::{HEADER_BYTES, SegmentHeader};

/// What tells a file from one that was written anew under its name: the file system's own words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file of WAL, open.
#[derive(Debug)]
pub struct WalFile {
    /// Its name.
    pub name: WalName,
    /// Where it lies.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// Its length in bytes.
    pub size: u64,
    /// What tells it from another one.
    pub stamp: Stamp,
    /// What its first page says; a history file and a backup's have none.
    pub header: Option<SegmentHeader>,
    /// Whose file it is, if that can be told: the system identifier in its first page, or in the `pg_control` beside.
    pub system_identifier: Option<u64>,
}

impl WalFile {
    /// Opens the file at this path as the archiver names it, and checks its first page. A relative path begins at the
    /// data directory, which is where the archiver starts its command.
    ///
    /// A name that is none of WAL's: [`Kind::Usage`]. A segment that is not what its name says: [`Kind::Damaged`]. Not
    /// there: [`Kind::NotThere`].
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let name: WalName = name.ok_or_else(|| {
            Fault::new(Kind::Usage, format!("{} is not the name of a WAL file", path.display()))
                .hint("archive_command must be given %p: `archive_command = 'pgkeep wal-push %p'`.")
        })?;
        let describe = || format!("read {}", path.display());
        let file = File::open(path).map_err(|error| {
            let kind =
                if error.kind() == std::io::ErrorKind::NotFound { Kind::NotThere } else { Kind::Store };
            Fault::new(kind, format!("{}: {error}", describe())).hint(
                "%p is relative to the data directory: run it there, or give an absolute path; the user must be \
                 allowed to read it.",
            )
        })?;
        let metadata = file.metadata().with_context(describe)?;
        let stamp = Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let size = metadata.len();
        let header = if matches!(name.kind(), WalKind::Segment | WalKind::Partial) {
            let mut bytes = vec![0; HEADER_BYTES.min(usize::try_from(size)?)];
            file.read_exact_at(&mut bytes, 0).with_context(describe)?;
            Some(SegmentHeader::of(&name, size, &bytes)?)
        } else if size == 0 {
            return Fault::new(Kind::Damaged, format!("{} is empty", path.display()))
                .hint("Look at the disk of the server.")
                .err();
        } else {
            None
        };
        let beside = || data_directory(path).and_then(|directory| control_identifier(&directory).ok());
        let system_identifier = header.map(|header| header.system_identifier).or_else(beside);
        Ok(Self { name, path: path.to_owned(), file, size, stamp, header, system_identifier })
    }

    /// The data directory that it lies in, as the file system knows it; `None` when it lies in none.
    pub fn data_directory(&self) -> Option<PathBuf> {
        data_directory(&self.path)
    }
}

/// The data directory to which `pg_wal/<file>` belongs: the current one for a relative path, else the one around
/// `pg_wal`. Links are followed.
fn data_directory(path: &Path) -> Option<PathBuf> {
    let is_one = |directory: &Path| directory.join("PG_VERSION").is_file();
    let directory = if path.is_relative() { PathBuf::from(".") } else { path.parent()?.parent()?.to_owned() };
    is_one(&directory).then(|| directory.canonicalize().ok()).flatten()
}

/// The system identifier of the cluster in this data directory: the first field of `pg_control`
/// (`src/include/catalog/pg_control.h`), in this machine's byte order.
pub fn control_identifier(data_directory: &Path) -> anyhow::Result<u64> {
    let path = data_directory.join("global/pg_control");
    let mut bytes = [0; 8];
    File::open(&path)
        .and_then(|file| file.read_exact_at(&mut bytes, 0))
        .or_fault(|| Fault::new(Kind::Postgres, format!("read {}", path.display())))?;
    Ok(u64::from_ne_bytes(bytes))
}

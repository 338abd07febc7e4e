//! A file on its way into a store. It is locked as long as its writer lives, so that whoever comes next can tell what a
//! killed one has left from what another is writing now.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::system::{durable, random_u32};

/// So many bytes the disk is given at once.
const BEGUN_AT_ONCE: u64 = 1 << 20;

/// A file that goes with this value, unless a store has taken it over by renaming.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    file: File,
}

impl Staged {
    /// Makes one below this directory, and removes what dead writers have left there.
    pub(super) fn create(staging: &Path) -> anyhow::Result<Self> {
        let directory = staging.join("wal");
        durable::create_private_dir(&directory)?;
        clear(&directory);
        let path = directory.join(format!("{:08x}-{}", random_u32()?, std::process::id()));
        let file = durable::create_private_file(&path)?;
        // Nobody else knows the name yet.
        let _ = file.try_lock();
        Ok(Self { path, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes into it from its beginning; the disk begins with a part while the next is made.
    pub(super) fn writer(&self) -> impl Write {
        Writer { file: &self.file, written: 0, begun: 0 }
    }

    pub(super) fn flush(&self) -> anyhow::Result<()> {
        Ok(self.file.sync_all()?)
    }
}

struct Writer<'a> {
    file: &'a File,
    written: u64,
    begun: u64,
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        if self.written - self.begun >= BEGUN_AT_ONCE {
            durable::begin_flush(self.file, self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = durable::remove_file_if_there(&self.path);
    }
}

/// What can't be removed now is removed another time.
fn clear(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        // One that was made in this moment and is not locked yet is not old.
        let is_old = entry.metadata().and_then(|it| it.modified()).is_ok_and(|modified| {
            modified.elapsed().is_ok_and(|age| age > std::time::Duration::from_secs(5))
        });
        if is_old && !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            let _ = durable::remove_file_if_there(&path);
        }
    }
}

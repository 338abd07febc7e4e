//! Locks between processes that the kernel frees when their holder dies, however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

/// A lock that is held until the value is dropped or the process ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// What an attempt to take a lock came to.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Taken(FileLock),
    /// Another process has it; the text is what that process wrote about itself.
    HeldBy(String),
}

impl FileLock {
    /// Tries to take the lock at once and writes into its file who holds it.
    ///
    /// The file stays after the lock is freed: removing it would let two processes lock two files of one name.
    pub fn attempt(path: &Path, holder: &str) -> anyhow::Result<Attempt> {
        let describe = || format!("lock {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .with_context(describe)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).with_context(describe)?;
                file.rewind().with_context(describe)?;
                file.write_all(holder.as_bytes()).with_context(describe)?;
                Ok(Attempt::Taken(Self { _file: file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).with_context(describe)?;
                Ok(Attempt::HeldBy(text.trim().to_owned()))
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(describe),
        }
    }

    /// Whether some process holds the lock now.
    pub fn is_held(path: &Path) -> anyhow::Result<bool> {
        let describe = || format!("look at lock {}", path.display());
        // Its holder may end and remove it at any moment.
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            file => file.with_context(describe)?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error).with_context(describe),
        }
    }
}

//! Locks between processes that the kernel frees when their holder dies, however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;

use super::durable;

/// How often a lock's file is made anew when it vanishes under one's hands.
const ATTEMPTS: u32 = 100;

/// A lock that is held until the value is dropped or the process ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// How a file is locked, if it can be at once.
type TryLock = fn(&File) -> Result<(), TryLockError>;

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
    /// The file stays after the lock is freed; only [`Self::remove_free`] removes one of a name that others may lock.
    pub fn attempt(path: &Path, holder: &str) -> anyhow::Result<Attempt> {
        Self::attempt_as(path, holder, File::try_lock)
    }

    /// The same for a lock that others may have at the same time, if they take it so too. The file names who took it last.
    pub fn attempt_shared(path: &Path, holder: &str) -> anyhow::Result<Attempt> {
        Self::attempt_as(path, holder, File::try_lock_shared)
    }

    fn attempt_as(path: &Path, holder: &str, lock: TryLock) -> anyhow::Result<Attempt> {
        for _ in 0..ATTEMPTS {
            if let Some(attempt) = Self::attempt_once(path, holder, lock)? {
                return Ok(attempt);
            }
        }
        anyhow::bail!("lock {}: it is removed again and again", path.display())
    }

    /// `None` when the file was removed between its opening and its locking: then it is not the one that others lock.
    fn attempt_once(path: &Path, holder: &str, lock: TryLock) -> anyhow::Result<Option<Attempt>> {
        let describe = || format!("lock {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .with_context(describe)?;
        match lock(&file) {
            Ok(()) => {
                if !is_at(&file, path).with_context(describe)? {
                    return Ok(None);
                }
                file.set_len(0).with_context(describe)?;
                file.rewind().with_context(describe)?;
                file.write_all(holder.as_bytes()).with_context(describe)?;
                Ok(Some(Attempt::Taken(Self { _file: file })))
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).with_context(describe)?;
                Ok(Some(Attempt::HeldBy(text.trim().to_owned())))
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(describe),
        }
    }

    /// Removes the locks of a directory whose name begins so and that nobody holds, left behind by processes that were
    /// killed; `keep` says which ones are not to be looked at. Whoever opens one of them in this moment finds out that
    /// it is gone and makes it anew.
    pub fn remove_free(directory: &Path, prefix: &str, keep: impl Fn(&Path) -> bool) -> anyhow::Result<()> {
        let describe = || format!("look for old locks in {}", directory.display());
        for entry in std::fs::read_dir(directory).with_context(describe)? {
            let entry = entry.with_context(describe)?;
            let path = entry.path();
            if !entry.file_name().to_string_lossy().starts_with(prefix) || keep(&path) {
                continue;
            }
            // Its holder may end and remove it at any moment.
            let file = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                file => file.with_context(describe)?,
            };
            if file.try_lock().is_ok() && is_at(&file, &path).with_context(describe)? {
                durable::remove_file_if_there(&path)?;
            }
        }
        Ok(())
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

/// Whether the file is still the one of this name.
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(path: &Path) -> FileLock {
        match FileLock::attempt(path, "test").expect("attempt") {
            Attempt::Taken(lock) => lock,
            Attempt::HeldBy(other) => panic!("held by {other}"),
        }
    }

    #[test]
    fn free_locks_are_removed_and_held_ones_stay() {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["run-1.lock", "run-2.lock", "settle.lock"] {
            File::create(path(name)).expect("make");
        }
        let held = taken(&path("run-3.lock"));
        FileLock::remove_free(directory.path(), "run-", |found| found == path("run-2.lock")).expect("remove");
        let left = |name: &str| path(name).exists();
        assert_eq!(
            ["run-1.lock", "run-2.lock", "run-3.lock", "settle.lock"].map(left),
            [false, true, true, true]
        );
        drop(held);
        FileLock::remove_free(directory.path(), "run-", |_| false).expect("remove");
        assert!(!left("run-3.lock"));
    }

    #[test]
    fn a_lock_whose_file_is_removed_in_between_is_made_anew() {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = directory.path().join("run-1.lock");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    FileLock::remove_free(directory.path(), "run-", |_| false).expect("remove");
                }
            });
            for _ in 0..2000 {
                // The other one may have it for a moment in order to remove it.
                let attempt = FileLock::attempt(&path, "test").expect("attempt");
                if let Attempt::Taken(_lock) = &attempt {
                    assert!(path.exists(), "a lock that nobody else can find");
                    assert!(FileLock::is_held(&path).expect("look"));
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}

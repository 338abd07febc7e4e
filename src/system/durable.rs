//! Writing files so that a crash leaves the old or the new, never a part.
//!
//! The order is always: write a temporary file in the same directory, fsync it, rename it into place, fsync the
//! directory. Only after the last step may anybody be told that the file is there.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::step::{self, Step};

/// The ending of files that are not finished; whatever bears it may be removed when no run is under way.
pub const UNFINISHED: &str = ".unfinished";

/// Makes the directory and its parents with mode 0700; one that exists is left as it is.
pub fn create_private_dir(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("create directory {}", path.display()))
}

/// Makes a new file with mode 0600 that only this process writes; fails when it exists.
pub fn create_private_file(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create file {}", path.display()))
}

/// Writes the bytes under this name, whole or not at all; an older file of the name is replaced.
pub fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    replace_file(path, bytes, |_| Ok(()))
}

/// The same for a file that others may read: with this mode, or without one with that of the file which it replaces,
/// or 0600. The step is reached when all is written and not yet under its name.
pub fn publish_file(path: &Path, bytes: &[u8], mode: Option<u32>, step: Step) -> anyhow::Result<()> {
    let mode = mode.unwrap_or_else(|| fs::metadata(path).map_or(0o600, |it| it.permissions().mode() & 0o777));
    replace_file(path, bytes, |file| {
        let set = file.set_permissions(Permissions::from_mode(mode));
        set.with_context(|| format!("set mode of {}", path.display()))?;
        step::reached(step)
    })
}

/// `finish` may do something with the file before it gets its name.
fn replace_file(
    path: &Path,
    bytes: &[u8],
    finish: impl FnOnce(&File) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let unfinished = unfinished_name(path)?;
    // Left behind by a run that was killed: nobody else writes under this name.
    remove_file_if_there(&unfinished)?;
    let write = || -> anyhow::Result<()> {
        let mut file = create_private_file(&unfinished)?;
        file.write_all(bytes).with_context(|| format!("write file {}", path.display()))?;
        finish(&file)?;
        file.sync_all().with_context(|| format!("flush file {}", path.display()))?;
        fs::rename(&unfinished, path).with_context(|| format!("rename {}", unfinished.display()))?;
        sync_parent(path)
    };
    write().inspect_err(|_| {
        // A file that could not be finished is of no use; that it can't be removed either changes nothing.
        let _ = fs::remove_file(&unfinished);
    })
}

/// Lets the disk begin to take what was written here: the flush that comes later finds less to do.
///
/// Of pages that are dirty, `POSIX_FADV_DONTNEED` only begins the writing (`generic_fadvise` in Linux's `mm/fadvise.c`),
/// and waits when the disk has too much to do already. This makes nothing durable, and where it can't be done nothing is
/// lost.
pub fn begin_flush(file: &File, offset: u64, length: u64) {
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(length), rustix::fs::Advice::DontNeed);
}

/// Flushes a directory, so that names made or removed in it survive a crash.
pub fn sync_dir(path: &Path) -> anyhow::Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("flush directory {}", path.display()))
}

/// Flushes the directory that holds this file.
pub fn sync_parent(path: &Path) -> anyhow::Result<()> {
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Removes a file; that it is not there is fine.
pub fn remove_file_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove file {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes what a [`write_file`] or [`copy_file`] to this path left behind when it was killed.
pub fn remove_unfinished(path: &Path) -> anyhow::Result<()> {
    remove_file_if_there(&unfinished_name(path)?)
}

/// Removes a directory with all that is in it; that it is not there is fine.
pub fn remove_dir_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove directory {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Whether somebody other than the owner may read or write it.
pub fn open_to_others(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}

/// Takes all rights from everybody but the owner.
pub fn make_private(path: &Path) -> anyhow::Result<()> {
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("set mode of {}", path.display()))
}

fn unfinished_name(path: &Path) -> anyhow::Result<PathBuf> {
    let mut name =
        path.file_name().with_context(|| format!("{} is not a file's name", path.display()))?.to_owned();
    name.push(UNFINISHED);
    Ok(path.with_file_name(name))
}

/// Copies a file under a new name, whole or not at all.
pub fn copy_file(from: &Path, to: &Path) -> anyhow::Result<()> {
    let unfinished = unfinished_name(to)?;
    remove_file_if_there(&unfinished)?;
    let copy = || -> anyhow::Result<()> {
        let mut source = File::open(from).with_context(|| format!("open file {}", from.display()))?;
        let mut file = create_private_file(&unfinished)?;
        io::copy(&mut source, &mut file).with_context(|| format!("copy to {}", to.display()))?;
        file.sync_all().with_context(|| format!("flush file {}", to.display()))?;
        fs::rename(&unfinished, to).with_context(|| format!("rename {}", unfinished.display()))?;
        sync_parent(to)
    };
    copy().inspect_err(|_| {
        let _ = fs::remove_file(&unfinished);
    })
}

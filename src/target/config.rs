//! A backed up configuration as files of a new directory.
//!
//! Everything is written beside its place and renamed when all is there: who is cut off leaves no directory that looks
//! whole.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::format::manifest::Manifest;
use crate::model::{Fault, FaultContext, Kind};
use crate::pipeline::Sink;
use crate::system::{Step, durable, step};

/// Writes entries below a directory that is to be.
#[derive(Debug)]
pub struct ConfigTarget {
    directory: PathBuf,
    beside: PathBuf,
    manifest: Arc<Manifest>,
    open: HashMap<usize, File>,
}

/// Refuses a directory in which there is something.
pub fn refuse_filled(directory: &Path) -> anyhow::Result<()> {
    let is_free = match fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(|| format!("look into {}", directory.display())),
    };
    if is_free {
        return Ok(());
    }
    Fault::new(Kind::Refused, format!("{} is not empty", directory.display()))
        .hint("Name a directory that is empty or not there yet; copy from it what you need.")
        .err()
}

impl ConfigTarget {
    /// Begins beside this directory; what an earlier run has left there goes.
    pub fn create(directory: PathBuf, manifest: Arc<Manifest>) -> anyhow::Result<Self> {
        refuse_filled(&directory)?;
        let mut name = directory.as_os_str().to_owned();
        name.push(durable::UNFINISHED);
        let beside = PathBuf::from(name);
        let describe = || {
            Fault::new(Kind::Store, format!("make the directory {}", beside.display()))
                .hint("Choose a place where this user may write.")
        };
        durable::remove_dir_if_there(&beside).or_fault(describe)?;
        durable::create_private_dir(&beside).or_fault(describe)?;
        Ok(Self { directory, beside, manifest, open: HashMap::new() })
    }

    /// Gives the directory its name: everything is there.
    pub fn complete_all(self) -> anyhow::Result<()> {
        step::reached(Step::ConfigFilled)?;
        rustix::fs::syncfs(File::open(&self.beside)?)
            .with_context(|| format!("flush {}", self.beside.display()))?;
        // Onto an empty directory, too; onto a filled one it fails.
        fs::rename(&self.beside, &self.directory)
            .with_context(|| format!("put {} into its place", self.directory.display()))?;
        durable::sync_parent(&self.directory)
    }

    fn path(&self, entry: usize) -> anyhow::Result<PathBuf> {
        let name = &self.manifest.entries[entry].name;
        // A manifest is sealed, but one that leaves its directory would be a disaster.
        if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) || name.is_empty() {
            return Fault::new(Kind::Damaged, format!("\"{name}\" is not a name within a directory")).err();
        }
        Ok(self.beside.join(name))
    }

    fn file(&mut self, entry: usize) -> anyhow::Result<&File> {
        let path = self.path(entry)?;
        match self.open.entry(entry) {
            std::collections::hash_map::Entry::Occupied(file) => Ok(file.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                durable::create_private_dir(path.parent().unwrap_or(Path::new(".")))?;
                Ok(place.insert(durable::create_private_file(&path)?))
            }
        }
    }
}

/// Removes what was begun beside this directory.
pub fn abandon(directory: &Path) -> anyhow::Result<()> {
    let mut name = directory.as_os_str().to_owned();
    name.push(durable::UNFINISHED);
    durable::remove_dir_if_there(Path::new(&name))
}

impl Sink for ConfigTarget {
    fn write(&mut self, entry: usize, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let describe = format!("write {} below {}", self.manifest.entries[entry].name, self.beside.display());
        self.file(entry)?
            .write_all_at(bytes, offset)
            .or_fault(|| Fault::new(Kind::Store, describe).hint("Make room there and run it again."))
    }

    fn complete(&mut self, entry: usize) -> anyhow::Result<()> {
        let mode = self.manifest.entries[entry].mode;
        // An empty entry had no write that made its file.
        let file = self.file(entry).context("make a file")?;
        file.set_permissions(Permissions::from_mode(mode)).context("set the mode of a file")?;
        self.open.remove(&entry);
        Ok(())
    }
}

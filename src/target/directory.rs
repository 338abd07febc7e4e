//! Entries as files of a directory that belongs to this run.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::format::manifest::Manifest;
use crate::model::{Fault, Kind};
use crate::pipeline::Sink;
use crate::system::durable;

/// Writes entries below a directory. Not flushed: whoever reads the files does so in the same run.
#[derive(Debug)]
pub struct DirectoryTarget {
    root: PathBuf,
    manifest: Arc<Manifest>,
    open: HashMap<usize, File>,
}

impl DirectoryTarget {
    /// Writes below this directory, which is made.
    pub fn create(root: PathBuf, manifest: Arc<Manifest>) -> anyhow::Result<Self> {
        durable::create_private_dir(&root)?;
        Ok(Self { root, manifest, open: HashMap::new() })
    }

    fn path(&self, entry: usize) -> anyhow::Result<PathBuf> {
        let name = &self.manifest.entries[entry].name;
        // A manifest is sealed, but one that leaves its directory would be a disaster.
        if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) || name.is_empty() {
            return Fault::new(Kind::Damaged, format!("\"{name}\" is not a name within a directory")).err();
        }
        Ok(self.root.join(name))
    }

    fn file(&mut self, entry: usize) -> anyhow::Result<&File> {
        let path = self.path(entry)?;
        match self.open.entry(entry) {
            std::collections::hash_map::Entry::Occupied(file) => Ok(file.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                Ok(place.insert(durable::create_private_file(&path)?))
            }
        }
    }
}

impl Sink for DirectoryTarget {
    fn write(&mut self, entry: usize, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let describe = format!("write {} below {}", self.manifest.entries[entry].name, self.root.display());
        self.file(entry)?.write_all_at(bytes, offset).map_err(|error| {
            anyhow::Error::new(error).context(
                Fault::new(Kind::Store, describe)
                    .hint("Make room there, or set BACKUP_SCRATCH_DIR to a directory with more."),
            )
        })
    }

    fn complete(&mut self, entry: usize) -> anyhow::Result<()> {
        // An empty entry had no write that made its file.
        self.file(entry).context("make a file")?;
        self.open.remove(&entry);
        Ok(())
    }
}

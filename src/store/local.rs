//! The local store: a directory. Files are 0600, directories 0700.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::RwLock;
use tokio::task::spawn_blocking;

use super::{Body, ObjectInfo, ReadStore, Store, StoreError, StoreErrorKind};
use crate::model::{StoreName, Timestamp};
use crate::system::durable;

/// Where volumes are written until they get their names; on the same file system, so that it takes a rename.
const STAGING: &str = ".staging";

/// `<cluster>/backups` and the like stay, empty or not.
const SHARED_LEVELS: usize = 2;

/// A directory of this machine as a store.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
    /// Held for reading by each write, by the work itself: it goes on when nobody waits for it any more.
    writing: Arc<RwLock<()>>,
}

impl LocalStore {
    /// Opens the store in this directory, which need not exist yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root, writing: Arc::default() }
    }

    /// The directory in which files to be put are best written.
    pub fn staging(&self) -> PathBuf {
        self.root.join(STAGING)
    }

    /// Waits for the writes that are under way, those that were broken off included: what they make would otherwise be
    /// missed by the listing, or come back after the delete, with which a run clears up.
    async fn settled(&self) {
        drop(self.writing.write().await);
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Runs file operations on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&Path) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let path = self.path(key);
        let place = path.display().to_string();
        let result = spawn_blocking(move || work(&path)).await;
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failure(operation, place, &error)),
            Err(error) => Err(failure(operation, place, &error.into())),
        }
    }
}

#[async_trait]
impl ReadStore for LocalStore {
    fn name(&self) -> StoreName {
        StoreName::Local
    }

    fn locate(&self, key: &str) -> String {
        self.path(key).display().to_string()
    }

    async fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.blocking("read", key, move |path| {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::with_capacity(usize::try_from(length)?);
            file.take(length).read_to_end(&mut bytes)?;
            if bytes.len() as u64 != length {
                let end = offset + bytes.len() as u64;
                let message = format!("it ends after {end} bytes, at least {} were stored", offset + length);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message).into());
            }
            Ok(bytes)
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let name = key.to_owned();
        self.blocking("look at", key, move |path| match fs::metadata(path) {
            Ok(metadata) => Ok(Some(ObjectInfo {
                key: name,
                size: metadata.len(),
                modified: metadata.modified().ok().map(Into::into),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let name = prefix.to_owned();
        self.settled().await;
        // What a prefix that does not end in `/` begins is in the directory above it.
        let directory = prefix.rfind('/').map_or("", |end| &prefix[..=end]).to_owned();
        let beginning = name[directory.len()..].to_owned();
        self.blocking("list", &directory.clone(), move |path| {
            let mut objects = Vec::new();
            collect(path, &directory, &beginning, &mut objects)?;
            objects.sort_by(|left, right| left.key.cmp(&right.key));
            Ok(objects)
        })
        .await
    }
}

#[async_trait]
impl Store for LocalStore {
    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        let staging = self.staging();
        let root = self.root.clone();
        let writing = Arc::clone(&self.writing).read_owned().await;
        self.blocking("write", key, move |path| {
            let _writing = writing;
            let directory = path.parent().unwrap_or(&root);
            make_dirs(&root, directory)?;
            match body {
                Body::Bytes(bytes) => durable::write_file(path, &bytes),
                Body::File { path: from, .. } if from.starts_with(&staging) => {
                    fs::rename(&from, path)?;
                    // No object until its name is flushed: the file goes back to where the other stores look for it.
                    durable::sync_parent(path).inspect_err(|_| {
                        let _ = fs::rename(path, &from);
                    })
                }
                Body::File { path: from, .. } => durable::copy_file(&from, path),
            }
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.settled().await;
        self.blocking("delete", key, |path| {
            durable::remove_file_if_there(path)?;
            // What a writer of this object that was killed has left.
            durable::remove_unfinished(path)?;
            let Some(directory) = path.parent() else { return Ok(()) };
            // Durable, because the order counts: a manifest must not come back after its volumes are gone.
            match durable::sync_dir(directory) {
                // Gone with another object that was deleted at the same time.
                Err(error) if kind_of(&error) == Some(io::ErrorKind::NotFound) => return Ok(()),
                flushed => flushed?,
            }
            // The backup's directory goes with its last object.
            let _ = fs::remove_dir(directory);
            Ok(())
        })
        .await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<(), StoreError> {
        let Some(first) = keys.first() else { return Ok(()) };
        self.settled().await;
        let (root, paths) = (self.root.clone(), keys.iter().map(|key| self.path(key)).collect::<Vec<_>>());
        self.blocking("delete", first, move |_| delete_many(&root, &paths)).await
    }

    async fn remove_empty(&self, prefix: &str, unchanged_since: Timestamp) -> Result<(), StoreError> {
        self.settled().await;
        self.blocking("look for empty directories in", prefix, move |path| {
            remove_empty(path, unchanged_since.into())
        })
        .await
    }

    /// That of the file system: of one on another machine it is that machine's clock.
    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        let staging = self.staging();
        let name = format!("clock-{}", std::process::id());
        self.blocking("look at the clock of", "", move |root| {
            if !root.is_dir() {
                return Ok(None);
            }
            durable::create_private_dir(&staging)?;
            let path = staging.join(name);
            durable::remove_file_if_there(&path)?;
            let mut file = durable::create_private_file(&path)?;
            // Its name is gone before anything else can happen.
            durable::remove_file_if_there(&path)?;
            io::Write::write_all(&mut file, b"pgkeep")?;
            Ok(Some(file.metadata()?.modified()?.into()))
        })
        .await
    }
}

/// Removes files, then flushes each directory once, and removes those that are empty with the empty ones above them.
fn delete_many(root: &Path, paths: &[PathBuf]) -> anyhow::Result<()> {
    let mut directories = BTreeSet::new();
    for path in paths {
        durable::remove_file_if_there(path)?;
        durable::remove_unfinished(path)?;
        directories.extend(path.parent().map(Path::to_owned));
    }
    for directory in directories {
        match durable::sync_dir(&directory) {
            Err(error) if kind_of(&error) == Some(io::ErrorKind::NotFound) => continue,
            flushed => flushed?,
        }
        let mut empty = Some(directory.as_path());
        // Down to, and without, the directories that every cluster has.
        while let Some(path) = empty.filter(|path| {
            path.strip_prefix(root).is_ok_and(|inside| inside.components().count() > SHARED_LEVELS)
        }) {
            if fs::remove_dir(path).is_err() {
                break;
            }
            empty = path.parent();
        }
    }
    Ok(())
}

/// Removes what is empty below a directory. Somebody may be about to write into one that is new.
fn remove_empty(directory: &Path, unchanged_since: SystemTime) -> anyhow::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if !metadata.is_dir() {
            continue;
        }
        remove_empty(&entry.path(), unchanged_since)?;
        if metadata.modified()? < unchanged_since {
            // One that is not empty stays.
            let _ = fs::remove_dir(entry.path());
        }
    }
    Ok(())
}

/// Makes the directories below the root one by one and flushes each one's parent, so that the way to an object
/// survives a crash as the object does.
fn make_dirs(root: &Path, directory: &Path) -> anyhow::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if directory != root
        && let Some(parent) = directory.parent()
    {
        make_dirs(root, parent)?;
    }
    durable::create_private_dir(directory)?;
    durable::sync_parent(directory)
}

fn collect(
    directory: &Path,
    prefix: &str,
    beginning: &str,
    objects: &mut Vec<ObjectInfo>,
) -> anyhow::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        // Names that are not UTF-8, unfinished files and the staging directory are none of the store's objects.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with(beginning) || name.starts_with('.') || name.ends_with(durable::UNFINISHED) {
            continue;
        }
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            collect(&entry.path(), &format!("{prefix}{name}/"), "", objects)?;
        } else {
            let modified = metadata.modified().ok().map(Into::into);
            objects.push(ObjectInfo { key: format!("{prefix}{name}"), size: metadata.len(), modified });
        }
    }
    Ok(())
}

fn kind_of(error: &anyhow::Error) -> Option<io::ErrorKind> {
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

fn failure(operation: &'static str, place: String, error: &anyhow::Error) -> StoreError {
    let kind = match kind_of(error) {
        Some(io::ErrorKind::NotFound) => StoreErrorKind::Absent,
        Some(io::ErrorKind::UnexpectedEof) => StoreErrorKind::Short,
        Some(io::ErrorKind::PermissionDenied) => StoreErrorKind::Denied,
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge) => {
            StoreErrorKind::Full
        }
        Some(io::ErrorKind::ReadOnlyFilesystem) => StoreErrorKind::ReadOnly,
        _ => StoreErrorKind::Failed,
    };
    StoreError { store: StoreName::Local, operation, place, kind, cause: format!("{error:#}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt as _;

    use super::*;
    use crate::store::Replicas;

    #[tokio::test]
    async fn a_write_that_is_broken_off_leaves_nothing_behind_the_clearing_up() {
        let directory = tempfile::tempdir().unwrap();
        let (root, spooled) = (directory.path().join("store"), directory.path().join("spooled"));
        let size = 64 << 20;
        File::create(&spooled).unwrap().set_len(size).unwrap();
        let (store, prefix) = (LocalStore::new(root.clone()), "main/backups/id/");
        let replicas =
            Replicas::new(Some(store.clone()), Vec::new(), &[StoreName::Local], spooled.clone(), 1);
        let put = store.put("main/backups/id/data.00000", Body::file(spooled, size));
        assert!(put.now_or_never().is_none(), "it was to be broken off while it is under way");
        replicas.delete_all(&[StoreName::Local], prefix).await.unwrap();
        for _ in 0..25 {
            assert!(!root.join(prefix).exists());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn objects_that_are_deleted_at_the_same_time_take_their_directory_with_them() {
        let root = tempfile::tempdir().unwrap();
        let (store, prefix) = (LocalStore::new(root.path().to_owned()), "main/backups/id/");
        let replicas = Replicas::new(Some(store), Vec::new(), &[StoreName::Local], PathBuf::new(), 1);
        for _ in 0..20 {
            fs::create_dir_all(root.path().join(prefix)).unwrap();
            for number in 0..20 {
                fs::write(root.path().join(prefix).join(format!("data.{number:05}")), "a volume").unwrap();
            }
            assert_eq!(replicas.delete_all(&[StoreName::Local], prefix).await.unwrap(), 20);
            assert!(!root.path().join(prefix).exists());
        }
    }

    #[tokio::test]
    async fn a_manifest_whose_writer_was_killed_goes_with_its_backup() {
        let root = tempfile::tempdir().unwrap();
        let (directory, prefix) = (root.path().join("main/backups/id"), "main/backups/id/");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("data.00000"), "a volume").unwrap();
        fs::write(directory.join("manifest.unfinished"), "pgkeep mani").unwrap();
        let (store, spool) = (LocalStore::new(root.path().to_owned()), root.path().join("spool"));
        let replicas = Replicas::new(Some(store.clone()), Vec::new(), &[StoreName::Local], spool, 1);
        assert_eq!(store.list(prefix).await.unwrap().len(), 1, "what is unfinished is no object");
        assert_eq!(replicas.delete_all(&[StoreName::Local], prefix).await.unwrap(), 1);
        assert!(!directory.exists());
        assert_eq!(
            replicas.delete_all(&[StoreName::Local], prefix).await.unwrap(),
            0,
            "nothing is left to delete, and that is fine"
        );
    }
}

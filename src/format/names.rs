//! Where things lie in a store: keys are paths with `/`, relative to the store's root.

use crate::model::{BackupId, ClusterName};

/// The name of a backup's manifest within its directory.
pub const MANIFEST: &str = "manifest";

/// `<cluster>/identity`
pub fn identity(cluster: &ClusterName) -> String {
    format!("{cluster}/identity")
}

/// `<cluster>/backups/`: what all keys of backups begin with.
pub fn backups(cluster: &ClusterName) -> String {
    format!("{cluster}/backups/")
}

/// `<cluster>/backups/<id>/`: what all keys of one backup begin with.
pub fn backup(cluster: &ClusterName, id: &BackupId) -> String {
    format!("{cluster}/backups/{id}/")
}

/// `<cluster>/backups/<id>/<object>`: a volume or the manifest.
pub fn object(cluster: &ClusterName, id: &BackupId, object: &str) -> String {
    format!("{cluster}/backups/{id}/{object}")
}

/// The name of a volume within its backup's directory: `data.00000`.
pub fn volume(number: u32) -> String {
    format!("data.{number:05}")
}

/// Takes a key apart into the backup and the object; `None` for keys of anything else.
pub fn parse_object(cluster: &ClusterName, key: &str) -> Option<(BackupId, String)> {
    let (id, object) = key.strip_prefix(&backups(cluster))?.split_once('/')?;
    if object.is_empty() || object.contains('/') {
        return None;
    }
    Some((id.parse().ok()?, object.to_owned()))
}

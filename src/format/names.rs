//! Where things lie in a store: keys are paths with `/`, relative to the store's root.

use chrono::NaiveDateTime;

use crate::model::{BackupId, ClusterName, Digest, RunId, Timestamp, WalName};

/// The name of a backup's manifest within its directory.
pub const MANIFEST: &str = "manifest";

/// The last words in the names of wishes, and how they write times: to the millisecond, as the catalog does.
const KEPT: &str = "kept";
const UNKEPT: &str = "unkept";
const WISH_TIME: &str = "%Y%m%dT%H%M%S%3fZ";

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

/// `<cluster>/catalog/`: what all keys of saved catalogs begin with.
pub fn saved_catalogs(cluster: &ClusterName) -> String {
    format!("{cluster}/catalog/")
}

/// `<cluster>/catalog/<lineage>/`: what the keys of one catalog's copies begin with.
pub fn saved_of(cluster: &ClusterName, lineage: &str) -> String {
    format!("{cluster}/catalog/{lineage}/")
}

/// `catalog/<lineage>/<time>-<run>`: the owner of a saved catalog, which is its key without the cluster's name.
pub fn saved_owner(lineage: &str, at: Timestamp, run: &RunId) -> String {
    format!("catalog/{lineage}/{}-{run}", at.format("%Y%m%dT%H%M%S%3fZ"))
}

/// The lineage and the owner of a saved catalog; `None` for keys of anything else.
pub fn parse_saved<'a>(cluster: &ClusterName, key: &'a str) -> Option<(&'a str, &'a str)> {
    let owner = key.strip_prefix(cluster.as_str())?.strip_prefix('/')?;
    let (lineage, name) = owner.strip_prefix("catalog/")?.split_once('/')?;
    let is_plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    (is_plain(lineage) && is_plain(name)).then_some((lineage, owner))
}

/// `<cluster>/kept/`: what all keys of wishes to keep backups begin with.
pub fn wishes(cluster: &ClusterName) -> String {
    format!("{cluster}/kept/")
}

/// `kept/<id>/<time>-<kept|unkept>`: the owner of such a wish, which is its key without the cluster's name.
pub fn wish_owner(backup: &BackupId, at: Timestamp, is_kept: bool) -> String {
    let word = if is_kept { KEPT } else { UNKEPT };
    format!("kept/{backup}/{}-{word}", at.format(WISH_TIME))
}

/// Takes the key of a wish apart: which backup, when, and whether it is to be kept; `None` for keys of anything else.
pub fn parse_wish(cluster: &ClusterName, key: &str) -> Option<(BackupId, Timestamp, bool)> {
    let (id, name) = key.strip_prefix(&wishes(cluster))?.split_once('/')?;
    let (time, word) = name.split_once('-')?;
    let at = NaiveDateTime::parse_from_str(time, WISH_TIME).ok()?.and_utc();
    let id: BackupId = id.parse().ok()?;
    let is_kept = word == KEPT;
    (key == format!("{cluster}/{}", wish_owner(&id, at, is_kept))).then_some((id, at, is_kept))
}

/// `<cluster>/wal/`: what all keys of WAL files begin with.
pub fn wal(cluster: &ClusterName) -> String {
    format!("{cluster}/wal/")
}

/// `<cluster>/wal/<timeline>/`: what the keys of a timeline's WAL files begin with.
pub fn wal_timeline(cluster: &ClusterName, timeline: u32) -> String {
    format!("{cluster}/wal/{timeline:08X}/")
}

/// `<cluster>/wal/<timeline>/<group>/`: what the keys of the WAL files around this one begin with, 4 GiB of WAL as a
/// rule, so that a listing is short however large the archive is.
pub fn wal_group(cluster: &ClusterName, file: &WalName) -> String {
    format!("{cluster}/wal/{:08X}/{}/", file.timeline(), file.group())
}

/// `wal/<timeline>/<group>/<file>-<sha256>`: the owner of a WAL file's object, which is its key without the cluster's
/// name. The digest is of the plain bytes: other bytes under the same name never overwrite.
pub fn wal_owner(file: &WalName, sha256: &Digest) -> String {
    format!("wal/{:08X}/{}/{file}-{sha256}", file.timeline(), file.group())
}

/// `<cluster>/wal/<timeline>/<group>/<file>-<sha256>`
pub fn wal_file(cluster: &ClusterName, file: &WalName, sha256: &Digest) -> String {
    format!("{cluster}/{}", wal_owner(file, sha256))
}

/// Takes a key that [`wal_file`] made apart; `None` for keys of anything else.
pub fn parse_wal(cluster: &ClusterName, key: &str) -> Option<(WalName, Digest)> {
    let (file, sha256) = key.rsplit_once('/')?.1.rsplit_once('-')?;
    let (file, sha256) = (file.parse().ok()?, sha256.parse().ok()?);
    (wal_file(cluster, &file, &sha256) == key).then_some((file, sha256))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wal_files_of_every_sort_are_known_by_their_keys() {
        let cluster: ClusterName = "main".parse().unwrap();
        let digest = "ab".repeat(32);
        for (directory, file) in [
            ("00000001/0000000A", "000000010000000A000000FE"),
            ("00000002/history", "00000002.history"),
            ("00000001/0000000A", "000000010000000A000000FE.00000028.backup"),
            ("00000001/0000000A", "000000010000000A000000FE.partial"),
        ] {
            let key = format!("main/wal/{directory}/{file}-{digest}");
            let (found, sha256) = parse_wal(&cluster, &key).unwrap();
            assert_eq!((found.as_str(), sha256.to_string()), (file, digest.clone()));
            assert_eq!(wal_file(&cluster, &found, &sha256), key);
            assert!(key.starts_with(&wal_group(&cluster, &found)));
            assert!(key.starts_with(&wal_timeline(&cluster, found.timeline())));
        }
        for other in [
            format!("main/wal/00000002/0000000A/000000010000000A000000FE-{digest}"),
            format!("main/wal/00000001/0000000B/000000010000000A000000FE-{digest}"),
            format!("main/wal/00000001/000000010000000A000000FE-{digest}"),
            format!("main/wal/00000001/0000000a/000000010000000a000000fe-{digest}"),
            format!("main/wal/00000001/0000000A/000000010000000A000000FE.backup-{digest}"),
            format!("main/wal/00000000/0000000A/000000000000000A000000FE-{digest}"),
            "main/wal/00000001/0000000A/000000010000000A000000FE-abcd".to_owned(),
            format!("other/wal/00000001/0000000A/000000010000000A000000FE-{digest}"),
        ] {
            assert_eq!(parse_wal(&cluster, &other), None, "{other}");
        }
    }

    #[test]
    fn saved_catalogs_are_known_by_their_keys() {
        let cluster: ClusterName = "main".parse().unwrap();
        let owner = saved_owner("1a2b3c4d", Timestamp::UNIX_EPOCH, &RunId::new(7));
        assert_eq!(owner, "catalog/1a2b3c4d/19700101T000000000Z-00000007");
        assert_eq!(parse_saved(&cluster, &format!("main/{owner}")), Some(("1a2b3c4d", &owner[..])));
        for other in ["main/catalog/a", "main/catalog//b", "main/catalog/a/../b", "other/catalog/a/b"] {
            assert_eq!(parse_saved(&cluster, other), None, "{other}");
        }
    }

    #[test]
    fn wishes_are_known_by_their_keys() {
        let cluster: ClusterName = "main".parse().unwrap();
        let id: BackupId = "20261122T020000Z-database-1a2b3c4d".parse().unwrap();
        let at = Timestamp::from_timestamp_millis(1_795_312_800_007).unwrap();
        for is_kept in [true, false] {
            let key = format!("main/{}", wish_owner(&id, at, is_kept));
            assert!(key.starts_with(&wishes(&cluster)));
            assert_eq!(parse_wish(&cluster, &key), Some((id.clone(), at, is_kept)), "{key}");
        }
        for other in [
            "main/kept/20261122T020000Z-database-1a2b3c4d/20261122T020000007Z-perhaps",
            "main/kept/20261122T020000Z-database-1a2b3c4d/20261122T020000Z-kept",
            "main/kept/anything/20261122T020000007Z-kept",
            "other/kept/20261122T020000Z-database-1a2b3c4d/20261122T020000007Z-kept",
        ] {
            assert_eq!(parse_wish(&cluster, other), None, "{other}");
        }
    }
}

//! PostgreSQL's own `backup_manifest`, by which `pg_verifybackup` checks a data directory (manual, appendix "Backup
//! Manifest Format"). It belongs to PostgreSQL, not to pgkeep's format; what is written here is as `pg_basebackup` has
//! it, with SHA-256.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};

use super::cluster::Cluster;
use crate::model::Digest;

/// A file of the backup.
#[derive(Debug, Clone)]
pub struct ManifestFile<'a> {
    /// Its path below the data directory.
    pub path: &'a str,
    /// Bytes.
    pub size: u64,
    /// When it was last changed.
    pub modified: DateTime<Utc>,
    /// SHA-256 of its bytes.
    pub sha256: &'a Digest,
}

/// The manifest's text. From PostgreSQL 17 on it names the cluster.
pub fn write<'a>(
    files: impl Iterator<Item = ManifestFile<'a>>,
    cluster: &Cluster,
    system_identifier: u64,
    major: u32,
) -> String {
    let mut text = String::from("{ ");
    let _ = if major >= 17 {
        writeln!(
            text,
            "\"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_identifier},"
        )
    } else {
        writeln!(text, "\"PostgreSQL-Backup-Manifest-Version\": 1,")
    };
    text.push_str("\"Files\": [");
    let mut separator = "\n";
    for ManifestFile { path, size, modified, sha256 } in files {
        let path = serde_json::Value::String(path.to_owned());
        let modified = modified.format("%Y-%m-%d %H:%M:%S GMT");
        let _ = write!(
            text,
            "{separator}{{ \"Path\": {path}, \"Size\": {size}, \"Last-Modified\": \"{modified}\", \
             \"Checksum-Algorithm\": \"SHA256\", \"Checksum\": \"{sha256}\" }}"
        );
        separator = ",\n";
    }
    let _ = write!(
        text,
        "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}\n],\n",
        cluster.timeline, cluster.start_lsn, cluster.stop_lsn
    );
    let sum = hex::encode(Sha256::digest(&text));
    let _ = writeln!(text, "\"Manifest-Checksum\": \"{sum}\"}}");
    text
}

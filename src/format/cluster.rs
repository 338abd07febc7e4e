//! What the manifest of a cluster backup knows beyond its files (SPEC.md, section 7).

use serde::{Deserialize, Serialize};

use crate::model::Lsn;

/// A physical backup: where in the stream of WAL it lies, and what of the data directory is no file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where the backup is consistent: replay must get here at least.
    pub stop_lsn: Lsn,
    /// The timeline on which it was made.
    pub timeline: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u32,
    /// The first segment that replay needs.
    pub first_segment: String,
    /// The last segment that it needs in order to be consistent.
    pub last_segment: String,
    /// Bytes of a page.
    pub block_size: u32,
    /// Whether pages have checksums, which were then verified.
    pub data_checksums: bool,
    /// Whether it was made from a standby.
    pub from_standby: bool,
    /// Permission bits of the data directory itself.
    pub mode: u32,
    /// The user and the group that it belonged to, by name.
    pub owner: (String, String),
    /// Where the data directory was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_directory: Option<String>,
    /// Where `postgresql.conf` was, if not in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_file: Option<String>,
    /// Every directory below it, parents first.
    pub directories: Vec<Directory>,
    /// Where tablespaces were, those that lie outside of the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// Pages whose checksum was wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged_pages: Vec<DamagedPages>,
    /// What lies in the data directory and was left out, and is none of PostgreSQL's own: links, sockets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its path below the data directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
}

/// A tablespace outside of the data directory; its files are entries under `pg_tblspc/<oid>/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its number, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it was.
    pub path: String,
    /// Permission bits of that directory.
    pub mode: u32,
}

/// Pages of a file whose checksum was wrong when they were read, and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPages {
    /// The file, as the entry is called.
    pub file: String,
    /// The numbers of the pages within the file.
    pub blocks: Vec<u32>,
}

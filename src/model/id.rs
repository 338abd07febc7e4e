//! Names of things: backups, runs, clusters, stores.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Fault, Kind};

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// One database, logical, made with `pg_dump`.
    Database,
    /// One tenant's rows, logical.
    Tenant,
    /// The whole cluster, physical.
    Cluster,
    /// Configuration files, roles and tablespaces.
    Config,
}

impl BackupKind {
    /// The word used in identifiers, in the catalog and on the screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Tenant => "tenant",
            Self::Cluster => "cluster",
            Self::Config => "config",
        }
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for BackupKind {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        [Self::Database, Self::Tenant, Self::Cluster, Self::Config]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| Fault::new(Kind::Usage, format!("there is no kind of backup called \"{text}\"")))
    }
}

/// A backup's identifier: `<UTC time>-<kind>-<8 hex>`, such as `20261122T020000Z-database-1a2b3c4d`.
///
/// Sorts by time, says what it is, and is safe as a file name and as an object key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

const ID_TIME: &str = "%Y%m%dT%H%M%SZ";

impl BackupId {
    /// Makes the identifier of a backup that begins now; `random` tells apart those of one second.
    pub fn new(begun: DateTime<Utc>, kind: BackupKind, random: u32) -> Self {
        Self(format!("{}-{kind}-{random:08x}", begun.format(ID_TIME)))
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the backup holds.
    pub fn kind(&self) -> BackupKind {
        // Checked when the value was made.
        self.0.split('-').nth(1).and_then(|word| word.parse().ok()).unwrap_or(BackupKind::Database)
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for BackupId {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let bad = || Fault::new(Kind::Usage, format!("\"{text}\" is not a backup's identifier"));
        let mut parts = text.split('-');
        let (Some(time), Some(kind), Some(random), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        NaiveDateTime::parse_from_str(time, ID_TIME).map_err(|_| bad())?;
        kind.parse::<BackupKind>().map_err(|_| bad())?;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if time.len() != 16 || random.len() != 8 || !random.bytes().all(hex) {
            return Err(bad());
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for BackupId {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

/// One execution of pgkeep: 8 hex digits, unique within a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunId(String);

impl RunId {
    /// Makes the identifier out of a random number.
    pub fn new(random: u32) -> Self {
        Self(format!("{random:08x}"))
    }

    /// Takes an identifier that the catalog holds.
    pub fn from_catalog(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a PostgreSQL cluster: the first part of every object's key.
///
/// 1 to 63 characters out of `a-z`, `0-9`, `-` and `_`, beginning with a letter or digit, so that it is the
/// same on every file system and in every object store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let fine =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        let begins =
            text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !begins || text.len() > 63 || !text.bytes().all(fine) {
            return Err(Fault::new(Kind::Settings, format!("\"{text}\" cannot be a cluster's name")).hint(
                "Use 1 to 63 of the characters a-z, 0-9, - and _, beginning with a letter or a digit.",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ClusterName {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        text.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

/// The places where backups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreName {
    /// A directory of this machine.
    Local,
    /// Cloudflare R2.
    R2,
    /// Backblaze B2.
    B2,
}

impl StoreName {
    /// The word used in settings, in the catalog and on the screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::R2 => "r2",
            Self::B2 => "b2",
        }
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for StoreName {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        [Self::Local, Self::R2, Self::B2]
            .into_iter()
            .find(|name| name.as_str() == text)
            .ok_or_else(|| Fault::new(Kind::Usage, format!("there is no store called \"{text}\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_id_says_when_and_what_and_reads_back() {
        let begun = DateTime::from_timestamp(1_795_312_800, 0).unwrap_or_default();
        let id = BackupId::new(begun, BackupKind::Database, 0x1a2b_3c4d);
        assert_eq!(id.as_str(), "20261122T020000Z-database-1a2b3c4d");
        assert_eq!(id.as_str().parse::<BackupId>(), Ok(id.clone()));
        assert_eq!(id.kind(), BackupKind::Database);
    }

    #[test]
    fn what_is_no_backup_id_is_refused() {
        for text in [
            "",
            "latest",
            "../../etc-database-1a2b3c4d",
            "20261122T020000Z-database-1a2b3c4",
            "20261122T020000Z-database-1A2B3C4D",
            "20261122T020000Z-table-1a2b3c4d",
            "20261322T020000Z-database-1a2b3c4d",
            "20261122T020000Z-database-1a2b3c4d-x",
        ] {
            assert!(text.parse::<BackupId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_cluster_name_cannot_leave_its_directory() {
        for text in ["", "..", "a/b", "Main", "-x", "ü"] {
            assert!(text.parse::<ClusterName>().is_err(), "{text}");
        }
        assert!("main-2_b".parse::<ClusterName>().is_ok());
    }
}

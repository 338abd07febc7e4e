//! What belongs to a database itself and is in no `pg_dump` without `--create`: kept in the manifest.
//!
//! `postgres::database` reads these from a server and brings them back onto one.

use serde::{Deserialize, Serialize};

/// Everything that a database is besides its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseProperties {
    /// Its name when it was read.
    pub name: String,
    /// The role that owns it.
    pub owner: String,
    /// The encoding by PostgreSQL's name, such as `UTF8`.
    pub encoding: String,
    /// Sorting and character classes.
    pub locale: DatabaseLocale,
    /// The tablespace; `pg_default` unless somebody chose another.
    pub tablespace: String,
    /// How many may connect at once; -1: any number.
    pub connection_limit: i32,
    /// Whether any user with the right to create databases may copy it.
    pub is_template: bool,
    /// Whether anybody may connect.
    pub allow_connections: bool,
    /// The comment, if there is one.
    pub comment: Option<String>,
    /// The labels of security providers such as `SELinux`, sorted by provider.
    #[serde(default)]
    pub security_labels: Vec<SecurityLabel>,
    /// Whether no privilege was ever granted or revoked; `privileges` then holds PostgreSQL's defaults.
    pub default_privileges: bool,
    /// Who may do what, in the order of PostgreSQL's own list.
    pub privileges: Vec<DatabasePrivilege>,
    /// `ALTER DATABASE ... SET` and `ALTER ROLE ... IN DATABASE ... SET`, the ones without a role first.
    #[serde(default)]
    pub settings: Vec<DatabaseSetting>,
}

/// How a database sorts and classifies characters (manual, `CREATE DATABASE`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseLocale {
    /// `libc`, `icu` or `builtin`; servers before 15 know only `libc`.
    pub provider: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// The locale's name where the provider is not `libc`.
    pub locale: Option<String>,
    /// Rules added to the ICU locale (16 and newer).
    pub icu_rules: Option<String>,
    /// The version of the provider's collation that the indexes were built with. Only recorded: a restored
    /// database gets the version of the machine it is restored on.
    pub collation_version: Option<String>,
}

/// One security label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityLabel {
    /// Whose label it is.
    pub provider: String,
    /// The label.
    pub label: String,
}

/// One privilege on a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DatabasePrivilege {
    /// The role that granted it.
    pub grantor: String,
    /// The role that has it; empty: everybody (`PUBLIC`).
    pub grantee: String,
    /// `CREATE`, `CONNECT` or `TEMPORARY`.
    pub privilege: String,
    /// Whether the grantee may grant it on.
    pub grantable: bool,
}

/// One configuration setting of a database, or of a role in a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseSetting {
    /// The role it is for; without one it is for all.
    pub role: Option<String>,
    /// `name=value`, as `pg_db_role_setting` has it.
    pub setting: String,
}

//! The names of entries in backups of a server's configuration (SPEC.md, section 5).

/// The entry with roles and tablespaces, as SQL.
pub const GLOBALS: &str = "globals.sql";
/// What the names of files begin with; their absolute paths follow.
pub const FILES: &str = "files";

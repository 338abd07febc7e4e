//! What is written: a directory, and a database through `pg_restore`.

pub mod cluster;
pub mod config;
pub mod database;
pub mod directory;
pub mod kept_wal;
pub mod rows;
pub mod schema;
pub mod tenant;

//! What is read: a database through `pg_dump`, a cluster's data directory, files of WAL.

pub mod cluster;
pub mod config;
pub mod database;
mod tail;
pub mod tenant;
pub mod wal;

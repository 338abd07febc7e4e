//! What is read: a database through `pg_dump`, and files of WAL.

pub mod database;
mod tail;
pub mod wal;

//! What is read: a database through `pg_dump`.

pub mod database;
mod tail;

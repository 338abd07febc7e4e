//! The server: connections, its programs, what it holds, and the few things that change it.
//!
//! Commands, sources and targets reach PostgreSQL only through this module. Every connection is a [`Server`];
//! every statement says what it is for, so that an error reads "list the databases: ERROR: permission denied".
//! What the server answered stands in the error's chain as a [`ServerError`] below the fault.

pub mod archiver;
pub mod base_backup;
pub mod config_files;
mod connection;
pub mod database;
mod endpoint;
mod error;
pub mod facts;
pub mod page;
mod passfile;
pub mod proof;
pub mod quote;
pub mod recovery_settings;
pub mod snapshot;
pub mod subscriptions;
pub mod swap;
pub mod tenants;
mod text;
mod tls;
pub mod tools;
pub mod waiting;
pub mod wal;
pub mod wal_records;

pub use connection::{NEWEST_SERVER, OLDEST_SERVER, Server};
pub use endpoint::{Endpoint, Host, child_environment};
pub use error::{ServerError, describe, failed, sqlstate};

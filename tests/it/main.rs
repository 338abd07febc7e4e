//! pgkeep's tests from outside: the real program against a real PostgreSQL, a module per subcommand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod backup;
mod catalog_faults;
mod check;
mod children;
mod clouds;
mod concurrency;
mod cron;
mod damage;
mod docs;
mod fault_proxy;
mod golden;
mod hosts;
mod house;
mod init;
mod key;
mod kill;
mod list;
mod objects;
mod pitr;
mod pitr_faults;
mod pitr_over;
mod pitr_targets;
mod places;
mod python;
mod quickstart;
mod regression;
mod requests;
mod restore;
mod s3_server;
mod schema;
mod server_faults;
mod settings;
mod settle;
mod show;
mod store_conformance;
mod store_faults;
mod store_layers;
mod store_line;
mod support;
mod verify;
mod versions;
mod wal;
mod wal_copies;
mod wal_faults;

//! pgkeep's tests from outside: the real program against a real PostgreSQL, a module per subcommand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod backup;
mod check;
mod cron;
mod docs;
mod golden;
mod house;
mod init;
mod key;
mod kill;
mod list;
mod objects;
mod python;
mod quickstart;
mod regression;
mod restore;
mod schema;
mod show;
mod support;
mod verify;

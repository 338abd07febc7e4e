//! pgkeep's tests from outside: the real program against a real PostgreSQL, a module per subcommand.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_wrap,
    missing_docs
)]

mod access;
mod alerts;
mod archive_wal_kills;
mod backup;
mod catalog_faults;
mod certificates;
mod check;
mod children;
mod cleanup;
mod cleanup_wal;
mod clock;
mod cloud_faults;
mod clouds;
mod concurrency;
mod conditions;
mod config_backup;
mod cron;
mod damage;
mod debian;
mod docs;
mod fault_proxy;
mod gaps_cluster;
mod gaps_wal;
mod golden;
mod hosts;
mod house;
mod init;
mod jobs;
mod key;
mod key_rotate;
mod kill;
mod list;
mod notify;
mod objects;
mod pipeline;
mod pitr;
mod pitr_faults;
mod pitr_ledger;
mod pitr_over;
mod pitr_sources;
mod pitr_targets;
mod places;
mod python;
mod quarter;
mod quickstart;
mod recipients;
mod regression;
mod requests;
mod requirements;
mod restore;
mod rewritten;
mod s3_server;
mod schema;
mod server_faults;
mod settings;
mod settle;
mod show;
mod status;
mod store_above;
mod store_conformance;
mod store_faults;
mod store_layers;
mod store_line;
mod support;
mod systemd;
mod tenants;
mod tenants_as;
mod tenants_held;
mod tenants_many;
mod tenants_merge;
mod tenants_modes;
mod tenants_part;
mod tenants_random;
mod tenants_spaces;
mod test_restore;
mod verify;
mod verify_rolling;
mod versions;
mod wal;
mod wal_copies;
mod wal_faults;
mod wal_kills;
mod wal_unheard;
mod wishes;
mod wizard;
mod wizard_ways;

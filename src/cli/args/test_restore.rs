//! `pgkeep test-restore`, as it is typed.

use clap::Args;

use super::{store_name, time};
use crate::command::test_restore::TestRestoreRequest;
use crate::model::{StoreName, Timestamp};

/// Testing backups.
#[derive(Debug, Args)]
pub struct TestRestore {
    /// The backup: `latest`, an identifier, or the beginning of one [default: the newest of each database, of a tenant,
    /// and of the cluster]
    pub backup: Option<String>,
    /// The newest backup of this database
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// The newest backup of this tenant
    #[arg(long, value_name = "ID")]
    pub tenant: Option<String>,
    /// The cluster as it was at this time, RFC 3339 [default: at the end of the archive]
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["database", "tenant", "own_server"])]
    pub target_time: Option<Timestamp>,
    /// Read this store alone: local, r2 or b2 [default: each month another one]
    #[arg(long, value_name = "NAME", value_parser = store_name)]
    pub store: Option<StoreName>,
    /// Restore databases and tenants on a throwaway server instead of beside those in use
    #[arg(long)]
    pub own_server: bool,
    /// How many tables and indexes to make at the same time [default: `BACKUP_JOBS`]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: Option<u16>,
}

impl TestRestore {
    /// What is to be done.
    pub fn request(&self) -> TestRestoreRequest {
        TestRestoreRequest {
            backup: self.backup.clone(),
            database: self.database.clone(),
            tenant: self.tenant.clone(),
            target_time: self.target_time,
            store: self.store,
            own_server: self.own_server,
            jobs: self.jobs.map(usize::from),
        }
    }
}

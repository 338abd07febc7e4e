//! `pgkeep list --tenants`: the tenants of a database, how large they are, and the newest backup of each.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Environment, Report, Shelf};
use crate::catalog::BackupFilter;
use crate::model::{BackupId, BackupKind, Fault, Kind};
use crate::postgres::{Server, tenants};
use crate::source::tenant::{graph_of, refuse_undecided};

/// One tenant.
#[derive(Debug, Clone, Serialize)]
pub struct ListedTenant {
    /// Its key.
    pub tenant: String,
    /// Rows in all tables.
    pub rows: u64,
    /// About how many bytes these take.
    pub bytes: u64,
    /// The newest backup of it alone.
    pub backup: Option<BackupId>,
    /// The instant that it holds.
    pub consistent_at: Option<String>,
}

/// The tenants, by key.
#[derive(Debug, Clone, Serialize)]
pub struct TenantsReport {
    /// The database.
    pub database: String,
    /// The tenants.
    pub tenants: Vec<ListedTenant>,
}

impl Report for TenantsReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Lists them; each table is read once.
pub async fn run(environment: &Environment, database: Option<&str>) -> anyhow::Result<TenantsReport> {
    let Shelf { settings, catalog } = Shelf::open(environment)?;
    let Some(database) = database.map(ToOwned::to_owned).or_else(|| settings.postgres.database.clone())
    else {
        return Fault::new(Kind::Usage, "no database is named")
            .hint("Name one (`pgkeep list --tenants --database NAME`) or set PGDATABASE.")
            .err();
    };
    let server = Server::connect(&settings.postgres, Some(&database), &environment.stop).await?;
    let asking = async {
        let graph = graph_of(&server, &settings.tenants).await?;
        refuse_undecided(&graph)?;
        tenants::sizes(&server, &graph).await
    };
    let found = environment.stop.or(asking).await?;
    server.close().await;
    let filter = BackupFilter { kind: Some(BackupKind::Tenant), database: Some(&database), limit: None };
    let mut newest = BTreeMap::new();
    for row in catalog.backups().list(&filter)?.into_iter().filter(|row| !row.before_restore) {
        if let Some(tenant) = row.tenant_id.clone() {
            newest.entry(tenant).or_insert(row);
        }
    }
    let listed = found.into_iter().map(|tenant| {
        let row = newest.remove(&tenant.id);
        ListedTenant {
            consistent_at: row.as_ref().and_then(|row| row.consistent_at).map(crate::model::timestamp_text),
            backup: row.map(|row| row.id),
            tenant: tenant.id,
            rows: tenant.rows,
            bytes: tenant.bytes,
        }
    });
    Ok(TenantsReport { tenants: listed.collect(), database })
}

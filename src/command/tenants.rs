//! `pgkeep list --tenants`: the tenants of a database, how large they are, and the newest backup of each.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Environment, Report, Shelf};
use crate::catalog::BackupFilter;
use crate::config::Settings;
use crate::model::{BackupId, BackupKind, Fault, Kind, OwnPlaces, PlaceKind, Tenancy};
use crate::postgres::Server;
use crate::postgres::tenants::{self, places};
use crate::source::tenant::{graph_of, refuse_undecided};
use crate::system::Stop;

/// One tenant.
#[derive(Debug, Clone, Serialize)]
pub struct ListedTenant {
    /// Its key.
    pub tenant: String,
    /// The schema or the database that is its own; nothing where tenants share tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
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
    /// How tenants are told apart: `row`, `schema` or `database`.
    pub mode: &'static str,
    /// The database; nothing where each tenant has one of its own.
    pub database: Option<String>,
    /// The tenants.
    pub tenants: Vec<ListedTenant>,
}

impl Report for TenantsReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// A tenant that was found.
struct Found {
    id: String,
    name: Option<String>,
    rows: u64,
    bytes: u64,
}

/// Lists them; each table is read once.
pub async fn run(environment: &Environment, database: Option<&str>) -> anyhow::Result<TenantsReport> {
    let Shelf { settings, catalog } = Shelf::open(environment)?;
    let database = database.map(ToOwned::to_owned).or_else(|| settings.postgres.database.clone());
    let (mode, database) = match &settings.tenancy {
        Tenancy::Own(places) if places.kind == PlaceKind::Database => ("database", database),
        tenancy => {
            let Some(database) = database else {
                return Fault::new(Kind::Usage, "no database is named")
                    .hint("Name one (`pgkeep list --tenants --database NAME`) or set PGDATABASE.")
                    .err();
            };
            (if *tenancy == Tenancy::Row { "row" } else { "schema" }, Some(database))
        }
    };
    let server = Server::connect(&settings.postgres, database.as_deref(), &environment.stop).await?;
    let asking = async {
        match &settings.tenancy {
            Tenancy::Row => sharing(&server, &settings).await,
            Tenancy::Own(places) => with_own(&server, &settings, places, &environment.stop).await,
        }
    };
    let found = environment.stop.or(asking).await?;
    server.close().await;
    let database = database.filter(|_| mode != "database");
    let filter = BackupFilter { kind: Some(BackupKind::Tenant), database: database.as_deref(), limit: None };
    let mut newest = BTreeMap::new();
    for row in catalog.backups().list(&filter)?.into_iter().filter(|row| !row.before_restore) {
        if let Some(tenant) = row.tenant_id.clone() {
            // A tenant's own database is part of what tells him from others.
            let of = row.database.clone().filter(|_| mode == "database");
            newest.entry((tenant, of)).or_insert(row);
        }
    }
    let listed = found.into_iter().map(|tenant| {
        let of = tenant.name.clone().filter(|_| mode == "database");
        let row = newest.remove(&(tenant.id.clone(), of));
        ListedTenant {
            consistent_at: row.as_ref().and_then(|row| row.consistent_at).map(crate::model::timestamp_text),
            backup: row.map(|row| row.id),
            tenant: tenant.id,
            name: tenant.name,
            rows: tenant.rows,
            bytes: tenant.bytes,
        }
    });
    Ok(TenantsReport { mode, tenants: listed.collect(), database })
}

async fn sharing(server: &Server, settings: &Settings) -> anyhow::Result<Vec<Found>> {
    let graph = graph_of(server, &settings.tenants).await?;
    refuse_undecided(&graph)?;
    let found = tenants::sizes(server, &graph).await?.into_iter();
    Ok(found.map(|it| Found { id: it.id, name: None, rows: it.rows, bytes: it.bytes }).collect())
}

/// Those that have something of their own; what a query names and is not there has no rows.
async fn with_own(
    server: &Server,
    settings: &Settings,
    of: &OwnPlaces,
    stop: &Stop,
) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for place in places::own_places(server, of).await? {
        let (rows, bytes) = match of.kind {
            _ if !place.exists => (0, 0),
            PlaceKind::Schema => {
                let tables = places::tables_of(server, Some(&place.name)).await?;
                (places::count(server, &tables).await?, tables.iter().map(|table| table.bytes).sum())
            }
            PlaceKind::Database => {
                let own = Server::connect(&settings.postgres, Some(&place.name), stop).await?;
                let tables = places::tables_of(&own, None).await?;
                let rows = places::count(&own, &tables).await?;
                own.close().await;
                (rows, tables.iter().map(|table| table.bytes).sum())
            }
        };
        found.push(Found { id: place.id, name: Some(place.name), rows, bytes });
    }
    Ok(found)
}

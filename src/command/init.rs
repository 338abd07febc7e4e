//! `pgkeep init`: state directory, catalog, and the cluster's identity in every store. May be run again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::Utc;
use serde::Serialize;

use super::archive::registration::{Registration, resolved};
use super::archive::settings::{self, ArchiveSetting};
use super::context::catalog_path;
use super::stores::replicas;
use super::{Context, Environment, Report, manifests};
use crate::catalog::Catalog;
use crate::config::Settings;
use crate::format::identity::Identity;
use crate::format::{self, names};
use crate::model::{Fault, FaultContext, Kind, timestamp_text};
use crate::postgres::{base_backup, facts};
use crate::store::{Body, StoreResult};
use crate::system::{Step, durable, step};
use crate::target::database::connect_beside;

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct InitReport {
    /// The cluster's name.
    pub cluster: String,
    /// The server's system identifier, as text: many readers of JSON round a number of this size.
    pub system_identifier: String,
    /// Where the catalog is.
    pub catalog: String,
    /// The identity in each store.
    pub stores: Vec<InitStore>,
    /// The server's settings that make an archive of its WAL; empty where the user may not see them.
    pub archive: Vec<ArchiveSetting>,
}

/// The cluster's identity in one store.
#[derive(Debug, Clone, Serialize)]
pub struct InitStore {
    /// Where it lies.
    pub place: String,
    /// Whether it was written now; else it was there already.
    pub written: bool,
}

impl Report for InitReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Initialises, and writes down the run.
pub async fn run(environment: &Environment) -> anyhow::Result<InitReport> {
    let settings = Settings::load(&environment.inputs)?;
    // All that can be wrong without anything being made yet.
    settings.keys()?;
    replicas(&settings)?;
    let server = connect_beside(&settings.postgres, &[], &environment.stop).await?;
    let system_identifier = facts::system_identifier(&server).await?;
    let data_directory = facts::data_directory(&server).await?;
    // Who may not see them can back up databases.
    let facts = base_backup::cluster(&server).await.ok();
    let archive = facts.map(|facts| settings::look(&facts, settings.rpo_target)).unwrap_or_default();
    server.close().await;
    durable::create_private_dir(&settings.state_dir).or_fault(|| {
        Fault::new(Kind::Store, "make the state directory").hint(
            "Make it as root and give it to the user who runs pgkeep (`install -d -m 700 -o USER DIRECTORY`), or set \
             BACKUP_STATE_DIR.",
        )
    })?;
    step::reached(Step::InitStateDirectory)?;
    environment.stop.check()?;
    let catalog = Catalog::create(&catalog_path(&settings))?;
    step::reached(Step::InitCatalog)?;
    environment.stop.check()?;
    let context = Context::with(environment, "init", settings, catalog)?;
    let identified = identify(&context, system_identifier, data_directory).await;
    let result = identified.map(|report| InitReport { archive, ..report });
    context.conclude(result).await
}

async fn identify(
    context: &Context,
    system_identifier: u64,
    data_directory: Option<PathBuf>,
) -> anyhow::Result<InitReport> {
    let cluster = &context.settings.cluster;
    let key = names::identity(cluster);
    let (mut stores, mut places) = (Vec::new(), BTreeMap::new());
    for store in context.replicas.each() {
        let place = store.locate(&key);
        if let Some(bytes) = store.get_small(&key).await.fault()? {
            manifests::refuse_another_server(&Identity::from_bytes(&bytes)?, system_identifier)?;
            places.insert(store.name(), place.clone());
            stores.push(InitStore { place, written: false });
            continue;
        }
        let identity = Identity {
            format: format::VERSION,
            cluster: cluster.clone(),
            system_identifier,
            created_at: timestamp_text(Utc::now()),
        };
        store.put(&key, Body::Bytes(identity.to_bytes()?)).await.fault()?;
        places.insert(store.name(), place.clone());
        stores.push(InitStore { place, written: true });
    }
    // Last: from now on this server may archive here. Of another machine's data directory nothing can be said.
    let data_directory = data_directory.as_deref().and_then(resolved);
    let registration = Registration { cluster: cluster.clone(), system_identifier, data_directory, places };
    registration.save(&context.settings)?;
    let catalog = context.catalog.path().display().to_string();
    let system_identifier = system_identifier.to_string();
    Ok(InitReport { cluster: cluster.to_string(), system_identifier, catalog, stores, archive: Vec::new() })
}

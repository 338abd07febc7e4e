//! `pgkeep catalog rebuild` and `pgkeep catalog check`: the index, made anew out of the stores, or looked over.

use serde::Serialize;

use super::context::catalog_path;
use super::manifests::{self, Stored};
use super::{Context, Environment, Report, Shelf};
use crate::catalog::Catalog;
use crate::config::Settings;
use crate::format::names;
use crate::model::{BackupId, Fault, FaultContext, Kind};
use crate::system::durable;

/// What a rebuild took in.
#[derive(Debug, Clone, Serialize)]
pub struct RebuildReport {
    /// Backups that the catalog did not know.
    pub added: Vec<BackupId>,
    /// Backups that it knew already.
    pub known: u64,
    /// What could not be taken in, and why.
    pub warnings: Vec<String>,
}

impl Report for RebuildReport {
    fn shortfall(&self) -> Option<Kind> {
        (!self.warnings.is_empty()).then_some(Kind::Incomplete)
    }
}

/// What the check of the catalog found.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// What is wrong; empty is good.
    pub findings: Vec<String>,
}

impl Report for CheckReport {
    fn shortfall(&self) -> Option<Kind> {
        (!self.findings.is_empty()).then_some(Kind::Damaged)
    }
}

/// Makes the catalog if there is none, and takes in every backup of the stores that it does not know.
pub async fn rebuild(environment: &Environment) -> anyhow::Result<RebuildReport> {
    let settings = Settings::load(&environment.inputs)?;
    settings.keys()?;
    durable::create_private_dir(&settings.state_dir)
        .or_fault(|| Fault::new(Kind::Store, "make the state directory").hint("Set BACKUP_STATE_DIR."))?;
    let catalog = Catalog::create(&catalog_path(&settings))?;
    let context = Context::with(environment, "catalog rebuild", settings, catalog)?;
    let result = take_in(&context).await;
    context.conclude(result)
}

async fn take_in(context: &Context) -> anyhow::Result<RebuildReport> {
    let keyring = context.keyring()?;
    manifests::refuse_absent_stores(context).await?;
    let cluster = &context.settings.cluster;
    let mut report = RebuildReport { added: Vec::new(), known: 0, warnings: Vec::new() };
    for info in context.reading().list(&names::backups(cluster)).await? {
        context.stop.check()?;
        let Some((id, object)) = names::parse_object(cluster, &info.key) else { continue };
        if object != names::MANIFEST {
            continue;
        }
        if context.catalog.backups().get(&id)?.is_some() {
            report.known += 1;
            continue;
        }
        let fetched = manifests::fetch(&context.settings, &context.reading(), &id, &keyring).await;
        let (manifest, object) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => {
                report.warnings.push(format!("{error:#}"));
                continue;
            }
        };
        let stores = manifests::holders(context, &manifest).await?;
        if stores.is_empty() {
            report.warnings.push(format!("{id}: no store has all of its volumes"));
            continue;
        }
        manifests::record(context, &Stored { manifest: &manifest, object: &object, stores: &stores }, None)?;
        report.added.push(id);
    }
    Ok(report)
}

/// Checks the catalog's own integrity.
pub fn check(shelf: &Shelf) -> anyhow::Result<CheckReport> {
    Ok(CheckReport { findings: shelf.catalog.check()? })
}

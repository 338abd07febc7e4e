//! `pgkeep catalog rebuild` and `pgkeep catalog check`: the index, made anew out of the stores, or looked over.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;

use super::context::catalog_path;
use super::listing::{self, Listings};
use super::manifests::{self, Fetched, Held, Stored};
use super::stores;
use super::{Context, Environment, Report, Shelf};
use crate::catalog::Catalog;
use crate::config::Settings;
use crate::format::manifest::Manifest;
use crate::format::names;
use crate::model::{BackupId, Fault, FaultContext, Kind, StoreName};
use crate::system::durable;

/// How many manifests are fetched at the same time.
const AT_ONCE: usize = 16;

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
    let context = Context::with(environment, "catalog rebuild", settings, catalog)?.unlimited()?;
    let result = take_in(&context).await;
    context.conclude(result)
}

/// Opens the context of a restore. On a machine without a catalog, such as one that takes the place of another, the
/// catalog is made out of the stores first, if `agree` does not object.
pub async fn context_for_restore(
    environment: &Environment,
    words: &str,
    agree: impl FnOnce(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Context> {
    let settings = Settings::load(&environment.inputs)?;
    let path = catalog_path(&settings);
    // Where no store knows the cluster there is nothing to make it of, and nothing is made.
    let identity = names::identity(&settings.cluster);
    if matches!(path.try_exists(), Ok(false))
        && stores::replicas(&settings)?.reading().get_small(&identity).await?.is_some()
    {
        agree(&format!("there is no catalog at {}", path.display()))?;
        let report = match rebuild(environment).await {
            Ok(report) => report,
            Err(error) => {
                // An empty catalog would hide from the next try that there is something to be made.
                for suffix in ["", "-wal", "-shm"] {
                    let _ = durable::remove_file_if_there(&path.with_extension(format!("sqlite{suffix}")));
                }
                return Err(error);
            }
        };
        for warning in &report.warnings {
            environment.progress.note(&format!("warning: {warning}"));
        }
        let found = report.added.len();
        environment.progress.note(&format!("made the catalog out of the stores: {found} backups"));
    }
    Context::open(environment, words).await?.unlimited()
}

async fn take_in(context: &Context) -> anyhow::Result<RebuildReport> {
    let keyring = context.keyring()?;
    manifests::refuse_absent_stores(context).await?;
    let mut report = RebuildReport { added: Vec::new(), known: 0, warnings: Vec::new() };
    let listings = context.stop.or(async { Ok(listing::take(context, None).await) }).await?;
    report.warnings.extend(listings.failed.iter().map(ToString::to_string));
    let mut unknown: BTreeSet<BackupId> = BTreeSet::new();
    for (id, objects) in listings.listed.values().flatten() {
        if objects.contains_key(names::MANIFEST) {
            unknown.insert(id.clone());
        }
    }
    for id in unknown.clone() {
        if context.catalog.backups().get(&id)?.is_some() {
            report.known += 1;
            unknown.remove(&id);
        }
    }
    let stage = context.progress.rows("manifests", unknown.len() as u64);
    let mut fetching = stream::iter(unknown.into_iter().rev())
        .map(|id| {
            let keyring = &keyring;
            async move { (manifests::fetch(&context.settings, context.reading(), &id, keyring).await, id) }
        })
        .buffered(AT_ONCE);
    while let Some((fetched, id)) = context.stop.or(async { Ok(fetching.next().await) }).await? {
        stage.add(1);
        match fetched {
            Err(error) => report.warnings.push(format!("{error:#}")),
            Ok(fetched) => match known_of(context, &fetched, &listings) {
                // Each volume in one store or another is enough: reading changes over, and `sync` makes it whole.
                held if is_covered(&fetched.manifest, &held) => {
                    let Fetched { manifest, object, bad } = &fetched;
                    manifests::record(context, &Stored { manifest, object, held: &held }, None)?;
                    report.warnings.extend(manifests::mark(context, &id, bad)?);
                    report.added.push(id);
                }
                _ => report.warnings.push(format!("{id}: no store has all of its volumes")),
            },
        }
    }
    report.added.sort();
    report.warnings.sort();
    Ok(report)
}

/// Whether every volume is in at least one store.
fn is_covered(manifest: &Manifest, held: &[Held]) -> bool {
    manifest.volumes.iter().all(|volume| held.iter().any(|held| held.objects.contains(&volume.name)))
}

/// What each store that was listed has of the backup.
fn known_of(context: &Context, fetched: &Fetched, listings: &Listings) -> Vec<Held> {
    let manifest = &fetched.manifest;
    let of = |store: &StoreName| {
        let objects = listings.listed.get(store)?.get(&manifest.id);
        let sizes = objects.into_iter().flatten().map(|(name, info)| (name.as_str(), info.size));
        Some(Held::of(*store, manifest, sizes))
    };
    let stores: Vec<StoreName> = context.reading().each().map(|store| store.name()).collect();
    stores.iter().filter_map(of).collect()
}

/// Checks the catalog's own integrity.
pub fn check(shelf: &Shelf) -> anyhow::Result<CheckReport> {
    Ok(CheckReport { findings: shelf.catalog.check()? })
}

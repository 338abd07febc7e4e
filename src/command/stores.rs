//! The stores of the settings as a run finds them: which are there, and whose they are.

use std::sync::Arc;

use futures_util::future::join_all;

use super::Context;
use crate::config::Settings;
use crate::format::identity::Identity;
use crate::format::names;
use crate::model::{ClusterName, Fault, Kind, StoreName};
use crate::store::{
    LocalStore, ReadStore, Replicas, S3Place, Store, StoreError, StoreErrorKind, StoreResult, cloud,
};

/// The stores of the settings.
pub(super) fn replicas(settings: &Settings) -> anyhow::Result<Replicas> {
    settings.require_store()?;
    let clouds = settings.clouds.iter().map(|place| {
        let place = S3Place {
            name: place.name,
            endpoint: place.endpoint.clone(),
            region: place.region.clone(),
            bucket: place.bucket.clone(),
            access_key: place.access_key.clone(),
            secret_key: place.secret_key.clone(),
            keeps_versions: place.keeps_versions,
        };
        cloud(place, settings.rate_limit)
    });
    Ok(Replicas::new(
        settings.local_dir.clone().map(LocalStore::new),
        clouds.collect::<Result<_, StoreError>>().fault()?,
        settings.stores(),
        settings.state_dir.join("spool"),
        settings.min_copies,
    ))
}

/// What a run knows of the stores before it writes to them.
pub(super) struct Presence {
    /// Whose backups the stores hold.
    pub(super) identity: Identity,
    /// Those that hold the cluster's identity.
    pub(super) present: Vec<Arc<dyn Store>>,
    /// Those that don't, or that could not be asked.
    pub(super) absent: Vec<Absent>,
}

impl Presence {
    /// The stores that are there.
    pub(super) fn names(&self) -> Vec<StoreName> {
        self.present.iter().map(|store| store.name()).collect()
    }

    /// How many of them are clouds.
    pub(super) fn clouds(&self) -> u64 {
        self.present.iter().filter(|store| store.name() != StoreName::Local).count() as u64
    }
}

/// A store that is not there.
#[derive(Debug, Clone)]
pub(super) struct Absent {
    pub(super) store: StoreName,
    pub(super) why: String,
}

/// Asks every store for the cluster's identity. A store without it is not written to: it may be the empty directory
/// in which a disk should be mounted. An error when no store has it, or when two are not of the same server.
pub(super) async fn presence(context: &Context) -> anyhow::Result<Presence> {
    let key = names::identity(&context.settings.cluster);
    let stores: Vec<_> = context.replicas.each().cloned().collect();
    let asked = join_all(stores.iter().map(|store| store.get_small(&key))).await;
    let (mut found, mut present, mut absent) = (None::<Identity>, Vec::new(), Vec::new());
    let (mut failed, mut places, mut damaged) = (None, Vec::new(), None);
    for (store, answer) in stores.into_iter().zip(asked) {
        let name = store.name();
        match answer {
            Ok(Some(bytes)) => {
                let identity = match Identity::from_bytes(&bytes) {
                    Ok(identity) => identity,
                    Err(fault) => {
                        let why = format!("{}: {}", store.locate(&key), fault.message);
                        absent.push(Absent { store: name, why });
                        damaged = damaged.or(Some(fault));
                        continue;
                    }
                };
                let known = found.get_or_insert_with(|| identity.clone());
                if known.system_identifier != identity.system_identifier {
                    return Err(two_servers(known, &identity, name).into());
                }
                present.push(store);
            }
            Ok(None) => {
                let place = store.locate(&key);
                let why = format!("{place} is not there: is it mounted? Is it new? Then run `pgkeep init`");
                absent.push(Absent { store: name, why });
                places.push(place);
            }
            Err(error) => {
                absent.push(Absent { store: name, why: error.to_string() });
                failed = failed.or(Some(error));
            }
        }
    }
    match (found, failed) {
        (Some(identity), _) => Ok(Presence { identity, present, absent }),
        (None, _) if damaged.is_some() => Err(damaged.map_or_else(|| anyhow::anyhow!("damaged"), Into::into)),
        (None, Some(error)) => Err(error).fault(),
        (None, None) => Fault::new(
            Kind::NotInitialised,
            format!("no store knows the cluster: {} is not there", places.join(", ")),
        )
        .hint("Is the disk mounted? If this is a new place for backups, run `pgkeep init`.")
        .err(),
    }
}

/// Asks whether a store, in which something could not be found or read, is still there: it has the cluster's identity,
/// or if that alone is lost, lists backups. The error says why it is away.
pub(super) async fn still_there(cluster: &ClusterName, store: &dyn ReadStore) -> Result<(), StoreError> {
    let identity = names::identity(cluster);
    if store.get_small(&identity).await?.is_some()
        || !store.list_page(&names::backups(cluster), None).await?.objects.is_empty()
    {
        return Ok(());
    }
    Err(StoreError {
        store: store.name(),
        operation: "read",
        place: store.locate(&identity),
        kind: StoreErrorKind::Unreachable,
        cause: "it is not there any more, and nothing else is: was it unmounted?".to_owned(),
    })
}

fn two_servers(known: &Identity, other: &Identity, store: StoreName) -> Fault {
    Fault::new(
        Kind::Refused,
        format!(
            "store {store} holds the backups of another server (system identifier {}, the others {})",
            other.system_identifier, known.system_identifier
        ),
    )
    .hint("Give each server a BACKUP_CLUSTER of its own, or set the bucket or directory that belongs to this one.")
}

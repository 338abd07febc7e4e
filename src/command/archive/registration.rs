//! Which server archives here: written down by `init`, compared by every `wal-push`.
//!
//! A copy of a cluster has its system identifier too, so a restored data directory in which `archive_command` is still
//! set would write into the archive of the original. It lies elsewhere, though, and on another machine there is no
//! registration at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{directory, read, write};
use crate::config::Settings;
use crate::format::identity::Identity;
use crate::format::names;
use crate::model::{ClusterName, Fault, Kind, StoreName};
use crate::source::wal::WalFile;
use crate::store::{ReadStore, StoreError, StoreErrorKind};

/// The server whose WAL belongs here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::command) struct Registration {
    pub(in crate::command) cluster: ClusterName,
    pub(in crate::command) system_identifier: u64,
    /// Its data directory, links followed; nothing when the server would not say, or it is on another machine.
    pub(in crate::command) data_directory: Option<PathBuf>,
    /// Where each store was when it was last seen to hold this cluster's identity.
    #[serde(default)]
    pub(in crate::command) places: BTreeMap<StoreName, String>,
}

fn path(settings: &Settings) -> PathBuf {
    directory(settings).join("server.json")
}

impl Registration {
    /// The registration of this state directory.
    ///
    /// None: [`Kind::NotInitialised`]. Another cluster's: [`Kind::Refused`].
    pub(in crate::command) fn load(settings: &Settings) -> Result<Self, Fault> {
        let path = path(settings);
        let found: Option<Self> = read(&path);
        let found = found.ok_or_else(|| {
            let message = format!("{} does not say which server archives here", path.display());
            Fault::new(Kind::NotInitialised, message).hint(
                "Run `pgkeep init` on the machine of the server whose WAL is to be archived, and only there.",
            )
        })?;
        if found.cluster != settings.cluster {
            let message = format!(
                "{} is of the cluster {}, and BACKUP_CLUSTER is {}",
                path.display(),
                found.cluster,
                settings.cluster
            );
            return Err(Fault::new(Kind::Refused, message)
                .hint("Give each cluster a BACKUP_STATE_DIR of its own, and run `pgkeep init` there."));
        }
        Ok(found)
    }

    pub(in crate::command) fn save(&self, settings: &Settings) -> anyhow::Result<()> {
        write(&path(settings), self)
    }

    /// Refuses a file that is not this server's.
    pub(in crate::command) fn refuse_strangers(&self, file: &WalFile) -> Result<(), Fault> {
        let refused = |why: String| {
            Fault::new(Kind::Refused, format!("{} is not archived: {why}", file.name)).hint(
                "If this is a copy of the server, give it another BACKUP_CLUSTER and BACKUP_STATE_DIR, or set \
                 archive_mode = off in it. If it has taken the place of the old one, run `pgkeep init` there.",
            )
        };
        if let Some(other) = file.system_identifier.filter(|found| *found != self.system_identifier) {
            return Err(refused(format!(
                "it is of another cluster (system identifier {other}, this archive's is {})",
                self.system_identifier
            )));
        }
        match (&self.data_directory, file.data_directory()) {
            (Some(ours), Some(found)) if *ours != found => Err(refused(format!(
                "it is from the data directory {}, and this archive is that of {}",
                found.display(),
                ours.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Sees to it that a store is this cluster's before anything is written to it: the local one each time, because it
    /// may be the empty directory in which a disk should be mounted; a cloud when its place is new. True when something
    /// was learned that is worth saving.
    pub(in crate::command) async fn admit(&mut self, store: &dyn ReadStore) -> Result<bool, StoreError> {
        let key = names::identity(&self.cluster);
        let place = store.locate(&key);
        let is_known = self.places.get(&store.name()) == Some(&place);
        if is_known && store.name() != StoreName::Local {
            return Ok(false);
        }
        let failure = |kind, cause: String| StoreError {
            store: store.name(),
            operation: "read",
            place: place.clone(),
            kind,
            cause,
        };
        let Some(bytes) = store.get_small(&key).await? else {
            let why = "it is not there: is it mounted? Is it new? Then run `pgkeep init`".to_owned();
            return Err(failure(StoreErrorKind::Unreachable, why));
        };
        let identity =
            Identity::from_bytes(&bytes).map_err(|fault| failure(StoreErrorKind::Failed, fault.message))?;
        if identity.system_identifier != self.system_identifier {
            let other = identity.system_identifier;
            let why = format!("the store holds the backups of another server (system identifier {other})");
            return Err(failure(StoreErrorKind::Denied, why));
        }
        self.places.insert(store.name(), place);
        Ok(!is_known)
    }
}

/// A directory of the server's as the file system of this machine knows it.
pub(in crate::command) fn resolved(directory: &Path) -> Option<PathBuf> {
    directory.canonicalize().ok()
}

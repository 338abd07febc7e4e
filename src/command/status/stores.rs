//! Whether the stores answer.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;

use crate::command::stores::replicas;
use crate::config::Settings;
use crate::format::identity::Identity;
use crate::format::names;
use crate::model::StoreName;
use crate::report::StoreAnswer;
use crate::store::Store;
use crate::system::space::{self, Space};

/// How long a store may take.
const LIMIT: Duration = Duration::from_secs(2);

/// What a store answered.
pub(super) struct Answer {
    pub(super) store: StoreName,
    pub(super) place: String,
    pub(super) standing: StoreAnswer,
    /// What is the matter, if something is.
    pub(super) message: Option<String>,
    /// The room in it, where it is a file system.
    pub(super) space: Option<Space>,
}

/// Asks all stores at the same time for the cluster's identity, in the order in which they are read.
pub(super) async fn ask(settings: &Settings, offline: bool) -> anyhow::Result<Vec<Answer>> {
    if settings.stores().is_empty() {
        return Ok(Vec::new());
    }
    let replicas = replicas(settings)?;
    let asked = settings.stores().iter().filter_map(|name| replicas.get(*name));
    Ok(join_all(asked.map(|store| ask_one(settings, &**store, offline))).await)
}

async fn ask_one(settings: &Settings, store: &dyn Store, offline: bool) -> Answer {
    let mut answer = Answer {
        store: store.name(),
        place: store.locate("").trim_end_matches('/').to_owned(),
        standing: StoreAnswer::NotAsked,
        message: None,
        space: None,
    };
    if offline {
        return answer;
    }
    let key = names::identity(&settings.cluster);
    let wrong = match tokio::time::timeout(LIMIT, store.get_small(&key)).await {
        Err(_) => Some(format!("no answer within {} s", LIMIT.as_secs())),
        Ok(Err(error)) => Some(error.to_string()),
        Ok(Ok(None)) => Some(format!(
            "{} is not there: is it mounted? Is it new? Then run pgkeep init",
            store.locate(&key)
        )),
        Ok(Ok(Some(bytes))) => Identity::from_bytes(&bytes).err().map(|fault| fault.message),
    };
    answer.standing = if wrong.is_some() { StoreAnswer::Away } else { StoreAnswer::Reachable };
    answer.message = wrong;
    if answer.store == StoreName::Local
        && answer.message.is_none()
        && let Some(directory) = &settings.local_dir
    {
        answer.space = room(directory).await;
    }
    answer
}

/// The room on the file system. One that hangs now is not waited for, and known to hang by the next run.
async fn room(directory: &Path) -> Option<Space> {
    let directory = directory.to_owned();
    let asked = tokio::task::spawn_blocking(move || space::of(&directory));
    tokio::time::timeout(LIMIT, asked).await.ok()?.ok()?.ok()
}

//! Waits until the WAL that a cluster backup needs is in the archive, and says who is late.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::look;
use crate::command::Context;
use crate::format::cluster::Cluster;
use crate::model::{Bytes, Elapsed, Fault, Kind, StoreName, WalName};
use crate::postgres::{Server, base_backup};
use crate::store::{ReadStore, StoreError};

/// How often is looked: a directory of this machine costs nothing, a request to a cloud does.
const LOOK_HERE: Duration = Duration::from_millis(50);
const LOOK_THERE: Duration = Duration::from_secs(2);
/// How many names a message holds.
const NAMED: usize = 5;

/// Waits until every segment of the backup is in at least one store.
pub(in crate::command) async fn until_archived(
    context: &Context,
    server: &Server,
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let needed = needed(cluster)?;
    let waiting = context.progress.waiting("archive");
    let begun = Instant::now();
    let has_local = context.reading().each().any(|store| store.name() == StoreName::Local);
    let mut asked_there: Option<Instant> = None;
    loop {
        // The clouds are asked seldom: each question is a listing that is paid for.
        let there = asked_there.is_none_or(|asked| asked.elapsed() >= LOOK_THERE);
        if there {
            asked_there = Some(Instant::now());
        }
        let (missing, failed) = missing(context, &needed, there).await;
        if missing.is_empty() {
            drop(waiting);
            return Ok(());
        }
        if there && begun.elapsed() > context.settings.archive_timeout {
            return Err(late(server, &missing, &failed, begun.elapsed(), cluster).await);
        }
        tokio::time::sleep(if has_local { LOOK_HERE } else { LOOK_THERE }).await;
    }
}

/// The segments from the first to the last.
fn needed(cluster: &Cluster) -> anyhow::Result<BTreeSet<WalName>> {
    let (first, last): (WalName, WalName) = (cluster.first_segment.parse()?, cluster.last_segment.parse()?);
    let mut names = BTreeSet::new();
    let mut next = Some(first);
    while let Some(name) = next.filter(|name| *name <= last) {
        next = name.following(cluster.wal_segment_size);
        names.insert(name);
    }
    Ok(names)
}

/// Those that no store has. The local one is asked first; the others only for what it lacks, the last one first, because
/// the server archives in order.
async fn missing(
    context: &Context,
    needed: &BTreeSet<WalName>,
    there: bool,
) -> (BTreeSet<WalName>, Vec<String>) {
    let (mut missing, mut failed) = (needed.clone(), Vec::new());
    let mut stores = context.reading().by_preference();
    stores.retain(|store| there || store.name() == StoreName::Local);
    stores.sort_by_key(|store| store.name() != StoreName::Local);
    for store in stores {
        let mut groups: BTreeMap<String, WalName> = BTreeMap::new();
        for name in &missing {
            groups.entry(name.group().to_owned()).or_insert_with(|| name.clone());
        }
        for name in groups.values().rev() {
            match take_away(context, &*store, name, &mut missing).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    failed.push(error.to_string());
                    break;
                }
            }
        }
        if missing.is_empty() {
            break;
        }
    }
    (missing, failed)
}

/// False when there is no sense in asking this store for more.
async fn take_away(
    context: &Context,
    store: &dyn ReadStore,
    name: &WalName,
    missing: &mut BTreeSet<WalName>,
) -> Result<bool, StoreError> {
    match look::around(store, &context.settings.cluster, name).await {
        Ok(archived) => {
            for it in &archived {
                missing.remove(&it.name);
            }
            Ok(!archived.is_empty())
        }
        Err(error) => {
            context.reading().failed(&error);
            Err(error)
        }
    }
}

/// Who is late.
async fn late(
    server: &Server,
    missing: &BTreeSet<WalName>,
    failed: &[String],
    after: Duration,
    cluster: &Cluster,
) -> anyhow::Error {
    let account = base_backup::archiver_account(server).await;
    let account = account.unwrap_or_else(|error| format!("the archiver could not be asked ({error:#})"));
    let mut named: Vec<String> = missing.iter().take(NAMED).map(ToString::to_string).collect();
    if missing.len() > NAMED {
        named.push(format!("{} more", missing.len() - NAMED));
    }
    let bytes = Bytes(missing.len() as u64 * u64::from(cluster.wal_segment_size));
    let message = format!(
        "the WAL that the backup needs is not in the archive after {}: {} ({bytes}) missing; the server's archiver: \
         {account}",
        Elapsed(after),
        named.join(", ")
    );
    if !failed.is_empty() {
        let message = format!("{message}; not every store could be asked: {}", failed.join("; "));
        return Fault::new(Kind::Store, message)
            .hint("See what is the matter with the stores (`pgkeep check`), then make the backup again.")
            .into();
    }
    let hint = if cluster.from_standby {
        "The primary archives it: see that its archive_command is `pgkeep wal-push %p`, and end its present segment \
         (`SELECT pg_switch_wal()`) or set archive_timeout there."
    } else {
        "See that archive_command is `pgkeep wal-push %p` and look into the server's log for what it says; \
         BACKUP_ARCHIVE_TIMEOUT allows for more time."
    };
    Fault::new(Kind::Postgres, message).hint(hint).into()
}

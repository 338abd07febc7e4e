//! Waits until the WAL that a cluster backup needs is in the archive, and says who is late.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::look;
use crate::command::Context;
use crate::format::cluster::Cluster;
use crate::model::{Bytes, Elapsed, Fault, Kind, StoreName, WalName};
use crate::postgres::{Server, base_backup};

/// How often is looked: a directory of this machine costs nothing, a request to a cloud does.
const LOOK_HERE: Duration = Duration::from_millis(50);
const LOOK_THERE: Duration = Duration::from_secs(2);
/// After how long the operator is told what is waited for.
const SOON: Duration = Duration::from_secs(10);
/// How many names a message holds.
const NAMED: usize = 5;

/// Waits until every segment of the backup is safe: in as many stores as count (`BACKUP_MIN_COPIES`), or in one and archived
/// by the word of the server, whose `archive_command` says so only then.
pub(in crate::command) async fn until_archived(
    context: &Context,
    server: &Server,
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let mut needed: Needed = names(cluster)?.into_iter().map(|name| (name, BTreeSet::new())).collect();
    let waiting = context.progress.waiting("archive");
    let begun = Instant::now();
    let has_local = context.reading().each().any(|store| store.name() == StoreName::Local);
    let mut asked_there: Option<Instant> = None;
    let mut told = false;
    loop {
        // The clouds are asked seldom: each question is a listing that is paid for.
        let there = asked_there.is_none_or(|asked| asked.elapsed() >= LOOK_THERE);
        if there {
            asked_there = Some(Instant::now());
        }
        let failed = look_for(context, &mut needed, there).await;
        // What it can't say, the stores will.
        let archived = base_backup::last_archived(server).await.unwrap_or_default();
        let is_safe = |name: &WalName, stores: &BTreeSet<StoreName>| {
            stores.len() >= context.settings.min_copies
                || (!stores.is_empty() && archived.as_deref().is_some_and(|last| name.as_str() <= last))
        };
        needed.retain(|name, stores| !is_safe(name, stores));
        if needed.is_empty() {
            drop(waiting);
            return Ok(());
        }
        if there && begun.elapsed() > context.settings.archive_timeout {
            return Err(late(server, &needed, &failed, begun.elapsed(), cluster).await);
        }
        if there && begun.elapsed() > SOON {
            let account = account(server).await;
            if !told {
                let limit = Elapsed(context.settings.archive_timeout);
                let mut text = format!(
                    "waiting up to {limit} for the WAL of the backup to be archived; the archiver: {account}"
                );
                let is_nowhere = |(name, stores): (&WalName, &BTreeSet<StoreName>)| {
                    stores.is_empty() && archived.as_deref().is_some_and(|last| name.as_str() <= last)
                };
                if failed.is_empty() && needed.iter().any(is_nowhere) {
                    text += "; but no store has it: is archive_command `pgkeep wal-push %p`?";
                }
                context.progress.note(&text);
                told = true;
            }
            waiting.say(account);
        }
        tokio::time::sleep(if has_local { LOOK_HERE } else { LOOK_THERE }).await;
    }
}

/// What is waited for, and the stores that have it.
type Needed = BTreeMap<WalName, BTreeSet<StoreName>>;

/// The segments from the first to the last.
fn names(cluster: &Cluster) -> anyhow::Result<BTreeSet<WalName>> {
    let (first, last): (WalName, WalName) = (cluster.first_segment.parse()?, cluster.last_segment.parse()?);
    let mut names = BTreeSet::new();
    let mut next = Some(first);
    while let Some(name) = next.filter(|name| *name <= last) {
        next = name.following(cluster.wal_segment_size);
        names.insert(name);
    }
    Ok(names)
}

/// Looks into the stores, those elsewhere only when it is their turn. Returns what those say that can't be asked.
async fn look_for(context: &Context, needed: &mut Needed, there: bool) -> Vec<String> {
    let groups: BTreeMap<String, WalName> =
        needed.keys().map(|name| (name.group().to_owned(), name.clone())).collect();
    let mut failed = Vec::new();
    for store in context.reading().by_preference() {
        if !there && store.name() != StoreName::Local {
            continue;
        }
        // The last ones first: the server archives in order.
        for name in groups.values().rev() {
            match look::around(&*store, &context.settings.cluster, name).await {
                Ok(archived) if archived.is_empty() => break,
                Ok(archived) => {
                    for it in &archived {
                        if let Some(stores) = needed.get_mut(&it.name) {
                            stores.insert(store.name());
                        }
                    }
                }
                Err(error) => {
                    context.reading().failed(&error);
                    failed.push(error.to_string());
                    break;
                }
            }
        }
    }
    failed
}

async fn account(server: &Server) -> String {
    let account = base_backup::archiver_account(server).await;
    account.unwrap_or_else(|error| format!("it could not be asked ({error:#})"))
}

/// Who is late.
async fn late(
    server: &Server,
    missing: &Needed,
    failed: &[String],
    after: Duration,
    cluster: &Cluster,
) -> anyhow::Error {
    let account = account(server).await;
    let text = |(name, stores): (&WalName, &BTreeSet<StoreName>)| {
        let stores: Vec<String> = stores.iter().map(ToString::to_string).collect();
        if stores.is_empty() { name.to_string() } else { format!("{name} (only in {})", stores.join(", ")) }
    };
    let mut named: Vec<String> = missing.iter().take(NAMED).map(text).collect();
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

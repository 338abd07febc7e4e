//! All of the archive at once, as the stores list it: what recovery can be planned with.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;

use anyhow::Context as _;
use futures_util::future::join_all;

use super::fetch::{Fetcher, Outcome};
use super::look;
use crate::command::{Context, stores};
use crate::format::names;
use crate::model::{Fault, Kind, Lsn, TimelineHistory, WalKind, WalName};
use crate::plan::recovery::{self, Archive, Base};
use crate::postgres::wal_records::{Mark, Stops, find, stops};
use crate::system::durable;

/// Bytes of the next segment in which a record may end that begins in one: those that are looked for are short.
const FOLLOWING: usize = 64 << 10;

/// What the stores hold.
pub(in crate::command) struct Inventory {
    pub(in crate::command) archive: Archive,
    /// Stores that could not be asked: what seems to be missing may be there.
    pub(in crate::command) unasked: Vec<String>,
    fetcher: Fetcher,
}

/// Lists every store once, and reads the history files.
pub(in crate::command) async fn take(context: &Context) -> anyhow::Result<Inventory> {
    let cluster = &context.settings.cluster;
    let fetcher = Fetcher::open(context.settings.clone())?;
    let (mut archive, mut unasked) = (Archive::default(), Vec::new());
    let stores: Vec<_> = context.reading().each().collect();
    let list = async |store: &std::sync::Arc<dyn crate::store::ReadStore>| {
        stores::still_there(cluster, &**store).await?;
        look::under(&**store, cluster, &names::wal(cluster)).await
    };
    let (mut histories, mut digests) = (BTreeSet::new(), HashMap::new());
    for listed in join_all(stores.iter().map(|store| list(store))).await {
        match listed {
            Ok(files) => {
                for file in files {
                    match file.name.kind() {
                        WalKind::Segment => {
                            let digest = digests.entry(file.name.clone()).or_insert(file.sha256);
                            if *digest != file.sha256 {
                                archive.conflicts.insert(file.name.clone());
                            }
                            archive.segments.insert(file.name);
                        }
                        WalKind::History => drop(histories.insert(file.name)),
                        WalKind::Backup | WalKind::Partial => {}
                    }
                }
            }
            Err(error) => {
                context.reading().failed(&error);
                unasked.push(error.to_string());
            }
        }
    }
    let (read, unread) = learn(context, &fetcher, histories).await?;
    archive.histories = read;
    // Without one the newest timeline would be taken for another.
    unasked.extend(unread);
    Ok(Inventory { archive, unasked, fetcher })
}

/// Reads history files that are in the archive, and writes down what they say. With them: a sentence for each that can't be
/// read.
pub(in crate::command) async fn learn(
    context: &Context,
    fetcher: &Fetcher,
    names: BTreeSet<WalName>,
) -> anyhow::Result<(BTreeMap<u32, TimelineHistory>, Vec<String>)> {
    let (mut histories, mut unread) = (BTreeMap::new(), Vec::new());
    for name in names {
        match text(context, fetcher, &name).await? {
            Ok(bytes) => {
                if let Some(history) = TimelineHistory::parse(&bytes) {
                    let said = String::from_utf8_lossy(&bytes);
                    context.catalog.wal().record_history(name.timeline(), &said)?;
                    histories.insert(name.timeline(), history);
                }
            }
            Err(why) => unread.push(format!("{name} is in the archive and can't be read: {why}")),
        }
    }
    Ok((histories, unread))
}

/// The bytes of a file that is listed, or why it can't be had.
async fn text(
    context: &Context,
    fetcher: &Fetcher,
    name: &WalName,
) -> anyhow::Result<Result<Vec<u8>, String>> {
    let path = context.scratch()?.join(name.as_str());
    let outcome = fetcher.get(name, &path).await?;
    let bytes = match outcome {
        Outcome::Fetched(_) => Ok(fs::read(&path).with_context(|| format!("read {}", path.display()))?),
        Outcome::Absent { .. } => Err("it has just gone".to_owned()),
        Outcome::Unsure(why) => Err(why.join("; ")),
    };
    durable::remove_file_if_there(&path)?;
    Ok(bytes)
}

impl Inventory {
    async fn segment(&self, context: &Context, name: &WalName) -> anyhow::Result<Vec<u8>> {
        context.progress.detail(&format!("look into {name}"));
        let read = text(context, &self.fetcher, name).await?;
        read.or_else(|why| {
            Fault::new(Kind::Store, format!("{name} is needed to find the target, and can't be read: {why}"))
                .hint("See what is the matter with the stores (`pgkeep verify`), or give another target.")
                .err()
        })
    }

    /// What recovery can stop at last in these segments: the end of the last transaction, if any ends in them, and the
    /// last record.
    pub(in crate::command) async fn last_stops(
        &self,
        context: &Context,
        segments: &[WalName],
    ) -> anyhow::Result<Stops> {
        let mut found = Stops::default();
        for name in segments.iter().rev() {
            let Stops { last_transaction, last_record } = stops(&self.segment(context, name).await?);
            found.last_record = found.last_record.or(last_record);
            found.last_transaction = last_transaction;
            if last_transaction.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// Where something lies that only the WAL itself knows, looked for from its end backwards, as far as the oldest
    /// backup carries. `bases` in any order.
    pub(in crate::command) async fn find(
        &self,
        context: &Context,
        mark: &Mark,
        bases: &[Base],
        way: &[(u32, Option<Lsn>)],
    ) -> anyhow::Result<Option<Lsn>> {
        let mut bases: Vec<&Base> = bases.iter().filter(|base| recovery::is_on_the_way(base, way)).collect();
        bases.sort_by_key(|base| std::cmp::Reverse(base.stop_lsn));
        let mut looked_into = HashSet::new();
        for base in bases {
            let (mut following, mut border) = (Vec::new(), None);
            for name in recovery::reach(base, way, &self.archive).segments.into_iter().rev() {
                if looked_into.contains(&name) {
                    border = Some(name);
                    continue;
                }
                if let Some(border) = border.take() {
                    following = self.segment(context, &border).await?;
                    following.truncate(FOLLOWING);
                }
                let bytes = self.segment(context, &name).await?;
                let found = find(&bytes, &following, mark);
                if found.is_some() {
                    return Ok(found);
                }
                following = bytes;
                following.truncate(FOLLOWING);
                looked_into.insert(name);
            }
        }
        Ok(None)
    }
}

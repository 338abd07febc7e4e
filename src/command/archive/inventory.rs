//! All of the archive at once, as the stores list it: what recovery can be planned with.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use futures_util::future::join_all;

use super::fetch::{Fetcher, Outcome};
use super::look;
use crate::command::{Context, stores};
use crate::format::names;
use crate::model::{TimelineHistory, WalKind, WalName};
use crate::plan::recovery::Archive;
use crate::postgres::wal_records::{Stops, stops};
use crate::system::durable;

/// How many of the last segments are read in order to find the last transaction.
const LOOKED_AT: usize = 32;

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
    let mut histories = BTreeSet::new();
    for listed in join_all(stores.iter().map(|store| list(store))).await {
        match listed {
            Ok(files) => {
                for file in files {
                    match file.name.kind() {
                        WalKind::Segment => drop(archive.segments.insert(file.name)),
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
    let scratch = context.scratch()?;
    for name in histories {
        if let Some(bytes) = read(&fetcher, &name, &scratch).await?
            && let Some(history) = TimelineHistory::parse(&bytes)
        {
            context.catalog.wal().record_history(name.timeline(), &String::from_utf8_lossy(&bytes))?;
            archive.histories.insert(name.timeline(), history);
        }
    }
    Ok(Inventory { archive, unasked, fetcher })
}

/// The bytes of a file; `None` when no store has a good copy.
async fn read(fetcher: &Fetcher, name: &WalName, scratch: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let path = scratch.join(name.as_str());
    let outcome = fetcher.get(name, &path).await?;
    let bytes = match outcome {
        Outcome::Fetched(_) => Some(fs::read(&path).with_context(|| format!("read {}", path.display()))?),
        Outcome::Absent { .. } | Outcome::Unsure(_) => None,
    };
    durable::remove_file_if_there(&path)?;
    Ok(bytes)
}

impl Inventory {
    /// What recovery can stop at last, up to and including this segment: the end of the last transaction, unless none of
    /// the last segments holds one, and the last record.
    pub(in crate::command) async fn last_stops(
        &self,
        context: &Context,
        last: &WalName,
        segment_size: u32,
    ) -> anyhow::Result<Stops> {
        let mut found = Stops::default();
        let scratch = context.scratch()?;
        let before = self.archive.segments.range(..=last.clone()).rev();
        let same = before.take_while(|name| name.timeline() == last.timeline()).take(LOOKED_AT);
        let mut wanted = last.start(segment_size);
        for name in same {
            // Without a gap.
            if name.start(segment_size) != wanted {
                break;
            }
            let Some(bytes) = read(&self.fetcher, name, &scratch).await? else { break };
            let Stops { last_transaction, last_record } = stops(&bytes);
            found.last_record = found.last_record.or(last_record);
            found.last_transaction = last_transaction;
            if last_transaction.is_some() {
                break;
            }
            wanted = wanted.and_then(|start| start.checked_sub(u64::from(segment_size)));
        }
        Ok(found)
    }
}

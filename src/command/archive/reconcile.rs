//! What the catalog knows of archived WAL, compared with what the stores list: the catalog learns what it does not know,
//! and what a store lost is owed again.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use serde::Serialize;

use super::{unheard, unrecorded};
use crate::catalog::{CopyState, ListedWal, WalRow};
use crate::command::{Context, stores};
use crate::format::names;
use crate::model::{Digest, StoreName, Timestamp, WalName};
use crate::store::{ObjectInfo, ReadStore, StoreError};

/// What was written so shortly before a listing may not stand in it: clocks differ, and a `wal-push` writes down what it
/// has done a moment after.
const MARGIN: TimeDelta = TimeDelta::minutes(1);

/// What is wrong with a copy of a WAL file.
#[derive(Debug, Clone, Serialize)]
pub struct WalFinding {
    /// The file.
    pub file: WalName,
    /// The store.
    pub store: StoreName,
    /// `missing`, `damaged` or `owed`.
    pub state: CopyState,
    /// What is wrong, in words.
    pub message: String,
    /// Whether a good copy is in its place now.
    pub repaired: bool,
}

/// What the stores' listings of WAL say.
#[derive(Debug, Default)]
pub(in crate::command) struct WalListings {
    /// How many copies there are.
    pub(in crate::command) copies: u64,
    /// What is wrong with others.
    pub(in crate::command) findings: Vec<WalFinding>,
    /// An error for each store that could not be listed.
    pub(in crate::command) failed: Vec<StoreError>,
    /// Bytes and objects in each of the others.
    pub(in crate::command) held: HashMap<StoreName, (u64, u64)>,
}

/// Lists the WAL of these stores, and writes down what that says.
pub(in crate::command) async fn reconcile(
    context: &Context,
    of: &[Arc<dyn ReadStore>],
) -> anyhow::Result<WalListings> {
    unrecorded::take_in(&context.settings, &context.catalog)?;
    let begun = Utc::now();
    let mut known: HashMap<StoreName, Vec<WalRow>> = HashMap::new();
    for row in context.catalog.wal().all()? {
        known.entry(row.store).or_default().push(row);
    }
    let prefix = names::wal(&context.settings.cluster);
    let mut all = WalListings::default();
    for store in of {
        let rows = known.remove(&store.name()).unwrap_or_default();
        let looking = async {
            let listed = store.list(&prefix).await?;
            let list = List::of(context, store.name(), listed);
            if rows.iter().any(|row| list.lacks(row, begun)) {
                // Of a disk that was unmounted meanwhile this may be half a list.
                stores::still_there(&context.settings.cluster, &**store).await?;
            }
            Ok(list)
        };
        match context.stop.or(async { Ok(looking.await) }).await? {
            Ok(list) => {
                all.copies += list.files.len() as u64;
                all.held.insert(store.name(), list.held);
                all.findings.extend(list.compare(context, &rows, begun)?);
            }
            Err(error) => {
                context.reading().failed(&error);
                all.failed.push(error);
            }
        }
    }
    let heard: Vec<StoreName> = all.held.keys().copied().collect();
    let silent: Vec<(StoreName, String)> =
        all.failed.iter().map(|error| (error.store, error.to_string())).collect();
    unheard::note(context, &heard, &silent)?;
    all.findings.sort_by(|left, right| (&left.file, left.store).cmp(&(&right.file, right.store)));
    Ok(all)
}

/// What one store lists.
struct List {
    store: StoreName,
    files: HashMap<(WalName, Digest), ObjectInfo>,
    /// Bytes and objects, also those that are no files of the archive.
    held: (u64, u64),
}

impl List {
    fn of(context: &Context, store: StoreName, listed: Vec<ObjectInfo>) -> Self {
        let cluster = &context.settings.cluster;
        let held = (listed.iter().map(|info| info.size).sum(), listed.len() as u64);
        let file = |info: ObjectInfo| Some((names::parse_wal(cluster, &info.key)?, info));
        Self { store, files: listed.into_iter().filter_map(file).collect(), held }
    }

    /// Whether a copy that is known as good is not there.
    fn lacks(&self, row: &WalRow, begun: Timestamp) -> bool {
        row.state == CopyState::Good
            && row.stored_at.is_none_or(|stored_at| stored_at < begun - MARGIN)
            && !self.files.contains_key(&(row.file.clone(), row.content_sha256))
    }

    /// Compares the list with what is known, and writes down what is new.
    fn compare(
        mut self,
        context: &Context,
        rows: &[WalRow],
        begun: Timestamp,
    ) -> anyhow::Result<Vec<WalFinding>> {
        let (wal, store) = (context.catalog.wal(), self.store);
        let mut findings = Vec::new();
        for row in rows {
            let lacks = self.lacks(row, begun);
            let info = self.files.remove(&(row.file.clone(), row.content_sha256));
            let (state, message) = match (row.state, info) {
                _ if lacks => (CopyState::Missing, "the store does not list it".to_owned()),
                (CopyState::Good, Some(info)) if info.size != row.size_bytes => {
                    let message =
                        format!("it has {} bytes, it was stored with {}", info.size, row.size_bytes);
                    (CopyState::Damaged, message)
                }
                (CopyState::Good | CopyState::Deleting, _) => continue,
                // Somebody has put it back, or the answer to a write was lost.
                (CopyState::Missing | CopyState::Owed, Some(info)) if info.size == row.size_bytes => {
                    wal.found_again(row, begun)?;
                    continue;
                }
                (state, _) => (state, row.note.clone().unwrap_or_else(|| "it has no copy yet".to_owned())),
            };
            if state != row.state && !wal.set_state(row, state, Some(&message))? {
                // Deleted since it was looked up.
                continue;
            }
            findings.push(WalFinding { file: row.file.clone(), store, state, message, repaired: false });
        }
        let unknown = self.files.into_iter().map(|((file, content_sha256), info)| ListedWal {
            file,
            content_sha256,
            store,
            size_bytes: info.size,
            stored_at: info.modified,
        });
        wal.record_listed(&unknown.collect::<Vec<_>>(), begun)?;
        Ok(findings)
    }
}

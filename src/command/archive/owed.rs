//! The copies of WAL files that a store missed, lost or damaged: made from a good one that was opened and checked first.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Utc;
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;

use super::{checked, look, reconcile};
use crate::catalog::{CopyState, Severity, WalRow};
use crate::command::Context;
use crate::command::stores::Presence;
use crate::format::keyring::Keyring;
use crate::model::{Digest, Fault, Kind, Stage, StoreName, WalName};
use crate::pipeline::read_hashed;
use crate::store::{Body, ReadStore, Store};
use crate::system::durable;

/// How many files are under way at the same time.
const AT_ONCE: usize = 4;
/// How many one run looks at; the next one goes on.
const AT_MOST: usize = 100_000;

/// What became of the WAL.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WalSync {
    /// Copies made, or that would be made.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies that are still owed.
    pub waiting: u64,
    /// Files of which no store has a good copy.
    pub lost: Vec<WalName>,
    /// The copies that were made.
    #[serde(skip)]
    pub(in crate::command) made: Vec<(WalName, StoreName)>,
    /// What each store holds of WAL: bytes and objects.
    #[serde(skip)]
    pub(in crate::command) held: HashMap<StoreName, (u64, u64)>,
}

/// A file and the stores that lack it.
struct Owed {
    file: WalName,
    sha256: Digest,
    rows: Vec<WalRow>,
}

/// Makes them. What fails is a warning; the next run tries again.
pub(in crate::command) async fn make_copies(
    context: &Context,
    presence: &Presence,
    staging: &Path,
    dry_run: bool,
    warnings: &mut Vec<String>,
) -> anyhow::Result<WalSync> {
    let wal = context.catalog.wal();
    // First what the stores themselves say: a copy that somebody removed is owed again.
    let present: Vec<Arc<dyn ReadStore>> =
        presence.present.iter().map(|store| Arc::clone(store) as Arc<dyn ReadStore>).collect();
    let listings = reconcile::reconcile(context, &present).await?;
    warnings.extend(listings.failed.iter().map(ToString::to_string));
    for store in context.reading().each() {
        wal.expect_in(store.name())?;
    }
    let mut owed: BTreeMap<(WalName, String), Owed> = BTreeMap::new();
    let configured: Vec<StoreName> = context.reading().each().map(|store| store.name()).collect();
    for row in wal.not_good(AT_MOST)?.into_iter().filter(|row| configured.contains(&row.store)) {
        let key = (row.file.clone(), row.content_sha256.to_string());
        let entry = owed.entry(key).or_insert_with(|| Owed {
            file: row.file.clone(),
            sha256: row.content_sha256,
            rows: Vec::new(),
        });
        entry.rows.push(row);
    }
    let mut done = WalSync { held: listings.held, ..WalSync::default() };
    if owed.is_empty() {
        return Ok(done);
    }
    durable::create_private_dir(staging)?;
    let keyring = Arc::new(context.keyring()?);
    let stage = context.progress.rows("wal", owed.len() as u64);
    let copying = Copying { context, presence, staging, keyring, dry_run };
    let mut running =
        stream::iter(owed.into_values()).map(|owed| copying.copy(owed)).buffer_unordered(AT_ONCE);
    while let Some(copied) = context.stop.or(async { Ok(running.next().await) }).await? {
        stage.add(1);
        let Copied { made, bytes, waiting, lost, failed } = copied?;
        done.copies += made.len() as u64;
        done.made.extend(made);
        done.bytes += bytes;
        done.waiting += waiting;
        done.lost.extend(lost);
        // One store that is away says the same of every file.
        warnings.extend(failed.into_iter().filter(|why| !warnings.contains(why)).collect::<Vec<_>>());
    }
    done.lost.sort();
    Ok(done)
}

#[derive(Default)]
struct Copied {
    made: Vec<(WalName, StoreName)>,
    bytes: u64,
    waiting: u64,
    lost: Option<WalName>,
    failed: Vec<String>,
}

struct Copying<'a> {
    context: &'a Context,
    presence: &'a Presence,
    staging: &'a Path,
    keyring: Arc<Keyring>,
    dry_run: bool,
}

impl Copying<'_> {
    async fn copy(&self, owed: Owed) -> anyhow::Result<Copied> {
        let mut copied = Copied::default();
        let present = |name: StoreName| self.presence.present.iter().find(|store| store.name() == name);
        let (to, away): (Vec<&WalRow>, Vec<&WalRow>) =
            owed.rows.iter().partition(|row| present(row.store).is_some());
        copied.waiting = away.len() as u64;
        if to.is_empty() {
            return Ok(copied);
        }
        let Some((path, size, spooled)) = self.source(&owed, &mut copied).await? else {
            let good = self.context.catalog.wal().of(&owed.file)?;
            let may_be_elsewhere = good.iter().any(|row| {
                row.content_sha256 == owed.sha256
                    && row.state == CopyState::Good
                    && present(row.store).is_none()
            });
            if may_be_elsewhere {
                copied.waiting += to.len() as u64;
            } else {
                copied.lost = Some(owed.file);
            }
            return Ok(copied);
        };
        for row in to {
            let Some(store) = present(row.store) else { continue };
            if !self.dry_run {
                if let Some(other) = self.conflict(store, &owed).await? {
                    copied.waiting += 1;
                    copied.failed.push(other);
                    continue;
                }
                if let Err(error) = self.put(store, &owed, &path, size).await {
                    copied.waiting += 1;
                    copied.failed.push(error.to_string());
                    continue;
                }
                let (state, stored_at, note) = (CopyState::Good, Some(Utc::now()), None);
                let row = WalRow { size_bytes: size, state, stored_at, note, ..row.clone() };
                self.context.catalog.wal().record(&[row])?;
            }
            copied.made.push((owed.file.clone(), row.store));
            copied.bytes += size;
        }
        if spooled {
            durable::remove_file_if_there(&path)?;
        }
        Ok(copied)
    }

    /// Another file of this name: two servers have written to one archive, each to a part of the stores.
    async fn conflict(&self, store: &Arc<dyn Store>, owed: &Owed) -> anyhow::Result<Option<String>> {
        // One that can't be listed says so when it is written to.
        let listed = look::at_name(&**store, &self.context.settings.cluster, &owed.file).await;
        let other = listed.into_iter().flatten().find(|it| it.sha256 != owed.sha256);
        let Some(other) = other else { return Ok(None) };
        let message = format!(
            "{} was archived with different bytes: store {} has those with SHA-256 {}, others have {}; no copy was made",
            owed.file,
            store.name(),
            other.sha256,
            owed.sha256
        );
        self.context.catalog.alerts().raise("wal-conflict", Severity::Critical, &message, Utc::now())?;
        Ok(Some(message))
    }

    async fn put(
        &self,
        store: &Arc<dyn Store>,
        owed: &Owed,
        path: &Path,
        size: u64,
    ) -> Result<(), crate::store::StoreError> {
        let key = crate::format::names::wal_file(&self.context.settings.cluster, &owed.file, &owed.sha256);
        store.put(&key, Body::file(path.to_owned(), size)).await?;
        // What was damaged there may have become an older version.
        store.delete_old_versions(&key).await
    }

    /// A good copy, checked: where it lies on this machine, its size, and whether it is only there for now.
    async fn source(&self, owed: &Owed, copied: &mut Copied) -> anyhow::Result<Option<(PathBuf, u64, bool)>> {
        let cluster = &self.context.settings.cluster;
        let mut stores: Vec<&Arc<dyn Store>> = self.presence.present.iter().collect();
        stores.retain(|store| !owed.rows.iter().any(|row| row.store == store.name()));
        stores.sort_by_key(|store| store.name() != StoreName::Local);
        for store in stores {
            let listed = match look::at_name(&**store, cluster, &owed.file).await {
                Ok(listed) => listed,
                Err(error) => {
                    copied.failed.push(error.to_string());
                    continue;
                }
            };
            let Some(archived) = listed.into_iter().find(|it| it.sha256 == owed.sha256) else {
                self.mark(owed, store.name(), CopyState::Missing, "it is not there")?;
                continue;
            };
            let is_local = store.name() == StoreName::Local;
            let path = if is_local {
                PathBuf::from(store.locate(&archived.key))
            } else {
                let path = self.staging.join(format!("{}-{}", owed.file, owed.sha256));
                durable::remove_file_if_there(&path)?;
                let get = async |offset, length| store.get(&archived.key, offset, length).await;
                let read = read_hashed(archived.size, Some(&path), &Stage::new(archived.size), get).await?;
                if let Err(error) = read {
                    copied.failed.push(error.to_string());
                    continue;
                }
                path
            };
            let owner = archived.key[cluster.as_str().len()..].trim_start_matches('/').to_owned();
            match checked::file(path.clone(), owner, owed.sha256, &self.keyring).await {
                Ok(()) => return Ok(Some((path, archived.size, !is_local))),
                Err(error) => {
                    let kind = error.downcast_ref::<Fault>().map(|it| it.kind);
                    // A copy whose header is damaged seems to need another key, or to be of a later format: the next
                    // store's may be good.
                    if kind == Some(Kind::Key) {
                        copied.failed.push(format!("{} in store {}: {error:#}", owed.file, store.name()));
                        continue;
                    }
                    if kind != Some(Kind::Damaged) {
                        return Err(error);
                    }
                    self.mark(owed, store.name(), CopyState::Damaged, &format!("{error:#}"))?;
                    copied.failed.push(format!(
                        "{} in store {} is damaged: {error:#}",
                        owed.file,
                        store.name()
                    ));
                }
            }
        }
        Ok(None)
    }

    fn mark(&self, owed: &Owed, store: StoreName, state: CopyState, why: &str) -> anyhow::Result<()> {
        let wal = self.context.catalog.wal();
        let known = wal.of(&owed.file)?;
        match known.iter().find(|row| row.store == store && row.content_sha256 == owed.sha256) {
            Some(row) => wal.set_state(row, state, Some(why)).map(drop),
            None => Ok(()),
        }
    }
}

//! Gets one file of WAL out of the stores, and knows "not there" from "can't tell".

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::look::{self, Archived};
use crate::command::{context, stores};
use crate::config::Settings;
use crate::format::keyring::Keyring;
use crate::model::{Digest, Fault, Kind, StoreName, WalKind, WalName};
use crate::pipeline::open_alone;
use crate::postgres::wal::{HEADER_BYTES, SegmentHeader};
use crate::store::{ReadReplicas, ReadStore, StoreError};
use crate::system::durable;

/// Stored bytes read at once.
const READ_BYTES: u64 = 8 << 20;

/// What became of a file that was asked for.
#[derive(Debug)]
pub(in crate::command) enum Outcome {
    /// It was written where it was wanted.
    Fetched(StoreName),
    /// Every store has answered, and none has it. With it: later files of the same timeline that are there.
    Absent { later: BTreeSet<WalName> },
    /// It may be somewhere; a sentence for each store that could not be asked or has no good copy.
    Unsure(Vec<String>),
}

/// What fetching takes.
pub(in crate::command) struct Fetcher {
    pub(in crate::command) settings: Settings,
    stores: ReadReplicas,
    keyring: Arc<Keyring>,
}

impl Fetcher {
    pub(in crate::command) fn open(settings: Settings) -> anyhow::Result<Self> {
        let keyring = Arc::new(context::keyring(&settings)?);
        // Somebody waits for a recovery: no rate limit.
        let stores = stores::replicas(&Settings { rate_limit: None, ..settings.clone() })?.reading();
        Ok(Self { settings, stores, keyring })
    }

    /// Gets the file into a new file at this path: from the first store that has a good copy.
    pub(in crate::command) async fn get(&self, name: &WalName, into: &Path) -> anyhow::Result<Outcome> {
        let (mut unsure, mut later, mut digests) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut key = None;
        for store in self.stores.by_preference() {
            let listed = match self.list(&*store, name).await {
                Ok(listed) => listed,
                Err(error) => {
                    self.stores.failed(&error);
                    unsure.push(error.to_string());
                    continue;
                }
            };
            let (own, others): (Vec<Archived>, _) = listed.into_iter().partition(|it| it.name == *name);
            later.extend(
                others.into_iter().map(|it| it.name).filter(|it| it.kind() == name.kind() && it > name),
            );
            digests.extend(own.iter().map(|it| it.sha256.to_string()));
            if digests.len() > 1 {
                let which: Vec<_> = digests.into_iter().collect();
                let text = format!(
                    "{name} was archived with different bytes (SHA-256 {}): two servers have written under one name",
                    which.join(" and ")
                );
                return Ok(Outcome::Unsure(vec![text]));
            }
            let Some(archived) = own.into_iter().next() else { continue };
            match self.unseal(&store, archived, into).await? {
                Ok(()) => return Ok(Outcome::Fetched(store.name())),
                // One flipped bit in a header makes a copy seem to need another key: the next one may be good.
                Err(fault) => {
                    unsure.push(fault.message.clone());
                    key = key.or(Some(fault).filter(|it| it.kind == Kind::Key));
                }
            }
        }
        if let Some(fault) = key {
            return Err(fault.into());
        }
        Ok(if unsure.is_empty() { Outcome::Absent { later } } else { Outcome::Unsure(unsure) })
    }

    /// What the store has around this file. A store without the cluster's identity says nothing: it may be the empty
    /// directory in which a disk should be mounted.
    async fn list(&self, store: &dyn ReadStore, name: &WalName) -> Result<Vec<Archived>, StoreError> {
        let cluster = &self.settings.cluster;
        let mut listed = look::around(store, cluster, name).await?;
        if listed.is_empty() || !listed.iter().any(|it| it.name == *name) {
            stores::still_there(cluster, store).await?;
        }
        // Is it the last one of its group? What comes after it is in the next.
        if let Some(next) = name.log().and_then(|log| u32::from_str_radix(log, 16).ok()?.checked_add(1))
            && name.kind() == WalKind::Segment
            && !listed.iter().any(|it| it.name >= *name)
        {
            let first = format!("{:08X}{next:08X}00000000", name.timeline());
            if let Ok(first) = first.parse() {
                listed.extend(look::around(store, cluster, &first).await?);
            }
        }
        Ok(listed)
    }

    /// Reads, opens and checks a copy. The inner error is what is the matter with it, or with the store.
    async fn unseal(
        &self,
        store: &Arc<dyn ReadStore>,
        archived: Archived,
        into: &Path,
    ) -> anyhow::Result<Result<(), Fault>> {
        durable::remove_file_if_there(into)?;
        let target = durable::create_private_file(into)?;
        let (reader, keyring) = (Arc::clone(store), Arc::clone(&self.keyring));
        let owner = archived.key.strip_prefix(self.settings.cluster.as_str()).unwrap_or_default();
        let (owner, runtime) = (owner.trim_start_matches('/').to_owned(), Handle::current());
        let (place, name) = (store.locate(&archived.key), archived.name.clone());
        let opened = spawn_blocking(move || {
            let mut source = Stored::of(reader, archived.key, archived.size, runtime);
            let mut sink = Checked { file: target, hasher: Sha256::new(), head: Vec::new() };
            let opened = open_alone(&owner, &keyring, &mut source, &mut sink);
            let size = match (opened, source.failed) {
                (_, Some(error)) => return Ok(Err(Fault::from(error))),
                (Ok(size), None) => size,
                (Err(error), None) => {
                    // What is wrong with the copy has a kind; anything else is wrong here.
                    let text = format!("{error:#}");
                    let fault = error.downcast::<Fault>()?;
                    return Ok(Err(Fault { message: text, ..fault }));
                }
            };
            let found = Digest::from_bytes(sink.hasher.finalize().into());
            if found != archived.sha256 {
                let why = format!("its SHA-256 is {found}, its name says {}", archived.sha256);
                return Ok(Err(Fault::new(Kind::Damaged, why)));
            }
            if matches!(archived.name.kind(), WalKind::Segment | WalKind::Partial) {
                return Ok(SegmentHeader::of(&archived.name, size, &sink.head).map(drop));
            }
            anyhow::Ok(Ok(()))
        });
        match opened.await.context("open a WAL file")?? {
            Ok(()) => Ok(Ok(())),
            Err(fault) => {
                Ok(Err(Fault { message: format!("{name} at {place}: {}", fault.message), ..fault }))
            }
        }
    }
}

/// An object of a store as a stream of bytes; for threads that may wait.
pub(super) struct Stored {
    store: Arc<dyn ReadStore>,
    key: String,
    size: u64,
    offset: u64,
    piece: io::Cursor<Vec<u8>>,
    runtime: Handle,
    /// What the store said when it could not be read on.
    pub(super) failed: Option<StoreError>,
}

impl Stored {
    pub(super) fn of(store: Arc<dyn ReadStore>, key: String, size: u64, runtime: Handle) -> Self {
        Self { store, key, size, offset: 0, piece: io::Cursor::default(), runtime, failed: None }
    }
}

impl Read for Stored {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.piece.position() == self.piece.get_ref().len() as u64 && self.offset < self.size {
            let length = READ_BYTES.min(self.size - self.offset);
            match self.runtime.block_on(self.store.get(&self.key, self.offset, length)) {
                Ok(bytes) => self.piece = io::Cursor::new(bytes),
                Err(error) => {
                    let text = error.to_string();
                    self.failed = Some(error);
                    return Err(io::Error::other(text));
                }
            }
            self.offset += length;
        }
        self.piece.read(out)
    }
}

/// Writes, and sums up what it writes.
struct Checked {
    file: File,
    hasher: Sha256,
    head: Vec<u8>,
}

impl Write for Checked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        let bytes = &bytes[..written];
        self.hasher.update(bytes);
        let wanted = HEADER_BYTES.saturating_sub(self.head.len()).min(written);
        self.head.extend_from_slice(&bytes[..wanted]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

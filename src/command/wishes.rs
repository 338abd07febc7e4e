//! That a backup is to be kept, said in the stores: a small sealed object for each such wish, and for each that is taken
//! back. So it outlives the catalog in which it was first written down, and every host that cleans up over the same
//! stores knows of it. The last word counts; one that does not open is believed only if it keeps something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::Utc;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::listing::Listings;
use super::{Context, stores};
use crate::catalog::{BackupStatus, Leaving, Pin, Wish};
use crate::format::keyring::Keyring;
use crate::format::names;
use crate::model::{BackupId, Codec, Fault, Kind, StoreName, Timestamp};
use crate::pipeline::{SealAlone, open_alone, seal_alone};
use crate::store::{Body, ReadStore, Store, StoreError, StoreErrorKind, StoreResult};

/// A few words need no effort.
const CODEC: Codec = Codec::Zstd(1);
/// Such an object holds a line of text.
const LARGEST: u64 = 64 << 10;

/// Who wants something kept when that can't be read; nobody is called so.
const UNREADABLE: &str = "?";

/// What is under the seal; the rest is in the key.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Sealed {
    by: String,
    reason: String,
}

/// When something was said of a backup, and whether it was to be kept from then on.
type Said = (Timestamp, bool);

/// A store's wishes.
struct Heard {
    store: Arc<dyn ReadStore>,
    wishes: BTreeMap<BackupId, BTreeSet<Said>>,
}

/// What was learned from the stores.
#[derive(Default)]
pub(super) struct Learned {
    heard: Vec<Heard>,
    /// Stores that could not be asked.
    pub(super) failed: Vec<StoreError>,
    /// What could not be read.
    pub(super) warnings: Vec<String>,
}

impl Learned {
    /// When the last word about a backup was said, as far as the catalog and the stores that were heard know; whether that
    /// one can be believed or not.
    pub(super) fn last_word(&self, context: &Context, id: &BackupId) -> anyhow::Result<Option<Timestamp>> {
        let known = last_words(context)?.into_iter().find(|wish| wish.backup == *id).map(|wish| wish.at);
        Ok(self.words(id).map(|(at, _)| at).chain(known).max())
    }

    fn words(&self, id: &BackupId) -> impl Iterator<Item = Said> {
        self.heard.iter().filter_map(|heard| heard.wishes.get(id)).flatten().copied()
    }
}

/// Says in every store that is there what the catalog has of this backup. What could not be done is returned: the next
/// cleanup makes up for it.
pub(super) async fn tell(context: &Context, wish: &Wish) -> Vec<String> {
    let told = context.stop.or(async {
        let keyring = context.keyring()?;
        let presence = stores::presence(context).await?;
        let mut failed: Vec<String> = presence
            .absent
            .iter()
            .map(|absent| format!("store {} is away: {}", absent.store, absent.why))
            .collect();
        let bytes = sealed(&keyring, wish)?;
        let put = presence.present.iter().map(|store| put(context, store, wish, &bytes));
        failed.extend(join_all(put).await.into_iter().filter_map(Result::err).map(|error| error.to_string()));
        Ok(failed)
    });
    let failed = told.await.unwrap_or_else(|error| vec![format!("{error:#}")]);
    failed
        .into_iter()
        .map(|why| format!("not said in every store, the next `pgkeep cleanup` does it: {why}"))
        .collect()
}

/// Takes over the last word about every complete backup out of all stores that answer.
pub(super) async fn take_in(context: &Context) -> anyhow::Result<Learned> {
    let mut learned = context.stop.or(async { Ok(listen(context).await) }).await?;
    // What could not be read is read again: the store may have been slow, or the key is there now.
    let known: BTreeMap<BackupId, Timestamp> =
        last_words(context)?.into_iter().filter(is_understood).map(|it| (it.backup, it.at)).collect();
    let mut said: BTreeMap<&BackupId, BTreeMap<Said, Vec<&dyn ReadStore>>> = BTreeMap::new();
    for Heard { store, wishes } in &learned.heard {
        for (id, wishes) in wishes {
            for wish in wishes.iter().filter(|(at, _)| known.get(id).is_none_or(|known| at > known)) {
                said.entry(id).or_default().entry(*wish).or_default().push(&**store);
            }
        }
    }
    let mut warnings = Vec::new();
    for (id, words) in said {
        if context.catalog.backups().get(id)?.is_some_and(|row| row.status == BackupStatus::Complete) {
            warnings.extend(believe(context, id, words).await?);
        }
    }
    learned.warnings.extend(warnings);
    Ok(learned)
}

/// Writes down the last of these words that can be believed.
async fn believe(
    context: &Context,
    id: &BackupId,
    words: BTreeMap<Said, Vec<&dyn ReadStore>>,
) -> anyhow::Result<Vec<String>> {
    let mut warnings = Vec::new();
    for ((at, is_kept), stores) in words.into_iter().rev() {
        let sealed = context.stop.or(read(context, id, (at, is_kept), &stores)).await;
        context.stop.check()?;
        let pin = match sealed {
            Ok(Sealed { by, reason }) => is_kept.then_some(Pin { at, by, reason }),
            Err(error) if is_kept => {
                warnings.push(format!(
                    "why {id} is to be kept can't be read (`pgkeep keep` says it again): {error:#}"
                ));
                // A backup too many can still be deleted.
                Some(Pin { at, by: UNREADABLE.to_owned(), reason: "a wish that can't be read".to_owned() })
            }
            // Whoever can write to a store must not be able to have a backup deleted in the others.
            Err(error) => {
                warnings.push(format!("that {id} need not be kept any more can't be read: {error:#}"));
                continue;
            }
        };
        context.catalog.backups().set_pin(id, pin.as_ref(), at)?;
        break;
    }
    Ok(warnings)
}

/// Calls complete again what is marked to go, is whole in a store all the same, and of which the last word is that it is to
/// be kept: nobody here had heard that when it was marked, because the store was away. Says so for each.
pub(super) fn revive(
    context: &Context,
    listings: &Listings,
    learned: &Learned,
) -> anyhow::Result<Vec<String>> {
    let mut leaving: BTreeMap<BackupId, BTreeMap<StoreName, BTreeSet<String>>> = BTreeMap::new();
    for Leaving { backup, store, object } in context.catalog.cleanup().leaving()? {
        leaving.entry(backup).or_default().entry(store).or_default().insert(object);
    }
    let mut revived = Vec::new();
    for (id, held) in leaving {
        let Some((at, true)) = learned.words(&id).max() else { continue };
        let is_whole = |(store, objects): (&StoreName, &BTreeSet<String>)| {
            let listed = listings.listed.get(store).and_then(|listed| listed.get(&id));
            let has = |object: &str| listed.is_some_and(|listed| listed.contains_key(object));
            has(names::MANIFEST) && objects.iter().all(|object| has(object))
        };
        let whole: Vec<StoreName> = held.iter().filter(|it| is_whole(*it)).map(|(store, _)| *store).collect();
        if whole.is_empty() || !context.catalog.cleanup().revive(&id, &whole)? {
            continue;
        }
        // Read by the next one, as everything that is not understood.
        let pin = Pin { at, by: UNREADABLE.to_owned(), reason: "wanted before it was deleted".to_owned() };
        context.catalog.backups().set_pin(&id, Some(&pin), at)?;
        let stores: Vec<&str> = whole.iter().map(|store| store.as_str()).collect();
        revived.push(format!(
            "{id} was being deleted although somebody wants it kept, which a store that was away has only now said; it \
             is still whole in {} and stays",
            stores.join(" and ")
        ));
    }
    Ok(revived)
}

/// Says the last word about each backup again in every store of these, under the key that seals now. What could not be done
/// is returned.
pub(super) async fn say_again(context: &Context, present: &[Arc<dyn Store>]) -> anyhow::Result<Vec<String>> {
    let mut learned = take_in(context).await?;
    for wish in last_words(context)?.iter().filter(|wish| is_understood(wish)) {
        let bytes = sealed(&context.keyring()?, wish)?;
        let put = async { Ok(join_all(present.iter().map(|store| put(context, store, wish, &bytes))).await) };
        let failed = context.stop.or(put).await?.into_iter().filter_map(Result::err);
        learned.warnings.extend(failed.map(|error| error.to_string()));
    }
    spread(context, present, &mut learned).await?;
    learned.warnings.extend(learned.failed.iter().map(ToString::to_string));
    Ok(learned.warnings)
}

/// Says what the catalog knows in every store of these that was heard and does not know it yet, and removes what is out of
/// date: words that later ones have overtaken, and those about backups that are gone.
pub(super) async fn spread(
    context: &Context,
    present: &[Arc<dyn Store>],
    learned: &mut Learned,
) -> anyhow::Result<()> {
    let wishes = last_words(context)?;
    for Heard { store, wishes: there } in &learned.heard {
        let Some(store) = present.iter().find(|present| present.name() == store.name()) else { continue };
        let knows = |wish: &Wish| {
            there.get(&wish.backup).is_some_and(|said| said.contains(&(wish.at, wish.pin.is_some())))
        };
        for wish in wishes.iter().filter(|wish| !knows(wish) && is_understood(wish)) {
            let said = async {
                let bytes = sealed(&context.keyring()?, wish)?;
                put(context, store, wish, &bytes).await.fault()
            };
            let said = context.stop.or(said).await;
            context.stop.check()?;
            learned
                .warnings
                .extend(said.err().map(|error| format!("say that {} is to be kept: {error:#}", wish.backup)));
        }
        let old = overtaken(context, &wishes, there)?;
        if old.is_empty() {
            continue;
        }
        match context.stop.or(async { Ok(store.delete_many(&old).await) }).await? {
            // A key that may only add is a good one, and what is out of date does no harm.
            Err(error) if error.kind == StoreErrorKind::Denied => {}
            Err(error) => learned.warnings.push(error.to_string()),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The keys of what need not be said any more in a store.
fn overtaken(
    context: &Context,
    wishes: &[Wish],
    there: &BTreeMap<BackupId, BTreeSet<Said>>,
) -> anyhow::Result<Vec<String>> {
    let mut old = Vec::new();
    for (id, said) in there {
        let last = wishes.iter().find(|wish| wish.backup == *id).map(|wish| wish.at);
        // Of a backup that nobody here knows nothing is removed.
        let is_gone =
            context.catalog.backups().get(id)?.is_some_and(|row| row.status == BackupStatus::Deleted);
        for (at, is_kept) in said {
            if is_gone || last.is_some_and(|last| *at < last) {
                old.push(key(context, id, (*at, *is_kept)));
            }
        }
    }
    Ok(old)
}

/// Whether it was read, or only that there is one.
fn is_understood(wish: &Wish) -> bool {
    wish.pin.as_ref().is_none_or(|pin| pin.by != UNREADABLE)
}

/// The last words that the catalog knows, to the millisecond.
fn last_words(context: &Context) -> anyhow::Result<Vec<Wish>> {
    context.catalog.backups().wishes()
}

fn key(context: &Context, id: &BackupId, (at, is_kept): Said) -> String {
    format!("{}/{}", context.settings.cluster, names::wish_owner(id, at, is_kept))
}

/// Lists the wishes in all stores.
async fn listen(context: &Context) -> Learned {
    let cluster = &context.settings.cluster;
    let prefix = names::wishes(cluster);
    let stores = context.reading().by_preference();
    let listed = join_all(stores.iter().map(|store| store.list(&prefix))).await;
    let mut learned = Learned::default();
    for (store, listed) in stores.into_iter().zip(listed) {
        match listed {
            Err(error) => {
                context.reading().failed(&error);
                learned.failed.push(error);
            }
            Ok(objects) => {
                let mut wishes: BTreeMap<BackupId, BTreeSet<Said>> = BTreeMap::new();
                for (id, at, is_kept) in objects.iter().filter_map(|it| names::parse_wish(cluster, &it.key)) {
                    wishes.entry(id).or_default().insert((at, is_kept));
                }
                learned.heard.push(Heard { store, wishes });
            }
        }
    }
    learned
}

fn sealed(keyring: &Keyring, wish: &Wish) -> anyhow::Result<Vec<u8>> {
    let text = wish
        .pin
        .as_ref()
        .map_or_else(Sealed::default, |pin| Sealed { by: pin.by.clone(), reason: pin.reason.clone() });
    let owner = names::wish_owner(&wish.backup, wish.at, wish.pin.is_some());
    let plan = SealAlone { owner, codec: CODEC, keyring, now: u64::try_from(Utc::now().timestamp())? };
    let mut bytes = Vec::new();
    seal_alone(&plan, &serde_json::to_vec(&text)?[..], &mut bytes)?;
    Ok(bytes)
}

async fn put(context: &Context, store: &Arc<dyn Store>, wish: &Wish, bytes: &[u8]) -> Result<(), StoreError> {
    let key = key(context, &wish.backup, (wish.at, wish.pin.is_some()));
    store.put(&key, Body::Bytes(bytes.to_vec())).await
}

/// Reads a wish from the first of the stores where it opens.
async fn read(
    context: &Context,
    id: &BackupId,
    said: Said,
    stores: &[&dyn ReadStore],
) -> anyhow::Result<Sealed> {
    let keyring = context.keyring()?;
    let (key, owner) = (key(context, id, said), names::wish_owner(id, said.0, said.1));
    let mut failed = None;
    for store in stores {
        match read_from(*store, &key, &owner, &keyring).await {
            Ok(sealed) => return Ok(sealed),
            Err(error) => failed = failed.or(Some(error.context(store.locate(&key)))),
        }
    }
    Err(failed.unwrap_or_else(|| Fault::new(Kind::Bug, "it is in no store").into()))
}

async fn read_from(
    store: &dyn ReadStore,
    key: &str,
    owner: &str,
    keyring: &Keyring,
) -> anyhow::Result<Sealed> {
    let size = store.head(key).await.fault()?.map_or(0, |info| info.size);
    if size > LARGEST {
        return Fault::new(Kind::Damaged, format!("it has {size} bytes, which no wish has")).err();
    }
    let bytes = store.get(key, 0, size).await.fault()?;
    let mut plain = Vec::new();
    open_alone(owner, keyring, &bytes[..], &mut plain)?;
    Ok(serde_json::from_slice(&plain)?)
}

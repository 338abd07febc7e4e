//! `pgkeep wal-push`: what `archive_command` calls for each file of WAL.
//!
//! 0 means that the file is durable in enough stores, nothing less. No lock is waited for, and the catalog is told
//! afterwards, if it listens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;

use super::archive::acknowledged::{Acknowledged, Acknowledgement};
use super::archive::archiver::{Archiver, Pushed};
use super::archive::unrecorded;
use super::context::catalog_path;
use super::{Environment, Report};
use crate::catalog::{Catalog, Options, Severity, WalRow};
use crate::config::Settings;
use crate::format::names;
use crate::model::{Fault, Kind, StoreName, WalKind, WalName};
use crate::source::wal::WalFile;
use crate::system::{Step, step};

/// How many waiting files one run takes along, and for how long it begins new ones.
const AHEAD: usize = 256;
const AHEAD_FOR: Duration = Duration::from_secs(30);
/// How many of them each core has under way: while one waits for its disk, another is compressed.
const AHEAD_PER_CORE: usize = 2;
/// How long the catalog is waited for: the archiver must not be.
const PATIENCE: Duration = Duration::from_millis(250);

/// What to archive.
#[derive(Debug, Clone)]
pub struct WalPushRequest {
    /// The file as the archiver names it (%p).
    pub path: PathBuf,
}

/// A file that was archived.
#[derive(Debug, Clone, Serialize)]
pub struct WalPushReport {
    /// The file.
    pub file: WalName,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Whether it was archived already.
    pub known: bool,
    /// The stores that have it.
    pub stores: Vec<StoreName>,
    /// The stores that lack it; `pgkeep sync` makes the copies.
    pub owed: Vec<StoreName>,
    /// Other files that were waiting and are archived now, too.
    pub ahead: Vec<WalName>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Report for WalPushReport {
    /// None: PostgreSQL knows only "archived" and "not archived", and a copy that is owed is archived.
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Archives a file, and others that are waiting beside it.
pub async fn run(environment: &Environment, request: &WalPushRequest) -> anyhow::Result<WalPushReport> {
    let clock = Instant::now();
    let settings = Settings::load(&environment.inputs)?;
    let file = Arc::new(WalFile::open(&request.path)?);
    let archiver = Arc::new(Archiver::open(settings, environment.stop.clone())?);
    archiver.refuse_strangers(&file)?;
    let mut acknowledged = Acknowledged::load(&archiver.settings);
    if let Some(known) = acknowledged.of(&file).filter(|known| is_enough(&archiver, known)) {
        let (sha256, stores) = (known.sha256.to_string(), known.stores.clone());
        let (file, size_bytes) = (file.name.clone(), file.size);
        let (known, owed, ahead) = (true, Vec::new(), Vec::new());
        let seconds = clock.elapsed().as_secs_f64();
        return Ok(WalPushReport { file, sha256, size_bytes, known, stores, owed, ahead, seconds });
    }
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let pushed = match archiver.push(&file, threads).await {
        Ok(pushed) => pushed,
        Err(error) => {
            raise_if_refused(&archiver.settings, &error);
            return Err(error);
        }
    };
    step::reached(Step::WalPushed)?;
    let mut rows = pushed.rows(&file);
    let ahead = push_waiting(&archiver, &file, threads * AHEAD_PER_CORE).await;
    rows.extend(ahead.iter().flat_map(|(file, pushed)| pushed.rows(file)));
    let all = [(&file, &pushed)].into_iter().chain(ahead.iter().map(|(file, pushed)| (file, pushed)));
    let acknowledgement = |(file, pushed): (&Arc<WalFile>, &Pushed)| Acknowledgement {
        file: file.name.to_string(),
        stamp: file.stamp,
        sha256: pushed.sha256,
        stored_bytes: pushed.stored_bytes,
        stores: pushed.stores.clone(),
    };
    // Without it they are only looked at again.
    let _ = acknowledged.add(&archiver.settings, all.map(acknowledgement).collect());
    step::reached(Step::WalAcknowledged)?;
    let files = ahead.iter().map(|(file, _)| file).chain([&file]);
    let histories: Vec<(u32, String)> = files.filter_map(|file| history(file)).collect();
    tell_the_catalog(environment, &archiver.settings, archiver.key(), &rows, &histories);
    for (store, why) in &pushed.owed {
        environment.progress.detail(&format!("store {store} is owed {}: {why}", file.name));
    }
    Ok(WalPushReport {
        file: file.name.clone(),
        sha256: pushed.sha256.to_string(),
        size_bytes: file.size,
        known: pushed.known,
        stores: pushed.stores,
        owed: pushed.owed.into_keys().collect(),
        ahead: ahead.into_iter().map(|(file, _)| file.name.clone()).collect(),
        seconds: clock.elapsed().as_secs_f64(),
    })
}

/// Never above 125: PostgreSQL's archiver would end at that, and the failure would not be counted (`pgarch.c`).
pub const fn exit_code(code: u8) -> u8 {
    if code > 125 { Kind::Store.exit_code() } else { code }
}

/// Whether enough of the stores that are set now have it; the one on this machine is looked at.
fn is_enough(archiver: &Archiver, known: &Acknowledgement) -> bool {
    let settings = &archiver.settings;
    let has = |store: &&StoreName| {
        let is_there = || {
            let key =
                known.file.parse().ok().map(|file| names::wal_file(&settings.cluster, &file, &known.sha256));
            let place = key.zip(settings.local_dir.as_ref()).map(|(key, local)| local.join(key));
            let metadata = place.and_then(|place| place.metadata().ok());
            metadata.is_some_and(|it| it.is_file() && it.len() == known.stored_bytes)
        };
        settings.stores().contains(store) && (**store != StoreName::Local || is_there())
    };
    known.stores.iter().filter(has).count() >= archiver.min_copies()
}

/// Archives what else is waiting, several at once; those up to the first that failed, in their order. An error is the
/// affair of the run that is called for that file.
async fn push_waiting(
    archiver: &Arc<Archiver>,
    first: &WalFile,
    at_once: usize,
) -> Vec<(Arc<WalFile>, Pushed)> {
    let begun = Instant::now();
    let waiting = waiting(first).into_iter().take_while(|_| begun.elapsed() < AHEAD_FOR);
    let pushing = waiting.map(|path| {
        let archiver = Arc::clone(archiver);
        // A task of its own, so that one that waits for its disk does not hold up the others.
        tokio::spawn(async move {
            let file = Arc::new(WalFile::open(&path)?);
            archiver.refuse_strangers(&file)?;
            let pushed = archiver.push(&file, 1).await?;
            anyhow::Ok((file, pushed))
        })
    });
    let mut pushing = stream::iter(pushing).buffered(at_once);
    let mut done = Vec::new();
    while let Some(Ok(Ok(pushed))) = pushing.next().await {
        done.push(pushed);
    }
    done
}

/// The files beside this one that the server says are ready, in the order in which it will offer them: histories first,
/// then by name (`pgarch.c`).
fn waiting(first: &WalFile) -> Vec<PathBuf> {
    let directory = first.path.parent().unwrap_or(Path::new("."));
    let ready = std::fs::read_dir(directory.join("archive_status")).into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_str()?.strip_suffix(".ready")?.parse::<WalName>().ok()
    };
    let mut names: Vec<WalName> = ready.filter_map(name).filter(|name| *name != first.name).collect();
    names.sort_by_key(|name| (name.kind() != WalKind::History, name.as_str().to_owned()));
    names.truncate(AHEAD);
    names.into_iter().map(|name| directory.join(name.as_str())).collect()
}

/// What a history file says.
fn history(file: &WalFile) -> Option<(u32, String)> {
    if file.name.kind() != WalKind::History {
        return None;
    }
    let text = std::fs::read(&file.path).ok()?;
    Some((file.name.timeline(), String::from_utf8_lossy(&text).into_owned()))
}

/// Writes the rows, or keeps them for later: the WAL is safe in the stores either way.
fn tell_the_catalog(
    environment: &Environment,
    settings: &Settings,
    key: &str,
    rows: &[WalRow],
    histories: &[(u32, String)],
) {
    let told = quick_catalog(settings).and_then(|catalog| {
        unrecorded::take_in(settings, &catalog)?;
        catalog.wal().record(rows)?;
        if let Some(at) = rows.iter().filter_map(|row| row.stored_at).max() {
            catalog.wal().sealed_with(key, at)?;
        }
        histories.iter().try_for_each(|(timeline, text)| catalog.wal().record_history(*timeline, text))
    });
    if let Err(error) = told {
        environment.progress.detail(&format!("the catalog is told later: {error:#}"));
        if let Err(error) = unrecorded::keep(settings, rows, histories) {
            environment.progress.detail(&format!("and that can't be kept: {error:#}"));
        }
    }
}

fn quick_catalog(settings: &Settings) -> anyhow::Result<Catalog> {
    let options = Options { busy_timeout: PATIENCE, durable: false };
    let catalog = Catalog::open_with(&catalog_path(settings), options)?;
    catalog.refuse_another_cluster(&settings.cluster)?;
    Ok(catalog)
}

/// A refusal is something that somebody must look at: the server will offer the file again and again.
fn raise_if_refused(settings: &Settings, error: &anyhow::Error) {
    if let Some(fault) = error.downcast_ref::<Fault>().filter(|fault| fault.kind == Kind::Refused) {
        let raised = quick_catalog(settings)
            .and_then(|it| it.alerts().raise("wal-refused", Severity::Critical, &fault.message, Utc::now()));
        // It stands in the server's log besides.
        drop(raised);
    }
}

//! `pgkeep wal-fetch`: what `restore_command` calls for each file of WAL that recovery wants.
//!
//! PostgreSQL takes an ordinary failure for "not in the archive", ends recovery there and opens for writes. So 1 is
//! returned only when every store has answered that it has no such file; whatever else goes wrong is
//! [`Kind::CannotTell`], on which recovery breaks off and can be begun again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::archive::fetch::{Fetcher, Outcome};
use super::archive::prefetch;
use super::context::catalog_path;
use super::{Environment, Report};
use crate::catalog::{Catalog, Options};
use crate::config::Settings;
use crate::model::{Fault, Kind, Lsn, StoreName, WalKind, WalName};
use crate::postgres::wal_records::{self, Tablespaces};
use crate::system::durable;
use crate::system::step::{self, Step};

/// A hole may be a file that the archiver is just sending, several at once: how long it is waited for.
const HOLE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(1);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct WalFetchRequest {
    /// The file's name (%f).
    pub name: String,
    /// Where it is wanted (%p).
    pub destination: PathBuf,
    /// Read this store alone.
    pub store: Option<StoreName>,
    /// A hole ends the archive: recovery has a target, and PostgreSQL (13 and newer) does not open for writing before it
    /// has reached that. It reads ahead of what it replays, so it may ask for what lies behind its target.
    pub bounded: bool,
    /// The server is a throwaway one beside the original: it gets no segment in which a tablespace is made. To make it again
    /// would be to empty the directory of that name, which the original has in use (`create_tablespace_directories` in
    /// `tablespace.c`; later releases of PostgreSQL leave what is in it and write into it). What is made before this place
    /// is not replayed.
    pub contained: Option<Lsn>,
}

/// What a message says of such a segment; by this it is found in the server's log.
pub(super) const MAKES_TABLESPACE: &str = "a tablespace is made in it, and this server must make none";
/// And of one that can't be read through.
pub(super) const MAY_MAKE_TABLESPACE: &str =
    "it can't be read through, and a tablespace may be made in it: this server must make none";

/// A file that was fetched.
#[derive(Debug, Clone, Serialize)]
pub struct WalFetchReport {
    /// The file.
    pub file: WalName,
    /// Where it is now.
    pub destination: String,
    /// The store that it came from; nothing when it had been got beforehand.
    pub store: Option<StoreName>,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Report for WalFetchReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Fetches a file.
pub async fn run(environment: &Environment, request: &WalFetchRequest) -> anyhow::Result<WalFetchReport> {
    let clock = Instant::now();
    let name: WalName = request.name.parse().map_err(|_| {
        Fault::new(Kind::CannotTell, format!("\"{}\" is not the name of a WAL file", request.name)).hint(
            "restore_command must be given %f and %p: `restore_command = 'pgkeep wal-fetch %f \"%p\"'`.",
        )
    })?;
    let settings = settings(environment, request.store)?;
    let destination = &request.destination;
    let mut store = None;
    if name == WalName::history(1) {
        // The first timeline has none: no store has to be asked, and none can be away.
        return Fault::new(
            Kind::NotThere,
            "00000001.history is in no archive: the first timeline has no history",
        )
        .err();
    }
    let is_segment = name.kind() == WalKind::Segment;
    let taking =
        async { Ok::<_, anyhow::Error>(is_segment && prefetch::take(&settings, &name, destination).await) };
    if !environment.stop.or(taking).await? {
        let fetcher = Fetcher::open(settings.clone())?;
        store = Some(environment.stop.or(fetch(&fetcher, &name, request)).await?);
    }
    if is_segment && let Some(from) = request.contained {
        refuse_tablespace(&name, request, from)?;
    }
    let size_bytes =
        fs::metadata(destination).with_context(|| format!("look at {}", destination.display()))?.len();
    if is_segment {
        prefetch::begin(&settings, &name, size_bytes);
    }
    let seconds = clock.elapsed().as_secs_f64();
    let destination = destination.display().to_string();
    Ok(WalFetchReport { file: name, destination, store, size_bytes, seconds })
}

/// Where recovery has a target, "not there" lets it end short of that and never open; a server that reads ahead may not need
/// the segment at all.
fn refuse_tablespace(name: &WalName, request: &WalFetchRequest, from: Lsn) -> anyhow::Result<()> {
    let destination = &request.destination;
    let bytes = fs::read(destination).with_context(|| format!("read {}", destination.display()))?;
    let why = match wal_records::tablespaces(&bytes, from) {
        Tablespaces::None => return Ok(()),
        Tablespaces::Made => MAKES_TABLESPACE,
        Tablespaces::CannotTell => MAY_MAKE_TABLESPACE,
    };
    durable::remove_file_if_there(destination)?;
    let kind = if request.bounded { Kind::NotThere } else { Kind::CannotTell };
    Fault::new(kind, format!("{name} is not given out: {why}")).err()
}

/// What PostgreSQL is told: 1 for "not in the archive", else a code above 125, on which recovery breaks off
/// (`RestoreArchivedFile` in `xlogarchive.c`); for an end that was asked for, that of SIGTERM.
///
/// A standby never ends its recovery by itself: it asks again, or streams. There an ordinary failure loses nothing, and
/// the other one would end the server.
pub fn exit_code(code: u8) -> u8 {
    const TERMINATED: u8 = 128 + 15;
    match code {
        0 | 1 => code,
        _ if code == Kind::Interrupted.exit_code() => TERMINATED,
        _ if Path::new("standby.signal").exists() => Kind::Store.exit_code(),
        _ => Kind::CannotTell.exit_code(),
    }
}

/// The child that gets segments beforehand.
pub async fn prefetch(
    environment: &Environment,
    first: &str,
    segment_size: u32,
    store: Option<StoreName>,
) -> anyhow::Result<()> {
    let first: WalName =
        first.parse().map_err(|_| Fault::new(Kind::Usage, format!("\"{first}\" is no segment")))?;
    let fetcher = Fetcher::open(settings(environment, store)?)?;
    environment.stop.or(prefetch::run(&fetcher, first, segment_size)).await
}

/// The settings, with one store to be read where one is named.
fn settings(environment: &Environment, store: Option<StoreName>) -> anyhow::Result<Settings> {
    let mut settings = Settings::load(&environment.inputs)?;
    if let Some(store) = store {
        if !settings.read_order.contains(&store) {
            // Not "not there": the file may be in it.
            return Fault::new(Kind::CannotTell, format!("store {store} is not configured")).err();
        }
        settings.read_order = vec![store];
    }
    Ok(settings)
}

async fn fetch(fetcher: &Fetcher, name: &WalName, request: &WalFetchRequest) -> anyhow::Result<StoreName> {
    let WalFetchRequest { destination, bounded, .. } = request;
    let beside = prefetch::beside(destination);
    let (begun, caller) = (Instant::now(), rustix::process::getppid());
    let outcome = loop {
        let outcome = fetcher.get(name, &beside).await;
        match outcome {
            Ok(Outcome::Absent { later }) if !later.is_empty() && begun.elapsed() < HOLE => {
                tokio::time::sleep(LOOK).await;
            }
            outcome => break outcome,
        }
    };
    if !matches!(outcome, Ok(Outcome::Fetched(_))) {
        durable::remove_file_if_there(&beside)?;
    }
    match outcome? {
        Outcome::Fetched(store) => {
            if rustix::process::getppid() != caller {
                durable::remove_file_if_there(&beside)?;
                return Fault::new(Kind::Interrupted, "the server that asked for it is gone").err();
            }
            step::reached(Step::WalFetched)?;
            let renamed = fs::rename(&beside, destination);
            renamed.with_context(|| format!("rename to {}", destination.display()))?;
            Ok(store)
        }
        Outcome::Absent { later } => {
            let fault = absent(fetcher, name, later.into_iter().next());
            let kind = if *bounded { Kind::NotThere } else { fault.kind };
            Err(Fault { kind, ..fault }.into())
        }
        Outcome::Unsure(_) if known_history(fetcher, name, &beside, destination)? => Ok(StoreName::Local),
        Outcome::Unsure(why) => {
            let message = format!("can't tell whether {name} is in the archive: {}", why.join("; "));
            Fault::new(Kind::CannotTell, message)
                .hint(
                    "See what is the matter with the stores (`pgkeep check`), then start the recovery again.",
                )
                .err()
        }
    }
}

/// The history of a timeline while the stores can't be asked: as the server itself has it, or as the catalog was told. A
/// server that is being promoted must not take the number of a timeline that is there already, nor end in the middle.
fn known_history(
    fetcher: &Fetcher,
    name: &WalName,
    beside: &Path,
    destination: &Path,
) -> anyhow::Result<bool> {
    if name.kind() != WalKind::History {
        return Ok(false);
    }
    let own =
        destination.parent().map(|directory| directory.join(name.as_str())).and_then(|it| fs::read(it).ok());
    let path = catalog_path(&fetcher.settings);
    let told = || {
        let options = Options { busy_timeout: Duration::from_secs(2), durable: false };
        let catalog = Catalog::open_with(&path, options).ok()?;
        catalog.wal().history_text(name.timeline()).ok()?.map(String::into_bytes)
    };
    let Some(text) = own.or_else(|| matches!(path.try_exists(), Ok(true)).then(told).flatten()) else {
        return Ok(false);
    };
    durable::remove_file_if_there(beside)?;
    durable::write_file(destination, &text)?;
    Ok(true)
}

/// What it means that no store has the file.
fn absent(fetcher: &Fetcher, name: &WalName, later: Option<WalName>) -> Fault {
    let hint =
        "Recovery can't go on across it: see `pgkeep list --recoverable` for the times that can be reached.";
    if let Some(later) = later {
        let message = format!("there is a hole in the archive: {name} is in no store, and {later} is");
        return Fault::new(Kind::CannotTell, message).hint(hint);
    }
    let path = catalog_path(&fetcher.settings);
    if matches!(path.try_exists(), Ok(true)) {
        // A catalog that can't be asked now says nothing against what the stores have said.
        let options = Options { busy_timeout: Duration::from_secs(2), durable: false };
        let known = Catalog::open_with(&path, options).and_then(|catalog| catalog.wal().of(name));
        if known.is_ok_and(|rows| rows.iter().any(|row| row.stored_at.is_some())) {
            let message = format!("{name} was archived and is in no store any more");
            return Fault::new(Kind::CannotTell, message).hint(hint);
        }
    }
    Fault::new(Kind::NotThere, format!("{name} is not in the archive"))
        .hint("At the end of the archive this is as it should be.")
}

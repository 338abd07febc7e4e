//! Segments that will be wanted next, got beforehand by a child that lives as long as they are being taken.
//!
//! They lie in the state directory, never in `pg_wal`, under the identifier of this boot of the machine: what a power
//! failure may have torn is not looked at again. One file is either not there or whole and checked.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use sha2::{Digest as _, Sha256};

use super::fetch::{Fetcher, Outcome};
use crate::command::stores;
use crate::config::Settings;
use crate::model::WalName;
use crate::postgres::wal::{HEADER_BYTES, SegmentHeader};
use crate::system::lock::{Attempt, FileLock};
use crate::system::{boot, durable};

/// The word by which pgkeep calls itself as that child; no operator needs it.
pub(in crate::command) const WORD: &str = "wal-prefetch";
/// How many segments may lie there, and how many bytes at most.
const AHEAD: usize = 16;
const AHEAD_BYTES: u64 = 512 << 20;
/// How many are got at the same time.
const AT_ONCE: usize = 2;
/// The child ends when none was taken for so long: as long as a slow replay may take for one, or each would be got twice.
const IDLE: Duration = Duration::from_mins(1);
/// How long one that is being got is waited for.
const PATIENCE: Duration = Duration::from_mins(5);
const LOOK: Duration = Duration::from_millis(4);
/// What stands between a file's name and the process that is making it.
const MARK: &str = ".pgkeep-";

/// The directory of this boot and of these stores; `None` where the machine doesn't say which boot it is. Two archives may
/// share a state directory, and the names of their segments are the same.
fn directory(settings: &Settings) -> Option<PathBuf> {
    let mut places = Sha256::new();
    places.update(settings.cluster.as_str());
    for store in stores::replicas(settings).ok()?.each() {
        places.update([0]);
        places.update(store.locate(""));
    }
    // Whoever reads one of them alone must get nothing that came from another.
    for store in settings.stores() {
        places.update([1]);
        places.update(store.as_str());
    }
    let archive = hex::encode(&places.finalize()[..8]);
    Some(settings.state_dir.join("prefetch").join(format!("{}-{archive}", boot::identifier()?)))
}

fn lock_of(directory: &Path) -> PathBuf {
    directory.join("lock")
}

/// Puts a segment that was got beforehand where it is wanted; false when there is none. One that is just being got is
/// waited for.
pub(in crate::command) async fn take(settings: &Settings, name: &WalName, destination: &Path) -> bool {
    let Some(directory) = directory(settings) else { return false };
    let (whole, begun) = (directory.join(name.as_str()), Instant::now());
    let unfinished = directory.join(format!("{name}{}", durable::UNFINISHED));
    loop {
        if whole.exists() {
            return put(&whole, name, destination).unwrap_or(false);
        }
        let is_coming = unfinished.exists() && matches!(FileLock::is_held(&lock_of(&directory)), Ok(true));
        if !is_coming || begun.elapsed() > PATIENCE {
            // It may have got its name between the two looks.
            return whole.exists() && put(&whole, name, destination).unwrap_or(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Into a file beside the destination first: what is there under its name is whole.
fn put(whole: &Path, name: &WalName, destination: &Path) -> anyhow::Result<bool> {
    let beside = beside(destination);
    durable::remove_file_if_there(&beside)?;
    match fs::rename(whole, &beside) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            fs::copy(whole, &beside)?;
            durable::remove_file_if_there(whole)?;
        }
        renamed => renamed?,
    }
    let mut head = [0; HEADER_BYTES];
    let file = fs::File::open(&beside)?;
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0)?;
    if SegmentHeader::of(name, file.metadata()?.len(), &head).is_err() {
        durable::remove_file_if_there(&beside)?;
        return Ok(false);
    }
    fs::rename(&beside, destination)?;
    Ok(true)
}

/// A temporary file beside a destination, of this process alone. What dead ones have left is removed.
pub(in crate::command) fn beside(destination: &Path) -> PathBuf {
    let own = |pid: &str| {
        let mut name = destination.as_os_str().to_owned();
        name.push(MARK);
        name.push(pid);
        PathBuf::from(name)
    };
    let directory = destination.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let base = destination.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(&base)?.strip_prefix(MARK));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    own(&std::process::id().to_string())
}

/// Sees to it that those after this segment are being got. What fails here only makes the next ones slower.
pub(in crate::command) fn begin(settings: &Settings, after: &WalName, segment_size: u64) {
    let Some(next) = u32::try_from(segment_size).ok().and_then(|size| after.following(size)) else { return };
    let Some(directory) = directory(settings) else { return };
    if matches!(FileLock::is_held(&lock_of(&directory)), Ok(true)) {
        return;
    }
    let mut arguments: Vec<OsString> = Vec::new();
    if let Some(file) = &settings.env_file {
        arguments.extend(["--env-file".into(), file.into()]);
    }
    arguments.extend([WORD.into(), next.as_str().into(), segment_size.to_string().into()]);
    if let [store] = settings.stores() {
        arguments.extend(["--store".into(), store.as_str().into()]);
    }
    let Ok(program) = std::env::current_exe() else { return };
    // In a group of its own and with nothing of the server's open: it must neither be ended with the server nor keep
    // it from ending.
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    drop(spawned);
}

/// Gets this segment and those after it as long as somebody takes them.
pub(in crate::command) async fn run(
    fetcher: &Fetcher,
    first: WalName,
    segment_size: u32,
) -> anyhow::Result<()> {
    let Some(directory) = directory(&fetcher.settings) else { return Ok(()) };
    let parent = directory.parent().unwrap_or(&directory);
    durable::create_private_dir(parent)?;
    let boot = boot::identifier().unwrap_or_default();
    for entry in fs::read_dir(parent)?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(&boot) {
            durable::remove_dir_if_there(&entry.path())?;
        }
    }
    durable::create_private_dir(&directory)?;
    let Attempt::Taken(_lock) = FileLock::attempt(&lock_of(&directory), "prefetch")? else { return Ok(()) };
    let ahead = AHEAD.min(usize::try_from(AHEAD_BYTES / u64::from(segment_size))?).max(1);
    let wanted: Vec<WalName> =
        std::iter::successors(Some(first.clone()), |name| name.following(segment_size)).take(ahead).collect();
    clear(&directory, &wanted)?;
    let was_in_recovery = in_recovery();
    let (mut next, mut taken_at, mut there) = (Some(first), Instant::now(), usize::MAX);
    let mut running = FuturesOrdered::new();
    loop {
        let lying = lying(&directory)?.len();
        if lying < there {
            taken_at = Instant::now();
        }
        there = lying;
        while running.len() < AT_ONCE && lying + running.len() < ahead {
            let Some(name) = next.take() else { break };
            next = name.following(segment_size);
            running.push_back(get(fetcher, &directory, name));
        }
        if running.is_empty() {
            // Where it was started in no data directory, nobody can see the end but by waiting.
            let is_over = was_in_recovery && !in_recovery();
            if is_over || taken_at.elapsed() > IDLE {
                return clear(&directory, &[]);
            }
            if next.is_none() && lying == 0 {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        } else if let Some(got) = running.next().await {
            if got? {
                // Counted as lying there, not as taken.
                there = there.saturating_add(1);
            } else {
                // It is not there, or can't be told: that is for who wants it to find out.
                next = None;
            }
        }
    }
}

/// True when it lies there.
async fn get(fetcher: &Fetcher, directory: &Path, name: WalName) -> anyhow::Result<bool> {
    let whole = directory.join(name.as_str());
    let unfinished = directory.join(format!("{name}{}", durable::UNFINISHED));
    let outcome = fetcher.get(&name, &unfinished).await;
    match outcome {
        Ok(Outcome::Fetched(_)) => {
            fs::rename(&unfinished, &whole)?;
            Ok(true)
        }
        other => {
            durable::remove_file_if_there(&unfinished)?;
            other.map(|_| false)
        }
    }
}

/// The segments that lie there whole.
fn lying(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.parse::<WalName>().is_ok()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether the server whose data directory this is, as `restore_command` is started, is still in recovery.
fn in_recovery() -> bool {
    ["recovery.signal", "standby.signal"].into_iter().any(|name| Path::new(name).exists())
}

/// Removes what an earlier child left that will not be asked for next: all but these.
fn clear(directory: &Path, wanted: &[WalName]) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_wanted = name.to_str().is_some_and(|name| wanted.iter().any(|it| it.as_str() == name));
        if name != "lock" && !is_wanted {
            durable::remove_file_if_there(&entry.path())?;
        }
    }
    Ok(())
}

//! Waiting for one's turn. Locks and places in the queue are files that the kernel frees when their holder dies, so a
//! dead run neither holds anybody up nor keeps its place.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::Utc;

use super::Context;
use super::context::locks;
use crate::model::{Elapsed, Fault, Kind};
use crate::plan::turns::{self, Place, Use};
use crate::system::durable;
use crate::system::lock::{Attempt, FileLock};

/// The lock that says who reads, writes or takes away backups.
const BACKUPS: &str = "backups";
/// What waits without a priority of its own waits behind all that have one.
const LOWEST: u8 = 1;
/// How often one looks whether it is one's turn.
const PAUSE: Duration = Duration::from_millis(100);

/// What is waited for.
struct Wanted<'a> {
    /// The lock's name.
    name: &'a str,
    /// Whether others may have it at the same time.
    shared: bool,
    /// What for, in words.
    what: &'a str,
    /// How long to wait for it.
    wait: Duration,
}

/// Takes the turn for what a command does with the backups as a whole, by its words.
pub(super) async fn enter(context: &Context, words: &str) -> anyhow::Result<Option<FileLock>> {
    // Nobody has to wait in order to see what would be done.
    if context.words.split_whitespace().any(|word| word == "--dry-run") {
        return Ok(None);
    }
    let shared = match turns::rank(words).uses {
        Use::Nothing => return Ok(None),
        Use::Shared => true,
        Use::Alone => false,
    };
    take(context, &Wanted { name: BACKUPS, shared, what: words, wait: context.wait }).await.map(Some)
}

/// Takes the turn for something that only one run may do at a time.
pub(super) async fn alone(
    context: &Context,
    name: &str,
    what: &str,
    wait: Duration,
) -> anyhow::Result<FileLock> {
    take(context, &Wanted { name, shared: false, what, wait: wait.min(context.wait) }).await
}

/// The same without waiting.
pub(super) fn now(context: &Context, name: &str, what: &str) -> anyhow::Result<FileLock> {
    let wanted = Wanted { name, shared: false, what, wait: Duration::ZERO };
    match attempt(context, &wanted, &place_of(context))? {
        Attempt::Taken(lock) => Ok(lock),
        Attempt::HeldBy(other) => refuse(&wanted, &other, None),
    }
}

fn place_of(context: &Context) -> Place {
    Place::new(context.priority.unwrap_or(LOWEST), Utc::now().timestamp_millis(), context.run.as_str())
}

async fn take(context: &Context, wanted: &Wanted<'_>) -> anyhow::Result<FileLock> {
    let begun = Instant::now();
    let place = place_of(context);
    let mut holder = match attempt(context, wanted, &place)? {
        Attempt::Taken(lock) => return Ok(lock),
        Attempt::HeldBy(other) => other,
    };
    if wanted.wait.is_zero() {
        return refuse(wanted, &holder, None);
    }
    let _ticket = Ticket::draw(&locks(&context.settings), wanted, &place)?;
    context.progress.say(&format!(
        "{}: waits for its turn, {} at most: {holder}",
        wanted.what,
        Elapsed(wanted.wait)
    ));
    let waited = loop {
        let pause = PAUSE.min(wanted.wait.saturating_sub(begun.elapsed()));
        let sleep = async {
            tokio::time::sleep(pause).await;
            Ok(())
        };
        context.stop.or(sleep).await?;
        match attempt(context, wanted, &place)? {
            Attempt::Taken(lock) => break Ok(lock),
            Attempt::HeldBy(other) => holder = other,
        }
        if begun.elapsed() >= wanted.wait {
            break refuse(wanted, &holder, Some(begun.elapsed()));
        }
    };
    context.catalog.runs().add_wait(&context.run, begun.elapsed())?;
    waited
}

/// Takes the lock if it is free and nobody who waits comes first.
fn attempt(context: &Context, wanted: &Wanted<'_>, place: &Place) -> anyhow::Result<Attempt> {
    let directory = locks(&context.settings);
    if let Some(run) = first(&directory, wanted, place)? {
        return Ok(Attempt::HeldBy(format!("run {run}, which waits too, comes first")));
    }
    let holder = format!(
        "process {} (run {}, begun {})",
        std::process::id(),
        context.run,
        Utc::now().format("%FT%TZ")
    );
    let path = directory.join(format!("{}.lock", wanted.name));
    if wanted.shared { FileLock::attempt_shared(&path, &holder) } else { FileLock::attempt(&path, &holder) }
}

fn refuse(wanted: &Wanted<'_>, holder: &str, waited: Option<Duration>) -> anyhow::Result<FileLock> {
    let waited = waited.map_or_else(String::new, |it| format!(", after {} of waiting", Elapsed(it)));
    Fault::new(Kind::Locked, format!("{}: another run is at it{waited}: {holder}", wanted.what))
        .hint("Wait for it to end; if it hangs, end that process: the lock goes with it.")
        .err()
}

/// Who of those that wait for the same, and live, comes before this place. Who shares waits for nobody who only waits: what
/// wants it alone, such as `cleanup`, takes it in a moment when nobody has it, and holds nobody up until then.
fn first(directory: &Path, wanted: &Wanted<'_>, place: &Place) -> anyhow::Result<Option<String>> {
    if wanted.shared {
        return Ok(None);
    }
    let prefixes = [false, true].map(|shared| prefix(wanted.name, shared));
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix.as_str()));
        let other = rest.and_then(|rest| rest.strip_suffix(".lock")).and_then(Place::from_name);
        let comes_first = other.filter(|other| other < place);
        if let Some(other) = comes_first
            && FileLock::is_held(&entry.path())?
        {
            return Ok(Some(other.run().to_owned()));
        }
    }
    Ok(None)
}

fn prefix(name: &str, shared: bool) -> String {
    format!("wait-{name}-{}.", if shared { "shared" } else { "alone" })
}

/// A place in the queue, until the value is dropped or the process ends.
struct Ticket {
    path: PathBuf,
    _lock: FileLock,
}

impl Ticket {
    fn draw(directory: &Path, wanted: &Wanted<'_>, place: &Place) -> anyhow::Result<Self> {
        // Of those who died while they waited.
        FileLock::remove_free(directory, "wait-", |_| false)?;
        let name = format!("{}{}.lock", prefix(wanted.name, wanted.shared), place.as_name());
        let path = directory.join(name);
        let lock = super::context::take(&path, place.run(), place.run())?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = durable::remove_file_if_there(&self.path);
    }
}

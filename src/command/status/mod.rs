//! `pgkeep status`: one look tells whether the data is safe. Everything comes out of the catalog but whether the stores
//! answer, for which each has two seconds; so it takes as long with a store that is away as without.

mod facts;
mod history;
mod stores;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};

use super::context::locks;
use super::{Environment, Report, Shelf};
use crate::model::{Fault, FaultContext, Kind, Timestamp};
use crate::plan::health::{self, State};
use crate::report::{self, Status};
use crate::system::lock::{Attempt, FileLock};
use crate::system::{Step, durable};

/// How far back the page looks.
const PAST: TimeDelta = TimeDelta::days(90);

/// How long to wait for another run that writes the same files; each takes less than a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is wanted besides the answer.
#[derive(Debug, Clone, Default)]
pub struct StatusRequest {
    /// Where the page is to be written.
    pub html: Option<PathBuf>,
    /// Where the metrics are to be written.
    pub prometheus: Option<PathBuf>,
    /// Whether stores are not to be asked.
    pub offline: bool,
}

impl Report for Status {
    fn shortfall(&self) -> Option<Kind> {
        match self.health.state {
            State::Good => None,
            State::Attention => Some(Kind::Incomplete),
            State::Critical => Some(Kind::Damaged),
        }
    }
}

/// Looks, and writes what is to be written.
pub async fn run(environment: &Environment, request: &StatusRequest) -> anyhow::Result<Status> {
    let shelf = Shelf::open(environment)?;
    let now = Utc::now();
    let mut status = look(&shelf, request, now).await?;
    if request.html.is_some() {
        status.history = Some(history::history(&shelf, now - PAST, now)?);
    }
    let files = [
        (&request.html, None, Step::StatusPage, report::page as fn(&Status) -> String),
        (&request.prometheus, Some(0o644), Step::StatusMetrics, report::metrics),
    ];
    let mut lock = None;
    for (path, mode, step, text) in files {
        let Some(path) = path else { continue };
        let path = &std::path::absolute(path).or_fault(|| unwritten(path))?;
        if lock.is_none() {
            lock = Some(turn(&shelf).await?);
        }
        durable::publish_file(path, text(&status).as_bytes(), mode, step).or_fault(|| unwritten(path))?;
        status.written.push(path.display().to_string());
    }
    Ok(status)
}

async fn look(shelf: &Shelf, request: &StatusRequest, now: Timestamp) -> anyhow::Result<Status> {
    // First: what they take is waited for only once.
    let answers = stores::ask(&shelf.settings, request.offline).await?;
    let mut status = facts::gather(shelf, answers, now)?;
    let facts = facts::facts(shelf, &status, now)?;
    status.health = health::judge(&facts);
    Ok(status)
}

fn unwritten(path: &Path) -> Fault {
    Fault::new(Kind::Store, format!("write {}", path.display()))
        .hint("See that its directory exists and that this user may write there.")
}

/// Two runs that write the same file would write into one another's unfinished one.
async fn turn(shelf: &Shelf) -> anyhow::Result<FileLock> {
    let directory = locks(&shelf.settings);
    durable::create_private_dir(&directory)?;
    let begun = Instant::now();
    loop {
        let holder = format!("process {}", std::process::id());
        match FileLock::attempt(&directory.join("status.lock"), &holder)? {
            Attempt::Taken(lock) => return Ok(lock),
            Attempt::HeldBy(_) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Attempt::HeldBy(other) => {
                return Fault::new(Kind::Locked, format!("write the status: another run is at it: {other}"))
                    .hint("Wait for it to end; if it hangs, end that process: the lock goes with it.")
                    .err();
            }
        }
    }
}

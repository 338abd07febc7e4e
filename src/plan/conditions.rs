//! What somebody should look at: from what is known to the conditions that hold now.
//!
//! A condition has a type and a subject; while both stay the same it is the same condition, whatever its message says.

use std::time::Duration;

use chrono::TimeDelta;

use crate::model::{BackupId, Bytes, Elapsed, Severity, StoreName, Thousands, Timestamp, timestamp_text};

pub mod exposure;
mod machine;
mod runs;
mod series;

use exposure::{Position, Safe, Seen};

/// Something that holds now and should not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type, such as `backup-failed`; one of [`ALWAYS`], [`WATCHED`] and [`ASKED`], or [`UNHEARD`].
    pub kind: &'static str,
    /// What it is about: a store, a database, a backup; empty when there is only one.
    pub subject: String,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence for people.
    pub message: String,
}

/// What every evaluation decides upon.
pub const ALWAYS: &[&str] = &[
    "backup-failed",
    "restore-failed",
    "verify-failed",
    "test-restore-failed",
    "cleanup-failed",
    "damage",
    "no-good-backup",
    "too-few-copies",
    "key-missing",
    "backup-size",
    "backup-duration",
    "storage",
    "copies-owed",
    "proof-too-old",
    "rto",
    "clock-skew",
    "certificate",
    "key-exposed",
];
/// What is decided upon only when the ledger of WAL has been drawn up.
pub const WATCHED: &[&str] = &["wal-hole"];
/// What is decided upon by who lists the stores: that one could not be asked which WAL it has.
pub const UNHEARD: &str = "wal-unheard";
/// What is decided upon only when the server has answered.
pub const ASKED: &[&str] = &["rpo", "archiver-failing", "archiver-backlog", "archiving-off", "server-clock"];
/// What is decided upon only when the server was asked.
pub const REACHED: &[&str] = &["server-unreachable"];

/// Thresholds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How much of the newest data may be lost.
    pub rpo: Duration,
    /// How long a restore may take.
    pub rto: Duration,
    /// How old the newest backup may be.
    pub backup_age: Duration,
    /// How long a backup may take; `None`: twice the usual.
    pub backup_duration: Option<Duration>,
    /// By how many percent a backup's size may differ from the usual.
    pub size_percent: u64,
    /// How many percent of a place may be used.
    pub storage_percent: u64,
    /// How old the oldest proof in a store may be.
    pub proof_age: Duration,
    /// How many WAL files may wait for the archiver.
    pub backlog: u64,
    /// In how many stores a backup must be.
    pub min_copies: u64,
}

/// How long a copy may be owed.
const OWED: Duration = Duration::from_hours(24);
/// How far clocks may be apart.
const SKEW: TimeDelta = TimeDelta::minutes(2);
/// How long before its end a certificate is spoken of.
const CERTIFICATE: TimeDelta = TimeDelta::days(14);

/// What is known.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The time of the evaluation.
    pub now: Timestamp,
    /// Whether a key is set.
    pub has_key: bool,
    /// Why it can't be had, where one is set.
    pub key_fault: Option<String>,
    /// Keys that something is under and the settings lack.
    pub foreign_keys: Vec<UsedKey>,
    /// When pgkeep first ran here.
    pub begun: Option<Timestamp>,
    /// The latest time that is written down anywhere.
    pub latest: Option<Timestamp>,
    /// Runs that have ended within a week, oldest first.
    pub runs: Vec<EndedRun>,
    /// The last test restore of each database, tenant and cluster that failed.
    pub tests: Vec<FailedTest>,
    /// Backups that are complete, newest first.
    pub backups: Vec<Made>,
    /// Backups of which some object has fewer good copies than this.
    pub short: Vec<Short>,
    /// The same of WAL files.
    pub short_wal: Vec<ShortWal>,
    /// Copies that are damaged.
    pub damaged: Vec<Damaged>,
    /// What stores lack.
    pub owed: Vec<Owed>,
    /// The oldest proof in each store.
    pub proofs: Vec<(StoreName, Timestamp)>,
    /// How long the last test restore took.
    pub test_restore: Option<Duration>,
    /// How full places are.
    pub usage: Vec<Usage>,
    /// The certificates that are known.
    pub certificates: Vec<Certificate>,
    /// Files with secrets that others can get at: the file, and how.
    pub exposed: Vec<(String, String)>,
    /// The newest WAL that is safe in enough stores.
    pub safe: Option<Safe>,
    /// How far the server was when somebody looked.
    pub seen: Vec<Seen>,
    /// Holes in the WAL; `None`: nobody has looked.
    pub holes: Option<Vec<Hole>>,
    /// What the server says.
    pub server: Server,
}

/// WAL files of which there are so many good copies and one that is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortWal {
    /// Good copies of each.
    pub good: u64,
    /// How many files.
    pub files: u64,
    /// The first of them by name.
    pub first: String,
}

/// A key that something is under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedKey {
    /// Its fingerprint.
    pub key: String,
    /// How many backups.
    pub backups: u64,
    /// The newest of them.
    pub newest: Option<BackupId>,
    /// When the last WAL was sealed with it that may be there.
    pub wal_until: Option<Timestamp>,
}

/// A run that has ended.
#[derive(Debug, Clone)]
pub struct EndedRun {
    /// Its identifier.
    pub id: String,
    /// The command.
    pub command: String,
    /// The whole command line.
    pub arguments: String,
    /// How it ended.
    pub end: End,
    /// The exit code; none of a run that died.
    pub exit_code: Option<u8>,
    /// The error.
    pub message: Option<String>,
    /// When it began.
    pub at: Timestamp,
    /// Whether somebody at a terminal was told.
    pub is_told: bool,
    /// Whether it was put off, so that nobody was there.
    pub is_job: bool,
}

/// A test restore that failed, and no later one of the same has passed.
#[derive(Debug, Clone)]
pub struct FailedTest {
    /// What its backup is of.
    pub series: String,
    /// The backup.
    pub backup: BackupId,
    /// The store that it was read from.
    pub store: Option<StoreName>,
    /// Whether it was not even begun, because it would have done harm.
    pub refused: bool,
    /// Why.
    pub message: String,
    /// The run that tested it.
    pub run: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It did its work, with or without warnings.
    Done,
    /// It failed.
    Failed,
    /// Somebody ended it.
    Interrupted,
    /// It ended without a word.
    Died,
}

/// A complete backup.
#[derive(Debug, Clone)]
pub struct Made {
    /// Which one.
    pub id: BackupId,
    /// What it is of: all of one series are comparable.
    pub series: String,
    /// Its size as stored.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// When it was done.
    pub finished_at: Timestamp,
}

/// A backup with too few copies.
#[derive(Debug, Clone)]
pub struct Short {
    /// Which one.
    pub id: BackupId,
    /// Of the object that has fewest.
    pub good: u64,
}

/// A damaged copy.
#[derive(Debug, Clone)]
pub struct Damaged {
    /// The backup, or the WAL file.
    pub of: String,
    /// In which store.
    pub store: StoreName,
    /// How many objects.
    pub objects: u64,
}

/// What a store lacks.
#[derive(Debug, Clone)]
pub struct Owed {
    /// Which store.
    pub store: StoreName,
    /// How many objects.
    pub objects: u64,
    /// Since when the oldest of them is owed.
    pub since: Timestamp,
}

/// How full a place is.
#[derive(Debug, Clone)]
pub struct Usage {
    /// Which place, in words.
    pub place: String,
    /// Bytes used.
    pub used: u64,
    /// Bytes in all.
    pub of: u64,
}

/// A certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Whose, or in which file.
    pub of: String,
    /// When it ends.
    pub until: Timestamp,
}

/// A hole in the WAL.
#[derive(Debug, Clone)]
pub struct Hole {
    /// The first segment that is missing.
    pub missing: String,
    /// The next one that is there.
    pub next: String,
}

/// What the server says.
#[derive(Debug, Clone)]
pub enum Server {
    /// It was not asked.
    NotAsked,
    /// It did not answer, for this reason.
    Unreachable(String),
    /// What it said.
    Answered(Archiving),
}

/// What a server says of its archiver.
#[derive(Debug, Clone, Default)]
pub struct Archiving {
    /// Whether it archives at all.
    pub is_on: bool,
    /// Whether it is a standby, and it is for another one to archive.
    pub is_standby: bool,
    /// Files that wait; `None`: the user may not ask.
    pub waiting: Option<u64>,
    /// The file with which the archiver has failed since it last succeeded, and when.
    pub failing: Option<(String, Timestamp)>,
    /// Bytes in the present segment.
    pub pending: u64,
    /// Where it writes; `None` of a standby.
    pub position: Option<Position>,
    /// By how much the server's clock is ahead of this machine's.
    pub clock_ahead: TimeDelta,
}

/// The types on which an evaluation of these facts decides: of these, an alert that has no condition is over.
pub fn decided(facts: &Facts) -> Vec<&'static str> {
    let mut kinds = ALWAYS.to_vec();
    if facts.holes.is_some() {
        kinds.extend(WATCHED);
    }
    match facts.server {
        Server::NotAsked => {}
        Server::Unreachable(_) => kinds.extend(REACHED),
        Server::Answered(ref server) => {
            // A server that archives nothing does not make good what was in no archive; of a standby one can't say anything.
            let is_told = |kind: &&str| match *kind {
                "rpo" => server.is_on,
                "server-clock" => true,
                _ => server.is_on || !server.is_standby,
            };
            kinds.extend(REACHED.iter().chain(ASKED.iter().filter(|kind| is_told(kind))));
        }
    }
    kinds
}

/// Whether alerts of this type end by themselves; others are of events and end when somebody has seen them.
pub fn is_condition(kind: &str) -> bool {
    kind == UNHEARD || [ALWAYS, WATCHED, ASKED, REACHED].iter().any(|kinds| kinds.contains(&kind))
}

/// Events that a command came upon and that this condition tells already: their type, and a pattern (SQL's LIKE) of their
/// messages.
pub fn tells_already(condition: &Condition) -> Option<(&'static str, String)> {
    let Condition { kind, subject, .. } = condition;
    match *kind {
        "damage" => {
            let (of, store) = subject.rsplit_once(" in ")?;
            Some(("copy-damaged", format!("%{of}%in store {store} is %")))
        }
        "too-few-copies" => Some(("copy-lost", format!("% of {subject}"))),
        "wal-hole" => Some(("copy-lost", format!("%WAL file {subject}"))),
        _ => None,
    }
}

/// The conditions that hold, the worst first.
pub fn evaluate(facts: &Facts, limits: &Limits) -> Vec<Condition> {
    let mut found = Vec::new();
    runs::failed(facts, &mut found);
    runs::tested(facts, &mut found);
    series::evaluate(facts, limits, &mut found);
    stored(facts, limits, &mut found);
    machine::evaluate(facts, limits, &mut found);
    archive(facts, limits, &mut found);
    found.sort_by_key(|condition| condition.severity != Severity::Critical);
    found
}

fn critical(kind: &'static str, subject: impl Into<String>, message: String) -> Condition {
    Condition { kind, subject: subject.into(), severity: Severity::Critical, message }
}

fn warning(kind: &'static str, subject: impl Into<String>, message: String) -> Condition {
    Condition { kind, subject: subject.into(), severity: Severity::Warning, message }
}

fn age(from: Timestamp, now: Timestamp) -> Duration {
    (now - from).to_std().unwrap_or_default()
}

/// What is in the stores.
fn stored(facts: &Facts, limits: &Limits, found: &mut Vec<Condition>) {
    for Damaged { of, store, objects } in &facts.damaged {
        let message = format!("{} of {of} damaged in store {store}", count(*objects, "object"));
        found.push(critical("damage", format!("{of} in {store}"), message));
    }
    for Short { id, good } in facts.short.iter().filter(|short| short.good < limits.min_copies) {
        let message = match good {
            0 => format!("{id} can't be restored: no store has a good copy of all of it"),
            _ => format!(
                "{id} has {} of the {} that BACKUP_MIN_COPIES asks for",
                count(*good, "good copy"),
                limits.min_copies
            ),
        };
        found.push(critical("too-few-copies", id.as_str(), message));
    }
    let few = facts.short_wal.iter().filter(|short| short.good < limits.min_copies);
    let (without, few): (Vec<_>, Vec<_>) = few.partition(|short| short.good == 0);
    // Who has seen the one has not seen the other.
    for (subject, few) in [("WAL", few), ("WAL without a copy", without)] {
        let Some(first) = few.iter().map(|short| &short.first).min() else { continue };
        let files: u64 = few.iter().map(|short| short.files).sum();
        let has = if files == 1 { "has" } else { "have" };
        let how = if subject == "WAL" {
            format!("fewer good copies than the {} that BACKUP_MIN_COPIES asks for", limits.min_copies)
        } else {
            "no good copy in any store".to_owned()
        };
        let message = format!("{} from {first} on {has} {how}", count(files, "WAL file"));
        found.push(critical("too-few-copies", subject, message));
    }
    for Owed { store, objects, since } in &facts.owed {
        let age = age(*since, facts.now);
        if age > OWED {
            let message =
                format!("store {store} lacks {}, the oldest for {}", count(*objects, "object"), Elapsed(age));
            found.push(warning("copies-owed", store.as_str(), message));
        }
    }
    for (store, proven_at) in &facts.proofs {
        let age = age(*proven_at, facts.now);
        if age > limits.proof_age {
            let message = format!(
                "the oldest proof in store {store} is {} old: what was proven then has not been read since",
                Elapsed(age)
            );
            found.push(warning("proof-too-old", store.as_str(), message));
        }
    }
    for Usage { place, used, of } in &facts.usage {
        let percent = u128::from(*used) * 100 / u128::from((*of).max(1));
        if percent > u128::from(limits.storage_percent) {
            let message = format!("{place} is {percent}% full: {} of {}", Bytes(*used), Bytes(*of));
            found.push(warning("storage", place.as_str(), message));
        }
    }
}

/// Whether a certificate must be thought of.
pub fn ends_soon(certificate: &Certificate, now: Timestamp) -> bool {
    certificate.until - now < CERTIFICATE
}

/// The stream of WAL.
fn archive(facts: &Facts, limits: &Limits, found: &mut Vec<Condition>) {
    for Hole { missing, next } in facts.holes.iter().flatten() {
        let message =
            format!("the WAL has a hole: {missing} is missing, the next one that is there is {next}");
        found.push(critical("wal-hole", missing.as_str(), message));
    }
    let server = match &facts.server {
        Server::NotAsked => return,
        Server::Unreachable(why) => {
            found.push(warning("server-unreachable", "", format!("the server does not answer: {why}")));
            return;
        }
        Server::Answered(server) => server,
    };
    if server.clock_ahead.abs() > SKEW {
        let message = format!(
            "the server's clock and this machine's are {} seconds apart",
            server.clock_ahead.num_seconds().abs()
        );
        found.push(warning("server-clock", "", message));
    }
    if !server.is_on {
        // Where there has never been any WAL, nobody wants it.
        if let Some(safe) = facts.safe.as_ref().filter(|_| !server.is_standby) {
            let message = format!(
                "the server archives no WAL any more (archive_mode is off): what is written is in no archive, the last \
                 that came is {}",
                safe.name
            );
            found.push(critical("archiving-off", "", message));
        }
        return;
    }
    if let Some((file, at)) = &server.failing {
        let message =
            format!("the server's archiver fails with {file} (last at {}): see its log", timestamp_text(*at));
        found.push(warning("archiver-failing", "", message));
    }
    if let Some(waiting) = server.waiting.filter(|waiting| *waiting > limits.backlog) {
        let message = format!("{} wait for the server's archiver", count(waiting, "WAL file"));
        found.push(warning("archiver-backlog", "", message));
    }
    let since = exposure::since(facts, server);
    if let Some(age) = since.map(|since| age(since, facts.now)).filter(|age| *age > limits.rpo) {
        let message = format!(
            "what was written in the last {} is in no archive: more than RPO_TARGET, {}",
            Elapsed(age),
            Elapsed(limits.rpo)
        );
        found.push(critical("rpo", "", message));
    }
}

fn count(number: u64, what: &str) -> String {
    let plural = match what.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{what}s"),
    };
    format!("{} {}", Thousands(number), if number == 1 { what } else { &plural })
}

#[cfg(test)]
mod tests;

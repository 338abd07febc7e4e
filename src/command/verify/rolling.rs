//! Which copies are read, reading them, and writing down what is proven; after how long all of them were read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use futures_util::stream::{self, StreamExt as _};

use super::compare::{Held, finding};
use super::prove::{Candidate, Object, Outcome, Proving, Unit, What, Wrong};
use super::report::{Away, Rolling, VerifyReport};
use crate::catalog::{CopyKey, CopyRow, CopyState, Proof, WalCopy, WalRow};
use crate::command::Context;
use crate::command::archive::reconcile::WalFinding;
use crate::format::keyring::Keyring;
use crate::model::{BackupId, StoreName, Timestamp, WalName, timestamp_text};
use crate::plan::proofs::{self, Provable};
use crate::system::{Step, step};

/// How many copies are read at the same time.
const AT_ONCE: usize = 4;
/// How many proofs are written down at once: each time takes a flush of the disk.
const WRITTEN_AT_ONCE: usize = 256;
/// The time over which it is measured how often `verify` runs, and the least that it takes.
const MEASURED: TimeDelta = TimeDelta::days(7);
const LEAST_MEASURED: TimeDelta = TimeDelta::days(1);
/// How often it is taken to run until that is known.
const ASSUMED: Duration = Duration::from_hours(1);

/// All that can be read: the objects of backups in the order in which those that belong together stand together, then WAL.
pub(super) fn candidates(held: &[Held], wal: Vec<WalCopy>) -> Vec<Candidate> {
    let now = Utc::now();
    let candidate = |what, proven_at: Option<Timestamp>, how: Option<Proof>| Candidate {
        what,
        proof: proven_at.filter(|_| how.is_some_and(Proof::is_of_its_bytes)),
        since: proven_at.unwrap_or(now),
    };
    let mut candidates = Vec::new();
    for (index, held) in held.iter().enumerate() {
        for copy in &held.copies {
            let (at, how) = (copy.proven_at, copy.proven_how);
            candidates.push(candidate(What::Object(index, CopyRow::clone(copy)), at, how));
        }
    }
    for copy in wal {
        let (at, how) = (copy.proven_at, copy.proven_how);
        candidates.push(candidate(What::Wal(copy), at, how));
    }
    candidates
}

fn provable(candidate: &Candidate) -> Provable {
    Provable { size: candidate.size(), proof: candidate.proof }
}

/// How often `verify` runs.
#[derive(Clone, Copy)]
pub(super) struct Interval {
    length: Duration,
    is_measured: bool,
}

impl Interval {
    /// Out of when it has run lately.
    pub(super) fn of(context: &Context) -> anyhow::Result<Self> {
        let now = Utc::now();
        let (times, first) = context.catalog.runs().begun_since("verify", now - MEASURED)?;
        let over = first.map_or(TimeDelta::zero(), |first| now - first);
        // This run is the last of them.
        let between = u32::try_from(times.saturating_sub(1)).unwrap_or(u32::MAX);
        let measured = over.to_std().ok().filter(|_| over >= LEAST_MEASURED && between > 0);
        Ok(Self { length: measured.map_or(ASSUMED, |over| over / between), is_measured: measured.is_some() })
    }
}

/// What a run may read where nothing else is said.
pub(super) fn budget(context: &Context, candidates: &[Candidate], interval: Interval) -> u64 {
    let settings = &context.settings;
    settings.verify_budget.unwrap_or_else(|| {
        let total = candidates.iter().map(Candidate::size).sum();
        proofs::enough(total, interval.length, settings.proof_max_age)
    })
}

/// The copies whose turn it is.
pub(super) fn choose(candidates: &[Candidate], budget: u64) -> Vec<usize> {
    let copies: Vec<Provable> = candidates.iter().map(provable).collect();
    proofs::choose(&copies, budget, Utc::now())
}

/// Puts together what is read in one go: of a backup that is chosen whole in a store everything, in the place of its first
/// object. With `deep` a backup is tried to be decrypted even if not all of it can be read, because that says what is hit.
pub(super) fn units(
    chosen: &[usize],
    held: &[Held],
    candidates: &[Candidate],
    has_key: bool,
    deep: bool,
) -> Vec<Unit> {
    let mut by_backup: HashMap<usize, Vec<usize>> = HashMap::new();
    for index in chosen {
        if let What::Object(backup, _) = &candidates[*index].what {
            by_backup.entry(*backup).or_default().push(*index);
        }
    }
    by_backup.retain(|backup, copies| {
        let Held { objects, is_owed, .. } = held[*backup];
        has_key && !is_owed && (deep || copies.len() == objects)
    });
    let mut units = Vec::new();
    for index in chosen {
        let backup = match &candidates[*index].what {
            What::Object(backup, _) => Some(*backup),
            What::Wal(_) => None,
        };
        match backup.and_then(|backup| by_backup.get_mut(&backup).map(|copies| (backup, copies))) {
            // Emptied by the first of them.
            Some((_, copies)) if copies.is_empty() => {}
            Some((held, copies)) => units.push(Unit::Whole { held, copies: std::mem::take(copies) }),
            None => units.push(Unit::Copy(*index)),
        }
    }
    if deep && has_key {
        // Of which nothing can be read: what the seals would say is that.
        let known: Vec<usize> = by_backup.keys().copied().collect();
        let lost = |index: &usize| {
            let Held { objects, is_owed, copies, .. } = &held[*index];
            *objects > 0 && !is_owed && copies.is_empty() && !known.contains(index)
        };
        units.extend((0..held.len()).filter(lost).map(|held| Unit::Whole { held, copies: Vec::new() }));
    }
    units
}

/// What was read.
#[derive(Default)]
pub(super) struct Read {
    /// Which candidates are proven now.
    pub(super) proven: BTreeMap<usize, Timestamp>,
    /// Whether some of them were not decrypted.
    pub(super) is_part_undecrypted: bool,
    pub(super) is_out_of_time: bool,
}

/// Reads, and writes down what is proven and what is not.
pub(super) async fn read(
    context: &Context,
    held: &[Held],
    candidates: &[Candidate],
    units: Vec<Unit>,
    (keyring, deadline): (Option<Keyring>, Option<Instant>),
    report: &mut VerifyReport,
) -> anyhow::Result<Read> {
    let size = |unit: &Unit| match unit {
        Unit::Whole { copies, .. } => copies.iter().map(|index| candidates[*index].size()).sum(),
        Unit::Copy(index) => candidates[*index].size(),
    };
    let stage = context.progress.bytes("verify", units.iter().map(size).sum());
    let proving = Proving::new(context, keyring.map(Arc::new), held, candidates, stage, deadline);
    let mut taking = Taking { context, held, candidates, report, read: Read::default(), waiting: Vec::new() };
    let mut running = stream::iter(units).map(|unit| proving.prove(unit)).buffered(AT_ONCE);
    let mut result = Ok(());
    while let Some(outcome) = running.next().await {
        let taken = outcome.and_then(|outcome| taking.take_in(outcome));
        if taken.is_err() {
            result = taken;
            break;
        }
    }
    drop(running);
    // What was proven before something else went wrong is proven.
    let written = taking.write_down();
    result.and(written)?;
    Ok(taking.read)
}

struct Taking<'a> {
    context: &'a Context,
    held: &'a [Held],
    candidates: &'a [Candidate],
    report: &'a mut VerifyReport,
    read: Read,
    waiting: Vec<(usize, Proof)>,
}

impl Taking<'_> {
    fn take_in(&mut self, outcome: Outcome) -> anyhow::Result<()> {
        let Outcome { proven, wrong, away, is_late } = outcome;
        self.read.is_out_of_time |= is_late;
        for (index, _) in &proven {
            self.report.bytes_read += self.candidates[*index].size();
        }
        self.waiting.extend(proven);
        for wrong in wrong {
            self.found(wrong)?;
        }
        if let Some((store, message)) = away
            && !self.report.away.iter().any(|away| away.store == store)
        {
            self.report.away.push(Away { store, message });
        }
        if self.waiting.len() >= WRITTEN_AT_ONCE { self.write_down() } else { Ok(()) }
    }

    /// Something is wrong: the catalog is told, unless it knows.
    fn found(&mut self, wrong: Wrong) -> anyhow::Result<()> {
        let Wrong { what, state, message, is_sure } = wrong;
        let index = match what {
            Object::All(index) => {
                self.report.findings.push(finding(&self.held[index], "*", state, message));
                return Ok(());
            }
            Object::Copy(index) => index,
        };
        let catalog = &self.context.catalog;
        match &self.candidates[index].what {
            What::Object(held, copy) => {
                if state != copy.state {
                    let key = key(copy);
                    catalog.copies().set_states(&[(key, state, message.clone())])?;
                    catalog.backups().set_places(&[(copy.backup_id.clone(), copy.store, None)])?;
                }
                self.report.findings.push(finding(&self.held[*held], &copy.object, state, message));
            }
            What::Wal(WalCopy { row, .. }) => {
                if is_sure && state != row.state && !catalog.wal().set_state(row, state, Some(&message))? {
                    // Deleted since it was read.
                    return Ok(());
                }
                let (file, store) = (row.file.clone(), row.store);
                self.report.wal_findings.push(WalFinding { file, store, state, message, repaired: false });
            }
        }
        Ok(())
    }

    /// Writes down what is proven.
    fn write_down(&mut self) -> anyhow::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        step::reached(Step::VerifyRead)?;
        let now = Utc::now();
        let waiting = std::mem::take(&mut self.waiting);
        self.read.is_part_undecrypted |= waiting.iter().any(|(_, how)| *how == Proof::Read);
        for how in [Proof::Read, Proof::Decrypted] {
            let (mut objects, mut wal): (Vec<CopyKey>, Vec<&WalRow>) = (Vec::new(), Vec::new());
            for (index, _) in waiting.iter().filter(|(_, proof)| *proof == how) {
                match &self.candidates[*index].what {
                    What::Object(_, copy) => objects.push(key(copy)),
                    What::Wal(copy) => wal.push(&copy.row),
                }
            }
            if !objects.is_empty() {
                self.context.catalog.copies().prove(&objects, how, now)?;
            }
            self.context.catalog.wal().prove(&wal, how, now)?;
        }
        self.read.proven.extend(waiting.into_iter().map(|(index, _)| (index, now)));
        Ok(())
    }
}

fn key(copy: &CopyRow) -> CopyKey {
    CopyKey { backup_id: copy.backup_id.clone(), object: copy.object.clone(), store: copy.store }
}

/// After how long everything was read once, and how old proofs are.
pub(super) fn figures(
    context: &Context,
    candidates: &[Candidate],
    read: &Read,
    (budget, interval): (u64, Interval),
    report: &VerifyReport,
) -> Rolling {
    let (now, max_age) = (Utc::now(), context.settings.proof_max_age);
    let limit = now - TimeDelta::from_std(max_age).unwrap_or(TimeDelta::MAX);
    let wrong = WrongCopies::of(report);
    let (mut copies, mut oldest, mut overdue) = (Vec::with_capacity(candidates.len()), None, 0);
    for (index, candidate) in candidates.iter().enumerate() {
        let proven = read.proven.get(&index).copied();
        // What was found wrong is said to be, and has no proof to be renewed.
        if proven.is_none() && wrong.has(candidate) {
            continue;
        }
        let since = proven.unwrap_or(candidate.since);
        overdue += u64::from(since < limit);
        oldest = Some(oldest.map_or(since, |oldest: Timestamp| oldest.min(since)));
        copies.push(Provable { size: candidate.size(), proof: proven.or(candidate.proof) });
    }
    let cycle_runs = proofs::runs(&copies, budget, now);
    let length = interval.length.as_secs_f64();
    Rolling {
        budget,
        copies_read: read.proven.len() as u64,
        out_of_time: read.is_out_of_time,
        copies: copies.len() as u64,
        bytes: copies.iter().map(|copy| copy.size).sum(),
        cycle_runs,
        interval_seconds: length,
        interval_is_measured: interval.is_measured,
        cycle_seconds: cycle_runs.map(|runs| runs as f64 * length),
        max_age_seconds: max_age.as_secs(),
        oldest_proof: oldest.map(timestamp_text),
        overdue,
    }
}

/// Copies that were found wrong.
struct WrongCopies<'a> {
    objects: HashSet<(&'a BackupId, StoreName, &'a str)>,
    files: HashSet<(&'a WalName, StoreName)>,
}

impl<'a> WrongCopies<'a> {
    fn of(report: &'a VerifyReport) -> Self {
        let objects = report.findings.iter();
        Self {
            objects: objects.map(|it| (&it.backup, it.store, it.object.as_str())).collect(),
            files: report.wal_findings.iter().map(|it| (&it.file, it.store)).collect(),
        }
    }

    fn has(&self, candidate: &'a Candidate) -> bool {
        match &candidate.what {
            What::Object(_, copy) => {
                copy.state != CopyState::Good
                    || self.objects.contains(&(&copy.backup_id, copy.store, copy.object.as_str()))
            }
            What::Wal(WalCopy { row, .. }) => {
                row.state != CopyState::Good || self.files.contains(&(&row.file, row.store))
            }
        }
    }
}

//! Runs that failed, until one of the same kind and about the same thing succeeds; and tests of backups by themselves.

use std::collections::BTreeMap;

use super::{Condition, End, EndedRun, Facts, FailedTest, critical, warning};
use crate::model::Kind;

/// Of a restore, what somebody at a terminal is told at once and nobody need be woken for.
const ANSWERS: [Kind; 5] = [Kind::NotThere, Kind::Usage, Kind::Refused, Kind::Locked, Kind::Interrupted];

/// Options that are followed by a value in a word of its own.
const WITH_VALUE: [&str; 9] =
    ["--env-file", "--output", "--wait", "--jobs", "-j", "--at", "--store", "--max-time", "--budget"];

pub(super) fn failed(facts: &Facts, found: &mut Vec<Condition>) {
    let mut last: BTreeMap<(&'static str, String), &EndedRun> = BTreeMap::new();
    for run in &facts.runs {
        let Some(kind) = kind_of(&run.command) else { continue };
        if counts(run) {
            last.insert((kind, about(&run.command, &run.arguments)), run);
        }
    }
    for ((kind, about), run) in last {
        // What is said of a backup's test is not said once more of the run that made it.
        if facts.tests.iter().any(|test| test.run.as_ref() == Some(&run.id)) {
            continue;
        }
        let why = run.message.as_deref().unwrap_or("no word of why");
        // What stays longer than it must costs room, and no data.
        let condition = if kind == "cleanup-failed" { warning } else { critical };
        match run.end {
            End::Failed => found.push(condition(kind, &about, format!("{about} failed: {why}"))),
            End::Died => found.push(condition(kind, &about, format!("{about} died: {why}"))),
            End::Done | End::Interrupted => {}
        }
    }
}

pub(super) fn tested(facts: &Facts, found: &mut Vec<Condition>) {
    for FailedTest { series, backup, store, refused, message, .. } in &facts.tests {
        let from = store.map_or_else(String::new, |store| format!(" out of {store}"));
        let (kind, how) = ("test-restore-failed", if *refused { "was refused" } else { "failed" });
        let message = format!("test restore of {backup}{from}: {how}: {message}");
        // Nothing is wrong with a backup whose test would have done harm, as far as is known; it is not proven either.
        let condition = if *refused { warning } else { critical };
        found.push(condition(kind, series, message));
    }
}

fn kind_of(command: &str) -> Option<&'static str> {
    match command {
        "restore" => Some("restore-failed"),
        "verify" => Some("verify-failed"),
        "test-restore" => Some("test-restore-failed"),
        "cleanup" => Some("cleanup-failed"),
        _ if command.starts_with("backup ") => Some("backup-failed"),
        _ => None,
    }
}

/// Whether the run's end says anything about whether it can be done.
fn counts(run: &EndedRun) -> bool {
    // A slip of the pen.
    if run.exit_code == Some(Kind::Usage.exit_code()) {
        return false;
    }
    // Showing what would go does not do it.
    if run.command == "cleanup" && run.arguments.split(' ').any(|word| word == "--dry-run") {
        return false;
    }
    let is_answer = ANSWERS.iter().any(|kind| run.exit_code == Some(kind.exit_code()));
    // One of cron's whose turn never came has told nobody, nor has one that was put off.
    let is_late = run.command == "test-restore" && run.exit_code == Some(Kind::Locked.exit_code());
    let is_unheard = !run.is_told && (run.is_job || is_late);
    let is_asked = match run.command.as_str() {
        "restore" | "test-restore" => !is_unheard,
        "cleanup" => run.is_told,
        _ => false,
    };
    run.end != End::Interrupted && !(run.end == End::Failed && is_asked && is_answer)
}

/// The command with what it is about, without options: `backup database shop`.
pub(super) fn about(command: &str, arguments: &str) -> String {
    let mut rest = Vec::new();
    let mut words = arguments.split(' ').filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word) {
            words.next();
        } else if !word.starts_with('-') || (command == "verify" && word == "--deep") {
            // One that reads names and sizes does not make good one that could not read the bytes.
            rest.push(word);
        }
    }
    let rest = rest.join(" ");
    rest.find(command).map_or_else(|| command.to_owned(), |start| rest[start..].to_owned())
}

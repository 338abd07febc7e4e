//! Test restores and quotes as text.

use std::fmt::Write;

use super::{counted, seconds, warnings};
use crate::command::Quote;
use crate::command::test_restore::{Check, TestRestoreReport, Tested};
use crate::model::Bytes;

/// What a restore is going to take, indented below its plan.
pub(super) fn quote(text: &mut String, quote: &Quote) {
    let from: Vec<String> = quote
        .from
        .iter()
        .map(|share| match share.store {
            Some(store) => format!("{} from {store}", Bytes(share.bytes)),
            None => format!("{} that no store is known to have whole", Bytes(share.bytes)),
        })
        .collect();
    let from = if from.is_empty() { "nothing".to_owned() } else { from.join(", ") };
    line!(text, "  fetch: {from} in {}", counted(quote.requests, "request"));
    line!(text, "  room needed while it runs: {}", Bytes(quote.scratch_bytes));
    if quote.wal_segments > 0 {
        let (segments, bytes) = (counted(quote.wal_segments, "segment"), Bytes(quote.wal_bytes));
        line!(text, "  replay: {segments} of WAL at most, {bytes} to fetch");
    }
    line!(text, "  stops {}", quote.stops_at);
    match quote.expected_seconds {
        Some(expected) => {
            line!(text, "  expected: {} ({})", seconds(expected), quote.basis);
        }
        None => {
            line!(text, "  expected time: {}", quote.basis);
        }
    }
}

pub(in crate::cli) fn test_restore(report: &TestRestoreReport) -> String {
    let mut text = format!("test restore out of {} ({})\n", report.store, report.chosen);
    for test in &report.tests {
        one(&mut text, test);
    }
    warnings(&mut text, &report.warnings);
    let failed = report.tests.iter().filter(|test| !test.passed).count() as u64;
    let all = report.tests.len() as u64;
    let result = if failed == 0 { "all passed".to_owned() } else { format!("{failed} FAILED") };
    line!(text, "{} in {}: {result}", counted(all, "test"), seconds(report.seconds));
    text
}

fn one(text: &mut String, test: &Tested) {
    let of = match (&test.tenant, &test.database) {
        (Some(tenant), Some(database)) => format!("tenant {tenant} of database {database}"),
        (_, Some(database)) => format!("database {database}"),
        _ => "the cluster".to_owned(),
    };
    let verdict = if test.passed { "passed" } else { "FAILED" };
    line!(text, "{} ({of}): {verdict} in {}", test.backup, seconds(test.seconds));
    if !test.place.is_empty() {
        line!(text, "  in {}", test.place);
    }
    if let Some(reached) = &test.reached {
        line!(text, "  replayed up to {reached}; {} of WAL", counted(test.wal_segments, "segment"));
    }
    let mut sums: Vec<(&str, f64)> = Vec::new();
    for phase in &test.phases {
        match sums.iter_mut().find(|(name, _)| *name == phase.name) {
            Some((_, sum)) => *sum += phase.seconds,
            None => sums.push((phase.name, phase.seconds)),
        }
    }
    let phases: Vec<String> = sums.iter().map(|(name, sum)| format!("{name} {}", seconds(*sum))).collect();
    line!(text, "  fetched {}; {}", Bytes(test.bytes_fetched), phases.join(", "));
    for check in &test.checks {
        line!(text, "  {}", said(check));
        for finding in &check.proven.findings {
            line!(text, "    {finding}");
        }
        for note in &check.proven.notes {
            line!(text, "    note: {note}");
        }
    }
    if let Some(failure) = &test.failure {
        line!(text, "  failed: {failure}");
    }
    if let Some(hint) = &test.hint {
        line!(text, "  hint: {hint}");
    }
    warnings(text, &test.warnings);
}

fn said(check: &Check) -> String {
    let proven = &check.proven;
    let result = match (&proven.not_checked, proven.findings.len()) {
        (Some(_), _) => return format!("{}: not checked", check.name),
        (None, 0) => "good".to_owned(),
        (None, found) => format!("{} FOUND", counted(found as u64, "fault")),
    };
    let unit = match (check.unit, proven.checked) {
        ("index", 0 | 2..) => format!("{} indexes", crate::model::Thousands(proven.checked)),
        (unit, count) => counted(count, unit),
    };
    format!("{}: {unit}: {result}", check.name)
}

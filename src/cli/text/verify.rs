//! `verify` as text: what is wrong first, then how far the proofs go, then what was done.

use std::fmt::Write;
use std::time::Duration;

use super::{counted, seconds, warnings};
use crate::command::verify::{Rolling, VerifyReport, WalHole};
use crate::model::{Bytes, Elapsed};

pub(in crate::cli) fn verify(report: &VerifyReport) -> String {
    let mut text = String::new();
    findings(&mut text, report);
    for away in &report.away {
        line!(text, "away: store {}: {}", away.store, away.message);
    }
    warnings(&mut text, &report.warnings);
    if report.wal_copies > 0 {
        line!(text, "{} of WAL listed", counted(report.wal_copies, "copy"));
    }
    if report.is_busy {
        line!(text, "another verify is reading: this one has only listed");
    } else if let Some(rolling) = &report.rolling {
        proofs(&mut text, rolling);
    }
    let read = if report.decrypted {
        "read, decrypted and compared"
    } else {
        "read and compared (not decrypted: no key is set)"
    };
    line!(
        text,
        "{}, {} {}, {} read, {}: {}",
        counted(report.backups, "backup"),
        counted(report.objects, "object"),
        if report.deep { read } else { "listed" },
        Bytes(report.bytes_read),
        seconds(report.seconds),
        verdict(report)
    );
    text
}

fn findings(text: &mut String, report: &VerifyReport) {
    let now = |repaired: bool| if repaired { " (repaired)" } else { "" };
    for finding in &report.findings {
        line!(
            text,
            "{}: {} of {} in store {}: {}{}",
            finding.state,
            if finding.object == "*" { "all" } else { &finding.object },
            finding.backup,
            finding.store,
            finding.message,
            now(finding.repaired)
        );
    }
    for finding in &report.wal_findings {
        line!(
            text,
            "{}: WAL file {} in store {}: {}{}",
            finding.state,
            finding.file,
            finding.store,
            finding.message,
            now(finding.repaired)
        );
    }
    for hole in &report.wal_holes {
        let WalHole { timeline, first, last, segments, .. } = hole;
        let missing = match segments {
            1 => format!("segment {first} is"),
            _ => format!("segments {first} to {last} ({segments} of them) are"),
        };
        let (after, before) = (hole.after.as_deref(), hole.before.as_deref());
        line!(
            text,
            "hole: WAL of timeline {timeline}: {missing} in no store; what was written between {} and {} can't be \
             recovered",
            after.unwrap_or("an unknown time"),
            before.unwrap_or("an unknown time")
        );
    }
    for conflict in &report.wal_conflicts {
        let contents = conflict.contents.iter().map(|content| {
            let stores: Vec<&str> = content.stores.iter().map(|store| store.as_str()).collect();
            format!("SHA-256 {} in {}", content.sha256, stores.join(" and "))
        });
        let contents: Vec<String> = contents.collect();
        line!(
            text,
            "conflict: WAL file {} was archived with different bytes: {}",
            conflict.file,
            contents.join("; ")
        );
    }
}

/// How the oldest proofs are renewed.
fn proofs(text: &mut String, rolling: &Rolling) {
    let long = |seconds: f64| Elapsed(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    if rolling.copies_read > 0 {
        let late = if rolling.out_of_time { ", until the time was over" } else { "" };
        line!(
            text,
            "{} proven, those whose proof was oldest, within {}{late}",
            counted(rolling.copies_read, "copy"),
            Bytes(rolling.budget)
        );
    }
    if let (Some(runs), Some(cycle)) = (rolling.cycle_runs.filter(|runs| *runs > 0), rolling.cycle_seconds) {
        let every = long(rolling.interval_seconds);
        let how = if rolling.interval_is_measured {
            format!("one every {every}, as of late")
        } else {
            "if one runs every hour".to_owned()
        };
        line!(
            text,
            "at this budget all {} in {} have been read after {}, {how}: {}",
            Bytes(rolling.bytes),
            counted(rolling.copies, "copy"),
            counted(runs, "run"),
            long(cycle)
        );
    }
    if rolling.is_too_slow() {
        line!(
            text,
            "warning: that is longer than the {} of BACKUP_PROOF_MAX_AGE: raise BACKUP_VERIFY_BUDGET",
            long(rolling.max_age_seconds as f64)
        );
    }
    if let (true, Some(oldest)) = (rolling.overdue > 0, &rolling.oldest_proof) {
        line!(
            text,
            "warning: {} not read for longer than the {} of BACKUP_PROOF_MAX_AGE, the oldest since {oldest}",
            counted(rolling.overdue, "copy"),
            long(rolling.max_age_seconds as f64)
        );
    }
}

fn verdict(report: &VerifyReport) -> String {
    let faults = report.findings.iter().filter(|finding| finding.is_fault());
    let repaired = faults.clone().filter(|finding| finding.repaired).count()
        + report.wal_findings.iter().filter(|finding| finding.repaired).count();
    let all =
        faults.count() + report.wal_findings.len() + report.wal_holes.len() + report.wal_conflicts.len();
    match (all as u64, report.backups) {
        (0, _) if !report.away.is_empty() => "nothing wrong in the stores that answered".to_owned(),
        (0, 0) => "there is nothing to verify yet".to_owned(),
        (0, _) => "all good".to_owned(),
        (all, _) if repaired > 0 => format!("{}, {repaired} repaired", counted(all, "finding")),
        (all, _) => counted(all, "finding"),
    }
}

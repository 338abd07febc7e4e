//! The page's charts, each in a card of its own.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::charts::{Chart, Form, Point, Unit, groups};
use super::escape::html;
use super::said::{axis_bytes, axis_seconds, counted, minute, rounded, took};
use super::{History, PastBackup, Status};
use crate::model::{BackupKind, Bytes, StoreName, Timestamp};

/// A chart for each kind and database, the kinds in this order; at most so many.
const CHARTS: usize = 8;

pub(super) fn wal(out: &mut String, status: &Status, history: &History) {
    let from = (status.at - chrono::TimeDelta::days(14)).max(history.since);
    let points: Vec<Point> = history
        .wal
        .iter()
        .filter(|hour| hour.at >= from)
        .map(|hour| Point {
            at: hour.at,
            value: hour.files as f64,
            said: format!(
                "{}: {}, {} stored",
                minute(hour.at),
                counted(hour.files, "segment"),
                Bytes(hour.bytes)
            ),
        })
        .collect();
    out.push_str("<section class=\"card\"><h2>WAL segments per hour, 14 days</h2>\n");
    if points.is_empty() {
        out.push_str("<p class=\"soft\">No WAL was archived in this time.</p></section>\n");
        return;
    }
    let chart = Chart {
        title: "WAL segments per hour",
        class: "bar",
        height: 130.0,
        from,
        until: status.at,
        form: Form::Bars(3600),
        points: &points,
        full: None,
        unit: Unit::Count,
        shown: &|value| rounded(value),
    };
    out.push_str(&chart.draw());
    out.push_str("</section>\n");
}

pub(super) fn storage(out: &mut String, status: &Status, history: &History) {
    out.push_str("<section class=\"card\"><h2>Storage of each store, 90 days</h2>\n");
    for store in &status.stores {
        let mut points: Vec<Point> = history
            .usage
            .iter()
            .filter(|day| day.store == store.store)
            .map(|day| Point {
                at: day.at,
                value: day.bytes as f64,
                said: format!("{}: {}", day.at.date_naive(), Bytes(day.bytes)),
            })
            .collect();
        points.push(Point {
            at: status.at,
            value: store.bytes as f64,
            said: format!("now {}", Bytes(store.bytes)),
        });
        let capacity = store.capacity_bytes.map_or_else(String::new, |bytes| format!(" of {}", Bytes(bytes)));
        let _ = writeln!(out, "<h3>{}: {}{capacity}</h3>", store.store, Bytes(store.bytes));
        if points.len() < 2 {
            let _ = writeln!(out, "<p class=\"soft\">No days before today are known yet.</p>");
            continue;
        }
        let title = format!("Storage of {}", store.store);
        let chart = Chart {
            title: &title,
            class: store.store.as_str(),
            height: 92.0,
            from: history.since,
            until: status.at,
            form: Form::Line,
            points: &points,
            full: store.capacity_bytes.map(|bytes| bytes as f64),
            unit: Unit::Bytes,
            shown: &axis_bytes,
        };
        out.push_str(&chart.draw());
    }
    if status.stores.is_empty() {
        out.push_str("<p class=\"soft\">No store is configured.</p>");
    }
    out.push_str("</section>\n");
}

pub(super) fn proofs(out: &mut String, history: &History) {
    out.push_str("<section class=\"card\"><h2>Stored files by the age of their last proof</h2>\n");
    let mut spans: Vec<Option<u32>> = history.proofs.iter().map(|proof| proof.days).collect();
    spans.sort_by_key(|days| days.unwrap_or(u32::MAX));
    spans.dedup();
    // Of ages that nothing has there is nothing to see.
    spans.retain(|span| history.proofs.iter().any(|proof| proof.days == *span && proof.copies > 0));
    let names: Vec<String> = spans
        .iter()
        .map(|span| span.map_or_else(|| "older".to_owned(), |days| format!("≤ {days} d")))
        .collect();
    let series: Vec<(&str, Vec<u64>)> = [StoreName::Local, StoreName::R2, StoreName::B2]
        .into_iter()
        .filter(|store| history.proofs.iter().any(|proof| proof.store == *store && proof.copies > 0))
        .map(|store| {
            let of = |span: &Option<u32>| {
                let found = history.proofs.iter().find(|proof| proof.store == store && proof.days == *span);
                found.map_or(0, |proof| proof.copies)
            };
            (store.as_str(), spans.iter().map(of).collect())
        })
        .collect();
    if series.is_empty() {
        out.push_str("<p class=\"soft\">There are no backups.</p></section>\n");
        return;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    out.push_str(&groups("Stored files by the age of their last proof", &names, &series));
    out.push_str("<p class=\"key\">Written, read, decrypted or restored; being listed counts the first time.</p></section>\n");
}

pub(super) fn by_kind(out: &mut String, status: &Status, history: &History, title: &str, is_size: bool) {
    let _ = writeln!(out, "<section class=\"card\"><h2>{title}, 90 days</h2>");
    let mut series: BTreeMap<(usize, Option<&str>), Vec<&PastBackup>> = BTreeMap::new();
    for backup in &history.backups {
        let order = match backup.kind {
            BackupKind::Cluster => 0,
            BackupKind::Database => 1,
            BackupKind::Tenant => 2,
            BackupKind::Config => 3,
        };
        series.entry((order, backup.database.as_deref())).or_default().push(backup);
    }
    for of_one in series.values().take(CHARTS) {
        one_kind(out, status, history.since, of_one, title, is_size);
    }
    match series.len() {
        0 => out.push_str("<p class=\"soft\">There are no backups.</p>"),
        count if count > CHARTS => {
            let _ = write!(out, "<p class=\"soft\">{} more are in the table of backups.</p>", count - CHARTS);
        }
        _ => {}
    }
    out.push_str("</section>\n");
}

fn one_kind(
    out: &mut String,
    status: &Status,
    since: Timestamp,
    backups: &[&PastBackup],
    title: &str,
    is_size: bool,
) {
    let Some(first) = backups.first() else { return };
    let name = match (&first.database, first.kind) {
        (Some(database), BackupKind::Tenant) => format!("tenants of {database}"),
        (Some(database), kind) => format!("{kind} {database}"),
        (None, kind) => kind.to_string(),
    };
    let said = |backup: &PastBackup| {
        let tenant = backup.tenant.as_ref().map_or_else(String::new, |tenant| format!(", tenant {tenant}"));
        let (size, time) = (Bytes(backup.size_bytes), took(backup.seconds));
        format!("{}{tenant}: {size}, {time}", minute(backup.at))
    };
    let point = |backup: &&PastBackup| Point {
        at: backup.at,
        value: if is_size { backup.size_bytes as f64 } else { backup.seconds },
        said: said(backup),
    };
    let points: Vec<Point> = backups.iter().map(point).collect();
    let _ = writeln!(out, "<h3>{}</h3>", html(&name));
    let title = format!("{title}, {name}");
    let chart = Chart {
        title: &title,
        class: first.kind.as_str(),
        height: 100.0,
        from: since,
        until: status.at,
        form: Form::Marks,
        points: &points,
        full: None,
        unit: if is_size { Unit::Bytes } else { Unit::Seconds },
        shown: if is_size { &axis_bytes } else { &axis_seconds },
    };
    out.push_str(&chart.draw());
}

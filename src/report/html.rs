//! The page: one file that needs nothing else, from `file://` or anywhere. Its policy lets nothing run or load but the
//! script and the style in it, and everything that came from outside is escaped besides.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::charts::{Chart, Form, Point, Unit, groups};
use super::escape::html;
use super::tables::{Cell, Set, markup, number, table, text};
use super::{History, PastBackup, RunLine, Status, StoreAnswer, calendar};
use crate::model::{BackupKind, Bytes, Elapsed, StoreName, Thousands, Timestamp};
use crate::plan::health::{Level, State, days};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// How many backups the table has at most.
const ROWS: usize = 500;

/// Writes the page.
pub fn page(status: &Status) -> String {
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text.as_bytes())));
    let (cluster, state) = (html(&status.cluster), status.health.state.as_str());
    let empty = History::default();
    let history = status.history.as_ref().unwrap_or(&empty);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src {}; \
         script-src {}; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"referrer\" content=\"no-referrer\"><link rel=\"icon\" href=\"data:,\">\n\
         <title>{cluster}: {} of 100, {state} - pgkeep</title>\n<style>{STYLE}</style></head><body>\n\
         <a class=\"skip\" href=\"#main\">To the content</a><div class=\"wrap\">\n\
         <header><h1>Backups of {cluster}</h1><p class=\"soft\">as of {} <span id=\"age\"></span></p></header>\n\
         <main id=\"main\">\n",
        hash(STYLE),
        hash(SCRIPT),
        status.health.score,
        time_with_id(status.at),
    );
    top(&mut out, status);
    losses(&mut out, status);
    out.push_str(&alerts(status));
    out.push_str("<div class=\"grid\"><div><section class=\"card\"><h2>The last 90 days</h2>\n");
    out.push_str(&calendar::calendar(status, history));
    out.push_str("</section>\n");
    proofs(&mut out, history);
    out.push_str("</div><div>\n");
    wal(&mut out, status, history);
    storage(&mut out, status, history);
    out.push_str("</div></div>\n<div class=\"grid\">\n");
    by_kind(&mut out, status, history, "Size of each backup", true);
    by_kind(&mut out, status, history, "Duration of each backup", false);
    out.push_str("</div>\n");
    out.push_str(&stores(status));
    out.push_str(&windows(status));
    out.push_str(&tests(status));
    out.push_str(&backups(status, history));
    out.push_str(&runs(&status.runs, status.at));
    out.push_str(&jobs(status));
    let _ = write!(
        out,
        "</main><footer>Times are UTC. Written by pgkeep {} (<code>pgkeep status --html</code>); the page loads nothing \
         from anywhere.</footer></div>\n<script>{SCRIPT}</script></body></html>\n",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn top(out: &mut String, status: &Status) {
    let health = &status.health;
    let state = health.state.as_str();
    let around = 2.0 * std::f64::consts::PI * 46.0;
    let _ = write!(
        out,
        "<div class=\"top\"><section class=\"card score\" aria-label=\"Health\"><svg viewBox=\"0 0 108 108\" role=\"img\" \
         aria-label=\"Health score {score} of 100\"><circle class=\"ring\" cx=\"54\" cy=\"54\" r=\"46\"/>\
         <circle class=\"arc {state}\" cx=\"54\" cy=\"54\" r=\"46\" transform=\"rotate(-90 54 54)\" \
         stroke-dasharray=\"{:.1} {around:.1}\"/><text class=\"number\" x=\"54\" y=\"62\" text-anchor=\"middle\">{score}</text>\
         <text class=\"of\" x=\"54\" y=\"78\" text-anchor=\"middle\">of 100</text></svg>\
         <div><p class=\"state {state}\">{}</p><p class=\"soft\">{}</p></div></section>\n",
        around * f64::from(health.score) / 100.0,
        match health.state {
            State::Good => "Good",
            State::Attention => "Attention",
            State::Critical => "Critical",
        },
        match health.deductions.len() {
            0 => "nothing takes points away".to_owned(),
            1 => "one thing takes points away".to_owned(),
            count => format!("{count} things take points away"),
        },
        score = health.score,
    );
    out.push_str("<section class=\"card\" aria-label=\"At a glance\"><dl class=\"tiles\">\n");
    let (rpo, rto) = (&status.rpo, &status.rto);
    tile(
        out,
        "Would be lost now (RPO)",
        &rpo.now_seconds.map_or_else(|| "everything".to_owned(), age_of),
        rpo.now_seconds.is_some_and(|age| age <= rpo.target_seconds),
        &format!(
            "target {}{}",
            age_of(rpo.target_seconds),
            match rpo.by {
                Some("wal") => ", by the newest WAL",
                Some(_) => ", by the newest backup: no WAL is archived",
                None => "",
            }
        ),
    );
    tile(
        out,
        "A restore takes (RTO)",
        &rto.measured_seconds.map_or_else(|| "never measured".to_owned(), took),
        rto.measured_seconds.is_some_and(|it| it <= rto.target_seconds as f64),
        &format!("target {}, the slowest of the last test restores", age_of(rto.target_seconds)),
    );
    let reach = status.windows.iter().max_by_key(|window| window.until);
    tile(
        out,
        "Any second back to",
        &reach.map_or_else(|| "no point in time".to_owned(), |window| minute(window.from)),
        reach.is_some(),
        &reach.map_or_else(
            || "there is no cluster backup with its WAL".to_owned(),
            |window| format!("until about {}, timeline {}", minute(window.until), window.timeline),
        ),
    );
    let newest = status.backups.newest.iter().max_by_key(|backup| backup.started_at);
    let count: u64 = status.backups.complete.iter().map(|of| of.count).sum();
    tile(
        out,
        "Newest backup",
        &newest.map_or_else(
            || "none".to_owned(),
            |backup| format!("{} ago", since(status.at, backup.started_at)),
        ),
        newest.is_some(),
        &newest.map_or_else(String::new, |backup| {
            let database = backup.database.as_ref().map_or_else(String::new, |name| format!(" {name}"));
            format!("{}{database}, one of {}", backup.kind, Thousands(count))
        }),
    );
    out.push_str("</dl></section></div>\n");
}

fn tile(out: &mut String, name: &str, value: &str, is_good: bool, small: &str) {
    let mark = if is_good { "" } else { " <span class=\"badge critical\">not met</span>" };
    let _ = write!(
        out,
        "<div><dt>{}</dt><dd class=\"value\">{}{mark}</dd><dd class=\"small\">{}</dd></div>\n",
        html(name),
        html(value),
        html(small)
    );
}

fn losses(out: &mut String, status: &Status) {
    let health = &status.health;
    if health.deductions.is_empty() {
        return;
    }
    out.push_str("<section class=\"card\"><h2>What takes points away</h2><ul class=\"losses\">\n");
    for deduction in &health.deductions {
        let (class, word) = match deduction.level {
            Level::Critical => ("critical", "critical"),
            Level::Warning => ("attention", "warning"),
        };
        let _ = write!(
            out,
            "<li><span class=\"points\">&minus;{}</span><span><span class=\"badge {class}\">{word}</span></span>\
             <span class=\"what\">{}</span><span class=\"remedy\">{}</span></li>\n",
            deduction.points,
            html(&deduction.what),
            html(deduction.remedy)
        );
    }
    out.push_str("</ul></section>\n");
}

fn alerts(status: &Status) -> String {
    let rows: Vec<Vec<Cell>> = status
        .alerts
        .iter()
        .map(|alert| {
            let (class, order) = match alert.severity.as_str() {
                "CRITICAL" => ("critical", "0"),
                "WARNING" => ("attention", "1"),
                _ => ("good", "2"),
            };
            let acknowledged = alert.acknowledged_at.map_or_else(String::new, |at| {
                let by = alert.acknowledged_by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
                format!("{}{by}", minute(at))
            });
            vec![
                markup(format!("<span class=\"badge {class}\">{}</span>", html(&alert.severity)), order),
                text(&alert.message),
                text(&alert.subject),
                when(alert.created_at),
                number(alert.times.to_string(), alert.times as f64),
                text(acknowledged),
                text(&alert.alert_type),
                number(alert.id.to_string(), alert.id as f64),
            ]
        })
        .collect();
    let columns = [
        ("Severity", Set::Plain),
        ("Message", Set::Long),
        ("About", Set::Plain),
        ("Since", Set::Plain),
        ("Times", Set::Right),
        ("Acknowledged", Set::Plain),
        ("Type", Set::Plain),
        ("No.", Set::Right),
    ];
    table("Open alerts", &columns, &rows, "None.")
}

fn wal(out: &mut String, status: &Status, history: &History) {
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

fn storage(out: &mut String, status: &Status, history: &History) {
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
        let _ = write!(out, "<h3>{}: {}{capacity}</h3>\n", store.store, Bytes(store.bytes));
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

fn proofs(out: &mut String, history: &History) {
    out.push_str("<section class=\"card\"><h2>Stored files by the age of their last proof</h2>\n");
    let mut spans: Vec<Option<u32>> = history.proofs.iter().map(|proof| proof.days).collect();
    spans.sort_by_key(|days| days.unwrap_or(u32::MAX));
    spans.dedup();
    // Of ages that nothing has there is nothing to see.
    spans.retain(|span| history.proofs.iter().any(|proof| proof.days == *span && proof.copies > 0));
    let names: Vec<String> = spans
        .iter()
        .map(|span| span.map_or_else(|| "older".to_owned(), |days| format!("{days} d at most")))
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

/// A chart for each kind and database, the kinds in this order; at most so many.
const CHARTS: usize = 8;

fn by_kind(out: &mut String, status: &Status, history: &History, title: &str, is_size: bool) {
    let _ = write!(out, "<section class=\"card\"><h2>{title}, 90 days</h2>\n");
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

fn stores(status: &Status) -> String {
    let rows: Vec<Vec<Cell>> = status
        .stores
        .iter()
        .map(|store| {
            let (class, word) = match store.answer {
                StoreAnswer::Reachable => ("good", "answers"),
                StoreAnswer::Away => ("critical", "away"),
                StoreAnswer::NotAsked => ("attention", "not asked"),
            };
            let room = match (store.free_bytes, store.capacity_bytes) {
                (Some(free), Some(all)) => format!("{} of {}", Bytes(free), Bytes(all)),
                _ => String::new(),
            };
            let place = match &store.message {
                Some(message) => format!("{}: {message}", store.place),
                None => store.place.clone(),
            };
            let proof = store.oldest_proof;
            vec![
                text(store.store.as_str()),
                markup(format!("<span class=\"badge {class}\">{word}</span>"), word),
                number(Bytes(store.bytes).to_string(), store.bytes as f64),
                number(Thousands(store.objects).to_string(), store.objects as f64),
                number(Thousands(store.backups).to_string(), store.backups as f64),
                number(Thousands(store.wal_files).to_string(), store.wal_files as f64),
                number(Thousands(store.owed).to_string(), store.owed as f64),
                number(
                    Thousands(store.missing + store.damaged).to_string(),
                    (store.missing + store.damaged) as f64,
                ),
                proof.map_or_else(
                    || text(""),
                    |at| {
                        number(format!("{} ago", since(status.at, at)), (status.at - at).num_seconds() as f64)
                    },
                ),
                number(room, store.free_bytes.unwrap_or(0) as f64),
                text(place),
            ]
        })
        .collect();
    let columns = [
        ("Store", Set::Plain),
        ("State", Set::Plain),
        ("Bytes", Set::Right),
        ("Objects", Set::Right),
        ("Backups whole", Set::Right),
        ("WAL files", Set::Right),
        ("Owed", Set::Right),
        ("Missing or damaged", Set::Right),
        ("Oldest proof", Set::Right),
        ("Free", Set::Right),
        ("Place", Set::Long),
    ];
    table("Stores", &columns, &rows, "No store is configured.")
}

fn windows(status: &Status) -> String {
    let rows: Vec<Vec<Cell>> = status
        .windows
        .iter()
        .rev()
        .map(|window| {
            let whole: Vec<&str> = window.whole_in.iter().map(|store| store.as_str()).collect();
            let hole = match (&window.missing, &window.next) {
                (Some(missing), Some(next)) => format!("{missing} is missing, {next} is there"),
                _ => String::new(),
            };
            vec![
                number(window.timeline.to_string(), f64::from(window.timeline)),
                when(window.from),
                when(window.until),
                number(Thousands(window.backups).to_string(), window.backups as f64),
                number(Thousands(window.segments).to_string(), window.segments as f64),
                text(if whole.is_empty() { "all together".to_owned() } else { whole.join(", ") }),
                text(hole),
            ]
        })
        .collect();
    let columns = [
        ("Timeline", Set::Right),
        ("Any second from", Set::Plain),
        ("Until about", Set::Plain),
        ("Cluster backups", Set::Right),
        ("WAL segments", Set::Right),
        ("WAL whole in", Set::Plain),
        ("Hole behind it", Set::Long),
    ];
    table(
        "What can be recovered",
        &columns,
        &rows,
        "No point in time: there is no cluster backup with its WAL.",
    )
}

fn tests(status: &Status) -> String {
    let rows: Vec<Vec<Cell>> = status
        .rto
        .tests
        .iter()
        .map(|test| {
            let class = if test.state == "done" { "good" } else { "critical" };
            vec![
                text(test.kind.as_str()),
                markup(format!("<span class=\"badge {class}\">{}</span>", html(&test.state)), &test.state),
                when(test.started_at),
                test.seconds.map_or_else(|| text(""), |it| number(took(it), it)),
                test.measured_seconds.map_or_else(|| text("never"), |it| number(took(it), it)),
                text(test.backup.as_str()),
            ]
        })
        .collect();
    let columns = [
        ("Kind", Set::Plain),
        ("Result", Set::Plain),
        ("When", Set::Plain),
        ("Took", Set::Right),
        ("Last success took", Set::Right),
        ("Backup", Set::Plain),
    ];
    table("Last test restore of each kind", &columns, &rows, "None yet: pgkeep test-restore.")
}

fn backups(status: &Status, history: &History) -> String {
    let rows: Vec<Vec<Cell>> = history
        .backups
        .iter()
        .rev()
        .take(ROWS)
        .map(|backup| {
            let stores: Vec<&str> = backup.stores.iter().map(|store| store.as_str()).collect();
            vec![
                text(backup.id.as_str()),
                text(backup.kind.as_str()),
                text(backup.database.as_deref().unwrap_or("")),
                text(backup.tenant.as_deref().unwrap_or("")),
                number(Bytes(backup.original_size_bytes).to_string(), backup.original_size_bytes as f64),
                number(Bytes(backup.size_bytes).to_string(), backup.size_bytes as f64),
                number(took(backup.seconds), backup.seconds),
                text(if stores.is_empty() { "none whole".to_owned() } else { stores.join(", ") }),
            ]
        })
        .collect();
    let columns = [
        ("Backup", Set::Plain),
        ("Kind", Set::Plain),
        ("Database", Set::Plain),
        ("Tenant", Set::Plain),
        ("Read", Set::Right),
        ("Stored", Set::Right),
        ("Took", Set::Right),
        ("Whole in", Set::Plain),
    ];
    let _ = status;
    let caption = match history.backups.len() {
        count if count > ROWS => format!("Backups of the last 90 days: the newest {ROWS} of {count}"),
        _ => "Backups of the last 90 days".to_owned(),
    };
    table(&caption, &columns, &rows, "None.")
}

fn runs(runs: &[RunLine], now: Timestamp) -> String {
    let rows: Vec<Vec<Cell>> = runs
        .iter()
        .map(|run| {
            let class = match run.outcome.as_str() {
                "done" | "running" => "good",
                "incomplete" | "interrupted" => "attention",
                _ => "critical",
            };
            vec![
                when(run.started_at),
                number(
                    format!("{} ago", since(now, run.started_at)),
                    (now - run.started_at).num_seconds() as f64,
                ),
                text(&run.command),
                markup(format!("<span class=\"badge {class}\">{}</span>", html(&run.outcome)), &run.outcome),
                run.exit_code.map_or_else(|| text(""), |code| number(code.to_string(), f64::from(code))),
                run.seconds.map_or_else(|| text(""), |it| number(took(it), it)),
                text(&run.by),
                text(run.message.as_deref().unwrap_or("")),
            ]
        })
        .collect();
    let columns = [
        ("Begun", Set::Plain),
        ("Ago", Set::Right),
        ("Command", Set::Plain),
        ("Result", Set::Plain),
        ("Code", Set::Right),
        ("Took", Set::Right),
        ("By", Set::Plain),
        ("Message", Set::Long),
    ];
    table("Last runs", &columns, &rows, "None.")
}

fn jobs(status: &Status) -> String {
    let rows: Vec<Vec<Cell>> = status
        .jobs
        .iter()
        .map(|job| {
            vec![
                number(job.id.to_string(), job.id as f64),
                when(job.scheduled_for),
                text(&job.command),
                number(job.priority.to_string(), f64::from(job.priority)),
                text(&job.requested_by),
            ]
        })
        .collect();
    let columns = [
        ("No.", Set::Right),
        ("Due", Set::Plain),
        ("Command", Set::Plain),
        ("Priority", Set::Right),
        ("By", Set::Plain),
    ];
    table("Jobs that wait", &columns, &rows, "None. Those of cron are in its crontab.")
}

fn time_with_id(at: Timestamp) -> String {
    format!("<time id=\"made\" datetime=\"{}\">{} UTC</time>", at.format("%FT%TZ"), at.format("%F %H:%M"))
}

fn when(at: Timestamp) -> Cell {
    markup(
        format!("<time datetime=\"{}\">{}</time>", at.format("%FT%TZ"), minute(at)),
        at.timestamp().to_string(),
    )
}

fn minute(at: Timestamp) -> String {
    at.format("%F %H:%M").to_string()
}

fn since(now: Timestamp, then: Timestamp) -> String {
    days((now - then).to_std().unwrap_or_default())
}

fn age_of(seconds: u64) -> String {
    days(Duration::from_secs(seconds))
}

fn took(seconds: f64) -> String {
    Elapsed(Duration::from_secs_f64(seconds.max(0.0))).to_string()
}

fn axis_bytes(bytes: f64) -> String {
    Bytes(bytes as u64).to_string().replace(".0 ", " ")
}

fn axis_seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        format!("{} s", rounded(seconds))
    } else {
        days(Duration::from_secs_f64(seconds.max(0.0)))
    }
}

/// A number with as few digits as it needs.
fn rounded(value: f64) -> String {
    if value.fract() == 0.0 { Thousands(value as u64).to_string() } else { format!("{value:.1}") }
}

fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", Thousands(count), if count == 1 { "" } else { "s" })
}

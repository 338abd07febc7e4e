//! The page: one file that needs nothing else, from `file://` or anywhere. Its policy lets nothing run or load but the
//! script and the style in it, and everything that came from outside is escaped besides.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::escape::html;
use super::said::{age_of, minute, since, time_with_id, took};
use super::{History, Status, calendar, lists, panels};
use crate::model::Thousands;
use crate::plan::health::{Level, State};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

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
    out.push_str(&lists::alerts(status));
    out.push_str("<div class=\"grid\"><div><section class=\"card\"><h2>The last 90 days</h2>\n");
    out.push_str(&calendar::calendar(status, history));
    out.push_str("</section>\n");
    panels::proofs(&mut out, history);
    out.push_str("</div><div>\n");
    panels::wal(&mut out, status, history);
    panels::storage(&mut out, status, history);
    out.push_str("</div></div>\n<div class=\"grid\">\n");
    panels::by_kind(&mut out, status, history, "Size of each backup", true);
    panels::by_kind(&mut out, status, history, "Duration of each backup", false);
    out.push_str("</div>\n");
    out.push_str(&lists::stores(status));
    out.push_str(&lists::windows(status));
    out.push_str(&lists::tests(status));
    out.push_str(&lists::backups(status, history));
    out.push_str(&lists::runs(&status.runs, status.at));
    out.push_str(&lists::jobs(status));
    let _ = writeln!(
        out,
        "</main><footer>Times are UTC. Written by pgkeep {} (<code>pgkeep status --html</code>); the page loads nothing \
         from anywhere.</footer></div>\n<script>{SCRIPT}</script></body></html>",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn top(out: &mut String, status: &Status) {
    let health = &status.health;
    let state = health.state.as_str();
    let around = 2.0 * std::f64::consts::PI * 46.0;
    let _ = writeln!(
        out,
        "<div class=\"top\"><section class=\"card score\" aria-label=\"Health\"><svg viewBox=\"0 0 108 108\" role=\"img\" \
         aria-label=\"Health score {score} of 100\"><circle class=\"ring\" cx=\"54\" cy=\"54\" r=\"46\"/>\
         <circle class=\"arc {state}\" cx=\"54\" cy=\"54\" r=\"46\" transform=\"rotate(-90 54 54)\" \
         stroke-dasharray=\"{:.1} {around:.1}\"/><text class=\"number\" x=\"54\" y=\"62\" text-anchor=\"middle\">{score}</text>\
         <text class=\"of\" x=\"54\" y=\"78\" text-anchor=\"middle\">of 100</text></svg>\
         <div><p class=\"state {state}\">{}</p><p class=\"soft\">{}</p></div></section>",
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
    let _ = writeln!(
        out,
        "<div><dt>{}</dt><dd class=\"value\">{}{mark}</dd><dd class=\"small\">{}</dd></div>",
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
        let _ = writeln!(
            out,
            "<li><span class=\"points\">&minus;{}</span><span><span class=\"badge {class}\">{word}</span></span>\
             <span class=\"what\">{}</span><span class=\"remedy\">{}</span></li>",
            deduction.points,
            html(&deduction.what),
            html(deduction.remedy)
        );
    }
    out.push_str("</ul></section>\n");
}

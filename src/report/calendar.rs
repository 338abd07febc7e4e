//! The calendar: each day's backups, failures and holes in the WAL. Weeks begin on Monday, days are those of UTC.

use std::collections::BTreeMap;
use std::fmt::Write;

use chrono::{Datelike, Days, NaiveDate};

use super::escape::html;
use super::{History, Status};
use crate::model::BackupKind;

/// What happened on a day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Day {
    backups: BTreeMap<BackupKind, u32>,
    failures: u32,
    /// A point in time of this day can't be reached although an earlier and a later one can.
    has_hole: bool,
}

/// The letter that stands for a kind.
const fn letter(kind: BackupKind) -> char {
    match kind {
        BackupKind::Database => 'D',
        BackupKind::Tenant => 'T',
        BackupKind::Cluster => 'C',
        BackupKind::Config => 'G',
    }
}

/// Draws it.
pub(super) fn calendar(status: &Status, history: &History) -> String {
    let days = days(status, history);
    let today = status.at.date_naive();
    let first = history.since.date_naive();
    let mut week =
        first.checked_sub_days(Days::new(u64::from(first.weekday().num_days_from_monday()))).unwrap_or(first);
    let mut out = String::from(
        "<table class=\"calendar\"><thead><tr><th scope=\"col\" class=\"week\"><span class=\"unseen\">Week of</span></th>",
    );
    for name in ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"] {
        let _ = write!(out, "<th scope=\"col\">{name}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
    while week <= today {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", week.format("%-d %b"));
        for offset in 0..7 {
            let day = week.checked_add_days(Days::new(offset)).unwrap_or(week);
            if day < first || day > today {
                out.push_str("<td></td>");
            } else {
                cell(&mut out, day, days.get(&day).unwrap_or(&Day::default()), day == today);
            }
        }
        out.push_str("</tr>\n");
        week = week.checked_add_days(Days::new(7)).unwrap_or(NaiveDate::MAX);
    }
    out.push_str("</tbody></table>\n");
    out.push_str(
        "<p class=\"key\">D database, C cluster, T tenant, G configuration, with their number; ✕ a backup failed; \
         a dashed day has none. <b>hole</b>: WAL is missing, so part of the day can't be reached.</p>\n",
    );
    out
}

fn cell(out: &mut String, date: NaiveDate, day: &Day, is_today: bool) {
    let state = match day {
        Day { has_hole: true, .. } => "hole",
        Day { failures: 1.., .. } => "failed",
        Day { backups, .. } if backups.is_empty() => "none",
        Day { .. } => "done",
    };
    let shown: Vec<String> = day
        .backups
        .iter()
        .map(
            |(kind, count)| {
                if *count > 1 { format!("{}{count}", letter(*kind)) } else { letter(*kind).to_string() }
            },
        )
        .collect();
    let mut said: Vec<String> = day.backups.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if said.is_empty() {
        said.push("no backup".to_owned());
    }
    let mut number = date.day().to_string();
    if day.failures > 0 {
        number.push_str(" ✕");
        said.push(format!("{} failed", day.failures));
    }
    if day.has_hole {
        number.push_str(" hole");
        said.push("a hole in the WAL".to_owned());
    }
    let today = if is_today { " today" } else { "" };
    let said = html(&format!("{date}: {}", said.join(", ")));
    let _ = write!(
        out,
        "<td class=\"{state}{today}\" title=\"{said}\"><span aria-hidden=\"true\"><span class=\"day\">{number}</span>\
         <span class=\"what\">{}</span></span><span class=\"unseen\">{said}</span></td>",
        html(&shown.join(" "))
    );
}

fn days(status: &Status, history: &History) -> BTreeMap<NaiveDate, Day> {
    let mut days: BTreeMap<NaiveDate, Day> = BTreeMap::new();
    for backup in &history.backups {
        *days.entry(backup.at.date_naive()).or_default().backups.entry(backup.kind).or_insert(0) += 1;
    }
    for failure in &history.failures {
        days.entry(failure.at.date_naive()).or_default().failures += 1;
    }
    // Behind a window that ends in a hole nothing can be reached until the next window of its timeline begins.
    for (index, window) in status.windows.iter().enumerate().filter(|(_, window)| window.missing.is_some()) {
        let next = status.windows.get(index + 1).filter(|next| next.timeline == window.timeline);
        let end = next.map_or(status.at, |next| next.from).date_naive();
        let mut day = window.until.max(history.since).date_naive();
        while day <= end {
            days.entry(day).or_default().has_hole = true;
            day = day.checked_add_days(Days::new(1)).unwrap_or(NaiveDate::MAX);
        }
    }
    days
}

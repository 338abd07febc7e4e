//! Times as people type them: in local time, shown again in local time and in UTC.

use std::fmt::Display;

use chrono::{DateTime, Duration, Local, NaiveDateTime, NaiveTime, TimeZone, Utc};

use super::ask;
use crate::model::{Timestamp, parse_timestamp};

/// What a text can mean.
#[derive(Debug, Clone, PartialEq)]
enum Meant<Z: TimeZone> {
    One(DateTime<Z>),
    /// The hour that comes twice when clocks are put back.
    Either(DateTime<Z>, DateTime<Z>),
}

const FORMS: [&str; 6] = [
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
];

/// Asks for a time, shows it in both clocks, and asks whether it is meant.
pub(super) fn ask(question: &str, earliest: Option<Timestamp>) -> anyhow::Result<Timestamp> {
    loop {
        let check = move |typed: &str| {
            let meant = match read(typed, &Local::now())? {
                Meant::One(time) | Meant::Either(_, time) => time.to_utc(),
            };
            match earliest {
                _ if meant > Utc::now() => Err("that is still to come".to_owned()),
                Some(earliest) if meant < earliest => Err(format!("nothing before {}", both(earliest))),
                _ => Ok(()),
            }
        };
        let help = "this machine's time: 14:02 or 2026-11-22 14:02";
        let typed = ask::text(question, None, help, check)?;
        let time = match read(&typed, &Local::now()) {
            Ok(Meant::One(time)) => time.to_utc(),
            Ok(Meant::Either(first, second)) => {
                let times = [first.to_utc(), second.to_utc()];
                let shown = times.iter().map(|time| both(*time)).collect();
                times[ask::which("Clocks were put back then. Which of the two?", shown)?]
            }
            // Midnight has passed since it was looked at.
            Err(_) => continue,
        };
        ask::say(&format!("  {}", both(time)))?;
        ask::say(&format!("  that is {}", ago(time)))?;
        if ask::whether("Is this the time you mean?", true)? {
            return Ok(time);
        }
    }
}

/// A time in both clocks.
pub(super) fn both(time: Timestamp) -> String {
    let local = time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S %:z");
    format!("{local} here = {}", time.format("%Y-%m-%d %H:%M:%S UTC"))
}

/// A time in this machine's clock, to the minute.
pub(super) fn here(time: Timestamp) -> impl Display {
    time.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string()
}

/// How long ago a time was, roughly.
pub(super) fn ago(time: Timestamp) -> String {
    let minutes = (Utc::now() - time).num_minutes();
    match minutes {
        ..1 => "just now".to_owned(),
        1..120 => format!("{minutes} min ago"),
        120..2880 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}

/// A time with its offset means itself; one without is of this machine's clock, and one without a day the last that was.
fn read<Z: TimeZone>(text: &str, now: &DateTime<Z>) -> Result<Meant<Z>, String> {
    let zone = now.timezone();
    if let Ok(time) = parse_timestamp(text) {
        return Ok(Meant::One(time.with_timezone(&zone)));
    }
    for form in ["%H:%M:%S", "%H:%M"] {
        if let Ok(time) = NaiveTime::parse_from_str(text, form) {
            let today = now.date_naive().and_time(time);
            let day = if today > now.naive_local() { today - Duration::days(1) } else { today };
            return in_zone(&zone, day);
        }
    }
    FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok()).map_or_else(
        || Err("write 14:02, 2026-11-22 14:02 or 2026-11-22 14:02:30".to_owned()),
        |time| in_zone(&zone, time),
    )
}

fn in_zone<Z: TimeZone>(zone: &Z, time: NaiveDateTime) -> Result<Meant<Z>, String> {
    match zone.from_local_datetime(&time) {
        chrono::LocalResult::Single(time) => Ok(Meant::One(time)),
        chrono::LocalResult::Ambiguous(first, second) => Ok(Meant::Either(first, second)),
        chrono::LocalResult::None => Err("there was no such time here: clocks were put forward".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;

    fn meant(text: &str) -> Result<String, String> {
        let now = DateTime::parse_from_rfc3339("2026-11-22T14:30:00+01:00").expect("a time");
        let now = now.with_timezone(&FixedOffset::east_opt(3600).expect("an offset"));
        read(text, &now).map(|meant| match meant {
            Meant::One(time) => time.to_utc().to_rfc3339(),
            Meant::Either(..) => "either".to_owned(),
        })
    }

    #[test]
    fn a_time_is_of_the_local_clock_and_of_the_last_day_that_had_it() {
        let is = |utc: &str| Ok(format!("2026-11-{utc}+00:00"));
        assert_eq!(meant("14:02"), is("22T13:02:00"));
        assert_eq!(meant("14:02:30"), is("22T13:02:30"));
        assert_eq!(meant("23:15"), is("21T22:15:00"));
        assert_eq!(meant("2026-11-20 00:30"), is("19T23:30:00"));
        assert_eq!(meant("20.11.2026 08:00"), is("20T07:00:00"));
        assert_eq!(meant("2026-11-22T13:02:00Z"), is("22T13:02:00"));
        assert_eq!(meant("2026-11-22T13:02:00-05:00"), is("22T18:02:00"));
        for wrong in ["", "25:00", "yesterday", "2026-13-01 10:00", "now"] {
            assert!(meant(wrong).is_err(), "{wrong}");
        }
    }
}

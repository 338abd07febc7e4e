//! Points in time: always UTC inside, RFC 3339 outside.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, SecondsFormat, Utc};

use super::{Fault, Kind};

/// A point in time.
pub type Timestamp = DateTime<Utc>;

/// Writes a time the way the catalog, the manifest and every JSON output have it: `2026-11-22T02:00:00.123Z`.
pub fn timestamp_text(time: Timestamp) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Reads a time of RFC 3339. One without an offset is refused with the readings that it could have: in UTC, and by the
/// local clock, which shows some times twice and others never.
pub fn parse_timestamp(text: &str) -> Result<Timestamp, Fault> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    for form in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"] {
        if let Ok(naive) = NaiveDateTime::parse_from_str(text, form) {
            let shown = |time: DateTime<chrono::Local>| {
                format!(" or {}", time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
            };
            let local = match naive.and_local_timezone(chrono::Local) {
                MappedLocalTime::Single(time) => shown(time),
                MappedLocalTime::Ambiguous(first, second) => format!("{}{}", shown(first), shown(second)),
                MappedLocalTime::None => ", which this machine's clock does not show that day".to_owned(),
            };
            let utc = naive.and_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true);
            return Err(Fault::new(Kind::Usage, format!("the time \"{text}\" has no offset from UTC"))
                .hint(format!("Write {utc}{local}, whichever is meant.")));
        }
    }
    Err(Fault::new(Kind::Usage, format!("\"{text}\" is not a time"))
        .hint("Write it as RFC 3339 has it, such as 2026-11-22T14:02:00Z or 2026-11-22T15:02:00+01:00."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_its_offset() {
        let time = parse_timestamp("2026-11-22T15:02:00+01:00").map(timestamp_text);
        assert_eq!(time, Ok("2026-11-22T14:02:00.000Z".to_owned()));
        let refused = parse_timestamp("2026-11-22 14:02").map_err(|fault| fault.hint.unwrap_or_default());
        assert!(refused.is_err_and(|hint| hint.contains("2026-11-22T14:02:00Z")));
        assert!(parse_timestamp("yesterday").is_err());
    }
}

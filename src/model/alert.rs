//! Alerts as everybody sees them: how bad, through which channel, and when people are left alone.

use chrono::{NaiveDateTime, NaiveTime};

use super::words;

words! {
    /// How bad it is.
    pub enum Severity {
        /// Good to know.
        Info = "INFO",
        /// To be looked at some day soon.
        Warning = "WARNING",
        /// To be looked at now.
        Critical = "CRITICAL",
    }
}

words! {
    /// A way to reach people.
    pub enum Channel {
        /// Mail.
        Email = "email",
        /// A text message to a telephone.
        Sms = "sms",
        /// A request to a service of the operator's.
        Webhook = "webhook",
    }
}

/// The hours of a day, local time, in which warnings wait; may go over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    /// When they begin.
    pub from: NaiveTime,
    /// When they end.
    pub until: NaiveTime,
}

impl QuietHours {
    /// Reads `22:00-07:00`; `None` for anything else, and for no hours at all.
    pub fn parse(text: &str) -> Option<Self> {
        let (from, until) = text.split_once('-')?;
        let time = |text: &str| NaiveTime::parse_from_str(text.trim(), "%H:%M").ok();
        let hours = Self { from: time(from)?, until: time(until)? };
        (hours.from != hours.until).then_some(hours)
    }

    /// When the quiet hours that hold at this moment of the local clock end; `None` outside of them.
    pub fn end_after(self, now: NaiveDateTime) -> Option<NaiveDateTime> {
        let (date, time) = (now.date(), now.time());
        if self.from < self.until {
            return (self.from <= time && time < self.until).then(|| date.and_time(self.until));
        }
        if time < self.until {
            return Some(date.and_time(self.until));
        }
        (time >= self.from).then(|| date.succ_opt().unwrap_or(date).and_time(self.until))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap()
    }

    #[test]
    fn quiet_hours_go_over_midnight_and_end_on_the_right_day() {
        let night = QuietHours::parse("22:00-07:00").unwrap();
        assert_eq!(night.end_after(at("2026-11-22 23:30")), Some(at("2026-11-23 07:00")));
        assert_eq!(night.end_after(at("2026-11-23 06:59")), Some(at("2026-11-23 07:00")));
        assert_eq!(night.end_after(at("2026-11-23 07:00")), None);
        assert_eq!(night.end_after(at("2026-11-23 21:59")), None);
        let noon = QuietHours::parse("12:00-13:30").unwrap();
        assert_eq!(noon.end_after(at("2026-11-23 12:00")), Some(at("2026-11-23 13:30")));
        assert_eq!(noon.end_after(at("2026-11-23 13:30")), None);
        for text in ["", "22:00", "22-7", "25:00-07:00", "07:00-07:00"] {
            assert_eq!(QuietHours::parse(text), None, "{text}");
        }
    }
}

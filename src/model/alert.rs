//! Alerts as everybody sees them: how bad, through which channel, and when people are left alone.

use chrono::{MappedLocalTime, NaiveDateTime, NaiveTime, TimeDelta, TimeZone};

use super::{Timestamp, words};

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

    /// The same on a clock that is put forward in spring and back in autumn: a time that it shows twice is the second
    /// one, and one that it leaves out is the moment at which it does.
    pub fn over_at<Z: TimeZone>(self, now: Timestamp, zone: &Z) -> Option<Timestamp> {
        const STEP: TimeDelta = TimeDelta::minutes(15);
        let mut end = self.end_after(now.with_timezone(zone).naive_local())?;
        // No clock leaves out more than a day (Samoa did, once).
        for _ in 0..=25 * 4 {
            // Which of two comes first is not to be relied on.
            match zone.from_local_datetime(&end) {
                MappedLocalTime::Single(found) => return Some(found.to_utc()),
                MappedLocalTime::Ambiguous(one, other) => return Some(one.to_utc().max(other.to_utc())),
                MappedLocalTime::None => end += STEP,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The clock of Berlin in 2027: put forward on March 28 at 01:00 UTC and back on October 31 at 01:00 UTC.
    #[derive(Debug, Clone, Copy)]
    struct Berlin;

    impl Berlin {
        fn offset(utc: NaiveDateTime) -> chrono::FixedOffset {
            let is_summer = (at("2027-03-28 01:00")..at("2027-10-31 01:00")).contains(&utc);
            chrono::FixedOffset::east_opt(if is_summer { 7200 } else { 3600 }).unwrap()
        }
    }

    impl TimeZone for Berlin {
        type Offset = chrono::FixedOffset;
        fn from_offset(_: &Self::Offset) -> Self {
            Self
        }
        fn offset_from_local_date(&self, _: &chrono::NaiveDate) -> MappedLocalTime<Self::Offset> {
            MappedLocalTime::None
        }
        fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<Self::Offset> {
            let fits = |seconds| {
                let offset = chrono::FixedOffset::east_opt(seconds).unwrap();
                (Self::offset(*local - TimeDelta::seconds(seconds.into())) == offset).then_some(offset)
            };
            match (fits(7200), fits(3600)) {
                (Some(first), Some(second)) => MappedLocalTime::Ambiguous(first, second),
                (one, other) => one.or(other).map_or(MappedLocalTime::None, MappedLocalTime::Single),
            }
        }
        fn offset_from_utc_date(&self, date: &chrono::NaiveDate) -> Self::Offset {
            Self::offset(date.and_time(NaiveTime::MIN))
        }
        fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> Self::Offset {
            Self::offset(*utc)
        }
    }

    #[test]
    fn quiet_hours_end_once_when_the_clock_is_put_forward_and_back() {
        let over = |hours: &str, utc: &str| {
            let end = QuietHours::parse(hours).unwrap().over_at(at(utc).and_utc(), &Berlin);
            end.map(|end| end.format("%Y-%m-%d %H:%M").to_string())
        };
        let end = |text: &str| Some(text.to_owned());
        // Spring, 01:59 is followed by 03:00: 02:30 is not, and the hours end when it would have been.
        assert_eq!(over("22:00-02:30", "2027-03-27 22:30"), end("2027-03-28 01:00"));
        assert_eq!(over("22:00-02:30", "2027-03-28 01:00"), None, "it is 03:00");
        assert_eq!(over("22:00-07:00", "2027-03-27 22:30"), end("2027-03-28 05:00"), "an hour less");
        // Autumn, 02:00 to 03:00 is twice: the hours end with the second 02:30.
        assert_eq!(over("22:00-02:30", "2027-10-30 21:30"), end("2027-10-31 01:30"));
        assert_eq!(
            over("22:00-02:30", "2027-10-31 00:15"),
            end("2027-10-31 01:30"),
            "02:15 for the first time"
        );
        assert_eq!(over("22:00-02:30", "2027-10-31 01:15"), end("2027-10-31 01:30"), "and for the second");
        assert_eq!(over("22:00-02:30", "2027-10-31 01:30"), None);
        assert_eq!(over("22:00-07:00", "2027-10-30 21:30"), end("2027-10-31 06:00"), "an hour more");
    }

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

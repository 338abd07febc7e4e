//! Names of WAL files, as PostgreSQL gives them (`src/include/access/xlog_internal.h`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Lsn;

/// What sort of file the archiver offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WalKind {
    /// A timeline's ancestors: `00000002.history`.
    History,
    /// A whole segment: `000000010000000A000000FE`.
    Segment,
    /// What says where a base backup began and ended: `000000010000000A000000FE.00000028.backup`.
    Backup,
    /// The last, unfinished segment of a timeline that ended: `000000010000000A000000FE.partial`.
    Partial,
}

/// The name of a file in `pg_wal`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WalName {
    text: String,
    timeline: u32,
    kind: WalKind,
}

/// The text is not the name of a WAL file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAWalName;

impl fmt::Display for NotAWalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the name of a WAL file")
    }
}

impl std::error::Error for NotAWalName {}

impl WalName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its timeline, from 1.
    pub const fn timeline(&self) -> u32 {
        self.timeline
    }

    /// What sort of file it is.
    pub const fn kind(&self) -> WalKind {
        self.kind
    }

    /// The segment of this timeline that holds this position, given the size of segments in bytes (a power of two).
    pub fn segment(timeline: u32, position: Lsn, segment_size: u32) -> Self {
        let number = (position.0 & 0xFFFF_FFFF) / u64::from(segment_size);
        let text = format!("{timeline:08X}{:08X}{number:08X}", position.0 >> 32);
        Self { text, timeline, kind: WalKind::Segment }
    }

    /// The history file of this timeline.
    pub fn history(timeline: u32) -> Self {
        Self { text: format!("{timeline:08X}.history"), timeline, kind: WalKind::History }
    }

    /// The segment behind this one on the same timeline; `None` for what is no segment of this size.
    pub fn following(&self, segment_size: u32) -> Option<Self> {
        let next = self.start(segment_size)?.checked_add(u64::from(segment_size))?;
        (self.kind == WalKind::Segment).then(|| Self::segment(self.timeline, Lsn(next), segment_size))
    }

    /// The timeline of a block of segments and where in the stream of WAL it begins and ends: 4 GiB that the first 16
    /// digits of their names stand for. `None` for anything else.
    pub fn block(text: &str) -> Option<(u32, u64, u64)> {
        let digits = |part: Option<&str>| u32::from_str_radix(part?, 16).ok();
        if text.len() != 16 {
            return None;
        }
        let (timeline, log) = (digits(text.get(..8))?, digits(text.get(8..))?);
        let from = u64::from(log) << 32;
        Some((timeline, from, from + (1 << 32)))
    }

    /// What keeps directories of WAL files short: [`WalName::log`], or for a history file the word `history`.
    pub fn group(&self) -> &str {
        self.log().unwrap_or("history")
    }

    /// The middle eight digits, which count 4 GiB of WAL each; a history file has none.
    pub fn log(&self) -> Option<&str> {
        if self.kind == WalKind::History { None } else { self.text.get(8..16) }
    }

    /// Where in the stream of WAL the segment begins, in bytes, given the size of segments; `None` for a history file,
    /// a size that is no power of two from 1 MiB to 1 GiB, or a number that no segment of that size has.
    pub fn start(&self, segment_size: u32) -> Option<u64> {
        let log = u64::from_str_radix(self.log()?, 16).ok()?;
        let number = u64::from_str_radix(self.text.get(16..24)?, 16).ok()?;
        let size = u64::from(segment_size);
        let is_size = size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size);
        (is_size && number < (1 << 32) / size).then(|| (log << 32) + number * size)
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for WalName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for WalName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for WalName {
    type Err = NotAWalName;

    fn from_str(text: &str) -> Result<Self, NotAWalName> {
        let is_hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
        };
        let (stem, kind) = match text.split_once('.') {
            None => (text, WalKind::Segment),
            Some((stem, "history")) => (stem, WalKind::History),
            Some((stem, "partial")) => (stem, WalKind::Partial),
            Some((stem, rest)) => {
                let offset = rest.strip_suffix(".backup").ok_or(NotAWalName)?;
                if !is_hex(offset, 8) {
                    return Err(NotAWalName);
                }
                (stem, WalKind::Backup)
            }
        };
        if !is_hex(stem, if kind == WalKind::History { 8 } else { 24 }) {
            return Err(NotAWalName);
        }
        let timeline = u32::from_str_radix(&stem[..8], 16).map_err(|_| NotAWalName)?;
        if timeline == 0 {
            return Err(NotAWalName);
        }
        Ok(Self { text: text.to_owned(), timeline, kind })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_sort_of_name_is_known_and_nothing_else() {
        for (text, timeline, kind) in [
            ("000000010000000A000000FE", 1, WalKind::Segment),
            ("0000002A.history", 42, WalKind::History),
            ("000000010000000A000000FE.00000028.backup", 1, WalKind::Backup),
            ("FFFFFFFF0000000A000000FE.partial", u32::MAX, WalKind::Partial),
        ] {
            let name: WalName = text.parse().unwrap();
            assert_eq!((name.as_str(), name.timeline(), name.kind()), (text, timeline, kind));
        }
        for text in [
            "",
            "000000010000000a000000fe",
            "000000010000000A000000F",
            "000000000000000A000000FE",
            "000000010000000A000000FE.28.backup",
            "000000010000000A000000FE.backup",
            "000000010000000A000000FE.history",
            "00000001.partial",
            "../000000010000000A000000FE",
            "RECOVERYXLOG",
        ] {
            assert_eq!(text.parse::<WalName>(), Err(NotAWalName), "{text}");
        }
    }

    #[test]
    fn a_segment_knows_where_it_begins() {
        let name: WalName = "000000010000000A000000FE".parse().unwrap();
        assert_eq!(name.start(16 << 20), Some((0xA << 32) + 0xFE * (16 << 20)));
        assert_eq!(name.start(1 << 20), Some((0xA << 32) + 0xFE * (1 << 20)));
        assert_eq!(name.start(64 << 20), None, "segments of that size end at 3F");
        assert_eq!(name.start(3 << 20), None, "no size");
        assert_eq!("00000002.history".parse::<WalName>().unwrap().start(16 << 20), None);
        assert_eq!(WalName::block("000000010000000A"), Some((1, 0xA << 32, 0xB << 32)));
        assert_eq!((WalName::block("00000002.history"), WalName::block("0000")), (None, None));
    }

    #[test]
    fn segments_follow_each_other_across_the_bounds_of_their_groups() {
        let last: WalName = "000000010000000A000000FF".parse().unwrap();
        let next = last.following(16 << 20).unwrap();
        assert_eq!(next.as_str(), "000000010000000B00000000");
        assert_eq!(next, WalName::segment(1, Lsn(0xB << 32), 16 << 20));
        assert_eq!((next.group(), WalName::history(42).group()), ("0000000B", "history"));
        assert_eq!(WalName::history(42).as_str(), "0000002A.history");
        assert_eq!(WalName::segment(1, Lsn(0xA_FFFF_FFFF), 16 << 20), last);
        assert_eq!(WalName::history(2).following(16 << 20), None);
    }
}

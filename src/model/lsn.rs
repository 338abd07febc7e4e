//! Positions in the stream of WAL.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Fault, Kind};

/// A log sequence number: bytes since the beginning of the stream of WAL, shown as PostgreSQL does (`pg_lsn`): the
/// upper and the lower 32 bits in hexadecimal, `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF))
    }
}

impl FromStr for Lsn {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let half = |text: &str| {
            let is_hex = (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
        };
        let parts = text.split_once('/').and_then(|(high, low)| Some((half(high)?, half(low)?)));
        parts.map(|(high, low)| Self(high << 32 | low)).ok_or_else(|| {
            Fault::new(Kind::Usage, format!("\"{text}\" is not a position in WAL"))
                .hint("Write it as PostgreSQL does (pg_current_wal_lsn()), such as 16/B374D848.")
        })
    }
}

impl TryFrom<String> for Lsn {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_and_shown_as_postgresql_has_it() {
        for text in ["0/0", "0/3000028", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().map(|lsn| lsn.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("16/b374d848".parse(), Ok(Lsn(0x16_B374_D848)));
        for text in ["", "16", "16/", "/16", "1/123456789", "1/+2", "x/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}

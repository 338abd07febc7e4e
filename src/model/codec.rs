//! How frames are compressed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Fault, Kind};

/// A compression method and its level, written `zstd:1` to `zstd:19` or `gzip:1` to `gzip:9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Codec {
    /// Zstandard (RFC 8878), level 1 to 19.
    Zstd(u8),
    /// gzip (RFC 1952), level 1 to 9.
    Gzip(u8),
}

impl Codec {
    /// The method without its level: what a reader needs to know.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Zstd(_) => "zstd",
            Self::Gzip(_) => "gzip",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(f, "zstd:{level}"),
            Self::Gzip(level) => write!(f, "gzip:{level}"),
        }
    }
}

impl FromStr for Codec {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let bad = || {
            Fault::new(Kind::Settings, format!("\"{text}\" is not a compression"))
                .hint("Use zstd:1 to zstd:19, or gzip:1 to gzip:9.")
        };
        let (method, level) = text.split_once(':').ok_or_else(bad)?;
        let level: u8 = level.parse().map_err(|_| bad())?;
        match method {
            "zstd" if (1..=19).contains(&level) => Ok(Self::Zstd(level)),
            "gzip" if (1..=9).contains(&level) => Ok(Self::Gzip(level)),
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for Codec {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        text.parse()
    }
}

impl From<Codec> for String {
    fn from(codec: Codec) -> Self {
        codec.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_is_a_method_and_a_level_within_its_range() {
        assert_eq!("zstd:3".parse(), Ok(Codec::Zstd(3)));
        assert_eq!("gzip:9".parse(), Ok(Codec::Gzip(9)));
        for text in ["", "zstd", "zstd:0", "zstd:20", "gzip:10", "lz4:1", "zstd:-1", "gzip:"] {
            assert!(text.parse::<Codec>().is_err(), "{text}");
        }
    }
}

//! Text as the server sends it: bytes, which in a database of encoding `SQL_ASCII` need not be UTF-8. Nor need the
//! names that all databases share (roles, other databases): each was made in the encoding of some database.

use std::error::Error;
use std::fmt::Write;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

/// The bytes of a text or a name, whatever they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerText(pub(super) Vec<u8>);

impl<'a> FromSql<'a> for ServerText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.to_owned()))
    }

    fn accepts(wanted: &Type) -> bool {
        <&str as FromSql<'_>>::accepts(wanted)
    }
}

impl ServerText {
    /// The text, if it is UTF-8; else the bytes that are not as `\xe9`, for people to read.
    pub(super) fn shown(&self) -> String {
        let mut shown = String::with_capacity(self.0.len());
        for chunk in self.0.utf8_chunks() {
            shown.push_str(chunk.valid());
            for byte in chunk.invalid() {
                // Into a String it cannot fail.
                let _ = write!(shown, "\\x{byte:02x}");
            }
        }
        shown
    }

    /// Whether [`ServerText::shown`] is the text itself.
    pub(super) fn is_utf8(&self) -> bool {
        std::str::from_utf8(&self.0).is_ok()
    }
}

/// A column of text that is never NULL, as [`ServerText::shown`] has it.
pub(super) fn text(row: &Row, column: usize) -> String {
    row.get::<_, ServerText>(column).shown()
}

/// A column of text that may be NULL.
pub(super) fn text_or_null(row: &Row, column: usize) -> Option<String> {
    row.get::<_, Option<ServerText>>(column).map(|text| text.shown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_utf8_are_shown_and_all_others_stay_themselves() {
        let shown = |bytes: &[u8]| ServerText(bytes.to_owned()).shown();
        assert_eq!(shown("ünï \\xe9".as_bytes()), "ünï \\xe9");
        assert_eq!(shown(b"caf\xe9 \xc3\xa9\xff"), "caf\\xe9 é\\xff");
        assert!(ServerText("é".into()).is_utf8());
        assert!(!ServerText(b"\xe9".to_vec()).is_utf8());
    }
}

//! What `pg_restore` writes when it restores into no database: statements, and between them the lines of `COPY`.

use std::borrow::Cow;

use anyhow::Context as _;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

use crate::model::{Fault, Kind};

/// How many bytes of lines are handed on at once.
const CHUNK: usize = 64 * 1024;
/// Of servers before 17 unknown, and written for all of them by newer programs.
const UNKNOWN_SETTING: &str = "SET transaction_timeout = 0;";

/// The statements of a section without rows, ready to be run as one. The program's own lines for `psql` stand at the ends:
/// what else begins with a backslash is part of some function.
pub(super) fn statements(script: &str, server_major: u32) -> Cow<'_, str> {
    let mut from = 0;
    for line in script.split_inclusive('\n') {
        if line.starts_with("\\restrict ") {
            from += line.len();
            break;
        }
        if !line.trim().is_empty() && !line.starts_with("--") {
            break;
        }
        from += line.len();
    }
    let body = script[from..].trim_end();
    let end = body.rfind('\n').map_or(0, |at| at + 1);
    let body = if body[end..].starts_with("\\unrestrict ") { &body[..end] } else { body };
    if server_major < 17 && body.contains(UNKNOWN_SETTING) {
        Cow::Owned(body.replacen(UNKNOWN_SETTING, "", 1))
    } else {
        Cow::Borrowed(body)
    }
}

/// Whether a statement of the section with rows is for other servers than this one.
pub(super) fn is_for_others(statement: &str, server_major: u32) -> bool {
    server_major < 17 && statement.trim() == UNKNOWN_SETTING
}

/// A piece of the section with rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A statement.
    Statement(String),
    /// `COPY ... FROM stdin`; its lines come next, see [`Script::lines`].
    Copy(String),
}

/// The section with rows, piece by piece, however large it is.
#[derive(Debug)]
pub(super) struct Script<R> {
    reader: R,
    /// Whether the last line of a `COPY` has been read, and nobody knows yet.
    ended: bool,
}

impl<R: AsyncBufRead + Unpin> Script<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, ended: false }
    }

    /// The next piece; nothing at the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        let mut text = Vec::new();
        // Names and literals have their own quotes doubled in them, so that each is the end or the beginning of a part.
        let mut quote = None;
        loop {
            let begins = text.len();
            if self.reader.read_until(b'\n', &mut text).await.context("read the dump's script")? == 0 {
                if text.is_empty() {
                    return Ok(None);
                }
                return Fault::new(Kind::Damaged, "the dump's script ends inside of a statement").err();
            }
            let line = &text[begins..];
            if begins == 0
                && (line.trim_ascii().is_empty() || line.starts_with(b"--") || line.starts_with(b"\\"))
            {
                text.clear();
                continue;
            }
            for byte in line {
                match (*byte, quote) {
                    (b'"' | b'\'', None) => quote = Some(*byte),
                    (byte, Some(open)) if byte == open => quote = None,
                    _ => {}
                }
            }
            if quote.is_none() && line.trim_ascii_end().ends_with(b";") {
                break;
            }
        }
        let text = String::from_utf8(text).map_err(|_| not_utf8())?;
        let is_copy = text.starts_with("COPY ") && text.trim_end().ends_with(" FROM stdin;");
        Ok(Some(if is_copy { Piece::Copy(text) } else { Piece::Statement(text) }))
    }

    /// The next lines of the `COPY` that came last; nothing when there are no more of them.
    pub(super) async fn lines(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        if std::mem::take(&mut self.ended) {
            return Ok(None);
        }
        let mut chunk = Vec::with_capacity(CHUNK + 4096);
        while chunk.len() < CHUNK {
            let begins = chunk.len();
            if self.reader.read_until(b'\n', &mut chunk).await.context("read the dump's rows")? == 0 {
                return Fault::new(Kind::Damaged, "the dump's script ends inside of a table's rows").err();
            }
            if &chunk[begins..] == b"\\.\n" {
                chunk.truncate(begins);
                if chunk.is_empty() {
                    return Ok(None);
                }
                self.ended = true;
                break;
            }
        }
        Ok(Some(chunk))
    }
}

/// Statements go to the server as UTF-8.
pub(super) fn not_utf8() -> Fault {
    Fault::new(Kind::Postgres, "the dump's statements are not UTF-8: its database has another encoding")
        .hint("Nothing was changed. Restore the whole database beside it with --to-database, and take the schema from there.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_own_lines_for_psql_are_left_out_and_those_of_functions_are_not() {
        let script = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\nSET transaction_timeout = 0;\n\
                      CREATE FUNCTION f() AS '\n\\restrict x\n\\unrestrict y\n';\n\n\\unrestrict abc\n\n";
        let old = statements(script, 15);
        assert_eq!(old.trim(), "CREATE FUNCTION f() AS '\n\\restrict x\n\\unrestrict y\n';");
        assert!(statements(script, 17).contains("transaction_timeout"));
        assert_eq!(statements("SELECT 1;\n", 15), "SELECT 1;");
    }

    #[tokio::test]
    async fn statements_and_rows_are_told_apart_whatever_the_names() {
        let text = b"-- x; y\n\\restrict abc\nSET a = 1;\n\nCOPY \"a;\nb\".\"t \"\" FROM stdin;\" (id) FROM stdin;\n1;\n\\\\.\n\\.\n\n\n\
                     COPY public.none (id) FROM stdin;\n\\.\n\n\nSELECT pg_catalog.setval('a.\"it''s;\"', 7, true);\n";
        let mut script = Script::new(&text[..]);
        let statement = |text: &str| Some(Piece::Statement(text.to_owned()));
        assert_eq!(script.next().await.unwrap(), statement("SET a = 1;\n"));
        let copy = "COPY \"a;\nb\".\"t \"\" FROM stdin;\" (id) FROM stdin;\n".to_owned();
        assert_eq!(script.next().await.unwrap(), Some(Piece::Copy(copy)));
        assert_eq!(script.lines().await.unwrap().unwrap(), b"1;\n\\\\.\n");
        assert_eq!(script.lines().await.unwrap(), None);
        assert!(matches!(script.next().await.unwrap(), Some(Piece::Copy(_))));
        assert_eq!(script.lines().await.unwrap(), None);
        let last = "SELECT pg_catalog.setval('a.\"it''s;\"', 7, true);\n";
        assert_eq!(script.next().await.unwrap(), statement(last));
        assert_eq!(script.next().await.unwrap(), None);
        assert!(Script::new(&b"SELECT"[..]).next().await.is_err());
    }
}

//! Names and values as SQL, and as libpq's connection strings.

/// An identifier, always in double quotes.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A schema and a name in it, both quoted.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// A string literal that means the same whatever `standard_conforming_strings` says: with a backslash in it,
/// it becomes an `E''` literal. Must not follow a letter directly.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A value in a connection string (manual, chapter "libpq", section "Keyword/Value Connection Strings").
///
/// For programs that take a database's name and would read one with an equals sign as a connection string:
/// `pg_restore -d "dbname=<this>"`.
pub fn connection_value(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a literal as the server's scanner does.
    fn scan_literal(text: &str) -> Option<String> {
        let (escapes, body) = match text.strip_prefix('E') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let body = body.strip_prefix('\'')?.strip_suffix('\'')?;
        let mut read = String::new();
        let mut characters = body.chars();
        while let Some(character) = characters.next() {
            match character {
                '\'' => read.push(characters.next().filter(|next| *next == '\'')?),
                '\\' if escapes => read.push(characters.next().filter(|next| *next == '\\')?),
                other => read.push(other),
            }
        }
        Some(read)
    }

    #[test]
    fn names_and_values_are_quoted() {
        assert_eq!(identifier("Ta\"ble ä"), "\"Ta\"\"ble ä\"");
        assert_eq!(qualified("a.b", "c"), "\"a.b\".\"c\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"C:\it's"), r"E'C:\\it''s'");
        assert_eq!(connection_value(r"a'b\c=d"), r"'a\'b\\c=d'");
    }

    proptest! {
        #[test]
        fn every_literal_reads_back(text in r"[\\'Ea ü\n]{0,12}") {
            prop_assert_eq!(scan_literal(&literal(&text)), Some(text));
        }

        #[test]
        fn every_identifier_reads_back(name in "[\"a b.ü\\\\]{1,12}") {
            let quoted = identifier(&name);
            let inner = &quoted[1..quoted.len() - 1];
            prop_assert_eq!(inner.replace("\"\"", "\""), name);
            prop_assert_eq!(inner.matches('"').count() % 2, 0);
        }
    }
}

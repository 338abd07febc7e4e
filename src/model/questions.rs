//! What a restored database is asked beside what pgkeep knows of it.

use std::path::PathBuf;

/// Something that is said of one database: of the one named, else of that of `PGDATABASE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InDatabase {
    /// The database, if one is named.
    pub database: Option<String>,
    /// A table, or a query.
    pub text: String,
}

/// What the operator wants to be true of a restored database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestQuestions {
    /// Tables that must be there, with or without a schema.
    pub tables: Vec<InDatabase>,
    /// Queries that must answer true.
    pub queries: Vec<InDatabase>,
    /// A file with more of them; read when they are asked, so that nothing else fails by it.
    pub file: Option<PathBuf>,
}

impl InDatabase {
    /// `otherdb:sales.orders`, `otherdb: SELECT ...`: a word and a single colon name the database.
    pub fn parse(text: &str) -> Self {
        let named = text.split_once(':').filter(|(name, rest)| {
            let is_word = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '$');
            !name.is_empty() && name.chars().all(is_word) && !rest.starts_with(':')
        });
        match named {
            Some((name, rest)) => Self { database: Some(name.to_owned()), text: rest.trim().to_owned() },
            None => Self { database: None, text: text.to_owned() },
        }
    }

    /// Whether it is said of this database; `usual` is that of `PGDATABASE`. Without that, everything that names none is
    /// said of every database.
    pub fn is_of(&self, database: &str, usual: Option<&str>) -> bool {
        self.database.as_deref().or(usual).is_none_or(|wanted| wanted == database)
    }
}

/// Reads queries with semicolons between. The error is what is not closed.
pub fn parse_queries(text: &str) -> Result<Vec<InDatabase>, String> {
    Ok(split(text)?.iter().map(|query| InDatabase::parse(query)).collect())
}

/// Splits at semicolons that stand in no quotes and no comments. The error is what is not closed.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut queries = Vec::new();
    let (mut query, mut rest) = (String::new(), text);
    let mut end = |query: &mut String| {
        let whole = std::mem::take(query);
        if !whole.trim().is_empty() {
            queries.push(whole.trim().to_owned());
        }
    };
    while let Some(letter) = rest.chars().next() {
        let taken = match letter {
            ';' => {
                end(&mut query);
                rest = &rest[1..];
                continue;
            }
            '\'' | '"' => closed(rest, 1, &letter.to_string())
                .ok_or_else(|| format!("a quote {letter} is not closed"))?,
            '-' if rest.starts_with("--") => {
                // A comment is nothing of the query's.
                rest = rest.find('\n').map_or("", |end| &rest[end..]);
                continue;
            }
            '/' if rest.starts_with("/*") => {
                let end = closed(rest, 2, "*/").ok_or("a comment /* is not closed")?;
                rest = &rest[end..];
                query.push(' ');
                continue;
            }
            '$' => match tag(rest) {
                Some(tag) => closed(rest, tag.len(), tag).ok_or_else(|| format!("{tag} is not closed"))?,
                None => 1,
            },
            other => other.len_utf8(),
        };
        query.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    end(&mut query);
    Ok(queries)
}

/// How long the text is up to and with the mark that comes first after `from`.
fn closed(text: &str, from: usize, mark: &str) -> Option<usize> {
    Some(text[from..].find(mark)? + from + mark.len())
}

/// `$$` or `$word$`, if the text begins with one.
fn tag(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 2;
    let inside = &text[1..end - 1];
    let is_word = inside.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
    (is_word && !inside.starts_with(|first: char| first.is_ascii_digit())).then(|| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_split_at_semicolons_that_end_them() {
        let queries =
            split("SELECT 1; SELECT ';' || \"a;b\" ;; -- no; more\n select $x$ ; $x$, $1 /* ; */ ").unwrap();
        assert_eq!(queries, ["SELECT 1", "SELECT ';' || \"a;b\"", "select $x$ ; $x$, $1"]);
        assert_eq!(split("SELECT 'a"), Err("a quote ' is not closed".to_owned()));
        assert_eq!(split(" ;\n"), Ok(Vec::new()));
    }

    #[test]
    fn a_word_and_a_colon_name_the_database() {
        let of = |text: &str| (InDatabase::parse(text).database, InDatabase::parse(text).text);
        assert_eq!(of("shop: SELECT true"), (Some("shop".to_owned()), "SELECT true".to_owned()));
        assert_eq!(of("shop:sales.orders"), (Some("shop".to_owned()), "sales.orders".to_owned()));
        assert_eq!(of("SELECT 1::bool").0, None);
        assert_eq!(of("a::text").0, None);
    }
}

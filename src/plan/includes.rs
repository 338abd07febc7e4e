//! Which other files a configuration file of PostgreSQL names: pure, from its text.
//!
//! `postgresql.conf`: `include`, `include_if_exists`, `include_dir` (manual, "Managing Configuration File Contents").
//! `pg_hba.conf` and `pg_ident.conf`: the same words since version 16, and `@file` for lists of names (manual, "The
//! `pg_hba.conf` File"). Relative paths are relative to the directory of the file that names them.

use std::path::{Path, PathBuf};

/// What a file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Include {
    /// A file that must be there.
    File(PathBuf),
    /// A file that need not be there.
    IfExists(PathBuf),
    /// A directory, of which every file that [`is_in_directory`] accepts is meant.
    Directory(PathBuf),
}

/// What the text of the file at this path names, in order.
pub fn includes(path: &Path, text: &str) -> Vec<Include> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut found = Vec::new();
    for line in text.lines() {
        let words = words(line);
        let mut rest = words.iter().map(String::as_str).filter(|word| *word != "=");
        let (first, value) = (rest.next().unwrap_or_default().to_ascii_lowercase(), rest.next());
        match (first.as_str(), value) {
            ("include", Some(value)) => found.push(Include::File(directory.join(value))),
            ("include_if_exists", Some(value)) => found.push(Include::IfExists(directory.join(value))),
            ("include_dir", Some(value)) => found.push(Include::Directory(directory.join(value))),
            _ => {
                let names =
                    words.iter().flat_map(|word| word.split(',')).filter_map(|word| word.strip_prefix('@'));
                found.extend(
                    names.filter(|name| !name.is_empty()).map(|name| Include::File(directory.join(name))),
                );
            }
        }
    }
    found
}

/// Whether a file of an included directory counts: as PostgreSQL has it, those that end in `.conf` and are not hidden.
pub fn is_in_directory(name: &str) -> bool {
    name.strip_suffix(".conf").is_some_and(|stem| !stem.is_empty() && !stem.starts_with('.'))
}

/// The words of a line up to its comment, without their quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match quote {
            Some(mark) if letter == mark => {
                // Twice is once, meant as it is.
                if letters.next_if_eq(&mark).is_some() {
                    word.get_or_insert_default().push(mark);
                } else {
                    quote = None;
                }
            }
            None if letter == '#' => break,
            None if letter == '\'' || letter == '"' => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            None if letter.is_whitespace() || letter == '=' => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_included_is_found_as_postgresql_finds_it() {
        let text = "# include 'no'\ninclude 'a.conf'\n  Include_If_Exists = '/etc/b.conf' # why\ninclude_dir = 'conf.d'\n\
                    include 'it''s.conf'\nsearch_path = 'include, x'\nshared_buffers = 1GB\ninclude\n";
        let found = includes(Path::new("/etc/pg/postgresql.conf"), text);
        let path = |path: &str| PathBuf::from(path);
        assert_eq!(
            found,
            [
                Include::File(path("/etc/pg/a.conf")),
                Include::IfExists(path("/etc/b.conf")),
                Include::Directory(path("/etc/pg/conf.d")),
                Include::File(path("/etc/pg/it's.conf")),
            ]
        );
        let text = "local all @admins,bob trust\nhost \"@team x\" all all scram-sha-256 # @no\n";
        let found = includes(Path::new("/d/pg_hba.conf"), text);
        assert_eq!(found, [Include::File(path("/d/admins")), Include::File(path("/d/team x"))]);
    }

    #[test]
    fn of_a_directory_only_what_ends_in_conf_counts() {
        assert!(is_in_directory("10-memory.conf"));
        for name in [".hidden.conf", "x.conf.dpkg-old", ".conf", "README"] {
            assert!(!is_in_directory(name), "{name}");
        }
    }
}

//! Backups as the wizard shows them.

use std::collections::BTreeSet;

use super::when;
use crate::command::choices::{Choice, Choices, Proven};
use crate::model::{BackupKind, Bytes};

/// One line of a list: when, how long ago, how large, how well proven, where.
pub(super) fn backup(choice: &Choice) -> String {
    let proof = match choice.proof {
        None => "NO GOOD COPY KNOWN".to_owned(),
        Some((Proven::Written, _)) => "not looked at since".to_owned(),
        Some((Proven::Listed, at)) => format!("listed {}", when::ago(at)),
        Some((Proven::Read, at)) => format!("read in full {}", when::ago(at)),
        Some((Proven::Restored, at)) => format!("test-restored {}", when::ago(at)),
    };
    let stores: Vec<&str> = choice.stores.iter().map(|store| store.as_str()).collect();
    let place = if stores.is_empty() { "whole in no store".to_owned() } else { stores.join("+") };
    let before = if choice.before_restore { ", saved before a restore" } else { "" };
    format!(
        "{} ({}), {}, {proof}, {place}{before}",
        when::here(choice.consistent_at),
        when::ago(choice.consistent_at),
        Bytes(choice.original_size_bytes)
    )
}

/// The databases that there are backups of, and that of the settings; the latter first.
pub(super) fn databases(choices: &Choices, kinds: &[BackupKind]) -> Vec<String> {
    let of = choices.backups.iter().filter(|choice| kinds.contains(&choice.kind));
    let names: BTreeSet<String> = of.filter_map(|choice| choice.database.clone()).collect();
    let (mut first, rest): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| choices.database.as_ref() == Some(name));
    first.extend(rest);
    first
}

/// A word as a shell needs it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=+,@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted("2026-11-22T14:02:00Z"), "2026-11-22T14:02:00Z");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}

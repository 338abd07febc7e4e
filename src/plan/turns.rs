//! Who goes first, and what must not run together: the one place where a command's words say so.

/// What a run does with the backups as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Nothing that another run could disturb; it never waits.
    Nothing,
    /// Reads or writes backups: any number of such runs at a time.
    Shared,
    /// Takes backups away: alone.
    Alone,
}

/// A command's right to its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// From 1 to 9, the highest goes first; `None` for what takes no time and never waits.
    pub priority: Option<u8>,
    /// What it does with the backups.
    pub uses: Use,
}

/// The priority of what brings data back.
const RESTORE: u8 = 9;
/// The priority of what proves that it could be.
const PROOF: u8 = 8;
/// The priority of the daily work.
const WORK: u8 = 7;

/// The rank of a command, by the words with which it is called.
///
/// Two backups of one kind, two restores of one database and the like exclude each other besides, by name: see
/// `Context::turn`.
pub fn rank(words: &str) -> Rank {
    let (priority, uses) = match words {
        "restore" | "test-restore" => (RESTORE, Use::Shared),
        "verify" | "backup config" => (PROOF, Use::Shared),
        // What re-seals manifests must not meet what deletes them.
        "backup cluster" | "backup database" | "backup tenant" | "sync" | "key rotate" => (WORK, Use::Shared),
        "cleanup" => (WORK, Use::Alone),
        // `wal-push` and `wal-fetch` above all: the server waits for them.
        _ => return Rank { priority: None, uses: Use::Nothing },
    };
    Rank { priority: Some(priority), uses }
}

/// Who waits for something: the order of these is the order in which they get it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// 9 minus the priority, so that the highest comes first.
    behind: u8,
    /// Since when, in milliseconds since 1970: who waits longest comes first.
    since: i64,
    /// Who it is.
    run: String,
}

impl Place {
    /// The place of a run that waits with this priority since this time.
    pub fn new(priority: u8, since: i64, run: &str) -> Self {
        Self { behind: 9_u8.saturating_sub(priority), since, run: run.to_owned() }
    }

    /// Who it is.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The place as part of a file's name.
    pub fn as_name(&self) -> String {
        format!("{}-{:015}-{}", self.behind, self.since.max(0), self.run)
    }

    /// Reads it back; `None` when it is none.
    pub fn from_name(name: &str) -> Option<Self> {
        let (behind, rest) = name.split_once('-')?;
        let (since, run) = rest.split_once('-')?;
        Some(Self { behind: behind.parse().ok()?, since: since.parse().ok()?, run: run.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_higher_priority_goes_first_and_then_who_waits_longest() {
        let mut waiting =
            [Place::new(7, 10, "a"), Place::new(9, 90, "b"), Place::new(8, 50, "c"), Place::new(7, 5, "d")];
        waiting.sort();
        assert_eq!(waiting.each_ref().map(|place| place.run.as_str()), ["b", "c", "d", "a"]);
        for place in &waiting {
            assert_eq!(Place::from_name(&place.as_name()).as_ref(), Some(place));
        }
        assert_eq!(Place::from_name("free.lock"), None);
    }

    #[test]
    fn req_6_32_priorities_are_those_that_the_owner_fixed() {
        let priority = |words| rank(words).priority;
        assert_eq!([priority("restore"), priority("test-restore")], [Some(9); 2]);
        assert_eq!([priority("verify"), priority("backup config")], [Some(8); 2]);
        let work = ["backup database", "backup tenant", "backup cluster", "cleanup"];
        assert_eq!(work.map(priority), [Some(7); 4]);
        for words in ["wal-push", "wal-fetch", "wal-prefetch"] {
            assert_eq!(rank(words), Rank { priority: None, uses: Use::Nothing }, "{words} waits for nobody");
        }
        assert_eq!(rank("cleanup").uses, Use::Alone);
    }
}

//! Whether the server's own settings make an archive of its WAL: what `init` and `check` say of them.

use std::time::Duration;

use serde::Serialize;

use crate::model::Elapsed;
use crate::postgres::base_backup::ClusterFacts;

const HOW_TO_ARCHIVE: &str = "See the README, section \"Point-in-time recovery in ten minutes\".";

/// One setting of the server, and what is wrong with it.
#[derive(Debug, Clone, Serialize)]
pub struct ArchiveSetting {
    /// Its name in `postgresql.conf`.
    pub name: &'static str,
    /// Its value, and what that means.
    pub text: String,
    /// What to do; absent when it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
}

impl ArchiveSetting {
    fn good(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, text: text.into(), hint: None }
    }

    fn wrong(name: &'static str, text: impl Into<String>, hint: &'static str) -> Self {
        Self { name, text: text.into(), hint: Some(hint) }
    }
}

/// Looks at `archive_mode`, `wal_level`, `archive_command` and `archive_timeout`, the last against `RPO_TARGET`. Of a
/// server that does not archive, nothing but that: databases can be backed up nevertheless.
pub(in crate::command) fn look(facts: &ClusterFacts, rpo_target: Duration) -> Vec<ArchiveSetting> {
    if is_off(facts) {
        let text = format!(
            "off (wal_level is {}): what is written after a backup can't be brought back; the README's \"Point-in-time \
             recovery\" says how to archive WAL",
            facts.wal_level
        );
        return vec![ArchiveSetting::good("archive_mode", text)];
    }
    let mut settings = Vec::new();
    if facts.wal_level == "minimal" {
        let text = "minimal: the WAL does not hold all that is written";
        settings.push(ArchiveSetting::wrong("wal_level", text, HOW_TO_ARCHIVE));
    }
    // A standby's WAL is archived by its primary, whose settings they are.
    if facts.in_recovery && facts.archive_mode != "always" {
        return settings;
    }
    settings.push(command(facts));
    settings.push(timeout(Duration::from_secs(facts.archive_timeout), rpo_target));
    settings
}

/// Whether the server archives nothing. A standby's WAL is archived by its primary.
pub(in crate::command) fn is_off(facts: &ClusterFacts) -> bool {
    facts.archive_mode == "off" && !facts.in_recovery
}

/// Whether this archives through pgkeep: other tools have a `wal-push`, too.
pub(in crate::command) fn is_pgkeeps(command: &str) -> bool {
    let mut words = command.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
    words.by_ref().any(|word| word == "pgkeep" || word.ends_with("/pgkeep"))
        && words.any(|word| word == "wal-push")
}

fn command(facts: &ClusterFacts) -> ArchiveSetting {
    if is_pgkeeps(&facts.archive_command) {
        return ArchiveSetting::good("archive_command", facts.archive_command.clone());
    }
    let shown = if facts.archive_command.is_empty() { "nothing" } else { &facts.archive_command };
    let text = format!("archive_mode is {}, and archive_command is {shown}", facts.archive_mode);
    let hint = "Set archive_command = 'pgkeep wal-push %p' and reload the server.";
    ArchiveSetting::wrong("archive_command", text, hint)
}

fn timeout(timeout: Duration, target: Duration) -> ArchiveSetting {
    let hint = "Set archive_timeout = 300 in postgresql.conf and reload the server.";
    if timeout.is_zero() {
        let text = "archive_timeout is 0: what is written last waits until a segment is full";
        return ArchiveSetting::wrong("archive_timeout", text, hint);
    }
    if timeout > target {
        let text =
            format!("archive_timeout is {}, more than RPO_TARGET, {}", Elapsed(timeout), Elapsed(target));
        return ArchiveSetting::wrong("archive_timeout", text, hint);
    }
    let text = format!("{}: within RPO_TARGET, {}", Elapsed(timeout), Elapsed(target));
    ArchiveSetting::good("archive_timeout", text)
}

#[cfg(test)]
mod tests {
    use super::is_pgkeeps;

    #[test]
    fn only_pgkeeps_own_wal_push_archives_here() {
        for command in [
            "pgkeep wal-push %p",
            "/usr/local/bin/pgkeep --env-file '/etc/pg keep/env' wal-push \"%p\"",
            "test ! -f /stop && X=1 'pgkeep' wal-push %p",
        ] {
            assert!(is_pgkeeps(command), "{command}");
        }
        for command in ["", "wal-g wal-push %p", "cp %p /pgkeep/wal-push", "/bin/false", "wal-push pgkeep"] {
            assert!(!is_pgkeeps(command), "{command}");
        }
    }
}

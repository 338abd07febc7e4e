//! What a restored data directory is told about its recovery: lines for `postgresql.auto.conf` (manual, "Archive Recovery"
//! and "Recovery Target"), which the server reads last, so that they win over what was backed up.

use std::fmt::Write;

use crate::model::Timestamp;

/// Where recovery stops and what happens then.
#[derive(Debug, Clone)]
pub struct RecoverySettings<'a> {
    /// The program and its arguments, each a word; `%f` and `%p` are added.
    pub restore_command: &'a [String],
    /// The target's setting, such as `recovery_target_time`, and its value; none: the end of the archive.
    pub target: Option<(&'static str, String)>,
    /// `latest`, `current`, or a number.
    pub timeline: String,
    /// `pause`, `promote` or `shutdown`.
    pub action: &'static str,
    /// Whether the copy archives as the original did.
    pub archives: bool,
}

/// All settings of which at most one may be set.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// What was set for the original, or for a standby of it, and would delay this recovery, run the original's programs, or
/// let every commit wait for standbys that this copy does not have.
const NEUTRAL: &str = "recovery_target_inclusive = 'on'\nrecovery_min_apply_delay = '0'\nrecovery_end_command = ''\n\
                       archive_cleanup_command = ''\n\
                       # A copy has no standbys. Take this line away, too, when it takes the original's place.\n\
                       synchronous_standby_names = ''\n";

impl RecoverySettings<'_> {
    /// The lines, behind a comment that says where they come from.
    pub fn text(&self, backup: &str, at: Timestamp) -> String {
        let mut text =
            format!("\n# Written by pgkeep, which restored {backup} at {}.\n", at.format("%FT%TZ"));
        let command: Vec<String> = self.restore_command.iter().map(|word| shell(word)).collect();
        // Writing into a string cannot fail.
        let _ = writeln!(text, "restore_command = {}", quoted(&format!("{} %f \"%p\"", command.join(" "))));
        // Those of an earlier recovery may still be set in what was backed up. The one that counts comes last: emptying
        // another one behind it would be "multiple recovery targets" (`assign_recovery_target` in `xlogrecovery.c`).
        let wanted = self.target.as_ref().map(|(name, _)| *name);
        for name in TARGETS.into_iter().filter(|name| Some(*name) != wanted) {
            let _ = writeln!(text, "{name} = ''");
        }
        if let Some((name, value)) = &self.target {
            let _ = writeln!(text, "{name} = {}", quoted(value));
        }
        let _ = writeln!(text, "recovery_target_timeline = {}", quoted(&self.timeline));
        let _ = writeln!(text, "recovery_target_action = {}", quoted(self.action));
        text.push_str(NEUTRAL);
        if !self.archives {
            text.push_str(
                "# A copy must not write into the archive of the original. When it is to take its place: run\n\
                 # `pgkeep init` here, take this line away and restart.\narchive_mode = 'off'\n",
            );
        }
        text
    }
}

/// A value as `postgresql.conf` has it (`guc-file.l`): quotes doubled, and backslashes, which begin escapes there.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// A word for the shell that runs the command; a percent sign would be the server's.
fn shell(word: &str) -> String {
    let word = word.replace('%', "%%");
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-=:@%+,".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_target_is_set_all_others_are_emptied_and_words_are_quoted_twice() {
        let settings = RecoverySettings {
            restore_command: &["/opt/it's 100%/pgkeep".to_owned(), "wal-fetch".to_owned()],
            target: Some(("recovery_target_time", "2026-11-25 14:02:00+00".to_owned())),
            timeline: "latest".to_owned(),
            action: "promote",
            archives: false,
        };
        let text = settings.text("20261125T020000Z-cluster-1a2b3c4d", Timestamp::UNIX_EPOCH);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.contains(&r#"restore_command = '''/opt/it''\\''''s 100%%/pgkeep'' wal-fetch %f "%p"'"#),
            "{text}"
        );
        assert!(lines.contains(&"recovery_target_time = '2026-11-25 14:02:00+00'"), "{text}");
        assert!(lines.contains(&"recovery_target_lsn = ''"), "{text}");
        assert!(lines.contains(&"archive_mode = 'off'"), "{text}");
        assert!(lines.contains(&"recovery_end_command = ''"), "{text}");
    }
}

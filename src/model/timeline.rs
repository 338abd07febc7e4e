//! Timelines: each is a branch of the stream of WAL, and its history file says where it left its ancestors.

use super::Lsn;

/// A timeline from which another one descends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ancestor {
    /// Its number.
    pub timeline: u32,
    /// Where it was left: WAL from here on belongs to the next one.
    pub until: Lsn,
}

/// What a history file says (`src/backend/access/transam/timeline.c`): a line for each ancestor, the oldest first, with
/// its number, the position where it was left, and a reason, separated by white space. `#` begins a comment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The ancestors, oldest first.
    pub ancestors: Vec<Ancestor>,
}

impl TimelineHistory {
    /// Reads the file's bytes; `None` when it is no history file. The reasons may be in any encoding.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for line in String::from_utf8_lossy(bytes).lines() {
            let mut words = line.split_whitespace();
            let Some(first) = words.next().filter(|word| !word.starts_with('#')) else { continue };
            let (timeline, until) = (first.parse().ok()?, words.next()?.parse().ok()?);
            // They ascend (readTimeLineHistory insists on it, too).
            if timeline == 0 || ancestors.last().is_some_and(|last| last.timeline >= timeline) {
                return None;
            }
            ancestors.push(Ancestor { timeline, until });
        }
        Some(Self { ancestors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_are_read_and_what_is_no_history_is_told() {
        let text =
            b"1\t0/30000A0\tno recovery target specified\n\n# a comment\n2\t0/5000000\tbefore 2026-11-25\n";
        let history = TimelineHistory::parse(text).unwrap_or_default();
        let expected = [(1, Lsn(0x0300_00A0)), (2, Lsn(0x0500_0000))];
        let expected = expected.map(|(timeline, until)| Ancestor { timeline, until });
        assert_eq!(history.ancestors, expected);
        assert_eq!(TimelineHistory::parse(b"").map(|history| history.ancestors.len()), Some(0));
        for other in [&b"x\t0/0\n"[..], b"1\n", b"2\t0/1\n1\t0/2\n", b"0\t0/1\n"] {
            assert_eq!(TimelineHistory::parse(other), None);
        }
    }
}

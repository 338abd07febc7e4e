//! Text without what differs from run to run, so that it can be a snapshot.

use std::sync::LazyLock;

use regex::Regex;

use super::base;

/// What is replaced by what, in this order.
const RULES: &[(&str, &str)] = &[
    (r"/place\d+", "[PLACE]"),
    (r"/pg\d+", "[SERVER]"),
    (r"\b\d{8}T\d{6}Z-(database|tenant|cluster|config)-[0-9a-f]{8}\b", "[BACKUP]"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d(:?\d\d)?)", "[TIME]"),
    (r"\d{8}T\d{6}Z\b", "[TIME]"),
    (r"\brun-[0-9a-f]{8}\b", "run-[RUN]"),
    (r"\brun [0-9a-f]{8}\b", "run [RUN]"),
    (r"_restore_[0-9a-f]{8}\b", "_restore_[RUN]"),
    (r"\bfresh_\d+", "[DATABASE]"),
    (r"\b(pid|process|Process) \d+", "$1 [PID]"),
    (r"\bcheck-\d+", "check-[PID]"),
    (r"system identifier \d{15,}", "system identifier [NUMBER]"),
    (r"\b\d{18,20}\b", "[NUMBER]"),
    (r"bytes of large object \d+", "bytes of large object [NUMBER]"),
    (r"fingerprint [0-9a-f:]+", "fingerprint [FINGERPRINT]"),
    (r"\b[0-9a-f]{64}\b", "[SHA256]"),
    (r"\b(\d+ h )?(\d+ min )?\d+(\.\d+)? s\b", "[DURATION]"),
    (r"\b\d+(\.\d+)? (B|KiB|MiB|GiB|TiB)/s", "[RATE]"),
    (r"/usr/lib/postgresql/\d+/bin", "[BINDIR]"),
    (r":5432\b", ":[PORT]"),
];

/// Replaces temporary paths, identifiers, times, durations, rates, processes and ports by their names.
pub(crate) fn tidy(text: &str) -> String {
    static COMPILED: LazyLock<Vec<(Regex, &str)>> =
        LazyLock::new(|| RULES.iter().map(|(rule, name)| (Regex::new(rule).unwrap(), *name)).collect());
    let text = text.replace(&base().display().to_string(), "");
    COMPILED.iter().fold(text, |text, (rule, name)| rule.replace_all(&text, *name).into_owned())
}

#[test]
fn tidying_leaves_the_words_and_takes_what_differs() {
    assert_eq!(
        tidy(
            "backup 20261122T020000Z-database-1a2b3c4d at 2026-11-22T02:00:00.123Z by process 17 (run 0a1b2c3d), \
             2 min 3 s, 4.5 MiB/s, kept as fresh_12_old_20261122T020000Z"
        ),
        "backup [BACKUP] at [TIME] by process [PID] (run [RUN]), [DURATION], [RATE], kept as [DATABASE]_old_[TIME]"
    );
}

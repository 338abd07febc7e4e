//! Keys, clocks, certificates, and how long it would take.

use super::{Certificate, Condition, Facts, Limits, SKEW, UsedKey, count, critical, ends_soon, warning};
use crate::model::{Elapsed, timestamp_text};

pub(super) fn evaluate(facts: &Facts, limits: &Limits, found: &mut Vec<Condition>) {
    if !facts.has_key {
        let why = facts.key_fault.as_deref().unwrap_or("no encryption key is set");
        found.push(critical("key-missing", "", format!("{why}: nothing can be backed up or restored")));
    }
    found.extend(facts.foreign_keys.iter().filter(|_| facts.has_key).map(foreign_key));
    if let Some(took) = facts.test_restore.filter(|took| *took > limits.rto) {
        let message = format!(
            "the last test restore took {}, longer than RTO_TARGET, {}",
            Elapsed(took),
            Elapsed(limits.rto)
        );
        found.push(warning("rto", "", message));
    }
    if let Some(latest) = facts.latest.filter(|latest| *latest - facts.now > SKEW) {
        let message = format!(
            "this machine's clock says {}, and the catalog has something of {}: the clock has gone back",
            timestamp_text(facts.now),
            timestamp_text(latest)
        );
        found.push(warning("clock-skew", "", message));
    }
    for certificate in facts.certificates.iter().filter(|it| ends_soon(it, facts.now)) {
        let Certificate { of, until } = certificate;
        let how = if *until < facts.now { "expired" } else { "expires" };
        let message = format!("the certificate of {of} {how} on {}", until.format("%F"));
        found.push(warning("certificate", of.as_str(), message));
    }
    for (file, how) in &facts.exposed {
        found.push(warning("key-exposed", file.as_str(), format!("{file} holds a secret, and {how}")));
    }
}

/// What can't be opened with the keys that are set.
fn foreign_key(used: &UsedKey) -> Condition {
    let UsedKey { key, backups, newest, wal_until } = used;
    let backups = newest.as_ref().map(|newest| match backups {
        1 => newest.to_string(),
        _ => format!("{newest} and {} before it", count(backups - 1, "backup")),
    });
    let wal = wal_until.map(|until| format!("WAL up to {}", timestamp_text(until)));
    let what: Vec<String> = backups.into_iter().chain(wal).collect();
    let message = format!(
        "{} can't be restored: sealed with the key {key}, which the settings lack; put it into BACKUP_ENCRYPTION_KEY, \
         behind the present one and a comma",
        what.join(" and ")
    );
    critical("key-missing", key.as_str(), message)
}

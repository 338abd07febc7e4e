//! What the stores list, compared with what should be there; nothing is read.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{TimeDelta, Utc};

use super::report::{Away, Finding, UNFINISHED, UNKNOWN, VerifyReport};
use crate::catalog::{BackupRow, BackupStatus, CopyRow, CopyState};
use crate::command::listing::{self, Listings, Objects};
use crate::command::stores::{self, Absent};
use crate::command::{Context, judge};
use crate::format::names;
use crate::model::{BackupId, Fault, Kind, StoreName};
use crate::store::ObjectInfo;

/// How long volumes without a manifest may be those of a backup that somebody else is making: another host, or another
/// state directory, of which this catalog knows nothing. Longer than any one volume takes.
pub(in crate::command) const GRACE: TimeDelta = TimeDelta::hours(24);

/// The catalog's rows of copies, by backup and store.
pub(super) type Rows = HashMap<(BackupId, StoreName), Vec<CopyRow>>;

/// One backup in one store, compared.
pub(super) struct Held {
    pub(super) backup: BackupId,
    pub(super) store: StoreName,
    /// How many of its objects should be there.
    pub(super) objects: usize,
    /// Whether it never got some of them.
    pub(super) is_owed: bool,
    /// Those that can be read.
    pub(super) copies: Vec<CopyRow>,
}

/// Compares the copies of a backup in a store with what that lists.
pub(super) fn compare(
    listings: &Listings,
    row: &BackupRow,
    store: StoreName,
    rows: Vec<CopyRow>,
    deep: bool,
    report: &mut VerifyReport,
) -> Held {
    let listed = listings.listed.get(&store).and_then(|objects| objects.get(&row.id));
    let mut held = Held {
        backup: row.id.clone(),
        store,
        objects: rows.len(),
        is_owed: rows.iter().any(|copy| copy.state == CopyState::Owed),
        copies: Vec::new(),
    };
    for copy in rows {
        report.objects += 1;
        let info = listed.and_then(|objects| objects.get(&copy.object));
        let wrong = match (listing::compare(&copy, info), copy.state) {
            // Written after the store was listed.
            _ if listings.is_older_than(&copy) => None,
            (Err(wrong), _) => Some(wrong),
            // Of the right size, and once found damaged: read again, somebody may have put the right bytes back.
            (Ok(()), CopyState::Good) => None,
            (Ok(()), CopyState::Damaged) if deep => None,
            (Ok(()), state) => Some((state, copy.note.clone().unwrap_or_default())),
        };
        match wrong {
            None => held.copies.push(copy),
            Some((CopyState::Deleting, _)) => {}
            Some((state, message)) => report.findings.push(finding(&held, &copy.object, state, message)),
        }
    }
    held
}

pub(super) fn finding(held: &Held, object: &str, state: CopyState, message: String) -> Finding {
    Finding {
        backup: held.backup.clone(),
        store: held.store,
        object: object.to_owned(),
        state: state.as_str(),
        message,
        repaired: false,
    }
}

/// Lists the stores. One that does not hold the cluster's identity is away: it may be the empty directory in which a
/// disk should be mounted, and says nothing about what is on that disk.
pub(super) async fn look(
    context: &Context,
    only: Option<StoreName>,
) -> anyhow::Result<(Listings, Vec<Away>)> {
    let mut listings = listing::take(context, only).await;
    let mut away: Vec<Away> =
        listings.failed.iter().map(|error| Away { store: error.store, message: error.to_string() }).collect();
    match stores::presence(context).await {
        Ok(presence) => {
            for Absent { store, why } in presence.absent {
                let Some(objects) = listings.listed.get(&store) else { continue };
                // Its identity alone may be lost. But of a disk that was unmounted meanwhile this may be half a list.
                let reading = context.reading().each().find(|reading| reading.name() == store);
                let message = match reading.filter(|_| !objects.is_empty()) {
                    Some(reading) => {
                        let there = stores::still_there(&context.settings.cluster, &**reading).await;
                        there.err().map(|error| error.to_string())
                    }
                    None => Some(why),
                };
                if let Some(message) = message {
                    listings.listed.remove(&store);
                    away.push(Away { store, message });
                }
            }
        }
        // The identity is lost, and backups are there: they can be looked at.
        Err(error)
            if judge(&error).exit_code == Kind::NotInitialised.exit_code()
                && listings.listed.values().any(|objects| !objects.is_empty()) =>
        {
            listings.listed.retain(|_, objects| !objects.is_empty());
        }
        Err(error) => return Err(error),
    }
    if let (true, Some(first)) = (listings.listed.is_empty(), away.first()) {
        return Fault::new(Kind::Store, format!("no store could be looked at: {}", first.message))
            .hint("Run `pgkeep check` to see what works and what does not.")
            .err();
    }
    Ok((listings, away))
}

/// Listed backups with an object of which there is no row. The catalog is asked about these alone: to ask about each of
/// thousands would take longer than to list them.
pub(super) fn strange<'a>(
    listed: &'a Objects,
    rows: &Rows,
    store: StoreName,
) -> Vec<(&'a BackupId, &'a BTreeMap<String, ObjectInfo>)> {
    let is_known = |backup: &BackupId, objects: &BTreeMap<String, ObjectInfo>| {
        let copies = rows.get(&(backup.clone(), store)).map_or(&[][..], Vec::as_slice);
        let known: HashSet<&str> = copies.iter().map(|copy| copy.object.as_str()).collect();
        objects.keys().all(|name| known.contains(name.as_str()))
    };
    listed.iter().filter(|(backup, objects)| !is_known(backup, objects)).collect()
}

/// Backups that lie in a store and that the catalog does not know; not those that are being made now.
pub(super) fn unknown(
    context: &Context,
    store: StoreName,
    strange: &[(&BackupId, &BTreeMap<String, ObjectInfo>)],
) -> anyhow::Result<Vec<Finding>> {
    let being_made = listing::being_made(context)?;
    let mut findings = Vec::new();
    for &(backup, objects) in strange {
        if being_made.contains(backup.as_str()) {
            continue;
        }
        // One that was made while this verify was running is known, and its objects are too.
        if let Some(row) = context.catalog.backups().get(backup)? {
            if row.status != BackupStatus::Complete {
                // What is deleted goes in its own time.
                continue;
            }
            let known: HashSet<String> =
                context.catalog.copies().of(backup)?.into_iter().map(|copy| copy.object).collect();
            let extra = objects.keys().filter(|name| !known.contains(*name));
            findings.extend(extra.map(|object| Finding {
                backup: backup.clone(),
                store,
                object: object.clone(),
                state: UNKNOWN,
                message: "it does not belong to the backup".to_owned(),
                repaired: false,
            }));
            continue;
        }
        let (state, message) = if objects.contains_key(names::MANIFEST) {
            (UNKNOWN, "the catalog does not know this backup; `pgkeep catalog rebuild` takes it in")
        } else if is_young(objects) {
            (UNFINISHED, "perhaps being made by another host; if not, it was left behind by one that died")
        } else {
            (UNKNOWN, "left behind by a backup that did not come to its end")
        };
        let (object, message) = (String::from("*"), message.to_owned());
        findings.push(Finding { backup: backup.clone(), store, object, state, message, repaired: false });
    }
    Ok(findings)
}

/// Whether something was written to it within the time of grace; a store that tells no times is not waited for.
fn is_young(objects: &BTreeMap<String, ObjectInfo>) -> bool {
    let newest = objects.values().filter_map(|info| info.modified).max();
    newest.is_some_and(|modified| Utc::now() - modified < GRACE)
}

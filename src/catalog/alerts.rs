//! The table `alerts`: what somebody should look at, until it is over or somebody has.

use rusqlite::{OptionalExtension, Row, Transaction, named_params};
use serde::Serialize;

use super::values::{count, integer, json_or_null, parsed, time, time_or_null};
use super::{Catalog, failure};
use crate::model::{Timestamp, timestamp_text};
use crate::plan::conditions::{Condition, tells_already};

pub use crate::model::Severity;

/// An alert as the catalog has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alert {
    /// Its number.
    pub id: i64,
    /// What is wrong, as one word for programs.
    pub alert_type: String,
    /// What it is about: a store, a database, a backup; may be empty.
    pub subject: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, for people.
    pub message: String,
    /// The channels through which it goes; `None` until that is decided.
    pub notification_channels: Option<Vec<String>>,
    /// When it was first found.
    #[serde(serialize_with = "super::values::time_as_text")]
    pub created_at: Timestamp,
    /// When it was last found.
    #[serde(serialize_with = "super::values::time_as_text")]
    pub last_seen_at: Timestamp,
    /// How often it was found.
    pub times: u64,
    /// When it was over.
    #[serde(serialize_with = "super::values::time_or_null_as_text")]
    pub closed_at: Option<Timestamp>,
    /// How it came to be over.
    pub closed_message: Option<String>,
    /// When somebody saw it.
    #[serde(serialize_with = "super::values::time_or_null_as_text")]
    pub acknowledged_at: Option<Timestamp>,
    /// Who.
    pub acknowledged_by: Option<String>,
    /// What that one had to say.
    pub note: Option<String>,
    /// The run that found it first.
    pub run_id: Option<String>,
}

/// How long somebody who has acknowledged that something happened is not told of it again.
const KNOWN: chrono::TimeDelta = chrono::TimeDelta::days(7);

/// How an event came to be over: who has acknowledged it need not be told.
pub(super) const ACKNOWLEDGED: &str = "acknowledged";

/// What can be done with the table of alerts.
#[derive(Debug, Clone, Copy)]
pub struct Alerts<'a> {
    pub(super) catalog: &'a Catalog,
}

impl<'a> Alerts<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// Writes down that something happened; when the same is written there already, word for word, and open or lately
    /// acknowledged, that it happened again: somebody knows. Who is told of it, and when, is decided by the next run.
    pub fn raise(self, kind: &str, severity: Severity, message: &str, at: Timestamp) -> anyhow::Result<()> {
        let lately = timestamp_text(at - KNOWN);
        let at = timestamp_text(at);
        self.catalog.write("raise an alert", |transaction| {
            let changed = transaction.execute(
                "UPDATE alerts SET times = times + 1, last_seen_at = :at WHERE alert_type = :kind \
                 AND message = :message AND (closed_at IS NULL OR acknowledged_at > :lately)",
                named_params! { ":kind": kind, ":message": message, ":at": at, ":lately": lately },
            )?;
            if changed == 0 {
                let condition = NewAlert { kind, subject: "", severity, message };
                insert(transaction, &condition, None, &at)?;
            }
            Ok(())
        })
    }

    /// Writes down which conditions hold now: a new one is an alert, one that holds still is counted, and of the types
    /// that were decided upon an alert that has no condition any more is over. Returns how many are new.
    pub fn hold(
        self,
        conditions: &[Condition],
        decided: &[&str],
        run: Option<&str>,
        now: Timestamp,
    ) -> anyhow::Result<u64> {
        let at = timestamp_text(now);
        self.catalog.write("write down the conditions that hold", |transaction| {
            let mut open = open_of(transaction, decided)?;
            let mut new = 0;
            for condition in conditions {
                let found = open
                    .iter()
                    .position(|it| it.alert_type == condition.kind && it.subject == condition.subject);
                if let Some(known) = found.map(|index| open.swap_remove(index)) {
                    see_again(transaction, &known, condition, &at)?;
                } else {
                    let Condition { kind, subject, severity, message } = condition;
                    let alert = NewAlert { kind, subject, severity: *severity, message };
                    insert(transaction, &alert, run, &at)?;
                    new += 1;
                }
            }
            for over in open {
                close(transaction, &over, now)?;
            }
            // One misfortune is told once.
            let mut known = transaction.prepare(
                "UPDATE alerts SET notification_channels = '[]' WHERE alert_type = :kind AND closed_at IS NULL \
                 AND notification_channels IS NULL AND message LIKE :pattern",
            )?;
            for (kind, pattern) in conditions.iter().filter_map(tells_already) {
                known.execute(named_params! { ":kind": kind, ":pattern": pattern })?;
            }
            Ok(new)
        })
    }

    /// The alerts that are open, the worst and then the newest first.
    pub fn open(self) -> anyhow::Result<Vec<Alert>> {
        self.catalog.read("list the open alerts", |connection| select(connection, "closed_at IS NULL"))
    }

    /// The last alerts, open or not, newest first.
    pub fn recent(self, limit: usize) -> anyhow::Result<Vec<Alert>> {
        self.catalog.read("list the last alerts", |connection| {
            let mut statement = connection.prepare("SELECT * FROM alerts ORDER BY id DESC LIMIT :limit")?;
            statement.query_map(named_params! { ":limit": integer(limit as u64) }, alert)?.collect()
        })
    }

    /// The alert of this number.
    pub fn get(self, id: i64) -> anyhow::Result<Option<Alert>> {
        self.catalog.read("look for an alert", |connection| {
            let mut statement = connection.prepare("SELECT * FROM alerts WHERE id = :id")?;
            statement.query_row(named_params! { ":id": id }, alert).optional()
        })
    }

    /// Writes down that somebody has seen the alert: it is not repeated any more, and if it is of an event, it is over.
    pub fn acknowledge(
        self,
        id: i64,
        by: &str,
        note: Option<&str>,
        is_over: bool,
        at: Timestamp,
    ) -> anyhow::Result<()> {
        let changed = self.catalog.write("write down that an alert was seen", |transaction| {
            transaction.execute(
                "UPDATE deliveries SET state = 'given up', last_error = 'acknowledged before it was sent' \
                 WHERE alert_id = :id AND state = 'waiting' AND event = 'repeated'",
                named_params! { ":id": id },
            )?;
            transaction.execute(
                "UPDATE alerts SET acknowledged_at = coalesce(acknowledged_at, :at), \
                 acknowledged_by = coalesce(acknowledged_by, :by), note = coalesce(:note, note), \
                 closed_at = iif(:is_over, coalesce(closed_at, :at), closed_at), \
                 closed_message = iif(:is_over, coalesce(closed_message, :acknowledged), closed_message) \
                 WHERE id = :id",
                named_params! {
                    ":id": id, ":by": by, ":note": note, ":is_over": is_over, ":at": timestamp_text(at),
                    ":acknowledged": ACKNOWLEDGED,
                },
            )
        })?;
        failure::require_one(changed, || format!("no alert {id}"))
    }
}

struct NewAlert<'a> {
    kind: &'a str,
    subject: &'a str,
    severity: Severity,
    message: &'a str,
}

fn insert(
    transaction: &Transaction<'_>,
    alert: &NewAlert<'_>,
    run: Option<&str>,
    at: &str,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO alerts (alert_type, subject, severity, message, created_at, last_seen_at, run_id) \
         VALUES (:kind, :subject, :severity, :message, :at, :at, :run)",
    )?;
    statement.execute(named_params! {
        ":kind": alert.kind,
        ":subject": alert.subject,
        ":severity": alert.severity.as_str(),
        ":message": alert.message,
        ":at": at,
        ":run": run,
    })?;
    Ok(())
}

/// What has become worse is told anew, also to those who had seen it.
fn see_again(
    transaction: &Transaction<'_>,
    known: &Alert,
    condition: &Condition,
    at: &str,
) -> rusqlite::Result<()> {
    let is_worse = known.severity != Severity::Critical && condition.severity == Severity::Critical;
    let mut statement = transaction.prepare_cached(
        "UPDATE alerts SET times = times + 1, last_seen_at = :at, message = :message, severity = :severity, \
         notification_channels = iif(:is_worse, NULL, notification_channels), \
         acknowledged_at = iif(:is_worse, NULL, acknowledged_at), \
         acknowledged_by = iif(:is_worse, NULL, acknowledged_by), note = iif(:is_worse, NULL, note) WHERE id = :id",
    )?;
    statement.execute(named_params! {
        ":id": known.id,
        ":at": at,
        ":message": condition.message,
        ":severity": condition.severity.as_str(),
        ":is_worse": is_worse,
    })?;
    Ok(())
}

/// Who was told that it began is told that it is over, by [`Alerts::route`]; who was not yet, is told both at once.
fn close(transaction: &Transaction<'_>, over: &Alert, now: Timestamp) -> rusqlite::Result<()> {
    let at = timestamp_text(now);
    let lasted = crate::model::Elapsed((now - over.created_at).to_std().unwrap_or_default());
    transaction.execute(
        "UPDATE alerts SET closed_at = :at, closed_message = :message WHERE id = :id",
        named_params! { ":id": over.id, ":at": at, ":message": format!("over after {lasted}") },
    )?;
    transaction.execute(
        "UPDATE deliveries SET state = 'given up', last_error = 'over before it was sent' \
         WHERE alert_id = :id AND state = 'waiting' AND event = 'repeated'",
        named_params! { ":id": over.id },
    )?;
    Ok(())
}

fn open_of(transaction: &Transaction<'_>, kinds: &[&str]) -> rusqlite::Result<Vec<Alert>> {
    let mut open = select(transaction, "closed_at IS NULL")?;
    open.retain(|alert| kinds.contains(&alert.alert_type.as_str()));
    Ok(open)
}

pub(super) fn select(connection: &rusqlite::Connection, condition: &str) -> rusqlite::Result<Vec<Alert>> {
    let sql = format!(
        "SELECT * FROM alerts WHERE {condition} \
         ORDER BY CASE severity WHEN 'CRITICAL' THEN 0 WHEN 'WARNING' THEN 1 ELSE 2 END, created_at DESC, id DESC"
    );
    connection.prepare(&sql)?.query_map([], alert)?.collect()
}

pub(super) fn alert(row: &Row<'_>) -> rusqlite::Result<Alert> {
    let created_at = time(row, "created_at")?;
    Ok(Alert {
        id: row.get("id")?,
        alert_type: row.get("alert_type")?,
        subject: row.get("subject")?,
        severity: parsed(row, "severity")?,
        message: row.get("message")?,
        notification_channels: json_or_null(row, "notification_channels")?,
        created_at,
        // Null in rows of earlier schemas.
        last_seen_at: time_or_null(row, "last_seen_at")?.unwrap_or(created_at),
        times: count(row, "times")?,
        closed_at: time_or_null(row, "closed_at")?,
        closed_message: row.get("closed_message")?,
        acknowledged_at: time_or_null(row, "acknowledged_at")?,
        acknowledged_by: row.get("acknowledged_by")?,
        note: row.get("note")?,
        run_id: row.get("run_id")?,
    })
}

//! The table `alerts`: what somebody should look at, until it is over or somebody has; and the table `deliveries`: each
//! message to each channel, until it has arrived.

use rusqlite::{OptionalExtension, Row, Transaction, named_params};
use serde::Serialize;

use super::values::{count, integer, json_or_null, parsed, time, time_or_null};
use super::words::words;
use super::{Catalog, failure};
use crate::model::{Channel, Timestamp, timestamp_text};
use crate::plan::conditions::Condition;

pub use crate::model::Severity;

words! {
    /// What a message is about.
    pub enum Event {
        /// Something has begun.
        Raised = "raised",
        /// It is still so.
        Repeated = "repeated",
        /// It is over.
        Closed = "closed",
    }
}

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

/// A message that waits to be sent.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its number.
    pub id: i64,
    /// Through which channel.
    pub channel: Channel,
    /// What happened.
    pub event: Event,
    /// How often it was tried.
    pub attempts: u64,
    /// When it came to be.
    pub created_at: Timestamp,
    /// The alert.
    pub alert: Alert,
}

/// How many deliveries there are in each state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deliveries {
    /// Those that wait.
    pub waiting: u64,
    /// Attempts that failed, of those that wait.
    pub failed_attempts: u64,
    /// Those that were never delivered and are not tried any more.
    pub given_up: u64,
    /// Why the last one that waits did not arrive.
    pub last_error: Option<String>,
}

/// How long somebody who has acknowledged that something happened is not told of it again.
const KNOWN: chrono::TimeDelta = chrono::TimeDelta::days(7);

/// What can be done with the table of alerts.
#[derive(Debug, Clone, Copy)]
pub struct Alerts<'a> {
    catalog: &'a Catalog,
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
            Ok(new)
        })
    }

    /// Decides who is told of what has no decision yet, and of what has been open for long: `way` says for a severity
    /// through which channels, and from when on.
    pub fn route(
        self,
        way: &dyn Fn(Severity) -> Vec<(Channel, Timestamp)>,
        repeat: std::time::Duration,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let at = timestamp_text(now);
        self.catalog.write("decide who is told of an alert", |transaction| {
            let undecided = "notification_channels IS NULL AND closed_at IS NULL AND acknowledged_at IS NULL";
            for alert in select(transaction, undecided)? {
                let channels = way(alert.severity);
                let names: Vec<_> = channels.iter().map(|(channel, _)| channel.as_str()).collect();
                transaction.execute(
                    "UPDATE alerts SET notification_channels = :channels WHERE id = :id",
                    named_params! { ":id": alert.id, ":channels": serde_json::json!(names).to_string() },
                )?;
                announce(transaction, alert.id, Event::Raised, &channels, &at)?;
            }
            let since = now - chrono::TimeDelta::from_std(repeat).unwrap_or(chrono::TimeDelta::MAX);
            let due = format!(
                "closed_at IS NULL AND acknowledged_at IS NULL AND notification_channels IS NOT NULL \
                 AND (SELECT max(created_at) FROM deliveries WHERE alert_id = alerts.id) < '{}' \
                 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE alert_id = alerts.id AND state = 'waiting')",
                timestamp_text(since)
            );
            for alert in select(transaction, &due)? {
                announce(transaction, alert.id, Event::Repeated, &way(alert.severity), &at)?;
            }
            Ok(())
        })
    }

    /// The messages whose time has come, oldest first.
    pub fn due(self, now: Timestamp) -> anyhow::Result<Vec<Delivery>> {
        self.catalog.read("look for messages that wait", |connection| {
            let mut statement = connection.prepare(
                "SELECT alerts.*, deliveries.id AS delivery, channel, event, attempts, \
                 deliveries.created_at AS asked_at FROM deliveries JOIN alerts ON alerts.id = alert_id \
                 WHERE state = 'waiting' AND not_before <= :now ORDER BY deliveries.id",
            )?;
            let rows = statement.query_map(named_params! { ":now": timestamp_text(now) }, |row| {
                Ok(Delivery {
                    id: row.get("delivery")?,
                    channel: parsed(row, "channel")?,
                    event: parsed(row, "event")?,
                    attempts: count(row, "attempts")?,
                    created_at: time(row, "asked_at")?,
                    alert: alert(row)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Writes down that messages have arrived, and what is to be said about that.
    pub fn delivered(self, ids: &[i64], note: Option<&str>, at: Timestamp) -> anyhow::Result<()> {
        self.catalog.write("write down that messages have arrived", |transaction| {
            let mut statement = transaction.prepare(
                "UPDATE deliveries SET state = 'delivered', delivered_at = :at, attempts = attempts + 1, \
                 last_error = :note WHERE id = :id",
            )?;
            for id in ids {
                statement.execute(named_params! { ":id": id, ":at": timestamp_text(at), ":note": note })?;
            }
            Ok(())
        })
    }

    /// Writes down that messages did not arrive: when they are tried again, or (`None`) that they are given up.
    pub fn failed(self, ids: &[i64], error: &str, again: Option<Timestamp>) -> anyhow::Result<()> {
        self.catalog.write("write down that messages have not arrived", |transaction| {
            let mut statement = transaction.prepare(
                "UPDATE deliveries SET attempts = attempts + 1, last_error = :error, \
                 state = iif(:again IS NULL, 'given up', state), not_before = coalesce(:again, not_before) \
                 WHERE id = :id",
            )?;
            for id in ids {
                statement.execute(
                    named_params! { ":id": id, ":error": error, ":again": again.map(timestamp_text) },
                )?;
            }
            Ok(())
        })
    }

    /// How it stands with the messages.
    pub fn deliveries(self) -> anyhow::Result<Deliveries> {
        self.catalog.read("count messages", |connection| {
            connection.query_row(
                "SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting, \
                 coalesce(sum(attempts) FILTER (WHERE state = 'waiting'), 0) AS failed, \
                 count(*) FILTER (WHERE state = 'given up') AS given_up, \
                 (SELECT last_error FROM deliveries WHERE state = 'waiting' AND last_error IS NOT NULL \
                  ORDER BY id DESC LIMIT 1) AS last_error FROM deliveries",
                [],
                |row| {
                    Ok(Deliveries {
                        waiting: count(row, "waiting")?,
                        failed_attempts: count(row, "failed")?,
                        given_up: count(row, "given_up")?,
                        last_error: row.get("last_error")?,
                    })
                },
            )
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
                 closed_message = iif(:is_over, coalesce(closed_message, 'acknowledged'), closed_message) \
                 WHERE id = :id",
                named_params! {
                    ":id": id, ":by": by, ":note": note, ":is_over": is_over, ":at": timestamp_text(at),
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
         acknowledged_at = iif(:is_worse, NULL, acknowledged_at) WHERE id = :id",
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

/// Who was told that it began is told that it is over; who was not yet, is told both at once.
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
    transaction.execute(
        "INSERT INTO deliveries (alert_id, channel, event, not_before, created_at) \
         SELECT DISTINCT alert_id, channel, 'closed', :at, :at FROM deliveries \
         WHERE alert_id = :id AND state = 'delivered'",
        named_params! { ":id": over.id, ":at": at },
    )?;
    Ok(())
}

fn announce(
    transaction: &Transaction<'_>,
    alert: i64,
    event: Event,
    channels: &[(Channel, Timestamp)],
    at: &str,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO deliveries (alert_id, channel, event, not_before, created_at) \
         VALUES (:alert, :channel, :event, :not_before, :at)",
    )?;
    for (channel, not_before) in channels {
        statement.execute(named_params! {
            ":alert": alert,
            ":channel": channel.as_str(),
            ":event": event.as_str(),
            ":not_before": timestamp_text(*not_before),
            ":at": at,
        })?;
    }
    Ok(())
}

fn open_of(transaction: &Transaction<'_>, kinds: &[&str]) -> rusqlite::Result<Vec<Alert>> {
    let mut open = select(transaction, "closed_at IS NULL")?;
    open.retain(|alert| kinds.contains(&alert.alert_type.as_str()));
    Ok(open)
}

fn select(connection: &rusqlite::Connection, condition: &str) -> rusqlite::Result<Vec<Alert>> {
    let sql = format!(
        "SELECT * FROM alerts WHERE {condition} \
         ORDER BY CASE severity WHEN 'CRITICAL' THEN 0 WHEN 'WARNING' THEN 1 ELSE 2 END, created_at DESC, id DESC"
    );
    connection.prepare(&sql)?.query_map([], alert)?.collect()
}

fn alert(row: &Row<'_>) -> rusqlite::Result<Alert> {
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

//! The table `deliveries`: each message to each recipient, until it has arrived.

use std::time::Duration;

use chrono::TimeDelta;
use rusqlite::{Transaction, named_params};
use serde::Serialize;

use super::alerts::{ACKNOWLEDGED, Alert, Alerts, alert, select};
use super::values::{count, parsed, time};
use super::words::words;
use crate::model::{Channel, Severity, Timestamp, timestamp_text};

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

/// Who is reached through what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Through which channel.
    pub channel: Channel,
    /// The address or number; empty for a channel that has but one.
    pub address: String,
}

/// Who is told of something, and from when on.
#[derive(Debug, Clone)]
pub struct Audience {
    /// Not before this.
    pub not_before: Timestamp,
    /// Each of them.
    pub recipients: Vec<Recipient>,
}

/// A message that waits to be sent.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its number.
    pub id: i64,
    /// To whom.
    pub recipient: Recipient,
    /// What happened.
    pub event: Event,
    /// How often it was tried.
    pub attempts: u64,
    /// How often it was handed over and nobody said whether it was taken.
    pub unanswered: u64,
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

/// What became of a message that did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// When it is tried again; `None`: it is given up.
    pub at: Option<Timestamp>,
    /// Whether it may have arrived nevertheless.
    pub unanswered: bool,
}

/// Later than this nothing is put off: quiet hours end within a day. What waits longer was written when the clock was
/// ahead.
const LONGEST: TimeDelta = TimeDelta::hours(25);

impl Alerts<'_> {
    /// Decides who is told of what has no decision yet, of what has been open for long, and of what is over: `audience`
    /// says for a severity whom, and from when on.
    pub fn route(
        self,
        audience: &dyn Fn(Severity) -> Audience,
        repeat: Duration,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let at = timestamp_text(now);
        self.catalog.write("decide who is told of an alert", |transaction| {
            // Before the addresses: who was told by an earlier pgkeep has none yet.
            announce_ends(transaction, audience, &at)?;
            address(transaction, audience)?;
            // An earlier pgkeep wrote down that nobody is told where there was no channel; what another alert tells has no
            // channel either, and never gets one.
            let undecided = "closed_at IS NULL AND acknowledged_at IS NULL AND (notification_channels IS NULL \
                             OR (notification_channels = '[]' AND alert_type NOT IN ('copy-damaged', 'copy-lost')))";
            for alert in select(transaction, undecided)? {
                let audience = audience(alert.severity);
                // It stays undecided until there is somebody to tell.
                if audience.recipients.is_empty() {
                    continue;
                }
                let mut names: Vec<_> = audience.recipients.iter().map(|it| it.channel.as_str()).collect();
                names.dedup();
                transaction.execute(
                    "UPDATE alerts SET notification_channels = :channels WHERE id = :id",
                    named_params! { ":id": alert.id, ":channels": serde_json::json!(names).to_string() },
                )?;
                announce(transaction, alert.id, Event::Raised, &audience, &at)?;
            }
            let since = now - TimeDelta::from_std(repeat).unwrap_or(TimeDelta::MAX);
            let due = format!(
                "closed_at IS NULL AND acknowledged_at IS NULL AND notification_channels IS NOT NULL \
                 AND (SELECT max(created_at) FROM deliveries WHERE alert_id = alerts.id) < '{}'",
                timestamp_text(since)
            );
            for alert in select(transaction, &due)? {
                let mut audience = audience(alert.severity);
                // Who has not got the last one yet needs no further one.
                let waits = waiting_for(transaction, alert.id)?;
                audience.recipients.retain(|it| !waits.contains(it));
                announce(transaction, alert.id, Event::Repeated, &audience, &at)?;
            }
            Ok(())
        })
    }

    /// The messages whose time has come, oldest first.
    pub fn due(self, now: Timestamp) -> anyhow::Result<Vec<Delivery>> {
        self.catalog.read("look for messages that wait", |connection| {
            let mut statement = connection.prepare(
                "SELECT alerts.*, deliveries.id AS delivery, channel, recipient, event, attempts, unanswered, \
                 deliveries.created_at AS asked_at FROM deliveries JOIN alerts ON alerts.id = alert_id \
                 WHERE state = 'waiting' AND (not_before <= :now OR not_before > :never) ORDER BY deliveries.id",
            )?;
            let named = named_params! {
                ":now": timestamp_text(now), ":never": timestamp_text(now + LONGEST),
            };
            let rows = statement.query_map(named, |row| {
                Ok(Delivery {
                    id: row.get("delivery")?,
                    recipient: Recipient { channel: parsed(row, "channel")?, address: row.get("recipient")? },
                    event: parsed(row, "event")?,
                    attempts: count(row, "attempts")?,
                    unanswered: count(row, "unanswered")?,
                    created_at: time(row, "asked_at")?,
                    alert: alert(row)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Writes down that messages have arrived; those of an alert that was over when they were written have said so.
    pub fn delivered(self, messages: &[Delivery], at: Timestamp) -> anyhow::Result<()> {
        self.catalog.write("write down that messages have arrived", |transaction| {
            let mut statement = transaction.prepare(
                "UPDATE deliveries SET state = 'delivered', delivered_at = :at, attempts = attempts + 1, \
                 last_error = NULL, told_over = max(told_over, :over) WHERE id = :id",
            )?;
            for message in messages {
                let over = message.event == Event::Closed || message.alert.closed_at.is_some();
                let named = named_params! { ":id": message.id, ":at": timestamp_text(at), ":over": over };
                statement.execute(named)?;
            }
            Ok(())
        })
    }

    /// Writes down that messages did not arrive, as far as is known, and what becomes of them.
    pub fn failed(self, ids: &[i64], error: &str, again: Again) -> anyhow::Result<()> {
        self.catalog.write("write down that messages have not arrived", |transaction| {
            let mut statement = transaction.prepare(
                "UPDATE deliveries SET attempts = attempts + 1, unanswered = unanswered + :unanswered, \
                 last_error = :error, state = iif(:again IS NULL, 'given up', state), \
                 not_before = coalesce(:again, not_before) WHERE id = :id",
            )?;
            for id in ids {
                statement.execute(named_params! {
                    ":id": id,
                    ":error": error,
                    ":again": again.at.map(timestamp_text),
                    ":unanswered": again.unanswered,
                })?;
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
}

fn announce(
    transaction: &Transaction<'_>,
    alert: i64,
    event: Event,
    audience: &Audience,
    at: &str,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO deliveries (alert_id, channel, recipient, event, not_before, created_at, told_over) \
         VALUES (:alert, :channel, :recipient, :event, :not_before, :at, :over)",
    )?;
    for recipient in &audience.recipients {
        statement.execute(named_params! {
            ":alert": alert,
            ":channel": recipient.channel.as_str(),
            ":recipient": recipient.address,
            ":event": event.as_str(),
            ":not_before": timestamp_text(audience.not_before),
            ":at": at,
            ":over": event == Event::Closed,
        })?;
    }
    Ok(())
}

/// To whom a message about this alert is still under way.
fn waiting_for(transaction: &Transaction<'_>, alert: i64) -> rusqlite::Result<Vec<Recipient>> {
    let mut statement = transaction.prepare_cached(
        "SELECT channel, recipient FROM deliveries WHERE alert_id = :alert AND state = 'waiting'",
    )?;
    let found = statement.query_map(named_params! { ":alert": alert }, |row| {
        Ok(Recipient { channel: parsed(row, "channel")?, address: row.get("recipient")? })
    })?;
    found.collect()
}

/// Who was told of an alert that is over by now, and does not know that, is told. Looked up here and not where alerts are
/// closed: one may be closed while a message that it has begun is under way.
fn announce_ends(
    transaction: &Transaction<'_>,
    audience: &dyn Fn(Severity) -> Audience,
    at: &str,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare(
        "SELECT DISTINCT alert_id, channel, recipient, severity FROM deliveries \
         JOIN alerts ON alerts.id = alert_id WHERE state = 'delivered' AND told_over = 0 \
         AND closed_at IS NOT NULL AND closed_message IS NOT :acknowledged ORDER BY alert_id, channel, recipient",
    )?;
    let found = statement.query_map(named_params! { ":acknowledged": ACKNOWLEDGED }, |row| {
        let recipient = Recipient { channel: parsed(row, "channel")?, address: row.get("recipient")? };
        Ok((row.get::<_, i64>("alert_id")?, recipient, parsed::<Severity>(row, "severity")?))
    })?;
    let mut tell = transaction.prepare(
        "UPDATE deliveries SET told_over = 1 WHERE alert_id = :alert AND channel = :channel \
         AND recipient = :recipient AND state = 'delivered'",
    )?;
    for found in found.collect::<rusqlite::Result<Vec<_>>>()? {
        let (alert, recipient, severity) = found;
        tell.execute(named_params! {
            ":alert": alert, ":channel": recipient.channel.as_str(), ":recipient": recipient.address,
        })?;
        // From when on as with its beginning: what did not wake anybody must not do so by ending.
        let not_before = audience(severity).not_before;
        announce(
            transaction,
            alert,
            Event::Closed,
            &Audience { not_before, recipients: vec![recipient] },
            at,
        )?;
    }
    Ok(())
}

/// Messages that an earlier pgkeep left behind were for all recipients of their channel. Who has got a later one by his
/// address is told once.
fn address(transaction: &Transaction<'_>, audience: &dyn Fn(Severity) -> Audience) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare(
        "SELECT deliveries.id, channel, severity FROM deliveries JOIN alerts ON alerts.id = alert_id \
         WHERE state = 'waiting' AND recipient = '' AND channel <> 'webhook'",
    )?;
    let found = statement.query_map([], |row| {
        Ok((
            row.get::<_, i64>("id")?,
            parsed::<Channel>(row, "channel")?,
            parsed::<Severity>(row, "severity")?,
        ))
    })?;
    for (id, channel, severity) in found.collect::<rusqlite::Result<Vec<_>>>()? {
        let of_it: Vec<Recipient> =
            audience(severity).recipients.into_iter().filter(|it| it.channel == channel).collect();
        for recipient in &of_it {
            transaction.execute(
                "INSERT INTO deliveries (alert_id, channel, recipient, event, attempts, not_before, last_error, \
                 created_at, told_over) SELECT alert_id, channel, :recipient, event, attempts, not_before, \
                 last_error, created_at, told_over FROM deliveries AS old WHERE id = :id \
                 AND NOT EXISTS (SELECT 1 FROM deliveries AS other WHERE other.alert_id = old.alert_id \
                 AND other.channel = old.channel AND other.recipient = :recipient AND other.event = old.event \
                 AND other.state = 'waiting')",
                named_params! { ":id": id, ":recipient": recipient.address },
            )?;
        }
        if !of_it.is_empty() {
            transaction.execute("DELETE FROM deliveries WHERE id = :id", named_params! { ":id": id })?;
        }
    }
    Ok(())
}

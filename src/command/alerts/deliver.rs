//! Sending what waits: each channel by itself, many messages as one, and what does not arrive again later.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use serde::Serialize;

use super::attend::Place;
use super::messages;
use crate::catalog::Delivery;
use crate::command::context::locks;
use crate::config::{Settings, SmtpTls};
use crate::model::{Channel, Timestamp};
use crate::notify::email::{Email, Protection};
use crate::notify::sms::Sms;
use crate::notify::webhook::Webhook;
use crate::notify::{Message, Sent};
use crate::system::lock::{Attempt, FileLock};
use crate::system::{Step, step};

/// More messages than this at once are one.
const DIGEST: usize = 5;
/// How long all of it may take: a run that has done its work must not hang on a mail server.
const PATIENCE: Duration = Duration::from_secs(30);
/// After the first failure one waits so long, then twice that, and so on.
const FIRST_PAUSE: TimeDelta = TimeDelta::minutes(1);
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(1);
/// What is older has been seen by other ways, or never will be.
const GIVEN_UP: TimeDelta = TimeDelta::days(7);

/// What became of the messages that were due.
#[derive(Debug, Clone, Default, Serialize)]
pub(in crate::command) struct Told {
    /// Those that arrived.
    pub(in crate::command) delivered: u64,
    /// Those that did not.
    pub(in crate::command) failed: u64,
    /// Why, by channel.
    pub(in crate::command) errors: Vec<String>,
}

/// Sends what is due. Of two runs at the same time one does it.
pub(super) async fn due(place: Place<'_>) -> anyhow::Result<Told> {
    let alerts = place.catalog.alerts();
    if alerts.due(Utc::now())?.is_empty() {
        return Ok(Told::default());
    }
    let path = locks(place.settings).join("alerts.lock");
    let Attempt::Taken(_lock) = FileLock::attempt(&path, &format!("process {}", std::process::id()))? else {
        return Ok(Told::default());
    };
    // Read again: another run may have sent them in between.
    let due = alerts.due(Utc::now())?;
    step::reached(Step::AlertsSending)?;
    let by_channel = Channel::ALL.iter().map(|channel| {
        let due: Vec<Delivery> = due.iter().filter(|it| it.channel == *channel).cloned().collect();
        through(place, *channel, due)
    });
    let mut told = Told::default();
    for (channel, result) in Channel::ALL.iter().zip(join_all(by_channel).await) {
        let (delivered, failed, error) = result?;
        told.delivered += delivered;
        told.failed += failed;
        if let Some(error) = error {
            place.progress.note(&format!("warning: alerts by {channel}: {error}"));
            told.errors.push(format!("{channel}: {error}"));
        }
    }
    Ok(told)
}

/// Sends what is for one channel, in order; once it has failed, the rest is not even tried.
async fn through(
    place: Place<'_>,
    channel: Channel,
    due: Vec<Delivery>,
) -> anyhow::Result<(u64, u64, Option<String>)> {
    let Place { settings, catalog, .. } = place;
    let alerts = catalog.alerts();
    if due.is_empty() {
        return Ok((0, 0, None));
    }
    if !settings.alerts.channels().contains(&channel) {
        let ids: Vec<i64> = due.iter().map(|it| it.id).collect();
        alerts.failed(&ids, "the channel is not set any more", None)?;
        return Ok((0, due.len() as u64, None));
    }
    let batches: Vec<&[Delivery]> = if due.len() > DIGEST { vec![&due] } else { due.chunks(1).collect() };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let (mut delivered, mut failed, mut trouble) = (0, 0, None);
    for batch in batches {
        let ids: Vec<i64> = batch.iter().map(|it| it.id).collect();
        let sent = if let Some(error) = &trouble {
            Err(String::clone(error))
        } else {
            let message = match batch {
                [one] => messages::one(settings, one),
                many => messages::digest(settings, many),
            };
            let sending = tokio::time::timeout_at(deadline, send(settings, channel, &message));
            sending.await.unwrap_or_else(|_| Err(format!("not done within {} s", PATIENCE.as_secs())))
        };
        match sent {
            Ok(sent) => {
                step::reached(Step::AlertsSent)?;
                let note = match &sent {
                    Sent::ToAll => None,
                    Sent::ToSome(error) => Some(error.as_str()),
                };
                alerts.delivered(&ids, note, Utc::now())?;
                delivered += ids.len() as u64;
                if let Some(note) = note {
                    place.progress.note(&format!("warning: alerts by {channel}: {note}"));
                }
            }
            Err(error) => {
                let now = Utc::now();
                let (old, new): (Vec<&Delivery>, Vec<&Delivery>) =
                    batch.iter().partition(|it| now - it.created_at > GIVEN_UP);
                let ids = |them: &[&Delivery]| them.iter().map(|it| it.id).collect::<Vec<_>>();
                alerts.failed(&ids(&old), &error, None)?;
                let attempts = new.iter().map(|it| it.attempts).min().unwrap_or(0);
                alerts.failed(&ids(&new), &error, Some(again(now, attempts)))?;
                failed += batch.len() as u64;
                trouble = Some(error);
            }
        }
    }
    Ok((delivered, failed, trouble))
}

/// When what has failed so often is tried again.
fn again(now: Timestamp, attempts: u64) -> Timestamp {
    let doubled = FIRST_PAUSE * 2_i32.pow(u32::try_from(attempts).unwrap_or(6).min(6));
    now + doubled.min(LONGEST_PAUSE)
}

/// Sends one message through one channel.
pub(super) async fn send(settings: &Settings, channel: Channel, message: &Message) -> Result<Sent, String> {
    let alerts = &settings.alerts;
    let unset = || Err("the channel is not set".to_owned());
    match channel {
        Channel::Email => {
            let Some(email) = &alerts.email else { return unset() };
            let protection = match email.tls {
                SmtpTls::StartTls => Protection::StartTls,
                SmtpTls::Tls => Protection::Tls,
                SmtpTls::Off => Protection::None,
            };
            let email = Email {
                host: email.host.clone(),
                port: email.port,
                protection,
                login: email.login.clone(),
                from: email.from.clone(),
                to: email.to.clone(),
            };
            email.send(message).await
        }
        Channel::Sms => {
            let Some(sms) = alerts.sms.clone() else { return unset() };
            let crate::config::Sms { base_url, account, token, from, to } = sms;
            Sms { base_url, account, token, from, to }.send(message).await
        }
        Channel::Webhook => {
            let Some(webhook) = alerts.webhook.clone() else { return unset() };
            let crate::config::Webhook { url, secret } = webhook;
            Webhook { url, secret }.send(message).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        let now = Utc::now();
        let pauses = [0, 1, 2, 5, 6, 100].map(|attempts| (again(now, attempts) - now).num_minutes());
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60]);
    }
}

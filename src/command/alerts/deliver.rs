//! Sending what waits: to each recipient by itself, many messages as one, and what does not arrive again later.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use serde::Serialize;

use super::attend::Place;
use super::messages;
use super::post::Post;
use crate::catalog::{Again, Delivery};
use crate::command::context::locks;
use crate::model::{Channel, Severity, Timestamp};
use crate::notify::Failure;
use crate::system::lock::{Attempt, FileLock};
use crate::system::{Step, step};

/// More messages than this at once are one.
const DIGEST: usize = 5;
/// After so long no further message is begun: a run that has done its work must not hang on a mail server.
const PATIENCE: Duration = Duration::from_secs(30);
/// After the first failure one waits so long, then twice that, and so on.
const FIRST_PAUSE: TimeDelta = TimeDelta::minutes(1);
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(1);
/// The same for what may have arrived: each of these may be one message too many.
const UNANSWERED_PAUSE: TimeDelta = TimeDelta::minutes(10);
/// How often such a message is sent at most.
const UNANSWERED_MOST: u64 = 6;
/// The same for a recipient that has been refused for good, by the age of the message: a mailbox that is full or a rule that is
/// wrong may be mended, and of what is CRITICAL somebody must hear.
const REFUSED_PAUSES: [(TimeDelta, TimeDelta); 2] =
    [(TimeDelta::hours(1), TimeDelta::hours(1)), (TimeDelta::hours(7), TimeDelta::hours(6))];
const REFUSED_PAUSE: TimeDelta = TimeDelta::days(1);
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
        let due: Vec<Delivery> = due.iter().filter(|it| it.recipient.channel == *channel).cloned().collect();
        through(place, *channel, due)
    });
    let mut told = Told::default();
    for (channel, result) in Channel::ALL.iter().zip(join_all(by_channel).await) {
        let (delivered, failed, errors) = result?;
        told.delivered += delivered;
        told.failed += failed;
        for error in errors {
            place.progress.note(&format!("warning: alerts by {channel}: {error}"));
            told.errors.push(format!("{channel}: {error}"));
        }
    }
    Ok(told)
}

/// Sends what is for one channel, to one recipient after the other; once the service has failed, the rest is not even
/// tried.
async fn through(
    place: Place<'_>,
    channel: Channel,
    due: Vec<Delivery>,
) -> anyhow::Result<(u64, u64, Vec<String>)> {
    let Place { settings, catalog, .. } = place;
    let alerts = catalog.alerts();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let known = settings.alerts.recipients(channel);
    let mut post = Post::new(settings, channel);
    let (mut delivered, mut failed, mut errors) = (0, 0, Vec::<String>::new());
    // Why nothing more is tried.
    let mut trouble: Option<Failure> = None;
    for batch in batches(due) {
        let to = &batch[0].recipient.address;
        let sent = if !known.contains(to) {
            Err(Failure::Refused("nobody is told there any more: it is not set".to_owned()))
        } else if let Some(trouble) = &trouble {
            Err(Failure::Service(trouble.reason().to_owned()))
        } else if tokio::time::Instant::now() > deadline {
            Err(Failure::Service(format!("not done within {} s", PATIENCE.as_secs())))
        } else {
            let message = match &batch[..] {
                [one] => messages::one(settings, one),
                many => messages::digest(settings, many),
            };
            post.send(to, &message).await
        };
        let Err(failure) = sent else {
            step::reached(Step::AlertsSent)?;
            alerts.delivered(&batch, Utc::now())?;
            delivered += batch.len() as u64;
            continue;
        };
        failed += batch.len() as u64;
        let is_known = trouble.is_some();
        let said = match &failure {
            Failure::Service(reason) => reason.clone(),
            other if to.is_empty() => other.reason().to_owned(),
            other => format!("{to}: {}", other.reason()),
        };
        write_down(place, &batch, &failure, known.contains(to))?;
        if failure.is_of_all() && trouble.is_none() {
            trouble = Some(failure);
        }
        if !is_known && known.contains(to) {
            errors.push(said);
        }
    }
    post.close().await;
    Ok((delivered, failed, errors))
}

/// Writes down that messages did not arrive, and when they are tried again, each by its own history.
fn write_down(
    place: Place<'_>,
    batch: &[Delivery],
    failure: &Failure,
    is_recipient: bool,
) -> anyhow::Result<()> {
    let now = Utc::now();
    for delivery in batch {
        let again = Again {
            at: if is_recipient { again(now, delivery, failure) } else { None },
            unanswered: matches!(failure, Failure::Unanswered(_)),
        };
        let error = match failure {
            Failure::Unanswered(reason) => format!("perhaps it has arrived: {reason}"),
            other => other.reason().to_owned(),
        };
        place.catalog.alerts().failed(&[delivery.id], &error, again)?;
    }
    Ok(())
}

/// What goes to one recipient, each by itself or all in one.
fn batches(due: Vec<Delivery>) -> Vec<Vec<Delivery>> {
    let mut by_recipient: Vec<Vec<Delivery>> = Vec::new();
    for delivery in due {
        match by_recipient.iter_mut().find(|them| them[0].recipient == delivery.recipient) {
            Some(them) => them.push(delivery),
            None => by_recipient.push(vec![delivery]),
        }
    }
    let split = |them: Vec<Delivery>| {
        if them.len() > DIGEST { vec![them] } else { them.into_iter().map(|it| vec![it]).collect() }
    };
    by_recipient.into_iter().flat_map(split).collect()
}

/// When a message that did not arrive is tried again; `None`: not any more.
fn again(now: Timestamp, delivery: &Delivery, failure: &Failure) -> Option<Timestamp> {
    if now - delivery.created_at > GIVEN_UP {
        return None;
    }
    match failure {
        Failure::Refused(_) => refused_until(now, delivery),
        Failure::Unanswered(_) if delivery.unanswered + 1 >= UNANSWERED_MOST => None,
        Failure::Unanswered(_) => Some(now + pause(UNANSWERED_PAUSE, delivery.unanswered)),
        Failure::Service(_) | Failure::NotNow(_) => Some(now + pause(FIRST_PAUSE, delivery.attempts)),
    }
}

/// When one that was refused for good is tried again, if ever.
fn refused_until(now: Timestamp, delivery: &Delivery) -> Option<Timestamp> {
    if delivery.alert.severity != Severity::Critical {
        return None;
    }
    let age = now - delivery.created_at;
    let pause = REFUSED_PAUSES.iter().find(|(younger, _)| age < *younger);
    Some(now + pause.map_or(REFUSED_PAUSE, |(_, pause)| *pause))
}

fn pause(first: TimeDelta, attempts: u64) -> TimeDelta {
    (first * 2_i32.pow(u32::try_from(attempts).unwrap_or(6).min(6))).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Alert, Event, Recipient};

    #[test]
    fn of_what_is_critical_one_who_is_refused_is_told_again_more_and_more_rarely() {
        let now = Utc::now();
        let delivery = |severity, hours| Delivery {
            id: 1,
            recipient: Recipient { channel: Channel::Email, address: "ada@example.com".to_owned() },
            event: Event::Raised,
            attempts: 7,
            unanswered: 0,
            created_at: now - TimeDelta::hours(hours),
            alert: Alert {
                id: 1,
                alert_type: "damage".to_owned(),
                subject: String::new(),
                severity,
                message: "bad".to_owned(),
                notification_channels: None,
                created_at: now,
                last_seen_at: now,
                times: 1,
                closed_at: None,
                closed_message: None,
                acknowledged_at: None,
                acknowledged_by: None,
                note: None,
                run_id: None,
            },
        };
        let refused = Failure::Refused("550".to_owned());
        let pause = |severity, hours| {
            again(now, &delivery(severity, hours), &refused).map(|at| (at - now).num_hours())
        };
        let critical = [0, 1, 6, 7, 31, 168, 169].map(|hours| pause(Severity::Critical, hours));
        assert_eq!(critical, [Some(1), Some(6), Some(6), Some(24), Some(24), Some(24), None]);
        assert_eq!(pause(Severity::Warning, 0), None);
    }

    #[test]
    fn pauses_double_up_to_an_hour() {
        let minutes = |first, attempts: [u64; 6]| attempts.map(|it| pause(first, it).num_minutes());
        assert_eq!(minutes(FIRST_PAUSE, [0, 1, 2, 5, 6, 100]), [1, 2, 4, 32, 60, 60]);
        assert_eq!(minutes(UNANSWERED_PAUSE, [0, 1, 2, 3, 4, 5]), [10, 20, 40, 60, 60, 60]);
    }
}

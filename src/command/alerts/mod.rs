//! `pgkeep alerts`: what somebody should look at, who has looked, and whether the channels work.

mod attend;
mod certificates;
mod deliver;
mod exposed;
mod messages;
mod post;

use chrono::Utc;
use futures_util::future::join_all;
use serde::Serialize;

use super::{Report, Shelf};
use crate::catalog::{Alert, Deliveries};
use crate::model::{Channel, Fault, Kind};
use crate::plan::conditions;
use crate::system::caller::Caller;

use post::Post;

pub(in crate::command) use attend::{Attended, Place, attend};
pub(in crate::command) use certificates::{look as look_at_certificates, now as certificates_now};

/// How many alerts `--all` shows.
const ALL: usize = 200;

/// The alerts.
#[derive(Debug, Clone, Serialize)]
pub struct AlertsReport {
    /// Those that are open, the worst first; with `--all` the last ones, the newest first.
    pub alerts: Vec<Alert>,
    /// How it stands with the messages about them.
    pub deliveries: Deliveries,
    /// The channels that are set.
    pub channels: Vec<Channel>,
}

impl Report for AlertsReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Lists them.
pub fn list(shelf: &Shelf, all: bool) -> anyhow::Result<AlertsReport> {
    let alerts = shelf.catalog.alerts();
    Ok(AlertsReport {
        alerts: if all { alerts.recent(ALL)? } else { alerts.open()? },
        deliveries: alerts.deliveries()?,
        channels: shelf.settings.alerts.channels(),
    })
}

/// An alert that somebody has seen.
#[derive(Debug, Clone, Serialize)]
pub struct AckReport {
    /// As it is now.
    pub alert: Alert,
}

impl Report for AckReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Writes down that somebody has seen an alert.
pub fn acknowledge(shelf: &Shelf, id: i64, note: Option<&str>) -> anyhow::Result<AckReport> {
    let alerts = shelf.catalog.alerts();
    let missing = || {
        Fault::new(Kind::NotThere, format!("there is no alert {id}"))
            .hint("`pgkeep alerts` lists them with their numbers.")
    };
    let Some(alert) = alerts.get(id)? else { return missing().err() };
    let is_over = !conditions::is_condition(&alert.alert_type);
    alerts.acknowledge(id, &Caller::find().person(), note, is_over, Utc::now())?;
    Ok(AckReport { alert: alerts.get(id)?.ok_or_else(missing)? })
}

/// How a test message got on.
#[derive(Debug, Clone, Serialize)]
pub struct TestReport {
    /// By channel.
    pub channels: Vec<TestedChannel>,
}

/// One channel.
#[derive(Debug, Clone, Serialize)]
pub struct TestedChannel {
    /// Which one.
    pub channel: Channel,
    /// Whether the message got through to everybody.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Report for TestReport {
    fn shortfall(&self) -> Option<Kind> {
        match self.channels.iter().filter(|channel| !channel.ok).count() {
            0 => None,
            failed if failed == self.channels.len() => Some(Kind::Store),
            _ => Some(Kind::Incomplete),
        }
    }
}

/// Sends a message through every channel that is set.
pub async fn test(shelf: &Shelf) -> anyhow::Result<TestReport> {
    let settings = &shelf.settings;
    let set = settings.alerts.channels();
    if set.is_empty() {
        return Fault::new(Kind::Settings, "no channel is set")
            .hint("Set SMTP_HOST, ALERT_EMAIL_FROM and ALERT_EMAIL_TO, or WEBHOOK_URL; see the README's \"Alerts\".")
            .err();
    }
    let message = &messages::test(settings);
    let sent = set.into_iter().map(|channel| async move {
        let mut post = Post::new(settings, channel);
        let mut errors = Vec::new();
        for to in settings.alerts.recipients(channel) {
            let Err(failure) = post.send(&to, message).await else { continue };
            let who = if to.is_empty() { String::new() } else { format!("{to}: ") };
            errors.push(format!("{who}{}", failure.reason()));
            if failure.is_of_all() {
                break;
            }
        }
        post.close().await;
        TestedChannel {
            channel,
            ok: errors.is_empty(),
            error: (!errors.is_empty()).then(|| errors.join("; ")),
        }
    });
    let channels = join_all(sent).await;
    Ok(TestReport { channels })
}

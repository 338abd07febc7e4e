//! What is said about alerts: the same facts for people, in one line and in full, and for programs.

use std::fmt::Write as _;

use chrono::Utc;
use serde_json::json;

use crate::catalog::{Alert, Delivery, Event};
use crate::config::Settings;
use crate::model::{Severity, timestamp_text};
use crate::notify::Message;
use crate::system::caller::Caller;

/// How many alerts a digest spells out.
const SPELLED_OUT: usize = 20;

/// About one alert.
pub(super) fn one(settings: &Settings, delivery: &Delivery) -> Message {
    let alert = &delivery.alert;
    let what = headline(delivery.event, alert);
    let mut text = format!("{what}\n\n");
    about(settings, &mut text);
    details(alert, &mut text);
    let _ = writeln!(
        text,
        "\nAll that are open: pgkeep alerts\nSeen, and not to be repeated: pgkeep alerts ack {} --note '...'",
        alert.id
    );
    Message {
        id: id(settings, std::slice::from_ref(delivery)),
        subject: format!("[pgkeep {}] {what}", settings.cluster),
        text,
        document: document(settings, delivery.event.as_str(), &[alert], 1),
    }
}

/// About many at once, which nobody could read one by one.
pub(super) fn digest(settings: &Settings, deliveries: &[Delivery]) -> Message {
    let mut alerts: Vec<(&Event, &Alert)> = deliveries.iter().map(|it| (&it.event, &it.alert)).collect();
    alerts.sort_by_key(|(event, alert)| (is_over(**event, alert), alert.severity != Severity::Critical));
    let count = |severity: Severity| {
        alerts.iter().filter(|(event, it)| !is_over(**event, it) && it.severity == severity).count()
    };
    let over = alerts.iter().filter(|(event, it)| is_over(**event, it)).count();
    let (critical, all) = (count(Severity::Critical), alerts.len());
    let what =
        format!("{all} alerts: {critical} CRITICAL, {} WARNING, {over} over", count(Severity::Warning));
    let mut text = format!("{what}\n\n");
    about(settings, &mut text);
    text.push('\n');
    for (event, alert) in alerts.iter().take(SPELLED_OUT) {
        let _ = writeln!(text, "- {}", headline(**event, alert));
    }
    if all > SPELLED_OUT {
        let _ = writeln!(text, "- and {} more", all - SPELLED_OUT);
    }
    text.push_str("\nAll that are open: pgkeep alerts\n");
    let first: Vec<&Alert> = alerts.iter().take(SPELLED_OUT).map(|(_, alert)| *alert).collect();
    Message {
        id: id(settings, deliveries),
        subject: format!("[pgkeep {}] {what}", settings.cluster),
        text,
        document: document(settings, "digest", &first, all),
    }
}

/// Whether the channel works.
pub(super) fn test(settings: &Settings) -> Message {
    let what = "this is a test: alerts arrive here";
    let mut text = format!("{what}\n\n");
    about(settings, &mut text);
    Message {
        id: format!("pgkeep.{}.test.{}", settings.cluster, Utc::now().timestamp_micros()),
        subject: format!("[pgkeep {}] {what}", settings.cluster),
        text,
        document: document(settings, "test", &[], 0),
    }
}

/// By the numbers of the messages, and when they came to be: a catalog that is made anew counts from 1 again.
fn id(settings: &Settings, deliveries: &[Delivery]) -> String {
    let number = |it: Option<&Delivery>| it.map_or(0, |it| it.id);
    let newest = deliveries.iter().map(|it| it.created_at.timestamp_millis()).max().unwrap_or(0);
    let (first, last) = (number(deliveries.first()), number(deliveries.last()));
    format!("pgkeep.{}.{first}-{last}.{}.{newest}", settings.cluster, deliveries.len())
}

fn is_over(event: Event, alert: &Alert) -> bool {
    event == Event::Closed || alert.closed_at.is_some()
}

/// Who hears of it only when it is over, hears both at once.
fn headline(event: Event, alert: &Alert) -> String {
    let how = match (event, alert.closed_at) {
        (Event::Closed, _) => "over: ",
        (_, Some(_)) => "was so and is over: ",
        (Event::Repeated, None) => "still: ",
        (Event::Raised, None) => "",
    };
    format!("{}: {how}{}", alert.severity, crate::notify::plain(&alert.message, 500))
}

fn about(settings: &Settings, text: &mut String) {
    let _ = writeln!(text, "cluster: {}\nmachine: {}", settings.cluster, Caller::find().host);
}

fn details(alert: &Alert, text: &mut String) {
    let _ = writeln!(text, "type:    {}", alert.alert_type);
    if !alert.subject.is_empty() {
        let _ = writeln!(text, "about:   {}", crate::notify::plain(&alert.subject, 200));
    }
    let _ = writeln!(text, "since:   {}", timestamp_text(alert.created_at));
    if alert.times > 1 {
        let _ = writeln!(text, "found:   {} times, last {}", alert.times, timestamp_text(alert.last_seen_at));
    }
    if let (Some(at), Some(how)) = (alert.closed_at, &alert.closed_message) {
        let _ = writeln!(text, "over:    {} ({how})", timestamp_text(at));
    }
}

fn document(settings: &Settings, event: &str, alerts: &[&Alert], count: usize) -> serde_json::Value {
    json!({
        "event": event,
        "cluster": settings.cluster.to_string(),
        "machine": Caller::find().host,
        "count": count,
        "alerts": alerts,
    })
}

//! Alerts and jobs as text.

use std::fmt::Write as _;

use crate::command::alerts::{AckReport, AlertsReport, TestReport};
use crate::command::jobs::{JobReport, JobsReport};
use crate::command::run_due::RunDueReport;
use crate::command::watch::WatchReport;
use crate::model::timestamp_text;

/// Times to the second: nobody reads more of them.
fn time(time: crate::model::Timestamp) -> String {
    time.format("%FT%TZ").to_string()
}

/// What came from a database must not move the terminal's cursor.
fn shown(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

pub(in crate::cli) fn alerts(report: &AlertsReport) -> String {
    let mut text = String::new();
    for alert in &report.alerts {
        line!(text, "{:>5}  {:8}  {}", alert.id, alert.severity, shown(&alert.message));
        let mut more = format!("{}, since {}", alert.alert_type, time(alert.created_at));
        if alert.times > 1 {
            let _ = write!(more, ", found {} times, last {}", alert.times, time(alert.last_seen_at));
        }
        if let Some(closed) = alert.closed_at {
            let how = alert.closed_message.as_deref().unwrap_or("over");
            let _ = write!(more, ", {} at {}", shown(how), time(closed));
        }
        if let (Some(at), Some(by)) = (alert.acknowledged_at, &alert.acknowledged_by) {
            let _ = write!(more, ", seen by {} at {}", shown(by), time(at));
        }
        if let Some(note) = &alert.note {
            let _ = write!(more, ": {}", shown(note));
        }
        line!(text, "                 {more}");
    }
    if report.alerts.is_empty() {
        line!(text, "no alerts");
    }
    let deliveries = &report.deliveries;
    if deliveries.waiting > 0 {
        line!(
            text,
            "{} messages wait to be sent, after {} attempts that failed",
            deliveries.waiting,
            deliveries.failed_attempts
        );
    }
    if let Some(error) = &deliveries.last_error {
        line!(text, "the last one: {}", shown(error));
    }
    if report.channels.is_empty() {
        line!(text, "nobody is told: no channel is set");
    }
    text
}

pub(in crate::cli) fn acknowledged(report: &AckReport) -> String {
    let alert = &report.alert;
    let how = if alert.closed_at.is_some() { "seen, and over" } else { "seen; open until it is over" };
    format!("alert {}: {how}: {}\n", alert.id, shown(&alert.message))
}

pub(in crate::cli) fn tested(report: &TestReport) -> String {
    let mut text = String::new();
    for channel in &report.channels {
        match &channel.error {
            None => {
                line!(text, "{}: sent", channel.channel);
            }
            Some(error) => {
                line!(text, "{}: {}", channel.channel, shown(error));
            }
        }
    }
    text
}

pub(in crate::cli) fn watch(report: &WatchReport) -> String {
    let mut text = String::new();
    for condition in &report.conditions {
        line!(text, "{:8}  {}", condition.severity, shown(&condition.message));
    }
    if report.conditions.is_empty() {
        line!(text, "all is well");
    }
    if report.delivered > 0 {
        line!(text, "{} messages sent", report.delivered);
    }
    for error in &report.errors {
        line!(text, "not sent: {}", shown(error));
    }
    text
}

pub(in crate::cli) fn put_off(report: &JobReport) -> String {
    let job = &report.job;
    format!("job {}: {} at {}\n", job.id, job.command, timestamp_text(job.scheduled_for))
}

pub(in crate::cli) fn cancelled(report: &JobReport) -> String {
    format!("job {} is cancelled: {}\n", report.job.id, report.job.command)
}

pub(in crate::cli) fn jobs(report: &JobsReport) -> String {
    let mut text = String::new();
    for job in &report.jobs {
        line!(
            text,
            "{:>5}  {:10}  {}  priority {}  pgkeep {}",
            job.id,
            job.state,
            time(job.scheduled_for),
            job.priority,
            shown(&job.arguments.join(" "))
        );
        if let Some(message) = &job.message {
            line!(text, "       {}", shown(message));
        }
    }
    if report.jobs.is_empty() {
        line!(text, "no jobs");
    }
    text
}

pub(in crate::cli) fn run_due(report: &RunDueReport) -> String {
    let mut text = String::new();
    for job in &report.found {
        line!(text, "job {} ({}): {}", job.id, job.command, job.state);
    }
    for ran in &report.jobs {
        line!(text, "job {} ({}): {}", ran.job.id, ran.job.command, ran.job.state);
        for row in ran.output.lines() {
            line!(text, "    {row}");
        }
    }
    if report.jobs.is_empty() && report.found.is_empty() {
        line!(text, "nothing is due");
    }
    text
}

//! `ALERT_*`, `SMTP_*`, `TWILIO_*`, `WEBHOOK_*`: who is told of what, and from when on something is worth it.

use std::time::Duration;

use super::duration::parse_duration;
use super::faults::Faults;
use super::size::parse_size;
use super::values::{Value, Values};
use crate::model::{Channel, Fault, QuietHours, Severity, StoreName};
use crate::system::Secret;

/// Everything about alerts.
#[derive(Debug, Clone)]
pub struct AlertSettings {
    /// Mail, if it is set.
    pub email: Option<Email>,
    /// Text messages, if they are set.
    pub sms: Option<Sms>,
    /// The webhook, if it is set.
    pub webhook: Option<Webhook>,
    /// `ALERT_CRITICAL`: the channels of what is to be looked at now.
    pub critical: Vec<Channel>,
    /// `ALERT_WARNING`: the channels of what can wait.
    pub warning: Vec<Channel>,
    /// `ALERT_QUIET_HOURS`: when warnings wait.
    pub quiet: Option<QuietHours>,
    /// `ALERT_REPEAT`: after how long what is still so is said again.
    pub repeat: Duration,
    /// `ALERT_BACKUP_AGE`.
    pub backup_age: Duration,
    /// `ALERT_BACKUP_DURATION`; `None`: twice the usual.
    pub backup_duration: Option<Duration>,
    /// `ALERT_SIZE_CHANGE` in percent.
    pub size_percent: u64,
    /// `ALERT_STORAGE` in percent.
    pub storage_percent: u64,
    /// `ALERT_ARCHIVER_BACKLOG` in WAL files.
    pub backlog: u64,
    /// `BACKUP_R2_QUOTA` and `BACKUP_B2_QUOTA` in bytes.
    pub quotas: Vec<(StoreName, u64)>,
}

impl AlertSettings {
    /// The channels that are set.
    pub fn channels(&self) -> Vec<Channel> {
        let set = [
            (Channel::Email, self.email.is_some()),
            (Channel::Sms, self.sms.is_some()),
            (Channel::Webhook, self.webhook.is_some()),
        ];
        set.into_iter().filter(|(_, is_set)| *is_set).map(|(channel, _)| channel).collect()
    }

    /// Whom a channel reaches; a webhook has one recipient without a name.
    pub fn recipients(&self, channel: Channel) -> Vec<String> {
        let found = match channel {
            Channel::Email => self.email.as_ref().map(|email| email.to.clone()),
            Channel::Sms => self.sms.as_ref().map(|sms| sms.to.clone()),
            Channel::Webhook => self.webhook.as_ref().map(|_| vec![String::new()]),
        };
        found.unwrap_or_default()
    }

    /// The channels through which something this bad goes.
    pub fn channels_of(&self, severity: Severity) -> &[Channel] {
        match severity {
            Severity::Critical => &self.critical,
            Severity::Warning => &self.warning,
            // Good to know for whoever looks; nobody is told.
            Severity::Info => &[],
        }
    }
}

/// How a mail server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// In the clear until both agree on TLS, and not a word before that.
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// In the clear: to this machine only.
    Off,
}

/// Mail.
#[derive(Debug, Clone)]
pub struct Email {
    /// `SMTP_HOST`.
    pub host: String,
    /// `SMTP_PORT`.
    pub port: u16,
    /// `SMTP_TLS`.
    pub tls: SmtpTls,
    /// `SMTP_USER` and `SMTP_PASSWORD`.
    pub login: Option<(String, Secret)>,
    /// `ALERT_EMAIL_FROM`.
    pub from: String,
    /// `ALERT_EMAIL_TO`.
    pub to: Vec<String>,
}

/// Text messages.
#[derive(Debug, Clone)]
pub struct Sms {
    /// `TWILIO_BASE_URL`.
    pub base_url: String,
    /// `TWILIO_ACCOUNT_SID`.
    pub account: String,
    /// `TWILIO_AUTH_TOKEN`.
    pub token: Secret,
    /// `TWILIO_FROM`.
    pub from: String,
    /// `ALERT_SMS_TO`.
    pub to: Vec<String>,
}

/// A webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// `WEBHOOK_URL`; a secret, because who knows it may post there.
    pub url: Secret,
    /// `WEBHOOK_SECRET`: the key of the signature.
    pub secret: Option<Secret>,
}

const TWILIO: &str = "https://api.twilio.com";

/// Reads them all.
pub(super) fn read(values: &Values, faults: &mut Faults) -> AlertSettings {
    let email = email(values, faults);
    let sms = sms(values, faults);
    let webhook = webhook(values, faults);
    let set: Vec<Channel> = [
        email.as_ref().map(|_| Channel::Email),
        sms.as_ref().map(|_| Channel::Sms),
        webhook.as_ref().map(|_| Channel::Webhook),
    ]
    .into_iter()
    .flatten()
    .collect();
    let critical = channels(values, "ALERT_CRITICAL", &set, faults);
    // Nobody wants to be woken by a telephone for something that can wait.
    let milder: Vec<Channel> = set.iter().copied().filter(|channel| *channel != Channel::Sms).collect();
    let warning = match values.get("ALERT_WARNING") {
        Some(_) => channels(values, "ALERT_WARNING", &set, faults),
        None => milder,
    };
    let quiet = values.get("ALERT_QUIET_HOURS").and_then(|value| {
        faults.keep(QuietHours::parse(&value.text).ok_or_else(|| {
            value
                .fault(format_args!("\"{}\" is not a part of the day", *value.text))
                .hint("Write two times of the local clock, such as 22:00-07:00.")
        }))
    });
    let mut duration =
        |name, default: Duration| super::read::duration(values, name, faults).unwrap_or(default);
    let repeat = duration("ALERT_REPEAT", Duration::from_hours(24));
    let backup_age = duration("ALERT_BACKUP_AGE", Duration::from_hours(26));
    let backup_duration = values.get("ALERT_BACKUP_DURATION").and_then(|value| {
        faults.keep(parse_duration(&value.text).ok_or_else(|| {
            value
                .fault(format_args!("\"{}\" is not a duration", *value.text))
                .hint("Write such as 90m or 4h.")
        }))
    });
    let mut number = |name, least, most, default| {
        let value = values.get(name).and_then(|value: &Value| faults.keep(value.number(least, most)));
        value.unwrap_or(default)
    };
    AlertSettings {
        critical,
        warning,
        quiet,
        repeat,
        backup_age,
        backup_duration,
        size_percent: number("ALERT_SIZE_CHANGE", 1, 1000, 20),
        storage_percent: number("ALERT_STORAGE", 1, 100, 80),
        backlog: number("ALERT_ARCHIVER_BACKLOG", 1, 1_000_000, 16),
        quotas: quotas(values, faults),
        email,
        sms,
        webhook,
    }
}

fn quotas(values: &Values, faults: &mut Faults) -> Vec<(StoreName, u64)> {
    let places = [(StoreName::R2, "BACKUP_R2_QUOTA"), (StoreName::B2, "BACKUP_B2_QUOTA")];
    let found = places.into_iter().filter_map(|(store, name)| {
        let value = values.get(name)?;
        let size = parse_size(&value.text).filter(|size| *size > 0).ok_or_else(|| {
            value
                .fault(format_args!("\"{}\" is not a size", *value.text))
                .hint("Write bytes, or a whole number with K, M, G or T, such as 500G.")
        });
        Some((store, faults.keep(size)?))
    });
    found.collect()
}

/// A list of channels; without the setting, all that are set.
fn channels(values: &Values, name: &'static str, set: &[Channel], faults: &mut Faults) -> Vec<Channel> {
    let Some(value) = values.get(name) else { return set.to_vec() };
    let mut found = Vec::new();
    for word in list(value) {
        if word == "none" {
            continue;
        }
        match Channel::ALL.iter().copied().find(|channel| channel.as_str() == word) {
            Some(channel) if set.contains(&channel) => found.push(channel),
            Some(channel) => faults.add(
                value
                    .fault(format_args!("the channel {channel} is not set"))
                    .hint("The README's section \"Alerts\" says what each channel needs."),
            ),
            None => faults.add(
                value
                    .fault(format_args!("\"{word}\" is not a channel"))
                    .hint("The channels are email, sms and webhook, separated by commas; none: no channel."),
            ),
        }
    }
    found
}

/// The words between commas, each once.
fn list(value: &Value) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for word in value.text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if !found.iter().any(|known| known == word) {
            found.push(word.to_owned());
        }
    }
    found
}

/// All of these, if any of them is set; what is missing is a fault.
fn all<'a, const N: usize>(
    values: &'a Values,
    channel: Channel,
    names: [&'static str; N],
    faults: &mut Faults,
) -> Option<[&'a Value; N]> {
    let found = names.map(|name| values.get(name));
    let first = found.iter().flatten().next()?;
    let missing: Vec<&str> =
        names.iter().zip(&found).filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        faults.add(
            first
                .fault(format_args!("alerts by {channel} also need {}", missing.join(", ")))
                .hint(format!("Set what is missing, or unset all of it to do without {channel}.")),
        );
        return None;
    }
    let found: Vec<&Value> = found.into_iter().flatten().collect();
    found.try_into().ok()
}

fn email(values: &Values, faults: &mut Faults) -> Option<Email> {
    let [host, from, to] =
        all(values, Channel::Email, ["SMTP_HOST", "ALERT_EMAIL_FROM", "ALERT_EMAIL_TO"], faults)?;
    let tls = values.get("SMTP_TLS").and_then(|value| {
        faults.keep(match value.text.as_str() {
            "starttls" => Ok(SmtpTls::StartTls),
            "tls" => Ok(SmtpTls::Tls),
            "none" => Ok(SmtpTls::Off),
            other => Err(value
                .fault(format_args!("\"{other}\" is none of its words"))
                .hint("Write starttls, tls or none.")),
        })
    });
    let tls = tls.unwrap_or(SmtpTls::StartTls);
    if tls == SmtpTls::Off && !is_loopback(&host.text) {
        faults.add(
            host.fault("without TLS anybody on the way could read and change what is sent")
                .hint("Set SMTP_TLS to starttls or tls; none is for a mail server on this machine."),
        );
    }
    let default = match tls {
        SmtpTls::StartTls => 587,
        SmtpTls::Tls => 465,
        SmtpTls::Off => 25,
    };
    let port = values.get("SMTP_PORT").and_then(|value| faults.keep(value.number(1, 65_535)));
    let login = match (values.get("SMTP_USER"), values.get("SMTP_PASSWORD")) {
        (Some(user), Some(password)) => Some((user.text.to_string(), Secret::new(password.text.to_string()))),
        (None, None) => None,
        (Some(set), None) | (None, Some(set)) => {
            faults.add(
                set.fault("SMTP_USER and SMTP_PASSWORD belong together")
                    .hint("Set both of them, or neither."),
            );
            None
        }
    };
    for value in [from, to] {
        for address in list(value).iter().filter(|address| !is_address(address)) {
            faults.add(
                value
                    .fault(format_args!("\"{address}\" is not an address"))
                    .hint("Write name@host; several separated by commas."),
            );
        }
    }
    Some(Email {
        host: host.text.to_string(),
        port: port.map_or(default, |port| port as u16),
        tls,
        login,
        from: from.text.to_string(),
        to: list(to),
    })
}

fn is_address(text: &str) -> bool {
    let fine = |part: &str| {
        !part.is_empty() && !part.contains(|letter: char| letter.is_whitespace() || "<>,;\"".contains(letter))
    };
    text.rsplit_once('@').is_some_and(|(name, host)| fine(name) && fine(host))
}

fn sms(values: &Values, faults: &mut Faults) -> Option<Sms> {
    let names = ["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM", "ALERT_SMS_TO"];
    let [account, token, from, to] = all(values, Channel::Sms, names, faults)?;
    let base_url = match values.get("TWILIO_BASE_URL") {
        Some(value) => faults.keep(url(value)),
        None => Some(TWILIO.to_owned()),
    };
    if !account.text.chars().all(|letter| letter.is_ascii_alphanumeric()) {
        faults.add(account.fault("an account's SID holds letters and digits only"));
    }
    Some(Sms {
        base_url: base_url?.trim_end_matches('/').to_owned(),
        account: account.text.to_string(),
        token: Secret::new(token.text.to_string()),
        from: from.text.to_string(),
        to: list(to),
    })
}

fn webhook(values: &Values, faults: &mut Faults) -> Option<Webhook> {
    let secret = values.get("WEBHOOK_SECRET");
    let Some(value) = values.get("WEBHOOK_URL") else {
        if let Some(secret) = secret {
            faults.add(secret.fault("alerts by webhook also need WEBHOOK_URL"));
        }
        return None;
    };
    let url = faults.keep(url(value))?;
    Some(Webhook { url: Secret::new(url), secret: secret.map(|it| Secret::new(it.text.to_string())) })
}

/// An address of the web; without TLS on this machine only. The fault does not quote it: it may be a secret.
fn url(value: &Value) -> Result<String, Fault> {
    let (scheme, rest) = value.text.split_once("://").unwrap_or(("", ""));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if !matches!(scheme, "https" | "http") || host.is_empty() || rest.contains(char::is_whitespace) {
        return Err(value.fault("it is not the address of a service").hint("Write https://host/path."));
    }
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    if scheme == "http" && !is_loopback(host) {
        return Err(value
            .fault("without TLS anybody on the way could read and change what is sent")
            .hint("Write https://; plain http is for services on this machine."));
    }
    Ok(value.text.to_string())
}

/// Whether this is the machine itself.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

//! Asking services for their certificates, once a day each: by `watch`, which has the time.

use std::path::Path;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;

use super::attend::Place;
use crate::catalog::SeenCertificate;
use crate::config::{Settings, SmtpTls};
use crate::model::{SslMode, Timestamp};
use crate::plan::conditions::{Certificate, ends_soon};
use crate::system::certificate;
use crate::system::handshake::{Before, certificate_of};

/// How long a service has for each word.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long all of them have together.
const LIMIT: Duration = Duration::from_secs(15);
/// After so long one is asked again.
const AGAIN: TimeDelta = TimeDelta::hours(23);
/// The same for one that did not answer, or whose certificate ends soon: it may be made anew any moment.
const SOON: TimeDelta = TimeDelta::minutes(55);

/// A service that speaks TLS.
struct Service {
    place: String,
    host: String,
    port: u16,
    before: Before,
}

/// Asks those whose turn it is.
pub(in crate::command) async fn look(place: Place<'_>) -> anyhow::Result<()> {
    let services = services(place.settings);
    let known = place.catalog.certificates()?;
    let now = Utc::now();
    let is_due = |service: &&Service| {
        known.iter().find(|it| it.place == service.place).is_none_or(|it| must_be_asked(it, now))
    };
    let seen = ask(services.iter().filter(is_due), now).await;
    let places: Vec<&str> = services.iter().map(|service| service.place.as_str()).collect();
    if seen.is_empty() && known.iter().all(|it| places.contains(&it.place.as_str())) {
        return Ok(());
    }
    place.catalog.saw_certificates(&seen, &places)
}

/// Those that can be had now, without a catalog.
pub(in crate::command) async fn now(settings: &Settings) -> Vec<Certificate> {
    let seen = ask(services(settings).iter(), Utc::now()).await;
    seen.iter().filter_map(certificate).chain(of_client(settings)).collect()
}

async fn ask(services: impl Iterator<Item = &Service>, now: Timestamp) -> Vec<SeenCertificate> {
    let asked = services.map(|service| async move {
        let (host, port, before) = (service.host.clone(), service.port, service.before);
        let asking = tokio::task::spawn_blocking(move || certificate_of(&host, port, before, PATIENCE));
        let answer = match tokio::time::timeout(LIMIT, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("not within {} s", LIMIT.as_secs())),
        };
        SeenCertificate {
            place: service.place.clone(),
            asked_at: now,
            validity: answer.as_ref().ok().map(|it| (it.from, it.until)),
            error: answer.err(),
        }
    });
    join_all(asked).await
}

fn must_be_asked(seen: &SeenCertificate, now: Timestamp) -> bool {
    let ends = certificate(seen).is_some_and(|it| ends_soon(&it, now));
    let pause = if ends || seen.error.is_some() { SOON } else { AGAIN };
    // In the future: the clock has been put back.
    now - seen.asked_at >= pause || seen.asked_at > now
}

fn certificate(seen: &SeenCertificate) -> Option<Certificate> {
    let (_, until) = seen.validity?;
    Some(Certificate { of: seen.place.clone(), until })
}

/// All that are known: those of services that are set, and the one with which one logs in to the server.
pub(super) fn known(place: Place<'_>) -> anyhow::Result<Vec<Certificate>> {
    let services = services(place.settings);
    let is_set = |seen: &SeenCertificate| services.iter().any(|service| service.place == seen.place);
    let mut found: Vec<Certificate> =
        place.catalog.certificates()?.iter().filter(|seen| is_set(seen)).filter_map(certificate).collect();
    found.extend(of_client(place.settings));
    Ok(found)
}

/// The one with which one logs in to the server.
fn of_client(settings: &Settings) -> Option<Certificate> {
    let file = settings.postgres.sslcert.as_ref()?;
    let validity = certificate::of_file(file)?;
    Some(Certificate { of: file.display().to_string(), until: validity.until })
}

fn services(settings: &Settings) -> Vec<Service> {
    let https = |what: &str, url: &str| {
        let url = reqwest::Url::parse(url).ok().filter(|url| url.scheme() == "https")?;
        let (host, port) = (url.host_str()?.to_owned(), url.port_or_known_default()?);
        Some(Service { place: format!("{what} ({host}:{port})"), host, port, before: Before::Nothing })
    };
    let mut found: Vec<Service> = Vec::new();
    for cloud in &settings.clouds {
        found.extend(https(&format!("store {}", cloud.name), &cloud.endpoint));
    }
    if let Some(email) = settings.alerts.email.as_ref().filter(|email| email.tls != SmtpTls::Off) {
        let (host, port) = (email.host.clone(), email.port);
        let before = if email.tls == SmtpTls::Tls { Before::Nothing } else { Before::Smtp };
        found.push(Service { place: format!("the mail server ({host}:{port})"), host, port, before });
    }
    if let Some(webhook) = &settings.alerts.webhook {
        found.extend(https("the webhook", webhook.url.expose()));
    }
    let server = &settings.postgres;
    let host = server.host.as_ref().filter(|host| !Path::new(host).is_absolute());
    if let Some(host) = host.filter(|_| server.sslmode != SslMode::Disable) {
        let (host, port) = (host.clone(), server.port.unwrap_or(5432));
        found.push(Service {
            place: format!("the server ({host}:{port})"),
            host,
            port,
            before: Before::Postgres,
        });
    }
    found
}

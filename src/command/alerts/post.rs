//! What carries messages: the services of the settings, one channel at a time.

use crate::config::{Settings, SmtpTls};
use crate::model::Channel;
use crate::notify::email::{Email, Protection, Session};
use crate::notify::sms::Sms;
use crate::notify::webhook::Webhook;
use crate::notify::{Failure, Message};

/// One channel. Mail servers are connected to with the first mail, and once.
pub(super) struct Post {
    service: Service,
}

enum Service {
    None,
    Email(Email, Option<Box<Session>>),
    Sms(Sms),
    Webhook(Webhook),
}

impl Post {
    /// By the settings; nothing is asked yet.
    pub(super) fn new(settings: &Settings, channel: Channel) -> Self {
        let alerts = &settings.alerts;
        let service = match channel {
            Channel::Email => alerts.email.as_ref().map(|email| Service::Email(mail_server(email), None)),
            Channel::Sms => alerts.sms.clone().map(|sms| {
                let crate::config::Sms { base_url, account, token, from, to: _ } = sms;
                Service::Sms(Sms { base_url, account, token, from })
            }),
            Channel::Webhook => alerts.webhook.clone().map(|webhook| {
                let crate::config::Webhook { url, secret } = webhook;
                Service::Webhook(Webhook { url, secret })
            }),
        };
        Self { service: service.unwrap_or(Service::None) }
    }

    /// Sends a message to one recipient.
    pub(super) async fn send(&mut self, to: &str, message: &Message) -> Result<(), Failure> {
        match &mut self.service {
            Service::None => Err(Failure::Service("the channel is not set".to_owned())),
            Service::Sms(sms) => sms.send(to, message).await,
            Service::Webhook(webhook) => webhook.send(message).await,
            Service::Email(email, session) => {
                let open = match session {
                    Some(open) => open,
                    None => session.insert(Box::new(email.open().await?)),
                };
                let sent = open.send(to, message).await;
                if sent.as_ref().is_err_and(Failure::is_of_all) {
                    *session = None;
                }
                sent
            }
        }
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        if let Service::Email(_, Some(session)) = self.service {
            session.close().await;
        }
    }
}

fn mail_server(email: &crate::config::Email) -> Email {
    let protection = match email.tls {
        SmtpTls::StartTls => Protection::StartTls,
        SmtpTls::Tls => Protection::Tls,
        SmtpTls::Off => Protection::None,
    };
    let (host, port, login, from) = (email.host.clone(), email.port, email.login.clone(), email.from.clone());
    Email { host, port, protection, login, from }
}

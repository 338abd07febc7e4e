//! Mail over SMTP. Plain text, so that nothing in it is markup; headers are encoded by lettre.

use std::error::Error as _;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use super::{Message, PATIENCE, Sent, plain, together};
use crate::system::Secret;

/// Longer subjects are cut: mail readers show less.
const SUBJECT: usize = 150;

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// STARTTLS, and nothing without it.
    StartTls,
    /// TLS from the beginning.
    Tls,
    /// None: for this machine itself.
    None,
}

/// A mail server, and who sends to whom.
#[derive(Debug, Clone)]
pub struct Email {
    /// Its name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub protection: Protection,
    /// As whom one logs in.
    pub login: Option<(String, Secret)>,
    /// The sender.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
}

impl Email {
    /// Sends the message to each recipient by itself: one address that is refused must not keep it from the others.
    pub async fn send(&self, message: &Message) -> Result<Sent, String> {
        let transport = self.transport()?;
        let mut results = Vec::new();
        for to in &self.to {
            let sent = match self.compose(to, message) {
                // lettre's own limit is for connecting only.
                Ok(mail) => match tokio::time::timeout(PATIENCE, transport.send(mail)).await {
                    Ok(sent) => sent.map(|_| ()).map_err(|error| why(&error)),
                    Err(_) => Err(late()),
                },
                Err(error) => Err(error),
            };
            // Of a server that does not answer, the others need not be waited for in turn.
            let is_over = sent.as_ref().is_err_and(|error| !error.contains("refused the mail"));
            results.push(sent.map_err(|error| format!("{to}: {error}")));
            if is_over {
                break;
            }
        }
        together(results)
    }

    fn compose(&self, to: &str, message: &Message) -> Result<lettre::Message, String> {
        let mailbox = |text: &str| {
            text.parse::<Mailbox>()
                .map_err(|error| format!("\"{}\" is not an address: {error}", plain(text, 80)))
        };
        lettre::Message::builder()
            .from(mailbox(&self.from)?)
            .to(mailbox(to)?)
            .subject(plain(&message.subject, SUBJECT))
            .header(ContentType::TEXT_PLAIN)
            .body(message.text.clone())
            .map_err(|error| format!("compose the mail: {error}"))
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
        let tls =
            || TlsParameters::new_rustls(self.host.clone()).map_err(|error| format!("set up TLS: {error}"));
        let tls = match self.protection {
            Protection::StartTls => Tls::Required(tls()?),
            Protection::Tls => Tls::Wrapper(tls()?),
            Protection::None => Tls::None,
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host)
            .port(self.port)
            .tls(tls)
            .timeout(Some(PATIENCE));
        if let Some((user, password)) = &self.login {
            transport = transport.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
        }
        Ok(transport.build())
    }
}

fn late() -> String {
    format!("the server did not answer within {} s", PATIENCE.as_secs())
}

fn why(error: &lettre::transport::smtp::Error) -> String {
    let mut text = error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    if let Some(code) = error.status() {
        text = format!("the server refused the mail with code {code}: {text}");
    } else if error.is_timeout() {
        text = late();
    }
    plain(&text, 400)
}

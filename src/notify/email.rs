//! Mail over SMTP. Plain text, so that nothing in it is markup; headers are encoded by lettre.
//!
//! The commands are sent one by one and not by lettre's transport, because it matters who said no and when: a mail server
//! that refuses a recipient (RFC 5321, 4.2.1) has said something about that recipient alone, and one that has got the whole
//! mail and does not answer may have taken it.

use std::error::Error as _;
use std::time::Duration;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};

use super::{Failure, Message, PATIENCE, plain};
use crate::system::Secret;

/// Longer subjects are cut: mail readers show less.
const SUBJECT: usize = 150;
/// How long a server may think about a whole mail before it says whether it takes it. RFC 5321 (4.5.3.2.6) allows ten
/// minutes, which nobody would wait for.
const THINKING: Duration = Duration::from_secs(20);

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

/// A mail server, and who sends.
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
}

impl Email {
    /// Connects, and logs in if need be.
    pub async fn open(&self) -> Result<Session, Failure> {
        let tls = || {
            TlsParameters::new_rustls(self.host.clone())
                .map_err(|error| Failure::Service(format!("set up TLS: {error}")))
        };
        let wrapper = if self.protection == Protection::Tls { Some(tls()?) } else { None };
        let name = ClientId::default();
        let server = (self.host.as_str(), self.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(server, Some(PATIENCE), &name, wrapper, None);
        let mut connection = in_time(connecting).await?;
        if self.protection == Protection::StartTls {
            in_time(connection.starttls(tls()?, &name)).await?;
        }
        if let Some((user, password)) = &self.login {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            in_time(connection.auth(DEFAULT_MECHANISMS, &credentials)).await?;
        }
        Ok(Session { from: self.from.clone(), connection })
    }
}

/// A connection to the mail server, for any number of mails.
pub struct Session {
    from: String,
    connection: AsyncSmtpConnection,
}

impl Session {
    /// Sends the message to one address. After a [`Failure`] that is of all, the session is of no use any more.
    pub async fn send(&mut self, to: &str, message: &Message) -> Result<(), Failure> {
        let mail = compose(&self.from, to, message)?;
        let sent = self.hand_over(&mail).await;
        // What was begun is taken back, so that the next one can be; who can't even do that can't do anything.
        if matches!(sent, Err(Failure::NotNow(_) | Failure::Refused(_))) {
            in_time(self.connection.command(Rset)).await?;
        }
        sent
    }

    async fn hand_over(&mut self, mail: &lettre::Message) -> Result<(), Failure> {
        let envelope = mail.envelope();
        let mut options = Vec::new();
        let mut addresses = envelope.to().iter().chain(envelope.from());
        if addresses.any(|address| !address.to_string().is_ascii()) {
            if !self.connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(Failure::Refused("the mail server takes no such address (SMTPUTF8)".to_owned()));
            }
            options.push(MailParameter::SmtpUtfEight);
        }
        // What it has against the sender it has against every mail.
        in_time(self.connection.command(Mail::new(envelope.from().cloned(), options))).await?;
        for recipient in envelope.to() {
            let answer = self.connection.command(Rcpt::new(recipient.clone(), Vec::new()));
            within(PATIENCE, answer).await.map_err(|error| of_this_one(error, Failure::Service))?;
        }
        within(PATIENCE, self.connection.command(Data))
            .await
            .map_err(|error| of_this_one(error, Failure::Service))?;
        within(THINKING, self.connection.message(&mail.formatted()))
            .await
            .map_err(|error| of_this_one(error, Failure::Unanswered))?;
        Ok(())
    }

    /// Says goodbye; nothing depends on it.
    pub async fn close(mut self) {
        let _ = within(PATIENCE, self.connection.quit()).await;
    }
}

fn compose(from: &str, to: &str, message: &Message) -> Result<lettre::Message, Failure> {
    let mailbox = |text: &str| {
        text.parse::<Mailbox>().map_err(|error| format!("\"{}\" is not an address: {error}", plain(text, 80)))
    };
    let host = from.rsplit_once('@').map_or("localhost", |(_, host)| host);
    lettre::Message::builder()
        .from(mailbox(from).map_err(Failure::Service)?)
        .to(mailbox(to).map_err(Failure::Refused)?)
        .subject(plain(&message.subject, SUBJECT))
        // The same when it is sent again: many mail servers and readers show it once then.
        .message_id(Some(format!("<{}@{host}>", message.id)))
        .header(ContentType::TEXT_PLAIN)
        .body(message.text.clone())
        .map_err(|error| Failure::Service(format!("compose the mail: {error}")))
}

/// Why an exchange with the server failed.
enum Trouble {
    /// The server said no.
    Answer(Error),
    /// It did not say anything.
    Silence(String),
}

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if error.is_timeout() => Err(Trouble::Silence(late(limit))),
        Ok(Err(error)) if error.status().is_none() => Err(Trouble::Silence(why(&error))),
        Ok(Err(error)) => Err(Trouble::Answer(error)),
        Err(_) => Err(Trouble::Silence(late(limit))),
    }
}

/// For what concerns every mail.
async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    within(PATIENCE, asked).await.map_err(|trouble| match trouble {
        Trouble::Answer(error) => Failure::Service(why(&error)),
        Trouble::Silence(text) => Failure::Service(text),
    })
}

/// For what concerns one recipient. 421 is said by a server that is about to leave.
fn of_this_one(trouble: Trouble, silence: fn(String) -> Failure) -> Failure {
    match trouble {
        Trouble::Silence(text) => silence(text),
        Trouble::Answer(error) if error.status().is_some_and(|code| code.to_string() == "421") => {
            Failure::Service(why(&error))
        }
        Trouble::Answer(error) if error.is_permanent() => Failure::Refused(why(&error)),
        Trouble::Answer(error) => Failure::NotNow(why(&error)),
    }
}

fn late(limit: Duration) -> String {
    format!("the server did not answer within {} s", limit.as_secs())
}

fn why(error: &Error) -> String {
    let mut text = error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    if let Some(code) = error.status() {
        text = format!("the server refused the mail with code {code}: {text}");
    }
    plain(&text, 400)
}

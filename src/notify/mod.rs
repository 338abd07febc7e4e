//! Telling people: one message through one channel to one recipient, within a time limit.
//!
//! What a message says is decided by the command; here it is put into the form of the channel. Whatever came from a
//! database or a person is made harmless for that form.

pub mod email;
pub mod sms;
pub mod webhook;

use std::time::Duration;

/// How long one exchange with a service may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long connecting may take. Less than the whole: what was never connected to has got nothing for sure.
const CONNECT: Duration = Duration::from_secs(5);

/// What is to be said.
#[derive(Debug, Clone)]
pub struct Message {
    /// What tells it from every other one, and is the same when it is sent again: letters, digits, `.` and `-`.
    pub id: String,
    /// In one line.
    pub subject: String,
    /// In full.
    pub text: String,
    /// For programs.
    pub document: serde_json::Value,
}

/// Why a message has not arrived at its recipient, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The service can't be reached, or refuses whoever sends: nobody gets anything through it now.
    Service(String),
    /// Not now, and only this one.
    NotNow(String),
    /// Never: this recipient is not there, or does not want it.
    Refused(String),
    /// It was handed over, and whether it was taken was not said in time.
    Unanswered(String),
}

impl Failure {
    /// The reason.
    pub fn reason(&self) -> &str {
        match self {
            Self::Service(text) | Self::NotNow(text) | Self::Refused(text) | Self::Unanswered(text) => text,
        }
    }

    /// Whether there is no sense in trying the next recipient at once.
    pub fn is_of_all(&self) -> bool {
        matches!(self, Self::Service(_) | Self::Unanswered(_))
    }
}

/// Text without line ends and other control characters, at most so many characters.
pub fn plain(text: &str, most: usize) -> String {
    let mut plain: String =
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(most).collect();
    if text.chars().count() > most {
        plain.pop();
        plain.push('…');
    }
    plain
}

/// A client for HTTP that asks no proxy for this machine itself and follows nobody elsewhere.
fn client(url: &reqwest::Url) -> Result<reqwest::Client, String> {
    use crate::system::https::{authorities, is_loopback, tls};
    let roots = if url.scheme() == "https" { authorities()? } else { rustls::RootCertStore::empty() };
    let mut http = reqwest::Client::builder()
        .timeout(PATIENCE)
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none())
        .use_preconfigured_tls(tls(roots)?);
    if is_loopback(url) {
        http = http.no_proxy();
    }
    http.build().map_err(|error| format!("make the HTTP client: {}", crate::system::https::causes(&error)))
}

/// Why a request failed, without the address: it may be a secret. What was sent may have been understood.
fn why(error: reqwest::Error) -> Failure {
    let was_sent = !error.is_connect() && !error.is_builder();
    let text = if error.is_timeout() && error.is_connect() {
        format!("not connected within {} s", CONNECT.as_secs())
    } else if error.is_timeout() {
        format!("no answer within {} s", PATIENCE.as_secs())
    } else {
        crate::system::https::causes(&error.without_url())
    };
    if was_sent { Failure::Unanswered(text) } else { Failure::Service(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_a_database_stays_in_its_line() {
        assert_eq!(plain("shop\r\nBcc: everybody@example.com", 80), "shop  Bcc: everybody@example.com");
        assert_eq!(plain("ääääää", 4), "äää…");
        assert_eq!(plain("four", 4), "four");
    }
}

//! Telling people: one message through one channel, to each of its recipients, within a time limit.
//!
//! What a message says is decided by the command; here it is put into the form of the channel. Whatever came from a
//! database or a person is made harmless for that form.

pub mod email;
pub mod sms;
pub mod webhook;

use std::time::Duration;

/// How long one exchange with a service may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be said.
#[derive(Debug, Clone)]
pub struct Message {
    /// In one line.
    pub subject: String,
    /// In full.
    pub text: String,
    /// For programs.
    pub document: serde_json::Value,
}

/// How a message got on: it has arrived with all of them, with some, or with nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// With everybody.
    ToAll,
    /// With some; the others were refused, which sending it again would not change for the better.
    ToSome(String),
}

/// Puts the answers of single recipients together.
fn together(results: Vec<Result<(), String>>) -> Result<Sent, String> {
    let all = results.len();
    let failed: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() {
        return Ok(Sent::ToAll);
    }
    let text = failed.join("; ");
    if failed.len() == all { Err(text) } else { Ok(Sent::ToSome(text)) }
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
        .connect_timeout(PATIENCE)
        .redirect(reqwest::redirect::Policy::none())
        .use_preconfigured_tls(tls(roots)?);
    if is_loopback(url) {
        http = http.no_proxy();
    }
    http.build().map_err(|error| format!("make the HTTP client: {}", why(error)))
}

/// Why a request failed, without the address: it may be a secret.
fn why(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", PATIENCE.as_secs());
    }
    crate::system::https::causes(&error.without_url())
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

    #[test]
    fn a_message_that_some_got_is_not_sent_again() {
        let no = |who: &str| Err(format!("{who}: refused"));
        assert_eq!(together(vec![Ok(()), Ok(())]), Ok(Sent::ToAll));
        assert_eq!(together(vec![Ok(()), no("b")]), Ok(Sent::ToSome("b: refused".to_owned())));
        assert_eq!(together(vec![no("a"), no("b")]), Err("a: refused; b: refused".to_owned()));
    }
}

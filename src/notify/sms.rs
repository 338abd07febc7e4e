//! Text messages over the HTTP interface of Twilio, which others offer too: a form with `To`, `From` and `Body`, posted
//! with the account's name and token.

use super::{Failure, Message, client, plain, why};
use crate::system::Secret;

/// Two parts of a text message; more would be paid for and not be read.
const LONGEST: usize = 300;

/// The service, and who sends.
#[derive(Debug, Clone)]
pub struct Sms {
    /// Its address without a path.
    pub base_url: String,
    /// The account.
    pub account: String,
    /// Its token.
    pub token: Secret,
    /// The sender's number.
    pub from: String,
}

/// What Twilio answers about the recipient's number (its documentation, "Error and Warning Dictionary"): it is none, is not
/// reached from here, has unsubscribed, takes no text messages. Another 400 may be about anything; it keeps nobody else from
/// being tried.
const OF_THE_RECIPIENT: [i64; 8] = [21211, 21214, 21217, 21408, 21604, 21610, 21612, 21614];

impl Sms {
    /// Sends the message's subject to a number.
    pub async fn send(&self, to: &str, message: &Message) -> Result<(), Failure> {
        let url = format!("{}/2010-04-01/Accounts/{}/Messages.json", self.base_url, self.account);
        let url = reqwest::Url::parse(&url)
            .map_err(|error| Failure::Service(format!("TWILIO_BASE_URL: {error}")))?;
        let http = client(&url).map_err(Failure::Service)?;
        let body = plain(&message.subject, LONGEST);
        let form = [("To", to), ("From", self.from.as_str()), ("Body", body.as_str())];
        let request = http.post(url).basic_auth(&self.account, Some(self.token.expose())).form(&form);
        let response = request.send().await.map_err(why)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let answer = response.text().await.unwrap_or_default();
        let text = format!("the service answered {status}: {}", reason(&answer));
        Err(match status.as_u16() {
            400 if code(&answer).is_some_and(|code| OF_THE_RECIPIENT.contains(&code)) => {
                Failure::Refused(text)
            }
            401 | 403 | 500.. => Failure::Service(text),
            _ => Failure::NotNow(text),
        })
    }
}

fn code(answer: &str) -> Option<i64> {
    serde_json::from_str::<serde_json::Value>(answer).ok()?.get("code")?.as_i64()
}

/// The sentence in Twilio's answer; of another answer, its beginning.
fn reason(text: &str) -> String {
    let document: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let message = document.as_ref().and_then(|it| it.get("message")).and_then(serde_json::Value::as_str);
    plain(message.unwrap_or(text).trim(), 200)
}

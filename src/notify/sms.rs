//! Text messages over the HTTP interface of Twilio, which others offer too: a form with `To`, `From` and `Body`, posted
//! with the account's name and token.

use super::{Message, Sent, client, plain, together, why};
use crate::system::Secret;

/// Two parts of a text message; more would be paid for and not be read.
const LONGEST: usize = 300;

/// The service, and who sends to whom.
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
    /// The recipients' numbers.
    pub to: Vec<String>,
}

impl Sms {
    /// Sends the message's subject to each number.
    pub async fn send(&self, message: &Message) -> Result<Sent, String> {
        let url = format!("{}/2010-04-01/Accounts/{}/Messages.json", self.base_url, self.account);
        let url = reqwest::Url::parse(&url).map_err(|error| format!("TWILIO_BASE_URL: {error}"))?;
        let http = client(&url)?;
        let body = plain(&message.subject, LONGEST);
        let mut results = Vec::new();
        for to in &self.to {
            let form = [("To", to.as_str()), ("From", self.from.as_str()), ("Body", body.as_str())];
            let request =
                http.post(url.clone()).basic_auth(&self.account, Some(self.token.expose())).form(&form);
            let sent = match request.send().await {
                Err(error) => Err(why(error)),
                Ok(response) if response.status().is_success() => Ok(()),
                Ok(response) => {
                    let status = response.status();
                    let text = response.text().await.unwrap_or_default();
                    Err(format!("the service answered {status}: {}", reason(&text)))
                }
            };
            results.push(sent.map_err(|error| format!("{to}: {error}")));
        }
        together(results)
    }
}

/// The sentence in Twilio's answer; of another answer, its beginning.
fn reason(text: &str) -> String {
    let document: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let message = document.as_ref().and_then(|it| it.get("message")).and_then(serde_json::Value::as_str);
    plain(message.unwrap_or(text).trim(), 200)
}

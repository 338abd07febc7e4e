//! A request with a JSON document, signed: `X-Pgkeep-Signature: sha256=<HMAC-SHA256 of the body, in hex>`. The field
//! `text` is what Slack and those that imitate it show.

use ring::hmac;

use super::{Failure, Message, client, plain, why};
use crate::system::Secret;

/// The header with the signature.
pub const SIGNATURE: &str = "X-Pgkeep-Signature";

/// Where to, and how it is signed.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The address, which may be a secret.
    pub url: Secret,
    /// The key of the signature.
    pub secret: Option<Secret>,
}

impl Webhook {
    /// Posts the message's document with its text. Its field `id` is the same when it is posted again.
    pub async fn send(&self, message: &Message) -> Result<(), Failure> {
        let url = reqwest::Url::parse(self.url.expose())
            .map_err(|error| Failure::Service(format!("WEBHOOK_URL: {error}")))?;
        let mut document = message.document.clone();
        document["text"] = escaped(&message.text).into();
        document["id"] = message.id.as_str().into();
        let body = document.to_string();
        let http = client(&url).map_err(Failure::Service)?;
        let mut request = http.post(url).header("Content-Type", "application/json");
        if let Some(secret) = &self.secret {
            request = request.header(SIGNATURE, signature(secret.expose(), body.as_bytes()));
        }
        let response = request.body(body).send().await.map_err(why)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let text = response.text().await.unwrap_or_default();
        Err(Failure::Service(format!("the service answered {status}: {}", plain(text.trim(), 200))))
    }
}

/// What proves to the receiver that the body is from somebody who knows the key.
pub fn signature(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("sha256={}", hex::encode(hmac::sign(&key, body)))
}

/// The three characters of Slack's markup (its documentation, "Formatting text for app surfaces"): else the name of a
/// tenant could call everybody to a channel.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_rfc_4231() {
        let found = signature("Jefe", b"what do ya want for nothing?");
        let known = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(found, known);
    }

    #[test]
    fn a_tenants_name_is_no_markup() {
        assert_eq!(escaped("<!channel> & <b>"), "&lt;!channel&gt; &amp; &lt;b&gt;");
    }
}

//! One request: signed, sent, answered within its time, and read whole.
//!
//! The signature is made by rust-s3. Its own requests are not used: they have no limit for connecting, drop the
//! headers of refusals (`Retry-After`, `Date`), and do not percent-encode upload identifiers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, RANGE, USER_AGENT,
};
use reqwest::{Method, Response, Url};
use rustls::RootCertStore;
use s3::signing;

use super::answer::{self, Answer, Trouble};
use super::{Limits, S3Place};
use crate::store::{Part, StoreErrorKind};
use crate::system::Secret;
use crate::system::https::{authorities, causes, is_loopback, tls};

/// SHA-256 of nothing.
const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What a body is handed to the connection by, so that its progress is seen.
const PIECE: usize = 64 * 1024;

/// A document that is longer than this is none of S3's: a list of 1,000 keys of 1,024 escaped characters has less.
const LONGEST_DOCUMENT: u64 = 32 * 1024 * 1024;

/// What the system may have taken of a body without having sent it (`tcp_wmem`), and a slow link's bytes per second: so
/// long it may take until the end of a body that seems to be sent has gone.
const BUFFERED: u64 = 4 * 1024 * 1024;
const SLOW_LINK: u64 = 64 * 1024;

/// Below this many bytes per second a request is given up, whether it stands still or not.
const SLOWEST: u64 = 16 * 1024;

/// What is asked of the store.
#[derive(Default)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Empty: the bucket itself.
    pub(super) key: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    /// The first and the last byte asked for.
    pub(super) range: Option<(u64, u64)>,
    pub(super) body: Option<&'a Part>,
    /// Some answers take the store minutes of work, before which it says nothing.
    pub(super) is_slow: bool,
    /// Whether the body's MD5 is sent with it: some requests are refused without.
    pub(super) has_md5: bool,
}

/// Whoever talks to one bucket.
pub(super) struct Client {
    http: reqwest::Client,
    /// Ends in `/`.
    bucket: String,
    host: String,
    region: s3::Region,
    access_key: String,
    secret_key: Secret,
    limits: Limits,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl Client {
    /// Makes the client; asks nothing of the store. The error is a sentence about the endpoint.
    pub(super) fn new(place: S3Place, limits: Limits) -> Result<Self, String> {
        let url = endpoint(&place)?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err("the endpoint names no host".to_owned()),
        };
        let mut http = reqwest::Client::builder()
            .connect_timeout(limits.connect)
            // A signed request is for this host; to follow it elsewhere would only hide a wrong endpoint.
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_keepalive(Duration::from_secs(30));
        if is_loopback(&url) {
            http = http.no_proxy();
        }
        // Reading this machine's authorities takes milliseconds, which plain http need not spend: then, nobody is trusted.
        let roots = if url.scheme() == "https" { authorities()? } else { RootCertStore::empty() };
        http = http.use_preconfigured_tls(tls(roots)?);
        let bucket = format!("{}/{}/", url.as_str().trim_end_matches('/'), place.bucket);
        let region = s3::Region::Custom { region: place.region, endpoint: place.endpoint };
        Ok(Self {
            http: http.build().map_err(|error| format!("make the HTTP client: {}", causes(&error)))?,
            bucket,
            host,
            region,
            access_key: place.access_key,
            secret_key: place.secret_key,
            limits,
        })
    }

    /// Where a key lies.
    pub(super) fn locate(&self, key: &str) -> String {
        format!("{}{key}", self.bucket)
    }

    /// Sends the request and reads the answer to its end; an answer that is a refusal is an error.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Answer, Trouble> {
        let sent = request.body.map_or(0, |body| body.bytes().len() as u64);
        let length = sent + request.range.map_or(0, |(first, last)| last - first + 1);
        let idle = if request.is_slow { self.limits.idle * 5 } else { self.limits.idle };
        let idle = idle + Duration::from_secs(sent.min(BUFFERED) / SLOW_LINK);
        let total = idle + self.limits.total + Duration::from_secs(length / SLOWEST);
        let progress = Arc::new(Progress::begin());
        tokio::select! {
            answer = self.exchange(request, &progress) => answer,
            () = progress.stalled(idle) => {
                Err(Trouble::new(StoreErrorKind::Timeout, format!("nothing has moved for {} s", idle.as_secs_f32())))
            }
            () = tokio::time::sleep(total) => {
                Err(Trouble::new(StoreErrorKind::Timeout, format!("not done after {} s", total.as_secs())))
            }
        }
    }

    async fn exchange(&self, request: Request<'_>, progress: &Arc<Progress>) -> Result<Answer, Trouble> {
        let limit =
            request.range.map_or(LONGEST_DOCUMENT, |(first, last)| (last - first + 1).max(LONGEST_DOCUMENT));
        let is_head = request.method == Method::HEAD;
        let sent = self.prepare(request, progress)?.send().await;
        let response = sent.map_err(|error| transport(&error))?;
        progress.moved();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = if is_head { Vec::new() } else { read(response, limit, progress).await? };
        answer::judge(Answer { status, headers, body })
    }

    fn prepare(
        &self,
        request: Request<'_>,
        progress: &Arc<Progress>,
    ) -> Result<reqwest::RequestBuilder, Trouble> {
        let url = self.url(request.key, request.query)?;
        let sha256 = request.body.map_or(NOTHING, Part::sha256);
        let mut headers = HeaderMap::new();
        if let Some((first, last)) = request.range {
            headers.insert(RANGE, header(&format!("bytes={first}-{last}"))?);
        }
        if let Some(body) = request.body.filter(|_| request.has_md5) {
            let sum = hex::decode(body.md5()).map_err(|error| Trouble::bug(error.to_string()))?;
            headers.insert(HeaderName::from_static("content-md5"), header(&STANDARD.encode(sum))?);
        }
        self.sign(&request.method, &url, &mut headers, sha256)?;
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("pgkeep/", env!("CARGO_PKG_VERSION"))));
        let has_body = request.method == Method::PUT || request.method == Method::POST;
        let builder = self.http.request(request.method, url);
        let Some(bytes) = request.body.map(|body| body.bytes().clone()) else {
            if has_body {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            return Ok(builder.headers(headers));
        };
        // Said beforehand: without it the body would go in chunks, which R2 and B2 refuse.
        headers.insert(CONTENT_LENGTH, header(&bytes.len().to_string())?);
        let progress = Arc::clone(progress);
        let (pace, length) = (self.limits.pace, bytes.len());
        let pieces = stream::unfold((bytes, progress, None), move |(mut rest, progress, begun)| async move {
            let begun = begun.unwrap_or_else(tokio::time::Instant::now);
            if let Some(pace) = pace {
                let due = (length - rest.len()) as f64 / pace as f64;
                tokio::time::sleep_until(begun + Duration::from_secs_f64(due)).await;
            }
            progress.moved();
            (!rest.is_empty()).then(|| {
                let piece = rest.split_to(PIECE.min(rest.len()));
                (Ok::<_, std::io::Error>(piece), (rest, progress, Some(begun)))
            })
        });
        Ok(builder.headers(headers).body(reqwest::Body::wrap_stream(pieces)))
    }

    fn url(&self, key: &str, query: &[(&str, &str)]) -> Result<Url, Trouble> {
        let mut text = format!("{}{}", self.bucket, signing::uri_encode(key, false));
        if key.is_empty() {
            text.pop();
        }
        for (n, (name, value)) in query.iter().enumerate() {
            text.push(if n == 0 { '?' } else { '&' });
            // Every character but the harmless: the identifiers of uploads hold `+`, `/` and `=`.
            text.push_str(name);
            text.push('=');
            text.push_str(&signing::uri_encode(value, true));
        }
        Url::parse(&text).map_err(|error| Trouble::bug(format!("make the URL {text}: {error}")))
    }

    /// Signature version 4, by headers: a signature in the URL would show up in logs of proxies and in errors.
    fn sign(&self, method: &Method, url: &Url, headers: &mut HeaderMap, sha256: &str) -> Result<(), Trouble> {
        let now = s3::utils::now_utc();
        let date = chrono::DateTime::from_timestamp(now.unix_timestamp(), 0)
            .ok_or_else(|| Trouble::bug("this machine's date cannot be written down".to_owned()))?;
        headers.insert(HOST, header(&self.host)?);
        headers.insert(HeaderName::from_static("x-amz-content-sha256"), header(sha256)?);
        headers.insert(
            HeaderName::from_static("x-amz-date"),
            header(&date.format("%Y%m%dT%H%M%SZ").to_string())?,
        );
        let bug = |error: s3::error::S3Error| Trouble::bug(format!("sign the request: {error}"));
        let canonical = signing::canonical_request(method.as_str(), url, headers, sha256).map_err(bug)?;
        let text = signing::string_to_sign(&now, &self.region, &canonical).map_err(bug)?;
        let key = signing::signing_key(&now, self.secret_key.expose(), &self.region, "s3").map_err(bug)?;
        let signature =
            ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), text.as_bytes());
        let names = signing::signed_header_string(headers);
        let authorization = signing::authorization_header(
            &self.access_key,
            &now,
            &self.region,
            &names,
            &hex::encode(signature.as_ref()),
        );
        headers.insert(AUTHORIZATION, header(&authorization.map_err(bug)?)?);
        Ok(())
    }
}

/// Checks the endpoint: https, or http to this machine; nothing that would not be sent as it stands.
fn endpoint(place: &S3Place) -> Result<Url, String> {
    let text = &place.endpoint;
    let url = Url::parse(text).map_err(|error| format!("the endpoint {text:?} is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the endpoint holds a name or password; these have settings of their own".to_owned());
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => {
            return Err(format!("the endpoint {text} is plain http, which is allowed to this machine only"));
        }
        other => return Err(format!("the endpoint's scheme is {other}, not https")),
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("the endpoint {text} has more than a host, a port and a path"));
    }
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if place.bucket.is_empty() || !place.bucket.bytes().all(fine) || place.bucket.starts_with('.') {
        return Err(format!("{:?} cannot be a bucket's name", place.bucket));
    }
    Ok(url)
}

fn header(text: &str) -> Result<HeaderValue, Trouble> {
    HeaderValue::from_str(text).map_err(|_| {
        Trouble::new(
            StoreErrorKind::Credentials,
            "the access key holds characters that no key has".to_owned(),
        )
    })
}

/// Reads the body to its end. Its length is checked against what the store announced.
async fn read(mut response: Response, limit: u64, progress: &Progress) -> Result<Vec<u8>, Trouble> {
    let announced = response.content_length();
    let mut body = Vec::with_capacity(announced.unwrap_or(0).min(limit) as usize);
    while let Some(piece) = response.chunk().await.map_err(|error| transport(&error))? {
        progress.moved();
        body.extend_from_slice(&piece);
        if body.len() as u64 > limit {
            return Err(Trouble::new(
                StoreErrorKind::Broken,
                format!("the answer has more than {limit} bytes"),
            ));
        }
    }
    match announced {
        Some(length) if length != body.len() as u64 => Err(Trouble::new(
            StoreErrorKind::Broken,
            format!("the answer broke off after {} of {length} bytes", body.len()),
        )),
        _ => Ok(body),
    }
}

/// When something last moved on the connection.
struct Progress {
    begun: Instant,
    last: AtomicU64,
}

impl Progress {
    fn begin() -> Self {
        Self { begun: Instant::now(), last: AtomicU64::new(0) }
    }

    fn moved(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Ends when nothing has moved for so long.
    async fn stalled(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let still = self.begun.elapsed().saturating_sub(last);
            if still >= limit {
                return;
            }
            tokio::time::sleep(limit.saturating_sub(still)).await;
        }
    }
}

/// What a failure on the way means.
fn transport(error: &reqwest::Error) -> Trouble {
    let text = causes(error);
    let kind = if text.contains("certificate") {
        StoreErrorKind::Untrusted
    } else if error.is_timeout() {
        StoreErrorKind::Timeout
    } else if error.is_connect() {
        StoreErrorKind::Unreachable
    } else {
        StoreErrorKind::Broken
    };
    Trouble::new(kind, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::StoreName;

    fn place(endpoint: &str) -> S3Place {
        S3Place {
            name: StoreName::R2,
            endpoint: endpoint.to_owned(),
            region: "auto".to_owned(),
            bucket: "b".to_owned(),
            access_key: "key".to_owned(),
            secret_key: Secret::new("never shown".to_owned()),
            keeps_versions: false,
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for endpoint in
            ["http://127.0.0.1:9000", "http://localhost", "http://[::1]:1", "https://s3.example.com/x/"]
        {
            assert!(Client::new(place(endpoint), Limits::default()).is_ok(), "{endpoint}");
        }
        for endpoint in [
            "http://10.0.0.1",
            "http://127.0.0.1.example.com",
            "ftp://localhost",
            "s3.example.com",
            "https://u:p@h",
        ] {
            assert!(Client::new(place(endpoint), Limits::default()).is_err(), "{endpoint}");
        }
    }

    #[test]
    fn no_debug_output_holds_the_secret() {
        let place = place("https://s3.example.com");
        let client = Client::new(place.clone(), Limits::default()).unwrap();
        assert!(!format!("{place:?} {client:?}").contains("never shown"));
    }

    #[test]
    fn hostile_upload_identifiers_are_encoded() {
        let client = Client::new(place("https://s3.example.com"), Limits::default()).unwrap();
        let url = client.url("a/b", &[("uploadId", "+/= &?#%")]).unwrap();
        assert_eq!(url.as_str(), "https://s3.example.com/b/a/b?uploadId=%2B%2F%3D%20%26%3F%23%25");
    }
}

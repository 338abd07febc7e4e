//! What an answer means: by its status, its headers and the code in its body.
//!
//! Source of the codes: "Error responses" of the Amazon S3 API reference, and what R2, B2 and Ceph answer in addition.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{CONTENT_RANGE, DATE, ETAG, HeaderMap, RETRY_AFTER};

use super::xml::Element;
use crate::store::StoreErrorKind;

/// Clocks farther apart than this are the likely cause of a refusal. The services allow 15 minutes; nobody whose clock
/// is kept is off by five.
const CLOCK: TimeDelta = TimeDelta::minutes(5);

/// An answer that was read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why a request did not do what it should.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) kind: StoreErrorKind,
    pub(super) cause: String,
    /// S3's code, if it gave one.
    pub(super) code: String,
    /// The answer's status; none: there was no answer.
    pub(super) status: Option<u16>,
}

impl Trouble {
    pub(super) fn new(kind: StoreErrorKind, cause: String) -> Self {
        Self { kind, cause, code: String::new(), status: None }
    }

    /// Something that cannot happen.
    pub(super) fn bug(cause: String) -> Self {
        Self::new(StoreErrorKind::Failed, cause)
    }

    /// An answer that is not what S3 answers.
    pub(super) fn broken(cause: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Broken, cause.into())
    }
}

impl Answer {
    pub(super) fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The object's or part's `ETag` without its quotes.
    pub(super) fn etag(&self) -> Option<&str> {
        self.header(ETAG)
            .map(|tag| tag.trim_start_matches("W/").trim_matches('"'))
            .filter(|tag| !tag.is_empty())
    }

    /// Whether `ETag`s are MD5 sums: they are not of what the service encrypted under keys of its key service.
    pub(super) fn etag_is_md5(&self) -> bool {
        !self.header("x-amz-server-side-encryption").is_some_and(|method| method.starts_with("aws:kms"))
            && self.header("x-amz-server-side-encryption-customer-algorithm").is_none()
    }

    /// First byte, last byte and the object's size, of the bytes in an answer to a range.
    pub(super) fn content_range(&self) -> Option<(u64, u64, u64)> {
        let (range, total) = self.header(CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
    }

    /// The document in the body.
    pub(super) fn document(&self, root: &str) -> Result<Element, Trouble> {
        Element::parse(&self.body, root).map_err(Trouble::broken)
    }
}

/// Lets an answer pass that is no refusal.
pub(super) fn judge(answer: Answer) -> Result<Answer, Trouble> {
    let is_success = (200..300).contains(&answer.status);
    // Completing an upload, and some services when they fail late: status 200, and the error in the body. Bytes of an
    // object, which come with 206, may look like anything.
    if is_success && (answer.status == 206 || !looks_like_error(&answer.body)) {
        return Ok(answer);
    }
    let said = Element::parse_any(&answer.body).ok().filter(|document| document.name() == "Error");
    let text =
        |name: &str| said.as_ref().and_then(|error| error.text(name)).unwrap_or_default().trim().to_owned();
    let (code, message) = (text("Code"), text("Message"));
    let skew = skew(&answer.headers, Utc::now());
    let kind = kind(answer.status, &code, &message, skew, &answer.headers);
    let mut cause = format!("HTTP {}", answer.status);
    for part in [&code, &message] {
        if !part.is_empty() {
            cause = format!("{cause}, {}", shortened(part));
        }
    }
    if kind == StoreErrorKind::Clock {
        cause = format!("{}: {cause}", describe_skew(skew));
    }
    Err(Trouble { kind, cause, code, status: Some(answer.status) })
}

/// What a code means that stands in an answer that is no refusal as a whole.
pub(super) fn of_code(code: &str, message: &str) -> Trouble {
    let status = match code {
        "AccessDenied" => 403,
        "InternalError" => 500,
        "SlowDown" | "ServiceUnavailable" => 503,
        _ => 400,
    };
    let kind = kind(status, code, message, None, &HeaderMap::new());
    let cause = format!("{}, {}", shortened(code), shortened(message));
    Trouble { kind, cause, code: code.to_owned(), status: None }
}

/// Whether the document's root is `<Error>`, however much of it has come.
fn looks_like_error(body: &[u8]) -> bool {
    let beginning = String::from_utf8_lossy(&body[..body.len().min(256)]);
    // Behind `<?xml ...?>`, which is no element. Deeper down there may be errors that are not the answer's own.
    let mut elements = beginning.split('<').skip(1).filter(|rest| rest.starts_with(char::is_alphabetic));
    elements.next().is_some_and(|root| root.starts_with("Error>"))
}

fn kind(
    status: u16,
    code: &str,
    message: &str,
    skew: Option<TimeDelta>,
    headers: &HeaderMap,
) -> StoreErrorKind {
    let off = skew.is_some_and(|skew| skew.abs() > CLOCK);
    match (status, code) {
        (_, "NoSuchKey") => StoreErrorKind::Absent,
        (_, "NoSuchBucket") => StoreErrorKind::NoBucket,
        (_, "RequestTimeTooSkewed" | "RequestExpired") => StoreErrorKind::Clock,
        // The date is part of the signature: some services only say that it is wrong.
        (400 | 401 | 403, "SignatureDoesNotMatch" | "AccessDenied" | "InvalidRequest" | "") if off => {
            StoreErrorKind::Clock
        }
        (_, "QuotaExceeded") | (507, _) => StoreErrorKind::Full,
        (403, _) if message.contains("cap exceeded") => StoreErrorKind::Full,
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidSecurity") | (401, _) => {
            StoreErrorKind::Credentials
        }
        (400, "InvalidArgument" | "InvalidRequest") if message.to_lowercase().contains("access key") => {
            StoreErrorKind::Credentials
        }
        (403 | 405, _) => StoreErrorKind::Denied,
        (408, _) | (_, "RequestTimeout") => StoreErrorKind::Timeout,
        (429 | 503, _) | (_, "SlowDown" | "TooManyRequests" | "Throttling" | "RequestLimitExceeded") => {
            StoreErrorKind::SlowDown { wait: retry_after(headers) }
        }
        (_, "BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch" | "InvalidDigest") => {
            StoreErrorKind::Broken
        }
        (416, _) => StoreErrorKind::Short,
        // Signed for another region, sent elsewhere, or answered by something that is no S3 service.
        (_, "AuthorizationHeaderMalformed" | "InvalidBucketName") | (300..=399, _) | (404, "") => {
            StoreErrorKind::Misdirected
        }
        (_, "InternalError" | "OperationAborted" | "ConditionalRequestConflict")
        | (200..=299 | 500 | 502 | 504..=599, _) => StoreErrorKind::Server,
        _ => StoreErrorKind::Failed,
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3); never longer than ten minutes.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = if let Ok(seconds) = text.parse::<u64>() {
        seconds
    } else {
        let until = DateTime::parse_from_rfc2822(text).ok()?.to_utc() - Utc::now();
        u64::try_from(until.num_seconds()).ok()?
    };
    Some(Duration::from_secs(seconds.min(600)))
}

/// By how much this machine is ahead of the store.
fn skew(headers: &HeaderMap, now: DateTime<Utc>) -> Option<TimeDelta> {
    let theirs = DateTime::parse_from_rfc2822(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(now - theirs.to_utc())
}

fn describe_skew(skew: Option<TimeDelta>) -> String {
    let Some(skew) = skew.filter(|skew| skew.abs() > TimeDelta::seconds(30)) else {
        return "this machine's clock and the store's are too far apart".to_owned();
    };
    let seconds = skew.num_seconds().unsigned_abs();
    let (hours, minutes) = (seconds / 3600, seconds % 3600 / 60);
    let by = if hours > 0 {
        format!("{hours} h {minutes} min")
    } else {
        format!("{minutes} min {} s", seconds % 60)
    };
    format!(
        "this machine's clock is {by} {} the store's",
        if skew > TimeDelta::zero() { "ahead of" } else { "behind" }
    )
}

/// A message of the store's in one line of bounded length.
fn shortened(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 300 { line } else { line.chars().take(300).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(status: u16, headers: &[(&'static str, &str)], body: &str) -> Trouble {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        judge(Answer { status, headers, body: body.as_bytes().to_vec() }).unwrap_err()
    }

    fn error(code: &str, message: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>")
    }

    #[test]
    fn an_object_is_absent_only_when_the_store_says_that_the_key_is() {
        assert_eq!(refused(404, &[], &error("NoSuchKey", "x")).kind, StoreErrorKind::Absent);
        assert_eq!(refused(404, &[], &error("NoSuchBucket", "x")).kind, StoreErrorKind::NoBucket);
        assert_eq!(refused(404, &[], "<html>not found</html>").kind, StoreErrorKind::Misdirected);
        assert_eq!(refused(404, &[], "").kind, StoreErrorKind::Misdirected);
    }

    #[test]
    fn a_clock_that_is_off_is_named_whatever_the_service_calls_it() {
        let theirs = (Utc::now() + TimeDelta::minutes(125)).to_rfc2822();
        let trouble = refused(403, &[("date", &theirs)], &error("SignatureDoesNotMatch", "no"));
        assert_eq!(trouble.kind, StoreErrorKind::Clock);
        assert!(trouble.cause.starts_with("this machine's clock is 2 h "), "{}", trouble.cause);
        assert!(trouble.cause.contains("behind the store's"), "{}", trouble.cause);
        assert_eq!(refused(403, &[], &error("RequestTimeTooSkewed", "no")).kind, StoreErrorKind::Clock);
        let now = Utc::now().to_rfc2822();
        let trouble = refused(403, &[("date", &now)], &error("SignatureDoesNotMatch", "no"));
        assert_eq!(trouble.kind, StoreErrorKind::Credentials);
    }

    #[test]
    fn an_error_in_the_body_of_a_success_is_an_error() {
        let trouble = refused(200, &[], &error("InternalError", "try again"));
        assert_eq!(trouble.kind, StoreErrorKind::Server);
        assert_eq!(trouble.cause, "HTTP 200, InternalError, try again");
    }

    #[test]
    fn a_busy_store_says_for_how_long() {
        let wait = |headers: &[_]| refused(503, headers, &error("SlowDown", "no")).kind;
        assert_eq!(wait(&[]), StoreErrorKind::SlowDown { wait: None });
        let seven = Some(Duration::from_secs(7));
        assert_eq!(wait(&[("retry-after", "7")]), StoreErrorKind::SlowDown { wait: seven });
        let long = Some(Duration::from_mins(10));
        assert_eq!(wait(&[("retry-after", "86400")]), StoreErrorKind::SlowDown { wait: long });
    }

    #[test]
    fn each_refusal_has_its_kind() {
        let kind = |status, code, message| refused(status, &[], &error(code, message)).kind;
        assert_eq!(kind(403, "InvalidAccessKeyId", ""), StoreErrorKind::Credentials);
        assert_eq!(kind(401, "Unauthorized", ""), StoreErrorKind::Credentials);
        assert_eq!(kind(403, "AccessDenied", ""), StoreErrorKind::Denied);
        assert_eq!(kind(403, "AccessDenied", "storage cap exceeded"), StoreErrorKind::Full);
        assert_eq!(kind(500, "InternalError", ""), StoreErrorKind::Server);
        assert_eq!(kind(400, "BadDigest", ""), StoreErrorKind::Broken);
        assert_eq!(kind(400, "RequestTimeout", ""), StoreErrorKind::Timeout);
        assert_eq!(kind(301, "PermanentRedirect", ""), StoreErrorKind::Misdirected);
    }
}

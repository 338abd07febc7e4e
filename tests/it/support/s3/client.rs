//! A client of S3 that does nothing but sign and send, so that a test can also sign wrongly, cut a request off and see
//! the answer as it came.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use chrono::Utc;
use ring::{digest, hmac};

use super::S3;

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Up to where it was cut off, if it was.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// What is in the first XML element of this name, with the five entities decoded.
    pub(crate) fn element(&self, name: &str) -> Option<String> {
        self.elements(name).into_iter().next()
    }

    /// The same of every such element.
    pub(crate) fn elements(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let found = text.split(open.as_str()).skip(1).filter_map(|rest| rest.split(close.as_str()).next());
        let decode = |text: &str| {
            let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
            text.replace("&apos;", "'").replace("&amp;", "&")
        };
        found.map(decode).collect()
    }

    /// The request succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text());
        self
    }

    /// The request was refused with this status and this code of S3's.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let found = (self.status, self.element("Code").unwrap_or_default());
        assert_eq!(found, (status, code.to_owned()), "{}", self.text());
        self
    }
}

/// Who signs, and how.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Where requests go; a proxy's address if there is one between.
    pub(crate) address: SocketAddr,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) region: String,
    /// The client's clock is so many seconds ahead.
    pub(crate) seconds_ahead: i64,
    /// What is signed as the body's hash, if it is not the body's.
    pub(crate) signed_hash: Option<String>,
    /// Headers besides, signed as well; names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// How long to wait for the next byte.
    pub(crate) patience: Duration,
}

impl Client {
    /// The first user of a server.
    pub(crate) fn of(s3: &S3) -> Self {
        Self {
            address: s3.address(),
            access_key: s3.access_key().to_owned(),
            secret_key: s3.secret_key(),
            region: "auto".to_owned(),
            seconds_ahead: 0,
            signed_hash: None,
            headers: Vec::new(),
            patience: Duration::from_secs(20),
        }
    }

    /// The same over a proxy.
    pub(crate) fn over(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// The same with another header.
    pub(crate) fn with_header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    pub(crate) fn put(&self, path: &str, body: &[u8]) -> std::io::Result<Answer> {
        self.send("PUT", path, &[], body)
    }

    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> std::io::Result<Answer> {
        self.send("GET", path, query, b"")
    }

    /// Sends a request on a connection of its own and reads the answer.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        self.send_on(&mut stream, method, path, query, body)
    }

    /// The same on an open connection, which stays open.
    pub(crate) fn send_on(
        &self,
        stream: &mut TcpStream,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let head = self.head(method, path, query, body);
        // A server may answer and close before it has read all; the answer is worth more than the error of writing.
        let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        match (read_answer(stream, method), written) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    }

    /// The signed head of a request, see "Authenticating Requests (AWS Signature Version 4)" in S3's reference.
    pub(crate) fn head(&self, method: &str, path: &str, query: &[(&str, &str)], body: &[u8]) -> String {
        let now = Utc::now() + chrono::TimeDelta::seconds(self.seconds_ahead);
        let (stamp, day) = (now.format("%Y%m%dT%H%M%SZ").to_string(), now.format("%Y%m%d").to_string());
        let hash = self.signed_hash.clone().unwrap_or_else(|| sha256(body));
        let host = self.address.to_string();

        let mut pairs: Vec<String> =
            query.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        pairs.sort();
        let query = pairs.join("&");
        let path: Vec<String> = path.split('/').map(encoded).collect();
        let path = path.join("/");

        let mut headers = self.headers.clone();
        for (name, value) in [("host", &host), ("x-amz-content-sha256", &hash), ("x-amz-date", &stamp)] {
            headers.push((name.to_owned(), value.clone()));
        }
        headers.sort();
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let mut canonical = format!("{method}\n{path}\n{query}\n");
        for (name, value) in &headers {
            let _ = writeln!(canonical, "{name}:{value}");
        }
        let _ = write!(canonical, "\n{names}\n{hash}");

        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for step in [day.as_str(), &self.region, "s3", "aws4_request"] {
            key = signature(&key, step);
        }
        let signature = hex::encode(signature(&key, &to_sign));

        let target = if query.is_empty() { path } else { format!("{path}?{query}") };
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in &headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let access_key = &self.access_key;
        let _ = write!(
            head,
            "authorization: AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        head
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn signature(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Percent-encoded as the signature wants it: all but letters, digits and `-._~`.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Reads an answer of a known or chunked length. One that ends too early is not an error: the test looks at it.
fn read_answer(stream: &mut TcpStream, method: &str) -> std::io::Result<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("not HTTP: {head}")))?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers: Vec<_> =
        headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    let mut answer = Answer { status, headers, body: Vec::new() };
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(answer);
    }
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = read_chunks(stream)?;
    } else {
        let length =
            answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(u64::MAX);
        // However it ends before: what has come is what the test wants to see.
        let _ = stream.take(length).read_to_end(&mut answer.body);
    }
    Ok(answer)
}

fn read_chunks(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&line);
        let length = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk)?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

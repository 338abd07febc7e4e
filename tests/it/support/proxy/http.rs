//! One connection: requests in order, each passed on, or not, as the rules say.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Fault, Shared, link, lock};

/// Longer heads than this nobody sends here.
const LONGEST_HEAD: usize = 64 << 10;

/// An S3 error as XML.
pub(super) fn error_body(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>of the proxy's making</Message>\
         <RequestId>0</RequestId></Error>"
    )
}

/// A request's head.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(u64),
    Chunked,
    UntilClosed,
}

/// The head of a request or an answer, as it came.
struct Head {
    bytes: Vec<u8>,
}

impl Head {
    /// `None` at the end of the connection.
    async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            match from.read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && bytes.is_empty() => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            if bytes.len() > LONGEST_HEAD {
                return Err(io::Error::other("a head without end"));
            }
        }
        Ok(Some(Self { bytes }))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn header(&self, name: &str) -> Option<String> {
        self.text().lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    /// The nth word of the first line.
    fn word(&self, n: usize) -> String {
        self.text().lines().next().and_then(|line| line.split(' ').nth(n)).unwrap_or_default().to_owned()
    }

    /// The length that the headers tell, or this one.
    fn length(&self, otherwise: Length) -> Length {
        if self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Length::Chunked;
        }
        self.header("content-length").and_then(|value| value.parse().ok()).map_or(otherwise, Length::Known)
    }

    /// The same head with another length.
    fn with_length(&self, length: u64) -> Vec<u8> {
        let text = self.text();
        let kept = text.lines().filter(|line| {
            let name = line.split(':').next().unwrap_or_default();
            !line.is_empty()
                && !["content-length", "transfer-encoding"].iter().any(|is| name.eq_ignore_ascii_case(is))
        });
        let mut head: String = kept.flat_map(|line| [line, "\r\n"]).collect();
        let _ = write!(head, "content-length: {length}\r\n\r\n");
        head.into_bytes()
    }
}

/// Serves a connection until it ends.
pub(super) async fn connection(client: TcpStream, server: SocketAddr, state: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let link = lock(state).link;
    let client = link::through(client, link).await?;
    let server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    let mut client = BufReader::with_capacity(256 << 10, client);
    let mut server = BufReader::with_capacity(256 << 10, server);
    while exchange(&mut client, &mut server, state).await? {}
    Ok(())
}

/// Counts a part of an upload for as long as this lives.
struct Part<'a>(&'a Shared);

impl<'a> Part<'a> {
    fn of(request: &Request, state: &'a Shared) -> Option<Self> {
        (request.method == "PUT" && request.target.contains("partNumber=")).then(|| {
            let parts = &mut lock(state).parts;
            parts.0 += 1;
            parts.1 = parts.1.max(parts.0);
            Self(state)
        })
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        lock(self.0).parts.0 -= 1;
    }
}

/// One request and its answer; whether the connection stays.
async fn exchange(
    client: &mut BufReader<TcpStream>,
    server: &mut BufReader<TcpStream>,
    state: &Shared,
) -> io::Result<bool> {
    let Some(head) = Head::read(client).await? else { return Ok(false) };
    let request = Request { method: head.word(0), target: head.word(1) };
    let _part = Part::of(&request, state);
    let length = head.length(Length::Known(0));
    let fault = {
        let mut state = lock(state);
        state.seen.push(format!("{} {}", request.method, request.target));
        state.rules.iter_mut().find_map(|rule| rule.befalls(&request).then(|| rule.fault.clone()))
    };
    // Nobody but this proxy says so: a client that asks first would else wait for it.
    let expects = head.header("expect").is_some();

    match &fault {
        Some(Fault::Reset) => return reset(client),
        Some(Fault::Stall) => {
            loop {
                // What is sent is taken, so that the client waits for the answer and not for room.
                let mut buffer = vec![0; 64 << 10];
                if client.read(&mut buffer).await? == 0 {
                    return Ok(false);
                }
            }
        }
        Some(Fault::Status { status, code, retry_after }) => {
            let retry_after =
                retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
            return answer(
                client,
                &request,
                length,
                expects,
                *status,
                &retry_after,
                error_body(code).as_bytes(),
            )
            .await;
        }
        Some(Fault::Answer(body)) => return answer(client, &request, length, expects, 200, "", body).await,
        _ => {}
    }

    server.get_mut().write_all(&head.bytes).await?;
    if expects {
        // The server asks for the body before it answers.
        let head = Head::read(server).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        client.get_mut().write_all(&head.bytes).await?;
        if head.word(1) != "100" {
            return Ok(false);
        }
    }
    if let Some(Fault::CutRequest(after)) = fault {
        // What comes behind the body is the next request's.
        let whole = if let Length::Known(length) = length { length } else { u64::MAX };
        let mut part = client.take(after.min(whole));
        tokio::io::copy(&mut part, server.get_mut()).await?;
        return reset(client);
    }
    // An answer may come before the request is read to its end, and none of it be read after that.
    let sent = body(client, server.get_mut(), length).await;
    let Ok(Some(head)) = Head::read(server).await else { return sent.and(Ok(false)) };
    let keeps =
        sent.is_ok() && !head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(pass_back(client, server, &request, &head, fault).await? && keeps)
}

/// Passes the answer back, with the fault that is left to it; whether the connection stays.
async fn pass_back(
    client: &mut BufReader<TcpStream>,
    server: &mut BufReader<TcpStream>,
    request: &Request,
    head: &Head,
    fault: Option<Fault>,
) -> io::Result<bool> {
    let has_no_body = request.method == "HEAD" || ["204", "304"].contains(&head.word(1).as_str());
    let length = if has_no_body { Length::Known(0) } else { head.length(Length::UntilClosed) };
    match fault {
        Some(Fault::LoseAnswer) => return reset(client),
        Some(Fault::Late(delay)) => tokio::time::sleep(delay).await,
        // Nothing to spoil where there is no body.
        Some(fault) if !has_no_body => {
            let whole = whole_body(server, length).await?;
            return spoiled(client, head, whole, fault).await;
        }
        _ => {}
    }
    client.get_mut().write_all(&head.bytes).await?;
    body(server, client.get_mut(), length).await?;
    Ok(length != Length::UntilClosed)
}

/// Sends a body that something happens to.
async fn spoiled(
    client: &mut BufReader<TcpStream>,
    head: &Head,
    mut whole: Vec<u8>,
    fault: Fault,
) -> io::Result<bool> {
    let length = whole.len() as u64;
    let upto = |after: u64| usize::try_from(after.min(length)).unwrap_or(usize::MAX);
    match fault {
        Fault::CutAnswer(after) => {
            client.get_mut().write_all(&head.with_length(length)).await?;
            client.get_mut().write_all(&whole[..upto(after)]).await?;
            // As an end, not a reset: the bytes before it shall arrive.
            client.get_mut().shutdown().await?;
            return Ok(false);
        }
        Fault::Truncate(after) => whole.truncate(upto(after)),
        Fault::WrongBody => whole.iter_mut().for_each(|byte| *byte ^= 1),
        Fault::Trickle { bytes, pause } => {
            client.get_mut().write_all(&head.with_length(length)).await?;
            for piece in whole.chunks(bytes.max(1)) {
                client.get_mut().write_all(piece).await?;
                tokio::time::sleep(pause).await;
            }
            return Ok(true);
        }
        other => unreachable!("{other:?} was dealt with before"),
    }
    client.get_mut().write_all(&head.with_length(whole.len() as u64)).await?;
    client.get_mut().write_all(&whole).await?;
    Ok(true)
}

/// Ends the connection without a word: with a reset if the system can be brought to it.
fn reset(client: &mut BufReader<TcpStream>) -> io::Result<bool> {
    client.get_ref().set_zero_linger()?;
    Ok(false)
}

/// An answer of the proxy's own; the request's body is read first, as a service does that can't know it would refuse.
async fn answer(
    client: &mut BufReader<TcpStream>,
    request: &Request,
    length: Length,
    expects: bool,
    status: u16,
    headers: &str,
    content: &[u8],
) -> io::Result<bool> {
    if !expects {
        tokio::time::timeout(Duration::from_secs(30), body(client, &mut tokio::io::sink(), length)).await??;
    }
    let close = if expects { "connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} Told\r\ncontent-type: application/xml\r\n{headers}{close}content-length: {}\r\n\r\n",
        content.len()
    );
    client.get_mut().write_all(head.as_bytes()).await?;
    if request.method != "HEAD" {
        client.get_mut().write_all(content).await?;
    }
    Ok(!expects)
}

/// Passes a body on as it is.
async fn body<To: tokio::io::AsyncWrite + Unpin>(
    from: &mut BufReader<TcpStream>,
    to: &mut To,
    length: Length,
) -> io::Result<()> {
    match length {
        Length::Known(length) => {
            let passed = tokio::io::copy_buf(&mut from.take(length), to).await?;
            if passed < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Length::UntilClosed => {
            tokio::io::copy_buf(from, to).await?;
        }
        Length::Chunked => loop {
            let (line, size) = chunk_line(from).await?;
            to.write_all(&line).await?;
            // The chunk and the line's end behind it.
            tokio::io::copy_buf(&mut from.take(size + 2), to).await?;
            if size == 0 {
                return to.flush().await;
            }
        },
    }
    to.flush().await
}

/// The whole of a body, without the chunks' frames.
async fn whole_body(from: &mut BufReader<TcpStream>, length: Length) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    match length {
        Length::Known(length) => {
            from.take(length).read_to_end(&mut whole).await?;
        }
        Length::UntilClosed => {
            from.read_to_end(&mut whole).await?;
        }
        Length::Chunked => loop {
            let (_, size) = chunk_line(from).await?;
            from.take(size).read_to_end(&mut whole).await?;
            from.read_u16().await?;
            if size == 0 {
                break;
            }
        },
    }
    Ok(whole)
}

/// The line before a chunk, and the chunk's size.
async fn chunk_line(from: &mut BufReader<TcpStream>) -> io::Result<(Vec<u8>, u64)> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(from.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&line);
    let size = text.trim().split(';').next().unwrap_or_default();
    let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
    Ok((line, size))
}

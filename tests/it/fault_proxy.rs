//! The proxy of the tests does to a connection what it is told to, and nothing else.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::proxy::{Fault, Link, Proxy, Rule};
use crate::support::s3::client::{Answer, Client};
use crate::support::s3::{Bucket, S3};

struct Line {
    /// Ends after the proxy.
    bucket: Bucket,
    client: Client,
    proxy: Proxy,
    s3: S3,
}

/// A server with an object of ten bytes, and a client that gets to it over a proxy.
fn line() -> Line {
    let s3 = S3::start();
    let bucket = s3.bucket("bucket");
    bucket.write("ten", "0123456789");
    let proxy = Proxy::before(s3.address());
    let client = Client::of(&s3).over(proxy.address());
    let client = Client { patience: Duration::from_secs(10), ..client };
    Line { bucket, client, proxy, s3 }
}

impl Line {
    fn get(&self) -> std::io::Result<Answer> {
        self.client.get("/bucket/ten", &[])
    }
}

fn is_broken(result: &std::io::Result<Answer>) -> bool {
    let kind = result.as_ref().err().map(std::io::Error::kind);
    [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe]
        .iter()
        .any(|broken| kind == Some(*broken))
}

#[test]
fn without_a_rule_it_passes_everything_on() {
    let line = line();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut stream = TcpStream::connect(line.proxy.address()).unwrap();
    // All on one connection: after each of them the next must find its place.
    for _ in 0..3 {
        line.client.send_on(&mut stream, "PUT", "/bucket/large", &[], &large).unwrap().ok();
        let got = line.client.send_on(&mut stream, "GET", "/bucket/large", &[], b"").unwrap().ok();
        assert!(got.body == large, "other bytes");
        line.client.send_on(&mut stream, "HEAD", "/bucket/large", &[], b"").unwrap().ok();
        let listed = line.client.send_on(&mut stream, "GET", "/bucket", &[("list-type", "2")], b"").unwrap();
        assert_eq!(listed.ok().elements("Key"), ["large", "ten"]);
        line.client.send_on(&mut stream, "DELETE", "/bucket/large", &[], b"").unwrap().ok();
    }
    assert_eq!(line.proxy.seen().len(), 15);
    assert_eq!(line.proxy.seen()[0], "PUT /bucket/large");
    assert_eq!(line.proxy.faults(), 0);
}

#[test]
fn curl_gets_through_with_a_large_body_and_its_question_before_it() {
    let line = line();
    let file = crate::support::base().join("curl-through-proxy");
    std::fs::write(&file, vec![b'x'; 2_000_000]).unwrap();
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "--fail", "--max-time", "20", "--aws-sigv4", "aws:amz:auto:s3", "-u"]);
    curl.arg(format!("{}:{}", line.s3.access_key(), line.s3.secret_key()));
    curl.args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-H", "Expect: 100-continue", "-T"]);
    let output = curl.arg(&file).arg(format!("{}/bucket/curl", line.proxy.endpoint())).output();
    let output = output.expect("run curl: install it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(line.bucket.read("curl").len(), 2_000_000);
}

#[test]
fn who_is_away_refuses_until_he_is_back() {
    let mut line = line();
    let mut open = TcpStream::connect(line.proxy.address()).unwrap();
    line.client.send_on(&mut open, "GET", "/bucket/ten", &[], b"").unwrap().ok();
    line.proxy.go_away();
    assert_eq!(line.get().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(is_broken(&line.client.send_on(&mut open, "GET", "/bucket/ten", &[], b"")), "still open");
    line.proxy.come_back();
    assert_eq!(line.get().unwrap().ok().text(), "0123456789");
}

#[test]
fn a_body_breaks_off_where_it_is_told_to() {
    let line = line();
    line.proxy.fail(Rule::new(Fault::CutAnswer(4)));
    let got = line.get().unwrap();
    assert_eq!((got.header("content-length"), got.text().as_str()), (Some("10"), "0123"));
    line.proxy.heal();
    line.proxy.fail(Rule::new(Fault::Truncate(4)));
    let got = line.get().unwrap();
    assert_eq!((got.header("content-length"), got.text().as_str()), (Some("4"), "0123"));
    line.proxy.heal();
    line.proxy.fail(Rule::new(Fault::CutRequest(1000)));
    let cut = line.client.put("/bucket/cut", &vec![1; 100_000]);
    assert!(is_broken(&cut), "{cut:?}");
    line.proxy.heal();
    line.proxy.fail(Rule::new(Fault::Reset));
    assert!(is_broken(&line.get()));
    assert_eq!(line.bucket.keys(), ["ten"], "half a body is no object");
}

#[test]
fn an_answer_that_is_lost_belongs_to_a_request_that_was_carried_out() {
    let line = line();
    line.proxy.fail(Rule::new(Fault::LoseAnswer).on("PUT", ""));
    let lost = line.client.put("/bucket/put", b"body");
    assert!(is_broken(&lost), "{lost:?}");
    assert_eq!(line.bucket.read("put"), b"body");
}

#[test]
fn errors_of_the_proxys_making_look_like_the_services() {
    let line = line();
    let mut stream = TcpStream::connect(line.proxy.address()).unwrap();
    line.proxy.fail(Rule::new(Fault::slow_down(Some(7))).only(1));
    line.proxy.fail(Rule::new(Fault::internal_error()).only(1));
    line.proxy.fail(Rule::new(Fault::error_with_200("InternalError")).only(1));
    line.proxy.fail(Rule::new(Fault::Answer(b"<html>".to_vec())).only(1));
    // The connection stays in step: the body is read although nobody wants it.
    let mut put = || line.client.send_on(&mut stream, "PUT", "/bucket/put", &[], &vec![1; 300_000]).unwrap();
    let slow = put();
    assert_eq!(slow.header("retry-after"), Some("7"));
    slow.refused(503, "SlowDown");
    put().refused(500, "InternalError");
    put().refused(200, "InternalError");
    assert_eq!(put().ok().text(), "<html>");
    assert_eq!(line.bucket.keys(), ["ten"], "nothing was passed on");
    put().ok();
    assert_eq!(line.bucket.keys(), ["put", "ten"]);
    assert_eq!(line.proxy.faults(), 4);
}

#[test]
fn a_wrong_body_has_the_right_length_and_etag() {
    let line = line();
    let right = line.get().unwrap().ok();
    line.proxy.fail(Rule::new(Fault::WrongBody));
    let wrong = line.get().unwrap().ok();
    assert_eq!(wrong.text(), "1032547698");
    assert_eq!(wrong.header("etag"), right.header("etag"));
    assert_eq!(line.bucket.read("ten"), b"0123456789");
}

#[test]
fn a_rule_befalls_the_requests_that_it_names() {
    let line = line();
    line.proxy.fail(Rule::new(Fault::internal_error()).on("GET", "/ten").only(2));
    line.proxy.fail(Rule::new(Fault::slow_down(None)).on("", "x=1").first(1));
    line.proxy.fail(Rule::new(Fault::Answer(b"third on".to_vec())).on("HEAD", "").from(2));
    let status = |method: &str, query: &[(&str, &str)]| {
        let answer = line.client.send(method, "/bucket/ten", query, b"").unwrap();
        (answer.status, answer.header("etag").is_some())
    };
    assert_eq!(status("GET", &[]), (200, true));
    assert_eq!(status("GET", &[]).0, 500);
    assert_eq!(status("GET", &[]), (200, true));
    assert_eq!(status("GET", &[("x", "1")]).0, 503);
    assert_eq!(status("GET", &[("x", "1")]), (200, true));
    assert_eq!([1, 2, 3].map(|_| status("HEAD", &[])), [(200, true), (200, false), (200, false)]);
}

#[test]
fn silence_and_slowness_are_as_long_as_they_are_told_to_be() {
    let line = line();
    let timed = |client: &Client| {
        let start = Instant::now();
        (client.get("/bucket/ten", &[]), start.elapsed())
    };
    line.proxy.fail(Rule::new(Fault::Late(Duration::from_millis(300))));
    let (late, took) = timed(&line.client);
    assert_eq!(late.unwrap().ok().text(), "0123456789");
    assert!(took >= Duration::from_millis(300), "{took:?}");
    line.proxy.heal();
    line.proxy.fail(Rule::new(Fault::Trickle { bytes: 2, pause: Duration::from_millis(60) }));
    let (slow, took) = timed(&line.client);
    assert_eq!(slow.unwrap().ok().text(), "0123456789");
    assert!(took >= Duration::from_millis(240), "{took:?}");
    line.proxy.heal();
    line.proxy.fail(Rule::new(Fault::Stall));
    let impatient = Client { patience: Duration::from_millis(300), ..line.client.clone() };
    let (silent, took) = timed(&impatient);
    let kind = silent.unwrap_err().kind();
    assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&kind), "{kind:?}");
    assert!(took >= Duration::from_millis(300), "{took:?}");
}

#[test]
fn a_long_line_costs_its_latency_and_a_narrow_one_its_width() {
    let line = line();
    line.proxy.set_link(Link::of(Duration::from_millis(40)));
    let start = Instant::now();
    let mut stream = TcpStream::connect(line.proxy.address()).unwrap();
    line.client.send_on(&mut stream, "GET", "/bucket/ten", &[], b"").unwrap().ok();
    let first = start.elapsed();
    // There and back for the connection, there and back for the request.
    assert!(first >= Duration::from_millis(160), "{first:?}");
    let start = Instant::now();
    line.client.send_on(&mut stream, "GET", "/bucket/ten", &[], b"").unwrap().ok();
    let second = start.elapsed();
    assert!(second >= Duration::from_millis(80), "{second:?}");

    let put = |name: &str| {
        let start = Instant::now();
        line.client.put(&format!("/bucket/{name}"), &vec![1; 1_000_000]).unwrap().ok();
        start.elapsed()
    };
    line.proxy.set_link(Link::at(2_000_000));
    let narrow = put("narrow");
    assert!(narrow >= Duration::from_millis(400), "{narrow:?}");

    // A window of 100 kB at 80 ms there and back: ten times round for a megabyte, however wide the line.
    line.proxy.set_link(Link { window: 100_000, ..Link::of(Duration::from_millis(40)) });
    let alone = put("alone");
    assert!(alone >= Duration::from_millis(700), "{alone:?}");
    // Four connections carry four times as much.
    let start = Instant::now();
    std::thread::scope(|scope| {
        for name in ["one", "two", "three", "four"] {
            scope.spawn(move || put(name));
        }
    });
    let together = start.elapsed();
    assert!(together < alone * 3, "{together:?} for four, {alone:?} for one");
}

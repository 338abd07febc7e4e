//! What a store in the cloud answers when it does not do what it should: no answer that is not whole passes, and each
//! failure says what it is and what to do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgkeep::model::{Fault, Kind, StoreName};
use pgkeep::store::{
    Body, Limits, Part, PartStore, PartTag, ReadStore, S3Place, S3Store, Store, StoreError, StoreErrorKind,
    Upload,
};
use pgkeep::system::Secret;

use crate::store_conformance::{bare, place};
use crate::support::s3::S3;

/// A server that says what the script says, one answer per connection, whatever it is asked.
struct Scripted {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn new(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::clone(&asked);
        // Ends with the script; a test that asks less often leaves it waiting until the process ends.
        std::thread::spawn(move || {
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept() else { return };
                heads.lock().unwrap().push(read_request(&mut stream));
                let _ = stream.write_all(&answer);
            }
        });
        Self { endpoint, asked }
    }

    fn store(&self) -> S3Store {
        store_at(&self.endpoint)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Reads the head and the body; gives the first line.
fn read_request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    head.lines().next().unwrap_or_default().to_owned()
}

fn answer(status: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let length = format!("Content-Length: {}", body.len());
    let has_length = headers.iter().any(|header| header.starts_with("Content-Length"));
    let mut all = headers.to_vec();
    all.extend((!has_length).then_some(length.as_str()));
    until_closed(status, &all, body)
}

/// Without a length: the end of the connection is the end of the body.
fn until_closed(status: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().flat_map(|header| [*header, "\r\n"]).collect();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n{body}").into_bytes()
}

fn refusal(code: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>because</Message></Error>")
}

fn place_at(endpoint: &str) -> S3Place {
    S3Place {
        name: StoreName::R2,
        endpoint: endpoint.to_owned(),
        region: "auto".to_owned(),
        bucket: "bucket".to_owned(),
        access_key: "access".to_owned(),
        secret_key: Secret::new("open sesame".to_owned()),
        keeps_versions: false,
    }
}

fn store_at(endpoint: &str) -> S3Store {
    let limits =
        Limits { connect: Duration::from_secs(5), idle: Duration::from_secs(5), ..Limits::default() };
    S3Store::with_limits(place_at(endpoint), limits).unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.unwrap_err().kind
}

#[tokio::test]
async fn a_range_that_is_not_the_one_asked_for_does_not_pass() {
    for (reply, expected) in [
        (answer("200 OK", &[], "0123456789"), StoreErrorKind::Broken),
        (answer("206 Partial Content", &[], "0123456789"), StoreErrorKind::Broken),
        (
            answer("206 Partial Content", &["Content-Range: bytes 0-9/99"], "0123456789"),
            StoreErrorKind::Broken,
        ),
        (
            answer("206 Partial Content", &["Content-Range: bytes 10-19/99"], "01234567"),
            StoreErrorKind::Broken,
        ),
        (answer("206 Partial Content", &["Content-Range: bytes 10-14/15"], "01234"), StoreErrorKind::Short),
        (
            until_closed("206 Partial Content", &["Content-Range: bytes 10-19/99"], "0123"),
            StoreErrorKind::Broken,
        ),
        (
            answer("206 Partial Content", &["Content-Range: bytes 10-19/99", "Content-Length: 10"], "0123"),
            StoreErrorKind::Broken,
        ),
    ] {
        let text = String::from_utf8_lossy(&reply).into_owned();
        let server = Scripted::new(vec![reply]);
        assert_eq!(kind(server.store().get("key", 10, 10).await), expected, "{text}");
    }
    let whole = answer("206 Partial Content", &["Content-Range: bytes 10-19/99"], "0123456789");
    assert_eq!(Scripted::new(vec![whole]).store().get("key", 10, 10).await.unwrap(), b"0123456789");
}

#[tokio::test]
async fn a_list_that_is_not_whole_is_an_error_and_never_an_empty_list() {
    let contents = "<Contents><Key>main/a</Key><Size>1</Size></Contents>";
    let lists = [
        (String::new(), "empty"),
        ("<html><body>Welcome</body></html>".to_owned(), "not a <ListBucketResult>"),
        ("<ListBucketResult></ListBucketResult>".to_owned(), "lacks <IsTruncated>"),
        (format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}"), "cut off"),
        (
            format!("<ListBucketResult><IsTruncated>true</IsTruncated>{contents}</ListBucketResult>"),
            "without saying where to go on",
        ),
        (
            "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>2</KeyCount></ListBucketResult>"
                .to_owned(),
            "announces 2 keys",
        ),
        (
            format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>")
                .replace("main/a", "elsewhere/a"),
            "was not asked for",
        ),
        (refusal("InternalError"), "InternalError"),
    ];
    for (list, expected) in lists {
        for reply in [answer("200 OK", &[], &list), until_closed("200 OK", &[], &list)] {
            let error = Scripted::new(vec![reply]).store().list("main/").await.unwrap_err();
            assert!(error.kind.is_passing(), "{error}");
            assert!(error.to_string().contains(expected), "{list}: {error}");
        }
    }
}

#[tokio::test]
async fn a_write_that_is_answered_without_the_right_tag_is_no_success() {
    for (reply, expected) in [
        (answer("200 OK", &[], ""), StoreErrorKind::Broken),
        (answer("200 OK", &["ETag: \"00000000000000000000000000000000\""], ""), StoreErrorKind::Differs),
        (answer("200 OK", &["ETag: \"x\""], &refusal("InternalError")), StoreErrorKind::Server),
        (answer("200 OK", &[], "<html>Log in to this network</html>"), StoreErrorKind::Broken),
        (until_closed("100 Continue", &[], ""), StoreErrorKind::Broken),
    ] {
        let text = String::from_utf8_lossy(&reply).into_owned();
        let server = Scripted::new(vec![reply]);
        assert_eq!(kind(server.store().put("key", Body::Bytes(b"hello".into())).await), expected, "{text}");
    }
    let right = answer("200 OK", &["ETag: \"5d41402abc4b2a76b9719d911017c592\""], "");
    Scripted::new(vec![right]).store().put("key", Body::Bytes(b"hello".into())).await.unwrap();
    let sealed = ["ETag: \"anything\"", "x-amz-server-side-encryption: aws:kms"];
    let kms = Scripted::new(vec![answer("200 OK", &sealed, "")]);
    kms.store().put("key", Body::Bytes(b"hello".into())).await.unwrap();
}

#[tokio::test]
async fn a_completion_that_failed_after_its_200_is_no_success() {
    let upload = Upload { key: "key".to_owned(), id: "a+/= &id".to_owned() };
    let parts = [PartTag { number: 1, tag: "5d41402abc4b2a76b9719d911017c592".to_owned() }];
    let done = |tag: &str| {
        format!(
            "<CompleteMultipartUploadResult><ETag>&quot;{tag}&quot;</ETag></CompleteMultipartUploadResult>"
        )
    };
    let right = "62109206880d38a4010a98e11243924a-1";
    for (body, expected) in [
        (refusal("InternalError"), StoreErrorKind::Server),
        (String::new(), StoreErrorKind::Broken),
        (done(right).replace("</CompleteMultipartUploadResult>", ""), StoreErrorKind::Broken),
        (done("00000000000000000000000000000000-1"), StoreErrorKind::Differs),
    ] {
        let server = Scripted::new(vec![answer("200 OK", &[], &body)]);
        assert_eq!(kind(server.store().complete_upload(&upload, &parts, 5).await), expected, "{body}");
        assert_eq!(server.asked(), ["POST /bucket/key?uploadId=a%2B%2F%3D%20%26id HTTP/1.1"]);
    }
    let server = Scripted::new(vec![answer("200 OK", &[], &done(right))]);
    server.store().complete_upload(&upload, &parts, 5).await.unwrap();
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_recognised_by_the_objects_tag() {
    let s3 = S3::start();
    let store = bare(&s3, "completed");
    let upload = store.begin_upload("main/key").await.unwrap();
    let tag = store.put_part(&upload, 1, &Part::new(b"content".to_vec().into())).await.unwrap();
    for _ in 0..2 {
        store.complete_upload(&upload, std::slice::from_ref(&tag), 7).await.unwrap();
    }
    s3.bucket("completed").write("main/key", b"another".to_vec());
    let error = store.complete_upload(&upload, &[tag], 7).await.unwrap_err();
    assert!(error.cause.contains("NoSuchUpload"), "what lies there now is not what was sent: {error}");
}

#[tokio::test]
async fn an_object_is_not_taken_for_absent_when_the_answer_does_not_say_so() {
    let gone = || answer("404 Not Found", &[], "");
    for (second, expected) in [
        (answer("404 Not Found", &[], &refusal("NoSuchBucket")), StoreErrorKind::NoBucket),
        (answer("404 Not Found", &[], "<html>nothing here</html>"), StoreErrorKind::Misdirected),
        (answer("404 Not Found", &[], ""), StoreErrorKind::Misdirected),
    ] {
        let server = Scripted::new(vec![gone(), second]);
        assert_eq!(kind(server.store().head("key").await), expected);
        assert!(server.asked()[0].starts_with("HEAD ") && server.asked()[1].starts_with("GET "));
    }
    let page = Scripted::new(vec![answer("200 OK", &[], "")]);
    assert_eq!(kind(page.store().head("key").await), StoreErrorKind::Broken, "a page of a proxy has no tag");
    let small = Scripted::new(vec![answer("404 Not Found", &[], "<html>nothing here</html>")]);
    assert_eq!(kind(small.store().get_small("key").await), StoreErrorKind::Misdirected);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let limits = Limits { idle: Duration::from_millis(300), ..Limits::default() };
    let place = place_at(&format!("http://{}", listener.local_addr().unwrap()));
    let store = S3Store::with_limits(place, limits).unwrap();
    let begun = Instant::now();
    let error = store.get("key", 0, 10).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    let error = store.put("key", Body::Bytes(vec![0; 300_000])).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(listener);
}

#[tokio::test]
async fn an_answer_that_trickles_is_given_up_when_its_time_is_over() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream);
        let head =
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-999/1000\r\nContent-Length: 1000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(100));
            if stream.write_all(b"x").is_err() {
                return;
            }
        }
    });
    let limits =
        Limits { idle: Duration::from_millis(700), total: Duration::from_millis(700), ..Limits::default() };
    let store = S3Store::with_limits(place_at(&endpoint), limits).unwrap();
    let begun = Instant::now();
    let error = store.get("key", 0, 1_000).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_sent_at_a_pace_goes_evenly() {
    const PACE: usize = 512 << 10;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // What has come, and when.
    let came = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (begun, mut buffer, mut all, mut came) = (Instant::now(), vec![0; 1 << 20], 0, Vec::new());
        // The head of the request is more.
        while all < PACE {
            all += stream.read(&mut buffer).unwrap();
            came.push((begun.elapsed().as_secs_f64(), all));
        }
        came
    });
    let limits = Limits { pace: Some(PACE as u64), ..Limits::default() };
    let store = S3Store::with_limits(place_at(&endpoint), limits).unwrap();
    // The server goes away without an answer.
    store.put("key", Body::Bytes(vec![0; PACE])).await.unwrap_err();
    let came = came.join().unwrap();
    let (last, _) = *came.last().unwrap();
    assert!((0.8..3.0).contains(&last), "{last} s for what should take one");
    for (at, bytes) in came {
        let due = at * PACE as f64 + f64::from(192 << 10);
        assert!((bytes as f64) < due, "{bytes} bytes after {at} s");
    }
}

#[tokio::test]
async fn nobody_listening_and_a_connection_that_breaks_are_told_apart() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = store_at(&endpoint).list("main/").await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");
    assert!(error.cause.contains("refused"), "{error}");
    let broken = Scripted::new(vec![Vec::new()]);
    assert_eq!(kind(broken.store().list("main/").await), StoreErrorKind::Broken);
}

#[tokio::test]
async fn each_refusal_says_what_it_is_where_and_what_to_do() {
    let s3 = S3::start();
    let good = place(&s3, s3.endpoint(), "refusing", false);
    let with = |change: &dyn Fn(&mut S3Place)| {
        let mut place = good.clone();
        change(&mut place);
        S3Store::new(place).unwrap()
    };
    let wrong_secret = with(&|place| place.secret_key = Secret::new("open sesame".to_owned()));
    let unknown = with(&|place| place.access_key = "NOBODY".to_owned());
    let no_bucket = with(&|place| place.bucket = "nowhere".to_owned());
    let fine = with(&|_| ());

    let say = |error: StoreError| {
        let text = error.to_string();
        let fault = Fault::from(error.clone());
        assert_eq!(fault.kind, Kind::Store, "{text}");
        let hint = fault.hint.unwrap();
        assert!(text.contains("in store r2: ") && text.contains(&s3.endpoint()), "{text}");
        assert!(!text.contains("sesame") && !format!("{error:?}").contains("sesame"), "{text}");
        assert!(hint.ends_with('.'), "{hint}");
        (error.kind, hint)
    };
    for store in [&wrong_secret, &unknown] {
        for error in [
            store.list("main/").await.unwrap_err(),
            store.put("main/a", Body::Bytes(vec![1])).await.unwrap_err(),
            store.get_small("main/a").await.unwrap_err(),
        ] {
            let (kind, hint) = say(error);
            assert_eq!(kind, StoreErrorKind::Credentials);
            assert!(hint.contains("access key"), "{hint}");
        }
        assert!(store.head("main/a").await.is_err(), "a refusal is not an absence");
    }
    for error in [
        no_bucket.list("main/").await.unwrap_err(),
        no_bucket.get_small("main/a").await.unwrap_err(),
        no_bucket.head("main/a").await.unwrap_err(),
        no_bucket.put("main/a", Body::Bytes(vec![1])).await.unwrap_err(),
    ] {
        // To a user without rights to it, a service need not say that there is no such bucket.
        let (kind, hint) = say(error);
        assert!(matches!(kind, StoreErrorKind::NoBucket | StoreErrorKind::Denied), "{kind:?} {hint}");
    }
    fine.put("main/a", Body::Bytes(vec![1])).await.unwrap();
    s3.change(|options| options.deny_deletes = true);
    let (kind, hint) = say(fine.delete("main/a").await.unwrap_err());
    assert_eq!(kind, StoreErrorKind::Denied);
    assert!(hint.contains("right"), "{hint}");
    s3.change(|options| options.clock_is_off = true);
    let (kind, hint) = say(fine.list("main/").await.unwrap_err());
    assert_eq!(kind, StoreErrorKind::Clock);
    assert!(hint.contains("clock"), "{hint}");
}

/// A service that takes the connection and never says who it is.
#[tokio::test]
async fn a_connection_that_does_not_come_about_is_given_up_in_time() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let limits = Limits { connect: Duration::from_millis(300), ..Limits::default() };
    let place = place_at(&format!("https://{}", listener.local_addr().unwrap()));
    let store = S3Store::with_limits(place, limits).unwrap();
    let begun = Instant::now();
    let error = store.get("key", 0, 10).await.unwrap_err();
    assert!([StoreErrorKind::Timeout, StoreErrorKind::Unreachable].contains(&error.kind), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(listener);
}

//! The S3 server of the tests is one: it checks who signs what, keeps what it is sent, lists all of it, and answers as
//! R2 and B2 do.

use std::fmt::Write as _;
use std::process::Command;

use crate::support::base;
use crate::support::s3::client::{Answer, Client};
use crate::support::s3::{Options, S3};

fn r2() -> (S3, Client) {
    let s3 = S3::start();
    s3.bucket("r2-bucket");
    let client = Client::of(&s3);
    (s3, client)
}

/// Uploads these parts; the answer to the completion.
#[track_caller]
fn upload(client: &Client, path: &str, parts: &[&[u8]]) -> Answer {
    let begun = client.send("POST", path, &[("uploads", "")], b"").unwrap().ok();
    let id = begun.element("UploadId").unwrap();
    let mut list = String::from("<CompleteMultipartUpload>");
    for (number, part) in (1..).zip(parts) {
        let query = [("partNumber", &*format!("{number}")), ("uploadId", &*id)];
        let sent = client.send("PUT", path, &query, part).unwrap().ok();
        let etag = sent.header("etag").unwrap();
        let _ = write!(list, "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    list += "</CompleteMultipartUpload>";
    client.send("POST", path, &[("uploadId", &id)], list.as_bytes()).unwrap()
}

#[test]
fn what_is_put_comes_back_and_lists_and_goes() {
    let (s3, client) = r2();
    let bucket = s3.bucket("r2-bucket");
    let put = client.put("/r2-bucket/a/b c+d", b"hello").unwrap().ok();
    // The MD5 of "hello".
    assert_eq!(put.header("etag"), Some("\"5d41402abc4b2a76b9719d911017c592\""));
    // A key may be the beginning of another's path.
    client.put("/r2-bucket/a", b"").unwrap().ok();

    let got = client.get("/r2-bucket/a/b c+d", &[]).unwrap().ok();
    assert_eq!(got.body, b"hello");
    let part = client.with_header("range", "bytes=1-3").get("/r2-bucket/a/b c+d", &[]).unwrap();
    assert_eq!((part.status, part.text().as_str()), (206, "ell"));
    assert_eq!(part.header("content-range"), Some("bytes 1-3/5"));
    client
        .with_header("range", "bytes=5-9")
        .get("/r2-bucket/a/b c+d", &[])
        .unwrap()
        .refused(416, "InvalidRange");
    let head = client.send("HEAD", "/r2-bucket/a/b c+d", &[], b"").unwrap().ok();
    assert_eq!(head.header("content-length"), Some("5"));
    client.get("/r2-bucket/nothing", &[]).unwrap().refused(404, "NoSuchKey");

    let listed = client.get("/r2-bucket", &[("list-type", "2")]).unwrap().ok();
    assert_eq!(listed.elements("Key"), ["a", "a/b c+d"]);
    assert_eq!(listed.elements("Size"), ["0", "5"]);
    assert_eq!(bucket.keys(), ["a", "a/b c+d"]);

    assert_eq!(client.send("DELETE", "/r2-bucket/a", &[], b"").unwrap().status, 204);
    assert_eq!(client.send("DELETE", "/r2-bucket/a", &[], b"").unwrap().status, 204, "a second time");
    assert_eq!(bucket.keys(), ["a/b c+d"]);
    assert_eq!((s3.requests_of("PutObject"), s3.requests_of("DeleteObject")), (2, 2));
}

#[test]
fn only_who_signs_what_is_sent_now_is_let_in() {
    let (s3, client) = r2();
    let wrong = Client { access_key: "NOBODY".to_owned(), ..client.clone() };
    wrong.put("/r2-bucket/key", b"x").unwrap().refused(403, "InvalidAccessKeyId");
    let wrong = Client { secret_key: "wrong".to_owned(), ..client.clone() };
    wrong.put("/r2-bucket/key", b"x").unwrap().refused(403, "SignatureDoesNotMatch");
    for hours in [-2, 2] {
        let wrong = Client { seconds_ahead: hours * 3600, ..client.clone() };
        wrong.put("/r2-bucket/key", b"x").unwrap().refused(403, "RequestTimeTooSkewed");
    }
    let wrong = Client { signed_hash: Some("0".repeat(64)), ..client.clone() };
    wrong.put("/r2-bucket/key", b"x").unwrap().refused(400, "XAmzContentSHA256Mismatch");
    // Nobody's clock is right any more.
    s3.change(|options| options.clock_is_off = true);
    client.put("/r2-bucket/key", b"x").unwrap().refused(403, "RequestTimeTooSkewed");
    s3.change(|options| options.clock_is_off = false);

    let (access_key, secret_key) = s3.second_user();
    let second = Client { access_key, secret_key, ..client.clone() };
    second.put("/r2-bucket/key", b"x").unwrap().refused(403, "AccessDenied");
    client.get("/", &[]).unwrap().refused(403, "AccessDenied");
    client.get("/nowhere/key", &[]).unwrap().refused(404, "NoSuchBucket");
    assert!(s3.bucket("r2-bucket").objects().is_empty());

    s3.allow(&second.access_key, "r2-bucket");
    second.put("/r2-bucket/key", b"x").unwrap().ok();
    s3.change(|options| options.region = Some("us-west-004".to_owned()));
    client.get("/r2-bucket/key", &[]).unwrap().refused(400, "AuthorizationHeaderMalformed");
    Client { region: "us-west-004".to_owned(), ..client }.get("/r2-bucket/key", &[]).unwrap().ok();
}

#[test]
fn what_broke_other_tools_on_r2_and_b2_is_refused() {
    let (_s3, client) = r2();
    let chunked =
        Client { signed_hash: Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD".to_owned()), ..client.clone() };
    let chunked = chunked.with_header("x-amz-decoded-content-length", "1");
    chunked.put("/r2-bucket/key", b"x").unwrap().refused(501, "NotImplemented");
    let checksum = client.with_header("x-amz-checksum-crc32", "AAAAAA==");
    checksum.put("/r2-bucket/key", b"x").unwrap().refused(501, "NotImplemented");
    let digest = client.with_header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
    digest.put("/r2-bucket/key", b"x").unwrap().refused(400, "BadDigest");
}

#[test]
fn a_listing_comes_in_pages_and_groups() {
    let s3 = S3::with(Options { page_size: 2, ..Options::default() });
    let bucket = s3.bucket("r2-bucket");
    for key in ["a/1", "a/2", "b/1", "b/x/1", "b/x/2", "b/y", "c"] {
        bucket.write(key, key);
    }
    let client = Client::of(&s3);
    let list = |prefix: &str, delimiter: &str| {
        let (mut found, mut token, mut pages) = (Vec::new(), None, 0);
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", prefix)];
            query.extend((!delimiter.is_empty()).then_some(("delimiter", delimiter)));
            query.extend(token.as_deref().map(|token| ("continuation-token", token)));
            let page = client.get("/r2-bucket", &query).unwrap().ok();
            found.extend(page.elements("Key"));
            let groups = page.elements("CommonPrefixes");
            found.extend(groups.iter().map(|group| group.replace("<Prefix>", "").replace("</Prefix>", "")));
            pages += 1;
            token = page.element("NextContinuationToken");
            assert_eq!(page.element("IsTruncated").as_deref() == Some("true"), token.is_some());
            if token.is_none() {
                return (found, pages);
            }
        }
    };
    assert_eq!(list("", ""), (bucket.keys(), 4));
    assert_eq!(list("b/", "").0, ["b/1", "b/x/1", "b/x/2", "b/y"]);
    assert_eq!(list("b/", "/"), (["b/1", "b/x/", "b/y"].map(ToOwned::to_owned).to_vec(), 2));
    assert_eq!(list("", "/"), (["a/", "b/", "c"].map(ToOwned::to_owned).to_vec(), 2));
    let wrong = [("list-type", "2"), ("continuation-token", "1 /=&eA==")];
    client.get("/r2-bucket", &wrong).unwrap().refused(400, "InvalidArgument");
}

#[test]
fn parts_become_one_object() {
    let (s3, client) = r2();
    let bucket = s3.bucket("r2-bucket");
    let part = vec![7; 5 << 20];
    let done = upload(&client, "/r2-bucket/large", &[&part, b"rest"]).ok();
    let etag = done.element("ETag").unwrap();
    assert!(etag.trim_matches('"').ends_with("-2"), "{etag}");
    assert_eq!(bucket.read("large"), [&part[..], b"rest"].concat());
    assert!(bucket.uploads().is_empty());

    upload(&client, "/r2-bucket/small", &[b"small", b"rest"]).refused(400, "EntityTooSmall");
    let larger = vec![7; 6 << 20];
    upload(&client, "/r2-bucket/uneven", &[&part, &larger, b"rest"]).refused(400, "InvalidPart");
    upload(&client, "/r2-bucket/uneven", &[&part, &larger]).refused(400, "InvalidPart");
    s3.change(|options| options.equal_parts = false);
    upload(&client, "/r2-bucket/uneven", &[&part, &larger]).ok();
    assert_eq!(bucket.keys(), ["large", "uneven"]);
}

#[test]
fn an_upload_that_was_begun_is_listed_and_charged_for_until_it_is_aborted() {
    let s3 = S3::with(Options { page_size: 2, ..Options::default() });
    let bucket = s3.bucket("r2-bucket");
    let client = Client::of(&s3);
    let mut ids = Vec::new();
    for path in ["/r2-bucket/a", "/r2-bucket/a", "/r2-bucket/b", "/r2-bucket/a"] {
        let begun = client.send("POST", path, &[("uploads", "")], b"").unwrap().ok();
        ids.push((path, begun.element("UploadId").unwrap()));
    }
    let id = ids[0].1.as_str();
    assert!(["+", "/", "=", "&", " "].iter().all(|hostile| id.contains(hostile)), "{id}");
    client.send("PUT", "/r2-bucket/a", &[("partNumber", "1"), ("uploadId", id)], b"0123456789").unwrap().ok();
    let unencoded = id.replace('+', " ");
    let query = [("partNumber", "1"), ("uploadId", unencoded.as_str())];
    client.send("PUT", "/r2-bucket/a", &query, b"x").unwrap().refused(404, "NoSuchUpload");
    assert_eq!((bucket.stored_bytes(), bucket.objects().len()), (10, 0));
    let parts = client.get("/r2-bucket/a", &[("uploadId", id)]).unwrap().ok();
    assert_eq!(parts.elements("Size"), ["10"]);

    let (mut listed, mut marker) = (Vec::new(), None::<(String, String)>);
    for _ in 0..3 {
        let mut query = vec![("uploads", "")];
        if let Some((key, id)) = &marker {
            query.extend([("key-marker", key.as_str()), ("upload-id-marker", id)]);
        }
        let page = client.get("/r2-bucket", &query).unwrap().ok();
        listed.extend(page.elements("UploadId"));
        marker = page.element("NextKeyMarker").zip(page.element("NextUploadIdMarker"));
        if marker.is_none() {
            break;
        }
    }
    assert_eq!(listed, [0, 1, 3, 2].map(|index: usize| ids[index].1.clone()));

    for (path, id) in &ids {
        assert_eq!(client.send("DELETE", path, &[("uploadId", id)], b"").unwrap().status, 204);
        client.send("DELETE", path, &[("uploadId", id)], b"").unwrap().refused(404, "NoSuchUpload");
    }
    assert_eq!((bucket.stored_bytes(), bucket.uploads().len()), (0, 0));
}

#[test]
fn with_versions_a_delete_only_hides() {
    let s3 = S3::with(Options { page_size: 2, ..Options::b2() });
    let bucket = s3.bucket("b2-bucket");
    let client = Client::of(&s3);
    client.put("/b2-bucket/key", b"first").unwrap().ok();
    client.put("/b2-bucket/key", b"second").unwrap().ok();
    client.put("/b2-bucket/key2", b"other").unwrap().ok();
    client.send("DELETE", "/b2-bucket/key", &[], b"").unwrap().ok();
    client.get("/b2-bucket/key", &[]).unwrap().refused(404, "NoSuchKey");
    assert_eq!((bucket.keys(), bucket.stored_bytes()), (vec!["key2".to_owned()], 16));

    let first = client.get("/b2-bucket", &[("versions", ""), ("prefix", "key")]).unwrap().ok();
    assert_eq!((first.elements("Version").len(), first.elements("DeleteMarker").len()), (1, 1));
    let (key, id) = (first.element("NextKeyMarker").unwrap(), first.element("NextVersionIdMarker").unwrap());
    let query = [("versions", ""), ("prefix", "key"), ("key-marker", &key), ("version-id-marker", &id)];
    let second = client.get("/b2-bucket", &query).unwrap().ok();
    assert_eq!(second.elements("Key"), ["key", "key2"]);
    assert_eq!(second.element("IsTruncated").as_deref(), Some("false"));

    let old = second.element("VersionId").unwrap();
    let got = client.get("/b2-bucket/key", &[("versionId", &old)]).unwrap().ok();
    assert_eq!(got.text(), "first");
    for id in first.elements("VersionId").iter().chain([&old]) {
        client.send("DELETE", "/b2-bucket/key", &[("versionId", id)], b"").unwrap().ok();
    }
    assert_eq!((bucket.versions("key"), bucket.stored_bytes()), (0, 5));
    client
        .with_header("if-none-match", "*")
        .put("/b2-bucket/new", b"x")
        .unwrap()
        .refused(501, "NotImplemented");
}

#[test]
fn without_versions_a_conditional_put_never_replaces() {
    let (s3, client) = r2();
    let client = client.with_header("if-none-match", "*");
    client.put("/r2-bucket/key", b"first").unwrap().ok();
    client.put("/r2-bucket/key", b"second").unwrap().refused(412, "PreconditionFailed");
    assert_eq!(s3.bucket("r2-bucket").read("key"), b"first");
}

#[test]
fn a_key_without_the_right_deletes_nothing_though_the_answer_may_be_200() {
    let (s3, client) = r2();
    s3.bucket("r2-bucket").write("key", "x");
    s3.change(|options| options.deny_deletes = true);
    client.send("DELETE", "/r2-bucket/key", &[], b"").unwrap().refused(403, "AccessDenied");
    let many = b"<Delete><Object><Key>key</Key></Object></Delete>";
    let answer = client.send("POST", "/r2-bucket", &[("delete", "")], many).unwrap().ok();
    assert_eq!(answer.element("Code").as_deref(), Some("AccessDenied"), "{}", answer.text());
    assert_eq!(s3.bucket("r2-bucket").keys(), ["key"]);
    s3.change(|options| options.deny_deletes = false);
    client.send("POST", "/r2-bucket", &[("delete", "")], many).unwrap().ok();
    assert!(s3.bucket("r2-bucket").keys().is_empty());
}

#[test]
fn damage_behind_the_servers_back_is_sent_as_if_it_were_whole() {
    let (s3, client) = r2();
    let bucket = s3.bucket("r2-bucket");
    let sent = client.put("/r2-bucket/key", b"0123456789").unwrap().ok();
    bucket.damage("key");
    let got = client.get("/r2-bucket/key", &[]).unwrap().ok();
    assert_eq!((got.text().as_str(), got.header("etag")), ("0123446789", sent.header("etag")));
    bucket.cut("key", 3);
    assert_eq!(client.get("/r2-bucket/key", &[]).unwrap().ok().text(), "012");
    bucket.lose("key");
    client.get("/r2-bucket/key", &[]).unwrap().refused(404, "NoSuchKey");
}

/// Somebody else's client, so that the server is not only right by the measure of ours.
#[test]
fn curl_gets_on_with_it() {
    let (s3, _) = r2();
    let file = base().join("curl-body");
    std::fs::write(&file, "from curl").unwrap();
    let curl = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "--aws-sigv4", "aws:amz:auto:s3", "-u"]);
        curl.arg(format!("{}:{}", s3.access_key(), s3.secret_key())).args(arguments);
        let output = curl.output().expect("run curl: install it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let url = format!("{}/r2-bucket/curl", s3.endpoint());
    // curl 7.88 does not put a body's hash into the header of its own accord.
    let hash = "x-amz-content-sha256: UNSIGNED-PAYLOAD";
    assert_eq!(curl(&["-H", hash, "-T", file.to_str().unwrap(), &url]), "");
    assert_eq!(s3.bucket("r2-bucket").read("curl"), b"from curl");
    assert_eq!(curl(&["-H", hash, &url]), "from curl");
}

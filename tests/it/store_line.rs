//! The whole stack of a store in the cloud behind a line on which something goes wrong: what passes is waited out, and
//! what arrives is what was sent. And behind TLS, by a certificate that this machine trusts or not.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgkeep::model::StoreName;
use pgkeep::store::{Body, Replicas, Store, StoreErrorKind, cloud};

use crate::python::python;
use crate::store_conformance::{bytes, file, place};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::s3::{Bucket, Options, S3};
use crate::support::{base, unique};

/// Three parts.
const SIZE: usize = (40 << 20) + 7;

struct Line {
    s3: S3,
    proxy: Proxy,
    store: Arc<dyn Store>,
}

impl Line {
    fn new() -> Self {
        let s3 = S3::start();
        let proxy = Proxy::before(s3.address());
        let store = cloud(place(&s3, proxy.endpoint(), "line", false), None).unwrap();
        Self { s3, proxy, store }
    }

    fn bucket(&self) -> Bucket {
        self.s3.bucket("line")
    }

    /// How many requests of this method came by whose target holds this text.
    fn seen(&self, method: &str, target: &str) -> usize {
        let seen = self.proxy.seen();
        seen.iter().filter(|request| request.starts_with(method) && request.contains(target)).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_befalls_one_request_of_an_upload_the_object_arrives_whole() {
    let directory = tempfile::tempdir().unwrap();
    let content = bytes(SIZE);
    let body = file(directory.path(), &content);
    let line = Line::new();
    let requests = [
        ("POST", "?uploads="),
        ("PUT", "partNumber=2"),
        ("PUT", "partNumber=3"),
        ("POST", "?uploadId="),
        ("HEAD", ""),
    ];
    for (method, target) in requests {
        let mut faults = vec![
            Fault::Reset,
            Fault::LoseAnswer,
            Fault::internal_error(),
            Fault::slow_down(Some(0)),
            Fault::CutRequest(100),
        ];
        if method != "HEAD" {
            faults.push(Fault::error_with_200("InternalError"));
            faults.push(Fault::Answer(b"<html>Log in to this network</html>".to_vec()));
        }
        for fault in faults {
            let name = format!("{fault:?} on {method} {target}");
            line.proxy.fail(Rule::new(fault).on(method, target).only(1));
            line.store
                .put("main/large", body.clone())
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(line.proxy.faults(), 1, "{name}");
            line.proxy.heal();
            assert!(line.bucket().read("main/large") == content, "{name}");
            line.bucket().lose("main/large");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_part_that_failed_is_sent_again() {
    let line = Line::new();
    line.proxy.fail(Rule::new(Fault::CutRequest(1_000_000)).on("PUT", "partNumber=2").first(2));
    line.store.put("main/large", Body::Bytes(bytes(SIZE))).await.unwrap();
    let parts: Vec<usize> = (1..=3).map(|number| line.seen("PUT", &format!("partNumber={number}"))).collect();
    assert_eq!(parts, [1, 3, 1]);
    assert_eq!(line.bucket().uploads().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_many_volumes_is_deleted_several_at_once_and_its_manifest_first() {
    let line = Line::new();
    let prefix = "main/backups/id/";
    for number in 0..40 {
        line.bucket().write(&format!("{prefix}data.{number:05}"), vec![1]);
    }
    line.bucket().write(&format!("{prefix}manifest"), vec![1]);
    // One after the other would take eight seconds.
    line.proxy.fail(Rule::new(Fault::Late(Duration::from_millis(200))).on("DELETE", ""));
    let replicas = Replicas::new(None, vec![Arc::clone(&line.store)], &[StoreName::R2], "spool".into(), 1);
    let begun = Instant::now();
    assert_eq!(replicas.delete_all(&[StoreName::R2], prefix).await.unwrap(), 41);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let seen = line.proxy.seen();
    let first = seen.iter().find(|request| request.starts_with("DELETE")).unwrap();
    assert!(first.ends_with("/manifest"), "{first}");
    assert_eq!(line.bucket().keys(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_cannot_be_finished_leaves_no_parts_behind() {
    let line = Line::new();
    line.proxy.fail(
        Rule::new(Fault::Status { status: 403, code: "AccessDenied", retry_after: None }).on("PUT", "=2"),
    );
    let error = line.store.put("main/large", Body::Bytes(bytes(SIZE))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
    assert!(
        error.to_string().contains("/line/main/large in store r2: part 2: HTTP 403, AccessDenied"),
        "{error}"
    );
    assert_eq!((line.bucket().uploads().len(), line.bucket().stored_bytes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_read_goes_on_where_it_broke_off() {
    let line = Line::new();
    let content = bytes(SIZE);
    line.bucket().write("main/large", content.clone());
    for fault in [
        Fault::Reset,
        Fault::CutAnswer(1_000_000),
        Fault::Truncate(1_000_000),
        Fault::internal_error(),
        Fault::slow_down(Some(0)),
        Fault::error_with_200("InternalError"),
        Fault::Answer(b"something else".to_vec()),
    ] {
        let name = format!("{fault:?}");
        let before = line.seen("GET", "main/large");
        line.proxy.fail(Rule::new(fault).on("GET", "main/large").only(2));
        let read = line
            .store
            .get("main/large", 0, SIZE as u64)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read == content, "{name}");
        assert_eq!(line.seen("GET", "main/large") - before, 4, "three ranges, and one of them again: {name}");
        line.proxy.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_list_that_is_cut_is_asked_for_again_alone() {
    let line = Line::new();
    for number in 0..2_500 {
        line.bucket().write(&format!("main/wal/{number:04}"), b"x".to_vec());
    }
    for fault in
        [Fault::CutAnswer(5_000), Fault::Truncate(5_000), Fault::Answer(Vec::new()), Fault::slow_down(None)]
    {
        let name = format!("{fault:?}");
        let before = line.seen("GET", "list-type=2");
        line.proxy.fail(Rule::new(fault).on("GET", "list-type=2").only(2));
        let listed = line.store.list("main/wal/").await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(listed.len(), 2_500, "{name}");
        assert_eq!(line.seen("GET", "list-type=2") - before, 4, "{name}");
        line.proxy.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_whose_answer_is_lost_is_a_deletion() {
    let line = Line::new();
    line.bucket().write("main/a", b"x".to_vec());
    line.proxy.fail(Rule::new(Fault::LoseAnswer).on("DELETE", "").only(1));
    line.store.delete("main/a").await.unwrap();
    assert_eq!(line.bucket().keys(), [""; 0]);
}

/// A TLS server with a certificate by an authority of its own, in front of a plain one; ends when its input does.
const FRONT: &str = r#"
import asyncio, datetime, ipaddress, ssl, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

def certificate(name, key, issuer, issuer_key, extension):
    now = datetime.datetime.now(datetime.timezone.utc)
    named = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
    builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    return builder.add_extension(extension, critical=False).sign(issuer_key, hashes.SHA256())

directory, port = sys.argv[1], int(sys.argv[2])
root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
root = certificate("root", root_key, "root", root_key, x509.BasicConstraints(ca=True, path_length=None))
names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
leaf = certificate("server", key, "root", root_key, names)
pem = serialization.Encoding.PEM
with open(directory + "/root.pem", "wb") as file:
    file.write(root.public_bytes(pem))
other = certificate("other", root_key, "other", root_key, x509.BasicConstraints(ca=True, path_length=None))
with open(directory + "/other.pem", "wb") as file:
    file.write(other.public_bytes(pem))
with open(directory + "/server.pem", "wb") as file:
    file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    file.write(leaf.public_bytes(pem))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(directory + "/server.pem")

async def pass_on(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()

async def serve(reader, writer):
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(pass_on(reader, there_writer), pass_on(there_reader, writer), return_exceptions=True)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"#;

/// Set in the child of the test below: the endpoint to talk to.
const ENDPOINT: &str = "PGKEEP_TEST_TLS_ENDPOINT";

/// A process reads once whom it trusts, so the test runs itself as a child for each machine that it plays.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_over_tls_must_have_a_certificate_that_this_machine_trusts() {
    if let Ok(endpoint) = std::env::var(ENDPOINT) {
        return talk_over_tls(endpoint).await;
    }
    let s3 = S3::start();
    s3.bucket("tls");
    let directory = base().join(format!("tls-{}", unique()));
    std::fs::create_dir(&directory).unwrap();
    let mut front = Command::new(python())
        .args(["-c", FRONT])
        .arg(&directory)
        .arg(s3.address().port().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    BufReader::new(front.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let endpoint = format!("https://127.0.0.1:{}", port.trim());

    let test = "store_line::a_store_over_tls_must_have_a_certificate_that_this_machine_trusts";
    let child = |authorities: &std::path::Path| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", test, "--nocapture"])
            .env(ENDPOINT, &endpoint)
            .env("SSL_CERT_FILE", authorities);
        child.env("ACCESS", s3.access_key()).env("SECRET", s3.secret_key()).env_remove("SSL_CERT_DIR");
        let output = child.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let trusting = child(&directory.join("root.pem"));
    assert!(trusting.contains("written and read"), "{trusting}");
    assert_eq!(s3.bucket("tls").read("main/large").len(), SIZE);
    let doubting = child(&directory.join("other.pem"));
    assert!(doubting.contains("Untrusted") && doubting.contains("certificate"), "{doubting}");
    drop(front.stdin.take());
    front.wait().unwrap();
}

#[allow(clippy::print_stdout, reason = "the parent reads it")]
async fn talk_over_tls(endpoint: String) {
    let variable = |name: &str| std::env::var(name).unwrap();
    let place = pgkeep::store::S3Place {
        name: pgkeep::model::StoreName::R2,
        endpoint,
        region: "auto".to_owned(),
        bucket: "tls".to_owned(),
        access_key: variable("ACCESS"),
        secret_key: pgkeep::system::Secret::new(variable("SECRET")),
        keeps_versions: false,
    };
    let store = cloud(place, None).unwrap();
    let content = bytes(SIZE);
    let written =
        tokio::time::timeout(Duration::from_mins(1), store.put("main/large", Body::Bytes(content.clone())));
    match written.await.unwrap() {
        Ok(()) => {
            assert!(store.get("main/large", 0, SIZE as u64).await.unwrap() == content);
            println!("written and read");
        }
        Err(error) => println!("{:?}: {error}", error.kind),
    }
}

/// R2 refuses more than a few parts of an upload at a time; others take more.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_parts_are_under_way_at_once_than_the_store_takes() {
    for (name, versions, most) in [(StoreName::R2, false, 3), (StoreName::B2, true, 4)] {
        let s3 = S3::with(if versions { Options::b2() } else { Options::default() });
        let proxy = Proxy::before(s3.address());
        let store = cloud(place(&s3, proxy.endpoint(), "line", versions), None).unwrap();
        proxy.fail(Rule::new(Fault::Late(Duration::from_millis(300))).on("PUT", "partNumber"));
        // Ten parts.
        store.put("main/large", Body::Bytes(bytes(80 << 20))).await.unwrap();
        assert_eq!(proxy.parts_at_once(), most, "{name}");
    }
}

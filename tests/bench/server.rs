//! An S3 server in a process of its own, so that what it costs is none of what is measured: this very program, called
//! with the word `serve`. It obeys lines on its input and answers each with a line.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pgkeep::model::StoreName;
use pgkeep::store::{S3Place, Store, cloud};
use pgkeep::system::Secret;
use serde_json::{Value, json};

use super::measure::of_process;
use super::support::Place;
use super::support::many;
use super::support::proxy::{Link, Proxy};
use super::support::s3::{Options, S3};

/// The word that makes this program a server.
pub(crate) const SERVE: &str = "serve";

const BUCKET: &str = "keep";

/// The running server; ends with this value.
pub(crate) struct Server {
    name: StoreName,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    said: Value,
}

impl Server {
    /// Starts one that is as R2 or as B2.
    pub(crate) fn start(name: StoreName) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("know this program"));
        command.args([SERVE, name.as_str()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start a server");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("an output"));
        let mut server = Self { name, child, input, output: BufReader::new(output), said: Value::Null };
        server.said = server.answer();
        server
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("read the server's answer");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn ask(&mut self, question: &Value) -> Value {
        let input = self.input.as_mut().expect("an input");
        writeln!(input, "{question}").expect("ask the server");
        self.answer()
    }

    fn said(&self, what: &str) -> &str {
        self.said[what].as_str().unwrap_or_else(|| panic!("no {what}"))
    }

    /// Puts an object there.
    pub(crate) fn write(&mut self, key: &str, bytes: &[u8]) {
        self.ask(&json!({ "write": key, "bytes": STANDARD.encode(bytes) }));
    }

    /// Puts these objects there, one byte each.
    pub(crate) fn write_many(&mut self, cluster: &str, backups: usize, objects: usize) {
        self.ask(&json!({ "cluster": cluster, "backups": backups, "objects": objects }));
    }

    /// Puts names of WAL segments there as they will be, one byte each.
    pub(crate) fn write_wal(&mut self, cluster: &str, count: usize) {
        self.ask(&json!({ "cluster": cluster, "wal": count }));
    }

    /// Makes a copy of an object.
    pub(crate) fn copy(&mut self, from: &str, to: &str) {
        self.ask(&json!({ "copy": from, "to": to }));
    }

    /// Forgets all objects and all requests.
    pub(crate) fn lose_all(&mut self) {
        self.ask(&json!({ "lose": true }));
    }

    /// The requests so far, by the name of the operation.
    pub(crate) fn requests(&mut self) -> Value {
        self.ask(&json!({ "requests": true }))
    }

    /// Makes the line to [`Server::far`] so long, and a connection's window so wide.
    pub(crate) fn set_link(&mut self, latency: Duration, window: u32) {
        self.ask(&json!({ "latency": latency.as_millis() as u64, "window": window }));
    }

    /// Seconds of processor time that it has used.
    pub(crate) fn cpu(&self) -> f64 {
        of_process(self.child.id())
    }

    /// Makes it a cloud of this place.
    pub(crate) fn settings(&self, place: &Place) {
        let names = match self.name {
            StoreName::R2 => ["R2_ENDPOINT", "R2_BUCKET", "R2_ACCESS_KEY", "R2_SECRET_KEY"],
            _ => ["B2_ENDPOINT", "B2_BUCKET_NAME", "B2_KEY_ID", "B2_APPLICATION_KEY"],
        };
        let values = [self.said("endpoint"), BUCKET, self.said("access_key"), self.said("secret_key")];
        for (name, value) in names.into_iter().zip(values) {
            place.set(name, value);
        }
    }

    /// The store as pgkeep makes it: without a proxy between.
    pub(crate) fn near(&self) -> Arc<dyn Store> {
        self.store(self.name, "endpoint")
    }

    /// The same at the other end of the line, under this name.
    pub(crate) fn far(&self, name: StoreName) -> Arc<dyn Store> {
        self.store(name, "proxy")
    }

    fn store(&self, name: StoreName, endpoint: &str) -> Arc<dyn Store> {
        let place = S3Place {
            name,
            endpoint: self.said(endpoint).to_owned(),
            region: "auto".to_owned(),
            bucket: BUCKET.to_owned(),
            access_key: self.said("access_key").to_owned(),
            secret_key: Secret::new(self.said("secret_key").to_owned()),
            keeps_versions: false,
        };
        cloud(place, None).expect("make the store")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input is the end of it.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// Is the server until the input ends.
pub(crate) fn serve(name: &str) {
    let options = if name == StoreName::B2.as_str() { Options::b2() } else { Options::default() };
    let s3 = S3::with(options);
    let bucket = s3.bucket(BUCKET);
    let proxy = Proxy::before(s3.address());
    let text = |question: &Value, what: &str| question[what].as_str().unwrap_or_default().to_owned();
    let number = |question: &Value, what: &str| question[what].as_u64().unwrap_or_default() as usize;
    println!(
        "{}",
        json!({
            "endpoint": s3.endpoint(),
            "proxy": proxy.endpoint(),
            "access_key": s3.access_key(),
            "secret_key": s3.secret_key(),
        })
    );
    for line in std::io::stdin().lines() {
        let question: Value = serde_json::from_str(&line.expect("read a question")).expect("a question");
        let mut answer = Value::Bool(true);
        if question["write"].is_string() {
            let bytes = STANDARD.decode(text(&question, "bytes")).expect("base64");
            bucket.write(&text(&question, "write"), bytes);
        } else if question["backups"].is_u64() {
            let (backups, objects) = (number(&question, "backups"), number(&question, "objects"));
            for key in many::keys(&text(&question, "cluster"), backups, objects) {
                bucket.write(&key, many::CONTENT);
            }
        } else if question["wal"].is_u64() {
            for key in wal(&text(&question, "cluster"), number(&question, "wal")) {
                bucket.write(&key, many::CONTENT);
            }
        } else if question["copy"].is_string() {
            bucket.write(&text(&question, "to"), bucket.read(&text(&question, "copy")));
        } else if question["lose"].is_boolean() {
            bucket.lose_all();
            s3.forget_requests();
        } else if question["requests"].is_boolean() {
            answer = json!(s3.requests());
        } else {
            let latency = Duration::from_millis(number(&question, "latency") as u64);
            let window = u32::try_from(number(&question, "window")).expect("a window");
            proxy.set_link(Link { latency, window, bytes_per_second: None });
        }
        println!("{answer}");
    }
}

/// Keys of segments as they will be: timeline, name, SHA-256 of the plain bytes.
fn wal(cluster: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| {
        // 256 segments of 16 MiB make one "log file" of 4 GiB in their names.
        let name = format!("00000001{:08X}{:08X}", n / 256, n % 256);
        format!("{cluster}/wal/00000001/{:08X}/{name}-{n:064x}", n / 256)
    })
}

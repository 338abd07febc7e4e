//! Each channel against a real receiver, and what happens when that is away, slow, or says no.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::python::python;
use crate::support::{Place, base, ordinary, project, run, unique};

/// A mail server of somebody else's making, see `smtp.py`.
pub(crate) struct Smtp {
    child: Child,
    pub(crate) port: u16,
    mails: Receiver<Value>,
}

impl Smtp {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = ordinary(python());
        command.args(["-I", "-B"]).arg(project().join("tests/it/smtp.py")).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start the mail server");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().expect("a port").expect("read it").parse().expect("a number");
        let (sender, mails) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Self { child, port, mails }
    }

    /// Makes a place send its mail there, in the clear.
    pub(crate) fn is_mail_of(&self, place: &Place) {
        mail_through(place, self.port);
    }

    /// The next mail.
    #[track_caller]
    pub(crate) fn mail(&self) -> Value {
        self.mails.recv_timeout(Duration::from_secs(30)).expect("a mail")
    }

    /// That there is none.
    #[track_caller]
    pub(crate) fn is_silent(&self) {
        let mail = self.mails.recv_timeout(Duration::from_millis(300));
        assert!(mail.is_err(), "{mail:?}");
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn mail_through(place: &Place, port: u16) {
    place.set("SMTP_HOST", "127.0.0.1");
    place.set("SMTP_PORT", &port.to_string());
    place.set("SMTP_TLS", "none");
    place.set("ALERT_EMAIL_FROM", "pgkeep@example.com");
    place.set("ALERT_EMAIL_TO", "ada@example.com");
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// A receiver of HTTP requests, one to a connection.
pub(crate) struct Http {
    pub(crate) port: u16,
    requests: Receiver<Request>,
    answer: Arc<Mutex<Answers>>,
}

/// What is answered.
struct Answers {
    all: (u16, String),
    /// To requests whose body holds this text.
    special: Option<(String, u16, String)>,
}

impl Answers {
    fn to(&self, body: &str) -> (u16, String) {
        match &self.special {
            Some((text, code, answer)) if body.contains(text) => (*code, answer.clone()),
            _ => self.all.clone(),
        }
    }
}

impl Http {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let answer = Arc::new(Mutex::new(Answers { all: (200, "ok".to_owned()), special: None }));
        let (sender, requests) = channel();
        let answers = Arc::clone(&answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (sender, answers) = (sender.clone(), Arc::clone(&answers));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    let mut lines = Vec::new();
                    loop {
                        let mut line = String::new();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                            break;
                        }
                        lines.push(line.trim().to_owned());
                    }
                    let headers: Vec<(String, String)> = lines
                        .iter()
                        .skip(1)
                        .filter_map(|line| line.split_once(": "))
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .collect();
                    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
                    let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).expect("read the body");
                    let line = lines.first().cloned().unwrap_or_default();
                    let body = String::from_utf8(body).expect("UTF-8");
                    let _ = sender.send(Request { line, headers, body: body.clone() });
                    let (code, text) = answers.lock().unwrap().to(&body);
                    if code == 0 {
                        // Never answers.
                        std::thread::sleep(Duration::from_mins(1));
                    }
                    let length = text.len();
                    let head = format!(
                        "HTTP/1.1 {code} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
                    );
                    let _ = reader.get_mut().write_all(head.as_bytes());
                });
            }
        });
        Self { port, requests, answer }
    }

    pub(crate) fn answers(&self, code: u16, text: &str) {
        self.answer.lock().unwrap().all = (code, text.to_owned());
    }

    /// To requests whose body holds this text.
    pub(crate) fn answers_to(&self, body: &str, code: u16, text: &str) {
        self.answer.lock().unwrap().special = Some((body.to_owned(), code, text.to_owned()));
    }

    /// Lets everybody wait for an answer while this runs.
    pub(crate) fn waits_while(&self, act: impl FnOnce()) {
        let _held = self.answer.lock().unwrap();
        act();
    }

    pub(crate) fn is_webhook_of(&self, place: &Place) {
        place.set("WEBHOOK_URL", &format!("http://127.0.0.1:{}/hook/very-secret", self.port));
        place.set("WEBHOOK_SECRET", "sesame");
    }

    #[track_caller]
    pub(crate) fn request(&self) -> Request {
        self.requests.recv_timeout(Duration::from_secs(30)).expect("a request")
    }

    #[track_caller]
    pub(crate) fn is_silent(&self) {
        let request = self.requests.recv_timeout(Duration::from_millis(300));
        assert!(request.is_err(), "{request:?}");
    }
}

/// A port at which nobody listens.
pub(crate) fn nobody() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// An authority, and a certificate of its for localhost.
fn certificates() -> (PathBuf, PathBuf, PathBuf) {
    let directory = base().join(format!("smtp{}", unique()));
    std::fs::create_dir(&directory).unwrap();
    crate::support::set_mode(&directory, 0o755);
    let script = "cd \"$1\" && umask 022
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=test CA' -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj '/CN=localhost' -keyout key.pem -out request.pem
        printf 'subjectAltName=DNS:localhost\\n' >names
        openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem
        chmod 644 key.pem";
    let mut command = Command::new("sh");
    run(command.args(["-ec", script, "sh"]).arg(&directory)).ok();
    (directory.join("ca.pem"), directory.join("cert.pem"), directory.join("key.pem"))
}

fn tested(place: &Place, code: i32) -> Value {
    place.pgkeep(&["--output", "json", "alerts", "test"]).ended_with(code).json()["channels"].clone()
}

#[test]
fn req_6_22_mail_goes_over_starttls_and_tls_with_a_login() {
    let (authority, certificate, key) = certificates();
    let certificate = format!("cert={}", certificate.display());
    let key = format!("key={}", key.display());
    for (mode, login) in [("starttls", true), ("tls", false)] {
        let mut arguments = vec![mode, certificate.as_str(), key.as_str()];
        arguments.extend(login.then_some("login"));
        let smtp = Smtp::start(&arguments);
        let place = Place::ready();
        smtp.is_mail_of(&place);
        place.set("SMTP_HOST", "localhost");
        place.set("SMTP_TLS", mode);
        if login {
            place.set("SMTP_USER", "pgkeep");
            place.set("SMTP_PASSWORD", "sesame");
        }
        let test = ["alerts", "test"];
        // Whom nobody vouches for gets no word, and above all no password.
        let refused = place.pgkeep(&test).fails_with(40);
        assert!(
            !refused.stdout.contains("sesame") && refused.stdout.contains("email: "),
            "{}",
            refused.stdout
        );
        smtp.is_silent();
        let trusted = [("SSL_CERT_FILE", authority.to_str().unwrap())];
        place.pgkeep_with(&trusted, &test).ok();
        let mail = smtp.mail();
        assert_eq!((&mail["tls"], &mail["login"]), (&true.into(), &login.into()), "{mode}");
        assert_eq!(mail["subject"], "[pgkeep test] this is a test: alerts arrive here");
        if login {
            place.set("SMTP_PASSWORD", "wrong");
            let wrong = place.pgkeep_with(&trusted, &test).fails_with(40);
            assert!(wrong.stdout.contains("535") && !wrong.stdout.contains("wrong"), "{}", wrong.stdout);
        }
    }
}

#[test]
fn mail_that_is_refused_for_one_recipient_reaches_the_others() {
    let smtp = Smtp::start(&["plain", "refuse=bob@example.com"]);
    let place = Place::ready();
    smtp.is_mail_of(&place);
    place.set("ALERT_EMAIL_TO", "bob@example.com, ada@example.com");
    let channels = tested(&place, 40);
    let error = channels[0]["error"].as_str().unwrap();
    assert!(error.contains("bob@example.com") && error.contains("550"), "{error}");
    assert_eq!(smtp.mail()["to"], serde_json::json!(["ada@example.com"]));
    smtp.is_silent();
}

#[test]
fn a_mail_server_that_is_slow_is_not_waited_for_long() {
    let smtp = Smtp::start(&["plain", "slow"]);
    let place = Place::ready();
    smtp.is_mail_of(&place);
    let begun = Instant::now();
    let channels = tested(&place, 40);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert!(channels[0]["error"].as_str().unwrap().contains("did not answer within 20 s"), "{channels}");
}

#[test]
fn req_6_22_a_webhook_is_signed_and_readable_by_slack() {
    let http = Http::start();
    let place = Place::ready();
    http.is_webhook_of(&place);
    place.pgkeep(&["alerts", "test"]).ok();
    let request = http.request();
    assert_eq!(request.line, "POST /hook/very-secret HTTP/1.1");
    let signature = pgkeep::notify::webhook::signature("sesame", request.body.as_bytes());
    assert_eq!(request.header("X-Pgkeep-Signature"), Some(signature.as_str()));
    let document = request.json();
    assert_eq!((&document["event"], &document["cluster"]), (&"test".into(), &"test".into()));
    assert!(document["text"].as_str().unwrap().starts_with("this is a test"));
    // What goes wrong is said without the address, which is a secret.
    http.answers(500, "no <b>luck</b>");
    let refused = place.pgkeep(&["alerts", "test"]).fails_with(40);
    assert!(refused.stdout.contains("500") && !refused.stdout.contains("very-secret"), "{}", refused.stdout);
    http.answers(0, "");
    let begun = Instant::now();
    let late = place.pgkeep(&["alerts", "test"]).fails_with(40);
    assert!(late.stdout.contains("no answer within 10 s"), "{}", late.stdout);
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn req_6_22_text_messages_are_twilios_form_and_a_wrong_token_is_said() {
    let http = Http::start();
    let place = Place::ready();
    for (name, value) in [
        ("TWILIO_ACCOUNT_SID", "AC123"),
        ("TWILIO_AUTH_TOKEN", "topsecret"),
        ("TWILIO_FROM", "+4915"),
        ("ALERT_SMS_TO", "+4916"),
        ("TWILIO_BASE_URL", &format!("http://127.0.0.1:{}", http.port)),
    ] {
        place.set(name, value);
    }
    http.answers(201, "{}");
    place.pgkeep(&["alerts", "test"]).ok();
    let request = http.request();
    assert_eq!(request.line, "POST /2010-04-01/Accounts/AC123/Messages.json HTTP/1.1");
    // AC123:topsecret
    assert_eq!(request.header("Authorization"), Some("Basic QUMxMjM6dG9wc2VjcmV0"));
    assert!(request.body.starts_with("To=%2B4916&From=%2B4915&Body="), "{}", request.body);
    http.answers(401, r#"{"code": 20003, "message": "Authenticate"}"#);
    let wrong = place.pgkeep(&["alerts", "test"]).fails_with(40);
    assert!(wrong.stdout.contains("401") && wrong.stdout.contains("Authenticate"), "{}", wrong.stdout);
    assert!(!wrong.stdout.contains("topsecret"), "{}", wrong.stdout);
}

#[test]
fn some_channels_that_fail_are_incomplete_and_all_are_a_failure() {
    let http = Http::start();
    let place = Place::ready();
    place.pgkeep(&["alerts", "test"]).fails_with(20);
    http.is_webhook_of(&place);
    mail_through(&place, nobody());
    let channels = tested(&place, 3);
    assert_eq!((&channels[0]["ok"], &channels[1]["ok"]), (&false.into(), &true.into()));
    let _ = http.request();
    http.is_silent();
    place.set("WEBHOOK_URL", &format!("http://127.0.0.1:{}/", nobody()));
    tested(&place, 40);
}

#[test]
fn settings_of_channels_are_checked_together_and_never_shown() {
    let place = Place::new();
    for (name, value) in [
        ("SMTP_HOST", "mail.example.com"),
        ("SMTP_TLS", "none"),
        ("ALERT_EMAIL_FROM", "pgkeep"),
        ("ALERT_EMAIL_TO", "ada@example.com"),
        ("SMTP_PASSWORD", "topsecret"),
        ("TWILIO_AUTH_TOKEN", "topsecret"),
        ("WEBHOOK_URL", "http://example.com/topsecret"),
        ("ALERT_WARNING", "pigeon"),
        ("ALERT_QUIET_HOURS", "late"),
        ("ALERT_REPAET", "1h"),
    ] {
        place.set(name, value);
    }
    let refused = place.pgkeep(&["init"]).fails_with(20);
    assert!(!refused.stderr.contains("topsecret"), "{}", refused.stderr);
    insta::assert_snapshot!(refused.message());
}

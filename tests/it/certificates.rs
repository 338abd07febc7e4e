//! Certificates that end soon, and files with secrets that others can get at: a warning, and over when it is mended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::notify::Smtp;
use crate::support::{Cluster, Place, base, run, set_mode, unique};

fn place() -> Place {
    let place = Place::ready();
    place.set("ALERT_STORAGE", "100");
    place
}

fn open(place: &Place) -> Vec<String> {
    let sql = "SELECT severity || ' ' || alert_type || ' ' || subject FROM alerts WHERE closed_at IS NULL ORDER BY id";
    place.catalog(sql).into_iter().map(|mut row| row.remove(0)).collect()
}

/// A certificate for localhost that nobody vouches for, good for so many days, and its key.
fn certificate(days: &str) -> (PathBuf, PathBuf) {
    let directory = base().join(format!("certificate{}", unique()));
    fs::create_dir(&directory).unwrap();
    set_mode(&directory, 0o755);
    let script = "cd \"$1\" && umask 022
        openssl req -x509 -newkey rsa:2048 -nodes -days \"$2\" -subj '/CN=localhost' -keyout key.pem -out cert.pem
        chmod 644 key.pem";
    run(Command::new("sh").args(["-ec", script, "sh"]).arg(&directory).arg(days)).ok();
    (directory.join("cert.pem"), directory.join("key.pem"))
}

/// Lets a day go by as far as services have been asked for certificates.
fn a_day_goes_by(place: &Place) {
    let sql = "UPDATE certificates SET asked_at = strftime('%FT%H:%M:%fZ', asked_at, '-1 day') RETURNING 1";
    place.catalog(sql);
}

fn smtp(mode: &str, days: &str) -> Smtp {
    let (certificate, key) = certificate(days);
    Smtp::start(&[mode, &format!("cert={}", certificate.display()), &format!("key={}", key.display())])
}

#[test]
fn req_6_23_a_mail_servers_certificate_that_ends_within_two_weeks_is_a_warning_until_it_is_made_anew() {
    for mode in ["starttls", "tls"] {
        let place = place();
        let old = smtp(mode, "10");
        old.is_mail_of(&place);
        place.set("SMTP_HOST", "localhost");
        place.set("SMTP_TLS", mode);
        place.set("ALERT_WARNING", "none");
        let watched = place.pgkeep(&["watch"]).ok();
        let said =
            format!("WARNING   the certificate of the mail server (localhost:{}) expires on ", old.port);
        assert!(watched.stdout.contains(&said), "{}", watched.stdout);
        let alert = format!("WARNING certificate the mail server (localhost:{})", old.port);
        assert_eq!(open(&place), std::slice::from_ref(&alert));
        // What does not ask knows it all the same; and a service is not asked each time.
        let asked = place.catalog("SELECT asked_at FROM certificates");
        place.pgkeep(&["verify"]).ok();
        place.pgkeep(&["watch"]).ok();
        assert_eq!(open(&place), [alert]);
        assert_eq!(place.catalog("SELECT asked_at FROM certificates"), asked);
        let new = smtp(mode, "100");
        place.set("SMTP_PORT", &new.port.to_string());
        place.pgkeep(&["watch"]).ok();
        assert_eq!(open(&place), [""; 0]);
        assert_eq!(place.catalog("SELECT count(*) FROM certificates"), [["1"]], "the old one is forgotten");
    }
}

#[test]
fn a_certificate_that_was_seen_is_known_though_the_service_is_away_now() {
    let place = place();
    let server = smtp("tls", "10");
    server.is_mail_of(&place);
    place.set("SMTP_HOST", "localhost");
    place.set("SMTP_TLS", "tls");
    place.set("ALERT_WARNING", "none");
    place.pgkeep(&["watch"]).ok();
    drop(server);
    a_day_goes_by(&place);
    place.pgkeep(&["watch"]).ok();
    assert_eq!(open(&place).len(), 1);
    let error = "SELECT error IS NOT NULL, not_after IS NOT NULL FROM certificates";
    assert_eq!(place.catalog(error), [["1", "1"]]);
    // Without mail it is nobody's business.
    place.unset("SMTP_HOST");
    for name in ["SMTP_PORT", "SMTP_TLS", "ALERT_EMAIL_FROM", "ALERT_EMAIL_TO"] {
        place.unset(name);
    }
    place.pgkeep(&["watch"]).ok();
    assert_eq!(open(&place), [""; 0]);
}

#[test]
fn a_stores_and_the_servers_certificates_are_looked_at_too() {
    let (certificate, key) = certificate("3");
    // An address of its own, so that its port can be everybody's.
    let address = format!("127.77.{}.{}", std::process::id() % 250 + 1, unique() % 250 + 1);
    let cluster = Cluster::own(&[("listen_addresses", &address)]);
    for (from, to) in [(&certificate, "server.crt"), (&key, "server.key")] {
        let path = cluster.data().join(to);
        fs::copy(from, &path).unwrap();
        set_mode(&path, 0o600);
        crate::support::give(&path);
    }
    cluster.set("ssl", "on");
    let place = Place::on(&cluster);
    place.init();
    place.set("ALERT_STORAGE", "100");
    // A service that only shows its certificate is enough: nothing else is said to it.
    let store = smtp("tls", "3");
    for (name, value) in [
        ("B2_KEY_ID", "key"),
        ("B2_APPLICATION_KEY", "secret"),
        ("B2_BUCKET_NAME", "bucket"),
        ("B2_ENDPOINT", &format!("https://localhost:{}", store.port)),
        ("PGHOST", &address),
        ("BACKUP_MIN_COPIES", "1"),
    ] {
        place.set(name, value);
    }
    let watched = place.pgkeep(&["watch"]).ok();
    for of in [format!("store b2 (localhost:{})", store.port), format!("the server ({address}:5432)")] {
        let said = format!("WARNING   the certificate of {of} expires on ");
        assert!(watched.stdout.contains(&said), "no {of}: {}", watched.stdout);
    }
    // Whoever sets things up sees it at once.
    let checked = place.pgkeep(&["check", "--output", "json"]);
    let lines = checked.json()["lines"].as_array().unwrap().clone();
    for of in [format!("store b2 (localhost:{})", store.port), format!("the server ({address}:5432)")] {
        let is_its = |line: &&serde_json::Value| {
            line["subject"] == "certificate" && line["message"].as_str().unwrap().starts_with(&of)
        };
        let line = lines.iter().find(is_its).unwrap_or_else(|| panic!("no {of}: {lines:?}"));
        assert!(
            line["standing"] == "warning" && line["message"].as_str().unwrap().contains("good until "),
            "{line}"
        );
    }
}

#[test]
fn req_6_23_a_secret_that_others_can_get_at_is_a_warning_until_they_can_not() {
    let place = place();
    let change = |path: &Path, mode| set_mode(path, mode);
    let passfile = place.put("passfile", b"");
    place.set("PGPASSFILE", &passfile.display().to_string());
    place.pgkeep(&["verify"]).ok();
    assert_eq!(open(&place), [""; 0]);
    change(&passfile, 0o644);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(open(&place), [format!("WARNING key-exposed {}", passfile.display())]);
    change(&passfile, 0o600);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(open(&place), [""; 0]);
    // Who may write to the directory can put another env file there.
    change(&place.directory, 0o777);
    let watched = place.pgkeep(&["watch"]).ok();
    assert!(watched.stdout.contains("others may write to "), "{}", watched.stdout);
    assert_eq!(open(&place).len(), 2);
    change(&place.directory, 0o700);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(open(&place), [""; 0]);
}

#[test]
fn a_look_at_certificates_that_fails_is_a_warning_and_the_rest_is_looked_at() {
    let place = place();
    place.set("PGHOST", "127.0.0.1");
    place.set("PGPORT", "1");
    place.catalog(
        "CREATE TRIGGER full BEFORE INSERT ON certificates BEGIN SELECT raise(ABORT, 'no room'); END",
    );
    let watched = place.pgkeep(&["watch"]).ok();
    assert!(watched.stderr.contains("warning: look at certificates: "), "{}", watched.stderr);
    assert!(watched.stderr.contains("no room"), "{}", watched.stderr);
    assert_eq!(open(&place), ["WARNING server-unreachable "]);
}

//! Each recipient has a message of his own: who is refused fails alone, who is put off is tried again, and who has got it
//! does not get it twice.

use serde_json::Value;

use crate::notify::{Http, Smtp};
use crate::support::{Place, cluster};

fn place() -> Place {
    let place = Place::ready();
    place.set("ALERT_STORAGE", "100");
    place
}

/// A backup that fails: there is no such database.
fn fail(place: &Place) {
    place.pgkeep(&["backup", "database", "nobody_has_this"]).fails_with(30);
}

/// Lets the time come for everything that waits.
fn time_comes(place: &Place) {
    place.catalog(
        "UPDATE deliveries SET not_before = '2026-01-01T00:00:00.000Z' WHERE state = 'waiting' RETURNING 1",
    );
}

fn to(mail: &Value) -> String {
    mail["to"][0].as_str().expect("a recipient").to_owned()
}

#[test]
fn of_three_recipients_one_gets_it_one_is_refused_and_one_gets_it_later() {
    let smtp = Smtp::start(&["plain", "refuse=bob@example.com", "later=carol@example.com"]);
    let place = place();
    smtp.is_mail_of(&place);
    place.set("ALERT_EMAIL_TO", "bob@example.com, carol@example.com, ada@example.com");
    let failed = place.pgkeep(&["backup", "database", "nobody_has_this"]).fails_with(30);
    for said in ["bob@example.com: ", "550", "carol@example.com: ", "451"] {
        assert!(failed.stderr.contains(said), "no {said}: {}", failed.stderr);
    }
    assert_eq!(to(&smtp.mail()), "ada@example.com");
    smtp.is_silent();
    let deliveries =
        "SELECT recipient, state, attempts, not_before > created_at FROM deliveries ORDER BY recipient";
    assert_eq!(
        place.catalog(deliveries),
        [
            ["ada@example.com", "delivered", "1", "0"],
            ["bob@example.com", "waiting", "1", "1"],
            ["carol@example.com", "waiting", "1", "1"]
        ]
    );
    // Not before its time, then to him alone.
    fail(&place);
    smtp.is_silent();
    time_comes(&place);
    fail(&place);
    assert_eq!(to(&smtp.mail()), "carol@example.com");
    time_comes(&place);
    fail(&place);
    smtp.is_silent();
    // That it is over is told to those who know that it began.
    place.catalog("UPDATE runs SET outcome = 'done', exit_code = 0 RETURNING 1");
    place.pgkeep(&["verify"]).ok();
    let mut over = [smtp.mail(), smtp.mail()].map(|mail| {
        assert!(mail["subject"].as_str().unwrap().contains(": over: "), "{mail}");
        to(&mail)
    });
    over.sort();
    assert_eq!(over, ["ada@example.com", "carol@example.com"]);
    smtp.is_silent();
}

#[test]
fn a_mail_that_was_taken_without_a_word_is_sent_again_six_times_at_most_and_is_the_same_mail() {
    let smtp = Smtp::start(&["plain", "gone"]);
    let place = place();
    smtp.is_mail_of(&place);
    fail(&place);
    let id = smtp.mail()["id"].clone();
    assert!(id.as_str().is_some_and(|id| id.starts_with("<pgkeep.test.")), "{id}");
    let state = "SELECT state, unanswered FROM deliveries";
    assert_eq!(place.catalog(state), [["waiting", "1"]]);
    let pause =
        "SELECT (julianday(not_before) - julianday(created_at)) * 1440 BETWEEN 9 AND 12 FROM deliveries";
    assert_eq!(place.catalog(pause), [["1"]], "ten minutes");
    fail(&place);
    smtp.is_silent();
    for n in 2..=6 {
        time_comes(&place);
        fail(&place);
        assert_eq!(smtp.mail()["id"], id, "a reader can tell that it is the same");
        let expected = if n == 6 { "given up" } else { "waiting" };
        assert_eq!(place.catalog(state), [[expected.to_owned(), n.to_string()]]);
    }
    time_comes(&place);
    fail(&place);
    smtp.is_silent();
}

#[test]
fn a_text_message_to_a_number_that_is_none_fails_alone_and_a_wrong_token_keeps_all_waiting() {
    let http = Http::start();
    let place = place();
    for (name, value) in [
        ("TWILIO_ACCOUNT_SID", "AC123"),
        ("TWILIO_AUTH_TOKEN", "topsecret"),
        ("TWILIO_FROM", "+4915"),
        ("ALERT_SMS_TO", "+4916,+4917"),
        ("TWILIO_BASE_URL", &format!("http://127.0.0.1:{}", http.port)),
    ] {
        place.set(name, value);
    }
    let deliveries = "SELECT recipient, state, attempts FROM deliveries ORDER BY recipient";
    http.answers(401, r#"{"code": 20003, "message": "Authenticate"}"#);
    fail(&place);
    let _ = http.request();
    http.is_silent();
    assert_eq!(place.catalog(deliveries), [["+4916", "waiting", "1"], ["+4917", "waiting", "1"]]);
    http.answers(201, "{}");
    http.answers_to("To=%2B4916", 400, r#"{"code": 21211, "message": "Invalid 'To' Phone Number"}"#);
    time_comes(&place);
    fail(&place);
    assert!(http.request().body.starts_with("To=%2B4916&"));
    assert!(http.request().body.starts_with("To=%2B4917&"));
    assert_eq!(place.catalog(deliveries), [["+4916", "waiting", "2"], ["+4917", "delivered", "2"]]);
    let pause = "SELECT round((julianday(not_before) - julianday('now')) * 24) FROM deliveries WHERE recipient = '+4916'";
    assert_eq!(place.catalog(pause), [["1"]], "in an hour");
    // Whatever else is wrong with one number keeps nothing from those behind it.
    http.answers_to("To=%2B4916", 400, r#"{"code": 21606, "message": "not a valid sender for it"}"#);
    place.catalog("UPDATE deliveries SET state = 'waiting', delivered_at = NULL RETURNING 1");
    time_comes(&place);
    fail(&place);
    assert!(http.request().body.starts_with("To=%2B4916&"));
    assert!(http.request().body.starts_with("To=%2B4917&"));
    assert_eq!(place.catalog(deliveries), [["+4916", "waiting", "3"], ["+4917", "delivered", "3"]]);
    http.is_silent();
}

#[test]
fn messages_of_an_earlier_pgkeep_go_to_each_recipient() {
    let smtp = Smtp::start(&["plain"]);
    let place = place();
    place.catalog(
        "INSERT INTO alerts (id, alert_type, severity, message, created_at, notification_channels) VALUES \
         (1, 'wal-refused', 'CRITICAL', 'two servers', '2026-11-22T02:00:00.000Z', '[\"email\"]') RETURNING 1",
    );
    place.catalog(
        "INSERT INTO deliveries (alert_id, channel, event, not_before, created_at) SELECT 1, 'email', 'raised', \
         strftime('%FT%H:%M:%fZ', 'now'), strftime('%FT%H:%M:%fZ', 'now') RETURNING 1",
    );
    smtp.is_mail_of(&place);
    place.set("ALERT_EMAIL_TO", "ada@example.com,bob@example.com");
    place.pgkeep(&["verify"]).ok();
    let mut told = [smtp.mail(), smtp.mail()].map(|mail| to(&mail));
    told.sort();
    assert_eq!(told, ["ada@example.com", "bob@example.com"]);
    smtp.is_silent();
}

#[test]
fn who_is_not_a_recipient_any_more_is_told_nothing() {
    let smtp = Smtp::start(&["plain", "later=bob@example.com"]);
    let place = place();
    smtp.is_mail_of(&place);
    place.set("ALERT_EMAIL_TO", "bob@example.com");
    fail(&place);
    place.set("ALERT_EMAIL_TO", "ada@example.com");
    time_comes(&place);
    fail(&place);
    smtp.is_silent();
    assert_eq!(place.catalog("SELECT recipient, state FROM deliveries"), [["bob@example.com", "given up"]]);
}

#[test]
fn an_alert_that_is_over_while_its_first_message_is_under_way_is_told_to_be_over() {
    let database = cluster().fresh_shop();
    let place = place();
    let http = Http::start();
    http.is_webhook_of(&place);
    place.set("PGDATABASE", &database);
    place.set("PGPORT", "1");
    let mut first = None;
    http.waits_while(|| {
        first = Some(place.start(&[], &["backup", "database"]));
        assert_eq!(http.request().json()["event"], "raised");
        // It has been sent and not been answered.
        place.set("PGPORT", &cluster().port.to_string());
        place.pgkeep(&["backup", "database"]).ok();
        assert_eq!(place.catalog("SELECT closed_at IS NOT NULL FROM alerts"), [["1"]]);
    });
    first.unwrap().wait().fails_with(30);
    assert_eq!(place.catalog("SELECT event, state FROM deliveries"), [["raised", "delivered"]]);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(http.request().json()["event"], "closed");
    place.pgkeep(&["verify"]).ok();
    http.is_silent();
}

#[test]
fn the_end_of_a_warning_waits_for_the_end_of_quiet_hours_as_its_beginning_did() {
    let place = place();
    let smtp = Smtp::start(&["plain"]);
    smtp.is_mail_of(&place);
    place.set("ALERT_STORAGE", "1");
    place.pgkeep(&["verify"]).ok();
    assert!(smtp.mail()["subject"].as_str().unwrap().contains("WARNING: "));
    // Now it is night.
    let now = chrono::Local::now();
    let clock = |minutes: i64| (now + chrono::TimeDelta::minutes(minutes)).format("%H:%M").to_string();
    place.set("ALERT_QUIET_HOURS", &format!("{}-{}", clock(-60), clock(60)));
    place.set("ALERT_STORAGE", "100");
    place.pgkeep(&["verify"]).ok();
    assert_eq!(place.catalog("SELECT closed_at IS NOT NULL FROM alerts"), [["1"]]);
    smtp.is_silent();
    let waits = "SELECT state, not_before > created_at FROM deliveries WHERE event = 'closed'";
    assert_eq!(place.catalog(waits), [["waiting", "1"]]);
    time_comes(&place);
    place.pgkeep(&["verify"]).ok();
    assert!(smtp.mail()["subject"].as_str().unwrap().contains("WARNING: over: "));
    // What both begins and ends in the night is one message in the morning.
    place.set("ALERT_STORAGE", "1");
    place.pgkeep(&["verify"]).ok();
    place.set("ALERT_STORAGE", "100");
    place.pgkeep(&["verify"]).ok();
    smtp.is_silent();
    time_comes(&place);
    place.pgkeep(&["verify"]).ok();
    assert!(smtp.mail()["subject"].as_str().unwrap().contains("WARNING: was so and is over: "));
    smtp.is_silent();
}

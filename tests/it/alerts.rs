//! Alerts from the condition to the person: one condition is one alert, told once, again only as configured, and over by
//! itself.

use crate::notify::{Http, Smtp, mail_through, nobody};
use crate::support::{Archiving, Place, cluster};

/// A place whose disk is never too full for these tests.
fn place() -> Place {
    let place = Place::ready();
    place.set("ALERT_STORAGE", "100");
    place
}

/// A backup that fails: there is no such database.
fn fail(place: &Place) {
    place.pgkeep(&["backup", "database", "nobody_has_this"]).fails_with(30);
}

fn open(place: &Place) -> Vec<String> {
    let sql = "SELECT severity || ' ' || alert_type FROM alerts WHERE closed_at IS NULL ORDER BY id";
    place.catalog(sql).into_iter().map(|mut row| row.remove(0)).collect()
}

/// Lets the time come for everything that waits.
fn time_comes(place: &Place) {
    place.catalog(
        "UPDATE deliveries SET not_before = '2026-01-01T00:00:00.000Z' WHERE state = 'waiting' RETURNING 1",
    );
}

#[test]
fn req_6_22_a_backup_that_fails_is_told_once_and_that_it_is_over_too() {
    let database = cluster().fresh_shop();
    let place = place();
    let http = Http::start();
    http.is_webhook_of(&place);
    place.set("PGDATABASE", &database);
    place.set("PGPORT", "1");
    place.pgkeep(&["backup", "database"]).fails_with(30);
    let raised = http.request().json();
    assert_eq!(raised["event"], "raised");
    let alert = &raised["alerts"][0];
    assert_eq!((&alert["severity"], &alert["alert_type"]), (&"CRITICAL".into(), &"backup-failed".into()));
    place.pgkeep(&["backup", "database"]).fails_with(30);
    http.is_silent();
    assert_eq!(place.catalog("SELECT times FROM alerts"), [["2"]]);
    place.set("PGPORT", &cluster().port.to_string());
    place.pgkeep(&["backup", "database"]).ok();
    let over = http.request().json();
    assert_eq!((&over["event"], &over["alerts"][0]["id"]), (&"closed".into(), &alert["id"]));
    assert!(over["text"].as_str().unwrap().starts_with("CRITICAL: over: "), "{over}");
    assert_eq!(open(&place), [""; 0]);
    place.pgkeep(&["verify"]).ok();
    http.is_silent();
}

#[test]
fn what_lasts_is_repeated_only_as_configured_and_not_once_it_was_seen() {
    let place = place();
    let http = Http::start();
    http.is_webhook_of(&place);
    fail(&place);
    assert_eq!(http.request().json()["event"], "raised");
    let long_ago = || {
        place.catalog("UPDATE deliveries SET created_at = '2026-01-01T00:00:00.000Z' RETURNING 1");
    };
    fail(&place);
    http.is_silent();
    long_ago();
    fail(&place);
    assert_eq!(http.request().json()["event"], "repeated");
    place.pgkeep(&["alerts", "ack", "1", "--note", "<b>I'm at it</b>"]).ok();
    long_ago();
    fail(&place);
    http.is_silent();
    let shown = place.pgkeep(&["alerts"]).ok().stdout;
    assert!(shown.contains("<b>I'm at it</b>") && shown.contains("seen by"), "{shown}");
    place.pgkeep(&["alerts", "ack", "77"]).fails_with(1);
}

#[test]
fn req_6_22_with_all_channels_down_the_alert_is_in_the_catalog_and_delivered_later_once() {
    let place = place();
    mail_through(&place, nobody());
    let http = Http::start();
    http.is_webhook_of(&place);
    http.answers(500, "no");
    let failed = place.pgkeep(&["backup", "database", "nobody_has_this"]).fails_with(30);
    assert!(failed.stderr.contains("warning: alerts by email: "), "{}", failed.stderr);
    assert_eq!(open(&place), ["CRITICAL backup-failed"]);
    let _ = http.request();
    let waiting = "SELECT channel, state, attempts FROM deliveries ORDER BY channel";
    assert_eq!(place.catalog(waiting), [["email", "waiting", "1"], ["webhook", "waiting", "1"]]);
    let shown = place.pgkeep(&["alerts"]).ok().stdout;
    assert!(shown.contains("2 messages wait to be sent, after 2 attempts that failed"), "{shown}");
    // Not at once again.
    place.pgkeep(&["verify"]).ok();
    http.is_silent();
    let smtp = Smtp::start(&["plain"]);
    smtp.is_mail_of(&place);
    http.answers(200, "ok");
    time_comes(&place);
    place.pgkeep(&["verify"]).ok();
    let mail = smtp.mail();
    assert!(
        mail["subject"].as_str().unwrap().starts_with("[pgkeep test] CRITICAL: backup database nobody"),
        "{mail}"
    );
    assert_eq!(http.request().json()["event"], "raised");
    place.pgkeep(&["verify"]).ok();
    smtp.is_silent();
    http.is_silent();
    assert_eq!(place.catalog(waiting), [["email", "delivered", "2"], ["webhook", "delivered", "2"]]);
}

#[test]
fn a_storm_of_a_thousand_conditions_is_one_digest() {
    let place = place();
    let database = cluster().fresh_shop();
    let id = place.backup(&database);
    let smtp = Smtp::start(&["plain"]);
    smtp.is_mail_of(&place);
    let http = Http::start();
    http.is_webhook_of(&place);
    // A thousand WAL files that were found to be damaged, and that there are too few copies of them.
    place.catalog(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
         INSERT INTO wal_segments (timeline, segment, content_sha256, store, size_bytes, state)
         SELECT 1, printf('0000000100000000%08X', n), printf('%064d', n), 'local', 100, 'damaged' FROM n RETURNING 1",
    );
    place.pgkeep(&["show", &id]).ok();
    place.pgkeep(&["watch"]).ok();
    let mail = smtp.mail();
    assert_eq!(mail["subject"], "[pgkeep test] 1001 alerts: 1001 CRITICAL, 0 WARNING, 0 over");
    assert!(mail["text"].as_str().unwrap().contains("- and 981 more"), "{mail}");
    let request = http.request().json();
    assert_eq!((&request["event"], &request["count"]), (&"digest".into(), &1001.into()));
    smtp.is_silent();
    http.is_silent();
    assert_eq!(place.catalog("SELECT count(*) FROM alerts"), [["1001"]]);
    assert_eq!(place.catalog("SELECT count(*) FROM deliveries WHERE state = 'delivered'"), [["2002"]]);
}

#[test]
fn markup_and_line_ends_from_a_database_are_harmless_in_every_channel() {
    let place = place();
    let smtp = Smtp::start(&["plain"]);
    smtp.is_mail_of(&place);
    let http = Http::start();
    http.is_webhook_of(&place);
    let name = "<!channel> <script>alert(1)</script>\nBcc: eve@example.com";
    assert_ne!(place.pgkeep(&["backup", "tenant", name]).code, 0);
    let mail = smtp.mail();
    assert_eq!(mail["type"], "text/plain");
    assert!(!mail["headers"].as_array().unwrap().contains(&"Bcc".into()), "{mail}");
    assert_eq!(mail["to"], serde_json::json!(["ada@example.com"]));
    let text = http.request().json()["text"].as_str().unwrap().to_owned();
    assert!(!text.contains("<!channel>") && text.contains("&lt;!channel&gt;"), "{text}");
}

#[test]
fn quiet_hours_hold_warnings_back_and_nothing_else() {
    let place = place();
    let smtp = Smtp::start(&["plain"]);
    smtp.is_mail_of(&place);
    // Everything but this minute's end would be outside of the hours: they are the whole day.
    place.set("ALERT_QUIET_HOURS", "00:00-23:59");
    place.set("ALERT_STORAGE", "1");
    place.pgkeep(&["verify"]).ok();
    let waiting = place.catalog("SELECT state, not_before > created_at FROM deliveries");
    if chrono::Local::now().format("%H:%M").to_string() != "23:59" {
        assert!(!waiting.is_empty() && waiting.iter().all(|row| *row == ["waiting", "1"]), "{waiting:?}");
        smtp.is_silent();
    }
    fail(&place);
    assert!(smtp.mail()["subject"].as_str().unwrap().contains("CRITICAL"));
    time_comes(&place);
    place.pgkeep(&["verify"]).ok();
    assert!(smtp.mail()["subject"].as_str().unwrap().contains("WARNING"));
}

#[test]
fn cut_off_between_the_message_and_the_catalog_it_is_sent_again_and_before_that_not_lost() {
    let place = place();
    let http = Http::start();
    http.is_webhook_of(&place);
    let killed = |step: &str| {
        let stop = format!("{step}:kill");
        let run =
            place.pgkeep_with(&[("PGKEEP_TEST_STOP", &stop)], &["backup", "database", "nobody_has_this"]);
        run.ended_with(128 + 9);
    };
    killed("AlertsSending");
    http.is_silent();
    killed("AlertsSent");
    assert_eq!(http.request().json()["event"], "raised");
    place.pgkeep(&["verify"]).ok();
    assert_eq!(http.request().json()["event"], "raised");
    place.pgkeep(&["verify"]).ok();
    http.is_silent();
    assert_eq!(place.catalog("SELECT count(*) FROM alerts"), [["1"]]);
}

#[test]
fn req_6_29_the_log_of_alerts_is_readable_in_the_catalog() {
    let place = place();
    let http = Http::start();
    http.is_webhook_of(&place);
    fail(&place);
    place.pgkeep(&["alerts", "ack", "1", "--note", "known"]).ok();
    let sql = "SELECT alert_type, severity, notification_channels, acknowledged_at IS NOT NULL, note, closed_at IS NULL, \
               message LIKE '%nobody_has_this%' FROM alerts";
    assert_eq!(place.catalog(sql), [["backup-failed", "CRITICAL", "[\"webhook\"]", "1", "known", "1", "1"]]);
    let all = place.pgkeep(&["--output", "json", "alerts", "--all"]).ok().json();
    assert!(all["alerts"][0]["acknowledged_by"].is_string(), "{all}");
}

#[test]
fn an_event_that_a_command_came_upon_is_over_when_somebody_has_seen_it() {
    let place = place();
    place.catalog(
        "INSERT INTO alerts (alert_type, severity, message, created_at) VALUES \
         ('wal-refused', 'CRITICAL', 'two servers', '2026-11-22T02:00:00.000Z') RETURNING 1",
    );
    let http = Http::start();
    http.is_webhook_of(&place);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(http.request().json()["alerts"][0]["alert_type"], "wal-refused");
    assert_eq!(open(&place), ["CRITICAL wal-refused"]);
    place.pgkeep(&["alerts", "ack", "1"]).ok();
    assert_eq!(open(&place), [""; 0]);
}

#[test]
fn req_6_22_an_archiver_that_has_stopped_is_mailed_by_watch_and_so_is_its_end() {
    let archiving = Archiving::ready();
    let place = &archiving.place;
    place.set("ALERT_STORAGE", "100");
    place.set("RPO_TARGET", "1s");
    let smtp = Smtp::start(&["plain"]);
    smtp.is_mail_of(place);
    archiving.archive();
    archiving.cluster.set("archive_command", "/bin/false");
    archiving.switch();
    let failing = "SELECT failed_count > 0 FROM pg_stat_archiver";
    crate::support::faults::wait_for("a failure of the archiver", || {
        (archiving.cluster.psql("postgres", failing) == "t").then_some(())
    });
    // By the catalog's time, so that no test needs to wait for it to pass.
    place.catalog("UPDATE wal_segments SET stored_at = '2026-01-01T00:00:00.000Z' RETURNING 1");
    // What a server for an exercise archives on a timeline of its own is none of this one's.
    place.catalog(
        "INSERT INTO wal_segments (timeline, segment, content_sha256, store, size_bytes, state, stored_at) \
         SELECT 2, '00000002' || substr(segment, 9), content_sha256, store, size_bytes, state, \
         strftime('%FT%H:%M:%fZ', 'now') FROM wal_segments RETURNING 1",
    );
    let watched = place.pgkeep(&["--output", "json", "watch"]).ok().json();
    let kinds: Vec<_> = watched["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["alert_type"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"rpo") && kinds.contains(&"archiver-failing"), "{watched}");
    let mails = [smtp.mail(), smtp.mail()].map(|mail| mail["subject"].as_str().unwrap().to_owned());
    assert!(
        mails.iter().any(|it| it.starts_with("[pgkeep test] CRITICAL: what was written in the last ")),
        "{mails:?}"
    );
    place.pgkeep(&["watch"]).ok();
    smtp.is_silent();
    // No run that does not ask the server takes it for over.
    place.pgkeep(&["verify"]);
    smtp.is_silent();
    archiving.archive_through("");
    archiving.archive();
    place.set("RPO_TARGET", "1h");
    place.pgkeep(&["watch"]).ok();
    let mails = [smtp.mail(), smtp.mail()].map(|mail| mail["subject"].as_str().unwrap().to_owned());
    assert!(mails.iter().all(|it| it.contains(": over: ")), "{mails:?}");
}

#[test]
fn req_6_12_the_first_write_after_a_long_pause_is_no_alert_while_somebody_looks() {
    let archiving = Archiving::ready();
    let (place, cluster) = (&archiving.place, &archiving.cluster);
    place.set("ALERT_STORAGE", "100");
    place.pgkeep(&["backup", "cluster", "--fast"]).ok();
    archiving.archive();
    cluster.set("archive_command", "/bin/false");
    let kinds = |run: &serde_json::Value| {
        let conditions = run["conditions"].as_array().unwrap().iter();
        conditions.map(|it| it["alert_type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let watch = || kinds(&place.pgkeep(&["--output", "json", "watch"]).ok().json());
    assert!(!watch().contains(&"rpo".to_owned()));
    assert_eq!(place.catalog("SELECT archived FROM wal_seen"), [["1"]]);
    // A long pause.
    place.catalog("UPDATE wal_segments SET stored_at = '2026-01-01T00:00:00.000Z' RETURNING 1");
    let status = place.pgkeep(&["--output", "json", "status"]).json();
    assert!(status["rpo"]["now_seconds"].as_u64().unwrap() < 300, "{}", status["rpo"]);
    // Somebody writes, less than a segment.
    cluster.psql("postgres", "CREATE TABLE written AS SELECT md5(n::text) FROM generate_series(1, 2000) n");
    assert!(!watch().contains(&"rpo".to_owned()));
    assert_eq!(place.catalog("SELECT archived FROM wal_seen ORDER BY seen_at"), [["1"], ["0"]]);
    // Nobody has looked for an hour before.
    place.catalog(
        "UPDATE wal_seen SET seen_at = strftime('%FT%H:%M:%fZ', 'now', '-1 hour') WHERE archived = 1 RETURNING 1",
    );
    place.catalog(
        "UPDATE wal_seen SET seen_at = strftime('%FT%H:%M:%fZ', 'now', '-16 minutes') WHERE archived = 0 RETURNING 1",
    );
    assert!(watch().contains(&"rpo".to_owned()));
    archiving.archive_through("");
    archiving.archive();
    assert!(!watch().contains(&"rpo".to_owned()));
    assert_eq!(open(place), [""; 0]);
    assert_eq!(place.catalog("SELECT archived FROM wal_seen"), [["1"]], "what was before is worth nothing");
}

#[test]
fn watch_and_run_due_have_a_row_and_quiet_ones_take_each_others_place() {
    let place = place();
    let rows = "SELECT command, outcome, quiet FROM runs WHERE command IN ('watch', 'run-due') ORDER BY id";
    for _ in 0..3 {
        place.pgkeep(&["watch"]).ok();
        place.pgkeep(&["run-due"]).ok();
    }
    let mut found = place.catalog(rows);
    found.sort();
    assert_eq!(found, [["run-due", "done", "1"], ["watch", "done", "1"]]);
    let recent = place.pgkeep(&["--output", "json", "status"]).json();
    let shown = |list: &str| recent[list].to_string();
    assert!(!shown("runs").contains("watch"), "{}", shown("runs"));
    assert!(shown("last_runs").contains("watch"), "{}", shown("last_runs"));
    // What was found stays, and so does what died.
    place.set("PGPORT", "1");
    place.pgkeep(&["watch"]).ok();
    place.set("PGPORT", &cluster().port.to_string());
    let killed = [("PGKEEP_TEST_STOP", "AlertsSending:kill")];
    let http = Http::start();
    http.is_webhook_of(&place);
    place.set("ALERT_STORAGE", "1");
    place.pgkeep_with(&killed, &["watch"]).ended_with(128 + 9);
    place.pgkeep(&["verify"]).ok();
    place.pgkeep(&["watch"]).ok();
    let mut found = place.catalog("SELECT outcome, quiet FROM runs WHERE command = 'watch'");
    found.sort();
    assert_eq!(found, [["died", "0"], ["done", "0"], ["done", "1"]]);
    assert!(!place.files("state/locks").iter().any(|name| name.starts_with("run-")));
}

#[test]
fn a_test_restore_that_fails_is_one_alert_until_one_passes() {
    let database = cluster().fresh_shop();
    let place = place();
    place.set("PGDATABASE", &database);
    place.backup(&database);
    let http = Http::start();
    http.is_webhook_of(&place);
    let stop = [("PGKEEP_TEST_STOP", "TestRestoreLoaded:fail")];
    for _ in 0..2 {
        let failed = place.pgkeep_with(&stop, &["test-restore"]);
        assert_ne!(failed.code, 0, "{}", failed.stdout);
    }
    let raised = http.request().json();
    let alert = &raised["alerts"][0];
    assert_eq!((&raised["event"], &alert["alert_type"]), (&"raised".into(), &"test-restore-failed".into()));
    assert_eq!(alert["subject"], format!("database {database}"));
    http.is_silent();
    assert_eq!(open(&place), ["CRITICAL test-restore-failed"]);
    assert_eq!(place.catalog("SELECT times FROM alerts"), [["2"]]);
    place.pgkeep(&["test-restore"]).ok();
    assert_eq!(http.request().json()["event"], "closed");
    assert_eq!(open(&place), ["INFO test-restore"]);
}

#[test]
fn a_server_that_does_not_answer_is_said_and_nothing_is_guessed_about_its_archiver() {
    let place = place();
    place.set("PGPORT", "1");
    let watched = place.pgkeep(&["watch"]).ok();
    assert!(watched.stdout.contains("WARNING   the server does not answer"), "{}", watched.stdout);
    assert_eq!(open(&place), ["WARNING server-unreachable"]);
}

#[test]
fn a_run_that_was_killed_is_found_by_watch() {
    let database = cluster().fresh_shop();
    let place = place();
    let killed = [("PGKEEP_TEST_STOP", "BackupBegun:kill")];
    place.pgkeep_with(&killed, &["backup", "database", &database]).ended_with(128 + 9);
    place.pgkeep(&["watch"]).ok();
    assert_eq!(open(&place), ["CRITICAL backup-failed"]);
    place.backup(&database);
    assert_eq!(open(&place), [""; 0]);
}

#[test]
fn req_6_23_a_backup_that_is_much_larger_than_those_before_it_is_a_warning() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = place();
    for _ in 0..4 {
        place.backup(&database);
    }
    assert_eq!(open(&place), [""; 0]);
    cluster.psql(
        &database,
        "CREATE TABLE more AS SELECT n, md5(n::text) || md5((n * 7)::text) AS text FROM generate_series(1, 20000) n",
    );
    place.backup(&database);
    assert_eq!(open(&place), ["WARNING backup-size"]);
    cluster.psql(&database, "DROP TABLE more");
    place.backup(&database);
    assert_eq!(open(&place), [""; 0]);
}

#[test]
fn a_clock_that_has_gone_back_is_said() {
    let place = place();
    place.catalog("UPDATE runs SET started_at = '2999-01-01T00:00:00.000Z', ended_at = '2999-01-01T00:00:01.000Z' RETURNING 1");
    place.pgkeep(&["verify"]).ok();
    assert_eq!(open(&place), ["WARNING clock-skew"]);
}

#[test]
fn a_run_that_is_asked_to_end_tells_nobody_and_the_next_one_does() {
    let place = place();
    let http = Http::start();
    http.is_webhook_of(&place);
    place.catalog(
        "INSERT INTO alerts (alert_type, severity, message, created_at) VALUES \
         ('wal-refused', 'CRITICAL', 'two servers', '2026-11-22T02:00:00.000Z') RETURNING 1",
    );
    let stop = [("PGKEEP_TEST_STOP", "BackupBegun:term")];
    place.pgkeep_with(&stop, &["backup", "database", "postgres"]).fails_with(130);
    http.is_silent();
    place.pgkeep(&["verify"]).ok();
    let _ = http.request();
}

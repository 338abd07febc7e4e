//! The requirements of an operator's day, one test for each, as a person with a shell sees it: 6.14, 6.22, 6.23, 6.25, 6.27
//! to 6.29, 6.31 and 6.32. (6.24, the glance, is in `status.rs`, 6.26, the wizard, in `wizard.rs`.) What goes wrong on the
//! way is for the modules of the commands.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::thread;

use chrono::{SecondsFormat, TimeDelta, Utc};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::clouds::Clouds;
use crate::notify::{Http, Smtp};
use crate::support::faults::wait_for;
use crate::support::{Archiving, Place, cluster, project};

/// 1 while somebody has a table to himself.
const IS_LOCKED: &str = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND \
                         relation = 'orders'::regclass";

/// So many seconds from now, as `--at` takes it.
fn in_seconds(seconds: i64) -> String {
    (Utc::now() + TimeDelta::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A place with a shop of fifty tenants.
fn shop() -> (Place, String) {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    place.set("PGDATABASE", &shop);
    // The disk of whoever runs the tests may be full enough for a warning.
    place.set("ALERT_STORAGE", "100");
    (place, shop)
}

/// Text messages go there.
fn is_telephone_of(http: &Http, place: &Place) {
    http.answers(201, "{}");
    for (name, value) in [
        ("TWILIO_ACCOUNT_SID", "AC123"),
        ("TWILIO_AUTH_TOKEN", "secret"),
        ("TWILIO_FROM", "+4915"),
        ("ALERT_SMS_TO", "+4916"),
        ("TWILIO_BASE_URL", &format!("http://127.0.0.1:{}", http.port)),
    ] {
        place.set(name, value);
    }
}

#[test]
fn each_requirement_has_a_test_that_is_named_after_it() {
    let mut text = String::new();
    for entry in fs::read_dir(project().join("tests/it")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    for number in [14, 22, 23, 24, 25, 26, 27, 28, 29, 31, 32] {
        assert!(text.contains(&format!("#[test]\nfn requirement_6_{number}_")), "6.{number} has no test");
    }
}

#[test]
fn requirement_6_14_a_backup_is_made_at_once_or_at_its_time_and_once() {
    let (place, _) = shop();
    place.pgkeep(&["backup", "database"]).ok();
    assert_eq!(place.backups().len(), 1);
    let at = in_seconds(2);
    place.pgkeep(&["backup", "database", "--at", &at]).ok();
    let mut early = 0;
    // As cron does each minute.
    let ran = wait_for("the job's time", || {
        let ran = place.pgkeep(&["--output", "json", "run-due"]).ok().json();
        let is_it = !ran["jobs"].as_array().unwrap().is_empty();
        early += u32::from(!is_it);
        is_it.then_some(ran)
    });
    assert!(early > 0, "it did not wait for its time");
    assert_eq!(ran["jobs"][0]["job"]["state"], "done", "{ran}");
    let started = place.catalog("SELECT started_at FROM runs WHERE job_id = 1");
    assert!(started[0][0].as_str() >= at.trim_end_matches('Z'), "{started:?} is before {at}");
    place.pgkeep(&["run-due"]).ok();
    assert_eq!(place.backups().len(), 2);
}

#[test]
fn requirement_6_22_a_critical_alert_reaches_everybody_through_every_channel() {
    let (place, _) = shop();
    let smtp = Smtp::start(&["plain"]);
    smtp.is_mail_of(&place);
    let (webhook, telephone) = (Http::start(), Http::start());
    webhook.is_webhook_of(&place);
    is_telephone_of(&telephone, &place);
    place.set("ALERT_EMAIL_TO", "ada@example.com, bob@example.com");
    place.pgkeep(&["backup", "database", "not_there"]).fails_with(30);
    let receivers: BTreeSet<String> =
        [smtp.mail(), smtp.mail()].iter().map(|mail| mail["to"][0].as_str().unwrap().to_owned()).collect();
    assert_eq!(receivers.into_iter().collect::<Vec<_>>(), ["ada@example.com", "bob@example.com"]);
    let posted = webhook.request();
    assert_eq!(posted.json()["alerts"][0]["severity"], "CRITICAL");
    let signature = pgkeep::notify::webhook::signature("sesame", posted.body.as_bytes());
    assert_eq!(posted.header("X-Pgkeep-Signature"), Some(signature.as_str()));
    let message = telephone.request().body;
    assert!(message.contains("CRITICAL") && message.contains("not_there"), "{message}");
    let listed = place.pgkeep(&["alerts"]).ok().stdout;
    assert!(listed.contains("CRITICAL") && listed.contains("not_there"), "{listed}");
    let channels = "SELECT severity, notification_channels FROM alerts";
    assert_eq!(place.catalog(channels), [["CRITICAL", r#"["email","sms","webhook"]"#]]);
}

#[test]
fn requirement_6_23_size_duration_and_storage_are_warnings_on_their_case_and_silent_otherwise() {
    let (place, shop) = shop();
    let (webhook, telephone) = (Http::start(), Http::start());
    webhook.is_webhook_of(&place);
    is_telephone_of(&telephone, &place);
    let cluster = cluster();
    place.set("ALERT_BACKUP_DURATION", "1h");
    for _ in 0..4 {
        place.backup(&shop);
    }
    webhook.is_silent();
    let next = || {
        let document = webhook.request().json();
        let alert = &document["alerts"][0];
        assert_eq!(alert["severity"], "WARNING", "{document}");
        format!("{} {}", document["event"].as_str().unwrap(), alert["alert_type"].as_str().unwrap())
    };

    // More than a fifth larger than it used to be.
    cluster.psql(&shop, "CREATE TABLE more AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
    place.backup(&shop);
    assert_eq!(next(), "raised backup-size");
    cluster.psql(&shop, "DROP TABLE more");
    place.backup(&shop);
    assert_eq!(next(), "closed backup-size");

    // Somebody is in the way for longer than a backup may take.
    place.set("ALERT_BACKUP_DURATION", "1s");
    let locked = thread::spawn({
        let shop = shop.clone();
        move || cluster.psql(&shop, "BEGIN; LOCK TABLE orders; SELECT pg_sleep(2); COMMIT")
    });
    wait_for("the lock", || (cluster.psql(&shop, IS_LOCKED) == "1").then_some(()));
    place.backup(&shop);
    locked.join().unwrap();
    assert_eq!(next(), "raised backup-duration");
    place.set("ALERT_BACKUP_DURATION", "1h");
    place.backup(&shop);
    assert_eq!(next(), "closed backup-duration");

    // A disk that is full by this measure.
    place.set("ALERT_STORAGE", "1");
    place.pgkeep(&["verify"]).ok();
    assert_eq!(next(), "raised storage");
    place.set("ALERT_STORAGE", "100");
    place.pgkeep(&["verify"]).ok();
    assert_eq!(next(), "closed storage");
    webhook.is_silent();
    telephone.is_silent();
}

#[test]
fn requirement_6_25_all_tenants_some_or_one_by_hand_now_or_later() {
    let (place, shop) = shop();
    // Fewer, for less waiting.
    cluster().psql(&shop, "DELETE FROM orders WHERE tenant_id > 6; DELETE FROM tenants WHERE id > 6");
    let made = || {
        let rows = place.catalog(
            "SELECT tenant_id FROM backups WHERE type = 'tenant' AND status = 'complete' ORDER BY CAST(tenant_id AS INTEGER), started_at",
        );
        rows.into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    place.pgkeep(&["backup", "tenant", "3"]).ok();
    assert_eq!(made(), "3");
    place.pgkeep(&["backup", "tenant", "4", "5"]).ok();
    assert_eq!(made(), "3 4 5");
    place.pgkeep(&["backup", "tenant", "--all"]).ok();
    assert_eq!(made(), "1 2 3 3 4 4 5 5 6");
    place.pgkeep(&["backup", "tenant", "2", "6", "--at", &in_seconds(3600)]).ok();
    place.pgkeep(&["run-due"]).ok();
    assert_eq!(made(), "1 2 3 3 4 4 5 5 6");
    place.catalog("UPDATE jobs SET scheduled_for = '2026-01-01T00:00:00.000Z' RETURNING 1");
    place.pgkeep(&["run-due"]).ok();
    assert_eq!(made(), "1 2 2 3 3 4 4 5 5 6 6");
    // By hand the database, too, and what is not known is not made up.
    place.pgkeep(&["backup", "database"]).ok();
    place.pgkeep(&["backup", "tenant", "99"]).fails_with(1);
}

#[test]
fn requirement_6_27_what_a_backup_is_stands_in_the_catalog_and_is_true() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    let shop = cluster().fresh_shop();
    place.set("PGDATABASE", &shop);
    let whole = place.backup(&shop);
    place.pgkeep(&["backup", "tenant", "7"]).ok();
    let rows = place.catalog(
        "SELECT id, type, tenant_id, status, filename, size_bytes, checksum, local_path, r2_path, b2_path, \
         original_size_bytes, compressed_size_bytes FROM backups ORDER BY started_at",
    );
    assert_eq!((rows.len(), &rows[0][0]), (2, &whole));
    for (row, (kind, tenant)) in rows.iter().zip([("database", ""), ("tenant", "7")]) {
        let [id, r#type, tenant_id, status, filename, size, checksum, local, r2, b2, original, compressed] =
            <[String; 12]>::try_from(row.clone()).unwrap();
        assert_eq!([&*r#type, &*tenant_id, &*status], [kind, tenant, "complete"]);
        assert_eq!(filename.trim_end_matches('/'), format!("test/backups/{id}"));
        // It is where it says, as large as it says, and has the digest that it says.
        let files = fs::read_dir(&local).unwrap().map(|entry| entry.unwrap());
        let stored: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
        assert_eq!(stored.to_string(), size, "{id}");
        let manifest = fs::read(format!("{}/manifest", local.trim_end_matches('/'))).unwrap();
        assert_eq!(hex::encode(Sha256::digest(&manifest)), checksum, "{id}");
        for (cloud, path) in [(&clouds.r2, r2), (&clouds.b2, b2)] {
            assert!(path.contains("keep") && path.contains(&id), "{path}");
            assert_eq!(cloud.bucket().read(&format!("test/backups/{id}/manifest")), manifest);
        }
        let number = |text: &str| text.parse::<u64>().unwrap();
        assert!(number(&original) > 0 && number(&compressed) <= number(&size), "{row:?}");
    }
}

#[test]
fn requirement_6_28_every_restore_is_in_the_log_with_who_what_how_and_how_it_ended() {
    let archiving = Archiving::new(&[]);
    let place = &archiving.place;
    let shop = archiving.cluster.fresh_shop();
    place.set("PGDATABASE", &shop);
    archiving.begin();
    let whole = place.backup(&shop);
    place.pgkeep(&["backup", "cluster", "--fast"]).ok();
    let physical = place.catalog("SELECT id FROM backups WHERE type = 'cluster'").remove(0).remove(0);
    archiving.archive();
    let target = timestamp(&archiving);
    archiving.cluster.psql(&shop, "SELECT pg_sleep(0.01); DELETE FROM orders WHERE tenant_id = 7");
    archiving.archive();

    place.pgkeep(&["restore", &whole, "--to-database", "beside"]).ok();
    // Nobody says yes.
    place.pgkeep(&["restore", &whole]).fails_with(5);
    place.pgkeep(&["restore", &whole, "--tenant", "7", "--tenant", "8", "--mode", "merge", "--yes"]).ok();
    let directory = place.path("then").display().to_string();
    place.pgkeep(&["restore", "latest", "--to-dir", &directory, "--target-time", &target]).ok();
    place.pgkeep(&["test-restore", &whole]).ok();
    let rows = place.catalog(
        "SELECT backup_id, restore_mode, coalesce(tenant_ids, ''), coalesce(target_timestamp, ''), state, purpose, \
         initiated_by <> '' FROM restore_log ORDER BY id",
    );
    // What the merge reads is brought to life first, beside: a restore too.
    let expected: [[&str; 7]; 7] = [
        [&whole, "full", "", "", "done", "restore", "1"],
        [&whole, "full", "", "", "refused", "restore", "1"],
        [&whole, "full", r#"["7","8"]"#, "", "done", "restore", "1"],
        [&whole, "merge", r#"["7"]"#, "", "done", "restore", "1"],
        [&whole, "merge", r#"["8"]"#, "", "done", "restore", "1"],
        [&physical, "pitr", "", &target, "done", "restore", "1"],
        [&whole, "full", "", "", "done", "test", "1"],
    ];
    assert_eq!(rows, expected);
}

/// Now, by the server's clock and as the catalog writes it.
fn timestamp(archiving: &Archiving) -> String {
    let sql = r#"SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"#;
    archiving.cluster.psql("postgres", sql)
}

#[test]
fn requirement_6_29_an_alert_is_in_the_log_until_it_is_over_and_after_and_who_has_seen_it() {
    let (place, shop) = shop();
    let webhook = Http::start();
    webhook.is_webhook_of(&place);
    place.pgkeep(&["backup", "database", "not_there"]).fails_with(30);
    let _ = webhook.request();
    let shown = place.pgkeep(&["alerts"]).ok().stdout;
    assert!(shown.contains("backup-failed") && !shown.contains("seen by"), "{shown}");
    place.pgkeep(&["alerts", "ack", "1", "--note", "a typing error"]).ok();
    let shown = place.pgkeep(&["alerts"]).ok().stdout;
    assert!(shown.contains("seen by") && shown.contains("a typing error"), "{shown}");
    let columns = "SELECT alert_type, severity, message LIKE '%not_there%', notification_channels, \
                   acknowledged_at >= created_at, acknowledged_by <> '', closed_at IS NULL FROM alerts";
    let row = ["backup-failed", "CRITICAL", "1", r#"["webhook"]"#, "1", "1", "1"];
    assert_eq!(place.catalog(columns), [row]);
    // Over, and still to be read.
    place.catalog(
        "UPDATE runs SET started_at = '2026-01-01T00:00:00.000Z' WHERE outcome = 'failed' RETURNING 1",
    );
    place.backup(&shop);
    assert_eq!(
        place.catalog("SELECT count(*) FROM alerts WHERE closed_at IS NULL AND alert_type = 'backup-failed'"),
        [["0"]]
    );
    let all = place.pgkeep(&["alerts", "--all"]).ok().stdout;
    assert!(all.contains("backup-failed") && all.contains("a typing error"), "{all}");
}

#[test]
fn requirement_6_31_an_hourly_check_lists_every_copy_and_reads_the_longest_unproven_within_its_budget() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    let id = place.backup(&cluster().fresh_shop());
    let oldest = format!("test/backups/{id}/data.00000");
    place.catalog(&format!(
        "UPDATE copies SET proven_at = '2026-0' || CASE WHEN object = 'data.00000' AND store = 'b2' THEN '1' ELSE '2' END \
         || '-01T00:00:00.000Z' WHERE backup_id = '{id}' RETURNING 1"
    ));
    clouds.b2.bucket().damage(&oldest);
    clouds.r2.bucket().lose(&format!("test/backups/{id}/manifest"));
    let size = clouds.b2.bucket().read(&oldest).len().to_string();
    let verify = |arguments: &[&str], code: i32| -> Value {
        place
            .pgkeep(&[&["--output", "json", "verify", "--budget", &size], arguments].concat())
            .ended_with(code)
            .json()
    };
    let found = verify(&[], 4);
    let states = || {
        let rows =
            place.catalog("SELECT store, object, state FROM copies WHERE state <> 'good' ORDER BY store");
        rows.iter().map(|row| row.join(" ")).collect::<Vec<_>>()
    };
    // What is missing is found by listing, what is damaged by reading: the copy whose proof was oldest.
    assert_eq!(states(), ["b2 data.00000 damaged", "r2 manifest missing"], "{found}");
    assert!(found["bytes_read"].as_u64().unwrap() <= size.parse().unwrap(), "{found}");
    verify(&["--repair"], 3);
    assert_eq!(states(), [""; 0]);
    assert_eq!(clouds.b2.bucket().read(&oldest), fs::read(place.store().join(&oldest)).unwrap());
    assert_eq!(place.catalog("SELECT DISTINCT priority FROM runs WHERE command = 'verify'"), [["8"]]);
    let crontab = fs::read_to_string(project().join("crontab.example")).unwrap();
    assert!(crontab.contains("\n30 * * * * pgkeep --quiet verify "), "{crontab}");
}

#[test]
fn requirement_6_32_jobs_go_by_priority_and_wal_waits_for_nobody() {
    let archiving = Archiving::new(&[]);
    let place = &archiving.place;
    let shop = archiving.cluster.fresh_shop();
    place.set("PGDATABASE", &shop);
    archiving.begin();
    place.backup(&shop);
    let at = in_seconds(60);
    // As they come, and not as they are to go.
    for command in [
        &["backup", "database"][..],
        &["backup", "tenant", "7"],
        &["verify"],
        &["backup", "config"],
        &["restore", "latest", "--database", &shop, "--to-database", "later", "--yes"],
    ] {
        place.pgkeep(&[command, &["--at", &at]].concat()).ok();
    }
    place.catalog("UPDATE jobs SET scheduled_for = '2026-01-01T00:00:00.000Z' RETURNING 1");
    place.pgkeep(&["run-due"]).ok();
    let order =
        place.catalog("SELECT command, priority FROM runs WHERE job_id IS NOT NULL ORDER BY started_at");
    let expected = [
        ["restore", "9"],
        ["verify", "8"],
        ["backup config", "8"],
        ["backup database", "7"],
        ["backup tenant", "7"],
    ];
    assert_eq!(order, expected);

    // A backup that goes on until somebody lets go of a table: another one must wait, WAL must not.
    let cluster = &archiving.cluster;
    let mut psql = cluster.client("psql");
    psql.args(["-XAtq"]).env("PGDATABASE", &shop).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut holder = psql.spawn().unwrap();
    let mut session = holder.stdin.take().unwrap();
    writeln!(session, "BEGIN; LOCK TABLE orders;").unwrap();
    wait_for("the lock", || (cluster.psql(&shop, IS_LOCKED) == "1").then_some(()));
    let first = place.start(&[], &["backup", "database"]);
    wait_for("the first one's turn", || {
        let holder = fs::read_to_string(place.state().join("locks/backup-database.lock")).ok()?;
        holder.contains(&format!("process {} ", first.pid())).then_some(())
    });
    place.pgkeep(&["backup", "database", "--wait", "0"]).fails_with(11);
    let segment = archiving.archive();
    let fetched = place.path("segment").display().to_string();
    place.pgkeep(&["wal-fetch", &segment, &fetched]).ok();
    assert!(fs::metadata(&fetched).unwrap().len() > 0);
    drop(session);
    holder.wait().unwrap();
    first.wait().ok();
}

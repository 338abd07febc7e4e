//! Each condition that the README lists is raised by what it is about and over when that is over; those that have tests of
//! their own elsewhere are named in `every_condition_has_a_test`.

use std::fs;

use pgkeep::plan::conditions::{ALWAYS, ASKED, REACHED, WATCHED};

use crate::notify::Http;
use crate::support::faults::{stopped_at, wait_for};
use crate::support::{Archiving, Place, cluster, project};

/// A place with one backup of a small database, which is proven.
fn backed_up() -> (Place, String) {
    let database = cluster().fresh_shop();
    let place = Place::ready();
    place.set("ALERT_STORAGE", "100");
    place.set("PGDATABASE", &database);
    place.backup(&database);
    place.pgkeep(&["verify", "--deep"]).ok();
    (place, database)
}

fn open(place: &Place) -> Vec<String> {
    let sql = "SELECT DISTINCT severity || ' ' || alert_type FROM alerts WHERE closed_at IS NULL AND severity <> 'INFO' \
               ORDER BY severity, alert_type";
    place.catalog(sql).into_iter().map(|mut row| row.remove(0)).collect()
}

/// What is open after a look, and nothing else.
#[track_caller]
fn expect(place: &Place, expected: &[&str]) {
    place.pgkeep(&["watch"]).ok();
    assert_eq!(open(place), expected);
}

/// It is found when the catalog is changed so, and over when it is changed back.
#[track_caller]
fn by_catalog(place: &Place, expected: &str, change: &str, back: &str) {
    place.catalog(change);
    expect(place, &[expected]);
    place.catalog(back);
    expect(place, &[]);
}

const LONG_AGO: &str = "2026-01-01T00:00:00.000Z";
const NOW: &str = "strftime('%FT%H:%M:%fZ', 'now')";

#[test]
fn req_6_22_a_restore_and_a_verify_that_fail_are_critical_until_they_succeed() {
    let (place, database) = backed_up();
    let copy = format!("{database}_copy");
    let restore = ["restore", "latest", "--to-database", &copy];
    assert_ne!(stopped_at(&place, &restore, "RestoreLoaded", "fail").code, 0);
    assert_eq!(open(&place), ["CRITICAL restore-failed"]);
    place.pgkeep(&restore).ok();
    assert_eq!(open(&place), [""; 0]);
    cluster().psql("postgres", &format!("DROP DATABASE {copy}"));
    assert_ne!(stopped_at(&place, &["verify"], "VerifyListed", "fail").code, 0);
    assert_eq!(open(&place), ["CRITICAL verify-failed"]);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(open(&place), [""; 0]);
}

#[test]
fn req_6_22_damage_is_one_critical_alert_and_over_when_it_is_gone() {
    let (place, _) = backed_up();
    let http = Http::start();
    http.is_webhook_of(&place);
    let volume = place.backups()[0].join("data.00000");
    let good = fs::read(&volume).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&volume, &bad).unwrap();
    place.pgkeep(&["verify", "--deep"]).fails_with(4);
    assert_eq!(
        open(&place),
        ["CRITICAL copy-lost", "CRITICAL damage", "CRITICAL too-few-copies", "WARNING copy-damaged"]
    );
    // Two things are said: a copy is damaged, and there is no other one.
    let mut told = [http.request().json(), http.request().json()]
        .map(|it| it["alerts"][0]["alert_type"].as_str().unwrap().to_owned());
    told.sort();
    assert_eq!(told, ["damage", "too-few-copies"]);
    http.is_silent();
    fs::write(&volume, &good).unwrap();
    place.pgkeep(&["verify", "--deep"]).ok();
    assert_eq!(
        open(&place),
        ["CRITICAL copy-lost", "WARNING copy-damaged"],
        "events, until somebody has seen them"
    );
    assert_eq!([http.request(), http.request()].map(|it| it.json()["event"].clone()), ["closed", "closed"]);
    http.is_silent();
}

#[test]
fn req_6_22_what_is_too_old_or_too_few_is_critical_until_it_is_not() {
    let (place, database) = backed_up();
    by_catalog(
        &place,
        "CRITICAL too-few-copies",
        "UPDATE copies SET state = 'missing' WHERE object = 'manifest' RETURNING 1",
        "UPDATE copies SET state = 'good' RETURNING 1",
    );
    place.catalog(&format!(
        "UPDATE backups SET finished_at = '{LONG_AGO}', started_at = '{LONG_AGO}' RETURNING 1"
    ));
    expect(&place, &["CRITICAL no-good-backup"]);
    place.backup(&database);
    expect(&place, &[]);
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    place.unset("BACKUP_ENCRYPTION_KEY");
    expect(&place, &["CRITICAL key-missing"]);
    place.set("BACKUP_ENCRYPTION_KEY", &key);
    expect(&place, &[]);
}

#[test]
fn req_6_23_warnings_come_and_go() {
    let (place, database) = backed_up();
    by_catalog(
        &place,
        "WARNING proof-too-old",
        &format!("UPDATE copies SET proven_at = '{LONG_AGO}' RETURNING 1"),
        &format!("UPDATE copies SET proven_at = {NOW} RETURNING 1"),
    );
    // Owed for longer than a day, by a store that has enough copies elsewhere.
    place.catalog(
        "INSERT INTO copies (backup_id, object, store, size_bytes, sha256, state) \
         SELECT backup_id, object, 'r2', size_bytes, sha256, 'owed' FROM copies RETURNING 1",
    );
    expect(&place, &[]);
    let age = |by: &str| {
        let at = format!("strftime('%FT%H:%M:%fZ', 'now', '-{by}')");
        place.catalog(&format!("UPDATE backups SET finished_at = {at} RETURNING 1"));
    };
    age("25 hours");
    expect(&place, &["WARNING copies-owed"]);
    place.catalog("DELETE FROM copies WHERE store = 'r2' RETURNING 1");
    expect(&place, &[]);
    age("1 minute");
    place.set("ALERT_BACKUP_DURATION", "1h");
    by_catalog(
        &place,
        "WARNING backup-duration",
        "UPDATE backups SET seconds = 3601 RETURNING 1",
        "UPDATE backups SET seconds = 3599 RETURNING 1",
    );
    place.pgkeep(&["test-restore", "latest"]).ok();
    by_catalog(
        &place,
        "WARNING rto",
        "UPDATE restore_log SET seconds = 3601 RETURNING 1",
        "UPDATE restore_log SET seconds = 3599 RETURNING 1",
    );
    place.set("ALERT_STORAGE", "1");
    place.pgkeep(&["watch"]).ok();
    let full = open(&place);
    assert!(!full.is_empty() && full.iter().all(|it| it == "WARNING storage"), "{full:?}");
    place.set("ALERT_STORAGE", "100");
    expect(&place, &[]);
    // What a cloud holds is compared with its quota; nothing listens there, and nobody asks.
    for (name, value) in [
        ("B2_KEY_ID", "key"),
        ("B2_APPLICATION_KEY", "secret"),
        ("B2_BUCKET_NAME", "bucket"),
        ("B2_ENDPOINT", "http://127.0.0.1:9"),
        ("BACKUP_MIN_COPIES", "1"),
        ("BACKUP_B2_QUOTA", "100G"),
        ("ALERT_STORAGE", "98"),
    ] {
        place.set(name, value);
    }
    place
        .catalog("INSERT INTO store_usage VALUES (strftime('%F', 'now'), 'b2', 107000000000, 1) RETURNING 1");
    expect(&place, &["WARNING storage"]);
    place.catalog("UPDATE store_usage SET bytes = 50000000000 RETURNING 1");
    expect(&place, &[]);
    drop(database);
}

#[test]
fn req_6_23_files_that_wait_for_the_archiver_are_a_warning_until_they_do_not() {
    let archiving = Archiving::ready();
    let (place, cluster) = (&archiving.place, &archiving.cluster);
    place.set("ALERT_STORAGE", "100");
    place.set("ALERT_ARCHIVER_BACKLOG", "1");
    archiving.archive();
    cluster.set("archive_command", "/bin/false");
    for _ in 0..3 {
        archiving.switch();
    }
    let failing = "SELECT failed_count > 0 FROM pg_stat_archiver";
    wait_for("a failure of the archiver", || (cluster.psql("postgres", failing) == "t").then_some(()));
    expect(place, &["WARNING archiver-backlog", "WARNING archiver-failing"]);
    archiving.archive_through("");
    archiving.archive();
    expect(place, &[]);
}

#[test]
fn req_6_22_a_hole_in_the_wal_is_critical_until_it_is_filled() {
    let archiving = Archiving::ready();
    let place = &archiving.place;
    place.set("ALERT_STORAGE", "100");
    place.pgkeep(&["backup", "cluster", "--fast"]).ok();
    let names: Vec<String> = (0..3).map(|_| archiving.archive()).collect();
    by_catalog(
        place,
        "CRITICAL wal-hole",
        &format!("UPDATE wal_segments SET state = 'deleting' WHERE segment = '{}' RETURNING 1", names[1]),
        "UPDATE wal_segments SET state = 'good' RETURNING 1",
    );
}

#[test]
fn req_6_22_a_backup_whose_key_is_gone_is_critical_until_the_key_is_back() {
    let archiving = Archiving::ready();
    let place = &archiving.place;
    place.set("ALERT_STORAGE", "100");
    place.pgkeep(&["backup", "cluster", "--fast"]).ok();
    archiving.archive();
    let said = || {
        let mut rows =
            place.catalog("SELECT message FROM alerts WHERE alert_type = 'key-missing' ORDER BY id DESC");
        rows.remove(0).remove(0)
    };
    let backup = place.catalog("SELECT id FROM backups").remove(0).remove(0);
    let old = place.setting("BACKUP_ENCRYPTION_KEY");
    let new = place.pgkeep(&["key", "new"]).ok().stdout.trim().to_owned();
    place.set("BACKUP_ENCRYPTION_KEY", &new);
    expect(place, &["CRITICAL key-missing"]);
    assert!(said().starts_with(&format!("{backup} and WAL up to ")), "{}", said());
    let both = format!("{new},{old}");
    place.set("BACKUP_ENCRYPTION_KEY", &both);
    expect(place, &[]);
    // Manifests go under the new key, WAL stays under the old one until it is removed.
    place.pgkeep(&["key", "rotate"]).ok();
    place.set("BACKUP_ENCRYPTION_KEY", &new);
    expect(place, &["CRITICAL key-missing"]);
    assert!(said().starts_with("WAL up to "), "{}", said());
    place.set("BACKUP_ENCRYPTION_KEY", &both);
    expect(place, &[]);
    // A catalog from before keys were written down learns them by reading.
    place.catalog("UPDATE backups SET key = NULL RETURNING 1");
    place.pgkeep(&["verify", "--deep"]).ok();
    assert_ne!(place.catalog("SELECT key FROM backups WHERE key IS NOT NULL"), Vec::<Vec<String>>::new());
}

#[test]
fn req_6_22_a_server_that_archives_no_more_is_critical_and_closes_no_other_alert() {
    let archiving = Archiving::ready();
    let (place, cluster) = (&archiving.place, &archiving.cluster);
    place.set("ALERT_STORAGE", "100");
    archiving.archive();
    place.catalog(&format!(
        "INSERT INTO alerts (alert_type, severity, message, created_at) SELECT 'rpo', 'CRITICAL', 'too old', {NOW} \
         RETURNING 1"
    ));
    cluster.set("archive_mode", "off");
    cluster.shut_down();
    cluster.start_again();
    expect(place, &["CRITICAL archiving-off", "CRITICAL rpo"]);
    cluster.set("archive_mode", "on");
    cluster.shut_down();
    cluster.start_again();
    archiving.archive();
    expect(place, &[]);
}

#[test]
fn every_condition_has_a_test() {
    /// The file with the test that raises and closes it, when it is another one than this.
    const ELSEWHERE: [(&str, &str); 9] = [
        ("backup-failed", "alerts.rs"),
        ("test-restore-failed", "alerts.rs"),
        ("backup-size", "alerts.rs"),
        ("rpo", "alerts.rs"),
        ("clock-skew", "clock.rs"),
        ("server-clock", "clock.rs"),
        ("server-unreachable", "clock.rs"),
        ("certificate", "certificates.rs"),
        ("key-exposed", "certificates.rs"),
    ];
    let read = |file: &str| fs::read_to_string(project().join("tests/it").join(file)).unwrap();
    let readme = fs::read_to_string(project().join("README.md")).unwrap();
    for kind in [ALWAYS, WATCHED, ASKED, REACHED].concat() {
        let file = ELSEWHERE.iter().find(|(name, _)| *name == kind).map_or("conditions.rs", |(_, file)| file);
        let is_tested = read(file).lines().any(|line| line.contains(kind) && !line.contains(".rs\""));
        assert!(is_tested, "{kind} is in no test of {file}");
        assert!(readme.contains(&format!("`{kind}`")), "the README does not speak of {kind}");
    }
}

#[test]
fn req_6_22_a_key_file_that_is_gone_is_told_of_though_nothing_else_works() {
    let (place, _) = backed_up();
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    place.unset("BACKUP_ENCRYPTION_KEY");
    let file = place.put("key.txt", key.as_bytes());
    place.set("BACKUP_ENCRYPTION_KEY_FILE", file.to_str().unwrap());
    expect(&place, &[]);
    fs::rename(&file, place.path("away.txt")).unwrap();
    expect(&place, &["CRITICAL key-missing"]);
    let said = place.catalog("SELECT message FROM alerts WHERE alert_type = 'key-missing'");
    assert!(said[0][0].contains("key.txt") && said[0][0].contains("No such file"), "{said:?}");
    place.pgkeep(&["list"]).ok();
    for words in [&["backup", "config"][..], &["verify", "--deep"], &["cleanup", "--yes"], &["key", "rotate"]]
    {
        place.pgkeep(words).fails_with(12);
    }
    fs::rename(place.path("away.txt"), &file).unwrap();
    for words in [&["backup", "config"][..], &["verify", "--deep"], &["cleanup", "--yes"]] {
        place.pgkeep(words).ok();
    }
    expect(&place, &[]);
}

#[test]
fn req_6_22_wal_with_too_few_copies_is_critical() {
    let archiving = Archiving::ready();
    let place = &archiving.place;
    place.set("ALERT_STORAGE", "100");
    place.pgkeep(&["backup", "cluster", "--fast"]).ok();
    let name = archiving.archive();
    by_catalog(
        place,
        "CRITICAL too-few-copies",
        &format!("UPDATE wal_segments SET state = 'owed' WHERE segment = '{name}' RETURNING 1"),
        "UPDATE wal_segments SET state = 'good' RETURNING 1",
    );
}

#[test]
fn req_6_23_a_cleanup_of_crons_that_is_refused_is_a_warning() {
    let (place, _) = backed_up();
    place.set("PGKEEP_ADMINS", "nobody_of_this_name");
    let refused = place.pgkeep(&["cleanup", "--yes"]).fails_with(5);
    expect(&place, &["WARNING cleanup-failed"]);
    // Putting it off goes no way around.
    let later = place.pgkeep(&["cleanup", "--yes", "--at", "2099-01-01T00:00:00Z"]).fails_with(5);
    assert_eq!(later.message(), refused.message());
    assert_eq!(place.catalog("SELECT count(*) FROM jobs"), [["0"]]);
    assert_eq!(
        place.catalog("SELECT count(*) FROM runs WHERE command = 'cleanup' AND exit_code = 5"),
        [["2"]]
    );
    place.unset("PGKEEP_ADMINS");
    place.pgkeep(&["cleanup", "--yes"]).ok();
    expect(&place, &[]);
}

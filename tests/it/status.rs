//! `pgkeep status`: what it says, with which exit code, in all four forms.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use chrono::{TimeDelta, Utc};
use pgkeep::model::timestamp_text;
use pgkeep::plan::health::{Level, RULES};
use pgkeep::report::METRICS;
use regex::Regex;
use rusqlite::{Connection, params};
use serde_json::Value;
use sha2::Digest;

use crate::clouds::Cloud;
use crate::pitr::backup as backup_cluster;
use crate::support::faults::{stopped_at, through};
use crate::support::life::{self, Mood};
use crate::support::s3::Options;
use crate::support::{Archiving, Place, Run, cluster, give, project, run, set_mode};

fn json(place: &Place, arguments: &[&str]) -> (i32, Value) {
    let run = place.pgkeep(&[&["--output", "json", "status"], arguments].concat());
    (run.code, run.json())
}

/// The codes of the rules that hold.
fn codes(status: &Value) -> Vec<String> {
    let all = status["health"]["deductions"].as_array().expect("deductions");
    all.iter().map(|it| it["code"].as_str().expect("a code").to_owned()).collect()
}

fn change(place: &Place, sql: &str, values: impl rusqlite::Params) {
    let catalog = Connection::open(place.state().join("catalog.sqlite")).expect("open the catalog");
    catalog.busy_timeout(Duration::from_secs(30)).expect("set a timeout");
    assert!(catalog.execute(sql, values).expect(sql) > 0, "nothing changed: {sql}");
}

fn ago(minutes: i64) -> String {
    timestamp_text(Utc::now() - TimeDelta::minutes(minutes))
}

/// Writes down a test restore of the newest backup.
fn test_restore(place: &Place, minutes_ago: i64, seconds: i64, state: &str) {
    let ended = timestamp_text(Utc::now() - TimeDelta::minutes(minutes_ago) + TimeDelta::seconds(seconds));
    change(
        place,
        "INSERT INTO restore_log (backup_id, initiated_by, restore_mode, state, started_at, ended_at, seconds, purpose) \
         SELECT max(id), 'cron', 'full', ?1, ?2, ?3, ?4, 'test' FROM backups",
        params![state, ago(minutes_ago), ended, seconds],
    );
}

/// A place with a backup and a test restore: nothing takes points away.
fn well() -> Place {
    let place = Place::ready();
    place.backup(&cluster().fresh_shop());
    test_restore(&place, 60, 120, "done");
    place
}

/// A place with three stores that answer, and ninety days of life.
fn lived(mood: Mood) -> (Place, [Cloud; 2]) {
    let place = Place::new();
    let clouds = [Cloud::start(Options::default()), Cloud::start(Options::b2())];
    clouds[0].is_r2_of(&place);
    clouds[1].is_b2_of(&place);
    place.init();
    life::fill(&place, mood);
    // What has no test to fill it: the server of these tests is young.
    change(&place, "DELETE FROM runs WHERE command = 'init'", []);
    (place, clouds)
}

/// Where pages and metrics are written: a directory of the ordinary user's.
fn out(place: &Place, name: &str) -> String {
    let directory = place.path("out");
    if !directory.exists() {
        fs::create_dir(&directory).expect("make a directory");
        give(&directory);
    }
    directory.join(name).display().to_string()
}

fn mode(path: &str) -> u32 {
    fs::metadata(path).expect("look at a file").permissions().mode() & 0o777
}

#[test]
fn requirement_6_24_an_empty_catalog_says_that_there_is_no_backup_and_how_to_make_one() {
    let place = Place::new();
    assert!(place.pgkeep(&["status"]).fails_with(10).stderr.contains("hint: "), "not initialised");
    place.init();
    let shown = place.pgkeep(&["status"]).ended_with(4);
    assert!(shown.stdout.contains("0 of 100: CRITICAL"), "{}", shown.stdout);
    assert!(shown.stdout.contains("-100 there is no backup"), "{}", shown.stdout);
    assert!(shown.stdout.contains("fix: make one: pgkeep backup database"), "{}", shown.stdout);
    let (code, status) = json(&place, &[]);
    assert_eq!(
        (code, &status["health"]["score"], codes(&status)),
        (4, &0.into(), vec!["no_backup".to_owned()])
    );
    assert_eq!(
        (&status["rpo"]["now_seconds"], &status["rto"]["measured_seconds"]),
        (&Value::Null, &Value::Null)
    );
    let page = out(&place, "empty.html");
    place.pgkeep(&["status", "--html", &page]).ended_with(4);
    assert!(fs::read_to_string(page).expect("read the page").contains("there is no backup"));
}

#[test]
fn requirement_6_24_each_state_has_its_exit_code_and_its_word() {
    let place = well();
    let good = place.pgkeep(&["status"]).ok();
    assert!(good.stdout.contains("100 of 100: good"), "{}", good.stdout);
    assert_eq!(json(&place, &[]).1["health"]["state"], "good");
    assert_eq!(place.pgkeep(&["--quiet", "status"]).ok().stdout, "", "quiet is quiet when all is well");

    change(&place, "UPDATE copies SET state = 'owed' WHERE object = 'manifest'", []);
    let attention = place.pgkeep(&["--quiet", "status"]).ended_with(3);
    assert!(attention.stdout.contains("95 of 100: ATTENTION"), "{}", attention.stdout);
    assert!(attention.stdout.contains("1 owed"), "{}", attention.stdout);
    let (_, status) = json(&place, &[]);
    assert_eq!((&status["health"]["state"], codes(&status)), (&"attention".into(), vec!["owed".to_owned()]));

    change(&place, "UPDATE copies SET state = 'damaged' WHERE object = 'manifest'", []);
    let critical = place.pgkeep(&["status"]).ended_with(4);
    assert!(critical.stdout.contains("80 of 100: CRITICAL"), "{}", critical.stdout);
    assert!(critical.stdout.contains("1 DAMAGED"), "{}", critical.stdout);
    let (_, status) = json(&place, &[]);
    assert_eq!(
        (&status["health"]["state"], codes(&status)),
        (&"critical".into(), vec!["damaged".to_owned()])
    );
}

#[test]
fn requirement_6_12_and_6_18_the_rpo_is_the_age_of_the_newest_wal_that_is_safe_in_enough_stores() {
    let archiving = Archiving::new(&[]);
    let place = &archiving.place;
    let r2 = Cloud::start(Options::default());
    r2.is_r2_of(place);
    archiving.begin();
    backup_cluster(&archiving);
    let first = archiving.archive();
    let (_, status) = json(place, &[]);
    let rpo = &status["rpo"];
    assert_eq!((&rpo["by"], &rpo["target_seconds"], &rpo["copies"]), (&"wal".into(), &900.into(), &2.into()));
    assert!(rpo["newest"].as_str().expect("a segment") >= first.as_str(), "{rpo}");
    assert!(rpo["now_seconds"].as_u64().expect("an age") < 300, "{rpo}");
    assert_eq!(status["windows"].as_array().map(Vec::len), Some(1), "{status:#}");

    // One store does not have the newest: the one before counts.
    let second = archiving.archive();
    change(place, "UPDATE wal_segments SET state = 'owed' WHERE segment >= ?1 AND store = 'r2'", [&second]);
    let (_, status) = json(place, &[]);
    assert!(status["rpo"]["newest"].as_str().expect("a segment") < second.as_str(), "{status:#}");
    assert!(codes(&status).contains(&"owed".to_owned()), "{status:#}");

    // And the archiver has stopped an hour ago.
    change(place, "UPDATE wal_segments SET stored_at = ?1", [ago(60)]);
    let shown = place.pgkeep(&["status"]).ended_with(4);
    let text = shown.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("would be lost now, target 15 min NOT MET: WAL up to"), "{text}");
    let (_, status) = json(place, &[]);
    assert!((3500..3800).contains(&status["rpo"]["now_seconds"].as_u64().unwrap()), "{status:#}");
    assert!(codes(&status).contains(&"rpo".to_owned()));
    place.set("RPO_TARGET", "2h");
    assert!(!codes(&json(place, &[]).1).contains(&"rpo".to_owned()));

    // A segment in the middle is gone everywhere: what is behind it can't be reached, however new.
    change(place, "UPDATE wal_segments SET stored_at = ?1", [ago(0)]);
    let third = archiving.archive();
    change(place, "UPDATE wal_segments SET state = 'missing' WHERE segment = ?1", [&second]);
    let (code, status) = json(place, &[]);
    assert_eq!(code, 4);
    assert!(codes(&status).contains(&"hole".to_owned()), "{status:#}");
    assert_eq!(status["windows"][0]["missing"], second.as_str());
    assert!(status["windows"][0]["next"].as_str() <= Some(third.as_str()), "{status:#}");
}

#[test]
fn requirement_6_12_without_wal_the_newest_backup_counts() {
    let place = well();
    let (_, status) = json(&place, &[]);
    assert_eq!(status["rpo"]["by"], "backup");
    assert!(status["rpo"]["newest"].as_str().expect("a backup").contains("-database-"));
    change(&place, "UPDATE backups SET consistent_at = ?1", [ago(24 * 60)]);
    let shown = place.pgkeep(&["status"]).ended_with(4);
    assert!(shown.stdout.contains("1 d would be lost now"), "{}", shown.stdout);
    assert!(shown.stdout.contains("NOT MET: no WAL is archived"), "{}", shown.stdout);
}

#[test]
fn requirement_6_11_and_6_17_the_rto_is_what_test_restores_have_taken() {
    let place = Place::ready();
    place.backup(&cluster().fresh_shop());
    let never = place.pgkeep(&["status"]).ended_with(3);
    assert!(never.stdout.contains("never measured, target 1 h"), "{}", never.stdout);
    assert_eq!(codes(&json(&place, &[]).1), ["rto_unknown"]);

    test_restore(&place, 600, 600, "done");
    let (code, status) = json(&place, &[]);
    assert_eq!((code, &status["rto"]["measured_seconds"]), (0, &600.0.into()));
    assert_eq!(status["rto"]["tests"][0]["kind"], "database");
    assert!(place.pgkeep(&["status"]).ok().stdout.contains("a restore takes 10 min 0 s, target 1 h met"));

    test_restore(&place, 500, 7200, "done");
    let slow = place.pgkeep(&["status"]).ended_with(3);
    assert!(slow.stdout.contains("a restore takes 2 h 0 min, target 1 h NOT MET"), "{}", slow.stdout);
    place.set("RTO_TARGET", "3h");
    place.pgkeep(&["status"]).ok();

    // One that failed measures nothing, and is worse.
    test_restore(&place, 10, 5, "failed");
    let (code, status) = json(&place, &[]);
    assert_eq!((code, codes(&status)), (4, vec!["test_failed".to_owned()]));
    assert_eq!(status["rto"]["measured_seconds"], 7200.0);
    // Once succeeded, then never again.
    change(&place, "DELETE FROM restore_log WHERE state = 'failed'", []);
    change(&place, "UPDATE restore_log SET started_at = ?1", [ago(60 * 24 * 40)]);
    assert_eq!(codes(&json(&place, &[]).1), ["rto_unknown"]);
}

#[test]
fn what_cron_ran_and_failed_counts_until_it_succeeds_and_what_a_person_typed_does_not() {
    let place = well();
    let ran = |command: &str, arguments: &str, terminal: &str, outcome: &str, code: u8, minutes: i64| {
        change(
            &place,
            "INSERT INTO runs (id, command, arguments, user, host, terminal, pid, pgkeep_version, started_at, ended_at, \
             seconds, outcome, exit_code) VALUES (hex(randomblob(4)), ?1, ?2, 'postgres', 'db1', ?3, 1, '0.1.0', ?4, \
             iif(?5 = 'died', NULL, ?4), 1.0, ?5, iif(?5 = 'died', NULL, ?6))",
            params![command, arguments, terminal, ago(minutes), outcome, code],
        );
    };
    ran("backup database", "backup database crm", "pts/3", "failed", 30, 50);
    ran("backup database", "backup database crm", "none", "failed", 11, 49);
    ran("restore", "restore latest", "none", "failed", 4, 48);
    assert_eq!(json(&place, &[]).0, 0, "typed, locked, and a restore");
    ran("backup database", "backup database crm", "none", "failed", 30, 40);
    ran("backup database", "backup database shop", "none", "done", 0, 39);
    let (code, status) = json(&place, &[]);
    assert_eq!((code, codes(&status)), (4, vec!["failed".to_owned()]));
    ran("backup database", "backup database crm", "none", "done", 0, 30);
    assert_eq!(json(&place, &[]).0, 0);
    ran("verify", "verify", "none", "died", 0, 20);
    assert_eq!(codes(&json(&place, &[]).1), ["failed"]);
}

#[test]
fn alerts_count_until_they_are_acknowledged_or_closed_and_jobs_are_shown() {
    let place = well();
    let raise = "INSERT INTO alerts (alert_type, severity, message, created_at, subject) VALUES ('x', ?1, ?2, ?3, 'shop')";
    change(&place, raise, params!["WARNING", "the disk is\u{1b}[2J filling", ago(90)]);
    change(&place, raise, params!["CRITICAL", "the archiver has stopped", ago(30)]);
    let shown = place.pgkeep(&["status"]).ended_with(4);
    assert!(shown.stdout.contains("2 CRITICAL: the archiver has stopped (30 min ago)"), "{}", shown.stdout);
    assert!(shown.stdout.contains("1 WARNING: the disk is\u{FFFD}[2J filling"), "{}", shown.stdout);
    assert!(!shown.stdout.contains('\u{1b}'), "a message steers the terminal");
    let (_, status) = json(&place, &[]);
    assert_eq!(codes(&status), ["alert_critical", "alert_warning"]);
    assert_eq!(status["alerts"][0]["severity"], "CRITICAL", "the worst first");
    change(&place, "UPDATE alerts SET acknowledged_at = ?1 WHERE severity = 'CRITICAL'", [ago(1)]);
    assert_eq!(codes(&json(&place, &[]).1), ["alert_warning"]);
    assert!(place.pgkeep(&["status"]).ended_with(3).stdout.contains("acknowledged)"));
    change(&place, "UPDATE alerts SET closed_at = ?1", [ago(0)]);
    let (code, status) = json(&place, &[]);
    assert_eq!((code, &status["alerts"]), (0, &serde_json::json!([])));

    let job = "INSERT INTO jobs (command, arguments, priority, scheduled_for, state, requested_by, created_at) \
               VALUES ('backup tenant', '[]', 7, ?1, ?2, 'ada', ?1)";
    change(&place, job, params![ago(-60), "waiting"]);
    change(&place, job, params![ago(60), "done"]);
    let (_, status) = json(&place, &[]);
    assert_eq!(status["jobs"].as_array().map(Vec::len), Some(1));
    assert!(place.pgkeep(&["status"]).ok().stdout.contains("backup tenant (job 1, priority 7)"));
}

#[test]
fn requirement_6_24_stores_that_do_not_answer_are_said_to_be_away_and_hold_nobody_up() {
    let place = Place::new();
    let r2 = Cloud::start(Options::default());
    r2.is_r2_of(&place);
    // One that takes the connection and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").expect("listen");
    let b2 = Cloud::start(Options::b2());
    b2.is_b2_of(&place);
    place.init();
    place.backup(&cluster().fresh_shop());
    test_restore(&place, 60, 120, "done");
    place.pgkeep(&["status"]).ok();
    place.set("B2_ENDPOINT", &format!("http://{}", silent.local_addr().expect("an address")));
    let begun = Instant::now();
    let (code, status) = json(&place, &[]);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!((code, codes(&status)), (3, vec!["store_away".to_owned()]));
    let answers: BTreeMap<&str, &str> = status["stores"]
        .as_array()
        .unwrap()
        .iter()
        .map(|store| (store["store"].as_str().unwrap(), store["answer"].as_str().unwrap()))
        .collect();
    assert_eq!(answers, BTreeMap::from([("b2", "away"), ("local", "reachable"), ("r2", "reachable")]));
    let message = status["stores"][1]["message"].as_str().expect("why");
    assert_eq!(message, "no answer within 2 s");
    assert!(status["stores"][2]["capacity_bytes"].as_u64() > Some(1 << 20), "{status:#}");

    // Not asked: neither away nor waited for.
    let begun = Instant::now();
    let (code, status) = json(&place, &["--offline"]);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert_eq!((code, &status["stores"][1]["answer"]), (0, &"not_asked".into()));

    // A disk that is not mounted any more, and then no store at all.
    fs::rename(place.store(), place.path("elsewhere")).expect("unmount");
    let shown = place.pgkeep(&["status"]).ended_with(3);
    assert!(shown.stdout.contains("local: AWAY"), "{}", shown.stdout);
    place.set("R2_ENDPOINT", "http://127.0.0.1:9");
    assert_eq!(codes(&json(&place, &[]).1), ["no_store"]);
}

#[test]
fn requirement_6_24_the_screen_reads_at_forty_columns_and_has_colours_only_where_they_are_wanted() {
    let (place, _clouds) = lived(Mood::Mixed);
    let narrow = place.pgkeep_with(&[("COLUMNS", "40")], &["status"]).ended_with(3);
    let longest = narrow.stdout.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(40), "{}", narrow.stdout);
    assert!(narrow.stdout.contains("HEALTH\n  87 of 100: ATTENTION\n"), "{}", narrow.stdout);
    assert!(!narrow.stdout.contains('\u{1b}'), "no terminal, no colours");
    let wide = place.pgkeep(&["status"]).ended_with(3);
    assert!(wide.stdout.lines().all(|line| line.chars().count() <= 80), "{}", wide.stdout);
    assert!(wide.stdout.contains("HOLE behind it: 00000001"), "{}", wide.stdout);
    assert!(wide.stdout.contains("b2: answers"), "{}", wide.stdout);

    // At a terminal.
    let at_terminal = |environment: &str| -> Run {
        let program = place.command(&["status"]).get_program().to_owned();
        let inner = place.command(&["status"]);
        let words: Vec<String> =
            inner.get_args().map(|word| format!("'{}'", word.to_str().expect("UTF-8"))).collect();
        let script = format!("stty cols 40; {environment} {} {}", program.display(), words.join(" "));
        let mut command = Command::new("script");
        command
            .args(["-qec", &script, "/dev/null"])
            .envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
        run(command.env("TERM", "xterm").stdin(std::process::Stdio::null()))
    };
    let coloured = at_terminal("");
    assert!(coloured.stdout.contains("\u{1b}[33m87 of 100: ATTENTION\u{1b}[0m"), "{:?}", coloured.stdout);
    let escape = Regex::new("\u{1b}\\[[0-9;]*m").unwrap();
    let plain = escape.replace_all(&coloured.stdout, "").into_owned();
    assert!(plain.lines().all(|line| line.trim_end().chars().count() <= 40), "{plain}");
    let without = at_terminal("NO_COLOR=1");
    assert!(
        !without.stdout.contains('\u{1b}') && without.stdout.contains("ATTENTION"),
        "{:?}",
        without.stdout
    );
    assert!(!at_terminal("TERM=dumb").stdout.contains('\u{1b}'));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_fault() {
    let (place, _clouds) = lived(Mood::Mixed);
    let command = place.command(&["status"]);
    let mut shell = Command::new("bash");
    // The reader is gone before anything is written.
    shell.args(["-c", "\"$@\" > >(exec true); echo \"code $?\" >&2", "bash"]);
    let run = run(&mut through(&mut shell, &command));
    assert!(run.stderr.contains("code 3"), "{}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

/// Names that a database, a tenant or a person can have.
const HOSTILE: [&str; 4] =
    ["<script>alert(1)</script>", "\"><img src=x onerror=alert(2)>", "a\\b\"c\nd", "{{x}}</style><b>&amp;"];

#[test]
fn requirement_6_24_whatever_came_from_a_database_or_a_person_is_escaped() {
    let (place, _clouds) = lived(Mood::Mixed);
    for (index, name) in HOSTILE.iter().enumerate() {
        let sql = "UPDATE backups SET database = ?1, tenant_id = ?1 WHERE id IN (SELECT id FROM backups \
                   WHERE type = 'tenant' ORDER BY id DESC LIMIT 1 OFFSET ?2)";
        change(&place, sql, params![name, index as u32]);
        change(
            &place,
            "INSERT INTO alerts (alert_type, severity, message, created_at, subject, acknowledged_at, acknowledged_by) \
             VALUES (?1, 'WARNING', ?1, ?2, ?1, ?2, ?1)",
            params![name, ago(5)],
        );
        change(
            &place,
            "INSERT INTO jobs (command, arguments, priority, scheduled_for, requested_by, created_at) \
             VALUES (?1, '[]', 7, ?2, ?1, ?2)",
            params![name, ago(-5)],
        );
        change(
            &place,
            "INSERT INTO runs (id, command, arguments, user, host, terminal, pid, pgkeep_version, started_at, ended_at, \
             seconds, outcome, exit_code, message) VALUES (hex(randomblob(4)), ?1, ?1, ?1, ?1, 'pts/1', 1, '0', ?2, ?2, 1.0, \
             'failed', 30, ?1)",
            params![name, ago(2)],
        );
    }
    let (page, metrics) = (out(&place, "page.html"), out(&place, "pgkeep.prom"));
    let run = place.pgkeep(&["status", "--html", &page, "--prometheus", &metrics]).ended_with(3);
    assert!(run.stdout.contains(&format!("WROTE      {page}")), "{}", run.stdout);
    let html = fs::read_to_string(&page).expect("read the page");
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(!html.contains("<script>alert") && !html.contains("<img") && !html.contains("<b>&amp;amp;"));
    // The page's own elements, and none besides.
    assert_eq!((html.matches("<script").count(), html.matches("</style>").count()), (1, 1));
    let bare = Regex::new(r#""[^"]*""#).unwrap().replace_all(&html, "\"\"").into_owned();
    let handler = Regex::new(r"<[^>]*\son[a-z]+\s*=").unwrap();
    assert!(!handler.is_match(&bare), "{:?}", handler.find(&bare));
    // And if something slipped through, the policy would not run it: only what has this hash.
    for element in ["style", "script"] {
        let (_, rest) = html.split_once(&format!("<{element}>")).expect("the element");
        let (inside, _) = rest.split_once(&format!("</{element}>")).expect("its end");
        let hash = base64::prelude::BASE64_STANDARD.encode(sha2::Sha256::digest(inside.as_bytes()));
        assert!(html.contains(&format!("{element}-src 'sha256-{hash}'")), "{element}");
    }
    assert!(html.contains("default-src 'none'"));
    // What it would load or lead to: nothing. (Where the stores are is text.)
    let link = Regex::new(r#"(?:src|href|action)="([^"]*)""#).unwrap();
    let links: BTreeSet<&str> =
        link.captures_iter(&html).map(|found| found.get(1).unwrap().as_str()).collect();
    assert_eq!(links, BTreeSet::from(["#main", "data:,"]));
    let text = fs::read_to_string(&metrics).expect("read the metrics");
    assert!(text.contains(r#"database="a\\b\"c\nd""#), "{text}");
    exposition(&text);
}

/// Each sample of a metric: its labels and its value.
type Samples = Vec<(BTreeMap<String, String>, f64)>;

/// Reads the exposition format as strictly as the specification has it; returns the samples by name.
fn exposition(text: &str) -> BTreeMap<String, Samples> {
    let sample = Regex::new(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)\{(.*)\} (\S+)$").unwrap();
    let label = Regex::new(r#"^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)"#).unwrap();
    let mut found: BTreeMap<String, Samples> = BTreeMap::new();
    let (mut help, mut kind) = (BTreeSet::new(), BTreeSet::new());
    let mut last = String::new();
    assert!(text.ends_with('\n') && !text.contains('\r'), "the last line has no end");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("words");
            assert!(help.insert(name.to_owned()) && words.len() > 5, "{line}");
            name.clone_into(&mut last);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest, format!("{last} gauge"), "TYPE follows HELP");
            assert!(kind.insert(last.clone()), "{line}");
        } else {
            let parts = sample.captures(line).unwrap_or_else(|| panic!("no sample: {line}"));
            assert_eq!(&parts[1], last, "samples of one name stand together: {line}");
            let (mut labels, mut rest) = (BTreeMap::new(), &parts[2]);
            while !rest.is_empty() {
                let one = label.captures(rest).unwrap_or_else(|| panic!("no label: {rest}"));
                assert!(labels.insert(one[1].to_owned(), one[2].to_owned()).is_none(), "{line}");
                rest = &rest[one[0].len()..];
            }
            let value: f64 = parts[3].parse().unwrap_or_else(|_| panic!("no number: {line}"));
            let samples = found.entry(last.clone()).or_default();
            assert!(samples.iter().all(|(known, _)| *known != labels), "twice: {line}");
            samples.push((labels, value));
        }
    }
    assert_eq!(help, kind);
    assert_eq!(help, found.keys().cloned().collect());
    found
}

#[test]
#[expect(clippy::float_cmp, reason = "what is written is what is read")]
fn requirement_6_24_the_metrics_are_those_that_are_documented_and_anybody_may_read_them() {
    let (place, _clouds) = lived(Mood::Mixed);
    let path = out(&place, "pgkeep.prom");
    place.pgkeep(&["status", "--prometheus", &path]).ended_with(3);
    assert_eq!(mode(&path), 0o644, "node_exporter runs as somebody else");
    let text = fs::read_to_string(&path).expect("read the metrics");
    let found = exposition(&text);
    let names: BTreeSet<&str> = found.keys().map(String::as_str).collect();
    let documented: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names, documented, "a full life has a value of each");
    for metric in &METRICS {
        for (labels, _) in &found[metric.name] {
            let expected: BTreeSet<&str> = metric.labels.iter().copied().chain(["cluster"]).collect();
            assert_eq!(
                labels.keys().map(String::as_str).collect::<BTreeSet<_>>(),
                expected,
                "{}",
                metric.name
            );
        }
    }
    let value = |name: &str, label: &str, wanted: &str| {
        let of = found[name].iter().find(|(labels, _)| label.is_empty() || labels[label] == wanted);
        of.unwrap_or_else(|| panic!("{name} {wanted}")).1
    };
    let (_, status) = json(&place, &[]);
    assert_eq!(value("pgkeep_health_score", "", ""), status["health"]["score"].as_f64().unwrap());
    assert_eq!(value("pgkeep_health_level", "", ""), 1.0);
    assert_eq!(value("pgkeep_health_deduction_points", "code", "owed"), 5.0);
    assert_eq!(value("pgkeep_health_deduction_points", "code", "rpo"), 0.0);
    assert_eq!(value("pgkeep_rto_seconds", "kind", "cluster"), 2510.0);
    assert_eq!(value("pgkeep_wal_holes", "", ""), 1.0);
    assert_eq!(value("pgkeep_store_reachable", "store", "b2"), 1.0);
    assert_eq!(value("pgkeep_alerts_open", "severity", "WARNING"), 2.0);
    assert_eq!(value("pgkeep_jobs_waiting", "", ""), 1.0);
    let now = value("pgkeep_status_timestamp_seconds", "", "");
    assert!((now - Utc::now().timestamp() as f64).abs() < 60.0, "{now}");
    promtool(&["check", "metrics"], Path::new(&path), &text);
    // Also where there is next to nothing to tell.
    let place = Place::ready();
    let path = out(&place, "pgkeep.prom");
    place.pgkeep(&["status", "--prometheus", &path, "--offline"]).ended_with(4);
    let text = fs::read_to_string(&path).expect("read the metrics");
    assert!(!exposition(&text).contains_key("pgkeep_rpo_seconds"));
    promtool(&["check", "metrics"], Path::new(&path), &text);
}

/// Asks Prometheus's own tool where it is installed; the strict reading above is there in any case.
fn promtool(arguments: &[&str], path: &Path, input: &str) {
    if !Path::new("/usr/bin/promtool").exists() {
        return;
    }
    let mut command = Command::new("/usr/bin/promtool");
    command.args(arguments);
    if input.is_empty() {
        command.arg(path);
    } else {
        command.stdin(fs::File::open(path).expect("open"));
    }
    let run = run(&mut command);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
}

/// Every word of a text that looks like one of our metrics.
fn named_metrics(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\bpgkeep_[a-z_]+").unwrap();
    name.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn the_examples_for_prometheus_and_grafana_use_metrics_that_there_are() {
    let known: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    let read = |name: &str| fs::read_to_string(project().join("examples").join(name)).expect(name);
    let dashboard = read("grafana_dashboard.json");
    let parsed: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = parsed["panels"].as_array().expect("panels");
    assert!(panels.len() >= 10, "{}", panels.len());
    for panel in panels {
        assert!(panel["title"].as_str().is_some_and(|title| title.len() > 2), "{panel}");
    }
    let rules = read("prometheus_alerts.yml");
    assert!(rules.matches("- alert:").count() >= 8, "{rules}");
    for (name, text) in [("grafana_dashboard.json", &dashboard), ("prometheus_alerts.yml", &rules)] {
        let used = named_metrics(text);
        let unknown: Vec<&String> = used.difference(&known).collect();
        assert!(used.len() >= 8 && unknown.is_empty(), "{name}: {unknown:?} of {used:?}");
    }
    promtool(&["check", "rules"], &project().join("examples/prometheus_alerts.yml"), "");
}

#[test]
fn the_readme_has_every_rule_of_the_score_and_every_metric() {
    let readme = fs::read_to_string(project().join("README.md")).expect("read the README");
    let start = readme.find("\n## Status and dashboard\n").expect("the section");
    let section = &readme[start..start + 4 + readme[start + 4..].find("\n## ").expect("its end")];
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    for rule in &RULES {
        let row = rows.iter().find(|row| row[0] == format!("`{}`", rule.code));
        let row = row.unwrap_or_else(|| panic!("no row of the rule {}", rule.code));
        let level = if rule.level == Level::Critical { "critical" } else { "warning" };
        assert_eq!(row[1..], [level, &rule.points.to_string(), rule.when, rule.remedy], "{}", rule.code);
    }
    for metric in &METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = rows.iter().find(|row| row[0] == format!("`{}`", metric.name));
        let row = row.unwrap_or_else(|| panic!("no row of the metric {}", metric.name));
        assert_eq!(row[1..], [&labels.join(", "), metric.help], "{}", metric.name);
    }
    let codes = RULES.len() + METRICS.len();
    assert_eq!(rows.len(), codes, "rows of what there is not");
}

#[test]
fn files_are_replaced_whole_or_not_at_all_and_keep_who_may_read_them() {
    let place = well();
    let (page, metrics) = (out(&place, "page.html"), out(&place, "pgkeep.prom"));
    let arguments = ["status", "--html", page.as_str(), "--prometheus", metrics.as_str()];
    place.pgkeep(&arguments).ok();
    assert_eq!((mode(&page), mode(&metrics)), (0o600, 0o644), "the page names databases and tenants");
    set_mode(Path::new(&page), 0o640);
    for (step, how) in
        [("StatusPage", "kill"), ("StatusPage", "fail"), ("StatusMetrics", "kill"), ("StatusMetrics", "fail")]
    {
        let before = (fs::read(&page).unwrap(), fs::read(&metrics).unwrap());
        let run = stopped_at(&place, &arguments, step, how);
        assert_eq!(run.code, if how == "kill" { 137 } else { 40 }, "{step}:{how} {}", run.stderr);
        assert_eq!(fs::read(&metrics).unwrap(), before.1, "{step}:{how}");
        if step == "StatusPage" {
            assert_eq!(fs::read(&page).unwrap(), before.0, "{step}:{how}");
        }
        let left = place.files("out").into_iter().filter(|name| name.ends_with(".unfinished")).count();
        assert_eq!(left, usize::from(how == "kill"), "{step}:{how}");
        place.pgkeep(&arguments).ok();
        assert_eq!(place.files("out"), ["page.html", "pgkeep.prom"], "{step}:{how}");
        assert_ne!(fs::read(&metrics).unwrap(), before.1, "it has another time in it");
    }
    assert_eq!(mode(&page), 0o640, "as the operator wants it");

    // Several at once: each writes whole files, one after the other.
    let running: Vec<_> = (0..6).map(|_| place.start(&[], &arguments)).collect();
    for one in running {
        one.wait().ok();
    }
    exposition(&fs::read_to_string(&metrics).unwrap());
    assert!(fs::read_to_string(&page).unwrap().ends_with("</html>\n"));
    assert_eq!(place.files("out"), ["page.html", "pgkeep.prom"]);

    // Where it can't be written that is said, and the answer is not lost in silence.
    let nowhere = place.path("nowhere/page.html").display().to_string();
    let refused = place.pgkeep(&["status", "--html", &nowhere]).fails_with(40);
    assert!(
        refused.stderr.contains(&format!("write {nowhere}")) && refused.stderr.contains("hint: "),
        "{}",
        refused.stderr
    );
    // A name without a directory is one of the directory that one is in.
    let mut command = place.command(&["status", "--prometheus", "here.prom"]);
    assert_eq!(run(&mut command).ok().code, 0);
    assert!(place.path("here.prom").exists());
}

#[test]
fn requirement_6_24_the_page_shows_score_charts_calendar_and_tables_in_one_file() {
    let (place, _clouds) = lived(Mood::Mixed);
    let page = out(&place, "mixed.html");
    place.pgkeep(&["status", "--html", &page]).ended_with(3);
    let html = fs::read_to_string(&page).expect("read the page");
    for wanted in [
        "Health score 87 of 100",
        "What takes points away",
        "Open alerts",
        "The last 90 days",
        "WAL segments per hour",
        "Storage of each store",
        "Stored files by the age of their last proof",
        "Size of each backup",
        "Duration of each backup",
        "What can be recovered",
        "Last test restore of each kind",
        "Backups of the last 90 days",
        "Last runs",
        "Jobs that wait",
        "a hole in the WAL",
        "prefers-color-scheme: dark",
    ] {
        assert!(html.contains(wanted), "no {wanted}");
    }
    let day =
        Regex::new(r#"<td class="(done|failed|none|hole)( today)?" title="(\d{4}-\d\d-\d\d): "#).unwrap();
    let days: BTreeSet<String> = day.captures_iter(&html).map(|found| found[3].to_owned()).collect();
    assert_eq!(days.len(), 91, "each of the last 90 days, and today");
    assert!(html.matches("role=\"img\"").count() >= 12);
    assert!(html.contains("1 failed\"") && html.contains("2 database"), "what a day was is said in words");
    assert!(html.len() < 2_000_000, "{} bytes", html.len());
    // Elements that are opened are closed, each at its place.
    let element = Regex::new(r"<(/?)([a-z1-6]+)[^>]*?(/?)>").unwrap();
    let without =
        Regex::new(r"(?s)<(style|script)>.*?</(style|script)>").unwrap().replace_all(&html, "").into_owned();
    let mut open: Vec<String> = Vec::new();
    for tag in element.captures_iter(&without) {
        let name = tag[2].to_owned();
        if &tag[1] == "/" {
            assert_eq!(open.pop(), Some(name.clone()), "</{name}> at {}", tag.get(0).unwrap().start());
        } else if &tag[3] != "/" && !["meta", "link", "br", "input"].contains(&name.as_str()) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");

    let (place, _clouds) = lived(Mood::Well);
    let good = out(&place, "well.html");
    place.pgkeep(&["status", "--html", &good]).ok();
    assert!(fs::read_to_string(&good).unwrap().contains("nothing takes points away"));
    let place = Place::ready();
    let empty = out(&place, "empty.html");
    place.pgkeep(&["status", "--html", &empty]).ended_with(4);
    // For `tests/acceptance/dashboard.sh`, which opens them in a browser.
    if let Some(directory) = std::env::var_os("PGKEEP_TEST_PAGES") {
        for (name, from) in [("mixed", &page), ("well", &good), ("empty", &empty)] {
            if Path::new(from).exists() {
                fs::copy(from, Path::new(&directory).join(format!("{name}.html"))).expect("copy a page");
            } else {
                panic!("{from} is gone");
            }
        }
    }
}

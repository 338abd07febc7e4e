//! Every document that `--output json` writes, against the schema that documents it.
//!
//! The schemas allow no field that they do not describe, so a new one must be documented before a test passes.

use std::collections::BTreeSet;
use std::fs;

use jsonschema::Validator;
use serde_json::Value;

use crate::pitr;
use crate::support::{Archiving, Place, Run, cluster, project, quoted};

/// The schema's text as a document.
fn document(name: &str) -> Value {
    let path = project().join("src/cli/schema").join(format!("{name}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Asserts that the document is as its schema says.
#[track_caller]
fn assert_valid(name: &str, found: &Value) {
    let validator: Validator =
        jsonschema::draft202012::new(&document(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let wrong: Vec<String> =
        validator.iter_errors(found).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{name}:\n{}\n{found:#}", wrong.join("\n"));
}

/// Runs a command with `--output json`, asserts its exit code, and holds what it writes to the schema.
#[track_caller]
fn assert_writes(place: &Place, schema: &str, arguments: &[&str], code: i32) -> Value {
    let run = json(place, arguments).ended_with(code);
    let found = run.json();
    assert_valid(schema, &found);
    found
}

fn json(place: &Place, arguments: &[&str]) -> Run {
    place.pgkeep(&[&["--output", "json"], arguments].concat())
}

#[test]
fn schemas_are_valid_and_describe_each_of_their_fields() {
    fn described(name: &str, schema: &Value, place: &str) {
        let Some(object) = schema.as_object() else { panic!("{name}{place} is no object") };
        assert!(object.get("description").is_some_and(Value::is_string), "{name}{place} has no description");
        if let Some(fields) = object.get("properties").and_then(Value::as_object) {
            assert_eq!(
                object.get("additionalProperties"),
                Some(&Value::Bool(false)),
                "{name}{place} is open"
            );
            for (field, schema) in fields {
                described(name, schema, &format!("{place}/{field}"));
            }
        }
        if let Some(items) = object.get("items") {
            described(name, items, &format!("{place}[]"));
        }
    }
    let names: Vec<String> = fs::read_dir(project().join("src/cli/schema"))
        .expect("list the schemas")
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let schema = document(&name);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|error| panic!("{name}: {error}"));
        described(&name, &schema, "");
    }
}

#[test]
fn a_field_that_no_schema_describes_is_found() {
    let mut found = serde_json::json!({ "findings": [] });
    assert_valid("catalog_check", &found);
    found["surprise"] = Value::Bool(true);
    let caught = std::panic::catch_unwind(|| assert_valid("catalog_check", &found));
    assert!(caught.is_err());
}

#[test]
fn every_command_writes_what_its_schema_says() {
    let place = Place::new();
    let before = assert_writes(&place, "check", &["check"], 10);
    assert!(before["lines"].as_array().unwrap().iter().any(|line| line["standing"] == "fault"));
    assert_writes(&place, "init", &["init"], 0);
    let again = assert_writes(&place, "init", &["init"], 0);
    assert_eq!(again["stores"][0]["written"], false);
    // 3: the machine's disk may be fuller than check likes.
    let check = json(&place, &["check"]);
    assert!([0, 3].contains(&check.code), "{}", check.stdout);
    assert_valid("check", &check.json());

    assert_eq!(assert_writes(&place, "list", &["list"], 0)["backups"], serde_json::json!([]));
    let shop = cluster().fresh_shop();
    let backup = assert_writes(&place, "backup_database", &["backup", "database", &shop], 0);
    assert_eq!(backup["rows"], 1550);
    assert_eq!(assert_writes(&place, "list", &["list"], 0)["backups"][0]["id"], backup["id"]);
    let shown = assert_writes(&place, "show", &["show", "latest"], 0);
    assert_eq!(shown["tables"].as_array().map(Vec::len), Some(3));
    for arguments in [&["verify"][..], &["verify", "--deep"], &["verify", "latest", "--deep"]] {
        assert_eq!(assert_writes(&place, "verify", arguments, 0)["findings"], serde_json::json!([]));
    }
    let rolling = assert_writes(&place, "verify", &["verify", "--budget", "1G", "--repair"], 0);
    assert_eq!((&rolling["rolling"]["copies_read"], &rolling["repair"]), (&2.into(), &true.into()));

    let plan = assert_writes(&place, "restore", &["restore", "latest", "--dry-run"], 0);
    assert_eq!((&plan["dry_run"], &plan["phases"]), (&Value::Bool(true), &serde_json::json!([])));
    let kept = assert_writes(&place, "restore", &["restore", "latest", "--yes"], 0);
    assert_eq!(kept["kept_as"], kept["plan"]["previous_database"]);
    let names: Vec<&Value> = kept["phases"].as_array().unwrap().iter().map(|phase| &phase["name"]).collect();
    assert_eq!(names, ["unpack", "load", "check"]);
    // The next one may begin within the same second, and the name has the time in it.
    let old = kept["kept_as"].as_str().expect("the old database's name");
    cluster().psql("postgres", &format!("DROP DATABASE {}", quoted(old)));
    let dropped = assert_writes(&place, "restore", &["restore", "latest", "--yes", "--drop-old"], 0);
    assert_eq!(dropped["kept_as"], Value::Null);
    let beside = format!("{shop}_beside");
    let beside = assert_writes(&place, "restore", &["restore", "latest", "--to-database", &beside], 0);
    assert_eq!(beside["plan"]["replaces"], false);

    let kept = assert_writes(&place, "keep", &["keep", "latest", "--reason", "a test"], 0);
    assert_eq!((&kept["kept"]["reason"], &kept["before"]), (&"a test".into(), &Value::Null));
    assert_eq!(assert_writes(&place, "list", &["list"], 0)["backups"][0]["kept"], kept["kept"]);
    assert_eq!(assert_writes(&place, "show", &["show", "latest"], 0)["kept"], kept["kept"]);
    let shown = assert_writes(&place, "cleanup", &["cleanup", "--dry-run"], 0);
    assert_eq!(shown["backups"][0]["goes"], false);
    assert_eq!(assert_writes(&place, "keep", &["unkeep", "latest"], 0)["before"], kept["kept"]);
    assert_writes(&place, "cleanup", &["cleanup"], 0);

    assert_writes(&place, "catalog_check", &["catalog", "check"], 0);
    let rebuilt = assert_writes(&place, "catalog_rebuild", &["catalog", "rebuild"], 0);
    assert_eq!(rebuilt["known"], 1);
    assert_writes(&place, "key_new", &["key", "new"], 0);
    assert_writes(&place, "text", &["man"], 0);
    assert_writes(&place, "text", &["completions", "bash"], 0);
}

#[test]
fn configurations_and_keys_are_written_as_the_schemas_say() {
    let place = Place::ready();
    let config = assert_writes(&place, "backup_config", &["backup", "config"], 0);
    let id = config["id"].as_str().unwrap();
    let shown = assert_writes(&place, "show", &["show", id], 0);
    assert_eq!(shown["config"].as_array().map(|files| files.len() as u64), config["files"].as_u64());
    let directory = place.path("config");
    let to = ["restore", id, "--to-dir", directory.to_str().unwrap()];
    assert_writes(&place, "restore_config", &[&to[..], &["--dry-run"]].concat(), 0);
    assert_writes(&place, "restore_config", &to, 0);
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    let new = json(&place, &["key", "new"]).ok().json()["key"].as_str().unwrap().to_owned();
    place.set("BACKUP_ENCRYPTION_KEY", &format!("{new},{key}"));
    let rotated = assert_writes(&place, "key_rotate", &["key", "rotate"], 0);
    assert_eq!(rotated["resealed"], 1);
    assert_eq!(rotated["needed"].as_array().map(Vec::len), Some(1));
    place.set("BACKUP_ENCRYPTION_KEY", &new);
    place.set("R2_BUCKET", "keep");
    place.set("R2_ENDPOINT", "http://127.0.0.1:1");
    place.set("R2_ACCESS_KEY", "nobody");
    place.set("R2_SECRET_KEY", "nothing");
    let away = assert_writes(&place, "key_rotate", &["key", "rotate"], 3);
    assert_eq!(away["away"][0]["store"], "r2");
}

#[test]
fn the_commands_of_the_archive_write_what_their_schemas_say() {
    let archiving = Archiving::ready();
    let place = &archiving.place;
    assert_writes(place, "list_recoverable", &["list", "--recoverable"], 1);
    let backup = assert_writes(place, "backup_cluster", &["backup", "cluster", "--fast"], 0);
    let name = archiving.archive();
    let path = archiving.cluster.data().join("pg_wal").join(&name).display().to_string();
    let pushed = assert_writes(place, "wal_push", &["wal-push", &path], 0);
    assert_eq!(pushed["known"], true);
    let wanted = place.path("wanted").display().to_string();
    assert_writes(place, "wal_fetch", &["wal-fetch", &name, &wanted], 0);
    let ledger = assert_writes(place, "list_recoverable", &["list", "--recoverable"], 0);
    assert_eq!(ledger["windows"][0]["backups"][0], backup["id"]);
    assert_writes(place, "list", &["list"], 0);
    let shown = assert_writes(place, "show", &["show", backup["id"].as_str().unwrap()], 0);
    assert_eq!((&shown["wal"], &shown["physical"]["files"]), (&backup["wal"], &backup["files"]));
    assert_writes(place, "sync", &["sync"], 0);
    let data = pitr::fresh().join("data").display().to_string();
    let plan =
        assert_writes(place, "restore_cluster", &["restore", "latest", "--to-dir", &data, "--dry-run"], 0);
    assert_eq!((&plan["dry_run"], &plan["plan"]["backup"]), (&Value::Bool(true), &backup["id"]));
    let started =
        ["restore", "latest", "--to-dir", &data, "--start", "--port", "5499", "--target-action", "shutdown"];
    let done = assert_writes(place, "restore_cluster", &started, 0);
    assert_eq!(done["phases"].as_array().map(Vec::len), Some(3));
    let report = assert_writes(place, "test_restore", &["test-restore"], 0);
    assert_eq!(report["tests"][0]["kind"], "cluster");
    let check = json(place, &["check"]);
    assert!([0, 3].contains(&check.code), "{}", check.stdout);
    assert_valid("check", &check.json());
    let arrived = check.json()["lines"].as_array().unwrap().iter().any(|line| line["subject"] == "archiving");
    assert!(arrived, "{}", check.stdout);
}

#[test]
fn the_commands_for_tenants_write_what_their_schemas_say() {
    let (place, _) = crate::tenants::ready(3);
    let made = assert_writes(&place, "backup_tenant", &["backup", "tenant", "1", "2"], 0);
    assert_eq!(made["backups"].as_array().map(Vec::len), Some(2));
    assert_writes(&place, "list_tenants", &["list", "--tenants"], 0);
    let dry = ["restore", "--tenant", "2", "--mode", "merge", "--dry-run", "--show-rows", "2"];
    assert_writes(&place, "restore_tenant", &dry, 0);
    let done =
        assert_writes(&place, "restore_tenant", &["restore", "--tenant", "2", "--yes", "--prove-others"], 0);
    assert_eq!(done["tenants"][0]["applied"]["written"], 0);
    assert_writes(&place, "list", &["list"], 0);
    assert_writes(&place, "show", &["show", made["backups"][0]["id"].as_str().unwrap()], 0);
    assert_writes(&place, "check", &["check"], 0);
}

#[test]
fn the_status_is_written_as_its_schema_says() {
    let place = Place::new();
    assert_writes(&place, "error", &["status"], 10);
    place.init();
    let empty = assert_writes(&place, "status", &["status"], 4);
    assert_eq!((&empty["health"]["state"], &empty["rpo"]["by"]), (&"critical".into(), &Value::Null));
    crate::support::life::fill(&place, crate::support::life::Mood::Mixed);
    let full = assert_writes(&place, "status", &["status", "--offline"], 3);
    for list in ["windows", "stores", "runs", "last_runs", "alerts", "jobs"] {
        assert!(!full[list].as_array().unwrap().is_empty(), "{list}: {full:#}");
    }
    assert_eq!(full["rto"]["tests"].as_array().map(Vec::len), Some(2));
    assert!(full.get("history").is_none());
    let page = place.path("page.html").display().to_string();
    let metrics = place.path("pgkeep.prom").display().to_string();
    let written = assert_writes(&place, "status", &["status", "--html", &page, "--prometheus", &metrics], 3)
        ["written"]
        .clone();
    assert_eq!(written, serde_json::json!([page, metrics]));
}

#[test]
fn test_restores_write_what_their_schema_says() {
    let (place, database) = crate::tenants::ready(2);
    place.backup(&database);
    place.pgkeep(&["backup", "tenant", "1"]).ok();
    let report = assert_writes(&place, "test_restore", &["test-restore", "--jobs", "1"], 0);
    assert_eq!(report["tests"].as_array().map(Vec::len), Some(2));
    place.set("TEST_RESTORE_SQL", "SELECT false");
    let report = assert_writes(&place, "test_restore", &["test-restore"], 4);
    assert!(report["tests"].as_array().unwrap().iter().any(|test| test["passed"] == false));
    // A tenant's backup can be tested while that of the database can't.
    place.set("TEST_RESTORE_SQL", "/nowhere/queries.sql");
    let report = assert_writes(&place, "test_restore", &["test-restore"], 20);
    assert!(report["tests"].as_array().unwrap().iter().any(|test| test["failure"].is_string()));
    let quoted =
        assert_writes(&place, "restore", &["restore", "latest", "--database", &database, "--dry-run"], 0);
    assert!(quoted["plan"]["quote"]["basis"].as_str().unwrap().starts_with("from the test restore of"));
}

#[test]
fn the_commands_for_tenants_with_something_of_their_own_write_what_their_schemas_say() {
    for (place, tenant) in
        [(crate::tenants_modes::in_schemas().0, "1"), (crate::tenants_modes::in_databases().0, "a")]
    {
        assert_writes(&place, "backup_tenant", &["backup", "tenant", tenant], 0);
        assert_writes(&place, "list_tenants", &["list", "--tenants"], 0);
        assert_writes(&place, "restore_tenant", &["restore", "--tenant", tenant, "--dry-run"], 0);
        let done = assert_writes(&place, "restore_tenant", &["restore", "--tenant", tenant, "--yes"], 0);
        assert!(done["tenants"][0]["undo_sql"].is_string(), "{done}");
    }
}

#[test]
fn a_catalog_that_was_rebuilt_and_damage_are_written_as_the_schemas_say() {
    let place = Place::ready();
    place.backup(&cluster().fresh_shop());
    fs::remove_dir_all(place.state()).expect("lose the catalog");
    fs::remove_dir_all(place.store().join("test/catalog")).expect("and its copies: they are not needed");
    let rebuilt = assert_writes(&place, "catalog_rebuild", &["catalog", "rebuild"], 0);
    assert_eq!(rebuilt["added"].as_array().map(Vec::len), Some(1));
    let shown = assert_writes(&place, "show", &["show", "latest"], 0);
    assert_eq!((&shown["run"], &shown["copies"][0]["proven_how"]), (&Value::Null, &"listed".into()));

    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    place.unset("BACKUP_ENCRYPTION_KEY");
    assert_eq!(assert_writes(&place, "show", &["show", "latest"], 0)["tables"], Value::Null);
    assert_eq!(assert_writes(&place, "verify", &["verify", "--deep"], 0)["decrypted"], false);
    place.set("BACKUP_ENCRYPTION_KEY", &key);

    let volume = place.backups()[0].join("data.00000");
    let mut bytes = fs::read(&volume).expect("read a volume");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&volume, bytes).expect("damage a volume");
    let damaged = assert_writes(&place, "verify", &["verify", "--deep"], 4);
    assert_eq!(damaged["findings"][0]["state"], "damaged");
    let shown = assert_writes(&place, "show", &["show", "latest"], 0);
    let states: BTreeSet<&str> =
        shown["copies"].as_array().unwrap().iter().filter_map(|copy| copy["state"].as_str()).collect();
    assert!(states.contains("damaged"), "{shown:#}");
    assert!(assert_writes(&place, "list", &["list"], 0)["backups"][0]["copies_not_good"].as_u64() > Some(0));

    fs::remove_file(&volume).expect("lose a volume");
    assert_eq!(assert_writes(&place, "verify", &["verify"], 4)["findings"][0]["state"], "missing");
    assert_valid("error", &json(&place, &["restore", "latest", "--dry-run", "--database", "none"]).json());
}

#[test]
fn holes_conflicts_and_repairs_are_written_as_the_schema_says() {
    let (archiving, r2, b2) = crate::wal_faults::with_clouds();
    let place = &archiving.place;
    crate::pitr::backup(&archiving);
    let names: Vec<String> = (0..4).map(|_| archiving.archive()).collect();
    place.pgkeep(&["sync"]).ok();
    let old = "UPDATE wal_segments SET stored_at = '2026-01-01T00:00:00.000Z'";
    let catalog = rusqlite::Connection::open(place.state().join("catalog.sqlite")).expect("open the catalog");
    catalog.execute(old, []).expect("age the archive");
    crate::pitr_faults::lose(&archiving, &names[1]);
    let repaired = assert_writes(place, "verify", &["verify", "--repair"], 3);
    assert_eq!(repaired["wal_findings"][0]["repaired"], true);
    catalog.execute(old, []).expect("age the archive");
    crate::pitr_faults::lose(&archiving, &names[1]);
    for cloud in [&r2, &b2] {
        for key in crate::wal_faults::keys(cloud, &names[1]) {
            cloud.bucket().lose(&key);
        }
    }
    let key = crate::wal_faults::keys(&r2, &names[2]).remove(0);
    let other = format!("{}-{}", key.rsplit_once('-').expect("a digest").0, "cd".repeat(32));
    r2.bucket().write(&other, "x");
    let report = assert_writes(place, "verify", &["verify"], 4);
    assert_eq!(report["wal_holes"][0]["first"], names[1]);
    assert_eq!(report["wal_conflicts"][0]["file"], names[2]);
}

#[test]
fn every_error_is_a_document_with_the_code_that_the_process_ends_with() {
    let place = Place::new();
    let assert_error = |arguments: &[&str], code: i32| {
        let error = assert_writes(&place, "error", arguments, code);
        assert_eq!(error["error"]["exit_code"], code);
        assert!(error["error"]["hint"].is_string(), "no hint: {error:#}");
    };
    assert_error(&["list"], 10);
    place.init();
    assert_error(&["show", "latest"], 1);
    assert_error(&["backup", "database", "no such database"], 30);
    place.backup(&cluster().fresh_shop());
    assert_error(&["restore", "latest"], 5);
    assert_error(&["verify", "nothing"], 1);
    place.set("BACKUP_ENCRYPTION_KEY", "none");
    assert_error(&["backup", "database"], 12);
    place.set("BACKUP_JOBS", "many");
    assert_error(&["list"], 20);
}

#[test]
fn alerts_and_jobs_are_as_documented() {
    let place = Place::ready();
    place.pgkeep(&["backup", "database", "nobody_has_this"]).fails_with(30);
    assert_writes(&place, "alerts", &["alerts"], 0);
    assert_writes(&place, "alerts_ack", &["alerts", "ack", "1", "--note", "seen"], 0);
    assert_writes(&place, "alerts", &["alerts", "--all"], 0);
    let http = crate::notify::Http::start();
    http.is_webhook_of(&place);
    assert_writes(&place, "alerts_test", &["alerts", "test"], 0);
    http.answers(500, "no");
    assert_writes(&place, "alerts_test", &["alerts", "test"], 40);
    assert_writes(&place, "watch", &["watch"], 0);
    let later = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339();
    assert_writes(&place, "job", &["verify", "--at", &later], 0);
    assert_writes(&place, "list_jobs", &["list", "--jobs"], 0);
    assert_writes(&place, "job", &["jobs", "cancel", "1"], 0);
    assert_writes(&place, "job", &["verify", "--at", &later], 0);
    place.catalog("UPDATE jobs SET scheduled_for = '2026-01-01T00:00:00.000Z' RETURNING 1");
    assert_writes(&place, "run_due", &["run-due"], 0);
}

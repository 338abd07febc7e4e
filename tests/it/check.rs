//! `pgkeep check`.

use std::fs;

use serde_json::Value;

use crate::support::{Place, Run, cluster, set_mode, tidy};

fn lines(run: &Run) -> Vec<(String, String, String)> {
    let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let report = run.json();
    let lines = report["lines"].as_array().expect("lines");
    lines.iter().map(|line| (text(line, "subject"), text(line, "standing"), text(line, "message"))).collect()
}

fn standing(run: &Run, subject: &str) -> (String, String) {
    let found = lines(run).into_iter().find(|(name, ..)| name == subject);
    let (_, standing, message) = found.unwrap_or_else(|| panic!("no line on {subject}: {}", run.stdout));
    (standing, message)
}

fn check(place: &Place) -> Run {
    place.pgkeep(&["--output", "json", "check"])
}

/// Without what is said about room: that is this machine's affair.
fn without_room(run: &Run) -> Vec<(String, String, String)> {
    lines(run).into_iter().filter(|(.., message)| !message.ends_with(" free")).collect()
}

#[test]
fn everything_is_looked_at_and_well() {
    let place = Place::ready();
    let run = check(&place);
    for (subject, standing, message) in without_room(&run) {
        assert_eq!(standing, "ok", "{subject}: {message}");
    }
    let subjects: Vec<String> = lines(&run).into_iter().map(|(subject, ..)| subject).collect();
    insta::assert_snapshot!(subjects.join(", "), @r"settings, key, state directory, catalog, scratch directory, store local, local store, PostgreSQL, rights, pg_dump, pg_restore, archive");
    // 3 when this machine has little room, and then for no other reason.
    let little = lines(&run).iter().any(|(_, standing, _)| standing == "warning");
    assert_eq!(run.code, if little { 3 } else { 0 }, "{}", run.stdout);
    // Nothing of its probes is left.
    assert!(!place.files(".").iter().any(|file| file.contains("check-")), "{:?}", place.files("."));
}

#[test]
fn its_text_says_how_each_thing_is() {
    let place = Place::ready();
    let run = place.pgkeep(&["check"]);
    let shown = regex::Regex::new(r" {2,}").unwrap().replace_all(&tidy(&run.stdout), "  ").into_owned();
    assert!(shown.contains("ok  rights  user \"postgres\" may read everything"), "{shown}");
    assert!(shown.contains("ok  catalog  [PLACE]/state/catalog.sqlite"), "{shown}");
    assert!(shown.contains("ok  pg_dump  "), "{shown}");
}

#[test]
fn a_warning_gives_code_3_and_a_hint() {
    let place = Place::ready();
    set_mode(&place.state(), 0o755);
    let run = check(&place).fails_with(3);
    let (standing, message) = standing(&run, "state directory");
    assert_eq!(standing, "warning");
    insta::assert_snapshot!(tidy(&message), @"[PLACE]/state is open to other users");
    assert!(run.json()["lines"].to_string().contains("chmod 700"), "{}", run.stdout);
}

#[test]
fn a_user_who_may_not_read_everything_is_warned_of() {
    let place = Place::ready();
    cluster().psql("postgres", "CREATE ROLE check_reader LOGIN");
    place.set("PGUSER", "check_reader");
    let run = check(&place).fails_with(3);
    let (standing, message) = standing(&run, "rights");
    assert_eq!(
        (standing.as_str(), message.as_str()),
        ("warning", "user \"check_reader\" may not read everything")
    );
}

#[test]
fn each_fault_has_its_own_exit_code() {
    type Spoil = fn(&Place);
    let cases: [(&str, i32, Spoil); 6] = [
        ("settings", 20, |place| place.set("BACKUP_JOBS", "many")),
        ("key", 12, |place| place.unset("BACKUP_ENCRYPTION_KEY")),
        ("catalog", 10, |place| fs::remove_file(place.state().join("catalog.sqlite")).unwrap()),
        ("store local", 10, |place| fs::remove_dir_all(place.store()).unwrap()),
        ("PostgreSQL", 30, |place| place.set("PGPORT", "5433")),
        ("pg_dump", 30, |place| place.set("BACKUP_PG_BINDIR", "/usr/share")),
    ];
    for (subject, code, spoil) in cases {
        let place = Place::ready();
        spoil(&place);
        let run = check(&place);
        assert_eq!(run.code, code, "{subject}: {}{}", run.stdout, run.stderr);
        let (standing, message) = standing(&run, subject);
        assert_eq!(standing, "fault", "{subject}: {message}");
        // A fault doesn't keep the others from being looked at, except where nothing can be known.
        if subject != "settings" && subject != "PostgreSQL" {
            assert_eq!(self::standing(&run, "PostgreSQL").0, "ok", "{subject}: {}", run.stdout);
        }
    }
}

#[test]
fn a_store_that_is_not_mounted_is_not_made() {
    let place = Place::ready();
    fs::remove_dir_all(place.store()).unwrap();
    check(&place).fails_with(10);
    assert!(!place.store().exists());
}

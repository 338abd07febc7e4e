//! `pgkeep check`.

use std::fs;

use serde_json::Value;

use crate::support::faults::{SmallDisk, wait_for};
use crate::support::{Archiving, Place, Run, base, cluster, give, set_mode, tidy, unique};
use crate::wal_faults::with_clouds;

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
    insta::assert_snapshot!(subjects.join(", "), @r"settings, key, state directory, catalog, scratch directory, permissions, store local, local store, PostgreSQL, rights, pg_dump, pg_restore, archive_mode");
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

#[test]
fn a_place_that_cannot_be_written_or_is_full_is_said() {
    let place = Place::ready();
    let disk = SmallDisk::mount(&place.path("small"), "8m");
    for (name, value) in [
        ("BACKUP_LOCAL_DIR", "small/store"),
        ("BACKUP_STATE_DIR", "small/state"),
        ("BACKUP_SCRATCH_DIR", "small/scratch"),
    ] {
        place.set(name, &place.path(value).display().to_string());
    }
    disk.run(&place.command(&["init"])).ok();
    let check = || disk.run(&place.command(&["--output", "json", "check"]));
    disk.fill(200 * 1024);
    let run = check();
    assert_eq!(run.code, 3, "{}{}", run.stdout, run.stderr);
    for subject in ["local store", "state directory", "scratch directory"] {
        let little = lines(&run).into_iter().any(|(name, standing, message)| {
            name == subject && standing == "warning" && message.ends_with(" free")
        });
        assert!(little, "{subject}: {}", run.stdout);
    }
    disk.empty();
    disk.make_read_only();
    let run = check();
    assert_eq!(run.code, 40, "{}{}", run.stdout, run.stderr);
    for subject in ["store local", "state directory", "scratch directory"] {
        let fault = lines(&run).into_iter().any(|(name, standing, _)| name == subject && standing == "fault");
        assert!(fault, "{subject}: {}", run.stdout);
    }
}

/// The line about this, without waiting for a segment to arrive.
fn archive_line(archiving: &Archiving, subject: &str) -> (String, String) {
    standing(&check(&archiving.place), subject)
}

#[test]
fn the_servers_archive_settings_and_backlog_are_looked_at() {
    let archiving = Archiving::new(&[]);
    archiving.place.init();
    archiving.place.set("RPO_TARGET", "10m");
    let (standing, message) = archive_line(&archiving, "archive_command");
    assert_eq!(standing, "warning");
    assert!(message.contains("/bin/false"), "{message}");
    let timeout = |value: &str| {
        archiving.cluster.set("archive_timeout", value);
        let hears = || archiving.cluster.psql("postgres", "SHOW archive_timeout");
        wait_for("the server to hear of it", || (hears() != "0" || value == "0").then_some(()));
        archive_line(&archiving, "archive_timeout")
    };
    assert_eq!(archive_line(&archiving, "archive_timeout").0, "warning", "0");
    let (standing, message) = timeout("20min");
    assert_eq!((standing.as_str(), message.contains("more than RPO_TARGET")), ("warning", true), "{message}");
    assert_eq!(timeout("5min").0, "ok");
    assert_eq!(archive_line(&archiving, "archiving server").0, "ok");
    // How much room there is, is this machine's affair.
    let (standing, message) = archive_line(&archiving, "pg_wal");
    assert!(["ok", "warning"].contains(&standing.as_str()), "{standing}");
    let room =
        regex::Regex::new(r"^[0-9.]+ \w+ of [0-9.]+ \w+ free for WAL that waits to be archived$").unwrap();
    assert!(room.is_match(&message), "{message}");
    // What waits is said, and from when on that is too long.
    let backlog = |target: &str| {
        archiving.place.set("RPO_TARGET", target);
        archive_line(&archiving, "archive backlog")
    };
    archiving.switch();
    let ready = archiving.cluster.data().join("pg_wal/archive_status");
    let waits = || {
        fs::read_dir(&ready)
            .unwrap()
            .flatten()
            .any(|file| file.path().extension().is_some_and(|it| it == "ready"))
    };
    wait_for("a file that waits", || waits().then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert_eq!(backlog("1h").0, "ok");
    let (standing, message) = backlog("1s");
    assert_eq!(
        (standing.as_str(), message.contains("waiting, the oldest for")),
        ("warning", true),
        "{message}"
    );
}

#[test]
fn rights_and_tablespaces_for_cluster_backups_are_looked_at() {
    let archiving = Archiving::new(&[]);
    archiving.place.init();
    assert_eq!(archive_line(&archiving, "cluster backups").0, "ok");
    let outside = base().join(format!("closed{}", unique()));
    fs::create_dir(&outside).unwrap();
    set_mode(&outside, 0o700);
    give(&outside);
    archiving.cluster.psql("postgres", &format!("CREATE TABLESPACE closed LOCATION '{}'", outside.display()));
    set_mode(&outside, 0);
    let (standing, message) = archive_line(&archiving, "tablespaces");
    set_mode(&outside, 0o700);
    assert_eq!((standing.as_str(), message.contains("Permission denied")), ("warning", true), "{message}");
    archiving.cluster.psql(
        "postgres",
        "CREATE ROLE narrow LOGIN; GRANT pg_read_all_settings TO narrow;
         GRANT EXECUTE ON FUNCTION pg_control_system() TO narrow",
    );
    archiving.place.set("PGUSER", "narrow");
    let (standing, message) = archive_line(&archiving, "cluster backups");
    assert_eq!(
        (standing.as_str(), message.contains("may not begin and end")),
        ("warning", true),
        "{message}"
    );
}

#[test]
fn a_segment_is_seen_to_arrive_in_every_store_or_not() {
    let (archiving, _r2, mut b2) = with_clouds();
    archiving.cluster.set("archive_timeout", "5min");
    let arrived = |run: &Run, store: &str| {
        let words = format!("arrived in {store} after");
        lines(run).into_iter().any(|(name, standing, message)| {
            name == "archiving" && standing == "ok" && message.contains(&words)
        })
    };
    let run = check(&archiving.place);
    for store in ["local", "r2", "b2"] {
        assert!(arrived(&run, store), "{store}: {}", run.stdout);
    }
    b2.proxy.go_away();
    let run = check(&archiving.place);
    assert!(arrived(&run, "local") && arrived(&run, "r2") && !arrived(&run, "b2"), "{}", run.stdout);
    let missing = lines(&run).into_iter().any(|(name, standing, message)| {
        name == "archiving" && standing == "warning" && message.contains("is not in store b2 after")
    });
    assert!(missing, "{}", run.stdout);
}

//! `pgkeep init`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::faults::wait_for;
use crate::support::{Archiving, Cluster, Place, tidy};

#[test]
fn it_makes_catalog_and_identity_and_may_be_run_again() {
    let place = Place::new();
    let first = place.pgkeep(&["init"]).ok();
    insta::assert_snapshot!(tidy(&first.stdout), @r#"
    cluster test (system identifier [NUMBER])
    catalog [PLACE]/state/catalog.sqlite
    identity [PLACE]/store/test/identity: written
    archive_mode: off (wal_level is replica): what is written after a backup can't be brought back; the README's "Point-in-time recovery" says how to archive WAL
    "#);
    let identity = place.store().join("test/identity");
    let written = fs::read(&identity).unwrap();

    let again = place.pgkeep(&["init"]).ok();
    insta::assert_snapshot!(tidy(&again.stdout), @r#"
    cluster test (system identifier [NUMBER])
    catalog [PLACE]/state/catalog.sqlite
    identity [PLACE]/store/test/identity: was there already
    archive_mode: off (wal_level is replica): what is written after a backup can't be brought back; the README's "Point-in-time recovery" says how to archive WAL
    "#);
    assert_eq!(fs::read(&identity).unwrap(), written);
    let runs = place.catalog("SELECT command, outcome, exit_code FROM runs ORDER BY started_at");
    assert_eq!(runs, [["init", "done", "0"], ["init", "done", "0"]]);
}

#[test]
fn what_it_makes_is_for_its_user_alone() {
    let place = Place::ready();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for directory in ["state", "state/locks", "store", "store/test"] {
        assert_eq!(mode(&place.path(directory)), 0o700, "{directory}");
    }
    for file in ["state/catalog.sqlite", "store/test/identity"] {
        assert_eq!(mode(&place.path(file)), 0o600, "{file}");
    }
}

#[test]
fn a_second_server_under_the_same_name_is_refused() {
    let place = Place::ready();
    let identity = fs::read(place.store().join("test/identity")).unwrap();
    let other = Cluster::own(&[]);
    place.set("PGHOST", &other.socket_dir.display().to_string());

    let refused = place.pgkeep(&["init"]).fails_with(5);
    insta::assert_snapshot!(refused.message(), @r"
    pgkeep: the stores hold the backups of another server under the name test (system identifier [NUMBER], this one is [NUMBER])
    hint: Give this server a BACKUP_CLUSTER and a BACKUP_STATE_DIR of its own, and run `pgkeep init`.
    ");
    // Nor does a backup of it get among those of the first.
    let refused = place.pgkeep(&["backup", "database", "postgres"]).fails_with(5);
    insta::assert_snapshot!(refused.message(), @r"
    pgkeep: the stores hold the backups of another server under the name test (system identifier [NUMBER], this one is [NUMBER])
    hint: Give this server a BACKUP_CLUSTER and a BACKUP_STATE_DIR of its own, and run `pgkeep init`.
    ");

    assert_eq!(fs::read(place.store().join("test/identity")).unwrap(), identity);
    assert!(place.backups().is_empty());
}

#[test]
fn its_report_as_json() {
    let place = Place::new();
    let report = place.pgkeep(&["--output", "json", "init"]).ok().json();
    assert_eq!(report["cluster"], "test");
    assert!(report["system_identifier"].is_string(), "{report}");
    assert_eq!(report["catalog"], place.state().join("catalog.sqlite").display().to_string());
    assert_eq!(report["stores"][0]["written"], true);
}

#[test]
fn nothing_is_made_when_the_server_cannot_be_reached() {
    let place = Place::new();
    place.set("PGHOST", &place.path("nowhere").display().to_string());
    place.pgkeep(&["init"]).fails_with(30);
    assert_eq!(place.files("."), ["pgkeep.env"]);
}

#[test]
fn the_servers_archive_settings_are_said_with_what_is_wrong_with_them() {
    let archiving = Archiving::new(&[("archive_timeout", "0")]);
    archiving.place.set("RPO_TARGET", "10m");
    let hints = || {
        let report = archiving.place.pgkeep(&["--output", "json", "init"]).ok().json();
        let settings = report["archive"].as_array().unwrap().clone();
        let wrong = settings.iter().filter(|setting| setting["hint"].is_string());
        wrong.map(|setting| setting["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(hints(), ["archive_command", "archive_timeout"]);
    let told = archiving.place.pgkeep(&["init"]).ok().stdout;
    assert_eq!(told.matches("hint: ").count(), 2, "{told}");
    archiving.archive_through("");
    archiving.cluster.set("archive_timeout", "5min");
    let heard = || archiving.cluster.psql("postgres", "SHOW archive_timeout") == "5min";
    wait_for("the server to hear of it", || heard().then_some(()));
    assert_eq!(hints(), [""; 0]);
    let told = archiving.place.pgkeep(&["init"]).ok().stdout;
    assert!(!told.contains("hint: "), "{told}");
}

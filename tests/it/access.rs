//! Who may do what, what is written down of it, and who can read what pgkeep has written.

use std::fs;

use crate::support::{Place, cluster, is_root, set_mode};

/// The user as whom pgkeep runs in the tests.
fn user() -> String {
    if is_root() { "postgres".to_owned() } else { std::env::var("USER").expect("USER") }
}

#[test]
fn others_than_those_named_may_back_up_and_not_restore_and_that_is_written_down() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let backup = place.backup(&shop);
    place.set("PGKEEP_ADMINS", "alice, %no-such-group");
    let refused = place.pgkeep(&["restore", &backup, "--yes"]).fails_with(5);
    assert!(refused.stderr.contains("may not run `pgkeep restore`"), "{}", refused.stderr);
    place.pgkeep(&["key", "rotate"]).fails_with(5);
    place.backup(&shop);
    place.pgkeep(&["verify"]).ok();
    place.pgkeep(&["list"]).ok();
    let runs = place.catalog(
        "SELECT command, outcome, exit_code, user, message LIKE '%PGKEEP_ADMINS%' FROM runs WHERE exit_code = 5 ORDER BY started_at",
    );
    let user = user();
    assert_eq!(runs, [["restore", "failed", "5", &user, "1"], ["key rotate", "failed", "5", &user, "1"]]);
    let log = place.catalog("SELECT backup_id, state, initiated_by FROM restore_log");
    assert_eq!(log, [[backup.as_str(), "refused", &user]]);
    assert!(place.files("state").iter().all(|file| !file.contains("run-")), "no lock is left");

    // Nobody gets in by naming oneself.
    let beside = format!("{shop}_x");
    let arguments = ["restore", &backup, "--yes", "--to-database", &beside];
    place.pgkeep_with(&[("PGKEEP_ADMINS", user.as_str())], &arguments).fails_with(5);
    place.pgkeep_with(&[("SUDO_USER", "alice")], &arguments).fails_with(5);
}

#[test]
fn those_named_may_by_name_and_by_group_but_not_for_somebody_else() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    place.backup(&shop);
    let restore = |number: u32, environment: &[(&str, &str)]| {
        let name = format!("{shop}_{number}");
        place.pgkeep_with(environment, &["restore", "latest", "--to-database", &name])
    };
    place.set("PGKEEP_ADMINS", &format!("alice,{}", user()));
    restore(1, &[]).ok();
    // Through sudo both must be: the person, and whom the person has become.
    restore(2, &[("SUDO_USER", "alice")]).ok();
    restore(3, &[("SUDO_USER", "mallory")]).fails_with(5);
    let group = format!("%{}", user());
    place.set("PGKEEP_ADMINS", &group);
    restore(4, &[]).ok();
    place.unset("PGKEEP_ADMINS");
    restore(5, &[("SUDO_USER", "mallory")]).ok();
    let people = place.catalog("SELECT DISTINCT sudo_user FROM runs WHERE command = 'restore' ORDER BY 1");
    assert_eq!(people, [[""], ["alice"], ["mallory"]]);
}

#[test]
fn a_run_is_written_down_with_who_from_where_and_its_words_and_without_a_secret() {
    let place = Place::ready();
    place.set("PGPASSWORD", "very secret");
    place.pgkeep_with(&[("SUDO_USER", "alice")], &["--quiet", "verify", "--deep"]).ok();
    let row = place.catalog(
        "SELECT user, sudo_user, host <> '', terminal, arguments FROM runs WHERE command = 'verify'",
    );
    assert_eq!(row, [[user().as_str(), "alice", "1", "none", "--quiet verify --deep"]]);
    let all = place.catalog("SELECT group_concat(arguments || coalesce(message, '')) FROM runs");
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    assert!(!all[0][0].contains("very secret") && !all[0][0].contains(&key), "{all:?}");
}

#[test]
fn check_names_what_others_can_read() {
    let place = Place::ready();
    place.backup(&cluster().fresh_shop());
    let line = || {
        let report = place.pgkeep(&["--output", "json", "check"]).json();
        let lines = report["lines"].as_array().unwrap().clone();
        lines.into_iter().find(|line| line["subject"] == "permissions").expect("a line")
    };
    assert_eq!(line()["standing"], "ok", "{}", line());
    let manifest = place.backups()[0].join("manifest");
    set_mode(&manifest, 0o644);
    set_mode(&place.state().join("locks"), 0o755);
    let found = line();
    assert_eq!(found["standing"], "warning", "{found}");
    let message = found["message"].as_str().unwrap();
    assert!(message.contains(manifest.to_str().unwrap()) && message.contains("/locks"), "{message}");
    assert_eq!(fs::metadata(place.state().join("catalog.sqlite")).map(|_| ()).ok(), Some(()));
}

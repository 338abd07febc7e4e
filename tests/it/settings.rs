//! Settings that are wrong or missing, and secrets, which are nowhere to be seen.

use std::fs;

use crate::support::faults::{Gate, assert_no_trace, contents, descendants, fresh_large, leftovers, through};
use crate::support::{Place, Running, cluster, ordinary, pgkeep_binary, run, set_mode, unique};

/// A Fernet key that no test's place has.
const OTHER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[test]
fn a_backup_without_a_key_is_refused() {
    let place = Place::ready();
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    place.unset("BACKUP_ENCRYPTION_KEY");
    let run = place.pgkeep(&["backup", "database", "postgres"]).fails_with(12);
    insta::assert_snapshot!(run.message());
    assert_no_trace(&place, "failed", 12);
    // What needs no key goes on without.
    place.pgkeep(&["verify", "--deep"]).ok();
    place.set("BACKUP_ENCRYPTION_KEY", &key);
    place.backup("postgres");
}

#[test]
fn a_malformed_key_is_refused_and_not_shown() {
    let place = Place::ready();
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    for (name, malformed) in [
        ("too_short", &key[..43]),
        ("no_base64", "!not-a-key-but-of-the-right-length-44-chars!"),
        ("second_of_two", &format!("{key},hunter2")),
    ] {
        place.set("BACKUP_ENCRYPTION_KEY", malformed);
        let run = place.pgkeep(&["backup", "database", "postgres"]).fails_with(12);
        insta::assert_snapshot!(name, run.message());
        for secret in [malformed, &key, "hunter2"] {
            assert!(!run.stderr.contains(secret) && !run.stdout.contains(secret), "{secret} is shown");
        }
    }
}

#[test]
fn a_wrong_key_is_told_by_its_fingerprint() {
    let cluster = cluster();
    let database = fresh_large(cluster);
    let place = Place::ready();
    place.backup(&database);
    let before = contents(cluster, &database);
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    place.set("BACKUP_ENCRYPTION_KEY", OTHER_KEY);
    let prints = regex::Regex::new(r"\b[0-9a-f]{16}\b").unwrap();
    for (name, command) in
        [("on_restore", &["restore", "latest", "--yes"][..]), ("on_verify", &["verify", "--deep"][..])]
    {
        let run = place.pgkeep(command).fails_with(12);
        let found: Vec<&str> = prints.find_iter(&run.stderr).map(|found| found.as_str()).collect();
        assert!(found.len() == 2 && found[0] != found[1], "{}", run.stderr);
        for secret in [OTHER_KEY, &key] {
            assert!(!run.stderr.contains(secret) && !run.stdout.contains(secret), "a key is shown");
        }
        insta::assert_snapshot!(name, prints.replace_all(&run.message(), "[FINGERPRINT]"));
    }
    assert_eq!(contents(cluster, &database), before);
    assert_eq!(cluster.databases_like(&database), [&*database]);
    // The bytes are whole all the same, and no copy is called damaged.
    assert!(place.catalog("SELECT * FROM copies WHERE state <> 'good'").is_empty());
    place.set("BACKUP_ENCRYPTION_KEY", &format!("{OTHER_KEY},{key}"));
    place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn an_env_file_that_others_can_read_is_refused() {
    let place = Place::new();
    for mode in [0o604, 0o640, 0o606] {
        set_mode(&place.env_file(), mode);
        let run = place.pgkeep(&["init"]).fails_with(20);
        insta::assert_snapshot!("env_file_open", run.message());
    }
    assert!(
        !place.state().exists() && !place.store().exists(),
        "nothing is made by a run with wrong settings"
    );
    set_mode(&place.env_file(), 0o600);
    place.init();
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let place = Place::new();
    let file = place.put("key", place.setting("BACKUP_ENCRYPTION_KEY").as_bytes());
    place.unset("BACKUP_ENCRYPTION_KEY");
    place.set("BACKUP_ENCRYPTION_KEY_FILE", &file.display().to_string());
    set_mode(&file, 0o644);
    insta::assert_snapshot!(place.pgkeep(&["init"]).fails_with(12).message());
    set_mode(&file, 0o600);
    place.init();
    place.backup("postgres");
}

#[test]
fn all_faults_of_the_settings_are_in_one_report() {
    let place = Place::new();
    place.set("BACKUP_JOBS", "many");
    place.set("BACKUP_COMPRESSION", "rar:9");
    place.set("BACKUP_VOLUME_SIZE", "1");
    place.set("BACKUP_MIN_COPIES", "3");
    place.set("BACKUP_STATE_DIR", "relative/path");
    place.set("PGPORT", "0");
    place.set("PGSSLMODE", "maybe");
    place.set("BACKUP_ENCRYPTION_KEY", "hunter2");
    let run = place.pgkeep(&["init"]).fails_with(20);
    for name in ["JOBS", "COMPRESSION", "VOLUME_SIZE", "MIN_COPIES", "STATE_DIR", "ENCRYPTION_KEY"] {
        assert!(run.stderr.contains(&format!("BACKUP_{name}")), "{name} is not named: {}", run.stderr);
    }
    assert!(run.stderr.contains("PGPORT") && run.stderr.contains("PGSSLMODE"), "{}", run.stderr);
    assert!(!run.stderr.contains("hunter2"));
    insta::assert_snapshot!(run.message());
    let check = place.pgkeep(&["check"]).ended_with(20);
    assert!(check.stdout.contains("BACKUP_JOBS") && check.stdout.contains("PGSSLMODE"), "{}", check.stdout);
}

#[test]
fn an_unknown_setting_is_refused_with_the_one_that_may_be_meant() {
    let place = Place::new();
    place.set("BACKUP_LOCL_DIR", "/backups");
    insta::assert_snapshot!(place.pgkeep(&["init"]).fails_with(20).message());
    // From the environment as well.
    let place = Place::new();
    let run = place.pgkeep_with(&[("BACKUP_JOBSS", "4")], &["init"]).fails_with(20);
    assert!(run.stderr.contains("BACKUP_JOBSS (environment)"), "{}", run.stderr);
    assert!(run.stderr.contains("Did you mean BACKUP_JOBS?"), "{}", run.stderr);
}

#[test]
fn a_cloud_of_which_a_part_is_missing_is_named() {
    let place = Place::new();
    place.set("R2_BUCKET", "backups");
    place.set("B2_APPLICATION_KEY", "hunter2");
    let run = place.pgkeep(&["init"]).fails_with(20);
    assert!(!run.stderr.contains("hunter2"));
    insta::assert_snapshot!(run.message());
}

#[test]
fn without_any_store_nothing_is_begun() {
    let place = Place::ready();
    place.unset("BACKUP_LOCAL_DIR");
    insta::assert_snapshot!(place.pgkeep(&["backup", "database", "postgres"]).fails_with(20).message());
}

#[test]
fn an_env_file_that_does_not_exist_is_missed() {
    let place = Place::new();
    let run = place.pgkeep(&["--env-file", "/nowhere/pgkeep.env", "list"]).fails_with(20);
    insta::assert_snapshot!(run.message());
}

#[test]
fn keys_and_passwords_are_nowhere_to_be_seen() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let role = format!("secret_{}", unique());
    let password = "pa55word-of-the-test";
    cluster.psql(
        "postgres",
        &format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{password}' IN ROLE with_password"),
    );
    let place = Place::new();
    place.set("PGUSER", &role);
    place.set("PGPASSWORD", password);
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    let hides = |text: &[u8], what: &str, secrets: &[&str]| {
        for secret in secrets {
            let found = text.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{what} holds {}", if *secret == password { "the password" } else { "the key" });
        }
    };
    let both = [key.as_str(), password];

    // Whatever is written to the terminal or to cron's mail.
    for command in [
        &["init"][..],
        &["check"],
        &["backup", "database", &database],
        &["list", "--output", "json"],
        &["show", "latest"],
        &["verify", "--deep"],
        &["restore", "latest", "--yes", "--drop-old"],
        &["restore", "latest", "--yes", "--to-database", "postgres"],
        &["backup", "database", "no such database"],
        &["catalog", "rebuild"],
    ] {
        let run = place.pgkeep(command);
        hides(run.stdout.as_bytes(), &format!("stdout of {command:?}"), &both);
        hides(run.stderr.as_bytes(), &format!("stderr of {command:?}"), &both);
    }
    // Whatever lies on the disk.
    for directory in ["state", "store"] {
        for name in place.files(directory) {
            let path = place.path(directory).join(&name);
            if path.is_file() {
                hides(&fs::read(&path).unwrap(), &name, &both);
            }
        }
    }
    // Whatever other users see of processes, and what the children are given.
    let gate = Gate::shut(cluster, &database);
    let mut running = place.start(&[], &["backup", "database", &database]);
    gate.reached_by(&mut running);
    let children = descendants(running.pid());
    assert!(!children.is_empty());
    for child in &children {
        hides(child.command.as_bytes(), &format!("the command line of {}", child.command), &both);
        let environment =
            fs::read(format!("/proc/{}/environ", child.pid)).expect("read a child's environment");
        hides(&environment, &format!("the environment of {}", child.command), &[&key]);
        let text = String::from_utf8_lossy(&environment).replace('\0', "\n");
        assert!(!text.contains("BACKUP_"), "settings of pgkeep are none of a child's affair:\n{text}");
    }
    gate.open();
    running.wait().ok();
    let arguments = place.catalog("SELECT command, arguments, message FROM runs");
    hides(format!("{arguments:?}").as_bytes(), "the audit", &both);
    assert_eq!(leftovers(&place), [""; 0]);
}

#[test]
fn a_core_file_that_would_hold_the_key_is_not_left() {
    let place = Place::ready();
    let database = cluster().fresh_shop();
    let gate = Gate::shut(cluster(), &database);
    // From a shell that wants them.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -S -c $(ulimit -H -c) && exec \"$@\"", "sh"]);
    let mut running =
        Running::start(&mut through(&mut shell, &place.command(&["backup", "database", &database])));
    let dump = gate.reached_by(&mut running);
    for pid in [running.pid(), u32::try_from(dump.pid).unwrap()] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
    gate.open();
    running.wait().ok();
}

#[test]
fn a_new_key_is_one_that_works() {
    let place = Place::new();
    let key = run(ordinary(pgkeep_binary()).args(["key", "new"])).ok().stdout;
    place.set("BACKUP_ENCRYPTION_KEY", key.trim());
    place.init();
    place.backup("postgres");
    place.pgkeep(&["verify", "--deep"]).ok();
}

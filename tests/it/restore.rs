//! `pgkeep restore`, mode full.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use crate::support::{Place, Run, Running, cluster, ordinary, pgkeep_binary, run, tidy};

/// A place with a backup of a shop that was changed afterwards; the shop's name and its dump when it was backed up.
fn changed_shop() -> (Place, String, String) {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let before = cluster().dump_with_create(&shop);
    place.backup(&shop);
    cluster().psql(&shop, "DELETE FROM orders; ALTER TABLE items ADD COLUMN later int");
    (place, shop, before)
}

fn json(place: &Place, arguments: &[&str]) -> serde_json::Value {
    place.pgkeep(&[&["--output", "json", "restore"], arguments].concat()).ok().json()
}

#[test]
fn in_place_the_old_database_is_kept_under_a_name_that_is_printed() {
    let (place, shop, before) = changed_shop();
    let changed = cluster().dump(&shop);
    let run = place.pgkeep(&["restore", "latest", "--yes"]).ok();
    assert_eq!(cluster().dump_with_create(&shop), before);

    let databases = cluster().databases_like(&shop);
    let [found, kept] = databases.as_slice() else { panic!("{databases:?}") };
    assert_eq!(found, &shop);
    assert_eq!(cluster().dump(kept), changed);
    assert!(run.stdout.contains(&format!("the replaced database is kept as {kept}\n")), "{}", run.stdout);
    let log = place.catalog(
        "SELECT restore_mode, state, source_database, target_database, previous_database, staging_database, rows,
                initiated_by <> '', message FROM restore_log",
    );
    assert_eq!(log, [["full", "done", &shop, &shop, kept, "", "1550", "1", ""]]);
}

#[test]
fn its_report_says_what_was_done() {
    let (place, ..) = changed_shop();
    let run = place.pgkeep(&["restore", "latest", "--yes"]).ok();
    insta::assert_snapshot!(tidy(&run.stdout), @r#"
    database [DATABASE] restored from [BACKUP]
    as it was at [TIME]
    checked: 1,550 rows in 3 tables, every index and constraint valid
    [DURATION] (unpack [DURATION], load [DURATION], check [DURATION])
    the replaced database is kept as [DATABASE]_old_[TIME]
      drop it when you no longer need it: DROP DATABASE "[DATABASE]_old_[TIME]"
    next: vacuumdb --analyze-in-stages [DATABASE]
    "#);
    insta::assert_snapshot!(tidy(&run.stderr), @r"
    pgkeep: restore latest: begun
    pgkeep: restore: ended after [DURATION]
    ");
}

#[test]
fn a_database_that_is_gone_comes_back() {
    let (place, shop, before) = changed_shop();
    cluster().psql("postgres", &format!("DROP DATABASE {shop}"));
    let report = json(&place, &["latest", "--yes"]);
    assert_eq!(report["kept_as"], serde_json::Value::Null);
    assert_eq!(report["plan"]["replaces"], false);
    assert_eq!(cluster().dump_with_create(&shop), before);
    assert_eq!(cluster().databases_like(&shop), [shop]);
}

#[test]
fn with_drop_old_only_the_restored_one_is_left() {
    let (place, shop, before) = changed_shop();
    let report = json(&place, &["latest", "--yes", "--drop-old"]);
    assert_eq!(report["kept_as"], serde_json::Value::Null);
    assert_eq!(cluster().databases_like(&shop), std::slice::from_ref(&shop));
    assert_eq!(cluster().dump_with_create(&shop), before);
}

#[test]
fn beside_under_another_name_nothing_is_replaced_and_nobody_is_asked() {
    let (place, shop, before) = changed_shop();
    let changed = cluster().dump(&shop);
    let copy = format!("{shop}_copy");
    json(&place, &["latest", "--to-database", &copy]);
    assert_eq!(cluster().dump(&shop), changed);
    assert_eq!(cluster().dump_with_create(&copy).replace(&copy, &shop), before);
    assert_eq!(cluster().databases_like(&shop), [shop.clone(), copy]);
}

#[test]
fn a_database_that_exists_is_not_restored_into() {
    let (place, shop, _) = changed_shop();
    let other = cluster().fresh_shop();
    let before = cluster().dump(&other);
    let run = place.pgkeep(&["restore", "latest", "--to-database", &other, "--yes"]).fails_with(5);
    insta::assert_snapshot!(run.message(), @r#"
    pgkeep: a database "[DATABASE]" exists already
    hint: Name one that does not exist, or leave out --to-database to replace the original.
    "#);
    assert_eq!(cluster().dump(&other), before);
    assert_eq!(cluster().databases_like(&shop), [shop]);
    assert_eq!(place.catalog("SELECT state FROM restore_log"), [["refused"]]);
}

/// A psql that stays connected to a database.
fn connected(database: &str, application: &str) -> Running {
    let mut psql = cluster().client("psql");
    psql.env("PGDATABASE", database).env("PGAPPNAME", application).args(["-XAtqc", "SELECT pg_sleep(300)"]);
    let psql = Running::start(&mut psql);
    let begun = Instant::now();
    let asked = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{application}' AND state = 'active'"
    );
    while cluster().psql("postgres", &asked) != "1" {
        assert!(begun.elapsed() < Duration::from_secs(30), "psql did not connect");
        std::thread::sleep(Duration::from_millis(20));
    }
    psql
}

#[test]
fn connections_in_the_way_are_named_and_ended_only_with_terminate() {
    let (place, shop, before) = changed_shop();
    let changed = cluster().dump(&shop);
    let mut psql = connected(&shop, "till 7");
    let pid =
        cluster().psql("postgres", "SELECT pid FROM pg_stat_activity WHERE application_name = 'till 7'");

    let run = place.pgkeep(&["restore", "latest", "--yes"]).fails_with(5);
    assert!(run.stderr.contains(&format!("pid {pid} of \"postgres\" (till 7)")), "{}", run.stderr);
    insta::assert_snapshot!(run.message(), @r#"
    pgkeep: database "[DATABASE]" is in use by pid [PID] of "postgres" (till 7) from the server's own machine
    hint: Stop what uses it, or let the restore end these connections with --terminate.
    "#);
    assert!(psql.is_running(), "the connection was ended without leave");
    assert_eq!(cluster().dump(&shop), changed);
    assert_eq!(cluster().databases_like(&shop), std::slice::from_ref(&shop));

    place.pgkeep(&["restore", "latest", "--yes", "--terminate"]).ok();
    assert_eq!(cluster().dump_with_create(&shop), before);
    let ended = psql.wait();
    assert!(ended.code != 0 && ended.stderr.contains("terminat"), "{ended:?}");
}

#[test]
fn a_dry_run_shows_the_plan_and_changes_nothing() {
    let (place, shop, _) = changed_shop();
    let changed = cluster().dump(&shop);
    let run = place.pgkeep(&["restore", "latest", "--dry-run"]).ok();
    let sizes = regex::Regex::new(r"\d+(\.\d)? (B|KiB)\b").unwrap();
    insta::assert_snapshot!(sizes.replace_all(&tidy(&run.stdout), "[SIZE]"), @r"
    restore [BACKUP] (database [DATABASE], as it was at [TIME])
      fetch [SIZE], unpack [SIZE] into [PLACE]/state/scratch
      fill and check a new database [DATABASE]_restore_[RUN] (1,550 rows in 3 tables)
      rename database [DATABASE] to [DATABASE]_old_[TIME]
      rename the new one to [DATABASE]
      keep [DATABASE]_old_[TIME] until you drop it
      fetch: [SIZE] from local in 3 requests
      room needed while it runs: [SIZE]
      stops at [TIME], the instant of the backup
      expected time: no test restore yet: unknown
    nothing was done (--dry-run)
    ");
    let plan = &json(&place, &["latest", "--dry-run"])["plan"];
    assert_eq!((&plan["rows"], &plan["tables"]), (&1550.into(), &3.into()));
    assert_eq!(plan["replaces"], true);
    assert_eq!(cluster().dump(&shop), changed);
    assert_eq!(cluster().databases_like(&shop), [shop]);
    assert_eq!(place.catalog("SELECT * FROM restore_log"), Vec::<Vec<String>>::new());
}

#[test]
fn a_dry_run_names_the_connections_in_the_way() {
    let (place, shop, _) = changed_shop();
    let _psql = connected(&shop, "dry till");
    let run = place.pgkeep(&["restore", "latest", "--dry-run"]).ok();
    assert!(run.stdout.contains("of \"postgres\" (dry till)"), "{}", run.stdout);
}

#[test]
fn without_a_yes_and_without_a_terminal_it_refuses() {
    let (place, shop, _) = changed_shop();
    let changed = cluster().dump(&shop);
    let run = place.pgkeep(&["restore", "latest"]).fails_with(5);
    insta::assert_snapshot!(run.message(), @r#"
    pgkeep: restoring over database "[DATABASE]" was not confirmed
    hint: There is no terminal to ask at: give --yes if this is what you want.
    "#);
    assert_eq!(cluster().dump(&shop), changed);
    assert_eq!(place.catalog("SELECT state FROM restore_log"), [["refused"]]);
}

/// Runs a restore at a terminal and types a line.
fn at_a_terminal(place: &Place, typed: &str) -> Run {
    let line = place.put("typed", format!("{typed}\n").as_bytes());
    let mut script = ordinary("script");
    script
        .args(["--quiet", "--return", "--command"])
        .arg(format!("{} restore latest", pgkeep_binary().display()))
        .arg("/dev/null")
        .env("HOME", &place.directory)
        .env("PGKEEP_ENV_FILE", place.env_file())
        .env("TERM", "xterm")
        .current_dir(&place.directory)
        .stdin(File::open(line).unwrap());
    run(&mut script)
}

#[test]
fn at_a_terminal_the_name_typed_lets_it_go_on() {
    let (place, shop, before) = changed_shop();
    let run = at_a_terminal(&place, &shop).ok();
    assert!(run.stdout.contains("Type the name of the database to go on: "), "{}", run.stdout);
    assert!(run.stdout.contains(&format!("rename database {shop} to {shop}_old_")), "{}", run.stdout);
    // A bar for each stage, with what is done, how fast, and how long it will take; one that is over at once may not be seen.
    let bar = r"(unpack|load) +\[[=> ]*\] [0-9.]+ \w+/[0-9.]+ \w+ [0-9.]+ \w+/s \d+s";
    assert!(regex::Regex::new(bar).unwrap().is_match(&run.stdout), "{:?}", run.stdout);
    assert_eq!(cluster().dump_with_create(&shop), before);
}

#[test]
fn at_a_terminal_another_name_typed_refuses() {
    let (place, shop, _) = changed_shop();
    let changed = cluster().dump(&shop);
    for typed in ["yes", "", "postgres", &format!("{shop} ")] {
        let run = at_a_terminal(&place, typed).fails_with(5);
        assert!(run.stdout.contains("Nothing was done."), "{}", run.stdout);
    }
    assert_eq!(cluster().dump(&shop), changed);
    assert_eq!(cluster().databases_like(&shop), [shop]);
}

#[test]
fn at_a_terminal_a_lost_catalog_is_offered_to_be_made_again() {
    let (place, shop, before) = changed_shop();
    fs::remove_dir_all(place.state()).unwrap();
    let run = at_a_terminal(&place, "n").fails_with(10);
    assert!(run.stdout.contains("Make it out of the stores now?"), "{}", run.stdout);
    assert!(!place.state().join("catalog.sqlite").exists());
    // The next line confirms the restore itself.
    at_a_terminal(&place, &format!("y\n{shop}")).ok();
    assert_eq!(cluster().dump_with_create(&shop), before);
}

#[test]
fn latest_is_the_newest_of_the_database_that_is_named() {
    let place = Place::ready();
    let (one, other) = (cluster().fresh_shop(), cluster().fresh_database());
    let backup = place.backup(&one);
    place.backup(&other);
    let plan = |arguments: &[&str]| json(&place, arguments)["plan"].clone();
    place.pgkeep(&["restore", "latest", "--dry-run"]).fails_with(2);
    let found = plan(&["latest", "--database", &one, "--dry-run"]);
    assert_eq!(
        (&found["source_database"], &found["backup"]),
        (&one.as_str().into(), &backup.as_str().into())
    );
    // The beginning of an identifier will do.
    assert_eq!(plan(&[&backup[..backup.len() - 3], "--dry-run"])["backup"], backup);
}

#[test]
fn a_backup_that_is_not_there_is_not_restored() {
    let place = Place::ready();
    let run = place.pgkeep(&["restore", "latest", "--yes"]).fails_with(1);
    insta::assert_snapshot!(run.message(), @r"
    pgkeep: there is no backup of a database
    hint: `pgkeep list` shows what there is; if the catalog is new, run `pgkeep catalog rebuild`.
    ");
    let run = place.pgkeep(&["restore", "20200101T000000Z", "--yes"]).fails_with(1);
    insta::assert_snapshot!(run.message(), @r#"
    pgkeep: there is no backup "[TIME]"
    hint: `pgkeep list` shows what there is; if the catalog is new, run `pgkeep catalog rebuild`.
    "#);
}

#[test]
fn a_role_that_is_gone_is_named_before_anything_is_done() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    cluster().psql("postgres", &format!("CREATE ROLE gone_owner; ALTER DATABASE {shop} OWNER TO gone_owner"));
    place.backup(&shop);
    cluster().psql("postgres", &format!("ALTER DATABASE {shop} OWNER TO postgres; DROP ROLE gone_owner"));
    let run = place.pgkeep(&["restore", "latest", "--yes"]).fails_with(30);
    insta::assert_snapshot!(run.message(), @r"
    pgkeep: the server has no role gone_owner
    hint: Create them, or restore with `--no-owner --no-privileges`.
    ");
    assert_eq!(cluster().databases_like(&shop), std::slice::from_ref(&shop));
    place.pgkeep(&["restore", "latest", "--yes", "--no-owner", "--no-privileges"]).ok();
}

#[test]
fn restores_within_one_second_keep_every_old_database() {
    let (place, shop, _) = changed_shop();
    for _ in 0..4 {
        place.pgkeep(&["restore", "latest", "--yes"]).ok();
    }
    assert_eq!(cluster().databases_like(&shop).len(), 5);
    let kept = place.catalog("SELECT DISTINCT previous_database FROM restore_log");
    assert_eq!(kept.len(), 4, "{kept:?}");
}

#[test]
fn latest_is_refused_when_it_could_be_of_several_databases() {
    let place = Place::ready();
    let (one, other) = (cluster().fresh_shop(), cluster().fresh_shop());
    let first = place.backup(&one);
    place.backup(&other);
    let run = place.pgkeep(&["restore", "latest", "--yes"]).fails_with(2);
    assert!(
        run.stderr.contains("several databases") && run.stderr.contains("--database NAME"),
        "{}",
        run.stderr
    );
    let run = place.pgkeep(&["restore", &first, "--database", &other, "--yes"]).fails_with(2);
    assert!(run.stderr.contains("is a backup of"), "{}", run.stderr);
    place.pgkeep(&["restore", "latest", "--database", &one, "--yes"]).ok();
}

#[test]
fn a_name_that_the_server_would_cut_off_is_refused() {
    let (place, shop, _) = changed_shop();
    for name in ["", &"ü".repeat(32)] {
        let run = place.pgkeep(&["restore", "latest", "--to-database", name]).fails_with(2);
        assert!(run.stderr.contains("is no name for a database"), "{}", run.stderr);
    }
    // The longest that there is.
    let longest = format!("{shop}_{}", "n".repeat(62 - shop.len()));
    place.pgkeep(&["restore", "latest", "--to-database", &longest]).ok();
    assert_eq!(cluster().databases_like(&shop), [shop.clone(), longest.clone()]);
}

#[test]
fn a_user_whose_sessions_are_read_only_and_short_by_default_can_restore() {
    let (place, shop, _) = changed_shop();
    let role = format!("{shop}_keeper");
    cluster().psql(
        "postgres",
        &format!(
            "CREATE ROLE {role} SUPERUSER LOGIN; ALTER ROLE {role} SET default_transaction_read_only = on;
             ALTER ROLE {role} SET statement_timeout = '1s';
             ALTER ROLE {role} SET idle_session_timeout = '1s'; ALTER ROLE {role} SET search_path = nowhere"
        ),
    );
    place.pgkeep_with(&[("PGUSER", &role)], &["restore", "latest", "--yes"]).ok();
    assert_eq!(cluster().psql(&shop, "SELECT count(*) FROM orders"), "1000");
}

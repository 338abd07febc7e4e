//! `pgkeep backup database`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::faults::{SmallDisk, fresh_wide};
use crate::support::{Place, cluster, ordinary, pgkeep_binary, run, tidy};

#[test]
fn its_report_says_what_was_stored_where() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let run = place.pgkeep(&["backup", "database", &shop]).ok();
    let sizes = regex::Regex::new(r"\d+\.\d (B|KiB|times)").unwrap();
    insta::assert_snapshot!(sizes.replace_all(&tidy(&run.stdout), "[SIZE] $1"), @r"
    backup [BACKUP]
    database [DATABASE], as it was at [TIME]
    1,550 rows in 3 tables
    [SIZE] KiB read, [SIZE] KiB stored ([SIZE] times smaller), [DURATION] ([RATE])
    in [PLACE]/store/test/backups/[BACKUP]/
    ");
    insta::assert_snapshot!(tidy(&run.stderr), @r"
    pgkeep: backup database [DATABASE]: begun
    pgkeep: backup database: ended after [DURATION]
    ");
}

#[test]
fn with_quiet_a_success_says_nothing() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let run = place.pgkeep(&["--quiet", "backup", "database", &shop]).ok();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    assert_eq!(place.backups().len(), 1);
}

#[test]
fn the_catalog_knows_all_about_it() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let report = place.pgkeep(&["--output", "json", "backup", "database", &shop]).ok().json();
    let rows = place.catalog(
        "SELECT id, type, database, status, rows, original_size_bytes, size_bytes, format_version,
                run_id IN (SELECT id FROM runs WHERE command = 'backup database' AND outcome = 'done')
           FROM backups",
    );
    let number =
        |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("{field}: {report}")).to_string();
    let id = report["id"].as_str().unwrap();
    let expected =
        ["database", &shop, "complete", "1550", &number("original_size_bytes"), &number("size_bytes")];
    assert_eq!(rows[0][0], id);
    assert_eq!(rows[0][1..7], expected);
    assert_eq!(rows[0][7..], ["1", "1"]);
    // What the catalog calls its size is what lies in the store.
    let files =
        fs::read_dir(&place.backups()[0]).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert_eq!(files.sum::<u64>().to_string(), number("size_bytes"));
    let runs = place.catalog(
        "SELECT subject, user <> '', host <> '', ended_at > started_at, seconds > 0, exit_code, message
           FROM runs WHERE command = 'backup database'",
    );
    assert_eq!(runs, [[id, "1", "1", "1", "1", "0", ""]]);
    assert_eq!(
        place.catalog("SELECT object, store, state, proven_how FROM copies ORDER BY object"),
        [["data.00000", "local", "good", "written"], ["manifest", "local", "good", "written"]]
    );
}

#[test]
fn what_it_leaves_is_the_backup_alone_and_private() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let before = place.files("state");
    place.backup(&shop);
    let made = |name: &String| {
        !before.contains(name)
            && !["scratch", "locks/backup-database.lock", "locks/backups.lock", "locks/settle.lock"]
                .contains(&name.as_str())
    };
    let left: Vec<String> = place.files("state").into_iter().filter(made).collect();
    assert!(left.iter().all(|name| name.starts_with("catalog.sqlite")), "{left:?}");
    for file in place.files("store") {
        let metadata = fs::metadata(place.store().join(&file)).unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(metadata.permissions().mode() & 0o7777, expected, "{file}");
    }
    let mut stored: Vec<String> = fs::read_dir(&place.backups()[0])
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    stored.sort();
    assert_eq!(stored, ["data.00000", "manifest"]);
}

#[test]
fn nothing_of_the_data_can_be_read_in_the_store() {
    let place = Place::ready();
    let secret = cluster().fresh_database();
    cluster().psql(&secret, "CREATE TABLE hidden_table AS SELECT 'the quick brown fox' AS words");
    place.set("BACKUP_COMPRESSION", "gzip:1");
    place.backup(&secret);
    for file in fs::read_dir(&place.backups()[0]).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        for word in ["hidden_table", "brown fox", "words"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
        }
    }
}

#[test]
fn without_a_name_the_database_of_the_settings_is_taken() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    place.set("PGDATABASE", &shop);
    let report = place.pgkeep(&["--output", "json", "backup", "database"]).ok().json();
    assert_eq!(report["database"], shop);
    assert_eq!(report["rows"], 1550);
}

#[test]
fn many_volumes_and_every_codec_come_back() {
    let shop = cluster().fresh_shop();
    // Random, so that it stays as large as it is.
    cluster()
        .psql(&shop, "CREATE TABLE noise AS SELECT gen_random_uuid() AS id FROM generate_series(1, 120000)");
    let before = cluster().dump_with_create(&shop);
    for codec in ["zstd:1", "zstd:19", "gzip:1", "gzip:9"] {
        let place = Place::ready();
        place.set("BACKUP_VOLUME_SIZE", "1M");
        place.set("BACKUP_COMPRESSION", codec);
        let id = place.backup(&shop);
        let volumes = fs::read_dir(&place.backups()[0]).unwrap().count() - 1;
        assert!(volumes >= 2, "{codec}: {volumes} volumes");
        let shown = place.pgkeep(&["--output", "json", "show", &id]).ok().json();
        assert_eq!(shown["codec"], codec);
        let copy = format!("{shop}_{}", codec.replace(':', "_"));
        place.pgkeep(&["restore", &id, "--to-database", &copy, "--yes"]).ok();
        assert_eq!(cluster().dump(&copy), cluster().dump(&shop), "{codec}");
        cluster().psql("postgres", &format!("DROP DATABASE {copy}"));
    }
    assert_eq!(cluster().dump_with_create(&shop), before);
}

#[test]
fn more_jobs_give_the_same_backup() {
    let shop = cluster().fresh_shop();
    let place = Place::ready();
    let rows = |jobs: &str| {
        let run = place.pgkeep(&["--output", "json", "backup", "database", &shop, "--jobs", jobs]).ok();
        (run.json()["rows"].clone(), run.json()["original_size_bytes"].clone())
    };
    assert_eq!(rows("1").0, rows("8").0);
}

#[test]
fn verbose_says_with_what_and_where() {
    let place = Place::ready();
    let database = cluster().fresh_shop();
    let run = place.pgkeep(&["-v", "backup", "database", &database]).ok();
    assert!(run.stderr.contains("dump 3 tables with ") && run.stderr.contains("pg_dump"), "{}", run.stderr);
    assert!(run.stderr.contains("volume data.00000 closed"), "{}", run.stderr);
    let run = place.pgkeep(&["-v", "restore", "latest", "--to-database", &format!("{database}_v")]).ok();
    assert!(run.stderr.contains("unpack: "), "{}", run.stderr);
}

#[test]
fn what_pg_dump_leaves_out_with_a_warning_is_said() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let role = format!("{shop}_reader");
    cluster().psql(&shop, &format!("CREATE ROLE {role} LOGIN; GRANT pg_read_all_data TO {role}"));
    let subscribe =
        "CREATE SUBSCRIPTION s CONNECTION 'host=nowhere.invalid' PUBLICATION p WITH (connect = false)";
    cluster().psql(&shop, subscribe);
    let run = place.pgkeep_with(&[("PGUSER", &role)], &["backup", "database", &shop]).fails_with(3);
    let warning = "warning: subscriptions not dumped because current user is not a superuser";
    assert!(run.stdout.contains(warning), "{}", run.stdout);
    assert_eq!(place.backups().len(), 1, "the rest is stored");
    cluster().psql(&shop, "ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s");
}

#[test]
fn a_dump_that_is_much_larger_than_the_scratch_directory_goes_through_it() {
    let cluster = cluster();
    let database = fresh_wide(cluster);
    let place = Place::ready();
    let disk = SmallDisk::mount(&place.path("small"), "160m");
    place.set("BACKUP_SCRATCH_DIR", &place.path("small").display().to_string());
    place.set("BACKUP_SCRATCH_LIMIT", "1M");
    let made = disk.run(&place.command(&["--output", "json", "backup", "database", &database])).ok().json();
    assert!(made["original_size_bytes"].as_u64().unwrap() > 240 << 20, "{made}");
    assert_eq!(disk.files(), [""; 0]);
    place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn at_a_terminal_a_bar_shows_how_far_it_is() {
    let database = fresh_wide(cluster());
    let place = Place::ready();
    let mut script = ordinary("script");
    script
        .args(["--quiet", "--return", "--command"])
        .arg(format!("{} backup database {database}", pgkeep_binary().display()))
        .arg("/dev/null")
        .env("HOME", &place.directory)
        .env("PGKEEP_ENV_FILE", place.env_file())
        .env("TERM", "xterm")
        .current_dir(&place.directory);
    let run = run(&mut script).ok();
    let shown = |bar: &str| regex::Regex::new(bar).unwrap().is_match(&run.stdout);
    // How much of how much, how fast, and how long it will take.
    let read = r"read +\[[=> ]*\] [0-9.]+ \w+/[0-9.]+ \w+ [0-9.]+ \w+/s \d+[smh]";
    assert!(shown(read), "{:?}", run.stdout);
    // How much that makes, compressed, nobody knows beforehand.
    assert!(shown(r"stored +[0-9.]+ \w+ [0-9.]+ \w+/s"), "{:?}", run.stdout);
}

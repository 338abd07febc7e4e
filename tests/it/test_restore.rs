//! Test restores: those that pass leave nothing but their proof, and each planted damage makes one fail.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::clouds::{Cloud, Clouds};
use crate::rewritten::{rewrite, without_a_row};
use crate::support::faults::{
    SmallDisk, assert_no_survivors, databases_beginning, fresh_large, leftovers, stopped_at,
};
use crate::support::s3::Options;
use crate::support::{Archiving, Cluster, Place, cluster, tidy};
use crate::{pitr, tenants};

/// The report of a test restore that ended with this code.
#[track_caller]
fn tested(place: &Place, arguments: &[&str], code: i32) -> Value {
    let run = place.pgkeep(&[&["--output", "json", "test-restore"], arguments].concat());
    assert_eq!(run.code, code, "{}{}", run.stdout, run.stderr);
    run.json()
}

/// What came of a check of the only test.
fn check<'v>(report: &'v Value, name: &str) -> &'v Value {
    let checks = report["tests"][0]["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}: {report:#}"))
}

/// All findings of the only test, with the name of the check before each.
fn findings(report: &Value) -> Vec<String> {
    let checks = report["tests"][0]["checks"].as_array().expect("checks");
    let each = checks.iter().flat_map(|check| {
        let name = check["name"].as_str().unwrap();
        check["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(move |it| format!("{name}: {}", it.as_str().unwrap()))
    });
    each.collect()
}

/// Nothing is left of a test, wherever it was.
#[track_caller]
fn assert_nothing_left(place: &Place, cluster: &Cluster, database: &str) {
    assert_no_survivors(place);
    assert_eq!(databases_beginning(cluster, &format!("{database}_test")), [""; 0]);
    // The archiver's own place.
    let left: Vec<String> = leftovers(place).into_iter().filter(|name| !name.starts_with("wal")).collect();
    assert_eq!(left, [""; 0], "left behind");
}

/// A database and a place that has a backup of it.
fn backed_up() -> (Place, String) {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    place.set("PGDATABASE", &shop);
    place.backup(&shop);
    (place, shop)
}

/// What differs with the machine: sizes, days, and how many relations PostgreSQL itself has.
fn without_sizes(shown: &str) -> String {
    let rules = [(r"\b\d+(\.\d+)? (B|KiB|MiB)\b", "[SIZE]"), (r"_test_[0-9a-f]{8}", "_test_[RUN]")];
    let more = [
        (r"\b\d+ (relations|indexes|files)", "[N] $1"),
        (r"\d{4}-\d\d-\d\d", "[DAY]"),
        (r"/[0-9A-F]{6,8}\b", "/[LSN]"),
    ];
    rules.iter().chain(&more).fold(tidy(shown), |text, (rule, name)| {
        regex::Regex::new(rule).unwrap().replace_all(&text, *name).into_owned()
    })
}

#[test]
fn a_good_backup_of_a_database_passes_and_leaves_its_proof_and_nothing_else() {
    let (place, shop) = backed_up();
    place.set("TEST_RESTORE_SQL", "SELECT count(*) = 1000 FROM orders; SELECT max(id) = 50 FROM tenants");
    let run = place.pgkeep(&["test-restore"]).ok();
    let shown = tidy(&run.stdout);
    for line in ["rows: 1,550 rows: good", "key tables: 3 tables: good", "foreign keys: 1 foreign key: good"]
    {
        assert!(shown.contains(line), "no {line}: {shown}");
    }
    for line in
        ["sequences: 1 sequence: good", "your own queries: 2 queries: good", "1 test in", ": all passed"]
    {
        assert!(shown.contains(line), "no {line}: {shown}");
    }
    insta::assert_snapshot!(without_sizes(&shown));
    assert_nothing_left(&place, cluster(), &shop);
    let proofs = place.catalog("SELECT DISTINCT proven_how FROM copies");
    assert_eq!(proofs, [["restored"]]);
    let log = place.catalog(
        "SELECT purpose, state, store, rows, bytes_fetched > 0, json_extract(phases, '$.load') > 0, \
         staging_database IS NULL FROM restore_log",
    );
    assert_eq!(log, [["test", "done", "local", "1550", "1", "1", "1"]]);
    let alerts = place.catalog("SELECT alert_type, severity, message FROM alerts");
    assert_eq!(&alerts[0][..2], ["test-restore", "INFO"]);
    assert!(alerts[0][2].contains("passed"), "{alerts:?}");

    // On a server of its own, where nobody but it is.
    let report = tested(&place, &["latest", "--own-server", "--jobs", "2"], 0);
    assert_eq!(report["tests"][0]["place"], "a throwaway server");
    assert_eq!(check(&report, "rows")["checked"], 1550);
    assert!(check(&report, "indexes")["checked"].as_u64() > Some(50), "{report:#}");
    assert_nothing_left(&place, cluster(), &shop);
}

#[test]
fn a_good_backup_of_a_tenant_passes_beside_those_in_use_and_on_a_server_of_its_own() {
    let (place, database) = tenants::ready(3);
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    for arguments in [&[][..], &["latest", "--own-server"], &["--tenant", "2"]] {
        let report = tested(&place, arguments, 0);
        assert_eq!(
            (&report["tests"][0]["kind"], &report["tests"][0]["tenant"]),
            (&"tenant".into(), &"2".into())
        );
        assert!(check(&report, "rows")["checked"].as_u64() > Some(10), "{report:#}");
        assert!(check(&report, "foreign keys")["checked"].as_u64() > Some(5), "{report:#}");
        assert_nothing_left(&place, cluster(), &database);
    }
    tested_error(&place, &["--tenant", "nobody"], 1);
}

#[test]
fn a_tenant_with_a_schema_or_a_database_of_its_own_is_tested_too() {
    let place = Place::ready();
    let database = cluster().fresh_database();
    cluster().psql(
        &database,
        "CREATE TABLE plans (id int PRIMARY KEY); INSERT INTO plans VALUES (1); CREATE TYPE mood AS ENUM ('good'); \
         CREATE SCHEMA tenant_one; CREATE TABLE tenant_one.orders (id serial PRIMARY KEY, plan int REFERENCES plans, m mood); \
         INSERT INTO tenant_one.orders (plan, m) SELECT 1, 'good' FROM generate_series(1, 100)",
    );
    place.set("PGDATABASE", &database);
    place.set("TENANT_MODE", "schema");
    place.set("TENANT_PATTERN", "tenant_*");
    place.pgkeep(&["backup", "tenant", "--all"]).ok();
    for arguments in [&[][..], &["--own-server"]] {
        let report = tested(&place, arguments, 0);
        assert_eq!(check(&report, "rows")["checked"], 100);
        assert_eq!(check(&report, "sequences")["checked"], 1);
        let notes = check(&report, "foreign keys")["notes"].to_string();
        assert!(notes.contains("1 of the schema: not looked at"), "{notes}");
        assert_nothing_left(&place, cluster(), &database);
    }

    let own = Place::ready();
    own.set("TENANT_MODE", "database");
    own.set("TENANT_PATTERN", &format!("{database}_o*"));
    own.set("PGDATABASE", &database);
    cluster().psql("postgres", &format!("CREATE DATABASE {database}_own TEMPLATE {database}"));
    own.pgkeep(&["backup", "tenant", "--all"]).ok();
    let report = tested(&own, &[], 0);
    assert_eq!(
        (&report["tests"][0]["kind"], &check(&report, "rows")["checked"]),
        (&"tenant".into(), &101.into())
    );
    assert_eq!(check(&report, "foreign keys")["checked"], 1);
    assert_nothing_left(&own, cluster(), &database);
}

#[track_caller]
fn tested_error(place: &Place, arguments: &[&str], code: i32) -> String {
    place.pgkeep(&[&["test-restore"], arguments].concat()).fails_with(code).stderr
}

/// A server that archives, with a table, a backup and WAL behind it.
fn archiving(checksums: bool) -> Archiving {
    let mut arguments = vec!["--wal-segsize=1"];
    arguments.extend(checksums.then_some("--data-checksums"));
    let options = [("archive_mode", "on"), ("archive_command", "/bin/false"), ("max_wal_senders", "5")];
    let archiving = Archiving::on(Cluster::made_with(&arguments, &options));
    archiving.begin();
    archiving.cluster.psql(
        "postgres",
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 2000); \
         CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, note text DEFAULT repeat('x', 100)); \
         INSERT INTO child SELECT n, n FROM generate_series(1, 2000) n; CHECKPOINT",
    );
    archiving
}

#[test]
fn a_good_backup_of_a_cluster_is_replayed_looked_at_and_removed() {
    let archiving = archiving(true);
    let place = &archiving.place;
    pitr::backup(&archiving);
    archiving.cluster.psql("postgres", "INSERT INTO parent VALUES (4711)");
    let between = pitr::now(&archiving.cluster);
    archiving.cluster.psql("postgres", "INSERT INTO parent VALUES (4712)");
    archiving.archive();
    place.set("TEST_RESTORE_TABLES", "parent, child");
    place.set("TEST_RESTORE_SQL", "SELECT count(*) = 2002 FROM parent; template1: SELECT true");
    let report = tested(place, &[], 0);
    let test = &report["tests"][0];
    assert!(test["reached"].as_str().unwrap().starts_with("the end of the archive at "), "{report:#}");
    for (name, least) in [
        ("files of the backup", 100),
        ("key tables", 2),
        ("foreign keys", 1),
        ("tables' pages", 100),
        ("indexes", 100),
        ("page checksums", 100),
        ("your own queries", 2),
    ] {
        assert!(check(&report, name)["checked"].as_u64() >= Some(least), "{name}: {report:#}");
        assert_eq!(check(&report, name)["not_checked"], Value::Null, "{name}");
    }
    insta::assert_snapshot!(without_sizes(&place.pgkeep(&["test-restore"]).ok().stdout));
    let segments = test["wal_segments"].as_u64().unwrap();
    let proven = place.catalog("SELECT count(*) FROM wal_segments WHERE proven_how = 'restored'");
    assert_eq!(proven, [[segments.to_string()]]);
    assert!(segments > 0, "{report:#}");
    assert_nothing_left(place, &archiving.cluster, "postgres");

    place.set("TEST_RESTORE_SQL", "SELECT count(*) = 2001 FROM parent");
    let report = tested(place, &["--target-time", &between], 0);
    assert!(report["tests"][0]["reached"].as_str().unwrap().starts_with("before "), "{report:#}");
    let directory = pitr::fresh().join("data").display().to_string();
    let dry = ["restore", "latest", "--to-dir", &directory, "--dry-run"];
    let quote =
        place.pgkeep(&[&["--output", "json"], &dry[..]].concat()).ok().json()["plan"]["quote"].clone();
    assert!(quote["expected_seconds"].as_f64() > Some(0.0), "{quote:#}");
    assert!(quote["basis"].as_str().unwrap().starts_with("from the test restore of "), "{quote:#}");
    let shown = place.pgkeep(&dry).ok().stdout;
    assert!(
        shown.contains("from local in ") && shown.contains("stops at the end of the archive: "),
        "{shown}"
    );
}

/// The lines of a plan that are the quote, without sizes.
fn quoted_lines(shown: &str) -> String {
    let sizes = regex::Regex::new(r"\b\d+(\.\d+)? (B|KiB|MiB)\b|\d+ requests?\b").unwrap();
    let words = ["  fetch: ", "  room needed", "  replay: ", "  stops ", "  expected"];
    let lines = shown.lines().filter(|line| words.iter().any(|word| line.starts_with(word)));
    let lines: Vec<String> = lines.map(|line| sizes.replace_all(&tidy(line), "[N]").into_owned()).collect();
    regex::Regex::new(r"\d{4}-\d\d-\d\d").unwrap().replace_all(&lines.join("\n"), "[DAY]").into_owned()
}

#[test]
fn a_dry_run_of_each_kind_quotes_what_it_takes_and_on_what_that_rests() {
    let (place, database) = tenants::ready(3);
    place.backup(&database);
    let dry =
        |arguments: &[&str]| place.pgkeep(&[&["restore"], arguments, &["--dry-run"]].concat()).ok().stdout;
    let unknown = quoted_lines(&dry(&["latest"]));
    insta::assert_snapshot!(unknown, @r"
    fetch: [N] from local in [N]
    room needed while it runs: [N]
    stops at [TIME], the instant of the backup
    expected time: no test restore yet: unknown
    ");
    // Out of the database's backup, of which there is no test either.
    let of_database = quoted_lines(&dry(&["--tenant", "2"]));
    assert_eq!(of_database, unknown);
    place.pgkeep(&["backup", "tenant", "2", "3"]).ok();
    tested(&place, &[], 0);
    insta::assert_snapshot!(quoted_lines(&dry(&["--tenant", "2", "--tenant", "3"])), @r"
    fetch: [N] from local in [N]
    room needed while it runs: [N]
    stops at [TIME], the instant of the backup
    expected: [DURATION] (from the test restore of [DAY]: [DURATION] for [N])
    ");
    insta::assert_snapshot!(quoted_lines(&dry(&[&*place.backup(&database)])), @r"
    fetch: [N] from local in [N]
    room needed while it runs: [N]
    stops at [TIME], the instant of the backup
    expected: [DURATION] (from the test restore of [DAY]: [DURATION] for [N])
    ");
    // What no store has whole, as far as is known, is said too.
    fs::remove_file(place.backups().last().unwrap().join("data.00000")).unwrap();
    place.pgkeep(&["verify"]).fails_with(4);
    let lost = quoted_lines(&dry(&["latest"]));
    assert!(lost.contains("that no store is known to have whole"), "{lost}");
}

#[test]
fn who_may_not_make_amcheck_is_told_what_was_not_checked() {
    let place = Place::ready();
    let (own, role) = (cluster(), format!("modest{}", std::process::id()));
    let database = own.fresh_database();
    own.psql(
        "postgres",
        &format!("CREATE ROLE {role} LOGIN CREATEDB; ALTER DATABASE {database} OWNER TO {role}"),
    );
    own.psql_as(
        &role,
        &database,
        "CREATE SCHEMA mine; CREATE TABLE mine.t AS SELECT generate_series(1, 10) n",
    );
    place.set("PGUSER", &role);
    place.set("PGDATABASE", &database);
    place.backup(&database);
    let report = tested(&place, &[], 3);
    let why = check(&report, "indexes")["not_checked"].as_str().unwrap();
    assert_eq!(why, format!("user \"{role}\" may not create the extension amcheck"));
    assert_eq!(
        (&report["tests"][0]["passed"], &check(&report, "rows")["checked"]),
        (&true.into(), &10.into())
    );
    let warnings = report["tests"][0]["warnings"].to_string();
    assert!(warnings.contains("indexes: not checked: "), "{warnings}");
    assert_nothing_left(&place, own, &database);
    own.psql("postgres", &format!("DROP DATABASE {database}"));
    own.psql("postgres", &format!("DROP ROLE {role}"));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_read() {
    let (place, shop) = backed_up();
    let stderr = tested_error(&place, &["latest", "--target-time", "2026-11-22T14:02:00Z"], 1);
    assert!(stderr.contains("there is no backup to be tested"), "{stderr}");
    let id = place.backups()[0].file_name().unwrap().to_str().unwrap().to_owned();
    let stderr = tested_error(&place, &[&id, "--target-time", "2026-11-22T14:02:00Z"], 2);
    assert!(stderr.contains("it has one instant"), "{stderr}");
    place.set("TEST_RESTORE_SQL", &place.path("none.sql").display().to_string());
    let stderr = tested_error(&place, &[], 20);
    assert!(stderr.contains("TEST_RESTORE_SQL: read "), "{stderr}");
    // A file of queries that can't be read keeps nothing else from working.
    place.pgkeep(&["verify"]).ok();
    place.set("PGPORT", "1");
    place.unset("TEST_RESTORE_SQL");
    let stderr = tested_error(&place, &[], 30);
    assert!(stderr.contains(&format!("test {id} out of local: ")), "{stderr}");
    let log = place.catalog("SELECT DISTINCT state, purpose FROM restore_log");
    assert_eq!(log, [["failed", "test"]]);
    place.set("PGPORT", &cluster().port.to_string());
    assert_nothing_left(&place, cluster(), &shop);
}

/// The catalog learns anew what is in the store, and all that can be summed up or opened is as it should be.
fn taken_for_good(place: &Place) {
    fs::remove_dir_all(place.state()).unwrap();
    fs::remove_dir_all(place.store().join("test/catalog")).unwrap();
    place.pgkeep(&["catalog", "rebuild"]).ok();
    let verified = place.pgkeep(&["--output", "json", "verify", "--deep"]).ok().json();
    assert_eq!((&verified["decrypted"], &verified["findings"]), (&true.into(), &serde_json::json!([])));
}

#[test]
fn a_row_that_is_not_in_the_stored_bytes_fails_the_test() {
    let (place, shop) = backed_up();
    rewrite(&place.backups()[0], &place.setting("BACKUP_ENCRYPTION_KEY"), |entry, plain| {
        if entry["table"]["name"] == "orders" { without_a_row(&plain) } else { plain }
    });
    taken_for_good(&place);
    let report = tested(&place, &[], 4);
    assert_eq!(findings(&report), ["rows: table public.orders has 999 rows, the backup has 1000"]);
    assert_eq!(report["tests"][0]["passed"], false);
    let alerts = place.catalog("SELECT severity, message FROM alerts");
    assert_eq!(alerts[0][0], "CRITICAL");
    assert!(alerts[0][1].contains("has 999 rows, the backup has 1000"), "{alerts:?}");
    let log = place.catalog("SELECT state, purpose, message FROM restore_log WHERE checks IS NOT NULL");
    assert_eq!(log, [["failed", "test", "table public.orders has 999 rows, the backup has 1000"]]);
    assert_eq!(place.catalog("SELECT count(*) FROM copies WHERE proven_how = 'restored'"), [["0"]]);
    assert_nothing_left(&place, cluster(), &shop);
}

#[test]
fn a_row_that_is_not_in_a_tenants_stored_bytes_fails_the_test() {
    let (place, database) = tenants::ready(3);
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    rewrite(&place.backups()[0], &place.setting("BACKUP_ENCRYPTION_KEY"), |entry, plain| {
        // Nothing refers to messages: the foreign keys are whole without the row.
        if entry["table"]["name"] == "messages" { without_a_row(&plain) } else { plain }
    });
    taken_for_good(&place);
    let found = findings(&tested(&place, &["--tenant", "2"], 4));
    assert!(found.len() == 1 && found[0].starts_with("rows: table app.messages has "), "{found:?}");
    assert_nothing_left(&place, cluster(), &database);
}

#[test]
fn without_room_or_memory_nothing_is_begun() {
    let (place, database) = (Place::ready(), fresh_large(cluster()));
    place.set("PGDATABASE", &database);
    place.backup(&database);
    let disk = SmallDisk::mount(&place.path("small"), "4m");
    let refused = |code: i32, arguments: &[&str]| {
        let run = disk.run(&place.command(&[&["test-restore"], arguments].concat())).fails_with(code);
        assert_nothing_left(&place, cluster(), &database);
        run.stderr
    };
    // Where things are unpacked; and where the server has its data, if that is seen from here.
    let small = place.path("small").display().to_string();
    place.set("BACKUP_SCRATCH_DIR", &small);
    for arguments in [&[][..], &["--own-server"]] {
        let stderr = refused(40, arguments);
        assert!(
            stderr.contains(&format!("{small} has ")) && stderr.contains("free, the test needs "),
            "{stderr}"
        );
    }
    place.unset("BACKUP_SCRATCH_DIR");
    place.set("PGDATA", &small);
    let stderr = refused(40, &[]);
    assert!(stderr.contains(&format!("{small} has ")), "{stderr}");
    place.unset("PGDATA");
    // What the kernel says of memory, on a machine that has little left.
    let little = place.put("meminfo", b"MemTotal: 4000000 kB\nMemAvailable: 100000 kB\n");
    disk.cover(Path::new("/proc/meminfo"), &little);
    let stderr = refused(5, &["--own-server"]);
    assert!(
        stderr.contains("a throwaway server needs 256.0 MiB, and 97.7 MiB of memory is free"),
        "{stderr}"
    );
    // Beside the databases in use no server is started.
    disk.run(&place.command(&["test-restore"])).ok();
    let log = place.catalog("SELECT state, count(*) FROM restore_log GROUP BY state ORDER BY state");
    assert_eq!(log, [["done", "1"], ["failed", "3"], ["refused", "1"]]);
}

#[test]
fn a_cluster_is_not_tested_without_room_or_memory_or_when_it_would_make_a_tablespace_again() {
    let archiving = archiving(false);
    let place = &archiving.place;
    pitr::backup(&archiving);
    archiving.archive();
    let disk = SmallDisk::mount(&place.path("small"), "4m");
    let little = place.put("meminfo", b"MemTotal: 4000000 kB\nMemAvailable: 100000 kB\n");
    place.set("BACKUP_SCRATCH_DIR", &place.path("small").display().to_string());
    let run = disk.run(&place.command(&["test-restore"])).fails_with(40);
    assert!(run.stderr.contains(" free, "), "{}", run.stderr);
    place.unset("BACKUP_SCRATCH_DIR");
    disk.cover(Path::new("/proc/meminfo"), &little);
    let run = disk.run(&place.command(&["test-restore"])).fails_with(5);
    assert!(run.stderr.contains("a throwaway server needs 256.0 MiB"), "{}", run.stderr);
    // Made after the backup: replaying would make it anew, in the place where the server in use has it.
    let space = place.path("space");
    fs::create_dir(&space).unwrap();
    crate::support::give(&space);
    archiving.cluster.psql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
    archiving.archive();
    let stderr = tested_error(place, &[], 5);
    assert!(stderr.contains("would have to make a tablespace again that was made between"), "{stderr}");
    assert_nothing_left(place, &archiving.cluster, "postgres");
    // With one in the backup itself there is no such doubt.
    pitr::backup(&archiving);
    archiving.archive();
    tested(place, &[], 0);
    assert_nothing_left(place, &archiving.cluster, "postgres");
}

#[test]
fn an_orphan_fails_the_test_of_a_cluster_and_of_a_tenant() {
    let archiving = archiving(false);
    archiving.cluster.psql(
        "postgres",
        "SET session_replication_role = replica; DELETE FROM parent WHERE id = 7; \
         CREATE TABLE pair (a int, b int, PRIMARY KEY (a, b)); INSERT INTO pair VALUES (1, 1); \
         CREATE TABLE full_match (a int, b int, FOREIGN KEY (a, b) REFERENCES pair MATCH FULL); \
         CREATE TABLE simple_match (a int, b int, FOREIGN KEY (a, b) REFERENCES pair); \
         INSERT INTO full_match VALUES (1, NULL); INSERT INTO simple_match VALUES (1, NULL), (1, 1); \
         CREATE TABLE part (a int) PARTITION BY LIST (a); CREATE TABLE part1 PARTITION OF part DEFAULT; \
         ALTER TABLE part ADD FOREIGN KEY (a) REFERENCES parent; INSERT INTO part VALUES (8), (9999); \
         CREATE TABLE lax (a int); INSERT INTO lax VALUES (9999); \
         ALTER TABLE lax ADD FOREIGN KEY (a) REFERENCES parent NOT VALID",
    );
    pitr::backup(&archiving);
    archiving.archive();
    let report = tested(&archiving.place, &[], 4);
    assert_eq!(
        findings(&report),
        [
            "foreign keys: postgres: foreign key child_parent_fkey of public.child: 1 row refers to what is not there",
            "foreign keys: postgres: foreign key full_match_a_b_fkey of public.full_match: 1 row refers to what is not \
             there",
            "foreign keys: postgres: foreign key part_a_fkey of public.part: 1 row refers to what is not there",
        ]
    );
    let notes = check(&report, "foreign keys")["notes"].to_string();
    assert!(
        notes.contains("lax_a_fkey of public.lax: 1 row refers") && notes.contains("NOT VALID"),
        "{notes}"
    );
    assert_nothing_left(&archiving.place, &archiving.cluster, "postgres");

    let (place, database) = tenants::ready(3);
    cluster().psql(&database, "SET session_replication_role = replica; DELETE FROM app.users WHERE id = 201");
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    let report = tested(&place, &["--tenant", "2"], 4);
    let found = findings(&report);
    for table in ["projects", "messages"] {
        let is_it = |it: &String| it.contains(&format!("of app.{table}: ")) && it.ends_with("not there");
        assert!(found.iter().any(is_it), "{table}: {found:?}");
    }
    assert_nothing_left(&place, cluster(), &database);
}

/// The file of a relation in a data directory.
fn file_of(cluster: &Cluster, relation: &str) -> PathBuf {
    cluster.data().join(cluster.psql("postgres", &format!("SELECT pg_relation_filepath('{relation}')")))
}

/// Overwrites bytes of a relation while its server is down.
fn spoil(cluster: &Cluster, path: &Path, offset: u64, bytes: &[u8]) {
    cluster.stop();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    cluster.start_again();
}

#[test]
fn a_broken_index_page_and_a_bad_heap_page_fail_the_test_of_a_cluster() {
    let archiving = archiving(false);
    let (index, heap) = (file_of(&archiving.cluster, "child_pkey"), file_of(&archiving.cluster, "parent"));
    // Item pointers of the index's first leaf: two of them are exchanged, so that its order is wrong.
    let mut pointers = [0; 8];
    fs::File::open(&index).unwrap().read_exact_at(&mut pointers, 8192 + 24 + 8).unwrap();
    pointers.rotate_left(4);
    spoil(&archiving.cluster, &index, 8192 + 24 + 8, &pointers);
    // The first item pointer of a heap page points behind the page.
    spoil(&archiving.cluster, &heap, 8192 + 24, &[0xf0, 0xff, 0x50, 0x00]);
    pitr::backup(&archiving);
    archiving.archive();
    let report = tested(&archiving.place, &["latest"], 4);
    let found = findings(&report);
    assert!(
        found.iter().any(|it| it.starts_with("indexes: postgres: index public.child_pkey of public.child: ")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|it| it.starts_with("tables' pages: postgres: public.parent: block 1")),
        "{found:?}"
    );
    let note = check(&report, "page checksums")["notes"].to_string();
    assert!(note.contains("no page checksums"), "{note}");
    assert_nothing_left(&archiving.place, &archiving.cluster, "postgres");
}

#[test]
fn a_page_with_a_wrong_checksum_fails_the_test_of_a_cluster() {
    let archiving = archiving(true);
    archiving
        .cluster
        .psql("postgres", "CREATE TABLE idle AS SELECT n FROM generate_series(1, 1000) n; CHECKPOINT");
    let heap = file_of(&archiving.cluster, "idle");
    spoil(&archiving.cluster, &heap, 8192 + 5000, b"what was not written");
    archiving.place.pgkeep(&["backup", "cluster", "--fast"]);
    archiving.archive();
    let report = tested(&archiving.place, &[], 4);
    let found = findings(&report);
    assert!(found.iter().any(|it| it.starts_with("page checksums: ") && it.contains("block 1")), "{found:?}");
    assert!(found.iter().any(|it| it.starts_with("tables' pages: postgres: public.idle: ")), "{found:?}");
}

#[test]
fn a_missing_table_a_false_answer_and_a_sequence_that_is_behind_fail_the_test() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    cluster().psql(&shop, "INSERT INTO items (id, name) OVERRIDING SYSTEM VALUE VALUES (9000, 'by hand')");
    place.set("PGDATABASE", &shop);
    place.backup(&shop);
    cluster().psql(&shop, "SELECT setval('items_id_seq', 9000)");
    place.set("TEST_RESTORE_TABLES", "orders, public.customers, elsewhere:nothing");
    let sql = "SELECT count(*) > 0 FROM tenants; SELECT count(*) = 0\nFROM tenants; SELECT 1; SELECT no_such; SELECT null::bool";
    place.set("TEST_RESTORE_SQL", place.put("questions.sql", sql.as_bytes()).to_str().unwrap());
    let run = place.pgkeep(&["test-restore"]).fails_with(4);
    let shown = tidy(&run.stdout);
    let from = shown.find("  rows: ").unwrap();
    let told: Vec<&str> = shown[from..].lines().filter(|line| !line.contains(" in ")).collect();
    insta::assert_snapshot!(told.join("\n"));
    assert_nothing_left(&place, cluster(), &shop);
}

#[test]
fn an_extension_that_is_not_on_the_server_is_said_by_name() {
    let (place, shop) = backed_up();
    // The dump says CREATE EXTENSION of one that nobody has.
    let sql = "CREATE EXTENSION amcheck; SET allow_system_table_mods = on; \
               UPDATE pg_extension SET extname = 'vanished' WHERE extname = 'amcheck'";
    cluster().psql(&shop, sql);
    place.backup(&shop);
    let stderr = tested_error(&place, &[], 30);
    assert!(stderr.contains("extension \"vanished\" is not available"), "{stderr}");
    let log = place.catalog("SELECT state, staging_database IS NULL FROM restore_log");
    assert_eq!(log, [["failed", "1"]]);
    assert_eq!(place.catalog("SELECT DISTINCT severity FROM alerts"), [["CRITICAL"]]);
    assert_nothing_left(&place, cluster(), &shop);
}

#[test]
fn the_store_that_is_tested_must_prove_itself_though_another_is_good() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    let shop = cluster().fresh_shop();
    place.set("PGDATABASE", &shop);
    let id = place.backup(&shop);
    for store in ["r2", "b2", "local"] {
        let report = tested(place, &["--store", store], 0);
        assert_eq!((&report["store"], &report["chosen"]), (&store.into(), &"asked for".into()));
        let sql = format!("SELECT DISTINCT proven_how FROM copies WHERE store = '{store}'");
        assert_eq!(place.catalog(&sql), [["restored"]]);
    }
    let chosen = tested(place, &[], 0);
    assert_eq!(chosen["chosen"], "its month");
    clouds.r2.bucket().damage(&format!("test/backups/{id}/data.00000"));
    let stderr = tested_error(place, &["--store", "r2"], 4);
    assert!(stderr.contains("r2") && stderr.contains("data.00000"), "{stderr}");
    assert_eq!(
        place.catalog("SELECT state FROM copies WHERE store = 'r2' AND object = 'data.00000'"),
        [["damaged"]]
    );
    tested(place, &["--store", "local"], 0);
    // Known not to be whole there, and there is no older one.
    let stderr = tested_error(place, &["--store", "r2"], 1);
    assert!(stderr.contains("is not whole in r2"), "{stderr}");
    let alerts = place.catalog("SELECT message FROM alerts WHERE severity = 'WARNING'");
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    // With a newer one, which is not whole either, the older one is taken and the choice is told.
    place.pgkeep(&["sync"]).ok();
    let newest = place.backup(&shop);
    clouds.r2.bucket().lose(&format!("test/backups/{newest}/data.00000"));
    place.pgkeep(&["verify"]).fails_with(4);
    let report = tested(place, &["--store", "r2"], 3);
    assert_eq!(report["tests"][0]["backup"], id.as_str());
    let warning = format!("{newest} is not whole in r2, as far as is known: {id} is tested instead");
    assert_eq!(report["warnings"], serde_json::json!([warning]));
    place.pgkeep(&["sync"]).ok();
    tested(place, &["--store", "r2"], 0);
    tested_error(place, &["--store", "nowhere"], 2);
    assert_nothing_left(place, cluster(), &shop);
}

#[test]
fn wal_comes_out_of_the_chosen_store_alone() {
    let archiving = archiving(false);
    let place = &archiving.place;
    let r2 = Cloud::start(Options::default());
    r2.is_r2_of(place);
    place.init();
    pitr::backup(&archiving);
    let name = archiving.archive();
    tested(place, &["--store", "r2"], 0);
    let proven = place.catalog("SELECT DISTINCT store FROM wal_segments WHERE proven_how = 'restored'");
    assert_eq!(proven, [["r2"]]);
    // Not the last one, which is read before to say when the archive ends.
    archiving.archive();
    let object = r2.bucket().keys().into_iter().find(|key| key.contains(&name)).expect("the segment");
    r2.bucket().damage(&object);
    let stderr = tested_error(place, &["--store", "r2"], 30);
    assert!(
        stderr.contains("out of r2: the throwaway server has ended before it was where it should be"),
        "{stderr}"
    );
    let alerts = place.catalog("SELECT message FROM alerts WHERE severity = 'CRITICAL'");
    assert!(
        alerts[0][0].starts_with("test restore of ") && alerts[0][0].contains(" out of r2: failed: "),
        "{alerts:?}"
    );
    tested(place, &["--store", "local"], 0);
    assert_nothing_left(place, &archiving.cluster, "postgres");
}

#[test]
fn a_test_that_is_cut_off_anywhere_leaves_nothing_after_the_next_run() {
    let (place, shop) = backed_up();
    let steps =
        ["TestRestoreBegun", "TestRestoreUnpacked", "RestoreCreated", "RestoreLoading", "RestoreLoaded"];
    let later = ["TestRestoreLoaded", "TestRestoreChecked", "TestRestoreRecorded"];
    for step in steps.into_iter().chain(later) {
        for how in ["kill", "term", "fail"] {
            let run = stopped_at(&place, &["test-restore", "latest"], step, how);
            assert_ne!((run.code, how), (0, "kill"), "{step}");
            assert_no_survivors(&place);
            if how != "kill" {
                assert_nothing_left(&place, cluster(), &shop);
                continue;
            }
            place.pgkeep(&["verify"]).ok();
            assert_nothing_left(&place, cluster(), &shop);
            let unsettled =
                place.catalog("SELECT * FROM restore_log WHERE state = 'running' OR staging_database <> ''");
            assert_eq!(unsettled, Vec::<Vec<String>>::new(), "{step}:{how}");
        }
    }
    tested(&place, &[], 0);
}

#[test]
fn a_test_on_a_throwaway_server_that_is_killed_leaves_no_server_and_no_directory() {
    let archiving = archiving(false);
    pitr::backup(&archiving);
    archiving.archive();
    let steps = ["TestRestoreUnpacked", "TestRestoreLoaded", "TestRestoreChecked", "DirectoryFilled"];
    for step in steps {
        let run = stopped_at(&archiving.place, &["test-restore"], step, "kill");
        assert_eq!(run.code, 128 + 9, "{step}: {}", run.stderr);
        assert_no_survivors(&archiving.place);
        archiving.place.pgkeep(&["verify"]).ok();
        assert_nothing_left(&archiving.place, &archiving.cluster, "postgres");
    }
    let message = archiving.place.catalog("SELECT DISTINCT state, message FROM restore_log");
    assert_eq!(message, [["died", "ended without a word; what it had made is removed with its run"]]);
    tested(&archiving.place, &[], 0);

    let (place, shop) = backed_up();
    for step in ["TestRestoreLoaded", "TestRestoreChecked"] {
        let run = stopped_at(&place, &["test-restore", "--own-server"], step, "kill");
        assert_eq!(run.code, 128 + 9, "{step}: {}", run.stderr);
        assert_no_survivors(&place);
        place.pgkeep(&["verify"]).ok();
        assert_nothing_left(&place, cluster(), &shop);
    }
}

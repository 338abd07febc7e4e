//! Servers and clients of other major versions than the one that all other tests use.

use crate::pitr;
use crate::support::cluster::bindir;
use crate::support::{Archiving, Cluster, Place, cluster, ordinary, run, set_mode};

/// A server of this version and a place for it that uses the programs of `client`.
fn server_and_place(server: u32, client: u32) -> (Cluster, Place) {
    let cluster = Cluster::of(bindir(server), &[]);
    let place = Place::on(&cluster);
    place.set("BACKUP_PG_BINDIR", &bindir(client).display().to_string());
    (cluster, place)
}

/// What only newer versions have, and what they changed: each from the version that brought it on.
const NEW_IN: [(u32, &str); 5] = [
    (13, "SELECT lo_from_bytea(0, convert_to('object ' || n, 'UTF8')) FROM generate_series(1, 20) n"),
    (14, "CREATE TABLE spans (s int4multirange); INSERT INTO spans VALUES ('{[1,3), [7,9)}')"),
    (15, "CREATE TABLE once (n int, UNIQUE NULLS NOT DISTINCT (n)); INSERT INTO once VALUES (NULL), (1)"),
    (16, "CREATE TABLE packed (t text STORAGE EXTERNAL); INSERT INTO packed VALUES (repeat('x', 9000))"),
    (
        18,
        "CREATE TABLE doubled (n int, twice int GENERATED ALWAYS AS (n * 2) VIRTUAL, CHECK (n > 0) NOT ENFORCED);
         INSERT INTO doubled VALUES (-1), (2); ALTER TABLE doubled ADD CONSTRAINT given NOT NULL n NOT VALID",
    ),
];

/// Fills a database with a bit of everything that a server of this version has.
fn fill(cluster: &Cluster, place: &Place, major: u32) -> String {
    let database = cluster.fresh_database();
    cluster.psql("postgres", "CREATE ROLE objects_app; CREATE ROLE \"objects – \"\"owner\"\"\"");
    if major >= 17 {
        // A locale that only such a server can have.
        cluster.psql("postgres", &format!("DROP DATABASE {database}"));
        cluster.psql(
            "postgres",
            &format!("CREATE DATABASE {database} TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"),
        );
    }
    let objects = place.put("objects.sql", include_str!("objects.sql").as_bytes());
    cluster.psql_file(&database, &objects);
    for (_, sql) in NEW_IN.iter().filter(|(since, _)| *since <= major) {
        cluster.psql(&database, sql);
    }
    cluster.psql("postgres", &format!("ALTER DATABASE {database} SET work_mem = '7MB'"));
    cluster.psql("postgres", &format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC"));
    database
}

/// Backs up, proves, restores in place, and compares.
fn comes_back(server: u32, client: u32) {
    let (cluster, place) = server_and_place(server, client);
    place.init();
    let check = place.pgkeep(&["check"]);
    // A machine with little room is warned.
    assert!([0, 3].contains(&check.code), "{}{}", check.stdout, check.stderr);
    let database = fill(&cluster, &place, server);
    let before = cluster.dump_with_create(&database);
    place.backup(&database);
    place.pgkeep(&["verify", "--deep"]).ok();
    place.pgkeep(&["restore", "latest", "--yes", "--drop-old"]).ok();
    let after = cluster.dump_with_create(&database);
    let differing = before.lines().zip(after.lines()).filter(|(one, other)| one != other).take(10);
    let shown: Vec<String> = differing.map(|(one, other)| format!("< {one}\n> {other}")).collect();
    assert!(before == after, "the dump differs:\n{}", shown.join("\n"));
    let report = place.pgkeep(&["--output", "json", "show", "latest"]).ok().json();
    let version = report["postgres_version"].as_str().expect("a version");
    assert!(version.starts_with(&format!("{server}.")), "{version}");
}

#[test]
fn postgresql_14_comes_back() {
    comes_back(14, 14);
}

#[test]
fn postgresql_16_comes_back() {
    comes_back(16, 16);
}

#[test]
fn postgresql_17_comes_back() {
    comes_back(17, 17);
}

#[test]
fn postgresql_18_comes_back() {
    comes_back(18, 18);
}

/// Archives, backs the cluster up, and recovers it to a point in time, with this version's own programs as judges.
fn a_point_in_time_comes_back(version: u32) {
    let options = [("archive_mode", "on"), ("archive_command", "/bin/false")];
    let archiving =
        Archiving::on(Cluster::of_made_with(bindir(version), &["--wal-segsize=1", "-k"], &options));
    archiving.place.set("BACKUP_PG_BINDIR", &bindir(version).display().to_string());
    archiving.begin();
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    let report = pitr::backup(&archiving);
    archiving.cluster.psql("postgres", "INSERT INTO t VALUES (4711)");
    let before = pitr::now(&archiving.cluster);
    archiving.cluster.psql("postgres", "DELETE FROM t");
    archiving.archive();
    archiving.place.pgkeep(&["list", "--recoverable"]).ok();
    let server = pitr::recover(&archiving, &["--target-time", &before]);
    assert_eq!(server.psql("postgres", "SELECT count(*), max(n) FROM t"), "1001|4711");
    server.psql("postgres", "CREATE EXTENSION amcheck");
    let checked = run(server.client("pg_amcheck").args(["-d", "postgres", "--heapallindexed"]));
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    let directory = pitr::fresh();
    pitr::restore(&archiving, &directory, &["--mode", "full"]).ok();
    let mut verify = ordinary(bindir(version).join("pg_verifybackup"));
    let verified = run(verify.arg("-n").arg(directory.join("data")));
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    let control = run(ordinary(bindir(version).join("pg_controldata")).arg(directory.join("data")));
    assert!(control.ok().stdout.contains("Database system identifier"));
    assert_eq!(report["damaged_pages"], serde_json::Value::Null);
}

#[test]
fn postgresql_14_is_recovered_to_a_point_in_time() {
    a_point_in_time_comes_back(14);
}

#[test]
fn postgresql_16_is_recovered_to_a_point_in_time() {
    a_point_in_time_comes_back(16);
}

#[test]
fn postgresql_17_is_recovered_to_a_point_in_time() {
    a_point_in_time_comes_back(17);
}

#[test]
fn postgresql_18_is_recovered_to_a_point_in_time() {
    a_point_in_time_comes_back(18);
}

#[test]
fn a_newer_client_backs_up_and_restores_an_older_server() {
    // 17 was the first whose pg_restore sets what an older server does not know, and 16 the last before.
    comes_back(14, 16);
    comes_back(14, 18);
}

#[test]
fn what_a_newer_client_cannot_restore_onto_an_older_server_is_still_told() {
    let (cluster, place) = server_and_place(14, 18);
    place.init();
    cluster.psql("postgres", "CREATE ROLE going");
    let database = cluster.fresh_shop();
    cluster.psql(&database, "ALTER TABLE orders OWNER TO going");
    place.backup(&database);
    cluster.psql(&database, "ALTER TABLE orders OWNER TO postgres; DROP ROLE going");
    let run = place.pgkeep(&["restore", "latest", "--yes"]).fails_with(30);
    assert!(run.stderr.contains("role \"going\" does not exist"), "{}", run.stderr);
    assert!(!run.stderr.contains("transaction_timeout"), "{}", run.stderr);
    // The one in use is as it was.
    assert_eq!(cluster.psql(&database, "SELECT count(*) FROM orders"), "1000");
    assert_eq!(cluster.databases_like(&database), [database]);
}

#[test]
fn a_foreign_key_that_is_not_enforced_holds_up_no_merge() {
    let (cluster, place) = server_and_place(18, 18);
    place.init();
    let database = cluster.fresh_database();
    for (name, value) in
        [("PGDATABASE", database.as_str()), ("TENANT_MODE", "schema"), ("TENANT_PATTERN", "t_*")]
    {
        place.set(name, value);
    }
    cluster.psql(
        &database,
        "CREATE SCHEMA t_1; CREATE TABLE t_1.a (id int PRIMARY KEY);
         CREATE TABLE t_1.b (id int PRIMARY KEY, a int REFERENCES t_1.a NOT ENFORCED);
         INSERT INTO t_1.b VALUES (1, 7), (2, 8)",
    );
    place.pgkeep(&["backup", "tenant", "1"]).ok();
    cluster.psql(&database, "DELETE FROM t_1.b WHERE id = 2");
    place.pgkeep(&["restore", "--tenant", "1", "--mode", "merge", "--yes"]).ok();
    assert_eq!(cluster.psql(&database, "SELECT count(*) FROM t_1.b"), "2");
}

#[test]
fn a_client_older_than_the_server_is_refused() {
    let (cluster, place) = server_and_place(18, 17);
    place.init();
    let database = cluster.fresh_shop();
    let run = place.pgkeep(&["backup", "database", &database]).fails_with(30);
    assert!(run.stderr.contains("pg_dump is version 17.11, older than the server's 18"), "{}", run.stderr);
    assert!(
        run.stderr.contains("hint: Point BACKUP_PG_BINDIR to the programs of PostgreSQL 18"),
        "{}",
        run.stderr
    );
    assert_eq!(place.backups(), Vec::<std::path::PathBuf>::new());
    let run = place.pgkeep(&["check"]).fails_with(30);
    assert!(run.stdout.contains("older than the server's 18"), "{}", run.stdout);
}

#[test]
fn a_dump_of_a_newer_server_is_not_restored_onto_an_older_one_by_a_program_that_cannot_read_it() {
    let (newer, place) = server_and_place(18, 18);
    place.init();
    let database = newer.fresh_shop();
    place.backup(&database);
    let older = cluster();
    place.set("PGHOST", &older.socket_dir.display().to_string());
    place.set("BACKUP_PG_BINDIR", &older.bindir.display().to_string());
    let run = place.pgkeep(&["restore", "latest", "--to-database", "from_18", "--yes"]);
    assert_ne!(run.code, 0);
    assert!(!run.stderr.contains("unsupported version"), "{}", run.stderr);
    assert!(run.stderr.contains("hint: "), "{}", run.stderr);
    assert!(older.databases_like("from_18").is_empty());
}

#[test]
fn the_rows_of_an_extension_that_lie_in_pg_catalog_come_back() {
    // Only 18 and newer find extensions elsewhere than in their own directory.
    let place = Place::new();
    let share = place.path("share");
    let directory = share.join("extension");
    std::fs::create_dir_all(&directory).unwrap();
    for directory in [&place.directory, &share, &directory] {
        set_mode(directory, 0o755);
    }
    std::fs::write(directory.join("settled.control"), "default_version = '1'\n").unwrap();
    std::fs::write(
        directory.join("settled--1.sql"),
        "CREATE TABLE settled (n int); ALTER TABLE settled SET SCHEMA pg_catalog;
         SELECT pg_extension_config_dump('pg_catalog.settled', '');",
    )
    .unwrap();
    let path = format!("{}:$system", share.display());
    let cluster = Cluster::of(bindir(18), &[("extension_control_path", &path)]);
    let place = Place::on(&cluster);
    place.set("BACKUP_PG_BINDIR", &cluster.bindir.display().to_string());
    place.init();
    let database = cluster.fresh_database();
    cluster.psql(&database, "CREATE EXTENSION settled; INSERT INTO settled SELECT generate_series(1, 7)");
    place.backup(&database);
    let report = place.pgkeep(&["--output", "json", "show", "latest"]).ok().json();
    let table = &report["tables"][0];
    assert_eq!((&table["schema"], &table["rows"]), (&"pg_catalog".into(), &7.into()), "{report}");
    place.pgkeep(&["restore", "latest", "--yes", "--drop-old"]).ok();
    assert_eq!(cluster.psql(&database, "SELECT count(*) FROM settled"), "7");
}

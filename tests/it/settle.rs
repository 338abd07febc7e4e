//! Clearing up after runs that died when the settings have changed since: another server, another scratch directory,
//! another host, another cluster's name.

use std::fs;
use std::time::{Duration, SystemTime};

use rusqlite::params;

use crate::support::faults::{
    assert_no_survivors, contents, databases_beginning, fresh_large, last_restore, leftovers, stopped_at,
};
use crate::support::{Cluster, Place, cluster, set_mode, unique};

/// Has a place talk to this server.
fn point_to(place: &Place, cluster: &Cluster) {
    place.set("PGHOST", &cluster.socket_dir.display().to_string());
}

#[test]
fn a_restore_that_died_on_another_server_is_settled_when_that_one_is_back() {
    let (one, other) = (cluster(), Cluster::own(&[]));
    let database = one.fresh_shop();
    let before = one.dump(&database);
    let place = Place::ready();
    place.backup(&database);
    stopped_at(&place, &["restore", "latest", "--yes"], "RestoreLoaded", "kill").ended_with(137);
    assert_no_survivors(&place);
    let staging = databases_beginning(one, &format!("{database}_restore_"));
    assert_eq!(staging.len(), 1);

    // On the other server nothing is there, and that says nothing.
    point_to(&place, &other);
    let first = place.pgkeep(&["verify"]).ok();
    assert!(first.stderr.contains("died on another server than the settings name now"), "{}", first.stderr);
    assert!(first.stderr.contains(&staging[0]), "{}", first.stderr);
    assert_eq!(last_restore(&place).0, "died");
    let second = place.pgkeep(&["verify"]).ok();
    assert!(!second.stderr.contains("another server"), "said once is enough: {}", second.stderr);
    let loud = place.pgkeep(&["--verbose", "verify"]).ok();
    assert!(loud.stderr.contains("another server"), "{}", loud.stderr);
    assert_eq!(databases_beginning(one, &format!("{database}_restore_")), staging);

    point_to(&place, one);
    let third = place.pgkeep(&["verify"]).ok();
    assert!(
        third.stderr.contains(&format!("dropped the unfinished database \"{}\"", staging[0])),
        "{}",
        third.stderr
    );
    assert_eq!(one.databases_like(&database), std::slice::from_ref(&database));
    assert_eq!(one.dump(&database), before);
    let (state, message) = last_restore(&place);
    assert_eq!(
        (state.as_str(), message.as_str()),
        ("died", "ended without a word; its unfinished database was dropped")
    );
    let fourth = place.pgkeep(&["--verbose", "verify"]).ok();
    assert!(!fourth.stderr.contains("restore"), "{}", fourth.stderr);
}

#[test]
fn a_restore_that_died_after_the_swap_is_found_done_also_by_way_of_another_server() {
    let (one, other) = (cluster(), Cluster::own(&[]));
    let database = one.fresh_shop();
    let place = Place::ready();
    place.backup(&database);
    stopped_at(&place, &["restore", "latest", "--yes"], "RestoreSwapped", "kill").ended_with(137);
    point_to(&place, &other);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(last_restore(&place).0, "died", "as far as anybody can tell there");
    point_to(&place, one);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(last_restore(&place).0, "done");
}

#[test]
fn a_restore_beside_that_died_after_the_swap_is_done() {
    let cluster = cluster();
    let database = fresh_large(cluster);
    let place = Place::ready();
    place.backup(&database);
    let copy = format!("{database}_copy");
    stopped_at(&place, &["restore", "latest", "--to-database", &copy], "RestoreSwapped", "kill")
        .ended_with(137);
    assert_eq!(contents(cluster, &copy), contents(cluster, &database));
    let next = place.pgkeep(&["verify"]).ok();
    assert!(next.stderr.contains("died after the restored database was in its place"), "{}", next.stderr);
    assert_eq!(last_restore(&place).0, "done");
    assert_eq!(contents(cluster, &copy), contents(cluster, &database), "it stays");

    // Another database that has come to bear the name is not the restored one.
    let third = format!("{database}_third");
    stopped_at(&place, &["restore", "latest", "--to-database", &third], "RestoreSwapped", "kill")
        .ended_with(137);
    cluster.psql("postgres", &format!("DROP DATABASE {third}"));
    cluster.create_database(&third);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(last_restore(&place).0, "died");
    assert!(cluster.databases().contains(&third), "somebody else's database stays");
}

#[test]
fn a_database_that_was_gone_and_is_back_when_its_restore_dies_is_done() {
    let cluster = cluster();
    let database = fresh_large(cluster);
    let place = Place::ready();
    place.backup(&database);
    let before = contents(cluster, &database);
    cluster.psql("postgres", &format!("DROP DATABASE {database}"));
    stopped_at(&place, &["restore", "latest", "--yes"], "RestoreSwapped", "kill").ended_with(137);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(last_restore(&place).0, "done");
    assert_eq!(contents(cluster, &database), before);
}

#[test]
fn a_log_that_cannot_be_written_after_the_swap_does_not_hide_that_it_was_restored() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    place.backup(&database);
    place.catalog(
        "CREATE TRIGGER refuse BEFORE UPDATE OF state ON restore_log BEGIN SELECT RAISE(FAIL, 'no'); END",
    );
    let run = place.pgkeep(&["--output", "json", "restore", "latest", "--yes"]).fails_with(3).json();
    let warning = run["warnings"][0].as_str().expect("a warning");
    assert!(warning.starts_with("the restored database is in its place; write down how"), "{warning}");
    assert!(cluster.databases().contains(&run["kept_as"].as_str().expect("a name").to_owned()));
    place.catalog("DROP TRIGGER refuse");
    place.pgkeep(&["verify"]).ok();
    assert_eq!(last_restore(&place).0, "done");
}

#[test]
fn scratch_files_of_a_dead_run_are_found_where_they_were() {
    let cluster = cluster();
    let database = fresh_large(cluster);
    let place = Place::new();
    place.set("BACKUP_VOLUME_SIZE", "1M");
    place.set("BACKUP_SCRATCH_DIR", &place.path("then").display().to_string());
    place.init();
    stopped_at(&place, &["backup", "database", &database], "BackupVolumeStored", "kill").ended_with(137);
    assert_no_survivors(&place);
    assert!(place.files("then").iter().any(|name| name.starts_with("run-")), "{:?}", place.files("then"));
    assert!(!place.files("store/.staging").is_empty());

    place.set("BACKUP_SCRATCH_DIR", &place.path("now").display().to_string());
    place.pgkeep(&["verify"]).ok();
    assert_eq!(place.files("then"), [""; 0]);
    assert_eq!(leftovers(&place), [""; 0]);
}

#[test]
fn another_clusters_name_is_refused_and_no_backup_is_called_missing() {
    let place = Place::ready();
    let database = cluster().fresh_shop();
    let backup = place.backup(&database);
    place.set("BACKUP_CLUSTER", "other");
    for command in [
        &["verify"][..],
        &["list"],
        &["show", "latest"],
        &["backup", "database", &database],
        &["restore", "latest", "--yes"],
        &["catalog", "check"],
        &["catalog", "rebuild"],
        &["init"],
    ] {
        insta::assert_snapshot!("another_cluster", place.pgkeep(command).fails_with(5).message());
    }
    let checked = place.pgkeep(&["check"]).ended_with(5);
    assert!(checked.stdout.contains("is that of the cluster test"), "{}", checked.stdout);
    place.set("BACKUP_CLUSTER", "test");
    place.pgkeep(&["verify", &backup]).ok();
    assert_eq!(place.catalog("SELECT DISTINCT state FROM copies"), [["good"]]);
    assert!(!place.store().join("other").exists(), "nothing was made under the other name");
}

#[test]
fn a_name_that_was_misspelt_at_first_can_be_corrected_while_nothing_is_there() {
    let place = Place::new();
    place.set("BACKUP_CLUSTER", "mian");
    place.init();
    place.set("BACKUP_CLUSTER", "main");
    place.init();
    place.backup(&cluster().fresh_shop());
    place.set("BACKUP_CLUSTER", "mian");
    place.pgkeep(&["init"]).fails_with(5);
}

#[test]
fn a_dead_first_backup_is_cleared_up_under_its_own_name() {
    let database = fresh_large(cluster());
    let place = Place::ready();
    stopped_at(&place, &["backup", "database", &database], "BackupVolumesStored", "kill").ended_with(137);
    assert_no_survivors(&place);
    place.set("BACKUP_CLUSTER", "other");
    place.pgkeep(&["verify"]).fails_with(5);
    place.set("BACKUP_CLUSTER", "test");
    assert_eq!(place.backups().len(), 1);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(leftovers(&place), [""; 0]);
    assert!(place.backups().is_empty());
}

/// Another state directory with the same store, as another host would have it.
fn second_host(place: &Place) -> Place {
    let second = Place::new();
    second.set("BACKUP_LOCAL_DIR", &place.store().display().to_string());
    second.init();
    second
}

/// Makes everything in a backup's directory as old as this.
fn age(place: &Place, by: Duration) {
    for object in fs::read_dir(&place.backups()[0]).unwrap() {
        let file = fs::File::options().write(true).open(object.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }
}

#[test]
fn a_backup_that_another_host_is_making_is_nothing_left_behind_for_a_day() {
    let database = fresh_large(cluster());
    let place = Place::ready();
    stopped_at(&place, &["backup", "database", &database], "BackupVolumesStored", "kill").ended_with(137);
    let second = second_host(&place);

    let run = second.pgkeep(&["verify"]).ok();
    assert!(run.stdout.contains("unfinished: all of"), "{}", run.stdout);
    assert!(run.stdout.contains("perhaps being made by another host"), "{}", run.stdout);
    age(&place, Duration::from_hours(23));
    let report = second.pgkeep(&["--output", "json", "verify"]).ok().json();
    assert_eq!(report["findings"][0]["state"], "unfinished");

    age(&place, Duration::from_hours(25));
    let run = second.pgkeep(&["verify"]).ended_with(3);
    assert!(run.stdout.contains("left behind by a backup that did not come to its end"), "{}", run.stdout);
    assert_eq!(place.backups().len(), 1, "verify removes nothing that may be another's");
    // One that is complete is taken in, however young it is.
    place.backup(&database);
    let run = second.pgkeep(&["verify"]).ended_with(3);
    assert!(run.stdout.contains("`pgkeep catalog rebuild` takes it in"), "{}", run.stdout);
}

#[test]
fn a_catalog_of_the_first_schema_is_settled_as_before() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    let backup = place.backup(&database);
    let staging = format!("{database}_restore_00000001");
    cluster.create_database(&staging);
    // What a pgkeep of then knew of a restore that died.
    let catalog = rusqlite::Connection::open(place.state().join("catalog.sqlite")).unwrap();
    catalog
        .execute(
            "INSERT INTO restore_log (backup_id, initiated_by, restore_mode, target_database, staging_database,
                                      started_at)
             VALUES (?1, 'ada', 'full', ?2, ?3, '2026-11-22T02:00:00.000Z')",
            params![backup, database, staging],
        )
        .unwrap();
    catalog
        .execute_batch(
            "ALTER TABLE restore_log DROP COLUMN database_oid; ALTER TABLE restore_log DROP COLUMN system_identifier;
             ALTER TABLE runs DROP COLUMN scratch_directory; ALTER TABLE runs DROP COLUMN staging_directory;
             ALTER TABLE runs DROP COLUMN unsettled;
             ALTER TABLE backups DROP COLUMN consistent_at; ALTER TABLE backups DROP COLUMN timeline;
             ALTER TABLE backups DROP COLUMN start_lsn; ALTER TABLE backups DROP COLUMN stop_lsn;
             DROP INDEX backups_of_tenants; ALTER TABLE backups DROP COLUMN before_restore;
             ALTER TABLE backups DROP COLUMN wal_segment_size; ALTER TABLE backups DROP COLUMN damaged_pages;
             ALTER TABLE restore_log DROP COLUMN target_directory; DROP TABLE timelines;
             DROP INDEX wal_segments_not_good;
             DROP INDEX backups_kept; ALTER TABLE backups DROP COLUMN kept_at; ALTER TABLE backups DROP COLUMN kept_by;
             ALTER TABLE backups DROP COLUMN kept_reason; ALTER TABLE backups DROP COLUMN deleted_at;
             ALTER TABLE backups DROP COLUMN deleted_reason; ALTER TABLE backups DROP COLUMN unkept_at;
             DROP TABLE wal_deleted;
             DROP INDEX restore_log_tests; ALTER TABLE restore_log DROP COLUMN purpose;
             ALTER TABLE restore_log DROP COLUMN store; ALTER TABLE restore_log DROP COLUMN phases;
             ALTER TABLE restore_log DROP COLUMN bytes_fetched; ALTER TABLE restore_log DROP COLUMN wal_segments;
             ALTER TABLE restore_log DROP COLUMN target_schema; ALTER TABLE restore_log DROP COLUMN schema_oid;
             ALTER TABLE restore_log DROP COLUMN previous_schema;
             DROP TABLE deliveries; DROP TABLE store_usage; DROP INDEX alerts_open; DROP INDEX alerts_by_time;
             ALTER TABLE alerts DROP COLUMN subject; ALTER TABLE alerts DROP COLUMN last_seen_at;
             ALTER TABLE alerts DROP COLUMN times; ALTER TABLE alerts DROP COLUMN closed_at;
             ALTER TABLE alerts DROP COLUMN closed_message; ALTER TABLE alerts DROP COLUMN acknowledged_by;
             ALTER TABLE alerts DROP COLUMN note; ALTER TABLE alerts DROP COLUMN run_id;
             ALTER TABLE runs DROP COLUMN priority; ALTER TABLE runs DROP COLUMN waited_seconds;
             ALTER TABLE runs DROP COLUMN job_id;
             DROP INDEX runs_quiet; ALTER TABLE runs DROP COLUMN quiet; ALTER TABLE jobs DROP COLUMN directory;
             DROP TABLE wal_seen; DROP TABLE certificates;
             DROP INDEX backups_key; ALTER TABLE backups DROP COLUMN key; DROP TABLE wal_keys;
             DROP TRIGGER wal_sums_insert; DROP TRIGGER wal_sums_update; DROP TRIGGER wal_sums_delete;
             DROP TABLE wal_blocks; DROP TABLE wal_hours;
             DROP TABLE cluster; PRAGMA user_version = 1",
        )
        .unwrap();
    drop(catalog);
    place.pgkeep(&["verify"]).ok();
    assert!(!cluster.databases().contains(&staging));
    assert_eq!(place.catalog("SELECT name FROM cluster"), [["test"]]);
    assert_eq!(last_restore(&place).0, "died");
}

#[test]
fn a_statement_that_fails_in_the_checks_replaces_nothing() {
    let cluster = cluster();
    let database = cluster.fresh_shop();
    let place = Place::ready();
    place.backup(&database);
    let before = cluster.dump(&database);
    let directory = place.path("bin");
    fs::create_dir(&directory).unwrap();
    set_mode(&directory, 0o755);
    for (damage, words, code) in [
        ("DROP TABLE orders", "orders", 4),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $q$items_pkey$q$::regclass",
            "items_pkey is not valid",
            4,
        ),
        ("ALTER TABLE items ADD CONSTRAINT doubted CHECK (true) NOT VALID", "doubted is not valid", 4),
        ("ALTER TABLE tenants RENAME COLUMN id TO number; DROP TABLE items", "items", 4),
    ] {
        let script = format!(
            "#!/bin/bash\nreal={}\n[[ $* == *--exit-on-error* ]] || exec \"$real/pg_restore\" \"$@\"\n\
             \"$real/pg_restore\" \"$@\" && exec \"$real/psql\" -Xqc '{damage}'\n",
            cluster.bindir.display()
        );
        let program = directory.join("pg_restore");
        fs::write(&program, script).unwrap();
        set_mode(&program, 0o755);
        place.set("BACKUP_PG_BINDIR", &directory.display().to_string());
        for arguments in [&["--yes"][..], &["--yes", "--terminate", "--drop-old"]] {
            let run = place.pgkeep(&[&["restore", "latest"], arguments].concat()).fails_with(code);
            assert!(run.stderr.contains(words) && run.stderr.contains("hint: "), "{}", run.stderr);
            assert_eq!(cluster.databases_like(&database), std::slice::from_ref(&database));
            assert_eq!(cluster.dump(&database), before);
            assert_eq!(last_restore(&place).0, "failed");
            assert_eq!(leftovers(&place), [""; 0]);
        }
    }
}

#[test]
fn a_user_who_may_connect_to_pgdatabase_alone_can_initialise_back_up_and_restore() {
    let own = Cluster::own(&[]);
    let database = own.fresh_shop();
    let role = format!("narrow_{}", unique());
    own.create_database("home");
    own.psql(
        "postgres",
        &format!(
            "CREATE ROLE {role} LOGIN CREATEDB BYPASSRLS; GRANT pg_read_all_data TO {role};
             GRANT EXECUTE ON FUNCTION pg_control_system() TO {role};
             REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC"
        ),
    );
    let place = Place::on(&own);
    place.set("PGUSER", &role);
    place.set("PGDATABASE", "home");
    place.init();
    place.backup(&database);
    let copy = format!("{database}_copy");
    let arguments = ["restore", "latest", "--no-owner", "--no-privileges", "--to-database", &copy];
    place.pgkeep(&arguments).ok();
    assert_eq!(own.psql(&copy, "SELECT count(*) FROM orders"), "1000");

    // Not through the very database that is to be replaced: it could not be renamed then.
    place.set("PGDATABASE", &copy);
    place.backup(&copy);
    let run = place.pgkeep(&["restore", "latest", "--database", &copy, "--no-owner", "--yes"]).fails_with(30);
    assert!(run.stderr.contains("permission denied for database"), "{}", run.stderr);
    assert_eq!(own.databases_like(&copy), std::slice::from_ref(&copy));
}

//! A restore over something that is there: it must neither take what is in use, nor lose what lies nowhere else; and what of a
//! data directory a copy must not take over from the original.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::pitr::{backup, fresh, recover, restore, until_promoted};
use crate::pitr_faults::{archive_on, takes_over};
use crate::support::dialog::{Dialog, ENTER};
use crate::support::faults::{stopped_at, wait_for};
use crate::support::{Archiving, Cluster, base, give, ordinary, run, set_mode, unique};

#[test]
fn a_restore_that_is_cut_off_can_be_started_on_by_nobody_and_is_begun_again_with_force() {
    let archiving = Archiving::ready();
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    backup(&archiving);
    archiving.archive();
    for step in ["RestoreBegun", "DirectoryBegun", "DirectoryFilled", "DirectoryWhole"] {
        for how in ["kill", "fail", "term", "int"] {
            let directory = fresh();
            let data = directory.join("data");
            let arguments = ["restore", "latest", "--to-dir", data.to_str().unwrap()];
            let run = stopped_at(&archiving.place, &arguments, step, how);
            // A signal that comes while the directory is flushed does not hinder that: then it is whole, and 0 says so.
            let is_signal = ["term", "int"].contains(&how);
            let is_done = is_signal && ["DirectoryFilled", "DirectoryWhole"].contains(&step);
            let expected = match how {
                "kill" => 137,
                "fail" => 70,
                _ if is_done => 0,
                _ => 130,
            };
            assert_eq!(run.code, expected, "{step}:{how}: {}", run.stderr);
            let is_whole = is_done || step == "DirectoryWhole";
            assert_eq!(data.join("global/pg_control").exists(), is_whole, "{step}:{how}");
            if step != "RestoreBegun" {
                restore(&archiving, &directory, &[]).fails_with(5);
            }
            // A directory on which a server can start is not emptied without a yes.
            let run = restore(&archiving, &directory, &["--force"]);
            if is_whole {
                run.fails_with(5);
                restore(&archiving, &directory, &["--force", "--yes"]).ok();
            } else {
                run.ok();
            }
            assert!(!data.join("pgkeep.restore").exists());
            let server = Cluster::around(directory, archiving.cluster.bindir.clone());
            server.start_again();
            until_promoted(&server);
            assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "1000", "{step}:{how}");
        }
    }
}

#[test]
fn while_somebody_is_asked_others_restore_and_then_it_is_looked_at_again_what_is_there() {
    let archiving = Archiving::ready();
    backup(&archiving);
    archiving.archive();
    let directory = fresh();
    let data = directory.join("data");
    let shown = data.to_str().unwrap();
    restore(&archiving, &directory, &[]).ok();
    let arguments = ["restore", "latest", "--to-dir", shown, "--force"];
    let mut dialog = Dialog::start(&archiving.place, 200, &[], &arguments);
    dialog.expect("Type the directory to go on: ");
    restore(&archiving, &fresh(), &["--wait", "0"]).ok();
    fs::rename(&data, directory.join("moved")).unwrap();
    fs::create_dir(&data).unwrap();
    give(&data);
    fs::write(data.join("mine"), "").unwrap();
    dialog.keys(shown).keys(ENTER);
    let (code, text) = dialog.end();
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("isnotempty,andnodatadirectory"), "{text}");
    assert!(data.join("mine").exists());
}

#[test]
fn nothing_that_is_in_use_or_somebody_elses_is_replaced() {
    let archiving = Archiving::ready();
    backup(&archiving);
    archiving.archive();
    let over = |path: &Path, arguments: &[&str]| {
        let all = [&["restore", "latest", "--to-dir", path.to_str().unwrap(), "--yes"], arguments].concat();
        archiving.place.pgkeep(&all)
    };
    let run = over(archiving.cluster.data(), &["--force"]).fails_with(5);
    assert!(run.stderr.contains("a server runs on"), "{}", run.stderr);
    let other = Cluster::own(&[]);
    other.shut_down();
    let run = over(other.data(), &["--force"]).fails_with(5);
    assert!(run.stderr.contains("another cluster"), "{}", run.stderr);
    other.start_again();
    let strange = fresh();
    fs::write(strange.join("notes.txt"), "mine").unwrap();
    over(&strange, &["--force"]).fails_with(5);
    assert_eq!(fs::read_to_string(strange.join("notes.txt")).unwrap(), "mine");
    // A stopped one of this cluster needs --force and a yes.
    archiving.cluster.shut_down();
    over(archiving.cluster.data(), &[]).fails_with(5);
    over(archiving.cluster.data(), &["--force"]).ok();
}

#[test]
fn wal_that_was_not_archived_outlives_the_server_that_is_replaced() {
    let archiving = Archiving::ready();
    backup(&archiving);
    archiving.archive();
    archiving.cluster.psql("postgres", "CREATE TABLE last AS SELECT 4711 AS n");
    // The server dies; its last segment was never finished, and lies nowhere else.
    archiving.cluster.stop();
    let data = archiving.cluster.data().to_path_buf();
    let over = ["restore", "latest", "--to-dir", data.to_str().unwrap(), "--force", "--yes"];
    for step in ["DirectoryBegun", "DirectoryFilled"] {
        assert_ne!(stopped_at(&archiving.place, &over, step, "kill").code, 0);
    }
    let done = archiving.place.pgkeep(&over).ok();
    let kept: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
    let kept: Vec<_> =
        kept.iter().filter(|path| path.to_str().unwrap().contains("/pgkeep-pg_wal-")).collect();
    let [kept] = kept.as_slice() else { panic!("{kept:?}\n{}", done.stdout) };
    assert!(done.stdout.contains(kept.to_str().unwrap()), "{}", done.stdout);
    let files = fs::read_dir(kept).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let copied = run(ordinary("cp").args(files).arg(data.join("pg_wal")));
    assert_eq!(copied.code, 0, "{}", copied.stderr);
    archiving.cluster.start_again();
    until_promoted(&archiving.cluster);
    assert_eq!(archiving.cluster.psql("postgres", "TABLE last"), "4711");
}

#[test]
fn a_server_that_runs_is_never_emptied_even_when_an_interrupted_restore_left_its_mark() {
    let archiving = Archiving::ready();
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT 1 AS n");
    backup(&archiving);
    archiving.archive();
    let directory = fresh();
    let data = directory.join("data");
    let arguments = ["restore", "latest", "--to-dir", data.to_str().unwrap(), "--keep-archiving"];
    assert_ne!(stopped_at(&archiving.place, &arguments, "DirectoryWhole", "kill").code, 0);
    let server = Cluster::around(directory.clone(), archiving.cluster.bindir.clone());
    server.start_again();
    until_promoted(&server);
    assert!(data.join("pgkeep.restore").exists());
    let run = restore(&archiving, &directory, &["--force", "--yes"]).fails_with(5);
    assert!(run.stderr.contains("a server runs on"), "{}", run.stderr);
    assert_eq!(server.psql("postgres", "TABLE t"), "1");
    // The mark is no part of a backup.
    takes_over(&archiving, &server);
    backup(&archiving);
    archive_on(&archiving, &server);
    let third = recover(&archiving, &[]);
    assert_eq!(third.psql("postgres", "TABLE t"), "1");
}

#[test]
fn a_server_in_a_container_may_still_run_and_a_boot_ago_it_did_not() {
    let archiving = Archiving::ready();
    backup(&archiving);
    archiving.archive();
    archiving.cluster.stop();
    let data = archiving.cluster.data().to_path_buf();
    let over = ["restore", "latest", "--to-dir", data.to_str().unwrap(), "--force", "--yes"];
    let lock = data.join("postmaster.pid");
    let written = |started: i64| {
        // No process of this machine has this number.
        fs::write(&lock, format!("4194399\n{}\n{started}\n5432\n/tmp\n\n", data.display())).unwrap();
    };
    written(chrono::Utc::now().timestamp());
    let run = archiving.place.pgkeep(&over).fails_with(5);
    assert!(run.stderr.contains("may run in a container") && run.stderr.contains("remove"), "{}", run.stderr);
    assert!(data.join("global/pg_control").exists());
    written(1_000_000_000);
    archiving.place.pgkeep(&over).ok();
}

#[test]
fn what_steers_the_original_does_not_steer_the_copy() {
    let marker = base().join(format!("ended{}", unique()));
    let command = format!("touch {}", marker.display());
    let archiving = Archiving::new(&[
        ("recovery_end_command", &command),
        ("recovery_min_apply_delay", "1h"),
        ("synchronous_standby_names", "nobody"),
        ("synchronous_commit", "local"),
    ]);
    archiving.begin();
    backup(&archiving);
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT 1 AS n");
    archiving.archive();
    let server = recover(&archiving, &[]);
    assert_eq!(server.psql("postgres", "TABLE t"), "1");
    assert_eq!(server.psql("postgres", "SHOW synchronous_standby_names"), "");
    assert!(!marker.exists(), "the original's command has run");
}

#[test]
fn a_copy_whose_settings_name_the_originals_directory_is_started_on_its_own() {
    let archiving = Archiving::ready();
    let data = archiving.cluster.data().to_path_buf();
    let config = data.join("postgresql.conf");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\ndata_directory = '{}'\n", data.display())).unwrap();
    backup(&archiving);
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT 1 AS n");
    archiving.archive();
    archiving.cluster.shut_down();
    let directory = fresh();
    let run = restore(&archiving, &directory, &["--start", "--port", "5444"]).ended_with(3);
    assert!(run.stdout.contains("data_directory"), "{}", run.stdout);
    assert!(run.stdout.contains("promoted"), "{}", run.stdout);
    assert!(!data.join("postmaster.pid").exists(), "the original was started");
    let copy = directory.join("data");
    let mut pg_ctl = ordinary(archiving.cluster.bindir.join("pg_ctl"));
    let stopped = crate::support::run(pg_ctl.args(["stop", "-s", "-D"]).arg(&copy));
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
}

#[test]
fn links_and_tablespaces_inside_of_the_data_directory_come_back() {
    let archiving = Archiving::new(&[]);
    archiving.begin();
    let data = archiving.cluster.data().to_path_buf();
    let inner = data.join("inner");
    fs::create_dir(&inner).unwrap();
    set_mode(&inner, 0o700);
    give(&inner);
    archiving
        .cluster
        .psql("postgres", &format!("CREATE TABLESPACE inner_one LOCATION '{}'", inner.display()));
    archiving
        .cluster
        .psql("postgres", "CREATE TABLE t TABLESPACE inner_one AS SELECT generate_series(1, 5000) AS n");
    // A directory that the server needs, elsewhere; and a link of somebody's.
    archiving.cluster.shut_down();
    let outside = base().join(format!("slots{}", unique()));
    fs::rename(data.join("pg_replslot"), &outside).unwrap();
    symlink(&outside, data.join("pg_replslot")).unwrap();
    symlink("/etc/hostname", data.join("notes")).unwrap();
    archiving.cluster.start_again();
    let run = archiving.place.pgkeep(&["backup", "cluster", "--fast"]).ended_with(3);
    assert!(run.stdout.contains("notes is left out"), "{}", run.stdout);
    archiving.archive();
    let directory = fresh();
    restore(&archiving, &directory, &[]).ok();
    let server = Cluster::around(directory.clone(), archiving.cluster.bindir.clone());
    server.start_again();
    until_promoted(&server);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "5000");
    let location = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'inner_one'";
    assert_eq!(server.psql("postgres", location), directory.join("data/inner").display().to_string());
    // A link that is no tablespace of the server's: the backup would not be whole.
    symlink("/nowhere", data.join("pg_tblspc/99999")).unwrap();
    let run = archiving.place.pgkeep(&["backup", "cluster", "--fast"]).fails_with(30);
    assert!(run.stderr.contains("pg_tblspc/99999"), "{}", run.stderr);
}

#[test]
fn group_rights_come_back() {
    let cluster = Cluster::made_with(
        &["--wal-segsize=1", "--allow-group-access"],
        &[("archive_mode", "on"), ("archive_command", "/bin/false")],
    );
    let archiving = Archiving::on(cluster);
    archiving.begin();
    backup(&archiving);
    archiving.archive();
    let directory = fresh();
    restore(&archiving, &directory, &[]).ok();
    let mode =
        |name: &str| fs::metadata(directory.join("data").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("postgresql.auto.conf"), mode("postgresql.conf"), mode("")), (0o640, 0o640, 0o750));
}

#[test]
fn a_standby_is_promoted_while_the_stores_are_away() {
    let archiving = Archiving::ready();
    archiving.cluster.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    backup(&archiving);
    archiving.archive();
    let directory = fresh();
    restore(&archiving, &directory, &["--standby"]).ok();
    let standby = Cluster::around(directory, archiving.cluster.bindir.clone());
    standby.start_again();
    wait_for("the standby to follow", || {
        (standby.psql("postgres", "SELECT pg_is_in_recovery() AND count(*) = 1000 FROM t") == "t")
            .then_some(())
    });
    archiving.cluster.stop();
    fs::rename(archiving.place.store(), archiving.place.path("burnt")).unwrap();
    standby.psql("postgres", "SELECT pg_promote(true, 60)");
    until_promoted(&standby);
    assert_eq!(standby.psql("postgres", "SELECT count(*) FROM t"), "1000");
    let timeline = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
    assert_eq!(standby.psql("postgres", timeline), "00000002", "{}", standby.log());
}

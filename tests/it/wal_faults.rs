//! What archiving and fetching must survive: clouds that are away, a catalog that is locked or broken, a full disk, a clone
//! that still archives, and kills at any moment.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::clouds::Cloud;
use crate::support::faults::SmallDisk;
use crate::support::proxy::{Fault, Rule};
use crate::support::s3::Options;
use crate::support::{Archiving, Cluster, Run, Running, base, give, pgkeep_binary, run, set_mode, unique};

/// With a local store and two clouds, initialised and archiving.
pub(crate) fn with_clouds() -> (Archiving, Cloud, Cloud) {
    let archiving = Archiving::new(&[]);
    let (r2, b2) = (Cloud::start(Options::default()), Cloud::start(Options::b2()));
    r2.is_r2_of(&archiving.place);
    b2.is_b2_of(&archiving.place);
    archiving.begin();
    (archiving, r2, b2)
}

/// The keys of WAL files in a cloud whose names begin so.
pub(crate) fn keys(cloud: &Cloud, name: &str) -> Vec<String> {
    let mut keys = cloud.bucket().keys();
    keys.retain(|key| key.starts_with("test/wal/") && key.contains(&format!("/{name}")));
    keys
}

pub(crate) fn path_of(archiving: &Archiving, name: &str) -> String {
    archiving.cluster.data().join("pg_wal").join(name).display().to_string()
}

pub(crate) fn push(archiving: &Archiving, name: &str) -> Run {
    archiving.place.pgkeep(&["--output", "json", "wal-push", &path_of(archiving, name)])
}

#[test]
fn a_cloud_that_is_away_neither_holds_up_nor_gaps_the_others_and_gets_its_copies_later() {
    let (archiving, r2, mut b2) = with_clouds();
    let first = archiving.archive();
    assert_eq!((keys(&r2, &first).len(), keys(&b2, &first).len()), (1, 1));
    b2.proxy.go_away();
    let begun = Instant::now();
    let names: Vec<String> = (0..5).map(|_| archiving.archive()).collect();
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
    for name in &names {
        assert_eq!((keys(&r2, name).len(), keys(&b2, name).len()), (1, 0), "{name}");
    }
    assert_eq!(archiving.cluster.psql("postgres", "SELECT failed_count FROM pg_stat_archiver"), "0");
    let owed = "SELECT count(*) FROM wal_segments WHERE store = 'b2' AND state = 'owed'";
    assert!(archiving.place.catalog(owed)[0][0].parse::<u32>().unwrap() >= 5);
    archiving.place.pgkeep(&["sync"]).ended_with(3);
    b2.proxy.come_back();
    let report = archiving.place.pgkeep(&["--output", "json", "sync"]).ok().json();
    assert!(report["wal"]["copies"].as_u64().unwrap() >= 5, "{report}");
    for name in names.iter().chain([&first]) {
        assert_eq!(keys(&b2, name), keys(&r2, name), "{name}");
    }
    assert_eq!(archiving.place.catalog(owed), [["0"]]);
    assert_eq!(archiving.place.pgkeep(&["--output", "json", "sync"]).ok().json()["wal"]["copies"], 0);
}

#[test]
fn a_cloud_that_says_nothing_at_all_costs_seconds_once_and_then_nothing() {
    let (archiving, _r2, b2) = with_clouds();
    b2.proxy.fail(Rule::new(Fault::Stall));
    let begun = Instant::now();
    archiving.archive();
    let first = begun.elapsed();
    assert!(first < Duration::from_secs(20), "{first:?}");
    let begun = Instant::now();
    archiving.archive();
    assert!(begun.elapsed() < Duration::from_secs(5), "left alone for a while: {:?}", begun.elapsed());
}

#[test]
fn with_too_few_stores_left_the_server_keeps_its_wal_and_nothing_is_lost() {
    let (archiving, mut r2, mut b2) = with_clouds();
    r2.proxy.go_away();
    b2.proxy.go_away();
    let name = archiving.switch();
    let run = push(&archiving, &name).fails_with(40);
    assert!(run.stderr.contains("1 of at least 2 stores"), "{}", run.stderr);
    assert!(Path::new(&path_of(&archiving, &name)).exists());
    r2.proxy.come_back();
    b2.proxy.come_back();
    push(&archiving, &name).ok();
    assert_eq!(
        keys(&r2, &name).len(),
        1,
        "tried again although it was left alone: nobody else could take it"
    );
}

#[test]
fn a_damaged_or_missing_copy_is_passed_over_and_healed() {
    let (archiving, r2, b2) = with_clouds();
    let name = archiving.archive();
    let bytes = fs::read(path_of(&archiving, &name)).unwrap();
    let key = keys(&r2, &name).remove(0);
    r2.bucket().damage(&key);
    b2.bucket().lose(&key);
    let wanted = archiving.place.path("wanted");
    let arguments = ["--output", "json", "wal-fetch", &name, wanted.to_str().unwrap()];
    let report = archiving.place.pgkeep(&arguments).ok().json();
    assert_eq!(report["store"], "local", "the order is r2, b2, local");
    assert_eq!(fs::read(&wanted).unwrap(), bytes);
    // What the stores list says who lacks it, and what only looks whole is found when it is read as a source.
    let place = &archiving.place;
    let old =
        format!("UPDATE wal_segments SET stored_at = '2026-01-01T00:00:00.000Z' WHERE segment = '{name}'");
    rusqlite::Connection::open(place.state().join("catalog.sqlite")).unwrap().execute(&old, []).unwrap();
    let verified = place.pgkeep(&["verify"]).fails_with(4);
    assert!(
        verified.stdout.contains(&format!("missing: WAL file {name} in store b2")),
        "{}",
        verified.stdout
    );
    place.pgkeep(&["sync"]).ok();
    assert_eq!(keys(&b2, &name), [key.as_str()], "healed");
    place.pgkeep(&["verify"]).ok();
    // Cut short by somebody, and put in its place again.
    r2.bucket().cut(&key, 5);
    let verified = place.pgkeep(&["verify"]).fails_with(4);
    assert!(
        verified.stdout.contains(&format!("damaged: WAL file {name} in store r2")),
        "{}",
        verified.stdout
    );
    place.pgkeep(&["sync"]).ok();
    place.pgkeep(&["verify"]).ok();
    assert_eq!(r2.bucket().read(&key), b2.bucket().read(&key));
    // All damaged: that is not "not there".
    for cloud in [&r2, &b2] {
        cloud.bucket().damage(&key);
    }
    fs::write(archiving.place.store().join(&key), "nothing").unwrap();
    archiving.place.pgkeep(&arguments).fails_with(200);
}

#[test]
fn a_catalog_that_is_locked_or_broken_keeps_no_wal_waiting_and_learns_of_it_later() {
    let archiving = Archiving::ready();
    let known = |name: &str| {
        let sql = format!("SELECT count(*) FROM wal_segments WHERE segment = '{name}' AND state = 'good'");
        archiving.place.catalog(&sql)[0][0].clone()
    };
    let path = archiving.place.state().join("catalog.sqlite");
    let locker = rusqlite::Connection::open(&path).unwrap();
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // What a run that was killed has torn takes nothing else with it.
    fs::write(archiving.place.state().join("archive/unrecorded.jsonl"), "{\"file\":\"0000").unwrap();
    let begun = Instant::now();
    let locked = archiving.archive();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    locker.execute_batch("ROLLBACK").unwrap();
    drop(locker);
    let after = archiving.archive();
    assert_eq!((known(&locked), known(&after)), ("1".to_owned(), "1".to_owned()));

    for ending in ["-wal", "-shm"] {
        let _ = fs::remove_file(archiving.place.state().join(format!("catalog.sqlite{ending}")));
    }
    fs::write(&path, vec![b'x'; 100_000]).unwrap();
    let broken = archiving.archive();
    fs::remove_file(&path).unwrap();
    let gone = archiving.archive();
    archiving.place.pgkeep(&["catalog", "rebuild"]).ok();
    for name in [&locked, &after, &broken, &gone] {
        assert_eq!(known(name), "1", "{name}");
    }
    assert_eq!(archiving.cluster.psql("postgres", "SELECT failed_count FROM pg_stat_archiver"), "0");
}

#[test]
fn a_full_disk_fails_the_command_and_loses_nothing() {
    let archiving = Archiving::ready();
    let name = archiving.archive();
    let next = archiving.switch();
    archiving.wait_for(&next);
    let disk = SmallDisk::mount(&archiving.place.path("small"), "2m");
    archiving.place.set("BACKUP_LOCAL_DIR", &archiving.place.path("small").display().to_string());
    archiving.place.set("BACKUP_STATE_DIR", &archiving.place.path("small/state").display().to_string());
    archiving.place.set("BACKUP_SCRATCH_DIR", &archiving.place.path("scratch").display().to_string());
    disk.run(&archiving.place.command(&["init"])).ok();
    disk.fill(64 * 1024);
    let copy = archiving.place.path("segments");
    fs::create_dir(&copy).unwrap();
    // Random, so that it does not fit: the name and the header are those of the real one.
    let mut bytes = fs::read(path_of(&archiving, &name)).unwrap();
    let mut state = 7_u64;
    for byte in &mut bytes[8192..] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    fs::write(copy.join(&name), &bytes).unwrap();
    set_mode(&copy, 0o755);
    give(&copy);
    let path = copy.join(&name).display().to_string();
    let run = disk.run(&archiving.place.command(&["wal-push", &path])).fails_with(40);
    assert!(run.stderr.contains("No space left"), "{}", run.stderr);
    assert!(!disk.files().iter().any(|file| file.contains("wal/0")), "{:?}", disk.files());
    disk.empty();
    disk.run(&archiving.place.command(&["wal-push", &path])).ok();
    assert!(disk.files().iter().any(|file| file.contains(&name)), "{:?}", disk.files());
    assert!(!disk.files().iter().any(|file| file.contains(".staging/wal/")), "{:?}", disk.files());
}

#[test]
fn a_full_disk_below_the_catalog_keeps_no_wal_waiting() {
    let archiving = Archiving::ready();
    let name = archiving.archive();
    let disk = SmallDisk::mount(&archiving.place.path("small"), "4m");
    archiving.place.set("BACKUP_STATE_DIR", &archiving.place.path("small/state").display().to_string());
    archiving.place.set("BACKUP_SCRATCH_DIR", &archiving.place.path("scratch").display().to_string());
    archiving.place.set("BACKUP_LOCAL_DIR", &archiving.place.path("other").display().to_string());
    disk.run(&archiving.place.command(&["init"])).ok();
    disk.fill(0);
    let push = || disk.run(&archiving.place.command(&["wal-push", &path_of(&archiving, &name)]));
    let run = push().ok();
    let stored = archiving.place.files("other").into_iter().any(|file| file.contains(&name));
    assert!(stored, "{:?} {}", archiving.place.files("other"), run.stderr);
    disk.empty();
    push().ok();
    disk.run(&archiving.place.command(&["catalog", "rebuild"])).ok();
    disk.run(&archiving.place.command(&["catalog", "check"])).ok();
}

#[test]
fn a_clone_that_still_has_its_archive_command_is_refused() {
    let archiving = Archiving::ready();
    archiving.archive();
    let directory = base().join(format!("clone{}", unique()));
    fs::create_dir(&directory).unwrap();
    set_mode(&directory, 0o755);
    give(&directory);
    let data = directory.join("data");
    let copied = run(archiving
        .cluster
        .client("pg_basebackup")
        .args(["--checkpoint=fast", "--wal-method=stream", "-D"])
        .arg(&data));
    assert_eq!(copied.code, 0, "{}", copied.stderr);
    archiving.archive();
    let before = archiving.archived();
    let clone = Cluster::around(directory, archiving.cluster.bindir.clone());
    clone.start_again();
    clone.psql("postgres", "SELECT pg_logical_emit_message(true, 'x', 'y')");
    clone.psql("postgres", "SELECT pg_switch_wal()");
    let begun = Instant::now();
    while clone.psql("postgres", "SELECT failed_count > 0 FROM pg_stat_archiver") != "t" {
        assert!(begun.elapsed() < Duration::from_mins(1), "{}", clone.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(clone.log().contains("it is from the data directory"), "{}", clone.log());
    assert_eq!(archiving.archived(), before, "the clone has written into the archive");
    archiving.archive();
    assert_eq!(archiving.cluster.psql("postgres", "SELECT failed_count FROM pg_stat_archiver"), "0");
}

#[test]
fn without_a_registration_nothing_is_archived_and_init_makes_one() {
    let archiving = Archiving::ready();
    let name = archiving.archive();
    fs::remove_dir_all(archiving.place.state().join("archive")).unwrap();
    let run = push(&archiving, &name).fails_with(10);
    assert!(run.stderr.contains("pgkeep init"), "{}", run.stderr);
    archiving.place.init();
    push(&archiving, &name).ok();
    // Another cluster's file.
    let other = Archiving::new(&[]);
    let strange = other.switch();
    let path = path_of(&other, &strange);
    let run = archiving.place.pgkeep(&["wal-push", &path]).fails_with(5);
    assert!(run.stderr.contains("another cluster"), "{}", run.stderr);
}

#[test]
fn what_is_no_wal_is_refused_and_no_exit_code_ends_the_archiver() {
    let archiving = Archiving::ready();
    let name = archiving.archive();
    let push = |path: &str| archiving.place.pgkeep(&["wal-push", path]);
    push("pg_wal/notes.txt").fails_with(2);
    push("pg_wal/000000010000000000000042").fails_with(1);
    let cut = archiving.place.path(&name);
    fs::write(&cut, &fs::read(path_of(&archiving, &name)).unwrap()[..4096]).unwrap();
    push(cut.to_str().unwrap()).fails_with(4);
    archiving.place.set("BACKUP_JOBS", "many");
    push(&path_of(&archiving, &name)).fails_with(20);
    archiving.place.set("BACKUP_JOBS", "2");
    let next = archiving.switch();
    archiving.wait_for(&next);
    for how in ["term", "int"] {
        let stop = format!("WalSealed:{how}");
        let (after, path) = (archiving.switch(), String::new());
        archiving.wait_for(&after);
        fs::remove_dir_all(archiving.place.store().join("test/wal")).unwrap();
        fs::remove_file(archiving.place.state().join("archive/acknowledged.json")).unwrap();
        let path = if path.is_empty() { path_of(&archiving, &after) } else { path };
        let run = archiving.place.pgkeep_with(&[("PGKEEP_TEST_STOP", &stop)], &["wal-push", &path]);
        assert!((1..=125).contains(&run.code), "{how}: {}", run.code);
    }
}

#[test]
fn cut_off_at_any_step_the_next_call_archives_it_and_nothing_is_left_behind() {
    let archiving = Archiving::ready();
    for step in ["WalSealed", "WalStoredHere", "WalPushed", "WalAcknowledged"] {
        for how in ["kill", "fail", "term", "int"] {
            let name = archiving.archive();
            for file in archiving.place.files("store/test/wal").iter().filter(|file| file.contains(&name)) {
                fs::remove_file(archiving.place.store().join("test/wal").join(file)).unwrap();
            }
            fs::remove_file(archiving.place.state().join("archive/acknowledged.json")).unwrap();
            let stop = format!("{step}:{how}");
            let path = path_of(&archiving, &name);
            let run = archiving.place.pgkeep_with(&[("PGKEEP_TEST_STOP", &stop)], &["wal-push", &path]);
            match how {
                // What a killed command ends with is the affair of PostgreSQL and the shell between.
                "kill" => assert_eq!(run.code, 137, "{stop}"),
                // Above 125 the server's archiver would end; and from here on it is archived.
                "term" | "int" if ["WalPushed", "WalAcknowledged"].contains(&step) => {
                    assert!(run.code <= 125, "{stop}: {}", run.code);
                }
                _ => assert!((1..=125).contains(&run.code), "{stop}: {}", run.code),
            }
            push(&archiving, &name).ok();
            let there = archiving.archived().iter().filter(|file| file.starts_with(&name)).count();
            assert_eq!(there, 1, "{stop}");
        }
    }
    // What a killed one has left is cleared away by a later one.
    std::thread::sleep(Duration::from_secs(6));
    archiving.archive();
    assert_eq!(archiving.place.files("store/.staging/wal"), [""; 0]);
}

/// The files that the server says are ready, the oldest first.
pub(crate) fn ready(archiving: &Archiving) -> Vec<String> {
    let status = archiving.cluster.data().join("pg_wal/archive_status");
    let names = fs::read_dir(status).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".ready").map(str::to_owned)).collect();
    names.sort();
    names
}

#[test]
fn a_member_of_the_group_may_archive_and_back_up() {
    // Group rights to the data directory, as `initdb --allow-group-access` gives them.
    let cluster = Cluster::made_with(
        &["--wal-segsize=1", "--allow-group-access"],
        &[("archive_mode", "on"), ("archive_command", "/bin/false")],
    );
    let archiving = Archiving::on(cluster);
    archiving.begin();
    let report = archiving.place.pgkeep(&["--output", "json", "backup", "cluster", "--fast"]).ok().json();
    assert_eq!(report["kind"], "cluster");
    let name = archiving.archive();
    let directory = archiving.place.path("restored");
    archiving
        .place
        .pgkeep(&["restore", "latest", "--mode", "full", "--to-dir", directory.to_str().unwrap()])
        .ok();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("PG_VERSION"))), (0o750, 0o640));
    if crate::support::is_root() {
        // As another user who is only in the group, with a place of his own.
        let place = base().join(format!("nobody{}", unique()));
        fs::create_dir(&place).unwrap();
        let settings = fs::read_to_string(archiving.place.env_file()).unwrap();
        let settings =
            settings.replace(&archiving.place.directory.display().to_string(), &place.display().to_string());
        fs::write(place.join("pgkeep.env"), settings).unwrap();
        set_mode(&place.join("pgkeep.env"), 0o600);
        let owned = Command::new("chown").args(["-R", "nobody"]).arg(&place).status().unwrap();
        assert!(owned.success());
        let member = |arguments: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=postgres", "--clear-groups", "--"]).arg(pgkeep_binary());
            command.arg("--env-file").arg(place.join("pgkeep.env")).args(arguments);
            command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &place).current_dir("/");
            command
        };
        let as_member = |arguments: &[&str]| run(&mut member(arguments));
        as_member(&["init"]).ok();
        as_member(&["wal-push", &path_of(&archiving, &name)]).ok();
        let files =
            run(Command::new("find").arg(place.join("store/test/wal")).args(["-type", "f"])).ok().stdout;
        assert!(files.contains(&name), "{files}");
        // His own cluster backup, for which he archives by hand what the server says is ready.
        archiving.cluster.set("archive_command", "");
        let mut backup = Running::start(&mut member(&["--output", "json", "backup", "cluster", "--fast"]));
        while backup.is_running() {
            if let Some(name) = ready(&archiving).into_iter().next() {
                as_member(&["wal-push", &path_of(&archiving, &name)]).ok();
                let ready = archiving.cluster.data().join(format!("pg_wal/archive_status/{name}.ready"));
                fs::rename(&ready, ready.with_extension("done")).unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(backup.wait().ok().json()["kind"], "cluster");
        as_member(&["verify", "--deep"]).ok();
    } else {
        eprintln!(
            "left out, because only root can run as another: an archiver that is only a member of the group"
        );
    }
}

//! Directories that are missing, closed, full, read-only or not mounted.

use std::fs;

use crate::support::faults::{
    Gate, SmallDisk, assert_no_survivors, assert_no_trace, contents, fresh_large, last_run, leftovers, listed,
};
use crate::support::{Place, Run, cluster, give, set_mode};

/// The message without SQLite's own words: where exactly it meets the full disk is chance.
fn without_sqlite(run: &Run) -> String {
    let words = regex::Regex::new(
        r"(disk I/O error|database or disk is full|unable to open database file)( \(SQLite error \d+\))?",
    );
    words.unwrap().replace(&run.message(), "[SQLITE]").into_owned()
}

#[test]
fn without_a_state_directory_init_is_named() {
    let place = Place::new();
    for command in
        [&["backup", "database", "postgres"][..], &["list"], &["verify"], &["restore", "latest", "--yes"]]
    {
        insta::assert_snapshot!("no_state_directory", place.pgkeep(command).fails_with(10).message());
    }
    assert!(!place.state().exists() && !place.store().exists(), "looking for it must not make it");
}

#[test]
fn a_state_directory_that_may_not_be_made_is_said_to_be() {
    let place = Place::new();
    let above = place.path("closed");
    fs::create_dir(&above).unwrap();
    give(&above);
    set_mode(&above, 0o500);
    place.set("BACKUP_STATE_DIR", &above.join("state").display().to_string());
    insta::assert_snapshot!(place.pgkeep(&["init"]).fails_with(40).message());
    set_mode(&above, 0o700);
}

#[test]
fn a_state_directory_that_may_not_be_written_ends_the_run_before_it_begins() {
    let place = Place::ready();
    place.backup("postgres");
    let catalog = place.state().join("catalog.sqlite");
    set_mode(&catalog, 0o400);
    set_mode(&place.state(), 0o500);
    let run = place.pgkeep(&["backup", "database", "postgres"]);
    set_mode(&place.state(), 0o700);
    set_mode(&catalog, 0o600);
    insta::assert_snapshot!(run.fails_with(40).message());
    assert_eq!(listed(&place).len(), 1);
    assert_eq!(place.backups().len(), 1);
    place.backup("postgres");
    assert_eq!(leftovers(&place), [""; 0]);
}

#[test]
fn a_state_directory_on_a_full_disk_ends_the_run_and_loses_nothing() {
    let place = Place::new();
    let disk = SmallDisk::mount(&place.state(), "4m");
    // Only the catalog is to meet the full disk.
    place.set("BACKUP_SCRATCH_DIR", &place.path("scratch").display().to_string());
    disk.run(&place.command(&["init"])).ok();
    disk.run(&place.command(&["backup", "database", "postgres"])).ok();
    disk.fill(0);
    let run = disk.run(&place.command(&["backup", "database", "postgres"])).fails_with(40);
    insta::assert_snapshot!(without_sqlite(&run));
    disk.empty();
    disk.run(&place.command(&["backup", "database", "postgres"])).ok();
    let list = disk.run(&place.command(&["list", "--output", "json"])).ok().json();
    assert_eq!(list["backups"].as_array().unwrap().len(), 2);
    assert_eq!(place.backups().len(), 2, "nothing is left of the one that failed");
    disk.run(&place.command(&["catalog", "check"])).ok();
    assert!(disk.files().iter().all(|name| !name.starts_with("locks/run-")), "{:?}", disk.files());
}

#[test]
fn init_on_a_full_disk_can_be_run_again() {
    let place = Place::new();
    let disk = SmallDisk::mount(&place.state(), "1m");
    disk.fill(0);
    insta::assert_snapshot!(without_sqlite(&disk.run(&place.command(&["init"])).fails_with(40)));
    disk.empty();
    disk.run(&place.command(&["init"])).ok();
    disk.run(&place.command(&["catalog", "check"])).ok();
}

#[test]
fn a_local_store_on_a_full_disk_ends_the_backup_and_leaves_nothing() {
    let database = fresh_large(cluster());
    let place = Place::new();
    place.set("BACKUP_VOLUME_SIZE", "1M");
    let disk = SmallDisk::mount(&place.store(), "4m");
    disk.run(&place.command(&["init"])).ok();
    let run = disk.run(&place.command(&["backup", "database", &database])).fails_with(40);
    insta::assert_snapshot!(run.message());
    assert_eq!(disk.files(), ["test/identity"], "nothing is left on the disk");
    assert_eq!(last_run(&place, "backup database").0, "failed");
    assert_eq!(place.files("state/scratch"), [""; 0]);
    // What fits still works.
    disk.run(&place.command(&["backup", "database", "postgres"])).ok();
    disk.run(&place.command(&["verify", "--deep"])).ok();
}

#[test]
fn a_disk_that_fills_at_any_write_of_a_backup_keeps_no_part_of_it() {
    const PAGE: u64 = 4096;
    let database = fresh_large(cluster());
    let place = Place::new();
    place.set("BACKUP_VOLUME_SIZE", "1M");
    let disk = SmallDisk::mount(&place.store(), "64m");
    let backup = place.command(&["backup", "database", &database]);
    disk.run(&place.command(&["init"])).ok();
    disk.run(&backup).ok();
    let before = disk.files();
    // Volumes and manifest take whole pages.
    let sizes = disk.run(&{
        let mut find = std::process::Command::new("find");
        find.arg(place.store().join("test/backups")).args(["-type", "f", "-printf", "%s\\n"]);
        find
    });
    let sizes = sizes.ok().stdout;
    let pages: u64 = sizes.lines().map(|size| size.parse::<u64>().expect("a size").div_ceil(PAGE)).sum();
    let (mut refused, mut manifests) = (0, 0);
    // The header of the first volume, its frames, and then each page up to the last one of the manifest.
    for left in [0, 1, pages / 2].into_iter().chain(pages.saturating_sub(6)..pages + 10) {
        disk.fill(left * PAGE);
        let run = disk.run(&backup);
        disk.empty();
        if run.code == 0 {
            assert!(refused > 3 && manifests > 0, "{refused} failed, {manifests} with the manifest");
            assert_eq!(disk.run(&place.command(&["list"])).ok().stdout.matches("-database-").count(), 2);
            disk.run(&place.command(&["verify", "--deep"])).ok();
            return;
        }
        let run = run.fails_with(40);
        assert!(
            run.stderr.contains("No space left on device") && run.stderr.contains("hint: "),
            "{}",
            run.stderr
        );
        refused += 1;
        manifests += u32::from(run.stderr.contains("/manifest"));
        assert_eq!(disk.files(), before, "{left} pages: {}", run.stderr);
        assert_eq!(last_run(&place, "backup database").0, "failed");
        disk.run(&place.command(&["verify", "--deep"])).ok();
    }
    panic!("no backup fits in {pages} pages");
}

#[test]
fn a_scratch_directory_that_fills_during_the_dump_is_said_to_be_full() {
    let cluster = cluster();
    let database = fresh_large(cluster);
    let place = Place::ready();
    let scratch = place.path("scratch");
    place.set("BACKUP_SCRATCH_DIR", &scratch.display().to_string());
    let disk = SmallDisk::mount(&scratch, "80m");
    let gate = Gate::shut(cluster, &database);
    let mut running = disk.start(&place.command(&["backup", "database", &database]));
    gate.reached_by(&mut running);
    disk.fill(0);
    gate.open();
    let run = running.wait().fails_with(40);
    let shown = format!("into the scratch directory {}/run-", scratch.display());
    for words in [&*shown, "No space left on device", " free", "hint: ", "BACKUP_SCRATCH_DIR"] {
        assert!(run.stderr.contains(words), "{words}: {}", run.stderr);
    }
    assert_no_survivors(&place);
    assert_no_trace(&place, "failed", 40);
    assert_eq!(disk.files(), ["filler"]);
    disk.empty();
    disk.run(&place.command(&["backup", "database", &database])).ok();
}

#[test]
fn a_local_store_that_is_read_only_ends_the_backup() {
    let place = Place::new();
    let disk = SmallDisk::mount(&place.store(), "8m");
    disk.run(&place.command(&["init"])).ok();
    disk.run(&place.command(&["backup", "database", "postgres"])).ok();
    disk.make_read_only();
    let run = disk.run(&place.command(&["backup", "database", "postgres"])).fails_with(40);
    insta::assert_snapshot!(run.message());
    // Reading goes on.
    disk.run(&place.command(&["verify", "--deep"])).ok();
    let copy = cluster().fresh_database();
    cluster().psql("postgres", &format!("DROP DATABASE {copy}"));
    disk.run(&place.command(&["restore", "latest", "--to-database", &copy])).ok();
}

#[test]
fn a_scratch_directory_that_is_too_small_says_what_it_needs_and_has() {
    let cluster = cluster();
    let database = fresh_large(cluster);
    let place = Place::ready();
    place.backup(&database);
    let before = contents(cluster, &database);
    let scratch = place.path("scratch");
    place.set("BACKUP_SCRATCH_DIR", &scratch.display().to_string());
    let disk = SmallDisk::mount(&scratch, "4m");
    let backup = disk.run(&place.command(&["backup", "database", &database])).fails_with(40);
    assert!(
        backup.stderr.contains("4.0 MiB free") && backup.stderr.contains("the dump needs"),
        "{}",
        backup.stderr
    );
    insta::assert_snapshot!("backup", backup.message());
    let restore = disk.run(&place.command(&["restore", "latest", "--yes"])).fails_with(40);
    assert!(
        restore.stderr.contains("4.0 MiB free") && restore.stderr.contains("needs 9."),
        "{}",
        restore.stderr
    );
    insta::assert_snapshot!("restore", restore.message());
    assert_eq!(contents(cluster, &database), before);
    assert_eq!(cluster.databases_like(&database), [&*database]);
    assert_eq!(leftovers(&place), [""; 0]);
    assert_eq!(disk.files(), [""; 0]);
    assert_eq!(listed(&place).len(), 1);
}

#[test]
fn a_local_store_that_is_not_mounted_is_missed() {
    let place = Place::ready();
    place.backup("postgres");
    // The mount point is there, the disk is not.
    fs::rename(place.store(), place.path("elsewhere")).unwrap();
    fs::create_dir(place.store()).unwrap();
    give(&place.store());
    let run = place.pgkeep(&["backup", "database", "postgres"]).fails_with(10);
    insta::assert_snapshot!(run.message());
    assert_eq!(place.files("store"), [""; 0], "nothing is written under a mount point without its disk");
    fs::remove_dir(place.store()).unwrap();
    fs::rename(place.path("elsewhere"), place.store()).unwrap();
    place.backup("postgres");
    place.pgkeep(&["verify", "--deep"]).ok();
    assert_no_leftovers(&place);
}

fn assert_no_leftovers(place: &Place) {
    assert_eq!(leftovers(place), [""; 0]);
    assert_eq!(listed(place).len(), place.backups().len());
}

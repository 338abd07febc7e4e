//! What is deleted, and what never is: the plan that is shown is the one that is carried out, in every store, also after
//! a kill at any step, and everything else agrees afterwards.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pgkeep::system::step::Step;
use rustix::process::Signal;

use crate::clouds::Clouds;
use crate::support::faults::{Gate, leftovers, listed, stopped_at, wait_for};
use crate::support::proxy::{Fault, Rule};
use crate::support::{Place, Run, cluster, give};

/// Makes a backup so many days older, as the catalog has it.
pub(crate) fn age(place: &Place, id: &str, days: i64) {
    let older = |column: &str| format!("{column} = strftime('%Y-%m-%dT%H:%M:%fZ', {column}, '-{days} days')");
    place.catalog(&format!(
        "UPDATE backups SET {}, {}, {} WHERE id = '{id}'",
        older("started_at"),
        older("finished_at"),
        older("consistent_at")
    ));
}

/// Backups of these ages in days, in this order.
pub(crate) fn aged(place: &Place, database: &str, ages: &[i64]) -> Vec<String> {
    ages.iter()
        .map(|days| {
            let id = place.backup(database);
            age(place, &id, *days);
            id
        })
        .collect()
}

/// Runs `cleanup` with these arguments.
pub(crate) fn cleanup(place: &Place, arguments: &[&str]) -> Run {
    place.pgkeep(&[&["--output", "json", "cleanup"], arguments].concat())
}

/// The backups that go by a report.
pub(crate) fn going(report: &serde_json::Value) -> Vec<String> {
    let backups = report["backups"].as_array().unwrap().iter().filter(|it| it["goes"] == true);
    let mut found: Vec<String> = backups.map(|it| it["backup"].as_str().unwrap().to_owned()).collect();
    found.sort();
    found
}

fn statuses(place: &Place) -> Vec<String> {
    place.catalog("SELECT status FROM backups ORDER BY id").into_iter().flatten().collect()
}

/// Catalog and stores agree, and nothing is left to do.
#[track_caller]
pub(crate) fn assert_settled(place: &Place) {
    // An archiver has a directory of its own in there.
    let left: Vec<String> = leftovers(place).into_iter().filter(|name| name != "wal").collect();
    assert_eq!(left, [""; 0]);
    assert!(place.catalog("SELECT id FROM backups WHERE status = 'deleting'").is_empty());
    assert!(place.catalog("SELECT segment FROM wal_segments WHERE state = 'deleting'").is_empty());
    assert_eq!(listed(place).len(), place.backups().len());
    place.pgkeep(&["verify", "--deep"]).ok();
    place.pgkeep(&["catalog", "check"]).ok();
    let synced = place.pgkeep(&["--output", "json", "sync"]).ok().json();
    assert_eq!((&synced["copies"], &synced["wal"]["copies"]), (&serde_json::json!([]), &0.into()));
    let again = cleanup(place, &[]).ok().json();
    assert_eq!(going(&again), [""; 0]);
    assert_eq!((&again["objects_deleted"], &again["wal_copies_deleted"]), (&0.into(), &0.into()));
}

#[test]
fn what_is_shown_is_what_goes_from_every_store() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    let (shop, other) = (cluster().fresh_shop(), cluster().fresh_shop());
    let ids = aged(place, &shop, &[200, 120, 94, 12, 1, 0, 0]);
    // The last one of another database stays, however old it is.
    let last = aged(place, &other, &[300, 250]);
    place.set("BACKUP_KEEP_MIN", "1");
    let shown = cleanup(place, &["--dry-run"]).ok().json();
    let mut expected = vec![ids[0].clone(), ids[1].clone(), ids[2].clone(), last[0].clone()];
    expected.sort();
    assert_eq!(going(&shown), expected);
    let reason = |id: &str| {
        let mut all = shown["backups"].as_array().unwrap().iter();
        all.find(|it| it["backup"] == id).unwrap()["reasons"][0].as_str().unwrap().to_owned()
    };
    assert_eq!((reason(&ids[2]).as_str(), reason(&ids[3]).as_str()), ("94 days old", "12 of 90 days old"));
    assert_eq!(reason(&last[1]), "the newest");
    assert_eq!(place.backups().len(), 9, "nothing was done");
    clouds.r2.s3.forget_requests();
    let done = cleanup(place, &[]).ok().json();
    assert_eq!((&done["backups"], &done["wal"]), (&shown["backups"], &shown["wal"]));
    let mut deleted: Vec<String> = serde_json::from_value(done["deleted"].clone()).unwrap();
    deleted.sort();
    assert_eq!(deleted, expected);
    for id in &expected {
        assert!(!place.store().join("test/backups").join(id).exists());
        for cloud in [&clouds.r2, &clouds.b2] {
            assert_eq!(cloud.objects(id), [""; 0]);
            assert_eq!(
                cloud.bucket().versions(&format!("test/backups/{id}/manifest")),
                0,
                "no version is left"
            );
        }
    }
    assert_eq!(clouds.r2.s3.requests_of("DeleteObjects"), 2, "manifests, then volumes");
    let rows = place.catalog("SELECT deleted_reason, deleted_at <> '' FROM backups WHERE status = 'deleted'");
    assert!(
        rows.len() == 4 && rows.iter().all(|row| row[0].ends_with(" days old") && row[1] == "1"),
        "{rows:?}"
    );
    assert_eq!(listed(place).len(), 5);
    place.pgkeep(&["show", &expected[0]]).fails_with(1);
    assert_settled(place);
    let rebuilt = place.pgkeep(&["--output", "json", "catalog", "rebuild"]).ok().json();
    assert_eq!((&rebuilt["added"], &rebuilt["known"]), (&serde_json::json!([]), &5.into()));
    let beside = format!("{shop}_again");
    place.pgkeep(&["restore", "latest", "--database", &shop, "--to-database", &beside]).ok();
    assert_eq!(cluster().psql(&beside, "SELECT count(*) FROM orders"), "1000");
}

#[test]
fn a_backup_that_somebody_wants_stays_until_nobody_does() {
    let place = Place::ready();
    let ids = aged(&place, &cluster().fresh_shop(), &[100, 95, 3, 2, 0]);
    place.pgkeep(&["keep", &ids[0]]).ended_with(2);
    place.pgkeep(&["keep", &ids[0], "--reason", "  "]).fails_with(2);
    let kept = place.pgkeep(&["keep", &ids[0], "--reason", "the auditors' one"]).ok();
    assert!(kept.stdout.contains("the auditors' one"), "{}", kept.stdout);
    let done = cleanup(&place, &[]).ok().json();
    assert_eq!(going(&done), [ids[1].clone()]);
    let listed = place.pgkeep(&["list"]).ok().stdout;
    assert!(listed.contains("(kept: the auditors' one)"), "{listed}");
    let shown = place.pgkeep(&["show", &ids[0]]).ok().stdout;
    assert!(shown.contains("kept         since ") && shown.contains(": the auditors' one"), "{shown}");
    // The catalog is lost: the wish is in its saved copies.
    fs::remove_dir_all(place.state()).unwrap();
    place.pgkeep(&["catalog", "rebuild"]).ok();
    age(&place, &ids[0], 100);
    assert_eq!(place.catalog("SELECT kept_reason FROM backups WHERE kept_at <> ''"), [["the auditors' one"]]);
    assert_eq!(going(&cleanup(&place, &[]).ok().json()), [""; 0]);
    place.pgkeep(&["unkeep", &ids[0]]).ok();
    place.pgkeep(&["unkeep", &ids[0]]).ok();
    // Nor does an older saved catalog bring the wish back.
    place.pgkeep(&["catalog", "rebuild"]).ok();
    assert_eq!(going(&cleanup(&place, &[]).ok().json()), [ids[0].clone()]);
    place.pgkeep(&["keep", &ids[0], "--reason", "too late"]).fails_with(1);
    assert_settled(&place);
}

#[test]
fn a_store_that_is_away_keeps_its_objects_and_is_caught_up_with() {
    let mut clouds = Clouds::ready();
    let shop = cluster().fresh_shop();
    let ids = aged(&clouds.place, &shop, &[100, 3, 2, 0]);
    clouds.b2.proxy.go_away();
    let done = cleanup(&clouds.place, &[]).ended_with(3).json();
    assert_eq!((going(&done), &done["deleted"]), (vec![ids[0].clone()], &serde_json::json!([])));
    assert_eq!(done["still_there"], serde_json::json!([{ "backup": ids[0], "stores": ["b2"] }]));
    assert!(clouds.r2.objects(&ids[0]).is_empty() && clouds.local(&ids[0]).is_empty());
    assert!(!clouds.b2.objects(&ids[0]).is_empty());
    assert_eq!(clouds.states(&ids[0], "b2"), "deleting");
    assert_eq!(listed(&clouds.place).len(), 3);
    clouds.place.pgkeep(&["restore", &ids[0], "--to-database", "no"]).fails_with(1);
    // On another machine, or after the catalog was lost: what that store has does not come back.
    fs::remove_dir_all(clouds.place.state()).unwrap();
    clouds.b2.proxy.come_back();
    let rebuilt = clouds.place.pgkeep(&["--output", "json", "catalog", "rebuild"]).ok().json();
    assert_eq!(rebuilt["added"].as_array().map(Vec::len), Some(3), "{rebuilt}");
    assert_eq!(listed(&clouds.place).len(), 3);
    clouds.place.pgkeep(&["sync"]).ok();
    assert!(clouds.local(&ids[0]).is_empty(), "nobody copies it back");
    let done = cleanup(&clouds.place, &[]).ok().json();
    assert_eq!(done["deleted"], serde_json::json!([ids[0]]));
    assert!(clouds.b2.objects(&ids[0]).is_empty());
    assert_settled(&clouds.place);
}

#[test]
fn killed_at_any_step_it_leaves_whole_backups_and_the_next_one_goes_on() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    let shop = cluster().fresh_shop();
    let steps: Vec<String> = Step::ALL.iter().map(|step| format!("{step:?}")).collect();
    for step in steps.iter().filter(|step| step.starts_with("Cleanup")) {
        for how in ["kill", "fail", "term"] {
            let at = format!("{step}:{how}");
            let ids = aged(place, &shop, &[100, 2, 0]);
            let run = stopped_at(place, &["cleanup"], step, how);
            // WAL there is none: that step is not reached.
            let reached = step != "CleanupWalGone";
            let right = match how {
                _ if !reached => run.code == 0,
                "kill" => run.code == 137,
                "fail" => run.code == 70,
                _ => run.code == 130 || run.code == 0,
            };
            assert!(right, "{at}: {} {}", run.code, run.stderr);
            let status = place.catalog(&format!("SELECT status FROM backups WHERE id = '{}'", ids[0]));
            assert!(step == "CleanupPlanned" || status != [["complete"]], "{at}: {status:?}");
            // What is listed is whole, in every store.
            place.pgkeep(&["verify", "--deep"]).ok();
            for id in listed(place) {
                assert!(!clouds.r2.objects(&id).is_empty() && !clouds.b2.objects(&id).is_empty(), "{at}");
            }
            cleanup(place, &[]).ok();
            for objects in [clouds.local(&ids[0]), clouds.r2.objects(&ids[0]), clouds.b2.objects(&ids[0])] {
                assert_eq!(objects, [""; 0], "{at}");
            }
            assert_settled(place);
            place.catalog("UPDATE backups SET kept_at = NULL");
        }
    }
}

#[test]
fn of_two_at_once_one_is_told_to_wait_and_everything_is_deleted_once() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    for _ in 0..3 {
        let ids = aged(&place, &shop, &[100, 2, 0]);
        let both = [(); 2].map(|()| place.start(&[], &["--output", "json", "cleanup"]));
        let mut codes = both.map(|running| running.wait().code);
        codes.sort_unstable();
        assert!(codes == [0, 0] || codes == [0, 11], "{codes:?}");
        assert!(!listed(&place).contains(&ids[0]));
        assert_settled(&place);
    }
}

#[test]
fn what_a_running_restore_reads_stays() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let ids = aged(&place, &shop, &[0, 0, 0, 0]);
    let beside = format!("{shop}_beside");
    let restore = place.start(&[], &["restore", &ids[0], "--to-database", &beside]);
    wait_for("the restore to have begun", || {
        (!place.catalog("SELECT id FROM restore_log WHERE state = 'running'").is_empty()).then_some(())
    });
    restore.signal(Signal::STOP);
    age(&place, &ids[0], 120);
    age(&place, &ids[1], 110);
    let running = place.catalog("SELECT id FROM restore_log WHERE state = 'running'");
    assert!(!running.is_empty(), "it was to be halted while it runs");
    place.pgkeep(&["--wait", "0", "cleanup"]).fails_with(11);
    let done = cleanup(&place, &["--dry-run"]).ok().json();
    assert_eq!(going(&done), [ids[1].clone()]);
    let mut kept = done["backups"].as_array().unwrap().iter();
    let kept = kept.find(|it| it["backup"] == ids[0].as_str()).unwrap();
    assert_eq!(kept["reasons"], serde_json::json!(["a restore uses it"]));
    restore.signal(Signal::CONT);
    restore.wait().ok();
    assert_eq!(cluster().psql(&beside, "SELECT count(*) FROM orders"), "1000");
    // It was restored and checked: of the old ones the one that stays.
    age(&place, &ids[2], 1);
    assert_eq!(going(&cleanup(&place, &[]).ok().json()), [ids[1].clone()]);
    cluster().psql("postgres", &format!("DROP DATABASE \"{beside}\""));
}

#[test]
fn a_restore_that_has_only_begun_keeps_everything() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let ids = aged(&place, &shop, &[120, 0, 0]);
    // One that has its lock and its row, and has not said what it reads.
    let run = pgkeep::model::RunId::new(0x00c0_ffee);
    let lock = place.state().join(format!("locks/run-{run}.lock"));
    let held = pgkeep::system::lock::FileLock::attempt(&lock, "a test").unwrap();
    place.catalog(&format!(
        "INSERT INTO runs (id, command, arguments, user, host, terminal, pid, pgkeep_version, started_at) \
         SELECT '{run}', 'restore', '', user, host, terminal, 1, pgkeep_version, started_at FROM runs LIMIT 1"
    ));
    give(&lock);
    assert_eq!(going(&cleanup(&place, &[]).ok().json()), [""; 0]);
    drop(held);
    assert_eq!(going(&cleanup(&place, &[]).ok().json()), [ids[0].clone()]);
}

#[test]
fn a_backup_that_is_being_made_is_left_alone() {
    let place = Place::ready();
    place.set("BACKUP_VOLUME_SIZE", "1M");
    let shop = cluster().fresh_shop();
    aged(&place, &shop, &[100, 0, 0]);
    let gate = Gate::shut(cluster(), &shop);
    let mut backup = place.start(&[], &["backup", "database", &shop]);
    gate.reached_by(&mut backup);
    // Every object is older than a day now. Whoever deletes waits for whoever writes.
    let day = [("PGKEEP_TEST_DAY", "0.001")];
    let refused = place.pgkeep_with(&day, &["--wait", "0", "cleanup", "--yes"]).fails_with(11);
    assert!(refused.stderr.contains("another run is at it"), "{}", refused.stderr);
    let waiting = place.start(&day, &["cleanup", "--yes"]);
    gate.open();
    // The session that held the gate is gone, and with it what the dump waited for.
    backup.wait().ok();
    waiting.wait().ok();
    assert_settled(&place);
}

#[test]
fn more_than_half_needs_a_word() {
    let place = Place::ready();
    let ids = aged(&place, &cluster().fresh_shop(), &[101, 100, 99, 0, 0]);
    let shown = cleanup(&place, &["--dry-run"]).ok().json();
    assert_eq!(shown["needs_yes"], true);
    let refused = cleanup(&place, &[]).ended_with(5).json();
    assert!(
        refused["error"]["message"].as_str().unwrap().starts_with("3 of 5 backups and 0 WAL files would go")
    );
    assert_eq!(statuses(&place), ["complete"; 5]);
    let done = cleanup(&place, &["--yes"]).ok().json();
    assert_eq!(done["deleted"].as_array().map(Vec::len), Some(3), "{ids:?}");
    assert_settled(&place);
}

#[test]
fn a_clock_that_is_wrong_deletes_nothing() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    let ids = aged(place, &cluster().fresh_shop(), &[100, 1, 0]);
    let message = |run: Run| run.json()["error"]["message"].as_str().unwrap().to_owned();
    // The stores say that it is another time; that can't be overruled.
    clouds.r2.s3.change(|options| options.clock_ahead = Duration::from_hours(2));
    for arguments in [&[][..], &["--yes"], &["--dry-run"]] {
        let refused = message(cleanup(place, arguments).ended_with(5));
        assert!(refused.contains("that of store r2 says"), "{refused}");
    }
    clouds.r2.s3.change(|options| options.clock_ahead = Duration::ZERO);
    // The catalog knows of something that is still to come.
    place.catalog("UPDATE runs SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+2 hours') WHERE command = 'init'");
    let refused = message(cleanup(place, &[]).ended_with(5));
    assert!(refused.contains("something that began at"), "{refused}");
    place.catalog("UPDATE runs SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-2 hours') WHERE command = 'init'");
    // Nothing was backed up for 46 days, by this clock.
    for id in &ids {
        age(place, id, 46);
    }
    let refused = message(cleanup(place, &[]).ended_with(5));
    assert!(refused.starts_with("the newest backup is of "), "{refused}");
    assert_eq!(statuses(place), ["complete"; 3]);
    assert_eq!(going(&cleanup(place, &["--yes"]).ok().json()), [ids[0].clone()]);
}

/// Makes a file of the store as old as that.
fn write_old(path: &Path, days: u64) {
    let directory = path.parent().unwrap();
    let old = SystemTime::now() - Duration::from_hours(24 * days);
    if !directory.exists() {
        fs::create_dir_all(directory).unwrap();
        give(directory);
    }
    fs::write(path, "bytes").unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    give(path);
}

#[test]
fn garbage_goes_after_a_day_and_what_nobody_knows_of_stays() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    aged(place, &cluster().fresh_shop(), &[0]);
    let backups = place.store().join("test/backups");
    let (old, young) = ("20260101T020000Z-database-00000001", "20260101T020000Z-database-00000002");
    write_old(&backups.join(old).join("data.00000"), 2);
    write_old(&backups.join(young).join("data.00000"), 0);
    clouds.r2.bucket().write(&format!("test/backups/{old}/data.00001"), "bytes");
    clouds.b2.bucket().write(&format!("test/backups/{old}/data.00001"), "bytes");
    let strange =
        ["test/backups/notes.txt", "test/backups/nobody/data.00000", "test/wal/readme", "other/thing"];
    for key in strange {
        write_old(&place.store().join(key), 900);
        clouds.b2.bucket().write(key, "bytes");
    }
    fs::create_dir(backups.join("20260101T020000Z-database-00000003")).unwrap();
    give(&backups.join("20260101T020000Z-database-00000003"));
    // Whole, and unknown: a rebuild takes it in.
    let whole = "20260101T020000Z-database-00000004";
    write_old(&backups.join(whole).join("manifest"), 90);
    clouds.r2.bucket().age(Duration::from_hours(25));
    clouds.b2.bucket().age(Duration::from_hours(25));
    let shown = cleanup(place, &["--dry-run"]).ok().json();
    let orphans = shown["orphans"].as_array().unwrap();
    assert!(orphans.len() == 3 && orphans.iter().all(|it| it["backup"] == old), "{shown}");
    assert!(backups.join(old).exists());
    let done = cleanup(place, &[]).ok().json();
    assert_eq!(done["orphans"], shown["orphans"]);
    assert!(!backups.join(old).exists() && backups.join(young).exists() && backups.join(whole).exists());
    assert!(clouds.r2.objects(old).is_empty() && clouds.b2.objects(old).is_empty());
    for key in strange {
        assert!(
            place.store().join(key).exists() && clouds.b2.bucket().keys().contains(&key.to_owned()),
            "{key}"
        );
    }
    // What is empty goes when it has been so for a day.
    let empty = backups.join("20260101T020000Z-database-00000003");
    assert!(empty.exists());
    place.pgkeep_with(&[("PGKEEP_TEST_DAY", "0.001")], &["cleanup", "--yes"]);
    assert!(!empty.exists());
}

#[test]
fn a_store_that_refuses_to_delete_keeps_all_of_it() {
    let clouds = Clouds::ready();
    let ids = aged(&clouds.place, &cluster().fresh_shop(), &[100, 3, 2, 0]);
    clouds.r2.s3.change(|options| options.deny_deletes = true);
    let done = cleanup(&clouds.place, &[]).ended_with(3).json();
    assert!(done["warnings"][0].as_str().unwrap().contains("AccessDenied"), "{done}");
    assert_eq!(done["still_there"][0]["stores"], serde_json::json!(["r2"]));
    assert!(!clouds.r2.objects(&ids[0]).is_empty() && clouds.b2.objects(&ids[0]).is_empty());
    clouds.r2.s3.change(|options| options.deny_deletes = false);
    // One that fails for a moment is asked again.
    let failing = Rule::new(Fault::error_with_200("InternalError")).on("POST", "delete").first(1);
    clouds.r2.proxy.fail(failing);
    cleanup(&clouds.place, &[]).ok();
    assert!(clouds.r2.objects(&ids[0]).is_empty());
    assert_settled(&clouds.place);
}

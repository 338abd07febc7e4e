//! What befalls the clouds of a whole backup besides a cloud that is away: killed in the middle of an upload, two hosts
//! at once, a clock that is off, damage that comes while a restore is reading.

use std::time::Duration;

use rustix::process::Signal;

use crate::clouds::Clouds;
use crate::support::faults::{contents, fresh_large, wait_for};
use crate::support::proxy::{Fault, Link, Rule};
use crate::support::{Place, cluster};

/// A database whose one volume is sent in several parts: what it holds can't be compressed.
fn fresh_of_many_parts() -> String {
    let name = cluster().fresh_database();
    cluster().psql(
        &name,
        "CREATE TABLE noise (id int PRIMARY KEY, bytes bytea NOT NULL);
         INSERT INTO noise SELECT n, (SELECT string_agg(uuid_send(gen_random_uuid()), '') FROM generate_series(1, 4096)
                        WHERE n > 0)
           FROM generate_series(1, 640) n",
    );
    name
}

#[test]
fn killed_in_the_middle_of_the_parts_of_an_upload_what_was_sent_is_given_up_later() {
    let clouds = Clouds::ready();
    clouds.place.set("BACKUP_VOLUME_SIZE", "1G");
    let database = fresh_of_many_parts();
    for cloud in [&clouds.r2, &clouds.b2] {
        cloud.proxy.set_link(Link::at(4_000_000));
    }
    let running = clouds.place.start(&[], &["backup", "database", &database]);
    for cloud in [&clouds.r2, &clouds.b2] {
        wait_for("parts on their way", || {
            cloud.proxy.seen().iter().any(|request| request.contains("partNumber=2")).then_some(())
        });
    }
    running.signal(Signal::KILL);
    let _ = running.wait();
    for cloud in [&clouds.r2, &clouds.b2] {
        cloud.proxy.set_link(Link::default());
        assert_eq!(cloud.bucket().uploads().len(), 1);
    }
    // The local copy was whole before: it is kept, and the clouds get theirs.
    let run = clouds.place.pgkeep(&["--output", "json", "sync"]).ok();
    assert_eq!(run.json()["uploads_aborted"], 0, "young ones may be somebody's: {}", run.stdout);
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
    for cloud in [&clouds.r2, &clouds.b2] {
        cloud.bucket().age(Duration::from_hours(25));
    }
    let run = clouds.place.pgkeep(&["--output", "json", "sync"]).ok();
    assert_eq!(run.json()["uploads_aborted"], 2, "{}", run.stdout);
    for cloud in [&clouds.r2, &clouds.b2] {
        assert_eq!(cloud.bucket().uploads().len(), 0);
    }
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn two_hosts_that_back_up_sync_and_rebuild_at_once_lose_nothing() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    // Another state directory on the same server, as of a second host; the local store is each one's own.
    let second = Place::new();
    clouds.settings_of_r2(&second);
    clouds.settings_of_b2(&second);
    second.set("BACKUP_VOLUME_SIZE", "1M");
    second.init();
    let at_once = |arguments: &[&str], codes: &[i32]| {
        let both = [&clouds.place, &second].map(|place| place.start(&[], arguments));
        for run in both.map(crate::support::Running::wait) {
            assert!(codes.contains(&run.code), "{arguments:?}: {} {}{}", run.code, run.stdout, run.stderr);
        }
    };
    for _ in 0..2 {
        at_once(&["backup", "database", &database], &[0]);
    }
    at_once(&["catalog", "rebuild"], &[0]);
    // What the other host has made is owed to one's own local store; until it is there, that is incomplete.
    at_once(&["sync"], &[0]);
    at_once(&["verify", "--deep"], &[0]);
    for place in [&clouds.place, &second] {
        assert_eq!(place.catalog("SELECT count(*) FROM backups"), [["4"]]);
        assert_eq!(place.backups().len(), 4);
    }
    for cloud in [&clouds.r2, &clouds.b2] {
        let manifests = cloud.bucket().keys().into_iter().filter(|key| key.ends_with("/manifest"));
        assert_eq!(manifests.count(), 4);
    }
}

#[test]
fn a_clock_that_is_off_is_named_and_costs_only_the_clouds_copy() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.b2.s3.change(|options| options.clock_is_off = true);
    let check = clouds.place.pgkeep(&["check"]).ended_with(40);
    assert!(check.stdout.contains("store b2") && check.stdout.contains("clock"), "{}", check.stdout);
    let run = clouds.place.pgkeep(&["backup", "database", &database]).ended_with(3);
    assert!(format!("{}{}", run.stdout, run.stderr).contains("clock"), "{}{}", run.stdout, run.stderr);
    clouds.b2.s3.change(|options| options.clock_is_off = false);
    clouds.place.pgkeep(&["sync"]).ok();
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn damage_that_comes_while_a_restore_reads_changes_the_store_for_what_is_left() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    clouds.place.set("BACKUP_READ_ORDER", "r2,b2,local");
    // The first ranges are right, later ones are not what was stored.
    clouds.r2.proxy.fail(Rule::new(Fault::WrongBody).on("GET", "data.").from(2));
    clouds.b2.proxy.fail(Rule::new(Fault::WrongBody).on("GET", "data.00002"));
    let beside = format!("{database}_again");
    let arguments = ["restore", "latest", "--database", &database, "--to-database", &beside, "--yes"];
    let run = clouds.place.pgkeep(&arguments).ended_with(3);
    assert!(run.stdout.contains("the copy in r2 is bad"), "{}", run.stdout);
    assert!(run.stdout.contains("the copy in b2 is bad"), "{}", run.stdout);
    assert_eq!(contents(cluster(), &beside), contents(cluster(), &database));
    assert_eq!(clouds.states(&id, "local"), "good");
    cluster().psql("postgres", &format!("DROP DATABASE \"{beside}\""));
    // It was the line and not the store: reading again proves them.
    clouds.r2.proxy.heal();
    clouds.b2.proxy.heal();
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
    assert_eq!(clouds.states(&id, "r2"), "good");
}

#[test]
fn killed_while_the_catalog_is_saved_no_plain_copy_of_it_stays() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let killed = [("PGKEEP_TEST_STOP", "RunSaving:kill")];
    assert_eq!(clouds.place.pgkeep_with(&killed, &["backup", "database", &database]).code, 128 + 9);
    let plain =
        || clouds.place.files("state/spool").into_iter().filter(|path| path.contains("sqlite")).count();
    assert_eq!(plain(), 1);
    // The backup itself was done and written down.
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
    assert_eq!(plain(), 0);
    assert_eq!(clouds.place.catalog("SELECT count(*) FROM backups"), [["1"]]);
}

//! What befalls a cloud, each fault with either of them: away, dying, refusing, slow; killed while one is written to.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::clouds::{Cloud, Clouds};
use crate::support::faults::{contents, fresh_large, fresh_wide, wait_for};
use crate::support::proxy::{Fault, Link, Rule};
use crate::support::{Cluster, Place, cluster};
use crate::tenants_many::peak;

const BOTH: [&str; 2] = ["r2", "b2"];

fn cloud<'a>(clouds: &'a Clouds, name: &str) -> &'a Cloud {
    if name == "r2" { &clouds.r2 } else { &clouds.b2 }
}

fn cloud_mut<'a>(clouds: &'a mut Clouds, name: &str) -> &'a mut Cloud {
    if name == "r2" { &mut clouds.r2 } else { &mut clouds.b2 }
}

fn other(name: &str) -> &'static str {
    if name == "r2" { "b2" } else { "r2" }
}

/// Backs up, expects this exit code, and returns the identifier and what was warned of.
fn backup(place: &Place, database: &str, code: i32) -> (String, String) {
    let run = place.pgkeep(&["--output", "json", "backup", "database", database]).ended_with(code);
    let report = run.json();
    (report["id"].as_str().unwrap().to_owned(), report["warnings"].to_string())
}

/// The copy in this cloud is owed, the two others are good; healed, `sync` makes it and all is proven.
fn assert_owed_then_healed(clouds: &Clouds, name: &str, id: &str) {
    assert!(!cloud(clouds, name).objects(id).contains(&"manifest".to_owned()), "{name}");
    assert_eq!(cloud(clouds, other(name)).objects(id), clouds.local(id), "{name}");
    assert!(clouds.states(id, name).contains("owed"), "{name}: {}", clouds.states(id, name));
    assert_eq!((clouds.states(id, other(name)), clouds.states(id, "local")), ("good".into(), "good".into()));
    cloud(clouds, name).proxy.heal();
    clouds.place.pgkeep(&["sync"]).ok();
    assert_eq!(cloud(clouds, name).objects(id), clouds.local(id), "{name}");
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn either_cloud_away_from_the_start_is_owed_its_copy() {
    let database = fresh_large(cluster());
    for name in BOTH {
        let mut clouds = Clouds::ready();
        cloud_mut(&mut clouds, name).proxy.go_away();
        let (id, warnings) = backup(&clouds.place, &database, 3);
        assert!(warnings.contains(&format!("store {name} has no copy yet")), "{warnings}");
        cloud_mut(&mut clouds, name).proxy.come_back();
        assert_owed_then_healed(&clouds, name, &id);
    }
}

#[test]
fn either_cloud_dying_in_the_middle_of_a_volume_is_owed_the_rest() {
    let database = fresh_large(cluster());
    for name in BOTH {
        let clouds = Clouds::ready();
        let cut = Rule::new(Fault::CutRequest(100_000)).on("PUT", "data.").from(2);
        cloud(&clouds, name).proxy.fail(cut);
        let (id, _) = backup(&clouds.place, &database, 3);
        assert_owed_then_healed(&clouds, name, &id);
    }
}

#[test]
fn either_cloud_refusing_its_credentials_is_named_and_owed_its_copy() {
    let database = fresh_large(cluster());
    for (name, setting, value, says) in [
        ("r2", "R2_SECRET_KEY", "wrong", "secret"),
        ("r2", "R2_BUCKET", "nowhere", "bucket"),
        ("r2", "R2_ACCESS_KEY", "stranger", "key"),
        ("b2", "B2_APPLICATION_KEY", "wrong", "secret"),
        ("b2", "B2_BUCKET_NAME", "nowhere", "bucket"),
        ("b2", "B2_KEY_ID", "stranger", "key"),
    ] {
        let clouds = Clouds::ready();
        let right = clouds.place.setting(setting);
        clouds.place.set(setting, value);
        let run = clouds.place.pgkeep(&["check"]).fails_with(40);
        assert!(run.stdout.contains(says), "{setting}: {}", run.stdout);
        let (id, warnings) = backup(&clouds.place, &database, 3);
        assert!(warnings.contains(&format!("store {name}")), "{warnings}");
        clouds.place.set(setting, &right);
        assert_owed_then_healed(&clouds, name, &id);
    }
}

#[test]
fn either_cloud_that_does_not_let_delete_still_gets_its_copies() {
    let database = fresh_large(cluster());
    for name in BOTH {
        let clouds = Clouds::ready();
        cloud(&clouds, name).s3.change(|options| options.deny_deletes = true);
        let (id, _) = backup(&clouds.place, &database, 0);
        assert_eq!(cloud(&clouds, name).objects(&id), clouds.local(&id), "{name}");
        // A run that fails says what it could not clear away there.
        let stop = [("PGKEEP_TEST_STOP", "BackupManifestPlaced:fail")];
        let run = clouds.place.pgkeep_with(&stop, &["backup", "database", &database]).fails_with(70);
        assert!(run.stderr.contains("clear away what is left"), "{name}: {}", run.stderr);
    }
}

/// Throttled to so little that it takes seconds, the slow one alone is behind: the two others are whole long before.
#[test]
fn either_cloud_being_slow_lets_the_two_others_be_whole_before_it() {
    let database = fresh_large(cluster());
    for name in BOTH {
        let clouds = Clouds::ready();
        cloud(&clouds, name).proxy.set_link(Link::at(1 << 20));
        let running = clouds.place.start(&[], &["backup", "database", &database]);
        let fast = cloud(&clouds, other(name));
        let ids =
            || fast.bucket().keys().into_iter().filter(|key| key.ends_with("/manifest")).collect::<Vec<_>>();
        let key = wait_for("the fast cloud to have all", || ids().first().cloned());
        let id = key.split('/').nth(2).unwrap().to_owned();
        assert!(clouds.local(&id).contains(&"manifest".to_owned()), "{name}");
        assert!(!cloud(&clouds, name).objects(&id).contains(&"manifest".to_owned()), "{name} was not slow");
        running.wait().ok();
        assert_eq!(cloud(&clouds, name).objects(&id), clouds.local(&id));
    }
}

/// Without a local store at most three volumes wait in the spool: a fourth is made only when one has been sent. So the
/// first is on its way long before the last is made.
#[test]
fn volumes_are_on_their_way_while_the_next_are_being_made() {
    let clouds = Clouds::new();
    clouds.place.unset("BACKUP_LOCAL_DIR");
    clouds.place.init();
    let database = fresh_parts(cluster());
    for cloud in [&clouds.r2, &clouds.b2] {
        cloud.proxy.fail(Rule::new(Fault::Late(Duration::from_secs(2))).on("PUT", "data.00000"));
    }
    let running = clouds.place.start(&[], &["backup", "database", &database]);
    for cloud in [&clouds.r2, &clouds.b2] {
        let first = || cloud.proxy.seen().into_iter().find(|request| request.contains("data.00000"));
        wait_for("the first volume on its way", first);
    }
    std::thread::sleep(Duration::from_secs(1));
    let made = clouds.place.files("state").iter().filter(|file| file.contains("data.")).count();
    running.wait().ok();
    let id = &clouds.place.catalog("SELECT id FROM backups")[0][0];
    let volumes = clouds.r2.objects(id).len() - 1;
    // Those that wait, those that are being filled, and no more.
    assert!(made >= 1 && 2 * made < volumes, "{made} of {volumes} volumes were made when the first was sent");
}

#[test]
fn how_many_copies_count_is_what_the_operator_says() {
    let database = fresh_large(cluster());
    let mut clouds = Clouds::ready();
    clouds.place.set("BACKUP_MIN_COPIES", "1");
    clouds.r2.proxy.go_away();
    clouds.b2.proxy.go_away();
    let (alone, warnings) = backup(&clouds.place, &database, 3);
    assert!(warnings.contains("store r2") && warnings.contains("store b2"), "{warnings}");
    clouds.b2.proxy.come_back();

    clouds.place.set("BACKUP_MIN_COPIES", "3");
    let run = clouds.place.pgkeep(&["backup", "database", &database]).fails_with(40);
    assert!(run.stderr.contains("is in 2 of at least 3 stores (BACKUP_MIN_COPIES)"), "{}", run.stderr);
    clouds.r2.proxy.come_back();
    clouds.place.pgkeep(&["sync"]).ok();
    // What there was is kept, and healed to three copies like everything.
    assert_eq!(clouds.place.backups().len(), 2);
    assert_eq!(
        (clouds.r2.objects(&alone), clouds.b2.objects(&alone)),
        (clouds.local(&alone), clouds.local(&alone))
    );
    backup(&clouds.place, &database, 0);
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

/// What the proxy of a cloud was asked for by this.
fn asked(cloud: &Cloud, meanwhile: impl FnOnce()) -> Vec<String> {
    let before = cloud.proxy.seen().len();
    meanwhile();
    cloud.proxy.seen().split_off(before)
}

#[test]
fn a_deep_verification_of_one_store_reads_no_other_and_a_rebuild_reads_no_volume() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let (id, _) = backup(&clouds.place, &database, 0);
    let b2 = asked(&clouds.b2, || {
        let r2 = asked(&clouds.r2, || {
            clouds.place.pgkeep(&["verify", "--deep", "--store", "r2"]).ok();
        });
        for name in clouds.local(&id) {
            let read = |request: &&String| request.starts_with("GET") && request.contains(&name);
            assert!(r2.iter().any(|request| read(&request)), "{name}: {r2:#?}");
        }
    });
    assert!(!b2.iter().any(|request| request.contains("/backups/")), "{b2:#?}");

    std::fs::remove_dir_all(clouds.place.state()).unwrap();
    let r2 = asked(&clouds.r2, || {
        let b2 = asked(&clouds.b2, || {
            clouds.place.pgkeep(&["catalog", "rebuild"]).ok();
        });
        assert!(!b2.iter().any(|request| request.contains("data.")), "{b2:#?}");
    });
    assert!(!r2.iter().any(|request| request.contains("data.")), "{r2:#?}");
    assert_eq!(clouds.place.catalog("SELECT id FROM backups"), [[id]]);
}

#[test]
fn sync_killed_when_its_copies_are_made_makes_none_of_them_again() {
    let mut clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.b2.proxy.go_away();
    let (id, _) = backup(&clouds.place, &database, 3);
    clouds.b2.proxy.come_back();
    for how in ["kill", "term", "int"] {
        let run = clouds.place.pgkeep_with(&[("PGKEEP_TEST_STOP", &format!("SyncCopied:{how}"))], &["sync"]);
        assert!([137, 130, 0].contains(&run.code), "{how}: {} {}", run.code, run.stderr);
        assert_eq!(clouds.b2.objects(&id), clouds.local(&id), "{how}");
        // The catalog had not been told: the listing tells it.
        let again = asked(&clouds.b2, || {
            clouds.place.pgkeep(&["sync"]).ok();
        });
        assert!(
            !again.iter().any(|request| request.starts_with("PUT") && request.contains("/backups/")),
            "{again:#?}"
        );
        assert_eq!(clouds.states(&id, "b2"), "good", "{how}");
        clouds.place.pgkeep(&["verify", "--deep"]).ok();
        for name in clouds.local(&id) {
            clouds.b2.bucket().lose(&format!("test/backups/{id}/{name}"));
        }
        clouds.place.pgkeep(&["verify"]).ended_with(4);
    }
}

/// 40 MB that no codec makes smaller, so that a volume goes in several parts.
fn fresh_parts(cluster: &Cluster) -> String {
    let database = cluster.fresh_database();
    cluster.psql(
        &database,
        "CREATE EXTENSION pgcrypto;
         CREATE TABLE large (id int PRIMARY KEY, bytes bytea NOT NULL);
         ALTER TABLE large ALTER bytes SET STORAGE EXTERNAL;
         INSERT INTO large SELECT 40 * n + m, gen_random_bytes(1000) || convert_to(n || '', 'UTF8')
           FROM generate_series(1, 800) n, generate_series(1, 40) m",
    );
    database
}

/// Killed when an upload in parts is begun, in the middle of it, and while it is being completed; with a local store and
/// without one.
#[test]
fn killed_at_every_request_of_an_upload_in_parts_nothing_false_remains() {
    let database = fresh_parts(cluster());
    let sum = "SELECT count(*), sum(hashtextextended(bytes::text, 0)) FROM large";
    let expected = cluster().psql(&database, sum);
    let beside = format!("{database}_again");
    for with_local in [true, false] {
        let clouds = Clouds::new();
        clouds.place.set("BACKUP_VOLUME_SIZE", "24M");
        if !with_local {
            clouds.place.unset("BACKUP_LOCAL_DIR");
        }
        clouds.place.init();
        for (method, request) in [("POST", "?uploads"), ("PUT", "partNumber=2"), ("POST", "?uploadId=")] {
            for name in BOTH {
                let at = format!("{name} {method} {request}, local store: {with_local}");
                let proxy = &cloud(&clouds, name).proxy;
                let before = proxy.seen().len();
                proxy.fail(Rule::new(Fault::LoseAnswer).on(method, request));
                let running = clouds.place.start(&[], &["backup", "database", &database]);
                wait_for(&at, || {
                    let seen = proxy.seen().split_off(before);
                    seen.iter().any(|seen| seen.starts_with(method) && seen.contains(request)).then_some(())
                });
                running.signal(Signal::KILL);
                running.wait().ended_with(137);
                proxy.heal();
                // The next runs clear up, whatever was whole is kept, and what is there is good.
                clouds.place.pgkeep(&["sync"]).ok();
                let report = clouds.place.pgkeep(&["--output", "json", "verify", "--deep"]).ok().json();
                assert_eq!(report["findings"], json!([]), "{at}");
            }
        }
        let (id, _) = backup(&clouds.place, &database, 0);
        assert_eq!(clouds.r2.objects(&id), clouds.b2.objects(&id));
        clouds.place.pgkeep(&["restore", &id, "--to-database", &beside, "--yes"]).ok();
        assert_eq!(cluster().psql(&beside, sum), expected);
        cluster().psql("postgres", &format!("DROP DATABASE \"{beside}\""));
        assert_eq!(clouds.place.files("state/spool"), [""; 0]);
        assert_eq!(clouds.place.catalog("SELECT id FROM runs WHERE outcome = 'running'").len(), 0);
    }
}

#[test]
fn a_restore_from_a_line_that_trickles_takes_its_time_and_is_right() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let (id, _) = backup(&clouds.place, &database, 0);
    for name in BOTH {
        let trickle = Fault::Trickle { bytes: 100_000, pause: Duration::from_millis(10) };
        cloud(&clouds, name).proxy.fail(Rule::new(trickle).on("GET", "data."));
        clouds.place.set("BACKUP_READ_ORDER", &format!("{name},{},local", other(name)));
        let beside = format!("{database}_{name}");
        let begun = Instant::now();
        clouds.place.pgkeep(&["restore", &id, "--to-database", &beside, "--yes"]).ok();
        assert!(begun.elapsed() > Duration::from_millis(200), "{name}: it did not trickle");
        assert_eq!(contents(cluster(), &beside), contents(cluster(), &database), "{name}");
        cluster().psql("postgres", &format!("DROP DATABASE \"{beside}\""));
        cloud(&clouds, name).proxy.heal();
    }
}

#[test]
fn what_a_full_local_disk_missed_is_owed_to_it_and_made_when_there_is_room() {
    use crate::support::faults::SmallDisk;
    let clouds = Clouds::new();
    let disk = SmallDisk::mount(&clouds.place.store(), "8m");
    disk.run(&clouds.place.command(&["init"])).ok();
    let database = fresh_large(cluster());
    disk.fill(600_000);
    let run =
        disk.run(&clouds.place.command(&["--output", "json", "backup", "database", &database])).ended_with(3);
    let id = run.json()["id"].as_str().unwrap().to_owned();
    assert!(clouds.states(&id, "local").contains("owed"), "{}", clouds.states(&id, "local"));
    let beside = format!("{database}_again");
    disk.run(&clouds.place.command(&["restore", &id, "--to-database", &beside, "--yes"])).ended_with(0);
    assert_eq!(contents(cluster(), &beside), contents(cluster(), &database));
    cluster().psql("postgres", &format!("DROP DATABASE \"{beside}\""));
    disk.run(&clouds.place.command(&["sync"])).ended_with(3);
    disk.empty();
    disk.run(&clouds.place.command(&["sync"])).ok();
    assert_eq!(clouds.states(&id, "local"), "good");
    disk.run(&clouds.place.command(&["verify", "--deep"])).ok();
}

#[test]
fn without_the_right_to_delete_sync_still_replaces_a_damaged_copy_and_says_what_stays() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let (id, _) = backup(&clouds.place, &database, 0);
    let key = format!("test/backups/{id}/data.00000");
    clouds.b2.bucket().damage(&key);
    clouds.place.pgkeep(&["verify", "--deep", "--store", "b2"]).ended_with(4);
    clouds.b2.s3.change(|options| options.deny_deletes = true);
    let run = clouds.place.pgkeep(&["sync"]);
    assert!([0, 3].contains(&run.code), "{} {}", run.stdout, run.stderr);
    assert_eq!(clouds.b2.bucket().read(&key), clouds.r2.bucket().read(&key));
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn a_rebuild_asks_for_many_manifests_at_once() {
    let clouds = Clouds::ready();
    let database = cluster().fresh_database();
    for _ in 0..20 {
        clouds.place.backup(&database);
    }
    std::fs::remove_dir_all(clouds.place.state()).unwrap();
    let only = Place::new();
    only.unset("BACKUP_LOCAL_DIR");
    clouds.settings_of_b2(&only);
    // One after the other would take ten seconds.
    clouds.b2.proxy.fail(Rule::new(Fault::Late(Duration::from_millis(500))).on("GET", "manifest"));
    let begun = Instant::now();
    only.pgkeep(&["catalog", "rebuild"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    assert_eq!(only.catalog("SELECT count(*) FROM backups"), [["20"]]);
}

/// Two servers that begin under one name at the same moment, before either could see the other: B2 knows no "only if it
/// is not there". Whoever wrote last has the name; the other is refused before it stores anything.
#[test]
fn of_two_servers_that_take_one_name_at_once_only_one_goes_on() {
    let own = Cluster::own(&[]);
    let clouds = Clouds::ready();
    let other = Place::on(&own);
    clouds.settings_of_b2(&other);
    other.unset("BACKUP_LOCAL_DIR");
    other.set("BACKUP_MIN_COPIES", "1");
    let theirs = clouds.b2.bucket().read("test/identity");
    clouds.b2.bucket().lose("test/identity");
    other.pgkeep(&["init"]).ok();
    // What the first had written arrives last.
    clouds.b2.bucket().write("test/identity", theirs);
    let keys = clouds.b2.bucket().keys();
    let refused = other.pgkeep(&["backup", "database", "postgres"]).fails_with(5);
    assert!(refused.stderr.contains("another server"), "{}", refused.stderr);
    let backups = |keys: &[String]| keys.iter().filter(|key| key.contains("/backups/")).count();
    assert_eq!(backups(&clouds.b2.bucket().keys()), backups(&keys));
    clouds.place.backup(&cluster().fresh_database());
}

#[test]
fn a_sync_of_much_goes_in_bounded_memory() {
    let mut clouds = Clouds::ready();
    clouds.place.set("BACKUP_VOLUME_SIZE", "128M");
    let database = fresh_wide(cluster());
    clouds.r2.proxy.go_away();
    clouds.b2.proxy.go_away();
    clouds.place.set("BACKUP_MIN_COPIES", "1");
    let (id, _) = backup(&clouds.place, &database, 3);
    clouds.r2.proxy.come_back();
    clouds.b2.proxy.come_back();
    // From the local store to both clouds, and then from a cloud to the local store.
    let there = peak(&clouds.place, &["sync"]);
    std::fs::remove_dir_all(clouds.place.store().join("test/backups").join(&id)).unwrap();
    clouds.place.pgkeep(&["verify"]).ended_with(4);
    let back = peak(&clouds.place, &["sync"]);
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
    let stored: u64 = clouds.place.catalog("SELECT size_bytes FROM backups")[0][0].parse().unwrap();
    assert!(stored > 100 << 20, "{stored} bytes are too few to see");
    assert!((10..150).contains(&there) && (10..150).contains(&back), "{there} MB there, {back} MB back");
}

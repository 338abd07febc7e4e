//! Three places at once: what one misses costs a warning, heals later, and a restore takes the next.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::faults::{contents, databases_beginning, fresh_large, through, wait_for};
use crate::support::proxy::{Fault, Link, Proxy, Rule};
use crate::support::s3::{Bucket, Options, S3};
use crate::support::{Place, Run, cluster, run};

/// A place with a local store and two clouds, each behind a proxy.
pub(crate) struct Clouds {
    pub(crate) place: Place,
    pub(crate) r2: Cloud,
    pub(crate) b2: Cloud,
}

/// A cloud as R2 or as B2 is.
pub(crate) struct Cloud {
    pub(crate) s3: S3,
    pub(crate) proxy: Proxy,
}

impl Cloud {
    /// Makes it R2 of this place.
    pub(crate) fn is_r2_of(&self, place: &Place) {
        place.set("R2_ENDPOINT", &self.proxy.endpoint());
        place.set("R2_BUCKET", "keep");
        place.set("R2_ACCESS_KEY", self.s3.access_key());
        place.set("R2_SECRET_KEY", &self.s3.secret_key());
    }

    /// Makes it B2 of this place.
    pub(crate) fn is_b2_of(&self, place: &Place) {
        place.set("B2_ENDPOINT", &self.proxy.endpoint());
        place.set("B2_BUCKET_NAME", "keep");
        place.set("B2_KEY_ID", self.s3.access_key());
        place.set("B2_APPLICATION_KEY", &self.s3.secret_key());
    }

    pub(crate) fn start(options: Options) -> Self {
        let s3 = S3::with(options);
        let _ = s3.bucket("keep");
        let proxy = Proxy::before(s3.address());
        Self { s3, proxy }
    }

    pub(crate) fn bucket(&self) -> Bucket {
        self.s3.bucket("keep")
    }

    /// Names of the objects of the backup.
    pub(crate) fn objects(&self, id: &str) -> Vec<String> {
        let prefix = format!("test/backups/{id}/");
        self.bucket()
            .keys()
            .into_iter()
            .filter_map(|key| Some(key.strip_prefix(&prefix)?.to_owned()))
            .collect()
    }
}

impl Clouds {
    /// Nothing is initialised yet.
    pub(crate) fn new() -> Self {
        let (r2, b2) = (Cloud::start(Options::default()), Cloud::start(Options::b2()));
        let clouds = Self { place: Place::new(), r2, b2 };
        clouds.settings_of_r2(&clouds.place);
        clouds.settings_of_b2(&clouds.place);
        clouds.place.set("BACKUP_VOLUME_SIZE", "1M");
        clouds
    }

    /// Initialised.
    pub(crate) fn ready() -> Self {
        let clouds = Self::new();
        clouds.place.init();
        clouds
    }

    pub(crate) fn settings_of_r2(&self, place: &Place) {
        self.r2.is_r2_of(place);
    }

    pub(crate) fn settings_of_b2(&self, place: &Place) {
        self.b2.is_b2_of(place);
    }

    /// Names of the objects of the backup in the local store.
    pub(crate) fn local(&self, id: &str) -> Vec<String> {
        let directory = self.place.store().join("test/backups").join(id);
        let entries = fs::read_dir(directory).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Backs up and expects that a copy is owed.
    fn backup_owing(&self, database: &str) -> (String, Run) {
        let run = self.place.pgkeep(&["--output", "json", "backup", "database", database]).ended_with(3);
        (run.json()["id"].as_str().unwrap().to_owned(), run)
    }

    /// The state of every copy of the backup in a store, each once.
    pub(crate) fn states(&self, id: &str, store: &str) -> String {
        let sql = format!(
            "SELECT DISTINCT state FROM copies WHERE backup_id = '{id}' AND store = '{store}' ORDER BY state"
        );
        self.place.catalog(&sql).into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Restores the newest backup of the database beside and compares all rows.
    fn assert_restores(&self, database: &str, code: i32) -> Run {
        let beside = format!("{database}_again");
        let arguments = ["restore", "latest", "--database", database, "--to-database", &beside, "--yes"];
        let run = self.place.pgkeep(&arguments).ended_with(code);
        assert_eq!(contents(cluster(), &beside), contents(cluster(), database));
        cluster().psql("postgres", &format!("DROP DATABASE \"{beside}\""));
        run
    }
}

#[test]
fn a_backup_is_in_three_places_and_comes_back_from_each() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let local = clouds.local(&id);
    assert!(local.len() > 1 && local.contains(&"manifest".to_owned()), "{local:?}");
    assert_eq!(clouds.r2.objects(&id), local);
    assert_eq!(clouds.b2.objects(&id), local);
    for name in &local {
        let key = format!("test/backups/{id}/{name}");
        let bytes = fs::read(clouds.place.store().join(&key)).unwrap();
        assert_eq!(clouds.r2.bucket().read(&key), bytes, "{key}");
        assert_eq!(clouds.b2.bucket().read(&key), bytes, "{key}");
    }
    let row = &clouds.place.catalog("SELECT local_path, r2_path, b2_path FROM backups")[0];
    assert!(row[0].ends_with(&format!("store/test/backups/{id}/")), "{row:?}");
    assert!(row[1].contains("keep") && row[2].contains("keep"), "{row:?}");
    clouds.place.pgkeep(&["verify"]).ok();
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
    for order in ["r2,b2,local", "b2,r2,local", "local,b2,r2"] {
        clouds.place.set("BACKUP_READ_ORDER", order);
        clouds.assert_restores(&database, 0);
    }
}

#[test]
fn a_cloud_that_is_away_costs_a_warning_and_sync_makes_the_copy() {
    let mut clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.r2.proxy.go_away();
    let (id, run) = clouds.backup_owing(&database);
    assert!(
        run.json()["warnings"][0].as_str().unwrap().contains("store r2 has no copy yet"),
        "{}",
        run.stdout
    );
    assert_eq!(clouds.states(&id, "r2"), "owed");
    assert_eq!(
        (clouds.states(&id, "local"), clouds.states(&id, "b2")),
        ("good".to_owned(), "good".to_owned())
    );
    clouds.place.pgkeep(&["verify"]).ended_with(3);
    clouds.place.pgkeep(&["sync"]).ended_with(3);
    clouds.assert_restores(&database, 3);

    clouds.r2.proxy.come_back();
    let planned = clouds.place.pgkeep(&["--output", "json", "sync", "--dry-run"]).ok().json();
    assert_eq!(planned["copies"].as_array().unwrap().len(), clouds.local(&id).len());
    assert_eq!(clouds.r2.objects(&id), Vec::<String>::new());
    clouds.place.pgkeep(&["sync"]).ok();
    assert_eq!(clouds.r2.objects(&id), clouds.local(&id));
    assert_eq!(clouds.states(&id, "r2"), "good");
    assert!(clouds.place.catalog("SELECT r2_path FROM backups")[0][0].contains("keep"));
    clouds.place.pgkeep(&["verify", "--deep", "--store", "r2"]).ok();
    let again = clouds.place.pgkeep(&["--output", "json", "sync"]).ok().json();
    assert_eq!(again["copies"].as_array().unwrap().len(), 0);
}

#[test]
fn with_both_clouds_away_the_backup_is_kept_and_the_run_has_failed() {
    let mut clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.r2.proxy.go_away();
    clouds.b2.proxy.go_away();
    let run = clouds.place.pgkeep(&["backup", "database", &database]).fails_with(40);
    assert!(run.stderr.contains("in 1 of at least 2 stores"), "{}", run.stderr);
    clouds.assert_restores(&database, 3);
    clouds.r2.proxy.come_back();
    clouds.b2.proxy.come_back();
    clouds.place.pgkeep(&["sync"]).ok();
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn a_copy_damaged_in_each_store_in_turn_is_passed_over_marked_and_healed() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let key = format!("test/backups/{id}/data.00000");
    let (r2, b2) = (clouds.r2.bucket(), clouds.b2.bucket());
    let path = clouds.place.store().join(&key);
    for (store, order) in [("r2", "r2,b2,local"), ("b2", "b2,local,r2"), ("local", "local,r2,b2")] {
        match store {
            "r2" => r2.damage(&key),
            "b2" => b2.damage(&key),
            _ => {
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
        }
        clouds.place.set("BACKUP_READ_ORDER", order);
        let run = clouds.assert_restores(&database, 3);
        assert!(run.stdout.contains(&format!("the copy in {store} is bad")), "{}", run.stdout);
        assert_eq!(clouds.states(&id, store), "damaged good");
        clouds.place.pgkeep(&["verify"]).ended_with(4);
        clouds.place.pgkeep(&["sync"]).ok();
        assert_eq!(clouds.states(&id, store), "good");
        clouds.place.pgkeep(&["verify", "--deep"]).ok();
    }
}

#[test]
fn when_every_copy_is_damaged_it_says_what_is_lost() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let key = format!("test/backups/{id}/data.00001");
    clouds.r2.bucket().damage(&key);
    clouds.b2.bucket().damage(&key);
    let path = clouds.place.store().join(&key);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let before = databases_beginning(cluster(), &database);
    let beside = format!("{database}_again");
    let run = clouds.place.pgkeep(&["restore", "latest", "--to-database", &beside, "--yes"]).fails_with(4);
    assert!(run.stderr.contains("can be had from no store"), "{}", run.stderr);
    assert!(run.stderr.contains("it holds bytes of table"), "{}", run.stderr);
    assert_eq!(databases_beginning(cluster(), &database), before);
    clouds.place.pgkeep(&["verify", "--deep"]).ended_with(4);
    let run = clouds.place.pgkeep(&["sync"]).ended_with(4);
    assert!(run.stdout.contains("lost, no good copy in any store: data.00001"), "{}", run.stdout);
}

#[test]
fn what_a_store_that_is_away_may_still_have_is_not_said_to_be_lost() {
    let mut clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let key = format!("test/backups/{id}/data.00001");
    let restore = |clouds: &Clouds| {
        let beside = format!("{database}_again");
        clouds.place.pgkeep(&["restore", "latest", "--to-database", &beside, "--yes"])
    };
    fs::remove_file(clouds.place.store().join(&key)).unwrap();
    clouds.b2.bucket().damage(&key);
    clouds.r2.proxy.go_away();
    let run = restore(&clouds).fails_with(40);
    for says in [
        "r2: could not be reached: ",
        "b2: frame 0 does not fit its seal",
        "local: read ",
        "it holds bytes of table public.large, and none of 2 other tables",
        "The copy in r2 may be good",
    ] {
        assert!(run.stderr.contains(says), "{says}: {}", run.stderr);
    }
    // It does have one.
    clouds.r2.proxy.come_back();
    clouds.assert_restores(&database, 0);
    // When its copy is known to be bad as well, nobody needs to wait for it.
    clouds.r2.bucket().damage(&key);
    clouds.place.pgkeep(&["verify", "--deep", "--store", "r2"]).ended_with(4);
    clouds.r2.proxy.go_away();
    let run = restore(&clouds).fails_with(4);
    for says in
        ["r2: its copy is known to be damaged", "no other backup of the database is known to be whole"]
    {
        assert!(run.stderr.contains(says), "{says}: {}", run.stderr);
    }
    clouds.r2.proxy.come_back();
    let run = restore(&clouds).fails_with(4);
    assert!(run.stderr.contains("can be had from no store"), "{}", run.stderr);
    clouds.place.pgkeep(&["sync"]).ended_with(4);
    // Another backup that is whole is named.
    let other = clouds.place.backup(&database);
    let run = clouds.place.pgkeep(&["restore", &id, "--yes"]).fails_with(4);
    let hint = format!("the newest other backup that is whole, as far as is known, is {other}");
    assert!(run.stderr.contains(&hint), "{}", run.stderr);
}

#[test]
fn a_manifest_that_a_store_which_is_away_may_still_have_is_not_said_to_be_lost() {
    let mut clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let key = format!("test/backups/{id}/manifest");
    clouds.place.set("BACKUP_READ_ORDER", "b2,local,r2");
    clouds.b2.bucket().damage(&key);
    fs::remove_file(clouds.place.store().join(&key)).unwrap();
    clouds.r2.proxy.go_away();
    let run = clouds.place.pgkeep(&["restore", "latest", "--yes"]).fails_with(40);
    for says in ["can be had from no store: b2: ", "; r2: read http", "Connection refused", "hint: "] {
        assert!(run.stderr.contains(says), "{says}: {}", run.stderr);
    }
    clouds.r2.proxy.come_back();
    clouds.assert_restores(&database, 3);
    clouds.r2.bucket().damage(&key);
    let run = clouds.place.pgkeep(&["restore", "latest", "--yes"]).fails_with(4);
    assert!(run.stderr.contains("no other backup of the database is known to be whole"), "{}", run.stderr);
}

#[test]
fn a_disk_that_is_not_mounted_is_passed_over_in_a_restore_and_its_copies_stay_good() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    clouds.place.set("BACKUP_READ_ORDER", "local,r2,b2");
    fs::rename(clouds.place.store(), clouds.place.path("elsewhere")).unwrap();
    let run = clouds.assert_restores(&database, 3);
    for says in ["store local could not be read, the next one was", "was it unmounted?"] {
        assert!(run.stdout.contains(says), "{says}: {}", run.stdout);
    }
    assert_eq!(clouds.states(&id, "local"), "good");
    fs::rename(clouds.place.path("elsewhere"), clouds.place.store()).unwrap();
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn one_volume_comes_from_the_next_store_and_the_rest_from_the_first() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    clouds.r2.bucket().lose(&format!("test/backups/{id}/data.00001"));
    let run = clouds.assert_restores(&database, 3);
    assert!(run.stdout.contains("the copy in r2 is bad"), "{}", run.stdout);
    assert_eq!(clouds.states(&id, "r2"), "good missing");
    // Away in the middle: the rest comes from the next one.
    clouds.place.pgkeep(&["sync"]).ok();
    clouds.r2.proxy.fail(Rule::new(Fault::Reset).on("GET", "data.").from(2));
    let run = clouds.assert_restores(&database, 3);
    assert!(run.stdout.contains("store r2 could not be read"), "{}", run.stdout);
}

#[test]
fn the_machine_is_gone_and_one_cloud_with_it() {
    let mut clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.place.backup(&database);
    let expected = contents(cluster(), &database);
    cluster().psql("postgres", &format!("DROP DATABASE \"{database}\""));
    fs::remove_dir_all(clouds.place.state()).unwrap();
    fs::remove_dir_all(clouds.place.store()).unwrap();
    clouds.r2.proxy.go_away();

    // Another machine: the key, one cloud, and a server of its own.
    let new = crate::support::Cluster::own(&[]);
    let other = Place::on(&new);
    clouds.settings_of_b2(&other);
    other.unset("BACKUP_LOCAL_DIR");
    let without = other.pgkeep(&["restore", "latest"]).fails_with(10);
    assert!(
        without.stderr.contains("catalog rebuild") && without.stderr.contains("--yes"),
        "{}",
        without.stderr
    );
    // A first try with another key leaves nothing behind that hides that there is no catalog.
    let key = other.setting("BACKUP_ENCRYPTION_KEY");
    other.unset("BACKUP_ENCRYPTION_KEY");
    other.pgkeep(&["restore", "latest", "--yes"]).fails_with(12);
    other.set("BACKUP_ENCRYPTION_KEY", &key);
    let run = other.pgkeep(&["restore", "latest", "--yes"]).ok();
    assert!(run.stderr.contains("made the catalog out of the stores"), "{}", run.stderr);
    assert_eq!(contents(&new, &database), expected);
    other.pgkeep(&["verify", "--deep"]).ok();
    // The diary of the machine that is gone is there too.
    let runs = other.catalog("SELECT command, outcome FROM runs WHERE command LIKE 'backup%'");
    assert_eq!(runs, [["backup database", "done"]]);
    let own = other.catalog("SELECT count(*) FROM backups JOIN runs ON runs.id = backups.run_id");
    assert_eq!(own, [["1"]]);
    // It is another server: its own backups need a name of their own.
    let refused = other.pgkeep(&["backup", "database", &database]).fails_with(5);
    assert!(refused.stderr.contains("BACKUP_CLUSTER"), "{}", refused.stderr);
}

#[test]
fn the_diary_of_a_machine_that_is_gone_survives_it() {
    let mut clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.place.backup(&database);
    clouds.assert_restores(&database, 0);
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
    // Every run leaves a copy of the catalog in every place, and of one catalog not more than two.
    for cloud in [&clouds.r2, &clouds.b2] {
        let saved = cloud.bucket().keys().into_iter().filter(|key| key.starts_with("test/catalog/"));
        let saved: Vec<String> = saved.collect();
        assert_eq!(saved.len(), 2, "{saved:?}");
        assert!(
            saved.iter().all(|key| !String::from_utf8_lossy(&cloud.bucket().read(key)).contains("SQLite"))
        );
    }
    let local = clouds.place.files("store/test/catalog");
    assert_eq!(local.iter().filter(|path| path.contains("Z-")).count(), 2, "{local:?}");
    let before = clouds.place.catalog("SELECT id, outcome FROM runs ORDER BY id");
    let proven = "SELECT object, proven_at, proven_how FROM copies WHERE store = 'b2' ORDER BY object";
    let proofs = clouds.place.catalog(proven);
    clouds.r2.proxy.go_away();
    fs::remove_dir_all(clouds.place.state()).unwrap();
    fs::remove_dir_all(clouds.place.store()).unwrap();

    let other = Place::new();
    clouds.settings_of_b2(&other);
    other.unset("BACKUP_LOCAL_DIR");
    let run = other.pgkeep(&["--output", "json", "catalog", "rebuild"]).ok();
    assert_eq!(run.json()["history"]["restores"], 1, "{}", run.stdout);
    let after = other.catalog("SELECT id, outcome FROM runs WHERE command <> 'catalog rebuild' ORDER BY id");
    assert_eq!(after, before);
    assert_eq!(other.catalog("SELECT state, restore_mode FROM restore_log"), [["done", "full"]]);
    assert_eq!(other.catalog(proven), proofs);
    // Again: nothing is taken over twice.
    let run = other.pgkeep(&["--output", "json", "catalog", "rebuild"]).ok().json();
    assert_eq!((&run["history"]["runs"], &run["history"]["restores"]), (&0.into(), &0.into()));
    // A damaged copy of a catalog costs a warning, and the older one is taken.
    let newest = clouds.b2.bucket().keys().into_iter().rfind(|key| key.starts_with("test/catalog/")).unwrap();
    clouds.b2.bucket().damage(&newest);
    let third = Place::new();
    clouds.settings_of_b2(&third);
    third.unset("BACKUP_LOCAL_DIR");
    let run = third.pgkeep(&["--output", "json", "catalog", "rebuild"]).ended_with(3).json();
    assert!(run["warnings"][0].as_str().unwrap().contains("seal"), "{run}");
    assert_eq!(third.catalog("SELECT count(*) FROM backups"), [["1"]]);
    assert_ne!(third.catalog("SELECT count(*) FROM restore_log"), [["0"]]);
}

#[test]
fn a_rebuild_that_is_killed_leaves_no_catalog_and_the_next_one_makes_it() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.place.backup(&database);
    fs::remove_dir_all(clouds.place.state()).unwrap();
    let killed = [("PGKEEP_TEST_STOP", "RebuildFilled:kill")];
    let restore = ["restore", "latest", "--to-database", &format!("{database}_again"), "--yes"];
    assert_eq!(clouds.place.pgkeep_with(&killed, &restore).code, 128 + 9);
    assert!(!clouds.place.state().join("catalog.sqlite").exists());
    clouds.assert_restores(&database, 0);
    assert!(!clouds.place.state().join("catalog.sqlite.unfinished").exists());
}

#[test]
fn an_older_backup_is_not_restored_without_a_word_because_the_newest_cannot_be_read() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let older = clouds.place.backup(&database);
    // Identifiers tell seconds apart.
    std::thread::sleep(Duration::from_millis(1100));
    let newest = clouds.place.backup(&database);
    let other = Place::new();
    clouds.settings_of_b2(&other);
    other.unset("BACKUP_LOCAL_DIR");
    clouds.b2.bucket().damage(&format!("test/backups/{newest}/manifest"));
    let beside = format!("{database}_older");
    let run = other.pgkeep(&["restore", "latest", "--to-database", &beside, "--yes"]).fails_with(4);
    assert!(run.stderr.contains(&newest) && run.stderr.contains(&older), "{}", run.stderr);
    assert!(!other.state().join("catalog.sqlite").exists(), "the next try must say it again");
    other.pgkeep(&["restore", &older, "--to-database", &beside, "--yes"]).ok();
    cluster().psql("postgres", &format!("DROP DATABASE \"{beside}\""));
}

#[test]
fn where_a_backup_is_whole_is_what_was_last_seen() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let places = "SELECT local_path IS NOT NULL, r2_path IS NOT NULL, b2_path IS NOT NULL FROM backups";
    assert_eq!(clouds.place.catalog(places), [["1", "1", "1"]]);
    let lost = format!("test/backups/{id}/data.00000");
    let bytes = clouds.r2.bucket().read(&lost);
    clouds.r2.bucket().lose(&lost);
    clouds.place.pgkeep(&["verify"]).ended_with(4);
    assert_eq!(clouds.place.catalog(places), [["1", "0", "1"]]);
    // Somebody has put it back.
    clouds.r2.bucket().write(&lost, bytes);
    clouds.place.pgkeep(&["verify"]).ok();
    assert_eq!(clouds.place.catalog(places), [["1", "1", "1"]]);
    // A restore that meets damage says so too; and `sync`, which replaces it, leaves no older version that is paid for.
    clouds.b2.bucket().damage(&lost);
    clouds.place.set("BACKUP_READ_ORDER", "b2,r2,local");
    clouds.assert_restores(&database, 3);
    assert_eq!(clouds.place.catalog(places), [["1", "1", "0"]]);
    clouds.place.pgkeep(&["sync"]).ok();
    assert_eq!(clouds.place.catalog(places), [["1", "1", "1"]]);
    assert_eq!(clouds.b2.bucket().versions(&lost), 1);
}

#[test]
fn what_only_a_store_has_that_is_no_longer_configured_is_not_lost() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let lost = format!("test/backups/{id}/data.00000");
    clouds.b2.bucket().lose(&lost);
    fs::remove_file(clouds.place.store().join(&lost)).unwrap();
    for name in ["R2_ENDPOINT", "R2_BUCKET", "R2_ACCESS_KEY", "R2_SECRET_KEY"] {
        clouds.place.unset(name);
    }
    let run = clouds.place.pgkeep(&["--output", "json", "sync"]).ended_with(3).json();
    assert_eq!(run["lost"], serde_json::json!([]));
    assert_eq!(run["waiting"][0]["object"], "data.00000", "{run}");
    clouds.settings_of_r2(&clouds.place);
    clouds.place.pgkeep(&["sync"]).ok();
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn the_rate_limit_holds_for_backup_sync_and_verify_and_not_for_a_recovery() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let size = |name: String| clouds.r2.bucket().read(&format!("test/backups/{id}/{name}")).len();
    let stored: usize = clouds.r2.objects(&id).into_iter().map(size).sum();
    assert!(stored > 3 << 20, "{stored} bytes are too few to see a limit");
    // All of it takes eight seconds; what is written or read last need not be waited for.
    clouds.place.set("BACKUP_RATE_LIMIT", &(stored / 8).to_string());
    let timed = |arguments: &[&str]| {
        let begun = Instant::now();
        clouds.place.pgkeep(arguments).ok();
        begun.elapsed()
    };
    let half = Duration::from_secs(4);
    let verify = timed(&["verify", "--deep", "--store", "r2"]);
    let backup = timed(&["backup", "database", &database]);
    fs::remove_dir_all(clouds.place.state()).unwrap();
    fs::remove_dir_all(clouds.place.store()).unwrap();
    let rebuild = timed(&["catalog", "rebuild"]);
    let beside = format!("{database}_again");
    let restore = timed(&["restore", &id, "--to-database", &beside, "--yes"]);
    assert!(verify > half && backup > half, "verify {verify:?}, backup {backup:?}");
    assert!(rebuild < half && restore < half, "catalog rebuild {rebuild:?}, restore {restore:?}");
    cluster().psql("postgres", &format!("DROP DATABASE \"{beside}\""));
}

#[test]
fn a_cloud_that_is_slow_holds_up_nobody_but_the_end() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.b2.proxy.set_link(Link::at(1 << 20));
    let id = clouds.place.backup(&database);
    assert_eq!(clouds.b2.objects(&id), clouds.local(&id));
}

#[test]
fn a_full_local_disk_does_not_keep_a_backup_from_the_clouds() {
    use crate::support::faults::SmallDisk;
    let clouds = Clouds::new();
    let disk = SmallDisk::mount(&clouds.place.store(), "3m");
    disk.run(&clouds.place.command(&["init"])).ok();
    let database = fresh_large(cluster());
    disk.fill(600_000);
    let run =
        disk.run(&clouds.place.command(&["--output", "json", "backup", "database", &database])).ended_with(3);
    let id = run.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(clouds.r2.objects(&id), clouds.b2.objects(&id));
    assert!(clouds.r2.objects(&id).contains(&"manifest".to_owned()));
    assert_eq!(clouds.place.files("state/spool"), Vec::<String>::new());
}

#[test]
fn a_name_that_cannot_be_flushed_in_the_local_store_keeps_no_volume_from_the_clouds() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let key = format!("test/backups/{id}/data.00001");
    let directory = clouds.place.store().join("test/backups").join(&id);
    fs::remove_file(directory.join("data.00001")).unwrap();
    clouds.b2.bucket().lose(&key);
    // The renaming goes well, the flush of the directory does not.
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(&directory);
    strace.args(["-e", "trace=fsync", "-e", "inject=fsync:error=EIO"]);
    let run = run(&mut through(&mut strace, &clouds.place.command(&["sync"]))).ended_with(3);
    assert!(run.stdout.contains("Input/output error"), "{}", run.stdout);
    assert!(!run.stdout.contains("No such file"), "{}", run.stdout);
    assert_eq!(clouds.b2.bucket().read(&key), clouds.r2.bucket().read(&key));
    assert_eq!(
        (clouds.states(&id, "b2"), clouds.states(&id, "local")),
        ("good".into(), "good missing".into())
    );
    clouds.place.pgkeep(&["sync"]).ok();
    assert_eq!(clouds.local(&id), clouds.r2.objects(&id));
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn sync_takes_the_next_copy_when_one_is_bad_and_says_what_it_could_not_do() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let key = format!("test/backups/{id}/data.00000");
    let path = clouds.place.store().join(&key);
    fs::remove_file(&path).unwrap();
    // Nobody lets it be read: it is still owed, and that is no success.
    let denied = Fault::Status { status: 403, code: "AccessDenied", retry_after: None };
    for cloud in [&clouds.r2, &clouds.b2] {
        cloud.proxy.fail(Rule::new(denied.clone()).on("GET", "data.00000"));
    }
    let run = clouds.place.pgkeep(&["sync"]).ended_with(3);
    assert!(
        run.stdout.contains(&format!("owed: data.00000 of {id}, which local should have")),
        "{}",
        run.stdout
    );
    clouds.r2.proxy.heal();
    clouds.b2.proxy.heal();
    clouds.r2.bucket().damage(&key);
    clouds.place.pgkeep(&["sync"]).ok();
    assert_eq!(fs::read(&path).unwrap(), clouds.b2.bucket().read(&key));
    assert_eq!(clouds.r2.bucket().read(&key), clouds.b2.bucket().read(&key));
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn a_backup_whose_volumes_are_whole_only_together_is_found_and_healed() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    fs::remove_dir_all(clouds.place.state()).unwrap();
    fs::remove_dir_all(clouds.place.store().join("test/backups").join(&id)).unwrap();
    clouds.r2.bucket().lose(&format!("test/backups/{id}/data.00000"));
    clouds.b2.bucket().lose(&format!("test/backups/{id}/data.00001"));
    clouds.place.pgkeep(&["catalog", "rebuild"]).ok();
    clouds.place.pgkeep(&["sync"]).ok();
    assert_eq!(clouds.local(&id), clouds.r2.objects(&id));
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
    clouds.assert_restores(&database, 0);
}

#[test]
fn a_store_that_is_not_configured_cannot_be_verified() {
    let place = Place::ready();
    let run = place.pgkeep(&["verify", "--store", "b2"]).fails_with(20);
    assert!(run.stderr.contains("store b2 is not configured"), "{}", run.stderr);
}

#[test]
fn what_lies_among_a_backups_objects_and_is_none_of_them_is_named() {
    let clouds = Clouds::ready();
    let id = clouds.place.backup(&fresh_large(cluster()));
    clouds.r2.bucket().write(&format!("test/backups/{id}/data.09999"), b"stray".to_vec());
    let run = clouds.place.pgkeep(&["verify"]).fails_with(3);
    assert!(run.stdout.contains("data.09999"), "{}", run.stdout);
    assert!(run.stdout.contains("it does not belong to the backup"), "{}", run.stdout);
}

#[test]
fn verify_lists_each_store_once() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.place.backup(&database);
    clouds.place.backup(&database);
    let clouds_before = [&clouds.r2, &clouds.b2].map(|cloud| {
        cloud.s3.forget_requests();
        (cloud, cloud.proxy.seen().len())
    });
    clouds.place.pgkeep(&["verify"]).ok();
    for (cloud, before) in clouds_before {
        // The others are of WAL and of the catalog's own copies.
        assert_eq!(cloud.s3.requests_of("ListObjectsV2"), 3, "{:?}", cloud.s3.requests());
        let seen = cloud.proxy.seen().split_off(before);
        let of_backups = seen.iter().filter(|request| request.contains("prefix=test%2Fbackups%2F")).count();
        assert_eq!(of_backups, 1, "{seen:?}");
    }
}

#[test]
fn a_cloud_of_another_server_is_refused() {
    let clouds = Clouds::ready();
    let other = crate::support::Cluster::own(&[]);
    let place = Place::on(&other);
    clouds.settings_of_r2(&place);
    let run = place.pgkeep(&["init"]).fails_with(5);
    assert!(run.stderr.contains("another server"), "{}", run.stderr);
}

#[test]
fn killed_at_every_step_of_an_upload_nothing_false_remains() {
    let after = ["BackupManifestPlaced", "BackupManifestStored"];
    for step in ["BackupVolumeClosed", "BackupVolumeStored", "BackupVolumesStored"].into_iter().chain(after) {
        let clouds = Clouds::ready();
        let database = fresh_large(cluster());
        clouds.place.pgkeep_with(
            &[("PGKEEP_TEST_STOP", &format!("{step}:kill"))],
            &["backup", "database", &database],
        );
        clouds.place.pgkeep(&["sync"]).ok();
        let report = clouds.place.pgkeep(&["--output", "json", "verify", "--deep"]).ok().json();
        assert_eq!(report["findings"], serde_json::json!([]), "{step}");
        let whole = after.contains(&step);
        assert_eq!(report["backups"], u64::from(whole), "{step}");
        let id = clouds.place.backup(&database);
        assert_eq!(clouds.r2.objects(&id), clouds.local(&id));
    }
}

/// A backup whose local copy is whole while a cloud is still being sent to.
fn waiting_for_a_cloud(clouds: &Clouds, database: &str) -> crate::support::Running {
    clouds.r2.proxy.set_link(Link::at(100_000));
    let running = clouds.place.start(&[], &["backup", "database", database]);
    let whole = || clouds.place.backups().iter().any(|backup| backup.join("manifest").exists());
    wait_for("the local store to have all", || whole().then_some(()));
    running
}

#[test]
fn killed_while_only_a_slow_cloud_is_missing_the_backup_is_kept_and_owed() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let running = waiting_for_a_cloud(&clouds, &database);
    running.signal(rustix::process::Signal::KILL);
    let _ = running.wait();
    clouds.r2.proxy.set_link(Link::default());
    let run = clouds.place.pgkeep(&["sync"]).ok();
    assert!(run.stderr.contains("which was complete when its run died"), "{}", run.stderr);
    let rows = clouds.place.catalog("SELECT id FROM backups");
    let id = &rows[0][0];
    assert_eq!(clouds.r2.objects(id), clouds.local(id));
    assert_eq!(clouds.b2.objects(id), clouds.local(id));
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
    clouds.assert_restores(&database, 0);
}

#[test]
fn interrupted_while_only_a_slow_cloud_is_missing_the_backup_is_kept_and_owed() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let running = waiting_for_a_cloud(&clouds, &database);
    running.signal(rustix::process::Signal::INT);
    let run = running.wait();
    assert_eq!(run.code, 130, "{}", run.stderr);
    assert!(run.stderr.contains("is whole in local"), "{}", run.stderr);
    clouds.r2.proxy.set_link(Link::default());
    assert_eq!(clouds.place.catalog("SELECT DISTINCT state FROM copies WHERE store = 'local'"), [["good"]]);
    clouds.place.pgkeep(&["sync"]).ok();
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn killed_in_the_middle_of_a_slow_upload_the_next_run_clears_up() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.r2.proxy.set_link(Link::at(200_000));
    let running = clouds.place.start(&[], &["backup", "database", &database]);
    wait_for("a volume on its way", || {
        clouds.r2.proxy.seen().iter().any(|request| request.contains("data.")).then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    running.signal(rustix::process::Signal::KILL);
    let _ = running.wait();
    clouds.r2.proxy.set_link(Link::default());
    let id = clouds.place.backup(&database);
    assert_eq!(clouds.r2.objects(&id), clouds.local(&id));
    // Was the local copy whole already, so is it kept.
    clouds.place.pgkeep(&["sync"]).ok();
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn a_local_store_that_was_deleted_is_done_without_and_filled_again() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    fs::remove_dir_all(clouds.place.store()).unwrap();
    // It may be a disk that is not mounted: nothing is written there, and no copy is called lost.
    let run = clouds.place.pgkeep(&["verify"]).ended_with(3);
    assert!(run.stdout.contains("is it mounted?"), "{}", run.stdout);
    assert_eq!(clouds.states(&id, "local"), "good");
    clouds.assert_restores(&database, 0);
    let (during, _) = clouds.backup_owing(&database);
    assert!(!clouds.place.store().join("test").exists());
    // Somebody says that it is a new place.
    clouds.place.init();
    clouds.place.pgkeep(&["sync"]).ok();
    for id in [&id, &during] {
        assert_eq!(clouds.local(id), clouds.r2.objects(id));
    }
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn a_newer_backup_that_only_a_lost_place_had_is_missed_before_an_older_one_is_restored() {
    let mut clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let older = clouds.place.backup(&database);
    // B2 takes the diary of this run, and not the backup.
    let denied = Fault::Status { status: 403, code: "AccessDenied", retry_after: None };
    clouds.b2.proxy.fail(Rule::new(denied).on("PUT", "backups"));
    std::thread::sleep(Duration::from_millis(1100));
    let (newest, _) = clouds.backup_owing(&database);
    clouds.b2.proxy.heal();
    clouds.place.pgkeep(&["verify"]).ended_with(3);
    clouds.r2.proxy.go_away();
    fs::remove_dir_all(clouds.place.state()).unwrap();
    fs::remove_dir_all(clouds.place.store()).unwrap();
    let other = Place::new();
    clouds.settings_of_b2(&other);
    other.unset("BACKUP_LOCAL_DIR");
    let beside = format!("{database}_older");
    let run = other.pgkeep(&["restore", "latest", "--to-database", &beside, "--yes"]).fails_with(40);
    assert!(run.stderr.contains(&newest) && run.stderr.contains(&older), "{}", run.stderr);
    other.pgkeep(&["restore", &older, "--to-database", &beside, "--yes"]).ok();
    cluster().psql("postgres", &format!("DROP DATABASE \"{beside}\""));
}

#[test]
fn what_a_failed_run_could_not_clear_away_the_next_one_does() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    clouds.place.unset("BACKUP_LOCAL_DIR");
    clouds.b2.s3.change(|options| options.deny_deletes = true);
    for cloud in [&clouds.r2, &clouds.b2] {
        let denied = Fault::Status { status: 403, code: "AccessDenied", retry_after: None };
        cloud.proxy.fail(Rule::new(denied).on("PUT", "manifest"));
    }
    clouds.place.pgkeep(&["backup", "database", &database]).fails_with(40);
    let left = || clouds.b2.bucket().keys().into_iter().filter(|key| key.contains("/backups/")).count();
    assert_ne!(left(), 0);
    clouds.b2.s3.change(|options| options.deny_deletes = false);
    clouds.b2.proxy.heal();
    let run = clouds.place.pgkeep(&["verify"]).ok();
    assert!(run.stderr.contains("which died before its end"), "{}", run.stderr);
    assert_eq!(left(), 0);
}

#[test]
fn when_every_copy_of_the_manifest_is_damaged_it_says_so() {
    let clouds = Clouds::ready();
    let database = fresh_large(cluster());
    let id = clouds.place.backup(&database);
    let key = format!("test/backups/{id}/manifest");
    clouds.r2.bucket().damage(&key);
    clouds.b2.bucket().damage(&key);
    fs::write(clouds.place.store().join(&key), "nothing").unwrap();
    let run = clouds.place.pgkeep(&["restore", "latest", "--to-database", "never", "--yes"]).fails_with(4);
    assert!(run.stderr.contains(&id), "{}", run.stderr);
    clouds.place.pgkeep(&["sync"]).ended_with(4);
    clouds.place.pgkeep(&["verify", "--deep"]).ended_with(4);
}

#[test]
fn a_rebuild_knows_archived_wal_by_its_names() {
    let clouds = Clouds::ready();
    let digest = "ab".repeat(32);
    for file in ["000000010000000A000000FE", "000000010000000A000000FF", "00000002.history"] {
        let group = file.get(8..16).filter(|_| file.len() == 24).unwrap_or("history");
        clouds.r2.bucket().write(&format!("test/wal/{}/{group}/{file}-{digest}", &file[..8]), b"sealed");
    }
    let key = format!("test/wal/00000001/0000000A/000000010000000A000000FE-{digest}");
    clouds.b2.bucket().write(&key, b"sealed");
    clouds.b2.bucket().write("test/wal/00000001/notes.txt", b"somebody's");
    fs::remove_dir_all(clouds.place.state()).unwrap();
    let before = clouds.r2.s3.requests_of("GetObject");
    let run = clouds.place.pgkeep(&["--output", "json", "catalog", "rebuild"]).ended_with(3);
    assert_eq!(run.json()["wal_files"], 3);
    // Of a timeline's history the bytes are wanted, too.
    let warning = run.json()["warnings"][0].as_str().unwrap().to_owned();
    assert!(warning.contains("00000002.history is in the archive and can't be read"), "{warning}");
    let rows =
        "SELECT timeline, segment, group_concat(store) FROM wal_segments GROUP BY segment ORDER BY segment";
    assert_eq!(
        clouds.place.catalog(rows),
        [
            ["1", "000000010000000A000000FE", "b2,r2"],
            ["1", "000000010000000A000000FF", "r2"],
            ["2", "00000002.history", "r2"]
        ]
    );
    // Identity and saved catalogs are read, no payload is.
    assert!(clouds.r2.s3.requests_of("GetObject") - before < 6, "{:?}", clouds.r2.s3.requests());
}

#[test]
fn a_store_of_another_server_gets_no_copy_of_this_ones_catalog() {
    let clouds = Clouds::ready();
    let other = crate::support::Cluster::own(&[]);
    let place = Place::on(&other);
    clouds.settings_of_r2(&place);
    let before = clouds.r2.bucket().keys();
    place.pgkeep(&["init"]).fails_with(5);
    assert_eq!(clouds.r2.bucket().keys(), before);
}

//! `pgkeep verify` by the hour: a budget's worth of the oldest proofs at a time, damage that is found on the way and
//! replaced, and holes in the archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clouds::{Cloud, Clouds};
use crate::pitr::backup;
use crate::support::faults::{fresh_large, leftovers, stopped_at, wait_for};
use crate::support::proxy::{Fault, Rule};
use crate::support::{Archiving, Place, cluster, give};
use crate::wal_faults::{keys, with_clouds};

/// Changes the catalog behind pgkeep's back.
fn change(place: &Place, sql: &str) {
    let catalog = rusqlite::Connection::open(place.state().join("catalog.sqlite")).unwrap();
    catalog.busy_timeout(Duration::from_secs(30)).unwrap();
    catalog.execute_batch(sql).unwrap();
}

/// Makes every proof one of so many days ago.
fn age(place: &Place, days: u32) {
    for table in ["copies", "wal_segments"] {
        change(
            place,
            &format!(
                "UPDATE {table} SET proven_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{days} days') \
                 WHERE proven_at IS NOT NULL"
            ),
        );
    }
}

/// Lets the catalog take what was archived a moment ago for older than the listings that come: what is missing there is
/// missing.
fn let_time_pass(place: &Place) {
    change(
        place,
        "UPDATE wal_segments SET stored_at = strftime('%Y-%m-%dT%H:%M:%fZ', stored_at, '-1 hour') WHERE stored_at IS NOT NULL",
    );
}

#[track_caller]
fn verify(place: &Place, arguments: &[&str], code: i32) -> Value {
    place.pgkeep(&[&["--output", "json", "verify"], arguments].concat()).ended_with(code).json()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn total(place: &Place) -> u64 {
    place.catalog("SELECT sum(size_bytes) FROM copies")[0][0].parse().unwrap()
}

/// How many copies are proven by more than having been written.
fn proven(place: &Place) -> u64 {
    let sql = "SELECT count(*) FROM (SELECT proven_how AS how FROM copies UNION ALL SELECT proven_how FROM wal_segments) \
               WHERE how IN ('read', 'decrypted')";
    place.catalog(sql)[0][0].parse().unwrap()
}

#[test]
fn everything_is_read_once_in_as_few_runs_as_the_budget_allows() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    place.backup(&fresh_large(cluster()));
    place.backup(&cluster().fresh_shop());
    age(place, 1);
    let total = total(place);
    let copies: u64 = place.catalog("SELECT count(*) FROM copies")[0][0].parse().unwrap();
    let largest: u64 = place.catalog("SELECT max(size_bytes) FROM copies")[0][0].parse().unwrap();
    let budget = largest * 5 / 2;
    let (mut runs, mut read, mut before, mut promised) = (0, 0, 0, None);
    while before < copies {
        let report = verify(place, &["--budget", &budget.to_string()], 0);
        let rolling = &report["rolling"];
        let bytes = number(&report["bytes_read"]);
        assert!(bytes > 0 && bytes <= budget, "{report}");
        assert_eq!((number(&rolling["copies"]), number(&rolling["bytes"])), (copies, total));
        assert_eq!(number(&rolling["budget"]), budget);
        let all = *promised.get_or_insert_with(|| number(&rolling["cycle_runs"]));
        let now = proven(place);
        // Until the last one, nothing is read twice.
        if now < copies {
            assert_eq!(now - before, number(&rolling["copies_read"]), "{report}");
        }
        assert!(now > before);
        (runs, read, before) = (runs + 1, read + bytes, now);
        assert!(runs <= all, "{all} runs were promised");
    }
    assert!(runs <= total.div_ceil(budget) + 2, "{runs} runs for {total} bytes at {budget}");
    assert!(read <= total + budget, "{read} of {total} bytes in {runs} runs");
    assert!(runs > 2);
}

#[test]
fn the_oldest_proof_is_renewed_first_and_one_copy_at_least() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    place.backup(&cluster().fresh_shop());
    age(place, 9);
    // Each has an age of its own: b2, then local, then r2; and in each first the manifest.
    change(
        place,
        "UPDATE copies SET proven_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-8 days', \
         CASE store WHEN 'b2' THEN '-3' WHEN 'local' THEN '-2' ELSE '-1' END || ' hours', \
         CASE object WHEN 'manifest' THEN '-9' ELSE '0' END || ' minutes')",
    );
    for expected in [
        ("b2", "manifest"),
        ("b2", "data.00000"),
        ("local", "manifest"),
        ("local", "data.00000"),
        ("r2", "manifest"),
    ] {
        let oldest = "SELECT store, object FROM copies ORDER BY proven_at LIMIT 1";
        assert_eq!(place.catalog(oldest), [[expected.0, expected.1]]);
        let report = verify(place, &["--budget", "1"], 0);
        assert_eq!(
            number(&report["rolling"]["copies_read"]),
            1,
            "larger than the budget, and read all the same"
        );
        assert_ne!(place.catalog(oldest), [[expected.0, expected.1]]);
    }
    // That a store lists them is no proof, however new.
    change(
        place,
        "UPDATE copies SET proven_how = 'listed', proven_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE store = 'b2'",
    );
    verify(place, &["--budget", "1"], 0);
    let read = "SELECT count(*) FROM copies WHERE store = 'b2' AND proven_how = 'read'";
    assert_eq!(place.catalog(read), [["1"]]);
    assert_eq!(number(&verify(place, &["--budget", "0"], 0)["bytes_read"]), 0);
}

#[test]
fn a_backup_that_fits_is_decrypted_out_of_each_store_and_wal_is_opened() {
    let (archiving, _r2, _b2) = with_clouds();
    let place = &archiving.place;
    archiving.archive();
    place.backup("postgres");
    place.pgkeep(&["sync"]).ok();
    let report = verify(place, &["--budget", "1G"], 0);
    assert_eq!(report["decrypted"], true);
    assert_eq!(place.catalog("SELECT DISTINCT proven_how FROM copies"), [["decrypted"]]);
    assert_eq!(place.catalog("SELECT DISTINCT proven_how FROM wal_segments"), [["decrypted"]]);
    assert_eq!(number(&report["rolling"]["cycle_runs"]), 1);
    // The stronger word stays when the same bytes are read again, a part at a time.
    age(place, 1);
    verify(place, &["--budget", "1"], 0);
    let today = "SELECT count(*), min(proven_how) FROM copies WHERE proven_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 hour')";
    assert_eq!(place.catalog(today), [["1", "decrypted"]]);
}

#[test]
fn nothing_is_begun_when_the_time_is_over_and_the_next_run_goes_on() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    place.backup(&fresh_large(cluster()));
    // Without a key each copy stands for itself.
    place.unset("BACKUP_ENCRYPTION_KEY");
    age(place, 1);
    for cloud in [&clouds.r2, &clouds.b2] {
        cloud.proxy.fail(Rule::new(Fault::Late(Duration::from_millis(2500))).on("GET", "data."));
    }
    let report = verify(place, &["--budget", "1G", "--max-time", "1s"], 0);
    assert_eq!(report["rolling"]["out_of_time"], true, "{report}");
    let first = proven(place);
    assert!(first > 0, "what was begun is read to its end");
    let all: u64 = place.catalog("SELECT count(*) FROM copies")[0][0].parse().unwrap();
    assert!(first < all);
    for cloud in [&clouds.r2, &clouds.b2] {
        cloud.proxy.heal();
    }
    let report = verify(place, &["--budget", "1G", "--max-time", "10m"], 0);
    assert_eq!((&report["rolling"]["out_of_time"], proven(place)), (&json!(false), all));
}

#[test]
fn proofs_that_are_too_old_or_will_be_are_warned_of_and_new_ones_are_not() {
    let place = Place::ready();
    place.unset("BACKUP_VERIFY_BUDGET");
    assert_eq!(verify(&place, &[], 0)["rolling"]["copies"], 0);
    place.backup(&cluster().fresh_shop());
    let report = verify(&place, &[], 0);
    assert_eq!(number(&report["rolling"]["budget"]), 16 << 20, "by itself, as much as it takes");
    assert_eq!(
        (&report["rolling"]["overdue"], &report["rolling"]["interval_is_measured"]),
        (&json!(0), &json!(false))
    );

    // Every copy alone, one each hour: two hours.
    place.set("BACKUP_PROOF_MAX_AGE", "1h");
    let run = place.pgkeep(&["verify", "--budget", "1"]).ended_with(3);
    assert!(run.stdout.contains("after 2 runs, if one runs every hour: 2 h 0 min"), "{}", run.stdout);
    assert!(run.stdout.contains("raise BACKUP_VERIFY_BUDGET"), "{}", run.stdout);
    place.pgkeep(&["verify", "--budget", "1M"]).ok();
    place.pgkeep(&["verify", "--budget", "0"]).ok();

    // Nobody has read for a month; with a budget it is over at once.
    place.unset("BACKUP_PROOF_MAX_AGE");
    age(&place, 31);
    let run = place.pgkeep(&["verify", "--budget", "0"]).ended_with(3);
    assert!(
        run.stdout.contains("warning: 2 copies not read for longer than the 720 h 0 min"),
        "{}",
        run.stdout
    );
    assert_eq!(verify(&place, &["--budget", "1"], 3)["rolling"]["overdue"], 1);
    assert_eq!(verify(&place, &["--budget", "1"], 0)["rolling"]["overdue"], 0);

    // How often it runs is measured once it has for a day.
    change(
        &place,
        "UPDATE runs SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-6 days') \
         WHERE id = (SELECT id FROM runs WHERE command = 'verify' ORDER BY started_at LIMIT 1)",
    );
    let rolling = &verify(&place, &[], 0)["rolling"];
    let runs: f64 =
        place.catalog("SELECT count(*) FROM runs WHERE command = 'verify'")[0][0].parse().unwrap();
    assert_eq!(rolling["interval_is_measured"], true);
    let interval = rolling["interval_seconds"].as_f64().unwrap();
    assert!((interval - 6.0 * 86_400.0 / (runs - 1.0)).abs() < 60.0, "{interval} in {runs} runs");
}

/// Where an object of the local store lies.
fn here(place: &Place, key: &str) -> PathBuf {
    place.store().join(key)
}

/// Flips a bit in the middle of an object.
fn damage(place: &Place, clouds: &BTreeMap<&str, &Cloud>, store: &str, key: &str) {
    if let Some(cloud) = clouds.get(store) {
        return cloud.bucket().damage(key);
    }
    let mut bytes = fs::read(here(place, key)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(here(place, key), bytes).unwrap();
}

fn bytes(place: &Place, clouds: &BTreeMap<&str, &Cloud>, store: &str, key: &str) -> Vec<u8> {
    clouds.get(store).map_or_else(|| fs::read(here(place, key)).unwrap(), |cloud| cloud.bucket().read(key))
}

#[test]
fn damage_of_each_kind_in_each_store_is_found_within_a_cycle_named_and_repaired() {
    let (archiving, r2, b2) = with_clouds();
    let place = &archiving.place;
    let segment = archiving.archive();
    let id = place.backup("postgres");
    place.pgkeep(&["sync"]).ok();
    let clouds = BTreeMap::from([("r2", &r2), ("b2", &b2)]);
    let file = keys(&r2, &segment).remove(0);
    let all = total(place)
        + place.catalog("SELECT sum(size_bytes) FROM wal_segments")[0][0].parse::<u64>().unwrap();
    let budget = (all / 3).to_string();
    for store in ["local", "r2", "b2"] {
        for object in ["manifest", "data.00000", &segment] {
            let key = if object == segment { file.clone() } else { format!("test/backups/{id}/{object}") };
            let good = bytes(place, &clouds, store, &key);
            damage(place, &clouds, store, &key);
            age(place, 1);
            let promised = number(&verify(place, &["--budget", "0"], 0)["rolling"]["copies"]);
            let mut found = None;
            for _ in 0..promised {
                let run = place.pgkeep(&["--output", "json", "verify", "--repair", "--budget", &budget]);
                if run.code != 0 {
                    found = Some(run.ended_with(3).json());
                    break;
                }
            }
            let report = found.unwrap_or_else(|| panic!("{object} in {store} was never found"));
            let findings = if object == segment { &report["wal_findings"] } else { &report["findings"] };
            let finding = findings
                .as_array()
                .unwrap()
                .iter()
                .find(|finding| finding["object"] == object || finding["file"] == object)
                .unwrap_or_else(|| panic!("{object} in {store}: {report}"));
            assert_eq!((&finding["store"], &finding["state"]), (&json!(store), &json!("damaged")));
            assert_eq!(finding["repaired"], true, "{report}");
            assert!(bytes(place, &clouds, store, &key) == good, "{object} in {store}");
            let alerts = place.catalog(&format!(
                "SELECT alert_type, severity FROM alerts WHERE message LIKE '%{object}%in store {store}%' ORDER BY id"
            ));
            let expected = [["copy-damaged", "WARNING"], ["copy-repaired", "INFO"]];
            assert_eq!(&alerts[..1], &expected[..1], "{object} in {store}");
            assert_eq!(alerts.last().unwrap(), &expected[1], "{object} in {store}");
            place.pgkeep(&["verify", "--deep"]).ok();
        }
    }
}

#[test]
fn what_is_damaged_everywhere_is_said_to_be_lost_and_repairs_nothing() {
    let (archiving, r2, b2) = with_clouds();
    let place = &archiving.place;
    let segment = archiving.archive();
    let id = place.backup("postgres");
    place.pgkeep(&["sync"]).ok();
    let clouds = BTreeMap::from([("r2", &r2), ("b2", &b2)]);
    let volume = format!("test/backups/{id}/data.00000");
    let file = keys(&r2, &segment).remove(0);
    for store in ["local", "r2", "b2"] {
        damage(place, &clouds, store, &volume);
        damage(place, &clouds, store, &file);
    }
    let before: Vec<Vec<u8>> =
        ["local", "r2", "b2"].map(|store| bytes(place, &clouds, store, &volume)).to_vec();
    let report = verify(place, &["--repair", "--budget", "1G"], 4);
    let after: Vec<Vec<u8>> =
        ["local", "r2", "b2"].map(|store| bytes(place, &clouds, store, &volume)).to_vec();
    assert!(before == after, "a damaged copy was replaced by a damaged one");
    assert!(report["findings"].as_array().unwrap().iter().all(|finding| finding["repaired"] == false));
    assert_eq!(report["wal_findings"].as_array().unwrap().len(), 3);
    let lost =
        place.catalog("SELECT message FROM alerts WHERE alert_type = 'copy-lost' AND severity = 'CRITICAL'");
    let expected = BTreeSet::from([
        format!("no store has a good copy of data.00000 of {id}"),
        format!("no store has a good copy of WAL file {segment}"),
    ]);
    assert_eq!(lost.into_iter().flatten().collect::<BTreeSet<_>>(), expected);
    // It is said again as long as it is so, and the alert is not repeated.
    place.pgkeep(&["verify", "--repair"]).ended_with(4);
    assert_eq!(place.catalog("SELECT count(*) FROM alerts WHERE alert_type = 'copy-lost'"), [["2"]]);
}

#[test]
fn without_repair_damage_is_named_and_left_alone() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    let id = place.backup(&cluster().fresh_shop());
    let key = format!("test/backups/{id}/data.00000");
    clouds.r2.bucket().damage(&key);
    clouds.b2.bucket().lose(&key);
    let damaged = clouds.r2.bucket().read(&key);
    let run = place.pgkeep(&["verify", "--budget", "1G"]).ended_with(4);
    assert!(run.stdout.contains(&format!("damaged: data.00000 of {id} in store r2: ")), "{}", run.stdout);
    assert!(run.stdout.contains(&format!("missing: data.00000 of {id} in store b2: ")), "{}", run.stdout);
    assert_eq!(clouds.r2.bucket().read(&key), damaged);
    // What a listing shows is repaired without a byte's being read for proof.
    let run = place.pgkeep(&["verify", "--budget", "0", "--repair"]).ended_with(3);
    assert!(run.stdout.contains("it is not there (repaired)"), "{}", run.stdout);
    place.pgkeep(&["verify", "--deep"]).ok();
    assert_eq!(clouds.states(&id, "r2"), "good");
}

#[test]
fn a_copy_that_was_owed_is_made_without_any_fuss() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    let mut clouds_r2 = clouds.r2;
    clouds_r2.proxy.go_away();
    let run =
        place.pgkeep(&["--output", "json", "backup", "database", &cluster().fresh_shop()]).ended_with(3);
    let id = run.json()["id"].as_str().unwrap().to_owned();
    clouds_r2.proxy.come_back();
    let report = verify(place, &["--repair"], 0);
    assert_eq!(report["findings"][0]["state"], "owed");
    assert_eq!(report["findings"][0]["repaired"], true);
    assert_eq!(clouds_r2.objects(&id).len(), 2);
    assert_eq!(place.catalog("SELECT count(*) FROM alerts"), [["0"]]);
}

#[test]
fn a_store_that_goes_away_in_the_middle_condemns_no_copy_and_keeps_nobody_waiting() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    let id = place.backup(&fresh_large(cluster()));
    age(place, 1);
    let denied = Fault::Status { status: 403, code: "AccessDenied", retry_after: None };
    clouds.r2.proxy.fail(Rule::new(denied).on("GET", "data.").from(2));
    let report = verify(place, &["--repair", "--budget", "1G"], 3);
    assert_eq!((&report["findings"], &report["away"][0]["store"]), (&json!([]), &json!("r2")), "{report}");
    assert_eq!(clouds.states(&id, "r2"), "good");
    let read = "SELECT DISTINCT store FROM copies WHERE proven_how = 'decrypted' ORDER BY store";
    assert_eq!(place.catalog(read), [["b2"], ["local"]]);
    clouds.r2.proxy.heal();
    verify(place, &["--budget", "1G"], 0);
    assert_eq!(place.catalog(read), [["b2"], ["local"], ["r2"]]);
}

#[test]
fn a_verify_that_is_killed_at_any_step_hides_nothing_and_is_run_again() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    let id = place.backup(&cluster().fresh_shop());
    let key = format!("test/backups/{id}/data.00000");
    let good = clouds.r2.bucket().read(&key);
    for step in ["VerifyListed", "VerifyRead", "VerifyProven", "SyncCopied", "RepairMade"] {
        for how in ["kill", "fail"] {
            change(place, "DELETE FROM alerts");
            clouds.r2.bucket().damage(&key);
            let code = stopped_at(place, &["verify", "--repair", "--budget", "1G"], step, how).code;
            assert!(if how == "kill" { code == 137 } else { code != 0 }, "{step}:{how}: {code}");
            let again = place.pgkeep(&["verify", "--repair", "--budget", "1G"]);
            // Whoever was killed after the repair has left word of the damage.
            assert!([0, 3].contains(&again.code), "{step}:{how}: {}{}", again.stdout, again.stderr);
            assert!(clouds.r2.bucket().read(&key) == good, "{step}:{how}");
            let alert = "SELECT count(*) FROM alerts WHERE alert_type = 'copy-damaged' AND message LIKE 'data.00000%'";
            assert_eq!(place.catalog(alert), [["1"]], "{step}:{how}");
            place.pgkeep(&["verify", "--deep"]).ok();
            assert_eq!(leftovers(place), [""; 0], "{step}:{how}");
        }
    }
}

#[test]
fn of_two_at_once_one_reads_and_both_compare() {
    let clouds = Clouds::ready();
    let place = &clouds.place;
    place.backup(&fresh_large(cluster()));
    age(place, 1);
    clouds.r2.proxy.fail(Rule::new(Fault::Late(Duration::from_secs(5))).on("GET", "data.").only(1));
    let running = place.start(&[], &["--output", "json", "verify", "--budget", "1G"]);
    wait_for("r2 to be read", || (clouds.r2.proxy.faults() == 1).then_some(()));
    let second = verify(place, &["--budget", "1G"], 0);
    assert_eq!((&second["busy"], &second["bytes_read"]), (&json!(true), &json!(0)));
    let first = running.wait().ok().json();
    assert_eq!((&first["busy"], number(&first["bytes_read"])), (&json!(false), total(place)));
}

#[test]
fn without_a_key_copies_are_read_and_repaired_and_wal_is_left_as_it_is_listed() {
    let (archiving, r2, _b2) = with_clouds();
    let place = &archiving.place;
    archiving.archive();
    let id = place.backup("postgres");
    place.pgkeep(&["sync"]).ok();
    archiving.cluster.set("archive_command", "/bin/false");
    place.unset("BACKUP_ENCRYPTION_KEY");
    let key = format!("test/backups/{id}/manifest");
    r2.bucket().damage(&key);
    let report = verify(place, &["--budget", "1G", "--repair"], 3);
    assert_eq!((&report["decrypted"], &report["findings"][0]["repaired"]), (&json!(false), &json!(true)));
    verify(place, &["--budget", "1G"], 0);
    assert_eq!(place.catalog("SELECT DISTINCT proven_how FROM copies"), [["read"]]);
    assert_eq!(place.catalog("SELECT DISTINCT proven_how FROM wal_segments"), [["written"]]);
}

/// Takes a WAL file out of the local store.
fn lose_here(archiving: &Archiving, name: &str) {
    let directory = archiving.place.store().join(format!("test/wal/{}/{}", &name[..8], &name[8..16]));
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.file_name().to_str().unwrap().starts_with(name) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn a_hole_in_one_store_is_filled_and_one_in_all_is_told_with_names_and_times() {
    let (archiving, r2, b2) = with_clouds();
    let place = &archiving.place;
    backup(&archiving);
    let names: Vec<String> = (0..5).map(|_| archiving.archive()).collect();
    place.pgkeep(&["sync"]).ok();
    let_time_pass(place);
    lose_here(&archiving, &names[1]);
    let report = verify(place, &["--repair"], 3);
    assert_eq!(report["wal_holes"], json!([]), "another store has it: {report}");
    let finding = &report["wal_findings"][0];
    assert_eq!(
        (&finding["file"], &finding["state"], &finding["repaired"]),
        (&json!(names[1]), &json!("missing"), &json!(true))
    );
    place.pgkeep(&["verify", "--deep"]).ok();

    let_time_pass(place);
    for name in &names[1..=2] {
        lose_here(&archiving, name);
        for cloud in [&r2, &b2] {
            for key in keys(cloud, name) {
                cloud.bucket().lose(&key);
            }
        }
    }
    let archived = |name: &str| {
        let sql =
            format!("SELECT min(stored_at) FROM wal_segments WHERE segment = '{name}' AND state = 'good'");
        place.catalog(&sql)[0][0].clone()
    };
    let report = verify(place, &["--repair"], 4);
    let hole = json!({
        "timeline": 1, "first": names[1], "last": names[2], "segments": 2,
        "after": archived(&names[0]), "before": archived(&names[3]),
    });
    assert_eq!(report["wal_holes"], json!([hole]));
    let run = place.pgkeep(&["verify"]).ended_with(4);
    let said =
        format!("hole: WAL of timeline 1: segments {} to {} (2 of them) are in no store", names[1], names[2]);
    assert!(run.stdout.contains(&said), "{}", run.stdout);
    let alerts = place.catalog("SELECT severity, message FROM alerts WHERE alert_type = 'wal-hole'");
    let message =
        format!("the WAL has a hole: {} is missing, the next one that is there is {}", names[1], names[3]);
    assert_eq!(alerts, [["CRITICAL", &message]]);
}

#[test]
fn wal_that_was_archived_with_different_bytes_is_named_with_the_stores() {
    let (archiving, r2, _b2) = with_clouds();
    let place = &archiving.place;
    let name = archiving.archive();
    place.pgkeep(&["sync"]).ok();
    let key = keys(&r2, &name).remove(0);
    let (stem, sha256) = key.rsplit_once('-').unwrap();
    let other = "ab".repeat(32);
    r2.bucket().write(&format!("{stem}-{other}"), r2.bucket().read(&key));
    let report = verify(place, &["--repair"], 4);
    let mut contents = report["wal_conflicts"][0]["contents"].as_array().unwrap().clone();
    contents.sort_by_key(|content| content["stores"].as_array().unwrap().len());
    assert_eq!(report["wal_conflicts"][0]["file"], name);
    assert_eq!(contents[0], json!({ "sha256": other, "stores": ["r2"] }));
    assert_eq!(contents[1]["sha256"], sha256);
    assert_eq!(contents[1]["stores"].as_array().unwrap().len(), 3, "{report}");
    let alerts = place.catalog("SELECT DISTINCT severity FROM alerts WHERE alert_type = 'wal-conflict'");
    assert_eq!(alerts, [["CRITICAL"]]);
    // The bytes are not those that the name says: that, too, is found when it is read.
    let report = verify(place, &["--budget", "1G"], 4);
    assert!(report["wal_findings"].to_string().contains("damaged"), "{report}");
}

#[test]
fn a_file_of_wal_that_needs_another_key_is_named_and_not_condemned() {
    let archiving = Archiving::ready();
    let place = &archiving.place;
    let name = archiving.archive();
    archiving.cluster.set("archive_command", "/bin/false");
    let other = place.pgkeep(&["key", "new"]).ok().stdout.trim().to_owned();
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    place.set("BACKUP_ENCRYPTION_KEY", &other);
    let report = verify(place, &["--budget", "1G"], 4);
    assert_eq!(report["wal_findings"][0]["file"], name, "{report}");
    assert_eq!(place.catalog("SELECT DISTINCT state FROM wal_segments"), [["good"]]);
    place.set("BACKUP_ENCRYPTION_KEY", &key);
    verify(place, &["--budget", "1G"], 0);
}

#[test]
fn a_new_store_gets_its_copies_and_they_are_proven_in_their_turn() {
    let place = Place::ready();
    let id = place.backup(&cluster().fresh_shop());
    place.pgkeep(&["verify", "--deep"]).ok();
    let r2 = Cloud::start(crate::support::s3::Options::default());
    r2.is_r2_of(&place);
    place.init();
    place.pgkeep(&["verify"]).ended_with(3);
    let report = verify(&place, &["--repair"], 0);
    assert_eq!(report["findings"].as_array().unwrap().len(), 2);
    assert_eq!(r2.objects(&id).len(), 2);
    let how = |store: &str| {
        place.catalog(&format!("SELECT DISTINCT proven_how FROM copies WHERE store = '{store}'"))
    };
    assert_eq!(
        (how("r2"), how("local")),
        (vec![vec!["written".to_owned()]], vec![vec!["decrypted".to_owned()]])
    );
    verify(&place, &["--budget", "1G"], 0);
    assert_eq!(how("r2"), [["decrypted"]]);
}

#[test]
fn each_listing_writes_down_what_the_stores_hold() {
    let (archiving, r2, _b2) = with_clouds();
    let place = &archiving.place;
    archiving.archive();
    place.backup("postgres");
    archiving.cluster.set("archive_command", "/bin/false");
    place.pgkeep(&["sync"]).ok();
    let usage = || place.catalog("SELECT store, bytes, objects FROM store_usage ORDER BY store");
    let listed: Vec<_> = r2
        .bucket()
        .objects()
        .into_iter()
        .filter(|object| object.key.starts_with("test/backups/") || object.key.starts_with("test/wal/"))
        .collect();
    let bytes: u64 = listed.iter().map(|object| object.size).sum();
    let expected = [bytes.to_string(), listed.len().to_string()];
    assert_eq!(usage().len(), 3);
    assert_eq!(usage()[2][1..], expected);
    change(place, "DELETE FROM store_usage");
    place.pgkeep(&["verify"]).ok();
    place.pgkeep(&["verify"]).ok();
    assert_eq!(usage().len(), 3, "one row for a day");
    assert_eq!(usage()[2][1..], expected);
}

#[test]
fn what_was_lost_and_lies_there_again_is_not_taken_for_proven() {
    let place = Place::ready();
    let id = place.backup(&cluster().fresh_shop());
    place.pgkeep(&["verify", "--deep"]).ok();
    let path = here(&place, &format!("test/backups/{id}/data.00000"));
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    place.pgkeep(&["verify"]).ended_with(4);
    fs::write(&path, &bytes).unwrap();
    give(&path);
    place.pgkeep(&["verify"]).ok();
    let how = format!("SELECT proven_how FROM copies WHERE backup_id = '{id}' ORDER BY object");
    assert_eq!(place.catalog(&how), [["listed"], ["decrypted"]]);
    // It has no proof, so it is the first to get one.
    verify(&place, &["--budget", "1"], 0);
    assert_eq!(place.catalog(&how), [["read"], ["decrypted"]]);
}

//! `pgkeep verify`, of what is as it should be, and of stores that go away meanwhile; what it finds wrong is in the tests
//! of faults.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::clouds::Clouds;
use crate::support::faults::{fresh_large, wait_for};
use crate::support::proxy::{Fault, Rule};
use crate::support::{Place, cluster, give, set_mode, tidy};

#[test]
fn quick_lists_every_object_and_reads_nothing() {
    let place = Place::ready();
    place.backup(&cluster().fresh_shop());
    let run = place.pgkeep(&["verify"]).ok();
    insta::assert_snapshot!(tidy(&run.stdout), @"1 backup, 2 objects listed, 0 B read, [DURATION]: all good");
    let report = place.pgkeep(&["--output", "json", "verify"]).ok().json();
    assert_eq!(report["deep"], false);
    assert_eq!(
        (&report["backups"], &report["objects"], &report["bytes_read"]),
        (&1.into(), &2.into(), &0.into())
    );
    assert_eq!(report["findings"], serde_json::json!([]));
}

#[test]
fn deep_reads_and_decrypts_all_and_writes_the_proof_down() {
    let place = Place::ready();
    place.backup(&cluster().fresh_shop());
    place.backup(&cluster().fresh_database());
    let stored: u64 = place.catalog("SELECT sum(size_bytes) FROM backups")[0][0].parse().unwrap();
    let report = place.pgkeep(&["--output", "json", "verify", "--deep"]).ok().json();
    assert_eq!((&report["deep"], &report["decrypted"]), (&true.into(), &true.into()));
    assert_eq!((&report["backups"], &report["objects"]), (&2.into(), &4.into()));
    assert_eq!(report["bytes_read"], stored);
    assert_eq!(place.catalog("SELECT DISTINCT state, proven_how FROM copies"), [["good", "decrypted"]]);
}

#[test]
fn one_backup_is_verified_by_the_beginning_of_its_name() {
    let place = Place::ready();
    let one = place.backup(&cluster().fresh_shop());
    place.backup(&cluster().fresh_database());
    let report = place.pgkeep(&["--output", "json", "verify", "--deep", &one[..one.len() - 2]]).ok().json();
    assert_eq!((&report["backups"], &report["objects"]), (&1.into(), &2.into()));
    let proven = place.catalog("SELECT DISTINCT backup_id FROM copies WHERE proven_how = 'decrypted'");
    assert_eq!(proven, [[one]]);
}

#[test]
fn without_a_key_what_is_stored_can_still_be_proven() {
    let place = Place::ready();
    place.backup(&cluster().fresh_shop());
    place.unset("BACKUP_ENCRYPTION_KEY");
    let run = place.pgkeep(&["verify", "--deep"]).ok();
    assert!(run.stdout.contains("read and compared (not decrypted: no key is set)"), "{}", run.stdout);
    assert_eq!(place.catalog("SELECT DISTINCT proven_how FROM copies"), [["read"]]);
}

#[test]
fn nothing_to_verify_is_no_fault() {
    let place = Place::ready();
    let report = place.pgkeep(&["--output", "json", "verify", "--deep"]).ok().json();
    assert_eq!(report["backups"], 0);
}

#[test]
fn a_store_that_is_not_mounted_is_said_and_no_backup_is_called_missing() {
    let place = Place::ready();
    place.backup(&cluster().fresh_shop());
    std::fs::rename(place.store(), place.path("elsewhere")).unwrap();
    for arguments in [&["verify"][..], &["verify", "--deep"], &["catalog", "rebuild"]] {
        let message = place.pgkeep(arguments).ended_with(10).message();
        assert!(message.contains("hint: Is the disk mounted?"), "{message}");
    }
    assert!(!place.store().exists(), "nothing is made where a disk should be");
    std::fs::rename(place.path("elsewhere"), place.store()).unwrap();
    place.pgkeep(&["verify", "--deep"]).ok();
    assert_eq!(place.catalog("SELECT DISTINCT state FROM copies"), [["good"]]);
}

/// Each store and how its copies are proven, without those of which that is not yet so.
fn proofs(place: &Place, how: &str) -> Vec<Vec<String>> {
    place.catalog(&format!(
        "SELECT DISTINCT store FROM copies WHERE state = 'good' AND proven_how = '{how}' ORDER BY store"
    ))
}

#[test]
fn a_store_that_fails_while_a_copy_is_decrypted_is_away_and_the_others_go_on() {
    let clouds = Clouds::ready();
    let id = clouds.place.backup(&fresh_large(cluster()));
    assert!(clouds.local(&id).len() > 3, "more than one volume");
    let refused = |status, code| Fault::Status { status, code, retry_after: None };
    let denied = || refused(403, "AccessDenied");
    let gone = || refused(404, "NoSuchKey");
    // Every object is read once: a volume with one request for its header and one for its frames.
    for (rules, read) in [
        (vec![Rule::new(denied()).on("GET", "manifest")], 0),
        (vec![Rule::new(denied()).on("GET", "data.").from(3)], 2),
        // The bucket was emptied meanwhile, identity and all.
        (
            vec![
                Rule::new(gone()).on("GET", "data.").from(3),
                Rule::new(gone()).on("GET", "identity").from(2),
                // After the backups and the WAL were listed.
                Rule::new(Fault::Answer(EMPTY_LIST.into())).on("GET", "list-type").from(3),
            ],
            2,
        ),
    ] {
        for rule in &rules {
            clouds.r2.proxy.fail(rule.clone());
        }
        let report = clouds.place.pgkeep(&["--output", "json", "verify", "--deep"]).ended_with(3).json();
        assert_eq!(report["findings"], json!([]), "{rules:?}");
        assert_eq!(report["away"].as_array().unwrap().len(), 1, "{rules:?}: {report}");
        assert_eq!(report["away"][0]["store"], "r2", "{rules:?}");
        assert_eq!(proofs(&clouds.place, "decrypted"), [["b2"], ["local"]], "{rules:?}");
        let proven = "SELECT count(*) FROM copies WHERE store = 'r2' AND proven_how = 'read'";
        // What was read before is proven: the manifest and the first volume.
        assert_eq!(clouds.place.catalog(proven), [[read.to_string()]], "{rules:?}");
        clouds.r2.proxy.heal();
    }
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
    assert_eq!(proofs(&clouds.place, "decrypted"), [["b2"], ["local"], ["r2"]]);
}

const EMPTY_LIST: &str = "<ListBucketResult><Name>keep</Name><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys>\
                          <IsTruncated>false</IsTruncated></ListBucketResult>";

#[test]
fn a_local_disk_that_goes_away_in_the_middle_of_a_verify_condemns_no_copy() {
    let clouds = Clouds::ready();
    let id = clouds.place.backup(&fresh_large(cluster()));
    let (store, elsewhere) = (clouds.place.store(), clouds.place.path("elsewhere"));
    for (round, how) in ["unmounted", "unreadable"].into_iter().enumerate() {
        // All stores are listed in the beginning; while the first one is read, the last one goes away.
        clouds.r2.proxy.fail(Rule::new(Fault::Late(Duration::from_secs(3))).on("GET", "data.").only(1));
        let running = clouds.place.start(&[], &["--output", "json", "verify", "--deep"]);
        wait_for("r2 to be read", || (clouds.r2.proxy.faults() == 1).then_some(()));
        if how == "unmounted" {
            fs::rename(&store, &elsewhere).unwrap();
            fs::create_dir(&store).unwrap();
            give(&store);
        } else {
            set_mode(&store, 0);
        }
        let report = running.wait().ended_with(3).json();
        assert_eq!(report["findings"], json!([]), "{how}");
        assert_eq!(report["away"].as_array().unwrap().len(), 1, "{how}: {report}");
        assert_eq!(report["away"][0]["store"], "local", "{how}");
        assert_eq!(clouds.states(&id, "local"), "good", "{how}");
        if how == "unmounted" {
            let why = report["away"][0]["message"].as_str().unwrap();
            assert!(why.contains("was it unmounted?"), "{why}");
            fs::remove_dir(&store).unwrap();
            fs::rename(&elsewhere, &store).unwrap();
        } else {
            set_mode(&store, 0o700);
        }
        clouds.r2.proxy.heal();
        assert_eq!(proofs(&clouds.place, "decrypted"), [["b2"], ["r2"]], "{how}, round {round}");
    }
    clouds.place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn a_file_that_cannot_be_read_on_a_disk_that_is_there_is_damaged() {
    let place = Place::ready();
    let id = place.backup(&cluster().fresh_shop());
    let path = place.store().join("test/backups").join(id).join("data.00000");
    set_mode(&path, 0);
    let report = place.pgkeep(&["--output", "json", "verify", "--deep"]).ended_with(4).json();
    assert_eq!(report["away"], json!([]));
    assert_eq!(report["findings"][0]["object"], "data.00000");
    assert_eq!(report["findings"][0]["state"], "damaged");
    set_mode(&path, 0o600);
    place.pgkeep(&["verify", "--deep"]).ok();
}

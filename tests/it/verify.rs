//! `pgkeep verify`, of what is as it should be; what it finds wrong is in the tests of faults.

use crate::support::{Place, cluster, tidy};

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

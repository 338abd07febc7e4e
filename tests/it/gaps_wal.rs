//! Stores that are slow or away while WAL is sent to them and asked for, and what is left of fetching beforehand.

use std::fs;
use std::time::{Duration, Instant};

use pgkeep::model::WalName;

use crate::clouds::Cloud;
use crate::pitr::{backup, recover};
use crate::support::Archiving;
use crate::support::faults::{processes, wait_for};
use crate::support::proxy::{Fault, Rule};
use crate::wal_faults::{keys, push, with_clouds};

/// The segment behind this one, which nobody has written yet.
fn behind(name: &str) -> String {
    name.parse::<WalName>().unwrap().following(1 << 20).unwrap().to_string()
}

/// PostgreSQL takes 1 for the end of the archive and opens for writes there: only when every store has answered.
#[test]
fn a_file_is_absent_only_when_every_store_has_said_so() {
    let (archiving, mut r2, mut b2) = with_clouds();
    let next = behind(&archiving.archive());
    let wanted = archiving.place.path("wanted");
    let fetch = |code: i32, what: &str| {
        let run = archiving.place.pgkeep(&["wal-fetch", &next, wanted.to_str().unwrap()]).fails_with(code);
        assert!(run.stderr.contains(what), "{}", run.stderr);
        assert!(!wanted.exists());
    };
    fetch(1, "is not in the archive");
    let turn = |cloud: &mut Cloud, name: &str| {
        cloud.proxy.go_away();
        fetch(200, &format!("can't tell whether {next} is in the archive"));
        fetch(200, name);
        cloud.proxy.come_back();
        fetch(1, "is not in the archive");
    };
    turn(&mut r2, "r2");
    turn(&mut b2, "b2");
    let (store, elsewhere) = (archiving.place.store(), archiving.place.path("elsewhere"));
    fs::rename(&store, &elsewhere).unwrap();
    fetch(200, "can't tell whether");
    fs::rename(&elsewhere, &store).unwrap();
    fetch(1, "is not in the archive");
}

/// Archiving, with the archiver's part played by hand.
fn by_hand() -> (Archiving, Cloud, Cloud) {
    let all = with_clouds();
    all.0.archive();
    all.0.cluster.set("archive_command", "");
    all
}

#[test]
fn a_segment_is_sent_to_all_stores_at_once() {
    let (archiving, r2, b2) = by_hand();
    let late = Duration::from_secs(3);
    for cloud in [&r2, &b2] {
        cloud.proxy.fail(Rule::new(Fault::Late(late)).on("PUT", "wal"));
    }
    let name = archiving.switch();
    let begun = Instant::now();
    let report = push(&archiving, &name).ok().json();
    let took = begun.elapsed();
    assert_eq!(report["owed"], serde_json::json!([]), "{report}");
    assert_eq!((keys(&r2, &name).len(), keys(&b2, &name).len()), (1, 1));
    assert!(took > late && took < Duration::from_millis(5500), "{took:?}");
}

#[test]
fn waiting_segments_are_sent_side_by_side() {
    let (archiving, r2, b2) = by_hand();
    archiving.place.set("BACKUP_MIN_COPIES", "2");
    let late = Duration::from_secs(1);
    b2.proxy.fail(Rule::new(Fault::Late(late)).on("PUT", "wal"));
    let names: Vec<String> = (0..8).map(|_| archiving.switch()).collect();
    let begun = Instant::now();
    let report = push(&archiving, &names[0]).ok().json();
    let took = begun.elapsed();
    assert_eq!(report["ahead"].as_array().unwrap().len(), 7, "{report}");
    for name in &names {
        assert_eq!((keys(&r2, name).len(), keys(&b2, name).len()), (1, 1), "{name}");
    }
    assert!(took < late * 7, "one after the other takes eight seconds, this {took:?}");
}

/// Whoever fetches beforehand ends with the recovery, and leaves nothing lying.
#[test]
fn when_recovery_is_over_nobody_fetches_beforehand_any_more_and_nothing_is_left() {
    let archiving = Archiving::ready();
    backup(&archiving);
    archiving.fill_segments(12);
    archiving.archive();
    let server = recover(&archiving, &[]);
    let place = archiving.place.directory.display().to_string();
    wait_for("the children to end", || {
        let fetches = |command: &str| command.contains("wal-prefetch") && command.contains(&place);
        processes().iter().all(|process| !fetches(&process.command)).then_some(())
    });
    assert!(server.data().join("PG_VERSION").exists());
    let left = archiving.place.files("state/prefetch");
    let [directory, lock] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!(*lock, format!("{directory}/lock"), "{left:?}");
}

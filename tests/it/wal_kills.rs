//! What is cut off on the way to a cloud, out of the archive, or in the middle of a row of waiting files.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::proxy::{Fault, Rule};
use crate::support::{Archiving, set_mode};
use crate::wal_faults::{keys, path_of, push, with_clouds};

#[test]
fn killed_while_a_cloud_is_being_sent_to_no_segment_is_missing_twice_or_different() {
    let (archiving, r2, b2) = with_clouds();
    // The part of the server's archiver is played here: after a kill it would wait ten seconds each time.
    archiving.cluster.set("archive_command", "");
    for cloud in [&r2, &b2] {
        cloud.proxy.fail(Rule::new(Fault::Late(Duration::from_millis(60))).on("PUT", "wal"));
    }
    let (mut names, mut killed) = (Vec::new(), 0);
    for round in 0..24_u64 {
        let name = archiving.switch();
        let mut pushing = archiving.place.start(&[], &["wal-push", &path_of(&archiving, &name)]);
        std::thread::sleep(Duration::from_millis(round * 13 % 160));
        if pushing.is_running() {
            pushing.signal(Signal::KILL);
            killed += 1;
        }
        if pushing.wait().code != 0 {
            push(&archiving, &name).ok();
        }
        names.push(name);
    }
    assert!(killed >= 8, "only {killed} were killed");
    archiving.place.pgkeep(&["sync"]).ok();
    archiving.place.pgkeep(&["verify"]).ok();
    for name in &names {
        let bytes = fs::read(path_of(&archiving, name)).unwrap();
        let key = keys(&r2, name);
        assert_eq!(key.len(), 1, "{name}: {key:?}");
        assert_eq!(keys(&b2, name), key, "{name}");
        // Sealed anew by each run, so stores may differ in bytes, not in what comes out of them.
        for order in ["r2,b2,local", "b2,local,r2", "local,r2,b2"] {
            archiving.place.set("BACKUP_READ_ORDER", order);
            let wanted = archiving.place.path("wanted");
            archiving.place.pgkeep(&["wal-fetch", name, wanted.to_str().unwrap()]).ok();
            assert_eq!(fs::read(&wanted).unwrap(), bytes, "{name} {order}");
        }
    }
}

#[test]
fn a_fetch_that_is_killed_leaves_nothing_under_the_name_and_the_next_clears_up() {
    let archiving = Archiving::ready();
    let name = archiving.archive();
    let bytes = fs::read(path_of(&archiving, &name)).unwrap();
    let directory = archiving.place.path("pg_wal");
    fs::create_dir(&directory).unwrap();
    crate::support::give(&directory);
    let wanted = directory.join("RECOVERYXLOG");
    let fetch = ["wal-fetch", &name, wanted.to_str().unwrap()];
    for how in ["kill", "fail", "term", "int"] {
        let stop = format!("WalFetched:{how}");
        let code = archiving.place.pgkeep_with(&[("PGKEEP_TEST_STOP", &stop)], &fetch).code;
        // A failure is never taken for the end of the archive.
        let right = match how {
            "kill" => code == 137,
            "fail" => code == 200,
            _ => code == 128 + 15 || code == 0,
        };
        assert!(right, "{how}: {code}");
        assert_eq!(wanted.exists(), code == 0, "{how}");
        archiving.place.pgkeep(&fetch).ok();
        assert_eq!(fs::read(&wanted).unwrap(), bytes, "{how}");
        assert_eq!(archiving.place.files("pg_wal"), ["RECOVERYXLOG"], "{how}: a stray is left");
        fs::remove_file(&wanted).unwrap();
    }
}

/// Files are archived several at once; one that fails in the middle keeps those behind it from being acknowledged, so
/// that the server offers them in their order and nothing is forgotten.
#[test]
fn what_waits_is_acknowledged_in_order_up_to_the_first_that_failed() {
    let archiving = Archiving::new(&[]);
    archiving.place.init();
    let names: Vec<String> = (0..8).map(|_| archiving.switch()).collect();
    let unreadable = archiving.cluster.data().join("pg_wal").join(&names[4]);
    set_mode(&unreadable, 0o000);
    let report = push(&archiving, &names[0]).ok().json();
    let ahead: Vec<&str> =
        report["ahead"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    // What was ready before these, such as the server's first segment, goes along.
    let mine: Vec<&str> = ahead.iter().copied().filter(|it| names.iter().any(|name| name == it)).collect();
    assert_eq!(mine, names[1..4], "{ahead:?}");
    let acknowledged = fs::read_to_string(archiving.place.state().join("archive/acknowledged.json")).unwrap();
    for (number, name) in names.iter().enumerate() {
        assert_eq!(acknowledged.contains(name.as_str()), number < 4, "{name}: {acknowledged}");
    }
    // Its own call says why, and is not 0; when it can be read again, all are archived.
    let run = push(&archiving, &names[4]);
    assert!(run.code != 0 && run.stderr.contains(&names[4]), "{} {}", run.code, run.stderr);
    set_mode(&unreadable, 0o600);
    archiving.archive_through("");
    archiving.wait_for(&names[7]);
    for name in &names {
        let there = archiving.archived().iter().filter(|file| file.starts_with(name.as_str())).count();
        assert_eq!(there, 1, "{name}");
    }
}

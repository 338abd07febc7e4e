//! `wal-push` and the server, killed at any point under load. In a file of its own, and with a name by which it is begun early:
//! it takes longer than most.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sha2::{Digest as _, Sha256};

use crate::support::faults::wait_for;
use crate::support::{Archiving, Running, give, ordinary, run};
use crate::wal_faults::{path_of, push, ready};

/// The oldest file that the server says is ready.
fn oldest_ready(archiving: &Archiving) -> Option<String> {
    ready(archiving).into_iter().next()
}

#[test]
fn two_hundred_kills_under_load_lose_and_change_no_segment() {
    let archiving = Archiving::ready();
    // The part of the server's archiver is played here: after a kill it would wait ten seconds each time.
    archiving.cluster.set("archive_command", "");
    let (mut killed, mut rounds, mut state) = (0, 0, 12_345_u64);
    // What each segment is, from when the server first says that it is complete.
    let mut sums: BTreeMap<String, String> = BTreeMap::new();
    let mut look = || {
        for name in ready(&archiving) {
            sums.entry(name).or_insert_with_key(|name| {
                hex::encode(Sha256::digest(fs::read(path_of(&archiving, name)).unwrap()))
            });
        }
    };
    // So long as a push takes here and now, so that it is killed at any point: measured once, and corrected by what becomes
    // of each.
    let measured = archiving.switch();
    let begun = Instant::now();
    push(&archiving, &measured).ok();
    let mut usual = u64::try_from(begun.elapsed().as_millis()).unwrap();
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let load =
        "SELECT pg_logical_emit_message(true, 'test', md5(random()::text)) FROM generate_series(1, 2000)";
    while killed < 200 {
        rounds += 1;
        assert!(rounds < 1000, "only {killed} of {rounds} were killed");
        archiving.cluster.psql("postgres", &format!("{load}; SELECT pg_switch_wal()"));
        look();
        let Some(name) = oldest_ready(&archiving) else { continue };
        let mut loading = archiving.cluster.client("psql");
        let loading = Running::start(loading.args(["-XAtq", "-d", "postgres", "-c", load]));
        let mut push = archiving.place.start(&[], &["wal-push", &path_of(&archiving, &name)]);
        std::thread::sleep(Duration::from_millis(random(usual)));
        if rounds % 20 == 19 {
            // The server, too, in the middle of whatever it does.
            archiving.cluster.kill();
            wait_for("the server to recover", || archiving.cluster.try_start().then_some(()));
        }
        if push.is_running() {
            push.signal(Signal::KILL);
        }
        let ended = push.wait().code;
        if ended == 137 {
            killed += 1;
            usual += 2;
        } else {
            usual = (usual * 3 / 4).max(8);
        }
        if ended == 0 {
            let ready = archiving.cluster.data().join(format!("pg_wal/archive_status/{name}.ready"));
            fs::rename(&ready, ready.with_extension("done")).unwrap();
        }
        // Where the server was killed, it has failed.
        loading.wait();
    }
    look();
    archiving.archive_through("");
    let last = archiving.archive();
    let mut by_name: BTreeMap<String, u32> = BTreeMap::new();
    for file in archiving.archived() {
        *by_name.entry(file[..24].to_owned()).or_default() += 1;
    }
    assert!(by_name.values().all(|count| *count == 1), "{by_name:?}");
    let first = by_name.keys().next().unwrap().clone();
    // Segments of 1 MiB: 4096 of them make a "log file" of 4 GiB in their names.
    let number = |name: &str| {
        let half = |from: usize| u64::from_str_radix(&name[from..from + 8], 16).unwrap();
        half(8) * 4096 + half(16)
    };
    assert_eq!(by_name.len() as u64, number(&last) - number(&first) + 1, "a segment is missing");
    // PostgreSQL's own reader goes through all of it without a complaint.
    let directory = archiving.place.path("fetched");
    fs::create_dir(&directory).unwrap();
    give(&directory);
    for name in by_name.keys() {
        let wanted = directory.join(name);
        archiving.place.pgkeep(&["wal-fetch", name, wanted.to_str().unwrap()]).ok();
        if let Some(sum) = sums.get(name) {
            assert_eq!(hex::encode(Sha256::digest(fs::read(&wanted).unwrap())), *sum, "{name}");
        }
    }
    for name in sums.keys() {
        assert!(by_name.contains_key(name), "{name} was complete and is not in the archive");
    }
    assert!(sums.len() + 3 > by_name.len(), "only {} of {} were seen", sums.len(), by_name.len());
    let mut dump = ordinary(archiving.cluster.bindir.join("pg_waldump"));
    let read = run(dump.args(["--quiet", &first, &last]).current_dir(&directory));
    assert_eq!(read.code, 0, "{}", read.stderr);
}

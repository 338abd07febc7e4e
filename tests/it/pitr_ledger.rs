//! What is known of the archive before anybody restores, and what other programs than the server's own recovery find of it.

use std::fs;
use std::process::Command;

use crate::clouds::Cloud;
use crate::pitr::{backup, now, recover};
use crate::pitr_faults::{archive_on, lose, takes_over};
use crate::support::faults::{through, wait_for};
use crate::support::s3::Options;
use crate::support::{Archiving, Cluster, ordinary, run};
use crate::wal_faults::path_of;

#[test]
fn a_backup_says_how_far_the_archive_carries_it_and_where_that_is_whole() {
    let archiving = Archiving::new(&[]);
    let r2 = Cloud::start(Options::default());
    r2.is_r2_of(&archiving.place);
    archiving.begin();
    let id = backup(&archiving)["id"].as_str().unwrap().to_owned();
    let show =
        || archiving.place.pgkeep(&["--output", "json", "show", &id]).ok().json()["recoverable"].clone();
    let until = |window: &serde_json::Value| {
        window["until_lsn"].as_str().unwrap().parse::<pgkeep::model::Lsn>().unwrap()
    };
    let first = show();
    let names: Vec<String> = (0..3).map(|_| archiving.archive()).collect();
    let later = show();
    assert!(until(&later) > until(&first), "{first} {later}");
    assert_eq!(later["from_lsn"], first["from_lsn"]);
    assert_eq!(later["whole_in"], serde_json::json!(["r2", "local"]), "in the order in which they are read");
    let shown = archiving.place.pgkeep(&["show", &id]).ok();
    assert!(shown.stdout.contains("recoverable  "), "{}", shown.stdout);
    // One store lacks a segment, then all do: it carries as far as the hole.
    let age = || {
        let old = "UPDATE wal_segments SET stored_at = '2026-01-01T00:00:00.000Z'";
        let path = archiving.place.state().join("catalog.sqlite");
        rusqlite::Connection::open(path).unwrap().execute(old, []).unwrap();
    };
    lose(&archiving, &names[1]);
    age();
    archiving.place.pgkeep(&["verify"]).fails_with(4);
    let bridged = show();
    assert_eq!((until(&bridged), &bridged["whole_in"]), (until(&later), &serde_json::json!(["r2"])));
    let key = r2.bucket().keys().into_iter().find(|key| key.contains(&format!("/{}-", names[1]))).unwrap();
    r2.bucket().lose(&key);
    archiving.place.pgkeep(&["verify"]).fails_with(4);
    let holed = show();
    assert!(until(&holed) < until(&later) && until(&holed) >= until(&first), "{holed}");
}

/// The names in a server's `pg_wal` that PostgreSQL does not know.
fn strays(cluster: &Cluster) -> Vec<String> {
    let known = regex::Regex::new(
        r"^([0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history|archive_status|summaries|xlogtemp\.\d+)$",
    )
    .unwrap();
    let names = fs::read_dir(cluster.data().join("pg_wal")).unwrap().flatten();
    names.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| !known.is_match(name)).collect()
}

/// `pg_rewind` with the archive's help: the old primary becomes a standby of the one that took its place.
#[test]
fn pg_rewind_gets_what_it_needs_out_of_the_archive_and_sees_no_strays() {
    let options = [
        ("archive_mode", "on"),
        ("archive_command", "/bin/false"),
        ("max_wal_senders", "5"),
        ("wal_log_hints", "on"),
    ];
    let archiving = Archiving::on(Cluster::made_with(&["--wal-segsize=1"], &options));
    archiving.begin();
    let one = &archiving.cluster;
    one.psql("postgres", "CREATE TABLE t (word text)");
    backup(&archiving);
    one.psql("postgres", "INSERT INTO t VALUES ('common')");
    let fork = now(one);
    archiving.archive();
    let two = recover(&archiving, &["--target-time", &fork, "--keep-archiving"]);
    // The old one went on for a while.
    one.psql("postgres", "INSERT INTO t VALUES ('lost with one')");
    archiving.fill_segments(6);
    archiving.archive();
    one.shut_down();
    takes_over(&archiving, &two);
    two.psql("postgres", "INSERT INTO t VALUES ('two'); CHECKPOINT");
    archive_on(&archiving, &two);
    // What it had written since is in the archive alone: the server has reused the files.
    let pg_wal = one.data().join("pg_wal");
    let archived: Vec<String> = archiving.archived().iter().map(|file| file[..24].to_owned()).collect();
    let gone =
        archived.iter().filter(|name| name.starts_with("00000001") && !pg_wal.join(name).exists()).count();
    assert!(gone > 3, "{gone} of {archived:?} are gone");
    let two_conf = fs::read_to_string(two.data().join("postgresql.auto.conf")).unwrap();
    let command = two_conf.lines().rfind(|line| line.starts_with("restore_command = ")).unwrap().to_owned();
    let append = |text: &str| {
        let path = one.data().join("postgresql.auto.conf");
        let conf = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{conf}\n{text}\n")).unwrap();
    };
    append(&command);
    let mut rewind = ordinary(one.bindir.join("pg_rewind"));
    let source = format!("host={} port={} user=postgres dbname=postgres", two.socket_dir.display(), two.port);
    let rewound = run(rewind
        .args(["--restore-target-wal", "--no-sync", "--target-pgdata"])
        .arg(one.data())
        .args(["--source-server", &source]));
    assert_eq!(rewound.code, 0, "{}{}", rewound.stdout, rewound.stderr);
    assert_eq!(strays(one), [""; 0], "after pg_rewind");
    // It has the settings of the new one now; it is to follow it.
    append(&format!(
        "unix_socket_directories = '{}'\nrecovery_target_time = ''\nrecovery_target_timeline = 'latest'\narchive_mode = 'off'",
        one.socket_dir.display()
    ));
    fs::write(one.data().join("standby.signal"), "").unwrap();
    crate::support::give(&one.data().join("standby.signal"));
    // What the new one had written when it was copied from must be in the archive, too.
    archive_on(&archiving, &two);
    one.start_again();
    let words = "SELECT string_agg(word, ',' ORDER BY word) FROM t";
    wait_for("the old one to have caught up", || (one.psql("postgres", words) == "common,two").then_some(()));
    assert_eq!(one.psql("postgres", "SELECT pg_is_in_recovery()"), "t");
    one.shut_down();
    one.start_again();
    let left = wait_for("nothing to be under way", || {
        let left = strays(one);
        left.iter().all(|name| name == "RECOVERYXLOG" || name == "RECOVERYHISTORY").then_some(left)
    });
    assert!(left.len() <= 1, "after a restart: {left:?}");
    one.shut_down();
}

/// The store's files are flushed before the server is told that a segment is archived: where that fails, it is not told.
#[test]
fn a_flush_that_fails_is_never_a_segment_that_is_archived() {
    let archiving = Archiving::ready();
    archiving.cluster.set("archive_command", "");
    let (mut failed, store) = (0, archiving.place.store().display().to_string());
    for number in 1..=8 {
        let name = archiving.switch();
        let traced = archiving.place.path("traced");
        let mut strace = Command::new("strace");
        let inject = format!("inject=fsync,fdatasync,syncfs:error=EIO:when={number}+");
        strace
            .args(["-f", "-qq", "-y", "-e", "trace=fsync,fdatasync,syncfs", "-e", &inject, "-o"])
            .arg(&traced);
        let push = archiving.place.command(&["wal-push", &path_of(&archiving, &name)]);
        let pushed = run(&mut through(&mut strace, &push));
        let text = fs::read_to_string(&traced).unwrap_or_default();
        let of_the_store = text.lines().any(|line| line.contains("(INJECTED)") && line.contains(&store));
        if of_the_store {
            assert!((1..=125).contains(&pushed.code), "{number}: {} {}\n{text}", pushed.code, pushed.stderr);
            assert!(pushed.stderr.contains("Input/output error"), "{number}: {}", pushed.stderr);
            failed += 1;
        }
        archiving.place.pgkeep(&["wal-push", &path_of(&archiving, &name)]).ok();
        let wanted = archiving.place.path("wanted");
        archiving.place.pgkeep(&["wal-fetch", &name, wanted.to_str().unwrap()]).ok();
        assert!(fs::read(&wanted).unwrap() == fs::read(path_of(&archiving, &name)).unwrap(), "{name}");
    }
    assert!(failed > 0, "nothing of the store was ever flushed");
}

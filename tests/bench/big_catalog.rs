//! A catalog of years: 1,000 backups, 3 stores, 500,000 WAL segments. How long it takes to look at it, and how much memory.

use std::time::Instant;

use chrono::{TimeDelta, Utc};
use pgkeep::model::timestamp_text;
use rusqlite::{Connection, params};

use super::measure::{cost, in_turns, peak_memory};
use super::support::{Cluster, Place, give};

/// A part of the benchmark, by the word that asks for it.
pub(crate) const SECTIONS: [(&str, fn()); 1] = [("catalog", catalog)];

const BACKUPS: u64 = 1_000;
const OBJECTS: u64 = 20;
const SEGMENTS: u64 = 500_000;
const STORES: [&str; 3] = ["local", "r2", "b2"];
const SEGMENT_SIZE: u64 = 16 << 20;

/// `status` and `list` over it. (`--offline`: what the stores take is theirs. The stores are not there.)
fn catalog() {
    let cluster = Cluster::own(&[]);
    let place = Place::on(&cluster);
    place.init();
    let begun = Instant::now();
    fill(&place, BACKUPS, OBJECTS, SEGMENTS);
    let path = place.state().join("catalog.sqlite");
    let size = std::fs::metadata(&path).expect("look at the catalog").len();
    println!(
        "\n## A catalog of {BACKUPS} backups with {OBJECTS} objects each and {SEGMENTS} WAL segments in 3 stores: {} MB, \
         filled in {:.0} s (wanted: below 0.5 s and 100 MB)",
        size / 1_000_000,
        begun.elapsed().as_secs_f64()
    );
    let page = place.path("page.html").display().to_string();
    let metrics = place.path("pgkeep.prom").display().to_string();
    let cases: [(&str, &[&str]); 4] = [
        ("status", &["status", "--offline"]),
        ("status --html --prometheus", &["status", "--offline", "--html", &page, "--prometheus", &metrics]),
        ("list", &["list"]),
        ("list --recoverable", &["list", "--recoverable"]),
    ];
    for (what, arguments) in cases {
        let costs = in_turns(5, &mut [&mut || cost(&mut place.command(arguments))]);
        let memory = peak_memory(&mut place.command(arguments), "pgkeep");
        println!(
            "{what}: {:.2} s, {:.2} s of processor time, at most {memory:.0} MB",
            costs[0].wall, costs[0].cpu
        );
    }
}

/// Fills the catalog of an initialised place: so many backups, a tenth of them of the cluster, the others of one database;
/// so many objects of each; so many WAL segments without a hole; all of it in three stores, the newest from now.
pub(crate) fn fill(place: &Place, backups: u64, objects: u64, segments: u64) {
    let path = place.state().join("catalog.sqlite");
    let mut catalog = Connection::open(&path).expect("open the catalog");
    catalog.pragma_update(None, "synchronous", "OFF").expect("hurry");
    let transaction = catalog.transaction().expect("begin");
    let (now, first) = (Utc::now(), 0x1_0000);
    // 90 days of backups and of WAL.
    let at = |part: f64| {
        timestamp_text(now - TimeDelta::milliseconds(((1.0 - part) * 90.0 * 86_400_000.0) as i64))
    };
    {
        let mut insert = transaction
            .prepare(
                "INSERT INTO wal_segments (timeline, segment, content_sha256, store, size_bytes, state, stored_at, \
                 proven_at, proven_how) VALUES (1, ?1, ?2, ?3, 4000000, 'good', ?4, ?4, 'written')",
            )
            .expect("prepare");
        for number in 0..segments {
            let segment = first + number;
            let name = format!("00000001{:08X}{:08X}", segment / 256, segment % 256);
            let (sha, at) =
                (format!("{:064x}", number * 0x9E37_79B9), at((number + 1) as f64 / segments as f64));
            for store in STORES {
                insert.execute(params![name, sha, store, at]).expect("insert a segment");
            }
        }
        let mut backup = transaction
            .prepare(
                "INSERT INTO backups (id, type, database, filename, status, size_bytes, original_size_bytes, \
                 compressed_size_bytes, checksum, local_path, r2_path, b2_path, codec, rows, entries, format_version, \
                 pgkeep_version, started_at, finished_at, seconds, consistent_at, timeline, start_lsn, stop_lsn, \
                 wal_segment_size, damaged_pages) VALUES (?1, ?2, ?3, ?4, 'complete', 1000000, 4000000, 1000000, ?5, ?4, \
                 ?4, ?4, 'zstd:5', 1, 1, 1, '0.1.0', ?6, ?6, 1.0, ?6, ?7, ?8, ?9, ?10, 0)",
            )
            .expect("prepare");
        let mut copy = transaction
            .prepare(
                "INSERT INTO copies (backup_id, object, store, size_bytes, sha256, state, seen_at, proven_at, proven_how) \
                 VALUES (?1, ?2, ?3, 50000, ?4, 'good', ?5, ?5, 'read')",
            )
            .expect("prepare");
        for number in 0..backups {
            let part = (number + 1) as f64 / (backups + 1) as f64;
            let is_cluster = number % 10 == 0;
            let (kind, database) = if is_cluster { ("cluster", None) } else { ("database", Some("shop")) };
            let time = at(part);
            let id = format!("{}{}-{kind}-{number:08x}", &time[..19].replace(['-', ':'], ""), "Z");
            let segment = first + (segments as f64 * part) as u64;
            let lsn = |plus: u64| {
                let position = segment * SEGMENT_SIZE + plus;
                format!("{:X}/{:X}", position >> 32, position & 0xFFFF_FFFF)
            };
            let sha = format!("{number:064x}");
            backup
                .execute(params![
                    id,
                    kind,
                    database,
                    format!("test/backups/{id}/"),
                    sha,
                    time,
                    is_cluster.then_some(1),
                    is_cluster.then(|| lsn(40)),
                    is_cluster.then(|| lsn(4000)),
                    is_cluster.then_some(SEGMENT_SIZE as i64)
                ])
                .expect("insert a backup");
            for object in 0..objects {
                let name =
                    if object == 0 { "manifest".to_owned() } else { format!("data.{:05}", object - 1) };
                for store in STORES {
                    copy.execute(params![id, name, store, sha, time]).expect("insert a copy");
                }
            }
        }
    }
    // And a test restore, so that nothing is amiss.
    transaction
        .execute(
            "INSERT INTO restore_log (backup_id, initiated_by, restore_mode, state, started_at, ended_at, seconds, purpose) \
             SELECT max(id), 'cron', 'full', 'done', ?1, ?1, 60.0, 'test' FROM backups",
            [at(0.9)],
        )
        .expect("insert a test restore");
    transaction.execute("UPDATE copies SET proven_at = ?1", [at(0.9)]).expect("prove the copies");
    transaction.commit().expect("commit");
    drop(catalog);
    for end in ["", "-wal", "-shm"] {
        let path = place.state().join(format!("catalog.sqlite{end}"));
        if path.exists() {
            give(&path);
        }
    }
}

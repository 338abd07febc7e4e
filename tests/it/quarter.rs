//! A quarter in a minute: real backups, real WAL, real cleanups and real restores, only the day is shorter. Afterwards what is
//! promised, what is on the disks and what a restore brings back agree at a hundred random instants.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use crate::clouds::Cloud;
use crate::pitr::{backup, fresh, now, recover};
use crate::support::s3::Options;
use crate::support::{Archiving, Cluster, run};

/// Seconds of a day.
const DAY: f64 = 0.5;
/// How many instants are tried, and by how many at once.
const TRIES: usize = 100;
const AT_ONCE: usize = 4;

type Time = DateTime<Utc>;

/// A row, when the transaction that wrote it ended, and in which segment that stands.
struct Said {
    number: u32,
    at: Time,
    segment: u64,
    /// When that segment was archived, and with it all that the server did beside.
    archived: Time,
}

/// A cluster backup that is there at the end.
struct Kept {
    consistent: Time,
    first: u64,
}

/// What the test knows by itself.
struct Model {
    said: Vec<Said>,
    kept: Vec<Kept>,
    /// The segments of which some store has a copy.
    segments: BTreeSet<u64>,
    /// The windows that `list --recoverable` shows.
    promised: Vec<(Time, Time)>,
}

/// What an instant should come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// The rows up to this one come back.
    To(u32),
    /// It is refused.
    Not,
    /// The window is said to end about there: within it, what is behind the last row may or may not be reached.
    About(u32),
}

impl Model {
    /// By what is on the disks: recovery begins with the newest backup before the instant, and needs all WAL up to the first
    /// transaction that ended after it.
    fn reach(&self, at: Time) -> Reach {
        let last = self.said.iter().rfind(|said| said.at <= at);
        let Some(base) = self.kept.iter().filter(|base| base.consistent <= at).max_by_key(|base| base.first)
        else {
            return Reach::Not;
        };
        let Some(last) = last else { return Reach::Not };
        let has = |until: u64| (base.first..=until).all(|segment| self.segments.contains(&segment));
        let next = self.said.iter().find(|said| said.at > at);
        if next.is_some_and(|next| has(next.segment)) {
            Reach::To(last.number)
        } else if has(last.segment) && at <= last.archived {
            Reach::About(last.number)
        } else {
            Reach::Not
        }
    }

    fn is_promised(&self, at: Time) -> bool {
        self.promised.iter().any(|(from, until)| *from <= at && at <= *until)
    }
}

/// The position in the stream of a segment of 1 MiB.
fn position(name: &str) -> u64 {
    let part = |range: std::ops::Range<usize>| u64::from_str_radix(&name[range], 16).unwrap();
    (part(8..16) << 12) + part(16..24)
}

fn time(text: &str) -> Time {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// 125 days with a row and a segment each day at least, a backup and a cleanup each week, and a restore each month.
fn live(archiving: &Archiving, random: &mut Random) -> Vec<Said> {
    let place = &archiving.place;
    let short = DAY.to_string();
    let days = [("PGKEEP_TEST_DAY", short.as_str())];
    let begun = Instant::now();
    let age = |since: Instant| since.elapsed().as_secs_f64() / DAY;
    let mut said: Vec<(Instant, String, Said)> = Vec::new();
    let (mut number, mut cleanups, mut restored) = (0_u32, 0, Vec::new());
    let (mut next_backup, mut month) = (0.0, 30.0);
    backup(archiving);
    while age(begun) < 125.0 {
        number += 1;
        let sql = format!("INSERT INTO t VALUES ({number})");
        archiving.cluster.psql("postgres", &sql);
        let instant = now(&archiving.cluster);
        let segment = position(&archiving.archive());
        let row = Said { number, at: time(&instant), segment, archived: Utc::now() };
        said.push((Instant::now(), instant, row));
        if age(begun) >= next_backup {
            next_backup = age(begun) + 7.0;
            backup(archiving);
            place.backup("postgres");
            let cleaned = place.pgkeep_with(&days, &["--output", "json", "cleanup", "--yes"]).ok();
            cleanups += cleaned.json()["deleted"].as_array().unwrap().len();
        }
        if age(begun) >= month {
            month += 30.0;
            let within: Vec<_> = said[..said.len() - 1].iter().filter(|(at, ..)| age(*at) < 88.0).collect();
            // The oldest of the window now and then, else any.
            let at = if restored.len() % 2 == 1 { 0 } else { random.below(within.len()) };
            let (_, instant, row) = within[at];
            let server = recover(archiving, &["--target-time", instant]);
            let last = server.psql("postgres", "SELECT max(n) FROM t");
            assert_eq!(last, row.number.to_string(), "{instant}");
            restored.push(row.number);
        }
    }
    assert!(cleanups > 3 && restored.len() >= 3, "{cleanups} {restored:?}");
    assert!(begun.elapsed() < Duration::from_mins(10));
    said.into_iter().map(|(_, _, row)| row).collect()
}

/// Takes a segment out of these stores.
fn lose(archiving: &Archiving, r2: Option<&Cloud>, local: bool, segment: u64) {
    let is_it = |path: &str| {
        let name = path.rsplit('/').next().unwrap();
        name.len() == 24 + 1 + 64 && position(name) == segment
    };
    if local {
        let wal = archiving.place.store().join("test/wal");
        let files = archiving.place.files("store/test/wal");
        fs::remove_file(wal.join(files.iter().find(|path| is_it(path)).expect("a segment"))).unwrap();
    }
    if let Some(r2) = r2 {
        let keys = r2.bucket().keys();
        r2.bucket().lose(keys.iter().find(|key| key.contains("/wal/") && is_it(key)).expect("a segment"));
    }
}

/// What is left: the backups that the catalog knows, and the segments that are really there.
fn look(archiving: &Archiving, r2: &Cloud, said: Vec<Said>) -> Model {
    let place = &archiving.place;
    let rows = place.catalog(
        "SELECT consistent_at, start_lsn FROM backups WHERE type = 'cluster' AND status = 'complete' ORDER BY id",
    );
    let kept = rows.iter().map(|row| {
        let lsn: pgkeep::model::Lsn = row[1].parse().unwrap();
        Kept { consistent: time(&row[0]), first: lsn.0 >> 20 }
    });
    let paths = place.files("store/test/wal").into_iter().chain(r2.bucket().keys());
    let names = paths.filter_map(|path| {
        let name = path.rsplit('/').next()?.to_owned();
        (name.len() == 24 + 1 + 64).then(|| position(&name))
    });
    let run = place.pgkeep(&["--output", "json", "list", "--recoverable"]);
    let windows = run.json()["windows"].as_array().unwrap().clone();
    let promised =
        windows.iter().map(|it| (time(it["from"].as_str().unwrap()), time(it["until"].as_str().unwrap())));
    Model { said, kept: kept.collect(), segments: names.collect(), promised: promised.collect() }
}

/// One restore to an instant: what it came to.
fn attempt(directory: &Path, mut restore: Command, bindir: PathBuf) -> Result<String, String> {
    let restored = run(&mut restore);
    if restored.code != 0 {
        let _ = fs::remove_dir_all(directory);
        return if restored.code == 5 {
            Err(restored.stderr)
        } else {
            panic!("{}{}", restored.stdout, restored.stderr)
        };
    }
    let server = Cluster::around(directory.to_owned(), bindir);
    server.start_again();
    let begun = Instant::now();
    while server.psql("postgres", "SELECT pg_get_wal_replay_pause_state()") != "paused" {
        assert!(begun.elapsed() < Duration::from_mins(2), "it does not get there: {}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server.psql("postgres", "SELECT count(*) || ' to ' || max(n) FROM t"))
}

/// Carries out restores, several at once: when, what was asked for, and what came of it.
fn restored(
    archiving: &Archiving,
    waiting: Vec<(DateTime<Utc>, PathBuf, Command)>,
) -> Vec<(DateTime<Utc>, Result<String, String>)> {
    let place = &archiving.place;
    let (waiting, came, bindir) =
        (Mutex::new(waiting), Mutex::new(Vec::new()), archiving.cluster.bindir.clone());
    std::thread::scope(|scope| {
        for number in 0..AT_ONCE {
            // Each with a state directory of its own: two restores of a cluster in one wait for each other.
            let state = place.path(&format!("state{number}"));
            let copied = Command::new("cp").arg("-a").args([&place.state(), &state]).status();
            assert!(copied.expect("start cp").success());
            scope.spawn({
                let (waiting, came, bindir) = (&waiting, &came, &bindir);
                move || loop {
                    let next = waiting.lock().unwrap().pop();
                    let Some((instant, directory, mut restore)) = next else { return };
                    restore.env("BACKUP_STATE_DIR", &state);
                    let result = attempt(&directory, restore, bindir.clone());
                    came.lock().unwrap().push((instant, result));
                }
            });
        }
    });
    came.into_inner().unwrap()
}

#[test]
fn through_a_quarter_what_is_promised_and_what_comes_back_agree_at_a_hundred_random_instants() {
    // The exact ends of the transactions, as recovery goes by them.
    let archiving = Archiving::new(&[("track_commit_timestamp", "on")]);
    let r2 = Cloud::start(Options::default());
    let place = &archiving.place;
    r2.is_r2_of(place);
    place.set("BACKUP_READ_ORDER", "local,r2");
    archiving.begin();
    archiving.cluster.psql("postgres", "CREATE TABLE t (n int)");
    // Two thirds of a server without data, which would be restored a hundred times.
    archiving.cluster.psql("postgres", "UPDATE pg_database SET datistemplate = false");
    for name in ["template0", "template1"] {
        archiving.cluster.psql("postgres", &format!("DROP DATABASE {name}"));
    }
    let mut random = Random(4711);
    let begun = Utc::now();
    let mut said = live(&archiving, &mut random);
    let ended = Utc::now();
    place.pgkeep(&["list", "--recoverable"]).ok();
    place.pgkeep(&["verify", "--deep"]).ok();
    assert_ne!(place.catalog("SELECT count(*) FROM wal_deleted"), [["0"]]);

    // Holes: in every store, once of several segments; and in one store alone, which is none.
    let is_there = look(&archiving, &r2, Vec::new()).segments;
    let there: Vec<u64> = is_there.iter().copied().collect();
    let at = |part: usize| there[there.len() * part / 20];
    for segment in [at(6), at(11), at(11) + 1, at(11) + 2, at(16)] {
        lose(&archiving, Some(&r2), true, segment);
    }
    lose(&archiving, None, true, at(8));
    lose(&archiving, Some(&r2), false, at(13));
    // Made anew out of what is there: what was stored a moment ago is not yet missed by a `verify`.
    for file in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
        let _ = fs::remove_file(place.state().join(file));
    }
    place.pgkeep(&["catalog", "rebuild"]).ok();
    let ends = "SELECT string_agg(to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', \
                'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), ' ' ORDER BY n) FROM t";
    for (row, end) in said.iter_mut().zip(archiving.cluster.psql("postgres", ends).split(' ')) {
        row.at = time(end);
    }
    let model = look(&archiving, &r2, said);
    assert!(model.promised.len() >= 3, "{:?}", model.promised);

    let (from, span) =
        (begun - TimeDelta::seconds(2), (ended - begun + TimeDelta::seconds(3)).num_milliseconds());
    let mut waiting = Vec::new();
    for _ in 0..TRIES {
        let instant = from + TimeDelta::milliseconds(random.below(usize::try_from(span).unwrap()) as i64);
        let directory = fresh();
        let (data, text) = (directory.join("data").display().to_string(), instant.to_rfc3339());
        let restore = place.command(&[
            "restore",
            "latest",
            "--to-dir",
            &data,
            "--mode",
            "pitr",
            "--target-time",
            &text,
            "--target-action",
            "pause",
        ]);
        waiting.push((instant, directory, restore));
    }
    let came = restored(&archiving, waiting);
    let (mut reached, mut refused, mut about) = (0, 0, 0);
    for (instant, result) in &came {
        let (reach, is_promised) = (model.reach(*instant), model.is_promised(*instant));
        let what = format!("{instant}: {reach:?}, promised: {is_promised}, came to {result:?}");
        let all_up_to = |number: u32| Ok(format!("{number} to {number}"));
        match reach {
            Reach::To(number) => {
                assert!(is_promised && *result == all_up_to(number), "{what}");
                reached += 1;
            }
            Reach::Not => {
                assert!(!is_promised && result.is_err(), "{what}");
                refused += 1;
            }
            Reach::About(number) => {
                assert!(result.is_err() || *result == all_up_to(number), "{what}");
                about += 1;
            }
        }
    }
    assert_eq!(reached + refused + about, TRIES);
    assert!(
        reached >= 40 && refused >= 20 && about <= 10,
        "{reached} reached, {refused} refused, {about} about"
    );
}

//! What a restore is going to take, before it begins: from what is known of the backup, and from what past test restores
//! took.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::{Bytes, Elapsed, StoreName, Timestamp};

/// Phases of a test restore that a restore has as well, by their names in the log. What replays WAL is measured in
/// segments, everything else in bytes.
const REPLAY: &str = "replay";
const NOT_A_RESTORE_S: [&str; 2] = ["check", "drop"];

/// What a restore has to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// Stored bytes to fetch of the backup, by the store from which they come.
    pub from: BTreeMap<StoreName, u64>,
    /// Stored bytes that no store is known to have a good copy of.
    pub nowhere: u64,
    /// Requests for the backup's own objects.
    pub requests: u64,
    /// Room needed in the scratch directory, or in that of the restored cluster.
    pub scratch_bytes: u64,
    /// Segments of WAL to replay at most.
    pub wal_segments: u64,
    /// Stored bytes of them.
    pub wal_bytes: u64,
    /// Where it stops, exactly, in words.
    pub stops_at: String,
}

impl Work {
    /// Adds that of another backup.
    pub fn add(&mut self, other: Self) {
        for (store, bytes) in other.from {
            *self.from.entry(store).or_default() += bytes;
        }
        self.nowhere += other.nowhere;
        self.requests += other.requests;
        self.scratch_bytes += other.scratch_bytes;
        self.wal_segments += other.wal_segments;
        self.wal_bytes += other.wal_bytes;
    }
}

/// A test restore of the same kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// When it began.
    pub at: Timestamp,
    /// How long each of its parts took, in seconds.
    pub phases: BTreeMap<String, f64>,
    /// Bytes that it fetched.
    pub bytes: u64,
    /// Segments that it replayed.
    pub wal_segments: u64,
}

/// What a restore is going to take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quote {
    /// Stored bytes to fetch, without WAL.
    pub fetch_bytes: u64,
    /// From which stores, as they are read: each with its bytes.
    pub from: Vec<Share>,
    /// Requests to the stores, those for WAL included.
    pub requests: u64,
    /// Room that is needed while it runs.
    pub scratch_bytes: u64,
    /// Segments of WAL that are replayed at most.
    pub wal_segments: u64,
    /// Stored bytes of them, to be fetched besides.
    pub wal_bytes: u64,
    /// Where it stops, exactly.
    pub stops_at: String,
    /// How long it is going to take, in seconds; `None` where no test restore says.
    pub expected_seconds: Option<f64>,
    /// What that rests on.
    pub basis: String,
}

/// A store's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The store; `None`: no store is known to have a good copy.
    pub store: Option<StoreName>,
    /// Bytes.
    pub bytes: u64,
}

/// A file of WAL is listed and read.
const REQUESTS_PER_SEGMENT: u64 = 2;

/// Estimates it.
pub fn quote(work: Work, past: Option<&Past>) -> Quote {
    let known = work.from.iter().map(|(store, bytes)| Share { store: Some(*store), bytes: *bytes });
    let unknown = (work.nowhere > 0).then_some(Share { store: None, bytes: work.nowhere });
    let mut from: Vec<Share> = known.chain(unknown).collect();
    from.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    let fetch_bytes = from.iter().map(|share| share.bytes).sum();
    let (expected_seconds, basis) = match past {
        None => (None, "no test restore yet: unknown".to_owned()),
        Some(past) => (Some(expected(past, fetch_bytes, work.wal_segments)), basis(past)),
    };
    Quote {
        fetch_bytes,
        from,
        requests: work.requests + REQUESTS_PER_SEGMENT * work.wal_segments,
        scratch_bytes: work.scratch_bytes,
        wal_segments: work.wal_segments,
        wal_bytes: work.wal_bytes,
        stops_at: work.stops_at,
        expected_seconds,
        basis,
    }
}

/// The past, made longer or shorter as there is more or less to do. What replayed nothing then says nothing of replay.
fn expected(past: &Past, bytes: u64, segments: u64) -> f64 {
    let times = |now: u64, then: u64| now as f64 / then.max(1) as f64;
    let scaled = past.phases.iter().filter(|(name, _)| !NOT_A_RESTORE_S.contains(&name.as_str())).map(
        |(name, seconds)| {
            let factor = if name == REPLAY {
                if past.wal_segments == 0 { 1.0 } else { times(segments, past.wal_segments) }
            } else {
                times(bytes, past.bytes)
            };
            seconds * factor
        },
    );
    (scaled.sum::<f64>() * 1000.0).round() / 1000.0
}

fn basis(past: &Past) -> String {
    let took: f64 = past
        .phases
        .iter()
        .filter(|(name, _)| !NOT_A_RESTORE_S.contains(&name.as_str()))
        .map(|(_, s)| s)
        .sum();
    let took = Elapsed(std::time::Duration::from_secs_f64(took.max(0.0)));
    let wal = match past.wal_segments {
        0 => String::new(),
        1 => " and 1 segment of WAL".to_owned(),
        count => format!(" and {count} segments of WAL"),
    };
    format!("from the test restore of {}: {took} for {}{wal}", past.at.format("%F"), Bytes(past.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past() -> Past {
        let phases = [("fetch", 60.0), ("replay", 100.0), ("check", 900.0), ("drop", 5.0)];
        Past {
            at: crate::model::parse_timestamp("2026-11-01T03:00:00Z").unwrap(),
            phases: phases.into_iter().map(|(name, seconds)| (name.to_owned(), seconds)).collect(),
            bytes: 1 << 30,
            wal_segments: 50,
        }
    }

    fn work() -> Work {
        Work {
            from: BTreeMap::from([(StoreName::R2, 2 << 30), (StoreName::Local, 1 << 20)]),
            nowhere: 0,
            requests: 10,
            scratch_bytes: 7,
            wal_segments: 100,
            wal_bytes: 1 << 20,
            stops_at: "here".to_owned(),
        }
    }

    #[test]
    fn twice_as_much_takes_twice_as_long_and_checks_do_not_count() {
        let mut work = work();
        work.from = BTreeMap::from([(StoreName::R2, 2 << 30)]);
        let quote = quote(work, Some(&past()));
        assert_eq!(quote.expected_seconds, Some(2.0 * 60.0 + 2.0 * 100.0));
        assert_eq!(
            quote.basis,
            "from the test restore of 2026-11-01: 2 min 40 s for 1.0 GiB and 50 segments of WAL"
        );
        assert_eq!(quote.requests, 10 + 200);
    }

    #[test]
    fn without_a_test_restore_the_time_is_unknown_and_the_rest_is_told() {
        let quote = quote(Work { nowhere: 5, ..work() }, None);
        assert_eq!((quote.expected_seconds, quote.basis.as_str()), (None, "no test restore yet: unknown"));
        let stores: Vec<_> = quote.from.iter().map(|share| share.store).collect();
        assert_eq!(stores, [Some(StoreName::R2), Some(StoreName::Local), None]);
        assert_eq!(quote.fetch_bytes, (2 << 30) + (1 << 20) + 5);
    }

    #[test]
    fn a_past_without_replay_lends_its_replay_as_it_was() {
        let past = Past { wal_segments: 0, ..past() };
        let work = Work { from: BTreeMap::from([(StoreName::R2, 1 << 30)]), ..work() };
        assert_eq!(quote(work, Some(&past)).expected_seconds, Some(160.0));
    }
}

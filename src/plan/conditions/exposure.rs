//! Since when something that was written may be in no archive: what would be lost if the server burned now.
//!
//! An idle server has nothing to lose, however long ago it last archived something. So it matters when it began to have
//! something, and that lies between two looks at it: not before the last one that found everything in the archive.

use std::collections::BTreeMap;

use super::{Archiving, Facts};
use crate::model::{Lsn, TimelineHistory, Timestamp, WalName};

/// WAL that a server writes without anybody having written anything: snapshots of running transactions, checkpoints.
const IDLE: u64 = 8 << 10;

/// Where a server writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// On which timeline.
    pub timeline: u32,
    /// How far it is.
    pub lsn: Lsn,
    /// Bytes of a segment.
    pub segment_size: u32,
}

/// How far the server was when somebody looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When that was.
    pub at: Timestamp,
    /// On which timeline it wrote.
    pub timeline: u32,
    /// How far it was.
    pub lsn: Lsn,
    /// Whether all of that was in enough stores by then.
    pub archived: bool,
}

/// The newest segment that is in enough stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Safe {
    /// Its name.
    pub name: WalName,
    /// When the last of these stores got it.
    pub at: Timestamp,
}

/// Whether this segment is of the stream that ends where the server writes: of its own timeline, or of one from which that
/// descends and before it was left. A server for an exercise archives a timeline that is none of its business.
pub fn is_of_its_line(
    name: &WalName,
    position: &Position,
    histories: &BTreeMap<u32, TimelineHistory>,
) -> bool {
    if name.timeline() >= position.timeline {
        return name.timeline() == position.timeline;
    }
    // The history file is archived at once; until then nobody knows which of the earlier timelines are ancestors.
    let Some(history) = histories.get(&position.timeline) else { return true };
    let left = history.ancestors.iter().find(|it| it.timeline == name.timeline()).map(|it| it.until);
    left.zip(name.start(position.segment_size)).is_some_and(|(left, start)| start < left.0)
}

/// Whether everything that the server has written is in the archive, but for what it writes by itself.
pub fn is_all_archived(server: &Archiving, safe: Option<&Safe>) -> bool {
    if server.waiting.is_some_and(|waiting| waiting > 0) {
        return false;
    }
    match (&server.position, end(server, safe)) {
        (Some(position), Some(end)) => position.lsn.0 <= end + IDLE,
        // Behind a segment that the archiver could not take there may be any number of others.
        _ if server.waiting.is_none() && server.failing.is_some() => false,
        _ => server.pending <= IDLE,
    }
}

/// Since when something can be in no archive, at the earliest, as far as is known; `None`: everything is.
pub(super) fn since(facts: &Facts, server: &Archiving) -> Option<Timestamp> {
    let safe = facts.safe.as_ref();
    if is_all_archived(server, safe) {
        return None;
    }
    let end = end(server, safe);
    let timeline = server.position.map(|it| it.timeline);
    // What was seen in the future was seen by a clock that has been put back since.
    let seen = || facts.seen.iter().filter(|seen| seen.at <= facts.now);
    let is_behind =
        |seen: &Seen| end.is_some_and(|end| Some(seen.timeline) == timeline && seen.lsn.0 > end + IDLE);
    let is_within = |seen: &Seen| {
        seen.archived || end.is_some_and(|end| Some(seen.timeline) == timeline && seen.lsn.0 <= end + IDLE)
    };
    let clean = seen().filter(|seen| is_within(seen)).map(|seen| seen.at).max();
    let since =
        [facts.safe.as_ref().map(|safe| safe.at), clean].into_iter().flatten().max().or(facts.begun)?;
    // The archive may have got its newest segment long after the next one was begun: what was seen then is as old as that.
    let later = seen().filter(|seen| is_behind(seen) && clean.is_none_or(|clean| seen.at > clean));
    Some(later.map(|seen| seen.at).min().map_or(since, |first| since.min(first)))
}

/// Where the newest safe segment ends, if it is one of those that the server writes now.
fn end(server: &Archiving, safe: Option<&Safe>) -> Option<u64> {
    let (position, safe) = (server.position?, safe?);
    let is_its = safe.name.timeline() == position.timeline;
    let start = safe.name.start(position.segment_size).filter(|_| is_its)?;
    start.checked_add(u64::from(position.segment_size))
}

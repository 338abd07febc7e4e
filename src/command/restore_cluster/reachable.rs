//! Which backup, and whether the target can be reached from it: found out before a byte is written, because the server
//! finds it out only when it has replayed everything.

use crate::command::Context;
use crate::command::archive::inventory::Inventory;
use crate::model::{Fault, Kind, Lsn, timestamp_text};
use crate::plan::recovery::{self, Base, Reach, Target};
use crate::postgres::wal_records::Mark;

const STILL_THERE: &str = "If the server still runs, it has WAL that it has not archived: `SELECT pg_switch_wal()` there, \
                           wait until `pgkeep check` finds it arrived, then try again.";
/// Bytes of a restore point's name (`MAXFNAMELEN`, with the zero at its end).
const NAME_BYTES: usize = 64;

/// How many of the last segments are read to say when the archive ends.
const LOOKED_INTO: usize = 32;

/// What a way is looked for with.
pub(super) struct Asked<'a> {
    pub(super) context: &'a Context,
    pub(super) inventory: &'a Inventory,
    pub(super) target: &'a Target,
}

impl Asked<'_> {
    /// The newest backup that is consistent before the target; how far the archive carries it; and when the last transaction
    /// in there ended, if that was looked for. Refuses what can't be reached.
    pub(super) async fn choose<'b>(
        &self,
        bases: &'b [Base],
        timeline: u32,
        way: &[(u32, Option<Lsn>)],
    ) -> anyhow::Result<(&'b Base, Reach, Option<String>)> {
        let marked = match mark(self.target)? {
            None => None,
            Some(mark) => {
                let found = self.inventory.find(self.context, &mark, bases, way).await?;
                Some(found.ok_or_else(|| {
                    let message = format!("nothing in the archive is {}", words(self.target));
                    let hint = format!("See that it is written as it was. {STILL_THERE}");
                    self.refused(message, hint)
                })?)
            }
        };
        let position = marked.map(Target::Lsn);
        let wanted = position.as_ref().unwrap_or(self.target);
        let chosen = recovery::choose(bases, wanted, way)
            .ok_or_else(|| out_of_reach(bases, self.target, timeline, way))?;
        let reach = recovery::reach(chosen, way, &self.inventory.archive);
        if reach.until < chosen.stop_lsn {
            let (id, needed, hole) = (&chosen.id, chosen.stop_lsn, self.end(&reach));
            let message = format!("{id} can't be made consistent, it needs WAL up to {needed}: {hole}");
            let hint = "Restore an earlier backup (`pgkeep list --recoverable`).".to_owned();
            return Err(self.refused(message, hint).into());
        }
        let until_time = match wanted {
            Target::Lsn(lsn) => self.refuse_position(*lsn, chosen, &reach).await.map(|()| None)?,
            Target::Time(_) | Target::End => {
                self.refuse_time(chosen, &reach, after(bases, wanted, way)).await?
            }
            Target::Consistent | Target::Transaction(_) | Target::Name(_) => None,
        };
        Ok((chosen, reach, until_time))
    }

    fn refused(&self, message: String, hint: String) -> Fault {
        // What a store that could not be asked may have is not missing.
        match self.inventory.unasked.first() {
            Some(unasked) => {
                Fault::new(Kind::Store, format!("{message}; not every store could be asked: {unasked}"))
                    .hint("Run it again when that store can be reached.")
            }
            None => Fault::new(Kind::Refused, message).hint(hint),
        }
    }

    /// Where what can be had without a gap ends, in words.
    fn end(&self, reach: &Reach) -> String {
        match &reach.hole {
            None => format!("the archive ends at {}", reach.until),
            Some((missing, next)) if self.inventory.archive.conflicts.contains(missing) => {
                format!("{missing} was archived with different bytes, and {next} comes after it")
            }
            Some((missing, next)) => format!("{missing} is in no store, and {next} is: a hole"),
        }
    }

    /// Recovery stops behind the first record that begins there or later: there must be one.
    async fn refuse_position(&self, lsn: Lsn, base: &Base, reach: &Reach) -> anyhow::Result<()> {
        if lsn.0 + 2 * u64::from(base.segment_size) < reach.until.0 {
            return Ok(());
        }
        let mut last = None;
        // Only the end of the archive has a segment that is not full.
        for segment in reach.segments.iter().rev().take_while(|_| lsn <= reach.until).take(2) {
            let segment = std::slice::from_ref(segment);
            last = last.max(self.inventory.last_stops(self.context, segment).await?.last_record);
        }
        if last.is_some_and(|last| lsn <= last) {
            return Ok(());
        }
        let message = format!("{lsn} can't be reached: {}", self.end(reach));
        let furthest = last.unwrap_or(reach.until);
        let hint = match reach.hole {
            None => format!("{STILL_THERE} Otherwise the furthest that can be reached is {furthest}."),
            Some(_) => format!("The furthest that can be reached is {furthest}."),
        };
        Err(self.refused(message, hint).into())
    }

    /// Recovery stops before the first transaction that ended later: there must be one.
    async fn refuse_time(
        &self,
        base: &Base,
        reach: &Reach,
        after: Option<String>,
    ) -> anyhow::Result<Option<String>> {
        // At the end only in order to say when it is.
        let segments = match self.target {
            Target::End => &reach.segments[reach.segments.len().saturating_sub(LOOKED_INTO)..],
            _ => &reach.segments,
        };
        let stops = self.inventory.last_stops(self.context, segments).await?;
        let shown = stops.last_transaction.map(timestamp_text);
        let everything = match (&reach.hole, stops.last_record) {
            (Some(_), Some(record)) => {
                let after =
                    after.map_or_else(String::new, |at| format!(" After it: --target-time {at} or later."));
                format!("Everything before the hole: --target-lsn {record}.{after}")
            }
            (Some(_), None) => "Give an earlier target (`pgkeep list --recoverable`).".to_owned(),
            (None, _) => {
                format!(
                    "{STILL_THERE} Otherwise give an earlier target, or none for everything that there is."
                )
            }
        };
        let end = self.end(reach);
        let Target::Time(wanted) = self.target else {
            if reach.hole.is_none() {
                return Ok(shown);
            }
            let last = shown
                .map_or_else(String::new, |at| format!("; the last transaction before it ended at {at}"));
            let message = format!("the end of the archive can't be reached: {end}{last}");
            return Err(self.refused(message, everything).into());
        };
        if stops.last_transaction.is_some_and(|until| *wanted < until) {
            return Ok(shown);
        }
        let wanted = timestamp_text(*wanted);
        let message = match shown {
            Some(until) => {
                let before = if reach.hole.is_some() { "before it" } else { "in the archive" };
                format!("{wanted} can't be reached: {end}; the last transaction {before} ended at {until}")
            }
            None => {
                format!("{wanted} can't be reached: no transaction has ended since {} began, {end}", base.id)
            }
        };
        Err(self.refused(message, everything).into())
    }
}

/// From when on the next backup carries again.
fn after(bases: &[Base], target: &Target, way: &[(u32, Option<Lsn>)]) -> Option<String> {
    let wanted = match target {
        Target::Time(wanted) => Some(*wanted),
        _ => None,
    };
    let later = bases.iter().filter(|base| {
        // Of the end, the one that lies behind the hole was chosen by itself, were there any.
        wanted.is_some_and(|wanted| base.consistent_at > wanted) && recovery::is_on_the_way(base, way)
    });
    later.map(|base| base.consistent_at).min().map(timestamp_text)
}

fn mark(target: &Target) -> anyhow::Result<Option<Mark>> {
    Ok(match target {
        Target::Name(name) if name.len() >= NAME_BYTES || name.chars().any(char::is_control) => {
            return Fault::new(Kind::Usage, format!("\"{}\" is no name of a restore point", name.escape_debug()))
                .hint("It has at most 63 bytes, and no line ends: give it as pg_create_restore_point() was given it.")
                .err();
        }
        Target::Name(name) => Some(Mark::Name(name.clone())),
        Target::Transaction(number) => Some(Mark::Transaction(number.parse().map_err(|_| {
            Fault::new(Kind::Usage, format!("{number} is not the number of a transaction"))
                .hint("It has 32 bits, as in the view pg_stat_activity, column backend_xid.")
        })?)),
        Target::Consistent | Target::End | Target::Time(_) | Target::Lsn(_) => None,
    })
}

/// No backup is consistent before the target.
fn out_of_reach(bases: &[Base], target: &Target, timeline: u32, way: &[(u32, Option<Lsn>)]) -> Fault {
    let on_the_way = bases.iter().filter(|base| recovery::is_on_the_way(base, way));
    let Some(first) = on_the_way.min_by_key(|base| base.stop_lsn) else {
        let message = format!("no cluster backup lies on the way to timeline {timeline}");
        return Fault::new(Kind::Refused, message).hint(
            "Name another timeline with --target-timeline, or `current` for that of the backup; `pgkeep list \
             --recoverable` shows which there are.",
        );
    };
    let (at, lsn) = (timestamp_text(first.consistent_at), first.stop_lsn);
    let message = format!(
        "no cluster backup was consistent {}: the earliest that can be reached is {at} ({lsn})",
        words(target)
    );
    Fault::new(Kind::Refused, message)
        .hint(format!("Give --target-time {at} or a later one; `pgkeep list --recoverable` shows all."))
}

/// Where recovery stops.
pub(super) fn words(target: &Target) -> String {
    match target {
        Target::Consistent => "as soon as the backup is consistent".to_owned(),
        Target::End => "at the end of the archive".to_owned(),
        Target::Time(time) => format!("before {}", timestamp_text(*time)),
        Target::Lsn(lsn) => format!("at {lsn}"),
        Target::Transaction(id) => format!("behind transaction {id}"),
        Target::Name(name) => format!("at the restore point \"{name}\""),
    }
}

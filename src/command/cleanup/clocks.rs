//! Whether it is the time that this machine thinks it is: with a wrong clock everything may look old.

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;

use crate::command::Context;
use crate::command::stores::Presence;
use crate::model::{Fault, Kind, Timestamp, timestamp_text};
use crate::system::calendar;

/// Clocks that are kept are never so far apart; the services themselves refuse more than that.
const APART: TimeDelta = TimeDelta::minutes(15);
/// How far in the future the newest run may have begun.
const AHEAD: TimeDelta = TimeDelta::minutes(5);

/// Refuses to go on when the stores' clocks or the catalog speak of another time. `yes` overrules the catalog alone.
pub(super) async fn agree(context: &Context, presence: &Presence, yes: bool) -> anyhow::Result<()> {
    let asked = join_all(presence.present.iter().map(|store| store.clock())).await;
    for (store, told) in presence.present.iter().zip(asked) {
        // One that does not answer now is not cleared either, or says so then.
        if let Ok(Some(theirs)) = told {
            let ours = Utc::now();
            if (ours - theirs).abs() > APART {
                let message = format!(
                    "this machine's clock says {}, that of store {} says {}",
                    timestamp_text(ours),
                    store.name(),
                    timestamp_text(theirs)
                );
                return Fault::new(Kind::Refused, message)
                    .hint("Set the clock that is wrong (`timedatectl`, chrony, ntpd). Nothing was deleted.")
                    .err();
            }
        }
    }
    if yes {
        return Ok(());
    }
    let (run, backup) = context.catalog.cleanup().newest(&context.run)?;
    let refused = |message: String| {
        let hint = "See that this machine's clock is right; then give --yes. Nothing was deleted.";
        Fault::new(Kind::Refused, message).hint(hint).err()
    };
    let (now, newest) = (Utc::now(), run.max(backup));
    if let Some(newest) = newest.filter(|newest| *newest > now + AHEAD) {
        return refused(format!(
            "it is {} by this machine's clock, and the catalog knows of something that began at {}",
            timestamp_text(now),
            timestamp_text(newest)
        ));
    }
    match backup.filter(|backup| is_long_ago(context, *backup, now)) {
        Some(backup) => refused(format!(
            "the newest backup is of {}: either this machine's clock is ahead, or nothing has been backed up since",
            timestamp_text(backup)
        )),
        None => Ok(()),
    }
}

/// Who backs up once a month waits so many days at most.
const MONTH: u32 = 35;

/// Longer ago than half of what is kept, and than anybody waits for the next backup.
fn is_long_ago(context: &Context, backup: Timestamp, now: Timestamp) -> bool {
    let days = (context.settings.retention.days / 2).max(MONTH);
    let long = calendar::day().saturating_mul(days);
    TimeDelta::from_std(long).is_ok_and(|long| now - backup > long)
}

//! Stores that did not answer a short while ago: for some time they are not asked again, so that a cloud which is away
//! does not cost every single segment its time limits. What they miss is owed to them, and `sync` makes it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{directory, read, write};
use crate::config::Settings;
use crate::model::{StoreName, Timestamp};

/// How long a store is left alone after its first failure; twice as long after each further one, up to the longest.
const FIRST: TimeDelta = TimeDelta::seconds(30);
const LONGEST: TimeDelta = TimeDelta::minutes(10);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Absence {
    failures: u32,
    failed_at: Timestamp,
    why: String,
}

/// The stores that are left alone.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::command) struct Away(BTreeMap<StoreName, Absence>);

fn path(settings: &Settings) -> PathBuf {
    directory(settings).join("away.json")
}

impl Away {
    pub(in crate::command) fn load(settings: &Settings) -> Self {
        read(&path(settings)).unwrap_or_default()
    }

    /// Why a store is to be left alone now; `None` when it is to be asked.
    pub(in crate::command) fn rests(&self, store: StoreName) -> Option<&str> {
        let absence = self.0.get(&store)?;
        let pause = FIRST * 2_i32.pow(absence.failures.saturating_sub(1).min(8));
        let since = Utc::now() - absence.failed_at;
        // A clock that was put back must not keep it away for long.
        (TimeDelta::zero()..pause.min(LONGEST)).contains(&since).then_some(absence.why.as_str())
    }

    /// Learns how stores answered; whether that is new. One that is only slow rests the shortest time.
    pub(in crate::command) fn learn(
        &mut self,
        store: StoreName,
        answer: Result<(), &str>,
        is_slow: bool,
    ) -> bool {
        match answer {
            Ok(()) => self.0.remove(&store).is_some(),
            Err(why) => {
                let failures = self.0.get(&store).map_or(0, |absence| absence.failures);
                let failures = if is_slow { 1 } else { failures + 1 };
                let absence = Absence { failures, failed_at: Utc::now(), why: why.to_owned() };
                self.0.insert(store, absence);
                true
            }
        }
    }

    pub(in crate::command) fn save(&self, settings: &Settings) -> anyhow::Result<()> {
        write(&path(settings), self)
    }
}

//! Which backups somebody wants kept, and of which somebody has taken that back: columns of the table of backups. The
//! last word counts, from whichever host it comes.

use rusqlite::{Row, named_params};
use serde::Serialize;

use super::Backups;
use super::values::{parsed, time, time_or_null};
use crate::model::{BackupId, Timestamp, timestamp_text};

/// That somebody wants a backup kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pin {
    /// Since when.
    #[serde(serialize_with = "super::values::time_as_text")]
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// The last word about keeping a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The backup.
    pub backup: BackupId,
    /// When it was said.
    pub at: Timestamp,
    /// That it is to be kept; nothing when that was taken back.
    pub pin: Option<Pin>,
}

impl Backups<'_> {
    /// Writes down that somebody wants a complete backup kept, or no longer does. `false` when it is not complete any
    /// more.
    pub fn set_pin(self, id: &BackupId, pin: Option<&Pin>, at: Timestamp) -> anyhow::Result<bool> {
        let changed = self.catalog.write("write down what is to be kept", |transaction| {
            transaction.execute(
                "UPDATE backups SET kept_at = :kept_at, kept_by = :by, kept_reason = :reason, \
                 unkept_at = iif(:kept_at IS NULL, :at, unkept_at) WHERE id = :id AND status = 'complete'",
                named_params! {
                    ":id": id.as_str(),
                    ":kept_at": pin.map(|pin| timestamp_text(pin.at)),
                    ":by": pin.map(|pin| &pin.by),
                    ":reason": pin.map(|pin| &pin.reason),
                    ":at": timestamp_text(at),
                },
            )
        })?;
        Ok(changed > 0)
    }

    /// The last word about each complete backup of which there was one.
    pub fn wishes(self) -> anyhow::Result<Vec<Wish>> {
        self.catalog.read("look what is to be kept", |connection| {
            let mut statement = connection.prepare(
                "SELECT id, kept_at, kept_by, kept_reason, coalesce(kept_at, unkept_at) AS said_at FROM backups \
                 WHERE status = 'complete' AND coalesce(kept_at, unkept_at) IS NOT NULL ORDER BY id",
            )?;
            let wish = |row: &Row<'_>| {
                Ok(Wish { backup: parsed(row, "id")?, at: time(row, "said_at")?, pin: pin(row)? })
            };
            statement.query_map([], wish)?.collect()
        })
    }
}

pub(super) fn pin(row: &Row<'_>) -> rusqlite::Result<Option<Pin>> {
    let Some(at) = time_or_null(row, "kept_at")? else { return Ok(None) };
    let text = |column| row.get::<_, Option<String>>(column).map(Option::unwrap_or_default);
    Ok(Some(Pin { at, by: text("kept_by")?, reason: text("kept_reason")? }))
}

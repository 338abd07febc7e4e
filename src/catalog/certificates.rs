//! The table `certificates`: until when those are good that services have shown, so that not every look asks them all.

use rusqlite::named_params;

use super::Catalog;
use super::values::{time, time_or_null};
use crate::model::{Timestamp, timestamp_text};

/// A service and its certificate, as it was when it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenCertificate {
    /// Which service, in words.
    pub place: String,
    /// When it was last asked.
    pub asked_at: Timestamp,
    /// From when until when the certificate is good that it showed last; `None`: it has never shown one.
    pub validity: Option<(Timestamp, Timestamp)>,
    /// Why it could not be asked the last time.
    pub error: Option<String>,
}

impl Catalog {
    /// All that have been asked.
    pub fn certificates(&self) -> anyhow::Result<Vec<SeenCertificate>> {
        self.read("look for certificates", |connection| {
            let mut statement = connection.prepare("SELECT * FROM certificates ORDER BY place")?;
            let rows = statement.query_map([], |row| {
                Ok(SeenCertificate {
                    place: row.get("place")?,
                    asked_at: time(row, "asked_at")?,
                    validity: time_or_null(row, "not_before")?.zip(time_or_null(row, "not_after")?),
                    error: row.get("error")?,
                })
            })?;
            rows.collect()
        })
    }

    /// Writes down what services have shown, and forgets those that are not among `places` any more. Of one that could
    /// not be asked, what it showed before stays.
    pub fn saw_certificates(&self, seen: &[SeenCertificate], places: &[&str]) -> anyhow::Result<()> {
        self.write("write down certificates", |transaction| {
            for SeenCertificate { place, asked_at, validity, error } in seen {
                transaction.execute(
                    "INSERT INTO certificates (place, asked_at, not_before, not_after, error) \
                     VALUES (:place, :asked_at, :from, :until, :error) ON CONFLICT (place) DO UPDATE \
                     SET asked_at = excluded.asked_at, error = excluded.error, \
                     not_before = coalesce(excluded.not_before, not_before), \
                     not_after = coalesce(excluded.not_after, not_after)",
                    named_params! {
                        ":place": place,
                        ":asked_at": timestamp_text(*asked_at),
                        ":from": validity.map(|(from, _)| timestamp_text(from)),
                        ":until": validity.map(|(_, until)| timestamp_text(until)),
                        ":error": error,
                    },
                )?;
            }
            let places = serde_json::json!(places).to_string();
            let others = "DELETE FROM certificates WHERE place NOT IN (SELECT value FROM json_each(:places))";
            transaction.execute(others, named_params! { ":places": places })
        })?;
        Ok(())
    }
}

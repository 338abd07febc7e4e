//! The table `alerts`: what somebody should look at, until somebody has.

use rusqlite::named_params;

use super::Catalog;
use super::words::words;
use crate::model::{Timestamp, timestamp_text};

words! {
    /// How bad it is.
    pub enum Severity {
        /// Good to know.
        Info = "INFO",
        /// To be looked at some day soon.
        Warning = "WARNING",
        /// To be looked at now.
        Critical = "CRITICAL",
    }
}

/// What can be done with the table of alerts.
#[derive(Debug, Clone, Copy)]
pub struct Alerts<'a> {
    catalog: &'a Catalog,
}

impl<'a> Alerts<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// Writes an alert down; one that stands there already, word for word and not acknowledged, is not repeated.
    pub fn raise(self, kind: &str, severity: Severity, message: &str, at: Timestamp) -> anyhow::Result<()> {
        self.catalog.write("raise an alert", |transaction| {
            transaction.execute(
                "INSERT INTO alerts (alert_type, severity, message, created_at) \
                 SELECT :kind, :severity, :message, :at WHERE NOT EXISTS (SELECT 1 FROM alerts \
                 WHERE alert_type = :kind AND message = :message AND acknowledged_at IS NULL)",
                named_params! {
                    ":kind": kind,
                    ":severity": severity.as_str(),
                    ":message": message,
                    ":at": timestamp_text(at),
                },
            )?;
            Ok(())
        })
    }
}

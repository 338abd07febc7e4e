//! Proves what a restored database holds: by reading it, not by believing what its catalogs say.
//!
//! Nothing here changes rows. [`corruption`] makes the extension amcheck in the database that it looks at: never to be
//! called on one that anybody uses.

mod amcheck;
mod foreign_keys;
mod questions;
mod sequences;

use serde::Serialize;
use tokio_postgres::error::SqlState;

use super::{Server, sqlstate};

pub use amcheck::corruption;
pub use foreign_keys::{Key, Keys, foreign_keys, held_by_others, orphans};
pub use questions::ask;
pub use sequences::{Behind, Sequences, behind};

/// What came of one check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// How many things were looked at.
    pub checked: u64,
    /// What is wrong, a sentence each; empty is good.
    pub findings: Vec<String>,
    /// What was left out, or is as it was before the backup: no fault of the backup's.
    pub notes: Vec<String>,
    /// Why nothing was looked at.
    pub not_checked: Option<String>,
}

impl Proven {
    /// Nothing was looked at, for this reason.
    pub fn not_checked(why: impl Into<String>) -> Self {
        Self { not_checked: Some(why.into()), ..Self::default() }
    }

    /// Adds what came of the same check in another database.
    pub fn add(&mut self, database: &str, other: Self) {
        let name = |text: String| format!("{database}: {text}");
        self.checked += other.checked;
        self.findings.extend(other.findings.into_iter().map(name));
        self.notes.extend(other.notes.into_iter().map(name));
        self.notes.extend(other.not_checked.map(|why| format!("{database}: not checked: {why}")));
    }
}

/// What an error says of damage in what was read: a page that can't be read, a row that is none. Any other error stays one.
fn damage(error: anyhow::Error) -> anyhow::Result<String> {
    let is_damage = sqlstate(&error).is_some_and(|code| {
        // `data_corrupted`, `index_corrupted`, and what only happens to what is not as it was written.
        code.code().starts_with("XX") || *code == SqlState::UNDEFINED_FILE || *code == SqlState::IO_ERROR
    });
    if is_damage { Ok(error.root_cause().to_string()) } else { Err(error) }
}

/// Looks whether these tables are there: `schema.table`, or `table` in any schema.
pub async fn present(server: &Server, names: &[&str]) -> anyhow::Result<Proven> {
    let sql = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relname::text = $1 AND ($2::text IS NULL OR n.nspname::text = $2) \
                 AND c.relkind IN ('r', 'p', 'm', 'f', 'v') AND c.relpersistence <> 't')";
    let mut proven = Proven::default();
    for name in names {
        // A dot may stand in a name itself: then the schema is a part of it, or it is none.
        let parts = name.split_once('.').map_or((None, *name), |(schema, table)| (Some(schema), table));
        let mut is_there = false;
        for (schema, table) in [parts, (None, *name)] {
            let row =
                server.query_one(&format!("look for the table {name}"), sql, &[&table, &schema]).await?;
            is_there |= row.get::<_, bool>(0);
        }
        proven.checked += 1;
        if !is_there {
            proven.findings.push(format!("table {name} is not there"));
        }
    }
    Ok(proven)
}

//! `pgkeep show BACKUP`: everything about one backup.

use serde::Serialize;

use super::context::keyring;
use super::list::{ListedBackup, listed};
use super::stores::replicas;
use super::{Report, Shelf, manifests};
use crate::catalog::Proof;
use crate::model::{Kind, timestamp_text};

/// One copy of one object.
#[derive(Debug, Clone, Serialize)]
pub struct ShownCopy {
    /// The object within the backup.
    pub object: String,
    /// The store.
    pub store: String,
    /// Stored bytes.
    pub size_bytes: u64,
    /// SHA-256 of the stored bytes.
    pub sha256: String,
    /// `good`, `owed`, `missing`, `damaged`, `deleting`.
    pub state: String,
    /// When its content was last proven.
    pub proven_at: Option<String>,
    /// How: `written`, `listed`, `read`, `decrypted`, `restored`.
    pub proven_how: Option<String>,
    /// What is wrong with it.
    pub note: Option<String>,
}

/// One table of the backup.
#[derive(Debug, Clone, Serialize)]
pub struct ShownTable {
    /// The schema.
    pub schema: String,
    /// The table.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Plain bytes.
    pub size_bytes: u64,
}

/// One backup in full.
#[derive(Debug, Clone, Serialize)]
pub struct ShowReport {
    /// What the list shows.
    #[serde(flatten)]
    pub backup: ListedBackup,
    /// When it was done.
    pub finished_at: String,
    /// The codec.
    pub codec: String,
    /// The server's version.
    pub postgres_version: Option<String>,
    /// The server's system identifier.
    pub system_identifier: Option<String>,
    /// The pgkeep that made it.
    pub pgkeep_version: String,
    /// The run that made it.
    pub run: Option<String>,
    /// Where it lies.
    pub places: Vec<String>,
    /// Its objects.
    pub copies: Vec<ShownCopy>,
    /// Its tables, largest first; nothing without a key.
    pub tables: Option<Vec<ShownTable>>,
}

impl Report for ShowReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Shows. The tables stand in the sealed manifest: without a key they are left out.
pub async fn run(shelf: &Shelf, backup: &str) -> anyhow::Result<ShowReport> {
    let row = manifests::find(&shelf.catalog, backup, None)?;
    let copies = shelf.catalog.copies().of(&row.id)?.into_iter().map(|copy| ShownCopy {
        object: copy.object,
        store: copy.store.to_string(),
        size_bytes: copy.size_bytes,
        sha256: copy.sha256.to_string(),
        state: copy.state.to_string(),
        // Being listed is worth as much as it is recent.
        proven_at: match copy.proven_how {
            Some(Proof::Listed) => copy.seen_at,
            _ => copy.proven_at,
        }
        .map(timestamp_text),
        proven_how: copy.proven_how.map(|how| how.to_string()),
        note: copy.note,
    });
    let tables = if shelf.settings.keys.is_empty() {
        None
    } else {
        let stores = replicas(&shelf.settings)?.reading();
        let fetched = manifests::fetch(&shelf.settings, &stores, &row.id, &keyring(&shelf.settings)?).await?;
        let manifest = fetched.manifest;
        let entries = manifest.entries.iter().filter_map(|entry| Some((entry.table.as_ref()?, entry.size)));
        let mut tables: Vec<ShownTable> = entries
            .map(|(table, size_bytes)| ShownTable {
                schema: table.schema.clone(),
                name: table.name.clone(),
                rows: table.rows,
                size_bytes,
            })
            .collect();
        tables.sort_by_key(|table| std::cmp::Reverse(table.size_bytes));
        Some(tables)
    };
    let places = [&row.local_path, &row.r2_path, &row.b2_path];
    Ok(ShowReport {
        backup: listed(shelf, &row)?,
        finished_at: timestamp_text(row.finished_at),
        codec: row.codec.to_string(),
        postgres_version: row.postgres_version.clone(),
        system_identifier: row.system_identifier.clone(),
        pgkeep_version: row.pgkeep_version.clone(),
        run: row.run_id.as_ref().map(ToString::to_string),
        places: places.into_iter().flatten().cloned().collect(),
        copies: copies.collect(),
        tables,
    })
}

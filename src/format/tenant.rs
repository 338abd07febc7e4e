//! What the manifest of a tenant's backup knows beyond its entries (SPEC.md, section 5).

use serde::{Deserialize, Serialize};

use crate::model::PlaceKind;

/// One tenant's rows: where they come from and how they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// How tenants are told apart: `row`, `schema` or `database`.
    pub mode: String,
    /// The tenant's key, as the server writes it.
    pub id: String,
    /// The database.
    pub database: String,
    /// The schema that is the tenant's own; its content, like that of a database of its own, is a dump.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub schema: Option<String>,
    /// The table of tenants: its schema and its name. Empty where tenants share no tables.
    pub tenants: (String, String),
    /// The key of that table.
    pub tenants_key: String,
    /// Whether it was made before a restore, so that this can be undone.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub before_restore: bool,
    /// The tables with the tenant's rows; also those in which there is none.
    pub tables: Vec<TenantTable>,
    /// Rows of shared tables that the tenant's rows refer to. Never written by a restore.
    #[serde(default)]
    pub references: Vec<TenantTable>,
}

impl Tenant {
    /// A tenant that has a schema, or without one this database, of its own.
    pub fn with_own(kind: PlaceKind, id: &str, database: &str, schema: Option<&str>) -> Self {
        Self {
            mode: kind.to_string(),
            id: id.to_owned(),
            database: database.to_owned(),
            schema: schema.map(ToOwned::to_owned),
            tenants: (String::new(), String::new()),
            tenants_key: String::new(),
            before_restore: false,
            tables: Vec::new(),
            references: Vec::new(),
        }
    }
}

/// One table's rows: lines of `COPY ... TO STDOUT` in text format, of these columns in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantTable {
    /// The schema.
    pub schema: String,
    /// The table.
    pub name: String,
    /// Why rows are the tenant's, for people.
    pub belonging: String,
    /// The columns, without those that are computed.
    pub columns: Vec<TenantColumn>,
    /// The columns of the key by which rows are told apart; empty where there is none.
    pub key: Vec<String>,
    /// Which entry holds the lines; nothing where there are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub entry: Option<String>,
    /// How many lines.
    pub rows: u64,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantColumn {
    /// Its name.
    pub name: String,
    /// Its type as SQL.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Whether it may not be null.
    pub not_null: bool,
}

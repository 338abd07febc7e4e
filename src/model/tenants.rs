//! What the settings say about tenants.

use std::collections::BTreeMap;

/// What a setting decides about a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRule {
    /// Nobody's: never written by a restore.
    Shared,
    /// This column says whose.
    Column(String),
    /// These foreign keys say whose; the first that is not null counts.
    Via(Vec<String>),
}

/// What the settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRules {
    /// The column that says whose a row is, in every table that has it.
    pub column: String,
    /// The table of tenants, with or without its schema; without one it is found.
    pub table: Option<String>,
    /// Decisions for single tables, by name with or without schema.
    pub tables: BTreeMap<String, TenantRule>,
}

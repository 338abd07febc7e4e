//! Of which tables one has to have the rows in order to read the tenants of a database.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::tenants::{TableName, TenantGraph};
use crate::postgres::{Server, proof};

/// The tables with rows of tenants, and those that their rows refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The tables; partitions by their own names.
    pub tables: BTreeSet<TableName>,
    /// Foreign keys of these, table and name, that lead to tables whose rows are not needed.
    pub without: Vec<(TableName, String)>,
}

/// Asks which they are; nothing where that can't be told.
pub async fn needed(server: &Server, graph: &TenantGraph) -> anyhow::Result<Option<Needed>> {
    let sql = "SELECT n.nspname::text, c.relname::text, rn.nspname::text, r.relname::text \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid) \
               JOIN pg_namespace rn ON rn.oid = r.relnamespace \
               WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'";
    let mut roots: BTreeMap<TableName, TableName> = BTreeMap::new();
    for row in server.query("list tables and their partitions", sql, &[]).await? {
        let name = |at: usize| TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1));
        roots.insert(name(0), name(2));
    }
    let keys = proof::foreign_keys(server, |_, _| true).await?;
    if !keys.uncheckable.is_empty() {
        return Ok(None);
    }
    let root_of = |table: &TableName| roots.get(table).unwrap_or(table).clone();
    let of_tenants: BTreeSet<TableName> = graph.tables.iter().map(|table| table.facts.name.clone()).collect();
    let mut wanted = of_tenants.clone();
    let referred = keys.keys.iter().filter(|key| of_tenants.contains(&root_of(&key.child)));
    wanted.extend(referred.map(|key| root_of(&key.parent)));
    let leads_out = keys
        .keys
        .iter()
        .filter(|key| wanted.contains(&root_of(&key.child)) && !wanted.contains(&root_of(&key.parent)));
    let without = leads_out.map(|key| (key.child.clone(), key.name.clone())).collect();
    let tables = roots.into_iter().filter(|(_, root)| wanted.contains(root)).map(|(table, _)| table);
    Ok(Some(Needed { tables: tables.collect(), without }))
}

//! Tables, keys and foreign keys as the catalogs have them, and the tenants that there are.

use std::collections::HashMap;

use serde::Deserialize;

use super::select::owned;
use crate::model::{Fault, FaultContext, Kind};
use crate::plan::tenants::{Column, Facts, ForeignKey, TableFacts, TableName, TenantGraph};
use crate::postgres::Server;
use crate::postgres::quote::{identifier, literal, qualified};

/// Whose relations are looked at: nobody's temporary ones, nothing of PostgreSQL's own or of an extension's.
const OURS: &str = "c.relpersistence <> 't' AND NOT c.relispartition \
     AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
     AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
                     AND d.objsubid = 0 AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')";

#[derive(Deserialize)]
struct TableRow {
    columns: Vec<Column>,
    keys: Vec<Vec<String>>,
}

/// Asks for all tables with their columns and keys, and for the foreign keys between them.
pub async fn facts(server: &Server) -> anyhow::Result<Facts> {
    // A domain may lie over another; what is below all of them counts.
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text, c.relkind = 'p', \
           (SELECT coalesce(sum(pg_table_size(coalesce(t.relid, c.oid))), 0)::int8 \
              FROM pg_partition_tree(c.oid) t), \
           json_build_object( \
             'columns', (SELECT coalesce(json_agg(json_build_object( \
                  'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), \
                  'base_type', (WITH RECURSIVE up AS (SELECT a.atttypid AS id UNION ALL \
                      SELECT t.typbasetype FROM up JOIN pg_type t ON t.oid = up.id WHERE t.typtype = 'd') \
                    SELECT format_type(up.id, NULL) || CASE WHEN EXISTS (SELECT FROM pg_collation l \
                      WHERE l.oid = a.attcollation AND NOT l.collisdeterministic) THEN ' of a collation for which different \
                      texts are the same' ELSE '' END FROM up JOIN pg_type t ON t.oid = up.id \
                    WHERE t.typtype <> 'd'), \
                  'not_null', a.attnotnull, 'generated', a.attgenerated <> '', \
                  'numbered', pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname) IS NOT NULL, \
                  'fixed', a.attidentity = 'a', \
                  'has_default', a.atthasdef OR a.attidentity <> '') ORDER BY a.attnum), '[]') \
                FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
             'keys', (SELECT coalesce(json_agg(k.names ORDER BY NOT k.main, k.id), '[]') FROM ( \
                SELECT i.indisprimary AS main, i.indexrelid AS id, \
                       json_agg(a.attname ORDER BY x.place) AS names, bool_and(a.attnotnull) AS whole \
                FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS x(num, place) \
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = x.num \
                WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate \
                  AND i.indpred IS NULL AND i.indexprs IS NULL \
                GROUP BY i.indexrelid, i.indisprimary) k WHERE k.whole))::text \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND {OURS} ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\""
    );
    let rows = server.query("list the tables", &sql, &[]).await?;
    let mut tables = Vec::with_capacity(rows.len());
    for row in rows {
        let described: TableRow = serde_json::from_str(row.get(4))
            .or_fault(|| Fault::new(Kind::Bug, "read what the server says of its tables"))?;
        tables.push(TableFacts {
            name: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            partitioned: row.get(2),
            bytes: u64::try_from(row.get::<_, i64>(3)).unwrap_or(0),
            columns: described.columns,
            keys: described.keys,
        });
    }
    let sql = format!(
        "SELECT k.conname::text, n.nspname::text, c.relname::text, pn.nspname::text, p.relname::text, \
           (SELECT array_agg(a.attname::text ORDER BY x.place) FROM unnest(k.conkey) WITH ORDINALITY x(num, place) \
              JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.num), \
           (SELECT array_agg(a.attname::text ORDER BY x.place) FROM unnest(k.confkey) WITH ORDINALITY x(num, place) \
              JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.num) \
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_class p ON p.oid = coalesce(pg_partition_root(k.confrelid), k.confrelid) \
         JOIN pg_namespace pn ON pn.oid = p.relnamespace \
         WHERE k.contype = 'f' AND k.conparentid = 0 AND {OURS} \
         ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\", k.conname COLLATE \"C\""
    );
    let rows = server.query("list the foreign keys", &sql, &[]).await?;
    let foreign_keys = rows.iter().map(|row| ForeignKey {
        name: row.get(0),
        child: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        columns: row.get(5),
        parent: TableName::new(row.get::<_, String>(3), row.get::<_, String>(4)),
        parent_columns: row.get(6),
    });
    Ok(Facts { tables, foreign_keys: foreign_keys.collect() })
}

/// What a tenant's backup does not cover although it may look so: large objects, foreign tables. A sentence each.
pub async fn uncovered(server: &Server, graph: &TenantGraph) -> anyhow::Result<Vec<String>> {
    let mut said = Vec::new();
    for table in &graph.tables {
        let large =
            table.facts.columns.iter().filter(|column| matches!(column.base_type.as_str(), "oid" | "lo"));
        said.extend(large.map(|column| {
            format!(
                "{}.{} may name large objects: their content is in no tenant's backup",
                table.facts.name, column.name
            )
        }));
    }
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'f' AND {OURS} ORDER BY 1, 2"
    );
    let rows = server.query("list the foreign tables", &sql, &[]).await?;
    said.extend(rows.iter().map(|row| {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        format!("{name} is a foreign table: its rows are in no tenant's backup")
    }));
    Ok(said)
}

/// A tenant as the table of tenants has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its key as text, in the form that the server writes.
    pub id: String,
    /// Rows in all tables, where they were counted.
    pub rows: u64,
    /// About how many bytes these take.
    pub bytes: u64,
}

/// The keys of all tenants, in order.
pub async fn tenants(server: &Server, graph: &TenantGraph) -> anyhow::Result<Vec<String>> {
    let (table, key) = (qualified(&graph.root.schema, &graph.root.name), identifier(&graph.root_key));
    let sql = format!("SELECT {key}::text FROM {table} WHERE {key} IS NOT NULL ORDER BY {key}");
    let rows = server.query("list the tenants", &sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The keys of these tenants as the server writes them, in the order asked for; an error that names those that are not
/// there.
pub async fn find_tenants(
    server: &Server,
    graph: &TenantGraph,
    wanted: &[String],
) -> anyhow::Result<Vec<String>> {
    let (table, key) = (qualified(&graph.root.schema, &graph.root.name), identifier(&graph.root_key));
    let mut found: Vec<String> = Vec::with_capacity(wanted.len());
    let mut missing = Vec::new();
    for id in wanted {
        let sql =
            format!("SELECT {key}::text FROM {table} WHERE {key} = {}::{}", literal(id), graph.key_type);
        let rows = if can_be_key(&graph.key_type, id) {
            server.query(&format!("look for tenant \"{id}\""), &sql, &[]).await?
        } else {
            Vec::new()
        };
        match rows.first() {
            Some(row) => {
                let id: String = row.get(0);
                if !found.contains(&id) {
                    found.push(id);
                }
            }
            None => missing.push(format!("\"{id}\"")),
        }
    }
    if !missing.is_empty() {
        let what = if missing.len() == 1 { "tenant" } else { "tenants" };
        return Fault::new(
            Kind::NotThere,
            format!("there is no {what} {} in {}", missing.join(", "), graph.root),
        )
        .hint("`pgkeep list --tenants` shows those that there are.")
        .err();
    }
    Ok(found)
}

/// These keys as the server writes them, each once, whether there are such tenants or not.
pub async fn canonical(
    server: &Server,
    graph: &TenantGraph,
    wanted: &[String],
) -> anyhow::Result<Vec<String>> {
    let mut ids: Vec<String> = Vec::with_capacity(wanted.len());
    for id in wanted {
        let sql = format!("SELECT ({}::{})::text", literal(id), graph.key_type);
        if !can_be_key(&graph.key_type, id) {
            let message =
                format!("\"{id}\" is no tenant's key: {} has type {}", graph.root_key, graph.key_type);
            return Fault::new(Kind::NotThere, message)
                .hint("`pgkeep list --tenants` shows the tenants.")
                .err();
        }
        let row = server.query_one(&format!("read the tenant's key \"{id}\""), &sql, &[]).await?;
        let id: String = row.get(0);
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Whether the server can read the text as a key of this type. Asked here, because an error would end the transaction.
fn can_be_key(key_type: &str, id: &str) -> bool {
    let text = id.trim();
    match key_type {
        "smallint" => text.parse::<i16>().is_ok(),
        "integer" => text.parse::<i32>().is_ok(),
        "bigint" => text.parse::<i64>().is_ok(),
        "uuid" => {
            let digits = id.bytes().filter(|byte| *byte != b'-');
            id.len() <= 36
                && id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
                && digits.count() == 32
        }
        _ => !id.contains('\0'),
    }
}

/// Constraints that nobody would check while triggers are off, and that are not checked here either: a sentence for each
/// table that has one.
pub async fn unchecked(server: &Server) -> anyhow::Result<Vec<(TableName, String)>> {
    // Deferrable ones are checked by triggers (`unique_key_recheck`).
    let sql = "SELECT n.nspname::text, r.relname::text, CASE k.contype WHEN 'f' \
                 THEN 'its partition ' || c.relname || ' has a foreign key of its own, ' || k.conname \
                 ELSE 'its constraint ' || k.conname || ' is deferrable' END \
               FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
               JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid) \
               JOIN pg_namespace n ON n.oid = r.relnamespace \
               WHERE (k.contype IN ('p', 'u', 'x') AND k.condeferrable) \
                  OR (k.contype = 'f' AND k.conparentid = 0 AND c.relispartition) ORDER BY 1, 2, 3";
    let rows = server.query("list the constraints that are checked by triggers", sql, &[]).await?;
    let named = rows.iter().map(|row| {
        (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get::<_, String>(2))
    });
    Ok(named.collect())
}

/// Tables with keys or exclusions that are deferrable, which triggers check (`unique_key_recheck`): nobody
/// does while these are off.
pub async fn deferrable(server: &Server) -> anyhow::Result<Vec<(TableName, String)>> {
    let sql = "SELECT DISTINCT n.nspname::text, r.relname::text, k.conname::text \
               FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
               JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid) \
               JOIN pg_namespace n ON n.oid = r.relnamespace \
               WHERE k.contype IN ('p', 'u', 'x') AND k.condeferrable ORDER BY 1, 2, 3";
    let rows = server.query("list the constraints that are deferrable", sql, &[]).await?;
    let named = rows.iter().map(|row| {
        (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get::<_, String>(2))
    });
    Ok(named.collect())
}

/// Tables without WAL: at a point in time they are empty.
pub async fn unlogged(server: &Server) -> anyhow::Result<Vec<TableName>> {
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND {OURS} AND EXISTS (SELECT FROM pg_class l \
           WHERE l.relpersistence = 'u' AND coalesce(pg_partition_root(l.oid), l.oid) = c.oid) ORDER BY 1, 2"
    );
    let rows = server.query("list the unlogged tables", &sql, &[]).await?;
    Ok(rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// Rows and bytes per tenant, counted in one pass over each table.
pub async fn sizes(server: &Server, graph: &TenantGraph) -> anyhow::Result<Vec<Tenant>> {
    let ids = tenants(server, graph).await?;
    let mut all: HashMap<String, (u64, u64)> = ids.iter().map(|id| (id.clone(), (0, 0))).collect();
    for table in &graph.tables {
        let selection = owned(graph, table);
        let sql = format!(
            "SELECT ({})::text, count(*), coalesce(sum(pg_column_size(t.*)), 0)::int8 FROM {} WHERE {} IS NOT NULL GROUP BY 1",
            selection.owner, selection.from, selection.owner
        );
        let rows = server.query(&format!("count the rows of {}", table.facts.name), &sql, &[]).await?;
        for row in rows {
            if let Some((rows, bytes)) = all.get_mut(row.get::<_, &str>(0)) {
                *rows += u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
                *bytes += u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
            }
        }
    }
    let sized = ids.into_iter().map(|id| {
        let (rows, bytes) = all.get(&id).copied().unwrap_or_default();
        Tenant { id, rows, bytes }
    });
    Ok(sized.collect())
}

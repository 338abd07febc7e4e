//! One tenant's rows alone, in a database that has its tables and nothing else: for the proof of its backup.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::SinkExt as _;

use super::Lines;
use crate::format::tenant::{Tenant, TenantTable};
use crate::model::{Fault, FaultContext as _, Kind};
use crate::postgres::Server;
use crate::postgres::quote::{identifier, qualified};

/// How much is sent at a time.
const CHUNK: usize = 256 << 10;

/// What became of the tables.
#[derive(Debug, Default)]
pub struct Filled {
    /// Tables of the backup that are not there.
    pub missing: Vec<String>,
    /// Columns of the backup that are not there: their values were left out.
    pub left_out: Vec<String>,
}

/// Writes the tenant's rows, and those of shared tables that they refer to. Triggers and foreign keys are switched off for
/// it: what they would do was done when the rows were first written, and the references are looked at afterwards.
pub async fn fill<'l>(
    server: &Server,
    tenant: &Tenant,
    mut lines: impl FnMut(&TenantTable) -> anyhow::Result<Option<Lines<'l>>>,
) -> anyhow::Result<Filled> {
    let off = "BEGIN; SET LOCAL session_replication_role = replica; \
               SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'";
    server.run("switch triggers off", off).await.or_fault(|| {
        Fault::new(Kind::Postgres, "a tenant's rows can't be written without their triggers")
            .hint("Run it as a superuser, or on a server of its own: --own-server.")
    })?;
    let there = columns(server).await?;
    let mut filled = Filled::default();
    for table in tenant.references.iter().chain(&tenant.tables) {
        let name = format!("{}.{}", table.schema, table.name);
        let Some(columns) = there.get(&(table.schema.clone(), table.name.clone())) else {
            filled.missing.push(name);
            continue;
        };
        let Some(lines) = lines(table)? else { continue };
        let gone = table.columns.iter().filter(|column| !columns.contains(&column.name));
        let gone: Vec<&str> = gone.map(|column| column.name.as_str()).collect();
        filled.left_out.extend(gone.iter().map(|column| format!("{name}.{column}")));
        let copied = copy(server, table, !gone.is_empty(), lines).await;
        copied.or_fault(|| {
            Fault::new(Kind::Damaged, format!("the rows of {name} don't fit into the table as it is now"))
                .hint("See what became of the table's columns since the backup.")
        })?;
        if !gone.is_empty() {
            move_on(server, table, columns).await?;
        }
    }
    server.run("finish the tenant's rows", "COMMIT").await?;
    Ok(filled)
}

/// The columns that can be written, by table.
async fn columns(server: &Server) -> anyhow::Result<BTreeMap<(String, String), BTreeSet<String>>> {
    let sql = "SELECT n.nspname::text, c.relname::text, a.attname::text \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
               WHERE c.relkind IN ('r', 'p') AND a.attgenerated = '' AND n.nspname !~ '^pg_'";
    let mut found: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for row in server.query("list the columns", sql, &[]).await? {
        found.entry((row.get(0), row.get(1))).or_default().insert(row.get(2));
    }
    Ok(found)
}

/// Into the table itself; or, where it lacks columns, into one beside it that has them all.
async fn copy(
    server: &Server,
    table: &TenantTable,
    beside: bool,
    mut lines: Lines<'_>,
) -> anyhow::Result<()> {
    let name = qualified(&table.schema, &table.name);
    let action = format!("write the rows of {name}");
    let into = if beside {
        let columns = table.columns.iter().map(|column| format!("{} text", identifier(&column.name)));
        let columns: Vec<String> = columns.collect();
        let sql = format!("CREATE TEMP TABLE pgkeep_raw ({}) ON COMMIT DROP", columns.join(", "));
        server.run(&action, &sql).await?;
        "pg_temp.pgkeep_raw".to_owned()
    } else {
        name
    };
    let columns: Vec<String> = table.columns.iter().map(|column| identifier(&column.name)).collect();
    let sql = format!("COPY {into} ({}) FROM STDIN", columns.join(", "));
    let sink = match server.client().copy_in(&sql).await {
        Ok(sink) => sink,
        Err(error) => return Err(server.failed(&action, &error).await),
    };
    let mut sink = Box::pin(sink);
    loop {
        let mut chunk = vec![0; CHUNK];
        let read = lines.read(&mut chunk).or_fault(|| Fault::new(Kind::Store, action.clone()))?;
        if read == 0 {
            break;
        }
        chunk.truncate(read);
        if let Err(error) = sink.send(std::io::Cursor::new(chunk)).await {
            return Err(server.failed(&action, &error).await);
        }
    }
    match sink.as_mut().finish().await {
        Ok(_) => Ok(()),
        Err(error) => Err(server.failed(&action, &error).await),
    }
}

/// From beside the table into it, without the columns that it lacks.
async fn move_on(server: &Server, table: &TenantTable, columns: &BTreeSet<String>) -> anyhow::Result<()> {
    let common: Vec<&crate::format::tenant::TenantColumn> =
        table.columns.iter().filter(|column| columns.contains(&column.name)).collect();
    let names: Vec<String> = common.iter().map(|column| identifier(&column.name)).collect();
    let values: Vec<String> =
        common.iter().map(|column| format!("{}::{}", identifier(&column.name), column.type_name)).collect();
    let sql = format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM pg_temp.pgkeep_raw; DROP TABLE pg_temp.pgkeep_raw",
        qualified(&table.schema, &table.name),
        names.join(", "),
        values.join(", ")
    );
    server.run(&format!("write the rows of {}.{}", table.schema, table.name), &sql).await
}

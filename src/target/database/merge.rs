//! Rows of a database of then that are missing in that of now: read out of a database beside it, laid beside those of now in
//! temporary tables, and added. All in one transaction on the database in use.

use futures_util::{SinkExt as _, StreamExt as _};

use crate::model::{Fault, Kind, Stage};
use crate::plan::tenants::{Column, TableFacts, TableName};
use crate::postgres::Server;
use crate::postgres::quote::identifier;
use crate::postgres::tenants;
use crate::target::rows::{self, Merged};
use crate::target::tenant::TablePlan;

/// The first of the two numbers of the lock that a merge into a database holds: `pgkd`.
const LOCK: i32 = 0x7067_6b64;
/// How both sides write and read values.
const FORMS: &str = "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; \
                     SET bytea_output = 'hex'; SET xmloption = 'content'";

/// Adds what is missing, in a transaction that is left open; with `take`, rows that differ become those of then. Only
/// `in_earnest` others are kept from writing, and sequences told of the numbers that came. Both connections are used for
/// nothing else.
pub async fn merge(
    now: &Server,
    then: &Server,
    (take, in_earnest): (bool, bool),
    stage: &Stage,
) -> anyhow::Result<Merged> {
    then.run("say how values are written", FORMS).await?;
    now.run("say how values are written", FORMS).await?;
    now.run("begin the merge", "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
    let sql = "SELECT pg_try_advisory_xact_lock($1, hashtext(current_database()))";
    if !now.query_one("take the database's lock", sql, &[&LOCK]).await?.get::<_, bool>(0) {
        let message = format!("another run merges into database \"{}\"", now.endpoint().database);
        return Fault::new(Kind::Locked, message).hint("Wait for it to end.").err();
    }
    let theirs = tenants::facts(then).await?.tables;
    let is_theirs = |name: &TableName| theirs.iter().any(|table| table.name == *name);
    let facts = if in_earnest { rows::lock(now, is_theirs).await? } else { tenants::facts(now).await? };
    let keys = rows::foreign_keys(now, |_, _| true).await?;
    let before = rows::orphans(now, &keys).await?;
    rows::suspend(now).await?;
    let mut merged = Merged::default();
    for (number, table) in theirs.iter().enumerate() {
        let name = table.name.to_string();
        let Some(ours) = facts.tables.iter().find(|ours| ours.name == table.name) else {
            merged.tables.push(missing(then, table, &name).await?);
            continue;
        };
        let (table, from) = carry((now, then), (table, ours), number, stage).await?;
        merged.tables.push(rows::table(now, (&table, &from), Some(ours), &name, take).await?);
        now.run(&format!("clear away the rows of {name}"), &format!("DROP TABLE {from}")).await?;
        if in_earnest {
            rows::count_on(now, ours).await?;
        }
    }
    rows::name_deferrable(now, &mut merged).await?;
    if in_earnest {
        for key in keys.iter().filter(|key| !is_theirs(&key.parent)) {
            key.hold(now).await?;
        }
    }
    let after = rows::orphans(now, &keys).await?;
    merged.foreign_keys = after.len() as u64;
    rows::refuse_orphans(&keys, &before, &after)?;
    Ok(merged)
}

/// A table that is not there any more.
async fn missing(then: &Server, table: &TableFacts, name: &str) -> anyhow::Result<TablePlan> {
    let sql = format!("SELECT count(*) FROM {}", rows::relation(table));
    let count: i64 = then.query_one(&format!("count the rows of {name}"), &sql, &[]).await?.get(0);
    Ok(rows::not_there(name, u64::try_from(count).unwrap_or(0)))
}

/// Carries a table's rows over, into a temporary one whose columns have the types of now; what has no place any more is text.
async fn carry(
    (now, then): (&Server, &Server),
    (theirs, ours): (&TableFacts, &TableFacts),
    number: usize,
    stage: &Stage,
) -> anyhow::Result<(TableFacts, String)> {
    let action = format!("carry the rows of {} over", theirs.name);
    let mut carried = theirs.clone();
    carried.columns.retain(|column| !column.generated);
    for column in &mut carried.columns {
        let here = ours.column(&column.name).filter(|here| !here.generated);
        column.type_name = here.map_or_else(|| "text".to_owned(), |here| here.type_name.clone());
    }
    let described = |column: &Column| format!("{} {}", identifier(&column.name), column.type_name);
    let described: Vec<String> = carried.columns.iter().map(described).collect();
    let from = format!("pg_temp.pgkeep_then_{number}");
    let create = format!("CREATE TEMP TABLE pgkeep_then_{number} ({}) ON COMMIT DROP", described.join(", "));
    now.run(&action, &create).await?;
    let columns: Vec<String> = carried.columns.iter().map(|column| identifier(&column.name)).collect();
    let columns = columns.join(", ");
    let read = format!("COPY (SELECT {columns} FROM {}) TO STDOUT", rows::relation(theirs));
    let lines = match then.client().copy_out(&read).await {
        Ok(lines) => lines,
        Err(error) => return Err(then.failed(&action, &error).await),
    };
    // A table may have no columns at all.
    let into = if columns.is_empty() { from.clone() } else { format!("{from} ({columns})") };
    let sink = match now.client().copy_in(&format!("COPY {into} FROM STDIN")).await {
        Ok(sink) => sink,
        Err(error) => return Err(now.failed(&action, &error).await),
    };
    let (mut lines, mut sink) = (Box::pin(lines), Box::pin(sink));
    while let Some(bytes) = lines.next().await {
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => return Err(then.failed(&action, &error).await),
        };
        stage.add(bytes.len() as u64);
        if let Err(error) = sink.send(bytes).await {
            return Err(misfit(now.failed(&action, &error).await, &theirs.name));
        }
    }
    if let Err(error) = sink.as_mut().finish().await {
        return Err(misfit(now.failed(&action, &error).await, &theirs.name));
    }
    now.run(&action, &format!("ANALYZE {from}")).await?;
    Ok((carried, from))
}

fn misfit(error: anyhow::Error, table: &TableName) -> anyhow::Error {
    let is_value = crate::postgres::sqlstate(&error)
        .is_some_and(|code| code.code().starts_with("22") || code.code().starts_with("23"));
    if !is_value {
        return error;
    }
    let message = format!("the rows of {table} don't fit into the table as it is now");
    error.context(
        Fault::new(Kind::Refused, message)
            .hint("Nothing was changed. See what became of the table's columns since the backup."),
    )
}

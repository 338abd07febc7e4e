//! Tenants that have a schema or a database of their own: which there are, and what else hangs on a schema.

use std::collections::BTreeSet;

use crate::format::manifest::Table;
use crate::model::{Fault, Kind, OwnPlaces, PlaceKind, TenantList, is_made_by_a_restore};
use crate::postgres::facts::{self, TableFacts};
use crate::postgres::text::text;
use crate::postgres::{Server, failed};

/// A tenant and what is his.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPlace {
    /// The tenant.
    pub id: String,
    /// The name of the schema or the database.
    pub name: String,
    /// Whether it is there; a query may name what is not.
    pub exists: bool,
}

/// The tenants, by key. Of databases those of the whole server, of schemas those of the database that the connection is
/// to. What a restore has left (kept under another name, or unfinished) is no tenant, nor is what is PostgreSQL's own.
pub async fn own_places(server: &Server, places: &OwnPlaces) -> anyhow::Result<Vec<OwnPlace>> {
    let there = names(server, places.kind).await?;
    let mut found: Vec<OwnPlace> = match &places.list {
        TenantList::Pattern(pattern) => there
            .into_iter()
            .filter(|name| !is_made_by_a_restore(name))
            .filter_map(|name| Some(OwnPlace { id: pattern.id_of(&name)?.to_owned(), name, exists: true }))
            .collect(),
        TenantList::Query(query) => {
            let there: BTreeSet<String> = there.into_iter().collect();
            let asked = ask(server, query).await?;
            asked.into_iter().map(|(id, name)| OwnPlace { exists: there.contains(&name), id, name }).collect()
        }
    };
    found.sort_by(|left, right| left.id.cmp(&right.id));
    refuse_twice(places.kind, found.iter().map(|place| ("tenant", &place.id)))?;
    refuse_twice(places.kind, found.iter().map(|place| (places.kind.as_str(), &place.name)))?;
    Ok(found)
}

fn refuse_twice<'a>(
    kind: PlaceKind,
    names: impl Iterator<Item = (&'static str, &'a String)>,
) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for (what, name) in names {
        if !seen.insert(name) {
            return Fault::new(Kind::Settings, format!("TENANT_QUERY names the {what} \"{name}\" twice"))
                .hint(format!("Each tenant has one {kind}, and each {kind} is one tenant's."))
                .err();
        }
    }
    Ok(())
}

/// Those of `wanted`, each once, in the order asked for; an error that names those that there are not.
pub fn pick(found: &[OwnPlace], kind: PlaceKind, wanted: &[String]) -> anyhow::Result<Vec<OwnPlace>> {
    let mut picked: Vec<OwnPlace> = Vec::with_capacity(wanted.len());
    let mut missing = Vec::new();
    for id in wanted {
        match found.iter().find(|place| place.id == *id) {
            Some(place) if !place.exists => missing.push(format!("\"{id}\" ({kind} \"{}\")", place.name)),
            Some(place) if picked.contains(place) => {}
            Some(place) => picked.push(place.clone()),
            None => missing.push(format!("\"{id}\"")),
        }
    }
    if missing.is_empty() {
        return Ok(picked);
    }
    let what = if missing.len() == 1 { "tenant" } else { "tenants" };
    Fault::new(Kind::NotThere, format!("there is no {what} {}", missing.join(", ")))
        .hint("`pgkeep list --tenants` shows those that there are.")
        .err()
}

/// The names of what may be a tenant's.
async fn names(server: &Server, kind: PlaceKind) -> anyhow::Result<Vec<String>> {
    let sql = match kind {
        PlaceKind::Schema => {
            "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' \
             AND nspname NOT IN ('information_schema', 'public')"
        }
        PlaceKind::Database => {
            "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2"
        }
    };
    let rows = server.query(&format!("list the {kind}s"), sql, &[]).await?;
    Ok(rows.iter().map(|row| text(row, 0)).collect())
}

/// What `TENANT_QUERY` says. It may look and not write.
async fn ask(server: &Server, query: &str) -> anyhow::Result<Vec<(String, String)>> {
    const ACTION: &str = "ask for the tenants with TENANT_QUERY";
    let statement = match server.client().prepare(query).await {
        Ok(statement) => statement,
        Err(error) => {
            return Err(failed(ACTION, &error).context(
                Fault::new(Kind::Settings, "TENANT_QUERY is no query that the server understands")
                    .hint("Name tables with their schemas, such as app.tenants: no search_path is set."),
            ));
        }
    };
    let columns = match statement.columns().len() {
        1 => "t.a::text, t.a::text FROM (%) t (a)",
        2 => "t.a::text, t.b::text FROM (%) t (a, b)",
        other => {
            return Fault::new(Kind::Settings, format!("TENANT_QUERY answers with {other} columns"))
                .hint("Let it answer with one, the names, or with two, the tenants and the names.")
                .err();
        }
    };
    let sql = format!("SELECT {}", columns.replacen('%', query, 1));
    // A query is to look, whatever functions it calls. Inside of a snapshot it can't do otherwise.
    server.run(ACTION, "SET default_transaction_read_only = on").await?;
    let rows = server.query(ACTION, &sql, &[]).await?;
    server.run(ACTION, "SET default_transaction_read_only = off").await?;
    let mut said = Vec::with_capacity(rows.len());
    for row in &rows {
        let (Some(id), Some(name)) = (row.get::<_, Option<String>>(0), row.get::<_, Option<String>>(1))
        else {
            return Fault::new(Kind::Settings, "TENANT_QUERY answers with a null")
                .hint("Leave out such rows: WHERE ... IS NOT NULL.")
                .err();
        };
        said.push((id, name));
    }
    Ok(said)
}

/// The tables with rows in the schema; of the whole database without one.
pub async fn tables_of(server: &Server, schema: Option<&str>) -> anyhow::Result<Vec<TableFacts>> {
    let mut tables = facts::tables(server).await?;
    tables.retain(|table| schema.is_none_or(|schema| table.schema == schema) && !table.extension_member);
    Ok(tables)
}

/// Counts the rows of these tables, one after the other.
pub async fn count(server: &Server, tables: &[TableFacts]) -> anyhow::Result<u64> {
    let mut rows = 0;
    for facts in tables {
        rows += facts::count_rows(
            server,
            &Table {
                schema: facts.schema.clone(),
                name: facts.name.clone(),
                raw: facts.raw.clone(),
                rows: 0,
                of_extension: false,
            },
        )
        .await?;
    }
    Ok(rows)
}

/// The number of the schema (`pg_namespace.oid`), which no renaming changes.
pub async fn schema_oid(server: &Server, name: &str) -> anyhow::Result<Option<u32>> {
    let sql = "SELECT oid FROM pg_namespace WHERE nspname::text = $1";
    let rows = server.query(&format!("look for the schema \"{name}\""), sql, &[&name]).await?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// What does not lie in the schema and hangs on something in it: foreign keys, views and defaults of other schemas,
/// extensions, publications. When the schema is replaced, that would go on hanging on the one of before.
pub async fn hanging_on(server: &Server, schema: &str) -> anyhow::Result<Vec<String>> {
    // What lies in a schema depends on it ('n'), and what is part of such a thing on that ('a', 'i'): columns' defaults,
    // constraints, triggers, rules. A partition elsewhere is a table of its own, and membership in a publication is the
    // publication's.
    let sql = "WITH RECURSIVE inside (classid, objid) AS ( \
                 SELECT 'pg_namespace'::regclass::oid, oid FROM pg_namespace WHERE nspname::text = $1 \
                 UNION \
                 SELECT d.classid, d.objid FROM pg_depend d JOIN inside i ON d.refclassid = i.classid AND d.refobjid = i.objid \
                 WHERE d.classid::regclass::text NOT IN ('pg_extension', 'pg_publication_rel', 'pg_publication_namespace') \
                   AND ((i.classid = 'pg_namespace'::regclass AND d.deptype = 'n') OR d.deptype IN ('a', 'i')) \
                   AND (d.classid <> 'pg_class'::regclass OR EXISTS (SELECT FROM pg_class c JOIN pg_namespace n \
                          ON n.oid = c.relnamespace WHERE c.oid = d.objid AND n.nspname::text IN ($1, 'pg_toast')))) \
               SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) \
               FROM pg_depend d JOIN inside i ON d.refclassid = i.classid AND d.refobjid = i.objid \
               WHERE (d.classid, d.objid) NOT IN (SELECT classid, objid FROM inside) \
                 AND d.classid <> 'pg_default_acl'::regclass ORDER BY 1";
    let action = format!("look for what hangs on the schema \"{schema}\"");
    let rows = server.query(&action, sql, &[&schema]).await?;
    Ok(rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)).collect())
}

/// Transactions of others that use tables of the schema and that may be making something that hangs on it, which nobody else
/// sees yet: those that hold a lock as it comes with a new view, table or foreign key elsewhere; of `writers`, all that have
/// written anything (a new function holds no lock that is its own). A temporary relation that is there is nobody else's.
pub async fn making(server: &Server, schema: &str, writers: bool) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT DISTINCT coalesce('process ' || l.pid, 'a prepared transaction') FROM pg_locks l \
               JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() \
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND n.nspname::text = $1 AND EXISTS ( \
                   SELECT FROM pg_locks m WHERE m.virtualtransaction = l.virtualtransaction AND m.granted \
                     AND CASE WHEN $2 THEN m.locktype = 'transactionid' \
                         ELSE m.locktype = 'relation' AND m.database = l.database \
                           AND m.mode IN ('AccessExclusiveLock', 'ShareRowExclusiveLock') \
                           AND NOT EXISTS (SELECT FROM pg_class o JOIN pg_namespace s ON s.oid = o.relnamespace \
                                           WHERE o.oid = m.relation AND (o.relpersistence = 't' \
                                             OR s.nspname::text IN ($1, 'pg_toast'))) END) \
               ORDER BY 1";
    let action = format!("look who is making something that hangs on the schema \"{schema}\"");
    let rows = server.query(&action, sql, &[&schema, &writers]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Functions of the schema whose text has its name in it: texts are not renamed with a schema.
pub async fn naming(server: &Server, schema: &str, name: &str) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT DISTINCT p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
               WHERE n.nspname::text = $1 AND (position($2 IN p.prosrc) > 0 \
                 OR position($2 IN coalesce(array_to_string(p.proconfig, ' '), '')) > 0) ORDER BY 1";
    let action = format!("look for functions that name the schema \"{name}\"");
    let rows = server.query(&action, sql, &[&schema, &name]).await?;
    Ok(rows.iter().map(|row| text(row, 0)).collect())
}

/// What the backup of a schema does not hold although it may look so. A sentence each.
pub async fn uncovered_in(server: &Server, schemas: &[String]) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT format('%s.%s.%s may name large objects: their content is in no tenant''s backup', n.nspname, c.relname, a.attname) \
               FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_type t ON t.oid = a.atttypid \
               WHERE n.nspname::text = ANY ($1) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped \
                 AND (a.atttypid = 'oid'::regtype OR t.typname = 'lo') \
               UNION ALL \
               SELECT format('%s.%s is a foreign table: its rows are in no tenant''s backup', n.nspname, c.relname) \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname::text = ANY ($1) AND c.relkind = 'f' \
               UNION ALL \
               SELECT format('the extension %s lies in schema %s: it is in no tenant''s backup', e.extname, n.nspname) \
               FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE n.nspname::text = ANY ($1) \
               ORDER BY 1";
    let rows = server.query("look for what is not covered", sql, &[&schemas]).await?;
    Ok(rows.iter().map(|row| text(row, 0)).collect())
}

//! Rows of a schema of then that are missing in that of now: the dump's schema is made beside, its rows are laid beside
//! those of now, and what is missing is added. Then it is dropped again, all in the one transaction.

use std::collections::BTreeMap;

use super::{Dump, Replacing};
use crate::model::{Fault, Kind, Stage};
use crate::plan::tenants::{Facts, ForeignKey, TableFacts};
use crate::postgres::quote::{identifier, literal, qualified};
use crate::postgres::tenants::{self, places};
use crate::postgres::{Server, sqlstate};
use crate::system::Stop;
use crate::target::tenant::TablePlan;

/// What a merge has done, and not committed.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// By table: rows that were added, that became those of then, and of those of then the ones that were left alone.
    pub tables: Vec<TablePlan>,
    /// Foreign keys that were checked.
    pub foreign_keys: u64,
}

impl Replacing<'_> {
    /// Adds what is missing; with `take`, rows that differ become those of the dump. Only `in_earnest` sequences are told of
    /// the numbers that came: that would stay when the rest is undone.
    pub async fn merge(
        &self,
        dump: &Dump,
        (take, in_earnest): (bool, bool),
        stage: &Stage,
        stop: &Stop,
    ) -> anyhow::Result<Merged> {
        let (server, plan) = (self.server, self.plan);
        // Rows come without their keys and indexes: those of now say what is the same row.
        let in_the_way = places::schema_oid(server, &plan.dumped_as).await?.is_some();
        if in_the_way {
            self.rename(&plan.dumped_as, &plan.aside).await?;
        }
        self.statements(dump, "pre-data", stop).await?;
        self.rows(dump, stage).await?;
        self.check().await?;
        self.rename(&plan.dumped_as, &plan.beside).await?;
        if in_the_way {
            self.rename(&plan.aside, &plan.dumped_as).await?;
        }
        let facts = tenants::facts(server).await?;
        let before = orphans(server, &facts, &plan.becomes).await?;
        // As it does for rows of tenants that share tables: what triggers would do has been done when the rows were first
        // written, and foreign keys are checked when all of them are there.
        server
            .run("switch triggers off for the transaction", "SET LOCAL session_replication_role = replica")
            .await?;
        let mut merged = Merged::default();
        for then in facts.tables.iter().filter(|table| table.name.schema == plan.beside) {
            let now = facts
                .tables
                .iter()
                .find(|table| table.name.schema == plan.becomes && table.name.name == then.name.name);
            merged.tables.push(table(server, then, now, &plan.becomes, take).await?);
            if let Some(now) = now.filter(|_| in_earnest) {
                count_on(server, now).await?;
            }
        }
        let after = orphans(server, &facts, &plan.becomes).await?;
        merged.foreign_keys = after.len() as u64;
        refuse_orphans(&before, &after)?;
        let action = format!("drop the schema \"{}\"", plan.beside);
        server.run(&action, &format!("DROP SCHEMA {} CASCADE", identifier(&plan.beside))).await?;
        Ok(merged)
    }
}

/// Two tables of the same name, and what they have in common.
struct Pair<'a> {
    then: &'a TableFacts,
    now: &'a TableFacts,
    /// The columns that both have and that are not computed.
    columns: Vec<&'a str>,
    /// Those by which a row is the same; empty: all of them.
    key: Vec<&'a str>,
}

fn relation(table: &TableFacts) -> String {
    let name = qualified(&table.name.schema, &table.name.name);
    if table.partitioned { name } else { format!("ONLY {name}") }
}

impl<'a> Pair<'a> {
    fn new(then: &'a TableFacts, now: &'a TableFacts) -> Self {
        let columns: Vec<&str> = now
            .columns
            .iter()
            .filter(|column| !column.generated)
            .map(|column| column.name.as_str())
            .filter(|name| then.columns.iter().any(|column| column.name == *name))
            .collect();
        let key = now.keys.first().filter(|key| key.iter().all(|name| columns.contains(&name.as_str())));
        let key = key.map(|key| key.iter().map(String::as_str).collect()).unwrap_or_default();
        Self { then, now, columns, key }
    }

    /// The rows of then with the types of now: those that the schema makes itself are there twice, and are the same as text.
    fn rows(&self) -> String {
        let columns = self.columns.iter().map(|name| {
            let of = |table: &'a TableFacts| table.columns.iter().find(|column| column.name == **name);
            let quoted = identifier(name);
            match (of(self.then), of(self.now)) {
                (Some(then), Some(now)) if then.type_name != now.type_name => {
                    format!("t.{quoted}::text::{} AS {quoted}", now.type_name)
                }
                _ => format!("t.{quoted}"),
            }
        });
        format!("SELECT {} FROM {} t", columns.collect::<Vec<_>>().join(", "), relation(self.then))
    }

    fn list(&self, alias: &str) -> String {
        self.columns.iter().map(|name| format!("{alias}{}", identifier(name))).collect::<Vec<_>>().join(", ")
    }

    fn same_key(&self) -> String {
        let pairs = self.key.iter().map(|name| format!("n.{0} = s.{0}", identifier(name)));
        pairs.collect::<Vec<_>>().join(" AND ")
    }

    fn insert(&self) -> String {
        let (into, list) = (qualified(&self.now.name.schema, &self.now.name.name), self.list(""));
        let head = format!("INSERT INTO {into} ({list}) OVERRIDING SYSTEM VALUE SELECT {}", self.list("s."));
        if !self.key.is_empty() {
            return format!(
                "{head} FROM ({}) s WHERE NOT EXISTS (SELECT FROM {} n WHERE {})",
                self.rows(),
                relation(self.now),
                self.same_key()
            );
        }
        // Without a key a row is what it holds, and there may be several of it.
        let counted = |alias: &str| {
            let row = format!("ROW({})::text", self.list(alias));
            format!("{row} AS \"row\", row_number() OVER (PARTITION BY {row}) AS \"number\"")
        };
        format!(
            "{head} FROM (SELECT r.*, {} FROM ({}) r) s WHERE NOT EXISTS (SELECT FROM (SELECT {} FROM {} m) n \
             WHERE n.\"row\" = s.\"row\" AND n.\"number\" = s.\"number\")",
            counted("r."),
            self.rows(),
            counted("m."),
            relation(self.now)
        )
    }

    /// Nothing where there is no key, or nothing beside it.
    fn update(&self) -> Option<String> {
        let others = self.columns.iter().filter(|name| !self.key.contains(name));
        let sets: Vec<String> = others.map(|name| format!("{0} = s.{0}", identifier(name))).collect();
        (!self.key.is_empty() && !sets.is_empty()).then(|| {
            format!(
                "UPDATE {} n SET {} FROM ({}) s WHERE {} AND ROW({})::text IS DISTINCT FROM ROW({})::text",
                relation(self.now),
                sets.join(", "),
                self.rows(),
                self.same_key(),
                self.list("n."),
                self.list("s.")
            )
        })
    }
}

async fn table(
    server: &Server,
    then: &TableFacts,
    now: Option<&TableFacts>,
    schema: &str,
    take: bool,
) -> anyhow::Result<TablePlan> {
    let name = format!("{schema}.{}", then.name.name);
    let mut plan = TablePlan { table: name.clone(), ..TablePlan::default() };
    let sql = format!("SELECT count(*) FROM {}", relation(then));
    let rows: i64 = server.query_one(&format!("count the rows of {name}"), &sql, &[]).await?.get(0);
    let rows = u64::try_from(rows).unwrap_or(0);
    let Some(now) = now else {
        if rows > 0 {
            plan.conflicts.push(format!("it is not there now, and has {rows} rows in the backup"));
        }
        return Ok(plan);
    };
    let lost: Vec<&str> = then
        .columns
        .iter()
        .filter(|column| !column.generated && !now.columns.iter().any(|other| other.name == column.name))
        .map(|column| column.name.as_str())
        .collect();
    if !lost.is_empty() {
        plan.drift.push(format!("columns of then that are not there now are left out: {}", lost.join(", ")));
    }
    let pair = Pair::new(then, now);
    if pair.columns.is_empty() {
        return Ok(plan);
    }
    if let Some(sql) = pair.update().filter(|_| take) {
        plan.update = execute(server, &name, &sql).await?;
    }
    plan.insert = execute(server, &name, &pair.insert()).await?;
    plan.left = rows.saturating_sub(plan.insert + plan.update);
    Ok(plan)
}

/// Lets the numbers that a table's sequences give be above all that there are.
async fn count_on(server: &Server, now: &TableFacts) -> anyhow::Result<()> {
    for column in now.columns.iter().filter(|column| column.numbered) {
        let of = literal(&qualified(&now.name.schema, &now.name.name));
        let sql = format!(
            "SELECT setval(q.seq, m.most) FROM (SELECT pg_get_serial_sequence({of}, {})::regclass AS seq) q, \
             (SELECT max({})::int8 AS most FROM {}) m WHERE m.most > coalesce(pg_sequence_last_value(q.seq), 0)",
            literal(&column.name),
            identifier(&column.name),
            relation(now)
        );
        server.query(&format!("let the numbers of {} go on", now.name), &sql, &[]).await?;
    }
    Ok(())
}

async fn execute(server: &Server, name: &str, sql: &str) -> anyhow::Result<u64> {
    use tokio_postgres::error::SqlState;
    let action = format!("add rows to {name}");
    match server.client().execute(sql, &[]).await {
        Ok(rows) => Ok(rows),
        Err(error) => {
            let error = server.failed(&action, &error).await;
            match sqlstate(&error) {
                Some(code) if code.code().starts_with("23") => {
                    let what = if *code == SqlState::UNIQUE_VIOLATION {
                        "has a key that another has now"
                    } else {
                        "does not fit"
                    };
                    Err(error.context(
                        Fault::new(Kind::Refused, format!("a row of then of {name} {what}"))
                            .hint("Nothing was changed. Clear away what is in the way, or restore beside with --as NEW_ID."),
                    ))
                }
                _ => Err(error),
            }
        }
    }
}

/// Foreign keys of the schema and how many rows there are whose parent is missing.
async fn orphans(server: &Server, facts: &Facts, schema: &str) -> anyhow::Result<BTreeMap<String, i64>> {
    let mut found = BTreeMap::new();
    for key in facts.foreign_keys.iter().filter(|key| key.child.schema == schema) {
        let Some(child) = facts.tables.iter().find(|table| table.name == key.child) else { continue };
        let ForeignKey { columns, parent, parent_columns, .. } = key;
        let given = columns.iter().map(|column| format!("c.{} IS NOT NULL", identifier(column)));
        let same = columns
            .iter()
            .zip(parent_columns)
            .map(|(column, other)| format!("p.{} = c.{}", identifier(other), identifier(column)));
        let sql = format!(
            "SELECT count(*) FROM {} c WHERE {} AND NOT EXISTS (SELECT FROM {} p WHERE {})",
            relation(child),
            given.collect::<Vec<_>>().join(" AND "),
            qualified(&parent.schema, &parent.name),
            same.collect::<Vec<_>>().join(" AND ")
        );
        let name = format!("{} of {}", key.name, key.child);
        let row = server.query_one(&format!("check the foreign key {name}"), &sql, &[]).await?;
        found.insert(name, row.get(0));
    }
    Ok(found)
}

fn refuse_orphans(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> anyhow::Result<()> {
    let more = after.iter().filter(|(name, rows)| **rows > before.get(*name).copied().unwrap_or(0));
    let more: Vec<String> = more.map(|(name, rows)| format!("{name}: {rows}")).collect();
    if more.is_empty() {
        return Ok(());
    }
    let message =
        format!("rows would refer to others that are not there, by foreign key {}", more.join("; "));
    Fault::new(Kind::Refused, message).hint("Nothing was changed. Bring back first what they refer to.").err()
}

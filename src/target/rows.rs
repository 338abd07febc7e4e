//! Rows of then beside those of now, table by table, in a transaction: what is missing is added, and what differs may become
//! what it was. For schemas and databases of their own.
//!
//! Foreign keys are suspended in this session meanwhile and checked by queries. So that these hold when it is committed, nobody
//! else writes the tables until then, nor deletes rows of others that are referred to; who reads is not held up.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::tenant::TablePlan;
use crate::model::{Fault, Kind};
use crate::plan::tenants::{Facts, TableFacts, TableName};
use crate::postgres::proof::{self, Key, held_by_others};
use crate::postgres::quote::{identifier, literal, qualified};
use crate::postgres::tenants;
use crate::postgres::{Server, sqlstate};

/// How long one waits for transactions of others to end, in all.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long at once: who wants to write a table that is waited for, or that one has already, waits behind. With no waiting at all
/// one would never have the tables of somebody who writes all the time.
const AT_ONCE: &str = "100ms";
const PAUSE: Duration = Duration::from_millis(100);

/// What a merge has done, and not committed.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// By table: rows that were added, that became those of then, and of those of then the ones that were left alone.
    pub tables: Vec<TablePlan>,
    /// Foreign keys that were checked.
    pub foreign_keys: u64,
}

/// Keeps everybody else from writing these tables until the end; returns what tables there are then.
pub(super) async fn lock(server: &Server, ours: impl Fn(&TableName) -> bool) -> anyhow::Result<Facts> {
    let until = Instant::now() + PATIENCE;
    let mut locked = BTreeSet::new();
    loop {
        let facts = tenants::facts(server).await?;
        let wanted = facts.tables.iter().filter(|table| ours(&table.name)).map(relation);
        let more: Vec<String> = wanted.filter(|table| !locked.contains(table)).collect();
        // Until none has come in between.
        if more.is_empty() {
            return Ok(facts);
        }
        lock_within(server, &more.join(", "), until).await?;
        locked.extend(more);
    }
}

/// All of them or none: between two attempts nobody is held up by those that could be had.
async fn lock_within(server: &Server, tables: &str, until: Instant) -> anyhow::Result<()> {
    let sql = format!(
        "SAVEPOINT pgkeep_lock; SET LOCAL lock_timeout = {}; LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE; \
         SET LOCAL lock_timeout = {}; RELEASE SAVEPOINT pgkeep_lock",
        literal(AT_ONCE),
        PATIENCE.as_millis()
    );
    loop {
        let Err(error) = server.run("keep others from writing the tenant's tables", &sql).await else {
            return Ok(());
        };
        let error = held_by_others(error);
        let is_held = error.downcast_ref::<Fault>().is_some_and(|fault| fault.kind == Kind::Locked);
        if !is_held || Instant::now() >= until {
            return Err(error);
        }
        let undo = "ROLLBACK TO SAVEPOINT pgkeep_lock; RELEASE SAVEPOINT pgkeep_lock";
        server.run("wait for others", undo).await?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// As it is done for rows of tenants that share tables: what triggers would do has been done when the rows were first written,
/// and foreign keys are checked when all of them are there.
pub(super) async fn suspend(server: &Server) -> anyhow::Result<()> {
    server
        .run("switch triggers off for the transaction", "SET LOCAL session_replication_role = replica")
        .await
}

/// The foreign keys whose two tables (child, parent) `are_ours`.
pub(super) async fn foreign_keys(
    server: &Server,
    are_ours: impl Fn(&TableName, &TableName) -> bool,
) -> anyhow::Result<Vec<Key>> {
    let found = proof::foreign_keys(server, are_ours).await?;
    if found.uncheckable.is_empty() {
        return Ok(found.keys);
    }
    let message = format!("rows that are merged can't be checked: {}", found.uncheckable.join("; "));
    Fault::new(Kind::Refused, message)
        .hint(
            "Nothing was changed. Restore beside with --as NEW_ID, and take over from there what is missing.",
        )
        .err()
}

/// Where rows came into a table with a key that only triggers check, nobody has.
pub(super) async fn name_deferrable(server: &Server, merged: &mut Merged) -> anyhow::Result<()> {
    for (table, constraint) in tenants::deferrable(server).await? {
        let name = table.to_string();
        let written = merged.tables.iter_mut().find(|it| it.table == name && it.insert + it.update > 0);
        if let Some(plan) = written {
            plan.conflicts.push(format!(
                "its constraint {constraint} is deferrable, so that rows that are added can't be checked"
            ));
        }
    }
    Ok(())
}

/// Two tables of the same name, and what they have in common.
struct Pair<'a> {
    then: &'a TableFacts,
    /// Where the rows of then lie.
    from: &'a str,
    now: &'a TableFacts,
    /// The columns that both have and that are not computed.
    columns: Vec<&'a str>,
    /// Those by which a row is the same; empty: all of them.
    key: Vec<&'a str>,
}

/// The table itself without those that inherit from it; with partitions, where it has some.
pub(super) fn relation(table: &TableFacts) -> String {
    let name = qualified(&table.name.schema, &table.name.name);
    if table.partitioned { name } else { format!("ONLY {name}") }
}

impl<'a> Pair<'a> {
    fn new((then, from): (&'a TableFacts, &'a str), now: &'a TableFacts) -> Self {
        let columns: Vec<&str> = now
            .columns
            .iter()
            .filter(|column| !column.generated)
            .map(|column| column.name.as_str())
            .filter(|name| then.columns.iter().any(|column| column.name == *name))
            .collect();
        let key = now.keys.first().filter(|key| key.iter().all(|name| columns.contains(&name.as_str())));
        let key = key.map(|key| key.iter().map(String::as_str).collect()).unwrap_or_default();
        Self { then, from, now, columns, key }
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
        format!("SELECT {} FROM {} t", columns.collect::<Vec<_>>().join(", "), self.from)
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

    /// The columns beside the key whose values a row keeps that is there, or those that it may get others in.
    fn beside_key(&self, fixed: bool) -> Vec<&'a str> {
        let is_fixed = |name: &str| self.now.column(name).is_some_and(|column| column.fixed);
        let others = self.columns.iter().copied().filter(|name| !self.key.contains(name));
        others.filter(|name| is_fixed(name) == fixed).collect()
    }

    /// How many rows would have to get other values in columns in which they keep what they have; nothing where there are no
    /// such columns, with their names.
    fn unchangeable(&self) -> Option<(String, String)> {
        let fixed = self.beside_key(true);
        let of = |alias: &str| {
            let names = fixed.iter().map(|name| format!("{alias}{}", identifier(name)));
            names.collect::<Vec<_>>().join(", ")
        };
        (!self.key.is_empty() && !fixed.is_empty()).then(|| {
            let sql = format!(
                "SELECT count(*) FROM {} n JOIN ({}) s ON {} WHERE ROW({})::text IS DISTINCT FROM ROW({})::text",
                relation(self.now),
                self.rows(),
                self.same_key(),
                of("n."),
                of("s.")
            );
            (fixed.join(", "), sql)
        })
    }

    /// Nothing where there is no key, or nothing beside it.
    fn update(&self) -> Option<String> {
        let others = self.beside_key(false);
        let of = |alias: &str| {
            let names = others.iter().map(|name| format!("{alias}{}", identifier(name)));
            names.collect::<Vec<_>>().join(", ")
        };
        let sets: Vec<String> = others.iter().map(|name| format!("{0} = s.{0}", identifier(name))).collect();
        (!self.key.is_empty() && !sets.is_empty()).then(|| {
            format!(
                "UPDATE {} n SET {} FROM ({}) s WHERE {} AND ROW({})::text IS DISTINCT FROM ROW({})::text",
                relation(self.now),
                sets.join(", "),
                self.rows(),
                self.same_key(),
                of("n."),
                of("s.")
            )
        })
    }
}

/// A table that is not there any more, with so many rows.
pub(super) fn not_there(name: &str, rows: u64) -> TablePlan {
    let mut plan = TablePlan { table: name.to_owned(), ..TablePlan::default() };
    if rows > 0 {
        plan.conflicts.push(format!("it is not there now, and has {rows} rows in the backup"));
    }
    plan
}

/// Merges one table, called `name`: the rows of then lie in a relation that may have another name.
pub(super) async fn table(
    server: &Server,
    (then, from): (&TableFacts, &str),
    now: Option<&TableFacts>,
    name: &str,
    take: bool,
) -> anyhow::Result<TablePlan> {
    let mut plan = TablePlan { table: name.to_owned(), ..TablePlan::default() };
    let sql = format!("SELECT count(*) FROM {from}");
    let rows: i64 = server.query_one(&format!("count the rows of {name}"), &sql, &[]).await?.get(0);
    let rows = u64::try_from(rows).unwrap_or(0);
    let Some(now) = now else { return Ok(not_there(name, rows)) };
    let lost: Vec<&str> = then
        .columns
        .iter()
        .filter(|column| !column.generated && !now.columns.iter().any(|other| other.name == column.name))
        .map(|column| column.name.as_str())
        .collect();
    if !lost.is_empty() {
        plan.drift.push(format!("columns of then that are not there now are left out: {}", lost.join(", ")));
    }
    let pair = Pair::new((then, from), now);
    if pair.columns.is_empty() {
        return Ok(plan);
    }
    if let Some((names, sql)) = pair.unchangeable().filter(|_| take) {
        let action = format!("compare the rows of {name}");
        let differ: i64 = server.query_one(&action, &sql, &[]).await?.get(0);
        if differ > 0 {
            plan.conflicts.push(format!(
                "{differ} of its rows had another value in {names}, which the database alone gives (GENERATED ALWAYS)"
            ));
        }
    }
    if let Some(sql) = pair.update().filter(|_| take) {
        plan.update = execute(server, name, &sql).await?;
    }
    plan.insert = execute(server, name, &pair.insert()).await?;
    plan.left = rows.saturating_sub(plan.insert + plan.update);
    Ok(plan)
}

/// Lets the numbers that a table's sequences give be above all that there are.
pub(super) async fn count_on(server: &Server, now: &TableFacts) -> anyhow::Result<()> {
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

/// Of each foreign key, the rows whose parent is missing.
pub(super) async fn orphans(server: &Server, keys: &[Key]) -> anyhow::Result<Vec<Vec<i64>>> {
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        found.push(key.orphans(server).await?);
    }
    Ok(found)
}

/// Refuses others of them than there were.
pub(super) fn refuse_orphans(keys: &[Key], before: &[Vec<i64>], after: &[Vec<i64>]) -> anyhow::Result<()> {
    let found = keys.iter().zip(before.iter().zip(after));
    let new = found.map(|(key, (before, after))| (key, added(before, after))).filter(|(_, new)| *new > 0);
    let new: Vec<String> = new.map(|(key, new)| format!("{}: {new}", key.shown)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let message = format!("rows would refer to others that are not there, by foreign key {}", new.join("; "));
    Fault::new(Kind::Refused, message).hint("Nothing was changed. Bring back first what they refer to.").err()
}

/// How many there are after that were not before; both in order, each as often as there is it.
fn added(before: &[i64], after: &[i64]) -> usize {
    let mut before = before.iter().peekable();
    let is_new = |row: &&i64| {
        while before.next_if(|old| old < row).is_some() {}
        before.next_if_eq(row).is_none()
    };
    after.iter().filter(is_new).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_orphan_for_another_is_a_new_one() {
        assert_eq!(added(&[], &[]), 0);
        assert_eq!(added(&[1, 5], &[1]), 0);
        assert_eq!(added(&[1], &[5]), 1);
        assert_eq!(added(&[5], &[1]), 1);
        assert_eq!(added(&[1, 1, 3, 7], &[1, 1, 1, 4, 7]), 2);
    }
}

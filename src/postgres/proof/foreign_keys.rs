//! Every foreign key, by a query for rows whose parent is not there.

use tokio_postgres::Row;

use super::{Proven, damage};
use crate::model::{Fault, Kind};
use crate::plan::tenants::TableName;
use crate::postgres::quote::{identifier, qualified};
use crate::postgres::text::ServerText;
use crate::postgres::{Server, sqlstate};

/// One column of a key and what it refers to.
#[derive(Debug)]
struct Pair {
    own: String,
    theirs: String,
    /// The operator by which the constraint compares them.
    operator: String,
    /// What has to stand behind the own column where the two sort differently.
    collate: String,
}

/// A foreign key that can be checked by a query.
#[derive(Debug)]
pub struct Key {
    /// `constraint of schema.table`, for people.
    pub shown: String,
    /// The constraint's name.
    pub name: String,
    /// Whose rows refer; it may be a partition.
    pub child: TableName,
    /// To whose.
    pub parent: TableName,
    child_relation: String,
    parent_relation: String,
    pairs: Vec<Pair>,
    is_full: bool,
    validated: bool,
}

/// Foreign keys, and what is to be said of those that no query can check.
#[derive(Debug, Default)]
pub struct Keys {
    /// Those that can be checked.
    pub keys: Vec<Key>,
    /// The others, a sentence each.
    pub uncheckable: Vec<String>,
}

/// Looks for orphans of every foreign key of the database whose referring table `is_wanted` (schema, name).
///
/// A constraint that is `NOT VALID` promises nothing of old rows: what it has is a note and no finding.
pub async fn orphans(server: &Server, is_wanted: impl Fn(&str, &str) -> bool) -> anyhow::Result<Proven> {
    let found = foreign_keys(server, |child, _| is_wanted(&child.schema, &child.name)).await?;
    let mut proven = Proven { notes: found.uncheckable, ..Proven::default() };
    for key in found.keys {
        proven.checked += 1;
        let open = match key.open(server).await {
            Ok(open) => open,
            Err(error) => {
                proven.findings.push(format!("foreign key {}: {}", key.shown, damage(error)?));
                continue;
            }
        };
        if open > 0 {
            let rows = if open == 1 { "1 row refers".to_owned() } else { format!("{open} rows refer") };
            let text = format!("foreign key {}: {rows} to what is not there", key.shown);
            if key.validated {
                proven.findings.push(text);
            } else {
                proven.notes.push(format!("{text}; the constraint is NOT VALID, so it was so before"));
            }
        }
    }
    Ok(proven)
}

/// The foreign keys, those of partitions too, whose two tables (child, parent) `are_wanted`.
pub async fn foreign_keys(
    server: &Server,
    are_wanted: impl Fn(&TableName, &TableName) -> bool,
) -> anyhow::Result<Keys> {
    let mut found = Keys::default();
    // A temporal key (18 and newer) asks for a span that others cover together.
    let period = if server.major() >= 18 { "k.conperiod" } else { "false" };
    // And one that is NOT ENFORCED promises nothing, neither of old rows nor of new ones.
    let enforced = if server.major() >= 18 { "k.conenforced" } else { "true" };
    let sql = format!(
        "SELECT k.oid, k.conname::text, n.nspname::text, c.relname::text, c.relkind = 'p', \
                pn.nspname::text, p.relname::text, p.relkind = 'p', k.confmatchtype = 'f', k.convalidated, {period} \
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace \
         WHERE k.contype = 'f' AND k.conparentid = 0 AND n.nspname !~ '^pg_' AND {enforced} \
         ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\", k.conname COLLATE \"C\""
    );
    for row in server.query("list the foreign keys", &sql, &[]).await? {
        let names: Vec<ServerText> = [1, 2, 3, 5, 6].iter().map(|column| row.get(*column)).collect();
        let table = |at: usize| TableName::new(names[at].shown(), names[at + 1].shown());
        let (child, parent) = (table(1), table(3));
        if !are_wanted(&child, &parent) {
            continue;
        }
        let shown = format!("{} of {child}", names[0].shown());
        if !names.iter().all(ServerText::is_utf8) {
            found.uncheckable.push(format!("foreign key {shown}: not checked, a name is not UTF-8"));
            continue;
        }
        if row.get::<_, bool>(10) {
            found.uncheckable.push(format!("foreign key {shown}: not checked, it is one over periods"));
            continue;
        }
        found.keys.push(Key {
            shown,
            name: names[0].shown(),
            child_relation: relation(&child, row.get(4)),
            parent_relation: relation(&parent, row.get(7)),
            child,
            parent,
            pairs: pairs(server, row.get(0)).await?,
            is_full: row.get(8),
            validated: row.get(9),
        });
    }
    Ok(found)
}

/// A table as foreign keys see it: without those that inherit from it, with its partitions.
fn relation(table: &TableName, is_partitioned: bool) -> String {
    let name = qualified(&table.schema, &table.name);
    if is_partitioned { name } else { format!("ONLY {name}") }
}

async fn pairs(server: &Server, constraint: u32) -> anyhow::Result<Vec<Pair>> {
    // As the server's own query has it (`ri_GenerateQual` and `ri_GenerateQualCollation` in `ri_triggers.c`).
    let sql = "SELECT a.attname::text, b.attname::text, format('OPERATOR(%I.%s)', n.nspname, o.oprname), \
                      CASE WHEN a.attcollation <> b.attcollation AND b.attcollation <> 0 \
                           THEN (SELECT format(' COLLATE %I.%I', ln.nspname, l.collname) FROM pg_collation l \
                                 JOIN pg_namespace ln ON ln.oid = l.collnamespace WHERE l.oid = b.attcollation) \
                           ELSE '' END \
               FROM pg_constraint k \
               CROSS JOIN LATERAL unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY AS x(own, theirs, op, place) \
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.own \
               JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = x.theirs \
               JOIN pg_operator o ON o.oid = x.op JOIN pg_namespace n ON n.oid = o.oprnamespace \
               WHERE k.oid = $1 ORDER BY x.place";
    let rows = server.query("look at a foreign key", sql, &[&constraint]).await?;
    let pair = |row: &Row| Pair {
        own: identifier(row.get(0)),
        theirs: identifier(row.get(1)),
        operator: row.get(2),
        collate: row.get(3),
    };
    Ok(rows.iter().map(pair).collect())
}

impl Key {
    /// How many rows refer to what is not there.
    pub async fn open(&self, server: &Server) -> anyhow::Result<i64> {
        let action = format!("check the foreign key {}", self.shown);
        Ok(server.query_one(&action, &self.sql(), &[]).await?.get(0))
    }

    /// Of each row that refers to what is not there, a number by which it is known: in order, and as often as there are such
    /// rows.
    pub async fn orphans(&self, server: &Server) -> anyhow::Result<Vec<i64>> {
        let action = format!("check the foreign key {}", self.shown);
        let rows = "hashtextextended(c::text, 0)";
        let sql = self.select(&format!("coalesce(array_agg({rows} ORDER BY {rows}), '{{}}')"));
        Ok(server.query_one(&action, &sql, &[]).await?.get(0))
    }

    /// Keeps the rows that are referred to from being deleted or getting another key until the transaction ends, as the
    /// server's own trigger does (`RI_FKey_check` in `ri_triggers.c`). Who reads or changes anything else is not held up.
    pub async fn hold(&self, server: &Server) -> anyhow::Result<()> {
        let sql = format!(
            "SELECT count(*) FROM (SELECT FROM {} AS p WHERE EXISTS (SELECT FROM {} AS c WHERE {}) FOR KEY SHARE OF p) AS held",
            self.parent_relation,
            self.child_relation,
            self.same()
        );
        let held = server.query_one(&format!("hold what {} refers to", self.shown), &sql, &[]).await;
        held.map(drop).map_err(held_by_others)
    }

    fn same(&self) -> String {
        let same = self
            .pairs
            .iter()
            .map(|Pair { own, theirs, operator, collate }| format!("p.{theirs} {operator} c.{own}{collate}"));
        same.collect::<Vec<_>>().join(" AND ")
    }

    fn sql(&self) -> String {
        self.select("count(*)")
    }

    /// What is asked of the orphans, which are called `c`.
    fn select(&self, what: &str) -> String {
        let each = |word: &str| {
            let parts = self.pairs.iter().map(|pair| format!("c.{} {word}", pair.own));
            parts.collect::<Vec<_>>()
        };
        let (same, parent) = (self.same(), &self.parent_relation);
        let whole = each("IS NOT NULL").join(" AND ");
        let lonely = format!("{whole} AND NOT EXISTS (SELECT FROM {parent} AS p WHERE {same})");
        let wrong = if self.is_full {
            // All of it is there or nothing.
            format!(
                "({lonely}) OR (({}) AND ({}))",
                each("IS NULL").join(" OR "),
                each("IS NOT NULL").join(" OR ")
            )
        } else {
            lonely
        };
        format!("SELECT {what} FROM {} AS c WHERE {wrong}", self.child_relation)
    }
}

/// Somebody has written what is waited for, and his transaction is open; or he waits for what this one has.
pub fn held_by_others(error: anyhow::Error) -> anyhow::Error {
    use tokio_postgres::error::SqlState;
    match sqlstate(&error) {
        Some(code)
            if [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].contains(code) =>
        {
            error.context(
                Fault::new(
                    Kind::Locked,
                    "somebody else is writing the tenant's tables, or what they refer to, in a transaction that is open",
                )
                .hint("Nothing was changed. Wait until it has ended, and run the restore again."),
            )
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(is_full: bool) -> Key {
        let pair = |name: &str| Pair {
            own: identifier(name),
            theirs: identifier(&format!("p{name}")),
            operator: "OPERATOR(pg_catalog.=)".to_owned(),
            collate: String::new(),
        };
        Key {
            shown: "k of s.t".to_owned(),
            name: "k".to_owned(),
            child: TableName::new("s", "t"),
            parent: TableName::new("s", "p"),
            child_relation: "ONLY s.t".to_owned(),
            parent_relation: "s.p".to_owned(),
            pairs: vec![pair("a"), pair("b")],
            is_full,
            validated: true,
        }
    }

    #[test]
    fn a_half_empty_key_is_an_orphan_only_with_match_full() {
        let simple = key(false).sql();
        assert_eq!(
            simple,
            "SELECT count(*) FROM ONLY s.t AS c WHERE c.\"a\" IS NOT NULL AND c.\"b\" IS NOT NULL AND NOT EXISTS \
             (SELECT FROM s.p AS p WHERE p.\"pa\" OPERATOR(pg_catalog.=) c.\"a\" AND p.\"pb\" \
             OPERATOR(pg_catalog.=) c.\"b\")"
        );
        assert!(key(true).sql().ends_with(
            "OR ((c.\"a\" IS NULL OR c.\"b\" IS NULL) AND (c.\"a\" IS NOT NULL OR c.\"b\" IS NOT NULL))"
        ));
    }
}

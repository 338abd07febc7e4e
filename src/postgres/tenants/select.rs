//! The SQL that says whose a row is. Everything is a join that the planner can turn around: with one tenant wanted it
//! begins at that tenant's rows, with all of them it reads every table once.

use std::fmt::Write as _;

use crate::plan::tenants::{Belonging, ForeignKey, TableFacts, TenantGraph, TenantTable};
use crate::postgres::quote::{identifier, qualified};

/// Rows with their owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// What stands behind `FROM`; the table itself is called `t` there.
    pub from: String,
    /// Whose a row is: null where it is nobody's.
    pub owner: String,
    /// The answers of the ways to an owner, where there are several.
    ways: Vec<String>,
}

/// All rows of a table with their owners.
pub fn owned(graph: &TenantGraph, table: &TenantTable) -> Selection {
    select(graph, table, "t")
}

fn select(graph: &TenantGraph, table: &TenantTable, alias: &str) -> Selection {
    let itself = format!("{} AS {alias}", relation(&table.facts));
    match &table.belonging {
        Belonging::Tenant(column) | Belonging::Column(column) => {
            Selection { from: itself, owner: format!("{alias}.{}", identifier(column)), ways: Vec::new() }
        }
        Belonging::Through { keys, upward } => {
            let mut selection = direct(graph, &table.facts, keys, alias);
            if let Some(key) = upward {
                climb(graph, &table.facts, keys, key, alias, &mut selection);
            }
            selection
        }
    }
}

/// The table with the rows that its foreign keys lead to.
fn direct(graph: &TenantGraph, facts: &TableFacts, keys: &[ForeignKey], alias: &str) -> Selection {
    let mut from = format!("{} AS {alias}", relation(facts));
    let mut ways = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let Some(parent) = graph.table(&key.parent) else { continue };
        let above = format!("{alias}_{number}");
        let inner = select(graph, parent, &format!("{above}p"));
        let columns = key.parent_columns.iter().enumerate();
        let columns = columns.map(|(at, name)| format!("{above}p.{} AS k{at}", identifier(name)));
        let columns: Vec<String> = columns.collect();
        // Into a String it cannot fail.
        let _ = write!(
            from,
            " LEFT JOIN (SELECT {}, {} AS owner FROM {}) AS {above} ON {}",
            columns.join(", "),
            inner.owner,
            inner.from,
            matches(alias, key, &above)
        );
        ways.push(format!("{above}.owner"));
    }
    let owner = first_of(&ways);
    Selection { from, owner, ways }
}

/// Adds what a key into the same table leads to, however many steps up.
fn climb(
    graph: &TenantGraph,
    facts: &TableFacts,
    keys: &[ForeignKey],
    key: &ForeignKey,
    alias: &str,
    selection: &mut Selection,
) {
    let inner = direct(graph, facts, keys, "n");
    let list = |names: &[String], prefix: &str| {
        let named = names.iter().enumerate();
        named
            .map(|(at, name)| format!("n.{} AS {prefix}{at}", identifier(name)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (own, up) = (list(&key.parent_columns, "k"), list(&key.columns, "u"));
    let numbered = |prefix: &str, of: &str| {
        let count = 0..key.columns.len();
        count.map(|at| format!("{of}.{prefix}{at}")).collect::<Vec<_>>()
    };
    let nodes = format!("SELECT {own}, {up}, {} AS owner FROM {}", inner.owner, inner.from);
    let step = numbered("u", "c").into_iter().zip(numbered("k", "up"));
    let step: Vec<String> = step.map(|(child, parent)| format!("{child} = {parent}")).collect();
    let above = format!("{alias}_up");
    let _ = write!(
        selection.from,
        " LEFT JOIN (WITH RECURSIVE nodes AS ({nodes}), up AS (SELECT {}, owner FROM nodes WHERE owner IS NOT NULL \
         UNION ALL SELECT {}, up.owner FROM nodes AS c JOIN up ON {} WHERE c.owner IS NULL) SELECT * FROM up) \
         AS {above} ON {}",
        numbered("k", "nodes").join(", "),
        numbered("k", "c").join(", "),
        step.join(" AND "),
        matches(alias, key, &above)
    );
    selection.ways.push(format!("{above}.owner"));
    selection.owner = first_of(&selection.ways);
}

fn matches(alias: &str, key: &ForeignKey, above: &str) -> String {
    let columns = key.columns.iter().enumerate();
    let equal = columns.map(|(at, name)| format!("{alias}.{} = {above}.k{at}", identifier(name)));
    equal.collect::<Vec<_>>().join(" AND ")
}

fn first_of(ways: &[String]) -> String {
    match ways {
        [one] => one.clone(),
        several => format!("COALESCE({})", several.join(", ")),
    }
}

/// The table itself without those that inherit from it; with partitions, where it has some.
fn relation(facts: &TableFacts) -> String {
    let name = qualified(&facts.name.schema, &facts.name.name);
    if facts.partitioned { name } else { format!("ONLY {name}") }
}

/// The condition for rows that belong to two tenants at once, where that can be.
pub fn torn_between(selection: &Selection) -> Option<String> {
    let mut pairs = Vec::new();
    for (at, one) in selection.ways.iter().enumerate() {
        pairs.extend(selection.ways[at + 1..].iter().map(|other| format!("{one} <> {other}")));
    }
    (!pairs.is_empty()).then(|| format!("({})", pairs.join(" OR ")))
}

/// The rows of a shared table that rows of tenants refer to, once for every tenant: a query with the owner as `owner` and
/// the table's row as `t`, to be put behind `FROM`. Nothing where nobody refers to it.
pub fn references(graph: &TenantGraph, shared: &TableFacts, only: &str) -> Option<Selection> {
    let keys: Vec<&ForeignKey> = graph.into_shared().filter(|key| key.parent == shared.name).collect();
    let each = keys.iter().filter_map(|key| {
        let selection = owned(graph, graph.table(&key.child)?);
        let equal = key.columns.iter().zip(&key.parent_columns);
        let equal = equal.map(|(own, theirs)| format!("t.{} = s.{}", identifier(own), identifier(theirs)));
        Some(format!(
            "SELECT {} AS owner, s.tableoid AS relation, s.ctid AS place FROM {} JOIN {} AS s ON {} WHERE {} IS NOT NULL{}",
            selection.owner,
            selection.from,
            relation(shared),
            equal.collect::<Vec<_>>().join(" AND "),
            selection.owner,
            if only.is_empty() { String::new() } else { format!(" AND {} {only}", selection.owner) },
        ))
    });
    let each: Vec<String> = each.collect();
    if each.is_empty() {
        return None;
    }
    let from = format!(
        "({}) AS u JOIN {} AS t ON t.tableoid = u.relation AND t.ctid = u.place",
        // Without doubles, however many rows refer to the same one.
        if each.len() == 1 {
            each.join("").replacen("SELECT ", "SELECT DISTINCT ", 1)
        } else {
            each.join(" UNION ")
        },
        relation(shared)
    );
    Some(Selection { from, owner: "u.owner".to_owned(), ways: Vec::new() })
}

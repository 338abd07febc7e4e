//! A tenant as a new one beside the old (`--as`): its key is another one, and what the database numbers itself is numbered
//! anew, in every row that refers to it as well.

use std::collections::{BTreeMap, BTreeSet};

use super::Restoring;
use crate::model::{Fault, Kind};
use crate::plan::tenants::{Belonging, TableName};
use crate::postgres::quote::{identifier, literal, qualified};

/// Who the rows become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renaming {
    /// The tenant whose rows they were.
    pub from: String,
    /// Whether numbers are drawn from the sequences, as a restore does, or only shown, as a plan does: what was drawn once
    /// is given to nobody else.
    pub draws: bool,
}

/// A column of a table.
type Place = (TableName, String);

/// Which columns hold what is another value afterwards.
#[derive(Debug, Default)]
struct Changes {
    /// The tenant's key.
    tenant: BTreeSet<Place>,
    /// Columns whose values the database makes, in the order of their maps.
    made: Vec<Place>,
    /// Columns that hold such a value, by the number of its map.
    mapped: BTreeMap<Place, usize>,
}

impl Restoring<'_> {
    /// Rewrites what is staged. To be called between the staging of all tables and the comparison.
    pub(super) async fn rename(&self, renaming: &Renaming) -> anyhow::Result<()> {
        let changes = self.changes()?;
        for (number, (table, column)) in changes.made.iter().enumerate() {
            self.map(number, table, column, renaming.draws).await?;
        }
        for side in &self.sides {
            let action = format!("give the rows of {} their new keys", side.name);
            let raw = format!("pg_temp.pgkeep_raw_{}", side.number);
            for column in &side.common {
                let place = (side.name.clone(), column.clone());
                let column = identifier(column);
                let sql = if changes.tenant.contains(&place) {
                    // One that refers to another tenant's row goes on doing so.
                    let (old, new) = (literal(&renaming.from), self.id());
                    format!(
                        "UPDATE {raw} SET {column} = {new} WHERE {column} = {old}::{}",
                        self.graph.key_type
                    )
                } else if let Some(map) = changes.mapped.get(&place) {
                    format!(
                        "UPDATE {raw} AS r SET {column} = m.new FROM pg_temp.pgkeep_map_{map} AS m WHERE r.{column} = m.old"
                    )
                } else {
                    continue;
                };
                self.server.run(&action, &sql).await?;
            }
        }
        Ok(())
    }

    fn changes(&self) -> anyhow::Result<Changes> {
        let mut changes = Changes::default();
        for side in &self.sides {
            let Some(table) = self.graph.table(&side.name) else { continue };
            if let Belonging::Tenant(column) | Belonging::Column(column) = &table.belonging {
                changes.tenant.insert((side.name.clone(), column.clone()));
            }
        }
        self.named_alike(&mut changes.tenant);
        self.follow(|child, parent| {
            Ok(changes.tenant.contains(parent) && changes.tenant.insert(child.clone()))
        })?;
        for side in &self.sides {
            let Some(table) = self.graph.table(&side.name) else { continue };
            for column in table.facts.columns.iter().filter(|column| side.common.contains(&column.name)) {
                let place = (side.name.clone(), column.name.clone());
                let is_key = table.facts.keys.iter().any(|key| key.contains(&column.name));
                let is_made = match column.base_type.as_str() {
                    // Also where no key says that a number is there once only: nobody means it to be there twice.
                    "smallint" | "integer" | "bigint" | "numeric" => column.numbered,
                    "uuid" => column.has_default && is_key,
                    _ => false,
                };
                if is_made && !changes.tenant.contains(&place) && !self.refers(&place) {
                    changes.mapped.insert(place.clone(), changes.made.len());
                    changes.made.push(place);
                }
            }
        }
        let (tenant, mapped) = (&changes.tenant, &mut changes.mapped);
        self.follow(|child, parent| {
            let Some(map) = mapped.get(parent).copied().filter(|_| !tenant.contains(child)) else {
                return Ok(false);
            };
            match mapped.insert(child.clone(), map) {
                None => Ok(true),
                Some(known) if known == map => Ok(false),
                Some(_) => {
                    let (table, column) = child;
                    let message = format!("{table}.{column} refers to two tables that are numbered anew");
                    Fault::new(Kind::Refused, message)
                        .hint("Nothing was changed. The tenant can't be made a second time in this database.")
                        .err()
                }
            }
        })?;
        Ok(changes)
    }

    /// Columns that hold the tenant's key although something else decides whose their rows are: they bear the name of one
    /// that decides elsewhere, and its type.
    fn named_alike(&self, tenant: &mut BTreeSet<Place>) {
        let type_of = |(table, column): &Place| {
            let facts = self.graph.table(table).and_then(|it| it.facts.column(column))?;
            let is_integer = ["smallint", "integer", "bigint"].contains(&facts.base_type.as_str());
            Some(if is_integer { "integer" } else { facts.base_type.as_str() })
        };
        let deciding: BTreeSet<(String, Option<&str>)> = self
            .graph
            .tables
            .iter()
            .filter_map(|table| match &table.belonging {
                Belonging::Column(column) => {
                    let place = (table.facts.name.clone(), column.clone());
                    Some((column.clone(), type_of(&place)))
                }
                _ => None,
            })
            .collect();
        for side in &self.sides {
            for column in &side.common {
                let place = (side.name.clone(), column.clone());
                if deciding.contains(&(column.clone(), type_of(&place))) {
                    tenant.insert(place);
                }
            }
        }
    }

    /// Whether the column is part of a foreign key into a table of tenants.
    fn refers(&self, (table, column): &Place) -> bool {
        self.graph.foreign_keys.iter().any(|key| {
            key.child == *table && key.columns.contains(column) && self.graph.table(&key.parent).is_some()
        })
    }

    /// Goes along all foreign keys between the tenants' tables, from column to column, until `step` learns nothing more.
    fn follow(&self, mut step: impl FnMut(&Place, &Place) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        loop {
            let mut learnt = false;
            for key in self.graph.foreign_keys.iter().filter(|key| self.graph.table(&key.parent).is_some()) {
                for (own, theirs) in key.columns.iter().zip(&key.parent_columns) {
                    learnt |= step(&(key.child.clone(), own.clone()), &(key.parent.clone(), theirs.clone()))?;
                }
            }
            if !learnt {
                return Ok(());
            }
        }
    }

    /// Makes a new value for each of the column's.
    async fn map(&self, number: usize, table: &TableName, column: &str, draws: bool) -> anyhow::Result<()> {
        let Some(side) = self.sides.iter().find(|side| side.name == *table) else { return Ok(()) };
        let facts = self.graph.table(table).and_then(|it| it.facts.column(column));
        let numbered = facts.is_some_and(|it| it.numbered);
        let (name, quoted) = (qualified(&table.schema, &table.name), identifier(column));
        let new = if numbered && !draws {
            // As they would be, or where there is no room behind the last one, before the first.
            let most = match facts.map(|it| it.base_type.as_str()) {
                Some("smallint") => i64::from(i16::MAX),
                Some("integer") => i64::from(i32::MAX),
                _ => i64::MAX,
            };
            format!(
                "(SELECT CASE WHEN coalesce(max({quoted}), 0) < {most} - (SELECT count(*) FROM pg_temp.pgkeep_raw_{raw}) \
                 THEN coalesce(max({quoted}), 0) + r.place ELSE least(min({quoted}), 0) - r.place END FROM {name})",
                raw = side.number
            )
        } else {
            self.default_of(table, column).await?
        };
        let sql = format!(
            "CREATE TEMP TABLE pgkeep_map_{number} ON COMMIT DROP AS SELECT r.old, {new} AS new \
             FROM (SELECT v.old, row_number() OVER (ORDER BY v.old) AS place \
                   FROM (SELECT DISTINCT {quoted} AS old FROM pg_temp.pgkeep_raw_{}) AS v ORDER BY 1) AS r; \
             ANALYZE pg_temp.pgkeep_map_{number}",
            side.number
        );
        self.server.run(&format!("number the rows of {table} anew"), &sql).await
    }

    /// What the column gets when a row does not say, as SQL: of an identity the next number.
    async fn default_of(&self, table: &TableName, column: &str) -> anyhow::Result<String> {
        let (name, column) = (literal(&qualified(&table.schema, &table.name)), literal(column));
        let sql = format!(
            "SELECT CASE WHEN a.attidentity <> '' THEN format('nextval(%L::regclass)', pg_get_serial_sequence({name}, {column})) \
                         ELSE pg_get_expr(d.adbin, d.adrelid) END \
             FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
             WHERE a.attrelid = {name}::regclass AND a.attname = {column}"
        );
        let row = self.server.query_one(&format!("ask how {table} numbers its rows"), &sql, &[]).await?;
        row.get::<_, Option<String>>(0).ok_or_else(|| {
            Fault::new(Kind::Refused, format!("{table}: column {column} has no default any more")).into()
        })
    }
}

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
                    format!("UPDATE {raw} SET {column} = {new} WHERE {column}::text = {old}")
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
        self.follow(|child, parent| {
            Ok(changes.tenant.contains(parent) && changes.tenant.insert(child.clone()))
        })?;
        for side in &self.sides {
            let Some(table) = self.graph.table(&side.name) else { continue };
            for column in table.facts.columns.iter().filter(|column| side.common.contains(&column.name)) {
                let place = (side.name.clone(), column.name.clone());
                let is_made = column.numbered || (column.base_type == "uuid" && column.has_default);
                let is_key = table.facts.keys.iter().any(|key| key.contains(&column.name));
                if is_made && is_key && !changes.tenant.contains(&place) && !self.refers(&place) {
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
        let name = qualified(&table.schema, &table.name);
        let numbered =
            self.graph.table(table).and_then(|it| it.facts.column(column)).is_some_and(|it| it.numbered);
        let new = match (numbered, draws) {
            (false, _) => "gen_random_uuid()".to_owned(),
            (true, true) => {
                format!("nextval(pg_get_serial_sequence({}, {})::regclass)", literal(&name), literal(column))
            }
            (true, false) => format!(
                "(SELECT coalesce(max({}), 0) FROM {name}) + row_number() OVER ()",
                identifier(column)
            ),
        };
        let sql = format!(
            "CREATE TEMP TABLE pgkeep_map_{number} ON COMMIT DROP AS SELECT r.old, {new} AS new \
             FROM (SELECT {} AS old FROM pg_temp.pgkeep_raw_{} ORDER BY 1) AS r; ANALYZE pg_temp.pgkeep_map_{number}",
            identifier(column),
            side.number
        );
        self.server.run(&format!("number the rows of {table} anew"), &sql).await
    }
}

//! One tenant's rows, put back among those of others: in one transaction on the server, in which the rows of then are laid
//! beside those of now, compared, and only what differs is written.
//!
//! Nobody else waits for it: no table is locked, and no row that is not written. Triggers and foreign keys are switched
//! off for this session's transaction alone (`session_replication_role`), because what they would do has been done when the
//! rows were first written; so that no reference is left open, this checks them itself before it commits.

pub mod alone;
mod apply;
mod checks;
mod compare;
mod rename;
mod stage;

use std::collections::BTreeMap;
use std::io::Read;

use serde::Serialize;

use crate::format::tenant::{Tenant, TenantTable};
use crate::model::{Fault, Kind};
use crate::plan::tenants::{TableName, TenantGraph};
use crate::postgres::Server;
use crate::postgres::quote::{identifier, literal};
use crate::postgres::tenants::{self, Selection};

pub use apply::{Applied, Proven};
pub use rename::Renaming;

/// What is done with rows of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They become exactly those of the backup.
    Full,
    /// They stay; what is missing is added.
    Merge {
        /// Rows that differ become those of the backup.
        take: bool,
    },
}

/// What would happen to one table, in rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TablePlan {
    /// The table.
    pub table: String,
    /// Rows that are in the backup and not there.
    pub insert: u64,
    /// Rows that differ and become those of the backup.
    pub update: u64,
    /// Rows that are not in the backup and go.
    pub delete: u64,
    /// Rows that stay as they are: the same, or in merge mode different or newer.
    pub left: u64,
    /// What can't be done, and why: a sentence each.
    pub conflicts: Vec<String>,
    /// What is different about the table itself.
    pub drift: Vec<String>,
    /// Some of the rows, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

/// One table of the backup and of the database.
struct Side {
    /// Names the temporary tables of this table.
    number: usize,
    name: TableName,
    partitioned: bool,
    /// The columns that both have.
    common: Vec<String>,
    /// Columns that only the database has: rows that are replaced keep what they hold.
    only_now: Vec<String>,
    /// Of the key by which rows are told apart; empty: by all they hold.
    key: Vec<String>,
    selection: Selection,
    drift: Vec<String>,
}

impl Side {
    fn then(&self) -> String {
        format!("pg_temp.pgkeep_then_{}", self.number)
    }

    fn now(&self) -> String {
        format!("pg_temp.pgkeep_now_{}", self.number)
    }

    fn relation(&self) -> String {
        let name = crate::postgres::quote::qualified(&self.name.schema, &self.name.name);
        if self.partitioned { name } else { format!("ONLY {name}") }
    }

    fn columns(&self, alias: &str) -> String {
        list(&self.common, alias)
    }

    /// The text by which a row is found again on the other side.
    fn key_of(&self, alias: &str) -> String {
        if self.key.is_empty() {
            let row = self.row_of(alias);
            return format!("{row} || '#' || row_number() OVER (PARTITION BY {row})");
        }
        format!("ROW({})::text", list(&self.key, alias))
    }

    /// All that both sides know of a row, as text: some types have no equality.
    fn row_of(&self, alias: &str) -> String {
        format!("ROW({})::text", self.columns(alias))
    }
}

/// So many rows, in words.
fn rows(count: i64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

fn list(names: &[String], alias: &str) -> String {
    names.iter().map(|name| format!("{alias}.{}", identifier(name))).collect::<Vec<_>>().join(", ")
}

/// A restore of one tenant inside a transaction.
pub struct Restoring<'a> {
    server: &'a Server,
    graph: &'a TenantGraph,
    tenant: Tenant,
    mode: Mode,
    renaming: Option<Renaming>,
    sides: Vec<Side>,
    /// What the server had counted when the transaction began.
    baseline: [i64; 5],
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Reads one table's lines.
pub type Lines<'a> = Box<dyn Read + Send + 'a>;

impl<'a> Restoring<'a> {
    /// Begins the transaction and sees that nobody else restores this tenant. With a renaming `tenant` bears the new key.
    pub async fn begin(
        server: &'a Server,
        graph: &'a TenantGraph,
        tenant: Tenant,
        mode: Mode,
        renaming: Option<Renaming>,
    ) -> anyhow::Result<Restoring<'a>> {
        server.run("begin the transaction", "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        let lock = format!(
            "SELECT pg_try_advisory_xact_lock(hashtextextended({}, 20261125))",
            literal(&format!("pgkeep tenant {} {}", graph.root, tenant.id))
        );
        let row = server.query_one("take the tenant's turn", &lock, &[]).await?;
        if !row.get::<_, bool>(0) {
            return Fault::new(
                Kind::Locked,
                format!("another restore of tenant \"{}\" is under way", tenant.id),
            )
            .hint("Wait for it to end.")
            .err();
        }
        let (sides, warnings) = (Vec::new(), Vec::new());
        let mut restoring = Self { server, graph, tenant, mode, renaming, sides, baseline: [0; 5], warnings };
        // First of all: what audits the making of tables would write, too.
        restoring.suspend().await?;
        restoring.sides = restoring.match_tables()?;
        restoring.refuse_unchecked().await?;
        restoring.baseline = restoring.counters().await?;
        Ok(restoring)
    }

    /// The tenant's tables of both sides; refuses what can't be brought together.
    fn match_tables(&mut self) -> anyhow::Result<Vec<Side>> {
        let mut sides = Vec::new();
        for (number, then) in self.tenant.tables.iter().enumerate() {
            let name = TableName::new(&then.schema, &then.name);
            let Some(table) = self.graph.table(&name) else {
                if then.rows == 0 {
                    self.warnings
                        .push(format!("{name} is no tenants' table any more; there are no rows for it"));
                    continue;
                }
                let message = format!(
                    "the backup has {} rows of {name}, which is gone or holds no tenants' rows any more",
                    then.rows
                );
                return Fault::new(Kind::Refused, message)
                    .hint("Restore into a copy of the database as it was (`restore ... --to-database`), and move the rows by hand.")
                    .err();
            };
            let (mut common, mut drift) = (Vec::new(), Vec::new());
            for column in &then.columns {
                match table.facts.column(&column.name) {
                    None => drift.push(format!("column {} is gone: its values are left out", column.name)),
                    Some(now) if now.generated => {
                        drift.push(format!("column {} is computed now", column.name));
                    }
                    Some(now) => {
                        if now.type_name != column.type_name {
                            let (was, is) = (&column.type_name, &now.type_name);
                            drift.push(format!(
                                "column {} was {was} and is {is}: values are converted",
                                column.name
                            ));
                        }
                        common.push(column.name.clone());
                    }
                }
            }
            let known = |name: &String| then.columns.iter().any(|column| column.name == *name);
            let added = table.facts.columns.iter().filter(|column| !column.generated && !known(&column.name));
            let mut only_now = Vec::new();
            for column in added {
                if column.not_null && !column.has_default && then.rows > 0 {
                    let message = format!(
                        "{name} has got a column {} since, which must have a value and has no default",
                        column.name
                    );
                    return Fault::new(Kind::Refused, message)
                        .hint("Give it a default for the time of the restore.")
                        .err();
                }
                drift.push(format!("column {} is new: rows that come back get its default", column.name));
                only_now.push(column.name.clone());
            }
            let usable = |key: &&Vec<String>| key.iter().all(|column| common.contains(column));
            let key = table.facts.keys.iter().find(usable).cloned().unwrap_or_default();
            sides.push(Side {
                number,
                name,
                partitioned: table.facts.partitioned,
                common,
                only_now,
                key,
                selection: tenants::owned(self.graph, table),
                drift,
            });
        }
        let new =
            self.graph.tables.iter().filter(|table| !sides.iter().any(|side| side.name == table.facts.name));
        self.warnings.extend(new.map(|table| {
            format!("{} did not exist when the backup was made: its rows are left alone", table.facts.name)
        }));
        Ok(sides)
    }

    /// Refuses tables with constraints that nobody would check.
    async fn refuse_unchecked(&self) -> anyhow::Result<()> {
        let mut found: Vec<String> = Vec::new();
        for (table, why) in tenants::unchecked(self.server).await? {
            if self.sides.iter().any(|side| side.name == table) {
                found.push(format!("{table}: {why}"));
            }
        }
        for key in &self.graph.foreign_keys {
            let Some(side) = self.sides.iter().find(|side| side.name == key.child) else { continue };
            let facts = self.graph.table(&side.name).map(|table| &table.facts);
            let column = |name: &String| facts.and_then(|facts| facts.column(name));
            let unsure = |name: &String| {
                !side.common.contains(name) && column(name).is_some_and(|it| it.generated || it.has_default)
            };
            if key.columns.iter().any(unsure) {
                found.push(format!(
                    "{}: the backup does not know the columns of its foreign key {}",
                    side.name, key.name
                ));
            }
        }
        for key in &self.graph.foreign_keys {
            let Some(side) = self.sides.iter().find(|side| side.name == key.parent) else { continue };
            if !key
                .parent_columns
                .iter()
                .all(|name| side.common.contains(name) || side.only_now.contains(name))
            {
                found.push(format!(
                    "{}: a computed column is referred to by {} of {}",
                    side.name, key.name, key.child
                ));
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        let message = format!("a tenant's rows can't be checked once they are back: {}", found.join("; "));
        Fault::new(Kind::Refused, message)
            .hint("Nothing was changed. Restore into a copy of the database (`restore ... --to-database`), and move the rows by hand.")
            .err()
    }

    fn id(&self) -> String {
        format!("{}::{}", literal(&self.tenant.id), self.graph.key_type)
    }

    /// Gives everything up.
    pub async fn abandon(self) -> anyhow::Result<()> {
        self.server.run("end the transaction", "ROLLBACK").await
    }

    fn table_of_backup(&self, side: &Side) -> Option<&TenantTable> {
        self.tenant.tables.get(side.number)
    }

    /// Plans by table, in the order of the backup.
    async fn counted(&self, sql: impl Fn(&Side) -> String) -> anyhow::Result<BTreeMap<usize, Vec<i64>>> {
        let mut counts = BTreeMap::new();
        for side in &self.sides {
            let row =
                self.server.query_one(&format!("compare the rows of {}", side.name), &sql(side), &[]).await?;
            counts.insert(side.number, (0..row.len()).map(|at| row.get(at)).collect());
        }
        Ok(counts)
    }
}

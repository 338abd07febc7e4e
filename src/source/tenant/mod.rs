//! Rows of tenants that share tables: each table is read once, with `COPY`, whatever the number of tenants, and its rows
//! are laid into a spool from which every tenant's own can be taken.

mod spool;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use tokio::task::JoinSet;

use crate::format::tenant::{TenantColumn, TenantTable};
use crate::model::{Bytes, ConnectionSettings, Fault, Kind, Stage, TenantRules, Timestamp};
use crate::plan::tenants::{self as plan, TableFacts, TableName, TenantGraph};
use crate::postgres::quote::{identifier, literal};
use crate::postgres::snapshot::{self, ExportedSnapshot};
use crate::postgres::tenants::{self, Selection};
use crate::postgres::{Server, facts};
use crate::system::{Step, Stop, durable, space, step};

pub use spool::{Spool, TenantContents, TenantRows, pack};
use spool::{SpooledTable, Spooling};

/// Room that must be left in the scratch directory.
const LEAST_ROOM: u64 = 64 << 20;
/// Where and how to read.
#[derive(Debug, Clone)]
pub struct TenantPlan {
    /// How to reach the server.
    pub connection: ConnectionSettings,
    /// The database.
    pub database: String,
    /// How many tables are read at the same time.
    pub jobs: usize,
    /// A directory of this run's own.
    pub scratch: PathBuf,
    /// What the settings say.
    pub rules: TenantRules,
}

/// Which tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All that there are.
    All,
    /// Those with these keys.
    These(Vec<String>),
}

/// A database at one instant, of which tenants are going to be read.
#[derive(Debug)]
pub struct TenantSource {
    plan: TenantPlan,
    snapshot: ExportedSnapshot,
    graph: TenantGraph,
    everybody: bool,
    ids: Vec<String>,
    /// The server's system identifier.
    pub system_identifier: u64,
    /// The instant.
    pub consistent_at: Timestamp,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Decides what is whose in the database that the connection is to; an error when a setting has to say more.
pub async fn graph_of(server: &Server, rules: &TenantRules) -> anyhow::Result<TenantGraph> {
    let facts = tenants::facts(server).await?;
    let graph = plan::graph(&facts, rules).map_err(|why| {
        Fault::new(Kind::Settings, format!("find the tenants in \"{}\": {why}", server.endpoint().database))
            .hint("Set TENANT_COLUMN, TENANT_TABLE and TENANT_TABLES; the README's section on tenants explains them.")
    })?;
    Ok(graph)
}

/// Refuses to go on while it is not known whose the rows of some table are.
pub fn refuse_undecided(graph: &TenantGraph) -> anyhow::Result<()> {
    if graph.undecided.is_empty() {
        return Ok(());
    }
    let tables = graph.undecided.iter().map(|undecided| format!("{}: {}", undecided.table, undecided.why));
    let message = format!(
        "whose the rows of some tables are cannot be told: {}",
        tables.collect::<Vec<_>>().join("; ")
    );
    Fault::new(Kind::Refused, message)
        .hint("Nothing is guessed about tenants: decide in TENANT_TABLES; `pgkeep check` shows all tables.")
        .err()
}

impl TenantSource {
    /// Connects, finds the tenants and their tables, and holds on to the instant.
    pub async fn open(plan: TenantPlan, wanted: &Wanted, stop: &Stop) -> anyhow::Result<Self> {
        let server = Server::connect(&plan.connection, Some(&plan.database), stop).await?;
        let snapshot = snapshot::export(server).await?;
        let server = &snapshot.server;
        let asking = async {
            let graph = graph_of(server, &plan.rules).await?;
            refuse_undecided(&graph)?;
            let ids = match wanted {
                Wanted::All => tenants::tenants(server, &graph).await?,
                Wanted::These(ids) => tenants::find_tenants(server, &graph, ids).await?,
            };
            let warnings = tenants::uncovered(server, &graph).await?;
            let identifier = facts::system_identifier(server).await?;
            anyhow::Ok((graph, ids, warnings, identifier, facts::transaction_time(server).await?))
        };
        let (graph, ids, warnings, system_identifier, consistent_at) = stop.or(asking).await?;
        step::reached(Step::BackupSnapshot)?;
        let everybody = *wanted == Wanted::All;
        Ok(Self { plan, snapshot, graph, everybody, ids, system_identifier, consistent_at, warnings })
    }

    /// The tenants that will be read.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// About how many bytes there are to read, of everybody's.
    pub fn estimate(&self) -> u64 {
        self.graph.tables.iter().map(|table| table.facts.bytes).sum()
    }

    /// Reads everything that is wanted into the spool.
    pub async fn spool(self, stage: &Arc<Stage>, stop: &Stop) -> anyhow::Result<Spool> {
        self.room()?;
        let directory = self.plan.scratch.join("tenants");
        durable::create_private_dir(&directory)?;
        let only = self.only();
        let tables = self.graph.tables.iter().map(|table| {
            let selection = tenants::owned(&self.graph, table);
            (&table.facts, table.belonging.to_string(), selection, false)
        });
        let references = self.graph.shared.iter().filter_map(|facts| {
            let selection = tenants::references(&self.graph, facts, &only)?;
            Some((facts, "referred to".to_owned(), selection, true))
        });
        let all: Vec<_> = tables.chain(references).collect();
        let mut queue = Vec::with_capacity(all.len());
        for (number, (facts, belonging, selection, is_reference)) in all.into_iter().enumerate() {
            queue.push(Reading {
                number,
                name: facts.name.clone(),
                bytes: facts.bytes,
                sql: copy(facts, &selection, if is_reference { "" } else { &only }),
                torn: tenants::torn_between(&selection).filter(|_| !is_reference).map(|torn| {
                    let mine = if only.is_empty() {
                        String::new()
                    } else {
                        format!(" AND {} {only}", selection.owner)
                    };
                    format!("SELECT count(*) FROM {} WHERE {torn}{mine}", selection.from)
                }),
                path: directory.join(number.to_string()),
                described: described(facts, belonging),
                is_reference,
                everybody: self.everybody,
            });
        }
        // The largest first, so that nobody is left with one when the others are done.
        queue.sort_by_key(|reading| std::cmp::Reverse(reading.bytes));
        let index: Arc<BTreeMap<String, usize>> =
            Arc::new(self.ids.iter().cloned().enumerate().map(|(at, id)| (id, at)).collect());
        let queue = Arc::new(Mutex::new(VecDeque::from(queue)));
        let mut readers = JoinSet::new();
        for _ in 0..self.plan.jobs {
            let (queue, index, stage) = (Arc::clone(&queue), Arc::clone(&index), Arc::clone(stage));
            let (plan, snapshot, stop) = (self.plan.clone(), self.snapshot.id.clone(), stop.clone());
            readers.spawn(async move { read(&queue, &plan, &snapshot, &index, &stage, &stop).await });
        }
        let mut tables = Vec::new();
        let reading = async {
            while let Some(read) = readers.join_next().await {
                tables.extend(read.context("read the tables")??);
            }
            Ok(())
        };
        tokio::select! {
            read = stop.or(reading) => read?,
            lost = self.snapshot.server.lost() => return Err(lost),
        }
        tables.sort_by_key(|table| table.number);
        let postgres_version_num = self.snapshot.server.version_num();
        self.snapshot.close().await?;
        Ok(Spool {
            directory,
            tables,
            ids: self.ids,
            root: self.graph.root,
            root_key: self.graph.root_key,
            database: self.plan.database,
            system_identifier: self.system_identifier,
            consistent_at: self.consistent_at,
            postgres_version_num,
            warnings: self.warnings,
        })
    }

    /// The condition on an owner that it is one of those wanted; empty where all are.
    fn only(&self) -> String {
        if self.everybody {
            return String::new();
        }
        let of = &self.graph.key_type;
        let ids: Vec<String> = self.ids.iter().map(|id| format!("{}::{of}", literal(id))).collect();
        format!("= ANY (ARRAY[{}]::{of}[])", ids.join(", "))
    }

    /// Whether the spool fits into the scratch directory, as far as can be told beforehand.
    fn room(&self) -> anyhow::Result<()> {
        let (scratch, free) = (&self.plan.scratch, space::of(&self.plan.scratch)?.free);
        // Of some tenants only, nobody knows before how much they are.
        let need = LEAST_ROOM + if self.everybody { self.estimate() } else { 0 };
        if free >= need {
            return Ok(());
        }
        let message = format!(
            "the scratch directory {} has {} free, the tenants' rows need {}",
            scratch.display(),
            Bytes(free),
            Bytes(need)
        );
        Fault::new(Kind::Store, message)
            .hint("Make room there, or set BACKUP_SCRATCH_DIR to a directory with more.")
            .err()
    }
}

/// A table that is to be read.
struct Reading {
    number: usize,
    name: TableName,
    bytes: u64,
    sql: String,
    torn: Option<String>,
    path: PathBuf,
    described: TenantTable,
    is_reference: bool,
    everybody: bool,
}

fn copy(facts: &TableFacts, selection: &Selection, only: &str) -> String {
    let columns = facts.columns.iter().filter(|column| !column.generated);
    let columns = columns.map(|column| format!(", t.{}", identifier(&column.name)));
    let only = if only.is_empty() { "IS NOT NULL" } else { only };
    format!(
        "COPY (SELECT ({owner})::text{} FROM {} WHERE {owner} {only}) TO STDOUT",
        columns.collect::<String>(),
        selection.from,
        owner = selection.owner
    )
}

fn described(facts: &TableFacts, belonging: String) -> TenantTable {
    let columns = facts.columns.iter().filter(|column| !column.generated).map(|column| TenantColumn {
        name: column.name.clone(),
        type_name: column.type_name.clone(),
        not_null: column.not_null,
    });
    TenantTable {
        schema: facts.name.schema.clone(),
        name: facts.name.name.clone(),
        belonging,
        columns: columns.collect(),
        key: facts.keys.first().cloned().unwrap_or_default(),
        entry: None,
        rows: 0,
    }
}

/// One connection that reads table after table at the common instant.
async fn read(
    queue: &Mutex<VecDeque<Reading>>,
    plan: &TenantPlan,
    snapshot: &str,
    index: &BTreeMap<String, usize>,
    stage: &Stage,
    stop: &Stop,
) -> anyhow::Result<Vec<SpooledTable>> {
    let server = Server::connect(&plan.connection, Some(&plan.database), stop).await?;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; \
         SET LOCAL extra_float_digits = 3; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; \
         SET LOCAL bytea_output = 'hex'",
        literal(snapshot)
    );
    server.run("take over the snapshot", &begin).await?;
    let mut tables = Vec::new();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(reading) = next else { break };
        stop.check()?;
        if let Some(sql) = &reading.torn {
            refuse_torn(&server, &reading.name, sql).await?;
        }
        let action = format!("read the rows of {}", reading.name);
        let lines = match server.client().copy_out(&reading.sql).await {
            Ok(lines) => lines,
            Err(error) => return Err(server.failed(&action, &error).await),
        };
        let mut lines = Box::pin(lines);
        let mut spooling = Spooling::new(&reading.path, index, reading.everybody)?;
        while let Some(bytes) = lines.next().await {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => return Err(server.failed(&action, &error).await),
            };
            stage.add(bytes.len() as u64);
            spooling.take(&bytes).with_context(|| action.clone())?;
        }
        let (file, rows) = spooling.end().with_context(|| action.clone())?;
        tables.push(SpooledTable {
            number: reading.number,
            file,
            rows,
            described: reading.described,
            is_reference: reading.is_reference,
        });
    }
    server.close().await;
    Ok(tables)
}

async fn refuse_torn(server: &Server, table: &TableName, sql: &str) -> anyhow::Result<()> {
    let row = server.query_one(&format!("look whose the rows of {table} are"), sql, &[]).await?;
    let count: i64 = row.get(0);
    if count == 0 {
        return Ok(());
    }
    let rows = if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
    Fault::new(Kind::Refused, format!("{rows} of {table} belonging to two tenants at once"))
        .hint(format!(
            "Say in TENANT_TABLES which foreign key decides: {table}=via:NAME; `pgkeep check` shows the ways."
        ))
        .err()
}

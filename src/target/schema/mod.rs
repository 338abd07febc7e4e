//! One schema made anew out of a dump, in the database in use and in one transaction: the one that is there gets another
//! name, the dump makes its own and fills it, its rows are counted, and only then both are where they should be, for
//! everybody at once. Until the commit nobody else sees anything of it; after anything but a commit nothing has happened.
//!
//! Whoever works in the schema meanwhile works in the one that is there, and is not held up: renaming a schema locks none of
//! its tables. (A foreign key to a table of another schema is checked at the end, and lets nobody write that table until the
//! commit.) What somebody makes meanwhile that hangs on the schema from outside would go on hanging on the one of before:
//! that is looked for before the commit and, because nobody can be kept from it, once more after it, see `hanging`.

mod hanging;
mod merge;
mod script;
mod selection;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use futures_util::SinkExt as _;
use tokio::io::BufReader;

use crate::format::manifest::Table;
use crate::model::{Fault, FaultContext, Kind, Stage};
use crate::postgres::quote::{identifier, literal};
use crate::postgres::tenants::places;
use crate::postgres::tools::Tool;
use crate::postgres::{Server, child_environment, facts, sqlstate};
use crate::system::Stop;
use crate::system::process::{Piped, Running};

use super::database::{LoadPlan, restorer};
use script::{Piece, Script, is_for_others, not_utf8, statements};

pub use hanging::made_meanwhile;
pub use selection::{Selection, select};

/// The first of the two numbers of the lock that a restore of a schema holds: `pgke`.
const LOCK: i32 = 0x7067_6b65;
/// How long the next run waits for a transaction to end whose client is gone.
const PATIENCE: &str = "60s";

/// An unpacked dump and the program that reads it.
#[derive(Debug, Clone)]
pub struct Dump {
    directory: PathBuf,
    pg_restore: Tool,
    environment: Vec<(OsString, OsString)>,
}

impl Dump {
    /// A dump in this directory, to be restored into the database that the connection is to.
    pub fn new(server: &Server, directory: PathBuf, load: &LoadPlan) -> anyhow::Result<Self> {
        let pg_restore = restorer(server, &directory, load.bindir.as_deref())?;
        let environment = child_environment(&load.connection, Some(&server.endpoint().database))?;
        Ok(Self { directory, pg_restore, environment })
    }
}

/// What becomes what.
#[derive(Debug, Clone)]
pub struct SchemaPlan {
    /// The name of the schema in the dump.
    pub dumped_as: String,
    /// The name that it gets.
    pub becomes: String,
    /// The name under which the schema is kept that has this name now; nothing where there is none.
    pub keep_as: Option<String>,
    /// A name that nobody has, for what is in the way for the time of the restore.
    pub aside: String,
    /// Another, for a schema whose rows are merged into that of now.
    pub beside: String,
    /// Of the dump, what is the schema's, if it holds more.
    pub list: Option<PathBuf>,
    /// The tables and how many rows each has.
    pub tables: Vec<Table>,
    /// Constraints and indexes of the dumped database that were not valid.
    pub not_valid: Vec<String>,
}

/// A schema that is made, and not committed.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Its number, by which it is known whatever its name is.
    pub oid: u32,
    /// Rows in all tables, counted.
    pub rows: u64,
    /// Foreign keys, which the server has checked.
    pub foreign_keys: u64,
    /// Functions that name the schema by the name that it had in the dump, where it gets another.
    pub naming: Vec<String>,
}

/// A transaction in which a schema is put into another's place.
#[derive(Debug)]
pub struct Replacing<'a> {
    server: &'a Server,
    load: &'a LoadPlan,
    plan: &'a SchemaPlan,
}

/// Waits until nobody is replacing this schema any more: also a client that was killed may have a commit under way.
pub async fn wait_for_others(server: &Server, schema: &str) -> anyhow::Result<()> {
    let action = format!("wait for the restore of schema \"{schema}\"");
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = {}; SELECT pg_advisory_xact_lock({LOCK}, hashtext({})); COMMIT",
        literal(PATIENCE),
        literal(schema)
    );
    server.run(&action, &sql).await
}

impl<'a> Replacing<'a> {
    /// Begins on a connection that is used for nothing else; refused while another run is at the same schema.
    pub async fn begin(server: &'a Server, load: &'a LoadPlan, plan: &'a SchemaPlan) -> anyhow::Result<Self> {
        // Each statement is to see what others have committed until then, whatever the database's default is.
        server.run("begin the restore", "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        let sql = "SELECT pg_try_advisory_xact_lock($1, hashtext($2))";
        let row = server.query_one("take the schema's lock", sql, &[&LOCK, &plan.becomes]).await?;
        if !row.get::<_, bool>(0) {
            let message = format!("the schema \"{}\" is being restored by another run", plan.becomes);
            return Fault::new(Kind::Locked, message).hint("Wait for it to end.").err();
        }
        Ok(Self { server, load, plan })
    }

    /// Puts away what has the names, makes the schema, counts its rows, and gives it its name.
    pub async fn load(&self, dump: &Dump, stage: &Stage, stop: &Stop) -> anyhow::Result<Loaded> {
        let plan = self.plan;
        if let Some(kept) = &plan.keep_as {
            self.rename(&plan.becomes, kept).await?;
        }
        let in_the_way = plan.dumped_as != plan.becomes
            && places::schema_oid(self.server, &plan.dumped_as).await?.is_some();
        if in_the_way {
            self.rename(&plan.dumped_as, &plan.aside).await?;
        }
        self.statements(dump, "pre-data", stop).await?;
        self.rows(dump, stage).await?;
        self.statements(dump, "post-data", stop).await?;
        let mut loaded = self.check().await?;
        if plan.dumped_as != plan.becomes {
            loaded.naming = places::naming(self.server, &plan.dumped_as, &plan.dumped_as).await?;
            self.rename(&plan.dumped_as, &plan.becomes).await?;
        }
        if in_the_way {
            self.rename(&plan.aside, &plan.dumped_as).await?;
        }
        Ok(loaded)
    }

    async fn rename(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let action = format!("rename the schema \"{from}\" to \"{to}\"");
        let sql = format!("ALTER SCHEMA {} RENAME TO {}", identifier(from), identifier(to));
        self.server.run(&action, &sql).await
    }

    fn arguments(&self, dump: &Dump, section: &str, file: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--format=directory".into()];
        arguments.push(format!("--section={section}").into());
        let mut to: OsString = "--file=".into();
        to.push(file);
        arguments.push(to);
        if let Some(list) = &self.plan.list {
            let mut only: OsString = "--use-list=".into();
            only.push(list);
            arguments.push(only);
        }
        if self.load.no_owner {
            arguments.push("--no-owner".into());
        }
        if self.load.no_privileges {
            arguments.push("--no-privileges".into());
        }
        arguments.push(dump.directory.as_os_str().to_owned());
        arguments
    }

    /// A section without rows.
    async fn statements(&self, dump: &Dump, section: &str, stop: &Stop) -> anyhow::Result<()> {
        let path = dump.directory.with_extension(section);
        let arguments = self.arguments(dump, section, &path);
        let running = Running::start(&dump.pg_restore.path, &arguments, &dump.environment).await?;
        let ended = running.wait(stop).await?;
        if !ended.status.success() {
            let message = format!("read the dump's {section}: {}", ended.account());
            return Fault::new(Kind::Postgres, message).hint("Nothing was changed.").err();
        }
        let script = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let script = String::from_utf8(script).map_err(|_| not_utf8())?;
        let action = if section == "pre-data" { "make the schema" } else { "make indexes and constraints" };
        self.server.run(action, &statements(&script, self.server.major())).await.map_err(explain)
    }

    /// The section with rows, as `pg_restore` writes it.
    async fn rows(&self, dump: &Dump, stage: &Stage) -> anyhow::Result<()> {
        let arguments = self.arguments(dump, "data", Path::new("-"));
        let mut piped = Piped::start(&dump.pg_restore.path, &arguments, &dump.environment)?;
        let mut script = Script::new(BufReader::with_capacity(1 << 16, piped.stdout()?));
        let putting = async {
            while let Some(piece) = script.next().await? {
                match piece {
                    Piece::Copy(sql) => self.copy(&sql, &mut script, stage).await?,
                    Piece::Statement(sql) if is_for_others(&sql, self.server.major()) => {}
                    Piece::Statement(sql) => {
                        self.server.run("bring the rows back", &sql).await.map_err(explain)?;
                    }
                }
            }
            anyhow::Ok(())
        };
        let put = putting.await;
        // A script that ends before its end, because the program failed, says less than the program.
        let is_cut = put
            .as_ref()
            .err()
            .is_none_or(|error| error.downcast_ref::<Fault>().is_some_and(|it| it.kind == Kind::Damaged));
        if is_cut {
            drop(script);
            piped.end().await.or_fault(|| {
                Fault::new(Kind::Postgres, "read the dump's rows").hint("Nothing was changed.")
            })?;
        }
        put
    }

    async fn copy<R: tokio::io::AsyncBufRead + Unpin>(
        &self,
        sql: &str,
        script: &mut Script<R>,
        stage: &Stage,
    ) -> anyhow::Result<()> {
        let action = format!("bring rows back: {}", sql.lines().next().unwrap_or_default());
        let sink = match self.server.client().copy_in(sql).await {
            Ok(sink) => sink,
            Err(error) => return Err(explain(self.server.failed(&action, &error).await)),
        };
        let mut sink = Box::pin(sink);
        while let Some(lines) = script.lines().await? {
            stage.add(lines.len() as u64);
            if let Err(error) = sink.send(std::io::Cursor::new(lines)).await {
                return Err(explain(self.server.failed(&action, &error).await));
            }
        }
        match sink.as_mut().finish().await {
            Ok(_) => Ok(()),
            Err(error) => Err(explain(self.server.failed(&action, &error).await)),
        }
    }

    /// Counts the rows of every table and looks for constraints and indexes that are not valid and were.
    async fn check(&self) -> anyhow::Result<Loaded> {
        let (server, schema) = (self.server, &self.plan.dumped_as);
        let Some(oid) = places::schema_oid(server, schema).await? else {
            return Fault::new(Kind::Damaged, format!("the dump has made no schema \"{schema}\""))
                .hint("Nothing was changed. Restore another backup (`pgkeep list`).")
                .err();
        };
        let mut loaded = Loaded { oid, ..Loaded::default() };
        let mut findings = Vec::new();
        for table in &self.plan.tables {
            let rows = facts::count_rows(server, table).await?;
            loaded.rows += rows;
            if rows != table.rows && !(table.of_extension && rows > table.rows) {
                let name = format!("{}.{}", table.schema, table.name);
                findings.push(format!("table {name} has {rows} rows, the backup has {}", table.rows));
            }
        }
        let of_schema = [format!("constraint {schema}."), format!("index {schema}.")];
        let unproven = facts::unproven(server).await?.names().into_iter();
        findings.extend(
            unproven
                .filter(|name| of_schema.iter().any(|begins| name.starts_with(begins)))
                .filter(|name| !self.plan.not_valid.contains(name))
                .map(|name| format!("{name} is not valid")),
        );
        if !findings.is_empty() {
            let message = format!("check schema \"{schema}\": {}", findings.join("; "));
            return Fault::new(Kind::Damaged, message)
                .hint("Nothing was replaced. Restore another backup (`pgkeep list`), and report this one.")
                .err();
        }
        let sql = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND connamespace = $1";
        let row = server.query_one("count the foreign keys", sql, &[&oid]).await?;
        loaded.foreign_keys = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        Ok(loaded)
    }

    /// Makes it so. After an error that says that the connection was lost, nobody knows whether it is.
    pub async fn commit(self) -> anyhow::Result<()> {
        self.server.run("put the schema into its place", "COMMIT").await
    }
}

/// Says what is usually behind what the server does not take.
fn explain(mut error: anyhow::Error) -> anyhow::Error {
    use tokio_postgres::error::SqlState;
    const NEEDED: [SqlState; 4] = [
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::INVALID_SCHEMA_NAME,
    ];
    let is_role = format!("{error:#}").contains("role");
    let hint = match sqlstate(&error) {
        Some(code) if *code == SqlState::UNDEFINED_OBJECT && is_role => {
            "Nothing was changed. Create the role, or restore with `--no-owner --no-privileges`."
        }
        Some(code) if NEEDED.contains(code) => {
            "Nothing was changed. The schema needs something of another schema or of an extension that is not there now: \
             bring that back first."
        }
        Some(code) if *code == SqlState::FOREIGN_KEY_VIOLATION => {
            "Nothing was changed. Rows of another schema that the tenant's refer to are not there now: bring them back \
             first."
        }
        _ => return error,
    };
    if let Some(fault) = error.downcast_mut::<Fault>() {
        fault.hint = Some(hint.to_owned());
    }
    error
}

/// Drops a schema that was replaced, and everything in it. What hangs on it from outside was made since the plan, and must not
/// go with it.
pub async fn drop_kept(server: &Server, name: &str) -> anyhow::Result<()> {
    let action = format!("drop the schema \"{name}\"");
    let hanging = places::hanging_on(server, name).await?;
    if !hanging.is_empty() {
        return Fault::new(Kind::Refused, format!("{action}: {} hangs on it", hanging.join(", ")))
            .hint("Drop or change what hangs on it, then the schema.")
            .err();
    }
    server.run(&action, &format!("DROP SCHEMA {} CASCADE", identifier(name))).await
}

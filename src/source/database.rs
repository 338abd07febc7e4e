//! One database, read with `pg_dump` in directory format under a snapshot that pgkeep holds.

mod directory;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::spawn_blocking;

use super::tail::{Tail, TailedFile, WriterState, can_punch, is_contents};
use crate::format::manifest::{Database, Table};
use crate::format::volume::FRAME_BYTES;
use crate::model::{
    Bytes, ConnectionSettings, Counter, Fault, FaultContext, Kind, Progress, Stage, Timestamp,
};
use crate::pipeline::{FinishedEntry, Framer};
use crate::postgres::facts::{self, TableFacts};
use crate::postgres::quote::identifier;
use crate::postgres::snapshot::{self, ExportedSnapshot};
use crate::postgres::tools::{self, Tool};
use crate::postgres::waiting::Session;
use crate::postgres::{Server, child_environment, database};
use crate::system::process::{self, Running};
use crate::system::stop::Interrupted;
use crate::system::{Step, Stop, durable, space, step};

/// Room that must be left in the scratch directory before a dump begins.
const LEAST_ROOM: u64 = 64 * 1024 * 1024;
/// How long the server may take to hear that a statement is not wanted any more.
const CANCELLING: Duration = Duration::from_secs(2);

/// Where and how to dump.
#[derive(Debug, Clone)]
pub struct DumpPlan {
    /// How to reach the server.
    pub connection: ConnectionSettings,
    /// How many tables `pg_dump` reads at the same time.
    pub jobs: usize,
    /// A directory of this run's own, on a file system with room.
    pub scratch: PathBuf,
    /// How many bytes may wait there.
    pub scratch_limit: u64,
    /// Where the client programs are, if the settings say so.
    pub bindir: Option<PathBuf>,
}

/// A database at one instant, ready to be dumped: all of it, or one of its schemas.
#[derive(Debug)]
pub struct DatabaseSource {
    plan: DumpPlan,
    instant: Arc<Instant>,
    /// The schema that is dumped; nothing: all of them.
    schema: Option<String>,
    /// What the manifest keeps of the database.
    pub database: Database,
    /// The server's system identifier.
    pub system_identifier: u64,
    /// The instant.
    pub consistent_at: Timestamp,
}

/// The snapshot, and what was asked under it.
#[derive(Debug)]
struct Instant {
    snapshot: ExportedSnapshot,
    session: Session,
    pg_dump: Tool,
    pg_restore: Tool,
    tables: Vec<TableFacts>,
    /// What the user should know of what was read besides.
    warnings: Vec<String>,
}

/// What was read.
#[derive(Debug)]
pub struct DatabaseContents {
    /// The files of the dump with the tables whose rows they hold.
    pub entries: Vec<(FinishedEntry, Option<Box<Table>>)>,
    /// Version of `pg_dump`.
    pub tool_version: String,
    /// The server's version.
    pub postgres_version_num: u32,
    /// What `pg_dump` warned of, such as subscriptions that it left out, and what cannot be kept as it is.
    pub warnings: Vec<String>,
}

impl DatabaseSource {
    /// Connects, exports a snapshot and asks under it for all that the dump does not say itself. Whose lock that has to
    /// wait for is noted.
    pub async fn open(
        name: &str,
        plan: DumpPlan,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let server = Server::connect(&plan.connection, Some(name), stop).await?;
        let major = server.major();
        // Before the snapshot: an old snapshot keeps the server from cleaning up.
        let pg_dump = tools::find("pg_dump", major, plan.bindir.as_deref())?;
        let pg_restore = tools::find("pg_restore", pg_dump.version.major, plan.bindir.as_deref())?;
        let snapshot = snapshot::export(server).await?;
        let server = &snapshot.server;
        let session = Session::of(server).await?;
        let asking = async {
            let system_identifier = facts::system_identifier(server).await?;
            let captured = database::capture(server, name).await?;
            let tables = facts::tables(server).await?;
            let not_valid = facts::unproven(server).await?.names();
            let consistent_at = facts::transaction_time(server).await?;
            let database = Database { properties: captured.properties, not_valid };
            anyhow::Ok((system_identifier, database, captured.altered, tables, consistent_at))
        };
        let waiting = session.say_waits(server, progress, stop, || false);
        let asked = tokio::select! {
            asked = asking => asked,
            () = waiting => Err(Interrupted.into()),
            () = stop.requested() => {
                // It would wait on for a lock, although nobody is left who wants it.
                let _ = tokio::time::timeout(CANCELLING, server.cancel()).await;
                Err(Interrupted.into())
            }
        };
        let (system_identifier, database, altered, tables, consistent_at) = asked?;
        step::reached(Step::BackupSnapshot)?;
        let warnings = altered.iter().map(|text| not_utf8(name, text)).collect();
        let instant = Instant { snapshot, session, pg_dump, pg_restore, tables, warnings };
        let instant = Arc::new(instant);
        Ok(Self { plan, instant, schema: None, database, system_identifier, consistent_at })
    }

    /// One schema of the database, at the same instant, dumped by way of a directory of its own, so many tables at a time.
    #[must_use]
    pub fn of_schema(&self, schema: &str, scratch: PathBuf, jobs: usize) -> Self {
        Self {
            plan: DumpPlan { jobs, scratch, ..self.plan.clone() },
            instant: Arc::clone(&self.instant),
            schema: Some(schema.to_owned()),
            database: self.database.clone(),
            system_identifier: self.system_identifier,
            consistent_at: self.consistent_at,
        }
    }

    /// The connection that holds the instant: what is asked through it belongs to that.
    pub fn server(&self) -> &Server {
        &self.instant.snapshot.server
    }

    /// Lets go of the instant; what was made of it with [`Self::of_schema`] must be gone.
    pub async fn close(self) -> anyhow::Result<()> {
        match Arc::into_inner(self.instant) {
            Some(instant) => instant.snapshot.close().await,
            None => Ok(()),
        }
    }

    /// The tables that are dumped.
    fn tables(&self) -> impl Iterator<Item = &TableFacts> {
        let of_schema =
            |table: &&TableFacts| self.schema.as_ref().is_none_or(|schema| table.schema == *schema);
        self.instant.tables.iter().filter(of_schema)
    }

    /// What is dumped, in words.
    fn name(&self) -> String {
        let database = &self.database.properties.name;
        match &self.schema {
            Some(schema) => format!("schema \"{schema}\" of database \"{database}\""),
            None => format!("database \"{database}\""),
        }
    }

    /// What is going to be used, for those who want to see it.
    pub fn details(&self) -> String {
        format!(
            "dump {} tables with {} ({}) under snapshot {}, scratch {}",
            self.tables().count(),
            self.instant.pg_dump.path.display(),
            self.instant.pg_dump.version.text,
            self.instant.snapshot.id,
            self.plan.scratch.display()
        )
    }

    /// What the tables take on the server's disk: about what will be read.
    pub fn estimate(&self) -> u64 {
        self.tables().map(|table| table.bytes).sum()
    }

    /// Dumps into the pipeline. Succeeds only when `pg_dump` did, the snapshot's connection lived to the end, and
    /// every table's rows are there.
    pub async fn read(
        self,
        mut framer: Framer,
        stage: Stage,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> anyhow::Result<DatabaseContents> {
        let limit = self.room()?;
        let directory = self.plan.scratch.join("dump");
        durable::create_private_dir(&directory)?;
        let state = WriterState::default();
        let mut tail = Tail::watch(&directory, self.plan.jobs, limit, state.clone())?;
        let environment = self.environment()?;
        let read = stage.counter();
        let running =
            Running::start(&self.instant.pg_dump.path, &self.arguments(&directory), &environment).await?;
        tail.regulate(running.group());
        step::reached(Step::BackupDumping)?;

        let tailing = spawn_blocking({
            let stop = stop.clone();
            move || -> anyhow::Result<(Vec<TailedFile>, Framer)> {
                let files = tail.run(&mut framer, &stage, &stop)?;
                Ok((files, framer))
            }
        });
        let dumped = self.dumped(running, &read, progress, stop).await;
        match &dumped {
            Ok(_) => state.succeeded(),
            Err(_) => state.failed(),
        }
        let tailed = tailing.await.context("read the dump")?;
        // Why the dump failed says more than what that did to its reader.
        let mut warnings = self.instant.warnings.clone();
        warnings.extend(dumped?);
        let (files, framer) = tailed?;
        let listing = self.listing(&directory, &environment).await?;
        let entries = {
            let (directory, instant) = (directory.clone(), Arc::clone(&self.instant));
            spawn_blocking(move || finish(&directory, files, framer, &listing, &instant.tables))
                .await
                .context("read the dump")??
        };
        durable::remove_dir_if_there(&directory)?;
        let postgres_version_num = self.server().version_num();
        let tool_version = self.instant.pg_dump.version.text.clone();
        self.close().await?;
        Ok(DatabaseContents { entries, tool_version, postgres_version_num, warnings })
    }

    /// Waits until the program has dumped everything, and returns what it warned of; as long as nothing is `read`, notes
    /// whose lock it waits for.
    async fn dumped(
        &self,
        running: Running,
        read: &Counter,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> anyhow::Result<Vec<String>> {
        // It takes all its locks before it reads the first row.
        let waiting = self.instant.session.say_waits(self.server(), progress, stop, || read.done() > 0);
        let ended = tokio::select! {
            ended = running.wait(stop) => ended?,
            lost = self.server().lost() => return Err(lost),
            never = forever(waiting) => match never {},
        };
        if !ended.status.success() {
            return Err(dump_failed(&self.name(), &self.plan.scratch, &ended).into());
        }
        Ok(ended.warnings())
    }

    /// How many bytes may wait in the scratch directory, or why it has not enough room.
    fn room(&self) -> anyhow::Result<u64> {
        let scratch = &self.plan.scratch;
        let free = space::of(scratch)?.free;
        // Each of `pg_dump`'s writers may have most of a frame lying there that can't go on its way yet.
        let least = (4 * FRAME_BYTES * (self.plan.jobs + 1)) as u64;
        let limit = self.plan.scratch_limit.min(free / 2).max(least);
        let punches = can_punch(scratch).or_fault(|| {
            Fault::new(Kind::Store, format!("write to the scratch directory {}", scratch.display()))
        })?;
        let mut sizes: Vec<u64> = self.tables().map(|table| table.bytes).collect();
        sizes.sort_unstable_by(|left, right| right.cmp(left));
        let need = if punches {
            least.max(LEAST_ROOM).min(self.estimate() * 2 + LEAST_ROOM)
        } else {
            // What is being written can't shrink before it is whole: the largest tables lie there as a whole.
            sizes.iter().take(self.plan.jobs).sum::<u64>() + LEAST_ROOM
        };
        if free < need {
            return Fault::new(
                Kind::Store,
                format!(
                    "the scratch directory {} has {} free, the dump needs {}",
                    scratch.display(),
                    Bytes(free),
                    Bytes(need)
                ),
            )
            .hint("Make room there, or set BACKUP_SCRATCH_DIR to a directory with more.")
            .err();
        }
        Ok(limit)
    }

    /// The program's environment; its sessions are to be known as this source's.
    fn environment(&self) -> anyhow::Result<Vec<(OsString, OsString)>> {
        let name = &self.database.properties.name;
        let mut environment = child_environment(&self.plan.connection, Some(name))?;
        environment.retain(|(name, _)| name != "PGAPPNAME");
        environment.push(("PGAPPNAME".into(), self.instant.session.application().into()));
        Ok(environment)
    }

    fn arguments(&self, directory: &Path) -> Vec<OsString> {
        // The pipeline compresses, and the volumes are flushed: pg_dump need not.
        let mut arguments: Vec<OsString> =
            ["--format=directory", "--compress=0", "--no-sync", "--no-password"].map(Into::into).into();
        arguments.push(format!("--jobs={}", self.plan.jobs).into());
        arguments.push(format!("--snapshot={}", self.instant.snapshot.id).into());
        if let Some(schema) = &self.schema {
            // A pattern, in which nothing but a doubled quote means anything between quotes.
            arguments.push(format!("--schema={}", identifier(schema)).into());
            if self.database.properties.encoding != "SQL_ASCII" {
                // Its statements are read by this program, too.
                arguments.push("--encoding=UTF8".into());
            }
        }
        let mut file = OsString::from("--file=");
        file.push(directory);
        arguments.push(file);
        arguments
    }

    /// Out of the dump's own table of contents, which file (by its dump id) holds the rows of which table (by its oid).
    async fn listing(
        &self,
        directory: &Path,
        environment: &[(OsString, OsString)],
    ) -> anyhow::Result<Vec<(u32, u32)>> {
        let arguments = ["--list".into(), directory.as_os_str().to_owned()];
        process::pick_lines(&self.instant.pg_restore.path, &arguments, environment, table_data)
            .await
            .or_fault(|| {
                Fault::new(Kind::Postgres, "read the dump's table of contents")
                    .hint("Run the backup again; if it happens again, report it as a bug.")
            })
    }
}

/// Puts the tables of contents into the pipeline and gives every file its table.
fn finish(
    directory: &Path,
    files: Vec<TailedFile>,
    mut framer: Framer,
    listing: &[(u32, u32)],
    tables: &[TableFacts],
) -> anyhow::Result<Vec<(FinishedEntry, Option<Box<Table>>)>> {
    let by_oid: BTreeMap<u32, &TableFacts> = tables.iter().map(|table| (table.oid, table)).collect();
    let mut expected: BTreeMap<String, &TableFacts> = BTreeMap::new();
    for (dump_id, oid) in listing {
        let table =
            by_oid.get(oid).with_context(|| format!("the dump has rows of an unknown table, {oid}"))?;
        expected.insert(format!("{dump_id}.dat"), table);
    }
    let mut entries = Vec::with_capacity(files.len() + 2);
    for file in files {
        let table = match expected.remove(&file.entry.name) {
            Some(facts) => {
                let rows = file.rows.ok_or_else(|| cut_short(facts))?;
                Some(Box::new(Table {
                    schema: facts.schema.clone(),
                    name: facts.name.clone(),
                    raw: facts.raw.clone(),
                    rows,
                    of_extension: facts.extension_configuration,
                }))
            }
            None => None,
        };
        entries.push((file.entry, table));
    }
    if let Some(facts) = expected.values().next() {
        return Err(cut_short(facts).into());
    }
    let mut contents: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry?;
        if is_contents(&entry.file_name().to_string_lossy()) {
            contents.push(entry.path());
        }
    }
    contents.sort();
    for path in contents {
        entries.push((whole_file(&path, &mut framer)?, None));
    }
    framer.close()?;
    Ok(entries)
}

fn cut_short(table: &TableFacts) -> Fault {
    let message = format!(
        "pg_dump says that it succeeded, but the rows of {}.{} are not whole",
        table.schema, table.name
    );
    Fault::new(Kind::Postgres, message).hint("Run the backup again; if it happens again, report it as a bug.")
}

fn whole_file(path: &Path, framer: &mut Framer) -> anyhow::Result<FinishedEntry> {
    let describe = || format!("read {}", path.display());
    let mut file = std::fs::File::open(path).with_context(describe)?;
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut entry = framer.begin(name, 0o600);
    let size = file.metadata().with_context(describe)?.len();
    while entry.size() < size {
        let length = (size - entry.size()).min(FRAME_BYTES as u64) as usize;
        framer.read(&mut entry, &mut file, length, |_| ()).with_context(describe)?;
    }
    Ok(framer.finish(entry))
}

/// Takes the dump's number and the table's out of a line such as `3361; 0 16386 TABLE DATA public t owner`.
fn table_data(line: &str) -> Option<(u32, u32)> {
    let (dump_id, rest) = line.split_once("; ")?;
    let mut fields = rest.splitn(3, ' ');
    let (_, oid, rest) = (fields.next()?, fields.next()?, fields.next()?);
    rest.starts_with("TABLE DATA ").then_some(())?;
    Some((dump_id.parse().ok()?, oid.parse().ok()?))
}

/// Says that a text of the database's own cannot be brought back as it was.
fn not_utf8(database: &str, shown: &str) -> String {
    format!("a property of database \"{database}\" is not UTF-8 and is kept as \"{shown}\"")
}

/// What goes on beside the work without an end of its own.
async fn forever(work: impl Future<Output = ()>) -> Infallible {
    work.await;
    std::future::pending().await
}

/// Whether the program itself found no room for its files. The server's disk may be full, too: what the server says
/// comes as an ERROR.
fn found_no_room(messages: &[String]) -> bool {
    let full =
        |line: &String| line.contains("No space left on device") || line.contains("Disk quota exceeded");
    messages.iter().any(|line| full(line) && !line.contains("ERROR:") && !line.contains("FATAL:"))
}

fn dump_failed(what: &str, scratch: &Path, ended: &process::Ended) -> Fault {
    let account = ended.account();
    if found_no_room(&ended.messages) {
        // What the dump has taken is part of what is not free.
        let free = space::of(scratch)
            .map_or_else(|_| String::new(), |space| format!(", which has {} free", Bytes(space.free)));
        let scratch = scratch.display();
        let message = format!("dump {what} into the scratch directory {scratch}{free}: {account}");
        return Fault::new(Kind::Store, message)
            .hint("Make room there, or set BACKUP_SCRATCH_DIR to a directory with more.");
    }
    let hint = if account.contains("permission denied for large object") {
        "The right to read all tables (pg_read_all_data) is none to read large objects: back up as a superuser, as \
         their owner, or GRANT SELECT ON LARGE OBJECT each of them."
    } else if account.contains("permission denied") {
        "Give the user the right to read everything (GRANT pg_read_all_data), or back up as the owner or a superuser."
    } else if account.contains("row-level security") || account.contains("row security") {
        "Back up as a user with BYPASSRLS, as the owner or a superuser: others see only some of the rows."
    } else if account.contains("No space left") {
        "Make room on the disk of the PostgreSQL server."
    } else {
        "Nothing was stored; mend the cause and run the backup again."
    };
    Fault::new(Kind::Postgres, format!("dump {what}: {account}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_scratch_directory_is_told_from_a_full_server() {
        let said = |line: &str| found_no_room(&["pg_dump: error: x".to_owned(), line.to_owned()]);
        assert!(said("pg_dump: error: could not write to output file: No space left on device"));
        assert!(said("pg_dump: error: could not write to file \"toc.dat\": Disk quota exceeded"));
        assert!(!said(
            "pg_dump: detail: Error message from server: ERROR:  could not extend file \"base/1/2\": \
             No space left on device"
        ));
    }

    #[test]
    fn the_lines_with_rows_are_found_in_a_listing() {
        assert_eq!(table_data("3361; 0 16386 TABLE DATA public my table owner"), Some((3361, 16386)));
        for line in [
            "; Archive created at 2026-11-22",
            "215; 1259 16386 TABLE public t owner",
            "3362; 0 0 SEQUENCE SET public t_id_seq owner",
            "3363; 0 16390 MATERIALIZED VIEW DATA public m owner",
        ] {
            assert_eq!(table_data(line), None, "{line}");
        }
    }
}

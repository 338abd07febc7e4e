//! A database made anew beside those that are there, filled with `pg_restore`, checked, and only then put in place.

pub mod merge;
pub mod part;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;

use crate::format::manifest::{Database, Manifest, Table};
use crate::model::{ConnectionSettings, Fault, Kind, Stage};
use crate::postgres::facts;
use crate::postgres::quote::connection_value;
use crate::postgres::tools::{self, Tool};
use crate::postgres::{Server, child_environment, database, sqlstate};
use crate::system::process::{Ended, Running};
use crate::system::{Step, Stop, step};

/// Databases in which there is nothing but which are always there: for connecting when another is made or renamed.
const MAINTENANCE: [&str; 2] = ["postgres", "template1"];

/// Where and how to restore.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// How to reach the server.
    pub connection: ConnectionSettings,
    /// How many tables and indexes `pg_restore` makes at the same time.
    pub jobs: usize,
    /// Where the client programs are, if the settings say so.
    pub bindir: Option<PathBuf>,
    /// Objects belong to the user who restores, not to their owners.
    pub no_owner: bool,
    /// Privileges are not brought back.
    pub no_privileges: bool,
}

/// What the checks of a restored database found.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Tables whose rows were counted.
    pub tables: u64,
    /// Rows in them.
    pub rows: u64,
    /// What is wrong, a sentence each; empty is good.
    pub findings: Vec<String>,
}

/// Connects to a database in which nothing is going to happen: not one of `avoid`.
///
/// Where the user may not connect to those that are always there, that of the settings will do.
pub async fn connect_beside(
    connection: &ConnectionSettings,
    avoid: &[&str],
    stop: &Stop,
) -> anyhow::Result<Server> {
    let mut failed = None;
    let names = MAINTENANCE.into_iter().chain(connection.database.as_deref());
    for name in names.filter(|name| !avoid.contains(name)) {
        match Server::connect(connection, Some(name), stop).await {
            Ok(server) => return Ok(server),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| Fault::new(Kind::Postgres, "no database to connect to").into()))
}

/// Makes the empty staging database with the encoding, locale and owner of the one that was backed up.
pub async fn create(
    server: &Server,
    database: &Database,
    staging: &str,
    plan: &LoadPlan,
) -> anyhow::Result<()> {
    let mut properties = database.properties.clone();
    if plan.no_owner {
        properties.owner = facts::rights(server).await?.user;
    }
    database::create(server, &properties, staging).await?;
    step::reached(Step::RestoreCreated)
}

/// Fills the staging database from an unpacked dump; the first error ends it.
pub async fn load(
    server: &Server,
    directory: &Path,
    staging: &str,
    plan: &LoadPlan,
    stop: &Stop,
) -> anyhow::Result<()> {
    load_listed(server, directory, staging, plan, None, stop).await
}

/// The same with what a list names of it: a file as `pg_restore --list` writes it, with lines taken out.
pub async fn load_listed(
    server: &Server,
    directory: &Path,
    staging: &str,
    plan: &LoadPlan,
    list: Option<&Path>,
    stop: &Stop,
) -> anyhow::Result<()> {
    let pg_restore = restorer(server, directory, plan.bindir.as_deref())?;
    let tolerates = pg_restore.version.major >= TRANSACTION_TIMEOUT && server.major() < TRANSACTION_TIMEOUT;
    let mut arguments: Vec<OsString> = ["--format=directory", "--no-password"].map(Into::into).into();
    if !tolerates {
        arguments.push("--exit-on-error".into());
    }
    arguments.push(format!("--jobs={}", plan.jobs).into());
    // Not --dbname=NAME: a name with an equals sign would be read as something else.
    arguments.push(format!("--dbname=dbname={}", connection_value(staging)).into());
    if plan.no_owner {
        arguments.push("--no-owner".into());
    }
    if plan.no_privileges {
        arguments.push("--no-privileges".into());
    }
    if let Some(list) = list {
        let mut argument = OsString::from("--use-list=");
        argument.push(list);
        arguments.push(argument);
    }
    arguments.push(directory.into());
    let mut connection = plan.connection.clone();
    if let Some(more) = facts::hindrances(server).await? {
        let options = connection.options.take().unwrap_or_default();
        connection.options = Some(format!("{options} {more}"));
    }
    let environment = child_environment(&connection, Some(staging))?;
    let noise: &'static [&'static [&'static str]] = if tolerates { &UNKNOWN_SETTING } else { &[] };
    let running = Running::start_without(noise, &pg_restore.path, &arguments, &environment).await?;
    step::reached(Step::RestoreLoading)?;
    let ended = running.wait(stop).await?;
    let good = ended.status.success() || (tolerates && nothing_else_failed(&ended));
    if !good {
        let message = format!("restore into database \"{staging}\": {}", ended.account());
        let hint = if ended.account().contains("role") && ended.account().contains("does not exist") {
            "Create the role, or restore with `--no-owner --no-privileges`."
        } else {
            "Nothing was replaced; mend the cause and run the restore again."
        };
        return Fault::new(Kind::Postgres, message).hint(hint).err();
    }
    step::reached(Step::RestoreLoaded)
}

/// The program that reads this dump for this server.
pub fn restorer(server: &Server, directory: &Path, bindir: Option<&Path>) -> anyhow::Result<Tool> {
    let reads = archive_reader(&directory.join("toc.dat"))?;
    tools::find("pg_restore", server.major().max(reads), bindir)
}

/// The first version that has the setting `transaction_timeout`. Every `pg_restore` since sets it, whatever the server.
const TRANSACTION_TIMEOUT: u32 = 17;

/// What such a `pg_restore` says of it where the server is older; the server's own words may be in any language. Without
/// what stands before it: that is written piece by piece (`pg_log_generic_v` in `src/common/logging.c`), and between the
/// pieces of one worker come those of another.
static UNKNOWN_SETTING: [&[&str]; 2] = [
    &["could not execute query: ", "\"transaction_timeout\""],
    &["Command was: SET transaction_timeout = 0;"],
];

/// Whether nothing is left of what `pg_restore` said but that it passed over errors: those that were expected.
fn nothing_else_failed(ended: &Ended) -> bool {
    ended.status.code() == Some(1) && ended.messages.iter().all(|line| says_nothing(line))
}

/// The last line, and pieces of lines whose ends were those that were expected.
fn says_nothing(line: &str) -> bool {
    let is_piece = |word: &str| matches!(word, "pg_restore:" | "error:" | "warning:");
    line.contains("warning: errors ignored on restore: ")
        || line.replace(':', ": ").split_whitespace().all(is_piece)
}

/// The major version of the oldest `pg_restore` that reads this table of contents, as far as it says more than that of
/// the server (`K_VERS_*` in `src/bin/pg_dump/pg_backup_archiver.h`). It is newer than the server where `pg_dump` was.
fn archive_reader(contents: &Path) -> anyhow::Result<u32> {
    let mut head = [0; 7];
    File::open(contents)
        .and_then(|mut file| file.read_exact(&mut head))
        .with_context(|| format!("read {}", contents.display()))?;
    Ok(match (head[5], head[6]) {
        // "PGDMP", 1, 16: file names of large objects by dump id.
        (1, 16..) | (2.., _) => 17,
        (1, 15) => 16,
        _ => 0,
    })
}

/// Counts every table's rows and looks for indexes and constraints that are not valid.
pub async fn check(
    manifest: &Manifest,
    staging: &str,
    plan: &LoadPlan,
    stage: &Arc<Stage>,
    stop: &Stop,
) -> anyhow::Result<Checked> {
    let mut tables: Vec<Table> = manifest.tables().cloned().collect();
    // The largest first, so that no connection is left with one when the others are done.
    tables.sort_by_key(|table| std::cmp::Reverse(table.rows));
    let queue = Arc::new(Mutex::new(VecDeque::from(tables)));
    let mut workers = JoinSet::new();
    for _ in 0..plan.jobs {
        let (queue, plan, staging) = (Arc::clone(&queue), plan.clone(), staging.to_owned());
        let (stage, stop) = (Arc::clone(stage), stop.clone());
        workers.spawn(async move { count(&queue, &plan, &staging, &stage, &stop).await });
    }
    let mut checked = Checked::default();
    while let Some(worker) = stop.or(async { Ok(workers.join_next().await) }).await? {
        let counted = worker??;
        checked.tables += counted.tables;
        checked.rows += counted.rows;
        checked.findings.extend(counted.findings);
    }
    // Whichever connection came first.
    checked.findings.sort_unstable();
    let server = Server::connect(&plan.connection, Some(staging), stop).await?;
    let known = manifest.database.as_ref().map(|database| database.not_valid.as_slice()).unwrap_or_default();
    let unproven = facts::unproven(&server).await?.names();
    checked.findings.extend(
        unproven.into_iter().filter(|name| !known.contains(name)).map(|name| format!("{name} is not valid")),
    );
    server.close().await;
    // Which worker came first is chance.
    checked.findings.sort_unstable();
    Ok(checked)
}

async fn count(
    queue: &Mutex<VecDeque<Table>>,
    plan: &LoadPlan,
    staging: &str,
    stage: &Stage,
    stop: &Stop,
) -> anyhow::Result<Checked> {
    let mut checked = Checked::default();
    let server = Server::connect(&plan.connection, Some(staging), stop).await?;
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(table) = next else { break };
        let rows = match facts::count_rows(&server, &table).await {
            Err(error) if sqlstate(&error) == Some(&SqlState::UNDEFINED_TABLE) => {
                checked.findings.push(format!("table {}.{} is not there", table.schema, table.name));
                continue;
            }
            rows => rows?,
        };
        checked.tables += 1;
        checked.rows += rows;
        stage.add(table.rows);
        // An extension brings rows of its own beside those that were dumped.
        let right = if table.of_extension { rows >= table.rows } else { rows == table.rows };
        if !right {
            let name = format!("{}.{}", table.schema, table.name);
            checked.findings.push(format!("table {name} has {rows} rows, the backup has {}", table.rows));
        }
    }
    server.close().await;
    Ok(checked)
}

/// Brings back settings, privileges, comment and flags; returns what the server would not take.
pub async fn apply(
    server: &Server,
    database: &Database,
    staging: &str,
    plan: &LoadPlan,
) -> anyhow::Result<Vec<String>> {
    let mut properties = database.properties.clone();
    if plan.no_owner {
        properties.owner = facts::rights(server).await?.user;
    }
    if plan.no_privileges {
        properties.default_privileges = true;
        properties.privileges.clear();
    }
    database::apply(server, &properties, staging).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_several_workers_lines_say_nothing_and_an_error_does() {
        assert!(says_nothing("pg_restore: pg_restore: error: pg_restore:error: "));
        assert!(says_nothing("pg_restore: warning: errors ignored on restore: 3"));
        assert!(says_nothing(""));
        assert!(!says_nothing(
            "pg_restore: error: could not execute query: ERROR:  role \"a\" does not exist"
        ));
        assert!(!says_nothing("could not execute query: ERROR:  out of memory"));
    }
}

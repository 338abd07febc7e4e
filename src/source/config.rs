//! The configuration of a server: its files, wherever they lie, the roles and tablespaces, and what the operator names.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::task::spawn_blocking;

use crate::format::config::{FILES, GLOBALS};
use crate::format::volume::FRAME_BYTES;
use crate::model::{ConnectionSettings, Fault, Kind, Stage, Timestamp};
use crate::pipeline::{FinishedEntry, Framer};
use crate::plan::includes::{Include, includes, is_in_directory};
use crate::postgres::tools::{self, Tool};
use crate::postgres::{Server, child_environment, config_files, facts};
use crate::system::process::Running;
use crate::system::{Step, Stop, durable, step};

/// A file of settings that is larger is none, and is not searched for others.
const LARGEST_SETTINGS: u64 = 16 << 20;
/// How deep PostgreSQL follows includes (`CONF_FILE_MAX_DEPTH`); what lies deeper the server does not read either.
const DEPTH: usize = 10;

/// What to read.
#[derive(Debug, Clone)]
pub struct ConfigPlan {
    /// How to reach the server.
    pub connection: ConnectionSettings,
    /// The server's data directory as it is seen from here, if that is another path than the server's own.
    pub data_directory: Option<PathBuf>,
    /// Further files, and directories with all that is in them.
    pub extra: Vec<PathBuf>,
    /// A directory of this run's own.
    pub scratch: PathBuf,
    /// Where the client programs are, if the settings say so.
    pub bindir: Option<PathBuf>,
}

/// Paths as the server or the operator has them, and as they are seen from here.
type Places = Vec<(PathBuf, PathBuf)>;

/// A server's configuration, found and not read yet.
#[derive(Debug)]
pub struct ConfigSource {
    plan: ConfigPlan,
    server: Server,
    pg_dumpall: Tool,
    files: Places,
    warnings: Vec<String>,
    has_passwords: bool,
    /// The server's system identifier.
    pub system_identifier: u64,
    /// When the server was asked.
    pub consistent_at: Timestamp,
}

/// What was read.
#[derive(Debug)]
pub struct ConfigContents {
    /// The files.
    pub entries: Vec<FinishedEntry>,
    /// Version of `pg_dumpall`.
    pub tool_version: String,
    /// The server's version.
    pub postgres_version_num: u32,
    /// What could not be read.
    pub warnings: Vec<String>,
}

impl ConfigSource {
    /// Asks the server where its files are, and finds those that they name.
    ///
    /// Where the server does not say it, or its main files can't be read: [`Kind::Postgres`].
    pub async fn open(plan: ConfigPlan, stop: &Stop) -> anyhow::Result<Self> {
        let server = Server::connect(&plan.connection, None, stop).await?;
        let pg_dumpall = tools::find("pg_dumpall", server.major(), plan.bindir.as_deref())?;
        let system_identifier = facts::system_identifier(&server).await?;
        let consistent_at = facts::transaction_time(&server).await?;
        let places = config_files::config_files(&server).await?;
        let has_passwords = config_files::may_read_passwords(&server).await?;
        let finding = spawn_blocking({
            let plan = plan.clone();
            move || Finding::new(&plan, &places.data_directory).all(&places)
        });
        let (files, mut warnings) = finding.await.context("find the server's files")??;
        if !has_passwords {
            warnings.push(
                "the roles are without their passwords: only a superuser may read those (pg_authid)"
                    .to_owned(),
            );
        }
        Ok(Self {
            plan,
            server,
            pg_dumpall,
            files,
            warnings,
            has_passwords,
            system_identifier,
            consistent_at,
        })
    }

    /// What is going to be read, for those who want to see it.
    pub fn details(&self) -> String {
        let tool = &self.pg_dumpall;
        format!(
            "read {} files, and roles and tablespaces with {} ({})",
            self.files.len(),
            tool.path.display(),
            tool.version.text
        )
    }

    /// About how many bytes.
    pub fn estimate(&self) -> u64 {
        let size = |(_, path): &(PathBuf, PathBuf)| fs::metadata(path).map_or(0, |metadata| metadata.len());
        self.files.iter().map(size).sum()
    }

    /// Reads everything into the pipeline.
    pub async fn read(self, framer: Framer, stage: Stage, stop: &Stop) -> anyhow::Result<ConfigContents> {
        let globals = self.globals(stop).await?;
        step::reached(Step::ConfigGlobals)?;
        let Self { server, pg_dumpall, files, mut warnings, .. } = self;
        let stop = stop.clone();
        let reading = spawn_blocking(move || -> anyhow::Result<(Vec<FinishedEntry>, Vec<String>)> {
            let mut framer = framer;
            let (mut entries, mut unread) = (Vec::with_capacity(files.len() + 1), Vec::new());
            let text = File::open(&globals).with_context(|| format!("read {}", globals.display()))?;
            entries.push(read_file(GLOBALS.to_owned(), 0o600, text, &mut framer, &stage)?);
            for (name, path) in files {
                stop.check()?;
                let shown = name.display();
                let Some(inside) = name.to_str().map(|name| format!("{FILES}{name}")) else {
                    unread.push(format!("{shown} is left out: its name is not UTF-8"));
                    continue;
                };
                let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
                match opened {
                    Ok((metadata, file)) => {
                        let mode = metadata.permissions().mode() & 0o7777;
                        entries.push(read_file(inside, mode, file, &mut framer, &stage)?);
                    }
                    Err(error) => unread.push(format!("{shown} is left out: {error}")),
                }
            }
            framer.close()?;
            Ok((entries, unread))
        });
        let (entries, unread) = reading.await.context("read the server's files")??;
        warnings.extend(unread);
        let postgres_version_num = server.version_num();
        server.close().await;
        Ok(ConfigContents { entries, tool_version: pg_dumpall.version.text, postgres_version_num, warnings })
    }

    /// Lets `pg_dumpall` write roles and tablespaces into a file of this run's own.
    async fn globals(&self, stop: &Stop) -> anyhow::Result<PathBuf> {
        let path = self.plan.scratch.join(GLOBALS);
        // Made before, so that nobody else may read what it is going to hold.
        drop(durable::create_private_file(&path)?);
        let mut arguments: Vec<OsString> = ["--globals-only", "--no-password"].map(Into::into).into();
        if !self.has_passwords {
            arguments.push("--no-role-passwords".into());
        }
        let database = &self.server.endpoint().database;
        let mut file = OsString::from("--file=");
        file.push(&path);
        arguments.extend([file, format!("--database={}", quoted(database)).into()]);
        let environment = child_environment(&self.plan.connection, Some(database))?;
        let ended = Running::start(&self.pg_dumpall.path, &arguments, &environment).await?.wait(stop).await?;
        if !ended.status.success() {
            return Fault::new(Kind::Postgres, format!("read roles and tablespaces: {}", ended.account()))
                .hint("Nothing was stored; mend the cause and run the backup again.")
                .err();
        }
        Ok(path)
    }
}

/// The database as a connection string, since the option takes one: a name alone could be taken for that.
fn quoted(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn read_file(
    name: String,
    mode: u32,
    mut file: File,
    framer: &mut Framer,
    stage: &Stage,
) -> anyhow::Result<FinishedEntry> {
    let describe = format!("read {name}");
    let mut entry = framer.begin(name, mode);
    loop {
        // A file that is not as large as a frame shares one with others.
        let left = file.metadata().map_or(0, |metadata| metadata.len()).saturating_sub(entry.size());
        let length = left.clamp(1, FRAME_BYTES as u64) as usize;
        let got =
            framer.read_up_to(&mut entry, &mut file, length, |_| ()).with_context(|| describe.clone())?;
        stage.add(got as u64);
        if got < length {
            return Ok(framer.finish(entry));
        }
    }
}

/// The search for files.
struct Finding<'a> {
    plan: &'a ConfigPlan,
    /// The data directory as the server has it.
    server_top: &'a Path,
    found: Places,
    seen: BTreeSet<PathBuf>,
    warnings: Vec<String>,
}

impl<'a> Finding<'a> {
    fn new(plan: &'a ConfigPlan, server_top: &'a Path) -> Self {
        Self { plan, server_top, found: Vec::new(), seen: BTreeSet::new(), warnings: Vec::new() }
    }

    fn all(mut self, places: &config_files::ConfigFiles) -> anyhow::Result<(Places, Vec<String>)> {
        for path in &places.files {
            self.follow(path, true)?;
        }
        self.follow(&self.server_top.join("postgresql.auto.conf"), false)?;
        for path in &self.plan.extra {
            self.extra(path);
        }
        Ok((self.found, self.warnings))
    }

    /// Where a path of the server's is from here: the data directory may be mounted elsewhere.
    fn here(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix(self.server_top), &self.plan.data_directory) {
            (Ok(inside), Some(top)) => top.join(inside),
            _ => path.to_owned(),
        }
    }

    /// One of the server's files and all that it names.
    fn follow(&mut self, path: &Path, must: bool) -> anyhow::Result<()> {
        let mut waiting = VecDeque::from([(path.to_owned(), must, 0)]);
        while let Some((path, must, depth)) = waiting.pop_front() {
            let here = self.here(&path);
            if depth > DEPTH || !self.seen.insert(path.clone()) {
                continue;
            }
            let text = match read_text(&here) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !must => continue,
                // Without its main files it would be no backup of the configuration.
                Err(error) if depth == 0 && must => {
                    return Fault::new(Kind::Postgres, format!("read {}: {error}", here.display()))
                        .hint("Run it on the server's machine, as a user who may read the server's files (postgres, or root).")
                        .err();
                }
                Err(error) => {
                    self.warnings.push(format!("{} is left out: {error}", path.display()));
                    continue;
                }
            };
            self.found.push((path.clone(), here));
            for include in includes(&path, &text) {
                match include {
                    Include::File(file) => waiting.push_back((file, true, depth + 1)),
                    Include::IfExists(file) => waiting.push_back((file, false, depth + 1)),
                    Include::Directory(directory) => {
                        let files = self.of_directory(&directory);
                        waiting.extend(files.into_iter().map(|file| (file, true, depth + 1)));
                    }
                }
            }
        }
        Ok(())
    }

    fn of_directory(&mut self, directory: &Path) -> Vec<PathBuf> {
        match names(&self.here(directory)) {
            Ok(names) => {
                let counts = |name: &OsString| name.to_str().is_some_and(is_in_directory);
                names.into_iter().filter(counts).map(|name| directory.join(name)).collect()
            }
            Err(error) => {
                self.warnings.push(format!("{} is left out: {error}", directory.display()));
                Vec::new()
            }
        }
    }

    /// What the operator names: a file, or a directory with all files in it.
    fn extra(&mut self, path: &Path) {
        let mut waiting = VecDeque::from([path.to_owned()]);
        while let Some(path) = waiting.pop_front() {
            // Through links as far as files go; a link to a directory in a directory could lead anywhere.
            let is_link = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() && (!is_link || self.plan.extra.contains(&path)) => {
                    match names(&path) {
                        Ok(names) => waiting.extend(names.into_iter().map(|name| path.join(name))),
                        Err(error) => self.warnings.push(format!("{} is left out: {error}", path.display())),
                    }
                }
                Ok(metadata) if metadata.is_file() => {
                    if self.seen.insert(path.clone()) {
                        self.found.push((path.clone(), path));
                    }
                }
                Ok(_) => self.warnings.push(format!("{} is left out: it is no file", path.display())),
                Err(error) => self.warnings.push(format!("{} is left out: {error}", path.display())),
            }
        }
    }
}

/// The names in a directory, in the order in which the server reads them.
fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names: Vec<OsString> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// The text of a file of settings; bytes that are not UTF-8 are none of the words that count.
fn read_text(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > LARGEST_SETTINGS {
        return Ok(String::new());
    }
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

//! A test's own settings, state directory and local store.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use rusqlite::types::Value;

use super::{Cluster, Run, Running, base, cluster, give, ordinary, pgkeep_binary, run, set_mode, unique};

/// A directory with an env file, a state directory and a local store; it belongs to the ordinary user and goes with
/// this value.
pub(crate) struct Place {
    /// The directory.
    pub(crate) directory: PathBuf,
    settings: RefCell<Vec<(String, String)>>,
}

impl Place {
    /// Makes one for the shared server. Nothing is initialised yet.
    pub(crate) fn new() -> Self {
        Self::on(cluster())
    }

    /// Makes one for this server.
    pub(crate) fn on(cluster: &Cluster) -> Self {
        let directory = base().join(format!("place{}", unique()));
        fs::create_dir(&directory).expect("make a place");
        set_mode(&directory, 0o700);
        give(&directory);
        let place = Self { directory, settings: RefCell::default() };
        let path = |name: &str| place.path(name).display().to_string();
        for (name, value) in [
            ("BACKUP_CLUSTER", "test"),
            ("BACKUP_STATE_DIR", &path("state")),
            ("BACKUP_LOCAL_DIR", &path("store")),
            ("BACKUP_ENCRYPTION_KEY", &new_key()),
            ("BACKUP_JOBS", "2"),
            ("PGHOST", &cluster.socket_dir.display().to_string()),
            ("PGPORT", &cluster.port.to_string()),
            ("PGUSER", "postgres"),
            ("PGDATABASE", "postgres"),
            // What verify reads by itself is the affair of the tests of that.
            ("BACKUP_VERIFY_BUDGET", "0"),
        ] {
            place.set(name, value);
        }
        if std::env::var_os("PGKEEP_TEST_POSTGRES").is_some() {
            place.set("BACKUP_PG_BINDIR", &cluster.bindir.display().to_string());
        }
        place
    }

    /// One on the shared server, initialised.
    pub(crate) fn ready() -> Self {
        let place = Self::new();
        place.init();
        place
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// The local store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The env file.
    pub(crate) fn env_file(&self) -> PathBuf {
        self.path("pgkeep.env")
    }

    /// Sets or changes a setting.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.unset(name);
        self.settings.borrow_mut().push((name.to_owned(), value.to_owned()));
        self.write();
    }

    /// Takes a setting away.
    pub(crate) fn unset(&self, name: &str) {
        self.settings.borrow_mut().retain(|(set, _)| set != name);
        self.write();
    }

    /// The value of a setting.
    pub(crate) fn setting(&self, name: &str) -> String {
        let settings = self.settings.borrow();
        let found = settings.iter().find(|(set, _)| set == name);
        found.map_or_else(|| panic!("{name} is not set"), |(_, value)| value.clone())
    }

    /// All of them, for a command that reads them from its environment.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        self.settings.borrow().clone()
    }

    fn write(&self) {
        let line = |(name, value): &(String, String)| format!("{name}='{value}'\n");
        self.put("pgkeep.env", self.settings.borrow().iter().map(line).collect::<String>().as_bytes());
    }

    /// Writes a file of the ordinary user's that nobody else may read.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("write a file of the place");
        set_mode(&path, 0o600);
        give(&path);
        path
    }

    /// pgkeep with these arguments, ready to be run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = ordinary(pgkeep_binary());
        command
            .args(arguments)
            .env("HOME", &self.directory)
            .env("PATH", "/usr/bin:/bin")
            .env("PGKEEP_ENV_FILE", self.env_file())
            .current_dir(&self.directory);
        command
    }

    /// Runs pgkeep.
    pub(crate) fn pgkeep(&self, arguments: &[&str]) -> Run {
        self.pgkeep_with(&[], arguments)
    }

    /// Runs pgkeep with these variables besides.
    pub(crate) fn pgkeep_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Run {
        self.start(environment, arguments).wait()
    }

    /// Starts pgkeep.
    pub(crate) fn start(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Running {
        Running::start(self.command(arguments).envs(environment.iter().copied()))
    }

    /// Makes the catalog and the store.
    #[track_caller]
    pub(crate) fn init(&self) {
        self.pgkeep(&["init"]).ok();
    }

    /// Backs a database up and returns the backup's identifier.
    #[track_caller]
    pub(crate) fn backup(&self, database: &str) -> String {
        let report = self.pgkeep(&["--output", "json", "backup", "database", database]).ok().json();
        report["id"].as_str().expect("an identifier").to_owned()
    }

    /// The directories of the backups in the store, oldest first.
    pub(crate) fn backups(&self) -> Vec<PathBuf> {
        let directory = self.store().join(self.setting("BACKUP_CLUSTER")).join("backups");
        let mut found: Vec<PathBuf> = match fs::read_dir(&directory) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => panic!("{}: {error}", directory.display()),
        };
        found.sort();
        found
    }

    /// Asks the catalog; every value as text, NULL as an empty one.
    #[track_caller]
    pub(crate) fn catalog(&self, sql: &str) -> Vec<Vec<String>> {
        let path = self.state().join("catalog.sqlite");
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let catalog = rusqlite::Connection::open_with_flags(&path, flags).expect("open the catalog");
        catalog.busy_timeout(std::time::Duration::from_secs(30)).expect("set a timeout");
        let mut statement = catalog.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..columns).map(|column| row.get::<_, Value>(column).map(text)).collect::<Result<Vec<_>, _>>()
        });
        rows.expect("ask the catalog").collect::<Result<_, _>>().expect("read the catalog")
    }

    /// The files and directories below a directory of the place, by their path in it, sorted.
    pub(crate) fn files(&self, directory: &str) -> Vec<String> {
        let top = self.path(directory);
        let mut found = Vec::new();
        let mut waiting = vec![top.clone()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    waiting.push(path.clone());
                }
                found.push(path.strip_prefix(&top).unwrap().display().to_string());
            }
        }
        found.sort();
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text,
        Value::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}

/// One key for all places: making one is the affair of the tests of `key new`.
fn new_key() -> String {
    static KEY: LazyLock<String> =
        LazyLock::new(|| run(ordinary(pgkeep_binary()).args(["key", "new"])).ok().stdout.trim().to_owned());
    KEY.clone()
}

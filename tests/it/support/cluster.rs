//! A real PostgreSQL server: one for all tests of the process, or one of a test's own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::{base, give, ordinary, project, run, set_mode, unique};

/// A running server. Superuser `postgres`, reached through a socket, without a password.
pub(crate) struct Cluster {
    /// The directory of its socket.
    pub(crate) socket_dir: PathBuf,
    /// The port, which is a part of the socket's name only.
    pub(crate) port: u16,
    /// Its programs.
    pub(crate) bindir: PathBuf,
    data: PathBuf,
    /// Stopped and removed with this value; the shared one stays until the process ends.
    private: bool,
}

/// The server that all tests share, started by the first one that asks.
pub(crate) fn cluster() -> &'static Cluster {
    static SHARED: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(&[], false));
    &SHARED
}

/// The programs of the version that `PGKEEP_TEST_POSTGRES` names, from where `tests/postgres_versions.sh` puts them; as a rule
/// those of the newest server that is installed.
fn newest_bindir() -> PathBuf {
    if let Some(major) = std::env::var("PGKEEP_TEST_POSTGRES").ok().and_then(|major| major.parse().ok()) {
        return bindir(major);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((number(&entry.path())?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    found
        .pop()
        .map(|(_, bin)| bin)
        .expect("no server in /usr/lib/postgresql: install postgresql (tests/run.sh does)")
}

/// The programs of this major version, from where `tests/postgres_versions.sh` puts them.
pub(crate) fn bindir(major: u32) -> PathBuf {
    let root = std::env::var_os("PGKEEP_POSTGRES_DIR")
        .map_or_else(|| project().join("target/postgres"), PathBuf::from);
    let bindir = root.join(major.to_string()).join("bin");
    assert!(
        bindir.join("postgres").exists(),
        "there is no PostgreSQL {major} in {}: run tests/postgres_versions.sh (tests/run.sh does)",
        root.display()
    );
    bindir
}

impl Cluster {
    /// Starts a server of a test's own with these settings besides; it is stopped when the value is dropped.
    pub(crate) fn own(options: &[(&str, &str)]) -> Self {
        Self::start(options, true)
    }

    /// The same with other programs than the newest of Debian's.
    pub(crate) fn of(bindir: PathBuf, options: &[(&str, &str)]) -> Self {
        Self::start_with(bindir, &[], options, true)
    }

    /// One of a test's own that `initdb` makes with these arguments besides.
    pub(crate) fn made_with(arguments: &[&str], options: &[(&str, &str)]) -> Self {
        Self::start_with(newest_bindir(), arguments, options, true)
    }

    /// The same with other programs than the newest of Debian's.
    pub(crate) fn of_made_with(bindir: PathBuf, arguments: &[&str], options: &[(&str, &str)]) -> Self {
        Self::start_with(bindir, arguments, options, true)
    }

    fn start(options: &[(&str, &str)], private: bool) -> Self {
        Self::start_with(newest_bindir(), &[], options, private)
    }

    fn start_with(bindir: PathBuf, arguments: &[&str], options: &[(&str, &str)], private: bool) -> Self {
        let socket_dir = base().join(format!("pg{}", unique()));
        assert!(
            socket_dir.as_os_str().len() < 80,
            "TMPDIR is too long for a socket: {}",
            socket_dir.display()
        );
        std::fs::create_dir(&socket_dir).expect("make the server's directory");
        set_mode(&socket_dir, 0o755);
        give(&socket_dir);
        let data = socket_dir.join("data");
        let made = run(ordinary(bindir.join("initdb"))
            .args(["--locale=C.UTF-8", "--encoding=UTF8", "--auth=trust", "--username=postgres", "--no-sync"])
            .args(arguments)
            .arg("--pgdata")
            .arg(&data));
        assert_eq!(made.code, 0, "initdb: {}{}", made.stdout, made.stderr);
        let mut settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nwal_level = replica\n\
             max_connections = 200\nmax_wal_size = '256MB'\nshared_buffers = '64MB'\nautovacuum_naptime = '1h'\n\
             max_prepared_transactions = 10\n",
            socket_dir.display()
        );
        for (name, value) in options {
            let _ = writeln!(settings, "{name} = '{}'", value.replace('\'', "''"));
        }
        let file = data.join("postgresql.auto.conf");
        std::fs::write(&file, settings).expect("write the server's settings");
        // A role in the group "with_password" has to give its own.
        let hba = data.join("pg_hba.conf");
        std::fs::write(
            &hba,
            "local all +with_password scram-sha-256\nlocal all all trust\nlocal replication all trust\n",
        )
        .expect("write pg_hba");
        let cluster = Self { socket_dir, port: 5432, bindir, data, private };
        cluster.start_again();
        cluster.psql("postgres", "CREATE ROLE with_password NOLOGIN");
        cluster
    }

    /// A server around a data directory that lies in a directory of its own, such as a restored one, with a socket there.
    /// It is not started.
    pub(crate) fn around(socket_dir: PathBuf, bindir: PathBuf) -> Self {
        let data = socket_dir.join("data");
        let socket = format!("unix_socket_directories = '{}'\n", socket_dir.display());
        let file = data.join("postgresql.auto.conf");
        let mut text = std::fs::read_to_string(&file).expect("read the server's settings");
        text.push_str(&socket);
        std::fs::write(&file, text).expect("write the server's settings");
        Self { socket_dir, port: 5432, bindir, data, private: true }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Starts it; whether it came up.
    pub(crate) fn try_start(&self) -> bool {
        let log = self.socket_dir.join("log");
        let started = run(self.pg_ctl().args(["start", "-w", "-s", "-t", "120", "-l"]).arg(&log));
        started.code == 0
    }

    /// Stops it in good order.
    pub(crate) fn shut_down(&self) {
        let stopped = run(self.pg_ctl().args(["stop", "-s", "-w", "-m", "fast"]));
        assert_eq!(stopped.code, 0, "pg_ctl: {}{}", stopped.stderr, self.log());
    }

    /// Changes a setting and lets the server know.
    pub(crate) fn set(&self, name: &str, value: &str) {
        let value = value.replace('\'', "''");
        self.psql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.psql("postgres", "SELECT pg_reload_conf()");
    }

    /// Starts it after it was stopped.
    pub(crate) fn start_again(&self) {
        let log = self.socket_dir.join("log");
        let started = run(self.pg_ctl().args(["start", "-w", "-s", "-t", "60", "-l"]).arg(&log));
        assert_eq!(started.code, 0, "pg_ctl: {}{}", started.stderr, self.log());
    }

    /// Stops it at once.
    pub(crate) fn stop(&self) {
        let stopped = run(self.pg_ctl().args(["stop", "-s", "-m", "immediate"]));
        assert_eq!(stopped.code, 0, "pg_ctl: {}{}", stopped.stderr, self.log());
    }

    /// Kills it with signal 9, and waits until its processes have noticed.
    pub(crate) fn kill(&self) {
        let lock = self.data.join("postmaster.pid");
        let text = std::fs::read_to_string(lock).expect("postmaster.pid");
        let number = text.lines().next().and_then(|line| line.parse().ok()).expect("a process");
        let pid = rustix::process::Pid::from_raw(number).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill the server");
    }

    fn pg_ctl(&self) -> Command {
        let mut command = ordinary(self.bindir.join("pg_ctl"));
        command.env("LC_ALL", "C.UTF-8").arg("-D").arg(&self.data);
        command
    }

    /// What the server has written to its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.socket_dir.join("log")).unwrap_or_default()
    }

    /// A program of PostgreSQL's, set to connect to this server as its superuser.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = ordinary(self.bindir.join(program));
        command
            .env("PGHOST", &self.socket_dir)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs SQL; returns what psql prints, without the last line's end.
    #[track_caller]
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        self.psql_as("postgres", database, sql)
    }

    /// The same as another user.
    #[track_caller]
    pub(crate) fn psql_as(&self, user: &str, database: &str, sql: &str) -> String {
        let mut command = self.client("psql");
        // By the environment, because psql takes a name with "=" in it for a connection string.
        command.env("PGDATABASE", database).env("PGUSER", user).args([
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
        ]);
        let run = run(&mut command);
        assert_eq!(run.code, 0, "psql in {database}: {sql}\n{}", run.stderr);
        run.stdout.trim_end_matches('\n').to_owned()
    }

    /// Runs a file of SQL.
    #[track_caller]
    pub(crate) fn psql_file(&self, database: &str, file: &Path) {
        let mut command = self.client("psql");
        command.env("PGDATABASE", database).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file);
        let run = run(&mut command);
        assert_eq!(run.code, 0, "psql -f {}: {}", file.display(), run.stderr);
    }

    /// Makes a database of this name.
    #[track_caller]
    pub(crate) fn create_database(&self, name: &str) {
        self.psql("postgres", &format!("CREATE DATABASE {}", quoted(name)));
    }

    /// Makes an empty database of a name that no other test has.
    #[track_caller]
    pub(crate) fn fresh_database(&self) -> String {
        let name = format!("fresh_{}", unique());
        self.create_database(&name);
        name
    }

    /// Makes a database with a small shop in it: 3 tables, 1,550 rows.
    #[track_caller]
    pub(crate) fn fresh_shop(&self) -> String {
        let name = self.fresh_database();
        self.psql(
            &name,
            "CREATE TABLE tenants (id int PRIMARY KEY, name text NOT NULL);
             CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, price numeric(12, 2));
             CREATE TABLE orders (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, note text);
             CREATE INDEX ON orders (tenant_id);
             INSERT INTO tenants SELECT n, 'tenant ' || n FROM generate_series(1, 50) n;
             INSERT INTO items (name, price) SELECT 'item ' || n, n / 7.0 FROM generate_series(1, 500) n;
             INSERT INTO orders SELECT n, 1 + n % 50, repeat('note ', n % 9) FROM generate_series(1, 1000) n;",
        );
        name
    }

    /// A plain dump of what is in a database.
    #[track_caller]
    pub(crate) fn dump(&self, database: &str) -> String {
        self.dump_with(database, &[])
    }

    /// The same with the database itself: its owner, privileges, settings.
    #[track_caller]
    pub(crate) fn dump_with_create(&self, database: &str) -> String {
        self.dump_with(database, &["--create"])
    }

    fn dump_with(&self, database: &str, arguments: &[&str]) -> String {
        let help = run(ordinary(self.bindir.join("pg_dump")).arg("--help"));
        let mut command = self.client("pg_dump");
        command.env("PGDATABASE", database).args(arguments);
        if help.stdout.contains("--restrict-key") {
            // Else every dump bears a random one.
            command.arg("--restrict-key=pgkeep");
        }
        let run = run(&mut command);
        assert_eq!(run.code, 0, "pg_dump of {database}: {}", run.stderr);
        run.stdout
    }

    /// The names of all databases, sorted.
    pub(crate) fn databases(&self) -> Vec<String> {
        let names = self.psql("postgres", "SELECT json_agg(datname ORDER BY datname) FROM pg_database");
        serde_json::from_str(&names).unwrap()
    }

    /// The databases whose name begins with this: a test's own one, and what restores made beside it.
    pub(crate) fn databases_like(&self, name: &str) -> Vec<String> {
        let mut names = self.databases();
        // fresh_1 is not to find fresh_10.
        let own = |found: &str| {
            found.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        names.retain(|found| own(found));
        names
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.private {
            if self.data.join("postmaster.pid").exists() {
                let _ = run(self.pg_ctl().args(["stop", "-s", "-m", "immediate"]));
            }
            let _ = std::fs::remove_dir_all(&self.socket_dir);
        }
    }
}

/// A name as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

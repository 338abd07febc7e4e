//! What the tests of faults have in common: databases to lose, runs cut off, what is left behind, who still runs, a
//! disk that is full.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Cluster, Place, Run, Running, give, is_root, set_mode};

/// A database that makes three frames, and as many volumes of 1 MiB.
pub(crate) fn fresh_large(cluster: &Cluster) -> String {
    let name = cluster.fresh_database();
    cluster.psql(
        &name,
        "CREATE TABLE large (id int PRIMARY KEY, text text NOT NULL);
         INSERT INTO large SELECT n, (SELECT string_agg(md5(n || '/' || m), '') FROM generate_series(1, 1000) m)
           FROM generate_series(1, 300) n;
         CREATE TABLE small (id int PRIMARY KEY, large_id int NOT NULL REFERENCES large);
         INSERT INTO small SELECT n, n FROM generate_series(1, 50) n;
         CREATE TABLE marker (word text)",
    );
    name
}

/// A database of two tables with 128 MiB of rows each: much more than may wait in scratch, however slowly it is dumped.
pub(crate) fn fresh_wide(cluster: &Cluster) -> String {
    let database = cluster.fresh_database();
    cluster.psql(
        &database,
        "CREATE TABLE one (id int, text text);
         CREATE TABLE two (id int, text text);
         ALTER TABLE one ALTER text SET STORAGE EXTERNAL;
         ALTER TABLE two ALTER text SET STORAGE EXTERNAL;
         INSERT INTO one SELECT n, (SELECT string_agg(md5(n || '/' || m), '') FROM generate_series(1, 1000) m)
           FROM generate_series(1, 2000) n;
         INSERT INTO one SELECT id + 2000, text FROM one;
         INSERT INTO two SELECT * FROM one",
    );
    database
}

/// What is in a database made by [`fresh_large`]: rows and sums, and the words in `marker`.
#[track_caller]
pub(crate) fn contents(cluster: &Cluster, database: &str) -> String {
    cluster.psql(
        database,
        "SELECT (SELECT count(*) || ' ' || sum(hashtextextended(text, 0)) FROM large),
                (SELECT count(*) || ' ' || sum(large_id) FROM small),
                coalesce((SELECT string_agg(word, ',') FROM marker), 'no marker')",
    )
}

/// The databases whose name begins so.
pub(crate) fn databases_beginning(cluster: &Cluster, prefix: &str) -> Vec<String> {
    let mut names = cluster.databases();
    names.retain(|name| name.starts_with(prefix));
    names
}

/// Runs pgkeep and has it end at this step in this way.
pub(crate) fn stopped_at(place: &Place, arguments: &[&str], step: &str, how: &str) -> Run {
    place.pgkeep_with(&[("PGKEEP_TEST_STOP", &format!("{step}:{how}"))], arguments)
}

/// The identifiers in `pgkeep list`, newest first.
#[track_caller]
pub(crate) fn listed(place: &Place) -> Vec<String> {
    let report = place.pgkeep(&["list", "--output", "json"]).ok().json();
    let backups = report["backups"].as_array().expect("a list of backups");
    backups.iter().map(|backup| backup["id"].as_str().expect("an identifier").to_owned()).collect()
}

/// What no run may leave behind: staged volumes, scratch, locks of runs, unfinished files, backups without manifest.
/// Empty is good.
pub(crate) fn leftovers(place: &Place) -> Vec<String> {
    let mut left = place.files("store/.staging");
    left.extend(place.files("state/scratch"));
    left.extend(place.files("state/locks").into_iter().filter(|name| name.starts_with("run-")));
    left.extend(place.files("store").into_iter().filter(|name| name.ends_with(".unfinished")));
    left.extend(
        place
            .backups()
            .iter()
            .filter(|backup| !backup.join("manifest").exists())
            .map(|backup| backup.display().to_string()),
    );
    left
}

/// Nothing is stored and nothing is left of a backup that failed; the run's row says so.
#[track_caller]
pub(crate) fn assert_no_trace(place: &Place, outcome: &str, exit_code: i32) {
    assert_eq!(listed(place), [""; 0], "backups in the catalog");
    assert_eq!(place.backups(), Vec::<PathBuf>::new(), "backups in the store");
    assert_eq!(leftovers(place), [""; 0], "left behind");
    let (found, code, message) = last_run(place, "backup database");
    assert_eq!((found.as_str(), code), (outcome, exit_code.to_string()), "{message}");
    assert!(!message.is_empty(), "the row says nothing");
}

/// Outcome, exit code and message of the newest run of this command.
#[track_caller]
pub(crate) fn last_run(place: &Place, command: &str) -> (String, String, String) {
    let rows = place.catalog(&format!(
        "SELECT outcome, exit_code, message FROM runs WHERE command = '{command}' ORDER BY started_at DESC LIMIT 1"
    ));
    let [outcome, code, message] = <[String; 3]>::try_from(rows.into_iter().next().expect("a row")).unwrap();
    (outcome, code, message)
}

/// State and message of the newest restore.
#[track_caller]
pub(crate) fn last_restore(place: &Place) -> (String, String) {
    let rows = place.catalog("SELECT state, message FROM restore_log ORDER BY id DESC LIMIT 1");
    let [state, message] = <[String; 2]>::try_from(rows.into_iter().next().expect("a row")).unwrap();
    (state, message)
}

/// A process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    /// As `ps` has it: `T` is halted.
    pub(crate) state: String,
    /// The command line, its words separated by spaces.
    pub(crate) command: String,
}

/// All processes that can be seen and have not ended.
pub(crate) fn processes() -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("list /proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may be gone by now.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Ok(command) = fs::read(entry.path().join("cmdline")) else { continue };
        // The name stands in parentheses and may hold anything.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        let (state, parent) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if state != "Z" {
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let (parent, state) = (parent.parse().unwrap_or_default(), state.to_owned());
            found.push(Process { pid, parent, state, command });
        }
    }
    found
}

/// The children of a process, and theirs.
pub(crate) fn descendants(pid: u32) -> Vec<Process> {
    let all = processes();
    let mut parents = vec![i32::try_from(pid).expect("a process's number")];
    let mut found: Vec<Process> = Vec::new();
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|process| process.parent == parent) {
            parents.push(child.pid);
            found.push(child.clone());
        }
    }
    found
}

/// The `pg_dump` of a running pgkeep, once it is that.
#[track_caller]
pub(crate) fn dump_of(running: &mut Running) -> Process {
    let dump = within(Duration::from_secs(30), || {
        let children = descendants(running.pid());
        let found = children.into_iter().find(|process| {
            process.command.contains("--format=directory") && !process.command.contains("__tethered")
        });
        (found.is_some() || !running.is_running()).then_some(found)
    });
    let ended = "pgkeep has ended before there was a pg_dump";
    dump.unwrap_or_else(|| panic!("waited in vain for pg_dump: {:?}", descendants(running.pid())))
        .expect(ended)
}

/// No program that works in this place's scratch directory outlives its run by more than 3 s.
#[track_caller]
pub(crate) fn assert_no_survivors(place: &Place) {
    let scratch = place.state().join("scratch").display().to_string();
    let found = || -> Vec<Process> {
        processes().into_iter().filter(|process| process.command.contains(&scratch)).collect()
    };
    let gone = within(Duration::from_secs(3), || found().is_empty().then_some(()));
    assert!(gone.is_some(), "still running: {:?}", found());
}

/// Asks again and again until there is an answer or the time is over.
pub(crate) fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same; not getting an answer within a minute is a failure of the test.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_mins(1), ask).unwrap_or_else(|| panic!("waited in vain for {what}"))
}

/// A table or view in a database of which another session has a lock. A view: `pg_dump` gets to it and waits, nobody
/// else does.
pub(crate) struct Gate<'a> {
    cluster: &'a Cluster,
    /// The number of that session's server process.
    pub(crate) backend: String,
    session: Running,
}

impl<'a> Gate<'a> {
    /// Makes the view and shuts it.
    pub(crate) fn shut(cluster: &'a Cluster, database: &str) -> Self {
        // Locking a view locks the tables that it reads: it reads none.
        cluster.psql(database, "CREATE OR REPLACE VIEW gate AS SELECT 1 AS one");
        Self::shut_at(cluster, database, "gate")
    }

    /// Shuts the table or view of this name.
    pub(crate) fn shut_at(cluster: &'a Cluster, database: &str, name: &str) -> Self {
        let sql = format!("BEGIN; LOCK TABLE {name}; SELECT pg_sleep(600)");
        let mut psql = cluster.client("psql");
        let session = Running::start(psql.env("PGDATABASE", database).args(["-Xq", "-c", &sql]));
        let sleeping = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND state = 'active' AND wait_event = 'PgSleep'"
        );
        let backend =
            wait_for("the lock", || Some(cluster.psql("postgres", &sleeping)).filter(|pid| !pid.is_empty()));
        Self { cluster, backend, session }
    }

    /// Waits until the `pg_dump` of a running pgkeep stands before it.
    #[track_caller]
    pub(crate) fn reached_by(&self, running: &mut Running) -> Process {
        let dump = dump_of(running);
        self.wait_for_somebody();
        dump
    }

    /// Waits until a session stands before it.
    #[track_caller]
    pub(crate) fn wait_for_somebody(&self) {
        let waiting = format!(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND {} = ANY (pg_blocking_pids(pid))",
            self.backend
        );
        wait_for("a session at the gate", || (self.cluster.psql("postgres", &waiting) == "1").then_some(()));
    }

    /// Opens it.
    pub(crate) fn open(self) {
        self.cluster.psql("postgres", &format!("SELECT pg_terminate_backend({})", self.backend));
        self.session.wait();
    }
}

/// The command, started by another one: `strace`, `nsenter`.
pub(crate) fn through(before: &mut Command, command: &Command) -> Command {
    let mut all = Command::new(before.get_program());
    all.args(before.get_args()).arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            all.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        all.current_dir(directory);
    }
    all.stdin(Stdio::null());
    all
}

/// A small file system that only those see who enter it; it goes with this value. An ordinary user may make one, too.
pub(crate) struct SmallDisk {
    holder: Child,
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts a tmpfs of this size, such as `2m`, over the directory, which is made.
    pub(crate) fn mount(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).expect("make the mount point");
        set_mode(path, 0o700);
        give(path);
        let mut unshare = Command::new("unshare");
        unshare.arg("--mount");
        if !is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        // It ends when the pipe is closed, also when the test dies.
        let script = "mount -t tmpfs -o \"size=$1,mode=700\" none \"$0\" && chown --reference=\"$0\"/.. \"$0\" && \
                      echo mounted && exec cat";
        let mut holder = unshare
            .args(["sh", "-c", script])
            .args([path.as_os_str(), size.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start unshare (util-linux)");
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("read a pipe");
        assert_eq!(line, "mounted\n", "no tmpfs can be mounted: the tests need root or user namespaces");
        Self { holder, path: path.to_owned() }
    }

    /// Makes it read-only. By `bind`, because only that is allowed to an ordinary user, too.
    pub(crate) fn make_read_only(&self) {
        let done = self.enter().args(["mount", "-o", "remount,bind,ro"]).arg(&self.path).status();
        assert!(done.expect("start mount").success(), "could not remount {}", self.path.display());
    }

    /// Puts a file in the place of another one, for those who enter.
    pub(crate) fn cover(&self, path: &Path, by: &Path) {
        let done = self.enter().args(["mount", "--bind"]).args([by, path]).status();
        assert!(done.expect("start mount").success(), "could not cover {}", path.display());
    }

    /// Fills it up to this many free bytes, in steps of 4 KiB.
    pub(crate) fn fill(&self, left: u64) {
        let script =
            "free=$(($(stat -f -c '%a * %S' \"$0\"))) && head -c $((free - $1)) /dev/zero >\"$0/filler\"";
        let done = self.enter().args(["sh", "-c", script]).arg(&self.path).arg(left.to_string()).status();
        assert!(done.expect("start sh").success(), "could not fill {}", self.path.display());
    }

    /// Makes room again.
    pub(crate) fn empty(&self) {
        let done = self.enter().arg("rm").arg(self.path.join("filler")).status();
        assert!(done.expect("start rm").success(), "could not make room in {}", self.path.display());
    }

    /// Runs a command that sees it.
    pub(crate) fn run(&self, command: &Command) -> Run {
        self.start(command).wait()
    }

    /// Starts a command that sees it.
    pub(crate) fn start(&self, command: &Command) -> Running {
        Running::start(&mut through(&mut self.enter(), command))
    }

    /// The files in it, by their path.
    pub(crate) fn files(&self) -> Vec<String> {
        let found =
            super::run(self.enter().arg("find").arg(&self.path).args(["-type", "f", "-printf", "%P\\n"]));
        let found = found.ok().stdout;
        let found = found.lines().filter(|path| !path.starts_with("test/catalog/"));
        let mut found: Vec<String> = found.map(ToOwned::to_owned).collect();
        found.sort();
        found
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id())).arg("--mount");
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--");
        command
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

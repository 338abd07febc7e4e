//! The programs that pgkeep runs: none outlives it, not even one that it has halted, and what they wait for is said.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::python::python;
use crate::support::faults::{
    Gate, Process, assert_no_survivors, assert_no_trace, databases_beginning, descendants, fresh_wide,
    leftovers, through, wait_for, within,
};
use crate::support::{Cluster, Place, Running, cluster};

/// A parent that stays and takes in whoever loses theirs, as the manager of a user's session does. The kernel wakes a
/// halted process group when nobody of its session is left to look after it: here somebody is.
const PARENT: &str = "
import ctypes, os, subprocess, sys, time
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
subprocess.Popen(sys.argv[1:])
until = time.monotonic() + 300
while time.monotonic() < until:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.05)
";

/// pgkeep below such a parent.
struct Family {
    parent: Running,
}

impl Family {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut before = Command::new(python());
        before.args(["-I", "-B", "-c", PARENT]);
        Self { parent: Running::start(&mut through(&mut before, &place.command(arguments))) }
    }

    fn members(&self) -> Vec<Process> {
        descendants(self.parent.pid())
    }

    /// Waits until as many processes of the program as wanted are there; `word` is of its command line.
    #[track_caller]
    fn wait_for(&self, word: &str, count: usize, is_so: impl Fn(&Process) -> bool) -> Vec<Process> {
        let of_program = |process: &Process| process.command.contains(word) && !is_guard(process);
        let found = within(Duration::from_mins(2), || {
            let mut found = self.members();
            found.retain(|process| of_program(process) && is_so(process));
            (found.len() == count).then_some(found)
        });
        found.unwrap_or_else(|| panic!("waited in vain for {count} of {word}: {:#?}", self.members()))
    }

    fn pgkeep(&self) -> Process {
        let members = self.members();
        let is_pgkeep = |process: &&Process| u32::try_from(process.parent) == Ok(self.parent.pid());
        members.iter().find(is_pgkeep).cloned().unwrap_or_else(|| panic!("no pgkeep: {members:#?}"))
    }

    fn guard(&self) -> Process {
        let members = self.members();
        members.iter().find(|process| is_guard(process)).cloned().unwrap_or_else(|| panic!("{members:#?}"))
    }

    /// Nobody is left but the parent.
    #[track_caller]
    fn assert_extinct(&self) {
        // A frame at the slowest level is compressed to its end first.
        let gone = within(Duration::from_secs(30), || self.members().is_empty().then_some(()));
        let left = self.members();
        for process in &left {
            signal(process, Signal::KILL);
        }
        assert!(gone.is_some(), "still there: {left:#?}");
    }
}

fn is_guard(process: &Process) -> bool {
    process.command.contains("__tethered")
}

fn signal(process: &Process, signal: Signal) {
    // It may be gone.
    let _ = kill_process(Pid::from_raw(process.pid).expect("a process's number"), signal);
}

/// The server has no session of pgkeep's any more in a database whose name begins so.
#[track_caller]
fn assert_no_sessions(cluster: &Cluster, database: &str) {
    let sql = format!(
        "SELECT coalesce(string_agg(concat_ws(' ', pid, application_name, state, query), '; '), '') \
         FROM pg_stat_activity WHERE starts_with(datname, '{database}') AND application_name LIKE 'pgkeep%'"
    );
    let gone = within(Duration::from_secs(5), || cluster.psql("postgres", &sql).is_empty().then_some(()));
    assert!(gone.is_some(), "still there: {}", cluster.psql("postgres", &sql));
}

/// A backup whose `pg_dump`, with two workers, is halted, because the stages behind are much slower.
fn halted() -> (Place, String, Family) {
    let cluster = cluster();
    let database = fresh_wide(cluster);
    let place = Place::ready();
    place.set("BACKUP_SCRATCH_LIMIT", "1M");
    place.set("BACKUP_COMPRESSION", "zstd:19");
    let family = Family::start(&place, &["backup", "database", &database]);
    family.wait_for("--format=directory", 3, |process| process.state == "T");
    (place, database, family)
}

#[test]
fn a_pgkeep_killed_while_its_pg_dump_is_halted_leaves_no_process() {
    let (place, database, family) = halted();
    signal(&family.pgkeep(), Signal::KILL);
    family.assert_extinct();
    assert_no_survivors(&place);
    assert_no_sessions(cluster(), &database);
    place.set("BACKUP_COMPRESSION", "zstd:1");
    place.backup(&database);
    assert_eq!(leftovers(&place), [""; 0]);
}

#[test]
fn a_guard_that_is_killed_takes_the_halted_pg_dump_with_it() {
    let (place, database, family) = halted();
    // What ends pgkeep in good order, were it sent to all of its processes, is not for the guard.
    for polite in [Signal::TERM, Signal::INT, Signal::HUP] {
        signal(&family.guard(), polite);
    }
    std::thread::sleep(Duration::from_millis(200));
    signal(&family.guard(), Signal::KILL);
    family.assert_extinct();
    assert_no_survivors(&place);
    assert_no_trace(&place, "failed", 30);
    assert_no_sessions(cluster(), &database);
}

#[test]
fn a_backup_interrupted_while_its_pg_dump_is_halted_leaves_no_process() {
    let (place, database, family) = halted();
    signal(&family.pgkeep(), Signal::INT);
    family.assert_extinct();
    assert_no_trace(&place, "interrupted", 130);
    assert_no_sessions(cluster(), &database);
}

#[test]
fn a_pgkeep_killed_while_its_pg_restore_is_halted_leaves_no_process() {
    let cluster = cluster();
    let database = cluster.fresh_database();
    // Made at once here, and never where it is restored.
    cluster.psql(
        &database,
        "CREATE FUNCTION slow(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
           PERFORM pg_sleep(coalesce(nullif(current_setting('slow.seconds', true), ''), '600')::float); RETURN n;
         END $$;
         SET slow.seconds = '0';
         CREATE TABLE waits (id int); INSERT INTO waits VALUES (1); CREATE INDEX ON waits (slow(id))",
    );
    let place = Place::ready();
    place.backup(&database);
    let copy = format!("{database}_copy");
    let family = Family::start(&place, &["restore", "latest", "--yes", "--to-database", &copy]);
    let indexing = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE starts_with(datname, '{copy}') AND wait_event = 'PgSleep'"
    );
    wait_for("the index", || (cluster.psql("postgres", &indexing) == "1").then_some(()));
    let programs = family.wait_for("--exit-on-error", 3, |_| true);
    for program in &programs {
        signal(program, Signal::STOP);
    }
    family.wait_for("--exit-on-error", 3, |process| process.state == "T");
    signal(&family.pgkeep(), Signal::KILL);
    family.assert_extinct();
    assert_no_survivors(&place);
    // The server has been told, too: it would go on with the index.
    assert_no_sessions(cluster, &copy);
    place.pgkeep(&["verify"]).ok();
    assert_eq!(databases_beginning(cluster, &copy), [""; 0]);
    assert_eq!(leftovers(&place), [""; 0]);
}

#[test]
fn a_lock_in_the_way_is_named_and_an_interrupt_ends_the_wait() {
    let cluster = cluster();
    // pgkeep itself asks for the size of every table; only pg_dump locks views.
    for (name, object) in [("orders", "table public.orders"), ("gate", "view public.gate")] {
        let database = cluster.fresh_shop();
        let place = Place::ready();
        let gate = match name {
            "gate" => Gate::shut(cluster, &database),
            table => Gate::shut_at(cluster, &database, table),
        };
        let running = place.start(&[], &["backup", "database", &database]);
        gate.wait_for_somebody();
        // It looks every five seconds, and says it once.
        std::thread::sleep(Duration::from_secs(12));
        let asked = Instant::now();
        running.signal(Signal::INT);
        let run = running.wait().fails_with(130);
        assert!(asked.elapsed() < Duration::from_secs(5), "{name}: it took {:?}", asked.elapsed());
        let note = format!(
            "pgkeep: waiting for a lock on {object}, in the way: pid {} of \"postgres\" (psql) from the server's own machine\n",
            gate.backend
        );
        assert_eq!(run.stderr.matches(&note).count(), 1, "{note}{}", run.stderr);
        assert_no_survivors(&place);
        assert_no_trace(&place, "interrupted", 130);
        // The lock is still there, but nobody waits for it.
        assert_no_sessions(cluster, &database);
        gate.open();
        place.backup(&database);
    }
}

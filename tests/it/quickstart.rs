//! `examples/quickstart.sh`, the first thing that a newcomer runs, and the example that tells the story of a tenant.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::{base, pgkeep_binary, project, run, unique};

/// Runs an example as it is, sees that it leaves nothing, and returns what it said.
fn told(name: &str) -> String {
    let directory = base().join(format!("{name}{}", unique()));
    fs::create_dir(&directory).unwrap();
    let mut script = Command::new("bash");
    script
        .arg(project().join(format!("examples/{name}.sh")))
        .arg("--binary")
        .arg(pgkeep_binary())
        .env_clear()
        .env("HOME", &directory)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("TMPDIR", &directory)
        .current_dir("/")
        .stdin(Stdio::null());
    let run = run(&mut script).ok();
    assert!(!run.stdout.contains("BACKUP_ENCRYPTION_KEY=Z"), "a key was shown");
    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let place = directory.display().to_string();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        assert!(!command.contains(&place), "still running: {command}");
    }
    run.stdout
}

#[test]
fn it_ends_well_and_leaves_nothing() {
    let told = told("quickstart");
    let expected =
        regex::Regex::new(r"^quickstart: 4 tables, \d{6} rows: identical after the restore$").unwrap();
    assert!(expected.is_match(told.lines().last().unwrap_or_default()), "{told}");
}

#[test]
fn a_customer_goes_back_in_time_while_the_others_work() {
    let told = told("tenant_time_travel");
    let expected = regex::Regex::new(
        r"^tenant_time_travel: customer 17 is as it was at \S+; \d+ later bookings of others, \d+ of them made meanwhile, are all there$",
    );
    assert!(expected.unwrap().is_match(told.lines().last().unwrap_or_default()), "{told}");
}

#[test]
fn it_explains_itself_and_refuses_what_it_does_not_know() {
    let script = |argument: &str| {
        let mut bash = Command::new("bash");
        bash.arg(project().join("examples/quickstart.sh")).arg(argument).stdin(Stdio::null());
        run(&mut bash)
    };
    assert!(script("--help").ok().stdout.starts_with("usage: examples/quickstart.sh"));
    script("--sizes").fails_with(2);
}

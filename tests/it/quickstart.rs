//! `examples/quickstart.sh`, the first thing that a newcomer runs.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::{base, pgkeep_binary, project, run, unique};

#[test]
fn it_ends_well_and_leaves_nothing() {
    let directory = base().join(format!("quickstart{}", unique()));
    fs::create_dir(&directory).unwrap();
    let mut script = Command::new("bash");
    script
        .arg(project().join("examples/quickstart.sh"))
        .arg("--binary")
        .arg(pgkeep_binary())
        .env_clear()
        .env("HOME", &directory)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("TMPDIR", &directory)
        .current_dir("/")
        .stdin(Stdio::null());
    let run = run(&mut script).ok();
    let last = run.stdout.lines().last().unwrap_or_default();
    let expected =
        regex::Regex::new(r"^quickstart: 4 tables, \d{6} rows: identical after the restore$").unwrap();
    assert!(expected.is_match(last), "{}", run.stdout);
    assert!(!run.stdout.contains("BACKUP_ENCRYPTION_KEY=Z"), "a key was shown");

    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let place = directory.display().to_string();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        assert!(!command.contains(&place), "still running: {command}");
    }
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

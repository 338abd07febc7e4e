//! `examples/quickstart.sh`, the first thing that a newcomer runs, and the example that tells the story of a tenant.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{base, ordinary, pgkeep_binary, project, run, set_mode, unique};

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
    // "Some 60 MB by default", as its usage and the README say.
    let size = regex::Regex::new(r"(?m)^shop: (\d+) MB$").unwrap().captures(&told);
    let megabytes: u32 = size.unwrap_or_else(|| panic!("{told}"))[1].parse().unwrap();
    assert!((50..=90).contains(&megabytes), "{megabytes} MB");
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

/// On a machine without apt, or without the right to use it, both commands say what is missing and do nothing.
#[test]
fn where_nothing_can_be_installed_it_says_what_is_missing() {
    let bin = base().join(format!("bin{}", unique()));
    fs::create_dir(&bin).unwrap();
    set_mode(&bin, 0o755);
    let link = |name: &str| {
        let found = ["/usr/bin", "/bin"].iter().map(|at| Path::new(at).join(name)).find(|path| path.exists());
        std::os::unix::fs::symlink(found.unwrap_or_else(|| panic!("no {name}")), bin.join(name)).unwrap();
    };
    for name in ["bash", "basename", "dirname", "sort", "tr", "id", "env"] {
        link(name);
    }
    let program = |name: &str| {
        fs::write(bin.join(name), "#!/bin/bash\nexit 9\n").unwrap();
        set_mode(&bin.join(name), 0o755);
    };
    program("cargo");
    let script = |name: &str| {
        // Nothing of the machine's own: no compiler, no apt-get.
        let mut env = ordinary("/usr/bin/env");
        env.arg(format!("PATH={}", bin.display())).args(["CARGO_HOME=/nowhere", "/bin/bash"]);
        run(env.arg(project().join(name)))
    };
    let quickstart = script("examples/quickstart.sh").fails_with(1);
    assert!(
        quickstart
            .stderr
            .contains("missing: build-essential (names of Debian's packages; there is no apt-get here"),
        "{}",
        quickstart.stderr
    );
    let tests = script("tests/run.sh").fails_with(1);
    assert!(
        tests.stderr.contains("(Debian's packages; the tests run on Debian and Ubuntu)"),
        "{}",
        tests.stderr
    );
    // With apt, as an ordinary user, without sudo.
    program("apt-get");
    let quickstart = script("examples/quickstart.sh").fails_with(1);
    let says = "ask an administrator to run: apt-get install build-essential";
    assert!(quickstart.stderr.contains(says), "{}", quickstart.stderr);
}

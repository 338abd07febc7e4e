//! `examples/systemd`: the crontab's timetable as timers, valid by systemd's own word.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{pgkeep_binary, project, run};

fn units(ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(project().join("examples/systemd")).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    found.sort();
    found
}

#[test]
fn every_timer_is_a_line_of_the_crontab() {
    let crontab = fs::read_to_string(project().join("crontab.example")).unwrap();
    let of_cron: BTreeSet<String> = crontab
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once("pgkeep --quiet "))
        .filter(|(times, _)| times.split_whitespace().count() == 5)
        .map(|(_, command)| command.to_owned())
        .collect();
    let command = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix("ExecStart=pgkeep --quiet "))
            .unwrap_or_else(|| panic!("{}", path.display()))
            .to_owned()
    };
    let of_systemd: BTreeSet<String> = units("service").iter().map(command).collect();
    assert!(of_systemd.len() >= 10, "{of_systemd:?}");
    // The page goes where the machine has it: a line for cron's shell alone.
    let of_cron: BTreeSet<String> =
        of_cron.into_iter().filter(|command| !command.starts_with("status ")).collect();
    assert_eq!(of_systemd, of_cron);
    for service in units("service") {
        assert!(service.with_extension("timer").exists(), "{} has no timer", service.display());
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_timers() {
    let directory = tempfile::tempdir().unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify");
    for unit in units("service").into_iter().chain(units("timer")) {
        let text = fs::read_to_string(&unit).unwrap();
        let copy = directory.path().join(unit.file_name().unwrap());
        fs::write(
            &copy,
            text.replace("ExecStart=pgkeep", &format!("ExecStart={}", pgkeep_binary().display())),
        )
        .unwrap();
        verify.arg(copy);
    }
    let verified = run(&mut verify).ok();
    assert_eq!(verified.stderr.trim(), "", "systemd-analyze verify");
}

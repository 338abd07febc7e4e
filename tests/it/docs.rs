//! What the documentation says, held to what the program does: README, help, crontab, manual page, completions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use pgkeep::cli::args::{Arguments, exit_codes};
use pgkeep::config::documented;
use pgkeep::model::Kind;
use regex::Regex;

use crate::clouds::Cloud;
use crate::support::s3::Options;
use crate::support::{Archiving, ordinary, pgkeep_binary, project, run};

fn read(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The part of the README under a heading of the second level.
fn section(heading: &str) -> String {
    let readme = read("README.md");
    let start = readme.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let rest = &readme[start + 4..];
    rest[..rest.find("\n## ").unwrap_or(rest.len())].to_owned()
}

/// The cells of a section's table rows, without the head.
fn rows(section: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let inner = line.trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let table = section.lines().filter(|line| line.starts_with('|'));
    table.map(cells).filter(|row: &Vec<String>| !row[0].starts_with("---")).skip(1).collect()
}

/// The lines of all blocks of shell commands, comments taken away.
fn shell_lines(markdown: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in markdown.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside {
            let command = line.split(" # ").next().unwrap_or_default().trim();
            lines.push(command.to_owned());
        }
    }
    lines
}

/// The `pgkeep ...` in a line of shell, up to what belongs to the shell; `None` when pgkeep is not called there.
fn pgkeep_words(line: &str) -> Option<Vec<String>> {
    let call = Regex::new(r"(?:^|[\s(])(pgkeep(?: [^|<>;&)`]*)?)").unwrap();
    let found = call.captures(line)?.get(1)?;
    Some(found.as_str().split_whitespace().map(str::to_owned).collect())
}

#[track_caller]
fn assert_parses(words: &[String]) {
    if let Err(error) = Arguments::try_parse_from(words) {
        assert!(!error.use_stderr(), "{}: {error}", words.join(" "));
    }
}

/// Every command and subcommand with the words that call it, hidden ones and `help` left out.
fn commands() -> Vec<(String, clap::Command)> {
    fn collect(words: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
        found.push((words.to_owned(), command.clone()));
        let is_shown = |below: &&clap::Command| below.get_name() != "help" && !below.is_hide_set();
        for below in command.get_subcommands().filter(is_shown) {
            collect(&format!("{words} {}", below.get_name()), below, found);
        }
    }
    let mut root = Arguments::command();
    root.build();
    let mut found = Vec::new();
    collect("pgkeep", &root, &mut found);
    found
}

#[test]
fn the_readme_lists_every_setting_with_its_default_and_no_other() {
    let plain = |cell: &str| cell.trim_matches('`').to_owned();
    let found: Vec<(String, String)> =
        rows(&section("Settings")).iter().map(|row| (plain(&row[0]), plain(&row[1]))).collect();
    let expected: Vec<(String, String)> =
        documented().iter().map(|setting| (setting.name.to_owned(), setting.default.to_owned())).collect();
    assert_eq!(found, expected);
    for row in rows(&section("Settings")) {
        let name = plain(&row[0]);
        let setting = documented().iter().find(|setting| setting.name == name).unwrap();
        assert!(row[2].len() > 5, "{name} has no meaning");
        assert_eq!(row[2].contains("**Secret**"), setting.secret, "{name}");
    }
}

#[test]
fn the_readme_and_the_crontab_name_no_setting_that_does_not_exist() {
    // What pgkeep refuses, by the README's own words, and what is no setting of the tables.
    const OTHERS: [&str; 12] = [
        "PGKEEP_ENV_FILE",
        "PGKEEP_BENCH_PGBACKREST",
        "PGKEEP_BENCH_ROWS",
        "PGKEEP_BENCH_UPLOAD",
        "PGSERVICE",
        "PGHOSTADDR",
        "PGTARGETSESSIONATTRS",
        "PGREQUIREAUTH",
        "PGREQUIREPEER",
        "PGCHANNELBINDING",
        "PGSSLCRL",
        "PGSSLCRLDIR",
    ];
    let name = Regex::new(r"\b(?:BACKUP_[A-Z_]+|PG[A-Z_]{2,})\b").unwrap();
    for file in ["README.md", "crontab.example"] {
        for found in name.find_iter(&read(file)) {
            let known = documented().iter().any(|setting| setting.name == found.as_str())
                || OTHERS.contains(&found.as_str());
            assert!(known, "{file} speaks of {}", found.as_str());
        }
    }
}

#[test]
fn exit_codes_are_the_same_in_the_readme_in_the_help_and_in_the_program() {
    let mut expected = vec![(0, "done".to_owned())];
    expected.extend(Kind::ALL.iter().map(|kind| (kind.exit_code(), kind.meaning().to_owned())));
    let found: Vec<(u8, String)> = rows(&section("Exit codes"))
        .iter()
        .map(|row| (row[0].parse().expect("a code"), row[1].clone()))
        .collect();
    assert_eq!(found, expected);
    let line = Regex::new(r"(?m)^ +(\d+)  (.+)$").unwrap();
    let help = exit_codes();
    let found: Vec<(u8, String)> = line
        .captures_iter(&help)
        .map(|line| (line[1].parse().expect("a code"), line[2].to_owned()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_readmes_table_of_faults_uses_codes_that_exist() {
    let codes: BTreeSet<u8> = Kind::ALL.iter().map(|kind| kind.exit_code()).collect();
    let faults = rows(&section("What can go wrong and what pgkeep does"));
    assert!(faults.len() > 10);
    for row in faults {
        for word in row[2].split(|letter: char| !letter.is_ascii_digit()).filter(|word| !word.is_empty()) {
            assert!(codes.contains(&word.parse().unwrap()), "{row:?}");
        }
    }
}

#[test]
fn every_command_is_in_the_readme_and_every_option_is_explained() {
    let readme = read("README.md");
    for (words, command) in commands() {
        let leaf = command.get_subcommands().next().is_none();
        assert!(!leaf || readme.contains(&words), "the README does not mention `{words}`");
        assert!(command.get_about().is_some() || words == "pgkeep", "{words} has no help");
        for argument in command.get_arguments() {
            let name = argument.get_id().to_string();
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty(), "{words}: {name} has no help");
        }
    }
    let restore = section("Restore");
    let (_, command) = commands().into_iter().find(|(words, _)| words == "pgkeep restore").unwrap();
    let own = command.get_opts().filter(|option| !option.is_global_set());
    for long in own.filter_map(clap::Arg::get_long).filter(|long| !["help", "version"].contains(long)) {
        assert!(restore.contains(&format!("| `--{long}")), "the README's table for restore lacks --{long}");
    }
}

#[test]
fn the_readmes_commands_are_understood() {
    let lines = shell_lines(&read("README.md"));
    let calls: Vec<Vec<String>> = lines.iter().filter_map(|line| pgkeep_words(line)).collect();
    assert!(calls.len() >= 15, "{calls:?}");
    for call in &calls {
        assert_parses(call);
    }
    // In the text as well, where a command stands with what it is given.
    let quoted = Regex::new(r"`(pgkeep(?: [^`]+)?)`").unwrap();
    let readme = read("README.md");
    for call in quoted.captures_iter(&readme) {
        let words: Vec<String> =
            call[1].split_whitespace().filter(|word| *word != "...").map(str::to_owned).collect();
        // `pgkeep restore` names a command; what it must be given is not the point there.
        let named: BTreeSet<String> = commands().into_iter().map(|(words, _)| words).collect();
        if !named.contains(&words.join(" ")) {
            assert_parses(&words);
        }
    }
}

#[test]
fn the_readmes_links_and_files_are_there() {
    let readme = read("README.md");
    let headings: BTreeSet<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| heading.to_lowercase().replace(' ', "-").replace(',', ""))
        .collect();
    let link = Regex::new(r"\]\(([^)]+)\)").unwrap();
    let mut targets = BTreeSet::new();
    for found in link.captures_iter(&readme) {
        let target = &found[1];
        targets.insert(target.to_owned());
        match target.strip_prefix('#') {
            Some(heading) => assert!(headings.contains(heading), "no heading #{heading}"),
            None => assert!(project().join(target).is_file(), "there is no {target}"),
        }
    }
    assert!(targets.contains("src/format/SPEC.md"), "the format's specification is not linked");
    for heading in &headings {
        let listed = heading == "license" || targets.contains(&format!("#{heading}"));
        assert!(listed, "the README's list of contents lacks #{heading}");
    }
    for schema in fs::read_dir(project().join("src/cli/schema")).unwrap() {
        let name = schema.unwrap().file_name().to_string_lossy().into_owned();
        assert!(targets.contains(&format!("src/cli/schema/{name}")), "the README does not link {name}");
    }
    for file in
        ["examples/quickstart.sh", "tests/run.sh", "examples/restore_without_pgkeep.py", "crontab.example"]
    {
        assert!(readme.contains(file) && project().join(file).is_file(), "{file}");
    }
}

#[test]
fn the_crontabs_commands_are_understood_and_backed_up_is_what_the_readme_says() {
    let mut calls = BTreeMap::new();
    for line in read("crontab.example").lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let timed =
            fields.first().is_some_and(|first| first.starts_with(|c: char| c.is_ascii_digit() || c == '*'));
        if timed {
            let words: Vec<String> = fields[5..].iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(words[0], "pgkeep", "{line}");
            assert_parses(&words);
            calls.insert(words.join(" "), fields[..5].join(" "));
        }
    }
    assert_eq!(calls.get("pgkeep --quiet backup database").map(String::as_str), Some("0 2 * * *"));
    assert!(calls.len() >= 4, "{calls:?}");
    assert_eq!(calls.get("pgkeep --quiet cleanup").map(String::as_str), Some("0 4 * * *"));
}

#[test]
fn every_dependency_has_its_reason_beside_it() {
    let manifest = read("Cargo.toml");
    let mut inside = false;
    let mut count = 0;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = ["[dependencies]", "[dev-dependencies]"].contains(&line);
        } else if inside && line.contains('=') && !line.starts_with('#') {
            count += 1;
            let reason = line.rsplit_once(" # ").map_or("", |(_, reason)| reason.trim());
            assert!(reason.len() > 5, "no reason: {line}");
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn nothing_in_the_sources_is_left_to_be_done() {
    let unfinished = Regex::new(r"\b(?:todo|unimplemented|dbg)!|\b(?:TODO|FIXME|XXX)\b").unwrap();
    let mut waiting: Vec<PathBuf> =
        ["src", "tests", "examples"].iter().map(|top| project().join(top)).collect();
    let mut looked_at = 0;
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let ours = Path::new(file!()).file_name() == path.file_name();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        looked_at += 1;
        for (index, line) in text.lines().enumerate().filter(|_| !ours) {
            assert!(!unfinished.is_match(line), "{}:{}: {line}", path.display(), index + 1);
        }
    }
    assert!(looked_at > 80, "{looked_at}");
}

#[test]
fn the_help_is_as_it_was_reviewed() {
    for (words, _) in commands() {
        let mut arguments: Vec<&str> = words.split(' ').skip(1).collect();
        arguments.push("--help");
        let found = run(ordinary(pgkeep_binary()).args(&arguments).env("COLUMNS", "100")).ok();
        assert_eq!(found.stderr, "", "{words}");
        insta::assert_snapshot!(words.replace(' ', "_"), found.stdout);
    }
}

#[test]
fn completions_and_the_manual_page_know_every_command() {
    let tops: Vec<String> = Arguments::command()
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .map(|sub| sub.get_name().to_owned())
        .collect();
    assert!(tops.len() > 8, "{tops:?}");
    for arguments in
        [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"]]
    {
        let found = run(ordinary(pgkeep_binary()).args(arguments)).ok();
        for name in &tops {
            let as_in_roff = name.replace('-', "\\-");
            let is_there = found.stdout.contains(name.as_str()) || found.stdout.contains(&as_in_roff);
            assert!(is_there, "{arguments:?} does not know {name}");
        }
        assert!(found.stdout.lines().count() > 20, "{arguments:?}: {}", found.stdout);
    }
}

/// Each shell reads its completions without running them.
#[test]
fn completions_are_valid_by_the_shells_themselves() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = directory.path().join(shell);
        fs::write(&script, run(ordinary(pgkeep_binary()).args(["completions", shell])).ok().stdout).unwrap();
        let read = run(std::process::Command::new(shell).arg("-n").arg(&script)).ok();
        assert_eq!(read.stderr, "", "{shell}");
    }
}

/// Every file and directory that pgkeep makes has its row in the README.
#[test]
fn every_path_that_there_is_is_explained() {
    let archiving = Archiving::ready();
    let clouds = [Cloud::start(Options::default()), Cloud::start(Options::b2())];
    clouds[0].is_r2_of(&archiving.place);
    clouds[1].is_b2_of(&archiving.place);
    archiving.place.init();
    archiving.archive();
    archiving.place.backup("postgres");
    archiving.place.pgkeep(&["backup", "cluster", "--fast"]).ok();
    let readme = read("README.md");
    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `")).collect();
    let explained = |path: &str| rows.iter().any(|row| row.contains(path));
    let mut seen = BTreeSet::new();
    for file in archiving.place.files(".") {
        let file = file.trim_start_matches("./");
        let path = match file.split('/').collect::<Vec<_>>().as_slice() {
            ["pgkeep.env"] => "/etc/pgkeep/pgkeep.env".to_owned(),
            ["state"] => "/var/lib/pgkeep/".to_owned(),
            ["state", name] if name.starts_with("catalog.sqlite") => (*name).to_owned(),
            ["state", directory, ..] => format!("/var/lib/pgkeep/{directory}/"),
            ["store"] => "/var/backups/pgkeep/".to_owned(),
            ["store", ".staging", ..] => ".../.staging/".to_owned(),
            ["store", "test", "identity"] => ".../main/identity".to_owned(),
            ["store", "test", "backups", _, name] => format!(".../main/backups/<id>/{name}"),
            ["store", "test", "wal", _, _, _] => ".../main/wal/<timeline>/<group>/<file>-<sha256>".to_owned(),
            ["store", "test", "catalog", _, _] => ".../main/catalog/<lineage>/<time>-<run>".to_owned(),
            ["store", "test", ..] => continue,
            _ => panic!("nobody told of {file}"),
        };
        assert!(explained(&path), "{file}: no row of the README has {path}");
        seen.insert(path);
    }
    assert!(seen.len() >= 8, "{seen:?}");
}

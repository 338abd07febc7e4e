//! What the Debian package is made of. That it installs, upgrades and goes again is tried by
//! `tests/acceptance/debian_package.sh`.

use std::collections::BTreeSet;
use std::fs;

use clap::CommandFactory;
use pgkeep::cli::args::Arguments;
use regex::Regex;

use crate::support::{Place, cluster, give, ordinary, pgkeep_binary, project, run, set_mode};

fn read(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_file_of_the_package_is_there_and_secrets_are_the_owners_alone() {
    let manifest = read("Cargo.toml");
    let asset = Regex::new(r#"(?m)^    \["([^"]+)", "([^"]+)", "(\d+)"\],$"#).unwrap();
    let mut seen = 0;
    for found in asset.captures_iter(&manifest) {
        let (from, to, mode) = (&found[1], &found[2], &found[3]);
        seen += 1;
        let is_there = match from.split_once('*') {
            // Made by examples/debian/build.sh.
            _ if from.starts_with("target/release/") => true,
            None => project().join(from).is_file(),
            Some((start, ending)) => {
                let (directory, _) = start.rsplit_once('/').unwrap();
                let mut entries = fs::read_dir(project().join(directory)).unwrap();
                entries.any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(ending))
            }
        };
        assert!(is_there, "there is no {from}");
        let expected = match to {
            "etc/pgkeep/pgkeep.env" => "600",
            "usr/bin/" => "755",
            _ => "644",
        };
        assert_eq!(mode, expected, "{to}");
    }
    assert!(seen > 10, "{seen}");
    assert!(manifest.contains("conf-files = [\"/etc/pgkeep/pgkeep.env\"]"));
    let version = env!("CARGO_PKG_VERSION");
    assert!(read("examples/debian/changelog").starts_with(&format!("pgkeep ({version}-1) ")));
    assert!(read("README.md").contains(&format!("./pgkeep_{version}-1_amd64.deb")));
    for script in ["postinst", "prerm", "postrm", "build.sh"] {
        let shell = if script == "build.sh" { "bash" } else { "sh" };
        run(std::process::Command::new(shell).arg("-n").arg(project().join("examples/debian").join(script)))
            .ok();
    }
}

#[test]
fn no_key_is_lost_however_often_the_package_is_removed_and_installed_again() {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc/pgkeep");
    fs::create_dir_all(&etc).unwrap();
    // It is there: nothing needs to be made, which only root could.
    fs::create_dir_all(root.path().join("var/lib/pgkeep")).unwrap();
    let called = |script: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new("sh");
        command.arg(project().join("examples/debian").join(script)).args(arguments);
        run(command.env("DPKG_ROOT", root.path())).ok()
    };
    let put = |name: &str, text: &str| fs::write(etc.join(name), text).unwrap();
    let saved = || {
        let mut found: Vec<(String, String)> = fs::read_dir(&etc)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|it| (it.file_name().into_string().unwrap(), fs::read_to_string(it.path()).unwrap()))
            .filter(|(name, _)| name.contains(".removed"))
            .collect();
        found.sort();
        found
    };
    let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let none = "BACKUP_ENCRYPTION_KEY_FILE=/etc/pgkeep/key\n#BACKUP_ENCRYPTION_KEY=no\n";
    put("pgkeep.env", none);
    called("postrm", &["remove"]);
    assert_eq!(saved(), []);
    // However it is written; and what an upgrade has put aside goes with the settings.
    put("pgkeep.env", "BACKUP_ENCRYPTION_KEY = one\n");
    put("pgkeep.env.dpkg-old", "  export BACKUP_ENCRYPTION_KEY=zero\n");
    put("pgkeep.env.dpkg-dist", none);
    called("postrm", &["remove"]);
    let mut expected = vec![
        pair("pgkeep.env.removed", "BACKUP_ENCRYPTION_KEY = one\n"),
        pair("pgkeep.env.removed.1", "  export BACKUP_ENCRYPTION_KEY=zero\n"),
    ];
    assert_eq!(saved(), expected);
    called("postrm", &["remove"]);
    assert_eq!(saved(), expected, "once is enough");
    // Purged, and installed again with another key: neither that nor the next upgrade takes the old one away.
    for name in ["pgkeep.env", "pgkeep.env.dpkg-old", "pgkeep.env.dpkg-dist"] {
        fs::remove_file(etc.join(name)).unwrap();
    }
    let purged = called("postrm", &["purge"]);
    assert!(purged.stderr.contains("etc/pgkeep is kept"), "{}", purged.stderr);
    put("pgkeep.env", "BACKUP_ENCRYPTION_KEY=two\n");
    let said = called("postinst", &["configure", "0.1.0-1"]).stderr;
    assert_eq!(said.matches("a key of before").count(), 2, "{said}");
    assert_eq!(saved(), expected);
    called("postrm", &["remove"]);
    expected.push(pair("pgkeep.env.removed.2", "BACKUP_ENCRYPTION_KEY=two\n"));
    assert_eq!(saved(), expected);
    // In its place again is what is the same word for word.
    fs::create_dir_all(root.path().join("var/lib/pgkeep")).unwrap();
    called("postinst", &["configure", "0.1.0-1"]);
    expected.pop();
    assert_eq!(saved(), expected);
}

#[test]
fn with_the_settings_that_it_brings_backups_work_as_soon_as_there_is_a_key() {
    let place = Place::new();
    let mut settings = read("examples/debian/pgkeep.env");
    for (from, to) in [("/etc/pgkeep/key", "key"), ("/var/backups/pgkeep", "store")] {
        assert!(settings.contains(from), "{from}");
        settings = settings.replace(&format!("={from}"), &format!("={}", place.path(to).display()));
    }
    // What a test's place has, and a machine has by default.
    let more =
        ["BACKUP_STATE_DIR", "PGHOST", "PGPORT"].map(|name| format!("{name}={}\n", place.setting(name)));
    settings.push_str(&more.concat());
    place.put("pgkeep.env", settings.as_bytes());
    let missing = place.pgkeep(&["init"]);
    assert_ne!(missing.code, 0);
    assert!(missing.stderr.contains(&place.path("key").display().to_string()), "{}", missing.stderr);
    let key = run(ordinary(pgkeep_binary()).args(["key", "new"])).ok().stdout;
    place.put("key", key.as_bytes());
    place.init();
    place.pgkeep(&["backup", "database", &cluster().fresh_shop()]).ok();
    place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn there_is_a_manual_page_for_each_command_and_for_none_that_is_hidden() {
    fn names(words: &str, command: &clap::Command, found: &mut BTreeSet<String>) {
        found.insert(format!("{words}.1"));
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            if below.get_name() != "help" {
                names(&format!("{words}-{}", below.get_name()), below, found);
            }
        }
    }
    let place = Place::new();
    let directory = place.path("man");
    let arguments = ["man", "--to-dir", directory.to_str().unwrap()];
    let refused = place.pgkeep(&arguments).fails_with(40);
    assert!(refused.stderr.contains("hint: "), "{}", refused.stderr);
    fs::create_dir(&directory).unwrap();
    set_mode(&directory, 0o755);
    give(&directory);
    place.pgkeep(&arguments).ok();
    let mut expected = BTreeSet::new();
    names("pgkeep", &Arguments::command(), &mut expected);
    let found: BTreeSet<String> = place.files("man").into_iter().collect();
    assert_eq!(found, expected);
    let restore = fs::read_to_string(directory.join("pgkeep-restore.1")).unwrap();
    assert!(restore.contains("target\\-time"), "{restore}");
}

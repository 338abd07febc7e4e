//! The house itself: which module may know which, what lies at the top, and that no test is forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::project;

/// Who may import what; the table of the design, with what is not built yet left out.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("main", &["cli", "command"]),
    ("cli", &["command", "config", "model", "report"]),
    (
        "command",
        &[
            "source", "target", "store", "catalog", "postgres", "pipeline", "notify", "report", "config",
            "format", "plan", "model", "system",
        ],
    ),
    ("source", &["pipeline", "postgres", "format", "plan", "model", "system"]),
    ("target", &["pipeline", "postgres", "format", "plan", "model", "system"]),
    ("store", &["format", "plan", "model", "system"]),
    ("catalog", &["format", "plan", "model", "system"]),
    ("postgres", &["format", "plan", "model", "system"]),
    ("pipeline", &["format", "plan", "model", "system"]),
    ("report", &["format", "plan", "model", "system"]),
    ("notify", &["format", "plan", "model", "system"]),
    ("config", &["model", "system"]),
    ("format", &["model"]),
    ("plan", &["model"]),
    ("model", &[]),
    ("system", &[]),
];

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// A file without comments and without its tests, which stand at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules of the crate that a text names: after `crate::`, also in braces.
fn imported(text: &str, root: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rest in text.split(root).skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(first_word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for letter in group.chars() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.insert(first_word(&std::mem::take(&mut item)));
                }
                _ if depth == 0 => item.push(letter),
                _ => {}
            }
        }
        found.insert(first_word(&item));
    }
    found.remove("");
    found
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn imports_go_downward_only() {
    let source = project().join("src");
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for path in rust_files(&source) {
        let inside = path.strip_prefix(&source).unwrap();
        let first = Path::new(inside.components().next().unwrap().as_os_str());
        let module = first.file_stem().unwrap().to_str().unwrap().to_owned();
        if module == "lib" || inside.ends_with("tests.rs") {
            continue;
        }
        let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("the module {module} is not in the table"));
        let root = if module == "main" { "pgkeep::" } else { "crate::" };
        for other in imported(&code(&path), root) {
            if other != module && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{} imports {other}", inside.display()));
            }
        }
        seen.insert(module);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.len() > 10, "only {seen:?} was looked at");
}

#[test]
fn imports_are_found_alone_and_in_braces() {
    let found =
        imported("use crate::model::Kind; use crate::{a::{x, y}, b as c,\n d}; crate::e::f()", "crate::");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "b", "d", "e", "model"]);
}

#[test]
fn every_test_file_is_in_the_binary() {
    let directory = project().join("tests/it");
    let main = fs::read_to_string(directory.join("main.rs")).unwrap();
    let declared: BTreeSet<String> = main
        .lines()
        .filter_map(|line| Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned()))
        .collect();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let there: BTreeSet<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.join("mod.rs").exists() || path.extension().is_some_and(|extension| extension == "rs")
        })
        .map(stem)
        .filter(|name| name != "main")
        .collect();
    assert_eq!(declared, there);
    assert!(declared.len() > 5, "{declared:?}");
}

#[test]
fn the_visible_top_level_is_what_the_owner_fixed() {
    // The files of the project; of an unpacked archive, which has no history, all that is there.
    let files: Vec<String> = if project().join(".git").exists() {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "ls-files"]).current_dir(project());
        let output = git.output().expect("run git: install it");
        assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
    } else {
        let entries = fs::read_dir(project()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "target").collect()
    };
    let top: BTreeSet<&str> = files
        .iter()
        .map(|file| file.split('/').next().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let fixed = ["Cargo.lock", "Cargo.toml", "README.md", "crontab.example", "examples", "src", "tests"];
    assert_eq!(top.into_iter().collect::<Vec<_>>(), fixed);
}

/// What may be linked in. (Advisories are looked up by `cargo deny check`, which needs a network: `.cargo/deny.toml`.)
#[test]
fn dependencies_come_from_crates_io_under_known_licences_with_one_tls_and_one_runtime() {
    const LICENCES: [&str; 11] = [
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MPL-2.0",
        "Unicode-3.0",
        "Zlib",
    ];
    // As in .cargo/deny.toml.
    let deny = fs::read_to_string(project().join(".cargo/deny.toml")).expect("read .cargo/deny.toml");
    for licence in LICENCES {
        assert!(deny.contains(&format!("\"{licence}\"")), "{licence} is not in .cargo/deny.toml");
    }
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(project().join("Cargo.toml"))
        .output()
        .expect("run cargo metadata");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "{} packages", packages.len());
    let mut runtimes = 0;
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        if name == "pgkeep" {
            continue;
        }
        let source = package["source"].as_str();
        assert_eq!(source, Some("registry+https://github.com/rust-lang/crates.io-index"), "{name}");
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} has no licence"));
        let expression = licence.replace('/', " OR ");
        let is_known = expression.split(" AND ").all(|needed| {
            let mut ways = needed.split(" OR ").map(|way| way.trim_matches(|letter| " ()".contains(letter)));
            ways.any(|way| LICENCES.contains(&way))
        });
        assert!(is_known, "{name}: {licence}");
        let banned = ["openssl-sys", "native-tls", "async-std", "smol"];
        assert!(!banned.contains(&name), "{name} is linked in");
        runtimes += usize::from(name == "tokio");
    }
    assert_eq!(runtimes, 1, "versions of tokio");
}

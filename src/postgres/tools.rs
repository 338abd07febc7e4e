//! The programs that come with PostgreSQL: where they are and whether they fit the server.
//!
//! A dump must be made by a `pg_dump` that is not older than the server; the one of the same major version is the
//! one that knows it best.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::model::{Fault, Kind};

/// A program that was found and asked for its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// The program's file.
    pub path: PathBuf,
    /// What it says about itself.
    pub version: ToolVersion,
}

/// The version of a program, such as 15.18 or 19beta1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolVersion {
    /// The major version: 15.
    pub major: u32,
    /// The version as the program writes it: `15.18`.
    pub text: String,
}

impl fmt::Display for ToolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl ToolVersion {
    /// Reads the answer to `--version`: `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    pub fn parse(answer: &str) -> Option<Self> {
        let begins_with_digit = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
        let text = answer.split_whitespace().find(begins_with_digit)?;
        let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        Some(Self { major: text[..digits].parse().ok()?, text: text.to_owned() })
    }
}

/// Where to look. [`Places::here`] is this machine; tests make up their own.
#[derive(Debug, Clone)]
pub struct Places {
    /// The directory under which the distributions' directories lie: `/`.
    pub root: PathBuf,
    /// The directories of `PATH`.
    pub path: Vec<PathBuf>,
}

impl Places {
    /// This machine and this process's `PATH`.
    pub fn here() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self { root: PathBuf::from("/"), path: std::env::split_paths(&path).collect() }
    }

    /// All directories to look into, the likeliest first, each once.
    fn directories(&self, server_major: u32) -> Vec<PathBuf> {
        let mut found = vec![
            self.root.join(format!("usr/lib/postgresql/{server_major}/bin")),
            self.root.join(format!("usr/pgsql-{server_major}/bin")),
        ];
        found.extend(self.pg_config());
        // Other versions, should there be none of the server's own.
        found.extend(subdirectories(&self.root.join("usr/lib/postgresql"), "").map(|path| path.join("bin")));
        found.extend(subdirectories(&self.root.join("usr"), "pgsql-").map(|path| path.join("bin")));
        found.extend(self.path.iter().cloned());
        let mut once = Vec::new();
        for directory in found {
            if !once.contains(&directory) {
                once.push(directory);
            }
        }
        once
    }

    /// What the first `pg_config` in the path says.
    fn pg_config(&self) -> Option<PathBuf> {
        let program =
            self.path.iter().map(|directory| directory.join("pg_config")).find(|file| file.is_file())?;
        let output = Command::new(program).arg("--bindir").output().ok()?;
        let answer = String::from_utf8(output.stdout).ok()?;
        let directory = answer.trim();
        (output.status.success() && directory.starts_with('/')).then(|| PathBuf::from(directory))
    }

    /// Finds the program for a server of this major version: one of the same version, else the nearest newer.
    ///
    /// With `bindir` (the setting `BACKUP_PG_BINDIR`) only that directory counts, and any version in it that is
    /// not older than the server. Blocks for the few milliseconds that the programs take to tell their versions.
    pub fn find(&self, name: &str, server_major: u32, bindir: Option<&Path>) -> Result<Tool, Fault> {
        let directories = match bindir {
            Some(directory) => vec![directory.to_owned()],
            None => self.directories(server_major),
        };
        let mut best: Option<Tool> = None;
        let mut too_old: Option<Tool> = None;
        for directory in &directories {
            let Some(tool) = ask(&directory.join(name)) else { continue };
            if tool.version.major == server_major {
                return Ok(tool);
            }
            let (place, better) = if tool.version.major > server_major {
                let better = best.as_ref().is_none_or(|best| tool.version.major < best.version.major);
                (&mut best, better)
            } else {
                let better = too_old.as_ref().is_none_or(|old| tool.version.major > old.version.major);
                (&mut too_old, better)
            };
            if better {
                *place = Some(tool);
            }
        }
        if let Some(tool) = best {
            return Ok(tool);
        }
        let message = match (&too_old, bindir) {
            (Some(tool), _) => format!(
                "{} is version {}, older than the server's {server_major}",
                tool.path.display(),
                tool.version
            ),
            (None, Some(directory)) => format!("there is no {name} that runs in {}", directory.display()),
            (None, None) => format!("there is no {name} for PostgreSQL {server_major} on this machine"),
        };
        Err(Fault::new(Kind::Postgres, message).hint(self.remedy(server_major, bindir)))
    }

    fn remedy(&self, server_major: u32, bindir: Option<&Path>) -> String {
        let install = if self.root.join("usr/bin/dnf").exists() || self.root.join("usr/bin/yum").exists() {
            format!("dnf install postgresql{server_major}")
        } else {
            format!("apt-get install postgresql-client-{server_major}")
        };
        if bindir.is_some() {
            format!(
                "Point BACKUP_PG_BINDIR to the programs of PostgreSQL {server_major}, or leave it empty; \
                 `{install}` installs them."
            )
        } else {
            format!(
                "Install it with `{install}` (packages of every version are at postgresql.org/download), or \
                 set BACKUP_PG_BINDIR to the directory that holds it."
            )
        }
    }
}

/// Finds the program on this machine; see [`Places::find`].
pub fn find(name: &str, server_major: u32, bindir: Option<&Path>) -> anyhow::Result<Tool> {
    Ok(Places::here().find(name, server_major, bindir)?)
}

/// Asks a program for its version; `None` if it is not there or says nothing sensible.
fn ask(program: &Path) -> Option<Tool> {
    // Debian's wrapper chooses a version by rules of its own, at every call; the real ones are found anyway.
    let real = program.canonicalize().ok()?;
    if !real.is_file() || real.file_name().is_some_and(|name| name == "pg_wrapper") {
        return None;
    }
    let output = Command::new(program).arg("--version").output().ok()?;
    if !output.status.success() {
        return None;
    }
    let version = ToolVersion::parse(&String::from_utf8_lossy(&output.stdout))?;
    Some(Tool { path: program.to_owned(), version })
}

fn subdirectories(directory: &Path, prefix: &str) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    names.sort();
    names.into_iter()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn install(path: &Path, version: &str) {
        let script = format!("#!/bin/sh\necho 'pg_dump (PostgreSQL) {version} (Debian {version}-1)'\n");
        write_program(path, &script);
    }

    fn write_program(path: &Path, script: &str) {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("make the directory");
        std::fs::write(path, script).expect("write");
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("chmod");
    }

    fn machine(root: &Path) -> Places {
        Places { root: root.to_owned(), path: vec![root.join("path")] }
    }

    #[test]
    fn versions_are_read_as_every_packager_writes_them() {
        let parse = |answer| ToolVersion::parse(answer).map(|version| (version.major, version.text));
        assert_eq!(
            parse("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
            Some((15, "15.18".to_owned()))
        );
        assert_eq!(parse("pg_dump (PostgreSQL) 19beta1"), Some((19, "19beta1".to_owned())));
        assert_eq!(parse("pg_dump (EnterpriseDB) 16.4.1"), Some((16, "16.4.1".to_owned())));
        assert_eq!(parse("Error: You must install at least one postgresql-client package"), None);
    }

    #[test]
    fn the_servers_own_version_goes_before_the_path() {
        let root = tempfile::tempdir().expect("make a directory");
        install(&root.path().join("path/pg_dump"), "17.2");
        let debian = root.path().join("usr/lib/postgresql/15/bin/pg_dump");
        install(&debian, "15.18");
        let tool = machine(root.path()).find("pg_dump", 15, None).expect("find");
        assert_eq!((tool.path, tool.version.to_string()), (debian, "15.18".to_owned()));
        let red_hat = root.path().join("usr/pgsql-16/bin/pg_dump");
        install(&red_hat, "16.4");
        assert_eq!(machine(root.path()).find("pg_dump", 16, None).expect("find").path, red_hat);
    }

    #[test]
    fn without_the_servers_version_the_nearest_newer_one_is_taken() {
        let root = tempfile::tempdir().expect("make a directory");
        for version in ["13", "18", "16"] {
            install(&root.path().join(format!("usr/lib/postgresql/{version}/bin/pg_dump")), version);
        }
        assert_eq!(machine(root.path()).find("pg_dump", 15, None).expect("find").version.major, 16);
    }

    #[test]
    fn where_pg_config_points_is_looked_into() {
        let root = tempfile::tempdir().expect("make a directory");
        let own = root.path().join("opt/own/bin");
        install(&own.join("pg_dump"), "15.1");
        write_program(&root.path().join("path/pg_config"), &format!("#!/bin/sh\necho {}\n", own.display()));
        assert_eq!(machine(root.path()).find("pg_dump", 15, None).expect("find").path, own.join("pg_dump"));
    }

    #[test]
    fn older_programs_are_refused_with_what_to_install() {
        let root = tempfile::tempdir().expect("make a directory");
        install(&root.path().join("path/pg_dump"), "13.4");
        let fault = machine(root.path()).find("pg_dump", 15, None).expect_err("too old");
        assert_eq!(fault.kind, Kind::Postgres);
        assert!(
            fault.message.ends_with("path/pg_dump is version 13.4, older than the server's 15"),
            "{fault}"
        );
        assert!(fault.hint.expect("a hint").contains("apt-get install postgresql-client-15"));
    }

    #[test]
    fn a_machine_without_the_program_says_so() {
        let root = tempfile::tempdir().expect("make a directory");
        // Debian's wrapper without any version behind it is no program.
        write_program(&root.path().join("share/pg_wrapper"), "#!/bin/sh\nexit 1\n");
        std::fs::create_dir_all(root.path().join("path")).expect("make the directory");
        std::os::unix::fs::symlink("../share/pg_wrapper", root.path().join("path/pg_dump")).expect("link");
        let fault = machine(root.path()).find("pg_dump", 15, None).expect_err("none");
        assert_eq!(fault.message, "there is no pg_dump for PostgreSQL 15 on this machine");
    }

    #[test]
    fn with_a_directory_set_only_that_one_counts() {
        let root = tempfile::tempdir().expect("make a directory");
        install(&root.path().join("usr/lib/postgresql/15/bin/pg_dump"), "15.18");
        let set = root.path().join("set");
        let fault = machine(root.path()).find("pg_dump", 15, Some(&set)).expect_err("none there");
        assert!(fault.message.starts_with("there is no pg_dump that runs in"), "{fault}");
        install(&set.join("pg_dump"), "16.1");
        let tool = machine(root.path()).find("pg_dump", 15, Some(&set)).expect("find");
        assert_eq!(tool.version.major, 16);
    }
}

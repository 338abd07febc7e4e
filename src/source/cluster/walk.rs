//! What there is in the data directory, decided before anything is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::format::cluster::Directory;
use crate::plan::data_directory::{self as rules, Relations, Wanted};
use crate::system::caller;

/// A file that is to be read.
#[derive(Debug, Clone)]
pub(super) struct FileToRead {
    pub(super) path: PathBuf,
    /// Below the data directory.
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) mode: u32,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// The largest first.
    pub(super) files: Vec<FileToRead>,
    pub(super) directories: Vec<Directory>,
    pub(super) left_out: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// Links to tablespaces of which the server had not told when it was asked.
    pub(super) unknown_tablespaces: Vec<String>,
    /// Of the data directory itself.
    pub(super) mode: u32,
}

struct Walk<'a> {
    tablespaces: BTreeMap<String, &'a Path>,
    /// Those that lie in the data directory, by their path in it: they are read through their links.
    inner: BTreeSet<String>,
    /// How the directory of this version in a tablespace begins.
    version: String,
    walked: Walked,
}

/// Lists a data directory, that of the server at `server_top`, and its tablespaces. What vanishes meanwhile is passed
/// over.
pub(super) fn walk(
    top: &Path,
    server_top: &Path,
    tablespaces: &[(u32, PathBuf)],
    major: u32,
) -> anyhow::Result<Walked> {
    let inner = tablespaces.iter().filter_map(|(_, path)| {
        let inside = path.strip_prefix(server_top).ok()?.to_str()?;
        (!inside.is_empty()).then(|| inside.to_owned())
    });
    let inner = inner.collect();
    let tablespaces =
        tablespaces.iter().map(|(oid, path)| (format!("pg_tblspc/{oid}"), path.as_path())).collect();
    let walked = Walked { mode: mode_of(top)?, ..Walked::default() };
    let mut walk = Walk { tablespaces, inner, version: format!("PG_{major}_"), walked };
    walk.directory(top, "")?;
    let mut walked = walk.walked;
    walked.files.sort_by_key(|file| std::cmp::Reverse(file.size));
    Ok(walked)
}

/// The names of the user and the group that a file belongs to; their numbers where they have none.
pub(super) fn owner_of(path: &Path) -> anyhow::Result<(String, String)> {
    let metadata = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    let (user, group) = (metadata.uid(), metadata.gid());
    Ok((
        caller::user_name(user).unwrap_or_else(|| user.to_string()),
        caller::group_name(group).unwrap_or_else(|| group.to_string()),
    ))
}

/// The permission bits of a directory.
pub(super) fn mode_of(path: &Path) -> anyhow::Result<u32> {
    let metadata = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

impl Walk<'_> {
    /// Takes in what is in a directory; `inside` is its path below the data directory.
    fn directory(&mut self, directory: &Path, inside: &str) -> anyhow::Result<()> {
        let describe = || format!("list {}", directory.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).with_context(describe)? {
            let entry = entry.with_context(describe)?;
            let Ok(name) = entry.file_name().into_string() else {
                let path = entry.path();
                self.walked.warnings.push(format!("{} is left out: its name is not UTF-8", path.display()));
                continue;
            };
            match fs::symlink_metadata(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                metadata => found.push((name, metadata.with_context(describe)?)),
            }
        }
        let relations = if rules::is_database(inside) {
            Relations::of(found.iter().map(|(name, _)| name.as_str()))
        } else {
            Relations::default()
        };
        for (name, metadata) in found {
            let path = if inside.is_empty() { name.clone() } else { format!("{inside}/{name}") };
            let there = directory.join(&name);
            if metadata.is_file() {
                if rules::file(&path) == Wanted::Yes && relations.wants(&name) {
                    let mode = metadata.permissions().mode() & 0o7777;
                    let size = metadata.len();
                    self.walked.files.push(FileToRead { path: there, name: path, size, mode });
                }
            } else if metadata.is_dir() {
                self.below(&there, &path, &metadata)?;
            } else if metadata.is_symlink() {
                self.link(&there, path)?;
            } else if !metadata.file_type().is_socket() {
                self.walked.left_out.push(path);
            }
        }
        Ok(())
    }

    fn below(&mut self, directory: &Path, path: &str, metadata: &Metadata) -> anyhow::Result<()> {
        let wanted = rules::directory(path);
        if wanted == Wanted::No || self.inner.contains(path) {
            return Ok(());
        }
        let mode = metadata.permissions().mode() & 0o7777;
        self.walked.directories.push(Directory { path: path.to_owned(), mode });
        if path == "pg_wal" {
            // The server looks for these two (the second since PostgreSQL 17).
            for name in
                ["archive_status", "summaries"].into_iter().filter(|name| directory.join(name).is_dir())
            {
                self.walked.directories.push(Directory { path: format!("pg_wal/{name}"), mode });
            }
        }
        if wanted == Wanted::Yes { self.or_vanished(directory, path) } else { Ok(()) }
    }

    /// A database that was dropped takes its directory with it.
    fn or_vanished(&mut self, directory: &Path, path: &str) -> anyhow::Result<()> {
        match self.directory(directory, path) {
            Err(error)
                if error.chain().any(|cause| {
                    cause.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::NotFound)
                }) =>
            {
                Ok(())
            }
            walked => walked,
        }
    }

    /// WAL and tablespaces may be elsewhere; where other links lead is none of the backup's.
    fn link(&mut self, link: &Path, path: String) -> anyhow::Result<()> {
        if let Some(tablespace) = self.tablespaces.get(&path).copied() {
            for entry in fs::read_dir(tablespace).with_context(|| format!("list {}", tablespace.display()))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                // Other versions' directories may be beside.
                if name.starts_with(&self.version) {
                    let metadata = entry.metadata()?;
                    self.below(&entry.path(), &format!("{path}/{name}"), &metadata)?;
                }
            }
            return Ok(());
        }
        if path.starts_with("pg_tblspc/") {
            self.walked.unknown_tablespaces.push(path);
            return Ok(());
        }
        match fs::metadata(link) {
            // Those that the server needs, empty, are made as directories (`convert_link_to_directory`).
            Ok(metadata) if metadata.is_dir() && rules::directory(&path) == Wanted::Empty => {
                self.below(link, &path, &metadata)
            }
            _ => {
                let (why, link) = ("where it leads is none of the data directory's", link.display());
                self.walked.warnings.push(format!("{link} is left out, it is a link: {why}"));
                self.walked.left_out.push(path);
                Ok(())
            }
        }
    }
}

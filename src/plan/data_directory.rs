//! What of a data directory belongs to a physical backup: PostgreSQL's manual, "Making a Base Backup Using the Low Level
//! API", and the lists in `src/backend/backup/basebackup.c`.

use std::collections::BTreeSet;

/// Directories that are kept and whose contents are not: the server empties or makes them anew when it starts.
const EMPTIED: [&str; 7] =
    ["pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];

/// Files at the top that are the running server's own, or another backup's.
const AT_TOP: [&str; 13] = [
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles.tmp",
    "global/pg_control.pgkeep",
    "pgkeep.restore",
    "pgkeep-start.log",
    "pgkeep-start.pid",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "tablespace_map",
    "tablespace_map.old",
];

/// How the names begin under which a restore keeps the `pg_wal` of the server that it replaces, in the data directory:
/// beside it there may be no right to write, or another file system.
pub const KEPT_WAL: &str = "pgkeep-pg_wal-";

/// What becomes of something in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It belongs to the backup.
    Yes,
    /// Of a directory: only itself, empty.
    Empty,
    /// It does not.
    No,
}

/// Decides about a directory by its path below the data directory.
pub fn directory(path: &str) -> Wanted {
    let name = path.rsplit('/').next().unwrap_or(path);
    // Temporary files, wherever they are.
    if name.starts_with("pgsql_tmp") {
        return Wanted::No;
    }
    // What a restore has put aside.
    if path.starts_with(KEPT_WAL) || path == "lost+found" {
        return Wanted::No;
    }
    match path {
        // WAL comes from the archive; two directories are looked for in there.
        "pg_wal" => Wanted::Empty,
        _ if EMPTIED.contains(&path) => Wanted::Empty,
        _ => Wanted::Yes,
    }
}

/// Decides about a file by its path below the data directory; for those of relations see [`Relations`].
pub fn file(path: &str) -> Wanted {
    let name = path.rsplit('/').next().unwrap_or(path);
    let at_top = AT_TOP.contains(&path);
    // `global/pg_control` is read by itself, after everything else.
    let no = at_top
        || path == "global/pg_control"
        || name.starts_with("pgsql_tmp")
        || name.starts_with("pg_internal.init")
        || matches!(path, "recovery.signal" | "standby.signal");
    if no { Wanted::No } else { Wanted::Yes }
}

/// The name of a file of a relation, taken apart (`parse_filename_for_nontemp_relation` in `reinit.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile<'a> {
    /// The relation's file number.
    pub number: &'a str,
    /// `vm`, `fsm`, `init`; nothing for the main one.
    pub fork: Option<&'a str>,
    /// Which gibibyte of it.
    pub segment: u32,
}

impl<'a> RelationFile<'a> {
    /// Takes a name such as `16384_vm.1` apart.
    pub fn parse(name: &'a str) -> Option<Self> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (stem, segment) = match name.split_once('.') {
            Some((stem, segment)) if digits(segment) => (stem, segment.parse().ok()?),
            Some(_) => return None,
            None => (name, 0),
        };
        let (number, fork) = match stem.split_once('_') {
            Some((number, fork @ ("vm" | "fsm" | "init"))) => (number, Some(fork)),
            Some(_) => return None,
            None => (stem, None),
        };
        digits(number).then_some(Self { number, fork, segment })
    }
}

/// Whether a directory holds the files of one database: in `base`, or in a tablespace.
pub fn is_database(path: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match path.split('/').collect::<Vec<_>>()[..] {
        ["base", number] => digits(number),
        ["pg_tblspc", _, version, number] => version.starts_with("PG_") && digits(number),
        _ => false,
    }
}

/// Whether the pages of the files in this directory have checksums.
pub fn has_pages(path: &str) -> bool {
    path == "global" || is_database(path)
}

/// The relations of one database's directory that are emptied when recovery ends: those with an `init` fork.
#[derive(Debug, Default)]
pub struct Relations {
    unlogged: BTreeSet<String>,
}

impl Relations {
    /// Learns from the names of the directory's files.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let unlogged = names
            .filter_map(RelationFile::parse)
            .filter(|file| file.fork == Some("init"))
            .map(|file| file.number.to_owned());
        Self { unlogged: unlogged.collect() }
    }

    /// Whether a file of the directory belongs to the backup: not the rows of unlogged tables, nothing of temporary ones.
    pub fn wants(&self, name: &str) -> bool {
        match RelationFile::parse(name) {
            Some(file) => file.fork == Some("init") || !self.unlogged.contains(file.number),
            None => !is_temporary(name),
        }
    }
}

/// Whether it is a file of a temporary table: `t<backend>_<number>` and what may follow
/// (`looks_like_temp_rel_name` in `fd.c`).
fn is_temporary(name: &str) -> bool {
    name.strip_prefix('t').and_then(|rest| rest.split_once('_')).is_some_and(|(backend, file)| {
        !backend.is_empty()
            && backend.bytes().all(|byte| byte.is_ascii_digit())
            && RelationFile::parse(file).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_manual_leaves_out_is_left_out() {
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "backup_label",
            "tablespace_map",
            "backup_manifest",
            "global/pg_internal.init",
            "base/5/pg_internal.init.1234",
            "base/pgsql_tmp1.0",
            "global/pg_control",
            "standby.signal",
        ] {
            assert_eq!(file(path), Wanted::No, "{path}");
        }
        for path in ["PG_VERSION", "postgresql.conf", "base/5/1259", "pg_xact/0000", "base/5/pg_filenode.map"]
        {
            assert_eq!(file(path), Wanted::Yes, "{path}");
        }
        assert_eq!(directory("pg_wal"), Wanted::Empty);
        assert_eq!(directory("pg_replslot"), Wanted::Empty);
        assert_eq!(directory("base/pgsql_tmp"), Wanted::No);
        assert_eq!(directory("base/5"), Wanted::Yes);
        assert_eq!(directory("pg_logical"), Wanted::Yes);
    }

    #[test]
    fn unlogged_and_temporary_relations_are_told_by_their_names() {
        let relations = Relations::of(["16384", "16384_init", "16390", "t3_16400"].into_iter());
        for (name, wanted) in [
            ("16384", false),
            ("16384.1", false),
            ("16384_vm", false),
            ("16384_init", true),
            ("16390", true),
            ("16390_fsm", true),
            ("t3_16400", false),
            ("t3_16400_vm.2", false),
            ("PG_VERSION", true),
            ("pg_filenode.map", true),
            ("test_data", true),
        ] {
            assert_eq!(relations.wants(name), wanted, "{name}");
        }
    }

    #[test]
    fn names_of_relations_are_taken_apart() {
        let parsed = RelationFile::parse("16384_fsm.12");
        assert_eq!(parsed, Some(RelationFile { number: "16384", fork: Some("fsm"), segment: 12 }));
        for name in ["", "16384_", "16384_x", "16384.x", "x16384", "16384_vm_1", "t1_16384"] {
            assert_eq!(RelationFile::parse(name), None, "{name}");
        }
        assert!(is_database("base/5") && is_database("pg_tblspc/16385/PG_15_202209061/5"));
        assert!(!is_database("base") && !is_database("pg_tblspc/16385/PG_15_202209061"));
        assert!(has_pages("global") && !has_pages("pg_xact"));
    }
}

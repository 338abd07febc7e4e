//! A part of a database's dump: all of its tables are made, because nobody can say beforehand what of functions, types and
//! extensions they need, but only some get their rows; and nothing is made that acts of itself or that costs rows.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use super::{LoadPlan, restorer};
use crate::model::{Fault, FaultContext, Kind};
use crate::plan::tenants::TableName;
use crate::postgres::{Server, child_environment};
use crate::system::{durable, process};

/// What a table of contents calls what is left out: rows of views and large objects, what acts of itself, what is said about
/// things, and rights.
const LEFT_OUT: [&str; 18] = [
    "SEQUENCE SET ",
    "MATERIALIZED VIEW DATA ",
    "STATISTICS DATA ",
    "BLOB ",
    "BLOBS ",
    "BLOB METADATA ",
    "TRIGGER ",
    "EVENT TRIGGER ",
    "POLICY ",
    "ROW SECURITY ",
    "PUBLICATION ",
    "PUBLICATION TABLE ",
    "PUBLICATION TABLES IN SCHEMA ",
    "SUBSCRIPTION ",
    "ACL ",
    "DEFAULT ACL ",
    "COMMENT ",
    // A provider of labels may not be there.
    "SECURITY LABEL ",
];

/// What is wanted of a dump.
#[derive(Debug, Default)]
pub struct Part<'a> {
    /// The files with the rows that are wanted, such as `3361.dat`.
    pub files: BTreeSet<&'a str>,
    /// Foreign keys that are not made, because the rows that they lead to are not there: table and name.
    pub without: Vec<(TableName, String)>,
}

/// Writes the list for `pg_restore`. Of the dump only the table of contents needs to be there.
pub async fn list(
    server: &Server,
    directory: &Path,
    load: &LoadPlan,
    part: &Part<'_>,
    path: &Path,
) -> anyhow::Result<()> {
    let pg_restore = restorer(server, directory, load.bindir.as_deref())?;
    let environment = child_environment(&load.connection, Some(&server.endpoint().database))?;
    let arguments: [OsString; 2] = ["--list".into(), directory.into()];
    let without = part.without.iter().map(|(table, name)| {
        let begins = format!("FK CONSTRAINT {} {} {name} ", table.schema, table.name);
        // As a listing has it (`sanitize_line` in `pg_backup_archiver.c`).
        begins.replace(['\n', '\r'], " ")
    });
    let without: Vec<String> = without.collect();
    let keep = |line: &str| keeps(line, part, &without).then(|| line.to_owned());
    let lines = process::pick_lines(&pg_restore.path, &arguments, &environment, keep).await;
    let lines = lines.or_fault(|| Fault::new(Kind::Postgres, "read the dump's table of contents"))?;
    durable::write_file(path, (lines.join("\n") + "\n").as_bytes())
}

/// Lines such as `3361; 0 16386 TABLE DATA public orders owner`.
fn keeps(line: &str, part: &Part<'_>, without: &[String]) -> bool {
    let Some((number, rest)) = line.split_once("; ") else { return false };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) || number.is_empty() {
        return false;
    }
    let Some(what) = rest.splitn(3, ' ').nth(2) else { return false };
    if what.starts_with("TABLE DATA ") {
        return part.files.contains(format!("{number}.dat").as_str());
    }
    !LEFT_OUT.iter().any(|kind| what.starts_with(kind))
        && !without.iter().any(|begins| what.starts_with(begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rows_that_are_wanted_are_kept_and_nothing_that_acts_of_itself() {
        let part = Part { files: ["3361.dat"].into(), without: Vec::new() };
        let without = ["FK CONSTRAINT a b k ".to_owned()];
        let keeps = |line| keeps(line, &part, &without);
        assert!(keeps("3361; 0 16386 TABLE DATA public orders owner"));
        assert!(!keeps("3362; 0 16387 TABLE DATA public big owner"));
        assert!(keeps("215; 1259 16387 TABLE public big owner"));
        assert!(keeps("3400; 2606 16390 FK CONSTRAINT a b k2 owner"));
        assert!(!keeps("3400; 2606 16390 FK CONSTRAINT a b k owner"));
        assert!(keeps("2; 3079 16384 EXTENSION - hstore "));
        assert!(!keeps("3364; 0 0 COMMENT - EXTENSION hstore "));
        assert!(!keeps("3401; 2620 16391 TRIGGER public orders t owner"));
        assert!(!keeps("3402; 0 0 SECURITY LABEL public TABLE orders owner"));
        assert!(keeps("3300; 3381 16399 STATISTICS public s owner"));
        assert!(!keeps("; Archive created at 2026-01-01"));
        assert!(!keeps(""));
    }
}

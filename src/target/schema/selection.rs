//! Which parts of a dump are those of one schema: asked of `pg_restore`, which reads its table of contents.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Dump;
use crate::model::{Fault, FaultContext, Kind};
use crate::postgres::quote::identifier;
use crate::system::{durable, process};

/// The part of a dump that is one schema's.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The list of it for `pg_restore`.
    pub list: PathBuf,
    /// The files of the dump that hold its rows.
    pub files: BTreeSet<String>,
}

/// Finds the schema in a dump of which nothing but the table of contents needs to be there; nothing when it is not in it.
pub async fn select(dump: &Dump, schema: &str, list: PathBuf) -> anyhow::Result<Option<Selection>> {
    let mut only: OsString = "--schema=".into();
    only.push(schema);
    // All but the schema itself, whose own line, and whose privileges' and comment's, are in no schema.
    let mut lines = dump.lines(&[only], |line| is_entry(line).then(|| line.to_owned())).await?;
    let begins = format!("SCHEMA - {schema} ");
    let own = dump.lines(&[], |line| of_itself(line, &begins)).await?;
    let Some(owner) = dump.owner(&own, schema, &list).await? else { return Ok(None) };
    lines.splice(0..0, own.into_iter().filter(|own| own.owner == owner).map(|own| own.line));
    let files = lines.iter().filter_map(|line| rows_of(line)).collect();
    durable::write_file(&list, (lines.join("\n") + "\n").as_bytes())?;
    Ok(Some(Selection { list, files }))
}

/// A line about a schema itself.
struct Own {
    line: String,
    is_schema: bool,
    /// What stands behind the schema's name: its owner, unless the name is the beginning of another.
    owner: String,
}

fn is_entry(line: &str) -> bool {
    line.starts_with(|first: char| first.is_ascii_digit())
}

/// Such as `7; 2615 16385 SCHEMA - tenant_a owner`, `3000; 0 0 ACL - SCHEMA tenant_a owner`.
fn of_itself(line: &str, begins: &str) -> Option<Own> {
    let (_, rest) = line.split_once("; ").filter(|_| is_entry(line))?;
    let what = rest.splitn(3, ' ').nth(2)?;
    let name = begins.strip_prefix("SCHEMA - ")?;
    let own = |is_schema, owner: &str| Own { line: line.to_owned(), is_schema, owner: owner.to_owned() };
    if let Some(owner) = what.strip_prefix(begins) {
        return Some(own(true, owner));
    }
    ["ACL - SCHEMA ", "COMMENT - SCHEMA ", "SECURITY LABEL - SCHEMA "]
        .iter()
        .find_map(|kind| what.strip_prefix(kind)?.strip_prefix(name))
        .map(|owner| own(false, owner))
}

/// The file with the rows of which such a line tells: `3361; 0 16386 TABLE DATA tenant_a orders owner`.
fn rows_of(line: &str) -> Option<String> {
    let (number, rest) = line.split_once("; ")?;
    rest.splitn(3, ' ').nth(2)?.starts_with("TABLE DATA ").then(|| format!("{number}.dat"))
}

impl Dump {
    async fn lines<T>(&self, more: &[OsString], pick: impl Fn(&str) -> Option<T>) -> anyhow::Result<Vec<T>> {
        let mut arguments: Vec<OsString> = vec!["--list".into()];
        arguments.extend_from_slice(more);
        arguments.push(self.directory.as_os_str().to_owned());
        let picked = process::pick_lines(&self.pg_restore.path, &arguments, &self.environment, pick).await;
        picked.or_fault(|| Fault::new(Kind::Postgres, "read the dump's table of contents"))
    }

    /// The owner of the schema. Names and owners are not told apart in a list, so where there are several lines that may be
    /// meant, it is asked which of them makes a schema of this name.
    async fn owner(&self, own: &[Own], schema: &str, scratch: &Path) -> anyhow::Result<Option<String>> {
        for candidate in own.iter().filter(|own| own.is_schema) {
            durable::write_file(scratch, format!("{}\n", candidate.line).as_bytes())?;
            let mut list: OsString = "--use-list=".into();
            list.push(scratch);
            let arguments =
                [list, "--schema-only".into(), "--file=-".into(), self.directory.as_os_str().to_owned()];
            let makes = format!("CREATE SCHEMA {};", identifier(schema));
            let plainly = format!("CREATE SCHEMA {schema};");
            let made = process::pick_lines(&self.pg_restore.path, &arguments, &self.environment, |line| {
                (line == makes || line == plainly).then_some(())
            });
            let made =
                made.await.or_fault(|| Fault::new(Kind::Postgres, "look for the schema in the dump"))?;
            durable::remove_file_if_there(scratch)?;
            if !made.is_empty() {
                return Ok(Some(candidate.owner.clone()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_schemas_own_is_found_in_a_listing() {
        let own = |line| of_itself(line, "SCHEMA - a b ").map(|own| (own.is_schema, own.owner));
        assert_eq!(own("7; 2615 16385 SCHEMA - a b boss"), Some((true, "boss".to_owned())));
        assert_eq!(own("7; 2615 16385 SCHEMA - a b c boss"), Some((true, "c boss".to_owned())));
        assert_eq!(own("3000; 0 0 ACL - SCHEMA a b boss"), Some((false, "boss".to_owned())));
        assert_eq!(own("3001; 0 0 COMMENT - SCHEMA a b boss"), Some((false, "boss".to_owned())));
        assert_eq!(own("7; 2615 16385 SCHEMA - a boss"), None);
        assert_eq!(own("; Archive created at"), None);
        assert_eq!(rows_of("3361; 0 16386 TABLE DATA a b t boss"), Some("3361.dat".to_owned()));
        assert_eq!(rows_of("215; 1259 16386 TABLE a t boss"), None);
    }
}

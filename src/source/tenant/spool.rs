//! The spool: one file for each table, in which every tenant's rows lie in pieces.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use memchr::memchr;

use crate::format::manifest::Table;
use crate::format::tenant::{Tenant, TenantTable};
use crate::format::volume::FRAME_BYTES;
use crate::model::{Fault, Kind, Stage, Timestamp};
use crate::pipeline::{FinishedEntry, Framer};
use crate::plan::tenants::TableName;
use crate::system::durable;

/// A tenant's rows of one table are laid into the spool in pieces of about this size.
const PIECE: usize = 64 << 10;
/// How much may wait in memory, for all tenants of one table together.
const WAITING: usize = 32 << 20;

/// How the names of entries with rows of shared tables end.
const REFERENCE: &str = "reference";

/// Where a tenant's rows of one table lie in its spool, and how many they are.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pieces: Vec<(u64, u32)>,
    count: u64,
}

/// One table's rows in the spool.
#[derive(Debug)]
pub(super) struct SpooledTable {
    pub(super) number: usize,
    pub(super) file: File,
    pub(super) rows: BTreeMap<usize, Rows>,
    pub(super) described: TenantTable,
    pub(super) is_reference: bool,
}

/// Sorts lines by their first field, the owner, into pieces of a file.
pub(super) struct Spooling<'a> {
    index: &'a BTreeMap<String, usize>,
    everybody: bool,
    file: File,
    at: u64,
    /// The beginning of a line whose end is still to come.
    rest: Vec<u8>,
    waiting: BTreeMap<usize, Vec<u8>>,
    held: usize,
    rows: BTreeMap<usize, Rows>,
}

impl<'a> Spooling<'a> {
    pub(super) fn new(
        path: &Path,
        index: &'a BTreeMap<String, usize>,
        everybody: bool,
    ) -> anyhow::Result<Self> {
        let file = durable::create_private_file(path)?;
        // Without a name nobody has to clear it away.
        durable::remove_file_if_there(path)?;
        let (waiting, rows) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { index, everybody, file, at: 0, rest: Vec::new(), waiting, held: 0, rows })
    }

    pub(super) fn take(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut bytes = bytes;
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, more) = bytes.split_at(end + 1);
            bytes = more;
            if self.rest.is_empty() {
                self.line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole)?;
                whole.clear();
                self.rest = whole;
            }
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> anyhow::Result<()> {
        // A table without columns of its own has no tab.
        let end = memchr(b'\t', line).unwrap_or(line.len() - 1);
        let (owner, row) = (&line[..end], line.get(end + 1..).unwrap_or_default());
        let owner = unescaped(owner)?;
        // A row of somebody who is not in the table of tenants is no tenant's.
        let Some(&tenant) = self.index.get(&owner) else {
            if self.everybody {
                return Ok(());
            }
            return Fault::new(Kind::Bug, format!("a row of \"{owner}\" came, whom nobody has asked for"))
                .err();
        };
        let waiting = self.waiting.entry(tenant).or_default();
        waiting.extend_from_slice(row);
        self.held += row.len();
        self.rows.entry(tenant).or_default().count += 1;
        if waiting.len() >= PIECE {
            self.flush(tenant)?;
        }
        if self.held >= WAITING {
            for tenant in self.waiting.keys().copied().collect::<Vec<_>>() {
                self.flush(tenant)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, tenant: usize) -> anyhow::Result<()> {
        let Some(bytes) = self.waiting.remove(&tenant).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        self.file.write_all(&bytes).map_err(full)?;
        self.rows.entry(tenant).or_default().pieces.push((self.at, u32::try_from(bytes.len())?));
        self.at += bytes.len() as u64;
        self.held -= bytes.len();
        Ok(())
    }

    pub(super) fn end(mut self) -> anyhow::Result<(File, BTreeMap<usize, Rows>)> {
        if !self.rest.is_empty() {
            return Fault::new(Kind::Postgres, "the server ended in the middle of a row").err();
        }
        for tenant in self.waiting.keys().copied().collect::<Vec<_>>() {
            self.flush(tenant)?;
        }
        Ok((self.file, self.rows))
    }
}

fn full(error: io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(
        Fault::new(Kind::Store, "write rows into the scratch directory")
            .hint("Make room there, or set BACKUP_SCRATCH_DIR to a directory with more."),
    )
}

/// A field of `COPY`'s text format as text (manual, `COPY`, section "Text Format").
fn unescaped(field: &[u8]) -> anyhow::Result<String> {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        // The server writes no others.
        out.push(match bytes.next() {
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(other) => other,
            None => b'\\',
        });
    }
    String::from_utf8(out).context("a tenant's key is not UTF-8")
}

/// The rows of all tenants that were wanted, at one instant.
#[derive(Debug)]
pub struct Spool {
    pub(super) directory: PathBuf,
    pub(super) tables: Vec<SpooledTable>,
    pub(super) ids: Vec<String>,
    pub(super) root: TableName,
    pub(super) root_key: String,
    /// The database.
    pub database: String,
    /// The server's system identifier.
    pub system_identifier: u64,
    /// The instant.
    pub consistent_at: Timestamp,
    /// The server's version.
    pub postgres_version_num: u32,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

impl Spool {
    /// The tenants, in the order in which they were asked for.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The same rows as of the database of this name, of which the one that was read is a copy.
    #[must_use]
    pub fn of_database(mut self, name: &str) -> Self {
        name.clone_into(&mut self.database);
        self
    }

    /// How many bytes one tenant's rows take.
    pub fn bytes(&self, tenant: usize) -> u64 {
        let pieces = self.tables.iter().filter_map(|table| table.rows.get(&tenant));
        pieces.flat_map(|rows| &rows.pieces).map(|(_, length)| u64::from(*length)).sum()
    }

    /// What the manifest keeps of a tenant, and for each table with rows what reads them.
    pub fn of(&self, tenant: usize) -> (Tenant, Vec<(TenantTable, TenantRows<'_>)>) {
        let (mut tables, mut references, mut readers) = (Vec::new(), Vec::new(), Vec::new());
        for table in &self.tables {
            let mut described = table.described.clone();
            if let Some(rows) = table.rows.get(&tenant) {
                let kind = if table.is_reference { REFERENCE } else { "rows" };
                described.entry = Some(format!("{}.{kind}", table.number));
                described.rows = rows.count;
                let reader = TenantRows { file: &table.file, pieces: &rows.pieces, within: 0 };
                readers.push((described.clone(), reader));
            } else if table.is_reference {
                continue;
            }
            if table.is_reference { &mut references } else { &mut tables }.push(described);
        }
        let tenant = Tenant {
            mode: "row".to_owned(),
            id: self.ids.get(tenant).cloned().unwrap_or_default(),
            database: self.database.clone(),
            schema: None,
            tenants: (self.root.schema.clone(), self.root.name.clone()),
            tenants_key: self.root_key.clone(),
            before_restore: false,
            tables,
            references,
        };
        (tenant, readers)
    }

    /// Removes the spool's directory.
    pub fn remove(&self) -> anyhow::Result<()> {
        durable::remove_dir_if_there(&self.directory)?;
        Ok(())
    }
}

/// Reads one tenant's rows of one table.
#[derive(Debug)]
pub struct TenantRows<'a> {
    file: &'a File,
    pieces: &'a [(u64, u32)],
    within: u32,
}

impl TenantRows<'_> {
    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.pieces.iter().map(|(_, length)| u64::from(*length)).sum::<u64>() - u64::from(self.within)
    }
}

impl Read for TenantRows<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((offset, length)) = self.pieces.first().copied() else { return Ok(0) };
        let wanted = buffer.len().min((length - self.within) as usize);
        let read = self.file.read_at(&mut buffer[..wanted], offset + u64::from(self.within))?;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.within += read as u32;
        if self.within == length {
            (self.pieces, self.within) = (&self.pieces[1..], 0);
        }
        Ok(read)
    }
}

/// One tenant's entries with the tables whose rows they are, and what its manifest keeps.
pub type TenantContents = (Vec<(FinishedEntry, Option<Box<Table>>)>, Tenant);

/// Puts one tenant's rows into the pipeline.
pub fn pack(
    spool: &Spool,
    tenant: usize,
    mut framer: Framer,
    stage: &Stage,
) -> anyhow::Result<TenantContents> {
    let (tenant, readers) = spool.of(tenant);
    let mut entries = Vec::with_capacity(readers.len());
    for (table, mut rows) in readers {
        let name = table.entry.clone().unwrap_or_default();
        let is_reference = name.ends_with(REFERENCE);
        let mut entry = framer.begin(name, 0o600);
        while rows.left() > 0 {
            let length = rows.left().min(FRAME_BYTES as u64) as usize;
            framer.read(&mut entry, &mut rows, length, |_| ()).context("read the spool")?;
            stage.add(length as u64);
        }
        let described = Table {
            schema: table.schema,
            name: table.name,
            raw: None,
            rows: table.rows,
            of_extension: false,
        };
        entries.push((framer.finish(entry), (!is_reference).then(|| Box::new(described))));
    }
    framer.close()?;
    Ok((entries, tenant))
}

//! Files on their way into the pipeline, several at once; the checksums of their pages are looked at on the way.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use tokio::task::JoinSet;

use super::walk::FileToRead;
use crate::format::cluster::DamagedPages;
use crate::format::volume::FRAME_BYTES;
use crate::model::{Fault, Kind, Stage};
use crate::pipeline::{FinishedEntry, Framer};
use crate::plan::data_directory::{RelationFile, has_pages};
use crate::postgres::page::{self, PAGE_BYTES, Wrong};
use crate::system::Stop;

/// How often a page that looks wrong is read again, and after how long: the server may be writing it.
const AGAIN: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// How pages are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages {
    /// Pages of each file of a relation but the last.
    pub(super) blocks_per_file: u32,
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct ReadFile {
    pub(super) entry: FinishedEntry,
    pub(super) modified: DateTime<Utc>,
    /// Numbers of pages in it whose checksum is wrong.
    wrong: Vec<u32>,
}

impl ReadFile {
    pub(super) fn damaged(&self) -> Option<DamagedPages> {
        let blocks = self.wrong.clone();
        (!blocks.is_empty()).then(|| DamagedPages { file: self.entry.name.clone(), blocks })
    }
}

/// Reads all files on so many threads; those that are gone meanwhile are left out.
pub(super) async fn read_all(
    files: Vec<FileToRead>,
    framer: &Framer,
    jobs: usize,
    pages: Option<Pages>,
    stage: &Arc<Stage>,
    stops: [&Stop; 2],
) -> anyhow::Result<Vec<ReadFile>> {
    let queue = Arc::new(Mutex::new(VecDeque::from(files)));
    let mut readers = JoinSet::new();
    for _ in 0..jobs {
        let (queue, mut framer) = (Arc::clone(&queue), framer.beside());
        let (stage, stops) = (Arc::clone(stage), stops.map(Clone::clone));
        readers.spawn_blocking(move || -> anyhow::Result<Vec<ReadFile>> {
            let mut read = Vec::new();
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(file) = next else { break };
                stops.iter().try_for_each(Stop::check)?;
                read.extend(read_file(&file, &mut framer, pages, &stage, &stops)?);
            }
            framer.close()?;
            Ok(read)
        });
    }
    let mut all = Vec::new();
    while let Some(read) = readers.join_next().await {
        all.extend(read.context("read files")??);
    }
    Ok(all)
}

/// `None` when it is gone: replay removes it too, or makes it anew.
fn read_file(
    file: &FileToRead,
    framer: &mut Framer,
    pages: Option<Pages>,
    stage: &Stage,
    stops: &[Stop],
) -> anyhow::Result<Option<ReadFile>> {
    let mut reader = match File::open(&file.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Fault::new(Kind::Postgres, format!("read {}: {error}", file.path.display()))
                .hint("Run it as the user of the server, or as one with group rights (initdb --allow-group-access).")
                .err();
        }
        opened => opened.with_context(|| format!("open {}", file.path.display()))?,
    };
    let describe = || format!("read {}", file.path.display());
    let metadata = reader.metadata().with_context(describe)?;
    let pages = pages.and_then(|pages| Looking::at(file, pages));
    let mut entry = framer.begin(file.name.clone(), file.mode);
    let mut suspicious = Vec::new();
    // What is added from now on is in the WAL.
    let size = metadata.len();
    while entry.size() < size {
        stops.iter().try_for_each(Stop::check)?;
        let length = (size - entry.size()).min(FRAME_BYTES as u64) as usize;
        let offset = entry.size();
        let look = |bytes: &[u8]| {
            if let Some(pages) = &pages {
                pages.look_at(bytes, offset, &mut suspicious);
            }
        };
        let got = framer.read_up_to(&mut entry, &mut reader, length, look).with_context(describe)?;
        stage.add(got as u64);
        if got < length {
            // Truncated meanwhile; that is in the WAL, too.
            break;
        }
    }
    let wrong = match pages {
        Some(pages) => pages.look_again(&reader, suspicious, stops)?,
        None => Vec::new(),
    };
    let modified = metadata.modified().map_or_else(|_| Utc::now(), Into::into);
    Ok(Some(ReadFile { entry: framer.finish(entry), modified, wrong }))
}

/// The pages of one file.
struct Looking {
    /// The number of the file's first page within its relation.
    first: u32,
}

impl Looking {
    fn at(file: &FileToRead, pages: Pages) -> Option<Self> {
        let (directory, name) = file.name.rsplit_once('/')?;
        let relation = RelationFile::parse(name).filter(|_| has_pages(directory))?;
        Some(Self { first: relation.segment.checked_mul(pages.blocks_per_file)? })
    }

    fn look_at(&self, bytes: &[u8], offset: u64, suspicious: &mut Vec<(u32, Wrong)>) {
        let first = (offset / PAGE_BYTES as u64) as u32;
        for (number, page) in (first..).zip(bytes.chunks_exact(PAGE_BYTES)) {
            suspicious.extend(self.wrong(page, number).map(|wrong| (number, wrong)));
        }
    }

    fn wrong(&self, page: &[u8], number: u32) -> Option<Wrong> {
        page::look_at(page, self.first.wrapping_add(number))
    }

    /// Those that stay as wrong as they were when they are read again. What changes is being written: replay writes it
    /// anew.
    fn look_again(
        &self,
        file: &File,
        mut suspicious: Vec<(u32, Wrong)>,
        stops: &[Stop],
    ) -> anyhow::Result<Vec<u32>> {
        let mut page = vec![0; PAGE_BYTES];
        for again in 0..AGAIN {
            if suspicious.is_empty() {
                break;
            }
            std::thread::sleep(PAUSE);
            stops.iter().try_for_each(Stop::check)?;
            let is_last = again + 1 == AGAIN;
            suspicious.retain_mut(|(number, before)| {
                let read = file.read_exact_at(&mut page, u64::from(*number) * PAGE_BYTES as u64);
                // Cut off meanwhile, or right now.
                let Some(now) = read.ok().and_then(|()| self.wrong(&page, *number)) else { return false };
                let changed = std::mem::replace(before, now) != now;
                !(is_last && changed)
            });
        }
        Ok(suspicious.into_iter().map(|(number, _)| number).collect())
    }
}

/// The control file, read until two readings are the same: the server may be writing it.
pub(super) fn control(path: &Path, framer: &mut Framer) -> anyhow::Result<ReadFile> {
    let read = || std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut bytes = read()?;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(1));
        let again = read()?;
        if again == bytes {
            break;
        }
        bytes = again;
    }
    let mode = super::walk::mode_of(path)?;
    let modified = std::fs::metadata(path)?.modified().map_or_else(|_| Utc::now(), Into::into);
    let entry = whole("global/pg_control", &bytes, mode, framer)?;
    Ok(ReadFile { entry, modified, wrong: Vec::new() })
}

/// A file that the backup adds.
pub(super) fn text(name: &str, text: &str, framer: &mut Framer) -> anyhow::Result<FinishedEntry> {
    whole(name, text.as_bytes(), 0o600, framer)
}

fn whole(name: &str, mut bytes: &[u8], mode: u32, framer: &mut Framer) -> anyhow::Result<FinishedEntry> {
    let mut entry = framer.begin(name.to_owned(), mode);
    while !bytes.is_empty() {
        let length = bytes.len().min(FRAME_BYTES);
        framer.read(&mut entry, &mut bytes, length, |_| ())?;
    }
    Ok(framer.finish(entry))
}

//! Reads the files of a directory while another program is still writing them, and removes them behind itself.
//!
//! Each full frame's worth of a file goes into the pipeline as soon as it is there; what has been read is given
//! back to the file system at once (a hole is punched), and a finished file is removed. When more than `limit`
//! bytes or too many files wait, the writer is halted (SIGSTOP) until half of them are gone: the scratch directory,
//! and what is known here of its files, stay small however large the database, however many its large objects, and
//! however slow the stages behind.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{FallocateFlags, fallocate, inotify};

use crate::format::volume::FRAME_BYTES;
use crate::model::Stage;
use crate::pipeline::{FinishedEntry, Framer, OpenEntry};
use crate::system::{Stop, durable, process::ProcessGroup};

/// How many files are open at once besides those that are being written; others wait their turn (large objects are a
/// file each).
const OPEN_FILES: usize = 32;
/// How many files may wait: each turn looks at all of them, and each is an inode of the scratch directory's.
const WAITING_FILES: usize = 1024;
/// Holes are punched in steps of this size.
const PUNCH_BYTES: u64 = 16 * 1024 * 1024;
/// How long to wait when no file has anything new.
const PAUSE: Duration = Duration::from_millis(4);
const FRAME: u64 = FRAME_BYTES as u64;

/// What the end of a file in `COPY` format looks like (`dumpTableData_copy` in `pg_dump.c`).
const COPY_END: &[u8; 5] = b"\\.\n\n\n";

/// How the writer fares, as told by whoever waits for it.
#[derive(Debug, Clone, Default)]
pub(super) struct WriterState(Arc<AtomicU8>);

impl WriterState {
    const SUCCEEDED: u8 = 1;
    const FAILED: u8 = 2;

    pub(super) fn succeeded(&self) {
        self.0.store(Self::SUCCEEDED, Ordering::Release);
    }

    pub(super) fn failed(&self) {
        self.0.store(Self::FAILED, Ordering::Release);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
}

/// A file that is in the pipeline.
#[derive(Debug)]
pub(super) struct TailedFile {
    pub(super) entry: FinishedEntry,
    /// Rows, if the file ends as `COPY` output does.
    pub(super) rows: Option<u64>,
}

#[derive(Debug)]
struct Growing {
    open: Option<(File, OpenEntry)>,
    consumed: u64,
    punched: u64,
    /// The size when last looked at.
    size: u64,
    closed: bool,
    lines: u64,
    end: Vec<u8>,
}

/// The directory under watch.
#[derive(Debug)]
pub(super) struct Tail {
    directory: PathBuf,
    watch: rustix::fd::OwnedFd,
    files: BTreeMap<u64, (String, Growing)>,
    numbers: BTreeMap<String, u64>,
    next: u64,
    limit: u64,
    open_files: usize,
    paused: bool,
    group: Option<ProcessGroup>,
    state: WriterState,
    done: Vec<TailedFile>,
}

impl Tail {
    /// Begins to watch an empty directory, before the writer is started, which writes `jobs` files at the same time.
    /// Names ending in `.toc` and `toc.dat` are left alone: the writer may come back to them.
    pub(super) fn watch(
        directory: &Path,
        jobs: usize,
        limit: u64,
        state: WriterState,
    ) -> anyhow::Result<Self> {
        let describe = || format!("watch directory {}", directory.display());
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
            .with_context(describe)?;
        let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&watch, directory, events).with_context(describe)?;
        Ok(Self {
            directory: directory.to_owned(),
            watch,
            files: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next: 0,
            limit,
            // More than are being written: else those could keep the finished ones from their turn for ever, since a
            // writer that is halted because of these finishes none of them.
            open_files: jobs + OPEN_FILES,
            paused: false,
            group: None,
            state,
            done: Vec::new(),
        })
    }

    /// Sets whom to halt when too much waits.
    pub(super) fn regulate(&mut self, group: ProcessGroup) {
        self.group = Some(group);
    }

    /// Reads until the writer has ended and nothing is left. Blocks; for a thread of its own.
    pub(super) fn run(
        mut self,
        framer: &mut Framer,
        stage: &Stage,
        stop: &Stop,
    ) -> anyhow::Result<Vec<TailedFile>> {
        let mut all_known = false;
        loop {
            stop.check()?;
            // Before looking at the files: what is there after a writer's end is all that there will be.
            let state = self.state.get();
            if state == WriterState::FAILED {
                anyhow::bail!("the writer has failed");
            }
            let overflowed = self.take_events()?;
            let ended = state == WriterState::SUCCEEDED;
            if (ended && !all_known) || overflowed {
                self.look_around(ended)?;
                all_known = ended;
            }
            if framer.is_closed() {
                anyhow::bail!("the stages behind have ended");
            }
            self.measure();
            self.hold_or_release();
            let progressed = self.turn(framer, stage)?;
            if ended && self.files.is_empty() {
                return Ok(std::mem::take(&mut self.done));
            }
            if !progressed {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Takes the news from the kernel; true when some of it was lost.
    fn take_events(&mut self) -> anyhow::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut news = Vec::new();
        let mut overflowed = false;
        let mut reader = inotify::Reader::new(&self.watch, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    overflowed |= event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                    if let Some(name) = event.file_name() {
                        let closed = event.events().contains(inotify::ReadFlags::CLOSE_WRITE);
                        news.push((name.to_string_lossy().into_owned(), closed));
                    }
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("read the news of the scratch directory"),
            }
        }
        for (name, closed) in news {
            // Our own closing of a file that is done makes news too.
            if !closed || self.numbers.contains_key(&name) {
                self.learn(&name, closed);
            }
        }
        Ok(overflowed)
    }

    /// Lists the directory, for when the kernel's news are not enough.
    fn look_around(&mut self, all_closed: bool) -> anyhow::Result<()> {
        let describe = || format!("list {}", self.directory.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).with_context(describe)? {
            names.push(entry.with_context(describe)?.file_name().to_string_lossy().into_owned());
        }
        for name in names {
            self.learn(&name, all_closed);
        }
        Ok(())
    }

    fn learn(&mut self, name: &str, closed: bool) {
        if is_contents(name) {
            return;
        }
        let number = *self.numbers.entry(name.to_owned()).or_insert_with(|| {
            let growing = Growing {
                open: None,
                consumed: 0,
                punched: 0,
                size: 0,
                closed: false,
                lines: 0,
                end: Vec::new(),
            };
            self.next += 1;
            self.files.insert(self.next, (name.to_owned(), growing));
            self.next
        });
        if let Some((name, growing)) = self.files.get_mut(&number)
            && closed
        {
            growing.closed = true;
            // Files that wait their turn count for the limit too.
            growing.size =
                fs::metadata(self.directory.join(name)).map_or(growing.size, |metadata| metadata.len());
        }
    }

    /// Looks how large the files are that are still being written, in their turn or not.
    fn measure(&mut self) {
        for (name, growing) in self.files.values_mut().filter(|(_, growing)| !growing.closed) {
            let metadata = match &growing.open {
                Some((file, _)) => file.metadata(),
                None => fs::metadata(self.directory.join(name)),
            };
            // A file that can't be looked at fails when its turn comes.
            growing.size = metadata.map_or(growing.size, |metadata| metadata.len());
        }
    }

    /// Lets the open files contribute what they have, as much as the stages behind take without waiting; true when
    /// anything moved.
    ///
    /// It never waits for those stages: meanwhile the writer would go on unseen, past every limit, and the kernel
    /// would drop news.
    fn turn(&mut self, framer: &mut Framer, stage: &Stage) -> anyhow::Result<bool> {
        let mut progressed = false;
        let mut finished = Vec::new();
        for (number, (name, growing)) in self.files.iter_mut().take(self.open_files) {
            let path = self.directory.join(&*name);
            let describe = || format!("read scratch file {}", path.display());
            progressed |= growing.advance(&path, name, framer, stage).with_context(describe)?;
            if growing.closed && growing.consumed == growing.size {
                finished.push(*number);
            }
        }
        for number in finished {
            let Some((name, growing)) = self.files.remove(&number) else { continue };
            let Some((file, entry)) = growing.open else { continue };
            drop(file);
            durable::remove_file_if_there(&self.directory.join(&name))?;
            self.numbers.remove(&name);
            let rows = (growing.end == COPY_END).then(|| growing.lines.saturating_sub(3));
            self.done.push(TailedFile { entry: framer.finish(entry), rows });
            progressed = true;
        }
        Ok(progressed)
    }

    fn hold_or_release(&mut self) {
        let Some(group) = &self.group else { return };
        let waiting: u64 = self.files.values().map(|(_, growing)| growing.size - growing.consumed).sum();
        let files = self.files.len().saturating_sub(self.open_files);
        if !self.paused && (waiting > self.limit || files > WAITING_FILES) {
            group.pause();
            self.paused = true;
        } else if self.paused && waiting < self.limit / 2 && files < WAITING_FILES / 2 {
            group.resume();
            self.paused = false;
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if self.paused
            && let Some(group) = &self.group
        {
            group.resume();
        }
    }
}

impl Growing {
    fn advance(&mut self, path: &Path, name: &str, framer: &mut Framer, stage: &Stage) -> io::Result<bool> {
        if self.open.is_none() {
            // For writing as well: punching holes is writing.
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            self.open = Some((file, framer.begin(name.to_owned(), 0o600)));
        }
        let Some((file, entry)) = &mut self.open else { return Ok(false) };
        // `closed` was set before this look: of a closed file this is the final size.
        self.size = file.metadata()?.len();
        let before = self.consumed;
        while self.size - self.consumed >= FRAME || (self.closed && self.consumed < self.size) {
            if !framer.is_ready() {
                break;
            }
            let length = (self.size - self.consumed).min(FRAME);
            let (lines, end) = (&mut self.lines, &mut self.end);
            framer.read(entry, file, length as usize, |bytes| {
                *lines += memchr::memchr_iter(b'\n', bytes).count() as u64;
                keep_end(end, bytes);
            })?;
            self.consumed += length;
            stage.add(length);
            if self.consumed - self.punched >= PUNCH_BYTES {
                // A file system that can't is none the worse for it: the file goes as a whole later.
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _ = fallocate(&*file, hole, self.punched, self.consumed - self.punched);
                self.punched = self.consumed;
            }
            if self.consumed - before >= 4 * FRAME {
                // The others' turn.
                break;
            }
        }
        Ok(self.consumed > before)
    }
}

/// Keeps the last five bytes of a file that comes in pieces.
fn keep_end(end: &mut Vec<u8>, bytes: &[u8]) {
    end.extend_from_slice(&bytes[bytes.len().saturating_sub(COPY_END.len())..]);
    let surplus = end.len().saturating_sub(COPY_END.len());
    end.drain(..surplus);
}

/// Tables of contents: written at the beginning or the end, perhaps twice; read after the writer's end.
pub(super) fn is_contents(name: &str) -> bool {
    name == "toc.dat" || Path::new(name).extension().is_some_and(|ending| ending == "toc")
}

/// Whether holes can be punched into files of this directory.
pub(super) fn can_punch(directory: &Path) -> anyhow::Result<bool> {
    let path = directory.join("hole");
    let describe = || format!("try out scratch file {}", path.display());
    let file = durable::create_private_file(&path)?;
    file.set_len(1 << 20).with_context(describe)?;
    let punched = fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 1 << 20);
    durable::remove_file_if_there(&path)?;
    Ok(punched.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Instant;

    use tokio::sync::mpsc;

    use crate::pipeline::Buffers;

    /// Waits until it is so, at most 10 s.
    fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(PAUSE);
        }
    }

    #[test]
    fn a_finished_file_has_its_turn_however_many_are_still_being_written() {
        const JOBS: usize = 40;
        let directory = tempfile::tempdir().expect("make a directory");
        let path = |name: &str| directory.path().join(name);
        let tail = Tail::watch(directory.path(), JOBS, 1 << 30, WriterState::default()).expect("watch");
        let open: Vec<File> =
            (0..JOBS).map(|number| File::create(path(&format!("{number}.dat"))).expect("make")).collect();
        fs::write(path("last.dat"), "rows").expect("write");
        let (out, _frames) = mpsc::channel(1);
        let stop = Stop::default();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || tail.run(&mut Framer::new(out, Buffers::default()), &Stage::default(), &stop)
        });
        wait_until("the finished file is not taken", || !path("last.dat").exists());
        stop.request();
        assert!(thread.join().expect("join").is_err(), "it was asked to end");
        drop(open);
    }

    #[test]
    fn stages_behind_that_stand_still_do_not_hold_up_the_watch() {
        let directory = tempfile::tempdir().expect("make a directory");
        let tail = Tail::watch(directory.path(), 1, 1 << 30, WriterState::default()).expect("watch");
        fs::write(directory.path().join("1.dat"), vec![b'x'; 5 * FRAME_BYTES]).expect("write");
        let (out, frames) = mpsc::channel(1);
        let stop = Stop::default();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || tail.run(&mut Framer::new(out, Buffers::default()), &Stage::default(), &stop)
        });
        wait_until("the first frame does not come", || frames.len() == 1);
        stop.request();
        wait_until("it waits for whoever takes the frames", || thread.is_finished());
        drop(frames);
    }

    #[test]
    fn the_end_of_a_file_is_kept_over_pieces() {
        let mut end = Vec::new();
        for piece in [&b"1\ta\n2\tb\n"[..], b"\\", b".\n", b"", b"\n\n"] {
            keep_end(&mut end, piece);
        }
        assert_eq!(end, COPY_END);
    }
}

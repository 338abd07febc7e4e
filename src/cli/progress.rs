//! Progress: a bar per running stage on a terminal, a start and an end line otherwise.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::model::{Counter, Elapsed, Progress, Stage};

const REFRESH: Duration = Duration::from_millis(100);

/// Writes progress to stderr.
pub(super) struct Console {
    quiet: bool,
    verbose: bool,
    words: &'static str,
    begun: Instant,
    announced: AtomicBool,
    bars: Option<MultiProgress>,
    running: Mutex<Vec<(ProgressBar, Arc<Counter>)>>,
}

impl Console {
    pub(super) fn new(quiet: bool, verbose: bool, words: &'static str) -> Arc<Self> {
        let terminal =
            std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let bars = (terminal && !quiet).then(MultiProgress::new);
        let console = Arc::new(Self {
            quiet,
            verbose,
            words,
            begun: Instant::now(),
            announced: AtomicBool::new(false),
            bars,
            running: Mutex::default(),
        });
        if console.bars.is_some() {
            let weak = Arc::downgrade(&console);
            // Ends by itself when the console is dropped.
            std::thread::spawn(move || {
                while let Some(console) = weak.upgrade() {
                    console.refresh();
                    drop(console);
                    std::thread::sleep(REFRESH);
                }
            });
        }
        console
    }

    /// The line under cron that says what has begun.
    pub(super) fn announce(&self, what: &str) {
        if !self.quiet && self.bars.is_none() {
            let _ = writeln!(std::io::stderr(), "pgkeep: {}: begun", what.trim_end());
            self.announced.store(true, Ordering::Relaxed);
        }
    }

    /// The line under cron that says that it has ended, and the end of all bars.
    pub(super) fn finish(&self) {
        self.refresh();
        for (bar, _) in self.running().drain(..) {
            bar.finish_and_clear();
        }
        if self.announced.load(Ordering::Relaxed) {
            let _ = writeln!(
                std::io::stderr(),
                "pgkeep: {}: ended after {}",
                self.words,
                Elapsed(self.begun.elapsed())
            );
        }
    }

    /// Does something at the terminal with no bars in the way.
    pub(super) fn pause<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.bars {
            Some(bars) => bars.suspend(work),
            None => work(),
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<(ProgressBar, Arc<Counter>)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self) {
        self.running().retain(|(bar, counter)| {
            // The estimate may be too small: the tables of a database say only roughly what a dump of them is.
            let done = counter.done();
            if counter.total() > 0 {
                bar.set_length(counter.total().max(done));
            }
            bar.set_position(done);
            bar.set_message(counter.text());
            if counter.is_finished() {
                bar.finish_and_clear();
            }
            !counter.is_finished()
        });
    }

    fn begin(&self, label: &str, total: u64, template: &str) -> Stage {
        let stage = Stage::new(total);
        if let Some(bars) = &self.bars {
            let bar = if total > 0 { ProgressBar::new(total) } else { ProgressBar::no_length() };
            // First: a bar that is dressed before it has its place draws a line that nobody takes away.
            let bar = bars.add(bar);
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(label.to_owned());
            self.running().push((bar, stage.counter()));
        }
        stage
    }
}

impl Progress for Console {
    fn bytes(&self, label: &str, total: u64) -> Stage {
        let known =
            "{prefix:>8} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        let unknown = "{prefix:>8} {binary_bytes} {binary_bytes_per_sec}";
        self.begin(label, total, if total > 0 { known } else { unknown })
    }

    fn rows(&self, label: &str, total: u64) -> Stage {
        self.begin(label, total, "{prefix:>8} [{wide_bar}] {human_pos}/{human_len} rows {per_sec} {eta}")
    }

    fn waiting(&self, label: &str) -> Stage {
        self.begin(label, 0, "{prefix:>8} {elapsed} {msg}")
    }

    fn detail(&self, text: &str) {
        if self.verbose {
            self.note(text);
        }
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            self.note(text);
        }
    }

    fn note(&self, text: &str) {
        let text = format!("pgkeep: {text}");
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(text);
            }
            None => {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
        }
    }
}

//! How far a run is: counters that stages advance and the command line shows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What one stage has done so far, in bytes or other units.
#[derive(Debug, Default)]
pub struct Counter {
    done: AtomicU64,
    total: AtomicU64,
    finished: AtomicBool,
    text: Mutex<String>,
}

impl Counter {
    /// Units done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Units in all as far as is known; 0 when nothing is.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Where it is, in words; empty when it has not said.
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the stage has ended.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }
}

/// A running stage; it ends when the value is dropped.
#[derive(Debug, Default)]
pub struct Stage(Arc<Counter>);

impl Stage {
    /// Begins a stage with an estimate of its units, 0 when unknown.
    pub fn new(total: u64) -> Self {
        let stage = Self::default();
        stage.set_total(total);
        stage
    }

    /// The counter to show.
    pub fn counter(&self) -> Arc<Counter> {
        Arc::clone(&self.0)
    }

    /// Counts units as done.
    pub fn add(&self, units: u64) {
        self.0.done.fetch_add(units, Ordering::Relaxed);
    }

    /// So many units are done, for what is measured and not counted.
    pub fn set_done(&self, units: u64) {
        self.0.done.store(units, Ordering::Relaxed);
    }

    /// Says where it is, for stages whose units say too little.
    pub fn say(&self, text: String) {
        *self.0.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Corrects the estimate.
    pub fn set_total(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.0.finished.store(true, Ordering::Relaxed);
    }
}

/// Whoever shows progress.
pub trait Progress: Send + Sync {
    /// Begins a stage that counts bytes, with an estimate of them (0: unknown).
    fn bytes(&self, label: &str, total: u64) -> Stage;

    /// Begins a stage that counts rows, with their number.
    fn rows(&self, label: &str, total: u64) -> Stage;

    /// Begins a stage of which nothing can be counted.
    fn waiting(&self, label: &str) -> Stage;

    /// Says what is being done with what, to those who asked for it.
    fn detail(&self, text: &str);

    /// Says something that the operator should know now.
    fn note(&self, text: &str);

    /// Says what is neither a step nor a reason to look; not said where nothing is to be said unless something is wrong.
    fn say(&self, text: &str) {
        self.note(text);
    }
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn bytes(&self, _: &str, total: u64) -> Stage {
        Stage::new(total)
    }

    fn rows(&self, _: &str, total: u64) -> Stage {
        Stage::new(total)
    }

    fn waiting(&self, _: &str) -> Stage {
        Stage::new(0)
    }

    fn detail(&self, _: &str) {}

    fn note(&self, _: &str) {}
}

//! What `pgkeep status` says, and two of the forms in which it says it: the page and the metrics. The terminal's is in
//! `cli`.
//!
//! [`Status`] is what is known at one moment, [`History`] what was before. Whoever makes them has asked the catalog and the
//! stores; from here on nothing is read.

mod calendar;
mod charts;
mod document;
mod escape;
mod html;
mod lists;
mod panels;
mod prometheus;
mod said;
mod tables;

pub use crate::plan::health::{Level, State, days};
pub use document::{
    AlertLine, BackupCount, HeldBackups, History, JobLine, LastRun, NewestBackup, PastBackup, PastFailure,
    ProofAge, Rpo, Rto, RunLine, Status, StoreAnswer, StoreStatus, TestRestore, UsageDay, WalHour,
    WindowLine,
};
pub use html::page;
pub use prometheus::{METRICS, Metric, metrics};

//! Being asked to end: SIGINT and SIGTERM reach every stage of a run through one value.

use std::fmt;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Says whether the run has been asked to end. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
}

/// The error of a stage that ended because it was asked to.
#[derive(Debug, Clone, Copy)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl Stop {
    /// Listens for SIGINT, SIGTERM and SIGHUP. The first asks for an orderly end; the command cleans up and exits with 130.
    pub fn on_signals() -> anyhow::Result<Self> {
        let stop = Self::default();
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let mut signals = signal(kind).context("listen for signals")?;
            let token = stop.token.clone();
            tokio::spawn(async move {
                if signals.recv().await.is_some() {
                    token.cancel();
                }
            });
        }
        Ok(stop)
    }

    /// Asks for the end.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// An error if the end was asked for; to be called between two pieces of work.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.is_requested() { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Waits until the end is asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Runs the work until it is done or the end is asked for.
    pub async fn or<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            result = work => result,
            () = self.requested() => Err(Interrupted.into()),
        }
    }
}

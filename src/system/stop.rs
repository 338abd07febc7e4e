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
    ///
    /// In a thread of its own: the run's only one may be in the middle of something that does not give way, and what it
    /// asks for at the end of that must be known by then.
    pub fn on_signals() -> anyhow::Result<Self> {
        let stop = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.context("listen for signals")?;
        let listen = |kind| {
            let _inside = runtime.enter();
            signal(kind).context("listen for signals")
        };
        let (mut interrupt, mut terminate, mut hangup) = (
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        );
        let token = stop.token.clone();
        let listening = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            token.cancel();
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(listening)
            .context("listen for signals")?;
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

//! Time for those who wait: replaced by tests, so that an hour of backing off takes none.

use std::fmt;
use std::time::{Duration, Instant};

use async_trait::async_trait;

/// What the layers wait by.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync {
    /// Time since some fixed moment; never goes back, whatever is done to the machine's date.
    fn elapsed(&self) -> Duration;

    /// Waits.
    async fn sleep(&self, time: Duration);
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy)]
pub struct MachineClock(Instant);

impl Default for MachineClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

#[async_trait]
impl Clock for MachineClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

//! How long a day is: what is kept for days is tested in less.
//!
//! In builds for tests (debug assertions on) `PGKEEP_TEST_DAY` sets the seconds of a day; every clock goes as it does
//! otherwise. Release builds hold none of this.

use std::time::Duration;

/// A day of what is kept.
const DAY: Duration = Duration::from_hours(24);

/// How long a day is.
#[cfg(debug_assertions)]
pub fn day() -> Duration {
    let wanted = std::env::var("PGKEEP_TEST_DAY").ok().and_then(|text| text.parse().ok());
    wanted.map_or(DAY, Duration::from_secs_f64)
}

/// How long a day is.
#[cfg(not(debug_assertions))]
pub const fn day() -> Duration {
    DAY
}

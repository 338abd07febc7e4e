//! A store in the cloud: S3 and the layers around it.

use std::sync::Arc;

use super::{
    Clock, Limits, MachineClock, Patience, Rate, Retried, S3Place, S3Store, Store, StoreError, Throttled,
    Verified,
};

/// Stacks what a store in the cloud is made of. From the inside out:
///
/// - [`S3Store`] makes requests, each bounded in size and time, and believes no answer that is not whole;
/// - [`Verified`] asks what is there after each write;
/// - [`Throttled`] keeps within `rate_limit`, bytes per second, if there is one: inside the retry, so that repeats pay.
///   Within one request it is [`S3Store`] that spreads what it sends over the time;
/// - [`Retried`] repeats what may pass, each part and each page on its own.
///
/// No request is made. An error when the place cannot be one: its URL, or plain http to another machine.
pub fn cloud(place: S3Place, rate_limit: Option<u64>) -> Result<Arc<dyn Store>, StoreError> {
    let clock: Arc<dyn Clock> = Arc::new(MachineClock::default());
    let limits = Limits { pace: rate_limit, ..Limits::default() };
    let verified = Verified::new(S3Store::with_limits(place, limits)?);
    let patience = Patience::default();
    Ok(match rate_limit {
        None => Arc::new(Retried::new(verified, patience, clock)),
        Some(bytes_per_second) => {
            let rate = Rate::new(bytes_per_second, Arc::clone(&clock));
            Arc::new(Retried::new(Throttled::new(verified, rate), patience, clock))
        }
    })
}

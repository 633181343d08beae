//! Waiting for a state.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks. Each look is a call to the API server; the fastest thing that is timed here takes seconds.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Looks until `look` finds something, at most `limit`; `what` is what the error says was waited for.
///
/// # Errors
/// The time is over; with the last error of `look`, if it had one.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() >= limit {
            match last {
                Some(error) => return Err(error.context(format!("{what}: not within {limit:?}"))),
                None => bail!("{what}: not within {limit:?}"),
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Looks until `look` says yes.
///
/// # Errors
/// See [`until`].
pub fn until_true(limit: Duration, what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    until(limit, what, || look().map(|yes| yes.then_some(())))
}

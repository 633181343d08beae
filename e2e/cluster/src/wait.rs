//! Waiting for a state of the cluster: an error of a look counts as "not yet", since the API server may be away.

use std::time::Duration;

use anyhow::Result;
use lockstep_processes::wait::until_ok_every;

/// Between two looks. Each look is a call to the API server; the fastest thing that is timed here takes seconds.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Between two looks at what is over soon. Each look is a few files of /proc.
const WATCH_EVERY: Duration = Duration::from_millis(1);

/// Looks until `look` finds something, at most `limit`; `what` is what the error says was waited for.
///
/// # Errors
/// The time is over; with the last error of `look`, if it had one.
pub fn until<T>(limit: Duration, what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_ok_every(LOOK_EVERY, what, limit, look)
}

/// Like [`until`], for what lasts milliseconds and is looked at without asking anybody.
///
/// # Errors
/// See [`until`].
pub fn watch<T>(limit: Duration, what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_ok_every(WATCH_EVERY, what, limit, look)
}

/// Looks until `look` says yes.
///
/// # Errors
/// See [`until`].
pub fn until_true(limit: Duration, what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    until(limit, what, || look().map(|yes| yes.then_some(())))
}

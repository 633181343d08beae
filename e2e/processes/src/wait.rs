//! Waiting for states, with a bound: never for a time.

use anyhow::{Result, bail};
use std::thread;
use std::time::{Duration, Instant};

/// How often a state is looked at. Short against every bound, long against the cost of a look.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Looks until `look` returns a value, at most `bound` long. Errors of `look` end the wait at once.
///
/// `what` names the awaited state in the message of a wait that ended without it.
pub fn until<T>(what: &str, bound: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(LOOK_INTERVAL, what, bound, look)
}

fn until_every<T>(
    interval: Duration,
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("after {bound:?} still not: {what}");
        }
        thread::sleep(interval);
    }
}

/// Like [`until`], for a yes or no.
pub fn until_true(what: &str, bound: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, bound, || Ok(look()?.then_some(())))
}

/// Like [`until`], but an error of `look` counts as "not yet", and the last one is told if the wait fails.
///
/// For states that are asked of a node that may be away for a while.
pub fn until_ok<T>(what: &str, bound: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_ok_every(LOOK_INTERVAL, what, bound, look)
}

/// Like [`until_ok`], with another time between two looks: where each costs more than a few files of `/proc`.
pub fn until_ok_every<T>(
    interval: Duration,
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let mut last = None;
    let found = until_every(interval, what, bound, || match look() {
        Ok(found) => Ok(found),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    match (found, last) {
        (Err(timeout), Some(error)) => Err(error.context(timeout)),
        (found, _) => found,
    }
}

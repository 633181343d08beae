//! The loop's clock.

use std::time::Duration;

use lockstep_core::Time;
use nix::time::{ClockId, clock_gettime};

/// Now, on a clock that goes on while the machine sleeps: a read permission that ran out during a suspend has run out.
pub(crate) fn now() -> Time {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has this clock");
    let (seconds, nanos) = (now.tv_sec().unsigned_abs(), now.tv_nsec().unsigned_abs());
    Time(seconds * 1_000_000_000 + nanos)
}

/// How long to wait until `deadline`; `None` is without end.
pub(crate) fn until(now: Time, deadline: Time) -> Option<Duration> {
    (deadline != Time::NEVER).then(|| Duration::from_nanos(deadline.since(now)))
}

//! When a watch that broke is begun again.

use std::time::Duration;

use kube::runtime::utils::Backoff;

/// Times before the next attempts: the first, each twice the one before, up to the longest. An attempt that succeeds begins anew.
#[derive(Clone, Copy, Debug)]
pub struct Again {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Again {
    /// From `first` up to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }
}

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        Some(wait)
    }
}

impl Backoff for Again {
    fn reset(&mut self) {
        self.next = self.first;
    }
}

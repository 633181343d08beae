//! How large a new volume could be.

use super::Pool;

/// Answers are rounded down to this many bytes (1 GiB): the provisioner keeps an object per node and class, and rewrites it with
/// every change.
pub const ROUND_BYTES: u64 = 1 << 30;

/// What could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes of the largest volume, before rounding.
    pub largest: u64,
    /// Bytes of all new volumes together, before rounding.
    pub total: u64,
}

impl Room {
    /// Both, rounded down to [`ROUND_BYTES`].
    #[must_use]
    pub fn rounded(self) -> Self {
        let round = |bytes: u64| bytes / ROUND_BYTES * ROUND_BYTES;
        Self { largest: round(self.largest), total: round(self.total) }
    }
}

/// The room in `pools`, which are those that match, for volumes of `replicas` replicas whose first consumer is on `consumer`.
///
/// A node with storage of its own is asked for its own: what fits there *and* on enough others. So pods go first where their data is local.
/// From a node without storage, all pools are as near.
#[must_use]
pub fn plan_room(pools: &[&Pool], replicas: usize, consumer: Option<&str>, overcommit: f64) -> Room {
    let mut available: Vec<u64> = Vec::new();
    let mut own = None;
    for pool in pools {
        let bytes = pool.available(overcommit);
        if consumer == Some(&*pool.node) && pool.storage {
            own = Some(bytes);
        }
        available.push(bytes);
    }
    available.sort_unstable_by(|a, b| b.cmp(a));
    let nth = |at: usize| available.get(at).copied().unwrap_or(0);
    let largest = nth(replicas - 1);
    let bound = own.unwrap_or(u64::MAX);
    Room { largest: largest.min(bound), total: plan_total(&available, replicas).min(bound) }
}

/// The most bytes of which each can be on `replicas` different pools: the largest `t` with `sum(min(a, t)) >= replicas * t`.
fn plan_total(available: &[u64], replicas: usize) -> u64 {
    let fits = |t: u64| {
        let room: u128 = available.iter().map(|bytes| u128::from(*bytes.min(&t))).sum();
        room >= u128::from(t) * replicas as u128
    };
    let sum: u64 = available.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes));
    let (mut low, mut high) = (0, sum / replicas as u64);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

//! A node's monotonic clock: runs at a rate of its own and starts anew when the machine boots.

use lockstep_core::Time;

use crate::plan::Plan;
use crate::rng::Rng;

/// A clock that runs at the world's speed.
pub const RATE_TRUE: u64 = 1_000_000;

/// A rate that a clock of this run may have.
#[must_use]
pub fn any_rate(plan: &Plan, rng: &mut Rng) -> u64 {
    if plan.wild_clocks {
        return rng.within(RATE_TRUE / 2, RATE_TRUE * 2);
    }
    RATE_TRUE - plan.clock_drift + rng.below(2 * plan.clock_drift + 1)
}

/// Maps the world's time (nanoseconds) to a node's and back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    world_base: u64,
    local_base: u64,
    /// Local nanoseconds in a million of the world's.
    rate: u64,
}

impl Clock {
    /// A clock that shows `local` now.
    #[must_use]
    pub fn new(now: u64, local: u64, rate: u64) -> Clock {
        Clock { world_base: now, local_base: local, rate }
    }

    /// What the clock shows.
    #[must_use]
    pub fn local(&self, now: u64) -> Time {
        let passed = u128::from(now.saturating_sub(self.world_base)) * u128::from(self.rate) / u128::from(RATE_TRUE);
        Time(self.local_base + passed as u64)
    }

    /// When the clock will show at least `local`; `None` if never.
    #[must_use]
    pub fn world(&self, local: Time) -> Option<u64> {
        if local == Time::NEVER {
            return None;
        }
        let ahead = u128::from(local.0.saturating_sub(self.local_base));
        let passed = (ahead * u128::from(RATE_TRUE)).div_ceil(u128::from(self.rate));
        Some(self.world_base.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    /// Goes on from here at another rate.
    pub fn set_rate(&mut self, now: u64, rate: u64) {
        *self = Clock::new(now, self.local(now).0, rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_when_the_clock_shows_it() {
        for rate in [500_000, 970_000, RATE_TRUE, 1_030_001, 2_000_000] {
            let clock = Clock::new(17, 1_000, rate);
            let at = clock.world(Time(123_456)).expect("reached");
            assert!(clock.local(at) >= Time(123_456));
            assert!(clock.local(at - 3) < Time(123_456));
        }
    }

    #[test]
    fn a_change_of_rate_does_not_jump() {
        let mut clock = Clock::new(0, 0, RATE_TRUE);
        clock.set_rate(500, 2 * RATE_TRUE);
        assert_eq!(clock.local(500), Time(500));
        assert_eq!(clock.local(600), Time(700));
    }
}

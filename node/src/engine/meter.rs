//! How fast something goes, from what is seen of it now and then.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Looks that are closer together are not compared: the difference would be noise.
const APART: Duration = Duration::from_millis(200);

/// A measured rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) bytes_per_second: u64,
}

impl Rate {
    /// How long the rest takes at this rate, rounded up.
    pub(super) fn seconds_left(self, done: u64, total: u64) -> Option<u64> {
        total
            .saturating_sub(done)
            .checked_add(self.bytes_per_second.checked_sub(1)?)?
            .checked_div(self.bytes_per_second)
    }
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    bytes: u64,
    rate: Option<Rate>,
}

/// The rates of several things, by name.
#[derive(Debug, Default)]
pub(super) struct Meters(Mutex<BTreeMap<String, Look>>);

impl Meters {
    /// Notes that `bytes` of the thing are done now; gives the rate since an earlier look.
    pub(super) fn look(&self, name: &str, bytes: u64, now: Instant) -> Option<Rate> {
        let mut looks = self.0.lock().expect("no holder panics");
        let Some(last) = looks.get_mut(name).filter(|last| last.bytes <= bytes) else {
            // The first look, or something began anew.
            looks.insert(name.to_owned(), Look { at: now, bytes, rate: None });
            return None;
        };
        let elapsed = now.saturating_duration_since(last.at);
        if elapsed >= APART {
            let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            let bytes_per_second = (bytes - last.bytes).saturating_mul(1000) / millis;
            *last = Look { at: now, bytes, rate: Some(Rate { bytes_per_second }) };
        }
        last.rate
    }

    /// The thing is over.
    pub(super) fn forget(&self, name: &str) {
        self.0.lock().expect("no holder panics").remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::{Meters, Rate};
    use std::time::{Duration, Instant};

    #[test]
    fn the_rate_is_that_since_the_last_look() {
        let (meters, start) = (Meters::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(meters.look("v", 0, at(0)), None);
        assert_eq!(meters.look("v", 50, at(10)), None);
        assert_eq!(meters.look("v", 1000, at(500)), Some(Rate { bytes_per_second: 2000 }));
        assert_eq!(meters.look("v", 1001, at(510)), Some(Rate { bytes_per_second: 2000 }));
        assert_eq!(meters.look("v", 10, at(1000)), None, "it began anew");
        meters.forget("v");
        assert_eq!(meters.look("v", 20, at(2000)), None);
    }

    #[test]
    fn the_time_left_is_rounded_up_and_never_infinite() {
        assert_eq!(Rate { bytes_per_second: 10 }.seconds_left(0, 11), Some(2));
        assert_eq!(Rate { bytes_per_second: 10 }.seconds_left(11, 11), Some(0));
        assert_eq!(Rate { bytes_per_second: 0 }.seconds_left(0, 11), None);
    }
}

//! How long a soak goes on.

use std::fmt;
use std::time::{Duration, Instant};

/// As many rounds as begin within both bounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// So many rounds.
    pub rounds: Option<u64>,
    /// No new round after this time.
    pub time: Option<Duration>,
}

impl Limits {
    /// The numbers of the rounds, from 1 on; the time runs from now.
    pub fn rounds(self) -> impl Iterator<Item = u64> {
        let began = Instant::now();
        let in_time = move |_: &u64| self.time.is_none_or(|time| began.elapsed() < time);
        (1..=self.rounds.unwrap_or(u64::MAX)).take_while(in_time)
    }

    /// A round's number, as a person reads it.
    pub fn shown(self, round: u64) -> impl fmt::Display {
        self.rounds.map_or_else(|| round.to_string(), |rounds| format!("{round}/{rounds}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Limits};

    #[test]
    fn either_bound_ends_it() {
        assert_eq!(Limits { rounds: Some(3), time: None }.rounds().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(Limits { rounds: None, time: Some(Duration::ZERO) }.rounds().count(), 0);
        assert!(Limits { rounds: None, time: Some(Duration::from_millis(1)) }.rounds().count() > 0);
        let both = Limits { rounds: Some(2), time: Some(Duration::from_secs(60)) };
        assert_eq!(both.rounds().map(|round| both.shown(round).to_string()).collect::<Vec<_>>(), ["1/2", "2/2"]);
    }
}

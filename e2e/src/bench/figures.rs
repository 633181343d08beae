//! Numbers of several rounds: medians, spreads, and ratios that are taken within each round.

use serde::{Deserialize, Serialize};

/// Values of one figure, one for each round that has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures(pub Vec<f64>);

impl Figures {
    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            count if count % 2 == 1 => Some(sorted[middle]),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }

    /// The smallest and the largest.
    pub fn spread(&self) -> Option<(f64, f64)> {
        let least = self.0.iter().copied().reduce(f64::min)?;
        let most = self.0.iter().copied().reduce(f64::max)?;
        Some((least, most))
    }

    /// One ratio for each round: a machine that is slow for a while is slow for both.
    pub fn ratios(&self, base: &Figures) -> Figures {
        Figures(self.0.iter().zip(&base.0).map(|(own, base)| own / base).collect())
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Figures(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Figures;

    #[test]
    fn median_and_spread() {
        let odd = Figures(vec![3.0, 1.0, 2.0]);
        assert_eq!((odd.median(), odd.spread()), (Some(2.0), Some((1.0, 3.0))));
        assert_eq!(Figures(vec![4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!((Figures::default().median(), Figures::default().spread()), (None, None));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let own = Figures(vec![2.0, 20.0, 6.0]);
        let base = Figures(vec![1.0, 10.0, 2.0]);
        assert_eq!(own.ratios(&base).0, [2.0, 2.0, 3.0]);
        assert_eq!(own.ratios(&base).median(), Some(2.0));
    }
}

//! The levels that Lockstep promises, and what was measured against them.

use serde::{Serialize, Serializer};

use super::case::Case;
use super::comparison::{Comparison, Series, Subject};
use super::figures::Figures;

/// A promise about a median.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Level {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
}

impl Level {
    /// Whether a median keeps it.
    pub fn holds(self, median: f64) -> bool {
        match self {
            Level::AtLeast(bound) => median >= bound,
            Level::AtMost(bound) => median <= bound,
        }
    }

    /// By how much a median misses it; nothing if it holds. A bound of 0 is missed by the median itself.
    pub fn missed_by(self, median: f64) -> Option<String> {
        let bound = match self {
            Level::AtLeast(bound) | Level::AtMost(bound) => bound,
        };
        if self.holds(median) {
            None
        } else if bound == 0.0 {
            Some(format!("{median:.0}"))
        } else {
            Some(format!("{:.0} %", (median - bound).abs() / bound * 100.0))
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Level::AtLeast(bound) => write!(f, ">= {bound}"),
            Level::AtMost(bound) => write!(f, "<= {bound}"),
        }
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One figure of the report beside the table of loads.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What was measured.
    pub what: String,
    /// `x`, `ms`, `MiB`, ...
    pub unit: &'static str,
    /// One value a round.
    pub figures: Figures,
    /// What is promised; absent: shown only.
    pub level: Option<Level>,
}

impl Line {
    /// A figure with a promise.
    pub fn promised(what: impl Into<String>, unit: &'static str, figures: Figures, level: Level) -> Self {
        Line { what: what.into(), unit, figures, level: Some(level) }
    }

    /// A figure without one.
    pub fn shown(what: impl Into<String>, unit: &'static str, figures: Figures) -> Self {
        Line { what: what.into(), unit, figures, level: None }
    }

    /// Whether the promise is kept; a promise without a measurement is not.
    pub fn holds(&self) -> Option<bool> {
        self.level.map(|level| self.figures.median().is_some_and(|median| level.holds(median)))
    }
}

/// What is promised of the loads: ratios, each taken within a round.
pub fn of_comparison(comparison: &Comparison) -> Vec<Line> {
    let mut lines = Vec::new();
    for (series, own) in [
        (Series::OneDisk, Subject::Lockstep),
        (Series::OneDisk, Subject::LockstepUring),
        (Series::PeerOnTmpfs, Subject::Lockstep),
    ] {
        // The levels bind `/dev/fuse` and one disk; the other series are shown beside them.
        let binds = (series, own) == (Series::OneDisk, Subject::Lockstep);
        let mut line = |what: String, figures: Figures, level: Level| {
            if binds || figures.median().is_some() {
                let what = format!("{what} ({}{})", own.name(), if binds { "" } else { series_note(series) });
                lines.push(Line { what, unit: "x", figures, level: binds.then_some(level) });
            }
        };
        let ratio = |case, base| comparison.ratios(series, case, own, base);
        let mut against_qemu = |case: Case, level| {
            let figure = if case.is_latency() { "latency" } else { "rate" };
            line(format!("{}: {figure} / qemu", case.name()), ratio(case, Subject::Qemu), level);
        };
        against_qemu(Case::RandomWrite32, Level::AtLeast(2.0));
        against_qemu(Case::RandomWrite1, Level::AtMost(0.85));
        against_qemu(Case::RandomRead32, Level::AtLeast(1.2));
        against_qemu(Case::SequentialWrite, Level::AtLeast(1.4));
        let write = Case::RandomWrite32;
        line(format!("{}: rate / floor", write.name()), ratio(write, Subject::Floor), Level::AtLeast(0.5));
        let cpu = comparison.cpu_ratios(series, write, own, Subject::Qemu);
        line(format!("{}: CPU per request / qemu", write.name()), cpu, Level::AtMost(0.8));
    }
    lines
}

fn series_note(series: Series) -> &'static str {
    match series {
        Series::OneDisk => "",
        Series::PeerOnTmpfs => ", peer on tmpfs",
    }
}

#[cfg(test)]
mod tests {
    use super::{Comparison, Figures, Level, Line, of_comparison};

    #[test]
    fn bounds_are_inclusive() {
        assert!(Level::AtLeast(2.0).holds(2.0) && !Level::AtLeast(2.0).holds(1.99));
        assert!(Level::AtMost(0.8).holds(0.8) && !Level::AtMost(0.8).holds(0.81));
    }

    #[test]
    fn a_miss_says_by_how_much() {
        assert_eq!(Level::AtLeast(2.0).missed_by(1.5).as_deref(), Some("25 %"));
        assert_eq!(Level::AtMost(200.0).missed_by(250.0).as_deref(), Some("25 %"));
        assert_eq!(Level::AtMost(0.0).missed_by(2.0).as_deref(), Some("2"));
        assert_eq!(Level::AtMost(200.0).missed_by(150.0), None);
    }

    #[test]
    fn what_was_not_measured_is_not_kept() {
        let lines = of_comparison(&Comparison::default());
        assert_eq!(lines.len(), 6, "the six levels of the loads, and no line of the other series");
        assert!(lines.iter().all(|line| line.holds() == Some(false)));
        assert_eq!(Line::shown("x", "ms", Figures(vec![1.0])).holds(), None);
    }
}

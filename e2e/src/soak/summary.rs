//! What a soak showed in all.

use super::plan::{Plan, Role};
use super::round::RoundResult;
use crate::playground::Fault;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Counts and the longest times, by who was disturbed how.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    rounds: u64,
    judged: usize,
    compared: u64,
    stale_refused: u64,
    by_kind: BTreeMap<(Role, Fault), Kind>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    rounds: u64,
    gap: Duration,
    take_over: Duration,
    whole_after: Duration,
}

impl Summary {
    /// Adds a round.
    pub fn add(&mut self, plan: &Plan, result: &RoundResult) {
        self.rounds += 1;
        self.judged += result.judged;
        self.stale_refused += result.stale_refused;
        let kind = self.by_kind.entry((result.role, plan.fault)).or_default();
        kind.rounds += 1;
        kind.gap = kind.gap.max(result.gap.unwrap_or_default());
        kind.take_over = kind.take_over.max(result.take_over.unwrap_or_default());
        kind.whole_after = kind.whole_after.max(result.whole_after);
    }

    /// The replicas were compared and are identical.
    pub fn add_comparison(&mut self) {
        self.compared += 1;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rounds, {} operations judged, replicas compared {} times, {} stale frames refused",
            self.rounds, self.judged, self.compared, self.stale_refused
        )?;
        writeln!(
            f,
            "{:<12} {:<6} {:>6} {:>12} {:>15} {:>14}",
            "victim", "fault", "rounds", "longest gap", "longest take-over", "longest heal"
        )?;
        for ((role, fault), kind) in &self.by_kind {
            let shown = |span: Duration| match span {
                Duration::ZERO => "-".to_owned(),
                span => format!("{:.0} ms", span.as_secs_f64() * 1000.0),
            };
            writeln!(
                f,
                "{role:<12} {:<6} {:>6} {:>12} {:>17} {:>14}",
                fault.verb(),
                kind.rounds,
                shown(kind.gap),
                shown(kind.take_over),
                shown(kind.whole_after)
            )?;
        }
        Ok(())
    }
}

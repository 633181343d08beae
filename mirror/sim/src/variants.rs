//! The deliberately broken variants: which there are, where each is looked for, and after how many seeds it must have been
//! caught. A checker that cannot fail is worth nothing.

use lockstep_core::broken::Broken;

use crate::run::run;
use crate::trace::Trace;

/// One rule that is left out, and where its absence shows.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Which.
    pub broken: Broken,
    /// The scenarios that are run for it, in turn.
    pub scenarios: &'static [&'static str],
    /// It must be caught within so many runs.
    pub runs_max: u64,
}

const fn variant(broken: Broken, scenarios: &'static [&'static str], runs_max: u64) -> Variant {
    Variant { broken, scenarios, runs_max }
}

/// Every variant of `docs/mirroring.md` but two: 5 needs several writers, and 31 a Kubernetes Lease.
pub const VARIANTS: [Variant; 45] = [
    variant(Broken::JoinByOneSwap, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::JoinWithoutFlush, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::JoiningOutsideFlush, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::JoiningDroppedWithoutSwap, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::OldSessionFrameApplied, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::DeadProcessWritesUnderSuccessor, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::DirtyOnlyAtWriter, &["three", "pair", "reader"], 1000),
    variant(Broken::DirtyGapAccepted, &["three", "pair", "reader"], 1000),
    variant(Broken::OwnUnsentWritesKept, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::FlushConfirmsUncommitted, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::PullOverNewerWrite, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::CursorOverBitmap, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::IntentClearedAfterRestart, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::IntentClearedBeforeDirtyDurable, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::IntentClearedBeforeFlush, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::RollForwardOfCommitted, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::WriteOfJoiningOnly, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::TwoLeaveAtOnce, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::LeftMarkOverridden, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::TieBreakerForgets, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::ResubmitAfterExpulsion, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::HoldsAfterReboot, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::ReadPermissionFromOne, &["three", "pair", "reader"], 1000),
    variant(Broken::NoReadWait, &["reader", "three", "pair"], 1000),
    variant(Broken::LateExitReport, &["reader", "three", "pair"], 1000),
    variant(Broken::ReadOfUncommitted, &["reader", "three", "pair"], 1000),
    variant(Broken::ReadOvertaken, &["reader", "three", "pair"], 1000),
    variant(Broken::TwoStarts, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::LastReplicaLeaves, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::ForceWithoutGeneration, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::HangingDiskIgnored, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::CommitNeverSent, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::HeartbeatsBehindData, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::DisklessExpels, &["diskless"], 1000),
    variant(Broken::LowerEpochAccepted, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::AckBeforeDisk, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::StopClearsSurvivorsMap, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::SecondSwapStarves, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::RestartWithoutReconcile, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::IntentReadBeforeReconcile, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::OlderUncommittedReported, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::InFlightNotSentToJoining, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::PullBesideWrite, &["pair", "three", "reader", "diskless"], 1000),
    variant(Broken::TouchedAcrossSources, &["three", "pair", "reader"], 1000),
    variant(Broken::PromiseAfterSwap, &["three", "pair", "reader"], 1000),
];

/// The variant of this name or number.
#[must_use]
pub fn find(name: &str) -> Option<Variant> {
    VARIANTS.into_iter().find(|variant| {
        format!("{:?}", variant.broken).eq_ignore_ascii_case(name) || (variant.broken as u8).to_string() == name
    })
}

/// How the hunt for one variant ended.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Hunt {
    /// Its number in `docs/mirroring.md`.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// Runs that were made.
    pub runs: u64,
    /// The run that caught it.
    pub caught: Option<crate::run::Outcome>,
}

/// Runs one variant until it is caught.
#[must_use]
pub fn hunt(variant: &Variant, first: u64, runs_max: Option<u64>) -> Hunt {
    let runs_max = runs_max.unwrap_or(variant.runs_max);
    let mut hunt = Hunt { number: variant.broken as u8, name: format!("{:?}", variant.broken), runs: 0, caught: None };
    let mut names = variant.scenarios.iter().cycle();
    while hunt.runs < runs_max && hunt.caught.is_none() {
        let Some(scenario) = names.next().and_then(|name| crate::scenario::find(name)) else { break };
        let seed = first + hunt.runs;
        hunt.runs += 1;
        let outcome = run(&scenario, seed, Some(variant.broken), Trace::quiet());
        // What fails with all rules in place proves nothing about this one.
        if outcome.failure.is_some() && run(&scenario, seed, None, Trace::quiet()).failure.is_none() {
            hunt.caught = Some(outcome);
        }
    }
    hunt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_listed_once_and_its_scenarios_exist() {
        let numbers: std::collections::BTreeSet<u8> = VARIANTS.iter().map(|variant| variant.broken as u8).collect();
        let wanted: std::collections::BTreeSet<u8> = (1..=47).filter(|number| ![5, 31].contains(number)).collect();
        assert_eq!(numbers, wanted);
        for variant in VARIANTS {
            assert!(variant.scenarios.iter().all(|name| crate::scenario::find(name).is_some()), "{variant:?}");
        }
    }
}

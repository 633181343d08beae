//! The deliberately broken variants: which there are, where each is looked for, and after how many seeds it must have been
//! caught. A checker that cannot fail is worth nothing.

use lockstep_core::broken::Broken;

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
    variant(Broken::JoinByOneSwap, &["pair"], 1000),
    variant(Broken::JoinWithoutFlush, &["pair"], 1000),
    variant(Broken::JoiningOutsideFlush, &["pair"], 1000),
    variant(Broken::JoiningDroppedWithoutSwap, &["pair"], 1000),
    variant(Broken::OldSessionFrameApplied, &["pair"], 1000),
    variant(Broken::DeadProcessWritesUnderSuccessor, &["pair"], 1000),
    variant(Broken::DirtyOnlyAtWriter, &["three"], 1000),
    variant(Broken::DirtyGapAccepted, &["three"], 1000),
    variant(Broken::OwnUnsentWritesKept, &["pair"], 1000),
    variant(Broken::FlushConfirmsUncommitted, &["pair"], 1000),
    variant(Broken::PullOverNewerWrite, &["pair"], 1000),
    variant(Broken::CursorOverBitmap, &["pair"], 1000),
    variant(Broken::IntentClearedAfterRestart, &["pair"], 1000),
    variant(Broken::IntentClearedBeforeDirtyDurable, &["pair"], 1000),
    variant(Broken::IntentClearedBeforeFlush, &["pair"], 1000),
    variant(Broken::RollForwardOfCommitted, &["pair"], 1000),
    variant(Broken::WriteOfJoiningOnly, &["pair"], 1000),
    variant(Broken::TwoLeaveAtOnce, &["pair"], 1000),
    variant(Broken::LeftMarkOverridden, &["pair"], 1000),
    variant(Broken::TieBreakerForgets, &["pair"], 1000),
    variant(Broken::ResubmitAfterExpulsion, &["pair"], 1000),
    variant(Broken::HoldsAfterReboot, &["pair"], 1000),
    variant(Broken::ReadPermissionFromOne, &["three"], 1000),
    variant(Broken::NoReadWait, &["reader"], 1000),
    variant(Broken::LateExitReport, &["reader"], 1000),
    variant(Broken::ReadOfUncommitted, &["reader"], 1000),
    variant(Broken::ReadOvertaken, &["reader"], 1000),
    variant(Broken::TwoStarts, &["pair"], 1000),
    variant(Broken::LastReplicaLeaves, &["pair"], 1000),
    variant(Broken::ForceWithoutGeneration, &["pair"], 1000),
    variant(Broken::HangingDiskIgnored, &["pair"], 1000),
    variant(Broken::CommitNeverSent, &["pair"], 1000),
    variant(Broken::HeartbeatsBehindData, &["pair"], 1000),
    variant(Broken::DisklessExpels, &["diskless"], 1000),
    variant(Broken::LowerEpochAccepted, &["pair"], 1000),
    variant(Broken::AckBeforeDisk, &["pair"], 1000),
    variant(Broken::StopClearsSurvivorsMap, &["pair"], 1000),
    variant(Broken::SecondSwapStarves, &["pair"], 1000),
    variant(Broken::RestartWithoutReconcile, &["pair"], 1000),
    variant(Broken::IntentReadBeforeReconcile, &["pair"], 1000),
    variant(Broken::OlderUncommittedReported, &["pair"], 1000),
    variant(Broken::InFlightNotSentToJoining, &["pair"], 1000),
    variant(Broken::PullBesideWrite, &["pair"], 1000),
    variant(Broken::TouchedAcrossSources, &["three"], 1000),
    variant(Broken::PromiseAfterSwap, &["three"], 1000),
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
        let outcome = crate::run::run(&scenario, seed, Some(variant.broken), crate::trace::Trace::quiet());
        hunt.caught = outcome.failure.is_some().then_some(outcome);
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

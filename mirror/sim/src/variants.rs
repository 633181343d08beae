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

/// Every variant of `docs/mirroring.md`.
pub const VARIANTS: [Variant; 81] = [
    variant(Broken::JoinByOneSwap, &["pair", "three"], 200),
    variant(Broken::JoinWithoutFlush, &["chain", "pair", "three", "diskless"], 200),
    variant(Broken::JoiningOutsideFlush, &["pair", "three", "reader"], 200),
    variant(Broken::JoiningDroppedWithoutSwap, &["pair", "three"], 200),
    variant(Broken::OldSessionFrameApplied, &["flapping"], 200),
    variant(Broken::DeadProcessWritesUnderSuccessor, &["orphans"], 200),
    variant(Broken::DirtyOnlyAtWriter, &["three"], 200),
    variant(Broken::DirtyGapAccepted, &["gap"], 200),
    variant(Broken::OwnUnsentWritesKept, &["reader", "pair", "three", "diskless"], 400),
    variant(Broken::FlushConfirmsUncommitted, &["pair", "three", "reader", "diskless"], 200),
    variant(Broken::PullOverNewerWrite, &["pair", "three"], 200),
    variant(Broken::CursorOverBitmap, &["switching"], 200),
    variant(Broken::IntentClearedAfterRestart, &["fresh-blackout"], 200),
    variant(Broken::IntentClearedBeforeDirtyDurable, &["chain", "three", "pair"], 200),
    variant(Broken::IntentClearedBeforeFlush, &["pair", "diskless"], 200),
    variant(Broken::RollForwardOfCommitted, &["late-settled"], 200),
    variant(Broken::WriteOfJoiningOnly, &["old-news"], 200),
    variant(Broken::TwoLeaveAtOnce, &["both-leave"], 200),
    variant(Broken::LeftMarkOverridden, &["overruled-mark"], 200),
    variant(Broken::TieBreakerForgets, &["forgetful-voter"], 200),
    variant(Broken::ResubmitAfterExpulsion, &["returning-writer"], 200),
    variant(Broken::HoldsAfterReboot, &["reboot"], 200),
    variant(Broken::ReadPermissionFromOne, &["half-permission"], 200),
    variant(Broken::NoReadWait, &["cut-reader"], 200),
    variant(Broken::LateExitReport, &["late-report"], 200),
    variant(Broken::ReadOfUncommitted, &["reader", "cut-reader"], 200),
    variant(Broken::ReadOvertaken, &["reader", "cut-reader"], 200),
    variant(Broken::TwoStarts, &["pair", "blackout"], 200),
    variant(Broken::LastReplicaLeaves, &["last-disk"], 200),
    variant(Broken::ForceWithoutGeneration, &["force-both"], 200),
    variant(Broken::HangingDiskIgnored, &["hanging-disk"], 200),
    variant(Broken::CommitNeverSent, &["idle-commit"], 200),
    variant(Broken::HeartbeatsBehindData, &["narrow"], 200),
    variant(Broken::DisklessExpels, &["diskless-cut"], 200),
    variant(Broken::LowerEpochAccepted, &["pair"], 200),
    variant(Broken::AckBeforeDisk, &["pair"], 200),
    variant(Broken::StopClearsSurvivorsMap, &["leave-in-flight"], 200),
    variant(Broken::SecondSwapStarves, &["steady-load"], 200),
    variant(Broken::RestartWithoutReconcile, &["double-restart"], 200),
    variant(Broken::IntentReadBeforeReconcile, &["doubtful-reads"], 200),
    variant(Broken::OlderUncommittedReported, &["stacked-writes"], 200),
    variant(Broken::InFlightNotSentToJoining, &["pair", "reader"], 200),
    variant(Broken::PullBesideWrite, &["three", "pair"], 200),
    variant(Broken::TouchedAcrossSources, &["lost-writer"], 200),
    variant(Broken::PromiseAfterSwap, &["void-promise"], 200),
    variant(Broken::DrainWithoutJoining, &["two-writers", "three-writers"], 200),
    variant(Broken::GrantBeforeRelease, &["two-writers", "three-writers"], 200),
    variant(Broken::ReleasedBeforeDrained, &["two-writers", "three-writers"], 200),
    variant(Broken::HoldingsNotReported, &["two-writers", "three-writers"], 200),
    variant(Broken::GrantBeforeReports, &["three-writers", "diskless-writers"], 200),
    variant(Broken::AskedOnce, &["two-writers", "three-writers"], 200),
    variant(Broken::RecalledOnce, &["two-writers", "three-writers"], 200),
    variant(Broken::ClassesDoNotAge, &["low-priority"], 200),
    variant(Broken::NothingReserved, &["wide-writes"], 200),
    variant(Broken::NumbersStartAgain, &["granting-leaves"], 200),
    variant(Broken::AnyExtentIsEnough, &["two-writers", "three-writers"], 200),
    variant(Broken::AckOfOldSession, &["two-writers", "three-writers"], 200),
    variant(Broken::AdmitsWhileDraining, &["low-priority", "wide-writes"], 200),
    variant(Broken::GrantBeforeReconcile, &["unsettled-grant"], 200),
    variant(Broken::RegisterRestored, &["lease-restored"], 200),
    variant(Broken::ResentUnderOldNumber, &["two-writers", "three-writers"], 200),
    variant(Broken::LeaseOfOldEpochBelieved, &["shards-opened", "shards"], 200),
    variant(Broken::HeldAgainInDoubt, &["shards"], 200),
    variant(Broken::ShardsNotPinned, &["wide-shards"], 200),
    variant(Broken::OpenedFromLease, &["shards-restored"], 200),
    variant(Broken::OpenBeforeSettled, &["unsettled-shard"], 400),
    variant(Broken::ExpiryTakes, &["shards-cut"], 200),
    variant(Broken::ShardNumberKept, &["shards"], 200),
    variant(Broken::RestoredShardBelieved, &["shards-restored"], 200),
    variant(Broken::JoinFlushBesideWrites, &["late-landing"], 200),
    variant(Broken::ExpelledExpels, &["cut-between"], 200),
    variant(Broken::JoinsUnheard, &["cut-between"], 200),
    variant(Broken::VotersWithoutOldMajority, &["member-cut"], 200),
    variant(Broken::RemovedComesBack, &["member-lost"], 200),
    variant(Broken::PlacesNotRenumbered, &["members", "member-lost"], 400),
    variant(Broken::EmptyStartsAlone, &["member-emptied"], 200),
    variant(Broken::EmptyByBitmap, &["member-emptied"], 200),
    variant(Broken::ResumesAnything, &["returning-front"], 200),
    variant(Broken::WantedUnheard, &["place-wanted"], 200),
    variant(Broken::SetBeforeInstalled, &["operations"], 200),
    variant(Broken::FencedByAnyChange, &["changed-meanwhile"], 200),
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
        assert_eq!(numbers, (1..=81).collect());
        assert_eq!(numbers.len(), VARIANTS.len());
        for variant in VARIANTS {
            assert!(variant.scenarios.iter().all(|name| crate::scenario::find(name).is_some()), "{variant:?}");
        }
    }

    #[test]
    fn the_documentation_names_where_each_variant_is_caught() {
        let text = include_str!("../../../docs/mirroring.md");
        for variant in VARIANTS {
            let ending = format!("| `{:?}` | {} |", variant.broken, variant.scenarios.join(", "));
            let begins = format!("| {} |", variant.broken as u8);
            assert!(
                text.lines().any(|line| line.starts_with(&begins) && line.ends_with(&ending)),
                "docs/mirroring.md, section 11, has no line {begins} ... {ending}"
            );
        }
    }
}

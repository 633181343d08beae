//! Scenarios: a plan drawn from the seed, and a script of faults over it. Every one ends healed, and is then judged.

mod arbiter;
mod disk;
mod ending;
mod force;
mod general;
mod lease;
mod leaving;
mod links;
mod members;
mod moving;
mod nemesis;
mod power;
mod reading;
mod restart;
mod resync;
mod shards;
mod sharing;
pub(crate) mod stage;

use crate::plan::Plan;
use crate::rng::Rng;
use crate::world::World;

pub use ending::finish;

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about, in a sentence.
    pub about: &'static str,
    /// How many of a hundred seeds it gets when none is named.
    pub share: u64,
    /// Draws the plan.
    pub plan: fn(&mut Rng) -> Plan,
    /// Makes things happen.
    pub script: fn(&mut World),
}

/// All scenarios, in the order in which they are listed.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(general::SCENARIOS);
    all.extend(leaving::SCENARIOS);
    all.extend(resync::SCENARIOS);
    all.extend(restart::SCENARIOS);
    all.extend(power::SCENARIOS);
    all.extend(reading::SCENARIOS);
    all.extend(links::SCENARIOS);
    all.extend(disk::SCENARIOS);
    all.extend(arbiter::SCENARIOS);
    all.extend(force::SCENARIOS);
    all.extend(sharing::SCENARIOS);
    all.extend(lease::SCENARIOS);
    all.extend(shards::SCENARIOS);
    all.extend(members::SCENARIOS);
    all
}

/// The scenario of this name.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

/// The scenario that a seed runs when none is named: in proportion to the shares.
#[must_use]
pub fn of_seed(seed: u64) -> Scenario {
    let all = all();
    let sum: u64 = all.iter().map(|scenario| scenario.share).sum();
    let mut at = Rng::new(seed ^ 0x5ce4_a210).below(sum);
    for scenario in &all {
        if at < scenario.share {
            return *scenario;
        }
        at -= scenario.share;
    }
    all[0]
}

//! A register elsewhere is the arbiter.

use lockstep_core::{Arbiter, Config};

use super::Scenario;
use super::general::vary;
use super::nemesis::{ANYTHING, Wrath, rage};
use super::sharing::several;
use super::stage::warm;
use crate::plan::{Plan, SECOND};
use crate::world::World;

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "lease-pair",
        about: "two nodes, nobody else, and a register elsewhere, under any faults",
        share: 20,
        plan: |rng| kept_elsewhere(vary(pair(), rng)),
        script: |world| rage(world, ANY),
    },
    Scenario {
        name: "lease-three",
        about: "three replicas, or a writer without one, and a register elsewhere, under any faults",
        share: 15,
        plan: |rng| {
            let plan = if rng.one_in(2) { Plan::three_replicas() } else { Plan::diskless_writer() };
            kept_elsewhere(vary(plan, rng))
        },
        script: |world| rage(world, ANY),
    },
    Scenario {
        name: "lease-writers",
        about: "several writers, and a register elsewhere, under any faults",
        share: 15,
        plan: |rng| kept_elsewhere(several(pair(), rng)),
        script: |world| rage(world, ANY),
    },
    Scenario {
        name: "lease-away",
        about: "the register is away all the time: a running volume does not notice",
        share: 3,
        plan: |rng| {
            let mut plan = kept_elsewhere(super::general::calm(rng));
            plan.expect.keeps_replicas = true;
            plan
        },
        script: |world| {
            world.run_for(SECOND);
            world.note("the register is away");
            world.register.up = false;
            let active = world.plan.active;
            world.run_for(active);
        },
    },
    Scenario {
        name: "lease-restored",
        about: "the register is restored from a backup while a node is down: nothing may be decided on it",
        share: 3,
        plan: |rng| kept_elsewhere(vary(Plan::three_replicas(), rng)),
        script: restored,
    },
];

/// Everything, and trouble with the register.
const ANY: Wrath = Wrath { register: 20, ..ANYTHING };

/// Two nodes, and nobody else.
pub fn pair() -> Plan {
    let mut plan = Plan::two_replicas();
    plan.nodes.truncate(2);
    plan
}

/// A register elsewhere keeps the configuration: nobody votes.
pub fn kept_elsewhere(mut plan: Plan) -> Plan {
    plan.settings.arbiter = Arbiter::Lease;
    plan.tie_breaker = None;
    plan
}

/// A backup is taken, nodes come and go; once all know the present configuration the backup is played back, and nodes come and
/// go; later the register is what it was. (Who has slept through all that the backup lacks cannot tell it from the truth.)
fn restored(world: &mut World) {
    if !warm(world) {
        return;
    }
    let backup = world.register.config.clone();
    rage_for(world, 2 * SECOND);
    world.heal();
    if !warm(world) {
        return;
    }
    let present = (world.register.version, world.register.config.clone());
    play_back(world, backup);
    rage_for(world, 2 * SECOND);
    // Whoever was misled wrote to it: then the operator has nothing to put back, and the checkers speak.
    if world.register.version == present.0 + 1 {
        play_back(world, present.1);
    }
}

fn rage_for(world: &mut World, nanos: u64) {
    let active = std::mem::replace(&mut world.plan.active, nanos);
    rage(world, ANYTHING);
    world.plan.active = active;
}

fn play_back(world: &mut World, config: Config) {
    world.note("the register is restored from a backup");
    world.register.version += 1;
    world.register.config = config;
}

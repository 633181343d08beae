//! Random faults over the usual volumes.

use lockstep_core::timing::MS;
use lockstep_core::{Ack, AttachMode, NodeId};

use super::Scenario;
use super::nemesis::{ANYTHING, Wrath, rage};
use crate::plan::{Plan, SECOND};
use crate::rng::Rng;

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "pair",
        about: "two replicas and a tie-breaker under any faults",
        share: 40,
        plan: |rng| vary(Plan::two_replicas(), rng),
        script: |world| rage(world, ANYTHING),
    },
    Scenario {
        name: "three",
        about: "three replicas under any faults",
        share: 25,
        plan: |rng| vary(Plan::three_replicas(), rng),
        script: |world| rage(world, ANYTHING),
    },
    Scenario {
        name: "diskless",
        about: "the writer has no replica",
        share: 12,
        plan: |rng| vary(Plan::diskless_writer(), rng),
        script: |world| rage(world, ANYTHING),
    },
    Scenario {
        name: "reader",
        about: "a second node has the volume attached for reading",
        share: 12,
        plan: reader,
        script: |world| rage(world, Wrath { cut: 30, pause: 25, ..ANYTHING }),
    },
    Scenario {
        name: "operations",
        about: "an operator grows, compares, throttles, changes settings and gives attaches up under any faults",
        share: 6,
        plan: operations,
        script: |world| rage(world, Wrath { grow: 8, verify: 8, throttle: 8, set: 24, give_up: 8, ..ANYTHING }),
    },
    Scenario {
        name: "calm",
        about: "no fault at all: no error, no expulsion, no stall",
        share: 2,
        plan: calm,
        script: |world| {
            let active = world.plan.active;
            world.run_for(active);
        },
    },
];

/// Draws what is not the point of a scenario.
pub fn vary(mut plan: Plan, rng: &mut Rng) -> Plan {
    plan.supervised = rng.percent(70);
    plan.recoverable = rng.percent(40);
    plan.moves_writer = rng.percent(70);
    if rng.percent(20) {
        plan.settings.ack = Ack::Durable;
    }
    plan.load.depth = rng.within(1, 9) as usize;
    plan.load.think = rng.skewed(MS, 40 * MS);
    if rng.percent(15) {
        plan.load.blocks_max = 64;
    }
    match rng.below(4) {
        0 => {
            plan.disk.slowest = 20 * MS;
        }
        1 => {
            plan.disk.fastest = MS / 100;
            plan.disk.slowest = MS / 10;
        }
        _ => {}
    }
    if rng.percent(20) {
        plan.link.delay = 5 * MS;
        plan.link.jitter = 5 * MS;
    }
    plan.active = rng.within(3 * SECOND, 10 * SECOND);
    plan
}

fn reader(rng: &mut Rng) -> Plan {
    let mut plan = if rng.one_in(2) { Plan::two_replicas() } else { Plan::three_replicas() };
    plan.attach.push((NodeId(2), AttachMode::ReadOnly));
    vary(plan, rng)
}

fn operations(rng: &mut Rng) -> Plan {
    let base = match rng.below(3) {
        0 => Plan::two_replicas(),
        1 => Plan::three_replicas(),
        _ => Plan::diskless_writer(),
    };
    vary(base, rng)
}

pub fn calm(rng: &mut Rng) -> Plan {
    let base = match rng.below(3) {
        0 => Plan::two_replicas(),
        1 => Plan::three_replicas(),
        _ => Plan::diskless_writer(),
    };
    let mut plan = vary(base, rng);
    plan.active = 4 * SECOND;
    plan.expect.no_errors = true;
    plan.expect.no_expulsion = true;
    plan.expect.stall_max = Some(2 * SECOND);
    plan
}

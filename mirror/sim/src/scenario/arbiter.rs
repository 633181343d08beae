//! The arbiter: a voter that lost its memory, and changes of the configuration that come at once.

use lockstep_core::timing::MS;
use lockstep_core::{AttachMode, Command, NodeId};

use super::Scenario;
use super::resync::grow;
use super::stage::{A, B, C, bring_up, is_alone, mend_between, reach, take_down, vary_lasting, warm};
use crate::plan::{Plan, SECOND};
use crate::rng::Rng;
use crate::world::World;

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "forgetful-voter",
        about: "the tie-breaker loses its memory, and then speaks to the replica that was taken out",
        share: 2,
        plan: forgetful_plan,
        script: forgetful_voter,
    },
    Scenario {
        name: "changes",
        about: "attachments, growth, leaving and expulsion are asked for at the same moment on different nodes",
        share: 4,
        plan: changes_plan,
        script: changes,
    },
    Scenario {
        name: "verify",
        about: "replicas are compared under load and in quiet, and nothing differs",
        share: 2,
        plan: |rng| {
            let base = if rng.one_in(2) { Plan::two_replicas() } else { Plan::three_replicas() };
            vary_lasting(base, rng)
        },
        script: verify,
    },
];

fn forgetful_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::two_replicas(), rng);
    plan.moves_writer = false;
    plan
}

fn forgetful_voter(world: &mut World) {
    if !warm(world) {
        return;
    }
    world.isolate(B);
    // When A is alone it needs no other vote: nothing is lost with the tie-breaker's.
    let alone = |world: &World| is_alone(world, A) && world.checks.latest().voters.len() == 1;
    if !reach(world, 8 * SECOND, "A is alone and votes alone", alone) {
        return;
    }
    take_down(world, C);
    world.empty_voter(C);
    world.isolate(A);
    mend_between(world, B, C);
    bring_up(world, C);
    if world.rng.one_in(2) {
        world.kill(B, false);
        world.start(B);
    }
    let moment = world.rng.within(SECOND, 5 * SECOND);
    world.run_for(moment);
}

fn changes_plan(rng: &mut Rng) -> Plan {
    let base = match rng.below(3) {
        0 => Plan::two_replicas(),
        1 => Plan::three_replicas(),
        _ => Plan::diskless_writer(),
    };
    let mut plan = vary_lasting(base, rng);
    plan.nodes.push(NodeId(5));
    plan.nodes.push(NodeId(6));
    if rng.one_in(2) {
        plan.attach.push((NodeId(5), AttachMode::ReadOnly));
    }
    plan
}

fn changes(world: &mut World) {
    for _ in 0..world.rng.within(1, 5) {
        if !warm(world) {
            return;
        }
        for _ in 0..world.rng.within(2, 5) {
            let nodes = world.plan.nodes.clone();
            let node = world.rng.pick(&nodes).unwrap_or(B);
            match world.rng.below(7) {
                0 => grow(world),
                1 => {
                    world.attach(NodeId(6), AttachMode::ReadOnly, false);
                }
                2 => {
                    world.command(NodeId(6), Command::Detach);
                }
                3 => {
                    let down = world.rng.within(MS, SECOND);
                    world.leave_and_stop(node, Some(down));
                }
                4 => {
                    world.kill(node, true);
                    world.start(node);
                }
                5 => {
                    let writer = world.writer().unwrap_or(A);
                    world.command(writer, Command::Detach);
                }
                _ => {
                    world.attach(node, AttachMode::ReadWrite, true);
                }
            }
            let moment = world.rng.skewed(1, 20 * MS);
            world.run_for(moment);
        }
        let moment = world.rng.within(100 * MS, 2 * SECOND);
        world.run_for(moment);
    }
}

fn verify(world: &mut World) {
    for _ in 0..world.rng.within(1, 4) {
        if !warm(world) {
            return;
        }
        let Some(writer) = world.writer() else { return };
        let asked = world.command(writer, Command::Verify { repair_from: None });
        if world.rng.percent(30) {
            let node = world.rng.pick(&world.plan.replicas.clone()).unwrap_or(B);
            let moment = world.rng.within(1, 20 * MS);
            world.run_for(moment);
            world.kill(node, true);
            world.start(node);
        }
        let answered = move |world: &World| !world.asked[asked].is_open();
        if !reach(world, 20 * SECOND, "a verify ends", answered) {
            return;
        }
        world.check_verified(asked);
    }
}

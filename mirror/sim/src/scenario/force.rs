//! Force: an operator's word on one side of a cut, or on both, and what happens when they meet.

use lockstep_core::timing::MS;
use lockstep_core::{AttachMode, Command, NodeId};

use super::Scenario;
use super::stage::{A, B, C, is_done, reach, vary_lasting, warm, write};
use crate::plan::{Plan, SECOND};
use crate::rng::Rng;
use crate::world::World;

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "force-both",
        about: "both sides of a cut are forced and written to; when they meet nothing is overwritten before one is given up",
        share: 2,
        plan: force_plan,
        script: force_both,
    },
    Scenario {
        name: "force-one",
        about: "the replica that is left is forced, and the other comes back and is given up",
        share: 2,
        plan: force_plan,
        script: force_one,
    },
];

fn force_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::two_replicas(), rng);
    plan.recoverable = false;
    plan
}

/// The generation that a node has installed.
fn generation(world: &World, node: NodeId) -> u64 {
    world.nodes.get(&node).and_then(|node| node.machine.as_ref()).map_or(0, |machine| machine.config().generation.id)
}

fn diverged(world: &World, node: NodeId) -> bool {
    world.nodes.get(&node).and_then(|node| node.machine.as_ref()).is_some_and(|m| m.status().diverged.is_some())
}

/// Forces a node's replica, and attaches it there.
fn force(world: &mut World, node: NodeId) -> bool {
    let asked = world.command(node, Command::Force);
    let forced = move |world: &World| matches!(world.answer(asked), Some(Ok(_)));
    if !reach(world, 3 * SECOND, "force is carried out", forced) {
        return false;
    }
    let attached = world.attach(node, AttachMode::ReadWrite, true);
    reach(world, 10 * SECOND, "what was forced is attached", move |world| matches!(world.answer(attached), Some(Ok(_))))
}

/// Gives up what a node has of its own generation: nothing that was done there counts.
fn give_up(world: &mut World, node: NodeId, from: usize) {
    let told = move |world: &World| diverged(world, node);
    if !reach(world, 10 * SECOND, "the two generations know of each other", told) {
        return;
    }
    let given_up = generation(world, node);
    world.command(node, Command::Detach);
    world.run_for(500 * MS);
    world.abandon(node, from);
    let asked = world.command(node, Command::Rejoin);
    let _ = reach(world, SECOND, "one is given up", move |world| matches!(world.answer(asked), Some(Ok(_))));
    // The tie-breaker may have followed the other side.
    if generation(world, C) == given_up && diverged(world, C) {
        world.command(C, Command::Rejoin);
    }
    world.operator_on = true;
}

fn force_both(world: &mut World) {
    if !warm(world) || world.writer() != Some(A) {
        return;
    }
    world.operator_on = false;
    for node in [A, B, C] {
        world.isolate(node);
    }
    let moment = world.rng.within(300 * MS, 2 * SECOND);
    world.run_for(moment);
    let from = world.record.requests.len();
    let (first, second) = if world.rng.one_in(2) { (A, B) } else { (B, A) };
    if !force(world, first) || !force(world, second) {
        return;
    }
    world.plan.load.requests_max += 400;
    world.restart_load();
    let moment = world.rng.within(200 * MS, SECOND);
    world.run_for(moment);
    let mine = write(world, A, 5_000);
    let theirs = write(world, B, 5_000);
    let both = move |world: &World| is_done(world, mine) && is_done(world, theirs);
    if !reach(world, 4 * SECOND, "both sides serve", both) {
        return;
    }
    let before = [A, B].map(|node| (generation(world, node), world.nodes[&node].disk.content(5_000)));
    world.mend_all();
    let met = |world: &World| diverged(world, A) && diverged(world, B);
    if !reach(world, 10 * SECOND, "both sides know that the other is of another generation", met) {
        return;
    }
    let moment = world.rng.within(0, 2 * SECOND);
    world.run_for(moment);
    let after = [A, B].map(|node| (generation(world, node), world.nodes[&node].disk.content(5_000)));
    world.check_apart(before == after);
    // What was done on the side that is given up is not part of the volume's history.
    world.check_latest_is(A);
    give_up(world, B, from);
}

fn force_one(world: &mut World) {
    if !warm(world) || world.writer() != Some(A) {
        return;
    }
    world.operator_on = false;
    // B lives, and can reach nobody. A has lost the arbiter too.
    for node in [A, B, C] {
        world.isolate(node);
    }
    let moment = world.rng.within(0, 1_500 * MS);
    world.run_for(moment);
    if !force(world, A) {
        return;
    }
    world.plan.load.requests_max += 400;
    world.restart_load();
    let moment = world.rng.within(100 * MS, SECOND);
    world.run_for(moment);
    if world.rng.one_in(3) {
        world.kill(B, false);
        world.start(B);
    }
    let from = world.record.requests.len();
    world.mend_all();
    give_up(world, B, from);
}

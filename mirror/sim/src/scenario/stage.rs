//! What the scripts of directed scenarios share: who is who, waiting for a state, single requests, cuts of one way.

use lockstep_core::timing::MS;
use lockstep_core::{AttachMode, BlockRange, Net, NodeId, Op};

use super::ending::{describe, is_healthy};
use super::general::vary;
use crate::failure::Failure;
use crate::plan::{DiskPace, Plan, SECOND};
use crate::rng::Rng;
use crate::world::World;

/// The first replica's node; the writer's, if nothing else is said.
pub const A: NodeId = NodeId(1);
/// The second replica's node.
pub const B: NodeId = NodeId(2);
/// The third replica's node, or the tie-breaker's.
pub const C: NodeId = NodeId(3);
/// A node without data.
pub const D: NodeId = NodeId(4);

/// Both networks.
pub const NETS: [Net; 2] = [Net::Dedicated, Net::Ordinary];

/// Three replicas on nodes 1 to 3, and the writer on node 4, which has no data.
pub fn three_and_diskless() -> Plan {
    let mut plan = Plan::three_replicas();
    plan.nodes.push(D);
    plan.attach = vec![(D, AttachMode::ReadWrite)];
    plan
}

/// Disks without outliers: for scripts that depend on what comes first.
pub fn even_disks(plan: &mut Plan) {
    plan.disk = DiskPace { fastest: MS / 20, slowest: 2 * MS, outlier_one_in: u64::MAX };
}

/// A load that lasts for some ten seconds, whatever chance made of it.
pub fn vary_lasting(plan: Plan, rng: &mut Rng) -> Plan {
    let mut plan = vary(plan, rng);
    plan.load.think = plan.load.think.max(20 * MS);
    plan.load.requests_max = 4_000;
    plan
}

/// Requests for a few hot blocks only. None of them zeroes: histories of many equal values take for ever to judge.
pub fn hot(plan: &mut Plan, blocks: &[u64]) {
    plan.load.targets = blocks.to_vec();
    plan.load.mix.zeroes = 0;
    plan.load.mix.discard = 0;
}

/// Waits for a state that has to come; if it does not, that is a failure of its own.
pub fn reach(world: &mut World, limit: u64, what: &str, done: impl FnMut(&World) -> bool) -> bool {
    if world.run_until(limit, done) {
        return true;
    }
    let told = format!("within {} ms it did not come about that {what}: {}", limit / MS, describe(world));
    world.fail(Failure::liveness("script", world.now, told));
    false
}

/// Lets the volume come up and serve for a moment.
pub fn warm(world: &mut World) -> bool {
    let up = reach(world, 20 * SECOND, "the volume serves", is_healthy);
    let moment = world.rng.within(50 * MS, 400 * MS);
    world.run_for(moment);
    up && world.failure.is_none()
}

/// Stops the load and waits until nothing is open.
pub fn quiet(world: &mut World) -> bool {
    world.load_on = false;
    reach(world, 20 * SECOND, "open requests end", World::is_idle)
}

/// Lets the load go on.
pub fn busy(world: &mut World) {
    world.load_on = true;
    world.restart_load();
}

/// One write of one block.
pub fn write(world: &mut World, node: NodeId, block: u64) -> Option<usize> {
    world.ask(node, Op::Write { fua: false }, BlockRange::new(block, block + 1))
}

/// One read of one block.
pub fn read(world: &mut World, node: NodeId, block: u64) -> Option<usize> {
    world.ask(node, Op::Read, BlockRange::new(block, block + 1))
}

/// True if a request has completed without an error.
pub fn is_done(world: &World, request: Option<usize>) -> bool {
    let ended = request.and_then(|index| world.record.requests.get(index)).and_then(|request| request.ended);
    matches!(ended, Some((_, Ok(()))))
}

/// True if the newest configuration lists the node's present run as in sync.
pub fn is_in_sync(world: &World, node: NodeId) -> bool {
    world.checks.latest().in_sync.get(&node) == world.nodes.get(&node).map(|node| &node.incarnation)
}

/// True if the newest configuration lists nobody else as in sync.
pub fn is_alone(world: &World, node: NodeId) -> bool {
    world.checks.latest().in_sync.len() == 1 && world.checks.latest().in_sync.contains_key(&node)
}

/// True if the newest configuration lists the node as joining.
pub fn is_joining(world: &World, node: NodeId) -> bool {
    world.checks.latest().joining.contains_key(&node)
}

/// Nothing passes from one node to another any more, on both networks; the other way is left as it is.
pub fn cut_way(world: &mut World, from: NodeId, to: NodeId) {
    for net in NETS {
        world.cut(from, to, net, false);
    }
}

/// Everything passes from one node to another again.
pub fn mend_way(world: &mut World, from: NodeId, to: NodeId) {
    for net in NETS {
        world.mend(from, to, net);
    }
}

/// Everything passes between two nodes again.
pub fn mend_between(world: &mut World, one: NodeId, other: NodeId) {
    mend_way(world, one, other);
    mend_way(world, other, one);
}

/// What goes from one node to another takes so long from now on, on both networks.
pub fn slow_way(world: &mut World, from: NodeId, to: NodeId, delay: u64) {
    for net in NETS {
        world.net.link(from, to, net).delay = delay;
    }
}

/// Kills a node's process and keeps it down until a script starts it.
pub fn take_down(world: &mut World, node: NodeId) {
    world.kill(node, false);
    if let Some(node) = world.nodes.get_mut(&node) {
        node.held_down = true;
    }
}

/// Starts what was taken down.
pub fn bring_up(world: &mut World, node: NodeId) {
    if let Some(node) = world.nodes.get_mut(&node) {
        node.held_down = false;
    }
    world.start(node);
}

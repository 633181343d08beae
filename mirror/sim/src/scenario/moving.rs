//! What an operator does who moves replicas: parts are made, members added and removed, and asked again until it is so.

use lockstep_core::timing::MS;
use lockstep_core::{Command, Config, NodeId, Role};

use super::nemesis::{ANYTHING, Wrath, strike};
use crate::plan::SECOND;
use crate::world::World;

/// Faults during a change of members.
pub const GUSTS: Wrath = Wrath { blackout: 1, leave: 8, detach: 6, ..ANYTHING };

/// So many faults within the next seconds, while a script goes on; gives the time when they are over.
pub fn gusts(world: &mut World, faults: u64) -> u64 {
    for _ in 0..faults {
        let moment = world.rng.within(0, 5 * SECOND);
        world.later(moment, Box::new(|world| strike(world, GUSTS)));
    }
    if faults == 0 { world.now } else { world.now + 5 * SECOND }
}

/// Adds a member.
pub fn add(node: NodeId, role: Role, instead_of: Option<NodeId>) -> Command {
    Command::AddMember { node, role, instead_of }
}

/// Nodes whose replicas are in sync and run, in the newest configuration.
pub fn in_sync(world: &World) -> Vec<NodeId> {
    let runs = |node: &NodeId| world.nodes.get(node).is_some_and(|node| node.is_running());
    world.checks.latest().in_sync.keys().copied().filter(runs).collect()
}

/// Asks in-sync members in turn until one has done it, or the time is over.
pub fn change(world: &mut World, limit: u64, command: &Command) -> bool {
    let end = world.now + limit;
    while world.now < end && world.failure.is_none() {
        let target = match command {
            Command::RemoveMember { node } | Command::AddMember { node, .. } => Some(*node),
            _ => None,
        };
        let askers: Vec<NodeId> = in_sync(world).into_iter().filter(|node| Some(*node) != target).collect();
        if let Some(asker) = world.rng.pick(&askers) {
            let asked = world.command(asker, command.clone());
            let left = (end - world.now).min(4 * SECOND);
            world.run_until(left, move |world| !world.asked[asked].is_open());
            if matches!(world.answer(asked), Some(Ok(_))) {
                return true;
            }
        }
        let moment = world.rng.within(50 * MS, 400 * MS);
        world.run_for(moment);
    }
    false
}

/// Makes sure that a node that holds no replica of the volume is ready to hold one: what it has is of no use. False if nobody is there
/// who knows the volume.
pub fn prepare(world: &mut World, node: NodeId, has_data: bool) -> bool {
    if world.checks.latest().role_of(node).is_some_and(|role| role == Role::Replica) {
        return true;
    }
    let from = in_sync(world).first().copied().unwrap_or(node);
    let ready = world.nodes.get(&node).is_some_and(|node| {
        let meta = node.store.durable();
        node.machine.is_some() && node.removed.is_none() && !meta.removed && (meta.has_data || !has_data)
    });
    if !ready && from != node {
        world.make_part(node, from, has_data, true);
    }
    ready || from != node
}

/// A new replica, on a node that is given an empty one for it. True if it is one of the volume's now.
pub fn add_replica(world: &mut World, limit: u64, node: NodeId, instead_of: Option<NodeId>) -> bool {
    prepare(world, node, true) && change(world, limit, &add(node, Role::Replica, instead_of))
}

/// True if every replica of the newest configuration is in sync.
pub fn is_whole(world: &World) -> bool {
    let config: &Config = world.checks.latest();
    config.replicas.iter().all(|node| config.in_sync.contains_key(node))
}

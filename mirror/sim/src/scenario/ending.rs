//! How every run ends: healed, alive again, quiet, and then compared.

use std::collections::BTreeSet;

use lockstep_core::timing::MS;
use lockstep_core::{Access, AttachMode, BlockRange, Command, Incarnation, NodeId, Op};

use crate::check::check_history;
use crate::failure::Failure;
use crate::plan::SECOND;
use crate::world::{Asked, World};

/// Requests that must complete after the healing before the volume counts as serving.
const SERVED: u64 = 15;

/// Heals everything, then judges.
pub fn finish(world: &mut World) {
    if world.failure.is_none() {
        recover(world);
    }
    if world.failure.is_none() && !world.plan.expect.no_recovery {
        settle(world);
    }
    if world.failure.is_none() {
        world.check_equality("the end");
    }
    if world.failure.is_none()
        && let Err(failure) = check_history(&world.record, world.now)
    {
        world.fail(failure);
    }
}

fn recover(world: &mut World) {
    world.heal();
    if world.plan.expect.no_recovery {
        world.run_for(3 * SECOND);
        return;
    }
    set_resyncs_free(world);
    let healed = world.record.completed;
    world.load_on = true;
    world.operator_on = true;
    world.plan.load.requests_max = world.record.requests.len() as u64 + 400;
    world.restart_load();
    let limit = world.plan.recovery_max;
    if !world.run_until(limit, |world| is_healthy(world) && world.record.completed >= healed + SERVED) {
        let what = format!(
            "{} s after everything was healed: {} requests served, {}",
            limit / SECOND,
            world.record.completed - healed,
            describe(world)
        );
        world.fail(Failure::liveness("I14", world.now, what));
    }
}

/// Ends what an operator may have throttled.
fn set_resyncs_free(world: &mut World) {
    let throttled = |asked: &Asked| matches!(asked.command, Command::SetResyncRate { bytes_per_second: 1.. });
    let nodes: BTreeSet<NodeId> = world.asked.iter().filter(|asked| throttled(asked)).map(|asked| asked.node).collect();
    for node in nodes {
        world.command(node, Command::SetResyncRate { bytes_per_second: 0 });
    }
}

/// Everybody who should be is in sync and attached.
#[must_use]
pub fn is_healthy(world: &World) -> bool {
    let config = world.checks.latest();
    let marked: BTreeSet<(NodeId, Incarnation)> =
        world.nodes.values().flat_map(|node| node.store.durable().left.iter().copied()).collect();
    let runs = |node: &NodeId| {
        let run = world.nodes.get(node).filter(|node| node.machine.is_some()).map(|node| node.incarnation);
        run.is_some_and(|run| config.is_in_sync(*node, run) && !marked.contains(&(*node, run)))
    };
    let usable = |node: &&NodeId| world.nodes.get(node).is_some_and(|node| node.store.durable().failed.is_none());
    let is_leaving = |asked: &Asked| asked.is_open() && matches!(asked.command, Command::Leave);
    config.joining.is_empty()
        && !world.asked.iter().any(is_leaving)
        && config.replicas.iter().filter(usable).all(runs)
        && are_writers_attached(world)
}

/// The writer of a single-writer volume, wherever it is; every one of a multi-writer volume.
fn are_writers_attached(world: &World) -> bool {
    let config = world.checks.latest();
    let writers = world.writers();
    let wanted = match world.plan.settings.access {
        Access::SingleWriter => 1,
        Access::MultiWriter => world.plan.attach.iter().filter(|(_, mode)| *mode == AttachMode::ReadWrite).count(),
    };
    writers.len() >= wanted && writers.iter().all(|writer| config.attached.contains_key(writer))
}

fn settle(world: &mut World) {
    world.load_on = false;
    if !world.run_until(20 * SECOND, World::is_idle) {
        let what = format!("nothing is wrong any more, and {}", describe(world));
        world.fail(Failure::liveness("I10", world.now, what));
        return;
    }
    let readers: Vec<NodeId> =
        world.fronts.iter().filter(|(_, front)| front.attachment.is_some()).map(|(node, _)| *node).collect();
    for reader in readers {
        for block in world.plan.load.targets.clone() {
            let end = (block + 4).min(world.plan.size_blocks);
            world.ask(reader, Op::Read, BlockRange::new(block, end));
        }
    }
    if !world.run_until(20 * SECOND, World::is_idle) {
        let what = format!("reads of a healthy volume do not end: {}", describe(world));
        world.fail(Failure::liveness("I10", world.now, what));
        return;
    }
    let quiet = world.plan.timing.background_flush * 3 + 500 * MS;
    world.run_for(quiet);
    if world.failure.is_none() {
        world.check_identical();
    }
}

/// The state of everything in one line.
#[must_use]
pub fn describe(world: &World) -> String {
    let mut text = String::new();
    let config = world.checks.latest();
    text += &format!(
        "epoch {} in_sync {:?} joining {:?} attached {:?}; ",
        config.epoch, config.in_sync, config.joining, config.attached
    );
    for (id, node) in &world.nodes {
        text += &format!("node {id}: run {} ", node.incarnation);
        match &node.machine {
            None => text += "dead; ",
            Some(machine) => {
                let status = machine.status();
                text += &format!(
                    "epoch {} {:?} frozen {} reconciling {}; ",
                    status.config.epoch, status.disk, status.frozen, status.reconciling
                );
            }
        }
    }
    for (id, front) in &world.fronts {
        text += &format!("front end {id}: {:?} open {:?}; ", front.mode, open_requests(world, *id));
    }
    let waiting: Vec<String> = world
        .asked
        .iter()
        .filter(|asked| asked.is_open())
        .map(|asked| format!("{:?} at node {}", asked.command, asked.node))
        .collect();
    text += &format!("commands without an answer: {waiting:?}");
    text
}

fn open_requests(world: &World, id: NodeId) -> Vec<String> {
    let Some(front) = world.fronts.get(&id) else { return Vec::new() };
    front
        .open
        .values()
        .filter_map(|open| world.record.requests.get(open.index))
        .map(|asked| format!("{:?} {:?}", asked.op, asked.range))
        .collect()
}

//! Random faults: at any moment, or in the middle of a protocol.

use lockstep_core::timing::MS;
use lockstep_core::{Access, Ack, AttachMode, Class, Command, CommandError, Net, NodeId, Setting};

use super::disk::break_disk;
use super::resync::grow;
use crate::plan::SECOND;
use crate::world::{Asked, FRAME_KINDS, GRANT_KINDS, Pattern, Register, UPDATE_KINDS, World};

/// Kinds of faults that a scenario allows, in parts of their sum.
#[derive(Clone, Copy, Debug)]
pub struct Wrath {
    /// A process is killed, and restarted some time later.
    pub kill: u64,
    /// A process is stopped for a while.
    pub pause: u64,
    /// A host loses its power.
    pub power: u64,
    /// All hosts lose their power.
    pub blackout: u64,
    /// Networks are cut.
    pub cut: u64,
    /// Connections break.
    pub reset: u64,
    /// A disk hangs for a while.
    pub hang: u64,
    /// A node leaves as planned, stops, and comes back.
    pub leave: u64,
    /// The writer detaches.
    pub detach: u64,
    /// A link becomes slow.
    pub slow: u64,
    /// One replica's disk fails for good.
    pub fail: u64,
    /// One replica's disk is full for a while.
    pub full: u64,
    /// The volume grows.
    pub grow: u64,
    /// Replicas are compared.
    pub verify: u64,
    /// A resync is throttled, or set free.
    pub throttle: u64,
    /// A setting is changed.
    pub set: u64,
    /// Nobody waits for an attach any more.
    pub give_up: u64,
    /// The register cannot be reached for a while, or becomes slow.
    pub register: u64,
}

/// No fault at all.
pub const NOTHING: Wrath = Wrath {
    kill: 0,
    pause: 0,
    power: 0,
    blackout: 0,
    cut: 0,
    reset: 0,
    hang: 0,
    leave: 0,
    detach: 0,
    slow: 0,
    fail: 0,
    full: 0,
    grow: 0,
    verify: 0,
    throttle: 0,
    set: 0,
    give_up: 0,
    register: 0,
};

/// A bit of everything that goes by.
pub const ANYTHING: Wrath = Wrath {
    kill: 30,
    pause: 12,
    power: 14,
    blackout: 3,
    cut: 16,
    reset: 8,
    hang: 4,
    leave: 5,
    detach: 3,
    slow: 5,
    ..NOTHING
};

/// Faults until the plan's active time is over.
pub fn rage(world: &mut World, wrath: Wrath) {
    let end = world.now + world.plan.active;
    let longest = world.plan.active / 3;
    let calm = world.rng.within(100 * MS, 700 * MS);
    world.run_for(calm);
    while world.now < end && world.failure.is_none() {
        strike(world, wrath);
        // Faults come singly, in quick succession, or after all has settled.
        let pause = match world.rng.below(4) {
            0 => world.rng.within(0, 30 * MS),
            1 => world.rng.within(30 * MS, 400 * MS),
            _ => world.rng.within(400 * MS, longest.max(401 * MS)),
        };
        world.run_for(pause.min(end.saturating_sub(world.now) + 1));
    }
}

/// One fault, now or when something happens.
pub fn strike(world: &mut World, wrath: Wrath) {
    let Some(node) = world.rng.pick(&world.plan.nodes.clone()) else { return };
    if world.rng.percent(45) {
        let Some(watched) = world.rng.pick(&world.plan.nodes.clone()) else { return };
        let pattern = any_pattern(world, watched);
        let count = world.rng.skewed(1, 12) as u32;
        let delay = if world.rng.one_in(2) { 0 } else { world.rng.skewed(1, 6 * MS) };
        world.when(pattern, count, delay, Box::new(move |world| inflict(world, wrath, node)));
    } else {
        inflict(world, wrath, node);
    }
}

fn any_pattern(world: &mut World, node: NodeId) -> Pattern {
    let rng = &mut world.rng;
    if world.plan.settings.access == Access::MultiWriter && rng.one_in(3) {
        let kind = rng.pick(&GRANT_KINDS).unwrap_or("Granted");
        return if rng.one_in(2) { Pattern::Sends(node, kind) } else { Pattern::Receives(node, kind) };
    }
    match rng.below(3) {
        0 => Pattern::Persists(node, rng.pick(&UPDATE_KINDS).unwrap_or("Config")),
        1 => Pattern::Sends(node, rng.pick(&FRAME_KINDS).unwrap_or("Write")),
        _ => Pattern::Receives(node, rng.pick(&FRAME_KINDS).unwrap_or("Write")),
    }
}

/// How long something stays broken.
fn outage(world: &mut World) -> u64 {
    match world.rng.below(4) {
        0 => world.rng.within(MS, 100 * MS),
        1 => world.rng.within(100 * MS, SECOND),
        _ => world.rng.within(SECOND, 5 * SECOND),
    }
}

fn inflict(world: &mut World, wrath: Wrath, node: NodeId) {
    let parts = [
        wrath.kill,
        wrath.pause,
        wrath.power,
        wrath.blackout,
        wrath.cut,
        wrath.reset,
        wrath.hang,
        wrath.leave,
        wrath.detach,
        wrath.slow,
        wrath.fail,
        wrath.full,
        wrath.grow,
        wrath.verify,
        wrath.throttle,
        wrath.set,
        wrath.give_up,
        wrath.register,
    ];
    let mut at = world.rng.below(parts.iter().sum());
    let mut kind = 0;
    for (index, part) in parts.iter().enumerate() {
        if at < *part {
            kind = index;
            break;
        }
        at -= part;
    }
    let outage = outage(world);
    match kind {
        0 => kill(world, node, outage),
        1 => {
            world.pause(node);
            world.later(outage, Box::new(move |world| world.resume(node)));
        }
        2 => {
            world.lose_power(node);
            world.later(outage, Box::new(move |world| world.power_up(node)));
        }
        3 => blackout(world),
        4 => cut(world, node, outage),
        5 => {
            let (other, net) = (other_than(world, node), any_net(world));
            world.reset(node, other, net);
        }
        6 => hang(world, node, outage),
        7 => leave(world, node, outage),
        8 => detach(world),
        9 => slow(world, node, outage),
        10 => fail(world),
        11 => fill(world, outage),
        12 => grow(world),
        13 => verify(world),
        14 => throttle(world),
        15 => set(world, node),
        16 => give_up(world, node),
        _ => trouble_register(world, outage),
    }
}

fn other_than(world: &mut World, node: NodeId) -> NodeId {
    let others: Vec<NodeId> = world.plan.nodes.iter().copied().filter(|other| *other != node).collect();
    world.rng.pick(&others).unwrap_or(node)
}

fn any_net(world: &mut World) -> Net {
    if world.rng.one_in(2) { Net::Dedicated } else { Net::Ordinary }
}

/// Kills a process; it starts again at once or after a while.
pub fn kill(world: &mut World, node: NodeId, outage: u64) {
    let at_once = world.rng.one_in(3);
    world.kill(node, at_once);
    let after = if at_once { world.rng.within(MS, 50 * MS) } else { outage };
    world.later(after, Box::new(move |world| world.start(node)));
}

fn blackout(world: &mut World) {
    for node in world.plan.nodes.clone() {
        if world.rng.percent(70) {
            world.lose_power(node);
        } else {
            world.kill(node, false);
        }
        let after = world.rng.skewed(10 * MS, 5 * SECOND);
        world.later(after, Box::new(move |world| world.power_up(node)));
    }
}

fn cut(world: &mut World, node: NodeId, outage: u64) {
    match world.rng.below(5) {
        0 => world.isolate(node),
        1 => {
            let other = other_than(world, node);
            world.cut_all(node, other);
        }
        2 => {
            let (other, net) = (other_than(world, node), any_net(world));
            world.cut(node, other, net, true);
        }
        3 => {
            let other = other_than(world, node);
            for net in [Net::Dedicated, Net::Ordinary] {
                world.cut(node, other, net, false);
            }
        }
        _ => {
            let net = any_net(world);
            for other in world.plan.nodes.clone().into_iter().filter(|other| *other != node) {
                world.cut(node, other, net, true);
            }
        }
    }
    world.later(outage, Box::new(World::mend_all));
}

fn hang(world: &mut World, node: NodeId, outage: u64) {
    if world.nodes.get(&node).is_some_and(|node| node.disk.faults.hang) {
        return;
    }
    // Shorter than what fails a replica: a failed one does not come back by itself.
    let longest = world.plan.timing.disk_hang / 2;
    set_hang(world, node, true);
    world.later(outage.min(longest), Box::new(move |world| set_hang(world, node, false)));
}

/// Lets a disk hang, or go on.
pub fn set_hang(world: &mut World, node: NodeId, hang: bool) {
    world.note(&format!("the disk of {node} hangs: {hang}"));
    if let Some(node) = world.nodes.get_mut(&node) {
        node.disk.faults.hang = hang;
    }
}

/// One replica at most fails for good: with all of them gone there is nothing left to judge.
fn fail(world: &mut World) {
    let broken = |world: &World, id: &NodeId| {
        world
            .nodes
            .get(id)
            .is_some_and(|node| node.disk.faults.any() || node.store.failing || node.store.durable().failed.is_some())
    };
    let replicas = world.plan.replicas.clone();
    if replicas.iter().any(|id| broken(world, id)) {
        return;
    }
    if let Some(node) = world.rng.pick(&replicas) {
        break_disk(world, node);
    }
}

fn fill(world: &mut World, outage: u64) {
    let Some(id) = world.rng.pick(&world.plan.replicas.clone()) else { return };
    set_full(world, id, true);
    world.later(outage, Box::new(move |world| set_full(world, id, false)));
}

/// Takes a disk's last room, or makes room and starts the engine again.
pub fn set_full(world: &mut World, id: NodeId, full: bool) {
    world.note(&format!("the disk of {id} is full: {full}"));
    if let Some(node) = world.nodes.get_mut(&id) {
        node.disk.faults.full = full;
    }
    if !full {
        // Whoever made room starts the engine again.
        world.restart_failed(id);
    }
}

fn verify(world: &mut World) {
    let nodes: Vec<NodeId> = world.checks.latest().in_sync.keys().copied().collect();
    if let Some(node) = world.rng.pick(&nodes) {
        world.command(node, Command::Verify { repair_from: None });
    }
}

/// An attach is asked for, or waits already, and is given up at any moment of it.
fn give_up(world: &mut World, node: NodeId) {
    if world.plan.replicas.contains(&node) {
        world.attach(node, AttachMode::ReadWrite, true);
    }
    let moment = world.rng.below(30 * MS);
    world.later(
        moment,
        Box::new(move |world| {
            world.command(node, Command::GiveUpAttach);
        }),
    );
}

fn throttle(world: &mut World) {
    let node = world.rng.pick(&world.plan.replicas.clone()).unwrap_or(NodeId(2));
    let blocks = world.rng.pick(&[1, 100, 1_000, 0, 0]).unwrap_or(0);
    world.command(node, Command::SetResyncRate { bytes_per_second: blocks * 4096 });
}

/// Changes a setting, unless an earlier change may still come about.
fn set(world: &mut World, node: NodeId) {
    let is_settled = |asked: &Asked| matches!(asked.answer, Some(Ok(_) | Err(CommandError::Forbidden { .. })));
    if world.asked.iter().any(|asked| matches!(asked.command, Command::Set(_)) && !is_settled(asked)) {
        return;
    }
    let ack = world.rng.pick(&[Ack::Disk, Ack::Durable, Ack::Durable]).unwrap_or(Ack::Durable);
    let class = world.rng.pick(&[Class::Low, Class::Normal, Class::High]).unwrap_or(Class::Normal);
    let setting = if world.rng.percent(80) { Setting::Ack(ack) } else { Setting::Priority(class) };
    world.command(node, Command::Set(setting));
}

fn trouble_register(world: &mut World, outage: u64) {
    match world.rng.below(4) {
        0 | 1 => {
            let node = world.rng.one_in(2).then(|| {
                let nodes = world.plan.nodes.clone();
                world.rng.pick(&nodes).unwrap_or(NodeId(1))
            });
            world.note("the register is away");
            world.set_register(node, false);
            world.later(outage, Box::new(move |world| world.set_register(node, true)));
        }
        2 => {
            world.register.slowest = world.rng.within(20 * MS, 200 * MS);
            world.later(outage, Box::new(|world| world.register.slowest = Register::USUAL));
        }
        _ => {
            world.register.lag = world.rng.within(50 * MS, SECOND);
            world.later(outage, Box::new(|world| world.register.lag = 0));
        }
    }
}

fn leave(world: &mut World, node: NodeId, outage: u64) {
    world.leave_and_stop(node, Some(outage));
}

fn detach(world: &mut World) {
    let writers = world.writers();
    // A draw of one would only change what every other seed does.
    let writer = if writers.len() > 1 { world.rng.pick(&writers) } else { writers.first().copied() };
    if let Some(writer) = writer {
        world.command(writer, lockstep_core::Command::Detach);
    }
}

fn slow(world: &mut World, node: NodeId, outage: u64) {
    let (other, net) = (other_than(world, node), any_net(world));
    let before = *world.net.link(node, other, net);
    let delay = world.rng.skewed(MS, 80 * MS);
    let link = world.net.link(node, other, net);
    link.delay = delay;
    link.jitter = delay;
    link.millinanos_per_byte = 20_000;
    world.later(
        outage,
        Box::new(move |world| {
            let link = world.net.link(node, other, net);
            link.delay = before.delay;
            link.jitter = before.jitter;
            link.millinanos_per_byte = before.millinanos_per_byte;
        }),
    );
}

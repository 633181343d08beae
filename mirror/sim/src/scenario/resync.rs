//! Replicas that come back: whose map counts, what was touched, what goes on meanwhile.

use lockstep_core::timing::MS;
use lockstep_core::{AttachMode, BlockRange, Command, Net, NodeId, Op};

use super::Scenario;
use super::ending::is_healthy;
use super::nemesis::{ANYTHING, Wrath, set_full, strike};
use super::stage::{
    A, B, C, bring_up, busy, cut_way, hot, is_alone, is_in_sync, is_joining, mend_between, reach, take_down,
    vary_lasting, warm, write,
};
use crate::plan::{Plan, SECOND, targets};
use crate::rng::Rng;
use crate::world::{Pattern, World};

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "gap",
        about: "a replica that was away while others wrote becomes the only source",
        share: 2,
        plan: chain_plan,
        script: gap,
    },
    Scenario {
        name: "chain",
        about: "A, then B, then C is lost and comes back, each from the one before",
        share: 3,
        plan: chain_plan,
        script: chain,
    },
    Scenario {
        name: "switching",
        about: "the session changes its network again and again in the middle of a resync",
        share: 2,
        plan: |rng| long_resync(Plan::two_replicas(), rng),
        script: switching,
    },
    Scenario {
        name: "lost-writer",
        about: "the last writes of a writer reached only a joining replica",
        share: 2,
        plan: |rng| long_resync(Plan::three_replicas(), rng),
        script: lost_writer,
    },
    Scenario {
        name: "old-news",
        about: "a replica comes back with writes that it never knew to be committed, and the writer dies at once",
        share: 2,
        plan: hot_three,
        script: old_news,
    },
    Scenario {
        name: "steady-load",
        about: "a load without a pause must not keep a replica from coming back",
        share: 2,
        plan: steady_plan,
        script: steady_load,
    },
    Scenario {
        name: "paused-resync",
        about: "a resync is throttled, paused and set free under load, while the volume grows and other things break",
        share: 3,
        plan: paused_plan,
        script: paused_resync,
    },
];

fn chain_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::three_replicas(), rng);
    plan.moves_writer = true;
    plan.load.mix.flush = 15;
    // More places than regions' worth of intent can cover for long.
    plan.load.targets = targets(8192, 12);
    plan
}

/// C has no room: it votes, and is no replica. B goes, A writes on, B comes back, A goes: what A wrote alone is known to B only
/// from A. Then somebody makes room on C.
fn gap(world: &mut World) {
    if !warm(world) {
        return;
    }
    set_full(world, C, true);
    let writer = world.writer().unwrap_or(A);
    write(world, writer, 5_500);
    let _ = reach(world, 5 * SECOND, "C is out", |world| !world.checks.latest().in_sync.contains_key(&C));
    let moment = world.rng.within(50 * MS, 1_500 * MS);
    world.run_for(moment);
    take_down(world, B);
    let _ = reach(world, 8 * SECOND, "B is out", |world| is_alone(world, A));
    let writer = world.writer().unwrap_or(A);
    for block in [1_500, 2_500, 4_500] {
        write(world, writer, block);
    }
    let moment = world.rng.within(0, 2 * SECOND);
    world.run_for(moment);
    bring_up(world, B);
    let _ = reach(world, 20 * SECOND, "B is back", |world| is_in_sync(world, B));
    let moment = world.rng.within(0, 2 * SECOND);
    world.run_for(moment);
    take_down(world, A);
    let _ = reach(world, 10 * SECOND, "A is out", |world| is_alone(world, B));
    let moment = world.rng.within(0, 500 * MS);
    world.run_for(moment);
    set_full(world, C, false);
    let _ = reach(world, 20 * SECOND, "C is back", |world| is_in_sync(world, C));
    let moment = world.rng.within(0, SECOND);
    world.run_for(moment);
    bring_up(world, A);
}

fn chain(world: &mut World) {
    if !warm(world) {
        return;
    }
    let mut order = [A, B, C];
    let turn = world.rng.below(3) as usize;
    order.rotate_left(turn);
    for node in order {
        if world.rng.percent(50) {
            take_down(world, node);
        } else {
            world.lose_power(node);
        }
        let away = world.rng.within(20 * MS, 2 * SECOND);
        world.run_for(away);
        world.power_up(node);
        bring_up(world, node);
        if world.rng.percent(70) {
            let _ = reach(world, 30 * SECOND, "it is back", move |world| is_in_sync(world, node));
        } else {
            // The source of one becomes the target of the next before the first is through.
            world.run_until(10 * SECOND, move |world| is_joining(world, node) || is_in_sync(world, node));
            let moment = world.rng.within(0, 50 * MS);
            world.run_for(moment);
        }
    }
}

fn long_resync(plan: Plan, rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(plan, rng);
    plan.moves_writer = true;
    plan.load.targets = targets(8192, 12);
    plan
}

/// Makes the resyncs of a node slow: so many blocks a second.
fn throttle(world: &mut World, node: NodeId, blocks: u64) {
    world.command(node, Command::SetResyncRate { bytes_per_second: blocks * 4096 });
}

/// Takes a replica down for a while under load, and starts it again with a slow resync.
fn slow_return(world: &mut World, node: NodeId, blocks: u64) {
    take_down(world, node);
    let out = move |world: &World| !world.checks.latest().in_sync.contains_key(&node);
    let _ = reach(world, 8 * SECOND, "it is out", out);
    let away = world.rng.within(100 * MS, SECOND);
    world.run_for(away);
    bring_up(world, node);
    let _ = reach(world, SECOND, "it runs", move |world| world.nodes[&node].machine.is_some());
    throttle(world, node, blocks);
    let _ = reach(world, 10 * SECOND, "it joins", move |world| is_joining(world, node));
}

fn switching(world: &mut World) {
    if !warm(world) {
        return;
    }
    let blocks = world.rng.within(400, 2_000);
    slow_return(world, B, blocks);
    for _ in 0..world.rng.within(2, 6) {
        if world.rng.one_in(2) {
            world.cut(A, B, Net::Dedicated, true);
            let moment = world.rng.within(260 * MS, 450 * MS);
            world.run_for(moment);
            world.mend_all();
        } else {
            let net = if world.rng.one_in(2) { Net::Dedicated } else { Net::Ordinary };
            world.reset(A, B, net);
        }
        let moment = world.rng.within(20 * MS, 900 * MS);
        world.run_for(moment);
    }
    throttle(world, B, 0);
}

/// C joins, slowly. A can be heard by C and not by B when it loses its power.
fn lost_writer(world: &mut World) {
    if !warm(world) || world.writer() != Some(A) {
        return;
    }
    slow_return(world, C, 300);
    let moment = world.rng.within(50 * MS, 600 * MS);
    world.run_for(moment);
    cut_way(world, A, B);
    for block in [0, 3, 6, 1022] {
        write(world, A, block);
    }
    let moment = world.rng.within(5 * MS, 200 * MS);
    world.run_for(moment);
    world.lose_power(A);
    let alone = reach(world, 8 * SECOND, "A is out", |world| !world.checks.latest().in_sync.contains_key(&A));
    if alone && world.rng.percent(60) {
        let moment = world.rng.within(0, 400 * MS);
        world.run_for(moment);
    }
    throttle(world, C, 0);
    let moment = world.rng.within(0, 2 * SECOND);
    world.run_for(moment);
}

fn hot_three(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::three_replicas(), rng);
    hot(&mut plan, &[0, 1, 2, 1022, 3000]);
    plan.load.depth = 6;
    plan.load.mix.write = 80;
    plan.load.mix.read = 15;
    plan.disk.slowest = plan.disk.slowest.min(4 * MS);
    plan
}

fn old_news(world: &mut World) {
    if !warm(world) || world.writer() != Some(A) {
        return;
    }
    let count = world.rng.skewed(1, 6) as u32;
    world.when(Pattern::Receives(C, "Write"), count, 0, Box::new(|world| world.isolate(C)));
    let out = |world: &World| !world.checks.latest().in_sync.contains_key(&C);
    if !reach(world, 8 * SECOND, "C is out", out) {
        return;
    }
    let away = world.rng.within(50 * MS, SECOND);
    world.run_for(away);
    let delay = world.rng.skewed(1, 3 * MS);
    let pattern = if world.rng.one_in(2) { Pattern::Persists(A, "Config") } else { Pattern::Sends(C, "Installed") };
    world.when(pattern, 1, delay, Box::new(|world| world.kill(A, false)));
    world.mend_all();
    world.run_for(4 * SECOND);
}

fn steady_plan(rng: &mut Rng) -> Plan {
    let base = if rng.one_in(2) { Plan::two_replicas() } else { Plan::three_replicas() };
    let mut plan = vary_lasting(base, rng);
    plan.load.depth = 4;
    plan.load.think = 5 * MS;
    plan.load.requests_max = 20_000;
    plan.load.mix.write = 90;
    plan.load.mix.read = 5;
    plan.disk.slowest = plan.disk.slowest.min(2 * MS);
    plan
}

fn steady_load(world: &mut World) {
    if !warm(world) {
        return;
    }
    let back = if world.plan.replicas.len() == 3 && world.rng.one_in(2) { C } else { B };
    take_down(world, back);
    let away = world.rng.within(50 * MS, SECOND);
    world.run_for(away);
    bring_up(world, back);
    let _ = reach(world, 10 * SECOND, "a replica comes back under a steady load", is_healthy);
}

fn paused_plan(rng: &mut Rng) -> Plan {
    let base = match rng.below(3) {
        0 => Plan::two_replicas(),
        1 => Plan::three_replicas(),
        _ => Plan::diskless_writer(),
    };
    let mut plan = long_resync(base, rng);
    if rng.percent(40) {
        plan.nodes.push(NodeId(5));
        plan.attach.push((NodeId(5), AttachMode::ReadOnly));
    }
    plan
}

fn paused_resync(world: &mut World) {
    if !warm(world) {
        return;
    }
    let back = if world.plan.replicas.len() == 3 && world.rng.one_in(2) { C } else { B };
    slow_return(world, back, 1);
    for _ in 0..world.rng.within(1, 5) {
        let moment = world.rng.within(10 * MS, 800 * MS);
        world.run_for(moment);
        match world.rng.below(4) {
            0 => {
                let blocks = world.rng.pick(&[1, 200, 2_000, 0]).unwrap_or(0);
                throttle(world, back, blocks);
            }
            1 => grow(world),
            2 => strike(world, Wrath { power: 0, blackout: 0, ..ANYTHING }),
            _ => {
                let writer = world.writer().unwrap_or(A);
                let _ = world.ask(writer, Op::Flush, BlockRange::default());
            }
        }
    }
    throttle(world, back, 0);
    mend_between(world, A, B);
    if world.rng.one_in(2) {
        grow(world);
    }
    busy(world);
    world.run_for(SECOND);
}

/// Grows the volume by some blocks, at some node that is in sync.
pub fn grow(world: &mut World) {
    let nodes: Vec<NodeId> = world.checks.latest().in_sync.keys().copied().collect();
    let blocks = world.plan.size_blocks + world.rng.within(1, 1500);
    if let Some(node) = world.rng.pick(&nodes) {
        world.command(node, Command::Resize { blocks });
    }
}

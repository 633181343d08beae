//! Several nodes write one volume.

use lockstep_core::timing::MS;
use lockstep_core::{Access, AttachMode, Class, NodeId};

use super::Scenario;
use super::general::vary;
use super::nemesis::{ANYTHING, Wrath, kill, rage};
use super::stage::{A, B, C, NETS, cut_way, even_disks, hot, warm};
use crate::plan::{Mix, Plan, SECOND};
use crate::rng::Rng;
use crate::world::World;

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 9] = [
    Scenario {
        name: "two-writers",
        about: "both replicas' nodes write one volume, under any faults",
        share: 30,
        plan: |rng| shared(Plan::two_replicas(), &[1, 2], rng),
        script: |world| rage(world, Wrath { reset: 20, ..ANYTHING }),
    },
    Scenario {
        name: "three-writers",
        about: "three replicas, all three nodes write, under any faults",
        share: 30,
        plan: |rng| shared(Plan::three_replicas(), &[1, 2, 3], rng),
        script: |world| rage(world, Wrath { reset: 20, ..ANYTHING }),
    },
    Scenario {
        name: "diskless-writers",
        about: "two replicas; their nodes and one without data write, under any faults",
        share: 20,
        plan: |rng| {
            let writers: &[u32] = if rng.one_in(2) { &[1, 2, 4] } else { &[2, 4] };
            shared(Plan::diskless_writer(), writers, rng)
        },
        script: |world| rage(world, Wrath { reset: 20, ..ANYTHING }),
    },
    Scenario {
        name: "calm-writers",
        about: "several writers and no fault at all: no error, no expulsion, no stall",
        share: 5,
        plan: calm,
        script: |world| {
            let active = world.plan.active;
            world.run_for(active);
        },
    },
    Scenario {
        name: "late-commit",
        about: "a writer dies before a far replica has heard of its commits, and another writes the same blocks",
        share: 3,
        plan: |rng| {
            let mut plan = shared(Plan::three_replicas(), &[1, 2, 3], rng);
            plan.supervised = true;
            plan.load.think = plan.load.think.clamp(MS, 4 * MS);
            plan.load.requests_max = 6_000;
            hot(&mut plan, &[0, 1, 2, 3]);
            even_disks(&mut plan);
            plan
        },
        script: late_commit,
    },
    Scenario {
        name: "unsettled-grant",
        about: "a writer's last writes are on one replica only, and the configuration changes again before that is settled",
        share: 4,
        plan: |rng| {
            let mut plan = shared(Plan::three_replicas(), &[1, 2, 3], rng);
            plan.supervised = true;
            plan.load.think = plan.load.think.clamp(MS, 4 * MS);
            plan.load.requests_max = 6_000;
            hot(&mut plan, &[0, 1, 2, 3]);
            even_disks(&mut plan);
            plan
        },
        script: unsettled_grant,
    },
    Scenario {
        name: "granting-leaves",
        about: "the granting node leaves as planned, and another one grants in the same epoch",
        share: 3,
        plan: |rng| {
            let mut plan = shared(Plan::three_replicas(), &[1, 2, 3], rng);
            plan.load.think = plan.load.think.clamp(MS, 4 * MS);
            plan.load.requests_max = 6_000;
            hot(&mut plan, &[0, 1, 2, 3]);
            even_disks(&mut plan);
            plan
        },
        script: granting_leaves,
    },
    Scenario {
        name: "low-priority",
        about: "two writers keep an extent busy at high priority, and a third of low priority is served all the same",
        share: 2,
        plan: low_priority,
        script: |world| {
            let active = world.plan.active;
            world.run_for(active);
        },
    },
    Scenario {
        name: "wide-writes",
        about: "writes over many extents are served although others keep asking for single ones",
        share: 2,
        plan: wide,
        script: |world| {
            let active = world.plan.active;
            world.run_for(active);
        },
    },
];

pub fn shared(mut plan: Plan, writers: &[u32], rng: &mut Rng) -> Plan {
    plan.settings.access = Access::MultiWriter;
    plan.settings.extent_blocks = rng.pick(&[16, 64, 256, 1024]).unwrap_or(256);
    plan.attach = writers.iter().map(|node| (NodeId(*node), AttachMode::ReadWrite)).collect();
    let mut plan = vary(plan, rng);
    plan.recoverable = false;
    // Fewer blocks, more often: what one writes the others want.
    if rng.one_in(2) {
        plan.load.targets.truncate(8);
    }
    plan
}

/// Two or three writers: of two replicas, as `two` has them; of three; or one of them without a replica.
pub fn several(two: Plan, rng: &mut Rng) -> Plan {
    match rng.below(3) {
        0 => shared(two, &[1, 2], rng),
        1 => shared(Plan::three_replicas(), &[1, 2, 3], rng),
        _ => shared(Plan::diskless_writer(), &[1, 2, 4], rng),
    }
}

fn calm(rng: &mut Rng) -> Plan {
    undisturbed(several(Plan::two_replicas(), rng))
}

/// No fault, and nothing that one would excuse.
pub fn undisturbed(mut plan: Plan) -> Plan {
    plan.active = 4 * SECOND;
    plan.disk.slowest = plan.disk.slowest.min(2 * MS);
    plan.expect.no_errors = true;
    plan.expect.no_expulsion = true;
    plan.expect.stall_max = Some(2 * SECOND);
    plan
}

/// B is far away: what it hears is late, and what is said to it last gets lost with its sender.
fn late_commit(world: &mut World) {
    if !warm(world) {
        return;
    }
    for (node, net) in [A, C].into_iter().flat_map(|node| NETS.map(|net| (node, net))) {
        let delay = world.rng.within(5 * MS, 16 * MS);
        for (from, to) in [(node, B), (B, node)] {
            world.net.link(from, to, net).delay = delay;
        }
    }
    for _ in 0..5 {
        let until = world.rng.within(300 * MS, 900 * MS);
        world.run_for(until);
        kill(world, A, 300 * MS);
        world.run_until(4 * SECOND, |world| world.writers().len() == 3);
    }
}

fn granting_leaves(world: &mut World) {
    for _ in 0..4 {
        if !warm(world) {
            return;
        }
        let down = world.rng.within(100 * MS, SECOND);
        world.leave_and_stop(A, Some(down));
        let moment = world.rng.within(200 * MS, SECOND);
        world.run_for(moment);
    }
}

/// C reaches B and not A, dies, and its next run begins to join while A and B are far apart and still settle what was left.
pub fn unsettled_grant(world: &mut World) {
    if !warm(world) {
        return;
    }
    for (from, to) in [(A, B), (B, A)] {
        let delay = world.rng.within(3 * MS, 12 * MS);
        NETS.iter().for_each(|net| world.net.link(from, to, *net).delay = delay);
    }
    for _ in 0..5 {
        cut_way(world, C, A);
        let moment = world.rng.within(5 * MS, 60 * MS);
        world.run_for(moment);
        world.kill(C, true);
        let down = world.rng.within(MS, 80 * MS);
        world.later(down, Box::new(|world| world.start(C)));
        world.mend_all();
        world.run_until(4 * SECOND, |world| world.writers().len() == 3);
        let calm = world.rng.within(100 * MS, 400 * MS);
        world.run_for(calm);
    }
}

/// Nothing but writes to one extent, without a pause, from everybody.
fn busy(mut plan: Plan) -> Plan {
    plan.settings.extent_blocks = 16;
    plan.load.targets = vec![0, 3, 6, 9];
    plan.load.think = MS / 20;
    plan.load.depth = 4;
    plan.load.blocks_max = 2;
    plan.load.requests_max = 6_000;
    plan.load.mix = Mix { read: 0, write: 100, fua: 0, flush: 0, zeroes: 0, discard: 0 };
    plan.active = 3 * SECOND;
    plan
}

/// Three nodes write, two of them at high priority and one at low, one request at a time.
pub fn two_before_one(mut plan: Plan) -> Plan {
    plan.attach = [1, 2, 3].map(|node| (NodeId(node), AttachMode::ReadWrite)).to_vec();
    plan.nodes = [1, 2, 3].map(NodeId).to_vec();
    plan.load.depth = 1;
    plan.classes = [(NodeId(1), Class::High), (NodeId(2), Class::High), (NodeId(3), Class::Low)].into();
    plan
}

fn low_priority(rng: &mut Rng) -> Plan {
    let mut plan = two_before_one(busy(calm(rng)));
    // A low request outranks high ones after three quarters of a second at the latest.
    plan.expect.stall_max = Some(1_300 * MS);
    plan
}

fn wide(rng: &mut Rng) -> Plan {
    let mut plan = busy(calm(rng));
    plan.load.targets = vec![0, 17, 33, 49];
    plan.load.blocks_max = 60;
    plan.expect.stall_max = Some(600 * MS);
    plan
}

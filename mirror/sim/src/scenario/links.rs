//! Links: networks that flap, bytes of old connections, slow networks, cuts that only some see, clocks that differ.

use lockstep_core::timing::MS;
use lockstep_core::{AttachMode, Net};

use super::Scenario;
use super::general::vary;
use super::nemesis::{ANYTHING, Wrath, rage};
use super::sharing::shared;
use super::stage::{A, B, C, D, NETS, cut_way, even_disks, hot, reach, vary_lasting, warm};
use crate::failure::Failure;
use crate::plan::{Mix, Plan, SECOND};
use crate::rng::Rng;
use crate::world::World;

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 8] = [
    Scenario {
        name: "flapping",
        about: "one of two networks is cut again and again, and gives up late what it held; nobody is expelled",
        share: 3,
        plan: flapping_plan,
        script: flapping,
    },
    Scenario {
        name: "returning-writer",
        about: "a writer is cut off with writes in flight, is expelled, and comes back",
        share: 3,
        plan: |rng| {
            let base = if rng.one_in(2) { Plan::two_replicas() } else { Plan::three_replicas() };
            let mut plan = vary_lasting(base, rng);
            hot(&mut plan, &[0, 1, 2, 1022]);
            plan
        },
        script: returning_writer,
    },
    Scenario {
        name: "narrow",
        about: "one slow network is left, and writes fill it: heartbeats must get through",
        share: 1,
        plan: narrow_plan,
        script: narrow,
    },
    Scenario {
        name: "diskless-cut",
        about: "a writer without data does not hear one replica, which everybody else does",
        share: 2,
        plan: diskless_plan,
        script: diskless_cut,
    },
    Scenario {
        name: "cut-between",
        about: "two of three replicas do not hear each other, and the third hears both: one of the two stays, and nothing flaps",
        share: 3,
        plan: cut_between_plan,
        script: cut_between,
    },
    Scenario {
        name: "one-way",
        about: "partitions that pass one way only, between any two, under load",
        share: 3,
        plan: |rng| {
            let base = match rng.below(3) {
                0 => Plan::two_replicas(),
                1 => Plan::three_replicas(),
                _ => Plan::diskless_writer(),
            };
            vary_lasting(base, rng)
        },
        script: one_way,
    },
    Scenario {
        name: "clocks",
        about: "clocks run at half to double speed: nothing but the age of a read may depend on them",
        share: 2,
        plan: clocks_plan,
        script: |world| rage(world, Wrath { pause: 0, ..ANYTHING }),
    },
    Scenario {
        name: "no-arbiter",
        about: "nobody who votes without data can be reached: nothing changes, and nothing stops",
        share: 1,
        plan: arbiter_plan,
        script: no_arbiter,
    },
];

/// Who has something attached expels at once.
fn cut_between_plan(rng: &mut Rng) -> Plan {
    let mut plan = if rng.one_in(2) {
        shared(Plan::three_replicas(), &[1, 2, 3], rng)
    } else {
        let mut plan = vary(Plan::three_replicas(), rng);
        plan.attach = vec![(A, AttachMode::ReadOnly), (B, AttachMode::ReadOnly), (C, AttachMode::ReadWrite)];
        plan.moves_writer = false;
        plan
    };
    plan.load.think = plan.load.think.max(20 * MS);
    plan.load.requests_max = 4_000;
    even_disks(&mut plan);
    plan
}

/// Changes of the configuration that a cut may cost: one is expelled, and sessions that come and go let it try a few times to enter.
const CHANGES_MAX: u64 = 12;

fn cut_between(world: &mut World) {
    for _ in 0..world.rng.within(2, 6) {
        if !warm(world) {
            return;
        }
        let before = world.checks.latest().epoch.0;
        let ways = match world.rng.below(4) {
            0 => vec![(A, B)],
            1 => vec![(B, A)],
            _ => vec![(A, B), (B, A)],
        };
        ways.into_iter().for_each(|(from, to)| cut_way(world, from, to));
        let moment = world.rng.within(SECOND, 3 * SECOND);
        world.run_for(moment);
        let latest = world.checks.latest();
        let changes = latest.epoch.0 - before;
        let gone = [A, B].iter().all(|node| !latest.in_sync.contains_key(node));
        if gone || changes > CHANGES_MAX {
            let told = format!("{changes} changes of the configuration, in sync: {:?}", latest.in_sync);
            world.fail(Failure::liveness("cut", world.now, told));
            return;
        }
        world.mend_all();
    }
}

fn flapping_plan(rng: &mut Rng) -> Plan {
    let base = match rng.below(3) {
        0 => Plan::two_replicas(),
        1 => Plan::three_replicas(),
        _ => Plan::diskless_writer(),
    };
    let mut plan = vary_lasting(base, rng);
    even_disks(&mut plan);
    hot(&mut plan, &[0, 1, 2, 1022]);
    plan.load.think = 8 * MS;
    plan.load.mix.write = 80;
    plan.expect.no_expulsion = true;
    plan.expect.no_errors = true;
    plan.expect.stall_max = Some(1_500 * MS);
    plan
}

fn flapping(world: &mut World) {
    if !warm(world) {
        return;
    }
    for _ in 0..world.rng.within(2, 8) {
        let net = if world.rng.percent(70) { Net::Dedicated } else { Net::Ordinary };
        let nodes = world.plan.nodes.clone();
        let from = world.rng.pick(&nodes).unwrap_or(A);
        let both = world.rng.one_in(2);
        for to in nodes.into_iter().filter(|to| *to != from) {
            world.cut(from, to, net, both);
        }
        let moment = world.rng.within(50 * MS, 800 * MS);
        world.run_for(moment);
        world.mend_all();
        let moment = world.rng.within(300 * MS, SECOND);
        world.run_for(moment);
    }
}

fn returning_writer(world: &mut World) {
    for _ in 0..world.rng.within(1, 4) {
        if !warm(world) {
            return;
        }
        let Some(writer) = world.writer() else { return };
        world.isolate(writer);
        let moment = world.rng.within(500 * MS, 2_500 * MS);
        world.run_for(moment);
        world.mend_all();
        let moment = world.rng.within(10 * MS, SECOND);
        world.run_for(moment);
    }
}

fn narrow_plan(rng: &mut Rng) -> Plan {
    let mut plan = Plan::two_replicas();
    even_disks(&mut plan);
    // 2 MB/s: a write of 64 blocks takes 130 ms, and what is in flight at once more than a second.
    plan.link.millinanos_per_byte = 500_000;
    plan.load.blocks_max = 64;
    plan.load.targets = (0..127).map(|n| n * 64).collect();
    plan.load.depth = 90 + rng.below(20) as usize;
    plan.load.think = MS;
    plan.load.requests_max = 6_000;
    plan.load.mix = Mix { read: 8, write: 92, fua: 0, flush: 0, zeroes: 0, discard: 0 };
    plan.expect.no_errors = true;
    plan.expect.no_expulsion = true;
    plan
}

fn narrow(world: &mut World) {
    world.cut(A, B, Net::Ordinary, true);
    if !warm(world) {
        return;
    }
    // What is open at once is up to 25 MB, and requests for one block wait for each other.
    world.plan.expect.stall_max = Some(8 * SECOND);
    world.run_for(9 * SECOND);
    world.plan.expect.stall_max = None;
}

fn diskless_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::diskless_writer(), rng);
    plan.expect.keeps_replicas = true;
    plan
}

fn diskless_cut(world: &mut World) {
    if !warm(world) || world.writer() != Some(D) {
        return;
    }
    let deaf_to = if world.rng.one_in(2) { A } else { B };
    super::stage::cut_way(world, deaf_to, D);
    let moment = world.rng.within(2 * SECOND, 4 * SECOND);
    world.run_for(moment);
    // What happens once it is healed is not this scenario's point.
    world.plan.expect.keeps_replicas = false;
}

fn one_way(world: &mut World) {
    for _ in 0..world.rng.within(1, 5) {
        if !warm(world) {
            return;
        }
        for _ in 0..world.rng.within(1, 4) {
            let nodes = world.plan.nodes.clone();
            let (Some(from), Some(to)) = (world.rng.pick(&nodes), world.rng.pick(&nodes)) else { return };
            if from != to {
                for net in NETS.into_iter().take(if world.rng.percent(80) { 2 } else { 1 }) {
                    world.cut(from, to, net, false);
                }
            }
            let moment = world.rng.skewed(1, 600 * MS);
            world.run_for(moment);
        }
        let moment = world.rng.within(50 * MS, 2_500 * MS);
        world.run_for(moment);
        world.mend_all();
    }
}

fn clocks_plan(rng: &mut Rng) -> Plan {
    let base = match rng.below(3) {
        0 => Plan::two_replicas(),
        1 => Plan::three_replicas(),
        _ => Plan::diskless_writer(),
    };
    let mut plan = vary_lasting(base, rng);
    // Reads rest on clocks that agree to 5 %; writes and everything else rest on none.
    plan.load.mix.read = 0;
    plan.wild_clocks = true;
    plan.recovery_max = 80 * SECOND;
    plan
}

fn arbiter_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::two_replicas(), rng);
    even_disks(&mut plan);
    plan.expect.no_errors = true;
    plan.expect.no_expulsion = true;
    plan.expect.keeps_replicas = true;
    plan.expect.stall_max = Some(SECOND);
    plan.load.requests_max = 20_000;
    plan
}

fn no_arbiter(world: &mut World) {
    if !warm(world) {
        return;
    }
    match world.rng.below(3) {
        0 => world.isolate(C),
        1 => world.kill(C, false),
        _ => world.pause(C),
    }
    if let Some(node) = world.nodes.get_mut(&C) {
        node.held_down = true;
    }
    let before = world.record.completed;
    world.run_for(4 * SECOND);
    let _ = reach(world, SECOND, "the volume serves without the arbiter", move |world| world.record.completed > before);
}

//! Loss of power: of hosts that are back before anybody noticed, and of everything at once.

use lockstep_core::AttachMode;
use lockstep_core::timing::MS;

use super::Scenario;
use super::stage::{A, B, C, cut_way, hot, is_alone, is_in_sync, reach, vary_lasting, warm, write};
use crate::plan::{DiskPace, Plan, SECOND};
use crate::rng::Rng;
use crate::world::World;

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "reboot",
        about: "hosts lose power and are back before anybody noticed",
        share: 3,
        plan: reboot_plan,
        script: reboot,
    },
    Scenario {
        name: "blackout",
        about: "everything loses power at once and comes up again in any order",
        share: 3,
        plan: |rng| {
            let base = if rng.one_in(2) { Plan::two_replicas() } else { Plan::three_replicas() };
            vary_lasting(base, rng)
        },
        script: blackout,
    },
    Scenario {
        name: "fresh-blackout",
        about: "the first write of a region is on one replica only when everything loses power, and that one starts alone",
        share: 2,
        plan: |rng| {
            let mut plan = vary_lasting(Plan::two_replicas(), rng);
            plan.load.mix.flush = 15;
            plan
        },
        script: fresh_blackout,
    },
    Scenario {
        name: "late-landing",
        about: "a replica enters while its disk is slow with single writes, everything loses power, and it starts alone",
        share: 2,
        plan: |rng| {
            let mut plan = vary_lasting(Plan::two_replicas(), rng);
            plan.load.mix.flush = 15;
            plan.load.think = 4 * MS;
            hot(&mut plan, &[0, 1, 2, 3, 4]);
            plan.disk = DiskPace { fastest: MS / 20, slowest: 4 * MS, outlier_one_in: 6 };
            plan
        },
        script: late_landing,
    },
];

fn reboot_plan(rng: &mut Rng) -> Plan {
    let base = match rng.below(3) {
        0 => Plan::two_replicas(),
        1 => Plan::three_replicas(),
        _ => Plan::diskless_writer(),
    };
    let mut plan = vary_lasting(base, rng);
    plan.recoverable = true;
    if rng.one_in(2) && plan.replicas.len() == 3 {
        plan.attach.push((B, AttachMode::ReadOnly));
    }
    plan.load.mix.flush = 15;
    plan
}

fn reboot(world: &mut World) {
    for _ in 0..world.rng.within(1, 5) {
        if !warm(world) {
            return;
        }
        let writer = world.writer();
        let node = if world.rng.percent(60) { writer } else { world.rng.pick(&world.plan.nodes.clone()) };
        let Some(node) = node else { return };
        world.lose_power(node);
        let away = world.rng.skewed(MS, 600 * MS);
        world.later(away, Box::new(move |world| world.power_up(node)));
        let moment = world.rng.within(away, SECOND);
        world.run_for(moment);
    }
}

fn blackout(world: &mut World) {
    for _ in 0..world.rng.within(1, 4) {
        if !warm(world) {
            return;
        }
        for node in world.plan.nodes.clone() {
            let after = world.rng.skewed(1, 20 * MS);
            world.later(after, Box::new(move |world| world.lose_power(node)));
            let back = world.rng.skewed(30 * MS, 5 * SECOND);
            world.later(back.max(after + MS), Box::new(move |world| world.power_up(node)));
        }
        world.run_for(5 * SECOND);
    }
}

fn fresh_blackout(world: &mut World) {
    if !warm(world) {
        return;
    }
    let Some(writer) = world.writer() else { return };
    let other = if writer == A { B } else { A };
    cut_way(world, writer, other);
    for region in 4..7 {
        write(world, writer, region * 1024 + 9);
    }
    let moment = world.rng.within(10 * MS, 300 * MS);
    world.run_for(moment);
    for node in [A, B, C] {
        world.lose_power(node);
    }
    world.mend_all();
    world.power_up(writer);
    world.power_up(C);
    let alone = move |world: &World| is_alone(world, writer) && is_in_sync(world, writer);
    let _ = reach(world, 10 * SECOND, "one starts alone", alone);
    // Long enough for its intent to be cleared.
    let moment = world.rng.within(SECOND, 5 * SECOND);
    world.run_for(moment);
    world.power_up(other);
    world.run_for(SECOND);
}

fn late_landing(world: &mut World) {
    if !warm(world) {
        return;
    }
    let Some(writer) = world.writer() else { return };
    let other = if writer == A { B } else { A };
    world.kill(other, false);
    let gone = world.rng.within(SECOND, 2 * SECOND);
    world.run_for(gone);
    world.start(other);
    let _ = reach(world, 20 * SECOND, "it enters", move |world| is_in_sync(world, other));
    for node in [A, B, C] {
        world.lose_power(node);
    }
    world.power_up(other);
    world.power_up(C);
    let _ = reach(world, 20 * SECOND, "it starts alone", move |world| is_alone(world, other));
    let moment = world.rng.within(100 * MS, SECOND);
    world.run_for(moment);
    world.power_up(writer);
    world.run_for(SECOND);
}

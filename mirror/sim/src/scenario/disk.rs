//! Disks that fail, fill up or hang: of one replica, and of the last.

use lockstep_core::NodeId;
use lockstep_core::timing::MS;

use super::Scenario;
use super::nemesis::{ANYTHING, Wrath, rage};
use super::stage::{A, B, bring_up, is_alone, is_in_sync, reach, take_down, three_and_diskless, vary_lasting, warm};
use crate::plan::{DiskPace, Expect, Plan, SECOND};
use crate::rng::Rng;
use crate::world::World;

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "hanging-disk",
        about: "one replica's disk hangs for long: the others go on",
        share: 2,
        plan: hanging_plan,
        script: hanging_disk,
    },
    Scenario {
        name: "failing-disk",
        about: "one replica's disk fails reads, writes, flushes or metadata, or is full: no request notices",
        share: 4,
        plan: failing_plan,
        script: failing_disk,
    },
    Scenario {
        name: "last-disk",
        about: "the last replica's disk fails or is full for a while: requests fail, the replica stays",
        share: 2,
        plan: last_plan,
        script: last_disk,
    },
    Scenario {
        name: "disks",
        about: "any faults, and one replica's disk fails in some way",
        share: 6,
        plan: |rng| {
            let base = match rng.below(4) {
                0 => Plan::two_replicas(),
                1 => Plan::diskless_writer(),
                2 => three_and_diskless(),
                _ => Plan::three_replicas(),
            };
            vary_lasting(base, rng)
        },
        script: |world| rage(world, Wrath { fail: 20, full: 10, hang: 10, ..ANYTHING }),
    },
];

fn modest(plan: &mut Plan) {
    plan.disk = DiskPace { fastest: MS / 20, slowest: 2 * MS, outlier_one_in: 200 };
}

fn hanging_plan(rng: &mut Rng) -> Plan {
    let base = match rng.below(3) {
        0 => Plan::two_replicas(),
        1 => Plan::three_replicas(),
        _ => Plan::diskless_writer(),
    };
    let mut plan = vary_lasting(base, rng);
    modest(&mut plan);
    plan.expect.no_errors = true;
    // A request that hangs, then the swap without the replica, and time for both.
    plan.expect.stall_max = Some(plan.timing.unacknowledged + SECOND);
    plan
}

fn hanging_disk(world: &mut World) {
    if !warm(world) {
        return;
    }
    let node = world.rng.pick(&world.plan.replicas.clone()).unwrap_or(B);
    let only_flushes = world.rng.percent(30);
    if let Some(node) = world.nodes.get_mut(&node) {
        node.disk.faults.hang = !only_flushes;
        node.disk.faults.hang_flush = only_flushes;
    }
    let hangs = world.rng.within(5 * SECOND, 8 * SECOND);
    world.run_for(hangs);
    // Restarts that mend what failed are seen.
    world.plan.expect = Expect::default();
}

fn failing_plan(rng: &mut Rng) -> Plan {
    let mut plan = hanging_plan(rng);
    plan.expect.stall_max = Some(SECOND);
    plan
}

/// Lets a disk fail in one of the ways that a disk has.
pub fn break_disk(world: &mut World, node: NodeId) {
    let way = world.rng.below(5);
    world.note(&format!("the disk of {node} fails, way {way}"));
    let Some(node) = world.nodes.get_mut(&node) else { return };
    match way {
        0 => node.disk.faults.read = true,
        1 => node.disk.faults.write = true,
        2 => node.disk.faults.flush = true,
        3 => node.store.failing = true,
        _ => {
            node.disk.faults.read = true;
            node.disk.faults.write = true;
            node.disk.faults.flush = true;
        }
    }
}

fn failing_disk(world: &mut World) {
    if !warm(world) {
        return;
    }
    let node = world.rng.pick(&world.plan.replicas.clone()).unwrap_or(B);
    if world.rng.percent(25) {
        if let Some(node) = world.nodes.get_mut(&node) {
            node.disk.faults.full = true;
        }
    } else {
        break_disk(world, node);
    }
    let moment = world.rng.within(500 * MS, 4 * SECOND);
    world.run_for(moment);
    world.plan.expect = Expect::default();
}

fn last_plan(rng: &mut Rng) -> Plan {
    let base = if rng.one_in(2) { Plan::two_replicas() } else { Plan::diskless_writer() };
    let mut plan = vary_lasting(base, rng);
    modest(&mut plan);
    plan
}

fn last_disk(world: &mut World) {
    if !warm(world) {
        return;
    }
    take_down(world, B);
    if !reach(world, 8 * SECOND, "A is alone", |world| is_alone(world, A)) {
        return;
    }
    let moment = world.rng.within(10 * MS, 500 * MS);
    world.run_for(moment);
    let way = world.rng.below(3);
    if let Some(node) = world.nodes.get_mut(&A) {
        node.disk.faults.write = way == 0;
        node.disk.faults.read = way == 1;
        node.disk.faults.full = way == 2;
    }
    if way == 2 {
        // Into room that was never used.
        world.plan.load.targets.extend((0..200).map(|n| 4_000 + n * 17));
    }
    if world.rng.percent(30) {
        bring_up(world, B);
    }
    let moment = world.rng.within(50 * MS, SECOND);
    world.run_for(moment);
    if let Some(node) = world.nodes.get_mut(&A) {
        node.disk.faults = crate::disk::Faults::default();
    }
    let before = world.record.completed;
    // Once the other is back, it is no longer the last, and may fail for good.
    let serves =
        move |world: &World| world.record.completed >= before + 20 && (is_in_sync(world, A) || is_in_sync(world, B));
    let _ = reach(world, 10 * SECOND, "the last replica serves on", serves);
}

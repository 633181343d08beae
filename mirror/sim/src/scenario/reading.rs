//! Reads: who may still read, and for how long; what an idle writer owes to readers.

use lockstep_core::AttachMode;
use lockstep_core::timing::MS;

use super::Scenario;
use super::stage::{
    A, B, C, cut_way, even_disks, hot, is_alone, mend_way, quiet, reach, read, vary_lasting, warm, write,
};
use crate::plan::{Plan, SECOND};
use crate::rng::Rng;
use crate::world::{Pattern, World};

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "cut-reader",
        about: "a reader is cut off from everybody, and reads on while the writer goes on without it",
        share: 3,
        plan: cut_plan,
        script: cut_reader,
    },
    Scenario {
        name: "half-permission",
        about: "a reader hears from one of two peers only, while the other takes both out with a vote of the first",
        share: 2,
        plan: half_plan,
        script: half_permission,
    },
    Scenario {
        name: "idle-commit",
        about: "a writer falls silent after a write, and a reader wants that block",
        share: 2,
        plan: idle_plan,
        script: idle_commit,
    },
];

fn cut_plan(rng: &mut Rng) -> Plan {
    let base = if rng.one_in(2) { Plan::two_replicas() } else { Plan::three_replicas() };
    let mut plan = vary_lasting(base, rng);
    even_disks(&mut plan);
    plan.attach.push((B, AttachMode::ReadOnly));
    hot(&mut plan, &[0, 1, 1022]);
    plan.load.think = 8 * MS;
    plan
}

fn cut_reader(world: &mut World) {
    for _ in 0..world.rng.within(1, 4) {
        if !warm(world) {
            return;
        }
        world.isolate(B);
        let moment = world.rng.within(700 * MS, 1_200 * MS);
        world.run_for(moment);
        world.mend_all();
        world.run_for(SECOND);
    }
}

fn half_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::three_replicas(), rng);
    even_disks(&mut plan);
    plan.attach.push((C, AttachMode::ReadOnly));
    plan.moves_writer = false;
    hot(&mut plan, &[0, 1, 1022]);
    plan.load.think = 8 * MS;
    plan
}

/// A hears neither B nor C, but both hear A: nobody suspects A. When B is heard again, A takes both out with B's vote; B and C
/// know nothing of it yet, and B lets C read.
fn half_permission(world: &mut World) {
    if !warm(world) || world.writer() != Some(A) {
        return;
    }
    cut_way(world, B, A);
    cut_way(world, C, A);
    let moment = world.rng.within(850 * MS, 1_200 * MS);
    world.run_for(moment);
    world.when(
        Pattern::Sends(B, "Accepted"),
        1,
        0,
        Box::new(|world| {
            world.cut_all(B, C);
            cut_way(world, A, C);
        }),
    );
    mend_way(world, B, A);
    world.run_until(500 * MS, |world| is_alone(world, A));
    let moment = world.rng.within(500 * MS, SECOND);
    world.run_for(moment);
}

fn idle_plan(rng: &mut Rng) -> Plan {
    let mut plan = Plan::two_replicas();
    if rng.one_in(2) {
        plan = Plan::three_replicas();
    }
    even_disks(&mut plan);
    plan.timing.background_flush = 4 * SECOND;
    plan.attach.push((B, AttachMode::ReadOnly));
    plan.expect.no_expulsion = true;
    plan.expect.no_errors = true;
    plan
}

fn idle_commit(world: &mut World) {
    if !warm(world) {
        return;
    }
    for _ in 0..10 {
        if !quiet(world) {
            return;
        }
        let block = world.rng.within(0, 8_000);
        write(world, A, block);
        let delay = world.rng.skewed(1, 5 * MS);
        world.run_for(delay);
        read(world, B, block);
        let _ = reach(world, 200 * MS, "a read of what an idle writer wrote ends", World::is_idle);
        super::stage::busy(world);
        let moment = world.rng.within(1, 50 * MS);
        world.run_for(moment);
    }
}

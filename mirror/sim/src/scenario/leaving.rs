//! Planned leaving: promises, marks, and what is owed to who left.

use lockstep_core::timing::MS;
use lockstep_core::{AttachMode, BlockRange, Op};

use super::Scenario;
use super::stage::{
    A, B, C, D, bring_up, even_disks, is_alone, is_done, is_in_sync, mend_between, quiet, reach, slow_way,
    three_and_diskless, vary_lasting, warm, write,
};
use crate::plan::{Plan, SECOND};
use crate::rng::Rng;
use crate::world::{Pattern, World};

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "both-leave",
        about: "the second of two replicas leaves, and the first wants to as soon as it has promised to stay",
        share: 2,
        plan: |rng| vary_lasting(Plan::diskless_writer(), rng),
        script: both_leave,
    },
    Scenario {
        name: "overruled-mark",
        about: "a swap by somebody else lists a replica that has left, while its peer cannot swap",
        share: 2,
        plan: overruled_plan,
        script: overruled_mark,
    },
    Scenario {
        name: "void-promise",
        about: "two of three leave on the promise of the third, which then leaves because its disk failed",
        share: 2,
        plan: void_plan,
        script: void_promise,
    },
    Scenario {
        name: "leave-in-flight",
        about: "the first write of a region is in flight when a replica leaves that never gets it",
        share: 2,
        plan: in_flight_plan,
        script: leave_in_flight,
    },
];

fn both_leave(world: &mut World) {
    if !warm(world) {
        return;
    }
    if world.rng.percent(60) && !quiet(world) {
        return;
    }
    let (first, second) = if world.rng.percent(80) { (B, A) } else { (A, B) };
    let down = world.rng.within(300 * MS, 2 * SECOND);
    let delay = world.rng.skewed(1, 2 * MS);
    world.when(
        Pattern::Sends(second, "LeaveAnswer"),
        1,
        delay,
        Box::new(move |world| world.leave_and_stop(second, Some(down))),
    );
    world.leave_and_stop(first, Some(down));
    world.run_for(4 * SECOND);
}

fn overruled_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::two_replicas(), rng);
    plan.nodes.push(D);
    plan.moves_writer = false;
    // A leaves its intent soon, so that only its map says what B lacks.
    plan.load.mix.flush = 20;
    plan
}

/// B leaves; the arbiter is out of reach of A, which goes on without B under its mark, but not of D.
fn overruled_mark(world: &mut World) {
    if !warm(world) {
        return;
    }
    // A hears the goodbye, and then nobody who could vote for a swap.
    world.cut_all(A, C);
    world.when(Pattern::Receives(A, "Goodbye"), 1, 0, Box::new(|world| world.cut_all(A, B)));
    world.leave_and_stop(B, None);
    if !reach(world, 10 * SECOND, "B has left", |world| world.nodes[&B].machine.is_none()) {
        return;
    }
    let moment = world.rng.within(20 * MS, 600 * MS);
    world.run_for(moment);
    // In a region that B has never seen, so that not even its own intent names it.
    let wrote = write(world, A, 5_000);
    let _ = reach(world, 5 * SECOND, "A goes on without B", |world| is_done(world, wrote));
    let _ = world.ask(A, Op::Flush, BlockRange::default());
    world.run_for(3 * world.plan.timing.background_flush);
    let before = world.checks.latest().epoch;
    world.attach(D, AttachMode::ReadOnly, false);
    world.run_until(2 * SECOND, |world| world.checks.latest().epoch > before);
    let moment = world.rng.within(0, 1_500 * MS);
    world.run_for(moment);
    mend_between(world, A, C);
    mend_between(world, A, B);
    let _ = reach(world, 10 * SECOND, "A is alone", |world| is_alone(world, A));
    let moment = world.rng.within(0, 1_000 * MS);
    world.run_for(moment);
    bring_up(world, B);
}

fn void_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(three_and_diskless(), rng);
    even_disks(&mut plan);
    plan
}

fn void_promise(world: &mut World) {
    if !warm(world) {
        return;
    }
    // A and B hear of each other's wish only when both have C's promise.
    for (from, to) in [(A, B), (B, A)] {
        slow_way(world, from, to, 60 * MS);
    }
    world.run_for(200 * MS);
    for node in [A, B] {
        set_slow_flush(world, node, true);
        world.leave_and_stop(node, Some(SECOND));
    }
    world.when(
        Pattern::Sends(C, "LeaveAnswer"),
        2,
        MS,
        Box::new(|world| {
            if let Some(node) = world.nodes.get_mut(&C) {
                node.disk.faults.write = true;
            }
        }),
    );
    world.run_until(2 * SECOND, |world| !is_in_sync(world, C));
    let moment = world.rng.within(100 * MS, 300 * MS);
    world.run_for(moment);
    for node in [A, B] {
        set_slow_flush(world, node, false);
    }
    world.run_for(3 * SECOND);
}

fn set_slow_flush(world: &mut World, node: lockstep_core::NodeId, hangs: bool) {
    if let Some(node) = world.nodes.get_mut(&node) {
        node.disk.faults.hang_flush = hangs;
    }
}

fn in_flight_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::two_replicas(), rng);
    plan.moves_writer = false;
    even_disks(&mut plan);
    plan
}

fn leave_in_flight(world: &mut World) {
    if !warm(world) {
        return;
    }
    // Each of these regions is touched for the first time.
    for region in 4..7u64 {
        let at = world.rng.skewed(1, 2 * MS);
        world.when(
            Pattern::Persists(B, "Left"),
            1,
            at,
            Box::new(move |world| {
                write(world, A, region * 1024 + 5);
            }),
        );
    }
    world.leave_and_stop(B, None);
    let _ = reach(world, 10 * SECOND, "B has left", |world| world.nodes[&B].machine.is_none());
    let _ = world.ask(A, Op::Flush, BlockRange::default());
    let moment = world.rng.within(3 * world.plan.timing.background_flush, 4 * SECOND);
    world.run_for(moment);
    bring_up(world, B);
}

//! Writers and replicas that die and start again: what was in flight, what was forgotten, what lands late.

use lockstep_core::timing::MS;
use lockstep_core::{AttachMode, Command, Input, NodeId};

use super::Scenario;
use super::nemesis::{kill, set_hang};
use super::stage::{
    A, B, C, D, bring_up, busy, cut_way, even_disks, hot, is_alone, is_done, is_in_sync, mend_way, quiet, reach, read,
    slow_way, take_down, three_and_diskless, vary_lasting, warm, write,
};
use crate::failure::Failure;
use crate::plan::{DiskPace, Plan, SECOND};
use crate::rng::Rng;
use crate::world::{Pattern, World};

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 10] = [
    Scenario {
        name: "writer-dies",
        about: "a writer of a few hot blocks dies in the middle of its writes, more than once",
        share: 4,
        plan: hot_plan,
        script: writer_dies,
    },
    Scenario {
        name: "late-report",
        about: "a supervisor's report of a run arrives when the next run of the process has long been in sync",
        share: 1,
        plan: |rng| {
            let base = if rng.one_in(2) { Plan::two_replicas() } else { Plan::three_replicas() };
            let mut plan = vary_lasting(base, rng);
            even_disks(&mut plan);
            plan
        },
        script: late_report,
    },
    Scenario {
        name: "stacked-writes",
        about: "a writer dies when its last write of a block is on some replicas, over one that all have and do not know committed",
        share: 2,
        plan: stacked_plan,
        script: stacked_writes,
    },
    Scenario {
        name: "double-restart",
        about: "the writer dies while another attached replica restarts and has forgotten what was in flight",
        share: 3,
        plan: double_plan,
        script: double_restart,
    },
    Scenario {
        name: "late-settled",
        about: "one replica learns late that what was in flight is settled, and the next writer is quick",
        share: 2,
        plan: late_plan,
        script: late_settled,
    },
    Scenario {
        name: "doubtful-reads",
        about: "readers read while a restarted replica compares what it may have forgotten",
        share: 2,
        plan: doubtful_plan,
        script: doubtful_reads,
    },
    Scenario {
        name: "orphans",
        about: "a killed process's writes are still on their way to a slow disk when its successor starts",
        share: 3,
        plan: orphans_plan,
        script: orphans,
    },
    Scenario {
        name: "returning-front",
        about: "a writer's front end outlives its engine and comes back with the next one: soon, or after another node has written",
        share: 3,
        plan: returning_plan,
        script: returning_front,
    },
    Scenario {
        name: "changed-meanwhile",
        about: "a writer's engine ends and comes back, and between the two the volume grows",
        share: 1,
        plan: changed_meanwhile_plan,
        script: changed_meanwhile,
    },
    Scenario {
        name: "place-wanted",
        about: "a writer ends whose front end would be waited for, and a node that expels nobody wants its place",
        share: 1,
        plan: place_wanted_plan,
        script: place_wanted,
    },
];

fn hot_plan(rng: &mut Rng) -> Plan {
    let base = if rng.percent(30) { three_and_diskless() } else { Plan::three_replicas() };
    let mut plan = vary_lasting(base, rng);
    hot(&mut plan, &[0, 1, 1022, 3000]);
    plan.load.blocks_max = 4;
    plan.load.depth = rng.within(3, 10) as usize;
    plan.load.think = 8 * MS;
    plan.load.mix.write = 80;
    plan.moves_writer = true;
    plan
}

fn writer_dies(world: &mut World) {
    for _ in 0..world.rng.within(2, 6) {
        if !warm(world) {
            return;
        }
        let Some(writer) = world.writer() else { return };
        let watched = world.rng.pick(&world.plan.replicas.clone()).unwrap_or(B);
        if world.rng.percent(60) {
            let other = world.rng.pick(&world.plan.replicas.clone()).unwrap_or(C);
            if other != writer {
                let delay = world.rng.skewed(MS / 10, 20 * MS);
                slow_way(world, writer, other, delay);
            }
        }
        let pattern = match world.rng.below(3) {
            0 => Pattern::Receives(watched, "Write"),
            1 => Pattern::Sends(watched, "WriteAck"),
            _ => Pattern::Sends(writer, "Write"),
        };
        let count = world.rng.skewed(1, 20) as u32;
        let delay = world.rng.skewed(1, 3 * MS);
        if world.rng.percent(60) {
            world.when(pattern, count, delay, Box::new(move |world| take_down(world, writer)));
            stays_dead(world, writer);
        } else {
            let outage = world.rng.within(MS, SECOND);
            world.when(pattern, count, delay, Box::new(move |world| kill(world, writer, outage)));
        }
        let moment = world.rng.within(200 * MS, 1_500 * MS);
        world.run_for(moment);
        // What has not happened by now would come upon a node that nobody starts again.
        world.triggers.clear();
    }
}

fn late_report(world: &mut World) {
    for _ in 0..2 {
        if !warm(world) {
            return;
        }
        let node = world.rng.pick(&world.plan.replicas.clone()).unwrap_or(B);
        let incarnation = world.nodes[&node].incarnation;
        let outage = world.rng.within(MS, SECOND);
        kill(world, node, outage);
        world.run_for(outage + 10 * MS);
        if !warm(world) {
            return;
        }
        for to in world.plan.nodes.clone().into_iter().filter(|to| *to != node) {
            world.deliver(to, Input::ProcessExited { node, incarnation, restarting: world.plan.recoverable });
        }
        world.run_for(SECOND);
        if !is_in_sync(world, node) {
            let told = format!("node {node} lost its place to the report of an earlier run");
            world.fail(Failure::liveness("report", world.now, told));
            return;
        }
    }
}

/// Nobody takes the place of a dead writer until the survivors have settled what it left, and that is looked at.
fn stays_dead(world: &mut World, writer: NodeId) {
    if !world.run_until(SECOND, |world| world.nodes[&writer].machine.is_none()) {
        world.triggers.clear();
        take_down(world, writer);
    }
    world.operator_on = false;
    let out = move |world: &World| !world.checks.latest().members().contains_key(&writer);
    let _ = reach(world, 8 * SECOND, "the dead writer is out", out);
    world.run_for(200 * MS);
    if world.run_until(2 * SECOND, World::is_settled) {
        world.check_agreed();
    }
    bring_up(world, writer);
    world.operator_on = true;
}

fn stacked_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(three_and_diskless(), rng);
    even_disks(&mut plan);
    hot(&mut plan, &[0, 1, 1022, 3000]);
    plan.supervised = true;
    plan
}

/// A write of another block is not complete yet, so that nothing behind it is called committed.
fn stacked_writes(world: &mut World) {
    for _ in 0..world.rng.within(1, 4) {
        if !warm(world) || !quiet(world) || world.writer() != Some(D) {
            return;
        }
        let block = world.rng.pick(&[0, 1, 1022]).unwrap_or(0);
        set_hang(world, C, true);
        write(world, D, 3000);
        let moment = world.rng.within(3 * MS, 6 * MS);
        world.run_for(moment);
        set_hang(world, C, false);
        let under = write(world, D, block);
        world.run_until(15 * MS, move |world| is_done(world, under));
        cut_way(world, D, C);
        write(world, D, block);
        let moment = world.rng.within(MS / 2, 4 * MS);
        world.run_for(moment);
        take_down(world, D);
        stays_dead(world, D);
        mend_way(world, D, C);
        busy(world);
    }
}

fn double_plan(rng: &mut Rng) -> Plan {
    let mut plan = hot_plan(rng);
    plan.recoverable = true;
    plan.supervised = true;
    let reader = if rng.one_in(2) { B } else { C };
    plan.attach.push((reader, AttachMode::ReadOnly));
    plan
}

fn double_restart(world: &mut World) {
    if !warm(world) {
        return;
    }
    let Some(writer) = world.writer() else { return };
    let readers: Vec<NodeId> =
        world.plan.attach.iter().filter(|(_, mode)| *mode == AttachMode::ReadOnly).map(|(node, _)| *node).collect();
    let Some(reader) = readers.first().copied().filter(|reader| *reader != writer) else { return };
    let others: Vec<NodeId> =
        world.plan.replicas.iter().copied().filter(|node| *node != reader && *node != writer).collect();
    // What the writer sends reaches the reader's replica first.
    for other in others {
        let delay = world.rng.within(MS, 30 * MS);
        slow_way(world, writer, other, delay);
    }
    let moment = world.rng.within(20 * MS, 200 * MS);
    world.run_for(moment);
    let count = world.rng.skewed(1, 10) as u32;
    let delay = world.rng.skewed(1, 4 * MS);
    world.when(
        Pattern::Receives(reader, "Write"),
        count,
        delay,
        Box::new(move |world| {
            let restarts = world.rng.one_in(4);
            world.kill(writer, restarts);
            if restarts {
                world.start(writer);
            }
            let after = world.rng.skewed(1, 30 * MS);
            world.later(
                after,
                Box::new(move |world| {
                    world.kill(reader, true);
                    world.start(reader);
                }),
            );
        }),
    );
    world.run_for(3 * SECOND);
}

fn late_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(three_and_diskless(), rng);
    plan.nodes.push(NodeId(5));
    even_disks(&mut plan);
    plan.supervised = true;
    plan.moves_writer = true;
    hot(&mut plan, &[0, 1, 1022]);
    plan.load.blocks_max = 2;
    plan.load.think = 8 * MS;
    plan.load.mix.write = 90;
    plan
}

/// D, the writer, dies with writes in flight. A settles them, and C hears of it late. B becomes the writer meanwhile, and
/// writes over a block that C still holds as unsettled when the view changes again.
fn late_settled(world: &mut World) {
    if !warm(world) || world.writer() != Some(D) {
        return;
    }
    let delay = world.rng.within(120 * MS, 200 * MS);
    slow_way(world, A, C, delay);
    world.run_for(400 * MS);
    let count = world.rng.skewed(1, 8) as u32;
    world.when(
        Pattern::Receives(C, "Write"),
        count,
        0,
        Box::new(|world| {
            world.operator_on = false;
            world.load_on = false;
            take_down(world, D);
        }),
    );
    let out = |world: &World| !world.checks.latest().attached.contains_key(&D);
    if !reach(world, 8 * SECOND, "the writer is out", out) {
        return;
    }
    let asked = world.attach(B, AttachMode::ReadWrite, true);
    let attached = move |world: &World| matches!(world.answer(asked), Some(Ok(_)));
    if !reach(world, 8 * SECOND, "B is the writer", attached) {
        return;
    }
    // A has told B that all is settled, and C not yet.
    cut_way(world, B, C);
    for block in [0, 1, 2, 1022, 1023] {
        write(world, B, block);
    }
    world.attach(NodeId(5), AttachMode::ReadOnly, false);
    world.when(Pattern::Sends(A, "RollForward"), 1, 10 * MS, Box::new(|world| mend_way(world, B, C)));
    world.run_for(420 * MS);
    mend_way(world, B, C);
    world.run_for(500 * MS);
    slow_way(world, A, C, MS / 20);
    world.load_on = true;
    world.operator_on = true;
    world.restart_load();
}

fn doubtful_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::two_replicas(), rng);
    plan.nodes.push(D);
    plan.attach.extend([(B, AttachMode::ReadOnly), (D, AttachMode::ReadOnly)]);
    plan.recoverable = true;
    plan.supervised = true;
    plan.moves_writer = false;
    hot(&mut plan, &[0, 1, 1022, 3000]);
    // Comparing takes a while.
    plan.disk = DiskPace { fastest: 2 * MS, slowest: 12 * MS, outlier_one_in: u64::MAX };
    plan
}

/// A write is on A's disk and not on B's when A's engine is killed and starts again.
fn doubtful_reads(world: &mut World) {
    if !warm(world) || !quiet(world) || world.writer() != Some(A) {
        return;
    }
    let blocks: Vec<u64> = (0..4).map(|n| n * 1024 + 7).collect();
    cut_way(world, A, B);
    for block in &blocks {
        write(world, A, *block);
    }
    let moment = world.rng.within(15 * MS, 40 * MS);
    world.run_for(moment);
    world.kill(A, true);
    mend_way(world, A, B);
    world.start(A);
    for _ in 0..120 {
        if let Some(block) = world.rng.pick(&blocks) {
            let node = if world.rng.one_in(2) { B } else { D };
            read(world, node, block);
        }
        let moment = world.rng.within(MS, 10 * MS);
        world.run_for(moment);
    }
    busy(world);
}

fn orphans_plan(rng: &mut Rng) -> Plan {
    let base = if rng.one_in(2) { Plan::two_replicas() } else { Plan::three_replicas() };
    let mut plan = vary_lasting(base, rng);
    hot(&mut plan, &[0, 1, 2, 1022]);
    plan.load.depth = 8;
    plan.load.think = 6 * MS;
    plan.load.mix.write = 90;
    plan.disk = DiskPace { fastest: MS, slowest: 8 * MS, outlier_one_in: 500 };
    plan
}

fn orphans(world: &mut World) {
    for _ in 0..world.rng.within(1, 5) {
        if !warm(world) {
            return;
        }
        let node = world.rng.pick(&world.plan.replicas.clone()).unwrap_or(B);
        let count = world.rng.skewed(1, 10) as u32;
        world.when(
            Pattern::Receives(node, "Write"),
            count,
            0,
            Box::new(move |world| {
                world.kill(node, true);
                world.start(node);
            }),
        );
        let moment = world.rng.within(100 * MS, SECOND);
        world.run_for(moment);
        if is_alone(world, node) {
            world.run_for(SECOND);
        }
    }
}

fn returning_plan(rng: &mut Rng) -> Plan {
    let base = match rng.below(3) {
        0 => Plan::two_replicas(),
        1 => Plan::three_replicas(),
        // The writer has no replica.
        _ => three_and_diskless(),
    };
    let mut plan = vary_lasting(base, rng);
    even_disks(&mut plan);
    hot(&mut plan, &[0, 1, 2, 1022]);
    plan.recoverable = true;
    // Nobody reports: supervisor and worker end together, as those of a container do.
    plan.supervised = false;
    plan
}

/// The writer's engine ends with writes in flight, and its front end holds them.
fn returning_front(world: &mut World) {
    for _ in 0..world.rng.within(1, 4) {
        if !warm(world) {
            return;
        }
        let Some(writer) = world.writer() else { return };
        let others: Vec<NodeId> = world.plan.replicas.iter().copied().filter(|node| *node != writer).collect();
        let Some(other) = world.rng.pick(&others) else { return };
        let attachment = world.fronts[&writer].attachment;
        end_in_mid_write(world, writer);
        if world.rng.one_in(3) {
            let moment = world.rng.within(MS, world.plan.timing.absence_hold * 6 / 10);
            world.run_for(moment);
            if !goes_on(world, writer, attachment) {
                return;
            }
        } else if !goes_elsewhere(world, writer, other) {
            return;
        }
        world.operator_on = true;
        busy(world);
        let moment = world.rng.within(100 * MS, SECOND);
        world.run_for(moment);
    }
}

/// The writer's engine starts again, and its front end notices nothing.
fn goes_on(world: &mut World, writer: NodeId, attachment: Option<u64>) -> bool {
    bring_up(world, writer);
    let goes_on = move |world: &World| {
        let front = &world.fronts[&writer];
        front.attachment == attachment && !front.returning && world.is_idle()
    };
    reach(world, 8 * SECOND, "the front end goes on with its attachment", goes_on)
}

fn changed_meanwhile_plan(rng: &mut Rng) -> Plan {
    let mut plan = returning_plan(rng);
    plan.expect.no_errors = true;
    plan
}

/// The configuration changes while the writer's engine is down, and lists its attachment still.
fn changed_meanwhile(world: &mut World) {
    for _ in 0..world.rng.within(1, 3) {
        if !warm(world) {
            return;
        }
        let Some(writer) = world.writer() else { return };
        let attachment = world.fronts[&writer].attachment;
        end_in_mid_write(world, writer);
        let others: Vec<NodeId> = world.plan.replicas.iter().copied().filter(|node| *node != writer).collect();
        let Some(other) = world.rng.pick(&others) else { return };
        let blocks = world.plan.size_blocks + world.rng.within(1, 100);
        world.command(other, Command::Resize { blocks });
        let grown = move |world: &World| world.checks.latest().size_blocks >= blocks;
        if !reach(world, 8 * SECOND, "the volume grows", grown) || !goes_on(world, writer, attachment) {
            return;
        }
        world.operator_on = true;
        busy(world);
        let moment = world.rng.within(100 * MS, SECOND);
        world.run_for(moment);
    }
}

fn place_wanted_plan(rng: &mut Rng) -> Plan {
    let mut plan = returning_plan(rng);
    if !plan.nodes.contains(&D) {
        plan.nodes.push(D);
    }
    // Far longer than anybody may wait for the place.
    plan.timing.absence_hold = 60 * SECOND;
    plan
}

/// The writer's engine ends, and a node without a replica in sync, the tie-breaker or another, takes its place.
fn place_wanted(world: &mut World) {
    if !warm(world) {
        return;
    }
    let Some(writer) = world.writer() else { return };
    let replicas = world.plan.replicas.clone();
    // Where the writer is the one without a replica, one of those that have wants its place.
    let apart: Vec<NodeId> = world.plan.nodes.iter().copied().filter(|node| !replicas.contains(node)).collect();
    let others: Vec<NodeId> = if apart.contains(&writer) { replicas } else { apart };
    let Some(other) = world.rng.pick(&others) else { return };
    end_in_mid_write(world, writer);
    if goes_elsewhere(world, writer, other) {
        world.operator_on = true;
        busy(world);
    }
}

/// The writer's engine ends with writes in flight, and does not come back by itself. From now on only the script does anything.
fn end_in_mid_write(world: &mut World, writer: NodeId) {
    world.operator_on = false;
    world.load_on = false;
    for block in [0, 1, 2, 1022] {
        write(world, writer, block);
    }
    let moment = world.rng.skewed(1, 3 * MS);
    world.run_for(moment);
    world.kill(writer, true);
    if let Some(node) = world.nodes.get_mut(&writer) {
        node.held_down = true;
    }
}

/// Another node takes over, reads, writes what the dead writer had in flight over, and gives the volume back.
fn goes_elsewhere(world: &mut World, writer: NodeId, other: NodeId) -> bool {
    let asked = world.attach(other, AttachMode::ReadWrite, true);
    let attached = move |world: &World| matches!(world.answer(asked), Some(Ok(_)));
    if !reach(world, 12 * SECOND, "the other node is the writer", attached) {
        return false;
    }
    // What was in flight may have been rolled forward: then it has been seen, and must not come again.
    let seen: Vec<_> = [0, 1, 2, 1022].into_iter().map(|block| read(world, other, block)).collect();
    let done = move |world: &World| seen.iter().all(|read| is_done(world, *read));
    if !reach(world, 12 * SECOND, "its reads complete", done) {
        return false;
    }
    let written: Vec<_> = [0, 1, 2, 1022].into_iter().map(|block| write(world, other, block)).collect();
    let done = move |world: &World| written.iter().all(|write| is_done(world, *write));
    if !reach(world, 12 * SECOND, "its writes complete", done) {
        return false;
    }
    let asked = world.command(other, Command::Detach);
    let detached = move |world: &World| matches!(world.answer(asked), Some(Ok(_)));
    if !reach(world, 12 * SECOND, "it has given the volume back", detached) {
        return false;
    }
    bring_up(world, writer);
    let settled = move |world: &World| !world.fronts[&writer].returning;
    reach(world, 15 * SECOND, "the front end that came back learns where it stands", settled)
}

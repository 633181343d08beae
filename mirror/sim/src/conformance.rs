//! One suite for everything that polices: what `docs/policing.md` promises, case by case.
//!
//! The production machines run in the simulated world; what differs is who polices them: their own members, simulated Leases, or
//! Leases at a real API server ([`Remote`]), of which the simulator makes the delays, and the API server everything else. Every case
//! ends as a scenario does: healed, with the replicas compared and the history judged.

use lockstep_core::timing::MS;
use lockstep_core::{Access, Arbiter, AttachMode, BlockRange, Class, Command, Config, NodeId, Op, Policing};

use crate::failure::Failure;
use crate::plan::{Mix, Plan, SECOND};
use crate::run::{Outcome, run_plan};
use crate::scenario::stage::{A, B, C, even_disks, is_done, reach, read, warm, write};
use crate::trace::Trace;
use crate::world::{Remote, World};

/// Who polices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Police {
    /// The volume's own members.
    Peer,
    /// Leases.
    Lease,
}

/// One promise.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// The promise.
    pub about: &'static str,
    plan: fn(Plan) -> Plan,
    script: fn(&mut World),
}

/// Blocks of which no two share a shard or an extent.
const AREAS: [u64; 4] = [0, 2048, 4096, 6144];

/// How long a range may take that nobody disputes, whoever polices.
const SOON: u64 = 400 * MS;

/// The suite.
pub const CASES: [Case; 14] = [
    Case { name: "kept", about: "a writer that nobody disturbs asks once", plan: quiet, script: kept },
    Case {
        name: "handed-over",
        about: "what one wrote the next overwrites and reads",
        plan: quiet,
        script: handed_over,
    },
    Case {
        name: "side-by-side",
        about: "writers of different ranges do not disturb each other",
        plan: quiet,
        script: beside,
    },
    Case { name: "in-turn", about: "writers of one range are served alike", plan: busy, script: in_turn },
    Case { name: "higher-first", about: "a higher class is served first", plan: high_and_low, script: higher_first },
    Case {
        name: "nobody-starves",
        about: "a lower class is served all the same",
        plan: high_and_low,
        script: lower_too,
    },
    Case {
        name: "wide",
        about: "a write over several ranges is served among many of single ones",
        plan: busy,
        script: wide,
    },
    Case { name: "bulk", about: "everything moves to one node at once", plan: quiet, script: bulk },
    Case {
        name: "holder-dies",
        about: "what a dead writer held others get, and nothing else waits",
        plan: quiet,
        script: |world| gone(world, |world| world.kill(B, false)),
    },
    Case {
        name: "holder-stops",
        about: "what a silent writer held others get, and it writes nothing when it wakes",
        plan: quiet,
        script: |world| {
            gone(world, |world| world.pause(B));
            world.resume(B);
        },
    },
    Case {
        name: "holder-leaves",
        about: "what a writer held that leaves as planned others get",
        plan: quiet,
        script: |world| gone(world, |world| world.leave_and_stop(B, Some(5 * SECOND))),
    },
    Case { name: "waiter-dies", about: "a waiter that dies is not waited for", plan: quiet, script: waiter_dies },
    Case { name: "first-dies", about: "whoever decides may die", plan: busy, script: first_dies },
    Case {
        name: "out-of-reach",
        about: "while nobody decides, what is held is written",
        plan: quiet,
        script: out_of_reach,
    },
];

/// Makes what stands in for the simulated Leases, for a new volume of this first configuration.
pub type MakeRemote<'a> = &'a mut dyn FnMut(&Config) -> Box<dyn Remote>;

/// Runs one case.
#[must_use]
pub fn judge(case: &Case, police: Police, seed: u64, remote: Option<MakeRemote<'_>>, trace: Trace) -> Outcome {
    let mut plan = Plan::three_replicas();
    plan.attach = [A, B, C].map(|node| (node, AttachMode::ReadWrite)).to_vec();
    plan.settings.access = Access::MultiWriter;
    even_disks(&mut plan);
    if police == Police::Lease {
        plan.settings.arbiter = Arbiter::Lease;
        plan.settings.policing = Policing::lease(4, plan.size_blocks, plan.settings.extent_blocks);
    }
    let plan = (case.plan)(plan);
    run_plan(
        case.name,
        plan,
        seed,
        |world| {
            world.remote = remote.map(|make| make(&world.register.config));
            // Whoever is gone stays away until the case is over.
            world.load_on = world.plan.load.depth > 1;
            if warm(world) {
                (case.script)(world);
            }
        },
        trace,
    )
}

fn quiet(mut plan: Plan) -> Plan {
    plan.load.depth = 1;
    plan.load.requests_max = 0;
    plan
}

fn busy(mut plan: Plan) -> Plan {
    plan.load.depth = 2;
    plan.load.think = MS;
    plan.load.requests_max = 8_000;
    plan.load.targets = vec![0, 3, 6, 9];
    plan.load.blocks_max = 2;
    plan.load.mix = Mix { read: 0, write: 100, fua: 0, flush: 0, zeroes: 0, discard: 0 };
    plan
}

fn high_and_low(plan: Plan) -> Plan {
    let mut plan = busy(plan);
    plan.classes = [(A, Class::High), (B, Class::Low), (C, Class::Low)].into();
    plan
}

fn demand(world: &mut World, holds: bool, what: &str) {
    if !holds {
        world.fail(Failure::correctness("promise", world.now, what.to_owned()));
    }
}

/// A write, and its end within `limit`.
fn must_write(world: &mut World, node: NodeId, block: u64, limit: u64) {
    let asked = write(world, node, block);
    demand(world, asked.is_some(), "a front end that is attached takes requests");
    reach(world, limit, &format!("node {node} writes block {block}"), |world| is_done(world, asked));
}

/// How many ranges were granted to a node.
fn taken(world: &World, node: NodeId) -> u64 {
    let machine = world.nodes.get(&node).and_then(|node| node.machine.as_ref());
    machine.map_or(0, |machine| machine.grants_taken())
}

fn all_taken(world: &World) -> [u64; 3] {
    [A, B, C].map(|node| taken(world, node))
}

fn served(world: &World, node: NodeId) -> u64 {
    let done = |request: &&crate::record::Request| request.node == node && matches!(request.ended, Some((_, Ok(()))));
    world.record.requests.iter().filter(done).count() as u64
}

/// Longest that a node's finished requests took.
fn longest(world: &World, node: NodeId) -> u64 {
    let ended = world.record.requests.iter().filter(|request| request.node == node && request.ended.is_some());
    ended.map(|request| request.ended_at - request.invoked_at).max().unwrap_or(0)
}

fn kept(world: &mut World) {
    must_write(world, A, AREAS[0], SOON);
    let before = (all_taken(world), world.leases.requests);
    for _ in 0..200 {
        must_write(world, A, AREAS[0] + 5, 50 * MS);
    }
    let after = (all_taken(world), world.leases.requests);
    demand(world, before == after, &format!("200 writes of what is held ask nobody: {before:?}, then {after:?}"));
}

fn handed_over(world: &mut World) {
    for round in 0..6 {
        for node in [A, B, C] {
            must_write(world, node, AREAS[round % 4], SOON);
            let asked = read(world, A, AREAS[round % 4]);
            reach(world, SOON, "a read ends", |world| is_done(world, asked));
        }
    }
}

fn beside(world: &mut World) {
    for _ in 0..2 {
        for (node, area) in [(A, AREAS[0]), (B, AREAS[1]), (C, AREAS[2])] {
            must_write(world, node, area, SOON);
        }
    }
    let before = all_taken(world);
    for _ in 0..60 {
        for (node, area) in [(A, AREAS[0]), (B, AREAS[1]), (C, AREAS[2])] {
            must_write(world, node, area + 7, 50 * MS);
        }
    }
    let after = all_taken(world);
    demand(world, before == after, &format!("three writers, each with its own range: {before:?}, then {after:?}"));
}

fn in_turn(world: &mut World) {
    world.run_for(6 * SECOND);
    let all = [A, B, C].map(|node| served(world, node));
    let (least, most) = (all.iter().min().copied().unwrap_or(0), all.iter().max().copied().unwrap_or(0));
    demand(
        world,
        least > 20 && least * 3 >= most * 2,
        &format!("equals are served alike: {all:?}, granted {:?}", all_taken(world)),
    );
}

fn higher_first(world: &mut World) {
    world.run_for(2 * SECOND);
    let all = [A, B, C].map(|node| served(world, node));
    demand(world, all[0] > all[1] && all[0] > all[2], &format!("the first is of a higher class: {all:?}"));
}

fn lower_too(world: &mut World) {
    world.run_for(3 * SECOND);
    let all = [A, B, C].map(|node| (served(world, node), longest(world, node) / MS));
    let starved = all.iter().any(|(served, longest)| *served < 20 || *longest > 1_500);
    demand(world, !starved, &format!("requests served, and the longest in ms: {all:?}"));
}

fn wide(world: &mut World) {
    for (at, node) in [(0, A), (1, B), (2, C), (0, A)] {
        let asked = world.ask(node, Op::Write { fua: false }, BlockRange::new(AREAS[at] + 2000, AREAS[at] + 2100));
        reach(world, 2 * SECOND, "a write over two ranges ends", |world| is_done(world, asked));
    }
}

fn bulk(world: &mut World) {
    for (node, area) in [(A, AREAS[0]), (B, AREAS[1]), (C, AREAS[2])] {
        must_write(world, node, area, SOON);
    }
    let asked = world.command(B, Command::TakeGrants);
    reach(world, SECOND, "all grants come to one node", |world| world.answer(asked).is_some_and(Result::is_ok));
    let before = taken(world, B);
    for area in AREAS {
        must_write(world, B, area + 9, 50 * MS);
    }
    let after = taken(world, B);
    demand(world, before == after, "the node that everything moved to asks for nothing");
    must_write(world, A, AREAS[0], SOON);
}

/// B holds two ranges and goes; A takes one of them, C goes on with its own as if nothing had happened.
fn gone(world: &mut World, goes: fn(&mut World)) {
    for (node, area) in [(B, AREAS[0]), (B, AREAS[1]), (C, AREAS[2])] {
        must_write(world, node, area, SOON);
    }
    world.operator_on = false;
    if let Some(node) = world.nodes.get_mut(&B) {
        node.held_down = true;
    }
    goes(world);
    let (wanted, own) = (write(world, A, AREAS[0]), write(world, C, AREAS[2] + 1));
    reach(world, 4 * SECOND, "what the lost one held is free", |world| is_done(world, wanted));
    reach(world, SECOND, "the other one's own range goes on", |world| is_done(world, own));
    must_write(world, C, AREAS[1], 2 * SECOND);
}

fn waiter_dies(world: &mut World) {
    must_write(world, A, AREAS[0], SOON);
    write(world, A, AREAS[0] + 1);
    write(world, B, AREAS[0] + 2);
    world.run_for(MS);
    if let Some(node) = world.nodes.get_mut(&B) {
        node.held_down = true;
    }
    world.kill(B, false);
    must_write(world, C, AREAS[0] + 3, 4 * SECOND);
    must_write(world, A, AREAS[0] + 4, SECOND);
}

fn first_dies(world: &mut World) {
    world.run_for(300 * MS);
    for node in [A, B] {
        world.kill(node, true);
        let others = [A, B, C].into_iter().filter(|other| *other != node).collect::<Vec<_>>();
        let before: Vec<u64> = others.iter().map(|node| served(world, *node)).collect();
        reach(world, 6 * SECOND, "the others take turns again", |world| {
            others.iter().zip(&before).all(|(node, before)| served(world, *node) > before + 10)
        });
        world.start(node);
        reach(world, 20 * SECOND, "it is back", |world| world.writers().len() == 3);
    }
}

/// The one that decides does not answer for a while: too short to be expelled, or an API server that is away.
fn out_of_reach(world: &mut World) {
    for (node, area) in [(B, AREAS[1]), (C, AREAS[2])] {
        must_write(world, node, area, SOON);
    }
    let by_lease = world.plan.settings.policing != Policing::Peer;
    if by_lease {
        world.set_register(None, false);
        for _ in 0..60 {
            must_write(world, B, AREAS[1] + 3, 50 * MS);
            must_write(world, C, AREAS[2] + 3, 50 * MS);
            world.run_for(50 * MS);
        }
    } else {
        // A's replica has to acknowledge: while it sleeps nothing completes, and nothing is lost.
        world.pause(A);
        world.run_for(200 * MS);
    }
    let wanted = write(world, B, AREAS[2]);
    world.run_for(100 * MS);
    if by_lease {
        demand(world, !is_done(world, wanted), "another's range is not given by nobody");
        world.set_register(None, true);
    } else {
        world.resume(A);
    }
    reach(world, 4 * SECOND, "whoever waited is served", |world| is_done(world, wanted));
}

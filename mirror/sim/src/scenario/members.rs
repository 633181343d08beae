//! Members of a volume that exists come and go: lost for good and replaced, moved, made more and fewer, at once and in the middle of
//! faults.

use lockstep_core::timing::MS;
use lockstep_core::{Arbiter, AttachMode, Command, Config, NodeId, Role};

use super::Scenario;
use super::ending::is_healthy;
use super::moving::{GUSTS, add, add_replica, change, gusts, in_sync, is_whole, prepare};
use super::nemesis::strike;
use super::stage::{A, B, C, D, bring_up, cut_way, is_in_sync, mend_between, reach, take_down, vary_lasting, warm};
use crate::plan::{Plan, SECOND};
use crate::rng::Rng;
use crate::world::World;

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "members",
        about: "replicas and tie-breakers come, go and change places under any faults",
        share: 12,
        plan: members_plan,
        script: members,
    },
    Scenario {
        name: "member-lost",
        about: "a replica is lost for good and another takes its place; then the lost one comes back, and does not count",
        share: 8,
        plan: members_plan,
        script: member_lost,
    },
    Scenario {
        name: "tie-breaker-lost",
        about: "the tie-breaker is replaced while another voter is away",
        share: 4,
        plan: pair_plan,
        script: tie_breaker_lost,
    },
    Scenario {
        name: "members-at-once",
        about: "two in-sync members are asked for different changes at the same moment",
        share: 5,
        plan: members_plan,
        script: at_once,
    },
    Scenario {
        name: "member-cut",
        about: "both sides of a cut change members: one side has the old majority, the other only the new one",
        share: 3,
        plan: pair_plan,
        script: member_cut,
    },
    Scenario {
        name: "member-emptied",
        about: "a node comes back with an empty disk in place of its replica, while the configuration lists its earlier run",
        share: 4,
        plan: emptied_plan,
        script: member_emptied,
    },
];

/// How long a change may take once nothing is wrong.
const SURELY: u64 = 30 * SECOND;

fn pair_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::two_replicas(), rng);
    plan.nodes.push(D);
    plan
}

/// Two or three replicas on nodes of any order, so that places in the list change with each that comes or goes.
fn members_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::two_replicas(), rng);
    let mut all: Vec<NodeId> = (1..=5).map(NodeId).collect();
    let mut draw = |rng: &mut Rng| {
        let node = rng.pick(&all).unwrap_or(A);
        all.retain(|other| *other != node);
        node
    };
    plan.nodes = (1..=5).map(NodeId).collect();
    plan.replicas = (0..if rng.one_in(3) { 3 } else { 2 }).map(|_| draw(rng)).collect();
    plan.replicas.sort_unstable();
    plan.tie_breaker = (plan.replicas.len() == 2).then(|| draw(rng));
    if rng.one_in(5) {
        plan.settings.arbiter = Arbiter::Lease;
        plan.tie_breaker = None;
    }
    let home = if rng.one_in(4) { draw(rng) } else { rng.pick(&plan.replicas).unwrap_or(A) };
    plan.attach = vec![(home, AttachMode::ReadWrite)];
    plan
}

fn emptied_plan(rng: &mut Rng) -> Plan {
    let mut plan = vary_lasting(Plan::two_replicas(), rng);
    if rng.one_in(2) {
        plan.settings.arbiter = Arbiter::Lease;
        plan.tie_breaker = None;
    }
    plan
}

/// Nodes that are for nothing yet have nothing of the volume.
fn begin(world: &mut World) -> bool {
    for node in spare(world) {
        if world.wanted_mode(node).is_none() {
            take_down(world, node);
        }
    }
    warm(world)
}

fn spare(world: &World) -> Vec<NodeId> {
    let config = world.checks.latest();
    world.plan.nodes.iter().copied().filter(|node| config.role_of(*node).is_none()).collect()
}

/// Everything works again, and every replica comes in sync: what is not to come back is not on record any more by then.
fn surely(world: &mut World, command: &Command, what: &str) -> bool {
    world.heal();
    let done = change(world, SURELY, command);
    reach(world, 1, what, move |_| done)
}

/// One change that could be wanted of the volume as it stands.
fn any_change(world: &mut World) -> Option<Command> {
    let config = world.checks.latest().clone();
    let replicas: Vec<NodeId> = config.replicas.iter().copied().collect();
    let spare = spare(world);
    let old = world.rng.pick(&replicas)?;
    let by_peers = config.settings.arbiter == Arbiter::Peers;
    Some(match world.rng.below(6) {
        0 | 1 if replicas.len() < Config::REPLICAS_MAX => {
            let others: Vec<NodeId> = spare.into_iter().chain(config.tie_breaker).collect();
            add(world.rng.pick(&others)?, Role::Replica, None)
        }
        2 => add(world.rng.pick(&spare)?, Role::Replica, Some(old)),
        3 if by_peers => add(world.rng.pick(&spare)?, Role::TieBreaker, None),
        4 if by_peers && replicas.len() >= 3 => add(old, Role::TieBreaker, None),
        _ if replicas.len() > 1 => Command::RemoveMember { node: old },
        _ => return None,
    })
}

/// Makes the part that a change needs.
fn prepare_for(world: &mut World, command: &Command) -> bool {
    match command {
        Command::AddMember { node, role, .. } => prepare(world, *node, *role == Role::Replica),
        _ => true,
    }
}

fn members(world: &mut World) {
    if !begin(world) {
        return;
    }
    let faults = world.rng.below(5);
    let calm = gusts(world, faults);
    for _ in 0..world.rng.within(2, 6) {
        let Some(command) = any_change(world) else { continue };
        if !prepare_for(world, &command) {
            continue;
        }
        let limit = world.rng.within(SECOND, 6 * SECOND);
        change(world, limit, &command);
        if world.rng.one_in(2) {
            world.run_until(6 * SECOND, is_whole);
        }
        if world.rng.one_in(2) {
            strike(world, GUSTS);
        }
        let moment = world.rng.skewed(1, 500 * MS);
        world.run_for(moment);
    }
    end_moving(world, calm);
}

/// A replica that is on record and whose files are of no use would be waited for: it is taken from the record.
fn end_moving(world: &mut World, calm: u64) {
    let wait = calm.saturating_sub(world.now);
    world.run_for(wait);
    world.heal();
    let changes = |asked: &crate::world::Asked| {
        asked.is_open() && matches!(asked.command, Command::AddMember { .. } | Command::RemoveMember { .. })
    };
    let ended = move |world: &World| !world.asked.iter().any(changes);
    world.run_until(12 * SECOND, move |world| ended(world) && is_healthy(world) && is_whole(world));
    let useless = |world: &World, node: &NodeId| {
        let node = world.nodes.get(node);
        node.is_some_and(|node| {
            node.removed.is_some() || node.store.durable().removed || !node.store.durable().has_data
        })
    };
    let waste: Vec<NodeId> =
        world.checks.latest().replicas.iter().copied().filter(|node| useless(world, node)).collect();
    for node in waste {
        surely(world, &Command::RemoveMember { node }, "a replica that never comes is removed");
    }
}

fn member_lost(world: &mut World) {
    if !begin(world) {
        return;
    }
    let replicas: Vec<NodeId> = world.checks.latest().replicas.iter().copied().collect();
    let (Some(lost), Some(new)) = (world.rng.pick(&replicas), world.rng.pick(&spare(world))) else { return };
    let faults = world.rng.below(4);
    let calm = gusts(world, faults);
    if world.rng.one_in(2) {
        world.lose_power(lost);
    }
    take_down(world, lost);
    let moment = world.rng.skewed(1, 3 * SECOND);
    world.run_for(moment);
    let in_place = replicas.len() == 3 || world.rng.one_in(4);
    let first = world.rng.one_in(4) && !in_place;
    if first {
        change(world, 5 * SECOND, &Command::RemoveMember { node: lost });
    }
    add_replica(world, 8 * SECOND, new, in_place.then_some(lost));
    if world.rng.one_in(2) {
        world.run_until(8 * SECOND, is_whole);
    }
    if world.rng.one_in(3) {
        // It comes back before anybody says that it is not wanted.
        world.power_up(lost);
        bring_up(world, lost);
    }
    change(world, 8 * SECOND, &Command::RemoveMember { node: lost });
    comes_back(world, lost);
    end_moving(world, calm);
}

/// The lost node is there again, with its old files: they are of no use, whatever is on record for it meanwhile.
fn comes_back(world: &mut World, lost: NodeId) {
    if world.rng.one_in(2) {
        world.power_up(lost);
        bring_up(world, lost);
        let moment = world.rng.within(10 * MS, 2 * SECOND);
        world.run_for(moment);
    }
    if world.checks.latest().role_of(lost).is_some() {
        return;
    }
    let again = add(lost, Role::Replica, None);
    match world.rng.below(3) {
        0 => {}
        // Added again, and it is the old files that its node has.
        1 => {
            world.power_up(lost);
            bring_up(world, lost);
            change(world, 8 * SECOND, &again);
            let moment = world.rng.within(10 * MS, 3 * SECOND);
            world.run_for(moment);
        }
        _ => {
            world.power_up(lost);
            if prepare(world, lost, true) {
                change(world, 8 * SECOND, &again);
            }
        }
    }
}

fn tie_breaker_lost(world: &mut World) {
    if !begin(world) {
        return;
    }
    let away = world.rng.pick(&[A, B, C]).unwrap_or(B);
    match world.rng.below(4) {
        0 => world.isolate(away),
        1 => take_down(world, away),
        2 => world.pause(away),
        _ => {
            take_down(world, C);
            if world.rng.one_in(2) {
                world.isolate(B);
            }
        }
    }
    let moment = world.rng.skewed(1, 2 * SECOND);
    world.run_for(moment);
    if prepare(world, D, false) {
        change(world, 4 * SECOND, &add(D, Role::TieBreaker, None));
    }
    strike(world, GUSTS);
    let moment = world.rng.skewed(1, 2 * SECOND);
    world.run_for(moment);
    // The old one, with all that it remembers, speaks to whoever was away.
    world.mend_all();
    bring_up(world, C);
    bring_up(world, away);
    world.resume(away);
    let moment = world.rng.skewed(1, 2 * SECOND);
    world.run_for(moment);
    world.heal();
    world.run_until(10 * SECOND, |world| !in_sync(world).is_empty());
    if prepare(world, D, false) && surely(world, &add(D, Role::TieBreaker, None), "the tie-breaker is replaced") {
        let voters = |world: &World| world.checks.latest().voters.keys().copied().eq([A, B, D]);
        reach(world, SURELY, "A, B and the new tie-breaker vote, and nobody else", voters);
    }
}

fn at_once(world: &mut World) {
    if !begin(world) {
        return;
    }
    for _ in 0..world.rng.within(1, 4) {
        let mut changes: Vec<Command> = (0..2).filter_map(|_| any_change(world)).collect();
        // One node is given one part, for one of them.
        changes.dedup_by_key(|command| match command {
            Command::AddMember { node, .. } | Command::RemoveMember { node } => Some(*node),
            _ => None,
        });
        changes.retain(|command| prepare_for(world, command));
        let moment = world.rng.within(100 * MS, 800 * MS);
        world.run_for(moment);
        let askers = in_sync(world);
        let first = world.rng.below(2) as usize;
        for (index, command) in changes.into_iter().enumerate() {
            if let Some(asker) = askers.get((index + first) % askers.len().max(1)) {
                world.command(*asker, command);
            }
            let moment = world.rng.skewed(1, 3 * MS);
            world.run_for(moment);
        }
        if world.rng.one_in(2) {
            strike(world, GUSTS);
        }
        let moment = world.rng.within(100 * MS, 3 * SECOND);
        world.run_for(moment);
    }
    end_moving(world, 0);
}

fn member_cut(world: &mut World) {
    if !begin(world) {
        return;
    }
    if !prepare(world, D, false) {
        return;
    }
    let there = |world: &World| world.nodes.get(&D).is_some_and(|node| node.is_running());
    if !reach(world, SECOND, "the new node runs", there) {
        return;
    }
    world.run_for(500 * MS);
    let writer = world.writer().unwrap_or(A);
    let (near, far) = if writer == B { (B, A) } else { (A, B) };
    // The writer and the node that nobody voted for yet on one side, the other replica and the tie-breaker on the other.
    for one in [near, D] {
        for other in [far, C] {
            world.cut_all(one, other);
        }
    }
    if world.rng.one_in(3) {
        cut_way(world, C, near);
    }
    world.command(near, add(D, Role::TieBreaker, None));
    if world.rng.one_in(2) {
        let moment = world.rng.skewed(1, 2 * SECOND);
        world.run_for(moment);
        world.command(far, Command::RemoveMember { node: near });
    }
    let moment = world.rng.within(SECOND, 4 * SECOND);
    world.run_for(moment);
    mend_between(world, near, far);
    let moment = world.rng.skewed(1, SECOND);
    world.run_for(moment);
    end_moving(world, 0);
}

fn member_emptied(world: &mut World) {
    if !begin(world) {
        return;
    }
    // Nothing that is flushed may be lost, so the run has to have flushed something.
    let moment = world.rng.within(500 * MS, 2 * SECOND);
    world.run_for(moment);
    let config = world.checks.latest().clone();
    let (near, far) = if world.rng.one_in(2) { (A, B) } else { (B, A) };
    if !config.in_sync.contains_key(&near) || !config.in_sync.contains_key(&far) {
        return;
    }
    let all_down = world.rng.one_in(2);
    if all_down {
        take_down(world, near);
    }
    take_down(world, far);
    if !all_down {
        // The one that stays goes on, and has a map of what the other lacks.
        let alone = move |world: &World| !is_in_sync(world, far);
        world.run_until(3 * SECOND, alone);
        let moment = world.rng.within(0, SECOND);
        world.run_for(moment);
    }
    world.make_part(far, near, true, false);
    let moment = world.rng.within(10 * MS, 8 * SECOND);
    world.run_for(moment);
    bring_up(world, near);
    if world.rng.one_in(3) {
        strike(world, GUSTS);
    }
    let moment = world.rng.within(10 * MS, 2 * SECOND);
    world.run_for(moment);
}

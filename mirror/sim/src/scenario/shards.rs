//! Leases police: who may write a shard stands in an object elsewhere.

use lockstep_core::timing::MS;
use lockstep_core::{Access, GrantLease, Policing};

use super::Scenario;
use super::general::vary;
use super::lease::{kept_elsewhere, pair};
use super::nemesis::{ANYTHING, Wrath, kill, rage};
use super::sharing::{several, shared, two_before_one, undisturbed, unsettled_grant};
use super::stage::{A, B, even_disks, hot, warm};
use crate::plan::{Mix, Plan, SECOND};
use crate::rng::Rng;
use crate::world::World;

/// The scenarios of this file.
pub const SCENARIOS: [Scenario; 11] = [
    Scenario {
        name: "shards",
        about: "several writers under Lease policing, and any faults",
        share: 30,
        plan: |rng| policed(several(pair(), rng), rng),
        script: |world| rage(world, ANY),
    },
    Scenario {
        name: "one-shard",
        about: "one writer under Lease policing, and any faults",
        share: 10,
        plan: |rng| {
            let base = if rng.one_in(2) { pair() } else { Plan::diskless_writer() };
            policed(vary(base, rng), rng)
        },
        script: |world| rage(world, ANY),
    },
    Scenario {
        name: "calm-shards",
        about: "several writers under Lease policing and no fault at all: no error, no expulsion, no stall",
        share: 4,
        plan: calm,
        script: |world| {
            let active = world.plan.active;
            world.run_for(active);
        },
    },
    Scenario {
        name: "shards-away",
        about: "the API server is away while two writers write what each of them holds: nobody notices",
        share: 2,
        plan: |rng| {
            let mut plan = calm(rng);
            plan.expect.keeps_replicas = true;
            // Whoever needs another's shard has to wait.
            plan.expect.stall_max = None;
            plan
        },
        script: |world| {
            world.run_for(SECOND);
            world.note("the API server is away");
            world.set_register(None, false);
            let active = world.plan.active;
            world.run_for(active);
            world.set_register(None, true);
            world.run_for(SECOND);
        },
    },
    Scenario {
        name: "shards-cut",
        about: "a holder is cut off from the API server: whoever waits for its shards gets them, and nobody is expelled",
        share: 3,
        plan: |rng| {
            let mut plan = calm(rng);
            plan.load.mix = Mix { read: 10, write: 90, fua: 0, flush: 0, zeroes: 0, discard: 0 };
            plan.expect.stall_max = None;
            plan
        },
        script: cut_off,
    },
    Scenario {
        name: "shards-scribbled",
        about: "grant Leases are edited to nonsense, deleted and restored from a backup",
        share: 6,
        plan: |rng| {
            let mut plan = policed(several(pair(), rng), rng);
            // What a backup gives away a second time only the replicas can refuse.
            plan.expect.forged = true;
            plan
        },
        script: scribbled,
    },
    Scenario {
        name: "shards-restored",
        about: "grant Leases are restored from a backup that everybody has seen newer ones of: nobody believes them",
        share: 3,
        plan: |rng| {
            let mut plan = calm(rng);
            plan.expect.stall_max = None;
            plan.load.targets.truncate(6);
            plan
        },
        script: restored,
    },
    Scenario {
        name: "unsettled-shard",
        about: "a writer's last writes are on one replica only, and the configuration changes again before that is settled",
        share: 4,
        plan: |rng| {
            let mut plan = policed(shared(Plan::three_replicas(), &[1, 2, 3], rng), rng);
            plan.supervised = true;
            plan.load.think = plan.load.think.clamp(MS, 4 * MS);
            plan.load.requests_max = 6_000;
            hot(&mut plan, &[0, 1, 2, 3]);
            even_disks(&mut plan);
            plan
        },
        script: |world| {
            world.register.slowest = MS / 2;
            unsettled_grant(world);
        },
    },
    Scenario {
        name: "shards-opened",
        about: "holders die and configurations change while the API server is slow: epochs begin with what members report",
        share: 4,
        plan: |rng| {
            let mut plan = policed(shared(Plan::three_replicas(), &[1, 2, 3], rng), rng);
            plan.supervised = true;
            plan.load.think = plan.load.think.clamp(MS, 4 * MS);
            plan
        },
        script: opened,
    },
    Scenario {
        name: "wide-shards",
        about: "writes over several shards are served although others keep asking for single ones",
        share: 2,
        plan: wide,
        script: |world| {
            let active = world.plan.active;
            world.run_for(active);
        },
    },
    Scenario {
        name: "low-shard",
        about: "two writers keep a shard busy at high priority, and a third of low priority is served all the same",
        share: 2,
        plan: low_priority,
        script: |world| {
            let active = world.plan.active;
            world.run_for(active);
        },
    },
];

/// Everything, and trouble with the API server.
const ANY: Wrath = Wrath { register: 30, reset: 10, ..ANYTHING };

/// Leases keep the configuration, and police.
fn policed(plan: Plan, rng: &mut Rng) -> Plan {
    let mut plan = kept_elsewhere(plan);
    let shards = match plan.settings.access {
        Access::SingleWriter => 1,
        Access::MultiWriter => rng.pick(&[1, 2, 3, 5, 16]).unwrap_or(1),
    };
    plan.settings.policing = Policing::lease(shards, plan.size_blocks, plan.settings.extent_blocks);
    plan
}

fn calm(rng: &mut Rng) -> Plan {
    let mut plan = undisturbed(policed(several(pair(), rng), rng));
    plan.load.depth = plan.load.depth.min(4);
    plan.expect.stall_max = Some(3 * SECOND);
    plan
}

fn cut_off(world: &mut World) {
    if !warm(world) {
        return;
    }
    for _ in 0..2 {
        let Some(node) = world.rng.pick(&world.writers()) else { return };
        world.note(&format!("{node} is cut off from the API server"));
        world.set_register(Some(node), false);
        let moment = world.rng.within(SECOND, 8 * SECOND);
        world.run_for(moment);
        world.set_register(Some(node), true);
        world.run_for(SECOND);
    }
}

fn scribbled(world: &mut World) {
    if !warm(world) {
        return;
    }
    let Policing::Lease { shards, .. } = world.plan.settings.policing else { return };
    let mut backups: Vec<(u8, Option<Result<GrantLease, String>>)> = Vec::new();
    for _ in 0..12 {
        let shard = u8::try_from(world.rng.below(u64::from(shards))).unwrap_or(0);
        let present = world.leases.shards.get(&shard).map(|(_, said)| said.clone());
        let changed = match world.rng.below(4) {
            0 => Some(Err("edited by hand".to_owned())),
            1 => None,
            _ => {
                let of_it: Vec<_> = backups.iter().filter(|(of, _)| *of == shard).collect();
                let at = world.rng.below(of_it.len() as u64 + 1) as usize;
                of_it.get(at).and_then(|(_, said)| said.clone()).or(present.clone())
            }
        };
        backups.push((shard, present));
        world.note(&format!("shard {shard} is scribbled on: {changed:?}"));
        world.scribble(shard, changed);
        if world.rng.one_in(4) {
            let node = world.rng.pick(&world.plan.nodes.clone()).unwrap_or(A);
            kill(world, node, 200 * MS);
        }
        let moment = world.rng.skewed(MS, 800 * MS);
        world.run_for(moment);
    }
}

/// Everybody has heard of a newer version than what is played back.
fn restored(world: &mut World) {
    if !warm(world) {
        return;
    }
    for _ in 0..4 {
        let backup = world.leases.shards.clone();
        world.run_for(SECOND);
        for (shard, (version, said)) in backup {
            let present = world.leases.shards.get(&shard).map_or(0, |(version, _)| *version);
            if present > version + 3 {
                world.note(&format!("shard {shard} is restored to {said:?}"));
                world.scribble(shard, Some(said));
            }
        }
    }
}

fn opened(world: &mut World) {
    if !warm(world) {
        return;
    }
    for _ in 0..6 {
        world.register.slowest = world.rng.pick(&[4 * MS, 40 * MS, 150 * MS]).unwrap_or(MS);
        let node = world.rng.pick(&world.plan.nodes.clone()).unwrap_or(B);
        let moment = world.rng.within(50 * MS, 700 * MS);
        world.run_for(moment);
        match world.rng.below(3) {
            0 => kill(world, node, 100 * MS),
            1 => world.leave_and_stop(node, Some(100 * MS)),
            _ => drop(world.command(node, lockstep_core::Command::Detach)),
        }
    }
}

/// Nothing but writes, without a pause, from everybody.
fn busy(mut plan: Plan) -> Plan {
    plan.load.think = MS / 2;
    plan.load.depth = 2;
    plan.load.requests_max = 3_000;
    plan.load.mix = Mix { read: 0, write: 100, fua: 0, flush: 0, zeroes: 0, discard: 0 };
    plan.active = 3 * SECOND;
    plan
}

fn wide(rng: &mut Rng) -> Plan {
    let mut plan = busy(calm(rng));
    plan.settings.extent_blocks = 16;
    plan.settings.policing = Policing::Lease { shards: 4, shard_blocks: 16 };
    plan.load.targets = vec![0, 10, 17, 33, 40];
    plan.load.blocks_max = 40;
    plan.load.depth = 1;
    plan.expect.stall_max = Some(2 * SECOND);
    plan
}

fn low_priority(rng: &mut Rng) -> Plan {
    let mut plan = two_before_one(busy(calm(rng)));
    plan.settings.policing = Policing::lease(1, plan.size_blocks, plan.settings.extent_blocks);
    plan.expect.stall_max = Some(2 * SECOND);
    plan
}

//! How a run begins: a volume is created on every node before anybody uses it.

use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use lockstep_core::timing::MS;
use lockstep_core::{Access, Arbiter, BootId, Config, Epoch, Generation, Incarnation, Meta, NodeId, VolumeId, VoterId};

use super::{Happening, Leases, Register, World};
use crate::check::Checks;
use crate::clock::Clock;
use crate::machine::Factory;
use crate::net::Network;
use crate::node::Node;
use crate::plan::Plan;
use crate::record::Recorder;
use crate::rng::Rng;
use crate::store::Store;
use crate::trace::Trace;

/// The configuration of a new volume.
#[must_use]
pub fn created(plan: &Plan) -> Config {
    let by_peers = plan.settings.arbiter == Arbiter::Peers;
    let voters = plan.replicas.iter().copied().chain(plan.tie_breaker).filter(|_| by_peers);
    Config {
        volume: VolumeId([7; 16]),
        generation: Generation { id: 1, parent: 0 },
        epoch: Epoch(1),
        size_blocks: plan.size_blocks,
        settings: plan.settings,
        priority: Default::default(),
        replicas: plan.replicas.iter().copied().collect(),
        added: BTreeMap::new(),
        tie_breaker: plan.tie_breaker,
        voters: voters.map(|node| (node, VoterId(u64::from(node.0)))).collect(),
        in_sync: plan.replicas.iter().map(|node| (*node, Incarnation(1))).collect(),
        joining: BTreeMap::new(),
        attached: BTreeMap::new(),
        last_in_sync: BTreeMap::new(),
        requests: BTreeMap::new(),
    }
}

impl World {
    /// The world of a plan at its first moment; every engine starts within the next milliseconds.
    #[must_use]
    pub fn new(plan: Plan, seed: u64, factory: Factory, trace: Trace) -> World {
        let mut rng = Rng::new(seed);
        let config = created(&plan);
        let shared = plan.settings.access == Access::MultiWriter;
        let mut nodes = BTreeMap::new();
        for id in &plan.nodes {
            let has_data = plan.replicas.contains(id);
            let meta = Meta::created(*id, has_data, config.clone(), Incarnation(1), BootId(1_000 + u64::from(id.0)));
            let rate = crate::clock::any_rate(&plan, &mut rng);
            let clock = Clock::new(0, rng.skewed(1, 100_000 * MS), rate);
            let mut node = Node::new(*id, clock, Store::new(meta));
            node.incarnation = Incarnation(0);
            nodes.insert(*id, node);
        }
        let net = Network::new(&plan.nodes, plan.link, rng.fork());
        let (disk_rng, link_rng, load_rng) = (rng.fork(), rng.fork(), rng.fork());
        let mut world = World {
            now: 1,
            checks: Checks::new(&config, &plan),
            register: Register::new(config.clone()),
            leases: Leases::default(),
            remote: None,
            plan,
            nodes,
            net,
            fronts: BTreeMap::new(),
            record: Recorder::new(shared),
            trace,
            rng,
            asked: Vec::new(),
            triggers: Vec::new(),
            load_on: true,
            operator_on: true,
            expulsions: Vec::new(),
            failure: None,
            last_cut: 0,
            factory,
            queue: BinaryHeap::new(),
            scheduled: 1,
            events: 0,
            disk_rng,
            link_rng,
            load_rng,
            boots: 1,
            attachments: 0,
            pending_actions: BTreeMap::new(),
            effects: VecDeque::new(),
        };
        for id in world.plan.nodes.clone() {
            let after = world.rng.below(5 * MS);
            world.schedule(after, Happening::Start { node: id });
        }
        world.schedule_dials();
        world.schedule(20 * MS, Happening::Operator);
        world
    }

    /// How many events have happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Empties a voter's directory while it does not run: what a reinstalled tie-breaker is.
    pub fn empty_voter(&mut self, id: NodeId) {
        let config = created(&self.plan);
        let forgets = self.plan.broken == Some(lockstep_core::broken::Broken::TieBreakerForgets);
        if let Some(node) = self.nodes.get_mut(&id) {
            let mut meta = Meta::created(id, false, config, Incarnation(1), BootId(0));
            if !forgets {
                meta.voter = None;
            }
            node.store.replace(meta);
        }
    }
}

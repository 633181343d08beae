//! The checkers: each looks at what the machines do, or at what is on all disks at once, and knows one rule.

mod agreement;
mod applied;
mod equality;
mod eras;
mod lineage;
mod loss;
mod members;
mod policing;

use std::collections::BTreeMap;

use lockstep_core::{Ack, Config, Epoch, Incarnation, NodeId, Op};

use crate::plan::Plan;
use crate::world::World;

pub use applied::LastWrite;
pub use eras::check_history;

/// What the checkers remember during a run.
#[derive(Debug)]
pub struct Checks {
    /// Every configuration that some node made durable (so it was decided), by generation and epoch.
    configs: BTreeMap<(u64, u64), Config>,
    /// The newest of them.
    latest: Config,
    /// The boot during which each incarnation runs.
    boots: BTreeMap<(NodeId, Incarnation), u64>,
    /// In-sync members that hold everything completed, with the boot since which they do.
    holders: BTreeMap<NodeId, u64>,
    /// Epoch of the latest start alone of a member that does not hold everything.
    lost_in: Epoch,
    /// The last completed write of each block since then.
    last_writes: BTreeMap<u64, LastWrite>,
    /// What a flush that is open promises: the last completed writes when it was asked for.
    flushes: BTreeMap<usize, BTreeMap<u64, LastWrite>>,
    /// Requests that zero, by block.
    zeroing: BTreeMap<u64, Vec<usize>>,
    /// Index of each numbered write's request.
    writes: BTreeMap<u64, usize>,
    /// Writes that begin are promised to be durable, without being asked for it.
    pub durable_writes: bool,
    /// How often a checker looked, so that a run that checked nothing shows.
    pub looks: u64,
}

impl Checks {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(config: &Config, plan: &Plan) -> Checks {
        Checks {
            configs: BTreeMap::from([((config.generation.id, config.epoch.0), config.clone())]),
            latest: config.clone(),
            boots: BTreeMap::new(),
            holders: plan.replicas.iter().map(|node| (*node, 1)).collect(),
            lost_in: Epoch(0),
            last_writes: BTreeMap::new(),
            flushes: BTreeMap::new(),
            zeroing: BTreeMap::new(),
            writes: BTreeMap::new(),
            durable_writes: plan.settings.ack == Ack::Durable,
            looks: 0,
        }
    }

    /// The newest configuration that anybody made durable.
    #[must_use]
    pub fn latest(&self) -> &Config {
        &self.latest
    }

    /// From here on this is the volume's configuration.
    fn follow(&mut self, config: Config, holders: BTreeMap<NodeId, u64>) {
        self.latest = config;
        self.holders = holders;
    }

    /// These requests are no part of the volume's history.
    fn forget(&mut self, indexes: &std::collections::BTreeSet<usize>) {
        let keep = |last: &LastWrite| !last.is_of(indexes);
        self.last_writes.retain(|_, last| keep(last));
        for promised in self.flushes.values_mut() {
            promised.retain(|_, last| keep(last));
        }
    }

    /// A request was made.
    fn asked(&mut self, index: usize, op: Op) {
        if op == Op::Flush {
            self.flushes.insert(index, self.last_writes.clone());
        }
    }
}

impl World {
    /// A process has started.
    pub(crate) fn check_started(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get(&id) {
            self.checks.boots.insert((id, node.incarnation), node.boot);
        }
    }

    /// True if this run's data is what it was: the host has not lost its power since.
    pub(crate) fn kept_power(&self, id: NodeId, incarnation: Incarnation) -> bool {
        self.nodes
            .get(&id)
            .is_some_and(|node| node.host_up && self.checks.boots.get(&(id, incarnation)) == Some(&node.boot))
    }
}

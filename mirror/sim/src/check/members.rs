//! A replica that was removed never counts again, whatever its node is given later.

use lockstep_core::{Config, NodeId};

use crate::failure::Failure;
use crate::world::World;

impl World {
    /// A node lost all that it held: what its earlier runs had is not there any more.
    pub(crate) fn check_emptied(&mut self, id: NodeId) {
        self.checks.boots.retain(|(node, _), _| *node != id);
        self.check_power_lost(id);
    }

    /// A new configuration was decided: notes whose files are not the volume's any more, and looks whether any of them counts.
    pub(crate) fn check_members(&mut self, before: &Config) {
        self.checks.looks += 1;
        let config = self.checks.latest().clone();
        for id in before.replicas.union(&config.replicas) {
            let (was, is) = (before.replica_since(*id), config.replica_since(*id));
            let Some(node) = self.nodes.get_mut(id) else { continue };
            if was.is_some() && was != is {
                node.removed = node.removed.or(was);
            }
            if is.is_some() && is == node.removed {
                // A removal that was decided late was overruled by those who had gone on without it.
                node.removed = None;
            }
        }
        let counts = |id: &NodeId| self.nodes.get(id).is_some_and(|node| node.removed.is_some());
        if let Some(id) = config.in_sync.keys().chain(config.joining.keys()).find(|id| counts(id)) {
            let what = format!("the replica of node {id} was removed, and counts in epoch {}", config.epoch);
            self.fail(Failure::correctness("I15", self.now, what));
        }
    }
}

//! Parts of the volume that nodes are given while it is in use: what an engine does when it is asked to.

use lockstep_core::timing::MS;
use lockstep_core::{BootId, Incarnation, Meta, NodeId};

use super::World;

impl World {
    /// Takes away what a node has of the volume, and makes an empty replica there, or the memory of a member that holds nothing. It
    /// knows the configuration that `from` has durable. `keeps`: a voter's memory that is there is kept; else the node lost all.
    pub fn make_part(&mut self, id: NodeId, from: NodeId, has_data: bool, keeps: bool) {
        self.kill(id, false);
        self.note(&format!("{id} is given a new part, with data: {has_data}"));
        let Some(config) = self.nodes.get(&from).map(|node| node.store.durable().config.clone()) else { return };
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let last = node.incarnation.max(node.store.durable().incarnation);
        let incarnation = Incarnation((last.0 + 1).max(now / MS * 100 + u64::from(id.0)));
        let boot = BootId(node.boot * 1_000 + u64::from(id.0));
        let before = match keeps {
            true => node.store.durable().clone(),
            false => Meta::forgotten(id, config.clone(), incarnation, boot),
        };
        let meta = Meta { incarnation, boot, ..before.reshaped(has_data, config) };
        node.store.replace(meta);
        node.disk = node.disk.replaced();
        node.operations.clear();
        node.orphans_until = 0;
        node.incarnation = incarnation;
        // The engine that makes it is the one that runs it.
        node.fresh = true;
        node.removed = None;
        node.held_down = false;
        self.check_emptied(id);
        self.start(id);
    }
}

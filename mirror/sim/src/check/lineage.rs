//! Generations (I12): two that meet leave each other alone until an operator gives one up; and what verify says.

use lockstep_core::{Command, NodeId, Reply};

use crate::failure::Failure;
use crate::world::World;

impl World {
    /// Two generations have met: nothing of either may have changed.
    pub(crate) fn check_apart(&mut self, unchanged: bool) {
        self.checks.looks += 1;
        if !unchanged {
            let what = "two generations met, and one was changed before an operator gave it up";
            self.fail(Failure::correctness("I12", self.now, what));
        }
    }

    /// Of several generations, this node's is the volume from here on.
    pub(crate) fn check_latest_is(&mut self, node: NodeId) {
        let config = self.nodes.get(&node).and_then(|node| node.machine.as_ref()).map(|m| m.config().clone());
        if let Some(config) = config {
            let boot = |node: &NodeId| self.nodes.get(node).map_or(0, |node| node.boot);
            let holders = config.in_sync.keys().map(|node| (*node, boot(node))).collect();
            self.checks.follow(config, holders);
        }
    }

    /// What was asked at a node from this request on belongs to a generation that is given up.
    pub fn abandon(&mut self, node: NodeId, from: usize) {
        let mut indexes = std::collections::BTreeSet::new();
        for (index, request) in self.record.requests.iter_mut().enumerate().skip(from) {
            if request.node == node {
                request.abandoned = true;
                indexes.insert(index);
            }
        }
        self.checks.forget(&indexes);
    }

    /// A verify has ended: all that is in sync is equal, whenever one looks.
    pub(crate) fn check_verified(&mut self, asked: usize) {
        self.checks.looks += 1;
        let Some(asked) = self.asked.get(asked) else { return };
        if let (Command::Verify { .. }, Some(Ok(Reply::Verified { different, .. }))) = (&asked.command, &asked.answer)
            && *different > 0
        {
            let what = format!("a verify at node {} found {different} blocks that differ", asked.node);
            self.fail(Failure::correctness("I4", self.now, what));
        }
    }
}

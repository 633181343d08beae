//! When unflushed data may be lost: only when no member is left that holds everything and goes on.

use lockstep_core::{Config, Incarnation, Net, NodeId};

use crate::failure::Failure;
use crate::world::World;

impl World {
    /// A host lost its power: it does not hold what it had not flushed.
    pub(crate) fn check_power_lost(&mut self, id: NodeId) {
        self.checks.holders.remove(&id);
    }

    /// A new configuration was decided: notes a loss if none of its in-sync members holds everything.
    pub(crate) fn check_holders(&mut self, before: &Config) {
        let config = self.checks.latest().clone();
        let boot = |world: &World, node: &NodeId| world.nodes.get(node).map_or(0, |node| node.boot);
        for (node, run) in config.in_sync.iter().filter(|(node, _)| !before.in_sync.contains_key(node)) {
            // It came through `joining`: a resync made it whole, unless its host lost power since.
            if self.kept_power(*node, *run) {
                let boot = boot(self, node);
                self.checks.holders.insert(*node, boot);
            }
        }
        let holds = |world: &World, node: &NodeId| world.checks.holders.get(node) == Some(&boot(world, node));
        // Who left as planned lacks what came after; the one that promised to stay is the truth.
        let marked = |world: &World, member: (NodeId, Incarnation)| {
            world.nodes.values().any(|node| node.store.durable().left.contains(&member))
        };
        let stays = |(node, run): (&NodeId, &Incarnation)| holds(self, node) && !marked(self, (*node, *run));
        let still: Vec<NodeId> = before.in_sync.iter().filter(|member| stays(*member)).map(|(node, _)| *node).collect();
        if config.in_sync.keys().any(|node| holds(self, node)) {
            self.checks.holders.retain(|node, _| config.in_sync.contains_key(node));
            return;
        }
        // The one that starts alone is the truth from here on.
        self.note("nobody is left that holds everything: unflushed writes may be lost");
        self.record.lose();
        self.checks.holders = config.in_sync.keys().map(|node| (*node, boot(self, node))).collect();
        self.checks.lost_in = config.epoch;
        self.checks.last_writes.clear();
        self.checks.flushes.clear();
        // An expulsion that was decided before the power was lost may be found out about only now; a start is new.
        let starts = config.in_sync.iter().all(|(node, run)| before.in_sync.get(node) != Some(run));
        for holder in still.into_iter().filter(|_| starts) {
            if !config.in_sync.keys().all(|starter| self.can_talk(*starter, holder)) {
                continue;
            }
            let patience = self.plan.timing.start_alone;
            let steady = self.nodes.get(&holder).is_some_and(|node| {
                node.is_running() && self.now.saturating_sub(node.running_since.max(self.last_cut)) > patience
            });
            if steady {
                let what = format!(
                    "{:?} started alone in epoch {} while node {holder}, which holds everything, was running and reachable",
                    config.in_sync, config.epoch
                );
                self.fail(Failure::correctness("start alone", self.now, what));
            }
        }
    }

    /// True if one of the networks between the two is whole.
    fn can_talk(&mut self, one: NodeId, other: NodeId) -> bool {
        let mut passes = |from, to, net| !self.net.link(from, to, net).cut;
        [Net::Dedicated, Net::Ordinary].into_iter().any(|net| passes(one, other, net) && passes(other, one, net))
    }
}

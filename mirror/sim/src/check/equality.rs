//! Replicas are byte-identical outside write intent and dirty bitmaps, at every crash point (I4, I9).
//!
//! This looks at all disks and all durable metadata at once, which no machine can: whatever differs between two in-sync
//! replicas has to be in the durable write intent of one of them, and whatever an absent replica lacks in the durable dirty map that
//! an in-sync one keeps for it, or in the intent of one of both. A missing bit shows here long before it loses data.

use std::collections::BTreeSet;

use lockstep_core::range::region_blocks;
use lockstep_core::{Incarnation, Meta, NodeId, RegionIndex};

use super::applied::describe;
use crate::failure::Failure;
use crate::node::Node;
use crate::world::World;

impl World {
    /// A process dies, or a host loses its power.
    pub(crate) fn check_crash(&mut self, _id: NodeId, power: bool) {
        self.check_equality(if power { "a power loss" } else { "a kill" });
    }

    /// Looks at everything at once.
    pub(crate) fn check_equality(&mut self, at: &str) {
        self.checks.looks += 1;
        let config = self.checks.latest().clone();
        let left: BTreeSet<(NodeId, Incarnation)> =
            self.nodes.values().flat_map(|node| node.store.durable().left.iter().copied()).collect();
        let is_whole = |node: NodeId, incarnation: Incarnation| {
            self.kept_power(node, incarnation) && !left.contains(&(node, incarnation)) && self.is_sound(node)
        };
        let in_sync: Vec<NodeId> =
            config.in_sync.iter().filter(|(node, run)| is_whole(**node, **run)).map(|(node, _)| *node).collect();
        let mut wrong = None;
        for (index, one) in in_sync.iter().enumerate() {
            for other in in_sync.iter().skip(index + 1) {
                let nothing = |_: u64| false;
                wrong = wrong.or_else(|| self.difference(*one, *other, nothing));
            }
        }
        for absent in config.replicas.iter().filter(|node| !config.in_sync.contains_key(node)) {
            if !self.is_sound(*absent) || self.compares_all(*absent) {
                continue;
            }
            for keeper in &in_sync {
                let Some(map) = self.nodes.get(keeper).and_then(|node| node.store.durable().dirty.get(absent)) else {
                    continue;
                };
                if Some(&map.since) != config.last_in_sync.get(absent) {
                    continue;
                }
                let is_dirty = |block: u64| {
                    let block = lockstep_core::BlockRange::new(block, block + 1);
                    map.copy.intersects(block) || map.compare.intersects(block)
                };
                wrong = wrong.or_else(|| self.difference(*keeper, *absent, is_dirty));
            }
        }
        if let Some((one, other, block, what)) = wrong {
            let is_absent = !config.in_sync.contains_key(&other);
            let rule = if is_absent { "I9" } else { "I4" };
            let how = if is_absent { "not in the dirty map" } else { "both in sync" };
            let what = format!(
                "at {at}, block {block} of nodes {one} and {other} differs outside write intent, {how}: {what}"
            );
            self.fail(Failure::correctness(rule, self.now, what));
        }
    }

    /// True if a replica was written to in another generation: what it differs in is found by comparing everything.
    fn compares_all(&self, absent: NodeId) -> bool {
        let generation = self.checks.latest().generation;
        self.nodes.get(&absent).is_some_and(|node| {
            let meta = node.store.durable();
            meta.config.generation != generation || meta.dirty.contains_key(&absent)
        })
    }

    fn is_sound(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.store.durable().failed.is_none() && node.store.durable().has_data)
    }

    /// The first block that two replicas may hold differently after a power loss, outside the intent of both.
    fn difference(
        &self,
        one: NodeId,
        other: NodeId,
        excused: impl Fn(u64) -> bool,
    ) -> Option<(NodeId, NodeId, u64, String)> {
        let (first, second) = (self.nodes.get(&one)?, self.nodes.get(&other)?);
        let written: BTreeSet<u64> = first.disk.written().chain(second.disk.written()).collect();
        let unit = region_blocks(self.checks.latest().size_blocks);
        let has_intent = |meta: &Meta, block: u64| meta.intent.contains(&RegionIndex(block / unit));
        for block in written {
            if has_intent(first.store.durable(), block) || has_intent(second.store.durable(), block) || excused(block) {
                continue;
            }
            let (here, there) = (first.disk.settled(block), second.disk.settled(block));
            if here.is_none() || here != there {
                let tell =
                    |node: &Node| node.disk.possible(block).map(|content| describe(&content)).collect::<Vec<_>>();
                return Some((one, other, block, format!("{:?} and {:?}", tell(first), tell(second))));
            }
        }
        None
    }

    /// All sound replicas hold the same, now that nothing is in flight.
    pub(crate) fn check_identical(&mut self) {
        let replicas = &self.checks.latest().replicas;
        let sound: Vec<NodeId> = replicas.iter().copied().filter(|node| self.is_sound(*node)).collect();
        self.check_same(&sound, "I4", "all is quiet and in sync");
    }

    /// A writer has ended and nobody writes: the survivors agree on what was in flight.
    pub(crate) fn check_agreed(&mut self) {
        let in_sync: Vec<NodeId> =
            self.checks.latest().in_sync.keys().copied().filter(|node| self.is_sound(*node)).collect();
        self.check_same(&in_sync, "I13", "what a dead writer left is settled");
    }

    /// True if nobody can write, and every in-sync member runs, has installed the newest configuration, and has nothing to settle.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let latest = self.checks.latest();
        latest.joining.is_empty()
            && latest.writers().next().is_none()
            && latest.in_sync.keys().all(|node| {
                let machine = self.nodes.get(node).and_then(|node| node.machine.as_ref());
                machine.is_some_and(|machine| machine.config() == latest && !machine.status().reconciling)
            })
    }

    fn check_same(&mut self, nodes: &[NodeId], rule: &str, when: &str) {
        self.checks.looks += 1;
        let written: BTreeSet<u64> =
            nodes.iter().filter_map(|node| self.nodes.get(node)).flat_map(|node| node.disk.written()).collect();
        for block in written.into_iter().filter(|block| *block < self.plan.size_blocks) {
            let contents: Vec<(NodeId, crate::block::Block)> = nodes
                .iter()
                .filter_map(|node| self.nodes.get(node))
                .map(|node| (node.id, node.disk.content(block)))
                .collect();
            if let Some(odd) = contents.iter().find(|(_, content)| *content != contents[0].1) {
                let what = format!(
                    "{when}, and block {block} is {} on node {} and {} on node {}",
                    describe(&contents[0].1),
                    contents[0].0,
                    describe(&odd.1),
                    odd.0
                );
                self.fail(Failure::correctness(rule, self.now, what));
                return;
            }
        }
    }
}

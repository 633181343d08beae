//! A completed write is on every in-sync and joining replica of its epoch (I3); after a completed flush no power loss can
//! take back what had completed before it (I7).

use std::collections::BTreeMap;

use lockstep_core::{Incarnation, NodeId, Op};

use crate::block::{Block, write_of};
use crate::failure::Failure;
use crate::world::World;

/// A completed write of one block.
#[derive(Clone, Debug)]
pub struct LastWrite {
    /// Index of its request.
    request: usize,
    /// Who had to apply it.
    members: Vec<(NodeId, Incarnation)>,
}

impl LastWrite {
    /// True if it is one of these requests.
    pub fn is_of(&self, indexes: &std::collections::BTreeSet<usize>) -> bool {
        indexes.contains(&self.request)
    }
}

impl World {
    /// A request was completed without error.
    pub(crate) fn check_completed(&mut self, id: NodeId, index: usize) {
        self.checks.looks += 1;
        let Some(asked) = self.record.requests.get(index) else { return };
        let (op, range) = (asked.op, asked.range);
        match op {
            Op::Read => {}
            Op::Flush => {
                if let Some(promised) = self.checks.flushes.remove(&index) {
                    self.check_durable(id, &promised, "flush");
                }
            }
            Op::Write { .. } | Op::WriteZeroes { .. } | Op::Discard => {
                let members = self.written_members(id);
                let last = LastWrite { request: index, members };
                let durable = matches!(op, Op::Write { fua: true } | Op::WriteZeroes { fua: true }) || asked.durable;
                let mut written = BTreeMap::new();
                // A writer that slept may complete, under an older configuration, what was lost meanwhile.
                let of_before = self.nodes.get(&id).and_then(|node| node.machine.as_ref()).map(|m| m.config().epoch);
                let is_lost = of_before.is_some_and(|epoch| epoch < self.checks.lost_in);
                if let Some(asked) = self.record.requests.get_mut(index) {
                    asked.overslept = is_lost;
                }
                for block in range.blocks() {
                    self.check_applied(block.0, &last);
                    if !is_lost {
                        self.checks.last_writes.insert(block.0, last.clone());
                    }
                    written.insert(block.0, last.clone());
                }
                if durable && op != Op::Discard {
                    self.check_durable(id, &written, "durable write");
                }
            }
        }
    }

    /// Who has to apply a write that completes at this node now.
    fn written_members(&self, id: NodeId) -> Vec<(NodeId, Incarnation)> {
        let Some(machine) = self.nodes.get(&id).and_then(|node| node.machine.as_ref()) else { return Vec::new() };
        machine.config().replicas_written().filter(|member| !machine.left().contains(member)).collect()
    }

    fn check_applied(&mut self, block: u64, last: &LastWrite) {
        for (node, incarnation) in &last.members {
            if !self.kept_power(*node, *incarnation) {
                continue;
            }
            let Some(found) = self.nodes.get(node).map(|node| node.disk.content(block)) else { continue };
            if self.is_older(block, &found, last.request) {
                let what = format!(
                    "a write of block {block} completed, and node {node} holds {}: {}",
                    describe(&found),
                    self.tell(last.request)
                );
                self.fail(Failure::correctness("I3", self.now, what));
                return;
            }
        }
    }

    fn check_durable(&mut self, id: NodeId, promised: &BTreeMap<u64, LastWrite>, by: &str) {
        let now_in = self.written_members(id);
        for (block, last) in promised {
            for member in last.members.iter().filter(|member| now_in.contains(member)) {
                if !self.kept_power(member.0, member.1) {
                    continue;
                }
                let Some(node) = self.nodes.get(&member.0) else { continue };
                let lost = node.disk.possible(*block).find(|content| self.is_older(*block, content, last.request));
                if let Some(content) = lost {
                    let what = format!(
                        "a {by} completed, and a power loss of node {} could bring {} back to block {block}: {}",
                        member.0,
                        describe(&content),
                        self.tell(last.request)
                    );
                    self.fail(Failure::correctness("I7", self.now, what));
                    return;
                }
            }
        }
    }

    /// True if some sector of the block was certainly overwritten by this request.
    fn is_older(&self, block: u64, content: &Block, request: usize) -> bool {
        let Some(newer) = self.record.requests.get(request) else { return false };
        content.iter().any(|sector| {
            let write = write_of(*sector);
            let may_follow = |index: &usize| {
                *index == request
                    || self.record.requests.get(*index).is_some_and(|other| {
                        other.ended.is_none_or(|(moment, result)| moment > newer.invoked || result.is_err())
                    })
            };
            if write == 0 {
                !self.checks.zeroing.get(&block).is_some_and(|indexes| indexes.iter().any(may_follow))
            } else {
                !self.checks.writes.get(&write).is_some_and(may_follow)
            }
        })
    }

    /// Notes what a new request may leave where.
    pub(crate) fn check_asked(&mut self, index: usize) {
        let Some(asked) = self.record.requests.get(index) else { return };
        self.checks.asked(index, asked.op);
        match asked.op {
            Op::Write { .. } => {
                self.checks.writes.insert(asked.write, index);
            }
            Op::WriteZeroes { .. } | Op::Discard => {
                for block in asked.range.blocks() {
                    self.checks.zeroing.entry(block.0).or_default().push(index);
                }
            }
            Op::Read | Op::Flush => {}
        }
    }

    fn tell(&self, index: usize) -> String {
        self.record.requests.get(index).map_or_else(String::new, |asked| {
            format!("{:?} {:?} number {} of node {}", asked.op, asked.range, asked.write, asked.node)
        })
    }
}

/// A block's content for people.
#[must_use]
pub fn describe(block: &Block) -> String {
    if crate::block::is_whole(block) {
        format!("write {}", write_of(block[0]))
    } else {
        format!("torn writes {:?}", block.iter().map(|sector| write_of(*sector)).collect::<Vec<_>>())
    }
}

//! Verify: compares all in-sync replicas by digest, piece by piece; repairs from a named source where asked to.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;

use super::Replica;
use super::apply::Purpose;
use crate::effect::Effect;
use crate::ids::{BufId, CommandId, Digest, GrantNumber, NodeId, ReadId, Time, WriteId};
use crate::input::{CommandError, Reply};
use crate::message::Message;
use crate::range::BlockRange;

/// Blocks compared at once.
const PIECE_BLOCKS: u64 = 256;

/// A piece that differs is compared again so often before it counts as different: a write may have been in between.
const MAX_ATTEMPTS: u32 = 20;

/// A verify under way.
#[derive(Clone, Debug)]
pub(super) struct Verify {
    command: CommandId,
    repair_from: Option<NodeId>,
    pub cursor: u64,
    attempts: u32,
    asked: Option<(ReadId, BlockRange)>,
    waits_for: BTreeSet<NodeId>,
    digests: BTreeMap<NodeId, Vec<Digest>>,
    repairs: Vec<u64>,
    repairing: Option<(ReadId, BlockRange, BTreeSet<NodeId>)>,
    retry_at: Time,
    different: u64,
    repaired: u64,
}

impl Replica {
    pub(super) fn on_verify(&mut self, command: CommandId, repair_from: Option<NodeId>) {
        let steady = self.writes_pass_here();
        let refused = if self.verify.is_some() {
            Some(CommandError::Forbidden { reason: "a verify is under way".into() })
        } else if !self.view.is_in_sync(self.node, self.incarnation) {
            Some(CommandError::Forbidden {
                reason: "this node's replica is not in sync: ask a node whose replica is".into(),
            })
        } else if let Some(source) = repair_from
            && self.view.in_sync & self.view.bit(source) == 0
        {
            Some(CommandError::Invalid { reason: format!("repair source: node {source} has no replica in sync") })
        } else if repair_from.is_some() && !steady {
            Some(CommandError::Forbidden { reason: "repair runs on the only writer's node while the volume is attached, and on the lowest in-sync node otherwise".into() })
        } else {
            None
        };
        if let Some(error) = refused {
            return self.answer(command, Err(error));
        }
        self.verify = Some(Verify {
            command,
            repair_from,
            cursor: 0,
            attempts: 0,
            asked: None,
            waits_for: BTreeSet::new(),
            digests: BTreeMap::new(),
            repairs: Vec::new(),
            repairing: None,
            retry_at: self.now,
            different: 0,
            repaired: 0,
        });
        self.advance_verify();
    }

    /// Who can hold back every write: the only writer, or the granting node if there is none.
    fn passed_by_all_writes(&self) -> Option<NodeId> {
        let mut writers = self.view.config.writers().map(|(node, _)| node);
        match (writers.next(), writers.next()) {
            (Some(writer), None) => Some(writer),
            (Some(_), Some(_)) => None,
            (None, _) => self.view.granting_node(),
        }
    }

    fn writes_pass_here(&self) -> bool {
        self.passed_by_all_writes() == Some(self.node)
    }

    /// Repairs are accepted from whoever can hold back every write.
    pub(super) fn verify_repairs_from(&self, from: NodeId) -> bool {
        self.passed_by_all_writes() == Some(from)
    }

    /// A piece is compared while nothing is written to it, where this node can see to that.
    pub(super) fn advance_verify(&mut self) {
        let ready = self.reports_in && self.reconciled && self.adopting.is_none();
        let size = self.view.config.size_blocks;
        let Some(verify) = self.verify.as_mut().filter(|v| ready && v.asked.is_none() && v.repairing.is_none()) else {
            return;
        };
        if verify.retry_at > self.now {
            return;
        }
        if let Some(block) = verify.repairs.pop() {
            return self.repair_block(block);
        }
        if verify.cursor >= size {
            let verify = self.verify.take().expect("just seen");
            let reply = Reply::Verified { blocks: size, different: verify.different, repaired: verify.repaired };
            self.blocked.clear();
            self.serve_waiting();
            return self.answer(verify.command, Ok(reply));
        }
        let range = BlockRange::new(verify.cursor, (verify.cursor + PIECE_BLOCKS).min(size));
        if self.writes_pass_here() {
            self.blocked.insert(range);
            if self.window.overlaps(range)
                || self.disk.overlapping_write(range).is_some()
                || self.applied.overlaps(range)
            {
                // Looked at again with the next input: what is in flight ends by itself.
                self.attention_at = self.attention_at.min(self.now.after(crate::timing::MS));
                return;
            }
        }
        let id = self.next_read_id();
        let members: BTreeSet<NodeId> = self.view.nodes(self.view.in_sync).collect();
        let verify = self.verify.as_mut().expect("just seen");
        verify.asked = Some((id, range));
        verify.waits_for = members.clone();
        verify.digests.clear();
        for node in members {
            if node == self.node {
                let io = self.begin_io(range, Purpose::OwnDigest { id });
                self.out.push(Effect::DiskDigest { io, range });
            } else {
                self.send(node, Message::DigestAsk { id, range }, None);
            }
        }
    }

    pub(super) fn on_verify_digests(&mut self, from: NodeId, id: ReadId, digests: &[Digest]) -> bool {
        let me = self.node;
        let now = self.now;
        let Some(verify) = self.verify.as_mut().filter(|v| v.asked.is_some_and(|(at, _)| at == id)) else {
            return false;
        };
        let Some((_, range)) = verify.asked else { return false };
        verify.digests.insert(from, digests.to_vec());
        verify.waits_for.remove(&from);
        if !verify.waits_for.is_empty() {
            return true;
        }
        verify.asked = None;
        let own = verify.digests.get(&me).cloned().unwrap_or_default();
        let differs = |at: usize| verify.digests.values().any(|d| d.get(at) != own.get(at));
        let different: Vec<u64> = (0..own.len()).filter(|at| differs(*at)).map(|at| range.start + at as u64).collect();
        verify.attempts += 1;
        if !different.is_empty() && verify.attempts < MAX_ATTEMPTS {
            verify.retry_at = now.after(crate::timing::MS * u64::from(verify.attempts));
            self.attention_at = self.attention_at.min(self.now.after(crate::timing::MS));
            return true;
        }
        verify.attempts = 0;
        verify.different += different.len() as u64;
        verify.cursor = range.end;
        if verify.repair_from.is_some() {
            verify.repairs = different;
        }
        if verify.repairs.is_empty() {
            self.end_piece(range);
        }
        self.advance_verify();
        true
    }

    fn end_piece(&mut self, range: BlockRange) {
        self.blocked.remove(range);
        self.serve_waiting();
    }

    fn repair_block(&mut self, block: u64) {
        let range = BlockRange::new(block, block + 1);
        let id = self.next_read_id();
        let Some(verify) = &mut self.verify else { return };
        let source = verify.repair_from.expect("only repairs name blocks");
        verify.repairing = Some((id, range, BTreeSet::new()));
        if source == self.node {
            let buf = self.new_buf();
            let io = self.begin_io(range, Purpose::RollRead { id, buf });
            self.out.push(Effect::DiskRead { io, range, buf });
        } else {
            self.send(source, Message::Pull { round: super::reconcile::RECONCILE_ROUND, id, range }, None);
        }
    }

    /// The source's block came: everybody else gets it.
    pub(super) fn on_verify_read(&mut self, id: ReadId, buf: BufId) -> bool {
        let targets: BTreeSet<NodeId> = self.view.nodes(self.view.written()).collect();
        let Some(verify) = &mut self.verify else { return false };
        let source = verify.repair_from;
        let Some((at, range, waits_for)) = verify.repairing.as_mut().filter(|(at, ..)| *at == id) else { return false };
        *waits_for = targets.into_iter().filter(|n| Some(*n) != source).collect();
        let (id, range, targets) = (*at, *range, waits_for.clone());
        let me = self.node;
        let here = targets.contains(&me);
        for node in targets.into_iter().filter(|n| *n != me) {
            self.send(
                node,
                Message::RollForward { id, range, grant: GrantNumber::default(), write: WriteId(0) },
                Some(buf),
            );
        }
        if here {
            self.roll_here(None, id, range, GrantNumber::default(), WriteId(0), buf);
        } else {
            self.release(Some(buf));
        }
        true
    }

    pub(super) fn verify_roll_ack(&mut self, from: NodeId, id: ReadId) -> bool {
        let Some(verify) = &mut self.verify else { return false };
        let Some((_, range, waits_for)) = verify.repairing.as_mut().filter(|(at, ..)| *at == id) else { return false };
        waits_for.remove(&from);
        if waits_for.is_empty() {
            let range = *range;
            verify.repairing = None;
            verify.repaired += 1;
            if verify.repairs.is_empty() {
                self.end_piece(range.pieces(PIECE_BLOCKS).next().map_or(range, |_| {
                    BlockRange::new(
                        range.start / PIECE_BLOCKS * PIECE_BLOCKS,
                        (range.start / PIECE_BLOCKS + 1) * PIECE_BLOCKS,
                    )
                }));
            }
            self.advance_verify();
        }
        true
    }

    /// A new view, or a session that was replaced: the piece under way is compared again.
    pub(super) fn verify_view_changed(&mut self) {
        let gone = !self.view.is_in_sync(self.node, self.incarnation);
        let now = self.now;
        let Some(verify) = &mut self.verify else { return };
        if gone {
            let command = verify.command;
            self.verify = None;
            return self.answer(
                command,
                Err(CommandError::Forbidden { reason: "this node's replica left the configuration".into() }),
            );
        }
        verify.asked = None;
        verify.repairing = None;
        verify.repairs.clear();
        verify.cursor = verify.cursor / PIECE_BLOCKS * PIECE_BLOCKS;
        verify.retry_at = now;
    }
}

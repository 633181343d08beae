//! Flushes: durability points on all replicas; and unconfirmed ranges, which live from one to the next.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::Replica;
use super::apply::{Origin, Purpose};
use super::view::Slots;
use crate::bitmap::BlockSet;
use crate::config::Config;
use crate::effect::Effect;
use crate::ids::{FlushId, Incarnation, NodeId, RequestId, Time, WriteId};
use crate::input::IoError;
use crate::message::Message;
use crate::range::BlockRange;

/// A flush that not everybody has confirmed.
#[derive(Clone, Debug)]
pub(super) struct Flushing {
    pub id: FlushId,
    pub requests: Vec<RequestId>,
    pub acked: Slots,
    pub sent: Slots,
    pub started: Time,
}

/// What was applied before a flush that is not known to be confirmed by all.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub issuer: NodeId,
    pub incarnation: Incarnation,
    pub id: FlushId,
    pub blocks: BlockSet,
}

/// Stands for the writer of what nobody looks after any more: pulled, rolled forward, found after a crash, or written by
/// somebody who is not attached now. All of it is on every replica before anything new is flushed.
pub(super) const NOBODY: NodeId = NodeId(u32::MAX);

/// Ranges applied here and not yet confirmed flushed by all.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    /// By writer: only a writer's own flush was asked for after its writes were on all replicas, as far as this one can tell.
    open: BTreeMap<NodeId, BlockSet>,
    pub sealed: Vec<Sealed>,
    /// When the first block of `open` came.
    pub since: Option<Time>,
}

impl Unconfirmed {
    pub fn open(&mut self, writer: NodeId) -> &mut BlockSet {
        self.open.entry(writer).or_default()
    }

    pub fn intersects(&self, range: BlockRange) -> bool {
        self.open.values().any(|set| set.intersects(range)) || self.sealed.iter().any(|s| s.blocks.intersects(range))
    }

    /// Everything, as one set.
    pub fn all(&self) -> BlockSet {
        let mut all = BlockSet::new();
        for set in self.open.values().chain(self.sealed.iter().map(|sealed| &sealed.blocks)) {
            all.union(set);
        }
        all
    }

    /// Takes what a flush of this issuer covers.
    fn take_for(&mut self, issuer: NodeId) -> BlockSet {
        let mut taken = self.open.remove(&issuer).unwrap_or_default();
        taken.union(&self.open.remove(&NOBODY).unwrap_or_default());
        taken
    }

    /// True if a flush of this issuer would cover anything.
    fn covers(&self, issuer: NodeId) -> bool {
        self.open.contains_key(&issuer) || self.open.contains_key(&NOBODY)
    }
}

impl Replica {
    pub(super) fn note_unconfirmed(&mut self, range: BlockRange, writer: NodeId) {
        let writer = if self.view.config.attached.contains_key(&writer) { writer } else { NOBODY };
        self.unconfirmed.open(writer).insert(range);
        if self.unconfirmed.since.is_none() {
            self.unconfirmed.since = Some(self.now);
        }
        self.note_dirty(range);
    }

    /// All flushes of this node below this are confirmed by all.
    pub(super) fn flush_floor(&self) -> FlushId {
        self.flush.as_ref().map_or(FlushId(self.next_flush.0 + 1), |f| f.id)
    }

    /// A flush of the front end. Those that come while one is under way become the next one together.
    pub(super) fn try_flush(&mut self, request: RequestId) -> bool {
        if self.adopting.is_some() || !self.reports_in {
            return false;
        }
        if self.flush.is_some() {
            self.flush_next.push(request);
        } else {
            self.start_flush(Vec::from([request]));
        }
        true
    }

    fn start_flush(&mut self, requests: Vec<RequestId>) {
        self.next_flush.0 += 1;
        self.flush = Some(Flushing { id: self.next_flush, requests, acked: 0, sent: 0, started: self.now });
        self.send_flush();
    }

    /// Who flushes an idle volume: its writers, or the granting node if there is none.
    fn flushes_in_background(&self) -> bool {
        let mut writers = self.view.config.writers().peekable();
        match writers.peek() {
            Some(_) => writers.any(|run| run == (self.node, self.incarnation)),
            None => self.view.granting_node() == Some(self.node),
        }
    }

    /// Maintenance: unconfirmed ranges that have lain for a while are flushed, so that intent can clear.
    pub(super) fn flush_in_background(&mut self) {
        let due = self.unconfirmed.since.is_some_and(|at| at.after(self.timing.background_flush) <= self.now);
        let ready = self.reports_in && self.reconciled && self.adopting.is_none() && self.flush.is_none();
        if !due || !ready || self.leaving.marked {
            return;
        }
        self.unconfirmed.since = Some(self.now);
        if self.flushes_in_background() && self.unconfirmed.covers(self.node) {
            self.start_flush(Vec::new());
        }
    }

    fn send_flush(&mut self) {
        let needed = self.flush_needed();
        let floor = self.window.commit_floor();
        let Some(flush) = &mut self.flush else { return };
        let id = flush.id;
        let todo = needed & !flush.acked & !flush.sent;
        for slot in 0..Config::REPLICAS_MAX {
            if todo >> slot & 1 == 0 {
                continue;
            }
            let Some(node) = self.view.config.replicas.iter().nth(slot).copied() else { continue };
            if node == self.node {
                self.mark_flush_sent(slot);
                let incarnation = self.incarnation;
                self.flush_here(node, incarnation, id);
            } else if self.session_is_listed(node) {
                self.mark_flush_sent(slot);
                self.send(node, Message::Flush { id, floor }, None);
            }
        }
    }

    fn flush_needed(&self) -> Slots {
        if self.broken(broken!(JoiningOutsideFlush)) { self.view.in_sync } else { self.view.written() }
    }

    fn mark_flush_sent(&mut self, slot: usize) {
        if let Some(flush) = &mut self.flush {
            flush.sent |= 1 << slot;
        }
    }

    /// A new view: who stayed has confirmed, everybody else is asked again.
    pub(super) fn restart_flush(&mut self) {
        let written = self.view.written();
        let me = self.view.bit(self.node);
        let on_disk =
            self.disk.ops.iter().any(|op| matches!(op.purpose, Purpose::Flush { node, .. } if node == self.node));
        if let Some(flush) = &mut self.flush {
            flush.started = self.now;
            flush.acked &= written;
            flush.sent = if on_disk { me } else { 0 };
        }
        // What a writer that is gone wrote is looked after by whoever flushes next.
        let gone: Vec<NodeId> =
            (self.unconfirmed.open.keys().copied()).filter(|n| !self.view.config.attached.contains_key(n)).collect();
        for node in gone.into_iter().filter(|n| *n != NOBODY) {
            let blocks = self.unconfirmed.open.remove(&node).unwrap_or_default();
            self.unconfirmed.open(NOBODY).union(&blocks);
        }
        // What was sealed for a flush that will not be confirmed by its issuer any more is open again.
        let members = self.view.members();
        let sealed = core::mem::take(&mut self.unconfirmed.sealed);
        for seal in sealed {
            if members.get(&seal.issuer) == Some(&seal.incarnation) {
                self.unconfirmed.sealed.push(seal);
            } else {
                self.unconfirmed.open(NOBODY).union(&seal.blocks);
                self.unconfirmed.since = self.unconfirmed.since.or(Some(self.now));
            }
        }
        if !self.is_attached_here()
            && self.flush.as_ref().is_some_and(|f| f.requests.is_empty())
            && !self.flushes_in_background()
        {
            self.flush = None;
        }
        self.send_flush();
    }

    pub(super) fn resend_flush(&mut self, node: NodeId) {
        let bit = self.view.bit(node);
        if let Some(flush) = &mut self.flush {
            flush.sent &= !bit;
        }
        self.send_flush();
    }

    /// A member asks for everything acknowledged here to be made durable.
    pub(super) fn on_flush(&mut self, from: NodeId, id: FlushId, floor: WriteId) {
        let Some(session) = self.peers.get(&from).and_then(|p| p.session) else { return };
        if !self.view.is_written(self.node, self.incarnation) || self.leaving.marked || self.disk.failed.is_some() {
            return;
        }
        self.applied.commit(from, session.incarnation, floor);
        self.committed();
        self.flush_here(from, session.incarnation, id);
    }

    /// Seals what this flush covers, and flushes the disk.
    fn flush_here(&mut self, issuer: NodeId, incarnation: Incarnation, id: FlushId) {
        if self.disk.failed.is_some() {
            return;
        }
        let blocks = self.unconfirmed.take_for(issuer);
        self.unconfirmed.since = (!self.unconfirmed.open.is_empty()).then_some(self.now);
        // A write that is not known to be committed is not covered: others may not have it yet.
        if !self.broken(broken!(FlushConfirmsUncommitted)) {
            let mut still: Vec<BlockRange> = self.applied.iter().map(|e| e.range).collect();
            still.extend(self.window.iter().map(|(_, w)| w.range));
            let rolls = self.disk.ops.iter().filter(|op| match &op.purpose {
                Purpose::Write(w) => w.origin != Origin::Local,
                other => matches!(other, Purpose::Pull { .. }),
            });
            still.extend(rolls.map(|op| op.range));
            for range in still.into_iter().filter(|r| blocks.intersects(*r)) {
                self.unconfirmed.open(issuer).insert(range);
                self.unconfirmed.since = Some(self.now);
            }
        }
        self.unconfirmed.sealed.push(Sealed { issuer, incarnation, id, blocks });
        let io = self.begin_io(BlockRange::default(), Purpose::Flush { node: issuer, id });
        self.out.push(Effect::DiskFlush { io });
    }

    /// The disk has flushed for this flush.
    pub(super) fn on_disk_flushed(&mut self, issuer: NodeId, id: FlushId) {
        if issuer == self.node {
            self.flush_acknowledged(self.node, id);
        } else {
            self.send(issuer, Message::FlushAck { id }, None);
        }
    }

    pub(super) fn flush_acknowledged(&mut self, from: NodeId, id: FlushId) {
        let bit = self.view.bit(from);
        if let Some(flush) = self.flush.as_mut().filter(|f| f.id == id) {
            flush.acked |= bit;
            self.try_complete_flush();
        }
    }

    pub(super) fn try_complete_flush(&mut self) {
        let needed = self.flush_needed();
        let done = self.flush.as_ref().is_some_and(|f| f.acked & needed == needed && needed != 0);
        if !done || !self.may_complete() {
            return;
        }
        let flush = self.flush.take().expect("just seen");
        let (node, incarnation) = (self.node, self.incarnation);
        for request in flush.requests {
            self.complete(request, Ok(()));
        }
        self.flush_confirmed(node, incarnation, FlushId(flush.id.0 + 1));
        self.commit_at = self.commit_at.min(self.now.after(self.timing.commit_delay));
        if !self.flush_next.is_empty() {
            let requests = core::mem::take(&mut self.flush_next);
            self.start_flush(requests);
        }
    }

    /// Flushes of this issuer below `floor` are confirmed by all.
    pub(super) fn flush_confirmed(&mut self, issuer: NodeId, incarnation: Incarnation, floor: FlushId) {
        if self.unconfirmed.sealed.is_empty() {
            return;
        }
        let before = self.unconfirmed.sealed.len();
        self.unconfirmed.sealed.retain(|s| !(s.issuer == issuer && s.incarnation == incarnation && s.id < floor));
        if self.unconfirmed.sealed.len() != before {
            self.sweep_at = self.sweep_at.min(self.now.after(self.timing.background_flush));
        }
    }

    pub(super) fn fail_flushes(&mut self, error: IoError) {
        let mut requests = core::mem::take(&mut self.flush_next);
        if let Some(flush) = &mut self.flush {
            requests.append(&mut flush.requests);
        }
        for request in requests {
            self.complete(request, Err(error));
        }
    }

    /// The flush of the last in-sync replica failed: durability cannot be promised, the request fails.
    pub(super) fn fail_flush_of(&mut self, issuer: NodeId, id: FlushId) {
        if issuer == self.node && self.flush.as_ref().is_some_and(|f| f.id == id) {
            self.fail_flushes(IoError::Io);
            self.flush = None;
        }
        // What a failed flush may have dropped from the cache cannot be told: the disk is not to be trusted.
        self.disk.failed = Some(alloc::string::String::from("a flush of the last in-sync replica failed"));
    }
}

//! The replica's side of a write: admission, the interval table of the disk, and what is remembered of it.
//!
//! Who waits for whom: a write waits for disk operations that overlap it (of an older session or epoch, of a pull, of a
//! roll-forward), all of which end by themselves or fail the disk. Nothing on the disk ever waits for a write.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::Replica;
use super::durable::After;
use crate::effect::{Effect, Event};
use crate::ids::{
    BufId, Epoch, FlushId, GrantNumber, Incarnation, IoId, NodeId, ReadId, Round, SessionId, Time, WriteId,
};
use crate::input::{DiskError, Request};
use crate::message::{Message, Refusal, Stamp, Uncommitted, WriteKind};
use crate::meta::MetaUpdate;
use crate::range::{BlockRange, region_blocks, regions};

/// Whose write it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// This node's front end.
    Local,
    /// A peer's, in one session.
    Peer { node: NodeId, session: SessionId },
    /// Reconcile: asked for by the granting node, or done by it (`None`).
    Roll { asked_by: Option<NodeId>, step: ReadId },
}

/// A write on its way to the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApplyWrite {
    pub origin: Origin,
    pub writer: NodeId,
    pub incarnation: Incarnation,
    pub id: WriteId,
    pub grant: GrantNumber,
    pub range: BlockRange,
    pub kind: WriteKind,
    pub durable: bool,
    pub buf: Option<BufId>,
}

/// What a disk operation is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    Write(ApplyWrite),
    /// A piece of a pulled range.
    Pull {
        id: ReadId,
        buf: BufId,
    },
    /// A read of the front end.
    FrontRead(Request),
    /// A read for a peer: answered over its session.
    PeerRead {
        node: NodeId,
        id: ReadId,
        buf: BufId,
    },
    /// A read for a joining replica.
    PullRead {
        node: NodeId,
        round: Round,
        id: ReadId,
        buf: BufId,
    },
    /// A read of this node's block, to be rolled forward.
    RollRead {
        id: ReadId,
        buf: BufId,
    },
    /// A flush that a peer (or this node) issued.
    Flush {
        node: NodeId,
        id: FlushId,
    },
    /// The flush that ends a resync.
    JoinFlush {
        round: Round,
    },
    /// The flush before leaving.
    LeaveFlush,
    /// Digests that a peer asked for.
    DigestFor {
        node: NodeId,
        id: ReadId,
    },
    /// Own digests of a comparison.
    OwnDigest {
        id: ReadId,
    },
}

/// One operation that the disk has not finished.
#[derive(Clone, Debug)]
pub(super) struct DiskOp {
    pub io: IoId,
    pub range: BlockRange,
    pub purpose: Purpose,
    pub started: Time,
    pub epoch: Epoch,
    /// A read that a later write overtook: its data is not to be used.
    pub tainted: bool,
}

impl DiskOp {
    pub fn writes(&self) -> bool {
        matches!(self.purpose, Purpose::Write(_) | Purpose::Pull { .. })
    }
}

/// The interval table of the disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub ops: Vec<DiskOp>,
    /// Reads for others that failed at the last replica, and when they are tried again.
    pub again: Vec<(Time, BlockRange, Purpose)>,
    pub failed: Option<String>,
    /// It failed because a request hung.
    pub hung: bool,
    pub next_io: u64,
}

impl Disk {
    /// True if nothing that writes is under way.
    pub fn is_drained(&self) -> bool {
        !self.ops.iter().any(DiskOp::writes)
    }

    pub fn overlapping_write(&self, range: BlockRange) -> Option<&DiskOp> {
        self.ops.iter().find(|op| op.writes() && op.range.overlaps(range))
    }

    /// What the next operation will be called.
    pub fn next_io(&self) -> IoId {
        IoId(self.next_io + 1)
    }

    pub fn take(&mut self, io: IoId) -> Option<DiskOp> {
        let at = self.ops.iter().position(|op| op.io == io)?;
        Some(self.ops.swap_remove(at))
    }
}

/// Applied writes that are not known to be committed, newest state per block only.
#[derive(Debug, Default)]
pub(super) struct Applied {
    entries: VecDeque<Uncommitted>,
}

impl Applied {
    pub fn iter(&self) -> impl Iterator<Item = &Uncommitted> {
        self.entries.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn overlaps(&self, range: BlockRange) -> bool {
        self.entries.iter().any(|e| e.range.overlaps(range))
    }

    /// Remembers a write. It ends the uncommitted state of older ones over its range: the writer held it until they
    /// were complete.
    pub fn push(&mut self, entry: Uncommitted, keep_older: bool) {
        if !keep_older {
            self.end(entry.range);
        }
        self.entries.push_back(entry);
    }

    /// Ends the uncommitted state over a range, keeping what sticks out of it.
    pub fn end(&mut self, range: BlockRange) {
        if !self.overlaps(range) {
            return;
        }
        let old = core::mem::take(&mut self.entries);
        for entry in old {
            if !entry.range.overlaps(range) {
                self.entries.push_back(entry);
                continue;
            }
            for rest in [BlockRange::new(entry.range.start, range.start), BlockRange::new(range.end, entry.range.end)] {
                if !rest.is_empty() && entry.range.contains(rest) {
                    self.entries.push_back(Uncommitted { range: rest, ..entry });
                }
            }
        }
    }

    /// Writes of this writer below the floor are committed.
    pub fn commit(&mut self, writer: NodeId, incarnation: Incarnation, floor: WriteId) {
        let theirs = |e: &Uncommitted| e.writer == writer && e.incarnation == incarnation && e.id < floor;
        while self.entries.front().is_some_and(theirs) {
            self.entries.pop_front();
        }
        if self.entries.iter().any(theirs) {
            self.entries.retain(|e| !theirs(e));
        }
    }

    pub fn retain(&mut self, keep: impl Fn(&Uncommitted) -> bool) {
        self.entries.retain(keep);
    }
}

impl Replica {
    /// A write of a peer came in.
    pub(super) fn on_write(&mut self, from: NodeId, stamp: Stamp, message: &Message, payload: Option<BufId>) {
        let Message::Write { id, grant, range, kind, durable, floor, flush_floor } = *message else { return };
        let Some(session) = self.peers.get(&from).and_then(|p| p.session) else { return self.release(payload) };
        self.on_commit(from, floor, flush_floor);
        let refused = self.admit(from, session.incarnation, stamp, grant, range);
        if let Err(reason) = refused {
            self.release(payload);
            self.refuse(from, id, reason);
            return;
        }
        if self.disk.failed.is_some() {
            self.release(payload);
            let last = self.view.in_sync == self.view.bit(self.node);
            if last {
                let full = self.disk_full;
                let reason = if full { Refusal::NoSpace } else { Refusal::Disk };
                self.send(from, Message::WriteRefused { id, reason }, None);
            }
            return;
        }
        self.grants.learn(range, &self.view.config.settings, grant, from);
        let origin = Origin::Peer { node: from, session: session.id };
        let incarnation = session.incarnation;
        let write = ApplyWrite { origin, writer: from, incarnation, id, grant, range, kind, durable, buf: payload };
        self.counters.peer_writes += 1;
        self.apply_write(write);
    }

    /// Admission: the actual fence. Session and view were checked when the frame was taken.
    fn admit(
        &self,
        from: NodeId,
        incarnation: Incarnation,
        stamp: Stamp,
        grant: GrantNumber,
        range: BlockRange,
    ) -> Result<(), Refusal> {
        if stamp.epoch < self.view.config.epoch || stamp.left != self.view.left_bits || self.adopting.is_some() {
            return Err(Refusal::Stale);
        }
        if !self.view.is_written(self.node, self.incarnation) || self.leaving.marked {
            return Err(Refusal::NotReplica);
        }
        if !self.view.is_writer(from, incarnation) {
            return Err(Refusal::NotWriter);
        }
        if range.is_empty() || range.end > self.view.config.size_blocks {
            return Err(Refusal::OutOfRange);
        }
        if !self.grants.admits(range, &self.view.config.settings, grant, from) {
            return Err(Refusal::Grant);
        }
        let other_writer = |w: &ApplyWrite| w.writer != from && w.range.overlaps(range);
        let in_flight = self.disk.ops.iter().any(|op| {
            matches!(&op.purpose, Purpose::Write(w) if other_writer(w) && !matches!(w.origin, Origin::Roll { .. }))
                && op.epoch == self.view.config.epoch
        });
        if in_flight {
            return Err(Refusal::Overlap);
        }
        Ok(())
    }

    fn refuse(&mut self, from: NodeId, id: WriteId, reason: Refusal) {
        self.counters.stale_refused += 1;
        self.out.push(Effect::Event(Event::Refused { node: from, reason }));
        self.send(from, Message::WriteRefused { id, reason }, None);
        if matches!(reason, Refusal::Stale | Refusal::NotWriter | Refusal::NotReplica) {
            self.send_installed(from);
        }
    }

    /// Applies an admitted write as soon as intent is durable and nothing on the disk overlaps it.
    pub(super) fn apply_write(&mut self, write: ApplyWrite) {
        let waits = self.held.iter().any(|h| h.range.overlaps(write.range));
        if waits || !self.may_start(&write) {
            self.held.push_back(write);
            return;
        }
        self.start_write(write);
    }

    fn may_start(&mut self, write: &ApplyWrite) -> bool {
        let intent = self.ensure_intent(write.range);
        let beside_pull = self.broken(broken!(PullBesideWrite));
        let free = match self.disk.overlapping_write(write.range) {
            None => true,
            Some(op) => beside_pull && matches!(op.purpose, Purpose::Pull { .. }),
        };
        intent && free
    }

    /// Starts held writes that may start now, in order.
    pub(super) fn start_held_writes(&mut self) {
        let mut at = 0;
        while at < self.held.len() {
            let write = self.held[at];
            let behind = self.held.iter().take(at).any(|h| h.range.overlaps(write.range));
            if !behind && self.may_start(&write) {
                self.held.remove(at);
                self.start_write(write);
            } else {
                at += 1;
            }
        }
    }

    /// Frames of an older session or view are never applied: what was held of them is dropped.
    pub(super) fn drop_held(&mut self, dropped: impl Fn(&ApplyWrite) -> bool) {
        if !self.held.iter().any(&dropped) {
            return;
        }
        let held = core::mem::take(&mut self.held);
        for write in held {
            if dropped(&write) {
                if !matches!(write.origin, Origin::Local) {
                    self.release(write.buf);
                }
            } else {
                self.held.push_back(write);
            }
        }
    }

    fn start_write(&mut self, write: ApplyWrite) {
        let range = write.range;
        self.note_unconfirmed(range, write.writer);
        self.note_touched(range);
        let rolled_own = matches!(write.origin, Origin::Roll { .. });
        let copy_of_granter = rolled_own && write.id == WriteId(0);
        if copy_of_granter {
            self.applied.end(range);
        } else if !matches!(write.origin, Origin::Local) {
            let ApplyWrite { writer, incarnation, grant, id, .. } = write;
            let keep_older = self.broken(broken!(OlderUncommittedReported));
            self.applied.push(Uncommitted { range, writer, incarnation, grant, id }, keep_older);
        }
        if !self.broken(broken!(ReadOvertaken)) {
            for op in self.disk.ops.iter_mut().filter(|op| op.range.overlaps(range)) {
                op.tainted = true;
            }
        }
        if self.broken(broken!(AckBeforeDisk))
            && let Origin::Peer { node, .. } = write.origin
        {
            self.send(node, Message::WriteAck { id: write.id }, None);
        }
        let io = self.begin_io(range, Purpose::Write(write));
        let durable = write.durable;
        self.out.push(match (write.kind, write.buf) {
            (WriteKind::Data, Some(buf)) => Effect::DiskWrite { io, range, buf, offset: 0, durable },
            (kind, _) => Effect::DiskZero { io, range, discard: kind == WriteKind::Discard, durable },
        });
    }

    pub(super) fn begin_io(&mut self, range: BlockRange, purpose: Purpose) -> IoId {
        self.disk.next_io += 1;
        let io = IoId(self.disk.next_io);
        let epoch = self.view.config.epoch;
        self.disk.ops.push(DiskOp { io, range, purpose, started: self.now, epoch, tainted: false });
        io
    }

    /// True if the write intent of every region of the range is durable; asks for it otherwise.
    pub(super) fn ensure_intent(&mut self, range: BlockRange) -> bool {
        let unit = region_blocks(self.view.config.size_blocks);
        let mut missing = Vec::new();
        let mut durable = true;
        for region in regions(range, unit) {
            self.region_used.insert(region, self.now);
            if !self.meta.intent.contains(&region) {
                missing.push(region);
            } else if !self.intent_pending.is_empty()
                && let Some(token) = self.intent_pending.get(&region)
                && *token > self.durable
            {
                durable = false;
            }
        }
        if missing.is_empty() {
            return durable;
        }
        let regions = missing.clone();
        self.persist(Vec::from([MetaUpdate::IntentSet(missing)]), Some(After::Intent));
        for region in regions {
            self.intent_pending.insert(region, self.persisting);
        }
        self.meta_lost
    }

    /// A write on the disk ended well.
    pub(super) fn on_write_done(&mut self, write: &ApplyWrite) {
        match write.origin {
            Origin::Local => self.on_local_write_done(write.id),
            Origin::Peer { node, session } => {
                self.release(write.buf);
                // In a newer session the writer has sent it again: that copy lands after this one, and is what counts as applied.
                let current = self.peers.get(&node).and_then(|p| p.session).is_some_and(|s| s.id == session);
                let counts = current || self.broken(broken!(AckOfOldSession));
                if counts && !self.broken(broken!(AckBeforeDisk)) {
                    self.send(node, Message::WriteAck { id: write.id }, None);
                }
            }
            Origin::Roll { asked_by, step } => {
                self.release(write.buf);
                match asked_by {
                    Some(node) => self.send(node, Message::RollForwardAck { id: step }, None),
                    None => self.on_roll_ack(self.node, step),
                }
            }
        }
        self.start_held_writes();
        self.submit_pulls();
    }

    /// The disk failed a request: the replica has failed, at once and for good.
    pub(super) fn on_disk_error(&mut self, op: DiskOp, error: DiskError) {
        let full = error == DiskError::NoSpace;
        let last = self.view.in_sync == self.view.bit(self.node) && self.view.is_in_sync(self.node, self.incarnation);
        let reads = matches!(op.purpose, Purpose::FrontRead(_) | Purpose::PeerRead { .. });
        if last && !self.broken(broken!(LastReplicaLeaves)) {
            // The last in-sync replica never leaves: the request fails.
            self.fail_request_of(op, full);
            return;
        }
        let reason = match (full, reads) {
            (true, _) => "the pool is full",
            (false, true) => "a read failed",
            (false, false) => "a write or flush failed",
        };
        self.disk.ops.push(op);
        self.fail_disk(reason, full);
    }

    /// Fails the local replica. Reads go on through peers; it leaves `in_sync` by a swap before anything completes.
    pub(super) fn fail_disk(&mut self, reason: &str, full: bool) {
        if self.disk.failed.is_some() || !self.meta.has_data {
            return;
        }
        self.disk.failed = Some(String::from(reason));
        self.disk_full = full;
        self.attention = true;
        self.out.push(Effect::Event(Event::ReplicaFailed { reason: String::from(reason) }));
        if !full && !self.meta_lost {
            self.persist(Vec::from([MetaUpdate::Failed(String::from(reason))]), None);
        }
        self.drop_held(|_| true);
        let ops = core::mem::take(&mut self.disk.ops);
        for op in ops {
            self.abandon(op);
        }
        self.stop_join();
        self.reads_lost_disk();
    }

    /// A disk operation that will not be waited for any more.
    fn abandon(&mut self, op: DiskOp) {
        let stale = self.is_of_earlier_epoch(&op);
        match op.purpose {
            Purpose::Write(write) if !matches!(write.origin, Origin::Local) => self.release(write.buf),
            Purpose::FrontRead(request) => self.redirect_read(request),
            Purpose::PeerRead { node, id, buf } => {
                self.release(Some(buf));
                if !stale {
                    self.send(node, Message::ReadRefused { id, reason: Refusal::Disk }, None);
                }
            }
            Purpose::PullRead { buf, .. } | Purpose::RollRead { buf, .. } => self.release(Some(buf)),
            _ => {}
        }
    }

    /// Maintenance: reads for others that failed at the last replica are tried again.
    pub(super) fn retry_reads_for_others(&mut self) {
        if self.disk.again.is_empty() {
            return;
        }
        let now = self.now;
        let (due, later) = core::mem::take(&mut self.disk.again).into_iter().partition(|(at, ..)| *at <= now);
        self.disk.again = later;
        let due: Vec<(Time, BlockRange, Purpose)> = due;
        for (_, range, purpose) in due {
            let buf = match purpose {
                Purpose::PullRead { buf, .. } | Purpose::RollRead { buf, .. } => Some(buf),
                _ => None,
            };
            if self.disk.failed.is_some() {
                self.release(buf);
                continue;
            }
            let io = self.begin_io(range, purpose);
            self.out.push(match buf {
                Some(buf) => Effect::DiskRead { io, range, buf },
                None => Effect::DiskDigest { io, range },
            });
        }
    }

    /// Maintenance: a disk request that hangs fails the replica, and so does metadata that does not become durable.
    pub(super) fn check_disk(&mut self) {
        if self.broken(broken!(HangingDiskIgnored)) || !self.meta.has_data {
            return;
        }
        // The last in-sync replica never leaves: what hangs there is waited for.
        let last = self.view.in_sync == self.view.bit(self.node) && self.view.is_in_sync(self.node, self.incarnation);
        let data = self.disk.ops.iter().any(|op| self.now.since(op.started) >= self.timing.disk_hang);
        // Behind a data request that hung metadata will hang too.
        let patience = if self.disk.hung { self.timing.suspect } else { self.timing.disk_hang };
        let meta = self.durable < self.persisting && !self.meta_lost && self.now.since(self.persist_since) >= patience;
        if last {
            return;
        }
        if data {
            self.disk.hung = true;
            self.fail_disk("a disk request hangs", false);
        }
        if meta {
            self.on_persist_failed();
        }
    }
}

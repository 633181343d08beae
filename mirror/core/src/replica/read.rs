//! Reads: local where this replica may, through a peer otherwise; never of what is uncommitted.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::Replica;
use super::apply::{DiskOp, Purpose};
use crate::effect::Effect;
use crate::ids::{BufId, IoId, NodeId, ReadId, RequestId, Time};
use crate::input::{DiskError, IoError, Request};
use crate::message::{Message, Refusal};
use crate::range::BlockRange;

/// A read of the front end that a peer serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct RemoteRead {
    pub id: ReadId,
    pub request: Request,
    pub node: NodeId,
    pub tainted: bool,
}

/// A read of a peer that waits for a commit, or for read permission.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerRead {
    pub node: NodeId,
    pub id: ReadId,
    pub range: BlockRange,
}

/// Reads under way beside the disk's own table.
#[derive(Debug, Default)]
pub(super) struct Reads {
    pub remote: Vec<RemoteRead>,
    pub from_peers: VecDeque<PeerRead>,
    /// Reads of the front end that a write has overtaken: writes of this node let them end first, or a steady load could
    /// overtake them for ever.
    pub overtaken: Vec<Request>,
    /// Until when every other in-sync member lets this one read.
    pub permitted_until: Time,
    next: u64,
    next_buf: u64,
}

impl Replica {
    pub(super) fn next_read_id(&mut self) -> ReadId {
        self.reads.next += 1;
        ReadId(self.reads.next)
    }

    /// A buffer that the shell provides at its first mention.
    pub(super) fn new_buf(&mut self) -> BufId {
        self.reads.next_buf += 1;
        BufId(BufId::CORE + self.reads.next_buf)
    }

    /// True if the local data may be read now: in sync, settled, and permitted by every other replica.
    fn may_read_locally(&self) -> bool {
        self.disk.failed.is_none()
            && self.view.is_in_sync(self.node, self.incarnation)
            && self.reports_in
            && self.adopting.is_none()
            && !self.leaving.marked
            && self.reads.permitted_until > self.now
    }

    /// Recomputes until when reading is permitted. Joining replicas are asked too: one may have entered, and taken this
    /// member out, without its knowledge.
    pub(super) fn permission_changed(&mut self) {
        let from_one = self.broken(broken!(ReadPermissionFromOne));
        let others = self.view.nodes(self.view.written()).filter(|n| *n != self.node);
        let until = others.map(|n| {
            let permitted = self.peers.get(&n).and_then(|p| p.permitted);
            permitted.map_or(Time(0), |at| at.after(self.timing.read_permission))
        });
        let until = if from_one { until.max() } else { until.min() };
        let before = self.reads.permitted_until;
        self.reads.permitted_until = until.unwrap_or(Time::NEVER);
        if before <= self.now && self.reads.permitted_until > self.now {
            self.serve_peer_reads();
            self.serve_waiting();
        }
    }

    /// True if an uncommitted write, or one that is to be reconciled, lies over the range.
    fn is_unsettled(&self, range: BlockRange) -> bool {
        let uncommitted = self.applied.overlaps(range) && !self.broken(broken!(ReadOfUncommitted));
        uncommitted || self.blocked.intersects(range) && !self.broken(broken!(IntentReadBeforeReconcile))
    }

    pub(super) fn try_read(&mut self, request: Request) -> bool {
        let range = request.range;
        let own = self.window.overlaps(range) && !self.broken(broken!(ReadOfUncommitted));
        let blocked = self.blocked.intersects(range) && !self.broken(broken!(IntentReadBeforeReconcile));
        if own || self.adopting.is_some() || !self.reports_in || blocked {
            return false;
        }
        if self.disk.failed.is_none() && self.view.is_in_sync(self.node, self.incarnation) {
            if !self.may_read_locally() {
                return false;
            }
            if self.is_unsettled(range) {
                self.want_commit();
                return false;
            }
            self.start_local_read(request);
            return true;
        }
        self.start_remote_read(request)
    }

    fn start_local_read(&mut self, request: Request) {
        let io = self.begin_io(request.range, Purpose::FrontRead(request));
        self.out.push(Effect::DiskRead { io, range: request.range, buf: request.buf });
    }

    fn start_remote_read(&mut self, request: Request) -> bool {
        let source = self.view.nodes(self.view.in_sync).find(|n| *n != self.node && self.session_is_listed(*n));
        let Some(node) = source else { return false };
        if self.reads.remote.iter().any(|r| r.request.id == request.id) {
            return true;
        }
        let id = self.next_read_id();
        self.reads.remote.push(RemoteRead { id, request, node, tainted: false });
        self.counters.remote_reads += 1;
        self.send(node, Message::Read { id, range: request.range }, None);
        true
    }

    /// A read of the front end came back from the disk.
    pub(super) fn on_front_read_done(&mut self, op: &DiskOp, request: Request, result: Result<(), DiskError>) {
        match result {
            Ok(()) if op.tainted => self.on_overtaken(request),
            Ok(()) if !self.may_read_locally() => self.on_again(request),
            Ok(()) => self.complete(request.id, Ok(())),
            Err(_) => unreachable!("errors of the disk are handled before"),
        }
    }

    /// A request ends: what it held back goes on.
    pub(super) fn forget_overtaken(&mut self, request: RequestId) {
        let before = self.reads.overtaken.len();
        self.reads.overtaken.retain(|read| read.id != request);
        self.again |= self.reads.overtaken.len() != before;
    }

    fn on_overtaken(&mut self, request: Request) {
        if !self.reads.overtaken.iter().any(|read| read.id == request.id) {
            self.reads.overtaken.push(request);
        }
        self.on_again(request);
    }

    /// True if a read of this range was overtaken already, and has not ended yet.
    pub(super) fn holds_writes_back(&self, range: BlockRange) -> bool {
        self.reads.overtaken.iter().any(|read| read.range.overlaps(range))
    }

    /// A read has to be repeated: a write overtook it, or the permission it ran under is gone.
    fn on_again(&mut self, request: Request) {
        if self.fenced || !self.is_attached_here() {
            return self.complete(request.id, Err(IoError::Io));
        }
        // It is older than whatever waits.
        self.waiting.push_front(request);
        self.again = true;
    }

    /// The local disk is gone: reads of it go on through a peer.
    pub(super) fn reads_lost_disk(&mut self) {
        self.again = true;
        self.serve_peer_reads();
    }

    /// A read on the failed disk: it goes on through a peer.
    pub(super) fn redirect_read(&mut self, request: Request) {
        self.on_again(request);
    }

    /// A write of this node makes reads that a peer serves over the same blocks repeat.
    pub(super) fn taint_remote_reads(&mut self, range: BlockRange) {
        if self.broken(broken!(ReadOvertaken)) {
            return;
        }
        for read in self.reads.remote.iter_mut().filter(|r| r.request.range.overlaps(range)) {
            read.tainted = true;
        }
    }

    /// Asks the writers to say what is committed.
    pub(super) fn want_commit(&mut self) {
        if self.commit_asked_at.after(self.timing.commit_delay) > self.now {
            return;
        }
        self.commit_asked_at = self.now;
        let writers: Vec<NodeId> = self.view.config.writers().map(|(n, _)| n).collect();
        let me = self.node;
        for writer in writers.into_iter().filter(|n| *n != me) {
            self.send(writer, Message::CommitWanted, None);
        }
    }

    /// A peer wants to read here.
    pub(super) fn on_read(&mut self, node: NodeId, id: ReadId, range: BlockRange) {
        if range.is_empty() || range.end > self.view.config.size_blocks {
            return self.send(node, Message::ReadRefused { id, reason: Refusal::OutOfRange }, None);
        }
        self.reads.from_peers.push_back(PeerRead { node, id, range });
        self.serve_peer_reads();
    }

    /// Serves reads of peers that need not wait any more.
    pub(super) fn serve_peer_reads(&mut self) {
        if self.reads.from_peers.is_empty() {
            return;
        }
        let reads = core::mem::take(&mut self.reads.from_peers);
        for read in reads {
            let PeerRead { node, id, range } = read;
            let hopeless =
                self.disk.failed.is_some() || !self.view.is_in_sync(self.node, self.incarnation) || self.leaving.marked;
            if hopeless {
                let reason = if self.disk.failed.is_some() { Refusal::Disk } else { Refusal::NotReplica };
                self.send(node, Message::ReadRefused { id, reason }, None);
                continue;
            }
            // The reader does not ask for what its own writes still cover.
            let foreign = self.applied.iter().any(|e| e.range.overlaps(range) && e.writer != node)
                && !self.broken(broken!(ReadOfUncommitted));
            let own_window = self.window.overlaps(range);
            let blocked = self.blocked.intersects(range) && !self.broken(broken!(IntentReadBeforeReconcile));
            if !self.may_read_locally() || foreign || own_window || blocked {
                if foreign {
                    self.want_commit();
                }
                self.reads.from_peers.push_back(read);
                continue;
            }
            let buf = self.new_buf();
            let io = self.begin_io(range, Purpose::PeerRead { node, id, buf });
            self.out.push(Effect::DiskRead { io, range, buf });
        }
    }

    pub(super) fn on_peer_read_done(&mut self, op: &DiskOp, node: NodeId, id: ReadId, buf: BufId) {
        if op.tainted || !self.may_read_locally() {
            self.release(Some(buf));
            self.reads.from_peers.push_back(PeerRead { node, id, range: op.range });
            self.again = true;
            return;
        }
        self.counters.peer_reads += 1;
        self.send(node, Message::ReadReply { id, range: op.range }, Some(buf));
        self.release(Some(buf));
    }

    /// A peer served a read of the front end.
    pub(super) fn on_read_reply(&mut self, from: NodeId, id: ReadId, payload: Option<BufId>) {
        let at = self.reads.remote.iter().position(|r| r.id == id && r.node == from);
        if let Some(at) = at {
            let read = self.reads.remote.swap_remove(at);
            match payload {
                Some(buf) if !read.tainted => {
                    self.out.push(Effect::CopyToRequest { to: read.request.buf, from: buf });
                    self.complete(read.request.id, Ok(()));
                }
                _ => self.on_overtaken(read.request),
            }
        }
        self.release(payload);
    }

    pub(super) fn on_read_refused(&mut self, from: NodeId, id: ReadId, reason: Refusal) {
        if let Some(at) = self.reads.remote.iter().position(|r| r.id == id && r.node == from) {
            let read = self.reads.remote.swap_remove(at);
            let last = self.view.in_sync == self.view.bit(from);
            match reason {
                Refusal::OutOfRange => self.complete(read.request.id, Err(IoError::OutOfRange)),
                Refusal::Disk if last => self.complete(read.request.id, Err(IoError::Io)),
                _ => {
                    // Tried again with the next tick: the view is about to change.
                    self.waiting.push_front(read.request);
                    self.retry_at = self.retry_at.min(self.now.after(self.timing.heartbeat));
                }
            }
        }
    }

    /// Reads that a peer was to serve over a session, or in a view, that is gone are asked anew.
    pub(super) fn retry_remote_reads(&mut self, of: Option<NodeId>) {
        let remote = core::mem::take(&mut self.reads.remote);
        for read in remote {
            if of.is_none_or(|n| n == read.node) {
                // It is older than whatever waits, and writes may wait for it.
                self.waiting.push_front(read.request);
                self.again = true;
            } else {
                self.reads.remote.push(read);
            }
        }
    }

    pub(super) fn fail_reads(&mut self, error: IoError) {
        let remote = core::mem::take(&mut self.reads.remote);
        for read in remote {
            self.complete(read.request.id, Err(error));
        }
    }

    pub(super) fn is_of_earlier_epoch(&self, op: &DiskOp) -> bool {
        op.epoch != self.view.config.epoch
    }

    /// A disk operation ended.
    pub(super) fn on_disk_done(&mut self, io: IoId, result: Result<(), DiskError>) {
        let Some(op) = self.disk.take(io) else { return };
        if let Err(error) = result {
            if let Purpose::FrontRead(request) = op.purpose {
                let last = self.view.in_sync == self.view.bit(self.node);
                if !last {
                    self.redirect_read(request);
                    return self.fail_disk("a read failed", false);
                }
            }
            return self.on_disk_error(op, error);
        }
        // Who asked in an earlier epoch asks again; its next run may use the same numbers for something else.
        let stale = self.is_of_earlier_epoch(&op);
        match op.purpose.clone() {
            Purpose::PeerRead { buf, .. } | Purpose::PullRead { buf, .. } if stale => self.release(Some(buf)),
            Purpose::Flush { node, .. } if stale && node != self.node => {}
            Purpose::Write(write) => {
                self.on_write_done(&write);
                self.flush_pulled();
            }
            Purpose::Pull { id, buf } => self.on_pull_written(id, buf),
            Purpose::FrontRead(request) => self.on_front_read_done(&op, request, result),
            Purpose::PeerRead { node, id, buf } => self.on_peer_read_done(&op, node, id, buf),
            Purpose::PullRead { node, round, id, buf } => self.on_pull_read(&op, node, round, id, buf),
            Purpose::RollRead { id, buf } => self.on_roll_read(id, buf),
            Purpose::Flush { node, id } => self.on_disk_flushed(node, id),
            Purpose::JoinFlush { round } => self.on_join_flushed(round),
            Purpose::LeaveFlush => self.on_leave_flushed(),
            Purpose::DigestFor { .. } | Purpose::OwnDigest { .. } => {}
        }
    }
}

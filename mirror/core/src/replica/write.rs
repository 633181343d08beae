//! The writer's side: requests of the front end become in-flight writes, and complete when all have acknowledged.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::Replica;
use super::apply::{ApplyWrite, DiskOp, Origin, Purpose};
use super::view::{Slots, View};
use crate::config::{Ack, Attachment, Config};
use crate::effect::{Effect, Event};
use crate::ids::{BufId, FlushId, GrantNumber, NodeId, RequestId, Time, WriteId};
use crate::input::{IoError, Op, Request};
use crate::message::{Message, Refusal, Uncommitted, WriteKind};
use crate::range::BlockRange;

/// A write that not everybody has acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    /// `None` once the front end was told that it failed.
    pub request: Option<RequestId>,
    pub range: BlockRange,
    pub kind: WriteKind,
    pub durable: bool,
    pub buf: Option<BufId>,
    pub grant: GrantNumber,
    pub acked: Slots,
    pub sent: Slots,
    pub started: Time,
}

/// In-flight writes by number: a window from the commit floor on.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Number of the first entry.
    floor: WriteId,
    /// The first write that was given up although not everybody has it: nothing from it on may be called committed until
    /// a reconcile has settled what of it is where.
    pub given_up: Option<WriteId>,
    entries: VecDeque<Option<InFlight>>,
}

impl Window {
    /// Every write below this is committed.
    pub fn commit_floor(&self) -> WriteId {
        self.given_up.map_or(self.floor, |id| id.min(self.floor))
    }

    /// Removes a write that will not be sent again.
    pub fn give_up(&mut self, id: WriteId) -> Option<InFlight> {
        let given_up = self.take(id);
        if given_up.is_some() {
            self.given_up = Some(self.given_up.map_or(id, |first| first.min(id)));
        }
        given_up
    }

    pub fn next_id(&self) -> WriteId {
        WriteId(self.floor.0 + self.entries.len() as u64)
    }

    pub fn push(&mut self, write: InFlight) -> WriteId {
        let id = self.next_id();
        self.entries.push_back(Some(write));
        id
    }

    pub fn get_mut(&mut self, id: WriteId) -> Option<&mut InFlight> {
        let at = id.0.checked_sub(self.floor.0)?;
        self.entries.get_mut(usize::try_from(at).ok()?)?.as_mut()
    }

    pub fn take(&mut self, id: WriteId) -> Option<InFlight> {
        let at = usize::try_from(id.0.checked_sub(self.floor.0)?).ok()?;
        let taken = self.entries.get_mut(at)?.take();
        while self.entries.front().is_some_and(Option::is_none) {
            self.entries.pop_front();
            self.floor.0 += 1;
        }
        taken
    }

    pub fn overlaps(&self, range: BlockRange) -> bool {
        self.entries.iter().flatten().any(|w| w.range.overlaps(range))
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The write in flight, if there is one and no other.
    pub fn only(&self) -> Option<&InFlight> {
        self.entries.front()?.as_ref().filter(|_| self.entries.len() == 1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (WriteId, &InFlight)> {
        let floor = self.floor.0;
        (0u64..).zip(&self.entries).filter_map(move |(at, w)| w.as_ref().map(|w| (WriteId(floor + at), w)))
    }

    /// Gives every write this much more time.
    pub fn shift(&mut self, nanos: u64) {
        for write in self.entries.iter_mut().flatten() {
            write.started = write.started.after(nanos);
        }
    }

    /// Places in the list of replicas have changed.
    pub fn renumber(&mut self, moved: impl Fn(Slots) -> Slots) {
        for write in self.entries.iter_mut().flatten() {
            write.acked = moved(write.acked);
            write.sent = moved(write.sent);
        }
    }

    pub fn ids(&self) -> Vec<WriteId> {
        self.iter().map(|(id, _)| id).collect()
    }
}

impl Replica {
    /// Acknowledgements of peers that a single write waits for beside that of the own disk; 0 unless exactly one write is in
    /// flight, and neither has come. Nothing can be done about that write before all of them are there, which is what a shell
    /// may use to sleep through the first of them.
    #[must_use]
    pub fn awaited_together(&self) -> u32 {
        let me = self.view.bit(self.node);
        let awaited = self.window.only().map_or(0, |write| write.sent & !write.acked);
        if awaited & me == 0 { 0 } else { (awaited & !me).count_ones() }
    }

    /// A request of the front end.
    pub(super) fn on_request(&mut self, request: Request) {
        self.front_seen = true;
        match request.op {
            Op::Read => self.counters.front_reads += 1,
            Op::Flush => self.counters.front_flushes += 1,
            _ => self.counters.front_writes += 1,
        }
        let writes = !matches!(request.op, Op::Read | Op::Flush);
        if self.is_recovering() {
            // The front end outlived the engine: its requests wait until it is decided whether they may be issued again.
            return self.waiting.push_back(request);
        }
        let refused = if self.fenced || !self.is_attached_here() {
            Some(IoError::Io)
        } else if request.op != Op::Flush
            && (request.range.is_empty() || request.range.end > self.view.config.size_blocks)
        {
            Some(IoError::OutOfRange)
        } else if writes && !self.is_writer() {
            Some(IoError::ReadOnly)
        } else {
            None
        };
        if let Some(error) = refused {
            if writes {
                self.release(Some(request.buf));
            }
            return self.complete(request.id, Err(error));
        }
        if !self.waiting.is_empty() && self.waiting.iter().any(|w| conflict(w, &request)) || !self.try_request(request)
        {
            self.waiting.push_back(request);
        }
    }

    /// True if an earlier run of this node is listed with a front end that survives restarts: the one before, until this run has taken its
    /// place. What is durable names this run already while the configuration that lists it is being adopted.
    pub(super) fn is_recovering(&self) -> bool {
        let adopted = self.adopting.as_ref().is_some_and(|it| it.view.is_attached(self.node, self.incarnation));
        let recovers = |own: &Attachment| {
            let before = own.incarnation == self.meta.incarnation || adopted;
            own.recoverable && own.incarnation != self.incarnation && before
        };
        !self.fenced && self.view.config.attached.get(&self.node).is_some_and(recovers)
    }

    /// True if this run is listed as attached.
    pub(super) fn is_attached_here(&self) -> bool {
        self.view.is_attached(self.node, self.incarnation)
    }

    /// Starts the request unless it has to wait.
    fn try_request(&mut self, request: Request) -> bool {
        match request.op {
            Op::Read => self.try_read(request),
            Op::Flush => self.try_flush(request.id),
            Op::Write { fua } => self.try_write(request, WriteKind::Data, fua),
            Op::WriteZeroes { fua } => self.try_write(request, WriteKind::Zeroes, fua),
            Op::Discard => self.try_write(request, WriteKind::Discard, false),
        }
    }

    /// Starts whatever waited and need not any more, in order per block.
    pub(super) fn serve_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut rest = core::mem::take(&mut self.waiting);
        let mut kept: VecDeque<Request> = VecDeque::new();
        while let Some(request) = rest.pop_front() {
            if kept.iter().any(|w| conflict(w, &request)) || !self.try_request(request) {
                kept.push_back(request);
            }
        }
        // Requests that completed reads put back meanwhile come behind.
        kept.append(&mut self.waiting);
        self.waiting = kept;
    }

    fn try_write(&mut self, request: Request, kind: WriteKind, fua: bool) -> bool {
        let range = request.range;
        if self.adopting.is_some() || !self.reports_in || self.view.written() == 0 {
            return false;
        }
        let any = self.broken(broken!(AnyExtentIsEnough)) && self.is_shared();
        let covering = match any && self.grants.holder.touches(range) {
            true => Some(self.grants.holder.number),
            false => self.grants.covering(range, &self.view.config.settings),
        };
        let Some(grant) = covering else {
            self.want_grant(range);
            return false;
        };
        if self.shards().is_some() && !self.grants.admits(range, &self.view.config.settings, grant, self.node) {
            self.lease_refused(range);
            return false;
        }
        if self.window.overlaps(range) || self.blocked.intersects(range) || self.holds_writes_back(range) {
            return false;
        }
        let durable = fua || self.view.config.settings.ack == Ack::Durable;
        let buf = (kind == WriteKind::Data).then_some(request.buf);
        if buf.is_none() {
            self.release(Some(request.buf));
        }
        let write = InFlight {
            request: Some(request.id),
            range,
            kind,
            durable,
            buf,
            grant,
            acked: 0,
            sent: 0,
            started: self.now,
        };
        let id = self.window.push(write);
        if self.has_ranges() {
            self.grants.note_write(range, &self.view.config.settings, grant, self.now);
        }
        self.taint_remote_reads(range);
        self.send_write(id);
        true
    }

    /// Sends an in-flight write to everybody who has neither acknowledged nor received it in this session and view.
    fn send_write(&mut self, id: WriteId) {
        let floor = self.window.commit_floor();
        let flush_floor = self.flush_floor();
        let needed = self.view.written();
        let renewed = self.has_ranges() && !self.broken(broken!(ResentUnderOldNumber));
        let Some(write) = self.window.get_mut(id) else { return };
        // What is sent again goes under the number that newer writes of the extent may have gone under already.
        if renewed {
            write.grant = write.grant.max(self.grants.number_of(write.range, &self.view.config.settings));
        }
        let todo = needed & !write.acked & !write.sent;
        let copy = *write;
        for slot in 0..Config::REPLICAS_MAX {
            if todo >> slot & 1 == 0 {
                continue;
            }
            let Some(node) = self.view.config.replicas.iter().nth(slot).copied() else { continue };
            if node == self.node {
                self.mark_sent(id, slot);
                self.apply_local(id, &copy);
                continue;
            }
            if !self.session_is_listed(node) {
                continue;
            }
            self.mark_sent(id, slot);
            let InFlight { grant, range, kind, durable, .. } = copy;
            let message = Message::Write { id, grant, range, kind, durable, floor, flush_floor };
            self.send(node, message, copy.buf);
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.told = (floor, flush_floor);
            }
        }
        let told = |n: NodeId| n == self.node || self.peers.get(&n).is_some_and(|p| p.told == (floor, flush_floor));
        if self.view.nodes(needed).all(told) {
            // The write carried it: no frame of its own is due.
            self.commit_at = Time::NEVER;
        }
    }

    fn mark_sent(&mut self, id: WriteId, slot: usize) {
        if let Some(write) = self.window.get_mut(id) {
            write.sent |= 1 << slot;
        }
    }

    /// True if the open session with this node is with the run that the view lists.
    pub(super) fn session_is_listed(&self, node: NodeId) -> bool {
        let session = self.peers.get(&node).and_then(|p| p.session).map(|s| s.incarnation);
        session.is_some() && session == self.view.config.incarnation_of(node)
    }

    fn apply_local(&mut self, id: WriteId, write: &InFlight) {
        if self.disk.failed.is_some() {
            return;
        }
        // A replica refuses what is below its own node's number as well.
        self.grants.learn(write.range, &self.view.config.settings, write.grant, self.node);
        self.apply_write(ApplyWrite {
            origin: Origin::Local,
            writer: self.node,
            incarnation: self.incarnation,
            id,
            grant: write.grant,
            range: write.range,
            kind: write.kind,
            durable: write.durable,
            buf: write.buf,
        });
    }

    pub(super) fn on_local_write_done(&mut self, id: WriteId) {
        let bit = self.view.bit(self.node);
        self.acknowledged(id, bit);
    }

    pub(super) fn on_write_ack(&mut self, from: NodeId, id: WriteId) {
        let bit = self.view.bit(from);
        self.acknowledged(id, bit);
    }

    fn acknowledged(&mut self, id: WriteId, bit: Slots) {
        let needed = self.view.written();
        let Some(write) = self.window.get_mut(id) else { return };
        write.acked |= bit;
        if self.enough(needed, id) && self.may_complete() {
            self.complete_write(id);
            self.serve_waiting();
        }
    }

    fn enough(&self, needed: Slots, id: WriteId) -> bool {
        let needed = if self.broken(broken!(JoiningDroppedWithoutSwap)) { self.view.in_sync } else { needed };
        self.window.iter().find(|(i, _)| *i == id).is_some_and(|(_, w)| w.acked & needed == needed && needed != 0)
    }

    fn complete_write(&mut self, id: WriteId) {
        let Some(write) = self.window.take(id) else { return };
        self.release(write.buf);
        if let Some(request) = write.request {
            self.complete(request, Ok(()));
        }
        // A range may have been drained by it.
        self.attention |= self.grants.holder.is_draining();
        // Reads of peers that it held back.
        self.again |= !self.reads.from_peers.is_empty();
        if !self.broken(broken!(CommitNeverSent)) {
            self.commit_at = self.commit_at.min(self.now.after(self.timing.commit_delay));
        }
    }

    /// Completes whatever everybody has acknowledged, where it could not before.
    pub(super) fn complete_ready(&mut self) {
        if self.window.is_empty() && self.flush.is_none() || !self.may_complete() {
            return;
        }
        let needed = self.view.written();
        let mut any = false;
        for id in self.window.ids() {
            if self.enough(needed, id) {
                self.complete_write(id);
                any = true;
            }
        }
        self.try_complete_flush();
        if any {
            self.serve_waiting();
        }
    }

    /// A new view: acknowledgements of those who stayed count; everybody else gets the write again.
    pub(super) fn reissue_in_flight(&mut self, old: &View) {
        self.forget_failed();
        // Who may have been out and back in between has to acknowledge again.
        let next = self.view.config.epoch.0 <= old.config.epoch.0 + 1;
        let stayed = match next {
            true => self.view.written() & self.view.slots_of(old.nodes(old.written())),
            false => self.view.in_sync & self.view.slots_of(old.nodes(old.in_sync)),
        };
        // A joining replica begins a new round with nothing touched: what it applied before it would pull over.
        let view = stayed & !self.view.joining;
        let me = self.view.bit(self.node);
        let now = self.now;
        for id in self.window.ids() {
            let on_disk = self.held.iter().any(|h| h.origin == Origin::Local && h.id == id)
                || self
                    .disk
                    .ops
                    .iter()
                    .any(|op| matches!(&op.purpose, Purpose::Write(w) if w.origin == Origin::Local && w.id == id));
            let joining = if self.broken(broken!(InFlightNotSentToJoining)) { self.view.joining } else { 0 };
            if let Some(write) = self.window.get_mut(id) {
                // Who comes new has as long as anybody to acknowledge it.
                write.started = now;
                write.acked = write.acked & view | joining;
                write.sent = if on_disk { me } else { 0 };
            }
            self.send_write(id);
        }
    }

    /// A new session: what this peer has not acknowledged is sent again.
    pub(super) fn resend_to(&mut self, node: NodeId) {
        if self.adopting.is_some() {
            return;
        }
        let bit = self.view.bit(node);
        for id in self.window.ids() {
            if let Some(write) = self.window.get_mut(id) {
                write.sent &= !bit;
            }
            self.send_write(id);
        }
        self.resend_flush(node);
    }

    pub(super) fn on_write_refused(&mut self, from: NodeId, id: WriteId, reason: Refusal) {
        let last = self.view.in_sync == self.view.bit(from);
        match reason {
            Refusal::Disk | Refusal::NoSpace if last => {
                // Nobody else has it and the last replica never leaves: the request fails.
                let error = if reason == Refusal::NoSpace { IoError::NoSpace } else { IoError::Io };
                self.fail_at_last(id, error);
            }
            Refusal::Grant if self.shards().is_some() => {
                if let Some(write) = self.window.get_mut(id).copied() {
                    self.lease_refused(write.range);
                }
            }
            _ => {}
        }
    }

    /// Tells peers what is committed, if no other frame did in time.
    pub(super) fn send_commits(&mut self) {
        if self.commit_at > self.now {
            return;
        }
        self.commit_at = Time::NEVER;
        let told = (self.window.commit_floor(), self.flush_floor());
        let late: Vec<NodeId> = (self.peers.iter())
            .filter(|(n, p)| p.told != told && self.view.bit(**n) & self.view.written() != 0)
            .map(|(n, _)| *n)
            .collect();
        for node in late {
            self.send_commit(node);
        }
    }

    pub(super) fn send_commit(&mut self, node: NodeId) {
        let (floor, flush_floor) = (self.window.commit_floor(), self.flush_floor());
        self.send(node, Message::Commit { floor, flush_floor }, None);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.told = (floor, flush_floor);
        }
    }

    pub(super) fn on_commit(&mut self, from: NodeId, floor: WriteId, flush_floor: FlushId) {
        let Some(session) = self.peers.get(&from).and_then(|p| p.session) else { return };
        self.flush_confirmed(from, session.incarnation, flush_floor);
        if self.applied.is_empty() {
            return;
        }
        self.applied.commit(from, session.incarnation, floor);
        self.committed();
    }

    /// What waited for writes to be committed goes on.
    pub(super) fn committed(&mut self) {
        self.serve_peer_reads();
        self.serve_map_asks();
        self.serve_waiting();
    }

    /// This run is not attached any more, and nobody asked it to end: everything in flight fails and is never sent again.
    pub(super) fn fence(&mut self) {
        if self.fenced {
            return;
        }
        self.fenced = true;
        self.fenced_at = Some(self.view.config.epoch);
        self.out.push(Effect::Event(Event::Fenced { epoch: self.view.config.epoch }));
        if !self.broken(broken!(ResubmitAfterExpulsion)) {
            self.fail_all(IoError::Io);
        }
        self.out.push(Effect::FailDevice);
    }

    /// Fails every request that is open.
    pub(super) fn fail_all(&mut self, error: IoError) {
        self.drop_held(|w| w.origin == Origin::Local);
        for id in self.window.ids() {
            if let Some(write) = self.window.give_up(id) {
                self.note_given_up(id, &write);
                self.release(write.buf);
                if let Some(request) = write.request {
                    self.complete(request, Err(error));
                }
            }
        }
        self.fail_reads(error);
        self.fail_flushes(error);
        let waiting = core::mem::take(&mut self.waiting);
        for request in waiting {
            if !matches!(request.op, Op::Read | Op::Flush) {
                self.release(Some(request.buf));
            }
            self.complete(request.id, Err(error));
        }
    }

    /// A write that nobody looks after any more may be on this node's replica, which stays when only the attachment ends: it is
    /// reported like a peer's, so that the others get it or this one loses it.
    fn note_given_up(&mut self, id: WriteId, write: &InFlight) {
        let local = |op: &DiskOp| matches!(&op.purpose, Purpose::Write(w) if w.origin == Origin::Local && w.id == id);
        let here = write.acked & self.view.bit(self.node) != 0 || self.disk.ops.iter().any(local);
        if here && self.view.is_written(self.node, self.incarnation) {
            let InFlight { range, grant, .. } = *write;
            let (writer, incarnation) = (self.node, self.incarnation);
            self.applied.push(Uncommitted { range, writer, incarnation, grant, id }, false);
        }
    }

    /// The volume wants errors rather than waiting without a quorum.
    pub(super) fn fail_on_quorum_loss(&mut self) {
        if self.view.config.settings.on_quorum_loss == crate::config::OnQuorumLoss::Error {
            self.fail_requests(IoError::Io);
        }
    }

    /// Fails every request that is open, and keeps their writes in flight: they may be on some replica, so they are not
    /// committed before they are on all.
    pub(super) fn fail_requests(&mut self, error: IoError) {
        for id in self.window.ids() {
            self.fail_write(id, error);
        }
        self.fail_reads(error);
        self.fail_flushes(error);
        let waiting = core::mem::take(&mut self.waiting);
        for request in waiting {
            if !matches!(request.op, Op::Read | Op::Flush) {
                self.release(Some(request.buf));
            }
            self.complete(request.id, Err(error));
        }
    }

    /// Tells the front end that a write failed. It stays in flight as long as a joining replica may have applied it.
    fn fail_write(&mut self, id: WriteId, error: IoError) {
        let request = self.window.get_mut(id).and_then(|w| w.request.take());
        if let Some(request) = request {
            self.complete(request, Err(error));
        }
    }

    /// The last in-sync replica could not apply a write: its request fails. Joining replicas that may have applied it
    /// leave, and compare what they hold when they come back; only then is the write forgotten.
    fn fail_at_last(&mut self, id: WriteId, error: IoError) {
        self.fail_write(id, error);
        if self.view.joining != 0 {
            self.failed_at_last = true;
            self.attention = true;
            return;
        }
        self.drop_held(|w| w.origin == Origin::Local && w.id == id);
        if let Some(write) = self.window.take(id) {
            self.release(write.buf);
        }
        self.serve_waiting();
    }

    /// Writes whose requests failed at the last replica, once nobody else is left that may hold them.
    fn forget_failed(&mut self) {
        if !self.failed_at_last || self.view.joining != 0 {
            return;
        }
        self.failed_at_last = false;
        for id in self.window.ids() {
            if self.window.get_mut(id).is_some_and(|w| w.request.is_none()) {
                self.drop_held(|w| w.origin == Origin::Local && w.id == id);
                if let Some(write) = self.window.take(id) {
                    self.release(write.buf);
                }
            }
        }
    }

    /// A disk operation of the last in-sync replica failed: the request behind it fails, the replica stays.
    pub(super) fn fail_request_of(&mut self, op: DiskOp, full: bool) {
        let error = if full { IoError::NoSpace } else { IoError::Io };
        match op.purpose {
            Purpose::Write(write) => match write.origin {
                Origin::Local => {
                    self.fail_at_last(write.id, error);
                    self.start_held_writes();
                }
                Origin::Peer { node, .. } => {
                    self.release(write.buf);
                    let reason = if full { Refusal::NoSpace } else { Refusal::Disk };
                    self.send(node, Message::WriteRefused { id: write.id, reason }, None);
                    self.start_held_writes();
                }
                Origin::Roll { .. } => self.release(write.buf),
            },
            Purpose::FrontRead(request) => self.complete(request.id, Err(error)),
            Purpose::PeerRead { node, id, buf } => {
                self.release(Some(buf));
                self.send(node, Message::ReadRefused { id, reason: Refusal::Disk }, None);
            }
            Purpose::Flush { node, id } => self.fail_flush_of(node, id),
            Purpose::LeaveFlush => self.leave_flush_failed(),
            // Others wait for what is here and nowhere else: it is tried again for as long as this is the last replica.
            Purpose::PullRead { .. }
            | Purpose::RollRead { .. }
            | Purpose::DigestFor { .. }
            | Purpose::OwnDigest { .. } => {
                let at = self.now.after(self.timing.retry);
                self.disk.again.push((at, op.range, op.purpose));
            }
            Purpose::Pull { .. } | Purpose::JoinFlush { .. } => {}
        }
    }

    /// Answers the front end.
    pub(super) fn complete(&mut self, request: RequestId, result: Result<(), IoError>) {
        if result.is_err() {
            self.counters.front_errors += 1;
        }
        if !self.reads.overtaken.is_empty() {
            self.forget_overtaken(request);
        }
        self.out.push(Effect::Complete { request, result });
    }

    /// The core will not name this buffer again.
    pub(super) fn release(&mut self, buf: Option<BufId>) {
        if let Some(buf) = buf {
            self.out.push(Effect::Release { buf });
        }
    }

    /// What a change of view means for this node's attachment.
    pub(super) fn install_attachment(&mut self, old: &View) {
        let attached = self.is_attached_here();
        let was = old.config.attached.get(&self.node).is_some_and(|a| a.incarnation == self.incarnation);
        if attached && !was {
            self.fenced = false;
            self.attached_at = self.now;
        }
        let asked = self.operator.is_detaching();
        // Whatever else was decided meanwhile, this run may still take the place of the one before.
        let listed = |run| self.view.is_attached(self.node, run) && !self.broken(broken!(FencedByAnyChange));
        let earlier = old.config.attached.get(&self.node).filter(|a| a.recoverable).map(|a| a.incarnation);
        if earlier.is_some_and(|run| !listed(run)) && !was && !attached {
            return self.fence();
        }
        if was && !attached {
            self.grants.drop_own();
            self.leases_dropped();
            if asked || !self.front_seen {
                self.fail_all(IoError::Io);
            } else {
                self.fence();
            }
        }
    }
}

/// True if two requests must keep their order: they share a block and one of them writes.
fn conflict(a: &Request, b: &Request) -> bool {
    let writes = |r: &Request| !matches!(r.op, Op::Read | Op::Flush);
    (writes(a) || writes(b)) && a.op != Op::Flush && b.op != Op::Flush && a.range.overlaps(b.range)
}

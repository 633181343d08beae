//! Inputs and frames to the functions that act on them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::Replica;
use super::apply::Origin;
use super::view::Report;
use crate::ids::{BufId, ConnId, NodeId};
use crate::input::{Input, IoError};
use crate::message::{Frame, Message, Stamp};

/// Frames that may wait for their view, per peer. More than a peer can have in flight.
const MAX_DEFERRED: usize = 4096;

impl Replica {
    /// True for what comes once or more per request: maintenance need not follow it.
    pub(super) fn is_quick(&self, input: &Input) -> bool {
        let settled = self.adopting.is_none() && self.ready.is_empty();
        match input {
            Input::Request(_) | Input::DiskDone { .. } => settled,
            Input::Frame { frame, .. } => {
                let quick = matches!(
                    frame.message,
                    Message::Write { .. }
                        | Message::WriteAck { .. }
                        | Message::Commit { .. }
                        | Message::Flush { .. }
                        | Message::FlushAck { .. }
                        | Message::Read { .. }
                        | Message::ReadReply { .. }
                        | Message::Pull { .. }
                        | Message::Pulled { .. }
                );
                settled && quick
            }
            Input::Alive { .. } => true,
            _ => false,
        }
    }

    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Request(request) => self.on_request(request),
            Input::LinkUp { peer, net, conn } => self.on_link_up(peer, net, conn),
            Input::LinkDown { peer, conn, reset } => self.on_link_down(peer, conn, reset),
            Input::Alive { peer, conn } => self.on_alive(peer, conn),
            Input::Frame { peer, conn, frame, payload } => self.on_frame(peer, conn, frame, payload),
            Input::ProcessExited { node, incarnation, restarting } => {
                self.on_process_exited(node, incarnation, restarting)
            }
            Input::DiskDone { io, result } => self.on_disk_done(io, result),
            Input::DiskDigests { io, result } => self.on_disk_digests(io, result),
            Input::Persisted { token } => self.on_persisted(token),
            Input::PersistFailed => self.on_persist_failed(),
            Input::Register { ask, answer } => self.on_register(ask, answer),
            Input::Lease { ask, told } => self.on_lease(ask, told),
            Input::Command { id, command } => self.on_command(id, command),
        }
    }

    fn on_frame(&mut self, node: NodeId, conn: ConnId, frame: Frame, payload: Option<BufId>) {
        let now = self.now;
        let known = self.peers.get_mut(&node).filter(|p| p.links.iter().flatten().any(|l| l.conn == conn));
        let Some(peer) = known else {
            self.counters.old_session_dropped += 1;
            return self.release(payload);
        };
        peer.heard_at = now;
        let stamp = frame.stamp;
        match frame.message {
            Message::Heartbeat { .. } => self.on_heartbeat(node, conn, stamp, &frame.message),
            Message::HeartbeatAnswer { sent_at, permits, .. } => {
                self.on_heartbeat_answer(node, conn, stamp, sent_at, permits)
            }
            Message::Hello { .. } => self.on_hello(node, conn, frame.message),
            Message::ExitReport { node: whose, incarnation, restarting } if whose == node => {
                self.on_process_exited(whose, incarnation, restarting);
            }
            Message::ExitReport { .. } => {}
            Message::Prepare { .. } | Message::Accept { .. } => self.on_ballot(node, frame.message),
            Message::Promise { .. } | Message::Accepted { .. } | Message::NoVote { .. } => {
                self.on_vote(node, frame.message)
            }
            Message::VoterAdmit { voter, config } => self.on_voter_admit(node, voter, &config),
            Message::VoterAdmitted { voter } => self.on_voter_admitted(node, voter),
            _ => return self.on_frame_of_session(node, conn, frame, payload),
        }
        self.release(payload);
    }

    /// A frame of another session than the present one is never applied.
    fn on_frame_of_session(&mut self, node: NodeId, conn: ConnId, frame: Frame, payload: Option<BufId>) {
        let session = self.peers.get(&node).and_then(|p| p.session);
        let any = self.broken(broken!(OldSessionFrameApplied));
        let current = session.is_some_and(|s| any || s.id == frame.stamp.session && s.conn == conn);
        if !current {
            self.counters.old_session_dropped += 1;
            return self.release(payload);
        }
        self.on_ordered_frame(node, frame, payload);
    }

    fn on_ordered_frame(&mut self, node: NodeId, frame: Frame, payload: Option<BufId>) {
        let stamp = frame.stamp;
        if let Message::Install { config, left } = &frame.message {
            self.learn_config(config);
            for (n, i) in left {
                self.learn_mark(*n, *i);
            }
            return self.release(payload);
        }
        // Of leaving: said by, or to, a member whose view does not change any more.
        match frame.message {
            Message::Goodbye { incarnation } => return self.on_goodbye(node, incarnation),
            Message::GoodbyeSeen => return self.on_goodbye_seen(node),
            Message::AttachWanted => return self.on_attach_wanted(),
            _ => {}
        }
        if self.is_newer(stamp) {
            self.learn_left_of(stamp);
            let Some(peer) = self.peers.get_mut(&node) else { return };
            if peer.deferred.len() < MAX_DEFERRED {
                peer.deferred.push_back((frame, payload));
            } else {
                self.release(payload);
            }
            return;
        }
        let waits = self.peers.get(&node).is_some_and(|p| !p.deferred.is_empty());
        if waits {
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.deferred.push_back((frame, payload));
            }
            return;
        }
        let stale = stamp.epoch != self.view.config.epoch || stamp.left != self.view.left_bits;
        if stale && !matches!(frame.message, Message::Write { .. }) {
            return self.release(payload);
        }
        self.act(node, stamp, frame.message, payload);
    }

    fn is_newer(&self, stamp: Stamp) -> bool {
        let more_left = stamp.left & !self.view.left_bits != 0;
        stamp.epoch > self.view.config.epoch || stamp.epoch == self.view.config.epoch && more_left
    }

    /// The sender holds marks of this very epoch that this node does not.
    fn learn_left_of(&mut self, stamp: Stamp) {
        if stamp.epoch != self.view.config.epoch {
            return;
        }
        let new: Vec<NodeId> = self.view.nodes(stamp.left & !self.view.left_bits).collect();
        for node in new {
            if let Some(incarnation) = self.view.config.incarnation_of(node) {
                self.learn_mark(node, incarnation);
            }
        }
    }

    /// Frames that came before their view, once it is installed.
    pub(super) fn redeliver_deferred(&mut self) {
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        let mut all: BTreeMap<NodeId, _> = BTreeMap::new();
        for node in nodes {
            if let Some(peer) = self.peers.get_mut(&node) {
                all.insert(node, core::mem::take(&mut peer.deferred));
            }
        }
        for (node, frames) in all {
            for (frame, payload) in frames {
                self.on_ordered_frame(node, frame, payload);
            }
        }
    }

    fn act(&mut self, node: NodeId, stamp: Stamp, message: Message, payload: Option<BufId>) {
        match message {
            Message::Write { .. } => return self.on_write(node, stamp, &message, payload),
            Message::WriteAck { id } => self.on_write_ack(node, id),
            Message::WriteRefused { id, reason } => self.on_write_refused(node, id, reason),
            Message::Commit { floor, flush_floor } => self.on_commit(node, floor, flush_floor),
            Message::CommitWanted if self.broken(broken!(CommitNeverSent)) => {}
            Message::CommitWanted => self.send_commit(node),
            Message::Flush { id, floor } => self.on_flush(node, id, floor),
            Message::FlushAck { id } => self.flush_acknowledged(node, id),
            Message::Read { id, range } => self.on_read(node, id, range),
            Message::ReadReply { id, .. } => return self.on_read_reply(node, id, payload),
            Message::ReadRefused { id, reason } => self.on_read_refused(node, id, reason),
            Message::Installed { answered, uncommitted, suspect, grant, holds } => {
                self.on_installed(node, &answered, Report { uncommitted, suspect, grant, holds });
            }
            Message::GrantAsk { .. } | Message::Granted { .. } | Message::Recall { .. } | Message::Released { .. } => {
                self.on_policing(node, &message)
            }
            Message::DigestAsk { id, range } => self.on_digest_ask(node, id, range),
            Message::Digests { id, range, digests } => self.on_digests(node, id, range, digests),
            Message::RollForward { id, range, grant, write } => {
                return self.on_roll_forward(node, id, range, grant, write, payload);
            }
            Message::RollForwardAck { id } => self.on_roll_ack(node, id),
            Message::ReconcileDone => self.on_reconcile_done(node),
            Message::MapAsk { round, from, peer } => self.on_map_ask(node, round, from, peer),
            Message::MapPart { .. } => self.on_map_part(message),
            Message::Pull { round, id, range } => self.on_pull(node, round, id, range),
            Message::Pulled { round, id, .. } => return self.on_pulled(round, id, payload),
            Message::PulledDurable { ranges, .. } => self.on_pulled_durable(node, &ranges),
            Message::LeaveAsk => self.on_leave_ask(node),
            Message::LeaveAnswer { stays } => self.on_leave_answer(node, stays),
            _ => {}
        }
        self.release(payload);
    }

    /// What a session that is gone leaves behind here.
    pub(super) fn session_lost(&mut self, node: NodeId) {
        self.drop_held(|w| {
            matches!(w.origin, Origin::Peer { node: n, .. } if n == node)
                || matches!(w.origin, Origin::Roll { asked_by: Some(n), .. } if n == node)
        });
        self.reads.from_peers.retain(|r| r.node != node);
        self.retry_remote_reads(Some(node));
        self.source_forget(node);
        self.verify_view_changed();
    }

    /// Maintenance: a write or flush that a peer does not acknowledge for long is suspicion, whatever heartbeats say.
    pub(super) fn check_unacknowledged(&mut self) {
        let now = self.now;
        let limit = self.timing.unacknowledged;
        let needed = self.view.written();
        let mut late = 0;
        for (_, write) in self.window.iter().filter(|(_, w)| now.since(w.started) >= limit) {
            late |= needed & !write.acked;
        }
        if let Some(flush) = self.flush.as_ref().filter(|f| now.since(f.started) >= limit) {
            late |= needed & !flush.acked;
        }
        if late == 0 || self.broken(broken!(HangingDiskIgnored)) {
            return;
        }
        let nodes: Vec<NodeId> = self.view.nodes(late).filter(|n| *n != self.node).collect();
        for node in nodes {
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.suspected = true;
            }
        }
    }

    /// Maintenance: the disk of the last in-sync replica failed; whoever waits for it hears so.
    pub(super) fn check_last_replica(&mut self) {
        let last = self.view.in_sync == self.view.bit(self.node) && self.view.is_in_sync(self.node, self.incarnation);
        if last && self.disk.failed.is_some() && !(self.window.is_empty() && self.waiting.is_empty()) {
            self.fail_all(IoError::Io);
        }
    }
}

//! Peers: connections, sessions, signs of life, suspicion.
//!
//! ```text
//! no link --LinkUp--> linked --Hello, answer--> session open --silent or link lost--> linked (or other network) ...
//! ```
//! The lower node opens sessions. Every frame of a session carries its number; a newer session replaces all older ones.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::Replica;
use super::view::{Report, lists};
use crate::config::Config;
use crate::effect::{Effect, Event};
use crate::ids::{BufId, ConnId, Epoch, FlushId, Incarnation, NodeId, SessionId, Time, WriteId};
use crate::message::{Frame, Message, Net, Refusal, Stamp};

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub conn: ConnId,
    pub up_at: Time,
    /// When an answer to one of our heartbeats last came over it: it works both ways.
    pub answered_at: Time,
}

/// An open session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub id: SessionId,
    pub net: Net,
    pub conn: ConnId,
    pub incarnation: Incarnation,
    pub opened_at: Time,
}

/// A frame that came before its view.
pub(super) type Deferred = (Frame, Option<BufId>);

/// What is known of a peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub links: [Option<Link>; 2],
    pub session: Option<Session>,
    /// Number of the session that was proposed and not answered yet, over which connection, and when.
    pub proposed: Option<(SessionId, ConnId, Time)>,
    /// Highest session number used or seen with this incarnation.
    pub last_session: SessionId,
    /// Highest incarnation seen.
    pub incarnation: Incarnation,
    /// When any byte came last.
    pub heard_at: Time,
    /// When this node last answered one of its heartbeats: it may read on the strength of that.
    pub answered_at: Time,
    /// Send time of our latest heartbeat that it answered with permission, in the current view.
    pub permitted: Option<Time>,
    /// Its report on the current view.
    pub report: Option<Report>,
    /// Frames of a view that is not installed here yet.
    pub deferred: VecDeque<Deferred>,
    /// Commit floor last told, and flush floor.
    pub told: (WriteId, FlushId),
    /// Its generation differs.
    pub diverged: Option<Box<Config>>,
    /// The last epoch it is known to have.
    pub suspected: bool,
    /// No connection is left and a new one was refused: nobody listens there any more.
    pub refused: bool,
    /// Voter memory it said it has not.
    pub no_memory: bool,
    /// A run of it that was expelled and has not been heard of since.
    pub expelled: Option<Incarnation>,
}

impl Replica {
    pub(super) fn on_link_up(&mut self, node: NodeId, net: Net, conn: ConnId) {
        if node == self.node {
            return;
        }
        let now = self.now;
        let peer = self.peers.entry(node).or_default();
        if let Some(old) = peer.links[net as usize] {
            self.out.push(Effect::CloseLink { peer: node, conn: old.conn });
            if peer.session.is_some_and(|s| s.conn == old.conn) {
                self.close_session(node);
            }
        }
        let peer = self.peers.entry(node).or_default();
        peer.links[net as usize] = Some(Link { conn, up_at: now, answered_at: now });
        peer.refused = false;
        self.heartbeat_at = now;
    }

    pub(super) fn on_link_down(&mut self, node: NodeId, conn: ConnId, reset: bool) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let current = peer.links.iter().flatten().any(|l| l.conn == conn);
        if reset && !current && peer.links.iter().all(Option::is_none) {
            peer.refused = true;
        }
        for link in &mut peer.links {
            if link.is_some_and(|l| l.conn == conn) {
                *link = None;
            }
        }
        if peer.proposed.is_some_and(|(_, c, _)| c == conn) {
            peer.proposed = None;
        }
        if peer.session.is_some_and(|s| s.conn == conn) {
            self.close_session(node);
        }
    }

    pub(super) fn on_alive(&mut self, node: NodeId, conn: ConnId) {
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(&node)
            && peer.links.iter().flatten().any(|l| l.conn == conn)
        {
            peer.heard_at = now;
        }
    }

    /// Ends the session with a peer whose configurations are none of this node's any more.
    pub(super) fn end_session(&mut self, node: NodeId) {
        if self.has_session(node) {
            self.close_session(node);
        }
    }

    /// Ends the session: nothing of it is applied any more; what was deferred is dropped (it will be sent again).
    fn close_session(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.session = None;
        let deferred = core::mem::take(&mut peer.deferred);
        for (_, payload) in deferred {
            self.release(payload);
        }
        self.session_lost(node);
    }

    pub(super) fn has_session(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|p| p.session.is_some())
    }

    /// True if a session is open and its other end is not silent. A cut closes no connection.
    pub(super) fn is_heard(&self, node: NodeId) -> bool {
        let heard = |p: &Peer| p.session.is_some() && self.now.since(p.heard_at) < self.timing.suspect;
        self.peers.get(&node).is_some_and(heard)
    }

    /// True if every other in-sync and joining replica answers this node. Whom one of them does not hear is expelled again at once when
    /// it enters or attaches; a cut closes no session, and may pass one way. And two that join beside each other wait for each
    /// other's reports.
    pub(super) fn is_answered_by_all(&self) -> bool {
        let answers = |node: NodeId| {
            let peer = self.peers.get(&node);
            let link = peer.and_then(|p| p.links[p.session?.net as usize]);
            let lately = link.is_some_and(|link| self.now.since(link.answered_at) < self.timing.switch_network);
            lately && self.session_is_listed(node)
        };
        self.view.nodes(self.view.written()).filter(|n| *n != self.node).all(answers)
    }

    /// Sends within the session; dropped if there is none (whatever matters is sent again when one opens).
    pub(super) fn send(&mut self, node: NodeId, message: Message, payload: Option<BufId>) {
        let Some(session) = self.peers.get(&node).and_then(|p| p.session) else { return };
        let stamp = Stamp { session: session.id, ..self.stamp() };
        match message {
            Message::Write { .. } => self.counters.sent_writes += 1,
            _ => self.counters.sent_other += 1,
        }
        self.out.push(Effect::Send {
            peer: node,
            conn: session.conn,
            frame: Frame { stamp, message },
            payload,
            urgent: false,
        });
    }

    /// Sends a message that belongs to no session, over the best link there is.
    pub(super) fn tell(&mut self, node: NodeId, message: Message) {
        let Some(peer) = self.peers.get(&node) else { return };
        let session = peer.session.map(|s| s.conn);
        let any = peer.links.iter().flatten().max_by_key(|l| l.answered_at).map(|l| l.conn);
        let Some(conn) = session.or(any) else { return };
        self.counters.sent_other += 1;
        let frame = Frame { stamp: self.stamp(), message };
        self.out.push(Effect::Send { peer: node, conn, frame, payload: None, urgent: false });
    }

    /// Maintenance: heartbeats on every link, sessions where there is none or where its network fell silent.
    pub(super) fn keep_links(&mut self) {
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        if self.heartbeat_at <= self.now {
            self.heartbeat_at = self.now.after(self.timing.heartbeat);
            for node in &nodes {
                self.send_heartbeats(*node);
            }
        }
        for node in nodes {
            self.keep_session(node);
        }
    }

    fn send_heartbeats(&mut self, node: NodeId) {
        let stamp = self.stamp();
        let peer = &self.peers[&node];
        let session = peer.session.map(|s| s.id).unwrap_or_default();
        let urgent = !self.broken(broken!(HeartbeatsBehindData));
        for link in peer.links.into_iter().flatten() {
            let message = Message::Heartbeat {
                incarnation: self.incarnation,
                sent_at: self.now.0,
                session,
                generation: self.known.generation.id,
            };
            self.counters.sent_heartbeats += 1;
            self.out.push(Effect::Send {
                peer: node,
                conn: link.conn,
                frame: Frame { stamp, message },
                payload: None,
                urgent,
            });
        }
    }

    fn keep_session(&mut self, node: NodeId) {
        let now = self.now;
        let timing = self.timing;
        let peer = self.peers.get_mut(&node).expect("listed");
        let works = |l: &Option<Link>| l.is_some_and(|l| now.since(l.answered_at) < timing.switch_network);
        let steady = |l: &Option<Link>| works(l) && l.is_some_and(|l| now.since(l.up_at) >= timing.prefer_network);
        let wanted = match peer.session {
            // Back to the dedicated network once it has been steady; away from a network that fell silent.
            Some(s) if s.net == Net::Ordinary && steady(&peer.links[0]) => Some(Net::Dedicated),
            Some(s) if !works(&peer.links[s.net as usize]) => {
                let other = if s.net == Net::Dedicated { Net::Ordinary } else { Net::Dedicated };
                works(&peer.links[other as usize]).then_some(other)
            }
            Some(_) => None,
            None if works(&peer.links[0]) => Some(Net::Dedicated),
            None if works(&peer.links[1]) => Some(Net::Ordinary),
            None => {
                peer.links.iter().position(Option::is_some).map(|i| if i == 0 { Net::Dedicated } else { Net::Ordinary })
            }
        };
        // A frame is lost only with its connection; a proposal is repeated because the peer may have ignored it.
        let pending = peer.proposed.is_some_and(|(_, _, at)| now.since(at) < timing.switch_network);
        let Some(net) = wanted.filter(|_| self.node < node && !pending) else { return };
        let conn = peer.links[net as usize].expect("chosen because it is there").conn;
        peer.last_session.0 += 1;
        let session = peer.last_session;
        peer.proposed = Some((session, conn, now));
        self.send_hello(node, conn, session, false);
    }

    fn send_hello(&mut self, node: NodeId, conn: ConnId, session: SessionId, answer: bool) {
        let to = self.peers.get(&node).map(|p| p.incarnation).unwrap_or_default();
        let message = Message::Hello {
            incarnation: self.incarnation,
            to,
            boot: self.boot,
            session,
            answer,
            config: Box::new(self.known.clone()),
            left: self.marks.iter().copied().collect(),
        };
        self.counters.sent_other += 1;
        let frame = Frame { stamp: self.stamp(), message };
        self.out.push(Effect::Send { peer: node, conn, frame, payload: None, urgent: false });
    }

    pub(super) fn on_hello(&mut self, node: NodeId, conn: ConnId, hello: Message) {
        let Message::Hello { incarnation, session, answer, config, left, .. } = hello else { return };
        let now = self.now;
        let peer = self.peers.get_mut(&node).expect("a link is up");
        let Some(net) = [Net::Dedicated, Net::Ordinary]
            .into_iter()
            .find(|n| peer.links[*n as usize].is_some_and(|l| l.conn == conn))
        else {
            return;
        };
        if incarnation < peer.incarnation {
            return;
        }
        if incarnation > peer.incarnation {
            if !answer {
                peer.last_session = SessionId(0);
            }
            peer.incarnation = incarnation;
        }
        if config.generation != self.known.generation && !self.same_generation(node, &config) {
            if !answer {
                // Both ends have to know: an operator may give up either.
                self.send_hello(node, conn, session, true);
            }
            return;
        }
        let peer = self.peers.get_mut(&node).expect("a link is up");
        if answer {
            if peer.proposed.is_none_or(|(s, c, _)| s != session || c != conn) {
                return;
            }
        } else if session <= peer.last_session && peer.last_session != SessionId(0) {
            return;
        }
        if peer.session.is_some() {
            self.close_session(node);
        }
        let peer = self.peers.get_mut(&node).expect("a link is up");
        peer.proposed = None;
        peer.last_session = session;
        peer.diverged = None;
        peer.session = Some(Session { id: session, net, conn, incarnation, opened_at: now });
        peer.suspected = false;
        peer.heard_at = now;
        peer.told = Default::default();
        self.out.push(Effect::Event(Event::SessionOpened { node, dedicated: net == Net::Dedicated }));
        if !answer {
            self.send_hello(node, conn, session, true);
        }
        self.refuse_expelled(node, incarnation, config.epoch);
        self.learn_config(&config);
        for (n, i) in left {
            self.learn_mark(n, i);
        }
        self.session_opened(node);
    }

    /// A run that slept through its expulsion, or was cut off, speaks as the member that it was: refused, and counted once.
    fn refuse_expelled(&mut self, node: NodeId, incarnation: Incarnation, epoch: Epoch) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.expelled == Some(incarnation) && epoch < self.view.config.epoch {
            peer.expelled = None;
            self.counters.stale_refused += 1;
            self.out.push(Effect::Event(Event::Refused { node, reason: Refusal::Stale }));
        }
    }

    /// True if it is proven that this run has ended: its supervisor said so, or a newer run spoke, which holds the lock
    /// that the older one held.
    pub(super) fn has_ended(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.exited.contains(&(node, incarnation)) || self.peers.get(&node).is_some_and(|p| p.incarnation > incarnation)
    }

    /// True if the other configuration is one that may replace this node's: it is not, of another generation.
    fn same_generation(&mut self, node: NodeId, config: &Config) -> bool {
        if self.broken(broken!(ForceWithoutGeneration)) {
            if config.epoch > self.known.epoch {
                self.known = config.clone();
            }
            return true;
        }
        let observer = !self.meta.has_data && !lists(&self.known, self.node, self.incarnation);
        if observer && config.generation.parent == self.known.generation.id {
            // Nothing of this node's own is at stake; a vote is taken over by a swap only.
            self.known = config.clone();
            return true;
        }
        let peer = self.peers.get_mut(&node).expect("a link is up");
        if peer.diverged.as_deref().is_none_or(|c| c.generation != config.generation) {
            self.out.push(Effect::Event(Event::Diverged { node, generation: config.generation }));
        }
        peer.diverged = Some(Box::new(config.clone()));
        false
    }

    /// What has to be said when a session opens: the view, and everything that the old one may have lost.
    fn session_opened(&mut self, node: NodeId) {
        // The report comes behind what is in flight: who has heard it has the writes too.
        self.resend_to(node);
        self.send_installed(node);
        self.join_session_opened(node);
        self.leave_session_opened(node);
        self.reconcile_session_opened(node);
        self.policing_session_opened(node);
        // Reads that this peer is to serve wait for a session with it, and perhaps for nothing else.
        self.again |= !self.waiting.is_empty();
    }

    pub(super) fn on_heartbeat(&mut self, node: NodeId, conn: ConnId, stamp: Stamp, heartbeat: &Message) {
        let Message::Heartbeat { incarnation, sent_at, session, .. } = heartbeat else { return };
        let member = self.view.members().get(&node) == Some(incarnation);
        let same_view = stamp.epoch == self.view.config.epoch && stamp.left == self.view.left_bits;
        let permits = member && same_view && self.adopting.is_none() && !self.leaving.marked;
        let now = self.now;
        let peer = self.peers.get_mut(&node).expect("a link is up");
        if *incarnation < peer.incarnation {
            return;
        }
        if permits {
            peer.answered_at = now;
        }
        self.refuse_expelled(node, *incarnation, stamp.epoch);
        let message = Message::HeartbeatAnswer { incarnation: self.incarnation, sent_at: *sent_at, permits };
        self.counters.sent_heartbeats += 1;
        let urgent = !self.broken(broken!(HeartbeatsBehindData));
        let frame = Frame { stamp: self.stamp(), message };
        self.out.push(Effect::Send { peer: node, conn, frame, payload: None, urgent });
        // The other end has lost the session that this one believes open: what is sent in it is not heard.
        let patience = self.timing.switch_network;
        let lost = |s: Session| s.id != *session && self.now.since(s.opened_at) >= patience;
        if self.peers.get(&node).and_then(|p| p.session).is_some_and(lost) {
            return self.close_session(node);
        }
        // Its view is older than ours: it may have missed the news.
        if stamp.epoch < self.view.config.epoch && self.has_session(node) && self.adopting.is_none() {
            self.send_installed(node);
        }
    }

    pub(super) fn on_heartbeat_answer(
        &mut self,
        node: NodeId,
        conn: ConnId,
        stamp: Stamp,
        sent_at: u64,
        permits: bool,
    ) {
        let same_view = stamp.epoch == self.view.config.epoch && stamp.left == self.view.left_bits;
        let now = self.now;
        let peer = self.peers.get_mut(&node).expect("a link is up");
        for link in peer.links.iter_mut().flatten().filter(|l| l.conn == conn) {
            link.answered_at = now;
        }
        if permits && same_view && self.adopting.is_none() {
            let sent_at = Time(sent_at);
            if peer.permitted.is_none_or(|p| p < sent_at) && sent_at <= now {
                peer.permitted = Some(sent_at);
                self.permission_changed();
            }
        }
    }

    /// Silence for so long that the peer is suspected; or proof that its run has ended.
    pub(super) fn is_suspect(&self, node: NodeId, incarnation: Incarnation) -> bool {
        if self.has_ended(node, incarnation) {
            return true;
        }
        let Some(peer) = self.peers.get(&node) else { return self.now.since(self.started_at) >= self.timing.suspect };
        let heard = peer.heard_at.max(self.started_at);
        self.now.since(heard) >= self.timing.suspect || peer.suspected || peer.refused && peer.heard_at > Time(0)
    }

    pub(super) fn on_process_exited(&mut self, node: NodeId, incarnation: Incarnation, restarting: bool) {
        if node == self.node {
            return;
        }
        let listed = if self.broken(broken!(LateExitReport)) {
            // Takes a late report about an older run for one about the present run.
            self.known.incarnation_of(node).unwrap_or(incarnation)
        } else {
            // Of two runs of one node the older has ended by the time when the newer does.
            self.known.incarnation_of(node).filter(|run| *run < incarnation).unwrap_or(incarnation)
        };
        let recoverable = self.known.attached.get(&node).is_some_and(|a| a.incarnation == listed && a.recoverable);
        if restarting && recoverable {
            self.hold_expulsion.insert((node, listed), self.now.after(self.timing.restart_hold));
        }
        self.exited.insert((node, listed));
        self.exited.insert((node, incarnation));
    }
}

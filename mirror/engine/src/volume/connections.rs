//! The links of a volume: which are wanted, which come and go.
//!
//! One per peer and network. Between nodes that hold a replica or are the tie-breaker the lower number dials; any other
//! node dials those. A link that comes replaces an older one over the same network.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use lockstep_core::{ConnId, Input, Net, NodeId, Time, VolumeId};
use lockstep_format::wire::greeting::{Acceptor, Call, Ends, Purpose, Refused};

use super::{Io, Volume};
use crate::link::{Link, LinkEnd, Received};
use crate::shared::count;
use crate::socket;

/// The first wait after a dial that failed; doubled each time.
const DIAL_AGAIN_NANOS: u64 = 20_000_000;
/// The longest wait between two dials: a peer that came back is found within half a second.
const DIAL_AGAIN_NANOS_MAX: u64 = 500_000_000;
/// So often somebody is found to listen, and does not call: then it is called. It may not know that it should call, or not want to
/// (a member that removed this one).
const PROBES_MAX: u32 = 8;
/// So often it is looked whether peers have come or gone, beside events that say so.
const LOOK_AGAIN_NANOS: u64 = 1_000_000_000;

/// A connection that the volume wants dialed.
#[derive(Debug)]
pub(crate) struct DialWanted {
    pub(crate) call: Call,
    /// It is the peer that dials; this only looks whether anybody is there.
    pub(crate) probe: bool,
}

#[derive(Debug)]
struct Dial {
    next: Time,
    wait: u64,
    /// A greeting is under way.
    busy: bool,
    probe: bool,
    /// Probes that found somebody.
    found: u32,
}

/// When to dial whom.
#[derive(Debug, Default)]
pub(super) struct Dials {
    look: Time,
    dials: BTreeMap<(NodeId, Net), Dial>,
}

impl Dials {
    pub(super) fn deadline(&self) -> Time {
        self.dials.values().filter(|dial| !dial.busy).map(|dial| dial.next).fold(self.look, Time::min)
    }

    /// Something changed: look who is wanted.
    pub(super) fn look_again(&mut self, now: Time) {
        self.look = now;
    }

    /// A link that came up at `since` is gone: dial anew at once, unless links come and go.
    fn lost(&mut self, since: Time, now: Time) {
        let stable = now.since(since) > LOOK_AGAIN_NANOS;
        self.look = self.look.min(if stable { now } else { now.after(DIAL_AGAIN_NANOS) });
    }
}

impl Volume {
    /// Connections to dial now.
    pub(crate) fn dials_due(&mut self, io: &Io) -> Vec<DialWanted> {
        if self.closing || self.dials.deadline() > io.now {
            return Vec::new();
        }
        if self.dials.look <= io.now {
            self.look_for_peers(io);
        }
        let own = io.shared.identity.node;
        let mut due = Vec::new();
        for ((peer, net), dial) in &mut self.dials.dials {
            if dial.busy || dial.next > io.now {
                continue;
            }
            dial.busy = true;
            let ends = Ends { from: own, to: *peer };
            let call = Call { purpose: Purpose::Volume(self.id), net: *net, ends };
            due.push(DialWanted { call, probe: dial.probe && dial.found < PROBES_MAX });
        }
        due
    }

    fn look_for_peers(&mut self, io: &Io) {
        self.dials.look = io.now.after(LOOK_AGAIN_NANOS);
        let own = io.shared.identity.node;
        let mut wanted = BTreeMap::new();
        for peer in self.replica.peers() {
            // Whoever is dialed learns by a refused connection that a peer's process is gone, as the dialer does.
            let probe = !self.is_dialer(peer, own);
            for net in [Net::Dedicated, Net::Ordinary] {
                if io.shared.route(peer, net).is_some() && !self.has_link(peer, net) {
                    wanted.insert((peer, net), probe);
                }
            }
        }
        self.dials.dials.retain(|key, dial| dial.busy || wanted.contains_key(key));
        for (key, probe) in wanted {
            let dial = Dial { next: io.now, wait: DIAL_AGAIN_NANOS, busy: false, probe, found: 0 };
            self.dials.dials.entry(key).or_insert(dial).probe = probe;
        }
    }

    fn is_dialer(&self, peer: NodeId, own: NodeId) -> bool {
        let config = &self.replica.meta().config;
        let holds = |node: NodeId| config.replicas.contains(&node) || config.tie_breaker == Some(node);
        match (holds(own), holds(peer)) {
            (true, true) => own < peer,
            (own_holds, peer_holds) => peer_holds && !own_holds,
        }
    }

    fn has_link(&self, peer: NodeId, net: Net) -> bool {
        self.links.iter().any(|link| link.is_open() && (link.peer, link.net) == (peer, net))
    }

    /// Peers have moved: the links to where they were end, and they are dialed where they are now.
    pub(crate) fn routes_changed(&mut self, routes: &BTreeSet<(NodeId, Net)>, io: &mut Io) {
        let over = self.links.iter().filter(|link| link.is_open() && routes.contains(&(link.peer, link.net)));
        for conn in over.map(Link::id).collect::<Vec<_>>() {
            self.link_ended(conn, &LinkEnd::Closed, io);
        }
        // A greeting that is under way ends by itself; the others have waited for an address that is no more.
        self.dials.dials.retain(|key, dial| dial.busy || !routes.contains(key));
        self.dials.look_again(io.now);
        self.reap_links(io);
    }

    /// A dial came to nothing. `found`: whether somebody listens there, if that is known.
    pub(crate) fn dial_failed(&mut self, peer: NodeId, net: Net, found: Option<bool>, io: &mut Io) {
        let refused = found == Some(false);
        if let Some(dial) = self.dials.dials.get_mut(&(peer, net)) {
            dial.found = if found == Some(true) { dial.found + 1 } else { 0 };
            dial.busy = false;
            dial.next = io.now.after(dial.wait);
            dial.wait = (dial.wait * 2).min(DIAL_AGAIN_NANOS_MAX);
        }
        if refused && !self.has_link(peer, net) {
            // A fresh name: the core learns that nobody is there, and of no link that it knows.
            let conn = ConnId(u64::from(self.conn()));
            self.step(Input::LinkDown { peer, conn, reset: true }, io);
        }
    }

    /// A connection that this node dialed is greeted.
    pub(crate) fn dialed(&mut self, (peer, net): (NodeId, Net), socket: OwnedFd, rest: &[u8], io: &mut Io) {
        self.dials.dials.remove(&(peer, net));
        self.link_up((peer, net), socket, (rest, &[]), io);
    }

    /// Somebody who knows the key calls.
    pub(crate) fn called(&mut self, call: Call, acceptor: Acceptor, socket: OwnedFd, io: &mut Io) {
        let peer = call.ends.from;
        let mut last = Vec::new();
        if self.closing {
            acceptor.refuse(Refused::UnknownVolume, &mut last);
            socket::send_last(&socket, &last);
            return;
        }
        acceptor.accept(&mut last);
        self.link_up((peer, call.net), socket, (&[], &last), io);
    }

    fn link_up(&mut self, (peer, net): (NodeId, Net), socket: OwnedFd, ends: (&[u8], &[u8]), io: &mut Io) {
        if self.closing {
            return;
        }
        let conn = self.conn();
        let link = match Link::new((self.index, conn), (peer, net), socket, ends, io) {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(volume = %self.name, peer = peer.0, ?net, %error, "link_not_made");
                self.dials.look_again(io.now.after(DIAL_AGAIN_NANOS));
                return;
            }
        };
        tracing::info!(volume = %self.name, peer = peer.0, ?net, conn, "link_up");
        for old in self.links.iter_mut().filter(|old| (old.peer, old.net) == (peer, net)) {
            old.close(&mut io.buffers);
        }
        let id = link.id();
        self.links.push(link);
        self.step(Input::LinkUp { peer, net, conn: id }, io);
        if let Some(index) = self.link_index(id) {
            let mut frames = Vec::new();
            let taken = self.links[index].take_first(&mut io.buffers, &mut frames);
            self.on_frames(id, peer, frames, io);
            self.on_link_result(id, taken, io);
        }
    }

    /// A receive completed.
    pub(crate) fn on_receive(&mut self, conn: u32, result: i32, more: bool, io: &mut Io) {
        let id = ConnId(u64::from(conn));
        let Some(index) = self.link_index(id) else { return };
        let mut frames = std::mem::take(&mut self.frames);
        let link = &mut self.links[index];
        let peer = link.peer;
        let taken = link.on_received(result, more, &mut io.buffers, &mut self.link_counters, &mut frames);
        if frames.is_empty() && taken.is_ok() && self.links[index].is_open() {
            self.step(Input::Alive { peer, conn: id }, io);
        }
        self.frames = self.on_frames(id, peer, frames, io);
        self.on_link_result(id, taken, io);
    }

    /// A send completed.
    pub(crate) fn on_sent(&mut self, conn: u32, result: i32, io: &mut Io) {
        let id = ConnId(u64::from(conn));
        let Some(index) = self.link_index(id) else { return };
        let sent = self.links[index].on_sent(result, &mut io.buffers, &mut self.link_counters);
        self.on_link_result(id, sent, io);
    }

    fn on_frames(&mut self, conn: ConnId, peer: NodeId, mut frames: Vec<Received>, io: &mut Io) -> Vec<Received> {
        for Received { frame, payload } in frames.drain(..) {
            // The core may have closed the link by what it learned from the frame before.
            let open = self.link_index(conn).is_some_and(|index| self.links[index].is_open());
            if !open {
                payload.into_iter().for_each(|buffer| io.buffers.release(buffer));
                continue;
            }
            self.step(Input::Frame { peer, conn, frame, payload: payload.map(|buffer| buffer.id()) }, io);
        }
        frames
    }

    fn on_link_result(&mut self, conn: ConnId, result: Result<(), LinkEnd>, io: &mut Io) {
        if let Err(end) = result {
            self.link_ended(conn, &end, io);
        }
        self.reap_links(io);
    }

    fn link_ended(&mut self, conn: ConnId, end: &LinkEnd, io: &mut Io) {
        let Some(index) = self.link_index(conn) else { return };
        let link = &mut self.links[index];
        if !link.is_open() {
            return;
        }
        let (peer, net, since) = (link.peer, link.net, link.since);
        tracing::info!(volume = %self.name, peer = peer.0, ?net, conn = conn.0, %end, "link_down");
        link.close(&mut io.buffers);
        match end {
            LinkEnd::Frame(_) => count(&io.shared.counters.hostile),
            LinkEnd::Payload => count(&io.shared.counters.damaged),
            LinkEnd::Closed | LinkEnd::Reset(_) => {}
        }
        self.dials.lost(since, io.now);
        let reset = !matches!(end, LinkEnd::Closed);
        self.step(Input::LinkDown { peer, conn, reset }, io);
    }

    /// The core wants a link closed.
    pub(super) fn close_link(&mut self, conn: ConnId, io: &mut Io) {
        if let Some(index) = self.link_index(conn) {
            let link = &mut self.links[index];
            link.close(&mut io.buffers);
            self.dials.lost(link.since, io.now);
        }
    }

    /// Disposes of links that the kernel has let go of.
    pub(super) fn reap_links(&mut self, io: &mut Io) {
        while let Some(index) = self.links.iter().position(Link::is_over) {
            self.links.swap_remove(index).dispose(&mut io.ring, &mut io.buffers);
        }
    }
}

/// The volume that a call is for.
pub(crate) fn called_volume(call: &Call) -> Option<VolumeId> {
    match call.purpose {
        Purpose::Volume(volume) => Some(volume),
        Purpose::ExitReport => None,
    }
}

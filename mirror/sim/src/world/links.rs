//! Connections: who dials, how they come up, how they break, what arrives.

use lockstep_core::timing::MS;
use lockstep_core::{ConnId, Input, Net, NodeId};

use super::{Happening, World};
use crate::codec;
use crate::failure::Failure;
use crate::net::{Due, Packet};

impl World {
    /// Who of a pair dials: the lower of two voters or replicas, else the one without data and vote.
    fn dialer_of(&self, one: NodeId, other: NodeId) -> NodeId {
        let is_fixed = |node: NodeId| self.plan.replicas.contains(&node) || self.plan.tie_breaker == Some(node);
        match (is_fixed(one), is_fixed(other)) {
            (true, false) => other,
            (false, true) => one,
            _ => one.min(other),
        }
    }

    /// Every pair dials for as long as the run lasts.
    pub(super) fn schedule_dials(&mut self) {
        let nodes = self.plan.nodes.clone();
        for (index, one) in nodes.iter().enumerate() {
            for other in nodes.iter().skip(index + 1) {
                let dialer = self.dialer_of(*one, *other);
                let answerer = if dialer == *one { *other } else { *one };
                for net in [Net::Dedicated, Net::Ordinary] {
                    let after = self.link_rng.below(20 * MS);
                    self.schedule(after, Happening::Dial { dialer, other: answerer, net });
                }
            }
        }
    }

    pub(super) fn on_dial(&mut self, dialer: NodeId, other: NodeId, net: Net) {
        let again = self.link_rng.within(20 * MS, 120 * MS);
        self.schedule(again, Happening::Dial { dialer, other, net });
        let wanted = |world: &World| {
            let node = world.nodes.get(&dialer)?;
            let machine = node.machine.as_ref().filter(|_| !node.paused)?;
            machine.peers().contains(&other).then_some(())
        };
        let open = self.net.between(dialer, other, net).iter().any(|id| {
            self.net.connection(*id).is_some_and(|c| c.ends.iter().any(|end| end.node == dialer && !end.closed))
        });
        if open {
            return;
        }
        if wanted(self).is_some() {
            self.connect(dialer, other, net);
        } else if self.is_not_called(dialer, other) {
            self.connect(other, dialer, net);
        }
    }

    /// True if the end that is called by the other wants a connection, and the other, which runs, wants none: it was removed, or does
    /// not know of this one. Then it is called instead.
    fn is_not_called(&self, dialer: NodeId, other: NodeId) -> bool {
        let wants = |one: NodeId, other: NodeId| {
            let node = self.nodes.get(&one).filter(|node| node.is_running())?;
            node.machine.as_ref().map(|machine| machine.peers().contains(&other))
        };
        wants(dialer, other) == Some(false) && wants(other, dialer) == Some(true)
    }

    /// Makes a connection, if the network and the other end allow.
    pub fn connect(&mut self, dialer: NodeId, other: NodeId, net: Net) {
        if self.refuses(dialer, other, net) {
            return;
        }
        let run_of = |world: &World, id: NodeId| {
            world.nodes.get(&id).filter(|node| node.is_running() && node.host_up).map(|node| node.run)
        };
        let (Some(first), Some(second)) = (run_of(self, dialer), run_of(self, other)) else { return };
        if !self.net.passes(dialer, other, net) {
            return;
        }
        let connection = self.net.connect(net, (dialer, first), (other, second), self.now);
        let there = self.link_rng.within(MS / 10, 2 * MS);
        let back = self.link_rng.within(MS / 10, 2 * MS);
        self.schedule(there, Happening::LinkUp { connection, side: 1 });
        self.schedule(there + back, Happening::LinkUp { connection, side: 0 });
    }

    /// The host of a dead process answers for it; the dialer hears of that.
    fn refuses(&mut self, dialer: NodeId, other: NodeId, net: Net) -> bool {
        let refused = self.nodes.get(&other).is_some_and(|node| node.host_up && node.machine.is_none());
        if refused && self.net.passes(dialer, other, net) {
            let conn = self.net.unused_conn();
            self.deliver(dialer, Input::LinkDown { peer: other, conn, reset: true });
        }
        refused
    }

    pub(super) fn on_link_up(&mut self, connection: u64, side: usize) {
        let Some(found) = self.net.connection(connection) else { return };
        let (end, net, peer) = (&found.ends[side], found.net, found.ends[1 - side].node);
        let (id, conn) = (end.node, end.conn);
        if end.up || end.closed {
            return;
        }
        for old in self.net.between(id, peer, net).into_iter().filter(|old| *old < connection) {
            let Some(old_side) = self.net.connection(old).map(|c| usize::from(c.ends[1].node == id)) else { continue };
            if self.net.end(old, old_side).is_some_and(|end| !end.closed) {
                // What the old connection still holds may be read after the new one is up.
                let after = self.link_rng.below(40 * MS);
                self.schedule(after, Happening::LinkReplaced { connection: old, side: old_side });
            }
        }
        if let Some(end) = self.net.end_mut(connection, side) {
            end.up = true;
        }
        self.deliver(id, Input::LinkUp { peer, net, conn });
    }

    pub(super) fn on_link_replaced(&mut self, connection: u64, side: usize) {
        let mut due = Vec::new();
        self.net.close(connection, side, Some(true), true, self.now, &mut due);
        self.schedule_network(due);
    }

    /// An end finds that its connection is broken.
    pub(super) fn on_link_reset(&mut self, connection: u64, side: usize) {
        let Some(found) = self.net.connection(connection) else { return };
        let (end, peer) = (&found.ends[side], found.ends[1 - side].node);
        if end.closed {
            return;
        }
        let (id, conn, up) = (end.node, end.conn, end.up);
        let mut due = Vec::new();
        self.net.close(connection, side, None, true, self.now, &mut due);
        self.schedule_network(due);
        if up {
            self.deliver(id, Input::LinkDown { peer, conn, reset: true });
        }
    }

    /// The machine closes its end.
    pub(super) fn close_link(&mut self, id: NodeId, conn: ConnId) {
        let Some((connection, side)) = self.net.find(id, conn) else { return };
        let mut due = Vec::new();
        let reset = self.link_rng.one_in(2);
        self.net.close(connection, side, Some(reset), false, self.now, &mut due);
        self.schedule_network(due);
    }

    pub(super) fn send(&mut self, connection: u64, side: usize, packet: Packet, urgent: bool) {
        let mut due = Vec::new();
        self.net.send(connection, side, packet, urgent, self.now, &mut due);
        self.schedule_network(due);
    }

    pub(super) fn schedule_network(&mut self, due: Vec<(u64, Due)>) {
        for (at, due) in due {
            if let Due::Transmitted(connection, side, takes) = due {
                // Bytes of a frame that takes long are a sign of life before the frame is whole.
                for n in 1..takes / (50 * MS) {
                    self.schedule(n * 50 * MS, Happening::Alive { connection, side: 1 - side });
                }
            }
            self.schedule_at(at, Happening::Network(due));
        }
    }

    pub(super) fn on_alive(&mut self, connection: u64, side: usize) {
        let Some(found) = self.net.connection(connection) else { return };
        let (end, peer, net) = (&found.ends[side], found.ends[1 - side].node, found.net);
        if end.up && !end.closed && self.net.passes(end.node, peer, net) {
            let (id, conn) = (end.node, end.conn);
            self.deliver(id, Input::Alive { peer, conn });
        }
    }

    pub(super) fn on_network(&mut self, due: Due) {
        match due {
            Due::Transmitted(connection, side, _) => {
                let mut due = Vec::new();
                self.net.transmitted(connection, side, self.now, &mut due);
                self.schedule_network(due);
            }
            Due::Arrive(connection, side, _) => {
                if let Some(packet) = self.net.arrive(connection, side, self.now) {
                    self.on_arrival(connection, 1 - side, packet);
                }
            }
        }
    }

    /// A packet arrives at this end.
    fn on_arrival(&mut self, connection: u64, side: usize, packet: Packet) {
        let Some(found) = self.net.connection(connection) else { return };
        let (end, peer, net) = (&found.ends[side], found.ends[1 - side].node, found.net);
        let (id, conn, closed, up) = (end.node, end.conn, end.closed, end.up);
        if closed {
            // A host answers for a connection that it does not have; one without power does not.
            let host_up = self.nodes.get(&id).is_some_and(|node| node.host_up);
            if host_up && self.net.passes(id, peer, net) && !matches!(packet, Packet::Closed { .. }) {
                let after = self.link_rng.within(MS / 10, 2 * MS);
                self.schedule(after, Happening::LinkReset { connection, side: 1 - side });
            }
            return;
        }
        if !up {
            self.on_link_up(connection, side);
        }
        match packet {
            Packet::Closed { reset } => {
                let mut due = Vec::new();
                self.net.close(connection, side, None, true, self.now, &mut due);
                self.schedule_network(due);
                self.deliver(id, Input::LinkDown { peer, conn, reset });
            }
            Packet::Frame(encoded, payload) => match codec::decode(&encoded) {
                Ok(frame) => {
                    self.match_received(id, &frame.message);
                    let Some(node) = self.nodes.get_mut(&id) else { return };
                    if node.machine.is_none() {
                        return;
                    }
                    let payload = payload.map(|blocks| node.lend(blocks));
                    self.deliver(id, Input::Frame { peer, conn, frame, payload });
                }
                Err(reason) => {
                    self.fail(Failure::correctness("codec", self.now, format!("a frame does not decode: {reason}")));
                }
            },
        }
    }

    /// Cuts a network between two nodes, one way or both.
    pub fn cut(&mut self, from: NodeId, to: NodeId, net: Net, both: bool) {
        self.last_cut = self.now;
        self.net.link(from, to, net).cut = true;
        if both {
            self.net.link(to, from, net).cut = true;
        }
    }

    /// Both networks, both ways.
    pub fn cut_all(&mut self, one: NodeId, other: NodeId) {
        for net in [Net::Dedicated, Net::Ordinary] {
            self.cut(one, other, net, true);
        }
    }

    /// Cuts a node off from everybody.
    pub fn isolate(&mut self, node: NodeId) {
        for other in self.plan.nodes.clone().into_iter().filter(|other| *other != node) {
            self.cut_all(node, other);
        }
    }

    /// Mends every cut; some connections do not live through it.
    pub fn mend_all(&mut self) {
        let cut: Vec<(NodeId, NodeId, Net)> =
            self.net.links().filter(|(_, link)| link.cut).map(|(which, _)| *which).collect();
        for (from, to, net) in cut {
            self.mend(from, to, net);
        }
    }

    /// Mends one way of a network.
    pub fn mend(&mut self, from: NodeId, to: NodeId, net: Net) {
        self.last_cut = self.now;
        self.net.link(from, to, net).cut = false;
        if self.link_rng.one_in(3) {
            self.reset(from, to, net);
        }
        let mut due = Vec::new();
        self.net.resume(from, to, net, self.now, &mut due);
        self.schedule_network(due);
    }

    /// Breaks the connections between two nodes; the ends find out one after the other.
    pub fn reset(&mut self, one: NodeId, other: NodeId, net: Net) {
        for connection in self.net.between(one, other, net) {
            for side in 0..2 {
                let after = self.link_rng.skewed(1, 60 * MS);
                self.schedule(after, Happening::LinkReset { connection, side });
            }
        }
    }
}

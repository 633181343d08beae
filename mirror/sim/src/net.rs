//! The simulated network: connections over links that delay, queue, cut and break.
//!
//! A connection delivers in order, each way by itself. What is queued but not handed to the wire is overtaken by
//! urgent frames. A cut holds what is under way (a stack would send it again); a death of one end may leave the other
//! end open, and what was under way may arrive after a newer connection is up.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use lockstep_core::{ConnId, Net, NodeId};

use crate::block::Block;
use crate::rng::Rng;

/// What travels.
#[derive(Clone, Debug)]
pub enum Packet {
    /// A frame and its payload.
    Frame(Vec<u8>, Option<Rc<[Block]>>),
    /// The other end closed.
    Closed {
        /// Not in order.
        reset: bool,
    },
}

impl Packet {
    fn bytes(&self) -> u64 {
        match self {
            Packet::Frame(frame, payload) => {
                frame.len() as u64 + payload.as_ref().map_or(0, |payload| payload.len() as u64 * 4096)
            }
            Packet::Closed { .. } => 40,
        }
    }
}

/// One way of one network between two nodes.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Nothing passes.
    pub cut: bool,
    /// Shortest delay, nanoseconds.
    pub delay: u64,
    /// Up to so much more.
    pub jitter: u64,
    /// Nanoseconds for a byte, in thousandths.
    pub millinanos_per_byte: u64,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct End {
    /// Whose.
    pub node: NodeId,
    /// Which process of the node.
    pub run: u64,
    /// Its name at this end.
    pub conn: ConnId,
    /// The machine was told that it is up.
    pub up: bool,
    /// Closed at this end.
    pub closed: bool,
    urgent: VecDeque<Packet>,
    queue: VecDeque<Packet>,
    /// Being handed to the wire: nothing overtakes it any more.
    sending: Option<Packet>,
    wire: VecDeque<(u64, Packet)>,
    last_arrival: u64,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Over which network.
    pub net: Net,
    /// The dialer's end and the other.
    pub ends: [End; 2],
}

/// What the world has to do after a call, at the given time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Call [`Network::transmitted`].
    Transmitted(u64, usize, u64),
    /// Call [`Network::arrive`].
    Arrive(u64, usize, u64),
}

/// All links and connections.
#[derive(Debug)]
pub struct Network {
    links: BTreeMap<(NodeId, NodeId, Net), Link>,
    connections: BTreeMap<u64, Connection>,
    by_conn: BTreeMap<(NodeId, ConnId), (u64, usize)>,
    next: u64,
    rng: Rng,
    /// Bytes sent so far, for the cost of a run.
    pub bytes_sent: u64,
}

impl Network {
    /// A network of links that are all like `link`.
    #[must_use]
    pub fn new(nodes: &[NodeId], link: Link, rng: Rng) -> Network {
        let mut links = BTreeMap::new();
        for from in nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                for net in [Net::Dedicated, Net::Ordinary] {
                    links.insert((*from, *to, net), link);
                }
            }
        }
        Network { links, connections: BTreeMap::new(), by_conn: BTreeMap::new(), next: 1, rng, bytes_sent: 0 }
    }

    /// One way of a network.
    ///
    /// # Panics
    /// If one of the nodes does not exist.
    pub fn link(&mut self, from: NodeId, to: NodeId, net: Net) -> &mut Link {
        self.links.get_mut(&(from, to, net)).expect("every pair of nodes has links")
    }

    /// Every link.
    pub fn links(&mut self) -> impl Iterator<Item = (&(NodeId, NodeId, Net), &mut Link)> {
        self.links.iter_mut()
    }

    /// True if bytes pass both ways.
    #[must_use]
    pub fn passes(&self, one: NodeId, other: NodeId, net: Net) -> bool {
        let open = |from, to| self.links.get(&(from, to, net)).is_some_and(|link| !link.cut);
        open(one, other) && open(other, one)
    }

    /// Makes a connection; neither end knows it yet.
    pub fn connect(&mut self, net: Net, dialer: (NodeId, u64), other: (NodeId, u64), now: u64) -> u64 {
        let id = self.next;
        self.next += 1;
        let end = |(node, run): (NodeId, u64), conn| End {
            node,
            run,
            conn: ConnId(conn),
            up: false,
            closed: false,
            urgent: VecDeque::new(),
            queue: VecDeque::new(),
            sending: None,
            wire: VecDeque::new(),
            last_arrival: now,
        };
        // The numbers of the two ends differ: nothing may depend on them being the same.
        let connection = Connection { net, ends: [end(dialer, id * 2), end(other, id * 2 + 1)] };
        for (side, end) in connection.ends.iter().enumerate() {
            self.by_conn.insert((end.node, end.conn), (id, side));
        }
        self.connections.insert(id, connection);
        id
    }

    /// The number of a connection that never comes up.
    pub fn unused_conn(&mut self) -> ConnId {
        self.next += 1;
        ConnId(self.next * 2)
    }

    /// A connection.
    #[must_use]
    pub fn connection(&self, id: u64) -> Option<&Connection> {
        self.connections.get(&id)
    }

    /// One end.
    #[must_use]
    pub fn end(&self, id: u64, side: usize) -> Option<&End> {
        self.connections.get(&id).map(|connection| &connection.ends[side])
    }

    /// One end.
    pub fn end_mut(&mut self, id: u64, side: usize) -> Option<&mut End> {
        self.connections.get_mut(&id).map(|connection| &mut connection.ends[side])
    }

    /// Which connection and end a node names so.
    #[must_use]
    pub fn find(&self, node: NodeId, conn: ConnId) -> Option<(u64, usize)> {
        self.by_conn.get(&(node, conn)).copied()
    }

    /// Connections between two nodes over a network, oldest first.
    #[must_use]
    pub fn between(&self, one: NodeId, other: NodeId, net: Net) -> Vec<u64> {
        let joins = |connection: &Connection| {
            let ends = (connection.ends[0].node, connection.ends[1].node);
            connection.net == net && (ends == (one, other) || ends == (other, one))
        };
        self.connections.iter().filter(|(_, connection)| joins(connection)).map(|(id, _)| *id).collect()
    }

    /// All open ends of a node.
    #[must_use]
    pub fn ends_of(&self, node: NodeId) -> Vec<(u64, usize)> {
        let mut ends = Vec::new();
        for (id, connection) in &self.connections {
            for (side, end) in connection.ends.iter().enumerate() {
                if end.node == node && !end.closed {
                    ends.push((*id, side));
                }
            }
        }
        ends
    }

    /// Sends from one end.
    pub fn send(&mut self, id: u64, side: usize, packet: Packet, urgent: bool, now: u64, due: &mut Vec<(u64, Due)>) {
        let Some(end) = self.end_mut(id, side) else { return };
        let bytes = packet.bytes();
        if urgent {
            end.urgent.push_back(packet)
        } else {
            end.queue.push_back(packet)
        }
        self.bytes_sent += bytes;
        self.start(id, side, now, due);
    }

    fn start(&mut self, id: u64, side: usize, now: u64, due: &mut Vec<(u64, Due)>) {
        let Some((link, end)) = self.link_and_end(id, side) else { return };
        if end.sending.is_some() || link.cut {
            return;
        }
        let Some(first) = end.urgent.pop_front().or_else(|| end.queue.pop_front()) else { return };
        let takes = first.bytes() * link.millinanos_per_byte / 1000;
        end.sending = Some(first);
        due.push((now + takes, Due::Transmitted(id, side, takes)));
    }

    fn link_and_end(&mut self, id: u64, side: usize) -> Option<(Link, &mut End)> {
        let connection = self.connections.get_mut(&id)?;
        let (from, to, net) = (connection.ends[side].node, connection.ends[1 - side].node, connection.net);
        let link = *self.links.get(&(from, to, net))?;
        Some((link, &mut connection.ends[side]))
    }

    /// The first queued packet has gone out.
    pub fn transmitted(&mut self, id: u64, side: usize, now: u64, due: &mut Vec<(u64, Due)>) {
        let jitter = self.rng.next();
        let Some((link, end)) = self.link_and_end(id, side) else { return };
        if let Some(packet) = end.sending.take() {
            let jitter = if link.jitter == 0 { 0 } else { jitter % link.jitter };
            let arrival = end.last_arrival.max(now + link.delay + jitter);
            end.last_arrival = arrival;
            end.wire.push_back((arrival, packet));
            due.push((arrival, Due::Arrive(id, side, 0)));
        }
        self.start(id, side, now, due);
    }

    /// The packets that have arrived at the other end by now.
    pub fn arrive(&mut self, id: u64, side: usize, now: u64) -> Option<Packet> {
        let (link, end) = self.link_and_end(id, side)?;
        if link.cut || end.wire.front().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        end.wire.pop_front().map(|(_, packet)| packet)
    }

    /// A link passes again: what was held goes on.
    pub fn resume(&mut self, from: NodeId, to: NodeId, net: Net, now: u64, due: &mut Vec<(u64, Due)>) {
        let ids: Vec<u64> = self.between(from, to, net);
        for id in ids {
            for side in 0..2 {
                if self.end(id, side).is_none_or(|end| end.node != from) {
                    continue;
                }
                let held = self.end(id, side).map_or(0, |end| end.wire.len());
                due.extend((0..held).map(|_| (now + 1, Due::Arrive(id, side, 0))));
                if let Some(end) = self.end_mut(id, side) {
                    for (at, _) in &mut end.wire {
                        *at = (*at).min(now + 1);
                    }
                }
                self.start(id, side, now, due);
            }
        }
    }

    /// Closes one end: nothing is delivered to it any more, what it sent goes on its way (or only a first part of it, if
    /// `lose_queue`), and then the other end learns of it.
    pub fn close(
        &mut self,
        id: u64,
        side: usize,
        notice: Option<bool>,
        lose_queue: bool,
        now: u64,
        due: &mut Vec<(u64, Due)>,
    ) {
        let keep = self.rng.next();
        let Some(end) = self.end_mut(id, side) else { return };
        if end.closed {
            return;
        }
        end.closed = true;
        if lose_queue {
            let queued = end.queue.len() as u64;
            end.queue.truncate((keep % (queued + 1)) as usize);
        }
        if let Some(reset) = notice {
            self.send(id, side, Packet::Closed { reset }, false, now, due);
        }
        self.forget(id);
    }

    /// The machine of this end lost its power: what is not on the wire is gone, and nobody tells the other end.
    pub fn vanish(&mut self, id: u64, side: usize) {
        if let Some(end) = self.end_mut(id, side) {
            end.closed = true;
            end.sending = None;
            end.urgent.clear();
            end.queue.clear();
        }
        self.forget(id);
    }

    fn forget(&mut self, id: u64) {
        let over = self.connections.get(&id).is_some_and(|connection| connection.ends.iter().all(|end| end.closed));
        if over && let Some(connection) = self.connections.remove(&id) {
            for end in connection.ends {
                self.by_conn.remove(&(end.node, end.conn));
            }
        }
    }
}

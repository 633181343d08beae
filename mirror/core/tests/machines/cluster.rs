//! Some production machines, each with a disk and memory that do what they are told at once, joined by links that lose nothing.
//! Frames are delivered one by one, in the order in which they were sent; a test may hold some back, and may send others in a
//! member's name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lockstep_core::timing::{MS, Timing};
use lockstep_core::{
    Access, AttachMode, BlockRange, BootId, BufId, Command, CommandError, CommandId, Config, ConnId, Digest, Effect,
    Epoch, Event, Frame, Generation, Incarnation, Input, IoError, Message, Meta, Net, NodeId, Op, Refusal, Replica,
    Reply, Request, RequestId, Settings, Setup, Stamp, Time, VolumeId, VoterId,
};

pub const A: NodeId = NodeId(1);
pub const B: NodeId = NodeId(2);
pub const C: NodeId = NodeId(3);
/// Blocks of an extent.
pub const EXTENT: u64 = Settings::EXTENT_BLOCKS;
/// 64 extents.
pub const BLOCKS: u64 = 64 * EXTENT;

struct Node {
    replica: Replica,
    /// What each block holds: the number of the write that left it there.
    disk: BTreeMap<u64, u64>,
    /// The same for what is in memory, block by block.
    buffers: BTreeMap<BufId, Vec<u64>>,
}

/// Decides about a frame: false if it gets lost.
type Passes = Box<dyn Fn(NodeId, NodeId, &Message) -> bool>;

pub struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    inputs: VecDeque<(NodeId, Input)>,
    now: Time,
    numbers: u64,
    passes: Passes,
    /// Stamp and connection of the last frame of a session, from and to.
    sessions: BTreeMap<(NodeId, NodeId), (Stamp, ConnId)>,
    /// Every frame that was sent, but heartbeats.
    pub sent: Vec<(NodeId, NodeId, Message)>,
    pub completed: BTreeMap<RequestId, Result<(), IoError>>,
    pub answers: BTreeMap<CommandId, Result<Reply, CommandError>>,
    pub refused: Vec<(NodeId, NodeId, Refusal)>,
}

impl Cluster {
    /// Nodes 1 to `count`, each with a replica; those in `writers` have the multi-writer volume attached.
    pub fn start(count: u32, writers: &[NodeId]) -> Cluster {
        let ids: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let config = Config {
            volume: VolumeId([1; 16]),
            generation: Generation { id: 1, parent: 0 },
            epoch: Epoch(1),
            size_blocks: BLOCKS,
            settings: Settings { access: Access::MultiWriter, ..Settings::default() },
            priority: Default::default(),
            replicas: ids.iter().copied().collect(),
            tie_breaker: None,
            voters: ids.iter().map(|node| (*node, VoterId(u64::from(node.0)))).collect(),
            in_sync: ids.iter().map(|node| (*node, Incarnation(1))).collect(),
            joining: BTreeMap::new(),
            attached: BTreeMap::new(),
            last_in_sync: BTreeMap::new(),
            added: BTreeMap::new(),
            requests: BTreeMap::new(),
        };
        let node = |id: NodeId| {
            let meta = Meta::created(id, true, config.clone(), Incarnation(1), BootId(1));
            let setup = Setup::new(Incarnation(1), BootId(1), meta, Timing::PRODUCTION);
            let replica = Replica::new(setup, Time(MS));
            Node { replica, disk: BTreeMap::new(), buffers: BTreeMap::new() }
        };
        let mut cluster = Cluster {
            nodes: ids.iter().map(|id| (*id, node(*id))).collect(),
            inputs: ids.iter().map(|id| (*id, Input::Tick)).collect(),
            now: Time(MS),
            numbers: 1,
            passes: Box::new(|_, _, _| true),
            sessions: BTreeMap::new(),
            sent: Vec::new(),
            completed: BTreeMap::new(),
            answers: BTreeMap::new(),
            refused: Vec::new(),
        };
        let pairs: Vec<_> = ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b))).filter(|(a, b)| a < b).collect();
        for (one, other) in pairs {
            cluster.link(one, other);
        }
        cluster.run(200);
        for writer in writers {
            let command =
                Command::Attach { mode: AttachMode::ReadWrite, take_over: false, recoverable: false, class: None };
            let answer = cluster.command(*writer, command);
            assert_eq!(answer, Some(Ok(Reply::Done)), "attach at {writer}");
        }
        cluster
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn link(&mut self, one: NodeId, other: NodeId) {
        for net in [Net::Dedicated, Net::Ordinary] {
            let conn = ConnId(self.number());
            self.inputs.push_back((one, Input::LinkUp { peer: other, net, conn }));
            self.inputs.push_back((other, Input::LinkUp { peer: one, net, conn }));
        }
    }

    /// From now on these frames get lost.
    pub fn lose(&mut self, lost: impl Fn(NodeId, NodeId, &Message) -> bool + 'static) {
        self.passes = Box::new(move |from, to, message| !lost(from, to, message));
    }

    pub fn lose_nothing(&mut self) {
        self.passes = Box::new(|_, _, _| true);
    }

    /// Lets this many milliseconds pass.
    pub fn run(&mut self, millis: u64) {
        let until = self.now.after(millis * MS);
        loop {
            self.settle();
            let next = self.nodes.values().map(|node| node.replica.deadline()).min().unwrap_or(until);
            if next > until {
                break;
            }
            // A machine that is due at once is asked again a moment later.
            self.now = next.max(self.now.after(1_000));
            let now = self.now;
            let due = self.nodes.iter().filter(|(_, node)| node.replica.deadline() <= now).map(|(id, _)| *id);
            self.inputs.extend(due.map(|id| (id, Input::Tick)));
        }
        self.now = until;
    }

    /// Carries out all that can happen at this moment.
    fn settle(&mut self) {
        let mut out = Vec::new();
        while let Some((id, input)) = self.inputs.pop_front() {
            let node = self.nodes.get_mut(&id).expect("inputs are for nodes");
            node.replica.step(self.now, input, &mut out);
            for effect in out.drain(..) {
                self.carry_out(id, effect);
            }
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        let node = self.nodes.get_mut(&id).expect("effects are of nodes");
        let done = |io| Input::DiskDone { io, result: Ok(()) };
        let answer = match effect {
            Effect::Persist { token, .. } => Input::Persisted { token },
            Effect::DiskRead { io, range, buf } => {
                let blocks = (range.start..range.end).map(|block| node.at(block)).collect();
                node.buffers.insert(buf, blocks);
                done(io)
            }
            Effect::DiskWrite { io, range, buf, offset, .. } => {
                let skipped = (offset / lockstep_core::range::BLOCK_BYTES) as usize;
                for (block, value) in (range.start..range.end).zip(node.buffers[&buf].iter().skip(skipped)) {
                    node.disk.insert(block, *value);
                }
                done(io)
            }
            Effect::DiskZero { io, range, .. } => {
                node.disk.retain(|block, _| !(range.start..range.end).contains(block));
                done(io)
            }
            Effect::DiskFlush { io } => done(io),
            Effect::DiskDigest { io, range } => {
                let digest = |block| Digest(u128::from(node.at(block)).to_le_bytes());
                Input::DiskDigests { io, result: Ok((range.start..range.end).map(digest).collect()) }
            }
            Effect::CopyToRequest { to, from } => {
                let data = node.buffers[&from].clone();
                node.buffers.insert(to, data);
                return;
            }
            Effect::Send { peer, conn, frame, payload, .. } => {
                let payload = payload.map(|buf| node.buffers[&buf].clone());
                return self.send((id, peer), conn, frame, payload);
            }
            Effect::CloseLink { peer, conn } => {
                self.inputs.push_back((peer, Input::LinkDown { peer: id, conn, reset: true }));
                return self.link(id.min(peer), id.max(peer));
            }
            Effect::Complete { request, result } => {
                self.completed.insert(request, result);
                return;
            }
            Effect::Answer { command, result } => {
                self.answers.insert(command, result);
                return;
            }
            Effect::Event(Event::Refused { node, reason }) => return self.refused.push((id, node, reason)),
            Effect::Release { .. }
            | Effect::DiskResize { .. }
            | Effect::FailDevice
            | Effect::Event(_)
            | Effect::Lease { .. }
            | Effect::RegisterRead { .. }
            | Effect::RegisterSwap { .. } => return,
        };
        self.inputs.push_back((id, answer));
    }

    fn send(&mut self, (from, to): (NodeId, NodeId), conn: ConnId, frame: Frame, payload: Option<Vec<u64>>) {
        if frame.stamp.session.0 != 0 {
            self.sessions.insert((from, to), (frame.stamp, conn));
        }
        if !matches!(frame.message, Message::Heartbeat { .. } | Message::HeartbeatAnswer { .. }) {
            self.sent.push((from, to, frame.message.clone()));
        }
        if !(self.passes)(from, to, &frame.message) {
            return;
        }
        let payload = payload.map(|data| self.buffer(to, data));
        self.inputs.push_back((to, Input::Frame { peer: from, conn, frame, payload }));
    }

    fn buffer(&mut self, node: NodeId, data: Vec<u64>) -> BufId {
        let buf = BufId(self.number());
        self.nodes.get_mut(&node).expect("a node").buffers.insert(buf, data);
        buf
    }

    /// Says something in the name of `from`, as a frame of its present session, with data if it has some.
    pub fn forge(&mut self, from: NodeId, to: NodeId, message: Message, data: Option<Vec<u64>>) {
        let (stamp, conn) = self.sessions[&(from, to)];
        let payload = data.map(|data| self.buffer(to, data));
        let frame = Frame { stamp, message };
        self.inputs.push_back((to, Input::Frame { peer: from, conn, frame, payload }));
        self.settle();
    }

    /// A node hears from another one's supervisor that this run of it has ended.
    pub fn exited(&mut self, at: NodeId, node: NodeId, incarnation: Incarnation) {
        self.inputs.push_back((at, Input::ProcessExited { node, incarnation, restarting: false }));
        self.settle();
    }

    /// Gives a command a second.
    pub fn command(&mut self, node: NodeId, command: Command) -> Option<Result<Reply, CommandError>> {
        let id = CommandId(self.number());
        self.inputs.push_back((node, Input::Command { id, command }));
        self.run(1_000);
        self.answers.get(&id).cloned()
    }

    /// Asks for something; it may take time.
    pub fn ask(&mut self, node: NodeId, op: Op, range: BlockRange) -> RequestId {
        let id = RequestId(self.number());
        // Each write leaves its own number.
        let buf = self.buffer(node, vec![id.0; range.len() as usize]);
        self.inputs.push_back((node, Input::Request(Request { id, op, range, buf })));
        self.settle();
        id
    }

    /// Writes a block; it may take time.
    pub fn write(&mut self, node: NodeId, block: u64) -> RequestId {
        self.ask(node, Op::Write { fua: false }, BlockRange::new(block, block + 1))
    }

    /// Writes a block, which takes at most half a second.
    pub fn write_now(&mut self, node: NodeId, block: u64) -> RequestId {
        let id = self.write(node, block);
        self.run(500);
        assert_eq!(self.completed.get(&id), Some(&Ok(())), "a write of block {block} at {node}");
        id
    }

    pub fn is_done(&self, request: RequestId) -> bool {
        self.completed.get(&request) == Some(&Ok(()))
    }

    /// What each node's disk holds at this block.
    pub fn contents(&self, block: u64) -> Vec<u64> {
        self.nodes.values().map(|node| node.at(block)).collect()
    }

    /// Blocks that not all disks hold alike.
    pub fn different(&self) -> Vec<u64> {
        let written: BTreeSet<u64> = self.nodes.values().flat_map(|node| node.disk.keys().copied()).collect();
        let same = |block: &u64| self.contents(*block).windows(2).all(|pair| pair[0] == pair[1]);
        written.into_iter().filter(|block| !same(block)).collect()
    }

    pub fn replica(&self, node: NodeId) -> &Replica {
        &self.nodes[&node].replica
    }

    /// What a node says that it holds.
    pub fn held(&self, node: NodeId) -> Vec<BlockRange> {
        let grants = self.replica(node).status().grants;
        grants.map(|grants| grants.holds).unwrap_or_default()
    }

    /// Frames of policing so far.
    pub fn policing_frames(&self) -> usize {
        self.sent.iter().filter(|(_, _, message)| is_policing(message)).count()
    }
}

impl Node {
    fn at(&self, block: u64) -> u64 {
        self.disk.get(&block).copied().unwrap_or(0)
    }
}

pub fn is_policing(message: &Message) -> bool {
    matches!(
        message,
        Message::GrantAsk { .. } | Message::Granted { .. } | Message::Recall { .. } | Message::Released { .. }
    )
}

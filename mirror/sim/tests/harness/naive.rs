//! A mirror without any safety, enough to try the harness: it survives no fault at all.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_core::{
    AttachMode, Attachment, BlockRange, BufId, Command, CommandId, Config, ConnId, Counters, DiskState, Effect, Epoch,
    Frame, Incarnation, Input, IoId, Message, Meta, MetaUpdate, NodeId, Op, PersistToken, Reply, RequestId, Setup,
    Stamp, Status, Time, WriteId, WriteKind,
};
use lockstep_sim::machine::Machine;

/// How it is wrong, beside being naive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    None,
    /// The writer completes a write without waiting for its peers.
    CompletesEarly,
    /// The peer acknowledges and throws every fifth write away.
    DropsWrites,
    /// A flush completes without any flush.
    FlushesNothing,
    /// It panics at the hundredth input.
    Panics,
}

struct Job {
    request: Option<RequestId>,
    reply: Option<(NodeId, WriteId)>,
    range: BlockRange,
    buf: Option<BufId>,
    release: bool,
    kind: Option<WriteKind>,
    waits: BTreeSet<u64>,
    is_flush: bool,
}

/// See the module.
pub struct Naive {
    fault: Fault,
    meta: Meta,
    setup: Setup,
    links: BTreeMap<NodeId, ConnId>,
    tokens: BTreeMap<u64, (u64, Option<(CommandId, Attachment)>)>,
    jobs: BTreeMap<u64, Job>,
    ios: BTreeMap<u64, u64>,
    next: u64,
    inputs: u64,
}

impl Naive {
    /// A machine with this fault.
    pub fn new(setup: Setup, fault: Fault) -> Naive {
        Naive {
            fault,
            meta: setup.meta.clone(),
            setup,
            links: BTreeMap::new(),
            tokens: BTreeMap::new(),
            jobs: BTreeMap::new(),
            ios: BTreeMap::new(),
            next: 1,
            inputs: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn persist(
        &mut self,
        updates: Vec<MetaUpdate>,
        job: u64,
        command: Option<(CommandId, Attachment)>,
        out: &mut Vec<Effect>,
    ) {
        let token = self.number();
        for update in &updates {
            self.meta.apply(update);
        }
        self.tokens.insert(token, (job, command));
        out.push(Effect::Persist { token: PersistToken(token), updates });
    }

    fn begin(&mut self, job: Job, out: &mut Vec<Effect>) {
        let number = self.number();
        let regions = lockstep_core::range::regions(job.range, 1024).collect();
        let writes = job.kind.is_some();
        self.jobs.insert(number, job);
        if writes {
            self.persist(vec![MetaUpdate::IntentSet(regions)], number, None, out);
        } else {
            self.go(number, out);
        }
    }

    fn go(&mut self, number: u64, out: &mut Vec<Effect>) {
        let io = self.number();
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let (range, durable) = (job.range, false);
        let io_id = IoId(io);
        match (job.kind, job.buf) {
            _ if job.is_flush => out.push(Effect::DiskFlush { io: io_id }),
            (Some(WriteKind::Data), Some(buf)) => {
                out.push(Effect::DiskWrite { io: io_id, range, buf, offset: 0, durable })
            }
            (Some(_), _) => out.push(Effect::DiskZero { io: io_id, range, discard: false, durable }),
            (None, Some(buf)) => out.push(Effect::DiskRead { io: io_id, range, buf }),
            (None, None) => {}
        }
        job.waits.insert(io);
        self.ios.insert(io, number);
        let (Some(_), false) = (job.request, job.kind.is_none() && !job.is_flush) else { return };
        let payload = job.buf.filter(|_| job.kind == Some(WriteKind::Data));
        let message = Message::Write {
            id: WriteId(number),
            grant: Default::default(),
            // A flush goes as a durable write of nothing in particular: this machine knows no other frames.
            range: if job.is_flush { BlockRange::new(0, 1) } else { range },
            kind: job.kind.unwrap_or(WriteKind::Zeroes),
            durable: job.is_flush,
            floor: WriteId(0),
            flush_floor: Default::default(),
        };
        for (peer, conn) in self.links.iter().filter(|(peer, _)| self.setup.meta.config.replicas.contains(peer)) {
            if self.fault != Fault::CompletesEarly {
                job.waits.insert(1 << 60 | u64::from(peer.0));
            }
            let frame = Frame { stamp: Stamp::default(), message: message.clone() };
            out.push(Effect::Send { peer: *peer, conn: *conn, frame, payload, urgent: false });
        }
    }

    fn done(&mut self, number: u64, what: u64, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        job.waits.remove(&what);
        if !job.waits.is_empty() {
            return;
        }
        let Some(job) = self.jobs.remove(&number) else { return };
        if let Some(request) = job.request {
            out.push(Effect::Complete { request, result: Ok(()) });
        }
        if let Some((peer, id)) = job.reply {
            let frame = Frame { stamp: Stamp::default(), message: Message::WriteAck { id } };
            if let Some(conn) = self.links.get(&peer) {
                out.push(Effect::Send { peer, conn: *conn, frame, payload: None, urgent: false });
            }
        }
        if let Some(buf) = job.buf.filter(|_| job.release) {
            out.push(Effect::Release { buf });
        }
    }

    fn on_write(&mut self, peer: NodeId, message: Message, payload: Option<BufId>, out: &mut Vec<Effect>) {
        let Message::Write { id, range, kind, durable, .. } = message else { return };
        let drops = self.fault == Fault::DropsWrites && id.0 % 5 == 0;
        let nothing = drops || (durable && self.fault == Fault::FlushesNothing);
        let job = Job {
            request: None,
            reply: Some((peer, id)),
            range,
            buf: payload,
            release: true,
            kind: (!durable && !drops).then_some(kind),
            waits: BTreeSet::new(),
            is_flush: durable,
        };
        if nothing {
            let number = self.number();
            self.jobs.insert(number, job);
            self.done(number, 0, out);
        } else {
            self.begin(job, out);
        }
    }
}

impl Machine for Naive {
    fn step(&mut self, _now: Time, input: Input, out: &mut Vec<Effect>) {
        self.inputs += 1;
        assert!(self.fault != Fault::Panics || self.inputs < 100, "as asked");
        match input {
            Input::LinkUp { peer, conn, .. } => {
                self.links.insert(peer, conn);
            }
            Input::Command { id, command: Command::Attach { .. } } => {
                let incarnation = self.setup.incarnation;
                let attachment = Attachment {
                    incarnation,
                    mode: AttachMode::ReadWrite,
                    recoverable: false,
                    since: lockstep_core::Epoch(1),
                    class: None,
                };
                let mut config = self.meta.config.clone();
                config.epoch = Epoch(config.epoch.0 + 1);
                config.attached.insert(self.meta.node, attachment);
                self.persist(vec![MetaUpdate::Config(Box::new(config))], 0, Some((id, attachment)), out);
            }
            Input::Persisted { token } => {
                if let Some((job, command)) = self.tokens.remove(&token.0) {
                    if let Some((command, _)) = command {
                        out.push(Effect::Answer { command, result: Ok(Reply::Done) });
                    }
                    self.go(job, out);
                }
            }
            Input::Request(request) => {
                let kind = match request.op {
                    Op::Write { .. } => Some(WriteKind::Data),
                    Op::WriteZeroes { .. } | Op::Discard => Some(WriteKind::Zeroes),
                    Op::Read | Op::Flush => None,
                };
                let (is_flush, release) = (request.op == Op::Flush, matches!(request.op, Op::Write { .. }));
                let buf = Some(request.buf);
                let job = Job {
                    request: Some(request.id),
                    reply: None,
                    range: request.range,
                    buf,
                    release,
                    kind,
                    waits: BTreeSet::new(),
                    is_flush,
                };
                self.begin(job, out);
            }
            Input::Frame { peer, frame, payload, .. } => match frame.message {
                Message::WriteAck { id } => self.done(id.0, 1 << 60 | u64::from(peer.0), out),
                message => self.on_write(peer, message, payload, out),
            },
            Input::DiskDone { io, .. } => {
                if let Some(job) = self.ios.remove(&io.0) {
                    self.done(job, io.0, out);
                }
            }
            _ => {}
        }
    }

    fn deadline(&self) -> Time {
        Time::NEVER
    }

    fn peers(&self) -> BTreeSet<NodeId> {
        self.meta.config.replicas.iter().copied().filter(|node| *node != self.meta.node).collect()
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn config(&self) -> &Config {
        &self.meta.config
    }

    fn left(&self) -> &BTreeSet<(NodeId, Incarnation)> {
        &self.meta.left
    }

    fn grants_taken(&self) -> u64 {
        0
    }
    fn status(&self) -> Status {
        Status {
            grants: None,
            node: self.meta.node,
            incarnation: self.setup.incarnation,
            config: self.meta.config.clone(),
            left: Vec::new(),
            disk: DiskState::UpToDate,
            attached: true,
            frozen: false,
            reconciling: false,
            peers: Vec::new(),
            dirty_blocks: BTreeMap::new(),
            intent_regions: 0,
            resync: None,
            verify: None,
            diverged: None,
            fenced_at: None,
            counters: Counters::default(),
        }
    }
}

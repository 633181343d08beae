//! One volume in its loop: hosts the core's machine, tells it what happened, and does what it wants.
//!
//! ```text
//! completion, command, timer -> Input -> Replica::step -> Effects -> links, disk, metadata, front end
//! ```
//!
//! Effects queue entries; the loop pushes all of a turn's entries at its end, in the order of what takes longest: sends,
//! replies to the front end, disk, metadata.

mod connections;
mod requests;
mod status;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lockstep_core::timing::Timing;
use lockstep_core::{
    BufId, Command, CommandError, CommandId, ConnId, Effect, Event, Incarnation, Input, MetaUpdate, NodeId, Replica,
    Reply, Setup, Time, VolumeId,
};

use crate::buffers::{Buffer, Buffers};
use crate::disk::Disk;
use crate::link::{Link, LinkCounters, Received};
use crate::meta_store::MetaStore;
use crate::pending::Responder;
use crate::ring::Ring;
use crate::shared::Shared;
use crate::storage::Files;

pub(crate) use connections::called_volume;
pub(crate) use requests::FrontHost;
pub use requests::RequestResult;
pub use status::{EventRecord, FrontStatus, LinkStatus, VolumeStatus};

/// What a loop's volumes share.
pub(crate) struct Io {
    pub(crate) ring: Ring,
    pub(crate) buffers: Buffers,
    /// When the completions of this turn were drained.
    pub(crate) now: Time,
    pub(crate) shared: Arc<Shared>,
}

/// Bytes of received payloads that a volume may hold; beyond it, its links receive nothing until some are freed. Twice
/// what a sound peer has in flight: the writer's front end is bounded by its own memory, and resync by its window.
const RECEIVED_BYTES_MAX: usize = 96 << 20;
/// Events that the status shows.
const EVENTS_KEPT: usize = 128;

/// One volume.
pub(crate) struct Volume {
    pub(crate) index: u32,
    pub(crate) id: VolumeId,
    pub(crate) name: String,
    replica: Replica,
    disk: Option<Disk>,
    meta: MetaStore,
    links: Vec<Link>,
    /// Room for the frames of one receive, kept.
    frames: Vec<Received>,
    next_conn: u32,
    dials: connections::Dials,
    /// Memory that the core asked for by its own names.
    core_buffers: BTreeMap<BufId, Buffer>,
    commands: BTreeMap<CommandId, Responder<Result<Reply, CommandError>>>,
    next_command: u64,
    pub(crate) front: FrontHost,
    inputs: VecDeque<Input>,
    effects: Vec<Effect>,
    events: VecDeque<EventRecord>,
    register_lost: Option<String>,
    link_counters: LinkCounters,
    /// Is being taken away: nothing new is started.
    closing: bool,
    closed: Option<Responder<()>>,
}

impl Volume {
    /// Starts a volume over its files.
    pub(crate) fn start(index: u32, name: String, files: Files, io: &mut Io) -> std::io::Result<Volume> {
        let mut journal_meta = files.journal.meta().clone();
        let mut meta = MetaStore::new(files.journal, files.areas, index, &mut io.ring)?;
        let disk = match files.data {
            Some(Ok(file)) => Some(Disk::new(file, index, &mut io.ring)?),
            Some(Err(reason)) => {
                // The data cannot be trusted from here on, whatever a later start finds.
                let failed = MetaUpdate::Failed(reason);
                journal_meta.apply(&failed);
                meta.persist(lockstep_core::PersistToken(0), vec![failed]);
                None
            }
            None => None,
        };
        let identity = io.shared.identity;
        // A part that this engine made while it ran has a run of its own.
        let incarnation = identity.incarnation.max(journal_meta.incarnation);
        let setup = Setup::new(incarnation, identity.boot, journal_meta, Timing::PRODUCTION);
        let id = meta.meta().config.volume;
        let mut volume = Volume {
            index,
            id,
            name,
            replica: Replica::new(setup, io.now),
            disk,
            meta,
            links: Vec::new(),
            frames: Vec::new(),
            next_conn: 1,
            dials: connections::Dials::default(),
            core_buffers: BTreeMap::new(),
            commands: BTreeMap::new(),
            next_command: 1,
            front: FrontHost::default(),
            inputs: VecDeque::new(),
            effects: Vec::new(),
            events: VecDeque::new(),
            register_lost: None,
            link_counters: LinkCounters::default(),
            closing: false,
            closed: None,
        };
        if let Some(leases) = &io.shared.leases {
            leases.started(id, &volume.replica.config().settings);
        }
        volume.step(Input::Tick, io);
        Ok(volume)
    }

    /// When the loop has to look at this volume again at the latest.
    pub(crate) fn deadline(&self) -> Time {
        if self.closing {
            return Time::NEVER;
        }
        self.replica.deadline().min(self.dials.deadline())
    }

    /// Tells the core, and does what it wants.
    pub(crate) fn step(&mut self, input: Input, io: &mut Io) {
        if self.closing {
            return;
        }
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            let mut effects = std::mem::take(&mut self.effects);
            self.replica.step(io.now, input, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(effect, io);
            }
            self.effects = effects;
        }
    }

    /// The deadline has come.
    pub(crate) fn on_time(&mut self, io: &mut Io) {
        if self.replica.deadline() <= io.now {
            self.step(Input::Tick, io);
        }
    }

    /// An operator's command.
    pub(crate) fn command(&mut self, command: Command, responder: Responder<Result<Reply, CommandError>>, io: &mut Io) {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        self.commands.insert(id, responder);
        self.step(Input::Command { id, command }, io);
    }

    /// A node's supervisor reports.
    pub(crate) fn process_exited(&mut self, node: NodeId, incarnation: Incarnation, restarting: bool, io: &mut Io) {
        self.step(Input::ProcessExited { node, incarnation, restarting }, io);
    }

    /// A disk operation completed.
    pub(crate) fn on_disk(&mut self, slot: u32, result: i32, io: &mut Io) {
        let disk = self.disk.as_mut().expect("a completion of the disk comes from a disk");
        if let Some(input) = disk.on_completion(slot, result, &mut io.buffers) {
            self.step(input, io);
        }
    }

    /// A metadata write completed.
    pub(crate) fn on_meta(&mut self, result: i32, io: &mut Io) {
        if let Some(input) = self.meta.on_completion(result, &mut io.buffers) {
            self.step(input, io);
        }
    }

    /// Pushes everything that this turn wants from the kernel.
    pub(crate) fn submit(&mut self, io: &mut Io) {
        for link in &mut self.links {
            link.submit_send(&mut io.ring, &mut io.buffers);
        }
        let replied = self.front.submit(&mut io.ring);
        if replied {
            // The reply's completion at the block device waits in a softirq, which the kernel would leave to a thread
            // that runs when this one sleeps. To look at the socket is the cheapest thing that works it off.
            self.submit_receives(true, io);
        }
        if let Some(disk) = &mut self.disk {
            disk.submit(&mut io.ring);
        }
        self.meta.submit(&mut io.ring, &mut io.buffers);
        self.submit_receives(false, io);
    }

    fn submit_receives(&mut self, look: bool, io: &mut Io) {
        if io.buffers.charged_bytes(self.index) <= RECEIVED_BYTES_MAX {
            for link in &mut self.links {
                link.submit_receive(&mut io.ring, &mut io.buffers, look);
            }
        }
    }

    /// Completions without which the next one is worth nothing: while an application writes one block after the other, the
    /// own disk's is when a peer's has not come, and the other way round. A request that comes all the same waits for the
    /// first of them.
    pub(crate) fn completions_together(&self) -> u32 {
        let alone = self.front.is_one_at_a_time() && self.disk.as_ref().is_some_and(Disk::has_one_operation);
        if alone { self.replica.awaited_together() } else { 0 }
    }

    /// Starts to take the volume out of its loop. [`Volume::is_over`] says when that is done.
    pub(crate) fn close(&mut self, done: Option<Responder<()>>, io: &mut Io) {
        self.closing = true;
        self.closed = done.or(self.closed.take());
        for link in &mut self.links {
            link.close(&mut io.buffers);
        }
        self.front.abort();
        self.commands.clear();
    }

    /// True once a closing volume has nothing in the ring any more.
    pub(crate) fn is_over(&mut self, io: &mut Io) -> bool {
        if !self.closing {
            return false;
        }
        self.reap_links(io);
        self.links.is_empty()
            && self.front.is_closed()
            && self.disk.as_ref().is_none_or(Disk::is_idle)
            && self.meta.is_quiet()
    }

    /// Gives everything back. Only when it [`Volume::is_over`].
    pub(crate) fn dispose(self, io: &mut Io) {
        if let Some(disk) = self.disk {
            disk.close(&mut io.ring, &mut io.buffers);
        }
        self.meta.close(&mut io.ring, &mut io.buffers);
        if let Some(leases) = &io.shared.leases {
            leases.ended(self.id);
        }
        if let Some(done) = self.closed {
            done.answer(());
        }
    }

    fn carry_out(&mut self, effect: Effect, io: &mut Io) {
        match effect {
            Effect::Send { conn, frame, payload, urgent, .. } => {
                let payload = payload.map(|id| self.buffer(id));
                if let Some(link) = self.links.iter_mut().find(|link| link.id() == conn) {
                    link.send(&frame, payload, urgent, &mut io.buffers);
                }
            }
            Effect::Complete { request, result } => self.front.complete(request, result, io),
            Effect::Release { buf } => self.release(buf, io),
            Effect::Persist { token, updates } => {
                self.grow_for(&updates);
                self.meta.persist(token, updates);
            }
            Effect::CloseLink { conn, .. } => self.close_link(conn, io),
            Effect::CopyToRequest { to, from } => self.front.copy(self.buffer(to), self.buffer(from), io),
            Effect::Answer { command, result } => {
                if let Some(responder) = self.commands.remove(&command) {
                    responder.answer(result);
                }
            }
            Effect::FailDevice => self.front.abort(),
            Effect::RegisterRead { .. } | Effect::RegisterSwap { .. } | Effect::Lease { .. } => {
                let leases = io.shared.leases.as_ref();
                leases.expect("without a port such a volume is neither made nor opened").ask(self.id, effect);
            }
            Effect::Event(event) => self.record(event, io),
            Effect::DiskResize { blocks } => {
                if let Some(disk) = &mut self.disk
                    && let Err(error) = disk.grow(blocks)
                {
                    tracing::error!(volume = %self.name, %error, "replica_not_grown");
                }
            }
            Effect::DiskRead { .. }
            | Effect::DiskWrite { .. }
            | Effect::DiskZero { .. }
            | Effect::DiskFlush { .. }
            | Effect::DiskDigest { .. } => self.disk_effect(effect, io),
        }
    }

    fn disk_effect(&mut self, effect: Effect, io: &mut Io) {
        let Some(disk) = &mut self.disk else {
            // The data file could not be opened: every operation on it fails.
            let (Effect::DiskRead { io: id, .. }
            | Effect::DiskWrite { io: id, .. }
            | Effect::DiskZero { io: id, .. }
            | Effect::DiskFlush { io: id }
            | Effect::DiskDigest { io: id, .. }) = effect
            else {
                return;
            };
            self.inputs.push_back(Input::DiskDone { io: id, result: Err(lockstep_core::DiskError::Io) });
            return;
        };
        let buffers = &mut io.buffers;
        match effect {
            Effect::DiskRead { io: id, range, buf } => {
                let buffer = Buffer::from_id(buf).unwrap_or_else(|| {
                    let len = usize::try_from(range.bytes()).expect("the core reads what fits a frame");
                    *self.core_buffers.entry(buf).or_insert_with(|| buffers.take(len))
                });
                disk.read(id, range, buffer, buffers);
            }
            Effect::DiskWrite { io: id, range, buf, offset, durable } => {
                let buffer = Buffer::from_id(buf).unwrap_or_else(|| self.core_buffers[&buf]);
                disk.write(id, range, (buffer, offset), durable, buffers);
            }
            Effect::DiskZero { io: id, range, discard, durable } => disk.zero(id, range, discard, durable, buffers),
            Effect::DiskFlush { io: id } => disk.flush(id, buffers),
            Effect::DiskDigest { io: id, range } => disk.digest(id, range, buffers),
            _ => unreachable!("only operations of the disk come here"),
        }
    }

    /// The file reaches a new size durably before a configuration of that size is durable: a file that is found shorter
    /// than its volume has lost something.
    fn grow_for(&mut self, updates: &[MetaUpdate]) {
        let Some(disk) = &mut self.disk else { return };
        for update in updates {
            if let MetaUpdate::Config(config) = update
                && config.size_blocks > self.meta.meta().config.size_blocks
                && let Err(error) = disk.grow(config.size_blocks)
            {
                tracing::error!(volume = %self.name, %error, "replica_not_grown");
            }
        }
    }

    /// The memory behind a name of the core.
    fn buffer(&self, id: BufId) -> Buffer {
        Buffer::from_id(id).unwrap_or_else(|| {
            *self.core_buffers.get(&id).expect("the core names a buffer only between its first read and its release")
        })
    }

    fn release(&mut self, id: BufId, io: &mut Io) {
        let buffer = match Buffer::from_id(id) {
            Some(_) if id == requests::NO_BUFFER => return,
            Some(buffer) => buffer,
            // A buffer that was never read into was never made.
            None => match self.core_buffers.remove(&id) {
                Some(buffer) => buffer,
                None => return,
            },
        };
        io.buffers.release(buffer);
    }

    fn record(&mut self, event: Event, io: &Io) {
        tracing::info!(volume = %self.name, ?event, "replica_event");
        if matches!(event, Event::Installed { .. }) {
            self.dials.look_again(io.now);
            self.front.resize(self.replica.config().size_blocks);
        }
        match &event {
            Event::RegisterLost { reason } => self.register_lost = Some(reason.clone()),
            Event::RegisterFound => self.register_lost = None,
            _ => {}
        }
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back(EventRecord { at: io.now, event });
    }

    fn conn(&mut self) -> u32 {
        let conn = self.next_conn;
        self.next_conn += 1;
        conn
    }

    fn link_index(&self, conn: ConnId) -> Option<usize> {
        self.links.iter().position(|link| link.id() == conn)
    }
}

//! One event loop: a thread, its ring, and the volumes that live in it.
//!
//! ```text
//! turn:  enter (submit everything, wait) -> drain all completions -> step the cores -> timers -> commands -> queue entries
//! ```
//!
//! Nothing in a turn waits for anything else: what does (opening files, mounting, loop devices) happens on other threads,
//! which talk to the loop through its mailbox and wake it by an eventfd.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{opcode, types};
use lockstep_core::{BlockRange, Command, CommandError, Incarnation, Input, Net, NodeId, Op, Reply, Time, VolumeId};
use lockstep_format::wire::greeting::{Acceptor, Call, GREETING_SECONDS_MAX, Refused};

use crate::buffers::Buffers;
use crate::clock;
use crate::front::{
    FrontEnd, FuseConfig, FuseConnection, FuseFrontEnd, FuseRoot, NbdConfig, NbdFrontEnd, SqeBase, become_io_flusher,
};
use crate::greeting::{GREETINGS_MAX, Greeting, GreetingEnd, GreetingStep};
use crate::pending::Responder;
use crate::ring::{Cqe, Ring};
use crate::shared::{Mailbox, Shared, count, nonce};
use crate::slots::Slots;
use crate::socket;
use crate::storage::Files;
use crate::token::{Source, Token};
use crate::volume::{Io, RequestResult, Volume, VolumeStatus, called_volume};

/// A dial that takes longer is given up: a node that answers at all does so sooner.
const DIAL_NANOS_MAX: u64 = 2_000_000_000;

/// After so many turns in which something happened to one volume only, the next is taken to be like them.
const SOLE_TURNS_MIN: u32 = 64;

/// What other threads ask of a loop.
#[derive(Debug)]
pub(crate) enum LoopCommand {
    /// Runs a volume from its files.
    Add { name: String, files: Box<Files>, done: Responder<io::Result<()>> },
    /// Stops a volume and lets go of its files.
    Remove { volume: VolumeId, done: Responder<()> },
    /// An operator's command.
    Command { volume: VolumeId, command: Command, done: Responder<Result<Reply, CommandError>> },
    /// A request of whoever embeds the engine.
    Request { volume: VolumeId, op: Op, range: BlockRange, data: Vec<u8>, done: Responder<RequestResult> },
    /// What was heard of a volume's Leases.
    LeaseTold { volume: VolumeId, input: Box<Input> },
    /// A snapshot of one volume.
    Status { volume: VolumeId, done: Responder<VolumeStatus> },
    /// Mounts a FUSE front end, or binds an NBD server.
    StartFront { volume: VolumeId, config: Box<FrontConfig>, done: Responder<StartedFront> },
    /// Answers when the volume's front end is gone from the ring. An NBD server is told to stop; a file system ends when its
    /// loop device is given up.
    EndFront { volume: VolumeId, done: Responder<()> },
    /// The same, for a successor: a file system stays, and what is asked of it from now on waits.
    HandOverFront { volume: VolumeId, done: Responder<()> },
    /// A greeted caller for one of the loop's volumes.
    Connection { call: Call, acceptor: Box<Acceptor>, socket: OwnedFd },
    /// A supervisor's report.
    ProcessExited { node: NodeId, incarnation: Incarnation, restarting: bool },
    /// These ways to other nodes lead elsewhere from now on, or nowhere.
    RoutesChanged { routes: Arc<BTreeSet<(NodeId, Net)>> },
    /// What the loop has done.
    Counters { done: Responder<LoopCounters> },
    /// Ends the loop, at the latest after this time. Volumes do not leave: peers see connections close.
    Stop { within: Duration },
}

/// A front end to start in a loop.
#[derive(Debug)]
pub(crate) enum FrontConfig {
    Fuse(FuseConfig),
    /// What an earlier engine began.
    FuseAgain(FuseConfig, FuseConnection),
    Nbd(NbdConfig),
}

/// What a front end is outside the loop.
#[derive(Debug, Default)]
pub(crate) struct FrontOutside {
    /// Of a file system.
    pub(crate) connection: Option<FuseConnection>,
    /// Of one that was just mounted.
    pub(crate) root: Option<FuseRoot>,
    /// A successor can go on with it.
    pub(crate) recoverable: bool,
}

/// A front end, or why it did not start.
pub(crate) type StartedFront = Result<FrontOutside, String>;

/// What a loop has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoopCounters {
    pub(crate) enters: u64,
    pub(crate) submitted: u64,
    pub(crate) turns: u64,
    pub(crate) completions: u64,
    pub(crate) buffer_bytes: u64,
}

/// One loop. Lives on the thread that made it.
pub(crate) struct EventLoop {
    io: Io,
    mailbox: Mailbox,
    wake_count: Box<[u8; 8]>,
    listeners: Vec<(OwnedFd, Net)>,
    greetings: Slots<Greeting>,
    volumes: Slots<Volume>,
    /// Volumes that something happened to in this turn.
    touched: BTreeSet<u32>,
    awaited_fronts: Vec<(u32, Responder<()>)>,
    /// The volume that something happened to last, and in how many turns to no other since.
    sole: (u32, u32),
    counters: LoopCounters,
    /// When the loop ends, whatever is still under way.
    stop: Option<Time>,
}

impl EventLoop {
    /// A loop for the calling thread.
    pub(crate) fn new(mailbox: Mailbox, shared: Arc<Shared>, listeners: Vec<(OwnedFd, Net)>) -> io::Result<EventLoop> {
        let io = Io { ring: Ring::new()?, buffers: Buffers::default(), now: clock::now(), shared };
        Ok(EventLoop {
            io,
            mailbox,
            wake_count: Box::new([0; 8]),
            listeners,
            greetings: Slots::default(),
            volumes: Slots::default(),
            touched: BTreeSet::new(),
            awaited_fronts: Vec::new(),
            sole: (0, 0),
            counters: LoopCounters::default(),
            stop: None,
        })
    }

    /// Runs until [`LoopCommand::Stop`].
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.await_wake();
        for index in 0..self.listeners.len() {
            self.await_connections(index);
        }
        let mut completions = Vec::new();
        while !self.is_over() {
            let deadline = self.deadline();
            if deadline > self.io.now {
                let together = self.completions_together();
                self.io.ring.submit_and_wait(clock::until(self.io.now, deadline), together)?;
            } else {
                self.io.ring.submit()?;
            }
            self.io.now = clock::now();
            self.io.ring.drain(&mut completions);
            self.counters.turns += 1;
            self.counters.completions += completions.len() as u64;
            for cqe in completions.drain(..) {
                self.on_completion(cqe);
            }
            self.on_time();
            self.finish_turn();
        }
        self.end();
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.stop.is_some_and(|stop| self.volumes.len() == 0 || stop <= self.io.now)
    }

    /// Nothing of the loop's memory may be named by the kernel when it is freed.
    fn end(mut self) {
        let cancelled = self.io.ring.cancel_all();
        if self.volumes.len() > 0 || cancelled.is_err() {
            tracing::error!(volumes = self.volumes.len(), "loop_ended_with_operations_under_way");
            // What the kernel may still write to is never freed, and the files stay locked until it has let go of them.
            std::mem::forget(std::mem::take(&mut self.io.buffers));
            std::mem::forget(std::mem::take(&mut self.volumes));
            std::mem::forget(std::mem::take(&mut self.greetings));
        }
    }

    fn deadline(&mut self) -> Time {
        let volumes = self.volumes.iter_mut().map(|(_, volume)| volume.deadline()).min();
        let greetings = self.greetings.iter_mut().map(|(_, greeting)| greeting.deadline).min();
        let stop = self.stop.unwrap_or(Time::NEVER);
        volumes.unwrap_or(Time::NEVER).min(greetings.unwrap_or(Time::NEVER)).min(stop)
    }

    /// Completions that the next wait may sleep through: only while nothing happens in this loop but to one volume, which
    /// could otherwise hold up another.
    fn completions_together(&mut self) -> u32 {
        let (index, turns) = self.sole;
        if turns < SOLE_TURNS_MIN { 0 } else { self.volumes.get_mut(index).map_or(0, |it| it.completions_together()) }
    }

    fn on_completion(&mut self, cqe: Cqe) {
        let token = Token::decode(cqe.user_data);
        match token.source {
            Source::Nobody => {}
            Source::Wake => {
                self.await_wake();
                while let Ok(command) = self.mailbox.commands.try_recv() {
                    self.on_command(command);
                }
            }
            Source::Listener => self.on_connection(token.index, cqe),
            Source::Greeting => self.on_greeting(token.index, cqe.result),
            Source::LinkReceive | Source::LinkSend | Source::Disk | Source::Meta | Source::Front => {
                let Some(volume) = self.volumes.get_mut(token.index) else { return };
                match token.source {
                    Source::LinkReceive => {
                        volume.on_receive(token.detail, cqe.result, cqe.sock_nonempty(), &mut self.io)
                    }
                    Source::LinkSend => volume.on_sent(token.detail, cqe.result, &mut self.io),
                    Source::Disk => volume.on_disk(token.detail, cqe.result, &mut self.io),
                    Source::Meta => volume.on_meta(cqe.result, &mut self.io),
                    _ => volume.on_front(cqe, &mut self.io),
                }
                self.touched.insert(token.index);
            }
        }
    }

    fn on_time(&mut self) {
        let now = self.io.now;
        let due = self.volumes.iter_mut().filter(|(_, volume)| volume.deadline() <= now);
        self.touched.extend(due.map(|(index, _)| index));
        for index in self.touched.clone() {
            let Some(volume) = self.volumes.get_mut(index) else { continue };
            volume.on_time(&mut self.io);
            for wanted in volume.dials_due(&self.io) {
                self.dial(index, &wanted.call, wanted.probe);
            }
        }
        self.expire_greetings();
    }

    /// Answers front ends whose memory became free, and queues what this turn wants from the kernel.
    fn finish_turn(&mut self) {
        self.free_fronts();
        for index in self.touched.iter().copied() {
            if let Some(volume) = self.volumes.get_mut(index) {
                volume.front.take_released(&mut self.io);
                volume.front.evacuate(&mut self.io);
            }
        }
        self.free_fronts();
        self.note_sole();
        while let Some(index) = self.touched.pop_first() {
            let Some(volume) = self.volumes.get_mut(index) else { continue };
            volume.submit(&mut self.io);
            if volume.front.reap(&self.io.ring) {
                tracing::info!(volume = %volume.name, "front_end_closed");
            }
            if volume.front.front.is_none() {
                self.answer_awaited(index);
            }
            self.remove_if_over(index);
        }
    }

    fn note_sole(&mut self) {
        match (self.touched.first(), self.touched.len()) {
            (_, 0) => {}
            (Some(index), 1) if *index == self.sole.0 => self.sole.1 = self.sole.1.saturating_add(1),
            (first, _) => self.sole = (first.copied().unwrap_or(0), 0),
        }
    }

    fn free_fronts(&mut self) {
        while let Some(freed) = self.io.buffers.take_freed_front() {
            if let Some(volume) = self.volumes.get_mut(freed.front) {
                volume.front.memory_freed(freed.tag, &mut self.io);
                self.touched.insert(freed.front);
            }
        }
    }

    fn answer_awaited(&mut self, index: u32) {
        for at in (0..self.awaited_fronts.len()).rev() {
            if self.awaited_fronts[at].0 == index {
                self.awaited_fronts.swap_remove(at).1.answer(());
            }
        }
    }

    fn remove_if_over(&mut self, index: u32) {
        let over = self.volumes.get_mut(index).is_some_and(|volume| volume.is_over(&mut self.io));
        if over && let Some(volume) = self.volumes.remove(index) {
            volume.dispose(&mut self.io);
        }
    }

    // ---- commands ----------------------------------------------------------------------------------------------------

    fn await_wake(&mut self) {
        let fd = types::Fd(std::os::fd::AsFd::as_fd(&*self.mailbox.wake).as_raw_fd());
        let entry = opcode::Read::new(fd, self.wake_count.as_mut_ptr(), 8).build();
        self.io.ring.push(entry.user_data(Token::new(Source::Wake, 0, 0).encode()));
    }

    fn find(&mut self, id: VolumeId) -> Option<u32> {
        self.volumes.iter_mut().find(|(_, volume)| volume.id == id).map(|(index, _)| index)
    }

    fn on_command(&mut self, command: LoopCommand) {
        match command {
            LoopCommand::Add { name, files, done } => done.answer(self.add(name, *files)),
            LoopCommand::ProcessExited { node, incarnation, restarting } => {
                for index in self.volumes.used() {
                    if let Some(volume) = self.volumes.get_mut(index) {
                        volume.process_exited(node, incarnation, restarting, &mut self.io);
                        self.touched.insert(index);
                    }
                }
            }
            LoopCommand::RoutesChanged { routes } => {
                for index in self.volumes.used() {
                    if let Some(volume) = self.volumes.get_mut(index) {
                        volume.routes_changed(&routes, &mut self.io);
                        self.touched.insert(index);
                    }
                }
            }
            LoopCommand::Connection { call, acceptor, socket } => self.on_called(call, *acceptor, socket),
            LoopCommand::Counters { done } => done.answer(LoopCounters {
                enters: self.io.ring.enters,
                submitted: self.io.ring.submitted,
                buffer_bytes: self.io.buffers.handed_out_bytes() as u64,
                ..self.counters
            }),
            LoopCommand::Stop { within } => {
                self.stop = Some(self.io.now.after(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX)));
                for index in self.volumes.used() {
                    if let Some(volume) = self.volumes.get_mut(index) {
                        volume.close(None, &mut self.io);
                        self.touched.insert(index);
                    }
                }
            }
            LoopCommand::Remove { volume, .. }
            | LoopCommand::Command { volume, .. }
            | LoopCommand::LeaseTold { volume, .. }
            | LoopCommand::Request { volume, .. }
            | LoopCommand::Status { volume, .. }
            | LoopCommand::StartFront { volume, .. }
            | LoopCommand::EndFront { volume, .. }
            | LoopCommand::HandOverFront { volume, .. } => {
                // A volume that is not here any more: the responder is dropped, which says so.
                if let Some(index) = self.find(volume) {
                    self.touched.insert(index);
                    self.on_volume_command(index, command);
                }
            }
        }
    }

    fn on_volume_command(&mut self, index: u32, command: LoopCommand) {
        let volume = self.volumes.get_mut(index).expect("it was found just now");
        match command {
            LoopCommand::Remove { done, .. } => volume.close(Some(done), &mut self.io),
            LoopCommand::Command { command, done, .. } => volume.command(command, done, &mut self.io),
            LoopCommand::LeaseTold { input, .. } => volume.step(*input, &mut self.io),
            LoopCommand::Request { op, range, data, done, .. } => {
                volume.embedded((op, range), &data, done, &mut self.io)
            }
            LoopCommand::Status { done, .. } => done.answer(volume.status(&self.io)),
            LoopCommand::StartFront { config, done, .. } => {
                let started = start_front(volume, &config, index, &self.io.ring);
                done.answer(started);
            }
            LoopCommand::EndFront { done, .. } => {
                volume.front.end();
                self.awaited_fronts.push((index, done));
            }
            LoopCommand::HandOverFront { done, .. } => {
                volume.front.hand_over();
                self.awaited_fronts.push((index, done));
            }
            _ => unreachable!("only commands for one volume come here"),
        }
    }

    fn add(&mut self, name: String, files: Files) -> io::Result<()> {
        // The slot's number has to be known before the volume is made: it is in every token.
        let index = self.volumes.reserve();
        match Volume::start(index, name, files, &mut self.io) {
            Ok(volume) => {
                self.volumes.fill(index, volume);
                self.touched.insert(index);
                Ok(())
            }
            Err(error) => {
                self.volumes.cancel(index);
                Err(error)
            }
        }
    }

    // ---- connections -------------------------------------------------------------------------------------------------

    fn await_connections(&mut self, index: usize) {
        let fd = types::Fd(self.listeners[index].0.as_raw_fd());
        let token = Token::new(Source::Listener, u32::try_from(index).expect("two networks"), 0);
        self.io.ring.push(opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build().user_data(token.encode()));
    }

    fn on_connection(&mut self, listener: u32, cqe: Cqe) {
        if cqe.result >= 0 {
            let socket = socket::accepted(cqe.result);
            count(&self.io.shared.counters.accepted);
            if self.greetings.len() >= GREETINGS_MAX {
                count(&self.io.shared.counters.crowded);
            } else if let Ok(nonce) = nonce() {
                let deadline = self.io.now.after(GREETING_SECONDS_MAX * 1_000_000_000);
                let key = (self.io.shared.key.clone(), nonce);
                let greeting = Greeting::accept(key, self.io.shared.identity.node, socket, deadline);
                self.start_greeting(greeting);
            }
        } else {
            tracing::warn!(errno = -cqe.result, "accept_failed");
        }
        if !cqe.has_more() {
            self.await_connections(listener as usize);
        }
    }

    fn dial(&mut self, index: u32, call: &Call, probe: bool) {
        let (peer, net) = (call.ends.to, call.net);
        let deadline = self.io.now.after(DIAL_NANOS_MAX);
        let route = self.io.shared.route(peer, net).ok_or(io::ErrorKind::AddrNotAvailable.into());
        let dialed = route.and_then(|route| {
            if probe {
                return Greeting::probe((index, peer, net), route, deadline);
            }
            Greeting::dial((self.io.shared.key.clone(), nonce()?), call, index, route, deadline)
        });
        match dialed {
            Ok(greeting) => self.start_greeting(greeting),
            Err(error) => {
                tracing::debug!(peer = peer.0, ?net, %error, "cannot_dial");
                if let Some(volume) = self.volumes.get_mut(index) {
                    volume.dial_failed(peer, net, None, &mut self.io);
                }
            }
        }
    }

    fn start_greeting(&mut self, mut greeting: Greeting) {
        let entry = greeting.entry();
        let slot = self.greetings.insert(greeting);
        self.io.ring.push(entry.user_data(Token::new(Source::Greeting, slot, 0).encode()));
    }

    fn on_greeting(&mut self, slot: u32, result: i32) {
        let Some(greeting) = self.greetings.remove(slot) else { return };
        let dialed = greeting.peer;
        let (greeting, step) = greeting.on_completion(result);
        match step {
            GreetingStep::Next(entry) => {
                let slot = self.greetings.insert(greeting.expect("a greeting that goes on is there"));
                self.io.ring.push(entry.user_data(Token::new(Source::Greeting, slot, 0).encode()));
            }
            GreetingStep::Greeted { volume: index, peer, net, socket, rest } => {
                if let Some(volume) = self.volumes.get_mut(index) {
                    volume.dialed((peer, net), socket, &rest, &mut self.io);
                    self.touched.insert(index);
                }
            }
            GreetingStep::Called { call, acceptor, socket } => {
                let home = called_volume(&call).and_then(|volume| self.io.shared.home(volume));
                match home {
                    Some(home) if self.io.shared.nodes().contains_key(&call.ends.from) => {
                        home.send(LoopCommand::Connection { call, acceptor: Box::new(acceptor), socket });
                    }
                    Some(_) => refuse(acceptor, Refused::UnknownNode, &socket),
                    None => refuse(acceptor, Refused::UnknownVolume, &socket),
                }
            }
            GreetingStep::Reported { node, incarnation, restarting } => {
                tracing::info!(node = node.0, incarnation = incarnation.0, restarting, "process_exit_reported");
                count(&self.io.shared.counters.reports);
                for each in &self.io.shared.loops {
                    each.send(LoopCommand::ProcessExited { node, incarnation, restarting });
                }
            }
            GreetingStep::Failed(end) => self.greeting_failed(dialed, &end),
        }
    }

    fn greeting_failed(&mut self, dialed: Option<(u32, NodeId, Net)>, end: &GreetingEnd) {
        if end.is_hostile() {
            count(&self.io.shared.counters.hostile);
            tracing::warn!(%end, cause = std::error::Error::source(end), "connection_refused");
        }
        let Some((index, peer, net)) = dialed else { return };
        tracing::debug!(peer = peer.0, ?net, %end, cause = std::error::Error::source(end), "dial_failed");
        let found = match end {
            GreetingEnd::Probed => Some(true),
            GreetingEnd::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => Some(false),
            _ => None,
        };
        if let Some(volume) = self.volumes.get_mut(index) {
            volume.dial_failed(peer, net, found, &mut self.io);
            self.touched.insert(index);
        }
    }

    fn on_called(&mut self, call: Call, acceptor: Acceptor, socket: OwnedFd) {
        match called_volume(&call).and_then(|volume| self.find(volume)) {
            Some(index) => {
                if let Some(volume) = self.volumes.get_mut(index) {
                    volume.called(call, acceptor, socket, &mut self.io);
                    self.touched.insert(index);
                }
            }
            None => refuse(acceptor, Refused::UnknownVolume, &socket),
        }
    }

    fn expire_greetings(&mut self) {
        let now = self.io.now;
        let ring = &mut self.io.ring;
        for (slot, greeting) in self.greetings.iter_mut().filter(|(_, greeting)| greeting.deadline <= now) {
            // The cancelled entry completes with an error, and that ends the greeting.
            greeting.deadline = Time::NEVER;
            let of = Token::new(Source::Greeting, slot, 0).encode();
            ring.push(opcode::AsyncCancel::new(of).build().user_data(Token::NOBODY.encode()));
        }
    }
}

fn refuse(acceptor: Acceptor, reason: Refused, socket: &OwnedFd) {
    let mut last = Vec::new();
    acceptor.refuse(reason, &mut last);
    socket::send_last(socket, &last);
}

fn start_front(volume: &mut Volume, config: &FrontConfig, index: u32, ring: &Ring) -> StartedFront {
    if volume.front.front.is_some() {
        return Err("the volume has a front end already".to_owned());
    }
    let base = SqeBase::new(Token::new(Source::Front, index, 0).upper());
    // A group of provided buffers per volume.
    let group = || u16::try_from(index).map_err(|_| "too many volumes in one loop".to_owned());
    match config {
        FrontConfig::Fuse(config) => {
            stay_out_of_memory_reclaim();
            let started = FuseFrontEnd::start(config, base, group()?, &ring.submitter());
            let (front, root) = started.map_err(|error| in_words(&error))?;
            Ok(FrontOutside { root: Some(root), ..install_fuse(volume, front) })
        }
        FrontConfig::FuseAgain(config, connection) => {
            stay_out_of_memory_reclaim();
            let front = FuseFrontEnd::resume(config, connection.clone(), base, group()?, &ring.submitter());
            Ok(install_fuse(volume, front.map_err(|error| in_words(&error))?))
        }
        FrontConfig::Nbd(config) => {
            let front = NbdFrontEnd::start(config, base).map_err(|error| in_words(&error))?;
            volume.front.front = Some(FrontEnd::Nbd(front));
            Ok(FrontOutside::default())
        }
    }
}

fn install_fuse(volume: &mut Volume, front: FuseFrontEnd) -> FrontOutside {
    let connection = Some(front.connection().clone());
    let recoverable = front.is_recoverable();
    volume.front.front = Some(FrontEnd::Fuse(front));
    FrontOutside { connection, root: None, recoverable }
}

fn stay_out_of_memory_reclaim() {
    if let Err(error) = become_io_flusher() {
        tracing::debug!(%error, "not_an_io_flusher");
    }
}

/// An error with its causes.
fn in_words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

//! The NBD socket: our own server, for qemu, libnbd, fio and tests. Needs nothing from the kernel.
//!
//! ```text
//! handshake (fixed newstyle) -> transmission (requests, replies): bytes <-> values, no I/O
//! connection: one client    slots, slab: requests in flight and their memory    outbox: replies on their way
//! ```
//!
//! Spec: `doc/proto.md` of the NetworkBlockDevice project. Offered: EXPORT_NAME, GO, INFO, LIST, ABORT, STRUCTURED_REPLY;
//! READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, FUA. Not offered: TLS, BLOCK_STATUS, extended headers.

mod abi;
mod connection;
mod handshake;
mod outbox;
mod slab;
mod slots;
mod socket;
#[cfg(test)]
mod tests;
mod transmission;

use std::io;
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use super::fuse::FrontState;
use super::request::{FrontReply, FrontRequest, Tag};
use super::sqe::{Completion, Sqe, SqeBase};
use connection::{Connection, Shared};
use handshake::Export;
use slots::Slots;
use socket::Listener;
pub use socket::NbdAddress;

/// Clients at a time. Each costs a buffer of 64 KiB.
const CONNECTIONS_MAX: usize = 16;
/// Failures to accept in a row (no descriptors left, for instance), after which nobody new is let in.
const ACCEPT_ERRORS_MAX: u32 = 64;

const TOKEN_ACCEPT: u32 = 1 << 24;
const TOKEN_RECEIVE: u32 = 2 << 24;
const TOKEN_SEND: u32 = 3 << 24;
const TOKEN_IGNORED: u32 = 4 << 24;
const TOKEN_CANCEL: u32 = 5 << 24;
const TOKEN_KIND: u32 = 0xff << 24;

/// What is exported, and where.
#[derive(Clone, Debug)]
pub struct NbdConfig {
    /// Where clients connect.
    pub address: NbdAddress,
    /// Name of the export. A client that names none gets it as well.
    pub export: String,
    /// Size of the volume, in bytes.
    pub size_bytes: u64,
    /// Refuse every change.
    pub read_only: bool,
    /// Promise that a flush on one connection covers writes answered on all of them, over all servers that a client could
    /// mix. Say so only if it is true.
    pub multi_conn: bool,
    /// Requests in the engine's hands at a time.
    pub in_flight_max: u16,
    /// Memory for the data of requests in flight, in bytes; in whole MiB.
    pub memory_bytes: usize,
    /// A client that has connected and says nothing for so long is let go.
    pub negotiation_timeout: Duration,
}

impl NbdConfig {
    /// Defaults: 256 requests and 24 MiB in flight; ten seconds to say something.
    #[must_use]
    pub fn new(address: NbdAddress, export: String, size_bytes: u64) -> NbdConfig {
        NbdConfig {
            address,
            export,
            size_bytes,
            read_only: false,
            multi_conn: false,
            in_flight_max: 256,
            memory_bytes: 24 << 20,
            negotiation_timeout: Duration::from_secs(10),
        }
    }
}

/// Failures to start the server.
#[derive(Debug, thiserror::Error)]
pub enum StartNbd {
    /// The address cannot be bound: a live server is there, or the directory is missing.
    #[error("cannot listen on {address:?}")]
    Listen {
        /// Where.
        address: NbdAddress,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No memory.
    #[error("cannot map memory for requests")]
    Memory(#[source] io::Error),
}

/// The NBD server of one volume.
#[derive(Debug)]
pub struct NbdFrontEnd {
    listener: Listener,
    base: SqeBase,
    shared: Shared,
    connections: Vec<Option<Box<Connection>>>,
    accepting: bool,
    accept_errors: u32,
    cancelling: bool,
    stopping: bool,
    /// Read by the kernel when a timeout is submitted.
    negotiation_timeout: Box<types::Timespec>,
    /// Timeouts and wake-ups that are still to complete.
    ignored: usize,
    pending: Vec<squeue::Entry>,
}

impl NbdFrontEnd {
    /// Binds the socket. Clients are let in with the first entries of [`Self::poll_sqes`].
    ///
    /// # Errors
    /// See [`StartNbd`].
    pub fn start(config: &NbdConfig, base: SqeBase) -> Result<NbdFrontEnd, StartNbd> {
        let listen = |source| StartNbd::Listen { address: config.address.clone(), source };
        let listener = Listener::bind(&config.address).map_err(listen)?;
        let slots = Slots::new(config.in_flight_max, config.memory_bytes).map_err(StartNbd::Memory)?;
        let export = Export {
            name: config.export.clone(),
            size_bytes: config.size_bytes,
            read_only: config.read_only,
            multi_conn: config.multi_conn,
            max_io_bytes: u32::try_from(slab::SLAB_BLOCK_BYTES_MAX).expect("a block is 1 MiB"),
        };
        Ok(NbdFrontEnd {
            listener,
            base,
            shared: Shared { slots, export },
            connections: (0..CONNECTIONS_MAX).map(|_| None).collect(),
            accepting: false,
            accept_errors: 0,
            cancelling: false,
            stopping: false,
            negotiation_timeout: Box::new(config.negotiation_timeout.into()),
            ignored: 0,
            pending: Vec::new(),
        })
    }

    /// The port that TCP clients connect to.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.listener.port()
    }

    /// Passes every entry that is to be submitted now. Call before each entry into the kernel.
    pub fn poll_sqes(&mut self, mut submit: impl FnMut(Sqe)) {
        if !self.accepting && !self.stopping && self.accept_errors < ACCEPT_ERRORS_MAX {
            self.accepting = true;
            let accept = opcode::AcceptMulti::new(types::Fd(self.listener.fd())).flags(libc::SOCK_CLOEXEC).build();
            self.pending.push(accept.user_data(self.base.user_data(TOKEN_ACCEPT)));
        }
        for number in 0..self.connections.len() {
            self.poll_connection(number);
        }
        self.pending.drain(..).for_each(|entry| submit(Sqe::Narrow(entry)));
    }

    fn poll_connection(&mut self, number: usize) {
        let Some(connection) = &mut self.connections[number] else { return };
        let token = u32::try_from(number).expect("connections are few");
        if let Some(send) = connection.next_send() {
            self.pending.push(send.user_data(self.base.user_data(TOKEN_SEND | token)));
        }
        if let Some(receive) = connection.next_receive(&mut self.shared) {
            let receive = receive.user_data(self.base.user_data(TOKEN_RECEIVE | token));
            if connection.is_negotiating() {
                let timeout = opcode::LinkTimeout::new(&raw const *self.negotiation_timeout).build();
                self.pending.push(receive.flags(squeue::Flags::IO_LINK));
                self.push_ignored(timeout);
            } else {
                self.pending.push(receive);
            }
        }
        if self.connections[number].as_mut().is_some_and(|connection| connection.is_over(&mut self.shared)) {
            self.connections[number] = None;
            self.wake_stalled();
        }
    }

    fn push_ignored(&mut self, entry: squeue::Entry) {
        self.ignored += 1;
        self.pending.push(entry.user_data(self.base.user_data(TOKEN_IGNORED)));
    }

    /// Memory has become free outside of a completion, and only a completion can bring requests: make one.
    fn wake_stalled(&mut self) {
        if self.connections.iter().flatten().any(|connection| connection.is_stalled()) {
            self.push_ignored(opcode::Nop::new().build());
        }
    }

    /// One completion of an entry of this front end; new requests are appended to `requests`.
    pub fn on_completion(&mut self, cqe: Completion, requests: &mut Vec<FrontRequest>) {
        let number = (cqe.token & !TOKEN_KIND) as usize;
        match cqe.token & TOKEN_KIND {
            TOKEN_ACCEPT => self.on_accepted(cqe),
            TOKEN_RECEIVE => self.connection(number, |connection, shared| {
                connection.on_received(cqe.result, shared, requests);
            }),
            TOKEN_SEND => {
                self.connection(number, |connection, shared| connection.on_sent(cqe.result, shared));
            }
            TOKEN_CANCEL => self.cancelling = false,
            TOKEN_IGNORED => self.ignored -= 1,
            other => unreachable!("token kind {other:#x} is not of the NBD server"),
        }
        self.resume(requests);
    }

    fn connection(&mut self, number: usize, act: impl FnOnce(&mut Connection, &mut Shared)) {
        let connection = self.connections[number].as_mut().expect("a connection lives as long as its entries");
        act(connection, &mut self.shared);
    }

    fn on_accepted(&mut self, cqe: Completion) {
        if !cqe.has_more() {
            self.accepting = false;
        }
        if cqe.result < 0 {
            self.accept_errors += 1;
            return;
        }
        self.accept_errors = 0;
        let socket = socket::adopt_accepted(cqe.result);
        let free = self.connections.iter().position(Option::is_none);
        // Too many clients, or no memory for another: this one is closed by dropping it.
        if let Some(number) = free.filter(|_| !self.stopping)
            && let Ok(connection) = Connection::new(socket, u16::try_from(number).expect("connections are few"))
        {
            self.connections[number] = Some(Box::new(connection));
        }
    }

    /// Memory or a slot may have become free: whoever waits for one tries again.
    fn resume(&mut self, requests: &mut Vec<FrontRequest>) {
        for connection in self.connections.iter_mut().flatten() {
            if connection.is_stalled() {
                connection.resume(&mut self.shared, requests);
            }
        }
    }

    /// Answers an open request.
    pub fn reply(&mut self, tag: Tag, reply: FrontReply) {
        let slot = self.shared.slots.get(tag.0);
        assert!(slot.is_open, "reply to {tag:?}, which is not open");
        let number = usize::from(slot.connection);
        self.connection(number, |connection, shared| connection.reply(tag.0, reply, shared));
        if self.connections[number].as_ref().is_some_and(|connection| connection.is_broken()) {
            self.wake_stalled();
        }
    }

    /// A tag whose [`FrontReply::DoneElsewhere`] memory is not used any more.
    pub fn take_released(&mut self) -> Option<Tag> {
        self.shared.slots.take_released()
    }

    /// The volume has grown. Clients see it when they connect again.
    pub fn resize(&mut self, size_bytes: u64) {
        self.shared.export.size_bytes = size_bytes;
    }

    /// Lets nobody new in, takes no requests, and closes each connection once what is open has been answered.
    pub fn stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        if self.accepting {
            self.cancelling = true;
            let cancel = opcode::AsyncCancel::new(self.base.user_data(TOKEN_ACCEPT)).build();
            self.pending.push(cancel.user_data(self.base.user_data(TOKEN_CANCEL)));
        }
        self.connections.iter_mut().flatten().for_each(|connection| connection.close());
    }

    /// Where the server stands.
    #[must_use]
    pub fn state(&self) -> FrontState {
        let quiet = !self.accepting && !self.cancelling && self.ignored == 0 && self.pending.is_empty();
        match (self.stopping, quiet && self.connections.iter().all(Option::is_none)) {
            (false, _) => FrontState::Serving,
            (true, false) => FrontState::Stopping,
            (true, true) => FrontState::Closed,
        }
    }
}

impl Drop for NbdFrontEnd {
    fn drop(&mut self) {
        if self.state() == FrontState::Closed {
            return;
        }
        // The kernel may still read and write this memory; the clients are told by the end of their connections.
        self.shared.slots.leak();
        for mut connection in self.connections.iter_mut().filter_map(Option::take) {
            connection.break_off(&mut self.shared);
            Box::leak(connection);
        }
    }
}

//! One client: bytes in, requests out, replies back.
//!
//! Bytes are received into a small buffer that holds many requests of a burst at a time. What of a write's data is
//! already there is copied to its place; the rest is received right into it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, squeue, types};

use super::abi::{REQUEST_BYTES, command};
use super::handshake::{self, Export, Handshake, Phase};
use super::outbox::Outbox;
use super::slots::Slots;
use super::socket;
use super::transmission::{Command, Limits, RawRequest, ReplyHead, wire_error};
use crate::front::memory::Region;
use crate::front::request::{FrontBuffer, FrontOp, FrontReply, FrontRequest};

/// Sixteen writes of a block, or hundreds of reads; the longest option of a negotiation several times.
const INPUT_BYTES: usize = 64 << 10;
/// Replies that wait for a client that does not read them; then its requests are not read either.
const OUTBOX_MAX: usize = 512;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Receive {
    Handshake,
    /// A request's head comes next.
    Head,
    /// Data of a write, of which `filled` bytes are there.
    Payload {
        slot: u32,
        filled: usize,
    },
    /// Data of a refused write.
    Skip {
        left: usize,
        cookie: u64,
        error: u32,
    },
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    number: u16,
    input: Region,
    /// Bytes of `input` that are not used up, from its start.
    filled: usize,
    receive: Receive,
    handshake: Handshake,
    outbox: Outbox,
    /// A receive entry is in the kernel's hands; whether it fills the data of a write.
    receiving: Option<bool>,
    /// The next request has to wait for memory, a slot, or the client.
    stalled: bool,
    /// Requests in the engine's hands.
    open: usize,
    /// No more requests; ends when the last reply has left.
    closing: bool,
    /// Nobody reads replies any more.
    broken: bool,
}

/// What the connections of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub slots: Slots,
    pub export: Export,
}

impl Shared {
    fn limits(&self) -> Limits {
        let export = &self.export;
        Limits { size_bytes: export.size_bytes, max_io_bytes: export.max_io_bytes, read_only: export.read_only }
    }
}

impl Connection {
    pub(super) fn new(socket: OwnedFd, number: u16) -> io::Result<Connection> {
        let mut outbox = Outbox::new();
        outbox.push_bytes(handshake::greeting());
        Ok(Connection {
            socket,
            number,
            input: Region::map(INPUT_BYTES)?,
            filled: 0,
            receive: Receive::Handshake,
            handshake: Handshake::new(),
            outbox,
            receiving: None,
            stalled: false,
            open: 0,
            closing: false,
            broken: false,
        })
    }

    /// The next receive entry, unless one is under way or bytes are not wanted now.
    pub(super) fn next_receive(&mut self, shared: &mut Shared) -> Option<squeue::Entry> {
        if self.receiving.is_some() || self.stalled || self.closing || self.broken || self.outbox.len() >= OUTBOX_MAX {
            return None;
        }
        let fd = types::Fd(self.socket.as_raw_fd());
        let entry = match self.receive {
            Receive::Payload { slot, filled } => {
                assert_eq!(self.filled, 0, "input is used up before data is received in place");
                let data = shared.slots.get(slot).data;
                // SAFETY: `filled` bytes of the data, and no more, are there already.
                let start = unsafe { data.as_ptr().add(filled) };
                let left = data.len() - u32::try_from(filled).expect("less than the data's length");
                self.receiving = Some(true);
                opcode::Recv::new(fd, start, left).flags(libc::MSG_WAITALL)
            }
            Receive::Handshake | Receive::Head | Receive::Skip { .. } => {
                let room = u32::try_from(INPUT_BYTES - self.filled).expect("input is small");
                self.receiving = Some(false);
                opcode::Recv::new(fd, self.input.at(self.filled), room)
            }
        };
        Some(entry.build())
    }

    /// Whether bytes are awaited from a client that has not finished its negotiation.
    pub(super) fn is_negotiating(&self) -> bool {
        self.receive == Receive::Handshake
    }

    pub(super) fn next_send(&mut self) -> Option<squeue::Entry> {
        if self.broken {
            return None;
        }
        self.outbox.next_send(self.socket.as_raw_fd())
    }

    pub(super) fn on_received(&mut self, result: i32, shared: &mut Shared, requests: &mut Vec<FrontRequest>) {
        let in_place = self.receiving.take().expect("a receive was under way");
        match usize::try_from(result) {
            Ok(0) => return self.closing = true,
            Ok(len) if in_place => self.add_payload(len, shared, requests),
            Ok(len) => self.filled += len,
            Err(_) => return self.break_off(shared),
        }
        self.consume(shared, requests);
    }

    pub(super) fn on_sent(&mut self, result: i32, shared: &mut Shared) {
        let whole = self.outbox.on_sent(result, |slot| shared.slots.release(slot));
        if !whole {
            self.break_off(shared);
        }
    }

    /// Tries again what had to wait for memory, a slot, or the client.
    pub(super) fn resume(&mut self, shared: &mut Shared, requests: &mut Vec<FrontRequest>) {
        if self.stalled {
            self.stalled = false;
            self.consume(shared, requests);
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Uses up what has been received, as far as whole messages go.
    fn consume(&mut self, shared: &mut Shared, requests: &mut Vec<FrontRequest>) {
        let mut used = 0;
        while !self.closing && !self.broken {
            let before = used;
            let step = match self.receive {
                Receive::Handshake => self.negotiate(used, shared),
                Receive::Head => self.on_head(used, shared, requests),
                Receive::Payload { slot, filled } => self.copy_payload(used, slot, filled, shared, requests),
                Receive::Skip { left, cookie, error } => self.skip(used, left, cookie, error),
            };
            match step {
                Some(len) => used += len,
                None => break,
            }
            if used == before && self.receive != Receive::Head {
                break;
            }
        }
        if used > 0 {
            // SAFETY: no receive is under way into `input` while it is used up.
            unsafe { self.input.move_to_start(used, self.filled - used) };
            self.filled -= used;
        }
    }

    fn input(&self, used: usize) -> &[u8] {
        // SAFETY: no receive is under way into `input` while it is looked at.
        unsafe { self.input.slice(used, self.filled - used) }
    }

    fn negotiate(&mut self, used: usize, shared: &Shared) -> Option<usize> {
        let mut output = Vec::new();
        let mut handshake = self.handshake;
        let len = handshake.on_bytes(self.input(used), &shared.export, &mut output);
        self.handshake = handshake;
        self.outbox.push_bytes(output);
        match self.handshake.phase() {
            Phase::ClientFlags | Phase::Options => (len > 0).then_some(len),
            Phase::Transmission => {
                self.receive = Receive::Head;
                Some(len)
            }
            Phase::Closed => {
                self.closing = true;
                Some(len)
            }
        }
    }

    fn on_head(&mut self, used: usize, shared: &mut Shared, requests: &mut Vec<FrontRequest>) -> Option<usize> {
        let request = match RawRequest::parse(self.input(used)) {
            Ok(request) => request?,
            Err(_) => {
                self.break_off(shared);
                return None;
            }
        };
        if self.outbox.len() >= OUTBOX_MAX {
            self.stalled = true;
            return None;
        }
        match request.command(shared.limits()) {
            Command::Disconnect => self.closing = true,
            Command::Refused { error, payload: 0 } => self.refuse(request, error),
            Command::Refused { error, payload } => {
                self.receive = Receive::Skip { left: payload as usize, cookie: request.cookie, error };
            }
            Command::Io(op) => {
                let Some(slot) = shared.slots.take(self.number, request, op) else {
                    self.stalled = true;
                    return None;
                };
                match op {
                    FrontOp::Write { .. } => self.receive = Receive::Payload { slot, filled: 0 },
                    _ => self.open_request(slot, shared, requests),
                }
            }
        }
        Some(REQUEST_BYTES)
    }

    fn open_request(&mut self, slot: u32, shared: &mut Shared, requests: &mut Vec<FrontRequest>) {
        self.open += 1;
        requests.push(shared.slots.open(slot));
    }

    fn copy_payload(
        &mut self,
        used: usize,
        slot: u32,
        filled: usize,
        shared: &mut Shared,
        requests: &mut Vec<FrontRequest>,
    ) -> Option<usize> {
        let data = shared.slots.get(slot).data;
        let here = self.input(used);
        let len = here.len().min(data.len() as usize - filled);
        // SAFETY: the slot is not open yet: its memory is ours, and nobody refers to it.
        unsafe { data.as_mut_slice()[filled..filled + len].copy_from_slice(&here[..len]) };
        self.add_payload(len, shared, requests);
        Some(len)
    }

    fn add_payload(&mut self, len: usize, shared: &mut Shared, requests: &mut Vec<FrontRequest>) {
        let Receive::Payload { slot, filled } = self.receive else {
            unreachable!("data was received in place of no write");
        };
        let filled = filled + len;
        if filled == shared.slots.get(slot).data.len() as usize {
            self.receive = Receive::Head;
            self.open_request(slot, shared, requests);
        } else {
            self.receive = Receive::Payload { slot, filled };
        }
    }

    fn skip(&mut self, used: usize, left: usize, cookie: u64, error: u32) -> Option<usize> {
        let len = left.min(self.input(used).len());
        if len == left {
            self.outbox.push_reply(ReplyHead::simple(cookie, error), FrontBuffer::EMPTY, None);
            self.receive = Receive::Head;
        } else {
            self.receive = Receive::Skip { left: left - len, cookie, error };
        }
        Some(len)
    }

    fn refuse(&mut self, request: RawRequest, error: u32) {
        let head = self.error_head(request, error);
        self.outbox.push_reply(head, FrontBuffer::EMPTY, None);
    }

    /// Structured replies are obligatory for reads, once negotiated; everything else may be answered simply.
    fn error_head(&self, request: RawRequest, error: u32) -> ReplyHead {
        if self.handshake.is_structured() && request.command == command::READ {
            ReplyHead::error_chunk(request.cookie, error)
        } else {
            ReplyHead::simple(request.cookie, error)
        }
    }

    /// The engine's answer to a request of this connection.
    pub(super) fn reply(&mut self, number: u32, reply: FrontReply, shared: &mut Shared) {
        self.open -= 1;
        let slot = shared.slots.get(number);
        slot.is_open = false;
        let request = slot.request;
        let is_read = slot.op == FrontOp::Read;
        let (head, data) = match reply {
            FrontReply::Failed(failure) => (self.error_head(request, wire_error(failure)), FrontBuffer::EMPTY),
            FrontReply::Done if is_read => (self.data_head(request), slot.data),
            FrontReply::DoneElsewhere(data) if is_read => {
                assert_eq!(data.len(), request.len, "a read is answered in full");
                slot.is_elsewhere = true;
                (self.data_head(request), data)
            }
            FrontReply::Done | FrontReply::DoneElsewhere(_) => {
                (ReplyHead::simple(request.cookie, 0), FrontBuffer::EMPTY)
            }
        };
        if self.broken {
            return shared.slots.release(number);
        }
        self.outbox.push_reply(head, data, Some(number));
    }

    fn data_head(&self, request: RawRequest) -> ReplyHead {
        if self.handshake.is_structured() {
            ReplyHead::data_chunk(request.cookie, request.offset, request.len)
        } else {
            ReplyHead::simple(request.cookie, 0)
        }
    }

    /// Ends when all that is open has been answered.
    pub(super) fn close(&mut self) {
        self.closing = true;
        socket::end_reading(&self.socket);
    }

    /// Ends at once: nobody reads replies any more, or what comes in makes no sense.
    pub(super) fn break_off(&mut self, shared: &mut Shared) {
        self.broken = true;
        socket::end_all(&self.socket);
        self.outbox.clear(|slot| shared.slots.release(slot));
    }

    /// Whether nothing of the connection is left, so that it can be dropped. Gives back what a write had taken whose
    /// data never came whole.
    pub(super) fn is_over(&mut self, shared: &mut Shared) -> bool {
        let ended = self.broken || (self.closing && self.outbox.is_empty());
        if !ended || self.open > 0 || self.outbox.is_sending() {
            return false;
        }
        if self.receiving.is_some() {
            socket::end_all(&self.socket);
            return false;
        }
        if let Receive::Payload { slot, .. } = self.receive {
            shared.slots.release(slot);
            self.receive = Receive::Head;
        }
        true
    }
}

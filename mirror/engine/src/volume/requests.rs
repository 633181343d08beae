//! Requests of a volume's front end, and of whoever embeds the engine, on their way through the core.
//!
//! The data of a write stays in the front end's memory until nobody needs it: not the core, not the disk, not a frame that
//! is not sent yet. A request that completes before that (its replica's disk hangs, say) has its data moved away, so that the
//! answer need not wait. Reads go through memory of the loop, from which the front end answers without a copy: an operation
//! that hangs can then never write into what a later request uses.

use std::collections::BTreeMap;
use std::ptr::NonNull;

use lockstep_core::{Access, BlockRange, BufId, Input, IoError, Op, Request, RequestId, range::BLOCK_BYTES};

use super::{Io, Volume};
use crate::buffers::{Buffer, FrontSlot};
use crate::front::{Completion, FrontEnd, FrontFailure, FrontOp, FrontReply, FrontRequest, FrontState, Sqe, Tag};
use crate::pending::Responder;
use crate::ring::{Cqe, Ring};
use crate::slots::Slots;
use crate::token::Token;

/// What requests without data carry as buffer.
pub(super) const NO_BUFFER: BufId = BufId(BufId::CORE - 1);

/// So many requests that came one at a time, and the next one is expected to.
const ALONE_MIN: u64 = 32;

/// Answer to a request of whoever embeds the engine: the data of a read, nothing otherwise.
pub type RequestResult = Result<Vec<u8>, IoError>;

#[derive(Debug)]
enum Origin {
    /// Of the front end. Its memory is the front end's.
    Front(Tag),
    /// Of another thread. Its memory is the loop's.
    Embedder(Responder<RequestResult>),
}

#[derive(Debug)]
struct Open {
    origin: Origin,
    /// Where the data of a read is put: ours until it is answered.
    read: Option<Buffer>,
    /// The front end's data of a write, until its memory is free.
    write: Option<Buffer>,
    result: Option<Result<(), IoError>>,
}

/// The front end of a volume and its open requests.
#[derive(Debug, Default)]
pub(crate) struct FrontHost {
    pub(crate) front: Option<FrontEnd>,
    open: Slots<Open>,
    requests: Vec<FrontRequest>,
    /// Completed, and the front end's memory is not free.
    busy: Vec<u32>,
    /// Data of answered reads, until the front end has passed it on.
    answered: BTreeMap<u32, Buffer>,
    /// Requests since the front end started, by their completion.
    pub(crate) completed: u64,
    /// How many were completed when there last were two under way at once.
    crowded_at: u64,
    aborted: bool,
}

impl FrontHost {
    /// Passes the front end's entries to the ring; true if there were any.
    pub(super) fn submit(&mut self, ring: &mut Ring) -> bool {
        let mut any = false;
        if let Some(front) = &mut self.front {
            front.poll_sqes(|entry| {
                any = true;
                match entry {
                    Sqe::Prompt(entry) => ring.push_prompt(entry),
                    entry => ring.push(entry),
                }
            });
        }
        any
    }

    /// Requests under way.
    pub(super) fn open_requests(&self) -> usize {
        self.open.len()
    }

    /// True if one request is under way, and for long there never were two.
    pub(super) fn is_one_at_a_time(&self) -> bool {
        self.open.len() == 1 && self.completed - self.crowded_at >= ALONE_MIN
    }

    /// The volume has so many blocks now.
    pub(super) fn resize(&mut self, blocks: u64) {
        if let Some(front) = &mut self.front {
            front.resize(blocks * BLOCK_BYTES);
        }
    }

    /// Ends the front end at once: whoever uses the device gets errors.
    pub(crate) fn abort(&mut self) {
        match &self.front {
            Some(FrontEnd::Fuse(fuse)) if !std::mem::replace(&mut self.aborted, true) => {
                let connection = fuse.connection().clone();
                // Takes locks that the file system's users hold: not on the loop that answers them.
                std::thread::spawn(move || connection.abort());
            }
            _ => self.end(),
        }
    }

    /// Ends a server in order. A file system ends when its loop device is given up.
    pub(crate) fn end(&mut self) {
        if let Some(FrontEnd::Nbd(nbd)) = &mut self.front {
            nbd.stop();
        }
    }

    /// Takes no more requests, and is gone from the ring when the last one is answered. Those of a file system wait for a successor.
    pub(crate) fn hand_over(&mut self) {
        match &mut self.front {
            Some(FrontEnd::Fuse(fuse)) => fuse.stop(),
            _ => self.end(),
        }
    }

    /// True if there is no front end, or one that the kernel has let go of.
    pub(super) fn is_closed(&self) -> bool {
        self.front.as_ref().is_none_or(|front| front.state() == FrontState::Closed)
            && self.open.len() == 0
            && self.answered.is_empty()
    }

    /// Takes a closed front end out of the ring.
    pub(crate) fn reap(&mut self, ring: &Ring) -> bool {
        if self.front.is_none() || !self.is_closed() {
            return false;
        }
        if let Some(front) = self.front.take()
            && let Err(error) = front.unregister(&ring.submitter())
        {
            tracing::warn!(%error, "front_end_not_unregistered");
        }
        self.aborted = false;
        true
    }

    /// The core completed a request.
    pub(super) fn complete(&mut self, request: RequestId, result: Result<(), IoError>, io: &mut Io) {
        let Some(slot) = u32::try_from(request.0).ok() else { return };
        let open = self.open.get_mut(slot).expect("the core completes open requests, each once");
        open.result = Some(result);
        if let Origin::Embedder(_) = open.origin {
            return self.answer_embedder(slot, io);
        }
        if open.write.is_some() {
            self.busy.push(slot);
        } else {
            self.finish(slot, io);
        }
    }

    /// Nobody uses a write's memory any more.
    pub(crate) fn memory_freed(&mut self, slot: u32, io: &mut Io) {
        let Some(open) = self.open.get_mut(slot) else { return };
        open.write = None;
        if open.result.is_some() {
            self.busy.retain(|busy| *busy != slot);
            self.finish(slot, io);
        }
    }

    /// Moves data away that completed requests would have to wait for.
    pub(crate) fn evacuate(&mut self, io: &mut Io) {
        for slot in &self.busy {
            if let Some(buffer) = self.open.get_mut(*slot).and_then(|open| open.write) {
                io.buffers.evacuate(buffer);
            }
        }
    }

    /// A peer's payload is the answer to a read.
    pub(super) fn copy(&mut self, to: Buffer, from: Buffer, io: &mut Io) {
        let hangs = !io.buffers.is_sole(to);
        let same = io.buffers.memory(to).1 == io.buffers.memory(from).1;
        let open = self.open.iter_mut().map(|(_, open)| open).find(|open| hangs && same && open.read == Some(to));
        match open {
            // An operation of the disk may still write into the request's own memory.
            Some(open) => {
                io.buffers.hold(from);
                io.buffers.release(to);
                open.read = Some(from);
            }
            None => io.buffers.copy(to, from),
        }
    }

    /// Gives memory back that the front end has passed on.
    pub(crate) fn take_released(&mut self, io: &mut Io) {
        let Some(front) = &mut self.front else { return };
        while let Some(tag) = front.take_released() {
            if let Some(buffer) = self.answered.remove(&tag.0) {
                io.buffers.release(buffer);
            }
        }
    }

    fn answer_embedder(&mut self, slot: u32, io: &mut Io) {
        let Some(Open { origin: Origin::Embedder(responder), read, result: Some(result), .. }) = self.open.remove(slot)
        else {
            return;
        };
        let data = read.map(|buffer| {
            let data = if result.is_ok() { io.buffers.bytes(buffer).to_vec() } else { Vec::new() };
            io.buffers.release(buffer);
            data
        });
        responder.answer(result.map(|()| data.unwrap_or_default()));
    }

    fn finish(&mut self, slot: u32, io: &mut Io) {
        let Some(Open { origin: Origin::Front(tag), read, result: Some(result), .. }) = self.open.remove(slot) else {
            return;
        };
        self.completed += 1;
        let front = self.front.as_mut().expect("a front end stays until its last request is answered");
        if let Err(error) = result {
            read.into_iter().for_each(|buffer| io.buffers.release(buffer));
            return front.reply(tag, FrontReply::Failed(failure(error)));
        }
        let Some(buffer) = read else { return front.reply(tag, FrontReply::Done) };
        self.answered.insert(tag.0, buffer);
        front.reply(tag, io.buffers.lend(buffer));
    }
}

fn failure(error: IoError) -> FrontFailure {
    match error {
        IoError::Io => FrontFailure::Io,
        IoError::NoSpace => FrontFailure::NoSpace,
        IoError::OutOfRange => FrontFailure::Invalid,
        IoError::ReadOnly => FrontFailure::ReadOnly,
    }
}

impl Volume {
    /// A completion of the front end's.
    pub(crate) fn on_front(&mut self, cqe: Cqe, io: &mut Io) {
        let Some(front) = &mut self.front.front else { return };
        let mut requests = std::mem::take(&mut self.front.requests);
        let token = Token::decode(cqe.user_data).detail;
        front.on_completion(Completion { token, result: cqe.result, flags: cqe.flags }, &mut requests);
        for request in requests.drain(..) {
            self.on_request(request, io);
        }
        self.front.requests = requests;
    }

    fn on_request(&mut self, request: FrontRequest, io: &mut Io) {
        if request.resent && self.is_outdated(&request) {
            let front = self.front.front.as_mut().expect("a request comes from a front end");
            return front.reply(request.tag, FrontReply::Failed(FrontFailure::Io));
        }
        let memory = NonNull::new(request.data.as_ptr()).filter(|_| !request.data.is_empty());
        let len = request.data.len() as usize;
        let open = Open { origin: Origin::Front(request.tag), read: None, write: None, result: None };
        let slot = self.front.open.insert(open);
        if self.front.open.len() > 1 {
            self.front.crowded_at = self.front.completed;
        }
        let mut buf = NO_BUFFER;
        if let Some(memory) = memory {
            let open = self.front.open.get_mut(slot).expect("it was put there just now");
            let buffer = if matches!(request.op, FrontOp::Read) {
                *open.read.insert(io.buffers.take(len))
            } else {
                let front = FrontSlot { front: self.index, tag: slot };
                *open.write.insert(io.buffers.adopt(memory, len, front))
            };
            buf = buffer.id();
        }
        let first = request.offset_bytes / BLOCK_BYTES;
        let range = BlockRange::new(first, first + request.len_bytes / BLOCK_BYTES);
        let op = match request.op {
            FrontOp::Read => Op::Read,
            FrontOp::Write { fua } => Op::Write { fua },
            FrontOp::Flush => Op::Flush,
            FrontOp::Discard => Op::Discard,
            // A hole reads as zeroes: where the space may go, it goes.
            FrontOp::WriteZeroes { may_unmap: true, fua: false } => Op::Discard,
            FrontOp::WriteZeroes { fua, .. } => Op::WriteZeroes { fua },
        };
        self.step(Input::Request(Request { id: RequestId(u64::from(slot)), op, range, buf }), io);
    }

    /// A change that an earlier engine has left unanswered. Where several nodes write, another may have changed the range since, on top
    /// of what the earlier engine did: to do it again would undo that. What became of it is not known, which is what an error says.
    fn is_outdated(&self, request: &FrontRequest) -> bool {
        let changes = !matches!(request.op, FrontOp::Read | FrontOp::Flush);
        changes && self.replica.config().settings.access == Access::MultiWriter
    }

    /// A request of whoever embeds the engine. `data` is as long as the range for a write, empty otherwise.
    pub(crate) fn embedded(
        &mut self,
        (op, range): (Op, BlockRange),
        data: &[u8],
        responder: Responder<RequestResult>,
        io: &mut Io,
    ) {
        let mut open = Open { origin: Origin::Embedder(responder), read: None, write: None, result: None };
        let mut buf = NO_BUFFER;
        if matches!(op, Op::Read | Op::Write { .. }) {
            let buffer = io.buffers.take(usize::try_from(range.bytes()).expect("checked by the engine"));
            buf = buffer.id();
            if op == Op::Read {
                open.read = Some(buffer);
            } else {
                io.buffers.bytes_mut(buffer).copy_from_slice(data);
            }
        }
        let slot = self.front.open.insert(open);
        self.step(Input::Request(Request { id: RequestId(u64::from(slot)), op, range, buf }), io);
    }
}

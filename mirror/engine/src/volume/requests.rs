//! Requests of a volume's front end, and of whoever embeds the engine, on their way through the core.
//!
//! A request is answered when the core completed it *and* nothing uses its memory any more: neither the core, nor an
//! operation of the disk, nor a frame that is not sent yet.

use std::ptr::NonNull;

use lockstep_core::{BlockRange, BufId, Input, IoError, Op, Request, RequestId, range::BLOCK_BYTES};

use super::{Io, Volume};
use crate::buffers::{Buffer, FrontSlot};
use crate::front::{Completion, FrontEnd, FrontFailure, FrontOp, FrontReply, FrontRequest, FrontState, Tag};
use crate::pending::Responder;
use crate::ring::{Cqe, Ring};
use crate::slots::Slots;
use crate::token::Token;

/// What requests without data carry as buffer.
pub(super) const NO_BUFFER: BufId = BufId(BufId::CORE - 1);

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
    /// The destination of a read: ours until the core completes it.
    read: Option<Buffer>,
    result: Option<Result<(), IoError>>,
    /// The front end's memory is not used any more.
    memory_free: bool,
}

/// The front end of a volume and its open requests.
#[derive(Debug, Default)]
pub(crate) struct FrontHost {
    pub(crate) front: Option<FrontEnd>,
    open: Slots<Open>,
    requests: Vec<FrontRequest>,
    /// Requests since the front end started, by their completion.
    pub(crate) completed: u64,
    aborted: bool,
}

impl FrontHost {
    /// Passes the front end's entries to the ring.
    pub(super) fn submit(&mut self, ring: &mut Ring) {
        if let Some(front) = &mut self.front {
            front.poll_sqes(|entry| ring.push(entry));
        }
    }

    /// Requests under way.
    pub(super) fn open_requests(&self) -> usize {
        self.open.len()
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
                let mount = fuse.mount_point().clone();
                // Takes locks that the file system's users hold: not on the loop that answers them.
                std::thread::spawn(move || mount.abort());
            }
            _ => self.end(),
        }
    }

    /// Ends a server in order. A mount ends when it is unmounted.
    pub(crate) fn end(&mut self) {
        if let Some(FrontEnd::Nbd(nbd)) = &mut self.front {
            nbd.stop();
        }
    }

    /// True if there is no front end, or one that the kernel has let go of.
    pub(super) fn is_closed(&self) -> bool {
        self.front.as_ref().is_none_or(|front| front.state() == FrontState::Closed) && self.open.len() == 0
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
        let read = open.read.take();
        match &open.origin {
            Origin::Front(_) => {
                if let Some(buffer) = read {
                    io.buffers.release(buffer);
                }
                if open.memory_free {
                    self.finish(slot);
                }
            }
            Origin::Embedder(_) => {
                let data = read.map(|buffer| {
                    let data = if result.is_ok() { io.buffers.bytes(buffer).to_vec() } else { Vec::new() };
                    io.buffers.release(buffer);
                    data
                });
                if let Some(Open { origin: Origin::Embedder(responder), .. }) = self.open.remove(slot) {
                    responder.answer(result.map(|()| data.unwrap_or_default()));
                }
            }
        }
    }

    /// Nobody uses a request's memory any more.
    pub(crate) fn memory_freed(&mut self, slot: u32) {
        let Some(open) = self.open.get_mut(slot) else { return };
        open.memory_free = true;
        if open.result.is_some() {
            self.finish(slot);
        }
    }

    fn finish(&mut self, slot: u32) {
        let Some(Open { origin: Origin::Front(tag), result: Some(result), .. }) = self.open.remove(slot) else {
            return;
        };
        self.completed += 1;
        let reply = match result {
            Ok(()) => FrontReply::Done,
            Err(error) => FrontReply::Failed(failure(error)),
        };
        if let Some(front) = &mut self.front {
            front.reply(tag, reply);
        }
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
        let is_read = matches!(request.op, FrontOp::Read);
        let memory = NonNull::new(request.data.as_ptr()).filter(|_| !request.data.is_empty());
        let slot = self.front.open.insert(Open {
            origin: Origin::Front(request.tag),
            read: None,
            result: None,
            memory_free: memory.is_none(),
        });
        let mut buf = NO_BUFFER;
        if let Some(memory) = memory {
            let front = FrontSlot { front: self.index, tag: slot };
            let buffer = io.buffers.adopt(memory, request.data.len() as usize, front);
            buf = buffer.id();
            if is_read {
                self.front.open.get_mut(slot).expect("it was put there just now").read = Some(buffer);
            }
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

    /// A request of whoever embeds the engine. `data` is as long as the range for a write, empty otherwise.
    pub(crate) fn embedded(
        &mut self,
        (op, range): (Op, BlockRange),
        data: &[u8],
        responder: Responder<RequestResult>,
        io: &mut Io,
    ) {
        let mut open = Open { origin: Origin::Embedder(responder), read: None, result: None, memory_free: true };
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

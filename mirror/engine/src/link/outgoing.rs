//! What waits to be sent on a link, and what is being sent.
//!
//! Heads of frames are encoded one behind the other, payloads stay where they are; one `sendmsg` takes a batch of both.
//! Signs of life have a queue of their own and go ahead of data wherever a frame ends.

use io_uring::{opcode, squeue};
use lockstep_core::Frame;
use lockstep_format::wire::{PayloadHead, encode_frame};

use crate::buffers::{Buffer, Buffers};
use crate::ring::FixedFile;

/// Bytes of one `sendmsg`: what a sign of life may have to wait for, beside what the socket holds.
const SEND_BYTES_MAX: usize = 512 << 10;
/// Parts of one `sendmsg`; the kernel takes 1024.
const SEND_PARTS_MAX: usize = 256;

#[derive(Clone, Copy, Debug)]
enum Part {
    /// Bytes of [`Batch::heads`], whole frames or the head of one whose payload is the next part.
    Heads {
        start: usize,
        end: usize,
    },
    Payload {
        buffer: Buffer,
        len: usize,
    },
}

impl Part {
    fn len(self) -> usize {
        match self {
            Part::Heads { start, end } => end - start,
            Part::Payload { len, .. } => len,
        }
    }
}

/// Frames in the order in which they are sent.
#[derive(Default, Debug)]
struct Batch {
    heads: Vec<u8>,
    parts: Vec<Part>,
    /// Parts that are sent.
    next: usize,
    /// Bytes of the next part that are sent.
    offset: usize,
    bytes: usize,
}

/// A large head array is not kept for ever: reports after a change of view are rare.
const HEADS_KEPT_BYTES: usize = 256 << 10;

impl Batch {
    fn is_empty(&self) -> bool {
        self.next == self.parts.len()
    }

    /// True where a frame of another batch may be put in.
    fn is_at_frame(&self) -> bool {
        self.offset == 0 && !matches!(self.parts.get(self.next), Some(Part::Payload { .. }))
    }

    /// Only while nothing of the batch is sent.
    fn push(&mut self, frame: &Frame, payload: Option<Buffer>, buffers: &mut Buffers) {
        let head = match payload {
            Some(buffer) => PayloadHead {
                bytes: u32::try_from(buffers.memory(buffer).1).expect("a payload is far smaller than 4 GiB"),
                crc: buffers.crc(buffer),
            },
            None => PayloadHead::NONE,
        };
        let start = self.heads.len();
        if let Err(error) = encode_frame(frame, head, &mut self.heads) {
            // The core keeps its messages within the protocol's limits; one that is not sent is a lost frame, which the
            // session's time limits deal with.
            tracing::error!(%error, "frame_not_encoded");
            return;
        }
        let end = self.heads.len();
        self.bytes += end - start;
        match self.parts.last_mut() {
            Some(Part::Heads { end: last, .. }) => *last = end,
            _ => self.parts.push(Part::Heads { start, end }),
        }
        if let Some(buffer) = payload {
            buffers.hold_unsent(buffer);
            let len = buffers.memory(buffer).1;
            self.bytes += len;
            self.parts.push(Part::Payload { buffer, len });
        }
    }

    fn advance(&mut self, mut bytes: usize, buffers: &mut Buffers) {
        self.bytes -= bytes;
        while bytes > 0 {
            let part = self.parts[self.next];
            let taken = bytes.min(part.len() - self.offset);
            self.offset += taken;
            bytes -= taken;
            if self.offset == part.len() {
                (self.next, self.offset) = (self.next + 1, 0);
                if let Part::Payload { buffer, .. } = part {
                    buffers.release_unsent(buffer);
                }
            }
        }
        if self.is_empty() {
            self.clear(buffers);
        }
    }

    fn clear(&mut self, buffers: &mut Buffers) {
        for part in self.parts.drain(..).skip(self.next) {
            if let Part::Payload { buffer, .. } = part {
                buffers.release_unsent(buffer);
            }
        }
        self.heads.clear();
        if self.heads.capacity() > HEADS_KEPT_BYTES {
            self.heads.shrink_to(HEADS_KEPT_BYTES);
        }
        (self.next, self.offset, self.bytes) = (0, 0, 0);
    }

    /// The next parts, as the kernel wants them.
    fn describe(&self, buffers: &Buffers, out: &mut Vec<libc::iovec>) {
        let mut left = SEND_BYTES_MAX;
        let mut offset = self.offset;
        for part in self.parts[self.next..].iter().take(SEND_PARTS_MAX) {
            let len = (part.len() - offset).min(left);
            let base = match *part {
                Part::Heads { start, .. } => self.heads[start + offset..].as_ptr().cast_mut(),
                Part::Payload { buffer, .. } => buffers.address(buffer, offset, len),
            };
            out.push(libc::iovec { iov_base: base.cast(), iov_len: len });
            offset = 0;
            left -= len;
            if left == 0 {
                break;
            }
        }
    }
}

/// The sending half of a link.
#[derive(Debug)]
pub(super) struct Outgoing {
    urgent: Batch,
    data: Batch,
    /// Being sent. Its memory stays in place: frames that come meanwhile go to `data`.
    sending: Batch,
    /// The same for signs of life.
    sending_urgent: Batch,
    /// Which of the two the entry in the ring is of.
    is_urgent: bool,
    iovecs: Vec<libc::iovec>,
    message: Box<libc::msghdr>,
}

impl Outgoing {
    /// Nothing but `first` (the end of a greeting) to send.
    pub(super) fn new(first: &[u8]) -> Outgoing {
        // Ahead of everything, signs of life too.
        let mut greeting = Batch::default();
        if !first.is_empty() {
            greeting.heads.extend_from_slice(first);
            greeting.parts.push(Part::Heads { start: 0, end: first.len() });
            greeting.bytes = first.len();
        }
        let message = libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: std::ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        Outgoing {
            urgent: Batch::default(),
            data: Batch::default(),
            sending: Batch::default(),
            sending_urgent: greeting,
            is_urgent: false,
            iovecs: Vec::new(),
            message: Box::new(message),
        }
    }

    /// Queues a frame; the payload is held until it is sent.
    pub(super) fn push(&mut self, frame: &Frame, payload: Option<Buffer>, urgent: bool, buffers: &mut Buffers) {
        let batch = if urgent { &mut self.urgent } else { &mut self.data };
        batch.push(frame, payload, buffers);
    }

    /// An entry that sends what is next, if anything is, and how much that is.
    pub(super) fn entry(&mut self, socket: FixedFile, buffers: &Buffers) -> Option<(squeue::Entry, usize)> {
        if self.sending.is_empty() {
            std::mem::swap(&mut self.sending, &mut self.data);
        }
        if self.sending_urgent.is_empty() && self.sending.is_at_frame() {
            std::mem::swap(&mut self.sending_urgent, &mut self.urgent);
        }
        self.is_urgent = !self.sending_urgent.is_empty();
        let batch = if self.is_urgent { &self.sending_urgent } else { &self.sending };
        if batch.is_empty() {
            return None;
        }
        self.iovecs.clear();
        batch.describe(buffers, &mut self.iovecs);
        let bytes = self.iovecs.iter().map(|part| part.iov_len).sum();
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = self.iovecs.len();
        // The kernel goes on by itself after a part: one completion per batch.
        let flags = (libc::MSG_WAITALL | libc::MSG_NOSIGNAL).unsigned_abs();
        Some((opcode::SendMsg::new(socket.target(), &raw const *self.message).flags(flags).build(), bytes))
    }

    /// So many bytes of the last entry are sent.
    pub(super) fn advance(&mut self, bytes: usize, buffers: &mut Buffers) {
        let batch = if self.is_urgent { &mut self.sending_urgent } else { &mut self.sending };
        batch.advance(bytes, buffers);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, buffers: &mut Buffers) {
        for batch in [&mut self.urgent, &mut self.data, &mut self.sending, &mut self.sending_urgent] {
            batch.clear(buffers);
        }
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.urgent.bytes + self.data.bytes + self.sending.bytes + self.sending_urgent.bytes
    }
}

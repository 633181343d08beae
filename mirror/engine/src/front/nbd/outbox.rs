//! Replies of one connection on their way out: queued, and sent many at a time by one vectored send.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use io_uring::{opcode, squeue, types};

use super::transmission::ReplyHead;
use crate::front::request::FrontBuffer;

/// Replies in one send. Each takes at most two of the kernel's 1024 vector elements; more than this gains nothing.
const BATCH_MAX: usize = 32;

#[derive(Debug)]
enum Item {
    /// Of the negotiation.
    Bytes(Vec<u8>),
    Reply {
        head: ReplyHead,
        data: FrontBuffer,
        slot: Option<u32>,
    },
}

#[derive(Debug)]
pub(super) struct Outbox {
    waiting: VecDeque<Item>,
    /// What the kernel is sending; `iovecs` and `message` point into it.
    sending: Vec<Item>,
    iovecs: Vec<libc::iovec>,
    message: Box<libc::msghdr>,
    sending_bytes: usize,
}

// SAFETY: the pointers lead to memory that this value or the engine owns; nothing in it is tied to a thread.
unsafe impl Send for Outbox {}

impl Outbox {
    pub(super) fn new() -> Outbox {
        // SAFETY: a message header of zeroes is valid: no name, no vectors, no control data.
        let message = Box::new(unsafe { std::mem::zeroed::<libc::msghdr>() });
        Outbox {
            waiting: VecDeque::new(),
            sending: Vec::with_capacity(BATCH_MAX),
            iovecs: Vec::with_capacity(2 * BATCH_MAX),
            message,
            sending_bytes: 0,
        }
    }

    pub(super) fn push_bytes(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.waiting.push_back(Item::Bytes(bytes));
        }
    }

    /// A reply; `slot` comes back from [`Self::on_sent`] when its data is not needed any more.
    pub(super) fn push_reply(&mut self, head: ReplyHead, data: FrontBuffer, slot: Option<u32>) {
        self.waiting.push_back(Item::Reply { head, data, slot });
    }

    /// Replies that have not left.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.sending.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next send, unless one is under way or nothing waits.
    pub(super) fn next_send(&mut self, socket: RawFd) -> Option<squeue::Entry> {
        if !self.sending.is_empty() || self.waiting.is_empty() {
            return None;
        }
        let count = self.waiting.len().min(BATCH_MAX);
        self.sending.extend(self.waiting.drain(..count));
        self.iovecs.clear();
        for item in &self.sending {
            let (head, data) = match item {
                Item::Bytes(bytes) => (bytes.as_slice(), FrontBuffer::EMPTY),
                Item::Reply { head, data, .. } => (head.as_bytes(), *data),
            };
            self.iovecs.push(libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() });
            if !data.is_empty() {
                self.iovecs.push(libc::iovec { iov_base: data.as_ptr().cast(), iov_len: data.len() as usize });
            }
        }
        self.sending_bytes = self.iovecs.iter().map(|vector| vector.iov_len).sum();
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = self.iovecs.len();
        let flags = u32::try_from(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).expect("flags are positive");
        Some(opcode::SendMsg::new(types::Fd(socket), &raw const *self.message).flags(flags).build())
    }

    /// The send has ended; every slot of it is handed to `release`. Returns whether all bytes have left.
    pub(super) fn on_sent(&mut self, result: i32, release: impl FnMut(u32)) -> bool {
        let whole = usize::try_from(result).is_ok_and(|sent| sent == self.sending_bytes);
        self.sending.drain(..).filter_map(Item::into_slot).for_each(release);
        whole
    }

    /// Whether the kernel reads from memory of this outbox.
    pub(super) fn is_sending(&self) -> bool {
        !self.sending.is_empty()
    }

    /// Nobody listens any more: drops what waits.
    pub(super) fn clear(&mut self, release: impl FnMut(u32)) {
        self.waiting.drain(..).filter_map(Item::into_slot).for_each(release);
    }
}

impl Item {
    fn into_slot(self) -> Option<u32> {
        match self {
            Item::Bytes(_) => None,
            Item::Reply { slot, .. } => slot,
        }
    }
}

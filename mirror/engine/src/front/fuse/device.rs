//! Requests read from `/dev/fuse` through the event loop's ring, and replies written to it.
//!
//! One multishot read stays armed: the kernel fills one provided buffer per request and posts one completion for each, so
//! that a burst costs one entry of the loop into the kernel. Replies are vectored writes, submitted in a batch too.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use super::buffers::{BufferId, RequestBuffers};
use super::request;
use super::response::{self, Answer};
use super::volume_file::{Reaction, VolumeFile};
use crate::front::request::{FrontBuffer, FrontOp, FrontReply, FrontRequest, Tag};
use crate::front::sqe::{Completion, Sqe, SqeBase};

/// How requests are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceReads {
    /// One multishot read (Linux 6.7); falls back to the other where the kernel refuses it.
    Multishot,
    /// This many single reads wait at a time. Each arriving request wakes all of them, so few are better than many.
    Single(u16),
}

pub(super) const TOKEN_READ: u32 = 1 << 24;
pub(super) const TOKEN_REPLY: u32 = 2 << 24;
pub(super) const TOKEN_CANCEL: u32 = 4 << 24;
pub(super) const TOKEN_KIND: u32 = 0xff << 24;

/// Reads that fail this often in a row, for a reason that should pass, end the front end instead of spinning.
const READ_ERRORS_MAX: u32 = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    /// The buffer is free or in the kernel's hands.
    Idle,
    /// The engine works on the request.
    Open { unique: u64, op: FrontOp, len: u32, lent: u32 },
    /// The reply is on its way.
    Replying { lent: u32, elsewhere: bool },
}

/// Whether requests still come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reading {
    Serving,
    /// Cancelled by us.
    Stopping,
    /// The mount is gone, or reading failed with this error number.
    Ended(i32),
}

#[derive(Debug)]
pub(super) struct DeviceChannel {
    device: Arc<OwnedFd>,
    base: SqeBase,
    buffers: RequestBuffers,
    slots: Vec<Slot>,
    /// Two per buffer: reply header (with small content), data of a read. The kernel copies them at submission.
    iovecs: Box<[[libc::iovec; 2]]>,
    reads: DeviceReads,
    armed: u16,
    reading: Reading,
    read_errors: u32,
    cancelling: u16,
    replying: usize,
    open: usize,
    pending: Vec<Sqe>,
    released: Vec<Tag>,
}

// SAFETY: the iovecs point only into regions that this value or the engine owns; nothing in it is tied to a thread.
unsafe impl Send for DeviceChannel {}

impl DeviceChannel {
    pub(super) fn new(
        device: Arc<OwnedFd>,
        base: SqeBase,
        buffers: RequestBuffers,
        reads: DeviceReads,
    ) -> DeviceChannel {
        let count = buffers.len();
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        DeviceChannel {
            device,
            base,
            buffers,
            slots: vec![Slot::Idle; count],
            iovecs: vec![[none; 2]; count].into_boxed_slice(),
            reads,
            armed: 0,
            reading: Reading::Serving,
            read_errors: 0,
            cancelling: 0,
            replying: 0,
            open: 0,
            pending: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Hands buffers to the kernel, keeps reads armed, and passes on every entry to submit.
    pub(super) fn poll_sqes(&mut self, submit: &mut impl FnMut(Sqe)) {
        if self.reading == Reading::Serving {
            self.buffers.provide();
            self.arm_reads();
        }
        self.pending.drain(..).for_each(submit);
    }

    fn arm_reads(&mut self) {
        let wanted = match self.reads {
            DeviceReads::Multishot => 1,
            DeviceReads::Single(count) => count.max(1),
        };
        let fd = types::Fd(self.device.as_raw_fd());
        let group = self.buffers.group();
        while self.armed < wanted && self.buffers.provided() > usize::from(self.armed) {
            let entry = match self.reads {
                DeviceReads::Multishot => opcode::ReadMulti::new(fd, 0, group).build(),
                DeviceReads::Single(_) => opcode::Read::new(fd, std::ptr::null_mut(), 0)
                    .buf_group(group)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT),
            };
            self.pending.push(Sqe::Narrow(entry.user_data(self.base.user_data(TOKEN_READ))));
            self.armed += 1;
        }
    }

    pub(super) fn on_completion(&mut self, cqe: Completion, file: &VolumeFile, requests: &mut Vec<FrontRequest>) {
        match cqe.token & TOKEN_KIND {
            TOKEN_READ => self.on_read(cqe, file, requests),
            TOKEN_REPLY => self.on_reply_written(cqe),
            TOKEN_CANCEL => self.cancelling -= 1,
            other => unreachable!("token kind {other:#x} is not of the FUSE device"),
        }
    }

    fn on_read(&mut self, cqe: Completion, file: &VolumeFile, requests: &mut Vec<FrontRequest>) {
        if !cqe.has_more() {
            self.armed -= 1;
        }
        if let Some(id) = cqe.buffer() {
            let len = usize::try_from(cqe.result).unwrap_or(0);
            self.buffers.on_filled(BufferId(id), len);
            if len > 0 {
                self.read_errors = 0;
                return self.on_request(BufferId(id), len, file, requests);
            }
            // A read that was retried too often ends in a worker of the kernel, which had to take its buffer for good.
            self.buffers.release(BufferId(id), 0);
        }
        match -cqe.result {
            // All provided buffers are in use; armed again as soon as one is free.
            libc::ENOBUFS => {}
            libc::ECANCELED if self.reading == Reading::Stopping => {}
            // The kernel does not know multishot reads.
            libc::EINVAL | libc::EBADFD if self.reads == DeviceReads::Multishot => {
                self.reads = DeviceReads::Single(2);
            }
            // Interrupted, woken in vain too often, or the request was taken back while it was copied.
            libc::EINTR | libc::EAGAIN | libc::ENOENT | libc::EIO | libc::ECANCELED | 0
                if self.read_errors < READ_ERRORS_MAX =>
            {
                self.read_errors += 1;
            }
            error => self.reading = Reading::Ended(error),
        }
    }

    fn on_request(&mut self, id: BufferId, len: usize, file: &VolumeFile, requests: &mut Vec<FrontRequest>) {
        let (header, operation) = match request::parse(self.buffers.filled(id, len)) {
            Ok(parsed) => parsed,
            Err(_) => {
                // Cannot come from a kernel; whoever waits gets an error as soon as its name is known.
                let unique = request::RequestHeader::parse(self.buffers.filled(id, len)).map(|header| header.unique);
                match unique {
                    Ok(unique) => return self.answer(id, unique, Err(libc::EIO), 0),
                    Err(_) => return self.buffers.release(id, 0),
                }
            }
        };
        match file.on_request(header, operation) {
            Reaction::Nothing => self.buffers.release(id, 0),
            Reaction::Answer(answer) => self.answer(id, header.unique, answer, 0),
            Reaction::Io { op, offset, len } => {
                let carries_data = matches!(op, FrontOp::Read | FrontOp::Write { .. });
                let lent = if carries_data { u32::try_from(len).expect("reads and writes fit one buffer") } else { 0 };
                let data = if lent > 0 { self.buffers.lend(id, lent) } else { FrontBuffer::EMPTY };
                self.slots[usize::from(id.0)] = Slot::Open { unique: header.unique, op, len: lent, lent };
                self.open += 1;
                requests.push(FrontRequest {
                    tag: Tag(u32::from(id.0)),
                    op,
                    offset_bytes: offset,
                    len_bytes: len,
                    resent: header.is_resent(),
                    data,
                });
            }
        }
    }

    /// The engine's answer to an open request.
    pub(super) fn reply(&mut self, tag: Tag, reply: FrontReply) {
        let id = BufferId(u16::try_from(tag.0).expect("tags of the device channel are buffer numbers"));
        let Slot::Open { unique, op, len, lent } = self.slots[usize::from(id.0)] else {
            unreachable!("reply to {tag:?}, which is not open");
        };
        self.open -= 1;
        match (reply, op) {
            (FrontReply::Failed(failure), _) => self.answer(id, unique, Err(failure.errno()), lent),
            (FrontReply::Done, FrontOp::Read) => {
                let data = FrontBuffer::new(self.buffers.payload(id), len);
                self.answer_data(id, unique, data, lent, false);
            }
            (FrontReply::DoneElsewhere(data), FrontOp::Read) => {
                assert_eq!(data.len(), len, "a read is answered in full");
                self.answer_data(id, unique, data, lent, true);
            }
            (_, FrontOp::Write { .. }) => self.answer(id, unique, Ok(response::write_out(len)), lent),
            _ => self.answer(id, unique, Ok(Answer::empty()), lent),
        }
    }

    fn answer(&mut self, id: BufferId, unique: u64, answer: Result<Answer, i32>, lent: u32) {
        let (error, content) = match &answer {
            Ok(answer) => (0, answer.as_bytes()),
            Err(errno) => (*errno, &[][..]),
        };
        let content_len = u32::try_from(content.len()).expect("answers are small");
        let header = response::out_header(unique, error, content_len);
        let start = self.buffers.write_reply(id, header, content);
        let fd = types::Fd(self.device.as_raw_fd());
        let entry = opcode::Write::new(fd, start, 16 + content_len).build();
        self.push_reply(id, entry, lent, false);
    }

    fn answer_data(&mut self, id: BufferId, unique: u64, data: FrontBuffer, lent: u32, elsewhere: bool) {
        let header = response::out_header(unique, 0, data.len());
        let start = self.buffers.write_reply(id, header, &[]);
        let iovecs = &mut self.iovecs[usize::from(id.0)];
        iovecs[0] = libc::iovec { iov_base: start.cast_mut().cast(), iov_len: header.len() };
        iovecs[1] = libc::iovec { iov_base: data.as_ptr().cast(), iov_len: data.len() as usize };
        let fd = types::Fd(self.device.as_raw_fd());
        let entry = opcode::Writev::new(fd, iovecs.as_ptr(), 2).build();
        self.push_reply(id, entry, lent, elsewhere);
    }

    fn push_reply(&mut self, id: BufferId, entry: squeue::Entry, lent: u32, elsewhere: bool) {
        let token = TOKEN_REPLY | u32::from(id.0);
        self.slots[usize::from(id.0)] = Slot::Replying { lent, elsewhere };
        self.replying += 1;
        let entry = entry.user_data(self.base.user_data(token));
        // Where requests wait for buffers, the reply's completion brings the next one in.
        let is_waited_for = self.armed == 0 || self.buffers.provided() == 0;
        self.pending.push(if is_waited_for { Sqe::Narrow(entry) } else { Sqe::Prompt(entry) });
    }

    fn on_reply_written(&mut self, cqe: Completion) {
        let id = BufferId(u16::try_from(cqe.token & !TOKEN_KIND).expect("reply tokens carry buffer numbers"));
        let Slot::Replying { lent, elsewhere } = self.slots[usize::from(id.0)] else {
            unreachable!("a reply of buffer {} that was not under way", id.0);
        };
        // An error means that nobody waits any more: the caller was interrupted (ENOENT) or the mount is gone (ENODEV).
        self.slots[usize::from(id.0)] = Slot::Idle;
        self.replying -= 1;
        if elsewhere {
            self.released.push(Tag(u32::from(id.0)));
        }
        self.buffers.release(id, lent);
    }

    pub(super) fn take_released(&mut self) -> Option<Tag> {
        self.released.pop()
    }

    /// Takes the reads back. Open requests can still be answered.
    pub(super) fn stop(&mut self) {
        if self.reading != Reading::Serving {
            return;
        }
        self.reading = Reading::Stopping;
        if self.armed > 0 {
            let builder = types::CancelBuilder::user_data(self.base.user_data(TOKEN_READ)).all();
            let entry = opcode::AsyncCancel2::new(builder).build();
            self.pending.push(Sqe::Narrow(entry.user_data(self.base.user_data(TOKEN_CANCEL))));
            self.cancelling += 1;
        }
    }

    /// Error number with which reading ended by itself (ENODEV: unmounted or aborted).
    pub(super) fn ended(&self) -> Option<i32> {
        match self.reading {
            Reading::Ended(errno) => Some(errno),
            Reading::Serving | Reading::Stopping => None,
        }
    }

    /// Whether the kernel and the engine hold none of the buffers any more.
    pub(super) fn is_quiet(&self) -> bool {
        self.reading != Reading::Serving
            && self.armed == 0
            && self.cancelling == 0
            && self.replying == 0
            && self.open == 0
            && self.pending.is_empty()
    }

    pub(super) fn buffers(&self) -> &RequestBuffers {
        &self.buffers
    }
}

impl Drop for DeviceChannel {
    fn drop(&mut self) {
        if !self.is_quiet() {
            self.buffers.leak();
        }
    }
}

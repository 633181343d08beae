//! Frames out of a stream of bytes.
//!
//! One receive takes whatever is there into a stage of 64 KiB; frames are parsed there, and payloads are copied from
//! there to aligned memory (the CRC has to touch every byte anyway). What is missing of a payload is received right
//! into its memory. Memory for a payload is taken when the frame's head has passed its checks, within the limits of the
//! protocol; no pages are touched before bytes are there to fill them.

use io_uring::{opcode, squeue};
use lockstep_core::Frame;
use lockstep_format::wire::{BODY_BYTES_MAX, Decoded, HEADER_BYTES, PayloadHead, decode_frame};

use super::{LinkEnd, Received};
use crate::buffers::{Buffer, Buffers};
use crate::ring::FixedFile;

/// Bytes of the stage: some dozen small writes, and little of a large one to copy.
const STAGE_BYTES: usize = 64 << 10;
/// What is left of a payload is received in place from here on; less comes along with what follows it.
const IN_PLACE_BYTES: usize = 16 << 10;

/// Ask the kernel to wait before it looks: there was nothing more when the last receive ended.
const POLL_FIRST: u16 = 1;

#[derive(Debug)]
struct Pending {
    frame: Frame,
    head: PayloadHead,
    buffer: Buffer,
    /// Bytes that are there.
    filled: usize,
}

/// The receiving half of a link.
#[derive(Debug)]
pub(super) struct Incoming {
    stage: Vec<u8>,
    /// Bytes `start..end` of the stage came in and are not taken yet.
    start: usize,
    end: usize,
    pending: Option<Pending>,
    /// The entry in the ring fills the pending payload first, then the stage.
    in_place: bool,
    iovecs: Box<[libc::iovec; 2]>,
    /// The socket had more when the last receive ended.
    has_more: bool,
}

impl Incoming {
    pub(super) fn new(first: &[u8]) -> Incoming {
        let mut stage = vec![0; STAGE_BYTES.max(first.len())];
        stage[..first.len()].copy_from_slice(first);
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let iovecs = Box::new([none, none]);
        Incoming { stage, start: 0, end: first.len(), pending: None, in_place: false, iovecs, has_more: false }
    }

    /// An entry that receives what comes next.
    pub(super) fn entry(&mut self, socket: FixedFile, buffers: &Buffers, look: bool) -> squeue::Entry {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let room = &mut self.stage[self.end..];
        let stage = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        let missing = self.pending.as_ref().filter(|pending| pending.missing() >= IN_PLACE_BYTES);
        self.in_place = missing.is_some();
        if let Some(pending) = missing {
            let base = buffers.address(pending.buffer, pending.filled, pending.missing());
            *self.iovecs = [libc::iovec { iov_base: base.cast(), iov_len: pending.missing() }, stage];
            return opcode::Readv::new(socket.target(), self.iovecs.as_ptr(), 2).build();
        }
        let len = u32::try_from(stage.iov_len).expect("the stage is far smaller than 4 GiB");
        let poll_first = if self.has_more || look { 0 } else { POLL_FIRST };
        opcode::Recv::new(socket.target(), stage.iov_base.cast(), len).ioprio(poll_first).build()
    }

    /// `bytes` came in by the last entry: appends the frames that are whole now.
    pub(super) fn take(
        &mut self,
        bytes: usize,
        has_more: bool,
        account: u32,
        buffers: &mut Buffers,
        out: &mut Vec<Received>,
    ) -> Result<(), LinkEnd> {
        self.has_more = has_more;
        let mut staged = bytes;
        if self.in_place
            && let Some(pending) = &mut self.pending
        {
            let direct = bytes.min(pending.missing());
            pending.filled += direct;
            staged = bytes - direct;
        }
        self.in_place = false;
        self.end += staged;
        loop {
            if let Some(pending) = &mut self.pending {
                self.start += pending.fill(&self.stage[self.start..self.end], buffers);
                if pending.missing() > 0 {
                    break;
                }
            }
            if let Some(pending) = self.pending.take() {
                out.push(pending.check(buffers)?);
            }
            if !self.next_frame(account, buffers, out)? {
                break;
            }
        }
        self.make_room();
        Ok(())
    }

    /// Parses one head; false if there is none.
    fn next_frame(&mut self, account: u32, buffers: &mut Buffers, out: &mut Vec<Received>) -> Result<bool, LinkEnd> {
        match decode_frame(&self.stage[self.start..self.end]).map_err(LinkEnd::Frame)? {
            Decoded::More { .. } => Ok(false),
            Decoded::Frame { frame, payload, head_bytes } => {
                self.start += head_bytes;
                if payload.bytes == 0 {
                    out.push(Received { frame, payload: None });
                } else {
                    let buffer = buffers.take_charged(payload.bytes as usize, account);
                    self.pending = Some(Pending { frame, head: payload, buffer, filled: 0 });
                }
                Ok(true)
            }
        }
    }

    /// Moves the unparsed rest to the front, and makes the stage larger for a body that does not fit. It grows with the
    /// bytes that have come, not with what a header claims.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.stage.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.stage.len() {
            let len = (self.stage.len() * 2).min(HEADER_BYTES + BODY_BYTES_MAX);
            self.stage.resize(len, 0);
        } else if self.end == 0 && self.stage.len() > STAGE_BYTES {
            self.stage.truncate(STAGE_BYTES);
            self.stage.shrink_to_fit();
        }
    }

    /// Forgets a payload that is not whole.
    pub(super) fn clear(&mut self, buffers: &mut Buffers) {
        if let Some(pending) = self.pending.take() {
            buffers.release(pending.buffer);
        }
    }
}

impl Pending {
    fn missing(&self) -> usize {
        self.head.bytes as usize - self.filled
    }

    /// Copies what there is; returns how much that was.
    fn fill(&mut self, from: &[u8], buffers: &mut Buffers) -> usize {
        let len = from.len().min(self.missing());
        buffers.bytes_mut(self.buffer)[self.filled..self.filled + len].copy_from_slice(&from[..len]);
        self.filled += len;
        len
    }

    fn check(self, buffers: &mut Buffers) -> Result<Received, LinkEnd> {
        if buffers.crc(self.buffer) != self.head.crc {
            buffers.release(self.buffer);
            return Err(LinkEnd::Payload);
        }
        Ok(Received { frame: self.frame, payload: Some(self.buffer) })
    }
}

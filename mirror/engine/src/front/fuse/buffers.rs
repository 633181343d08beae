//! Buffers for requests read from `/dev/fuse`, handed to the kernel through a ring of provided buffers.
//!
//! Each buffer is one header page and one maximal payload. What the kernel fills begins 80 bytes before the end of the
//! header page, so that the data of a write (behind 40 bytes of request header and 40 of write header) lies on a page
//! boundary, ready for direct I/O without a copy. The rest of the header page is scratch space for the reply.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::abi::{IN_HEADER_BYTES, OUT_HEADER_BYTES, WRITE_IN_BYTES};
use crate::front::memory::{PAGE_BYTES, Region, ResidentBudget};
use crate::front::request::FrontBuffer;

const HEAD_BYTES: usize = IN_HEADER_BYTES + WRITE_IN_BYTES;
/// Requests longer than this live off the processor's cache.
const LARGE_BYTES: usize = 128 << 10;

/// Index of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BufferId(pub u16);

#[derive(Debug)]
pub(crate) struct RequestBuffers {
    data: Region,
    ring: Region,
    ring_entries: u16,
    tail: u16,
    group: u16,
    payload_bytes: usize,
    /// Free buffers, last freed on top: the same few stay warm and resident.
    free: Vec<u16>,
    provided: usize,
    provided_max: usize,
    /// Length of the data lent last: what the next requests are like.
    recent_bytes: usize,
    /// Bytes of data in the hands of the engine.
    in_use_bytes: usize,
    budget_bytes: usize,
    resident: ResidentBudget,
}

/// How much memory the buffers may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferLimits {
    /// Requests in the engine's hands at a time.
    pub in_flight_max: u16,
    /// Buffers that wait in the kernel's hands for the next requests.
    pub provided_max: u16,
    /// Largest payload of one request.
    pub payload_bytes: usize,
    /// Resident memory that is kept.
    pub budget_bytes: usize,
}

impl RequestBuffers {
    pub(crate) fn new(limits: BufferLimits, group: u16, submitter: &Submitter<'_>) -> io::Result<RequestBuffers> {
        let count = limits.in_flight_max + limits.provided_max;
        let stride = PAGE_BYTES + limits.payload_bytes;
        let data = Region::map(usize::from(count) * stride)?;
        let ring_entries = limits.provided_max.next_power_of_two();
        let ring = Region::map(usize::from(ring_entries) * size_of::<BufRingEntry>())?;
        // SAFETY: the region has room for that many entries, is page-aligned, and lives until after the group is
        // unregistered or the ring is gone (see `unregister`).
        unsafe { submitter.register_buf_ring_with_flags(ring.at(0) as u64, ring_entries, group, 0)? };
        Ok(RequestBuffers {
            data,
            ring,
            ring_entries,
            tail: 0,
            group,
            payload_bytes: limits.payload_bytes,
            free: (0..count).rev().collect(),
            provided: 0,
            provided_max: usize::from(limits.provided_max),
            recent_bytes: 0,
            in_use_bytes: 0,
            budget_bytes: limits.budget_bytes,
            resident: ResidentBudget::new(usize::from(count), limits.budget_bytes),
        })
    }

    pub(crate) fn group(&self) -> u16 {
        self.group
    }

    pub(crate) fn len(&self) -> usize {
        self.free.len() + self.provided
    }

    pub(crate) fn provided(&self) -> usize {
        self.provided
    }

    /// Hands free buffers to the kernel, as many as the memory budget allows if each were filled to its end. With none,
    /// requests wait in the kernel until the engine has answered some of those it has.
    pub(crate) fn provide(&mut self) {
        let before = self.tail;
        // Half as many large buffers fit the cache.
        let wanted = if self.recent_bytes > LARGE_BYTES { self.provided_max.div_ceil(2) } else { self.provided_max };
        while self.provided < wanted {
            let promised = (self.provided + 1) * self.payload_bytes + self.in_use_bytes;
            // The budget holds at least one maximal request, or none would ever come in.
            if promised > self.budget_bytes.max(self.payload_bytes) {
                break;
            }
            let Some(id) = self.free.pop() else { break };
            self.make_resident(BufferId(id));
            self.push(id);
            self.provided += 1;
        }
        if self.tail != before {
            self.publish();
        }
    }

    /// When this process is killed while the kernel copies a request to where a page is missing, the kernel gets none for a dying process and
    /// fails the request, which nobody could then send again. What is there already is written to the end.
    fn make_resident(&mut self, id: BufferId) {
        let index = usize::from(id.0);
        if !self.resident.is_touched(index, self.payload_bytes) {
            self.data.populate(self.base(id), PAGE_BYTES + self.payload_bytes);
            self.resident.touch(index, self.payload_bytes);
        }
    }

    fn push(&mut self, id: u16) {
        let slot = usize::from(self.tail & (self.ring_entries - 1));
        let entry = self.ring.at(slot * size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        let addr = self.data.at(self.base(BufferId(id)) + PAGE_BYTES - HEAD_BYTES) as u64;
        let len = u32::try_from(HEAD_BYTES + self.payload_bytes).expect("a payload is far below 4 GiB");
        // SAFETY: the slot lies inside the ring's region; the kernel does not look at it before the tail moves. The
        // setters leave the last two bytes alone, which are the tail in the first slot.
        let entry = unsafe { &mut *entry };
        entry.set_addr(addr);
        entry.set_len(len);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: `ring` holds an initialised array of entries; `tail` is a `u16` inside the first, shared with the
        // kernel, which reads it with acquire semantics.
        unsafe {
            let tail = BufRingEntry::tail(self.ring.at(0).cast::<BufRingEntry>());
            (*tail.cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }

    fn base(&self, id: BufferId) -> usize {
        usize::from(id.0) * (PAGE_BYTES + self.payload_bytes)
    }

    /// The kernel has filled a provided buffer with `len` bytes.
    pub(crate) fn on_filled(&mut self, id: BufferId, len: usize) {
        assert!(self.provided > 0 && len <= HEAD_BYTES + self.payload_bytes, "a buffer that was not provided");
        self.provided -= 1;
        self.resident.touch(usize::from(id.0), len.saturating_sub(HEAD_BYTES));
    }

    /// The bytes that the kernel put into a filled buffer.
    pub(crate) fn filled(&self, id: BufferId, len: usize) -> &[u8] {
        // SAFETY: the kernel has given the buffer back, and the slice is used up before anything else is done with it.
        unsafe { self.data.slice(self.base(id) + PAGE_BYTES - HEAD_BYTES, len) }
    }

    /// The payload part of a buffer, for the engine.
    pub(crate) fn lend(&mut self, id: BufferId, len: u32) -> FrontBuffer {
        self.in_use_bytes += len as usize;
        self.recent_bytes = len as usize;
        self.resident.touch(usize::from(id.0), len as usize);
        FrontBuffer::new(self.payload(id), len)
    }

    /// Address of the payload part of a buffer.
    pub(crate) fn payload(&self, id: BufferId) -> *mut u8 {
        self.data.at(self.base(id) + PAGE_BYTES)
    }

    /// Puts the reply's header and small content at the start of the header page.
    pub(crate) fn write_reply(&mut self, id: BufferId, header: [u8; OUT_HEADER_BYTES], content: &[u8]) -> *const u8 {
        let base = self.base(id);
        assert!(OUT_HEADER_BYTES + content.len() <= PAGE_BYTES - HEAD_BYTES, "reply does not fit its page");
        // SAFETY: the buffer is out of the kernel's hands, and its scratch part is used by nobody but its own reply.
        unsafe {
            self.data.write(base, &header);
            self.data.write(base + OUT_HEADER_BYTES, content);
        }
        self.data.at(base)
    }

    /// A buffer is free again; `lent` are the bytes that [`Self::lend`] gave out.
    pub(crate) fn release(&mut self, id: BufferId, lent: u32) {
        self.in_use_bytes -= lent as usize;
        let unused = self.resident.release(usize::from(id.0));
        if unused > 0 {
            // SAFETY: the buffer is in nobody's hands.
            unsafe { self.data.release_pages(self.base(id) + PAGE_BYTES, unused.next_multiple_of(PAGE_BYTES)) };
        }
        self.free.push(id.0);
    }

    /// The kernel may still write into the buffers: never unmap them.
    pub(crate) fn leak(&mut self) {
        self.data.leak();
        self.ring.leak();
    }

    /// Takes the group out of the ring. Required before the buffers are dropped while the ring lives on.
    pub(crate) fn unregister(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        submitter.unregister_buf_ring(self.group)
    }
}

//! FUSE over io_uring (Linux 6.14): requests arrive in, and replies leave from, memory registered once per entry; one
//! command commits a reply and fetches the next request.
//!
//! The kernel wants one queue per possible CPU and sends a request on the queue of the CPU it was made on. All queues
//! live in the event loop's one ring. Forgets and interrupts still come through `/dev/fuse`.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use super::abi::uring;
use super::device::{TOKEN_KIND, TOKEN_REPLY};
use super::request::{self, RequestHeader};
use super::response::{self, Answer};
use super::volume_file::{Reaction, VolumeFile};
use crate::front::memory::{PAGE_BYTES, Region, ResidentBudget};
use crate::front::request::{FrontBuffer, FrontOp, FrontReply, FrontRequest, Tag};
use crate::front::sqe::{Completion, Sqe, SqeBase};

pub(super) const TOKEN_URING: u32 = 3 << 24;
/// Marks the tags of this channel, so that they differ from those of the device.
pub(super) const TAG_BIT: u32 = 1 << 31;

/// Room for one entry's header (288 bytes), so that no two entries share a cache line.
const HEADER_STRIDE: usize = 512;
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Whether the kernel's machine-wide switch for FUSE over io_uring is on.
#[must_use]
pub fn is_enabled() -> bool {
    fs::read_to_string(SWITCH).is_ok_and(|text| matches!(text.trim(), "Y" | "1"))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EntryState {
    /// In the kernel's hands, waiting for a request.
    Fetching,
    /// The engine works on its request.
    Open { unique: u64, commit_id: u64, op: FrontOp, len: u32 },
    /// The connection is gone.
    Ended,
}

#[derive(Debug)]
pub(super) struct UringChannel {
    device: Arc<OwnedFd>,
    base: SqeBase,
    headers: Region,
    payloads: Region,
    payload_bytes: usize,
    per_queue: u32,
    entries: Vec<EntryState>,
    /// Two per entry: header, payload. Read by the kernel when the entry is registered.
    iovecs: Box<[[libc::iovec; 2]]>,
    resident: ResidentBudget,
    fetching: usize,
    open: usize,
    failure: Option<i32>,
    pending: Vec<Sqe>,
    released: Vec<Tag>,
}

// SAFETY: the iovecs point only into regions that this value owns; nothing in it is tied to a thread.
unsafe impl Send for UringChannel {}

impl UringChannel {
    pub(super) fn new(
        device: Arc<OwnedFd>,
        base: SqeBase,
        payload_bytes: usize,
        in_flight: u32,
        budget_bytes: usize,
    ) -> io::Result<UringChannel> {
        let queues = possible_cpus()?;
        // Four per queue keep a machine of many CPUs within bounds; 32 are the deepest queue that pays.
        let per_queue = (in_flight / queues).clamp(4, 64);
        let count = (queues * per_queue) as usize;
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut channel = UringChannel {
            device,
            base,
            headers: Region::map(count * HEADER_STRIDE)?,
            payloads: Region::map(count * payload_bytes)?,
            payload_bytes,
            per_queue,
            entries: vec![EntryState::Fetching; count],
            iovecs: vec![[none; 2]; count].into_boxed_slice(),
            resident: ResidentBudget::new(count, budget_bytes),
            fetching: 0,
            open: 0,
            failure: None,
            pending: Vec::with_capacity(count),
            released: Vec::new(),
        };
        for entry in 0..count {
            channel.register(entry);
        }
        Ok(channel)
    }

    fn queue_of(&self, entry: usize) -> u16 {
        let queue = entry / self.per_queue as usize;
        u16::try_from(queue).expect("Linux has fewer than 65536 CPUs")
    }

    fn register(&mut self, entry: usize) {
        let header = self.headers.at(entry * HEADER_STRIDE);
        let payload = self.payloads.at(entry * self.payload_bytes);
        let iovecs = &mut self.iovecs[entry];
        iovecs[0] = libc::iovec { iov_base: header.cast(), iov_len: uring::HEADER_BYTES };
        iovecs[1] = libc::iovec { iov_base: payload.cast(), iov_len: self.payload_bytes };
        let iovecs = iovecs.as_ptr() as u64;
        self.push(entry, uring::REGISTER, 0, Some(iovecs));
    }

    fn push(&mut self, entry: usize, command: u32, commit_id: u64, iovecs: Option<u64>) {
        // struct fuse_uring_cmd_req: flags, commit_id, qid.
        let mut content = [0; 80];
        content[8..16].copy_from_slice(&commit_id.to_ne_bytes());
        content[16..18].copy_from_slice(&self.queue_of(entry).to_ne_bytes());
        let fd = types::Fd(self.device.as_raw_fd());
        let mut sqe = opcode::UringCmd80::new(fd, command).cmd(content).addr(iovecs).build();
        if iovecs.is_some() {
            set_len(&mut sqe, 2);
        }
        let token = TOKEN_URING | u32::try_from(entry).expect("entries are few");
        self.entries[entry] = EntryState::Fetching;
        self.fetching += 1;
        self.pending.push(Sqe::Wide(sqe.user_data(self.base.user_data(token))));
    }

    pub(super) fn poll_sqes(&mut self, submit: &mut impl FnMut(Sqe)) {
        self.pending.drain(..).for_each(submit);
    }

    pub(super) fn on_completion(&mut self, cqe: Completion, file: &VolumeFile, requests: &mut Vec<FrontRequest>) {
        let entry = (cqe.token & !TOKEN_KIND) as usize;
        self.fetching -= 1;
        if cqe.result < 0 {
            self.entries[entry] = EntryState::Ended;
            self.failure.get_or_insert(-cqe.result);
            return;
        }
        self.on_request(entry, file, requests);
    }

    fn on_request(&mut self, entry: usize, file: &VolumeFile, requests: &mut Vec<FrontRequest>) {
        // SAFETY: the kernel has completed the command: it leaves both regions alone until the next one.
        let (head, payload_start) = unsafe {
            let head = self.headers.slice(entry * HEADER_STRIDE, uring::HEADER_BYTES);
            (head, entry * self.payload_bytes)
        };
        let commit_id = u64::from_ne_bytes(field(head, uring::ENTRY_AT + uring::ENTRY_COMMIT_ID_AT));
        let payload_len = u32::from_ne_bytes(field(head, uring::ENTRY_AT + uring::ENTRY_PAYLOAD_SIZE_AT)) as usize;
        let header = RequestHeader::parse(head).expect("the header region is longer than a header");
        let argument = &head[uring::OP_IN_AT..uring::ENTRY_AT];
        // SAFETY: as above; the slice lives only while the request is parsed.
        let payload = unsafe { self.payloads.slice(payload_start, payload_len.min(self.payload_bytes)) };
        let reaction = match request::parse_operation(header, argument, payload) {
            Ok(operation) => file.on_request(header, operation),
            Err(_) => Reaction::Answer(Err(libc::EIO)),
        };
        self.resident.touch(entry, payload_len);
        match reaction {
            // Every entry has to be committed, or it would be lost.
            Reaction::Nothing => self.answer(entry, header.unique, commit_id, Ok(Answer::empty())),
            Reaction::Answer(answer) => self.answer(entry, header.unique, commit_id, answer),
            Reaction::Io { op, offset, len } => {
                let carries_data = matches!(op, FrontOp::Read | FrontOp::Write { .. });
                let lent = if carries_data { u32::try_from(len).expect("reads and writes fit one buffer") } else { 0 };
                let data = match lent {
                    0 => FrontBuffer::EMPTY,
                    _ => FrontBuffer::new(self.payloads.at(payload_start), lent),
                };
                self.resident.touch(entry, lent as usize);
                self.entries[entry] = EntryState::Open { unique: header.unique, commit_id, op, len: lent };
                self.open += 1;
                let number = u32::try_from(entry).expect("entries are few");
                requests.push(FrontRequest {
                    tag: Tag(TAG_BIT | number),
                    op,
                    offset_bytes: offset,
                    len_bytes: len,
                    resent: false,
                    data,
                });
            }
        }
    }

    pub(super) fn reply(&mut self, tag: Tag, reply: FrontReply) {
        let entry = (tag.0 & !TAG_BIT) as usize;
        let EntryState::Open { unique, commit_id, op, len } = self.entries[entry] else {
            unreachable!("reply to {tag:?}, which is not open");
        };
        self.open -= 1;
        match (reply, op) {
            (FrontReply::Failed(failure), _) => self.answer(entry, unique, commit_id, Err(failure.errno())),
            (FrontReply::Done, FrontOp::Read) => self.commit(entry, unique, commit_id, 0, len),
            (FrontReply::DoneElsewhere(data), FrontOp::Read) => {
                assert_eq!(data.len(), len, "a read is answered in full");
                // SAFETY: the engine promises that the bytes are valid; the entry's payload is in our hands.
                unsafe { self.payloads.write(entry * self.payload_bytes, data.as_slice()) };
                self.released.push(tag);
                self.commit(entry, unique, commit_id, 0, len);
            }
            (_, FrontOp::Write { .. }) => self.answer(entry, unique, commit_id, Ok(response::write_out(len))),
            _ => self.answer(entry, unique, commit_id, Ok(Answer::empty())),
        }
    }

    pub(super) fn take_released(&mut self) -> Option<Tag> {
        self.released.pop()
    }

    fn answer(&mut self, entry: usize, unique: u64, commit_id: u64, answer: Result<Answer, i32>) {
        match answer {
            Ok(answer) => {
                let content = answer.as_bytes();
                // SAFETY: the entry is in our hands until it is committed.
                unsafe { self.payloads.write(entry * self.payload_bytes, content) };
                let len = u32::try_from(content.len()).expect("answers are small");
                self.commit(entry, unique, commit_id, 0, len);
            }
            Err(errno) => self.commit(entry, unique, commit_id, errno, 0),
        }
    }

    fn commit(&mut self, entry: usize, unique: u64, commit_id: u64, errno: i32, payload: u32) {
        let at = entry * HEADER_STRIDE;
        let size_at = at + uring::ENTRY_AT + uring::ENTRY_PAYLOAD_SIZE_AT;
        // SAFETY: the entry is in our hands until the command below is submitted.
        unsafe {
            self.headers.write(at, &response::out_header(unique, errno, payload));
            self.headers.write(size_at, &payload.to_ne_bytes());
        }
        // The kernel copies the reply when it takes the command up, so that pages can be given back only after large
        // requests before this one: the budget looks at what is resident, not at what is in use.
        if payload == 0 || matches!(self.entries[entry], EntryState::Open { op: FrontOp::Write { .. }, .. }) {
            self.give_back(entry);
        }
        self.push(entry, uring::COMMIT_AND_FETCH, commit_id, None);
    }

    fn give_back(&mut self, entry: usize) {
        let unused = self.resident.release(entry);
        if unused > PAGE_BYTES {
            let start = entry * self.payload_bytes + PAGE_BYTES;
            // SAFETY: only the first page of the payload carries the reply; the rest is in nobody's hands.
            unsafe { self.payloads.release_pages(start, unused.next_multiple_of(PAGE_BYTES) - PAGE_BYTES) };
        }
    }

    /// Whether an entry could not be registered or was ended by the kernel, and why.
    pub(super) fn ended(&self) -> Option<i32> {
        self.failure
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.fetching == 0 && self.open == 0 && self.pending.is_empty()
    }
}

impl Drop for UringChannel {
    fn drop(&mut self) {
        if !self.is_quiet() {
            self.headers.leak();
            self.payloads.leak();
        }
    }
}

const _: () = assert!(TOKEN_URING & TOKEN_KIND == TOKEN_URING && TOKEN_URING != TOKEN_REPLY);

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of as many bytes")
}

/// Sets `sqe->len`, which the builder of commands does not offer and FUSE_IO_URING_CMD_REGISTER asks for.
fn set_len(sqe: &mut squeue::Entry128, len: u32) {
    const LEN_AT: usize = 24;
    const { assert!(size_of::<squeue::Entry128>() == 128) };
    // SAFETY: `Entry128` is the kernel's 128-byte `struct io_uring_sqe` (checked by size), whose `len` is the four
    // bytes at 24; any value of them is valid.
    unsafe { std::ptr::from_mut(sqe).cast::<u8>().add(LEN_AT).cast::<u32>().write(len) };
}

/// Number of possible CPUs: the highest in a list such as `0-3,8-11`, plus one, as the kernel counts its queues.
fn possible_cpus() -> io::Result<u32> {
    let list = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = list.trim().rsplit([',', '-']).next().and_then(|number| number.parse::<u32>().ok());
    last.map(|number| number + 1).ok_or_else(|| io::Error::other("cannot read the list of possible CPUs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_goes_where_the_kernel_looks_for_it() {
        let mut patched = opcode::UringCmd80::new(types::Fd(3), 1).addr(Some(8)).build();
        set_len(&mut patched, 2);
        let reference = opcode::Readv::new(types::Fd(3), std::ptr::without_provenance(8), 2).build();
        // SAFETY: entries are plain bytes of the kernel's structure; 64 of them are compared in part.
        let (patched, reference) = unsafe {
            let patched = std::slice::from_raw_parts((&raw const patched).cast::<u8>(), 64);
            (patched, std::slice::from_raw_parts((&raw const reference).cast::<u8>(), 64))
        };
        assert_eq!(patched[16..28], reference[16..28]);
    }
}

//! The data file of one replica: what the core asks of its disk, as entries of the ring.
//!
//! The file is opened O_DIRECT, and locked on the very descriptor that is written through: the lock becomes free only
//! when everything that a killed process had submitted has landed. An operation that fails is reported once and never
//! tried again; only the rest of a *short* one is asked for, because that is how ENOSPC and EIO show themselves.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{opcode, squeue, types};
use lockstep_core::{BlockRange, Digest, DiskError, Input, IoId};

use crate::buffers::{Buffer, Buffers};
use crate::ring::{FixedFile, Ring};
use crate::slots::Slots;
use crate::token::{Source, Token};

/// Bytes that are read and digested at a time: hashing them holds the loop up for some 100 µs.
const DIGEST_BYTES: u64 = 256 << 10;
/// Bytes of zeroes that are written at a time where the file system cannot make them.
const ZERO_BYTES: u64 = 1 << 20;

/// What an operation is, and how far it has come.
#[derive(Debug)]
struct Operation {
    io: IoId,
    range: BlockRange,
    /// Bytes of the range that are done.
    done: u64,
    work: Work,
    /// The data, counted while the operation is under way.
    buffer: Option<Buffer>,
}

#[derive(Debug)]
enum Work {
    Read,
    Write { offset: u64, durable: bool },
    Zero { discard: bool, durable: bool },
    WriteZeroes { durable: bool },
    Flush,
    Digest { digests: Vec<Digest> },
}

/// One replica's data file in its loop.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    fixed: FixedFile,
    volume: u32,
    operations: Slots<Operation>,
    /// Entries to push after the sends of the same turn: the peer's part of a write takes longer than ours.
    queue: Vec<squeue::Entry>,
    zeroes: Option<Buffer>,
    /// Operations that failed, for the metrics.
    pub(crate) errors: u64,
}

impl Disk {
    /// `file` is open O_DIRECT and locked.
    pub(crate) fn new(file: File, volume: u32, ring: &mut Ring) -> std::io::Result<Disk> {
        let fixed = ring.install_file(file.as_fd())?;
        Ok(Disk { file, fixed, volume, operations: Slots::default(), queue: Vec::new(), zeroes: None, errors: 0 })
    }

    /// Takes the file out of the ring. Nothing may be under way.
    pub(crate) fn close(mut self, ring: &mut Ring, buffers: &mut Buffers) {
        assert_eq!(self.operations.len(), 0, "a replica's file is closed after its last operation");
        ring.remove_file(self.fixed);
        if let Some(zeroes) = self.zeroes.take() {
            buffers.release(zeroes);
        }
    }

    /// True if nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.operations.len() == 0
    }

    /// True if one operation is under way, and no other.
    pub(crate) fn has_one_operation(&self) -> bool {
        self.operations.len() == 1
    }

    /// Reads the range into the buffer.
    pub(crate) fn read(&mut self, io: IoId, range: BlockRange, buffer: Buffer, buffers: &mut Buffers) {
        buffers.hold(buffer);
        self.start(Operation { io, range, done: 0, work: Work::Read, buffer: Some(buffer) }, buffers);
    }

    /// Writes the buffer's bytes from `offset` on.
    pub(crate) fn write(
        &mut self,
        io: IoId,
        range: BlockRange,
        (buffer, offset): (Buffer, u64),
        durable: bool,
        buffers: &mut Buffers,
    ) {
        assert!(offset + range.bytes() <= buffers.memory(buffer).1 as u64, "a write reaches beyond its buffer");
        buffers.hold(buffer);
        self.start(
            Operation { io, range, done: 0, work: Work::Write { offset, durable }, buffer: Some(buffer) },
            buffers,
        );
    }

    /// Makes the range read as zeroes.
    pub(crate) fn zero(&mut self, io: IoId, range: BlockRange, discard: bool, durable: bool, buffers: &mut Buffers) {
        self.start(Operation { io, range, done: 0, work: Work::Zero { discard, durable }, buffer: None }, buffers);
    }

    /// Makes completed writes durable.
    pub(crate) fn flush(&mut self, io: IoId, buffers: &mut Buffers) {
        let range = BlockRange::default();
        self.start(Operation { io, range, done: 0, work: Work::Flush, buffer: None }, buffers);
    }

    /// Digests each block of the range.
    pub(crate) fn digest(&mut self, io: IoId, range: BlockRange, buffers: &mut Buffers) {
        let len = usize::try_from(range.bytes().min(DIGEST_BYTES)).expect("at most 256 KiB");
        let digests = Vec::with_capacity(usize::try_from(range.len()).unwrap_or(0));
        let buffer = Some(buffers.take(len));
        self.start(Operation { io, range, done: 0, work: Work::Digest { digests }, buffer }, buffers);
    }

    /// Makes the file at least this long, durably. Waits: growing a volume is rare.
    pub(crate) fn grow(&mut self, blocks: u64) -> std::io::Result<()> {
        let bytes = BlockRange::new(0, blocks).bytes();
        if self.file.metadata()?.len() < bytes {
            self.file.set_len(bytes)?;
            self.file.sync_all()?;
        }
        Ok(())
    }

    /// Passes the entries that this turn made.
    pub(crate) fn submit(&mut self, ring: &mut Ring) {
        for entry in self.queue.drain(..) {
            ring.push(entry);
        }
    }

    /// One completion: what to tell the core, unless there is more to do.
    pub(crate) fn on_completion(&mut self, slot: u32, result: i32, buffers: &mut Buffers) -> Option<Input> {
        let operation = self.operations.get_mut(slot).expect("every completion belongs to an operation under way");
        let step = match u64::try_from(result) {
            Ok(bytes) => operation.advance(bytes, buffers),
            Err(_) => operation.on_error(-result),
        };
        match step {
            Step::Continue => {
                let entry = self.entry(slot, buffers);
                self.queue.push(entry);
                None
            }
            Step::Done(result) => {
                let operation = self.operations.remove(slot).expect("looked at just now");
                if let Some(buffer) = operation.buffer {
                    buffers.release(buffer);
                }
                self.errors += u64::from(result.is_err());
                Some(match operation.work {
                    Work::Digest { digests } => {
                        Input::DiskDigests { io: operation.io, result: result.map(|()| digests) }
                    }
                    _ => Input::DiskDone { io: operation.io, result },
                })
            }
        }
    }

    fn start(&mut self, operation: Operation, buffers: &mut Buffers) {
        let slot = self.operations.insert(operation);
        let entry = self.entry(slot, buffers);
        self.queue.push(entry);
    }

    /// The entry for what an operation does next.
    fn entry(&mut self, slot: u32, buffers: &mut Buffers) -> squeue::Entry {
        let file = self.fixed.target();
        let operation = self.operations.get_mut(slot).expect("the caller has just put it there");
        let at = BlockRange::new(0, operation.range.start).bytes() + operation.done;
        let left = operation.range.bytes() - operation.done;
        let entry = match operation.work {
            Work::Read => {
                let (memory, len) = operation.memory(operation.done, left, buffers);
                opcode::Read::new(file, memory, len).offset(at).build()
            }
            Work::Write { offset, durable } => {
                let (memory, len) = operation.memory(offset + operation.done, left, buffers);
                opcode::Write::new(file, memory, len).offset(at).rw_flags(sync_flag(durable)).build()
            }
            Work::Zero { .. } if operation.done == operation.range.bytes() => fdatasync(file),
            Work::Zero { discard, .. } => {
                let mode = if discard { libc::FALLOC_FL_PUNCH_HOLE } else { libc::FALLOC_FL_ZERO_RANGE };
                opcode::Fallocate::new(file, left).offset(at).mode(mode | libc::FALLOC_FL_KEEP_SIZE).build()
            }
            Work::WriteZeroes { durable } => {
                let zeroes = *self.zeroes.get_or_insert_with(|| buffers.take_zeroed(ZERO_BYTES as usize));
                let (memory, _) = buffers.memory(zeroes);
                let len = u32::try_from(left.min(ZERO_BYTES)).expect("at most 1 MiB");
                opcode::Write::new(file, memory, len).offset(at).rw_flags(sync_flag(durable)).build()
            }
            Work::Flush => fdatasync(file),
            Work::Digest { .. } => {
                let (memory, len) = operation.memory(0, left.min(DIGEST_BYTES), buffers);
                opcode::Read::new(file, memory, len).offset(at).build()
            }
        };
        entry.user_data(Token::new(Source::Disk, self.volume, slot).encode())
    }
}

impl AsRawFd for Disk {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

fn fdatasync(file: types::Fixed) -> squeue::Entry {
    opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build()
}

fn sync_flag(durable: bool) -> i32 {
    if durable { libc::RWF_DSYNC } else { 0 }
}

enum Step {
    Continue,
    Done(Result<(), DiskError>),
}

impl Operation {
    /// Address and length of `len` bytes from `offset` of the buffer on.
    fn memory(&self, offset: u64, len: u64, buffers: &Buffers) -> (*mut u8, u32) {
        let buffer = self.buffer.expect("an operation with data has a buffer");
        let offset = usize::try_from(offset).expect("buffers are in memory");
        let len = u32::try_from(len).expect("a transfer is far smaller than 4 GiB");
        (buffers.address(buffer, offset, len as usize), len)
    }

    /// `bytes` more are done.
    fn advance(&mut self, bytes: u64, buffers: &Buffers) -> Step {
        let total = self.range.bytes();
        match &mut self.work {
            Work::Flush => return Step::Done(Ok(())),
            Work::Zero { durable, .. } => {
                // fallocate is whole or failed; a second completion is the sync.
                let was_sync = self.done == total;
                self.done = total;
                return if *durable && !was_sync { Step::Continue } else { Step::Done(Ok(())) };
            }
            // The file is as long as the volume: nothing read or written means that the device gave up.
            _ if bytes == 0 => return Step::Done(Err(DiskError::Io)),
            Work::Digest { digests } => {
                let buffer = self.buffer.expect("a digest operation has a buffer");
                // A read that ends within a block is asked again from that block on.
                let whole = bytes / lockstep_core::range::BLOCK_BYTES * lockstep_core::range::BLOCK_BYTES;
                if whole == 0 {
                    return Step::Done(Err(DiskError::Io));
                }
                let read = &buffers.bytes(buffer)[..usize::try_from(whole).expect("at most 256 KiB")];
                digests.extend(read.chunks_exact(4096).map(digest_block));
                self.done += whole;
            }
            Work::Read | Work::Write { .. } | Work::WriteZeroes { .. } => self.done += bytes,
        }
        if self.done < total { Step::Continue } else { Step::Done(Ok(())) }
    }

    fn on_error(&mut self, errno: i32) -> Step {
        match (&self.work, errno) {
            (_, libc::EINTR | libc::EAGAIN) => Step::Continue,
            (_, libc::ENOSPC | libc::EDQUOT) => Step::Done(Err(DiskError::NoSpace)),
            // The file system cannot (tmpfs has no ZERO_RANGE, old ones no holes): write zeroes instead.
            (Work::Zero { durable, .. }, libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) if self.done == 0 => {
                self.work = Work::WriteZeroes { durable: *durable };
                Step::Continue
            }
            _ => Step::Done(Err(DiskError::Io)),
        }
    }
}

/// Digest of one block: the first 16 bytes of BLAKE3.
pub(crate) fn digest_block(block: &[u8]) -> Digest {
    let hash = blake3::hash(block);
    let (digest, _) = hash.as_bytes().split_first_chunk::<16>().expect("BLAKE3 has 32 bytes");
    Digest(*digest)
}

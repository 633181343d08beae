//! The metadata of one volume on its way to the disk: group commit.
//!
//! All updates that the core asked for while a commit was under way become one batch, written with one aligned,
//! synchronous write; the next one starts when it is durable. `lockstep_format::disk::Journal` decides what goes where.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::AsFd;

use io_uring::{opcode, squeue};
use lockstep_core::{Input, Meta, MetaUpdate, PersistToken};
use lockstep_format::disk::{AREAS, Journal, Placed};

use crate::buffers::{Buffer, Buffers};
use crate::ring::{FixedFile, Ring};
use crate::storage::AREA_BYTES;
use crate::token::{Source, Token};

/// One write of a commit.
#[derive(Debug)]
struct Write {
    area: usize,
    offset: u64,
    buffer: Buffer,
    done: usize,
    durable: bool,
}

/// Metadata of one volume in its loop.
#[derive(Debug)]
pub(crate) struct MetaStore {
    journal: Journal,
    /// Open for as long as the store lives, and locked with that.
    _areas: [File; AREAS],
    fixed: [FixedFile; AREAS],
    /// Bytes of each area that have been written before.
    written: [u64; AREAS],
    volume: u32,
    waiting: Vec<(PersistToken, Vec<MetaUpdate>)>,
    /// Writes of the commit under way, the last one first; and what it makes durable.
    writes: Vec<Write>,
    token: Option<PersistToken>,
    in_ring: bool,
    failed: bool,
    scratch: Vec<u8>,
    /// Commits made, for the metrics.
    pub(crate) commits: u64,
}

impl MetaStore {
    /// The store over open, locked files.
    pub(crate) fn new(
        journal: Journal,
        areas: [File; AREAS],
        volume: u32,
        ring: &mut Ring,
    ) -> std::io::Result<MetaStore> {
        let fixed = [ring.install_file(areas[0].as_fd())?, ring.install_file(areas[1].as_fd())?];
        let written = [areas[0].metadata()?.len(), areas[1].metadata()?.len()];
        Ok(MetaStore {
            journal,
            _areas: areas,
            fixed,
            written,
            volume,
            waiting: Vec::new(),
            writes: Vec::new(),
            token: None,
            in_ring: false,
            failed: false,
            scratch: Vec::new(),
            commits: 0,
        })
    }

    /// The metadata with every commit so far.
    pub(crate) fn meta(&self) -> &Meta {
        self.journal.meta()
    }

    /// Queues updates.
    pub(crate) fn persist(&mut self, token: PersistToken, updates: Vec<MetaUpdate>) {
        self.waiting.push((token, updates));
    }

    /// Starts the next commit, or the next write of the one under way.
    pub(crate) fn submit(&mut self, ring: &mut Ring, buffers: &mut Buffers) {
        if self.in_ring || self.failed {
            return;
        }
        if self.writes.is_empty() {
            if self.waiting.is_empty() {
                return;
            }
            self.begin(buffers);
        }
        let entry = self.entry(buffers);
        ring.push(entry);
        self.in_ring = true;
    }

    /// The write completed.
    pub(crate) fn on_completion(&mut self, result: i32, buffers: &mut Buffers) -> Option<Input> {
        self.in_ring = false;
        let write = self.writes.last_mut().expect("a completion belongs to a write");
        match usize::try_from(result) {
            Ok(0) => return self.fail(buffers),
            Ok(bytes) => write.done += bytes,
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => return None,
            Err(_) => {
                tracing::error!(volume = self.volume, errno = -result, "metadata_write_failed");
                return self.fail(buffers);
            }
        }
        let (buffer, len) = (write.buffer, buffers.memory(write.buffer).1);
        if write.done < len {
            return None;
        }
        self.writes.pop();
        buffers.release(buffer);
        if !self.writes.is_empty() {
            return None;
        }
        self.commits += 1;
        self.token.take().map(|token| Input::Persisted { token })
    }

    /// Takes the files out of the ring. Nothing may be in it.
    pub(crate) fn close(self, ring: &mut Ring, buffers: &mut Buffers) {
        assert!(!self.in_ring, "metadata files are closed after their last write");
        self.writes.iter().for_each(|write| buffers.release(write.buffer));
        self.fixed.into_iter().for_each(|file| ring.remove_file(file));
    }

    /// True if nothing of this store is in the ring.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.in_ring
    }

    fn begin(&mut self, buffers: &mut Buffers) {
        let waiting = std::mem::take(&mut self.waiting);
        let updates: Vec<&[MetaUpdate]> = waiting.iter().map(|(_, updates)| updates.as_slice()).collect();
        self.scratch.clear();
        let commit = self.journal.commit(&updates, &mut self.scratch);
        self.token = waiting.last().map(|(token, _)| *token);
        let snapshot_bytes = commit.snapshot.map_or(0, |placed| placed.bytes);
        self.prepare(commit.batch, snapshot_bytes, true, buffers);
        if let Some(snapshot) = commit.snapshot {
            self.prepare(snapshot, 0, true, buffers);
        }
    }

    /// Adds the write of some bytes of the scratch, to be done before those that are there; in front of it one of zeroes
    /// if it reaches where nothing was written before.
    fn prepare(&mut self, placed: Placed, from: usize, durable: bool, buffers: &mut Buffers) {
        let buffer = buffers.take(placed.bytes);
        buffers.bytes_mut(buffer).copy_from_slice(&self.scratch[from..from + placed.bytes]);
        let area = placed.area.index();
        self.writes.push(Write { area, offset: placed.offset, buffer, done: 0, durable });
        let end = placed.offset + placed.bytes as u64;
        if end > self.written[area] {
            let from = self.written[area];
            let to = end.next_multiple_of(AREA_BYTES);
            let zeroes = buffers.take_zeroed(usize::try_from(to - from).expect("metadata fits memory"));
            self.writes.push(Write { area, offset: from, buffer: zeroes, done: 0, durable: false });
            self.written[area] = to;
        }
    }

    fn entry(&self, buffers: &Buffers) -> squeue::Entry {
        let write = self.writes.last().expect("the caller has just looked");
        let left = buffers.memory(write.buffer).1 - write.done;
        let len = u32::try_from(left).expect("a snapshot is far smaller than 4 GiB");
        let flags = if write.durable { libc::RWF_DSYNC } else { 0 };
        opcode::Write::new(self.fixed[write.area].target(), buffers.address(write.buffer, write.done, left), len)
            .offset(write.offset + write.done as u64)
            .rw_flags(flags)
            .build()
            .user_data(Token::new(Source::Meta, self.volume, 0).encode())
    }

    fn fail(&mut self, buffers: &mut Buffers) -> Option<Input> {
        self.failed = true;
        for write in self.writes.drain(..) {
            buffers.release(write.buffer);
        }
        Some(Input::PersistFailed)
    }
}

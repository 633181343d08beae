//! Carrying out what a machine wants: disk, metadata, network, front end.

use std::rc::Rc;

use lockstep_core::range::BLOCK_BYTES;
use lockstep_core::{BlockRange, BufId, Effect, Input, IoId, NodeId, PersistToken};

use super::{Happening, World};
use crate::block::{Block, ZERO};
use crate::codec;
use crate::disk::{Outcome, Work};
use crate::failure::Failure;
use crate::net::Packet;
use crate::node::DiskRequest;

impl World {
    pub(super) fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Persist { token, updates } => self.persist(id, token, updates),
            Effect::DiskRead { io, range, buf } => {
                if buf.0 < BufId::CORE {
                    self.take_buffer(id, buf, "DiskRead");
                }
                self.submit(id, io, range, Work::Read, false, Some(buf));
            }
            Effect::DiskWrite { io, range, buf, offset, durable } => {
                let Some(blocks) = self.take_buffer(id, buf, "DiskWrite") else { return };
                let first = (offset / BLOCK_BYTES) as usize;
                let Some(part) = blocks.get(first..first + range.len() as usize) else {
                    let what = format!(
                        "node {id} writes {range:?} from offset {offset} of a buffer of {} blocks",
                        blocks.len()
                    );
                    self.fail(Failure::correctness("contract", self.now, what));
                    return;
                };
                let part: Rc<[Block]> = if part.len() == blocks.len() { blocks.clone() } else { part.into() };
                self.check_disk_write(id, range);
                self.submit(id, io, range, Work::Write(part), durable, None);
            }
            Effect::DiskZero { io, range, durable, .. } => {
                self.check_disk_write(id, range);
                self.submit(id, io, range, Work::Zero, durable, None);
            }
            Effect::DiskFlush { io } => self.submit(id, io, BlockRange::default(), Work::Flush, false, None),
            Effect::DiskDigest { io, range } => self.submit(id, io, range, Work::Digest, false, None),
            Effect::DiskResize { .. } => {}
            Effect::Send { peer: _, conn, frame, payload, urgent } => {
                self.check_sent(id, &frame);
                self.match_sent(id, &frame.message);
                let payload = match payload {
                    Some(buf) => self.take_buffer(id, buf, "Send"),
                    None => None,
                };
                if let Some((connection, side)) = self.net.find(id, conn)
                    && self.net.end(connection, side).is_some_and(|end| !end.closed)
                {
                    match codec::encode(&frame, payload.as_ref().map(|blocks| blocks.len())) {
                        Ok(bytes) => self.send(connection, side, Packet::Frame(bytes, payload), urgent),
                        Err(reason) => self.fail(Failure::correctness("codec", self.now, reason)),
                    }
                }
            }
            Effect::CloseLink { conn, .. } => self.close_link(id, conn),
            Effect::Complete { request, result } => self.on_complete(id, request, result),
            Effect::CopyToRequest { to, from } => {
                let Some(content) = self.take_buffer(id, from, "CopyToRequest") else { return };
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.buffers.insert(to, content);
                }
            }
            Effect::Release { buf } => self.release(id, buf),
            Effect::Answer { command, result } => self.on_answer(id, command, result),
            Effect::Lease { ask, want } => self.on_lease_wanted(id, ask, want),
            Effect::RegisterRead { ask } => self.on_register_asked(id, ask, None),
            Effect::RegisterSwap { ask, version, config } => self.on_register_asked(id, ask, Some((version, config))),
            Effect::FailDevice => self.on_fail_device(id),
            Effect::Event(event) => self.on_core_event(id, &event),
        }
    }

    fn take_buffer(&mut self, id: NodeId, buf: BufId, by: &str) -> Option<Rc<[Block]>> {
        let found = self.nodes.get(&id).and_then(|node| node.buffers.get(&buf).cloned());
        if found.is_none() {
            let what = format!("node {id}: {by} names {buf:?}, which the core does not have");
            self.fail(Failure::correctness("contract", self.now, what));
        }
        found
    }

    fn release(&mut self, id: NodeId, buf: BufId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        for request in node.operations.values_mut().filter(|request| request.buf == Some(buf)) {
            request.buf = None;
        }
        // A buffer of the core that no read has filled yet exists only by name.
        if node.buffers.remove(&buf).is_none() && buf.0 < BufId::CORE {
            let what = format!("node {id} releases {buf:?}, which it does not have");
            self.fail(Failure::correctness("contract", self.now, what));
        }
    }

    fn persist(&mut self, id: NodeId, token: PersistToken, updates: Vec<lockstep_core::MetaUpdate>) {
        self.check_persist(id, &updates);
        self.match_persist(id, &updates);
        let latency = self.disk_latency();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.store.failing {
            self.later(latency, Box::new(move |world| world.deliver(id, Input::PersistFailed)));
            return;
        }
        node.store.submit(token, updates);
        let at = (self.now + latency).max(node.store.busy_until);
        node.store.busy_until = at;
        let run = node.run;
        self.schedule_at(at, Happening::Persisted { node: id, run, token });
    }

    pub(super) fn on_persisted(&mut self, id: NodeId, run: u64, token: PersistToken) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.run != run || node.machine.is_none() {
            return;
        }
        if node.disk.faults.hang {
            self.schedule(20_000_000, Happening::Persisted { node: id, run, token });
            return;
        }
        node.store.settle(token);
        self.deliver(id, Input::Persisted { token });
    }

    fn disk_latency(&mut self) -> u64 {
        let pace = self.plan.disk;
        let latency = self.disk_rng.within(pace.fastest, pace.slowest);
        if self.disk_rng.one_in(pace.outlier_one_in) { latency * 50 } else { latency }
    }

    fn submit(&mut self, id: NodeId, io: IoId, range: BlockRange, work: Work, durable: bool, buf: Option<BufId>) {
        let latency = self.disk_latency();
        let blocks = range.len();
        // A request of several blocks does not land at one moment; nor does a single one complete when it lands.
        let first = self.disk_rng.within(0, latency);
        let part = if blocks > 1 { self.disk_rng.within(1, blocks) } else { blocks };
        let second = self.disk_rng.within(first, latency);
        let splits = blocks > 0 && self.disk_rng.one_in(2);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let digest = matches!(work, Work::Digest);
        let operation = node.disk.submit(range, work, durable);
        let run = node.run;
        node.operations.insert(operation, DiskRequest { run, io, buf, digest });
        if splits {
            self.schedule(first, Happening::DiskLands { node: id, operation, blocks: part });
            if part < blocks {
                self.schedule(second, Happening::DiskLands { node: id, operation, blocks });
            }
        }
        self.schedule(latency, Happening::DiskEnds { node: id, operation });
    }

    /// When an operation may go on, if not now: the disk hangs, or the operation is a dead process's and takes its time.
    fn held_until(&mut self, id: NodeId, operation: u64) -> Option<u64> {
        let now = self.now;
        let node = self.nodes.get(&id)?;
        if node.disk.hangs(operation) {
            return Some(now + 30_000_000);
        }
        let request = node.operations.get(&operation)?;
        let is_orphan = request.run != node.run || node.machine.is_none();
        let until = node.orphans_until;
        (is_orphan && now < until).then(|| self.disk_rng.within(now + 1, until + 1))
    }

    pub(super) fn on_disk_lands(&mut self, id: NodeId, operation: u64, blocks: u64) {
        if self.held_until(id, operation).is_some() {
            // It lands when it ends.
            return;
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk.land(operation, blocks);
        }
    }

    pub(super) fn on_disk_ends(&mut self, id: NodeId, operation: u64) {
        if !self.nodes.get(&id).is_some_and(|node| node.operations.contains_key(&operation)) {
            return;
        }
        if let Some(until) = self.held_until(id, operation) {
            self.schedule_at(until, Happening::DiskEnds { node: id, operation });
            return;
        }
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(request) = node.operations.remove(&operation) else { return };
        let outcome = node.disk.complete(operation);
        if node.run != request.run || node.machine.is_none() {
            return;
        }
        let io = request.io;
        let input = match outcome {
            Outcome::Done => Input::DiskDone { io, result: Ok(()) },
            Outcome::Blocks(blocks) => {
                if let Some(buf) = request.buf {
                    node.buffers.insert(buf, blocks.into());
                }
                Input::DiskDone { io, result: Ok(()) }
            }
            Outcome::Digests(digests) => Input::DiskDigests { io, result: Ok(digests) },
            Outcome::Failed(error) if request.digest => Input::DiskDigests { io, result: Err(error) },
            Outcome::Failed(error) => {
                if let (Some(buf), Some(node)) = (request.buf, self.nodes.get_mut(&id)) {
                    // The memory exists, whatever is in it.
                    node.buffers.entry(buf).or_insert_with(|| vec![ZERO].into());
                }
                Input::DiskDone { io, result: Err(error) }
            }
        };
        self.deliver(id, input);
    }
}

//! Front ends: a load of requests on an attached node, and the record of what became of them.

use std::collections::BTreeMap;
use std::rc::Rc;

use lockstep_core::{AttachMode, BlockRange, BufId, Command, Epoch, Input, IoError, NodeId, Op, Request, RequestId};

use super::{Happening, World};
use crate::block::{Block, stamped};
use crate::failure::Failure;
use crate::record;

/// A request that is open.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// Its index in the record.
    pub index: usize,
    /// Its memory.
    pub buf: BufId,
}

/// The front end of one node.
#[derive(Clone, Debug, Default)]
pub struct FrontEnd {
    /// The attachment that is going on.
    pub attachment: Option<u64>,
    /// Reads only, or writes too.
    pub mode: Option<AttachMode>,
    /// Requests open at the engine.
    pub open: BTreeMap<RequestId, Open>,
    /// Requests that outlived their engine and will be asked again.
    pub held: Vec<usize>,
    /// It outlived its engine, and the next engine has not said yet whether the attachment goes on.
    pub returning: bool,
    /// The epoch that made the attachment.
    pub since: Epoch,
    /// It waits outside the engine until that has said so: it is not there to be failed, and what it holds is asked again only then.
    pub outside: bool,
    /// The chain of requests that is going on.
    pub chain: u64,
    /// The device was failed.
    pub device_failures: u64,
}

impl World {
    pub(super) fn front(&mut self, id: NodeId) -> &mut FrontEnd {
        self.fronts.entry(id).or_default()
    }

    /// The node whose front end is attached for writing.
    #[must_use]
    pub fn writer(&self) -> Option<NodeId> {
        let writes = |front: &FrontEnd| front.attachment.is_some() && front.mode == Some(AttachMode::ReadWrite);
        self.fronts.iter().find(|(_, front)| writes(front)).map(|(id, _)| *id)
    }

    /// Every node whose front end is attached for writing.
    #[must_use]
    pub fn writers(&self) -> Vec<NodeId> {
        let writes = |front: &FrontEnd| front.attachment.is_some() && front.mode == Some(AttachMode::ReadWrite);
        self.fronts.iter().filter(|(_, front)| writes(front)).map(|(id, _)| *id).collect()
    }

    /// The attachment of a node has begun, or goes on after a restart of the engine.
    pub(super) fn begin_attachment(&mut self, id: NodeId, mode: AttachMode) {
        let front = self.front(id);
        if front.returning && front.attachment.is_some() {
            front.returning = false;
            front.outside = false;
            self.ask_again(id);
            return self.chain_load(id);
        }
        self.attachments += 1;
        let attachment = self.attachments;
        let front = self.front(id);
        front.attachment = Some(attachment);
        front.mode = Some(mode);
        let machine = self.nodes.get(&id).and_then(|node| node.machine.as_ref());
        let listed = machine.and_then(|machine| machine.status().config.attached.get(&id).map(|own| own.since));
        self.front(id).since = listed.unwrap_or_default();
        self.chain_load(id);
    }

    /// The attachment of a node is over; what was open has no answer and is never asked again.
    pub(super) fn end_attachment(&mut self, id: NodeId) {
        let front = self.front(id);
        front.attachment = None;
        front.mode = None;
        front.returning = false;
        front.outside = false;
        front.open.clear();
        front.held.clear();
    }

    pub(super) fn on_fail_device(&mut self, id: NodeId) {
        let front = self.front(id);
        if front.outside {
            return;
        }
        front.device_failures += 1;
        self.end_attachment(id);
        if self.plan.expect.no_errors {
            let what = format!("the device of node {id} was failed");
            self.fail(Failure::liveness("no errors", self.now, what));
        }
    }

    /// Begins a chain of requests at a front end, in place of an older one.
    fn chain_load(&mut self, id: NodeId) {
        let chain = self.scheduled;
        self.front(id).chain = chain;
        self.schedule(0, Happening::Load { node: id, chain });
    }

    pub(super) fn on_load(&mut self, id: NodeId, chain: u64) {
        if !self.load_on {
            return;
        }
        let depth = self.plan.load.depth;
        let (Some(front), Some(node)) = (self.fronts.get(&id), self.nodes.get(&id)) else { return };
        if front.attachment.is_none() || front.chain != chain {
            return;
        }
        let asked = self.record.requests.len() as u64;
        if node.machine.is_some() && front.open.len() < depth && !front.returning && asked < self.plan.load.requests_max
        {
            self.ask_something(id);
        }
        let think = self.load_rng.skewed(10_000, self.plan.load.think.max(20_000));
        self.schedule(think, Happening::Load { node: id, chain });
    }

    fn ask_something(&mut self, id: NodeId) {
        let writes = self.fronts.get(&id).is_some_and(|front| front.mode == Some(AttachMode::ReadWrite));
        let mix = self.plan.load.mix;
        let kinds = [
            (mix.read, Op::Read),
            (mix.write, Op::Write { fua: false }),
            (mix.fua, Op::Write { fua: true }),
            (mix.flush, Op::Flush),
            (mix.zeroes, Op::WriteZeroes { fua: false }),
            (mix.discard, Op::Discard),
        ];
        let mut at = self.load_rng.below(kinds.iter().map(|(part, _)| part).sum());
        let mut op = Op::Read;
        for (part, kind) in kinds {
            if at < part {
                op = kind;
                break;
            }
            at -= part;
        }
        if !writes {
            op = Op::Read;
        }
        let range = if op == Op::Flush { BlockRange::default() } else { self.any_range() };
        self.ask(id, op, range);
    }

    fn any_range(&mut self) -> BlockRange {
        let load = &self.plan.load;
        let start = self.load_rng.pick(&load.targets).unwrap_or(0);
        let len = if self.load_rng.percent(60) { 1 } else { self.load_rng.skewed(1, load.blocks_max + 1) };
        BlockRange::new(start, (start + len).min(self.plan.size_blocks))
    }

    /// Makes a request; gives its index in the record.
    pub fn ask(&mut self, id: NodeId, op: Op, range: BlockRange) -> Option<usize> {
        let front = self.fronts.get(&id)?;
        let (attachment, mode) = (front.attachment?, front.mode);
        let write = if matches!(op, Op::Write { .. }) { self.record.number_write() } else { 0 };
        let index = self.record.invoke(record::Request {
            node: id,
            attachment,
            writer: mode == Some(AttachMode::ReadWrite),
            op,
            range,
            write,
            invoked: 0,
            invoked_at: self.now,
            ended: None,
            ended_at: 0,
            found: Vec::new(),
            overslept: false,
            durable: self.checks.durable_writes,
            abandoned: false,
        });
        self.check_asked(index);
        self.hand_over(id, index);
        Some(index)
    }

    /// Gives a recorded request to the engine of its node.
    pub(super) fn hand_over(&mut self, id: NodeId, index: usize) {
        let Some(asked) = self.record.requests.get(index) else { return };
        let (op, range, write) = (asked.op, asked.range, asked.write);
        let content: Rc<[Block]> = match op {
            Op::Write { .. } => range.blocks().map(|block| stamped(write, block.0)).collect(),
            _ => Vec::new().into(),
        };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let buf = node.lend(content);
        let request = RequestId(self.scheduled << 8 | u64::from(id.0));
        self.scheduled += 1;
        self.front(id).open.insert(request, Open { index, buf });
        self.deliver(id, Input::Request(Request { id: request, op, range, buf }));
    }

    pub(super) fn on_complete(&mut self, id: NodeId, request: RequestId, result: Result<(), IoError>) {
        let Some(open) = self.front(id).open.remove(&request) else {
            // Completions of requests that a failed device has given up say nothing.
            return;
        };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(asked) = self.record.requests.get(open.index) else { return };
        let (op, range) = (asked.op, asked.range);
        let mut found = Vec::new();
        if op == Op::Read {
            let content = node.buffers.get(&open.buf).cloned().unwrap_or_else(|| Vec::new().into());
            if result.is_ok() && content.len() as u64 != range.len() {
                let what = format!("node {id}: a read of {range:?} completed with {} blocks", content.len());
                self.fail(Failure::correctness("contract", self.now, what));
                return;
            }
            found = if result.is_ok() { content.to_vec() } else { Vec::new() };
        }
        if !matches!(op, Op::Write { .. }) {
            // The memory of a read is the shell's again; that of a write waits for its release.
            if let Some(node) = self.nodes.get_mut(&id) {
                node.buffers.remove(&open.buf);
            }
        }
        let waited = self.now - asked_at(&self.record, open.index);
        self.record.end(open.index, self.now, result, found);
        if result.is_err() && self.plan.expect.no_errors {
            self.fail(Failure::liveness(
                "no errors",
                self.now,
                format!("node {id}: {op:?} {range:?} failed: {result:?}"),
            ));
            return;
        }
        if self.plan.expect.stall_max.is_some_and(|longest| waited > longest) {
            let what = format!("node {id}: {op:?} {range:?} took {} ms", waited / 1_000_000);
            self.fail(Failure::liveness("stall", self.now, what));
            return;
        }
        if result.is_ok() {
            self.check_completed(id, open.index);
        }
    }

    /// A request that is open for longer than this run allows has stalled, whether it ends or not.
    pub(super) fn check_stalled(&mut self) {
        let Some(longest) = self.plan.expect.stall_max else { return };
        let open = self.fronts.values().flat_map(|front| front.open.values());
        let late = open
            .filter_map(|open| self.record.requests.get(open.index))
            .find(|asked| self.now - asked.invoked_at > longest);
        if let Some(asked) = late {
            let what = format!("node {}: {:?} {:?} does not end", asked.node, asked.op, asked.range);
            self.fail(Failure::liveness("stall", self.now, what));
        }
    }

    /// The engine of a node is gone, and with it the answers to what was open there.
    pub(super) fn lose_requests(&mut self, id: NodeId, survives: bool) {
        if !survives {
            self.end_attachment(id);
            return;
        }
        let front = self.front(id);
        let open = std::mem::take(&mut front.open);
        front.held.extend(open.into_values().map(|open| open.index));
        front.held.sort_unstable();
    }

    /// A front end that outlived its engine takes its attachment up again, and asks again what had no answer: at once, or once the
    /// engine has said that the attachment goes on.
    pub(super) fn return_front(&mut self, id: NodeId) {
        let front = self.front(id);
        let (Some(_), Some(mode), since) = (front.attachment, front.mode, front.since) else { return };
        let outside = self.rng.one_in(2);
        let front = self.front(id);
        front.returning = true;
        front.outside = outside;
        if outside {
            // The shell asks when the volume is open, and the core may have got anywhere by then.
            let after = self.rng.skewed(1, 60_000_000);
            let run = self.nodes.get(&id).map(|node| node.run);
            let resume = move |world: &mut World| {
                let same = world.nodes.get(&id).map(|node| node.run) == run;
                if same && world.front(id).outside {
                    world.command(id, Command::Resume { since });
                }
            };
            self.later(after, Box::new(resume));
        } else {
            self.attach(id, mode, false);
            self.ask_again(id);
        }
    }

    fn ask_again(&mut self, id: NodeId) {
        for index in std::mem::take(&mut self.front(id).held) {
            self.hand_over(id, index);
        }
    }

    /// The load goes on at every front end that is attached.
    pub fn restart_load(&mut self) {
        let attached: Vec<NodeId> =
            self.fronts.iter().filter(|(_, front)| front.attachment.is_some()).map(|(id, _)| *id).collect();
        for node in attached {
            self.chain_load(node);
        }
    }

    /// True if nothing is open at any front end.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.fronts.values().all(|front| front.open.is_empty() && front.held.is_empty())
    }
}

fn asked_at(record: &record::Recorder, index: usize) -> u64 {
    record.requests.get(index).map_or(0, |asked| asked.invoked_at)
}

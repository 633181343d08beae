//! Histories with power losses: each loss begins an *era* in which a block starts with any of the values that may have
//! survived, and keeps that one answer (I6, I7).

use std::collections::BTreeSet;

use lockstep_core::Op;

use crate::block::{BLOCKS_MAX, Block, SECTORS, is_whole, write_of};
use crate::failure::Failure;
use crate::history::{BlockHistory, Call, End, Moment, Operation, Value, check_block};
use crate::record::{Recorder, Request};

/// One request as far as it concerns one block.
struct Step<'a> {
    request: &'a Request,
    content: Option<Block>,
}

/// Checks every block's history.
///
/// # Errors
/// The first block whose answers no order explains.
pub fn check_history(record: &Recorder, now: u64) -> Result<(), Failure> {
    let mut blocks: std::collections::BTreeMap<u64, Vec<Step<'_>>> = std::collections::BTreeMap::new();
    for request in record.requests.iter().filter(|request| request.op != Op::Flush && !request.abandoned) {
        let is_read = request.op == Op::Read;
        if is_read && request.found.is_empty() {
            continue;
        }
        for (index, block) in request.range.blocks().enumerate() {
            let content = request.found.get(index).copied();
            blocks.entry(block.0).or_default().push(Step { request, content });
        }
    }
    for (block, steps) in &blocks {
        let torn = steps.iter().find(|step| step.content.is_some_and(|content| !is_whole(&content)));
        if let Some(torn) = torn
            && record.losses.is_empty()
        {
            let what = format!("block {block}: a read at node {} found a torn block", torn.request.node);
            return Err(Failure::correctness("I6", now, what));
        }
        let views = if torn.is_some() { 0..SECTORS } else { 0..1 };
        for sector in views {
            check_view(record, *block, steps, sector)
                .map_err(|what| Failure::correctness("I6", now, format!("block {block}, sector {sector}: {what}")))?;
        }
    }
    Ok(())
}

fn check_view(record: &Recorder, block: u64, steps: &[Step<'_>], sector: usize) -> Result<(), String> {
    let mut candidates = BTreeSet::from([Value(0)]);
    let mut begins = 0;
    let ends: Vec<u64> = record.losses.iter().copied().chain([u64::MAX]).collect();
    for end in ends {
        let era = Era { record, block, steps, sector, begins, ends: end };
        let operations = era.operations();
        let alive = explain(&candidates, &operations)?;
        candidates = era.survivors(&candidates, &alive);
        begins = end;
    }
    Ok(())
}

/// The starting values that explain what was seen.
fn explain(candidates: &BTreeSet<Value>, operations: &[Operation]) -> Result<BTreeSet<Value>, String> {
    let read: BTreeSet<Value> = operations
        .iter()
        .filter(|operation| matches!(operation.call, Call::Read(_)))
        .map(|operation| operation.call.value())
        .collect();
    let mut alive = BTreeSet::new();
    let mut reason = String::new();
    let mut unread: Option<bool> = None;
    for candidate in candidates {
        // Values that nobody read are all alike.
        if !read.contains(candidate)
            && let Some(explains) = unread
        {
            if explains {
                alive.insert(*candidate);
            }
            continue;
        }
        let history = BlockHistory { initial: *candidate, operations: operations.to_vec() };
        let verdict = check_block(&history);
        if !read.contains(candidate) {
            unread = Some(verdict.is_ok());
        }
        match verdict {
            Ok(()) => {
                alive.insert(*candidate);
            }
            Err(violation) => reason = format!("{violation}"),
        }
    }
    if alive.is_empty() {
        let start: Vec<u64> = candidates.iter().map(|value| write_of(value.0)).collect();
        return Err(format!("{reason} (it started with one of the writes {start:?})"));
    }
    Ok(alive)
}

struct Era<'a> {
    record: &'a Recorder,
    block: u64,
    steps: &'a [Step<'a>],
    sector: usize,
    begins: u64,
    ends: u64,
}

impl Era<'_> {
    fn concerns(&self, request: &Request) -> bool {
        let last = request.ended.map_or(request.invoked, |(moment, _)| moment);
        request.invoked < self.ends && (request.invoked > self.begins || last > self.begins && request.ended.is_some())
    }

    fn value(&self, step: &Step<'_>) -> Value {
        match step.content {
            Some(content) => Value(content[self.sector]),
            None if step.request.write == 0 => Value(0),
            None => Value(step.request.write * BLOCKS_MAX + self.block),
        }
    }

    fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for step in self.steps.iter().filter(|step| self.concerns(step.request)) {
            let request = step.request;
            let value = self.value(step);
            let call = if request.op == Op::Read { Call::Read(value) } else { Call::Write(value) };
            // It took effect before the loss, and may or may not have survived it.
            let overslept = request.overslept && request.invoked <= self.begins;
            let end = match request.ended {
                Some((moment, Ok(()))) if moment < self.ends && !overslept => End::Completed(Moment(moment)),
                _ => End::Unknown(Moment(self.fenced(request).min(self.ends))),
            };
            let invoked = Moment(request.invoked.max(self.begins + 1));
            operations.push(Operation { call, invoked, end, origin: request.node.0 });
        }
        operations
    }

    /// A write without an answer cannot take effect after a later writer has been answered about the block; where several
    /// write at once, after a later attachment of the same node has been.
    fn fenced(&self, request: &Request) -> u64 {
        let shared = self.record.shared;
        let later = |step: &&Step<'_>| {
            let after = step.request.writer && step.request.attachment > request.attachment;
            after && (!shared || step.request.node == request.node)
        };
        let answered = self.steps.iter().filter(later).filter_map(|step| match step.request.ended {
            Some((moment, Ok(()))) => Some(moment),
            _ => None,
        });
        answered.min().unwrap_or(u64::MAX)
    }

    /// What the block may hold after the loss that ends this era.
    fn survivors(&self, candidates: &BTreeSet<Value>, alive: &BTreeSet<Value>) -> BTreeSet<Value> {
        let durable: Vec<&Request> =
            self.steps.iter().map(|step| step.request).filter(|request| self.is_durable(request)).collect();
        let mut values = BTreeSet::new();
        if durable.is_empty() {
            let flushed = self.record.requests.iter().any(|request| self.is_flush_after(request, self.begins));
            values.extend(if flushed { alive } else { candidates });
        }
        for step in self.steps.iter().filter(|step| step.request.op != Op::Read && self.concerns(step.request)) {
            let ended = match step.request.ended {
                Some((moment, Ok(()))) => moment,
                _ => self.fenced(step.request),
            };
            if !durable.iter().any(|newer| ended < newer.invoked) {
                values.insert(self.value(step));
            }
        }
        values
    }

    fn is_durable(&self, request: &Request) -> bool {
        let Some((ended, Ok(()))) = request.ended else { return false };
        if request.op == Op::Read || ended >= self.ends || ended <= self.begins {
            return false;
        }
        matches!(request.op, Op::Write { fua: true } | Op::WriteZeroes { fua: true })
            || self.record.requests.iter().any(|flush| self.is_flush_after(flush, ended))
    }

    fn is_flush_after(&self, request: &Request, moment: u64) -> bool {
        request.op == Op::Flush
            && !request.abandoned
            && request.invoked > moment
            && matches!(request.ended, Some((ended, Ok(()))) if ended < self.ends)
    }
}

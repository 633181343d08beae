//! A simulated disk under one replica: a volatile cache over durable sectors.
//!
//! A completed write sits in the cache. A flush makes durable what completed before it was submitted. A power loss
//! keeps, sector by sector, any of the versions since the last flush, and any part of what was in flight. The death of a process
//! loses nothing: what it submitted lands whenever it lands. Operations that overlap in flight land in any order.

use std::collections::BTreeMap;
use std::rc::Rc;

use lockstep_core::{BlockRange, Digest, DiskError};

use crate::block::{Block, ZERO, digest};
use crate::rng::Rng;

/// Versions of one block that the cache keeps apart; older ones than these cannot come back after a power loss.
const VERSIONS_MAX: usize = 6;

/// What an operation does.
#[derive(Clone, Debug)]
pub enum Work {
    /// Reads the range.
    Read,
    /// Writes these blocks.
    Write(Rc<[Block]>),
    /// Zeroes the range.
    Zero,
    /// Makes durable what completed before.
    Flush,
    /// Digests the range.
    Digest,
}

/// One operation in flight.
#[derive(Clone, Debug)]
struct Operation {
    range: BlockRange,
    work: Work,
    durable: bool,
    /// Completions before this operation was submitted.
    submitted: u64,
    /// How many blocks of a write have landed; what a read found.
    landed: u64,
    found: Vec<Block>,
}

/// How an operation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Written, zeroed or flushed.
    Done,
    /// Read.
    Blocks(Vec<Block>),
    /// Digested.
    Digests(Vec<Digest>),
    /// Failed.
    Failed(DiskError),
}

#[derive(Clone, Debug)]
struct Version {
    content: Block,
    operation: u64,
    /// The number of its completion, once it completed.
    completed: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Cell {
    durable: Block,
    /// Not yet durable, in the order in which they landed.
    versions: Vec<Version>,
}

impl Cell {
    fn current(&self) -> Block {
        self.versions.last().map_or(self.durable, |version| version.content)
    }
}

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Reads fail.
    pub read: bool,
    /// Writes fail.
    pub write: bool,
    /// Flushes fail.
    pub flush: bool,
    /// Writes to blocks that hold nothing fail with "no space".
    pub full: bool,
    /// Nothing completes.
    pub hang: bool,
    /// Flushes do not complete.
    pub hang_flush: bool,
}

impl Faults {
    /// True if something is wrong.
    #[must_use]
    pub fn any(&self) -> bool {
        self.read || self.write || self.flush || self.full || self.hang || self.hang_flush
    }
}

/// One disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    cells: BTreeMap<u64, Cell>,
    operations: BTreeMap<u64, Operation>,
    next: u64,
    completions: u64,
    /// What is wrong with it now.
    pub faults: Faults,
}

impl Disk {
    /// Takes an operation in; the world decides when it lands and when it completes.
    pub fn submit(&mut self, range: BlockRange, work: Work, durable: bool) -> u64 {
        let id = self.next;
        self.next += 1;
        let submitted = self.completions;
        self.operations.insert(id, Operation { range, work, durable, submitted, landed: 0, found: Vec::new() });
        id
    }

    /// An empty one in its place. What the old one had in flight has nowhere to land.
    #[must_use]
    pub fn replaced(&self) -> Disk {
        Disk { next: self.next, ..Disk::default() }
    }

    /// True while something is in flight: the lock on the replica's file is not free.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.operations.is_empty()
    }

    /// True if the disk lets an operation wait.
    #[must_use]
    pub fn hangs(&self, id: u64) -> bool {
        let flushes = self.operations.get(&id).is_some_and(|operation| matches!(operation.work, Work::Flush));
        self.faults.hang || self.faults.hang_flush && flushes
    }

    /// Lets the first `blocks` of an operation land (a read looks at them).
    pub fn land(&mut self, id: u64, blocks: u64) {
        let Some(mut operation) = self.operations.remove(&id) else { return };
        let end = operation.range.len().min(blocks);
        if self.error(&operation).is_none() {
            for index in operation.landed..end {
                let block = operation.range.start + index;
                match &operation.work {
                    Work::Read | Work::Digest => operation.found.push(self.content(block)),
                    Work::Write(content) => self.put(block, content[index as usize], id),
                    Work::Zero => self.put(block, ZERO, id),
                    Work::Flush => {}
                }
            }
            operation.landed = operation.landed.max(end);
        }
        self.operations.insert(id, operation);
    }

    /// Ends an operation; all of it has landed then.
    pub fn complete(&mut self, id: u64) -> Outcome {
        self.land(id, u64::MAX);
        let Some(operation) = self.operations.remove(&id) else { return Outcome::Failed(DiskError::Io) };
        if let Some(error) = self.error(&operation) {
            // What had landed of it is in the cache, and goes the way of everything there.
            self.completions += 1;
            self.note_completed(id, &operation);
            return Outcome::Failed(error);
        }
        match operation.work {
            Work::Read => Outcome::Blocks(operation.found),
            Work::Digest => Outcome::Digests(operation.found.iter().map(digest).collect()),
            Work::Flush => {
                self.flush_before(operation.submitted);
                self.completions += 1;
                Outcome::Done
            }
            Work::Write(_) | Work::Zero => {
                self.completions += 1;
                self.note_completed(id, &operation);
                if operation.durable {
                    for block in operation.range.blocks() {
                        if let Some(cell) = self.cells.get_mut(&block.0) {
                            settle(cell, |version| version.operation == id);
                        }
                    }
                }
                Outcome::Done
            }
        }
    }

    /// What an operation left in the cache is covered by flushes from now on.
    fn note_completed(&mut self, id: u64, operation: &Operation) {
        let number = self.completions;
        for block in operation.range.blocks() {
            let Some(cell) = self.cells.get_mut(&block.0) else { continue };
            for version in cell.versions.iter_mut().filter(|version| version.operation == id) {
                version.completed = Some(number);
            }
        }
    }

    fn error(&self, operation: &Operation) -> Option<DiskError> {
        let faults = self.faults;
        match operation.work {
            Work::Read | Work::Digest => faults.read.then_some(DiskError::Io),
            Work::Flush => faults.flush.then_some(DiskError::Io),
            Work::Write(_) | Work::Zero if faults.write => Some(DiskError::Io),
            Work::Write(_) => {
                let new = faults.full
                    && operation.landed < operation.range.len()
                    && operation.range.blocks().any(|block| !self.cells.contains_key(&block.0));
                new.then_some(DiskError::NoSpace)
            }
            Work::Zero => None,
        }
    }

    fn put(&mut self, block: u64, content: Block, operation: u64) {
        let cell = self.cells.entry(block).or_default();
        if cell.versions.len() >= VERSIONS_MAX {
            // The cache writes its oldest back: forgetting it would bring an even older one back to life.
            cell.durable = cell.versions.remove(0).content;
        }
        cell.versions.push(Version { content, operation, completed: None });
    }

    /// Makes durable what had completed when `completions` operations had.
    fn flush_before(&mut self, completions: u64) {
        for cell in self.cells.values_mut().filter(|cell| !cell.versions.is_empty()) {
            settle(cell, |version| version.completed.is_some_and(|number| number <= completions));
        }
    }

    /// Cuts the power: what is not durable is kept or lost, sector by sector.
    pub fn lose_power(&mut self, rng: &mut Rng) {
        for (id, operation) in std::mem::take(&mut self.operations) {
            let lands = rng.percent(40) && self.error(&operation).is_none();
            for index in operation.landed..operation.range.len() {
                let block = operation.range.start + index;
                match &operation.work {
                    Work::Write(content) if lands => self.put(block, content[index as usize], id),
                    Work::Zero if lands => self.put(block, ZERO, id),
                    _ => {}
                }
            }
        }
        // One mood for the whole disk, so that "all kept" and "all lost" happen, and mixtures too.
        let mood = rng.below(4);
        for cell in self.cells.values_mut().filter(|cell| !cell.versions.is_empty()) {
            let choices: Vec<Block> =
                std::iter::once(cell.durable).chain(cell.versions.iter().map(|version| version.content)).collect();
            let pick = |rng: &mut Rng| choices[rng.below(choices.len() as u64) as usize];
            let whole = match mood {
                0 => choices[0],
                1 => choices[choices.len() - 1],
                _ => pick(rng),
            };
            let mut kept = whole;
            if mood == 3 {
                for (sector, part) in kept.iter_mut().enumerate() {
                    *part = pick(rng)[sector];
                }
            }
            *cell = Cell { durable: kept, versions: Vec::new() };
        }
    }

    /// What a read finds now.
    #[must_use]
    pub fn content(&self, block: u64) -> Block {
        self.cells.get(&block).map_or(ZERO, Cell::current)
    }

    /// What a power loss now cannot take away, if the block holds just one thing.
    #[must_use]
    pub fn settled(&self, block: u64) -> Option<Block> {
        match self.cells.get(&block) {
            None => Some(ZERO),
            Some(cell) => cell.versions.iter().all(|version| version.content == cell.durable).then_some(cell.durable),
        }
    }

    /// Everything that the block might hold after a power loss now.
    pub fn possible(&self, block: u64) -> impl Iterator<Item = Block> + '_ {
        let cell = self.cells.get(&block);
        let durable = cell.map_or(ZERO, |cell| cell.durable);
        std::iter::once(durable).chain(cell.into_iter().flat_map(|cell| cell.versions.iter().map(|v| v.content)))
    }

    /// The blocks that were ever written.
    pub fn written(&self) -> impl Iterator<Item = u64> + '_ {
        self.cells.keys().copied()
    }

    /// Changes a block behind everybody's back.
    pub fn corrupt(&mut self, block: u64, content: Block) {
        self.cells.insert(block, Cell { durable: content, versions: Vec::new() });
    }

    /// Swaps the disk for an empty one.
    pub fn replace(&mut self) {
        *self = Disk { next: self.next, ..Disk::default() };
    }
}

/// Makes the last version that `is_durable` names durable; what landed before it is gone, what landed after stays volatile.
fn settle(cell: &mut Cell, is_durable: impl Fn(&Version) -> bool) {
    if let Some(last) = cell.versions.iter().rposition(is_durable) {
        cell.durable = cell.versions[last].content;
        cell.versions.drain(..=last);
    }
}

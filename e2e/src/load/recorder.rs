//! Keeps every invocation and completion, and judges them.

use super::stamp::{Content, Stamp, StampError};
use lockstep_sim::history::{BlockHistory, Call, End, Moment, Operation, Value, Violation, check_block};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bounds on what a recorder keeps.
#[derive(Clone, Copy, Debug)]
pub struct RecorderLimits {
    /// The blocks that the load touches: the first ones of the volume.
    pub blocks: u64,
    /// Violations and bad blocks that are kept; the first few tell the story.
    pub found_max: usize,
}

/// What is wrong with the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A block that no single write can have left there.
    BadBlock(StampError),
    /// A block whose history has no explanation.
    BadHistory {
        /// The block.
        block: u64,
        /// Why.
        violation: Violation,
    },
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::BadBlock(error) => write!(f, "{error}"),
            Found::BadHistory { block, violation } => write!(f, "block {block}: {violation}"),
        }
    }
}

/// All that is known of the volume's history since the last checkpoint.
pub struct Recorder {
    origin: Instant,
    limits: RecorderLimits,
    state: Mutex<State>,
}

struct State {
    next_writer: u32,
    lanes: Vec<Arc<Lane>>,
    initial: Vec<Value>,
    found: Vec<Found>,
}

/// The records of one thread.
pub struct Lane {
    writer: u32,
    origin: Instant,
    records: Mutex<LaneRecords>,
}

#[derive(Default)]
struct LaneRecords {
    next_sequence: u64,
    /// The writer of this lane was fenced before this moment: what is unknown took effect before, or never.
    fenced: Option<Moment>,
    /// Records before this index went with a checkpoint.
    dropped: usize,
    records: Vec<Record>,
}

struct Record {
    first_block: u64,
    what: What,
    invoked: Moment,
    outcome: Outcome,
}

enum What {
    Write { blocks: u32, value: Value },
    Read(Box<[Value]>),
    Flush,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    InFlight,
    Completed(Moment),
    Unknown,
}

/// An operation that was begun.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(usize);

impl Recorder {
    /// Nothing happened yet, and all blocks are zero.
    pub fn new(limits: RecorderLimits) -> Self {
        let blocks = usize::try_from(limits.blocks).unwrap_or(usize::MAX);
        let state = State { next_writer: 1, lanes: Vec::new(), initial: vec![Value(0); blocks], found: Vec::new() };
        Recorder { origin: Instant::now(), limits, state: Mutex::new(state) }
    }

    /// How many blocks the load touches.
    pub fn blocks(&self) -> u64 {
        self.limits.blocks
    }

    /// The clock of all moments.
    pub fn now(&self) -> Moment {
        moment_since(self.origin)
    }

    /// A lane for a new thread, with a writer's number of its own.
    pub fn lane(&self) -> Arc<Lane> {
        let mut state = self.lock();
        let writer = state.next_writer;
        state.next_writer += 1;
        let lane = Arc::new(Lane { writer, origin: self.origin, records: Mutex::new(LaneRecords::default()) });
        state.lanes.push(lane.clone());
        lane
    }

    /// Keeps a block that is wrong in itself.
    pub fn note(&self, error: StampError) {
        let mut state = self.lock();
        if state.found.len() < self.limits.found_max {
            state.found.push(Found::BadBlock(error));
        }
    }

    /// Judges the history of every block, and returns how many operations on blocks were judged.
    pub fn check(&self) -> Result<usize, Vec<Found>> {
        let mut state = self.lock();
        let mut operations = Vec::new();
        for lane in &state.lanes {
            lane.lock().append_operations(lane.writer, &mut operations);
        }
        operations.sort_by_key(|(block, operation)| (*block, operation.invoked));
        let mut found = std::mem::take(&mut state.found);
        for of_block in operations.chunk_by(|(left, _), (right, _)| left == right) {
            let Some((block, _)) = of_block.first() else {
                continue;
            };
            let initial = usize::try_from(*block).ok().and_then(|index| state.initial.get(index).copied());
            let history = BlockHistory {
                initial: initial.unwrap_or(Value(0)),
                operations: of_block.iter().map(|(_, operation)| *operation).collect(),
            };
            if let Err(violation) = check_block(&history)
                && found.len() < self.limits.found_max
            {
                found.push(Found::BadHistory { block: *block, violation });
            }
        }
        if found.is_empty() { Ok(operations.len()) } else { Err(found) }
    }

    /// Starts anew from what a read of all blocks has just found, with nothing in flight. Lanes stay usable.
    pub fn checkpoint(&self, contents: &[Content]) {
        let mut state = self.lock();
        for (initial, content) in state.initial.iter_mut().zip(contents) {
            *initial = content.value();
        }
        // A lane that only the recorder still knows belongs to a thread that has ended.
        state.lanes.retain(|lane| Arc::strong_count(lane) > 1);
        for lane in &state.lanes {
            lane.lock().drop_ended();
        }
    }

    /// The longest time between two completions (of anything) in this span, its ends counted as completions.
    pub fn longest_gap(&self, from: Moment, to: Moment) -> Duration {
        let mut completions: Vec<Moment> = vec![from, to];
        let state = self.lock();
        for lane in &state.lanes {
            completions.extend(lane.lock().completions().filter(|at| *at > from && *at < to));
        }
        completions.sort_unstable();
        let longest = completions.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
        Duration::from_nanos(longest.unwrap_or(0))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// The writer's number.
    pub fn writer(&self) -> u32 {
        self.writer
    }

    /// A write of this many blocks is about to be submitted, with this stamp in each.
    pub fn begin_write(&self, first_block: u64, blocks: u32) -> (Ticket, Stamp) {
        let mut records = self.lock();
        records.next_sequence += 1;
        let stamp = Stamp { writer: self.writer, sequence: records.next_sequence };
        let what = What::Write { blocks, value: stamp.value() };
        (records.begin(first_block, what, moment_since(self.origin)), stamp)
    }

    /// A read is about to be submitted.
    pub fn begin_read(&self, first_block: u64) -> Ticket {
        self.lock().begin(first_block, What::Read(Box::default()), moment_since(self.origin))
    }

    /// A flush is about to be submitted.
    pub fn begin_flush(&self) -> Ticket {
        self.lock().begin(0, What::Flush, moment_since(self.origin))
    }

    /// A write or flush has completed.
    pub fn complete(&self, ticket: Ticket) {
        let now = moment_since(self.origin);
        self.lock().end(ticket, Outcome::Completed(now));
    }

    /// A read has completed.
    pub fn complete_read(&self, ticket: Ticket, completed: Moment, contents: impl Iterator<Item = Content>) {
        let values = contents.map(Content::value).collect();
        let mut records = self.lock();
        if let Some(record) = records.at(ticket) {
            record.what = What::Read(values);
            record.outcome = Outcome::Completed(completed);
        }
    }

    /// The operation failed, or its answer never came: nobody knows what became of it.
    pub fn fail(&self, ticket: Ticket) {
        self.lock().end(ticket, Outcome::Unknown);
    }

    /// The writer behind this lane was fenced before now.
    pub fn fence(&self) {
        let now = moment_since(self.origin);
        self.lock().fenced.get_or_insert(now);
    }

    /// When this lane's first write to complete after `from` did so.
    pub fn first_completed_write(&self, from: Moment) -> Option<Moment> {
        let records = self.lock();
        let writes = records.records.iter().filter(|record| matches!(record.what, What::Write { .. }));
        writes.filter_map(Record::completed).filter(|at| *at >= from).min()
    }

    fn lock(&self) -> MutexGuard<'_, LaneRecords> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneRecords {
    fn begin(&mut self, first_block: u64, what: What, invoked: Moment) -> Ticket {
        self.records.push(Record { first_block, what, invoked, outcome: Outcome::InFlight });
        Ticket(self.dropped + self.records.len() - 1)
    }

    fn at(&mut self, ticket: Ticket) -> Option<&mut Record> {
        ticket.0.checked_sub(self.dropped).and_then(|index| self.records.get_mut(index))
    }

    fn end(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Some(record) = self.at(ticket) {
            record.outcome = outcome;
        }
    }

    fn drop_ended(&mut self) {
        // A checkpoint is made with nothing in flight; an operation that is (its thread hangs) stays, with all after it.
        let keep_from = self.records.iter().position(|record| record.outcome == Outcome::InFlight);
        let ended = keep_from.unwrap_or(self.records.len());
        self.records.drain(..ended);
        self.dropped += ended;
    }

    fn completions(&self) -> impl Iterator<Item = Moment> {
        self.records.iter().filter_map(Record::completed)
    }

    fn append_operations(&self, origin: u32, operations: &mut Vec<(u64, Operation)>) {
        for record in &self.records {
            let end = match record.outcome {
                Outcome::Completed(moment) => End::Completed(moment),
                // What was invoked after the fence and not acknowledged must never be seen: as if nobody had written it.
                _ if self.fenced.is_some_and(|fenced| fenced < record.invoked) => continue,
                Outcome::InFlight | Outcome::Unknown => End::Unknown(self.fenced.unwrap_or(Moment::NEVER)),
            };
            let operation = |call| Operation { call, invoked: record.invoked, end, origin };
            match &record.what {
                What::Write { blocks, value } => {
                    let blocks = record.first_block..record.first_block + u64::from(*blocks);
                    operations.extend(blocks.map(|block| (block, operation(Call::Write(*value)))));
                }
                What::Read(values) => {
                    let blocks = record.first_block..;
                    operations.extend(blocks.zip(values).map(|(block, value)| (block, operation(Call::Read(*value)))));
                }
                What::Flush => {}
            }
        }
    }
}

impl Record {
    fn completed(&self) -> Option<Moment> {
        match self.outcome {
            Outcome::Completed(moment) => Some(moment),
            Outcome::InFlight | Outcome::Unknown => None,
        }
    }
}

/// Moments are nanoseconds since the recorder began, from 1.
fn moment_since(origin: Instant) -> Moment {
    Moment(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX - 1).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::{Content, Found, Recorder, RecorderLimits};

    fn recorder() -> Recorder {
        Recorder::new(RecorderLimits { blocks: 16, found_max: 10 })
    }

    #[test]
    fn acknowledged_write_must_be_read() {
        let recorder = recorder();
        let lane = recorder.lane();
        let (write, stamp) = lane.begin_write(3, 2);
        lane.complete(write);
        let read = lane.begin_read(3);
        lane.complete_read(read, recorder.now(), [Content::Stamped(stamp), Content::Stamped(stamp)].into_iter());
        assert_eq!(recorder.check(), Ok(4));
        let lost = lane.begin_read(4);
        lane.complete_read(lost, recorder.now(), [Content::Zero].into_iter());
        assert!(matches!(recorder.check().unwrap_err()[..], [Found::BadHistory { block: 4, .. }]));
    }

    #[test]
    fn failed_write_may_appear_until_its_writer_is_fenced() {
        let recorder = recorder();
        let lane = recorder.lane();
        let (write, stamp) = lane.begin_write(3, 1);
        lane.fail(write);
        let reader = recorder.lane();
        let read = |content| {
            let ticket = reader.begin_read(3);
            reader.complete_read(ticket, recorder.now(), [content].into_iter());
        };
        read(Content::Zero);
        read(Content::Stamped(stamp));
        assert_eq!(recorder.check(), Ok(3));
        let (write, stamp) = lane.begin_write(3, 1);
        lane.fail(write);
        lane.fence();
        read(Content::Stamped(stamp));
        assert_eq!(recorder.check(), Ok(5));
        let (write, stamp) = lane.begin_write(3, 1);
        lane.fail(write);
        read(Content::Stamped(stamp));
        assert!(recorder.check().is_err(), "written by a fenced writer, and there");
    }

    #[test]
    fn checkpoint_starts_from_what_was_read() {
        let recorder = recorder();
        let lane = recorder.lane();
        let (write, stamp) = lane.begin_write(0, 1);
        lane.complete(write);
        let mut contents = vec![Content::Zero; 16];
        contents[0] = Content::Stamped(stamp);
        recorder.checkpoint(&contents);
        let read = lane.begin_read(0);
        lane.complete_read(read, recorder.now(), [Content::Stamped(stamp)].into_iter());
        assert_eq!(recorder.check(), Ok(1));
        let stale = lane.begin_read(0);
        lane.complete_read(stale, recorder.now(), [Content::Zero].into_iter());
        assert!(recorder.check().is_err());
    }
}

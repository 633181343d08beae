//! What clients asked for and saw: the raw material of the history checker.

use lockstep_core::{BlockRange, IoError, NodeId, Op};

use crate::block::Block;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where it was made.
    pub node: NodeId,
    /// During which attachment: rises; a later writer's attachment fences the earlier ones, unless several may write at once.
    pub attachment: u64,
    /// The attachment was for writing.
    pub writer: bool,
    /// What.
    pub op: Op,
    /// Where.
    pub range: BlockRange,
    /// Number of the write, part of what it leaves in each block; 0 if it leaves zeroes.
    pub write: u64,
    /// Moment of invocation.
    pub invoked: u64,
    /// World's time of invocation.
    pub invoked_at: u64,
    /// Moment of completion, and how.
    pub ended: Option<(u64, Result<(), IoError>)>,
    /// World's time of completion.
    pub ended_at: u64,
    /// What a read found.
    pub found: Vec<Block>,
    /// A write that completed at a member which slept through the loss of it: that member's attachment is fenced next.
    pub overslept: bool,
    /// When it was made, writes were promised to be durable.
    pub durable: bool,
    /// Made in a generation that was given up: not part of the volume's history.
    pub abandoned: bool,
}

/// All requests of a run, in the order of their invocation.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The requests.
    pub requests: Vec<Request>,
    moment: u64,
    writes: u64,
    /// Completed without error.
    pub completed: u64,
    /// Completed with an error.
    pub failed: u64,
    /// Several nodes may write at once: a new attachment ends no other.
    pub shared: bool,
    /// Moments at which unflushed data may have been lost.
    pub losses: Vec<u64>,
}

impl Recorder {
    /// Nothing was asked yet. `shared`: several nodes may write at once.
    #[must_use]
    pub fn new(shared: bool) -> Recorder {
        Recorder { shared, ..Recorder::default() }
    }

    /// The next moment: rises with every call.
    pub fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// The number of a new write.
    pub fn number_write(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    /// Notes a request; gives its index.
    pub fn invoke(&mut self, mut request: Request) -> usize {
        request.invoked = self.tick();
        self.requests.push(request);
        self.requests.len() - 1
    }

    /// Notes how a request ended.
    pub fn end(&mut self, index: usize, now: u64, result: Result<(), IoError>, found: Vec<Block>) {
        let moment = self.tick();
        if result.is_ok() {
            self.completed += 1
        } else {
            self.failed += 1
        }
        if let Some(request) = self.requests.get_mut(index) {
            request.ended = Some((moment, result));
            request.ended_at = now;
            request.found = found;
        }
    }

    /// Notes that everything unflushed may be lost here.
    pub fn lose(&mut self) {
        let moment = self.tick();
        self.losses.push(moment);
    }
}

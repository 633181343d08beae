//! Decides whether what was seen of one block can have been one atomic register (I6).
//!
//! A *history* of a block is a set of operations, each with the moment at which it was invoked and the moment at which it
//! completed. An operation without an answer (its engine was killed, its request failed) has an unknown outcome: a
//! write of that kind may have taken effect, once, at any moment from its invocation to the bound that its recorder
//! knows, or never; a read of that kind says nothing and is left out.
//!
//! [`check_block`] decides in `O(n log n)` when every write has a value of its own, which a recorder that stamps
//! its writes guarantees (`zones`); values written more than once (zeroes of a discard) go to `frontier`, which
//! follows every state that the block can be in. A plain search (`search`) is the oracle that both are tested against.

mod frontier;
mod search;
mod zones;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use frontier::{OPEN_OPERATIONS_MAX, check_by_frontier};
pub use search::{SEARCH_OPERATIONS_MAX, check_by_search};
pub use zones::check_by_zones;

/// What a block holds, as a number that the recorder derives from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u64);

/// A moment on the recorder's one clock, counted from 1. The unit is the recorder's; only the order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// After everything that a recorder can see: the bound of a write that may still land at any time.
    pub const NEVER: Moment = Moment(u64::MAX);
}

/// What was asked for, and for a read what it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The block is given this value.
    Write(Value),
    /// The block was found to hold this value.
    Read(Value),
}

impl Call {
    /// The value written or read.
    pub fn value(self) -> Value {
        match self {
            Call::Write(value) | Call::Read(value) => value,
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was completed to its caller at this moment: its effect lies between invocation and here.
    Completed(Moment),
    /// Nobody knows. If it took effect, then before this moment ([`Moment::NEVER`] if no bound is known; a recorder that saw
    /// the writer fenced gives that moment).
    Unknown(Moment),
}

impl End {
    fn bound(self) -> Moment {
        match self {
            End::Completed(moment) | End::Unknown(moment) => moment,
        }
    }
}

/// One operation on one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What was asked for.
    pub call: Call,
    /// When it was asked for.
    pub invoked: Moment,
    /// How it ended.
    pub end: End,
    /// Who asked: only for the reader of a violation.
    pub origin: u32,
}

/// Everything that was seen of one block.
#[derive(Clone, Debug)]
pub struct BlockHistory {
    /// What the block held before the first operation.
    pub initial: Value,
    /// The operations, in any order.
    pub operations: Vec<Operation>,
}

/// Why a history is not that of an atomic register.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A read returned what nobody wrote and what was not there at the start.
    #[error("read of a value that was never written: {read:?}")]
    ReadUnwritten {
        /// The read.
        read: Operation,
    },
    /// A read completed before the write of its value was invoked.
    #[error("read {read:?} completed before its write was invoked: {write:?}")]
    ReadBeforeWrite {
        /// The read.
        read: Operation,
        /// The write that it would have to follow.
        write: Operation,
    },
    /// Two values that must each have been there before the other: a stale read, or a lost write.
    #[error("two values were each there before the other: {0:?}")]
    EachBeforeOther(Box<Contradiction>),
    /// The search found no order (values repeat, so that no pair of operations can be named).
    #[error("no order of these {operations} operations explains what was read")]
    NoOrder {
        /// How many operations there were.
        operations: usize,
    },
    /// Everything up to one operation can be explained, and it cannot (values repeat, so that no pair can be named).
    #[error("nothing explains {operation:?}: before it ended, the block held one of {values:?}")]
    Unexplained {
        /// The operation.
        operation: Operation,
        /// What the block may have held just before its end.
        values: Vec<Value>,
    },
    /// Values repeat and too many operations are open at once.
    #[error(
        "{operations} operations with repeated values are more than can be followed ({OPEN_OPERATIONS_MAX} open at once)"
    )]
    TooLong {
        /// How many operations there were.
        operations: usize,
    },
}

/// Four operations that no order can explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Ends before `newer` begins.
    pub older: Operation,
    /// Begins after `older` ended.
    pub newer: Operation,
    /// Of the newer value; ends before `older_seen` begins.
    pub newer_seen: Operation,
    /// Of the older value, yet begins after `newer_seen` ended.
    pub older_seen: Operation,
}

/// Whether one block's history is linearizable, by the fast checker where values are unique, else by the frontier.
pub fn check_block(history: &BlockHistory) -> Result<(), Violation> {
    if has_repeated_value(history) { check_by_frontier(history) } else { check_by_zones(history) }
}

fn has_repeated_value(history: &BlockHistory) -> bool {
    let mut written = BTreeSet::from([history.initial]);
    history.operations.iter().any(|operation| matches!(operation.call, Call::Write(value) if !written.insert(value)))
}

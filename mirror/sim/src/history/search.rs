//! The slow checker: tries orders, depth first, and remembers the states that lead nowhere (Wing and Gong; Lowe's memory).
//!
//! It takes any values, but its time can grow exponentially with the number of operations that overlap. It serves
//! histories with repeated values, and as the oracle of the fast checker.

use super::{BlockHistory, Call, End, Operation, Value, Violation};
use std::collections::BTreeSet;

/// More than this is not searched: the set of placed operations is one machine word.
pub const SEARCH_OPERATIONS_MAX: usize = 128;

/// Checks any history of at most [`SEARCH_OPERATIONS_MAX`] operations.
pub fn check_by_search(history: &BlockHistory) -> Result<(), Violation> {
    let operations: Vec<Operation> = history
        .operations
        .iter()
        .filter(|operation| !matches!((operation.call, operation.end), (Call::Read(_), End::Unknown(_))))
        .copied()
        .collect();
    if operations.len() > SEARCH_OPERATIONS_MAX {
        return Err(Violation::TooLong { operations: operations.len() });
    }
    let mut search = Search { operations: &operations, seen: BTreeSet::new() };
    if search.explain(0, history.initial) { Ok(()) } else { Err(Violation::NoOrder { operations: operations.len() }) }
}

struct Search<'a> {
    operations: &'a [Operation],
    seen: BTreeSet<(u128, Value)>,
}

impl Search<'_> {
    /// Whether the operations that are not in `placed` can follow, with the block holding `value` now.
    fn explain(&mut self, placed: u128, value: Value) -> bool {
        if !self.seen.insert((placed, value)) {
            return false;
        }
        let waiting = |index: usize| placed & (1 << index) == 0;
        let must_wait = self
            .operations
            .iter()
            .enumerate()
            .any(|(index, operation)| waiting(index) && matches!(operation.end, End::Completed(_)));
        if !must_wait {
            // What is left has an unknown outcome: it never happened.
            return true;
        }
        for index in 0..self.operations.len() {
            let Some(operation) = self.operations.get(index) else {
                continue;
            };
            if !waiting(index) || self.another_ended_before(placed, index) {
                continue;
            }
            let after = placed | (1 << index);
            let found = match operation.call {
                Call::Write(written) => {
                    self.explain(after, written)
                        || (matches!(operation.end, End::Unknown(_)) && self.explain(after, value))
                }
                Call::Read(read) => read == value && self.explain(after, value),
            };
            if found {
                return true;
            }
        }
        false
    }

    /// Whether an operation that is not placed yet ended before this one began.
    fn another_ended_before(&self, placed: u128, index: usize) -> bool {
        let Some(this) = self.operations.get(index) else {
            return false;
        };
        self.operations.iter().enumerate().any(|(other_index, other)| {
            other_index != index && placed & (1 << other_index) == 0 && other.end.bound() < this.invoked
        })
    }
}

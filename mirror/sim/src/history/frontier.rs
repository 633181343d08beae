//! The checker for histories in which values repeat (zeroes), of any length.
//!
//! It walks through invocations and completions in order, and keeps every state that the block can be in: its value, and which
//! of the open operations have taken effect. An operation is made to take effect only when it has to: at its completion, with
//! whatever has to come before it. The number of states grows with what is open at once, not with the history's length.

use super::{BlockHistory, Call, End, Moment, Operation, Value, Violation};
use std::collections::{BTreeMap, BTreeSet};

/// More operations than this open at once are not followed: the set of those that took effect is one machine word.
pub const OPEN_OPERATIONS_MAX: usize = 128;

/// A value, and which slots have taken effect.
type State = (Value, u128);

/// Checks any history with at most [`OPEN_OPERATIONS_MAX`] operations open at once.
pub fn check_by_frontier(history: &BlockHistory) -> Result<(), Violation> {
    let operations = relevant(history);
    // Closed intervals: at one moment, invocations come before completions.
    let mut moments: Vec<(Moment, bool, usize)> = Vec::with_capacity(operations.len() * 2);
    for (index, operation) in operations.iter().enumerate() {
        moments.push((operation.invoked, false, index));
        moments.push((operation.end.bound(), true, index));
    }
    moments.sort_unstable();

    let mut frontier = Frontier { states: BTreeSet::from([(history.initial, 0)]), open: BTreeMap::new() };
    for (_, is_end, index) in moments {
        let Some(operation) = operations.get(index) else { continue };
        if is_end {
            let before: BTreeSet<Value> = frontier.states.iter().map(|(value, _)| *value).collect();
            frontier.end(index, operation);
            if frontier.states.is_empty() {
                return Err(Violation::Unexplained { operation: *operation, values: before.into_iter().collect() });
            }
        } else if !frontier.begin(index, *operation) {
            return Err(Violation::TooLong { operations: operations.len() });
        }
    }
    Ok(())
}

/// Leaves out what says nothing: reads without an answer, and writes without an answer whose value nobody read.
fn relevant(history: &BlockHistory) -> Vec<Operation> {
    let read: BTreeSet<Value> = history
        .operations
        .iter()
        .filter(|operation| matches!((operation.call, operation.end), (Call::Read(_), End::Completed(_))))
        .map(|operation| operation.call.value())
        .collect();
    let says_something = |operation: &&Operation| match (operation.call, operation.end) {
        (_, End::Completed(_)) => true,
        (Call::Read(_), End::Unknown(_)) => false,
        (Call::Write(value), End::Unknown(_)) => read.contains(&value),
    };
    history.operations.iter().filter(says_something).copied().collect()
}

struct Frontier {
    states: BTreeSet<State>,
    /// Open operations by slot: number in the history, and what it is.
    open: BTreeMap<usize, (usize, Operation)>,
}

impl Frontier {
    fn begin(&mut self, index: usize, operation: Operation) -> bool {
        let free = (0..OPEN_OPERATIONS_MAX).find(|slot| !self.open.contains_key(slot));
        if let Some(slot) = free {
            self.open.insert(slot, (index, operation));
        }
        free.is_some()
    }

    fn end(&mut self, index: usize, operation: &Operation) {
        let Some(slot) = self.open.iter().find(|(_, (open, _))| *open == index).map(|(slot, _)| *slot) else { return };
        let may_be_absent = matches!(operation.end, End::Unknown(_));
        let mut after = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for state in std::mem::take(&mut self.states) {
            if may_be_absent && state.1 & (1 << slot) == 0 {
                after.insert(state);
            }
            self.place(state, slot, &mut seen, &mut after);
        }
        self.open.remove(&slot);
        self.states = after;
    }

    /// Every state that follows from this one by operations up to the one in `slot`.
    fn place(&self, state: State, slot: usize, seen: &mut BTreeSet<State>, after: &mut BTreeSet<State>) {
        let mut waiting = vec![state];
        while let Some((value, placed)) = waiting.pop() {
            if placed & (1 << slot) != 0 {
                after.insert((value, placed & !(1 << slot)));
                continue;
            }
            if !seen.insert((value, placed)) {
                continue;
            }
            for (other, (_, operation)) in &self.open {
                if placed & (1 << other) != 0 {
                    continue;
                }
                match operation.call {
                    Call::Write(written) => waiting.push((written, placed | 1 << other)),
                    Call::Read(read) if read == value => waiting.push((value, placed | 1 << other)),
                    Call::Read(_) => {}
                }
            }
        }
    }
}

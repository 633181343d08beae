//! What the faulty file does instead of its work.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What can be troubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A read.
    Read,
    /// A write, and a discard.
    Write,
    /// An fsync or fdatasync.
    Sync,
}

/// How it is troubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It fails with EIO.
    Fail,
    /// It is not answered until healed; then it is carried out.
    Hang,
    /// It fails with ENOSPC.
    Full,
}

#[derive(Default)]
struct State {
    troubles: BTreeMap<Operation, Trouble>,
    met: BTreeMap<Operation, u64>,
}

/// The switch of one file. Everything works until it is set.
#[derive(Default)]
pub struct Switch {
    state: Mutex<State>,
    changed: Condvar,
}

impl Switch {
    /// From now on operations of this kind are troubled.
    pub fn set(&self, operation: Operation, trouble: Trouble) {
        self.lock().troubles.insert(operation, trouble);
        self.changed.notify_all();
    }

    /// Everything works again; what hangs goes on.
    pub fn heal(&self) {
        self.lock().troubles.clear();
        self.changed.notify_all();
    }

    /// How many operations of this kind have met trouble: a test that injected nothing proves nothing.
    pub fn met(&self, operation: Operation) -> u64 {
        self.lock().met.get(&operation).copied().unwrap_or(0)
    }

    /// What an operation that begins now meets; counted.
    pub(super) fn meet(&self, operation: Operation) -> Option<Trouble> {
        let mut state = self.lock();
        let trouble = state.troubles.get(&operation).copied();
        if trouble.is_some() {
            *state.met.entry(operation).or_default() += 1;
        }
        trouble
    }

    /// Waits while operations of this kind hang, and returns what they meet then.
    pub(super) fn wait_while_hanging(&self, operation: Operation) -> Option<Trouble> {
        let mut state = self.lock();
        loop {
            match state.troubles.get(&operation) {
                Some(Trouble::Hang) => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                other => return other.copied(),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

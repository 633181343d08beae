//! One test at a time within a test program.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for this test's turn, which lasts as long as what is returned: each such test runs nodes of its own, and two at once would
/// only make each other slow.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

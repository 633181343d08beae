//! What must always hold inside one replica. Cheap enough to be asserted after every input, in release builds too.

use super::Replica;

impl Replica {
    /// Panics if a rule of the machine is violated: a bug must stop the replica, not corrupt it.
    pub(super) fn check_invariants(&self) {
        assert!(self.durable <= self.persisting, "nothing is durable that was not asked for");
        assert!(self.view.in_sync & self.view.joining == 0, "a replica is in sync or joining, not both");
        assert!(!self.reconciled || self.reports_in, "only what all members reported can be settled");
        assert!(self.gates.front().is_none_or(|(token, _)| *token > self.durable), "gates open as soon as they may");
        if self.fenced {
            assert!(
                self.window.is_empty() || self.broken(broken!(ResubmitAfterExpulsion)),
                "a fenced writer has nothing in flight"
            );
        }
    }
}

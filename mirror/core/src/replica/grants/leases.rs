//! Lease policing in the replica.

use crate::ids::LeaseAsk;
use crate::lease::LeaseTold;
use crate::replica::Replica;

impl Replica {
    /// Something was heard of Leases.
    pub(in crate::replica) fn on_lease(&mut self, _ask: Option<LeaseAsk>, _told: LeaseTold) {}
}

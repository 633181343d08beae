//! Policing of a single-writer volume: one grant over everything, through the interface that ranges will use.
//!
//! A grant is numbered by the epoch in which its holder's attachment was installed. It survives changes of epoch for as
//! long as the holder stays attached. Replicas learn a number from the first write that carries it.

use crate::ids::{Epoch, GrantNumber, NodeId};
use crate::range::BlockRange;

/// What this member holds, and what it has seen others hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    own: Option<GrantNumber>,
    highest: GrantNumber,
    holder: Option<NodeId>,
}

impl Grants {
    /// True if this member holds the grant.
    pub fn holds(&self) -> bool {
        self.own.is_some()
    }

    /// This member is attached for writing, and what was in flight before it is settled.
    pub fn acquire(&mut self, me: NodeId, epoch: Epoch) {
        let number = GrantNumber { epoch, counter: 1 };
        self.own = Some(number);
        self.learn(number, me);
    }

    /// This member is not attached any more.
    pub fn drop_own(&mut self) {
        self.own = None;
    }

    /// The grant that covers the range, if this member holds one. Blocks that are still being reconciled are held back
    /// one by one elsewhere; the rest of the volume does not wait for them.
    pub fn covering(&self, _range: BlockRange) -> Option<GrantNumber> {
        self.own
    }

    /// True if a write under this number may be applied: none higher is known, and an equal one is the same holder's.
    pub fn admits(&self, number: GrantNumber, from: NodeId) -> bool {
        number > self.highest || number == self.highest && self.holder.is_none_or(|h| h == from)
    }

    /// Learns a number from a write.
    pub fn learn(&mut self, number: GrantNumber, from: NodeId) {
        if number > self.highest {
            self.highest = number;
        }
        if number == self.highest {
            self.holder = Some(from);
        }
    }

    /// Learns a number from a report, without its holder.
    pub fn learn_floor(&mut self, number: GrantNumber) {
        if number > self.highest {
            self.highest = number;
            self.holder = None;
        }
    }

    /// Highest number known.
    pub fn highest(&self) -> GrantNumber {
        self.highest
    }
}

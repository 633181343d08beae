//! Policing: who may write which range now.
//!
//! A *single-writer* volume has one grant over everything, numbered by the epoch in which its holder's attachment was
//! installed; it survives changes of epoch for as long as the holder stays attached. A *multi-writer* volume is granted by
//! extents: [`table`] is the granting node's side, [`holder`] a writer's, [`steps`] what joins them with the replica.
//! Replicas learn a number from the first write that carries it.

mod extents;
pub(super) mod holder;
pub(super) mod leases;
#[cfg(test)]
mod model;
#[cfg(test)]
mod shard_model;
pub(super) mod shards;
mod steps;
pub(super) mod table;

use crate::config::{Access, Settings};
use crate::ids::{Epoch, GrantNumber, NodeId, Time};
use crate::lease::Policing as By;
use crate::message::Class;
use crate::range::BlockRange;
use crate::timing::MS;

pub(super) use steps::Policing;

/// Waiting this long raises a class by one.
const AGEING: u64 = 250 * MS;

/// The class that counts for what has waited so long, whoever polices.
fn aged(class: Class, waited: u64) -> Class {
    let raised = (class as u64).saturating_add(waited / AGEING);
    u8::try_from(raised).ok().and_then(Class::from_number).unwrap_or(Class::Recovery)
}

/// What this member holds, and what it has seen others hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    /// Of a single-writer volume.
    own: Option<GrantNumber>,
    holder_of_all: Option<NodeId>,
    /// Highest number known.
    highest: GrantNumber,
    /// By shard, where Leases police.
    pub numbers: shards::Numbers,
    /// Of a volume that is granted by ranges.
    pub holder: holder::Holder,
    seen: holder::Seen,
}

impl Grants {
    /// True if this member holds the grant of a single-writer volume.
    pub fn holds(&self) -> bool {
        self.own.is_some()
    }

    /// This member is attached for writing, and what was in flight before it is settled.
    pub fn acquire(&mut self, me: NodeId, epoch: Epoch) {
        let number = GrantNumber { epoch, counter: 1 };
        self.own = Some(number);
        self.learn_whole(number, me);
    }

    /// This member is not attached any more.
    pub fn drop_own(&mut self) {
        self.own = None;
        self.holder.drop_all();
    }

    /// The grant that covers the range, if this member holds one. Blocks that are still being reconciled are held back
    /// one by one elsewhere; the rest of the volume does not wait for them.
    pub fn covering(&self, range: BlockRange, settings: &Settings) -> Option<GrantNumber> {
        match (settings.policing, settings.access) {
            (By::Peer, Access::SingleWriter) => self.own,
            (By::Peer, Access::MultiWriter) => self.holder.covers(range).then_some(self.holder.number),
            (By::Lease { .. }, _) => self.holder.covers(range).then(|| self.number_of(range, settings)),
        }
    }

    /// The number under which this member writes here, where grants are of ranges.
    pub fn number_of(&self, range: BlockRange, settings: &Settings) -> GrantNumber {
        match shards::Layout::without_end(settings) {
            Some(layout) => self.numbers.over(layout.touched(range)),
            None => self.holder.number,
        }
    }

    /// A write to this range starts.
    pub fn note_write(&mut self, range: BlockRange, settings: &Settings, number: GrantNumber, now: Time) {
        if let Some(layout) = shards::Layout::without_end(settings) {
            self.numbers.raise(layout.touched(range), number);
        }
        self.holder.note_write(range, settings.extent_blocks, now);
    }

    /// True if a write under this number may be applied: none higher is known, and an equal one is the same holder's.
    pub fn admits(&self, range: BlockRange, settings: &Settings, number: GrantNumber, from: NodeId) -> bool {
        match settings.grants_ranges() {
            false => number > self.highest || number == self.highest && self.holder_of_all.is_none_or(|h| h == from),
            true => self.seen.admits(range, settings.extent_blocks, number, from),
        }
    }

    /// Learns a number from a write.
    pub fn learn(&mut self, range: BlockRange, settings: &Settings, number: GrantNumber, from: NodeId) {
        match settings.grants_ranges() {
            false => self.learn_whole(number, from),
            true => {
                self.highest = self.highest.max(number);
                self.seen.learn(range, settings.extent_blocks, number, from);
            }
        }
    }

    fn learn_whole(&mut self, number: GrantNumber, from: NodeId) {
        if number > self.highest {
            self.highest = number;
        }
        if number == self.highest {
            self.holder_of_all = Some(from);
        }
    }

    /// Learns a number from a report, without its holder.
    pub fn learn_floor(&mut self, number: GrantNumber) {
        if number > self.highest {
            self.highest = number;
            self.holder_of_all = None;
        }
    }

    /// Highest number known.
    pub fn highest(&self) -> GrantNumber {
        self.highest.max(self.holder.number).max(self.numbers.highest())
    }
}

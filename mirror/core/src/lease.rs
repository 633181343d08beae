//! What a node says to, and hears from, Lease objects elsewhere: the grants of a volume under Lease policing, and a node's own.
//!
//! A volume has up to [`Policing::SHARDS_MAX`] grant Leases, one for each *shard* of its blocks. Every one names who may write there,
//! under which number, and who waits. They are changed by compare-and-swap; a Lease is no fence, admission at the replicas is.
//! See `docs/policing.md`.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{GrantNumber, Incarnation, NodeId};
use crate::message::Class;

/// Who decides who may write where.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Policing {
    /// The volume's own members, by messages.
    #[default]
    Peer,
    /// Grant Leases elsewhere. The configuration's arbiter is a Lease then, too.
    Lease {
        /// How many, 1 to [`Policing::SHARDS_MAX`].
        shards: u8,
        /// Blocks of one shard: whole extents. What is behind the last whole shard belongs to the last.
        shard_blocks: u64,
    },
}

impl Policing {
    /// Most grant Leases of one volume.
    pub const SHARDS_MAX: u8 = 16;

    /// Lease policing of a volume that has this size now: shards of equal size, in whole extents.
    #[must_use]
    pub fn lease(shards: u8, size_blocks: u64, extent_blocks: u64) -> Policing {
        let extents = size_blocks.div_ceil(extent_blocks).div_ceil(u64::from(shards.max(1))).max(1);
        Policing::Lease { shards, shard_blocks: extents * extent_blocks }
    }
}

/// Somebody who waits for a shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Wish {
    /// Who.
    pub node: NodeId,
    /// Which run of it.
    pub incarnation: Incarnation,
    /// Class of what waits there.
    pub class: Class,
}

/// What a grant Lease says.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct GrantLease {
    /// The grant that is held, or was last. Its epoch is that in which the Lease was written: in any other it says nothing.
    pub number: GrantNumber,
    /// Who may write.
    pub holder: Option<(NodeId, Incarnation)>,
    /// Who waits, in order of arrival.
    pub wishes: Vec<Wish>,
}

/// What a replica wants of Leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseWant {
    /// Read a grant Lease.
    Read {
        /// Which.
        shard: u8,
    },
    /// Make a grant Lease that is missing. It says nothing yet.
    Make {
        /// Which.
        shard: u8,
    },
    /// Replace what a grant Lease says, if it is still at this version. Never to be tried twice.
    Write {
        /// Which.
        shard: u8,
        /// The version that was found.
        version: u64,
        /// What it is to say.
        lease: Box<GrantLease>,
    },
    /// Read a node's own Lease.
    ReadNode {
        /// Whose.
        node: NodeId,
    },
}

/// What was heard of Leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseTold {
    /// A grant Lease says this; also after it was written.
    Found {
        /// Which.
        shard: u8,
        /// Rises with each change. 0: there is no such Lease.
        version: u64,
        /// What it says, or why it cannot be used.
        lease: Result<GrantLease, String>,
    },
    /// Somebody else was faster: nothing was written.
    Conflict,
    /// It could not be asked, refused, or did not answer. What was to be written may have been, or may still be.
    Failed {
        /// What happened.
        reason: String,
    },
    /// A node's own Lease.
    Node {
        /// Whose.
        node: NodeId,
        /// Differs after each renewal; [`None`] if there is no such Lease.
        renewed: Option<u64>,
    },
    /// This node's own Lease was renewed.
    Renewed,
}

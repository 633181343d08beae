//! The disk format: what a node keeps of one volume beside the volume's data.
//!
//! Three files: a [`superblock`] that says whose they are, and two *areas*. An area is a header, a snapshot of
//! [`lockstep_core::Meta`], and a log of batches of updates. One area is current: each group commit appends one batch
//! to its log. When that log is long, the metadata is written as a snapshot to the other area, which becomes current.
//! The replica's data is a fourth file of bare blocks.
//!
//! [`Journal`] decides what is written where; it does no I/O itself. [`load`] finds the newest state again after a
//! crash, and tells a log that ends in a torn write (normal) from one that lost something durable (the replica is
//! Failed, and the files stay as they are). `docs/disk-format.md` has the layouts.

pub mod area;
pub mod batch;
mod journal;
mod load;
mod meta;
pub mod superblock;
#[cfg(test)]
mod tests;
mod update;
mod version;

pub use journal::{AREAS, Area, Commit, Journal, LOG_BYTES, Placed};
pub use load::{LoadMeta, load};
pub use superblock::{DecodeSuperblock, Superblock};
pub use version::DiskVersion;

use lockstep_core::{NodeId, VolumeId};

/// Everything is written in multiples of this, at multiples of this: what O_DIRECT asks for.
pub const ALIGN: usize = 4096;

/// Longest text of a reason that is kept; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 1024;

/// Whose metadata it is. Checksums of batches begin with it, so that remains of another volume never count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The volume.
    pub volume: VolumeId,
    /// The node that keeps it.
    pub node: NodeId,
}

impl Owner {
    fn seed(self) -> u32 {
        crate::crc32c_append(crate::crc32c(&self.volume.0), &self.node.0.to_le_bytes())
    }
}

/// Fills up with zeroes to the next multiple of [`ALIGN`], counted from `start`.
fn pad(out: &mut Vec<u8>, start: usize) {
    let len = out.len() - start;
    out.resize(start + len.next_multiple_of(ALIGN), 0);
}

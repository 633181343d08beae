//! Versions of the disk format.

use crate::bytes::Layout;

/// Every version that this program reads, with what changed in it. It writes the newest: a new snapshot is how metadata
/// gets from an older version to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum DiskVersion {
    /// The first.
    V1 = 1,
    /// Configurations with the epochs in which replicas were added, and whether this replica was removed.
    V2 = 2,
}

impl DiskVersion {
    /// What this program writes.
    pub const NEWEST: DiskVersion = DiskVersion::V2;

    /// How configurations are laid out in it.
    #[must_use]
    pub const fn layout(self) -> Layout {
        match self {
            DiskVersion::V1 => Layout::Original,
            DiskVersion::V2 => Layout::Added,
        }
    }

    /// The version with this number, if this program reads it.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<DiskVersion> {
        match number {
            1 => Some(DiskVersion::V1),
            2 => Some(DiskVersion::V2),
            _ => None,
        }
    }
}

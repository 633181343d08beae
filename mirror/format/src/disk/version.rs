//! Versions of the disk format.

/// Every version that this program reads, with what changed in it. It writes the newest: a new snapshot is how metadata
/// gets from an older version to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum DiskVersion {
    /// The first.
    V1 = 1,
}

impl DiskVersion {
    /// What this program writes.
    pub const NEWEST: DiskVersion = DiskVersion::V1;

    /// The version with this number, if this program reads it.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<DiskVersion> {
        match number {
            1 => Some(DiskVersion::V1),
            _ => None,
        }
    }
}

//! Versions of the wire protocol.

/// Every version that this program speaks, with what changed in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ProtocolVersion {
    /// The first.
    V1 = 1,
}

impl ProtocolVersion {
    /// All that this program speaks.
    pub const SUPPORTED: VersionRange =
        VersionRange { oldest: ProtocolVersion::V1 as u8, newest: ProtocolVersion::V1 as u8 };

    /// The version with this number, if this program speaks it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<ProtocolVersion> {
        match number {
            1 => Some(ProtocolVersion::V1),
            _ => None,
        }
    }
}

/// The versions that one end of a connection speaks, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionRange {
    /// Oldest.
    pub oldest: u8,
    /// Newest.
    pub newest: u8,
}

impl VersionRange {
    /// The newest version that both speak.
    #[must_use]
    pub fn agree(self, other: VersionRange) -> Option<ProtocolVersion> {
        let newest = self.newest.min(other.newest);
        if newest < self.oldest.max(other.oldest) { None } else { ProtocolVersion::from_number(newest) }
    }
}

//! Versions of the wire protocol.

use crate::bytes::Layout;

/// Every version that this program speaks, with what changed in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ProtocolVersion {
    /// The first.
    V1 = 1,
    /// Configurations with the epochs in which replicas were added.
    V2 = 2,
}

impl ProtocolVersion {
    /// All that this program speaks.
    pub const SUPPORTED: VersionRange =
        VersionRange { oldest: ProtocolVersion::V1 as u8, newest: ProtocolVersion::V2 as u8 };

    /// The version with this number, if this program speaks it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<ProtocolVersion> {
        match number {
            1 => Some(ProtocolVersion::V1),
            2 => Some(ProtocolVersion::V2),
            _ => None,
        }
    }
}

impl ProtocolVersion {
    /// How configurations are laid out in frames of this version.
    #[must_use]
    pub const fn layout(self) -> Layout {
        match self {
            ProtocolVersion::V1 => Layout::Original,
            ProtocolVersion::V2 => Layout::Added,
        }
    }

    /// The version of a frame with such a configuration.
    #[must_use]
    pub const fn of(layout: Layout) -> ProtocolVersion {
        match layout {
            Layout::Original => ProtocolVersion::V1,
            Layout::Added => ProtocolVersion::V2,
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

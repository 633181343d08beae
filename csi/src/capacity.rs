//! How large a volume is to be: what the caller asks, and what becomes of it.

use crate::capability::{Access, Capability, Filesystem};

/// Every size is a multiple of the block, in bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// The size of a volume whose caller does not say any: 1 GiB.
pub const DEFAULT_BYTES: u64 = 1 << 30;

/// The smallest volume: 16 MiB, which leaves room for the journal of an ext4.
pub const SMALLEST_BYTES: u64 = 16 << 20;

/// The smallest volume with XFS: its mkfs refuses less than 300 MiB.
pub const SMALLEST_XFS_BYTES: u64 = 300 << 20;

/// The largest volume: far above any pool, and far below where 64-bit sums of sizes could overflow.
pub const LARGEST_BYTES: u64 = 1 << 50;

/// What a caller asks: at least `required`, and at most `limit` if there is one. `required` is never above `limit`; one of them is not
/// zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityRange {
    required: u64,
    limit: Option<u64>,
}

/// Two numbers that are no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// A negative number of bytes.
    #[error("capacity_range holds a negative number of bytes ({bytes})")]
    Negative {
        /// That number.
        bytes: i64,
    },
    /// The limit is below what is required.
    #[error("capacity_range is empty: {required} bytes are required, and {limit} are the limit")]
    Empty {
        /// At least, in bytes.
        required: u64,
        /// At most, in bytes.
        limit: u64,
    },
}

/// No size is within what is asked and what is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// The smallest size that would do is above the limit.
    #[error(
        "{size} bytes are needed (sizes are multiples of {BLOCK_BYTES} and have a minimum), more than the limit of {limit}"
    )]
    AboveLimit {
        /// What would be needed, in bytes.
        size: u64,
        /// At most, in bytes.
        limit: u64,
    },
    /// More is required than any volume can have.
    #[error("{required} bytes are required; a volume has at most {LARGEST_BYTES}")]
    TooLarge {
        /// At least, in bytes.
        required: u64,
    },
}

/// What has to happen so that a volume is within a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Nothing: it is large enough.
    Enough,
    /// It grows to this size, in bytes.
    To(u64),
}

impl CapacityRange {
    /// Parses the two numbers of a request, of which zero says nothing. `Ok(None)`: neither says anything.
    ///
    /// # Errors
    /// They are no range.
    pub fn parse(required: i64, limit: i64) -> Result<Option<Self>, RangeError> {
        let bytes = |bytes: i64| u64::try_from(bytes).map_err(|_| RangeError::Negative { bytes });
        match (bytes(required)?, bytes(limit)?) {
            (0, 0) => Ok(None),
            (required, 0) => Ok(Some(Self { required, limit: None })),
            (required, limit) if required > limit => Err(RangeError::Empty { required, limit }),
            (required, limit) => Ok(Some(Self { required, limit: Some(limit) })),
        }
    }

    /// At least so many bytes.
    #[must_use]
    pub const fn required(&self) -> u64 {
        self.required
    }

    /// At most so many bytes.
    #[must_use]
    pub const fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// An existing volume of this size is what was asked for.
    #[must_use]
    pub fn accepts(&self, size: u64) -> bool {
        self.required <= size && self.limit.is_none_or(|limit| size <= limit)
    }

    /// The smallest size within the range and not below `smallest` bytes.
    fn size(&self, smallest: u64) -> Result<u64, SizeError> {
        if self.required > LARGEST_BYTES {
            return Err(SizeError::TooLarge { required: self.required });
        }
        let size = self.required.max(smallest).next_multiple_of(BLOCK_BYTES);
        match self.limit {
            Some(limit) if size > limit => Err(SizeError::AboveLimit { size, limit }),
            Some(_) | None => Ok(size),
        }
    }

    /// What has to happen to a volume of `current` bytes so that it is as large as required.
    ///
    /// # Errors
    /// No size is possible: also where the volume is larger than the limit already, for it never shrinks.
    pub fn growth(&self, current: u64) -> Result<Growth, SizeError> {
        match self.limit {
            Some(limit) if current > limit => Err(SizeError::AboveLimit { size: current, limit }),
            _ if current >= self.required => Ok(Growth::Enough),
            _ => self.size(current).map(Growth::To),
        }
    }
}

/// The size in bytes of a new volume to be used in these ways.
///
/// # Errors
/// No size is within the range, the multiple of blocks and what the file systems need.
pub fn new_size(range: Option<CapacityRange>, capabilities: &[Capability]) -> Result<u64, SizeError> {
    let smallest = smallest(capabilities);
    match range {
        None => Ok(DEFAULT_BYTES.max(smallest)),
        // A limit alone leaves the choice to us: the default, if that fits.
        Some(CapacityRange { required: 0, limit: Some(limit) }) if limit >= DEFAULT_BYTES => Ok(DEFAULT_BYTES),
        Some(range) => range.size(smallest),
    }
}

/// The smallest volume, in bytes, that can be used in all these ways.
#[must_use]
pub fn smallest(capabilities: &[Capability]) -> u64 {
    let needed = |capability: &Capability| match capability.access() {
        Access::Mount(mount) if mount.filesystem == Filesystem::Xfs => SMALLEST_XFS_BYTES,
        Access::Mount(_) | Access::Block => SMALLEST_BYTES,
    };
    capabilities.iter().map(needed).max().unwrap_or(SMALLEST_BYTES)
}

#[cfg(test)]
mod tests;

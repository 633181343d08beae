//! Half-open ranges of blocks.

use crate::ids::{BlockIndex, RegionIndex};

/// Bytes of a logical and physical block, everywhere.
pub const BLOCK_BYTES: u64 = 4096;

/// Blocks of one chunk of a [`crate::BlockSet`] (4 MiB).
pub const CHUNK_BLOCKS: u64 = 1024;

/// A half-open range of blocks, never empty in a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockRange {
    /// First block.
    pub start: u64,
    /// One past the last block.
    pub end: u64,
}

impl core::fmt::Debug for BlockRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl BlockRange {
    /// The range `start..end`; `end` below `start` gives an empty range at `start`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> BlockRange {
        BlockRange { start, end: if end < start { start } else { end } }
    }

    /// Number of blocks.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// True if no block is in the range.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end == self.start
    }

    /// Bytes covered.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.len() * BLOCK_BYTES
    }

    /// True if both ranges share a block.
    #[must_use]
    pub const fn overlaps(self, other: BlockRange) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// True if `other` lies within this range.
    #[must_use]
    pub const fn contains(self, other: BlockRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The common part, if any.
    #[must_use]
    pub fn intersection(self, other: BlockRange) -> Option<BlockRange> {
        let range = BlockRange::new(self.start.max(other.start), self.end.min(other.end));
        (!range.is_empty()).then_some(range)
    }

    /// The blocks, one by one.
    pub fn blocks(self) -> impl Iterator<Item = BlockIndex> {
        (self.start..self.end).map(BlockIndex)
    }

    /// Cuts the range at multiples of `unit` blocks.
    pub fn pieces(self, unit: u64) -> impl Iterator<Item = BlockRange> {
        let mut at = self.start;
        core::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let next = ((at / unit + 1) * unit).min(self.end);
            let piece = BlockRange::new(at, next);
            at = next;
            Some(piece)
        })
    }
}

/// Size of the regions of a volume's write-intent bitmap: 4 MiB, doubled for each doubling of the volume beyond 1 TiB.
#[must_use]
pub const fn region_blocks(volume_blocks: u64) -> u64 {
    const TIB_BLOCKS: u64 = (1 << 40) / BLOCK_BYTES;
    let mut blocks = CHUNK_BLOCKS;
    let mut limit = TIB_BLOCKS;
    while volume_blocks > limit && limit < 1 << 60 {
        blocks *= 2;
        limit *= 2;
    }
    blocks
}

/// The regions that `range` touches, for regions of `unit` blocks.
pub fn regions(range: BlockRange, unit: u64) -> impl Iterator<Item = RegionIndex> {
    let last = if range.is_empty() { range.start / unit } else { (range.end - 1) / unit + 1 };
    (range.start / unit..last).map(RegionIndex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cut_at_units_and_cover_the_range() {
        let pieces: alloc::vec::Vec<_> = BlockRange::new(1000, 3000).pieces(1024).collect();
        assert_eq!(pieces, [BlockRange::new(1000, 1024), BlockRange::new(1024, 2048), BlockRange::new(2048, 3000)]);
    }

    #[test]
    fn regions_double_beyond_one_tebibyte() {
        assert_eq!(region_blocks(1 << 28), 1024);
        assert_eq!(region_blocks((1 << 28) + 1), 2048);
        assert_eq!(region_blocks(1 << 30), 4096);
    }

    #[test]
    fn a_range_touches_every_region_that_holds_one_of_its_blocks() {
        assert_eq!(
            regions(BlockRange::new(1023, 1025), 1024).collect::<alloc::vec::Vec<_>>(),
            [RegionIndex(0), RegionIndex(1)]
        );
        assert_eq!(regions(BlockRange::new(0, 1024), 1024).count(), 1);
    }
}

//! Memory for the data of requests in flight: a buddy allocator over one mapping, so that a thousand small requests and
//! a few large ones share one bounded budget.

use std::io;

use crate::front::memory::{PAGE_BYTES, Region};

/// Largest block: 2^8 pages, 1 MiB.
const ORDER_MAX: usize = 8;

/// Largest allocation, in bytes.
pub(super) const SLAB_BLOCK_BYTES_MAX: usize = PAGE_BYTES << ORDER_MAX;

#[derive(Debug)]
pub(super) struct Slab {
    region: Region,
    /// Free blocks of each order, one bit per block.
    free: Vec<Vec<u64>>,
}

/// An allocated block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    index: u32,
    order: u8,
}

impl Slab {
    /// A slab of `bytes`, rounded up to whole largest blocks.
    pub(super) fn new(bytes: usize) -> io::Result<Slab> {
        let blocks = bytes.div_ceil(SLAB_BLOCK_BYTES_MAX).max(1);
        let region = Region::map(blocks * SLAB_BLOCK_BYTES_MAX)?;
        let bits = |order: usize| blocks << (ORDER_MAX - order);
        let mut free: Vec<Vec<u64>> = (0..=ORDER_MAX).map(|order| vec![0; bits(order).div_ceil(64)]).collect();
        for block in 0..blocks {
            free[ORDER_MAX][block / 64] |= 1 << (block % 64);
        }
        Ok(Slab { region, free })
    }

    /// A block of at least `len` bytes, or `None` if memory has run out for now. Lowest addresses first: the same
    /// memory stays warm.
    pub(super) fn allocate(&mut self, len: usize) -> Option<Block> {
        let pages = len.div_ceil(PAGE_BYTES).max(1);
        let order = pages.next_power_of_two().trailing_zeros() as usize;
        let found = (order..=ORDER_MAX).find_map(|have| self.take_first(have).map(|index| (have, index)));
        let (mut have, mut index) = found?;
        while have > order {
            have -= 1;
            index *= 2;
            self.set_free(have, index + 1);
        }
        let index = u32::try_from(index).expect("a slab has fewer than 2^32 pages");
        Some(Block { index, order: u8::try_from(have).expect("orders are below nine") })
    }

    /// Gives a block back.
    pub(super) fn release(&mut self, block: Block) {
        let mut order = usize::from(block.order);
        let mut index = block.index as usize;
        while order < ORDER_MAX && self.is_free(order, index ^ 1) {
            self.clear_free(order, index ^ 1);
            index /= 2;
            order += 1;
        }
        self.set_free(order, index);
    }

    pub(super) fn address(&self, block: Block) -> *mut u8 {
        self.region.at((block.index as usize) * (PAGE_BYTES << block.order))
    }

    pub(super) fn leak(&mut self) {
        self.region.leak();
    }

    fn take_first(&mut self, order: usize) -> Option<usize> {
        let word = self.free[order].iter().position(|bits| *bits != 0)?;
        let bit = self.free[order][word].trailing_zeros() as usize;
        self.free[order][word] &= !(1 << bit);
        Some(word * 64 + bit)
    }

    fn is_free(&self, order: usize, index: usize) -> bool {
        self.free[order].get(index / 64).is_some_and(|bits| bits & (1 << (index % 64)) != 0)
    }

    fn set_free(&mut self, order: usize, index: usize) {
        assert!(!self.is_free(order, index), "block {index} of order {order} freed twice");
        self.free[order][index / 64] |= 1 << (index % 64);
    }

    fn clear_free(&mut self, order: usize, index: usize) {
        self.free[order][index / 64] &= !(1 << (index % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_memory_comes_back_as_largest_blocks() {
        let mut slab = Slab::new(2 << 20).unwrap();
        let small: Vec<Block> = (0..512).map(|_| slab.allocate(4096).unwrap()).collect();
        assert_eq!(slab.allocate(1), None);
        small.into_iter().for_each(|block| slab.release(block));
        assert!(slab.allocate(1 << 20).is_some() && slab.allocate(1 << 20).is_some());
        assert_eq!(slab.allocate(4096), None);
    }

    proptest! {
        #[test]
        fn blocks_never_overlap(sizes in proptest::collection::vec((1usize..=1 << 20, any::<bool>()), 1..200)) {
            let mut slab = Slab::new(4 << 20).unwrap();
            let mut live: Vec<(Block, usize, usize)> = Vec::new();
            for (len, release) in sizes {
                if release && !live.is_empty() {
                    let (block, _, _) = live.swap_remove(len % live.len());
                    slab.release(block);
                    continue;
                }
                let Some(block) = slab.allocate(len) else { continue };
                let start = slab.address(block) as usize;
                prop_assert!(start.is_multiple_of(PAGE_BYTES));
                for (_, other, other_len) in &live {
                    prop_assert!(start + len <= *other || other + other_len <= start);
                }
                live.push((block, start, len));
            }
        }
    }
}

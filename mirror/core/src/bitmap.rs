//! Sparse sets of blocks.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::range::{BlockRange, CHUNK_BLOCKS};

/// Words of 64 blocks in one chunk.
pub const CHUNK_WORDS: usize = 16;

/// One chunk of a [`BlockSet`]: a bit for each of [`CHUNK_BLOCKS`] blocks.
pub type Chunk = [u64; CHUNK_WORDS];

/// A sparse set of blocks, kept as chunks of 4 MiB. Memory is in proportion to the chunks that hold something.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BlockSet {
    chunks: BTreeMap<u64, Chunk>,
}

impl BlockSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> BlockSet {
        BlockSet { chunks: BTreeMap::new() }
    }

    /// True if no block is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Number of blocks in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.chunks.values().flatten().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Adds all blocks of `range`.
    pub fn insert(&mut self, range: BlockRange) {
        for piece in range.pieces(CHUNK_BLOCKS) {
            let chunk = self.chunks.entry(piece.start / CHUNK_BLOCKS).or_default();
            for_words(piece, |word, mask| chunk[word] |= mask);
        }
    }

    /// Removes all blocks of `range`.
    pub fn remove(&mut self, range: BlockRange) {
        if self.chunks.is_empty() {
            return;
        }
        if range.len() > CHUNK_BLOCKS * 4 {
            // A large range over a sparse set: walk what is there instead of what is asked.
            let keys: Vec<u64> = self
                .chunks
                .range(range.start / CHUNK_BLOCKS..=(range.end - 1) / CHUNK_BLOCKS)
                .map(|(k, _)| *k)
                .collect();
            for key in keys {
                let whole = BlockRange::new(key * CHUNK_BLOCKS, (key + 1) * CHUNK_BLOCKS);
                if let Some(part) = whole.intersection(range) {
                    self.remove_within_chunk(part);
                }
            }
            return;
        }
        for piece in range.pieces(CHUNK_BLOCKS) {
            self.remove_within_chunk(piece);
        }
    }

    fn remove_within_chunk(&mut self, piece: BlockRange) {
        let key = piece.start / CHUNK_BLOCKS;
        if let Some(chunk) = self.chunks.get_mut(&key) {
            for_words(piece, |word, mask| chunk[word] &= !mask);
            if chunk.iter().all(|word| *word == 0) {
                self.chunks.remove(&key);
            }
        }
    }

    /// True if any block of `range` is in the set.
    #[must_use]
    pub fn intersects(&self, range: BlockRange) -> bool {
        if self.chunks.is_empty() || range.is_empty() {
            return false;
        }
        self.next_in(range).is_some()
    }

    /// True if all blocks of `range` are in the set.
    #[must_use]
    pub fn contains(&self, range: BlockRange) -> bool {
        range.pieces(CHUNK_BLOCKS).all(|piece| {
            let Some(chunk) = self.chunks.get(&(piece.start / CHUNK_BLOCKS)) else { return false };
            let mut all = true;
            for_words(piece, |word, mask| all &= chunk[word] & mask == mask);
            all
        })
    }

    /// The first run of blocks of the set within `range`, cut at chunk borders.
    #[must_use]
    pub fn next_in(&self, range: BlockRange) -> Option<BlockRange> {
        if range.is_empty() {
            return None;
        }
        let first = range.start / CHUNK_BLOCKS;
        let last = (range.end - 1) / CHUNK_BLOCKS;
        for (key, chunk) in self.chunks.range(first..=last) {
            let base = key * CHUNK_BLOCKS;
            let whole = BlockRange::new(base, base + CHUNK_BLOCKS).intersection(range)?;
            let mut at = whole.start;
            while at < whole.end {
                if !bit(chunk, at - base) {
                    at += 1;
                    continue;
                }
                let start = at;
                while at < whole.end && bit(chunk, at - base) {
                    at += 1;
                }
                return Some(BlockRange::new(start, at));
            }
        }
        None
    }

    /// All runs of blocks, in order, cut at chunk borders.
    pub fn ranges(&self) -> impl Iterator<Item = BlockRange> + '_ {
        let mut rest = BlockRange::new(0, u64::MAX);
        core::iter::from_fn(move || {
            let next = self.next_in(rest)?;
            rest.start = next.end;
            Some(next)
        })
    }

    /// Adds every block of `other`.
    pub fn union(&mut self, other: &BlockSet) {
        for (key, chunk) in &other.chunks {
            let mine = self.chunks.entry(*key).or_default();
            for (word, more) in mine.iter_mut().zip(chunk) {
                *word |= more;
            }
        }
    }

    /// Removes every block of `other`.
    pub fn subtract(&mut self, other: &BlockSet) {
        for (key, chunk) in &other.chunks {
            if let Some(mine) = self.chunks.get_mut(key) {
                for (word, less) in mine.iter_mut().zip(chunk) {
                    *word &= !less;
                }
                if mine.iter().all(|word| *word == 0) {
                    self.chunks.remove(key);
                }
            }
        }
    }

    /// The chunks that hold a block, by number.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, &Chunk)> {
        self.chunks.iter().map(|(key, chunk)| (*key, chunk))
    }

    /// The chunk with this number; all zero if nothing is in it.
    #[must_use]
    pub fn chunk(&self, number: u64) -> Chunk {
        self.chunks.get(&number).copied().unwrap_or_default()
    }

    /// Replaces the chunk with this number.
    pub fn set_chunk(&mut self, number: u64, chunk: Chunk) {
        if chunk.iter().all(|word| *word == 0) {
            self.chunks.remove(&number);
        } else {
            self.chunks.insert(number, chunk);
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.chunks.clear();
    }
}

impl FromIterator<BlockRange> for BlockSet {
    fn from_iter<I: IntoIterator<Item = BlockRange>>(ranges: I) -> BlockSet {
        let mut set = BlockSet::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

fn bit(chunk: &Chunk, at: u64) -> bool {
    chunk[(at / 64) as usize] >> (at % 64) & 1 == 1
}

/// Calls `f(word, mask)` for each word of the chunk that `piece` (within one chunk) touches.
fn for_words(piece: BlockRange, mut f: impl FnMut(usize, u64)) {
    let base = piece.start / CHUNK_BLOCKS * CHUNK_BLOCKS;
    let (mut at, end) = (piece.start - base, piece.end - base);
    while at < end {
        let word = at / 64;
        let stop = end.min((word + 1) * 64);
        let width = stop - at;
        let mask = if width == 64 { u64::MAX } else { ((1 << width) - 1) << (at % 64) };
        f(word as usize, mask);
        at = stop;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_numbers(ops in proptest::collection::vec((any::<bool>(), 0u64..6000, 1u64..5000), 1..40)) {
            let mut set = BlockSet::new();
            let mut oracle = BTreeSet::new();
            for (add, start, len) in ops {
                let range = BlockRange::new(start, start + len);
                prop_assert_eq!(set.intersects(range), (range.start..range.end).any(|b| oracle.contains(&b)));
                prop_assert_eq!(set.contains(range), (range.start..range.end).all(|b| oracle.contains(&b)));
                if add {
                    set.insert(range);
                    oracle.extend(range.start..range.end);
                } else {
                    set.remove(range);
                    for block in range.start..range.end { oracle.remove(&block); }
                }
                prop_assert_eq!(set.count(), oracle.len() as u64);
            }
            let listed: Vec<u64> = set.ranges().flat_map(|r| r.start..r.end).collect();
            prop_assert_eq!(listed, oracle.into_iter().collect::<Vec<_>>());
        }
    }
}

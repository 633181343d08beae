//! Whole extents of a volume: the unit in which grants are given.

use alloc::vec::Vec;

use crate::range::BlockRange;

/// The smallest run of whole extents that covers the range.
pub(super) fn widen(range: BlockRange, unit: u64) -> BlockRange {
    BlockRange::new(range.start / unit * unit, range.end.div_ceil(unit) * unit)
}

/// True for a run of whole extents, at least one.
pub(super) fn is_whole(range: BlockRange, unit: u64) -> bool {
    !range.is_empty() && range.start.is_multiple_of(unit) && range.end.is_multiple_of(unit)
}

/// Disjoint ranges in rising order, each with something that belongs to it. Neighbours with equal values are one.
#[derive(Clone, Debug)]
pub(super) struct RangeMap<V> {
    entries: Vec<(BlockRange, V)>,
}

impl<V> Default for RangeMap<V> {
    fn default() -> RangeMap<V> {
        RangeMap { entries: Vec::new() }
    }
}

impl<V: Copy + PartialEq> RangeMap<V> {
    /// Everything, in order.
    pub fn iter(&self) -> impl Iterator<Item = (BlockRange, V)> + '_ {
        self.entries.iter().copied()
    }

    /// The parts of the entries that lie within the range, in order.
    pub fn within(&self, range: BlockRange) -> impl Iterator<Item = (BlockRange, V)> + '_ {
        let from = self.entries.partition_point(|(entry, _)| entry.end <= range.start);
        let inside = self.entries[from..].iter().take_while(move |(entry, _)| entry.start < range.end);
        inside.filter_map(move |(entry, value)| entry.intersection(range).map(|part| (part, *value)))
    }

    /// The longest run of entries around `range` that leaves no gap; `None` if some of the range is missing.
    pub fn run_around(&self, range: BlockRange) -> Option<BlockRange> {
        let at = self.entries.partition_point(|(entry, _)| entry.end <= range.start);
        let mut run = self.entries.get(at).map(|(entry, _)| *entry).filter(|entry| entry.start <= range.start)?;
        for (entry, _) in self.entries[..at].iter().rev() {
            if entry.end != run.start {
                break;
            }
            run.start = entry.start;
        }
        for (entry, _) in &self.entries[at + 1..] {
            if entry.start != run.end {
                break;
            }
            run.end = entry.end;
        }
        run.contains(range).then_some(run)
    }

    /// Gives the range this value, whatever was there.
    pub fn set(&mut self, range: BlockRange, value: V) {
        self.remove(range);
        let at = self.entries.partition_point(|(entry, _)| entry.end <= range.start);
        let before = at.checked_sub(1).filter(|i| self.entries[*i].0.end == range.start && self.entries[*i].1 == value);
        let after =
            Some(at).filter(|i| self.entries.get(*i).is_some_and(|(entry, v)| entry.start == range.end && *v == value));
        match (before, after) {
            (Some(before), Some(after)) => {
                self.entries[before].0.end = self.entries[after].0.end;
                self.entries.remove(after);
            }
            (Some(before), None) => self.entries[before].0.end = range.end,
            (None, Some(after)) => self.entries[after].0.start = range.start,
            (None, None) => self.entries.insert(at, (range, value)),
        }
    }

    /// Empties the range.
    pub fn remove(&mut self, range: BlockRange) {
        let from = self.entries.partition_point(|(entry, _)| entry.end <= range.start);
        let to = self.entries.partition_point(|(entry, _)| entry.start < range.end);
        if from >= to {
            return;
        }
        let mut rest = Vec::new();
        for (entry, value) in &self.entries[from..to] {
            for part in [BlockRange::new(entry.start, range.start), BlockRange::new(range.end, entry.end)] {
                if !part.is_empty() && entry.contains(part) {
                    rest.push((part, *value));
                }
            }
        }
        self.entries.splice(from..to, rest);
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn whole_extents_cover_the_range() {
        assert_eq!(widen(BlockRange::new(5, 17), 16), BlockRange::new(0, 32));
        assert_eq!(widen(BlockRange::new(16, 32), 16), BlockRange::new(16, 32));
        assert!(is_whole(BlockRange::new(16, 48), 16));
        assert!(
            [(16, 16), (0, 17), (1, 16)].into_iter().all(|(start, end)| !is_whole(BlockRange::new(start, end), 16))
        );
    }

    proptest! {
        #[test]
        fn agrees_with_a_map_of_blocks(ops in proptest::collection::vec((0u8..4, 0u64..60, 1u64..20), 1..60)) {
            let mut map = RangeMap::default();
            let mut oracle: BTreeMap<u64, u8> = BTreeMap::new();
            for (value, start, len) in ops {
                let range = BlockRange::new(start, start + len);
                if value == 0 {
                    map.remove(range);
                    oracle.retain(|block, _| !(range.start..range.end).contains(block));
                } else {
                    map.set(range, value);
                    oracle.extend((range.start..range.end).map(|block| (block, value)));
                }
                let listed: Vec<(u64, u8)> =
                    map.iter().flat_map(|(r, v)| (r.start..r.end).map(move |block| (block, v))).collect();
                prop_assert_eq!(&listed, &oracle.clone().into_iter().collect::<Vec<_>>());
                let whole = (range.start..range.end).all(|block| oracle.contains_key(&block));
                let run = map.run_around(range);
                prop_assert_eq!(run.is_some(), whole);
                if let Some(run) = run {
                    prop_assert!((run.start..run.end).all(|block| oracle.contains_key(&block)));
                    prop_assert!(run.start == 0 || !oracle.contains_key(&(run.start - 1)));
                    prop_assert!(!oracle.contains_key(&run.end));
                }
                let parts: Vec<u64> = map.within(range).flat_map(|(r, _)| r.start..r.end).collect();
                prop_assert_eq!(parts, oracle.range(range.start..range.end).map(|(b, _)| *b).collect::<Vec<_>>());
            }
        }
    }
}

//! Dirty bitmaps of absent peers, and the clearing of write intent.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::Replica;
use super::flush::NOBODY;
use super::view::{Slots, View};
use crate::bitmap::BlockSet;
use crate::ids::{Epoch, NodeId, RegionIndex, Time};
use crate::meta::MetaUpdate;
use crate::range::{BlockRange, CHUNK_BLOCKS, region_blocks};

/// Bound on the set bits of the write-intent bitmap: what has to be compared after a crash.
const MAX_INTENT_REGIONS: usize = 4096;

/// Chunks of dirty maps written to the metadata in one sweep.
const MAX_CHUNKS_PER_SWEEP: usize = 1024;

/// The blocks of a region.
pub(super) fn region_range(region: RegionIndex, unit: u64) -> BlockRange {
    BlockRange::new(region.0 * unit, (region.0 + 1) * unit)
}

impl Replica {
    /// Records a write in the map of every absent peer: in memory now, durable before the region's intent clears.
    pub(super) fn note_dirty(&mut self, range: BlockRange) {
        if self.meta.dirty.is_empty() {
            return;
        }
        let only_writer = self.broken(broken!(DirtyOnlyAtWriter)) && !self.is_writer();
        if only_writer {
            return;
        }
        let me = self.node;
        let view = &self.view;
        // A joining peer gets the write itself; one that the view on its way leaves out may not.
        let reached = view.written() & self.adopting.as_ref().map_or(Slots::MAX, |a| a.view.written());
        for (peer, map) in &mut self.meta.dirty {
            if *peer == me || reached & view.bit(*peer) != 0 {
                continue;
            }
            map.copy.insert(range);
            for piece in range.pieces(CHUNK_BLOCKS) {
                self.dirty_changed.insert((*peer, piece.start / CHUNK_BLOCKS));
            }
        }
    }

    /// Updates that make the map of every peer that `next` leaves out begin (or go on) durably.
    pub(super) fn plan_dirty_for(&mut self, next: &View) -> Vec<MetaUpdate> {
        let mut updates = Vec::new();
        let me = self.node;
        let listed = next.is_in_sync(me, self.incarnation);
        if listed && self.meta.dirty.contains_key(&me) {
            updates.push(MetaUpdate::DirtyEnd(me));
        }
        let kept_of_removed = self.broken(broken!(RemovedComesBack));
        for peer in self.meta.dirty.keys().filter(|n| **n != me && !next.config.replicas.contains(n)) {
            // Nothing is owed to a replica that never comes back.
            if !kept_of_removed {
                updates.push(MetaUpdate::DirtyEnd(*peer));
            }
        }
        let others: Vec<NodeId> = next.config.replicas.iter().copied().filter(|n| *n != me).collect();
        let was_in_sync = self.view.config.in_sync.contains_key(&me) && self.view.in_sync & self.view.bit(me) != 0;
        for peer in others {
            let bit = next.bit(peer);
            if next.in_sync & bit != 0 {
                if self.meta.dirty.contains_key(&peer) {
                    updates.push(MetaUpdate::DirtyEnd(peer));
                }
                continue;
            }
            if next.joining & bit != 0 || !listed {
                continue;
            }
            self.plan_map(peer, next, was_in_sync, &mut updates);
        }
        updates
    }

    fn plan_map(&mut self, peer: NodeId, next: &View, was_in_sync: bool, updates: &mut Vec<MetaUpdate>) {
        let left = next.left.iter().any(|(n, _)| *n == peer);
        // A joining replica that leaves was in sync no later than before.
        let left_in_sync = left && next.config.in_sync.contains_key(&peer);
        let since = if left_in_sync { Some(next.config.epoch) } else { next.config.last_in_sync.get(&peer).copied() };
        let was_written = self.view.written() & self.view.bit(peer) != 0;
        let was_member = self.view.config.in_sync.contains_key(&peer) || self.view.config.joining.contains_key(&peer);
        let have = self.meta.dirty.get(&peer).map(|m| m.since);
        if have != since || since.is_none() {
            if self.broken(broken!(DirtyGapAccepted)) && have.is_some() {
                let map = self.meta.dirty.get_mut(&peer).expect("have");
                map.since = since.unwrap_or_default();
            } else if was_in_sync && self.view.config.in_sync.contains_key(&peer) {
                // Begun at the peer's left mark, in a view that still listed it: it goes on under the number of the swap
                // that removes it.
                let begun = self.meta.dirty.remove(&peer).filter(|_| self.view.left.iter().any(|(n, _)| *n == peer));
                let begin = MetaUpdate::DirtyBegin { peer, since: since.unwrap_or_default() };
                self.meta.apply(&begin);
                updates.push(begin);
                if let Some(map) = begun {
                    self.owe(peer, &map.copy, &map.compare, updates);
                }
            } else {
                // Part of what this peer lacks was written while this node did not take part: the map would have a gap.
                if have.is_some() {
                    updates.push(MetaUpdate::DirtyEnd(peer));
                }
                return;
            }
        }
        if left && self.broken(broken!(StopClearsSurvivorsMap)) {
            return;
        }
        if !(was_written || was_member) || self.broken(broken!(DirtyOnlyAtWriter)) && !self.is_writer() {
            return;
        }
        // What is not committed the peer may lack; what is not confirmed it most likely has.
        let mut copy = BlockSet::new();
        for entry in self.applied.iter() {
            copy.insert(entry.range);
        }
        for (_, write) in self.window.iter() {
            copy.insert(write.range);
        }
        let mut compare = self.found_intent_owed();
        compare.union(&self.unconfirmed.all());
        self.owe(peer, &copy, &compare, updates);
    }

    /// Intent that was found at start: whoever is absent may lack what it covers.
    fn found_intent_owed(&self) -> BlockSet {
        if self.broken(broken!(IntentClearedAfterRestart)) { BlockSet::new() } else { self.found_intent.clone() }
    }

    /// ORs blocks into the map of a peer, durably.
    fn owe(&mut self, peer: NodeId, copy: &BlockSet, compare: &BlockSet, updates: &mut Vec<MetaUpdate>) {
        let Some(map) = self.meta.dirty.get_mut(&peer) else { return };
        map.copy.union(copy);
        map.compare.union(compare);
        let chunks: BTreeSet<u64> = copy.chunks().chain(compare.chunks()).map(|(n, _)| n).collect();
        for chunk in chunks {
            updates.push(MetaUpdate::DirtyChunk {
                peer,
                chunk,
                copy: map.copy.chunk(chunk),
                compare: map.compare.chunk(chunk),
            });
        }
    }

    /// Intent found on disk at start counts as unconfirmed, and may be owed to whoever is absent.
    pub(super) fn recover_intent(&mut self) {
        let unit = region_blocks(self.view.config.size_blocks);
        let size = self.view.config.size_blocks;
        for region in &self.meta.intent {
            if let Some(range) = region_range(*region, unit).intersection(BlockRange::new(0, size)) {
                self.found_intent.insert(range);
                self.region_used.insert(*region, self.now);
            }
        }
        if self.found_intent.is_empty() || self.broken(broken!(IntentClearedAfterRestart)) {
            return;
        }
        self.suspect = self.found_intent.clone();
        let found = self.found_intent.clone();
        self.unconfirmed.open(NOBODY).union(&found);
        self.unconfirmed.since = Some(self.now);
        let me = self.node;
        let peers: Vec<NodeId> = self.meta.dirty.keys().copied().filter(|n| *n != me).collect();
        let mut updates = Vec::new();
        let compare = self.found_intent_owed();
        for peer in peers {
            self.owe(peer, &BlockSet::new(), &compare, &mut updates);
        }
        self.persist(updates, None);
    }

    /// Maintenance: makes dirty chunks durable, and clears the intent of regions that need it no more.
    pub(super) fn sweep(&mut self) {
        if self.sweep_at > self.now {
            return;
        }
        self.sweep_at = Time::NEVER;
        let settled = self.view.is_in_sync(self.node, self.incarnation) && self.reports_in && self.reconciled;
        if !settled || self.adopting.is_some() || self.meta.intent.is_empty() {
            return;
        }
        let crowded = self.meta.intent.len() > MAX_INTENT_REGIONS;
        let idle = if crowded { 0 } else { self.timing.background_flush };
        let unit = region_blocks(self.view.config.size_blocks);
        let mut clear: Vec<RegionIndex> = Vec::new();
        for region in &self.meta.intent {
            let used = self.region_used.get(region).copied().unwrap_or_default();
            if self.now.since(used) < idle || self.is_region_busy(region_range(*region, unit)) {
                continue;
            }
            clear.push(*region);
        }
        if clear.is_empty() {
            self.sweep_at = self.now.after(self.timing.background_flush);
            return;
        }
        self.clear_intent(clear, unit);
    }

    fn is_region_busy(&self, range: BlockRange) -> bool {
        let unconfirmed = self.unconfirmed.intersects(range) && !self.broken(broken!(IntentClearedBeforeFlush));
        unconfirmed
            || self.applied.overlaps(range)
            || self.window.overlaps(range)
            || self.disk.overlapping_write(range).is_some()
            || self.held.iter().any(|h| h.range.overlaps(range))
            || self.suspect.intersects(range)
    }

    fn clear_intent(&mut self, mut clear: Vec<RegionIndex>, unit: u64) {
        let mut updates = Vec::new();
        let mut chunks = 0;
        let mut kept = clear.len();
        for (at, region) in clear.iter().enumerate() {
            if chunks >= MAX_CHUNKS_PER_SWEEP {
                kept = at;
                break;
            }
            let range = region_range(*region, unit);
            self.found_intent.remove(range);
            if self.broken(broken!(IntentClearedBeforeDirtyDurable)) {
                continue;
            }
            let (from, to) = (range.start / CHUNK_BLOCKS, range.end / CHUNK_BLOCKS);
            let owed: Vec<(NodeId, u64)> =
                self.dirty_changed.iter().filter(|(_, c)| (from..to).contains(c)).copied().collect();
            for (peer, chunk) in owed {
                self.dirty_changed.remove(&(peer, chunk));
                if let Some(map) = self.meta.dirty.get(&peer) {
                    chunks += 1;
                    let (copy, compare) = (map.copy.chunk(chunk), map.compare.chunk(chunk));
                    updates.push(MetaUpdate::DirtyChunk { peer, chunk, copy, compare });
                }
            }
        }
        if kept < clear.len() {
            clear.truncate(kept);
            self.sweep_at = self.now;
        } else {
            self.sweep_at = self.now.after(self.timing.background_flush);
        }
        for region in &clear {
            self.region_used.remove(region);
            self.intent_pending.remove(region);
        }
        // One update after the other in one log: the dirty chunks are durable no later than the cleared intent.
        updates.push(MetaUpdate::IntentClear(clear));
        self.persist(updates, None);
    }

    /// Last epoch in which this peer was in sync, as the configuration says.
    pub(super) fn last_in_sync(&self, node: NodeId) -> Option<Epoch> {
        self.view.config.last_in_sync.get(&node).copied()
    }
}

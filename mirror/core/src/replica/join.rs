//! Resync, both ends: a joining replica pulls, in rounds, what it lacks; its source answers.
//!
//! ```text
//! first swap --all installed, settled--> map --> copy and compare --nothing left--> flush --> second swap
//!      ^------------------------ each change of epoch or source: a new round --------------'
//! ```

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::Replica;
use super::apply::Purpose;
use super::change::Change;
use super::flush::NOBODY;
use super::intent::region_range;
use super::view::lists;
use crate::bitmap::{BlockSet, Chunk};
use crate::effect::{Effect, Event};
use crate::ids::{BufId, Digest, IoId, NodeId, ReadId, Round, Time};
use crate::message::Message;
use crate::meta::MetaUpdate;
use crate::range::{BlockRange, CHUNK_BLOCKS, region_blocks};

/// Blocks of one pull (1 MiB).
const PULL_BLOCKS: u64 = 256;

/// Pulls under way at once, without and with application I/O.
const PULLS_IDLE: usize = 8;
const PULLS_BUSY: usize = 2;

/// Application I/O within this time goes first.
const BUSY_NANOS: u64 = 20 * crate::timing::MS;

/// Chunks of a dirty map in one frame.
const CHUNKS_PER_PART: usize = 256;

/// After so many settled ranges (at most 256 MiB) they are flushed and named, so that an interrupted resync resumes.
const CHECKPOINT_RANGES: usize = 256;

/// Ranges that are named durable in one frame.
const MAX_NAMED: usize = 1024;

/// A pull or comparison under way.
#[derive(Clone, Debug)]
struct Pull {
    range: BlockRange,
    compare: bool,
    /// Pieces that the disk has not written yet.
    writing: usize,
    own: Option<Vec<Digest>>,
    theirs: Option<Vec<Digest>>,
}

/// Where a round is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Waiting,
    Map { peer: NodeId, from: u64 },
    Pulling,
    Flushing,
    Done,
}

/// The joining replica's round.
#[derive(Clone, Debug)]
pub(super) struct Join {
    round: Round,
    source: NodeId,
    phase: Phase,
    todo_copy: BlockSet,
    todo_compare: BlockSet,
    touched: BlockSet,
    absent: VecDeque<NodeId>,
    pulls: BTreeMap<ReadId, Pull>,
    /// Settled since the last flush: to be named to the source.
    settled: Vec<BlockRange>,
    /// Settled before the flush that is under way.
    flushing: Option<Vec<BlockRange>>,
    /// Operations below this one have to end before that flush: a write that touched a range first is all that there is of it.
    lands: Option<IoId>,
    asked_at: Time,
    total_blocks: u64,
}

/// What the source remembers of those that pull from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    /// Questions that wait for writes of before the round.
    waiting: Vec<(NodeId, Round, u64, NodeId)>,
}

impl Replica {
    /// Touched by an application write: a pulled copy would be older.
    pub(super) fn note_touched(&mut self, range: BlockRange) {
        self.busy_at = self.now;
        let over_newer = self.broken(broken!(PullOverNewerWrite));
        if let Some(join) = &mut self.join {
            if over_newer {
                return;
            }
            join.touched.insert(range);
            join.todo_copy.remove(range);
            join.todo_compare.remove(range);
        }
    }

    /// A new view is installed: whoever joins begins a new round with nothing touched.
    pub(super) fn restart_join(&mut self) {
        let before = self.join.take();
        if !self.view.config.is_joining(self.node, self.incarnation)
            || self.view.joining & self.view.bit(self.node) == 0
        {
            if before.is_some() && self.view.is_in_sync(self.node, self.incarnation) {
                self.out.push(Effect::Event(Event::ResyncFinished { copied: self.counters.resync_copied_bytes }));
            }
            return;
        }
        let source = self.view.config.joining[&self.node].source;
        self.rounds += 1;
        let mut join = Join {
            round: Round(self.rounds),
            source,
            phase: Phase::Waiting,
            todo_copy: BlockSet::new(),
            todo_compare: BlockSet::new(),
            touched: BlockSet::new(),
            absent: VecDeque::new(),
            pulls: BTreeMap::new(),
            settled: Vec::new(),
            flushing: None,
            lands: None,
            asked_at: self.now,
            total_blocks: 0,
        };
        if let Some(before) = before
            && self.broken(broken!(TouchedAcrossSources))
        {
            join.touched = before.touched;
        }
        self.join = Some(join);
        self.start_join_round();
    }

    pub(super) fn stop_join(&mut self) {
        self.join = None;
    }

    /// All members send to this replica now, and what was in flight is settled: the round begins.
    pub(super) fn start_join_round(&mut self) {
        if !self.reports_in || !self.reconciled {
            return;
        }
        let size = self.view.config.size_blocks;
        let unit = region_blocks(size);
        // It was empty when it was added, or was given up: whatever the source's map says.
        let everything = self.meta.dirty.contains_key(&self.node) && !self.broken(broken!(EmptyByBitmap));
        let own_kept = self.broken(broken!(OwnUnsentWritesKept));
        let me = self.node;
        let Some(join) = self.join.as_mut().filter(|j| j.phase == Phase::Waiting) else { return };
        if everything {
            join.todo_compare.insert(BlockRange::new(0, size));
        }
        // What this replica may hold and nobody else has.
        for region in self.meta.intent.iter().filter(|_| !own_kept) {
            if let Some(range) = region_range(*region, unit).intersection(BlockRange::new(0, size)) {
                join.todo_compare.insert(range);
            }
        }
        let touched = join.touched.clone();
        join.todo_compare.subtract(&touched);
        join.phase = Phase::Map { peer: me, from: 0 };
        self.ask_map();
    }

    fn ask_map(&mut self) {
        let now = self.now;
        let Some(join) = &mut self.join else { return };
        if let Phase::Map { peer, from } = join.phase {
            join.asked_at = now;
            let (round, source) = (join.round, join.source);
            self.send(source, Message::MapAsk { round, from, peer }, None);
        }
    }

    /// The source's side: the map is answered once all writes of before the round have finished.
    pub(super) fn on_map_ask(&mut self, from_node: NodeId, round: Round, from: u64, peer: NodeId) {
        self.source.waiting.retain(|(n, ..)| *n != from_node);
        self.source.waiting.push((from_node, round, from, peer));
        self.serve_map_asks();
    }

    pub(super) fn serve_map_asks(&mut self) {
        if self.source.waiting.is_empty() || !self.reports_in || !self.reconciled || self.adopting.is_some() {
            return;
        }
        let waiting = core::mem::take(&mut self.source.waiting);
        for (node, round, from, peer) in waiting {
            self.send_map(node, round, from, peer);
        }
    }

    fn send_map(&mut self, node: NodeId, round: Round, from: u64, peer: NodeId) {
        if !self.view.is_in_sync(self.node, self.incarnation) || self.view.joining & self.view.bit(node) == 0 {
            return;
        }
        let last = self.last_in_sync(peer);
        let since = last.unwrap_or_default();
        let gap = self.broken(broken!(DirtyGapAccepted));
        let map = self.meta.dirty.get(&peer).filter(|m| Some(m.since) == last || gap);
        let mut chunks: Vec<(u64, Chunk, Chunk)> = Vec::new();
        let mut next = None;
        if let Some(map) = map {
            let first = from / CHUNK_BLOCKS;
            let mut numbers: Vec<u64> =
                map.copy.chunks().chain(map.compare.chunks()).map(|(n, _)| n).filter(|n| *n >= first).collect();
            numbers.sort_unstable();
            numbers.dedup();
            if numbers.len() > CHUNKS_PER_PART {
                next = Some(numbers[CHUNKS_PER_PART] * CHUNK_BLOCKS);
                numbers.truncate(CHUNKS_PER_PART);
            }
            chunks = numbers.into_iter().map(|n| (n, map.copy.chunk(n), map.compare.chunk(n))).collect();
        }
        let others = |n: &&NodeId| **n != node && **n != self.node && self.view.written() & self.view.bit(**n) == 0;
        let absent = self.meta.dirty.keys().filter(others).copied().collect();
        let valid = map.is_some();
        self.send(node, Message::MapPart { round, peer, valid, since, chunks, next, absent }, None);
    }

    /// A part of a map came: the own one is work to do, those of others are taken over, durably.
    pub(super) fn on_map_part(&mut self, part: Message) {
        let Message::MapPart { round, peer, valid, since, chunks, next, absent } = part else { return };
        let size = self.view.config.size_blocks;
        let me = self.node;
        let mut updates = Vec::new();
        // Believes its own map because the stamp is right, although others wrote while it was away.
        let own_kept =
            self.broken(broken!(DirtyGapAccepted)) && self.meta.dirty.get(&peer).map(|m| m.since) == Some(since);
        let Some(join) = self.join.as_mut().filter(|j| j.round == round) else { return };
        let Phase::Map { peer: asked, from } = join.phase else { return };
        if asked != peer {
            return;
        }
        let whole = BlockRange::new(0, size);
        if peer == me {
            if !valid {
                join.todo_compare.insert(whole);
            }
            let mut copy = BlockSet::new();
            let mut compare = BlockSet::new();
            for (number, c, d) in &chunks {
                copy.set_chunk(*number, *c);
                compare.set_chunk(*number, *d);
            }
            join.todo_copy.union(&copy);
            join.todo_compare.union(&compare);
            // The own maps of others have a gap: only the source's count, and where it has none there is none.
            let own = self.meta.dirty.keys().filter(|n| **n != me && !absent.contains(n));
            updates.extend(own.map(|n| MetaUpdate::DirtyEnd(*n)));
            join.absent = absent.into();
        } else if valid && !own_kept {
            if from == 0 {
                updates.push(MetaUpdate::DirtyBegin { peer, since });
            }
            // Writes of this round may have come before the map: they are owed too.
            let mut map: BTreeMap<u64, (Chunk, Chunk)> = chunks.into_iter().map(|(n, c, d)| (n, (c, d))).collect();
            if next.is_none() {
                for (number, _) in join.touched.chunks() {
                    let before = self.meta.dirty.get(&peer).filter(|_| from > 0);
                    let kept = before.map(|m| (m.copy.chunk(number), m.compare.chunk(number))).unwrap_or_default();
                    map.entry(number).or_insert(kept);
                }
            }
            for (chunk, (mut copy, compare)) in map {
                for (word, touched) in copy.iter_mut().zip(join.touched.chunk(chunk)) {
                    *word |= touched;
                }
                updates.push(MetaUpdate::DirtyChunk { peer, chunk, copy, compare });
            }
        } else if !valid {
            updates.push(MetaUpdate::DirtyEnd(peer));
        }
        join.phase = match next {
            Some(from) => Phase::Map { peer, from },
            None => match join.absent.pop_front() {
                Some(peer) => Phase::Map { peer, from: 0 },
                None => Phase::Pulling,
            },
        };
        let begins = join.phase == Phase::Pulling;
        if begins {
            let touched = join.touched.clone();
            join.todo_copy.subtract(&touched);
            join.todo_compare.subtract(&touched);
            let copy = join.todo_copy.clone();
            join.todo_compare.subtract(&copy);
            for set in [&mut join.todo_copy, &mut join.todo_compare] {
                set.remove(BlockRange::new(size, size + CHUNK_BLOCKS));
            }
            join.total_blocks = join.todo_copy.count() + join.todo_compare.count();
            let source = join.source;
            self.out.push(Effect::Event(Event::ResyncStarted {
                source,
                bytes: join.total_blocks * crate::range::BLOCK_BYTES,
            }));
        }
        self.persist(updates, None);
        if begins { self.submit_pulls() } else { self.ask_map() }
    }

    /// Asks for more, as far as the window, the rate and the application allow.
    pub(super) fn submit_pulls(&mut self) {
        let busy = self.now.since(self.busy_at) < BUSY_NANOS && self.busy_at > Time(0);
        let window = if busy { PULLS_BUSY } else { PULLS_IDLE };
        while self.join.as_ref().is_some_and(|j| j.phase == Phase::Pulling && j.pulls.len() < window) {
            if self.pull_at > self.now || !self.submit_one() {
                break;
            }
        }
        self.end_pulling();
    }

    fn submit_one(&mut self) -> bool {
        let id = self.next_read_id();
        let Some(join) = &mut self.join else { return false };
        let all = BlockRange::new(0, u64::MAX);
        let (range, compare) = match (join.todo_copy.next_in(all), join.todo_compare.next_in(all)) {
            (Some(range), _) => (range, false),
            (None, Some(range)) => (range, true),
            (None, None) => return false,
        };
        let range = BlockRange::new(range.start, range.end.min(range.start + PULL_BLOCKS));
        let set = if compare { &mut join.todo_compare } else { &mut join.todo_copy };
        set.remove(range);
        let pull = Pull { range, compare, writing: 0, own: None, theirs: None };
        join.pulls.insert(id, pull);
        let (round, source) = (join.round, join.source);
        if compare {
            self.counters.resync_compared_bytes += range.bytes();
            self.send(source, Message::DigestAsk { id, range }, None);
            let io = self.begin_io(range, Purpose::OwnDigest { id });
            self.out.push(Effect::DiskDigest { io, range });
        } else {
            self.send(source, Message::Pull { round, id, range }, None);
        }
        // No rate, no limit.
        if let Some(nanos) = range.bytes().saturating_mul(1_000_000_000).checked_div(self.resync_rate) {
            self.pull_at = self.pull_at.max(self.now).after(nanos);
        }
        true
    }

    /// The source's side: reads for a joining replica, or for reconcile.
    pub(super) fn on_pull(&mut self, node: NodeId, round: Round, id: ReadId, range: BlockRange) {
        let fits = !range.is_empty() && range.end <= self.view.config.size_blocks;
        if !fits || !self.can_hold_data() || !self.view.is_written(self.node, self.incarnation) {
            return;
        }
        let buf = self.new_buf();
        let io = self.begin_io(range, Purpose::PullRead { node, round, id, buf });
        self.out.push(Effect::DiskRead { io, range, buf });
    }

    pub(super) fn on_pull_read(
        &mut self,
        op: &super::apply::DiskOp,
        node: NodeId,
        round: Round,
        id: ReadId,
        buf: BufId,
    ) {
        self.send(node, Message::Pulled { round, id, range: op.range }, Some(buf));
        self.release(Some(buf));
    }

    /// Pulled data came: what no application write touched is written.
    pub(super) fn on_pulled(&mut self, round: Round, id: ReadId, payload: Option<BufId>) {
        let Some(buf) = payload else { return };
        if round == super::reconcile::RECONCILE_ROUND {
            return self.on_fetched(id, buf);
        }
        if self.meta.removed {
            return self.release(Some(buf));
        }
        let range = self.join.as_ref().and_then(|j| j.pulls.get(&id)).map(|p| p.range);
        if let Some(range) = range.filter(|_| self.can_hold_data())
            && !self.ensure_intent(range)
        {
            // Looked at again when the intent is durable.
            return self.pulled.push((round, id, buf));
        }
        let over_newer = self.broken(broken!(PullOverNewerWrite));
        let Some(join) = self.join.as_mut().filter(|j| j.round == round) else { return self.release(Some(buf)) };
        let Some(pull) = join.pulls.get_mut(&id) else { return self.release(Some(buf)) };
        let range = pull.range;
        let mut pieces: Vec<BlockRange> = Vec::new();
        for block in range.blocks() {
            let one = BlockRange::new(block.0, block.0 + 1);
            // A pull is not submitted over an application write that the disk has not finished: that write touched it.
            if join.touched.intersects(one) && !over_newer {
                continue;
            }
            match pieces.last_mut() {
                Some(last) if last.end == block.0 => last.end += 1,
                _ => pieces.push(one),
            }
        }
        pull.writing = pieces.len();
        for piece in pieces {
            self.counters.resync_copied_bytes += piece.bytes();
            self.note_pulled(piece);
            let io = self.begin_io(piece, Purpose::Pull { id, buf });
            let offset = (piece.start - range.start) * crate::range::BLOCK_BYTES;
            self.out.push(Effect::DiskWrite { io, range: piece, buf, offset, durable: false });
        }
        self.finish_pull(id, buf);
    }

    /// Pulled data whose intent is durable now.
    pub(super) fn retry_pulled(&mut self) {
        let pulled = core::mem::take(&mut self.pulled);
        for (round, id, buf) in pulled {
            self.on_pulled(round, id, Some(buf));
        }
    }

    /// What is pulled is unconfirmed like everything that this replica applied.
    fn note_pulled(&mut self, piece: BlockRange) {
        self.unconfirmed.open(NOBODY).insert(piece);
        self.unconfirmed.since = self.unconfirmed.since.or(Some(self.now));
    }

    pub(super) fn on_pull_written(&mut self, id: ReadId, buf: BufId) {
        if let Some(pull) = self.join.as_mut().and_then(|j| j.pulls.get_mut(&id)) {
            pull.writing = pull.writing.saturating_sub(1);
        }
        self.finish_pull(id, buf);
        self.start_held_writes();
    }

    /// Ends a pull whose pieces are all written.
    fn finish_pull(&mut self, id: ReadId, buf: BufId) {
        let pending =
            self.disk.ops.iter().any(|op| matches!(op.purpose, Purpose::Pull { id: i, buf: b } if i == id && b == buf));
        if pending {
            return;
        }
        self.release(Some(buf));
        if let Some(join) = &mut self.join
            && let Some(pull) = join.pulls.remove(&id)
        {
            join.settled.push(pull.range);
        }
        self.submit_pulls();
    }

    /// Digests of a comparison came, from the source or the own disk.
    pub(super) fn on_join_digests(&mut self, from: NodeId, id: ReadId, range: BlockRange, digests: &[Digest]) -> bool {
        let me = self.node;
        let Some(join) = &mut self.join else { return false };
        let Some(pull) = join.pulls.get_mut(&id).filter(|p| p.compare && p.range == range) else { return false };
        let side = if from == me { &mut pull.own } else { &mut pull.theirs };
        *side = Some(digests.to_vec());
        let (Some(own), Some(theirs)) = (&pull.own, &pull.theirs) else { return true };
        let differing: Vec<u64> =
            range.blocks().zip(own.iter().zip(theirs)).filter(|(_, (a, b))| a != b).map(|(block, _)| block.0).collect();
        join.pulls.remove(&id);
        for block in differing {
            let one = BlockRange::new(block, block + 1);
            if !join.touched.intersects(one) {
                join.todo_copy.insert(one);
            }
        }
        join.settled.push(range);
        self.submit_pulls();
        true
    }

    /// Flushes what was pulled, now and then and at the end: only what is durable counts.
    fn end_pulling(&mut self) {
        let busy = self.now.since(self.busy_at) < self.timing.retry;
        let starved = self.broken(broken!(SecondSwapStarves)) && busy;
        let Some(join) = self.join.as_mut().filter(|j| j.phase == Phase::Pulling && j.flushing.is_none()) else {
            return;
        };
        let done = join.pulls.is_empty() && join.todo_copy.is_empty() && join.todo_compare.is_empty();
        if !(done && !starved || join.settled.len() >= CHECKPOINT_RANGES) {
            return;
        }
        if done {
            join.phase = Phase::Flushing;
        }
        join.flushing = Some(core::mem::take(&mut join.settled));
        join.lands = Some(self.disk.next_io());
        self.flush_pulled();
    }

    /// Flushes once the disk has finished all writes of before.
    pub(super) fn flush_pulled(&mut self) {
        let beside = self.broken(broken!(JoinFlushBesideWrites));
        let Some(join) = &mut self.join else { return };
        let older = |lands: IoId| self.disk.ops.iter().any(|op| op.writes() && op.io < lands);
        if join.lands.is_none_or(|lands| older(lands) && !beside) {
            return;
        }
        join.lands = None;
        let round = join.round;
        if self.broken(broken!(JoinWithoutFlush)) {
            return self.on_join_flushed(round);
        }
        let io = self.begin_io(BlockRange::default(), Purpose::JoinFlush { round });
        self.out.push(Effect::DiskFlush { io });
    }

    pub(super) fn on_join_flushed(&mut self, round: Round) {
        let Some(join) = self.join.as_mut().filter(|j| j.round == round) else { return };
        if join.phase == Phase::Flushing {
            join.phase = Phase::Done;
            self.attention = true;
        }
        let source = join.source;
        let settled = join.flushing.take().unwrap_or_default();
        for ranges in settled.chunks(MAX_NAMED) {
            self.send(source, Message::PulledDurable { round, ranges: ranges.to_vec() }, None);
        }
        self.submit_pulls();
    }

    /// The source clears from its map only what the peer named durable.
    pub(super) fn on_pulled_durable(&mut self, node: NodeId, ranges: &[BlockRange]) {
        let Some(map) = self.meta.dirty.get_mut(&node) else { return };
        for range in ranges {
            map.copy.remove(*range);
            map.compare.remove(*range);
            for piece in range.pieces(CHUNK_BLOCKS) {
                self.dirty_changed.insert((node, piece.start / CHUNK_BLOCKS));
            }
        }
    }

    /// Swaps that this replica wants in order to enter.
    pub(super) fn wanted_of_joiner(&mut self) -> Option<Change> {
        let outside = !self.known.replicas.contains(&self.node);
        if !self.can_hold_data() || outside || self.view.is_in_sync(self.node, self.incarnation) || self.leaving.marked
        {
            return None;
        }
        let (node, incarnation) = (self.node, self.incarnation);
        if let Some(join) = &self.join {
            let complete = join.phase == Phase::Done && self.reports_in && self.reconciled;
            let epoch = self.view.config.epoch;
            let votes = self.has_register() || self.view.config.voters.contains_key(&node);
            return (complete && votes).then_some(Change::Enter { node, incarnation, epoch });
        }
        if lists(&self.known, node, incarnation) && self.known.is_joining(node, incarnation) {
            return None;
        }
        let source = self.view.nodes(self.view.in_sync).next()?;
        let reached = match self.broken(broken!(JoinsUnheard)) {
            true => self.view.nodes(self.view.in_sync).all(|n| self.session_is_listed(n)),
            false => self.is_answered_by_all(),
        };
        if !reached {
            return None;
        }
        let votes = self.has_register() || self.known.voters.contains_key(&node);
        if self.known.in_sync.contains_key(&node) || !votes {
            return None;
        }
        if self.broken(broken!(JoinByOneSwap)) {
            return Some(Change::EnterAtOnce { node, incarnation });
        }
        Some(Change::Join { node, incarnation, source })
    }

    /// A session with the source was replaced: questions that were under way are asked again.
    pub(super) fn join_session_opened(&mut self, node: NodeId) {
        let cursor_trusted = self.broken(broken!(CursorOverBitmap));
        let Some(join) = self.join.as_mut().filter(|j| j.source == node) else { return };
        let mut pulls = core::mem::take(&mut join.pulls);
        if cursor_trusted {
            // Believes that everything before the place that it had got to is done.
            pulls.clear();
        }
        for pull in pulls.into_values().filter(|p| p.writing == 0) {
            let mut range_set = BlockSet::new();
            range_set.insert(pull.range);
            range_set.subtract(&join.touched);
            if pull.compare {
                join.todo_compare.union(&range_set);
            } else {
                join.todo_copy.union(&range_set);
            }
        }
        self.ask_map();
        self.submit_pulls();
    }

    /// Forgets questions of a node whose session is gone.
    pub(super) fn source_forget(&mut self, node: NodeId) {
        self.source.waiting.retain(|(n, ..)| *n != node);
    }

    /// What this member answers others as a source begins anew in a new view.
    pub(super) fn source_view_changed(&mut self) {
        self.source.waiting.clear();
    }

    /// Bytes done and to do, for people.
    pub(super) fn resync_progress(&self) -> Option<crate::status::ResyncProgress> {
        let join = self.join.as_ref()?;
        let left = join.todo_copy.count()
            + join.todo_compare.count()
            + join.pulls.values().map(|p| p.range.len()).sum::<u64>();
        let bytes = crate::range::BLOCK_BYTES;
        let total = join.total_blocks.max(left);
        Some(crate::status::ResyncProgress { bytes_done: (total - left) * bytes, bytes_total: total * bytes })
    }
}

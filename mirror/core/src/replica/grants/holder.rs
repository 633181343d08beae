//! A writer's side of a multi-writer volume: what it holds, what it asked for, what it is giving back.
//!
//! ```text
//! nothing --write--> asked --Granted--> held --Recall, held long enough--> draining --on all replicas--> Released, nothing
//! ```
//! A writer has one grant number at a time, the latest that it was given. It carries that in every write, whatever extent it
//! is in: the number was given to it alone, and is higher than every number under which anybody wrote there before.

use alloc::vec::Vec;
use core::cell::Cell;

use super::extents::{RangeMap, widen};
use crate::ids::{AskId, GrantNumber, NodeId, RecallId, Time};
use crate::message::{Class, Message};
use crate::range::BlockRange;
use crate::timing::MS;

/// A grant is kept at least this long once it was given, against requests of the own class and below.
pub(super) const HOLD: u64 = 2 * MS;

/// What was written within this time is not given away unless somebody needs it: two writers that share a volume soon hold
/// what each of them uses.
const WARM_MS: u32 = 1_000;

/// Questions that may be open at once.
const ASKS_MAX: usize = 64;

/// A question that has no answer yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::replica) struct Asked {
    pub id: AskId,
    /// Whole extents.
    pub range: BlockRange,
    pub class: Class,
    pub since: Time,
}

/// A recall that is not obeyed yet: the grant has not been held long enough.
#[derive(Clone, Copy, Debug)]
struct Yielding {
    id: RecallId,
    range: BlockRange,
    needed: BlockRange,
    at: Time,
}

/// A range that nothing new is written to, until what was is on all replicas.
#[derive(Clone, Debug)]
struct Draining {
    id: RecallId,
    ranges: Vec<BlockRange>,
    kept: Vec<BlockRange>,
}

/// How long writers waited for grants: counts by powers of two of microseconds.
pub(in crate::replica) type Waits = [u64; 32];

/// What this writer holds and wants.
#[derive(Clone, Debug, Default)]
pub(in crate::replica) struct Holder {
    pub number: GrantNumber,
    /// Each with the time since when it is held.
    held: RangeMap<Time>,
    /// Part of what is held: the range that was asked about last.
    hit: Cell<BlockRange>,
    asks: Vec<Asked>,
    next_ask: u64,
    yielding: Vec<Yielding>,
    draining: Vec<Draining>,
    /// What is kept whatever was recalled, until a question is answered that needs it and more.
    kept: Vec<BlockRange>,
    /// Milliseconds of the last write of each extent, plus one.
    written: Vec<u32>,
    /// Only where a rule is left out.
    pub admits_while_draining: bool,
    pub waits: Waits,
    pub longest_wait: u64,
    pub given: u64,
    pub taken: u64,
}

impl Holder {
    /// True if a write to this range may start. In the usual case one load and one comparison.
    pub fn covers(&self, range: BlockRange) -> bool {
        if self.hit.get().contains(range) {
            return true;
        }
        let run = self.held.run_around(range);
        if let Some(run) = run {
            self.hit.set(run);
        }
        run.is_some()
    }

    /// True if anything at all is held: the broken check of a write over several extents.
    pub fn touches(&self, range: BlockRange) -> bool {
        self.held.within(range).next().is_some()
    }

    /// A write to this range starts.
    pub fn note_write(&mut self, range: BlockRange, unit: u64, now: Time) {
        let range = widen(range, unit);
        let (from, to) = ((range.start / unit) as usize, (range.end / unit) as usize);
        if self.written.len() < to {
            self.written.resize(to, 0);
        }
        self.written[from..to].fill(millis(now) + 1);
    }

    /// A write needs this range, whole units: the question to ask, unless it is asked already or too many are open.
    pub fn want(&mut self, range: BlockRange, class: Class, now: Time) -> Option<Asked> {
        if self.asks.len() >= ASKS_MAX || self.asks.iter().any(|ask| ask.range.contains(range)) {
            return None;
        }
        self.next_ask += 1;
        let ask = Asked { id: AskId(self.next_ask), range, class, since: now };
        self.asks.push(ask);
        Some(ask)
    }

    /// Questions without an answer.
    pub fn asks(&self) -> &[Asked] {
        &self.asks
    }

    /// A range was given. False if nobody asked for it.
    pub fn granted(&mut self, id: AskId, range: BlockRange, number: GrantNumber, now: Time) -> bool {
        let Some(at) = self.asks.iter().position(|ask| ask.id == id && range.contains(ask.range)) else { return false };
        let ask = self.asks.remove(at);
        self.number = self.number.max(number);
        self.accept(range, now);
        self.note_wait(now.since(ask.since));
        true
    }

    /// A range is held from now on.
    pub fn accept(&mut self, range: BlockRange, now: Time) {
        self.held.set(range, now);
        self.taken += 1;
    }

    /// Questions that what is held answers are answered.
    pub fn answered(&mut self, now: Time) {
        let asks = core::mem::take(&mut self.asks);
        for ask in asks {
            if self.covers(ask.range) {
                self.note_wait(now.since(ask.since));
            } else {
                self.asks.push(ask);
            }
        }
    }

    fn note_wait(&mut self, waited: u64) {
        self.longest_wait = self.longest_wait.max(waited);
        let bucket = (waited / 1_000).checked_ilog2().map_or(0, |bits| bits as usize + 1);
        self.waits[bucket.min(self.waits.len() - 1)] += 1;
    }

    /// A range is not held any more, whatever is in flight there.
    pub fn lose(&mut self, range: BlockRange) {
        self.held.remove(range);
        self.hit.set(BlockRange::default());
        self.yielding.retain(|yielding| !yielding.range.overlaps(range));
        self.draining.retain(|draining| !draining.ranges.iter().any(|drained| drained.overlaps(range)));
    }

    /// A range that is held has these borders from now on.
    pub fn keep(&mut self, range: BlockRange, now: Time) {
        self.held.set(range, now);
    }

    /// Nothing of these ranges is given back before other ones are named here.
    pub fn keep_for_now(&mut self, ranges: &[BlockRange]) {
        self.kept.clear();
        self.kept.extend_from_slice(ranges);
    }

    /// The granting node wants a range back. `busy`: a write is in flight in what it needs.
    pub fn recalled(&mut self, message: &Message, own: Class, busy: bool, unit: u64, now: Time) {
        let Message::Recall { id, range, needed, class } = *message else { return };
        if self.yielding.iter().any(|y| y.id == id) || self.draining.iter().any(|d| d.id == id) {
            return;
        }
        let since = self.held.within(needed).map(|(_, since)| since).max();
        let at = match since {
            Some(since) if class <= own && (busy || self.is_written_since(needed, unit, now, HOLD / MS)) => {
                since.after(HOLD)
            }
            _ => now,
        };
        self.yielding.push(Yielding { id, range, needed, at });
    }

    /// Nothing new starts in recalled ranges whose time has come.
    pub fn begin_drains(&mut self, unit: u64, now: Time) {
        let kept = |y: &Yielding| self.kept.iter().any(|range| range.overlaps(y.range));
        while let Some(at) = self.yielding.iter().position(|y| y.at <= now && !kept(y)) {
            let recall = self.yielding.swap_remove(at);
            let held: Vec<BlockRange> = self.held.within(recall.range).map(|(range, _)| range).collect();
            let (mut ranges, mut kept) = (Vec::new(), Vec::new());
            for piece in held.iter().flat_map(|range| range.pieces(unit)) {
                let warm = self.is_written_since(piece, unit, now, u64::from(WARM_MS));
                let list = if warm && !piece.overlaps(recall.needed) { &mut kept } else { &mut ranges };
                append(list, piece);
            }
            self.hit.set(BlockRange::default());
            if !self.admits_while_draining {
                ranges.iter().for_each(|range| self.held.remove(*range));
            }
            self.draining.push(Draining { id: recall.id, ranges, kept });
        }
    }

    /// Recalls that are obeyed as soon as nothing of them is in flight any more.
    pub fn released(&mut self, in_flight: impl Fn(BlockRange) -> bool, mut say: impl FnMut(Message)) {
        let mut at = 0;
        while at < self.draining.len() {
            if self.draining[at].ranges.iter().any(|range| in_flight(*range)) {
                at += 1;
                continue;
            }
            let Draining { id, kept, ranges } = self.draining.swap_remove(at);
            if self.admits_while_draining {
                ranges.iter().for_each(|range| self.held.remove(*range));
                self.hit.set(BlockRange::default());
            }
            self.given += u64::from(!ranges.is_empty());
            say(Message::Released { id, kept });
        }
    }

    #[cfg(test)]
    pub fn forget_hit(&self) {
        self.hit.set(BlockRange::default());
    }

    /// True if something is being given back.
    pub fn is_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    /// When a recall has to be obeyed.
    pub fn next_yield(&self) -> Time {
        let free = |y: &&Yielding| !self.kept.iter().any(|range| range.overlaps(y.range));
        self.yielding.iter().filter(free).map(|y| y.at).min().unwrap_or(Time::NEVER)
    }

    /// Everything that is held, drains not finished included.
    pub fn holds(&self) -> Vec<BlockRange> {
        let mut all = RangeMap::default();
        self.held.iter().for_each(|(range, _)| all.set(range, ()));
        self.draining.iter().flat_map(|d| &d.ranges).for_each(|range| all.set(*range, ()));
        all.iter().map(|(range, ())| range).collect()
    }

    /// The view changes: recalls of the old granting node are void, and what was not given back is still held.
    pub fn view_changed(&mut self, now: Time) {
        self.yielding.clear();
        for draining in core::mem::take(&mut self.draining) {
            draining.ranges.iter().for_each(|range| self.held.set(*range, now));
        }
    }

    /// The attachment has ended.
    pub fn drop_all(&mut self) {
        self.held.clear();
        self.hit.set(BlockRange::default());
        self.asks.clear();
        self.yielding.clear();
        self.draining.clear();
    }

    fn is_written_since(&self, range: BlockRange, unit: u64, now: Time, millis_ago: u64) -> bool {
        let (from, to) = ((range.start / unit) as usize, range.end.div_ceil(unit) as usize);
        let to = to.min(self.written.len());
        let recent = |at: &u32| *at > 0 && u64::from(millis(now).wrapping_sub(*at - 1)) < millis_ago;
        self.written.get(from..to).is_some_and(|extents| extents.iter().any(recent))
    }
}

/// Adds a piece behind the last range, as part of it where they touch.
fn append(list: &mut Vec<BlockRange>, piece: BlockRange) {
    match list.last_mut() {
        Some(last) if last.end == piece.start => last.end = piece.end,
        _ => list.push(piece),
    }
}

fn millis(now: Time) -> u32 {
    // 49 days; wrapping makes something old look young for a moment, which costs a transfer.
    (now.0 / MS) as u32
}

/// What this member has seen others write under, by extent: a write under a lower number, or an equal one of another node,
/// is refused.
#[derive(Clone, Debug, Default)]
pub(in crate::replica) struct Seen {
    extents: Vec<(GrantNumber, NodeId)>,
}

impl Seen {
    pub fn admits(&self, range: BlockRange, unit: u64, number: GrantNumber, from: NodeId) -> bool {
        let (first, last) = ((range.start / unit) as usize, range.end.div_ceil(unit) as usize);
        let seen = self.extents.get(first..last.min(self.extents.len())).unwrap_or_default();
        seen.iter().all(|(highest, holder)| number > *highest || number == *highest && *holder == from)
    }

    pub fn learn(&mut self, range: BlockRange, unit: u64, number: GrantNumber, from: NodeId) {
        let (first, last) = ((range.start / unit) as usize, range.end.div_ceil(unit) as usize);
        if self.extents.len() < last {
            self.extents.resize(last, (GrantNumber::default(), NodeId(0)));
        }
        for extent in &mut self.extents[first..last] {
            if number > extent.0 {
                *extent = (number, from);
            }
        }
    }
}

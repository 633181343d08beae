//! The granting node's table of a multi-writer volume: who holds what, who waits for what.
//!
//! ```text
//! asked --others hold some of it--> collecting: recalled from each --all released--> granted, in one message
//!   '------------------ free, or the asker's own -----------------------------------^
//! ```
//! Asks are served highest class first, then in order of age. Whoever waits reserves what it asked for: nobody behind it gets
//! any of that. A request that is being collected is not overtaken by its own class. Each quarter of a second of waiting raises a
//! class by one, so that everybody is served.

use alloc::vec::Vec;

use super::extents::{RangeMap, is_whole, widen};
use super::{AGEING, aged};
use crate::ids::{AskId, Epoch, GrantNumber, NodeId, RecallId, Time};
use crate::message::{Class, Message};
use crate::range::BlockRange;

/// A recall reaches at most this many extents beyond what is needed, each way: what it says is kept must stay short.
const RECALL_EXTENTS: u64 = 256;

/// Stands for the holder of what is not settled.
const NOBODY: NodeId = NodeId(u32::MAX);

/// One writer's question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::replica) struct Waiting {
    /// Who.
    pub node: NodeId,
    /// Its number.
    pub id: AskId,
    /// Whole extents.
    pub range: BlockRange,
    /// As asked.
    pub class: Class,
    /// Since when it has waited.
    pub since: Time,
    /// Some of it is being recalled from others.
    pub collecting: bool,
}

impl Waiting {
    /// The class that counts, after so long.
    pub fn effective(&self, now: Time) -> Class {
        aged(self.class, now.since(self.since))
    }
}

/// A range that its holder was asked to give back.
#[derive(Clone, Copy, Debug)]
struct Recall {
    id: RecallId,
    node: NodeId,
    range: BlockRange,
    needed: BlockRange,
    class: Class,
}

/// What the table says to whom.
pub(in crate::replica) type Said = Vec<(NodeId, Message)>;

/// Rules that may be left out, in builds for the simulator only.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::replica) struct TableRules {
    pub grant_before_release: bool,
    pub no_ageing: bool,
    pub no_reservation: bool,
}

/// Who holds what.
#[derive(Clone, Debug)]
pub(in crate::replica) struct Table {
    rules: TableRules,
    unit: u64,
    /// End of the volume, up to a whole extent.
    end: u64,
    /// All members have reported what they hold: only then may anything be given.
    ready: bool,
    owned: RangeMap<NodeId>,
    waiting: Vec<Waiting>,
    recalls: Vec<Recall>,
    next: GrantNumber,
    next_recall: u64,
}

impl Table {
    /// An empty table that gives nothing yet. Recalls are numbered from `recalls` on.
    pub fn new(unit: u64, blocks: u64, recalls: u64, rules: TableRules) -> Table {
        Table {
            rules,
            unit,
            end: blocks.div_ceil(unit) * unit,
            ready: false,
            owned: RangeMap::default(),
            waiting: Vec::new(),
            recalls: Vec::new(),
            next: GrantNumber::default(),
            next_recall: recalls,
        }
    }

    /// Number of the next recall.
    pub fn recalls_used(&self) -> u64 {
        self.next_recall
    }

    /// All members have reported: this is what they hold, and the highest grant that anybody knows.
    pub fn begin(&mut self, epoch: Epoch, highest: GrantNumber, holds: impl Iterator<Item = (NodeId, BlockRange)>) {
        for (node, range) in holds {
            // Two that say they hold one extent: whoever is right, the other's writes are refused by number.
            if self.owned.within(range).next().is_none() {
                self.owned.set(range, node);
            }
        }
        self.next = highest.max(GrantNumber { epoch, counter: 0 });
        self.next.counter += 1;
        self.ready = true;
    }

    /// Nobody is given this range before all that a dead writer left is settled: who holds a grant is taken for one that was
    /// given it after that, and a change of view before then would leave what the dead one wrote on some replicas only.
    pub fn hold_back(&mut self, range: BlockRange) {
        let free: Vec<BlockRange> = self.free_within(widen(range, self.unit));
        free.into_iter().for_each(|range| self.owned.set(range, NOBODY));
    }

    /// Everything is settled.
    pub fn settled(&mut self) {
        let held_back: Vec<BlockRange> =
            self.owned.iter().filter(|(_, n)| *n == NOBODY).map(|(range, _)| range).collect();
        held_back.into_iter().for_each(|range| self.owned.remove(range));
    }

    fn free_within(&self, range: BlockRange) -> Vec<BlockRange> {
        let mut free = Vec::new();
        let mut from = range.start;
        for (taken, _) in self.owned.within(range) {
            free.push(BlockRange::new(from, taken.start));
            from = taken.end;
        }
        free.push(BlockRange::new(from, range.end));
        free.retain(|range| !range.is_empty());
        free
    }

    /// A writer asks. Asking again changes nothing; who has its grant already, and asks because it never heard, gets it anew. A question
    /// about nothing, or about more than there is, has no answer.
    pub fn ask(&mut self, now: Time, waiting: Waiting) {
        if waiting.range.is_empty() || waiting.range.end > self.end {
            return;
        }
        if self.waiting.iter().any(|w| w.node == waiting.node && w.id == waiting.id) {
            return;
        }
        let range = widen(waiting.range, self.unit);
        let since = waiting.since.min(now);
        self.waiting.push(Waiting { range, since, ..waiting });
    }

    /// A holder has drained a recalled range, and keeps no more of it than this.
    pub fn released(&mut self, node: NodeId, id: RecallId, kept: &[BlockRange]) {
        let at = self.recalls.iter().position(|r| r.node == node && r.id == id);
        let Some(at) = at else { return };
        let recall = self.recalls.swap_remove(at);
        let given: Vec<BlockRange> =
            self.owned.within(recall.range).filter(|(_, n)| *n == node).map(|(range, _)| range).collect();
        given.into_iter().for_each(|range| self.owned.remove(range));
        for range in kept.iter().filter_map(|range| range.intersection(recall.range)) {
            if is_whole(range, self.unit) && !range.overlaps(recall.needed) {
                self.owned.set(range, node);
            }
        }
    }

    /// A session opened: what was recalled from this node may never have been heard.
    pub fn repeat_recalls(&self, node: NodeId, out: &mut Said) {
        out.extend(self.recalls.iter().filter(|r| r.node == node).map(Recall::said));
    }

    /// Grants whatever can be granted, and recalls what is in the way.
    pub fn advance(&mut self, now: Time, out: &mut Said) {
        if !self.ready || self.waiting.is_empty() {
            return;
        }
        let no_ageing = self.rules.no_ageing;
        let age = |w: &Waiting| if no_ageing { w.class } else { w.effective(now) };
        let rank = |w: &Waiting| (core::cmp::Reverse(age(w)), !w.collecting, w.since, w.node, w.id);
        let mut order: Vec<Waiting> = self.waiting.clone();
        order.sort_by_key(rank);
        let mut reserved: Vec<BlockRange> = Vec::new();
        for wanted in order {
            let behind = reserved.iter().any(|range| range.overlaps(wanted.range));
            if behind && !self.rules.no_reservation {
                reserved.push(wanted.range);
                continue;
            }
            let recalled = self.recalls.iter().any(|r| r.range.overlaps(wanted.range));
            let held = self.owned.within(wanted.range).any(|(_, node)| node != wanted.node);
            if !held && !recalled || self.rules.grant_before_release {
                self.grant(wanted, out);
            } else {
                reserved.push(wanted.range);
                self.collect(wanted, age(&wanted), out);
            }
        }
    }

    /// Asks holders for what a request needs, each once.
    fn collect(&mut self, wanted: Waiting, class: Class, out: &mut Said) {
        if let Some(waiting) = self.waiting.iter_mut().find(|w| w.node == wanted.node && w.id == wanted.id) {
            waiting.collecting = true;
        }
        let held: Vec<(BlockRange, NodeId)> =
            self.owned.within(wanted.range).filter(|(_, node)| *node != wanted.node && *node != NOBODY).collect();
        for (needed, node) in held {
            if self.recalls.iter().any(|r| r.range.overlaps(needed)) {
                continue;
            }
            let reach = RECALL_EXTENTS * self.unit;
            let wide = BlockRange::new(needed.start.saturating_sub(reach), (needed.end + reach).min(self.end));
            let around = self.owned.within(wide).find(|(range, n)| *n == node && range.contains(needed));
            let mut range = around.map_or(needed, |(range, _)| range);
            // What another recall covers already stays out of this one.
            for other in &self.recalls {
                if other.range.overlaps(range) {
                    if other.range.end <= needed.start {
                        range.start = range.start.max(other.range.end);
                    } else {
                        range.end = range.end.min(other.range.start);
                    }
                }
            }
            self.next_recall += 1;
            let recall = Recall { id: RecallId(self.next_recall), node, range, needed, class };
            self.recalls.push(recall);
            out.push(recall.said());
        }
    }

    /// Gives a request what it needs, and as much around it as nobody else holds, waits for, or is asked to give back.
    fn grant(&mut self, wanted: Waiting, out: &mut Said) {
        let needed = wanted.range;
        let mut range = BlockRange::new(0, self.end);
        let others = self.owned.iter().filter(|(_, node)| *node != wanted.node).map(|(range, _)| range);
        let asked = self.waiting.iter().filter(|w| w.node != wanted.node).map(|w| w.range);
        for other in others.chain(asked).chain(self.recalls.iter().map(|r| r.range)) {
            if other.end <= needed.start {
                range.start = range.start.max(other.end);
            } else if other.start >= needed.end {
                range.end = range.end.min(other.start);
            }
        }
        let number = self.next;
        self.next.counter += 1;
        self.owned.set(range, wanted.node);
        self.waiting.retain(|w| (w.node, w.id) != (wanted.node, wanted.id));
        out.push((wanted.node, Message::Granted { id: wanted.id, range, number }));
    }

    /// Who holds what, in order.
    pub fn holders(&self) -> impl Iterator<Item = (BlockRange, NodeId)> + '_ {
        self.owned.iter().filter(|(_, node)| *node != NOBODY)
    }

    /// Who waits, in the order in which they will be served.
    pub fn waiting(&self, now: Time) -> Vec<Waiting> {
        let mut order = self.waiting.clone();
        order.sort_by_key(|w| (core::cmp::Reverse(w.effective(now)), !w.collecting, w.since, w.node, w.id));
        order
    }

    /// When somebody's class rises next.
    pub fn next_ageing(&self, now: Time) -> Time {
        let rises = self.waiting.iter().filter(|w| w.effective(now) < Class::Recovery);
        rises.map(|w| w.since.after((now.since(w.since) / AGEING + 1) * AGEING)).min().unwrap_or(Time::NEVER)
    }
}

impl Recall {
    fn said(&self) -> (NodeId, Message) {
        let Recall { id, node, range, needed, class } = *self;
        (node, Message::Recall { id, range, needed, class })
    }
}

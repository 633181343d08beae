//! Shards of a volume under Lease policing: where they lie, what this node knows of their Leases, and what it writes there.
//!
//! ```text
//! of an older epoch --opened by one member, as all reported--> free or held
//! free --a waiter takes it--> held --wishes, recalled and drained--> given back --written by its holder--> the next one's
//! ```
//! [`next_word`] is the whole protocol of one Lease as a pure function. Nothing is believed that was written in another epoch: a
//! new epoch begins with what members report, so that a Lease that is late, edited, restored or made again costs time and nothing else.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::aged;
use crate::config::Settings;
use crate::ids::{Epoch, GrantNumber, Incarnation, LeaseAsk, NodeId, Time};
use crate::lease::{GrantLease, Policing, Wish};
use crate::message::Class;
use crate::range::BlockRange;

/// Wishes that a Lease has room for: more writers than a volume can have.
const WISHES_MAX: usize = 64;

/// Where a volume's shards lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::replica) struct Layout {
    count: u64,
    blocks: u64,
    end: u64,
}

impl Layout {
    /// [`None`] unless Leases police the volume.
    pub fn of(settings: &Settings, size_blocks: u64) -> Option<Layout> {
        let end = size_blocks.div_ceil(settings.extent_blocks) * settings.extent_blocks;
        Layout::without_end(settings).map(|layout| Layout { end, ..layout })
    }

    /// For the question which shards a range lies in, which does not depend on the volume's size.
    pub fn without_end(settings: &Settings) -> Option<Layout> {
        let Policing::Lease { shards, shard_blocks } = settings.policing else { return None };
        Some(Layout { count: u64::from(shards), blocks: shard_blocks, end: u64::MAX })
    }

    pub fn count(&self) -> usize {
        self.count as usize
    }

    fn index(&self, block: u64) -> usize {
        (block / self.blocks).min(self.count - 1) as usize
    }

    /// The shards that a range, not empty, lies in.
    pub fn touched(&self, range: BlockRange) -> core::ops::RangeInclusive<usize> {
        self.index(range.start)..=self.index(range.end - 1)
    }

    /// Blocks of a shard; none if the volume is too small to reach it.
    pub fn range(&self, shard: usize) -> BlockRange {
        let start = (shard as u64 * self.blocks).min(self.end);
        let last = shard as u64 + 1 >= self.count;
        BlockRange::new(start, if last { self.end } else { (start + self.blocks).min(self.end) })
    }

    /// The whole shards that a range lies in, as one range.
    pub fn widen(&self, range: BlockRange) -> BlockRange {
        let touched = self.touched(range);
        BlockRange::new(self.range(*touched.start()).start, self.range(*touched.end()).end)
    }
}

/// The grant numbers under which this node writes, by shard.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::replica) struct Numbers([GrantNumber; Policing::SHARDS_MAX as usize]);

impl Numbers {
    /// The number of a write: over several shards the highest of theirs.
    pub fn over(&self, touched: core::ops::RangeInclusive<usize>) -> GrantNumber {
        self.0[touched].iter().copied().max().unwrap_or_default()
    }

    /// A write over several shards went under this number: what follows in any of them must not go under a lower one.
    pub fn raise(&mut self, touched: core::ops::RangeInclusive<usize>, number: GrantNumber) {
        self.0[touched].iter_mut().for_each(|own| *own = (*own).max(number));
    }

    pub fn of(&self, shard: usize) -> GrantNumber {
        self.0[shard]
    }

    pub fn highest(&self) -> GrantNumber {
        self.over(0..=self.0.len() - 1)
    }
}

/// How this node stands to a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::replica) enum Standing {
    /// It may not write there.
    #[default]
    None,
    /// It may, or is draining what it wrote.
    Held,
    /// It has drained and will not write there, whatever the Lease still says.
    GivenBack,
}

/// A grant Lease as this node knows it.
#[derive(Clone, Debug, Default)]
pub(in crate::replica) struct Shard {
    /// 0: it is missing, or was never read.
    pub version: u64,
    /// What it says, or why that cannot be used; [`None`] before it was read.
    pub lease: Option<Result<GrantLease, String>>,
    /// It has to be read before anything is written to it.
    pub stale: bool,
    /// What is under way: its name, until when, and the version known when it was asked.
    pub asked: Option<(LeaseAsk, Time, u64)>,
    /// Nothing before this time: the last attempt failed.
    pub retry_at: Time,
    pub failures: u32,
    pub heard_at: Time,
    pub standing: Standing,
    /// Highest number that this epoch's Lease has had.
    pub opened: Option<GrantNumber>,
    /// Since when each waiter has been seen to wait.
    pub waiters: Vec<(NodeId, Time)>,
    /// Why it cannot be used in this epoch.
    pub lost: Option<String>,
}

impl Shard {
    /// What this epoch's Lease says.
    pub fn current(&self, epoch: Epoch) -> Option<&GrantLease> {
        self.lease.as_ref()?.as_ref().ok().filter(|lease| lease.number.epoch == epoch)
    }

    /// Class of a wish, raised by how long it has been seen to wait.
    fn rank(&self, wish: &Wish, now: Time) -> Class {
        aged(wish.class, now.since(self.waits_since(wish.node, now)))
    }

    /// Since when a node has been seen to wait here: now, if it has not been.
    pub fn waits_since(&self, node: NodeId, now: Time) -> Time {
        self.waiters.iter().find(|(waiter, _)| *waiter == node).map_or(now, |(_, since)| *since)
    }

    /// Who is next, with the class that counts: highest class first, then in order of arrival.
    pub fn next_in_line(&self, wishes: &[Wish], now: Time) -> Option<(Wish, Class)> {
        let ranked = wishes.iter().map(|wish| (*wish, self.rank(wish, now)));
        // Of equals `max_by_key` takes the last.
        ranked.rev().max_by_key(|(_, class)| *class)
    }
}

/// What a Lease means for the standing of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::replica) enum Heard {
    /// It was given the shard under this number, or has it and may use this number.
    Given(GrantNumber),
    /// Somebody else has what this node holds and did not give back.
    Taken,
    /// What it gave back has been handed on.
    HandedOn,
    Nothing,
}

/// What this epoch's Lease says to this run, which wrote there under `own` last. `again`: a rule that is left out.
pub(in crate::replica) fn heed(
    shard: &Shard,
    lease: &GrantLease,
    me: (NodeId, Incarnation),
    own: GrantNumber,
    again: bool,
) -> Heard {
    let again = again && shard.standing == Standing::GivenBack;
    match (lease.holder == Some(me), shard.standing) {
        (true, _) if lease.number > own || again => Heard::Given(lease.number.max(own)),
        (true, _) | (false, Standing::None) => Heard::Nothing,
        (false, Standing::Held) => Heard::Taken,
        (false, Standing::GivenBack) => Heard::HandedOn,
    }
}

/// What there is to know for [`next_word`].
pub(in crate::replica) struct Situation<'a> {
    pub now: Time,
    pub epoch: Epoch,
    /// This run.
    pub me: (NodeId, Incarnation),
    /// Class of what waits here for the shard.
    pub want: Option<Class>,
    /// The number under which this node wrote there last.
    pub number: GrantNumber,
    /// In this epoch it is this node that opens Leases, and all reports are in and settled: who holds the shard.
    pub opens: Option<Option<(NodeId, Incarnation)>>,
    /// Nothing of those who are gone is unsettled.
    pub settled: bool,
    /// True for runs that have the volume attached for writing.
    pub writes: &'a dyn Fn(NodeId, Incarnation) -> bool,
    /// A rule that is left out, in builds for the simulator only.
    pub believes_older: bool,
}

/// What is to be written, if anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::replica) enum Word {
    Make,
    Say(Box<GrantLease>),
}

/// What this node writes to a Lease now.
pub(in crate::replica) fn next_word(shard: &Shard, at: &Situation<'_>) -> Option<Word> {
    let found = shard.lease.as_ref()?;
    let current = found.as_ref().ok().filter(|lease| lease.number.epoch == at.epoch);
    let older = found.as_ref().ok().filter(|lease| at.believes_older && lease.number.epoch < at.epoch);
    let Some(lease) = current.or(older) else { return open(shard, at) };
    let me = Wish { node: at.me.0, incarnation: at.me.1, class: at.want.unwrap_or(Class::Normal) };
    let mut wishes: Vec<Wish> = lease.wishes.iter().filter(|w| (at.writes)(w.node, w.incarnation)).copied().collect();
    let own = wishes.iter().position(|w| (w.node, w.incarnation) == at.me);
    match (own, at.want) {
        (None, Some(_)) if wishes.len() < WISHES_MAX => wishes.push(me),
        (Some(own), Some(class)) => wishes[own].class = class,
        (Some(own), None) => drop(wishes.remove(own)),
        (None, _) => {}
    }
    let free = match lease.holder {
        Some(holder) if holder == at.me => shard.standing != Standing::Held && lease.number <= at.number,
        Some((node, incarnation)) => at.settled && !(at.writes)(node, incarnation),
        None => at.settled,
    };
    if !free {
        let asks = at.want.is_some() && lease.holder != Some(at.me);
        let said = GrantLease { wishes, ..lease.clone() };
        return (asks && said.wishes != lease.wishes).then(|| Word::Say(Box::new(said)));
    }
    let next = shard.next_in_line(&wishes, at.now).map(|(wish, _)| wish);
    let holder = next.map(|wish| (wish.node, wish.incarnation));
    if holder.is_none() && lease.holder.is_none() {
        return None;
    }
    wishes.retain(|w| Some((w.node, w.incarnation)) != holder);
    let highest = lease.number.max(at.number).max(GrantNumber { epoch: at.epoch, counter: 0 });
    let number = GrantNumber { counter: highest.counter + 1, ..highest };
    Some(Word::Say(Box::new(GrantLease { number, holder, wishes })))
}

/// The first word in a new epoch, from the one node whose turn it is, and once.
fn open(shard: &Shard, at: &Situation<'_>) -> Option<Word> {
    let holder = at.opens.filter(|_| shard.opened.is_none())?;
    if shard.lease.as_ref().and_then(|l| l.as_ref().ok()).is_some_and(|lease| lease.number.epoch > at.epoch) {
        return None;
    }
    if shard.version == 0 {
        return Some(Word::Make);
    }
    let holder = holder.or(at.want.map(|_| at.me));
    let number = GrantNumber { epoch: at.epoch, counter: 1 };
    Some(Word::Say(Box::new(GrantLease { number, holder, wishes: Vec::new() })))
}

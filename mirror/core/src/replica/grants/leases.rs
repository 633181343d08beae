//! Lease policing in the replica: reading grant Leases, taking shards, giving them back, and what to do about a Lease that cannot be used.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::shards::{Heard, Layout, Shard, Situation, Standing, Word, heed, next_word};
use crate::effect::{Effect, Event};
use crate::ids::{Epoch, Incarnation, LeaseAsk, NodeId, RecallId, Time};
use crate::lease::{GrantLease, LeaseTold, LeaseWant};
use crate::message::{Class, Message};
use crate::range::BlockRange;
use crate::replica::Replica;
use crate::replica::change::Change;
use crate::status::{ShardStatus, WaitingStatus};

/// What this node knows of a volume's Leases.
#[derive(Clone, Debug, Default)]
pub(in crate::replica) struct Leases {
    shards: Vec<Shard>,
    asks: u64,
    /// When this node's own Lease was renewed last.
    renewed_at: Time,
    /// Own Leases of holders that are being waited for.
    holders: BTreeMap<NodeId, Renewals>,
    /// Since when the present epoch is installed.
    since: Time,
    epoch: Epoch,
    /// Why a new epoch is wanted, if one is.
    wants_epoch: Option<String>,
}

/// A node's own Lease, as it was read.
#[derive(Clone, Copy, Debug, Default)]
struct Renewals {
    stamp: Option<u64>,
    /// Since when it has been seen unchanged, by readings that never failed for long.
    since: Time,
    heard_at: Time,
    asked: Option<(LeaseAsk, Time)>,
}

impl Replica {
    /// Where the shards lie, if Leases police this volume.
    pub(in crate::replica) fn shards(&self) -> Option<Layout> {
        Layout::of(&self.view.config.settings, self.view.config.size_blocks)
    }

    fn next_lease_ask(&mut self) -> LeaseAsk {
        self.leases.asks += 1;
        LeaseAsk(self.leases.asks)
    }

    /// Something was heard of Leases.
    pub(in crate::replica) fn on_lease(&mut self, ask: Option<LeaseAsk>, told: LeaseTold) {
        self.attention = true;
        self.attention_at = self.now;
        match told {
            LeaseTold::Renewed => self.leases.renewed_at = self.now,
            LeaseTold::Node { node, renewed } => self.on_renewals(ask, node, renewed),
            LeaseTold::Found { shard, version, lease } => self.on_shard_found(ask, usize::from(shard), version, lease),
            LeaseTold::Conflict => self.on_shard_failed(ask, false),
            LeaseTold::Failed { .. } => self.on_shard_failed(ask, true),
        }
    }

    fn on_renewals(&mut self, ask: Option<LeaseAsk>, node: NodeId, renewed: Option<u64>) {
        let now = self.now;
        let patience = self.timing.lease_patience;
        let Some(seen) = self.leases.holders.get_mut(&node) else { return };
        if seen.asked.is_none_or(|(asked, _)| Some(asked) != ask) {
            return;
        }
        seen.asked = None;
        if seen.stamp != renewed || now.since(seen.heard_at) > 2 * patience {
            seen.since = now;
        }
        (seen.stamp, seen.heard_at) = (renewed, now);
    }

    fn on_shard_failed(&mut self, ask: Option<LeaseAsk>, failed: bool) {
        let now = self.now;
        let retry = self.timing.arbiter_retry;
        let spread = retry / 16 * (1 + u64::from(self.node.0) % 8);
        let asked = |shard: &&mut Shard| shard.asked.is_some_and(|(asked, ..)| Some(asked) == ask);
        if let Some(shard) = self.leases.shards.iter_mut().find(asked) {
            shard.asked = None;
            shard.stale = true;
            if failed {
                shard.failures += 1;
                shard.retry_at = now.after((retry << shard.failures.min(3)) + spread);
            }
        }
    }

    fn on_shard_found(&mut self, ask: Option<LeaseAsk>, index: usize, version: u64, lease: Result<GrantLease, String>) {
        let (now, epoch) = (self.now, self.view.config.epoch);
        let Some(shard) = self.leases.shards.get_mut(index) else { return };
        let answered = shard.asked.filter(|(asked, ..)| ask == Some(*asked));
        if answered.is_some() {
            shard.asked = None;
            (shard.failures, shard.retry_at, shard.stale) = (0, Time(0), false);
        } else if ask.is_some() {
            // Of a question that was given up. A read will tell.
            return;
        }
        let restored = answered.is_some_and(|(_, _, known)| version < known);
        if version < shard.version && !restored {
            // Overtaken by what was heard otherwise; that it is gone is worth a look.
            shard.stale |= version == 0;
            return;
        }
        shard.heard_at = now;
        if version == shard.version && shard.lease.is_some() {
            return;
        }
        (shard.version, shard.lease) = (version, Some(lease));
        let believed = self.broken(broken!(RestoredShardBelieved));
        let Some(shard) = self.leases.shards.get_mut(index) else { return };
        let number = shard.current(epoch).map(|lease| lease.number);
        let newer = matches!(&shard.lease, Some(Ok(lease)) if lease.number.epoch > epoch);
        if shard.opened > number && !newer && !believed {
            let reason = match &shard.lease {
                Some(Err(reason)) => reason.clone(),
                _ => String::from("it went back in time: somebody wrote to it by hand, or restored it from a backup"),
            };
            self.shard_lost(index, reason);
        } else {
            shard.opened = shard.opened.max(number);
        }
    }

    /// A Lease cannot be used in this epoch any more. Who holds the shard goes on.
    fn shard_lost(&mut self, index: usize, reason: String) {
        let Some(shard) = self.leases.shards.get_mut(index) else { return };
        if shard.lost.is_none() {
            shard.lost = Some(reason.clone());
            self.leases.wants_epoch = Some(format!("grant Lease {index}: {reason}"));
            self.out.push(Effect::Event(Event::ShardLost { shard: index as u8, reason }));
        }
    }

    /// A replica has seen a higher number where this node believed that it may write: what gave it the shard was not the truth.
    pub(in crate::replica) fn lease_refused(&mut self, range: BlockRange) {
        let Some(layout) = self.shards() else { return };
        for index in layout.touched(range) {
            self.lose_shard(index, layout.range(index));
            self.shard_lost(index, "a replica knows a later grant than the Lease gave".to_string());
        }
        self.attention = true;
    }

    fn lose_shard(&mut self, index: usize, range: BlockRange) {
        self.grants.holder.lose(range);
        self.leases.shards[index].standing = Standing::None;
    }

    /// A new view is installed. In a new epoch no Lease says anything before it is opened.
    pub(super) fn leases_view_changed(&mut self, layout: Layout) {
        if self.leases.shards.is_empty() {
            self.leases.renewed_at = self.now;
            self.leases.shards.resize_with(layout.count(), Shard::default);
        }
        let cut_off = self.now.since(self.leases.renewed_at) > self.timing.lease_duration;
        let new_epoch = self.leases.epoch != self.view.config.epoch;
        if new_epoch {
            (self.leases.epoch, self.leases.since) = (self.view.config.epoch, self.now);
            self.leases.wants_epoch = None;
        }
        for index in 0..layout.count() {
            let shard = &mut self.leases.shards[index];
            if new_epoch {
                (shard.opened, shard.lost) = (None, None);
                shard.opened = shard.current(self.leases.epoch).map(|lease| lease.number);
            }
            if shard.standing != Standing::Held {
                continue;
            }
            let range = layout.range(index);
            if cut_off && !self.window.overlaps(range) {
                // Nobody can ask for it as long as this node does not hear of Leases: others get what is not in use.
                self.lose_shard(index, range);
            } else {
                self.grants.holder.keep(range, self.now);
                if cut_off {
                    self.recall_shard(index, range, Class::Recovery);
                }
            }
        }
    }

    /// The attachment has ended.
    pub(in crate::replica) fn leases_dropped(&mut self) {
        self.leases.shards.iter_mut().for_each(|shard| shard.standing = Standing::None);
    }

    fn recall_shard(&mut self, index: usize, range: BlockRange, class: Class) {
        let busy = self.window.overlaps(range);
        let (own, unit) = (self.class(), self.view.config.settings.extent_blocks);
        let recall = Message::Recall { id: RecallId(index as u64), range, needed: range, class };
        self.grants.holder.recalled(&recall, own, busy, unit, self.now);
    }

    /// The shard that each question waits for: the lowest that is missing. Lower ones are kept until the question is answered, so
    /// that whoever waits for a shard never holds up anybody who waits for a lower one.
    fn wanted_shards(&self, layout: Layout) -> (Vec<Option<(Class, Time)>>, Vec<bool>) {
        let mut wanted = Vec::new();
        wanted.resize(layout.count(), None::<(Class, Time)>);
        let mut pinned = Vec::new();
        pinned.resize(layout.count(), false);
        for ask in self.grants.holder.asks() {
            let held = |index: &usize| self.grants.holder.covers(layout.range(*index));
            let Some(missing) = layout.touched(ask.range).find(|index| !held(index)) else { continue };
            let (class, since) = wanted[missing].unwrap_or((ask.class, ask.since));
            wanted[missing] = Some((class.max(ask.class), since.min(ask.since)));
            if !self.broken(broken!(ShardsNotPinned)) {
                layout.touched(ask.range).take_while(|index| *index < missing).for_each(|index| pinned[index] = true);
            }
        }
        (wanted, pinned)
    }

    /// Maintenance.
    pub(super) fn advance_leases(&mut self, layout: Layout) {
        self.expire_asks();
        self.accept_shards(layout);
        let (_, pinned) = self.wanted_shards(layout);
        self.recall_wished(layout, &pinned);
        self.give_back_shards(&pinned, layout);
        // Giving back may be what another of this node's own questions waits behind.
        let (wanted, _) = self.wanted_shards(layout);
        for (index, want) in wanted.iter().enumerate() {
            self.speak(layout, index, *want);
            self.watch_patience(index, *want);
        }
        let next = self.grants.holder.next_yield().min(self.next_lease_deadline(&wanted));
        self.attention_at = self.attention_at.min(next.max(self.now.after(1)));
    }

    fn expire_asks(&mut self) {
        let now = self.now;
        let late: Vec<LeaseAsk> = (self.leases.shards.iter())
            .filter_map(|shard| shard.asked.filter(|(_, until, _)| *until <= now).map(|(ask, ..)| ask))
            .collect();
        late.into_iter().for_each(|ask| self.on_shard_failed(Some(ask), true));
        for seen in self.leases.holders.values_mut() {
            seen.asked = seen.asked.filter(|(_, until)| *until > now);
        }
    }

    /// What this epoch's Leases say of this node, and who waits there.
    fn accept_shards(&mut self, layout: Layout) {
        let (epoch, me, now) = (self.view.config.epoch, (self.node, self.incarnation), self.now);
        let older = self.broken(broken!(LeaseOfOldEpochBelieved));
        let in_doubt = self.broken(broken!(HeldAgainInDoubt));
        let writes = self.is_writer();
        let mut accepted = false;
        for index in 0..layout.count() {
            let shard = &mut self.leases.shards[index];
            if shard.lost.is_some() {
                continue;
            }
            let found = shard.lease.as_ref().and_then(|found| found.as_ref().ok());
            let Some(lease) = found.filter(|lease| lease.number.epoch == epoch || older && lease.number.epoch < epoch)
            else {
                continue;
            };
            let known = core::mem::take(&mut shard.waiters);
            let seen = |node: NodeId| known.iter().find(|(n, _)| *n == node).map_or(now, |(_, since)| *since);
            shard.waiters = lease.wishes.iter().map(|wish| (wish.node, seen(wish.node))).collect();
            let heard = heed(shard, lease, me, self.grants.numbers.of(index), in_doubt);
            match heard {
                Heard::Given(number) if writes => {
                    let shard = &mut self.leases.shards[index];
                    let new = shard.standing != Standing::Held;
                    shard.standing = Standing::Held;
                    self.grants.numbers.raise(index..=index, number);
                    if new {
                        self.grants.holder.accept(layout.range(index), now);
                        accepted = true;
                    }
                }
                Heard::Taken => {
                    self.lose_shard(index, layout.range(index));
                    self.shard_lost(index, "it names another holder, and nobody gave it back".to_string());
                }
                Heard::HandedOn => self.leases.shards[index].standing = Standing::None,
                Heard::Given(_) | Heard::Nothing => {}
            }
        }
        if accepted {
            self.grants.holder.answered(now);
            self.serve_waiting();
        }
    }

    fn recall_wished(&mut self, layout: Layout, pinned: &[bool]) {
        let epoch = self.view.config.epoch;
        let me = (self.node, self.incarnation);
        for index in (0..layout.count()).filter(|index| !pinned[*index]) {
            let shard = &self.leases.shards[index];
            let Some(lease) = shard.current(epoch).filter(|l| l.holder == Some(me)) else { continue };
            if shard.standing != Standing::Held || shard.lost.is_some() {
                continue;
            }
            let others: Vec<_> = (lease.wishes.iter())
                .filter(|w| (w.node, w.incarnation) != me && self.view.is_writer(w.node, w.incarnation))
                .copied()
                .collect();
            if let Some((_, class)) = shard.next_in_line(&others, self.now) {
                self.recall_shard(index, layout.range(index), class);
            }
        }
    }

    fn give_back_shards(&mut self, pinned: &[bool], layout: Layout) {
        // A question that came after the recall keeps its shards all the same.
        let kept: Vec<BlockRange> =
            pinned.iter().enumerate().filter(|(_, pinned)| **pinned).map(|(index, _)| layout.range(index)).collect();
        self.grants.holder.keep_for_now(&kept);
        for message in self.drained() {
            if let Message::Released { id, .. } = message
                && let Some(shard) = self.leases.shards.get_mut(id.0 as usize)
            {
                shard.standing = Standing::GivenBack;
            }
        }
    }

    /// Whose turn it is to open this epoch's Leases: members take turns, so that one that cannot reach them is not asked twice.
    fn opening_node(&self) -> Option<NodeId> {
        let count = u64::from(self.view.in_sync.count_ones()).max(1);
        self.view.nodes(self.view.in_sync).nth((self.view.config.epoch.0 % count) as usize)
    }

    fn reported_holder(&self, range: BlockRange) -> Option<(NodeId, Incarnation)> {
        let holds = |report: &crate::replica::view::Report| report.holds.iter().any(|held| held.overlaps(range));
        let node = self.reports().find(|(_, report)| holds(report)).map(|(node, _)| node)?;
        self.view.members().get(&node).map(|incarnation| (node, *incarnation))
    }

    /// Reads a Lease, or writes what there is to say.
    fn speak(&mut self, layout: Layout, index: usize, want: Option<(Class, Time)>) {
        let shard = &self.leases.shards[index];
        let waits = shard.asked.is_some() || shard.retry_at > self.now || shard.lost.is_some();
        if waits || layout.range(index).is_empty() {
            return;
        }
        let settled = self.reconciled || self.broken(broken!(OpenBeforeSettled));
        let opens = settled && self.opening_node() == Some(self.node);
        let to_open = opens && shard.opened.is_none();
        if !to_open && want.is_none() && shard.standing != Standing::GivenBack {
            return;
        }
        let waits_long = want.is_some() && self.now.since(shard.heard_at) >= self.timing.lease_patience / 2;
        let number = index as u8;
        if shard.lease.is_none() || shard.stale || waits_long {
            return self.ask_shard(index, LeaseWant::Read { shard: number });
        }
        let from_lease = || match &shard.lease {
            Some(Ok(lease)) => lease.holder.filter(|(node, inc)| self.view.is_writer(*node, *inc)),
            _ => None,
        };
        let holder = || match self.broken(broken!(OpenedFromLease)) {
            true => from_lease(),
            false => self.reported_holder(layout.range(index)),
        };
        let expired = self.broken(broken!(ExpiryTakes));
        let gone = |node: NodeId| expired && self.leases.holders.get(&node).is_some_and(|seen| self.is_expired(seen));
        let view = &self.view;
        let situation = Situation {
            now: self.now,
            epoch: view.config.epoch,
            me: (self.node, self.incarnation),
            want: want.map(|(class, _)| class),
            number: self.grants.numbers.of(index),
            opens: opens.then(holder),
            settled,
            writes: &|node, incarnation| view.is_writer(node, incarnation) && !gone(node),
            believes_older: self.broken(broken!(LeaseOfOldEpochBelieved)),
        };
        match next_word(shard, &situation) {
            Some(Word::Make) => self.ask_shard(index, LeaseWant::Make { shard: number }),
            Some(Word::Say(mut lease)) => {
                if self.broken(broken!(ShardNumberKept)) && lease.number.counter > 1 {
                    lease.number.counter -= 1;
                }
                let version = shard.version;
                self.ask_shard(index, LeaseWant::Write { shard: number, version, lease });
            }
            None => {}
        }
    }

    fn ask_shard(&mut self, index: usize, want: LeaseWant) {
        let ask = self.next_lease_ask();
        let until = self.now.after(self.timing.register_patience);
        let shard = &mut self.leases.shards[index];
        shard.asked = Some((ask, until, shard.version));
        self.out.push(Effect::Lease { ask, want });
    }

    fn is_expired(&self, seen: &Renewals) -> bool {
        seen.heard_at > Time(0) && self.now.since(seen.since) >= self.timing.lease_duration
    }

    /// Whoever waits too long looks at why; what cannot be mended in this epoch is in the next.
    fn watch_patience(&mut self, index: usize, want: Option<(Class, Time)>) {
        let patience = self.timing.lease_patience;
        let (epoch, now) = (self.view.config.epoch, self.now);
        let Some((_, since)) = want else { return };
        let shard = &self.leases.shards[index];
        let heard = now.since(shard.heard_at) < patience && shard.heard_at > Time(0);
        if now.since(since.max(self.leases.since)) < patience || !heard {
            return;
        }
        let Some(lease) = shard.current(epoch) else {
            return self.shard_lost(index, "the member whose turn it is has not opened it".to_string());
        };
        let Some((node, _)) = lease.holder.filter(|holder| *holder != (self.node, self.incarnation)) else { return };
        let seen = self.leases.holders.get(&node).copied().unwrap_or_default();
        if self.is_expired(&seen) && now.since(seen.heard_at) < patience {
            return self.shard_lost(index, format!("its holder, node {}, does not renew its own Lease", node.0));
        }
        if seen.asked.is_none() && now.since(seen.heard_at) >= patience / 2 {
            let ask = self.next_lease_ask();
            let asked = Some((ask, now.after(self.timing.register_patience)));
            self.leases.holders.insert(node, Renewals { asked, ..seen });
            self.out.push(Effect::Lease { ask, want: LeaseWant::ReadNode { node } });
        }
    }

    fn next_lease_deadline(&self, wanted: &[Option<(Class, Time)>]) -> Time {
        let mut next = Time::NEVER;
        for (shard, want) in self.leases.shards.iter().zip(wanted) {
            next = next.min(shard.asked.map_or(Time::NEVER, |(_, until, _)| until));
            let speaks = want.is_some() || shard.standing == Standing::GivenBack || shard.opened.is_none();
            if shard.retry_at > self.now && speaks {
                next = next.min(shard.retry_at);
            }
            if want.is_some() {
                next = next.min(self.now.after(self.timing.lease_patience / 8));
            }
        }
        next
    }

    /// A new epoch, in which Leases are opened anew: not sooner after the last one than it takes to see what that brought.
    pub(in crate::replica) fn wanted_of_leases(&self) -> Option<Change> {
        self.leases.wants_epoch.as_ref()?;
        let member = self.view.members().get(&self.node) == Some(&self.incarnation);
        let due = self.leases.since.after(self.timing.lease_patience);
        (member && self.now >= due).then_some(Change::NextEpoch { epoch: self.view.config.epoch })
    }

    /// For people.
    pub(super) fn shards_status(&self, layout: Layout) -> Vec<ShardStatus> {
        let epoch = self.view.config.epoch;
        let told = |(index, shard): (usize, &Shard)| ShardStatus {
            shard: index as u8,
            range: layout.range(index),
            holder: shard.current(epoch).and_then(|lease| lease.holder).map(|(node, _)| node),
            trouble: match (&shard.lost, &shard.lease) {
                (Some(lost), _) => Some(lost.clone()),
                (None, Some(Err(reason))) => Some(reason.clone()),
                _ => None,
            },
        };
        self.leases.shards.iter().enumerate().map(told).collect()
    }

    /// Those that wait for shards, in the order in which they will be served.
    pub(super) fn shard_waiters(&self, layout: Layout) -> Vec<WaitingStatus> {
        let epoch = self.view.config.epoch;
        let mut all = Vec::new();
        for (index, shard) in self.leases.shards.iter().enumerate() {
            let mut wishes = shard.current(epoch).map(|lease| lease.wishes.clone()).unwrap_or_default();
            while let Some((next, _)) = shard.next_in_line(&wishes, self.now) {
                wishes.retain(|wish| *wish != next);
                let since = shard.waits_since(next.node, self.now);
                let (node, class, range) = (next.node, next.class, layout.range(index));
                all.push(WaitingStatus { node, range, class, waited: self.now.since(since) });
            }
        }
        // What this node could not yet write into a Lease waits all the same.
        for ask in self.grants.holder.asks() {
            if !all.iter().any(|told| told.node == self.node && told.range.overlaps(ask.range)) {
                let waited = self.now.since(ask.since);
                all.push(WaitingStatus { node: self.node, range: ask.range, class: ask.class, waited });
            }
        }
        all
    }
}

//! Policing of a multi-writer volume in the replica: asking, giving, recalling, giving back.
//!
//! Whatever is lost with a session is said again when the next one opens. With a change of view all of it is void: members
//! report what they hold, the granting node of the new view begins a table of its own, and writers ask again.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::extents::{is_whole, widen};
use super::table::{Said, Table, TableRules, Waiting};
use crate::config::Access;
use crate::ids::{AskId, CommandId, GrantNumber, NodeId, Time};
use crate::input::{CommandError, Reply};
use crate::message::{Class, Message};
use crate::range::BlockRange;
use crate::replica::Replica;
use crate::status::{GrantsStatus, WaitingStatus};
use crate::timing::MS;

/// How long a command waits for the whole volume's grants: longer than it takes to expel a holder that is gone.
const TAKING_PATIENCE: u64 = 10_000 * MS;

/// The granting node's table, and what this node says to itself.
#[derive(Debug)]
pub(in crate::replica) struct Policing {
    pub table: Table,
    begun: bool,
    inbox: VecDeque<Message>,
    /// A command that waits for the whole volume's grants, and until when.
    taking: Option<(CommandId, Time)>,
}

impl Default for Policing {
    fn default() -> Policing {
        let table = Table::new(1, 0, 0, TableRules::default());
        Policing { table, begun: false, inbox: VecDeque::new(), taking: None }
    }
}

impl Replica {
    /// True if several nodes may write this volume.
    pub(in crate::replica) fn is_shared(&self) -> bool {
        self.view.config.settings.access == Access::MultiWriter
    }

    /// True if grants are of ranges, whoever gives them.
    pub(in crate::replica) fn has_ranges(&self) -> bool {
        self.view.config.settings.grants_ranges()
    }

    /// True if the granting node gives them.
    fn is_granted_by_peer(&self) -> bool {
        self.is_shared() && self.shards().is_none()
    }

    /// Class of this node's requests.
    pub(super) fn class(&self) -> Class {
        self.view.config.class_of(self.node)
    }

    fn unit(&self) -> u64 {
        self.view.config.settings.extent_blocks
    }

    /// A new view is installed: nothing that was said in the old one counts.
    pub(in crate::replica) fn policing_view_changed(&mut self) {
        if !self.has_ranges() {
            return;
        }
        self.grants.holder.view_changed(self.now);
        if let Some(layout) = self.shards() {
            return self.leases_view_changed(layout);
        }
        self.policing.inbox.clear();
        self.policing.begun = false;
        let rules = TableRules {
            grant_before_release: self.broken(broken!(GrantBeforeRelease)),
            no_ageing: self.broken(broken!(ClassesDoNotAge)),
            no_reservation: self.broken(broken!(NothingReserved)),
        };
        let recalls = self.policing.table.recalls_used();
        self.policing.table = Table::new(self.unit(), self.view.config.size_blocks, recalls, rules);
        if self.broken(broken!(GrantBeforeReports)) {
            self.begin_table();
        }
    }

    /// All members have reported: the granting node knows who holds what, and everybody asks it for what is missing.
    pub(in crate::replica) fn policing_reported(&mut self) {
        self.attention = true;
        if !self.is_granted_by_peer() || self.policing.begun {
            return;
        }
        self.begin_table();
        self.ask_again();
    }

    fn begin_table(&mut self) {
        self.policing.begun = true;
        if self.view.granting_node() != Some(self.node) {
            return;
        }
        let mut highest = self.grants.highest();
        let mut holds = Vec::new();
        for (node, report) in self.reports() {
            highest = highest.max(report.grant);
            holds.extend(report.holds.iter().map(|range| (node, *range)));
        }
        if self.broken(broken!(NumbersStartAgain)) {
            highest = Default::default();
        }
        let epoch = self.view.config.epoch;
        self.policing.table.begin(epoch, highest, holds.into_iter());
        if !self.reconciled && !self.broken(broken!(GrantBeforeReconcile)) {
            self.blocked.ranges().for_each(|range| self.policing.table.hold_back(range));
        }
    }

    /// What was in flight at the change of view is settled: all of the volume can be granted.
    pub(in crate::replica) fn policing_settled(&mut self) {
        if self.has_ranges() {
            self.policing.table.settled();
            self.attention = true;
        }
    }

    /// A write needs a range that is not held here.
    pub(in crate::replica) fn want_grant(&mut self, range: BlockRange) {
        if self.has_ranges() {
            self.ask_for(range, self.class());
        }
    }

    fn ask_for(&mut self, range: BlockRange, class: Class) {
        let layout = self.shards();
        let wide = layout.map_or_else(|| widen(range, self.unit()), |layout| layout.widen(range));
        let Some(ask) = self.grants.holder.want(wide, class, self.now) else { return };
        if layout.is_some() {
            self.attention = true;
            self.attention_at = self.now;
        } else {
            self.tell_granting(Message::GrantAsk { id: ask.id, range: ask.range, class: ask.class, waited: 0 });
        }
    }

    /// Asks again for everything that has no answer.
    fn ask_again(&mut self) {
        let asks = self.grants.holder.asks().to_vec();
        for ask in asks {
            let waited = self.now.since(ask.since);
            self.tell_granting(Message::GrantAsk { id: ask.id, range: ask.range, class: ask.class, waited });
        }
    }

    fn tell_granting(&mut self, message: Message) {
        match self.view.granting_node() {
            Some(node) if node == self.node => self.tell_self(message),
            Some(node) => self.send(node, message, None),
            None => {}
        }
    }

    /// What this node says to itself is heard in the next round of maintenance, which is due at once.
    fn tell_self(&mut self, message: Message) {
        self.policing.inbox.push_back(message);
        self.attention = true;
        self.attention_at = self.now;
    }

    /// A session opened: what was said in the old one may be lost.
    pub(in crate::replica) fn policing_session_opened(&mut self, node: NodeId) {
        if !self.is_granted_by_peer() {
            return;
        }
        if self.view.granting_node() == Some(node) && self.policing.begun && !self.broken(broken!(AskedOnce)) {
            self.ask_again();
        }
        if self.view.granting_node() == Some(self.node) && !self.broken(broken!(RecalledOnce)) {
            let mut said = Said::new();
            self.policing.table.repeat_recalls(node, &mut said);
            said.into_iter().for_each(|(node, message)| self.send(node, message, None));
        }
    }

    /// A frame of policing.
    pub(in crate::replica) fn on_policing(&mut self, from: NodeId, message: &Message) {
        if !self.is_granted_by_peer() {
            return;
        }
        self.attention = true;
        let granting = self.view.granting_node();
        match message {
            Message::GrantAsk { .. } | Message::Released { .. } if granting == Some(self.node) => {
                self.on_policing_as_granting(from, message);
            }
            Message::Granted { id, range, number } if granting == Some(from) => self.on_granted(*id, *range, *number),
            Message::Recall { range, needed, .. } if granting == Some(from) => {
                if !self.is_of_extents(*range) || !self.is_of_extents(*needed) || !range.contains(*needed) {
                    return;
                }
                let busy = self.window.overlaps(*needed);
                let (class, unit) = (self.class(), self.unit());
                self.grants.holder.recalled(message, class, busy, unit, self.now);
            }
            _ => {}
        }
    }

    fn on_granted(&mut self, id: AskId, range: BlockRange, number: GrantNumber) {
        let fits = self.is_of_extents(range) && self.is_writer();
        if fits && self.grants.holder.granted(id, range, number, self.now) {
            self.serve_waiting();
        }
    }

    /// True for whole extents of this volume.
    fn is_of_extents(&self, range: BlockRange) -> bool {
        is_whole(range, self.unit()) && widen(self.whole(), self.unit()).contains(range)
    }

    fn on_policing_as_granting(&mut self, from: NodeId, message: &Message) {
        match message {
            Message::GrantAsk { id, range, class, waited } => {
                let listed = self.view.members().get(&from).copied();
                if listed.is_some_and(|incarnation| self.view.is_writer(from, incarnation)) {
                    let since = Time(self.now.0.saturating_sub(*waited));
                    let (node, id, range, class) = (from, *id, *range, *class);
                    let waiting = Waiting { node, id, range, class, since, collecting: false };
                    self.policing.table.ask(self.now, waiting);
                }
            }
            Message::Released { id, kept } => self.policing.table.released(from, *id, kept),
            _ => {}
        }
    }

    /// All grants of the volume come to this node, as one transfer.
    pub(in crate::replica) fn on_take_grants(&mut self, command: CommandId) {
        let refused = if !self.is_shared() {
            Some("a single-writer volume's grant moves with its attachment")
        } else if !self.is_writer() {
            Some("the volume is not attached for writing on this node")
        } else if self.policing.taking.is_some() {
            Some("grants are being taken already")
        } else {
            None
        };
        if let Some(reason) = refused {
            return self.answer(command, Err(CommandError::Forbidden { reason: reason.into() }));
        }
        self.policing.taking = Some((command, self.now.after(TAKING_PATIENCE)));
        let whole = self.whole();
        if !self.grants.holder.covers(whole) {
            self.ask_for(whole, Class::Recovery);
        }
        self.attention = true;
    }

    fn whole(&self) -> BlockRange {
        BlockRange::new(0, self.view.config.size_blocks)
    }

    fn check_taking(&mut self) {
        let Some((command, until)) = self.policing.taking else { return };
        let result = if self.grants.holder.covers(self.whole()) {
            Ok(Reply::Done)
        } else if until <= self.now {
            let reason = "the grants did not come in time: a holder does not answer".into();
            Err(CommandError::Forbidden { reason })
        } else {
            return;
        };
        self.policing.taking = None;
        self.answer(command, result);
    }

    /// Maintenance: obeys recalls whose time has come, gives what can be given.
    pub(in crate::replica) fn advance_policing(&mut self) {
        if !self.has_ranges() || self.adopting.is_some() || !self.reports_in {
            return;
        }
        if let Some(layout) = self.shards() {
            self.advance_leases(layout);
            return self.check_taking();
        }
        loop {
            self.give_back();
            let inbox = core::mem::take(&mut self.policing.inbox);
            let idle = inbox.is_empty();
            let me = self.node;
            inbox.iter().for_each(|message| self.on_policing(me, message));
            let mut said = Said::new();
            self.policing.table.advance(self.now, &mut said);
            if idle && said.is_empty() && self.policing.inbox.is_empty() {
                break;
            }
            for (node, message) in said {
                if node == me {
                    self.on_policing(me, &message);
                } else {
                    self.send(node, message, None);
                }
            }
        }
        self.check_taking();
        let next = self.grants.holder.next_yield().min(self.policing.table.next_ageing(self.now));
        self.attention_at = self.attention_at.min(next.max(self.now.after(1)));
    }

    /// How many ranges were granted to this node so far.
    #[must_use]
    pub fn grants_taken(&self) -> u64 {
        self.grants.holder.taken
    }

    /// For people.
    pub(in crate::replica) fn grants_status(&self) -> Option<GrantsStatus> {
        if !self.has_ranges() {
            return None;
        }
        let layout = self.shards();
        let holder = &self.grants.holder;
        let own = holder.asks().iter().map(|ask| (self.node, ask.range, ask.class, ask.since));
        let all = self.policing.table.waiting(self.now);
        let all = all.into_iter().map(|w| (w.node, w.range, w.class, w.since));
        let granting = self.policing.begun && self.view.granting_node() == Some(self.node);
        let waiting: Vec<_> = if granting { all.collect() } else { own.collect() };
        let by_lease = layout.map(|layout| self.shard_waiters(layout));
        let told = |(node, range, class, since): (NodeId, BlockRange, Class, Time)| WaitingStatus {
            node,
            range,
            class,
            waited: self.now.since(since),
        };
        Some(GrantsStatus {
            holds: holder.holds(),
            table: if granting { self.policing.table.holders().collect() } else { Vec::new() },
            waiting: by_lease.unwrap_or_else(|| waiting.into_iter().map(told).collect()),
            shards: layout.map(|layout| self.shards_status(layout)).unwrap_or_default(),
            taken: holder.taken,
            given: holder.given,
            waits: holder.waits,
            longest_wait: holder.longest_wait,
        })
    }

    fn give_back(&mut self) {
        self.drained().into_iter().for_each(|message| self.tell_granting(message));
    }

    /// What was recalled and is on all replicas.
    pub(super) fn drained(&mut self) -> Vec<Message> {
        let unit = self.unit();
        self.grants.holder.admits_while_draining = self.broken(broken!(AdmitsWhileDraining));
        self.grants.holder.begin_drains(unit, self.now);
        if !self.grants.holder.is_draining() {
            return Vec::new();
        }
        let at_once = self.broken(broken!(ReleasedBeforeDrained));
        let without_joining = self.broken(broken!(DrainWithoutJoining));
        let (window, in_sync) = (&self.window, self.view.in_sync);
        let in_flight = |range: BlockRange| match without_joining {
            true => window.iter().any(|(_, w)| w.range.overlaps(range) && w.acked & in_sync != in_sync),
            false => window.overlaps(range) && !at_once,
        };
        let mut said = Vec::new();
        self.grants.holder.released(in_flight, |message| said.push(message));
        said
    }
}

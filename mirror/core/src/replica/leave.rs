//! Planned leaving: without the arbiter and without an epoch, by a durable mark that overrides configurations.
//!
//! ```text
//! asking --a promise to stay--> flushing --> marking (durable) --> goodbye --seen--> gone
//! ```

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::Replica;
use super::apply::Purpose;
use super::durable::After;
use crate::effect::{Effect, Event};
use crate::ids::{CommandId, Incarnation, NodeId, Time};
use crate::input::{CommandError, IoError, Reply};
use crate::message::Message;
use crate::meta::MetaUpdate;
use crate::range::BlockRange;

/// Where a leaving member is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    #[default]
    Staying,
    Asking,
    Flushing,
    Marking,
    Goodbye,
    Gone,
}

/// Planned leaving of this member, and its promise to stay for somebody else's.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving {
    phase: Phase,
    command: Option<CommandId>,
    since: Time,
    asked_at: Time,
    promises: BTreeSet<NodeId>,
    waits_for: BTreeSet<NodeId>,
    /// This member promised another to stay, in the current view.
    pub promised: bool,
    /// This member has left: it admits, serves and swaps nothing any more.
    pub marked: bool,
}

impl Leaving {
    /// True from the command on.
    pub fn is_asking(&self) -> bool {
        !matches!(self.phase, Phase::Staying)
    }

    /// False from the question on: whoever may be promised to does not swap.
    pub fn may_swap(&self) -> bool {
        match self.phase {
            Phase::Staying => true,
            Phase::Asking => !self.has_asked(),
            Phase::Flushing | Phase::Marking | Phase::Goodbye | Phase::Gone => false,
        }
    }

    fn has_asked(&self) -> bool {
        self.asked_at != Time(0)
    }

    /// Takes the question back: it is asked anew once nothing is in doubt any more.
    fn ask_later(&mut self) {
        self.asked_at = Time(0);
        self.promises.clear();
    }
}

impl Replica {
    pub(super) fn on_leave(&mut self, command: CommandId) {
        if self.leaving.is_asking() {
            return self.answer(command, Err(CommandError::Forbidden { reason: "leaving already".into() }));
        }
        if self.is_attached_here() {
            // The engine stops: the front end has been stopped before, whatever is still open fails.
            self.fail_requests(IoError::Io);
        }
        self.leaving.command = Some(command);
        self.leaving.since = self.now;
        if self.view.is_written(self.node, self.incarnation) && self.disk.failed.is_none() {
            self.leaving.phase = Phase::Asking;
            self.leaving.ask_later();
            self.advance_leave();
        } else {
            self.leave_ended(Ok(Reply::Done));
        }
    }

    /// Maintenance: asks, repeats, gives up.
    pub(super) fn advance_leave(&mut self) {
        let patience = self.timing.swap_delay * 3;
        match self.leaving.phase {
            Phase::Asking if self.now.since(self.leaving.since) >= patience => {
                let reason = "no in-sync member promised to stay".into();
                self.leave_ended(Err(CommandError::Forbidden { reason }));
            }
            Phase::Asking => self.ask_to_leave(),
            Phase::Goodbye if self.now.since(self.leaving.since) >= patience => self.leave_ended(Ok(Reply::Done)),
            _ => {}
        }
    }

    fn ask_to_leave(&mut self) {
        if self.is_swap_in_doubt() {
            self.leaving.ask_later();
            if self.proposer.in_doubt {
                self.propose(super::change::Change::Learn);
            }
            return;
        }
        if self.view.in_sync == self.view.bit(self.node) {
            // The last in-sync replica never leaves: it stops, and is what everybody comes back to.
            self.leaving.phase = Phase::Flushing;
            return self.flush_before_leaving();
        }
        // Somebody may be leaving on the strength of this member's promise: not before that is seen, or over.
        let bound = self.leaving.promised && !self.broken(broken!(TwoLeaveAtOnce));
        if bound || self.leaving.asked_at.after(self.timing.retry) > self.now && self.leaving.has_asked() {
            return;
        }
        self.leaving.asked_at = self.now;
        let members: Vec<NodeId> = self.view.nodes(self.view.written()).filter(|n| *n != self.node).collect();
        for node in members {
            self.send(node, Message::LeaveAsk, None);
        }
    }

    pub(super) fn on_leave_ask(&mut self, from: NodeId) {
        let in_doubt = self.is_swap_in_doubt();
        let able = self.view.is_in_sync(self.node, self.incarnation) && self.disk.failed.is_none() && !in_doubt;
        let withdraws = self.leaving.phase == Phase::Asking && self.node > from;
        if withdraws && able {
            self.leave_ended(Err(CommandError::Forbidden { reason: "another member leaves at the same time".into() }));
        }
        let leaving = self.leaving.is_asking() && !self.broken(broken!(TwoLeaveAtOnce));
        let stays = able && !leaving;
        if stays {
            self.leaving.promised = true;
        }
        self.send(from, Message::LeaveAnswer { stays }, None);
    }

    pub(super) fn on_leave_answer(&mut self, from: NodeId, stays: bool) {
        if self.leaving.phase != Phase::Asking || !self.leaving.has_asked() || !stays {
            return;
        }
        self.leaving.promises.insert(from);
        let in_doubt = self.is_swap_in_doubt();
        if !in_doubt {
            self.leaving.phase = Phase::Flushing;
            self.flush_before_leaving();
        }
    }

    fn flush_before_leaving(&mut self) {
        let io = self.begin_io(BlockRange::default(), Purpose::LeaveFlush);
        self.out.push(Effect::DiskFlush { io });
    }

    /// The last replica's disk failed the flush: it cannot say that everything is durable.
    pub(super) fn leave_flush_failed(&mut self) {
        if self.leaving.phase == Phase::Flushing {
            self.leave_ended(Err(CommandError::Forbidden { reason: "the replica's disk fails".into() }));
        }
    }

    /// Flushed: the promise is counted again, and the mark is made.
    pub(super) fn on_leave_flushed(&mut self) {
        if self.leaving.phase != Phase::Flushing {
            return;
        }
        if self.view.in_sync == self.view.bit(self.node) && self.view.is_in_sync(self.node, self.incarnation) {
            return self.leave_ended(Ok(Reply::Done));
        }
        let any_view = self.broken(broken!(PromiseAfterSwap));
        let promised = self.leaving.promises.iter().any(|n| any_view || self.view.in_sync & self.view.bit(*n) != 0);
        if !promised || self.adopting.is_some() {
            self.leaving.phase = Phase::Asking;
            self.leaving.ask_later();
            return;
        }
        self.leaving.phase = Phase::Marking;
        self.leaving.marked = true;
        let (node, incarnation) = (self.node, self.incarnation);
        self.persist(Vec::from([MetaUpdate::Left(node, incarnation)]), Some(After::MarkDurable));
    }

    pub(super) fn on_own_mark_durable(&mut self) {
        self.leaving.phase = Phase::Goodbye;
        self.leaving.since = self.now;
        self.leaving.waits_for = self.view.nodes(self.view.written()).filter(|n| *n != self.node).collect();
        let members: Vec<NodeId> = self.view.members().keys().copied().filter(|n| *n != self.node).collect();
        for node in members {
            self.send(node, Message::Goodbye { incarnation: self.incarnation }, None);
        }
    }

    pub(super) fn on_goodbye(&mut self, from: NodeId, incarnation: Incarnation) {
        self.learn_mark(from, incarnation);
        self.out.push(Effect::Event(Event::Left { node: from, incarnation }));
        if self.view.left.contains(&(from, incarnation)) {
            self.send(from, Message::GoodbyeSeen, None);
        }
    }

    pub(super) fn on_goodbye_seen(&mut self, from: NodeId) {
        self.leaving.waits_for.remove(&from);
        if self.leaving.phase == Phase::Goodbye && self.leaving.waits_for.is_empty() {
            self.leave_ended(Ok(Reply::Done));
        }
    }

    fn leave_ended(&mut self, result: Result<Reply, CommandError>) {
        self.leaving.phase = if result.is_ok() { Phase::Gone } else { Phase::Staying };
        if let Some(command) = self.leaving.command.take() {
            self.answer(command, result);
        }
    }

    /// A promise holds only in the view in which it was given; marks that are durable now are confirmed.
    pub(super) fn leave_view_changed(&mut self) {
        if !self.broken(broken!(PromiseAfterSwap)) {
            self.leaving.promises.clear();
            self.leaving.promised = false;
        }
        self.leaving.asked_at = Time(0);
        let gone: Vec<NodeId> = self.view.left.iter().map(|(n, _)| *n).collect();
        for node in gone {
            self.send(node, Message::GoodbyeSeen, None);
        }
    }

    /// A session with somebody opened while this member says goodbye: it may not have heard.
    pub(super) fn leave_session_opened(&mut self, node: NodeId) {
        if self.leaving.phase == Phase::Goodbye {
            self.send(node, Message::Goodbye { incarnation: self.incarnation }, None);
        }
    }
}

//! Which change of the configuration this member wants now. One at a time, the most urgent first; looked at after
//! every input, so that nothing has to be remembered when a round fails or somebody else was faster.

use alloc::vec::Vec;

use super::Replica;
use super::arbiter::Outcome;
use super::change::{Change, Survivor};
use super::view::lists;
use crate::config::AttachMode;
use crate::effect::{Effect, Event};
use crate::ids::{Incarnation, NodeId, Time, VoterId};
use crate::message::Message;

impl Replica {
    /// Maintenance: proposes the most urgent change.
    pub(super) fn steer(&mut self) {
        self.note_suspects();
        self.check_round();
        if self.is_proposing()
            || self.adopting.is_some()
            || self.proposer.retry_at > self.now
            || !self.leaving.may_swap()
        {
            return;
        }
        if let Some(change) = self.wanted_change() {
            self.propose(change);
        }
    }

    fn wanted_change(&mut self) -> Option<Change> {
        let listed: Vec<_> = self.marks.iter().filter(|(n, i)| lists(&self.known, *n, *i)).copied().collect();
        let in_sync = self.view.is_in_sync(self.node, self.incarnation);
        if self.leaving.marked {
            return None;
        }
        // A decided configuration that is not installed here has to be, or to be overtaken, first.
        if self.known.epoch > self.view.config.epoch {
            return match (listed.is_empty(), in_sync) {
                (true, _) => None,
                (false, true) if self.known.in_sync.iter().all(|(n, i)| listed.contains(&(*n, *i))) => {
                    let granting = self.view.granting_node() == Some(self.node);
                    let run = |node: NodeId| {
                        let incarnation = *self.view.config.in_sync.get(&node)?;
                        Some(Survivor { node, incarnation, since: self.view.config.replica_since(node)? })
                    };
                    let survivors = self.view.nodes(self.view.in_sync).filter_map(run).collect();
                    let epoch = self.view.config.epoch;
                    granting.then_some(Change::Overrule { survivors, left: listed, epoch })
                }
                (false, true) => Some(Change::Expel(listed)),
                // This run took its predecessor's place in a configuration that a mark overrides.
                (false, false) if self.known.is_in_sync(self.node, self.incarnation) => Some(Change::Expel(listed)),
                (false, false) => self.wanted_of_restarted(),
            };
        }
        self.wanted_of_failed()
            .or_else(|| self.wanted_of_failed_write())
            .or_else(|| if in_sync { self.wanted_expulsion() } else { None })
            .or_else(|| self.wanted_of_restarted())
            .or_else(|| self.wanted_of_outlived())
            .or((in_sync && !listed.is_empty()).then_some(Change::Expel(listed)))
            .or_else(|| self.wanted_of_operator())
            .or_else(|| self.wanted_of_leases())
            .or_else(|| self.wanted_of_joiner())
            .or_else(|| if in_sync { self.wanted_voters() } else { None })
            .or_else(|| self.wanted_of_outsider())
    }

    /// A replica whose disk failed leaves before anything is acknowledged without it. The last never leaves.
    fn wanted_of_failed(&self) -> Option<Change> {
        let written = self.view.is_written(self.node, self.incarnation);
        let last = self.view.in_sync == self.view.bit(self.node) && !self.broken(broken!(LastReplicaLeaves));
        (self.disk.failed.is_some() && written && !last).then_some(Change::DropReplica(self.node, self.incarnation))
    }

    /// Joining replicas may hold a write that failed at the last in-sync one: they begin anew.
    fn wanted_of_failed_write(&self) -> Option<Change> {
        let node = self.view.nodes(self.view.joining).next().filter(|_| self.failed_at_last)?;
        let incarnation = self.view.config.joining.get(&node)?.incarnation;
        Some(Change::DropReplica(node, incarnation))
    }

    /// Keeps the list of suspected members, with the time since when.
    fn note_suspects(&mut self) {
        let members = self.view.members();
        let now = self.now;
        let before = core::mem::take(&mut self.suspects);
        for (node, incarnation) in members {
            if node == self.node || !self.is_suspect(node, incarnation) {
                continue;
            }
            let since = before.get(&(node, incarnation)).copied();
            if since.is_none() {
                let reason = if self.has_ended(node, incarnation) { "its process has ended" } else { "silent" };
                self.out.push(Effect::Event(Event::Suspected { node, reason }));
            }
            self.suspects.insert((node, incarnation), since.unwrap_or(now));
        }
    }

    /// Members to expel, once it is this node's turn.
    fn wanted_expulsion(&self) -> Option<Change> {
        let mut out: Vec<(NodeId, Incarnation)> = Vec::new();
        let mut since = Time(0);
        let mut proven = true;
        for (key, at) in &self.suspects {
            let held = self.hold_expulsion.get(key).is_some_and(|until| *until > self.now);
            if held && !self.operator.takes_over() || self.is_awaited(*key, *at) {
                continue;
            }
            out.push(*key);
            since = since.max(*at);
            proven &= self.has_ended(key.0, key.1);
        }
        if out.is_empty() {
            return None;
        }
        let due = since.after(self.turn_delay(&out, proven));
        let change = match self.broken(broken!(ExpelledExpels)) {
            true => Change::Expel(out),
            false => Change::ExpelSuspects { out, by: (self.node, self.incarnation) },
        };
        (self.now >= due).then_some(change)
    }

    /// True if the run is the only one that has the volume attached, its front end outlives it, and nobody asks anything of the volume
    /// here, or waits for its place elsewhere: its requests wait, nobody else's wait for anything, and a successor that comes takes its place. Not if its supervisor
    /// says that there will be none.
    fn is_awaited(&self, (node, incarnation): (NodeId, Incarnation), since: Time) -> bool {
        let attached = &self.known.attached;
        let outlives = attached.get(&node).is_some_and(|own| own.recoverable && own.incarnation == incarnation);
        let last_word =
            self.exited.contains(&(node, incarnation)) && !self.hold_expulsion.contains_key(&(node, incarnation));
        let idle = attached.len() == 1 && !self.operator.is_busy() && !self.operator.is_wanted_elsewhere(self.now);
        outlives && idle && !last_word && self.now.since(since) < self.timing.absence_hold
    }

    /// Who of the survivors swaps at once, and how long the others wait for it.
    fn turn_delay(&self, out: &[(NodeId, Incarnation)], proven: bool) -> u64 {
        let alive = |n: &NodeId| !out.iter().any(|(o, _)| o == n);
        let attached = |n: &NodeId| self.view.config.attached.contains_key(n);
        let survivors: Vec<NodeId> = self.view.nodes(self.view.in_sync).filter(|n| alive(n)).collect();
        let mut order: Vec<NodeId> = survivors.iter().filter(|n| attached(n)).copied().collect();
        let first_come = order.len();
        order.extend(survivors.iter().filter(|n| !attached(n)));
        let rank = order.iter().position(|n| *n == self.node).unwrap_or(order.len()) as u64;
        let idle = rank as usize >= first_come && !proven;
        rank * self.timing.swap_delay + if idle { self.timing.idle_swap_delay } else { 0 }
    }

    /// A run that the register lists under its predecessor's number, or not at all.
    fn wanted_of_restarted(&mut self) -> Option<Change> {
        if !self.can_hold_data() {
            return None;
        }
        // What was empty when it was added holds nothing of what an earlier run held.
        let empty = self.meta.dirty.contains_key(&self.node) && !self.broken(broken!(EmptyStartsAlone));
        let from = self.known.in_sync.get(&self.node).copied().filter(|i| *i != self.incarnation && !empty)?;
        if self.marks.contains(&(self.node, from)) {
            return None;
        }
        let to = self.incarnation;
        let node = self.node;
        let others: Vec<(NodeId, Incarnation)> = (self.known.in_sync.iter())
            .map(|(n, i)| (*n, *i))
            .filter(|(n, i)| *n != node && !self.marks.contains(&(*n, *i)))
            .collect();
        let same_run =
            |n: NodeId, i: Incarnation| self.peers.get(&n).and_then(|p| p.session).is_some_and(|s| s.incarnation == i);
        if others.iter().any(|(n, i)| same_run(*n, *i)) {
            let attached = self.known.attached.get(&node).is_some_and(|a| a.incarnation == from && a.recoverable);
            let held_cache = self.meta.boot == self.boot || self.broken(broken!(HoldsAfterReboot));
            return (attached && held_cache && self.meta.incarnation == from).then_some(Change::Reincarnate {
                node,
                from,
                to,
            });
        }
        let same_boot = self.meta.boot == self.boot;
        let alone = Change::StartAlone { node, from, to, same_boot };
        if others.is_empty() {
            return Some(alone);
        }
        if self.broken(broken!(TwoStarts)) {
            return self.start_unasked(&alone);
        }
        // All others have provably ended too: somebody starts without waiting for runs that cannot come back. First in
        // line is who has not lost its power since (it holds what was not flushed, too), then the lowest.
        let all_ended = others.iter().all(|(n, i)| self.has_ended(*n, *i));
        let holds_all = same_boot && self.meta.incarnation == from;
        let lower = others.iter().filter(|(n, _)| *n < node).count();
        let before = if holds_all { lower } else { lower + others.len() + 1 };
        let sessions = others.iter().filter_map(|(n, _)| self.peers.get(n).and_then(|p| p.session));
        let met_at = sessions.map(|s| s.opened_at).fold(self.started_at, Time::max);
        let patience = if all_ended { 0 } else { self.timing.start_alone };
        let mut since = met_at.max(self.started_at.after(patience));
        if before > 0 && self.has_register() {
            // While the register was away, everybody's time has come: who is first has to have had its chance since.
            let Some(at) = self.proposer.reached_at else { return Some(Change::Learn) };
            since = since.max(at.after(self.timing.register_patience));
        }
        (self.now >= since.after(before as u64 * self.timing.swap_delay)).then_some(alone)
    }

    /// An attachment whose front end may have outlived the earlier run, without a replica in sync that it could go with.
    fn wanted_of_outlived(&self) -> Option<Change> {
        let (node, to) = (self.node, self.incarnation);
        let own = self.known.attached.get(&node).filter(|own| own.recoverable && own.incarnation != to)?;
        let from = own.incarnation;
        let held_cache = self.meta.boot == self.boot && self.meta.incarnation == from;
        let left = self.marks.contains(&(node, from));
        let through_peer = !self.known.in_sync.contains_key(&node) && self.is_answered_by_all();
        (held_cache && !left && through_peer).then_some(Change::TakeUp { node, from, to })
    }

    /// Starts alone without the arbiter's word: what must never be (broken variant 29).
    fn start_unasked(&mut self, alone: &Change) -> Option<Change> {
        if let super::change::Planned::Next(config) = alone.plan(&self.known) {
            self.known = *config;
        }
        None
    }

    /// True if the data here may become, or is, part of the volume.
    pub(super) fn can_hold_data(&self) -> bool {
        self.meta.has_data && !self.meta.removed && self.disk.failed.is_none() && !self.meta_lost
    }

    /// Voters follow what is in sync: all nodes as long as somebody could come back, the last one alone otherwise.
    fn wanted_voters(&mut self) -> Option<Change> {
        if self.view.granting_node() != Some(self.node) || !self.reports_in || self.has_register() {
            return None;
        }
        let config = &self.view.config;
        let alone = self.view.in_sync == self.view.bit(self.node) && self.view.joining == 0;
        let replica_back = config.replicas.iter().any(|n| *n != self.node && self.is_heard(*n));
        if alone && !replica_back {
            // Who cannot be reached goes first: those that remain have to decide it.
            let others = || config.voters.keys().rev().filter(|n| **n != self.node).copied();
            let node = others().find(|n| !self.has_session(*n)).or_else(|| others().next())?;
            return config.voters.contains_key(&self.node).then_some(Change::RemoveVoter { node });
        }
        let forgetful = config.voters.keys().find(|n| self.peers.get(n).is_some_and(|p| p.no_memory)).copied();
        if let Some(node) = forgetful {
            return (config.voters.len() > 1 && node != self.node).then_some(Change::RemoveVoter { node });
        }
        let wanted = config.tie_breaker.iter().chain(&config.replicas);
        let missing = |n: &NodeId| !config.voters.contains_key(n) && (*n == self.node || self.has_session(*n));
        let Some(node) = wanted.copied().find(missing) else {
            let stray = config.voters.keys().find(|n| config.role_of(**n).is_none()).copied();
            return stray.map(|node| Change::RemoveVoter { node });
        };
        if self.operator.changes_members() {
            // A vote that begins with its member may be on its way.
            return None;
        }
        let voter = self.admit_voter(node)?;
        Some(Change::AddVoter { node, voter })
    }

    /// Asks a node to begin a voter's memory; its identity, once it has.
    pub(super) fn admit_voter(&mut self, node: NodeId) -> Option<VoterId> {
        if let Some((asked, voter, at)) = self.admitting
            && asked == node
        {
            if self.admitted {
                return Some(voter);
            }
            if self.now.since(at) < self.timing.retry {
                return None;
            }
        }
        self.admissions += 1;
        let voter = VoterId(self.incarnation.0.wrapping_mul(1_000_003).wrapping_add(self.admissions));
        self.admitting = Some((node, voter, self.now));
        self.admitted = false;
        let config = alloc::boxed::Box::new(self.known.clone());
        self.tell(node, Message::VoterAdmit { voter, config });
        None
    }

    pub(super) fn on_voter_admitted(&mut self, from: NodeId, voter: VoterId) {
        if let Some((node, _, at)) = self.admitting.filter(|(node, ..)| *node == from) {
            self.admitting = Some((node, voter, at));
            self.admitted = true;
            if let Some(peer) = self.peers.get_mut(&from) {
                peer.no_memory = false;
            }
        }
    }

    /// A node outside learns what is decided, now and then, if nobody tells it.
    fn wanted_of_outsider(&mut self) -> Option<Change> {
        let member = lists(&self.view.config, self.node, self.incarnation);
        let told = self.view.nodes(self.view.in_sync).any(|n| {
            let listed = self.view.config.in_sync.get(&n).copied();
            self.peers.get(&n).and_then(|p| p.session).map(|s| s.incarnation) == listed
        });
        if member {
            return self.wanted_of_cut_off_diskless();
        }
        let holds = self.meta.has_data && !self.meta.removed;
        let interested = holds || self.operator.wants_attachment();
        if !interested || told || self.learn_at > self.now {
            return None;
        }
        self.learn_at = self.now.after(self.timing.retry * 2);
        Some(Change::Learn)
    }

    /// A diskless member never expels a replica that another one still reaches: it leaves itself.
    fn wanted_of_cut_off_diskless(&self) -> Option<Change> {
        if self.view.bit(self.node) & self.view.in_sync != 0 || !self.view.is_attached(self.node, self.incarnation) {
            return None;
        }
        let patience = self.timing.swap_delay * 3;
        let cut_off: Vec<_> = (self.suspects.iter())
            .filter(|((n, _), at)| {
                self.view.written() & self.view.bit(*n) != 0 && self.now.since((**at).max(self.attached_at)) >= patience
            })
            .map(|(key, _)| *key)
            .collect();
        if cut_off.is_empty() {
            return None;
        }
        if self.broken(broken!(DisklessExpels)) {
            return Some(Change::Expel(cut_off));
        }
        let others_reach = self.view.nodes(self.view.in_sync).any(|n| self.session_is_listed(n));
        others_reach.then_some(Change::Expel(Vec::from([(self.node, self.incarnation)])))
    }

    /// A round ended: whoever waits for it hears how.
    pub(super) fn change_ended(&mut self, change: &Change, outcome: Outcome) {
        match change {
            Change::Attach { .. } | Change::Detach { .. } | Change::Resize { .. } | Change::Set(_) => {
                self.operator_change_ended(change, &outcome)
            }
            Change::Members { .. } => {
                self.admitting = None;
                self.operator_change_ended(change, &outcome);
            }
            Change::AddVoter { .. } => self.admitting = None,
            _ => {}
        }
        if outcome != Outcome::Done {
            // The register is not as this change needs it: look again after a while.
            self.proposer.retry_at = self.now.after(self.timing.arbiter_retry / 4);
        }
    }

    /// Requests wait because neither the arbiter nor all members can be reached.
    pub(super) fn note_freeze(&mut self) {
        let stuck = !self.suspects.is_empty() && self.proposer.failures >= 3;
        if stuck == self.frozen {
            return;
        }
        self.frozen = stuck;
        self.out.push(Effect::Event(if stuck { Event::Frozen } else { Event::Thawed }));
        if stuck {
            self.fail_on_quorum_loss();
        }
    }

    /// True if this run has the volume attached for writing.
    pub(super) fn is_writer(&self) -> bool {
        let own = self.view.config.attached.get(&self.node);
        own.is_some_and(|a| a.incarnation == self.incarnation && a.mode == AttachMode::ReadWrite) && !self.fenced
    }
}

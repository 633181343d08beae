//! Who holds the replicas and who votes besides: changed while the volume is in use, one member at a time.
//!
//! ```text
//! AddMember    asked --the node answers, its vote's memory is durable--> swap --> a vote, then joining, as anybody who enters
//! RemoveMember asked ------------------------------------------------> swap
//! ```
//! Each is one swap, decided by a majority of the voters before it *and* of those after it, so that no two halves of a change can
//! decide beside each other. A replica is the one that was added in a certain epoch: its files tell by the configuration that they
//! hold, and once another one is on record for their node they are never used again.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use super::Replica;
use super::arbiter::Voters;
use super::change::{Change, Planned, remove_replica};
use super::view::View;
use crate::config::{Arbiter, Config, Role};
use crate::ids::{CommandId, Epoch, Incarnation, NodeId, VoterId};
use crate::input::CommandError;

/// One change of the members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Add { node: NodeId, role: Role, instead_of: Option<NodeId> },
    Remove { node: NodeId },
}

impl Wanted {
    /// True if it is so.
    pub fn is_done(&self, config: &Config) -> bool {
        match *self {
            Wanted::Remove { node } => config.role_of(node).is_none(),
            Wanted::Add { node, role, instead_of } => {
                config.role_of(node) == Some(role) && instead_of.is_none_or(|old| config.role_of(old).is_none())
            }
        }
    }

    /// Who goes: a tie-breaker makes room for the next one.
    fn leaver(&self, config: &Config) -> Option<NodeId> {
        match *self {
            Wanted::Remove { node } => Some(node),
            Wanted::Add { node, role: Role::TieBreaker, .. } => config.tie_breaker.filter(|old| *old != node),
            Wanted::Add { instead_of, .. } => instead_of,
        }
    }

    /// Whose vote has to begin in this very swap: else the voters would be an even number for a moment, and the next death would
    /// stop the volume.
    fn needs_vote(&self, config: &Config) -> Option<NodeId> {
        let by_peers = config.settings.arbiter == Arbiter::Peers;
        let Wanted::Add { node, .. } = *self else { return None };
        let exchanged = self.leaver(config).is_some_and(|old| config.voters.contains_key(&old));
        (by_peers && exchanged && !config.voters.contains_key(&node)).then_some(node)
    }

    /// The configuration that this makes of `now`. `by` has to be in sync: who was taken out decides nothing any more.
    pub fn plan(&self, now: &Config, voter: Option<VoterId>, by: (NodeId, Incarnation)) -> Planned {
        if self.is_done(now) {
            return Planned::Already;
        }
        if !now.is_in_sync(by.0, by.1) {
            return Planned::Impossible("who asks is not in sync any more");
        }
        if let Err(why) = self.check(now, by.0) {
            return Planned::Impossible(why);
        }
        let mut next = now.clone();
        next.epoch = Epoch(now.epoch.0 + 1);
        if let Some(old) = self.leaver(now) {
            take_role(&mut next, old);
            next.voters.remove(&old);
        }
        if let Wanted::Add { node, role, .. } = *self {
            give_role(&mut next, node, role);
            if let (Some(voter), Arbiter::Peers) = (voter, next.settings.arbiter) {
                next.voters.entry(node).or_insert(voter);
            }
        }
        if let (1, Some(only)) = (next.replicas.len(), next.replicas.first().copied()) {
            // Without the only replica nobody could serve anyway.
            next.voters.retain(|node, _| *node == only);
        }
        match next.check() {
            Ok(()) => Planned::Next(Box::new(next)),
            Err(why) => Planned::Impossible(why),
        }
    }

    fn check(&self, now: &Config, by: NodeId) -> Result<(), &'static str> {
        let replica_goes = |node: NodeId| now.in_sync.contains_key(&node);
        if let Wanted::Add { node, role, instead_of } = *self {
            if now.settings.arbiter == Arbiter::Lease && role == Role::TieBreaker {
                return Err("a Lease keeps the configuration: there is no tie-breaker");
            }
            if instead_of == Some(node) {
                return Err("a node cannot take its own place: remove its replica, then add one");
            }
            if instead_of.is_some() && role == Role::TieBreaker {
                return Err("a new tie-breaker takes the place of the old one, and of nobody else");
            }
            if instead_of.is_some_and(|old| now.role_of(old) == Some(Role::TieBreaker)) {
                return Err("a replica does not take the tie-breaker's place");
            }
            let arriving = now.arriving().filter(|other| *other != node && Some(*other) != instead_of);
            if role == Role::Replica && now.role_of(node) != Some(role) && arriving.is_some() {
                return Err("another replica was added and is not in sync yet: one at a time");
            }
            if instead_of.is_some_and(|old| replica_goes(old) && now.in_sync.len() < 3) {
                return Err("the replica that goes is needed until the new one is in sync: add that one first");
            }
        }
        let gone = match *self {
            Wanted::Add { node, role: Role::TieBreaker, .. } => Some(node),
            _ => self.leaver(now),
        };
        let Some(gone) = gone.filter(|node| replica_goes(*node)) else { return Ok(()) };
        if now.in_sync.len() == 1 {
            return Err("it is the last replica that is in sync");
        }
        if gone == by {
            return Err("an in-sync replica is removed by another in-sync member");
        }
        match now.arriving().filter(|other| *other != gone) {
            Some(_) => Err("a replica that was added is not in sync yet: one change at a time"),
            None => Ok(()),
        }
    }
}

/// Takes what a node is for from it. Nothing is kept for a replica that never comes back.
fn take_role(next: &mut Config, node: NodeId) {
    let epoch = next.epoch;
    for incarnation in
        next.in_sync.get(&node).copied().into_iter().chain(next.joining.get(&node).map(|j| j.incarnation))
    {
        remove_replica(next, node, incarnation, epoch);
    }
    next.replicas.remove(&node);
    next.added.remove(&node);
    next.last_in_sync.remove(&node);
    if next.tie_breaker == Some(node) {
        next.tie_breaker = None;
    }
}

fn give_role(next: &mut Config, node: NodeId, role: Role) {
    if next.role_of(node) == Some(role) {
        return;
    }
    take_role(next, node);
    match role {
        Role::Replica => {
            next.replicas.insert(node);
            next.added.insert(node, next.epoch);
        }
        Role::TieBreaker => next.tie_breaker = Some(node),
    }
}

/// True if those that would vote then can decide: a majority of them has just answered, or been admitted.
pub(super) fn can_decide(change: &Change, next: &Config, answered: &Voters) -> bool {
    let Change::Members { wanted, voter, .. } = change else { return true };
    let mut answered = answered.clone();
    if let (Wanted::Add { node, .. }, Some(voter)) = (wanted, voter) {
        answered.insert(*node, *voter);
    }
    next.voters.is_empty() || super::arbiter::majority(&next.voters, &answered, false)
}

impl Replica {
    pub(super) fn on_change_members(&mut self, command: CommandId, wanted: Wanted) {
        let forbidden = |reason: &str| Err(CommandError::Forbidden { reason: reason.into() });
        if !self.view.is_in_sync(self.node, self.incarnation) || self.leaving.is_asking() {
            return self
                .answer(command, forbidden("this node's replica is not in sync: ask a member whose replica is"));
        }
        if self.operator.is_busy() {
            return self.answer(command, forbidden("another attach, detach or change is under way on this node"));
        }
        if !wanted.is_done(&self.known)
            && let Err(why) = wanted.check(&self.known, self.node)
        {
            return self.answer(command, forbidden(why));
        }
        self.operator.begin_members(command, wanted, self.now);
        self.operator_view_changed();
    }

    /// The swap that a change of members wants, once the node that comes answers.
    pub(super) fn wanted_members(&mut self, wanted: Wanted) -> Option<Change> {
        if !self.view.is_in_sync(self.node, self.incarnation) {
            return None;
        }
        if let Wanted::Add { node, .. } = wanted
            && node != self.node
            && !self.is_heard(node)
        {
            return None;
        }
        let voter = match wanted.needs_vote(&self.known) {
            Some(node) => Some(self.admit_voter(node)?),
            None => None,
        };
        Some(Change::Members { wanted, voter, by: (self.node, self.incarnation) })
    }

    /// Why a change of members did not come about in time.
    pub(super) fn members_late(&self, wanted: Wanted) -> CommandError {
        match wanted {
            Wanted::Add { node, .. } if node != self.node && !self.is_heard(node) => CommandError::Silent { node },
            _ => CommandError::NoQuorum,
        }
    }

    /// How a refused change is told.
    pub(super) fn members_refused(wanted: Wanted, why: &str) -> CommandError {
        let (Wanted::Add { node, .. } | Wanted::Remove { node }) = wanted;
        let reason: String = format!("node {node}: {why}");
        CommandError::Forbidden { reason }
    }

    /// True if `next` says that this node's replica is not the one whose files these are.
    pub(super) fn is_removed_by(&self, next: &Config) -> bool {
        let own = self.view.config.replica_since(self.node);
        let other = own.is_some() && next.replica_since(self.node) != own;
        self.meta.has_data && !self.meta.removed && other && !self.broken(broken!(RemovedComesBack))
    }

    /// Acknowledgements are kept by place in the list of replicas: with the list the places change.
    pub(super) fn renumber_places(&mut self, old: &View) {
        if old.config.replicas == self.view.config.replicas || self.broken(broken!(PlacesNotRenumbered)) {
            return;
        }
        let place: BTreeMap<usize, u8> =
            (old.config.replicas.iter().enumerate()).map(|(slot, node)| (slot, self.view.bit(*node))).collect();
        let moved =
            |slots: u8| (place.iter()).filter(|(slot, _)| slots >> **slot & 1 == 1).fold(0, |all, (_, bit)| all | bit);
        self.window.renumber(moved);
        if let Some(flush) = &mut self.flush {
            flush.acked = moved(flush.acked);
            flush.sent = moved(flush.sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Generation, Settings};
    use crate::ids::VolumeId;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const D: NodeId = NodeId(4);
    const RUN: Incarnation = Incarnation(7);

    /// Two replicas on A and B in sync, the tie-breaker on C.
    fn pair() -> Config {
        Config {
            volume: VolumeId([1; 16]),
            generation: Generation { id: 1, parent: 0 },
            epoch: Epoch(5),
            size_blocks: 100,
            settings: Settings::default(),
            priority: Default::default(),
            replicas: [A, B].into(),
            added: BTreeMap::new(),
            tie_breaker: Some(C),
            voters: [(A, VoterId(1)), (B, VoterId(2)), (C, VoterId(3))].into(),
            in_sync: [(A, RUN), (B, RUN)].into(),
            joining: BTreeMap::new(),
            attached: BTreeMap::new(),
            last_in_sync: BTreeMap::new(),
            requests: BTreeMap::new(),
        }
    }

    fn add(node: NodeId, role: Role) -> Wanted {
        Wanted::Add { node, role, instead_of: None }
    }

    fn next(wanted: Wanted, now: &Config, voter: Option<VoterId>) -> Config {
        match wanted.plan(now, voter, (A, RUN)) {
            Planned::Next(next) => *next,
            other => panic!("{wanted:?}: {other:?}"),
        }
    }

    fn refused(wanted: Wanted, now: &Config) -> &'static str {
        match wanted.plan(now, None, (A, RUN)) {
            Planned::Impossible(why) => why,
            other => panic!("{wanted:?}: {other:?}"),
        }
    }

    #[test]
    fn a_replica_that_comes_again_is_another_one() {
        let mut absent = pair();
        absent.in_sync.remove(&B);
        absent.last_in_sync.insert(B, Epoch(4));
        let gone = next(Wanted::Remove { node: B }, &absent, None);
        assert_eq!((gone.role_of(B), gone.last_in_sync.get(&B), gone.voters.len()), (None, None, 1));
        let again = next(add(B, Role::Replica), &gone, None);
        assert_eq!((absent.replica_since(B), again.replica_since(B)), (Some(Epoch(0)), Some(Epoch(7))));
        assert_eq!(again.arriving(), Some(B));
        assert_eq!(add(B, Role::Replica).plan(&again, None, (A, RUN)), Planned::Already);
    }

    #[test]
    fn a_tie_breaker_takes_the_place_and_the_vote_of_the_old_one() {
        let wanted = add(D, Role::TieBreaker);
        assert_eq!(wanted.needs_vote(&pair()), Some(D));
        let after = next(wanted, &pair(), Some(VoterId(9)));
        assert_eq!((after.tie_breaker, after.voters.keys().copied().collect()), (Some(D), alloc::vec![A, B, D]));
    }

    #[test]
    fn a_node_that_changes_its_role_keeps_its_vote() {
        let three = next(add(C, Role::Replica), &pair(), None);
        assert_eq!((three.tie_breaker, three.voters == pair().voters), (None, true));
        let entered = Config { in_sync: [(A, RUN), (B, RUN), (C, RUN)].into(), ..three };
        let back = next(add(C, Role::TieBreaker), &entered, None);
        assert_eq!((back.tie_breaker, back.replicas.len(), back.voters == pair().voters), (Some(C), 2, true));
        assert!(!back.in_sync.contains_key(&C) && back.added.is_empty());
    }

    #[test]
    fn what_is_needed_stays() {
        let mut alone = pair();
        alone.in_sync.remove(&B);
        assert!(refused(Wanted::Remove { node: A }, &alone).contains("last replica"));
        assert!(refused(Wanted::Remove { node: A }, &pair()).contains("by another"));
        let replaced = Wanted::Add { node: D, role: Role::Replica, instead_of: Some(B) };
        assert!(refused(replaced, &pair()).contains("add that one first"));
        let arriving = next(add(D, Role::Replica), &pair(), None);
        assert!(refused(Wanted::Remove { node: B }, &arriving).contains("one change at a time"));
        assert!(refused(add(C, Role::Replica), &arriving).contains("one at a time"));
        // Who comes may be sent away again.
        assert_eq!(next(Wanted::Remove { node: D }, &arriving, None).replicas, pair().replicas);
    }

    #[test]
    fn only_voters_that_can_decide_are_left() {
        let three = next(add(C, Role::Replica), &pair(), None);
        let (by, wanted) = ((A, RUN), Wanted::Remove { node: B });
        let now = Config { in_sync: [(A, RUN), (B, RUN), (C, RUN)].into(), ..three };
        let after = next(wanted, &now, None);
        let change = Change::Members { wanted, voter: None, by };
        assert!(!can_decide(&change, &after, &[(A, VoterId(1)), (B, VoterId(2))].into()), "C has not answered");
        assert!(can_decide(&change, &after, &[(A, VoterId(1)), (C, VoterId(3))].into()));
    }
}

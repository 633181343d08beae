//! Changes of the configuration: pure functions from the register's value to the next one.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::members::Wanted;
use crate::config::{AttachMode, Attachment, Config, Joining, Setting};
use crate::ids::{Epoch, Incarnation, NodeId, VoterId};

/// One change that a member wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Nothing: learn what is decided.
    Learn,
    /// These runs take part no more.
    Expel(Vec<(NodeId, Incarnation)>),
    /// These runs are suspected by a run that is in sync; the word of one that was itself expelled meanwhile counts for nothing, or a
    /// cut between two would cost both.
    ExpelSuspects { out: Vec<(NodeId, Incarnation)>, by: (NodeId, Incarnation) },
    /// A configuration that was decided late lists only runs that have left as planned: the survivors of the view in
    /// which they left go on. Who left promised nobody to come back, so nobody can have served in what is overruled.
    Overrule { survivors: Vec<Survivor>, left: Vec<(NodeId, Incarnation)>, epoch: Epoch },
    /// This node's replica failed; its attachment stays.
    DropReplica(NodeId, Incarnation),
    /// First swap of entering.
    Join { node: NodeId, incarnation: Incarnation, source: NodeId },
    /// Second swap of entering; holds only in this epoch.
    Enter { node: NodeId, incarnation: Incarnation, epoch: Epoch },
    /// Both at once: what must never be (broken variant 1).
    EnterAtOnce { node: NodeId, incarnation: Incarnation },
    /// A restarted run takes the place of its predecessor and keeps its standing.
    Reincarnate { node: NodeId, from: Incarnation, to: Incarnation },
    /// A restarted run whose replica counts for nothing, or that has none, goes on with its predecessor's attachment.
    TakeUp { node: NodeId, from: Incarnation, to: Incarnation },
    /// The first to serve after everything was down.
    StartAlone { node: NodeId, from: Incarnation, to: Incarnation, same_boot: bool },
    /// Attach.
    Attach { node: NodeId, attachment: Attachment },
    /// Detach.
    Detach { node: NodeId, incarnation: Incarnation },
    /// Grow.
    Resize { blocks: u64 },
    /// A setting is this from now on.
    Set(Setting),
    /// Nothing but a new epoch after this one: whatever was said about grants is void, and members report what they hold.
    NextEpoch { epoch: Epoch },
    /// Give a node a vote under an identity that it has made durable.
    AddVoter { node: NodeId, voter: VoterId },
    /// Take a node's vote.
    RemoveVoter { node: NodeId },
    /// A member comes, goes, or takes another's place; a vote that begins in the same swap, and who wants it.
    Members { wanted: Wanted, voter: Option<VoterId>, by: (NodeId, Incarnation) },
}

/// A member of a view that goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Survivor {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// See [`Config::replica_since`].
    pub since: Epoch,
}

/// What planning a change gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Planned {
    /// Swap to this.
    Next(Box<Config>),
    /// It is so already.
    Already,
    /// It cannot be, as the register stands.
    Impossible(&'static str),
    /// Another node is the writer.
    Held(NodeId),
}

impl Change {
    /// The configuration that this change makes of `now`.
    pub fn plan(&self, now: &Config) -> Planned {
        let mut next = now.clone();
        next.epoch = Epoch(now.epoch.0 + 1);
        match self {
            Change::Learn => return Planned::Already,
            Change::Members { wanted, voter, by } => return wanted.plan(now, *voter, *by),
            Change::ExpelSuspects { by: (node, incarnation), .. } if !now.is_in_sync(*node, *incarnation) => {
                return Planned::Impossible("who suspects is not in sync any more");
            }
            Change::Expel(out) | Change::ExpelSuspects { out, .. } => {
                if !out.iter().any(|(n, i)| super::view::lists(now, *n, *i)) {
                    return Planned::Already;
                }
                for (node, incarnation) in out {
                    remove_replica(&mut next, *node, *incarnation, now.epoch);
                    if now.is_attached(*node, *incarnation) {
                        next.attached.remove(node);
                    }
                }
                drop_vote_of_the_absent(now, &mut next);
            }
            Change::Overrule { survivors, left, epoch } => {
                if !now.in_sync.iter().all(|(n, i)| left.contains(&(*n, *i))) {
                    return Planned::Impossible("a member that has not left is in sync");
                }
                for node in now.in_sync.keys() {
                    next.last_in_sync.insert(*node, *epoch);
                }
                next.in_sync = survivors.iter().map(|s| (s.node, s.incarnation)).collect();
                for Survivor { node, since, .. } in survivors.iter().filter(|s| !now.replicas.contains(&s.node)) {
                    // What is overruled had removed it.
                    next.replicas.insert(*node);
                    next.added.extend((*since != Epoch(0)).then_some((*node, *since)));
                    next.tie_breaker = next.tie_breaker.filter(|other| other != node);
                }
                next.joining.clear();
                next.attached.retain(|n, a| !left.contains(&(*n, a.incarnation)));
                for Survivor { node, .. } in survivors {
                    next.last_in_sync.remove(node);
                }
            }
            Change::DropReplica(node, incarnation) => {
                if !now.is_in_sync(*node, *incarnation) && !now.is_joining(*node, *incarnation) {
                    return Planned::Already;
                }
                remove_replica(&mut next, *node, *incarnation, now.epoch);
            }
            Change::Join { node, incarnation, source } => {
                if now.is_joining(*node, *incarnation) || now.is_in_sync(*node, *incarnation) {
                    return Planned::Already;
                }
                if now.in_sync.contains_key(node) {
                    return Planned::Impossible("an earlier run is still listed as in sync");
                }
                if !now.in_sync.contains_key(source) {
                    return Planned::Impossible("the source is not in sync");
                }
                end_older_attachment(&mut next, *node, *incarnation);
                next.joining.insert(*node, Joining { incarnation: *incarnation, source: *source });
            }
            Change::Enter { node, incarnation, epoch } => {
                if now.is_in_sync(*node, *incarnation) {
                    return Planned::Already;
                }
                if now.epoch != *epoch || !now.is_joining(*node, *incarnation) {
                    return Planned::Impossible("the configuration changed since the resync");
                }
                next.joining.remove(node);
                next.in_sync.insert(*node, *incarnation);
                next.last_in_sync.remove(node);
            }
            Change::EnterAtOnce { node, incarnation } => {
                if now.in_sync.contains_key(node) {
                    return Planned::Already;
                }
                end_older_attachment(&mut next, *node, *incarnation);
                next.joining.remove(node);
                next.in_sync.insert(*node, *incarnation);
                next.last_in_sync.remove(node);
            }
            Change::Reincarnate { node, from, to } => {
                if now.is_in_sync(*node, *to) {
                    return Planned::Already;
                }
                if !now.is_in_sync(*node, *from) {
                    return Planned::Impossible("a swap removed the earlier run");
                }
                next.in_sync.insert(*node, *to);
                if let Some(attachment) = next.attached.get_mut(node) {
                    attachment.incarnation = *to;
                }
            }
            Change::TakeUp { node, from, to } => {
                if now.is_attached(*node, *to) {
                    return Planned::Already;
                }
                if !now.is_attached(*node, *from) || now.in_sync.contains_key(node) {
                    return Planned::Impossible("the earlier run's attachment has ended, or goes with its replica");
                }
                if let Some(attachment) = next.attached.get_mut(node) {
                    attachment.incarnation = *to;
                }
                // It joins anew.
                if now.is_joining(*node, *from) {
                    next.joining.remove(node);
                }
            }
            Change::StartAlone { node, from, to, same_boot } => {
                if now.is_in_sync(*node, *to) {
                    return Planned::Already;
                }
                if !now.is_in_sync(*node, *from) {
                    return Planned::Impossible("a swap removed the earlier run");
                }
                for other in now.in_sync.keys().filter(|n| *n != node) {
                    next.last_in_sync.insert(*other, now.epoch);
                }
                next.in_sync.clear();
                next.joining.clear();
                next.in_sync.insert(*node, *to);
                let own = now.attached.get(node).copied().filter(|a| a.recoverable && *same_boot);
                next.attached.clear();
                if let Some(own) = own {
                    next.attached.insert(*node, Attachment { incarnation: *to, ..own });
                }
            }
            Change::Attach { node, attachment } => {
                let same = |a: &Attachment| Attachment { since: a.since, ..*attachment } == *a;
                if now.attached.get(node).is_some_and(same) {
                    return Planned::Already;
                }
                if attachment.mode == AttachMode::ReadWrite
                    && let Some(holder) = now.other_writer(*node)
                {
                    return Planned::Held(holder);
                }
                next.attached.insert(*node, Attachment { since: next.epoch, ..*attachment });
            }
            Change::Detach { node, incarnation } => {
                if !now.is_attached(*node, *incarnation) {
                    return Planned::Already;
                }
                next.attached.remove(node);
            }
            Change::Set(setting) => {
                if setting.is_of(now) {
                    return Planned::Already;
                }
                setting.put(&mut next);
            }
            Change::NextEpoch { epoch } => {
                if now.epoch != *epoch {
                    return Planned::Already;
                }
            }
            Change::Resize { blocks } => {
                if now.size_blocks >= *blocks {
                    return Planned::Already;
                }
                next.size_blocks = *blocks;
            }
            Change::AddVoter { node, voter } => {
                if now.voters.get(node) == Some(voter) {
                    return Planned::Already;
                }
                if now.voters.contains_key(node) {
                    return Planned::Impossible("the node has a vote under another identity");
                }
                next.voters.insert(*node, *voter);
            }
            Change::RemoveVoter { node } => {
                if !now.voters.contains_key(node) {
                    return Planned::Already;
                }
                next.voters.remove(node);
            }
        }
        match next.check() {
            Ok(()) => Planned::Next(Box::new(next)),
            Err(why) => Planned::Impossible(why),
        }
    }
}

/// A run that enters has taken its predecessor's place: what that one had attached ended with it, and nobody would look for a
/// member that its node has under another number.
fn end_older_attachment(next: &mut Config, node: NodeId, incarnation: Incarnation) {
    if next.attached.get(&node).is_some_and(|a| a.incarnation < incarnation) {
        next.attached.remove(&node);
    }
}

/// Takes a replica out of `in_sync` or `joining`; who pulled from it gets another source.
pub(super) fn remove_replica(next: &mut Config, node: NodeId, incarnation: Incarnation, epoch: Epoch) {
    if next.is_in_sync(node, incarnation) {
        next.in_sync.remove(&node);
        next.last_in_sync.insert(node, epoch);
    }
    if next.is_joining(node, incarnation) {
        next.joining.remove(&node);
    }
    if let Some(other) = next.in_sync.keys().next().copied() {
        for joining in next.joining.values_mut().filter(|j| j.source == node) {
            joining.source = other;
        }
    }
}

/// When one replica is left, the vote of the one that just left goes with it (voters change one at a time). Whoever proposes
/// this takes it back if those that remain have not promised: they could not decide. Of three replicas another one votes on,
/// and each that returns makes a majority with them: an even set would wait for one of them alone.
fn drop_vote_of_the_absent(now: &Config, next: &mut Config) {
    if next.replicas.len() > 2 || next.in_sync.len() > 1 || !next.joining.is_empty() || next.voters.len() < 2 {
        return;
    }
    let absent = |n: &&NodeId| now.in_sync.contains_key(*n) && !next.in_sync.contains_key(*n);
    if let Some(node) = next.voters.keys().find(absent).copied() {
        next.voters.remove(&node);
    }
}

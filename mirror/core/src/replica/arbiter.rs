//! The quorum of peers: CASPaxos over the volume's voters. One register, whose value names its own voters.
//!
//! A round promises a ballot at a majority of every voter set that it meets (its own belief's, and that of any newer
//! value it is shown), then has a value accepted by a majority of each of these sets and of the new value's own. Voter
//! sets change by one voter, so each pair of neighbours in the chain of sets has intersecting majorities.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::Replica;
use super::change::{Change, Planned};
use super::durable::After;
use super::members::can_decide;
use crate::config::Config;
use crate::ids::{NodeId, RequestTag, Time, VoterId};
use crate::message::{Ballot, Message};
use crate::meta::{MetaUpdate, VoterState};

/// Voters by node.
pub(super) type Voters = BTreeMap<NodeId, VoterId>;

/// A round under way.
#[derive(Clone, Debug)]
struct RoundState {
    ballot: Ballot,
    change: Change,
    /// Sets of which a majority has to agree.
    sets: Vec<Voters>,
    promises: Voters,
    /// Highest value that a promise showed.
    highest: Option<(Ballot, Box<Config>)>,
    /// The value of phase 2, and who accepted it.
    value: Option<(Box<Config>, Planned)>,
    accepted: Voters,
    /// When the round is given up.
    until: Time,
}

/// The proposer of this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Proposer {
    round: Option<RoundState>,
    number: u64,
    /// Not before this time.
    pub retry_at: Time,
    /// A value of this node may be accepted somewhere, and is not known to be decided.
    pub in_doubt: bool,
    /// Since when a register elsewhere has answered, if it did the last time.
    pub reached_at: Option<Time>,
    /// Rounds without a majority since the last one that had it.
    pub failures: u32,
    tags: u64,
}

/// How a change ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Done,
    Impossible(&'static str),
    Held(NodeId),
}

impl Proposer {
    /// Number of the next swap.
    pub fn next_tag(&mut self) -> u64 {
        self.tags += 1;
        self.tags
    }
}

impl Replica {
    /// True while a round is under way.
    pub(super) fn is_proposing(&self) -> bool {
        self.proposer.round.is_some() || self.register.asked.is_some()
    }

    /// True while a swap of this node is under way or in doubt, or decided and not installed.
    pub(super) fn is_swap_in_doubt(&self) -> bool {
        let open = self.is_proposing() || self.proposer.in_doubt;
        open || self.adopting.is_some() || self.known.epoch > self.view.config.epoch
    }

    /// Begins a round for `change`, unless one is under way or the last failed a moment ago.
    pub(super) fn propose(&mut self, change: Change) {
        if self.is_proposing() || self.proposer.retry_at > self.now {
            return;
        }
        if self.has_register() {
            return self.ask_register(change);
        }
        self.proposer.number += 1;
        let ballot = Ballot { number: self.proposer.number, node: self.node, incarnation: self.incarnation };
        let spread = self.timing.arbiter_retry / 8 * (u64::from(self.node.0) % 8);
        let until = self.now.after(self.timing.arbiter_retry + spread);
        let sets = Vec::from([self.known.voters.clone()]);
        let targets: Vec<NodeId> = self.known.voters.keys().copied().collect();
        self.proposer.round = Some(RoundState {
            ballot,
            change,
            sets,
            promises: Voters::new(),
            highest: None,
            value: None,
            accepted: Voters::new(),
            until,
        });
        for node in targets {
            self.ask_voter(node, Message::Prepare { ballot, generation: self.known.generation.id });
        }
    }

    fn ask_voter(&mut self, node: NodeId, message: Message) {
        if node == self.node {
            self.on_ballot(node, message);
        } else {
            self.tell(node, message);
        }
    }

    /// Gives up a round that found no majority in time.
    pub(super) fn check_round(&mut self) {
        self.check_register();
        if self.proposer.round.as_ref().is_some_and(|r| r.until <= self.now) {
            self.proposer.round = None;
            self.proposer.failures += 1;
            let spread =
                self.timing.arbiter_retry / 8 * (u64::from(self.node.0) % 8 + u64::from(self.proposer.failures % 3));
            self.proposer.retry_at = self.now.after(spread);
        }
    }

    /// When the round, if any, is given up.
    pub(super) fn round_deadline(&self) -> Time {
        let register = self.register.asked.as_ref().map_or(Time::NEVER, |asked| asked.until);
        self.proposer.round.as_ref().map_or(register, |r| r.until)
    }

    /// The voter's part: phase 1 and phase 2 of somebody's round.
    pub(super) fn on_ballot(&mut self, from: NodeId, message: Message) {
        let (ballot, generation) = match &message {
            Message::Prepare { ballot, generation } => (*ballot, *generation),
            Message::Accept { ballot, config } => (*ballot, config.generation.id),
            _ => return,
        };
        if self.meta.voter.is_none() && self.broken(broken!(TieBreakerForgets)) {
            self.meta.voter = Some(VoterState { id: VoterId(0), promised: Ballot::default(), accepted: None });
        }
        let memory = self.meta.voter.clone().filter(|_| !self.meta_lost);
        let Some(mut voter) = memory else {
            return self.answer_voter(from, Message::NoVote { ballot, promised: Ballot::default(), has_memory: false });
        };
        let other_generation = voter.accepted.as_ref().is_some_and(|(_, c)| c.generation.id != generation);
        let too_low = match &message {
            Message::Prepare { .. } => ballot <= voter.promised,
            _ => ballot < voter.promised,
        };
        if too_low || other_generation {
            let promised = voter.promised;
            return self.answer_voter(from, Message::NoVote { ballot, promised, has_memory: true });
        }
        voter.promised = ballot;
        let answer = match message {
            Message::Accept { config, .. } => {
                voter.accepted = Some((ballot, config));
                Message::Accepted { ballot, voter: voter.id }
            }
            _ => Message::Promise { ballot, voter: voter.id, accepted: voter.accepted.clone() },
        };
        let after = if from == self.node { After::OwnVote(answer) } else { After::Tell(from, answer) };
        self.persist(Vec::from([MetaUpdate::Voter(voter)]), Some(after));
    }

    fn answer_voter(&mut self, to: NodeId, answer: Message) {
        if to == self.node {
            self.on_vote(to, answer);
        } else {
            self.tell(to, answer);
        }
    }

    /// The proposer's part: an answer of a voter.
    pub(super) fn on_vote(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Promise { ballot, voter, accepted } => self.on_promise(from, ballot, voter, accepted),
            Message::Accepted { ballot, voter } => self.on_accepted(from, ballot, voter),
            Message::NoVote { ballot, promised, has_memory } => {
                if !has_memory && let Some(peer) = self.peers.get_mut(&from) {
                    peer.no_memory = true;
                }
                self.proposer.number = self.proposer.number.max(promised.number);
                if self.proposer.round.as_ref().is_some_and(|r| r.ballot == ballot) && promised > ballot {
                    // Somebody else's turn: come back after a while that differs between nodes.
                    self.proposer.round = None;
                    let spread = self.timing.arbiter_retry / 16 * (1 + u64::from(self.node.0) % 8);
                    self.proposer.retry_at = self.now.after(spread);
                }
            }
            _ => {}
        }
    }

    fn on_promise(&mut self, from: NodeId, ballot: Ballot, voter: VoterId, accepted: Option<(Ballot, Box<Config>)>) {
        let Some(round) = self.proposer.round.as_mut().filter(|r| r.ballot == ballot && r.value.is_none()) else {
            return;
        };
        round.promises.insert(from, voter);
        let mut more: Vec<NodeId> = Vec::new();
        if let Some((at, config)) = accepted
            && round.highest.as_ref().is_none_or(|(h, _)| at > *h)
        {
            if !round.sets.contains(&config.voters) {
                more.extend(config.voters.keys().filter(|n| !round.sets.iter().any(|s| s.contains_key(n))));
                round.sets.push(config.voters.clone());
            }
            round.highest = Some((at, config));
        }
        let generation = self.known.generation.id;
        for node in more {
            self.ask_voter(node, Message::Prepare { ballot, generation });
        }
        self.try_phase_two();
    }

    fn try_phase_two(&mut self) {
        let any_identity = self.broken(broken!(TieBreakerForgets));
        let new_alone = self.broken(broken!(VotersWithoutOldMajority));
        let Some(round) = self.proposer.round.as_mut().filter(|r| r.value.is_none()) else { return };
        // Half of a cut would change the voters by the word of those that come (broken variant 73).
        let by_new_alone = matches!(round.change, Change::Members { .. }) && new_alone;
        if !by_new_alone && !round.sets.iter().all(|set| majority(set, &round.promises, any_identity)) {
            return;
        }
        let current = round.highest.as_ref().map_or_else(|| Box::new(self.known.clone()), |(_, c)| c.clone());
        // A value that is accepted but not known to be decided is decided first, as it is, and acted on afterwards.
        let in_doubt = current.epoch > self.known.epoch;
        let stale = current.epoch < self.known.epoch;
        let base = if stale { Box::new(self.known.clone()) } else { current };
        let planned = if in_doubt { Planned::Already } else { round.change.plan(&base) };
        let planned = match planned {
            // Whoever was away when this was wanted may be all that is left of a majority.
            Planned::Next(config)
                if matches!(round.change, Change::RemoveVoter { .. })
                    && !majority(&config.voters, &round.promises, any_identity) =>
            {
                Planned::Impossible("the voters that remain could not decide")
            }
            Planned::Next(config) if !can_decide(&round.change, &config, &round.promises) => {
                Planned::Impossible("the voters that remain could not decide")
            }
            planned => planned,
        };
        let value = match &planned {
            Planned::Next(config) => {
                self.proposer.tags += 1;
                let mut config = config.clone();
                // Voters that cannot decide among themselves would be a register that nobody reads again.
                let expels = matches!(round.change, Change::Expel(_) | Change::ExpelSuspects { .. });
                if expels && !majority(&config.voters, &round.promises, any_identity) {
                    config.voters = base.voters.clone();
                }
                config
                    .requests
                    .insert(self.node, RequestTag { incarnation: self.incarnation, number: self.proposer.tags });
                config
            }
            _ => base,
        };
        if by_new_alone {
            round.sets.clear();
        }
        if !round.sets.contains(&value.voters) {
            round.sets.push(value.voters.clone());
        }
        round.value =
            Some((value.clone(), if in_doubt { Planned::Impossible("another change came first") } else { planned }));
        self.proposer.in_doubt = true;
        let ballot = round.ballot;
        let mut targets: Vec<NodeId> = round.sets.iter().flat_map(|s| s.keys().copied()).collect();
        targets.sort_unstable();
        targets.dedup();
        for node in targets {
            self.ask_voter(node, Message::Accept { ballot, config: value.clone() });
        }
    }

    fn on_accepted(&mut self, from: NodeId, ballot: Ballot, voter: VoterId) {
        let any_identity = self.broken(broken!(TieBreakerForgets));
        let Some(round) = self.proposer.round.as_mut().filter(|r| r.ballot == ballot) else { return };
        round.accepted.insert(from, voter);
        if !round.sets.iter().all(|set| majority(set, &round.accepted, any_identity)) {
            return;
        }
        let round = self.proposer.round.take().expect("just seen");
        self.proposer.failures = 0;
        self.proposer.in_doubt = false;
        let (value, planned) = round.value.expect("accepted only after phase 2 began");
        let outcome = match planned {
            Planned::Next(_) => {
                self.counters.swaps += 1;
                Some(Outcome::Done)
            }
            Planned::Already => Some(Outcome::Done),
            Planned::Impossible(_) if value.epoch > self.known.epoch => None,
            Planned::Impossible(why) => Some(Outcome::Impossible(why)),
            Planned::Held(node) => Some(Outcome::Held(node)),
        };
        self.learn_config(&value);
        self.announce_decided(&value);
        if let Some(outcome) = outcome {
            self.change_ended(&round.change, outcome);
        }
    }

    /// Tells everybody at once, so that they persist it while this node does.
    pub(super) fn announce_decided(&mut self, config: &Config) {
        if config.epoch <= self.view.config.epoch {
            return;
        }
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            let left = self.view.left.iter().copied().collect();
            self.send(node, Message::Install { config: Box::new(config.clone()), left }, None);
        }
    }

    /// A node is to get (or renew) a voter's memory.
    pub(super) fn on_voter_admit(&mut self, from: NodeId, voter: VoterId, config: &Config) {
        let current = self.meta.voter.clone();
        let accepted = current.as_ref().and_then(|v| v.accepted.clone());
        let known = accepted.as_ref().map_or(&self.known, |(_, c)| c);
        // Another lineage takes a vote over only if an operator forced it from this one.
        let related = config.generation == known.generation || config.generation.parent == known.generation.id;
        if self.meta_lost || config.volume != self.known.volume || !related {
            return;
        }
        let keep = config.generation == known.generation;
        // A memory that is intact votes under the identity it has: a value that is accepted may name it already.
        let voter = current.as_ref().filter(|v| keep && v.id != VoterId(0)).map_or(voter, |v| v.id);
        let state = VoterState {
            id: voter,
            promised: current.map(|v| v.promised).unwrap_or_default(),
            accepted: accepted.filter(|_| keep),
        };
        self.persist(Vec::from([MetaUpdate::Voter(state)]), Some(After::Tell(from, Message::VoterAdmitted { voter })));
    }
}

/// True if a majority of the set has answered, each under the identity that the set names.
pub(super) fn majority(set: &Voters, answered: &Voters, any_identity: bool) -> bool {
    let agreed = set.iter().filter(|(n, id)| answered.get(n).is_some_and(|a| a == *id || any_identity)).count();
    agreed * 2 > set.len()
}

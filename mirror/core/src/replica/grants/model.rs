//! Every order of events of a small instance: the production table and three production holders, joined by queues that keep
//! order and may be lost with their session. Sound if no two ever hold, or write, the same extent; live if whoever asked has
//! been granted when nothing more can happen.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use super::holder::Holder;
use super::table::{Said, Table, TableRules, Waiting};
use crate::ids::{Epoch, GrantNumber, NodeId, Time};
use crate::message::{Class, Message};
use crate::range::BlockRange;

const UNIT: u64 = 16;
const NODES: usize = 3;
/// Everything happens at one moment: a recall for a higher class has to be obeyed at once.
const NOW: Time = Time(1_000_000_000);

#[derive(Clone, Debug)]
struct State {
    table: Table,
    holders: [Holder; NODES],
    to_table: [VecDeque<Message>; NODES],
    to_holder: [VecDeque<Message>; NODES],
    writing: [Option<BlockRange>; NODES],
    /// What each node still wants to write, in order.
    plans: [Vec<BlockRange>; NODES],
    drops: u32,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    /// The node begins what it wants to write, or asks for the range.
    Write(usize),
    Finish(usize),
    HearTable(usize),
    HearHolder(usize),
    /// The session between a node and the granting node is lost, and another one opens.
    Drop(usize),
}

fn extents(from: u64, to: u64) -> BlockRange {
    BlockRange::new(from * UNIT + 1, to * UNIT - 1)
}

fn first(plans: [Vec<BlockRange>; NODES], drops: u32, rules: TableRules) -> State {
    let mut table = Table::new(UNIT, 4 * UNIT, 0, rules);
    table.begin(Epoch(1), GrantNumber::default(), std::iter::empty());
    State {
        table,
        holders: Default::default(),
        to_table: Default::default(),
        to_holder: Default::default(),
        writing: [None; NODES],
        plans,
        drops,
    }
}

fn node(at: usize) -> NodeId {
    NodeId(at as u32 + 1)
}

impl State {
    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for at in 0..NODES {
            let asked = |range: BlockRange| self.holders[at].asks().iter().any(|ask| ask.range.contains(range));
            if let Some(range) = self.plans[at].first()
                && self.writing[at].is_none()
                && (self.holders[at].covers(*range) || !asked(*range))
            {
                actions.push(Action::Write(at));
            }
            if self.writing[at].is_some() {
                actions.push(Action::Finish(at));
            }
            if !self.to_table[at].is_empty() {
                actions.push(Action::HearTable(at));
            }
            if !self.to_holder[at].is_empty() {
                actions.push(Action::HearHolder(at));
            }
            if self.drops > 0 && !(self.to_table[at].is_empty() && self.to_holder[at].is_empty()) {
                actions.push(Action::Drop(at));
            }
        }
        actions
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Write(at) => {
                let range = self.plans[at][0];
                if self.holders[at].covers(range) {
                    self.begin(at);
                } else if let Some(ask) = self.holders[at].want(widen(range, UNIT), Class::Normal, NOW) {
                    let message = Message::GrantAsk { id: ask.id, range: ask.range, class: ask.class, waited: 0 };
                    self.to_table[at].push_back(message);
                }
            }
            Action::Finish(at) => {
                self.writing[at] = None;
                self.give_back(at);
            }
            Action::HearTable(at) => {
                match self.to_table[at].pop_front().expect("enabled") {
                    Message::GrantAsk { id, range, class, .. } => {
                        let waiting = Waiting { node: node(at), id, range, class, since: NOW, collecting: false };
                        self.table.ask(NOW, waiting);
                    }
                    Message::Released { id, kept } => self.table.released(node(at), id, &kept),
                    other => unreachable!("{other:?}"),
                }
                self.advance();
            }
            Action::HearHolder(at) => {
                match self.to_holder[at].pop_front().expect("enabled") {
                    Message::Granted { id, range, number } => {
                        assert!(self.holders[at].granted(id, range, number, NOW), "granted what nobody asked for");
                        // What waits for a grant starts with it, or a recall behind it could take it away unused, for ever.
                        self.begin(at);
                    }
                    recall => self.holders[at].recalled(&recall, Class::Low, false, UNIT, NOW),
                }
                self.holders[at].begin_drains(UNIT, NOW);
                self.give_back(at);
            }
            Action::Drop(at) => {
                self.drops -= 1;
                self.to_table[at].clear();
                self.to_holder[at].clear();
                for ask in self.holders[at].asks() {
                    let message = Message::GrantAsk { id: ask.id, range: ask.range, class: ask.class, waited: 0 };
                    self.to_table[at].push_back(message);
                }
                let mut said = Said::new();
                self.table.repeat_recalls(node(at), &mut said);
                self.to_holder[at].extend(said.into_iter().map(|(_, message)| message));
            }
        }
    }

    fn begin(&mut self, at: usize) {
        if let Some(range) = self.plans[at].first().copied()
            && self.writing[at].is_none()
            && self.holders[at].covers(range)
        {
            self.writing[at] = Some(range);
            self.plans[at].remove(0);
        }
    }

    fn give_back(&mut self, at: usize) {
        let writing = self.writing[at];
        let queue = &mut self.to_table[at];
        let busy = |range: BlockRange| writing.is_some_and(|w| w.overlaps(range));
        self.holders[at].released(busy, |message| queue.push_back(message));
    }

    fn advance(&mut self) {
        let mut said = Said::new();
        self.table.advance(NOW, &mut said);
        for (to, message) in said {
            self.to_holder[to.0 as usize - 1].push_back(message);
        }
    }

    /// What is wrong here, if anything is.
    fn fault(&self) -> Option<&'static str> {
        for a in 0..NODES {
            for b in a + 1..NODES {
                let theirs = self.holders[b].holds();
                if self.holders[a].holds().iter().any(|x| theirs.iter().any(|y| x.overlaps(*y))) {
                    return Some("two hold one extent");
                }
                if let (Some(x), Some(y)) = (self.writing[a], self.writing[b])
                    && x.start / UNIT < y.end.div_ceil(UNIT)
                    && y.start / UNIT < x.end.div_ceil(UNIT)
                {
                    return Some("two write one extent");
                }
            }
        }
        let stuck = self.actions().is_empty() && self.plans.iter().any(|plan| !plan.is_empty());
        stuck.then_some("somebody waits for ever")
    }

    fn key(&self) -> u64 {
        let mut copy = self.clone();
        for holder in &mut copy.holders {
            // Statistics, and a cache of what is held.
            (holder.waits, holder.longest_wait, holder.given, holder.taken) = ([0; 32], 0, 0, 0);
            holder.forget_hit();
        }
        let mut hasher = DefaultHasher::new();
        format!("{copy:?}").hash(&mut hasher);
        hasher.finish()
    }
}

/// Follows every order of events; gives the number of states, or a fault.
fn explore(first: State) -> Result<usize, &'static str> {
    let mut seen = BTreeSet::from([first.key()]);
    let mut rest = vec![first];
    while let Some(state) = rest.pop() {
        if let Some(fault) = state.fault() {
            return Err(fault);
        }
        assert!(seen.len() < 200_000, "the instance is too large to be followed");
        for action in state.actions() {
            let mut next = state.clone();
            next.act(action);
            if seen.insert(next.key()) {
                rest.push(next);
            }
        }
    }
    Ok(seen.len())
}

/// One extent that all want, twice; several extents at once that overlap in a ring.
fn instances() -> Vec<([Vec<BlockRange>; NODES], u32)> {
    vec![
        ([vec![extents(0, 1); 2], vec![extents(0, 1); 2], vec![]], 2),
        ([vec![extents(0, 1)], vec![extents(0, 1)], vec![extents(0, 1)]], 1),
        ([vec![extents(0, 2)], vec![extents(1, 3)], vec![extents(2, 4)]], 1),
        ([vec![extents(0, 2), extents(2, 3)], vec![extents(1, 3), extents(0, 1)], vec![]], 2),
    ]
}

#[test]
fn every_order_of_events_is_safe_and_ends() {
    for (plans, drops) in instances() {
        let states = explore(first(plans, drops, TableRules::default())).expect("no order of events is wrong");
        assert!(states > 100, "{states} states are too few to mean anything");
    }
}

#[test]
fn a_grant_before_the_release_is_found() {
    let rules = TableRules { grant_before_release: true, ..TableRules::default() };
    let (plans, drops) = instances().remove(0);
    assert_eq!(explore(first(plans, drops, rules)), Err("two hold one extent"));
}

//! Every order of events of a small instance: one grant Lease, a few writers, answers that are lost and swaps that land late.
//!
//! [`next_word`] and [`heed`] are those of production; around them are a Lease, requests and answers on their way, and a watch that
//! shows what is there now. Nobody may ever hold the shard beside somebody else, and whoever wanted it must have had it once nothing
//! is left to happen.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use super::shards::{Heard, Shard, Situation, Standing, Word, heed, next_word};
use crate::ids::{Epoch, GrantNumber, Incarnation, NodeId, Time};
use crate::lease::GrantLease;
use crate::message::Class;

const EPOCH: Epoch = Epoch(7);
const NOW: Time = Time(1);

/// What is on its way to the Lease.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Request {
    Read,
    Make,
    Write { version: u64, lease: GrantLease },
}

#[derive(Clone, Debug, Default)]
struct Writer {
    shard: Shard,
    number: GrantNumber,
    /// How often it still wants the shard.
    wants: u8,
    asking: bool,
    /// The one that it waits for, and those that it gave up: they may arrive, or never.
    request: Option<Request>,
    late: Vec<Request>,
    /// An answer on its way: version and content, or none for a conflict.
    answer: Option<Option<(u64, Result<GrantLease, String>)>>,
}

#[derive(Clone, Debug)]
struct State {
    version: u64,
    lease: Option<Result<GrantLease, String>>,
    writers: Vec<Writer>,
    /// Answers that may still be lost.
    losses: u8,
    /// What was given back counts as held again, as long as the Lease says so.
    holds_again: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Want(usize),
    Speak(usize),
    Arrive(usize),
    ArriveLate(usize),
    Answer(usize),
    Lose(usize),
    Watch(usize),
    Drain(usize),
}

impl State {
    fn new(writers: usize, wants: u8, losses: u8) -> State {
        // What an earlier epoch left: it says that the first writer holds the shard, which it does not.
        let left = GrantLease {
            number: GrantNumber { epoch: Epoch(6), counter: 9 },
            holder: Some(run(0)),
            wishes: Vec::new(),
        };
        let writer = Writer { wants, ..Writer::default() };
        State { version: 3, lease: Some(Ok(left)), writers: vec![writer; writers], losses, holds_again: false }
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.version, &self.lease, self.losses).hash(&mut hasher);
        for w in &self.writers {
            let standing = w.shard.standing as u8;
            (w.shard.version, &w.shard.lease, w.shard.stale, standing, w.shard.opened).hash(&mut hasher);
            (w.number, w.wants, w.asking, &w.request, &w.late, &w.answer).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, w) in self.writers.iter().enumerate() {
            let quiet = w.request.is_none() && w.answer.is_none();
            if w.wants > 0 && !w.asking && w.shard.standing != Standing::Held {
                steps.push(Step::Want(at));
            }
            if quiet && self.next_request(at).is_some() {
                steps.push(Step::Speak(at));
            }
            if w.request.is_some() {
                steps.push(Step::Arrive(at));
                if self.losses > 0 {
                    steps.push(Step::Lose(at));
                }
            }
            if !w.late.is_empty() {
                steps.push(Step::ArriveLate(at));
            }
            if w.answer.is_some() {
                steps.push(Step::Answer(at));
                if self.losses > 0 {
                    steps.push(Step::Lose(at));
                }
            }
            if self.version > w.shard.version {
                steps.push(Step::Watch(at));
            }
            let wished = w.shard.current(EPOCH).is_some_and(|l| l.holder == Some(run(at)) && !l.wishes.is_empty());
            if w.shard.standing == Standing::Held && wished {
                steps.push(Step::Drain(at));
            }
        }
        steps
    }

    fn next_request(&self, at: usize) -> Option<Request> {
        let w = &self.writers[at];
        let opens = at == 0;
        let interested = w.asking || w.shard.standing == Standing::GivenBack || opens && w.shard.opened.is_none();
        if !interested {
            return None;
        }
        if w.shard.lease.is_none() || w.shard.stale {
            return Some(Request::Read);
        }
        let situation = Situation {
            now: NOW,
            epoch: EPOCH,
            me: run(at),
            want: w.asking.then_some(Class::Normal),
            number: w.number,
            opens: opens.then_some(None),
            settled: true,
            writes: &|_, _| true,
            believes_older: false,
        };
        Some(match next_word(&w.shard, &situation)? {
            Word::Make => Request::Make,
            Word::Say(lease) => Request::Write { version: w.shard.version, lease: *lease },
        })
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Want(at) => {
                self.writers[at].wants -= 1;
                self.writers[at].asking = true;
            }
            Step::Speak(at) => self.writers[at].request = self.next_request(at),
            Step::Arrive(at) => {
                let request = self.writers[at].request.take().expect("listed");
                let answer = self.apply(request);
                self.writers[at].answer = Some(answer);
            }
            Step::ArriveLate(at) => {
                let request = self.writers[at].late.remove(0);
                self.apply(request);
            }
            Step::Answer(at) => {
                let w = &mut self.writers[at];
                match w.answer.take().expect("listed") {
                    None => w.shard.stale = true,
                    Some((version, lease)) => {
                        w.shard.stale = false;
                        if version >= w.shard.version {
                            hear(w, at, version, lease, self.holds_again);
                        }
                    }
                }
            }
            Step::Lose(at) => {
                self.losses -= 1;
                let w = &mut self.writers[at];
                w.answer = None;
                w.shard.stale = true;
                // A request without an answer may land at any time from now on.
                w.late.extend(w.request.take());
            }
            Step::Watch(at) => {
                let (version, lease) = (self.version, self.lease.clone().expect("made"));
                hear(&mut self.writers[at], at, version, lease, self.holds_again);
            }
            Step::Drain(at) => {
                self.writers[at].shard.standing = Standing::GivenBack;
            }
        }
    }

    fn apply(&mut self, request: Request) -> Option<(u64, Result<GrantLease, String>)> {
        match request {
            Request::Read => {}
            Request::Make => return None,
            Request::Write { version, .. } if version != self.version => return None,
            Request::Write { lease, .. } => {
                self.version += 1;
                self.lease = Some(Ok(lease));
            }
        }
        Some((self.version, self.lease.clone().expect("made")))
    }

    fn check(&self) {
        let held = self.writers.iter().filter(|w| w.shard.standing == Standing::Held).count();
        assert!(held <= 1, "{held} writers hold the shard: {self:#?}");
    }
}

fn hear(w: &mut Writer, at: usize, version: u64, lease: Result<GrantLease, String>, again: bool) {
    (w.shard.version, w.shard.lease) = (version, Some(lease));
    let Some(lease) = w.shard.current(EPOCH).cloned() else { return };
    assert!(w.shard.opened <= Some(lease.number), "numbers rise: {w:#?}");
    w.shard.opened = Some(lease.number);
    match heed(&w.shard, &lease, run(at), w.number, again) {
        Heard::Given(number) => {
            w.number = number;
            w.shard.standing = Standing::Held;
            w.asking = false;
        }
        Heard::HandedOn => w.shard.standing = Standing::None,
        Heard::Taken => panic!("taken from its holder: {w:#?}"),
        Heard::Nothing => {}
    }
}

fn run(at: usize) -> (NodeId, Incarnation) {
    (NodeId(at as u32 + 1), Incarnation(1))
}

/// Follows every order of events; how many states there are.
fn explore(start: State) -> usize {
    let mut seen: HashSet<u64> = HashSet::from([start.key()]);
    let mut open: VecDeque<State> = VecDeque::from([start]);
    while let Some(state) = open.pop_front() {
        let steps = state.steps();
        if steps.is_empty() {
            let waits = state.writers.iter().any(|w| w.asking || w.shard.standing == Standing::GivenBack);
            assert!(!waits, "nothing is left to happen, and somebody waits: {state:#?}");
        }
        for step in steps {
            let mut next = state.clone();
            next.take(step);
            next.check();
            if seen.insert(next.key()) {
                open.push_back(next);
            }
        }
    }
    seen.len()
}

#[test]
fn two_writers_twice_with_lost_answers() {
    let states = explore(State::new(2, 2, 1));
    assert!(states > 1_000, "{states} states: too few to mean anything");
}

#[test]
fn three_writers_once() {
    let states = explore(State::new(3, 1, 1));
    assert!(states > 1_000, "{states} states: too few to mean anything");
}

#[test]
#[should_panic(expected = "hold")]
fn the_model_sees_two_holders() {
    explore(State { holds_again: true, ..State::new(2, 2, 1) });
}

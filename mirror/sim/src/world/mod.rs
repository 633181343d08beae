//! The world: nodes, network, front ends and an operator, driven by one queue of events in virtual time.
//!
//! Everything that happens is an event at a moment; events of one moment happen in the order in which they were
//! scheduled. No map has an order that depends on anything but its keys.

mod effects;
mod front;
mod leases;
mod links;
mod members;
mod operator;
mod process;
mod register;
mod setup;
mod trigger;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use lockstep_core::{
    Effect, Event as CoreEvent, Incarnation, Input, LeaseAsk, LeaseTold, LeaseWant, Net, NodeId, PersistToken,
    RegisterAnswer, RegisterAsk, Time,
};

use crate::check::Checks;
use crate::failure::Failure;
use crate::machine::Factory;
use crate::net::{Due, Network};
use crate::node::Node;
use crate::plan::Plan;
use crate::record::Recorder;
use crate::rng::Rng;
use crate::trace::Trace;

pub use front::FrontEnd;
pub use leases::{Leases, Remote, Said};
pub use operator::Asked;
pub use register::Register;
pub use trigger::{FRAME_KINDS, GRANT_KINDS, Pattern, Trigger, UPDATE_KINDS, frame_kind, update_kind};

/// More events than this in one run are a livelock.
const EVENTS_MAX: u64 = 8_000_000;

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Tick { node: NodeId, run: u64 },
    DiskLands { node: NodeId, operation: u64, blocks: u64 },
    DiskEnds { node: NodeId, operation: u64 },
    Persisted { node: NodeId, run: u64, token: PersistToken },
    Network(Due),
    Dial { dialer: NodeId, other: NodeId, net: Net },
    LinkUp { connection: u64, side: usize },
    LinkReset { connection: u64, side: usize },
    LinkReplaced { connection: u64, side: usize },
    Alive { connection: u64, side: usize },
    Load { node: NodeId, chain: u64 },
    ExitReport { to: NodeId, node: NodeId, incarnation: Incarnation, restarting: bool, tries: u32 },
    Start { node: NodeId },
    Operator,
    RegisterAsked(register::Asking),
    RegisterAnswers { node: NodeId, run: u64, ask: RegisterAsk, answer: RegisterAnswer },
    LeaseAsked { node: NodeId, run: u64, ask: LeaseAsk, want: LeaseWant },
    LeaseTold { node: NodeId, run: u64, ask: Option<LeaseAsk>, told: LeaseTold },
    Renew { node: NodeId, run: u64 },
    Triggered { action: u64 },
}

struct Scheduled {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    /// The earliest is the greatest: the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// One run.
pub struct World {
    /// The world's time, nanoseconds.
    pub now: u64,
    /// What the run is made of.
    pub plan: Plan,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// The network.
    pub net: Network,
    /// The register, where it is the arbiter.
    pub register: Register,
    /// The grant Leases, where they police.
    pub leases: Leases,
    /// A real API server in their place.
    pub remote: Option<Box<dyn Remote>>,
    /// Front ends.
    pub fronts: BTreeMap<NodeId, FrontEnd>,
    /// What clients saw.
    pub record: Recorder,
    /// The checkers.
    pub checks: Checks,
    /// The log.
    pub trace: Trace,
    /// Chance, for scripts and faults.
    pub rng: Rng,
    /// What was asked of the machines by the operator, and how it ended.
    pub asked: Vec<Asked>,
    /// Conditions that cause something at the moment they hold.
    pub triggers: Vec<Trigger>,
    /// The load runs.
    pub load_on: bool,
    /// The operator attaches front ends that should be attached.
    pub operator_on: bool,
    /// Incarnations that expelled somebody, with the victim, as the machines told.
    pub expulsions: Vec<(NodeId, NodeId)>,
    /// The first wrong.
    pub failure: Option<Failure>,
    /// When a link was cut or mended last.
    pub last_cut: u64,
    factory: Factory,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    events: u64,
    disk_rng: Rng,
    link_rng: Rng,
    load_rng: Rng,
    boots: u64,
    attachments: u64,
    pending_actions: BTreeMap<u64, Box<dyn FnOnce(&mut World)>>,
    effects: VecDeque<Vec<Effect>>,
}

impl World {
    pub(crate) fn schedule(&mut self, after: u64, what: Happening) {
        self.schedule_at(self.now + after, what);
    }

    pub(crate) fn schedule_at(&mut self, at: u64, what: Happening) {
        let order = self.scheduled;
        self.scheduled += 1;
        self.queue.push(Scheduled { at: at.max(self.now), order, what });
    }

    /// Runs until `done` holds or `limit` nanoseconds have passed; true if it holds.
    pub fn run_until(&mut self, limit: u64, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + limit;
        // Conditions are looked at once in a while: most of them cost more than an event.
        let mut look = 0u32;
        loop {
            if self.failure.is_some() {
                return false;
            }
            if look == 0 && done(self) {
                return true;
            }
            look = (look + 1) % 8;
            if self.queue.peek().is_none_or(|next| next.at > end) {
                self.now = end;
                return done(self);
            }
            self.happen_next();
        }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, nanos: u64) {
        let end = self.now + nanos;
        while self.failure.is_none() && self.queue.peek().is_some_and(|next| next.at <= end) {
            self.happen_next();
        }
        self.now = end;
    }

    fn happen_next(&mut self) {
        let Some(next) = self.queue.pop() else { return };
        self.now = next.at;
        self.events += 1;
        if self.events > EVENTS_MAX {
            self.fail(Failure::liveness("livelock", self.now, format!("more than {EVENTS_MAX} events")));
            return;
        }
        self.trace.mix(next.at);
        self.happen(next.what);
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Tick { node, run } => self.on_tick(node, run),
            Happening::DiskLands { node, operation, blocks } => self.on_disk_lands(node, operation, blocks),
            Happening::DiskEnds { node, operation } => self.on_disk_ends(node, operation),
            Happening::Persisted { node, run, token } => self.on_persisted(node, run, token),
            Happening::Network(due) => self.on_network(due),
            Happening::Dial { dialer, other, net } => self.on_dial(dialer, other, net),
            Happening::LinkUp { connection, side } => self.on_link_up(connection, side),
            Happening::LinkReset { connection, side } => self.on_link_reset(connection, side),
            Happening::LinkReplaced { connection, side } => self.on_link_replaced(connection, side),
            Happening::Alive { connection, side } => self.on_alive(connection, side),
            Happening::Load { node, chain } => self.on_load(node, chain),
            Happening::ExitReport { to, node, incarnation, restarting, tries } => {
                self.on_exit_report(to, node, incarnation, restarting, tries);
            }
            Happening::Start { node } => self.on_start(node),
            Happening::Operator => self.on_operator(),
            Happening::RegisterAsked(asking) => self.on_register_arrives(asking),
            Happening::RegisterAnswers { node, run, ask, answer } => self.on_register_answers(node, run, ask, answer),
            Happening::LeaseAsked { node, run, ask, want } => self.on_lease_arrives(node, run, ask, &want),
            Happening::LeaseTold { node, run, ask, told } => self.on_lease_told(node, run, ask, told),
            Happening::Renew { node, run } => self.on_renew(node, run),
            Happening::Triggered { action } => {
                if let Some(action) = self.pending_actions.remove(&action) {
                    action(self);
                }
            }
        }
    }

    /// Does something later.
    pub fn later(&mut self, after: u64, action: Box<dyn FnOnce(&mut World)>) {
        let number = self.scheduled;
        self.pending_actions.insert(number, action);
        self.schedule(after, Happening::Triggered { action: number });
    }

    /// Notes the first wrong; the run ends.
    pub fn fail(&mut self, failure: Failure) {
        if self.failure.is_none() {
            if self.trace.wants_lines() {
                self.trace.line(self.now, &format!("FAILURE {failure}"));
            }
            self.failure = Some(failure);
        }
    }

    /// Hands an input to a node's process; it waits if the process is stopped and is lost if it is dead.
    pub(crate) fn deliver(&mut self, id: NodeId, input: Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.machine.is_none() {
            return;
        }
        if node.paused {
            node.backlog.push_back(input);
            return;
        }
        self.step(id, input);
    }

    fn on_tick(&mut self, id: NodeId, run: u64) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.run != run || node.tick_at != Some(now) {
            return;
        }
        node.tick_at = None;
        if node.paused {
            return;
        }
        let due = node.machine.as_ref().is_some_and(|machine| machine.deadline() <= node.clock.local(now));
        if due {
            self.step(id, Input::Tick);
        } else {
            self.arm_tick(id);
        }
    }

    /// One step of a machine, and everything that it wants.
    pub(crate) fn step(&mut self, id: NodeId, input: Input) {
        if self.failure.is_some() {
            return;
        }
        if self.trace.wants_lines() {
            self.trace.line(self.now, &format!("{id} <- {input:?}"));
        }
        let now = self.now;
        let mut effects = self.effects.pop_front().unwrap_or_default();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(machine) = node.machine.as_mut() else { return };
        machine.step(node.clock.local(now), input, &mut effects);
        self.trace.mix(u64::from(id.0) << 32 | effects.len() as u64);
        for effect in effects.drain(..) {
            if self.trace.wants_lines() {
                self.trace.line(now, &format!("{id} -> {effect:?}"));
            }
            self.carry_out(id, effect);
        }
        self.effects.push_back(effects);
        self.check_only_holder(id);
        self.arm_tick(id);
    }

    fn arm_tick(&mut self, id: NodeId) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(machine) = node.machine.as_ref() else { return };
        let deadline: Time = machine.deadline();
        let Some(at) = node.clock.world(deadline) else { return };
        let at = at.max(now);
        if node.tick_at.is_some_and(|armed| armed <= at && armed >= now) {
            return;
        }
        node.tick_at = Some(at);
        let run = node.run;
        self.schedule_at(at, Happening::Tick { node: id, run });
    }

    pub(crate) fn on_core_event(&mut self, id: NodeId, event: &CoreEvent) {
        self.check_policing(id, event);
        if let CoreEvent::Expelled { node, .. } = event {
            self.expulsions.push((id, *node));
            if self.plan.expect.no_expulsion {
                let what =
                    format!("node {id} took node {node} out of the configuration, and nothing was wrong with it");
                self.fail(Failure::correctness("suspicion", self.now, what));
            }
        }
    }
}

//! The port between the world and what it runs: the production machine, or a small fake in the harness's own tests.

use std::collections::BTreeSet;

use lockstep_core::{Config, Effect, Incarnation, Input, Meta, NodeId, Replica, Setup, Status, Time};

/// One state machine of one node.
pub trait Machine {
    /// See [`Replica::step`].
    fn step(&mut self, now: Time, input: Input, out: &mut Vec<Effect>);
    /// See [`Replica::deadline`].
    fn deadline(&self) -> Time;
    /// See [`Replica::peers`].
    fn peers(&self) -> BTreeSet<NodeId>;
    /// See [`Replica::meta`].
    fn meta(&self) -> &Meta;
    /// See [`Replica::config`].
    fn config(&self) -> &Config;
    /// See [`Replica::left`].
    fn left(&self) -> &BTreeSet<(NodeId, Incarnation)>;
    /// See [`Replica::status`].
    fn status(&self) -> Status;
    /// See [`Replica::grants_taken`].
    fn grants_taken(&self) -> u64;
}

/// Makes the machine of a process that starts.
pub type Factory = fn(Setup, Time) -> Box<dyn Machine>;

/// The production machine.
#[must_use]
pub fn production(setup: Setup, now: Time) -> Box<dyn Machine> {
    Box::new(Replica::new(setup, now))
}

impl Machine for Replica {
    fn step(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        Replica::step(self, now, input, out);
    }
    fn deadline(&self) -> Time {
        Replica::deadline(self)
    }
    fn peers(&self) -> BTreeSet<NodeId> {
        Replica::peers(self)
    }
    fn meta(&self) -> &Meta {
        Replica::meta(self)
    }
    fn config(&self) -> &Config {
        Replica::config(self)
    }
    fn left(&self) -> &BTreeSet<(NodeId, Incarnation)> {
        Replica::left(self)
    }
    fn status(&self) -> Status {
        Replica::status(self)
    }
    fn grants_taken(&self) -> u64 {
        Replica::grants_taken(self)
    }
}

//! Grant Leases elsewhere, and each node's own: what the API server is to the machines under Lease policing.

use std::collections::BTreeMap;

use lockstep_core::{Config, GrantLease, Input, LeaseAsk, LeaseTold, LeaseWant, NodeId, Policing, RegisterAnswer};

use super::{Happening, World};

/// What a Lease is found to say.
pub type Said = Result<GrantLease, String>;

/// A real API server in the place of the simulated one. Every call changes it, or does not, before it returns: delay, loss and outage
/// are the simulator's.
pub trait Remote {
    /// Reads the configuration.
    fn read_register(&mut self) -> RegisterAnswer;
    /// Swaps the configuration.
    fn swap_register(&mut self, version: u64, config: &Config) -> RegisterAnswer;
    /// Reads, makes or writes a grant Lease.
    fn lease(&mut self, want: &LeaseWant) -> LeaseTold;
}

/// The simulated ones.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    /// By shard: version and content.
    pub shards: BTreeMap<u8, (u64, Said)>,
    version: u64,
    renewals: BTreeMap<NodeId, u64>,
    /// Requests that came in.
    pub requests: u64,
}

impl Leases {
    /// Somebody writes to a Lease by hand, or takes it away.
    pub fn scribble(&mut self, shard: u8, said: Option<Said>) {
        self.version += 1;
        match said {
            Some(said) => drop(self.shards.insert(shard, (self.version, said))),
            None => drop(self.shards.remove(&shard)),
        }
    }

    /// What a shard's Lease is.
    #[must_use]
    pub fn found(&self, shard: u8) -> LeaseTold {
        let (version, lease) = self.shards.get(&shard).cloned().unwrap_or((0, Err("there is no such Lease".into())));
        LeaseTold::Found { shard, version, lease }
    }

    fn answer(&mut self, want: &LeaseWant) -> LeaseTold {
        match want {
            LeaseWant::Read { shard } => self.found(*shard),
            LeaseWant::Make { shard } => {
                if self.shards.contains_key(shard) {
                    return LeaseTold::Conflict;
                }
                self.scribble(*shard, Some(Err("it is not opened yet".into())));
                self.found(*shard)
            }
            LeaseWant::Write { shard, version, lease } => match self.shards.get(shard) {
                Some((found, _)) if found == version => {
                    self.scribble(*shard, Some(Ok(GrantLease::clone(lease))));
                    self.found(*shard)
                }
                _ => LeaseTold::Conflict,
            },
            LeaseWant::ReadNode { node } => LeaseTold::Node { node: *node, renewed: self.renewals.get(node).copied() },
        }
    }
}

impl World {
    pub(super) fn on_lease_wanted(&mut self, id: NodeId, ask: LeaseAsk, want: LeaseWant) {
        let run = self.nodes.get(&id).map_or(0, |node| node.run);
        let after = self.register_delay();
        self.schedule(after, Happening::LeaseAsked { node: id, run, ask, want });
    }

    pub(super) fn on_lease_arrives(&mut self, node: NodeId, run: u64, ask: LeaseAsk, want: &LeaseWant) {
        if !self.register.reaches(node) {
            if self.rng.one_in(2) {
                let told = LeaseTold::Failed { reason: "it cannot be reached".into() };
                self.schedule(super::Register::USUAL, Happening::LeaseTold { node, run, ask: Some(ask), told });
            }
            return;
        }
        self.leases.requests += 1;
        let told = match (&mut self.remote, want) {
            (Some(remote), LeaseWant::Read { .. } | LeaseWant::Make { .. } | LeaseWant::Write { .. }) => {
                remote.lease(want)
            }
            _ => self.leases.answer(want),
        };
        let changed = !matches!(want, LeaseWant::Read { .. }) && matches!(told, LeaseTold::Found { .. });
        let after = self.register_delay();
        self.schedule(after, Happening::LeaseTold { node, run, ask: Some(ask), told: told.clone() });
        if changed {
            self.show_lease(&told);
        }
    }

    /// Everybody's watch sees a change, sooner or later.
    fn show_lease(&mut self, told: &LeaseTold) {
        for node in self.plan.nodes.clone() {
            let run = self.nodes.get(&node).map_or(0, |node| node.run);
            let after = self.register_delay() + self.register.lag;
            self.schedule(after, Happening::LeaseTold { node, run, ask: None, told: told.clone() });
        }
    }

    /// A change by hand is seen like any other.
    pub fn scribble(&mut self, shard: u8, said: Option<Said>) {
        self.leases.scribble(shard, said);
        let told = self.leases.found(shard);
        self.show_lease(&told);
    }

    pub(super) fn on_lease_told(&mut self, id: NodeId, run: u64, ask: Option<LeaseAsk>, told: LeaseTold) {
        let lost = !self.register.reaches(id) || self.nodes.get(&id).is_none_or(|node| node.run != run);
        if !lost {
            self.deliver(id, Input::Lease { ask, told });
        }
    }

    /// Whether the API server answers, to everybody or to one node. Whoever can reach it again sees what is there now.
    pub fn set_register(&mut self, node: Option<NodeId>, up: bool) {
        match node {
            None => self.register.up = up,
            Some(node) if up => drop(self.register.cut.remove(&node)),
            Some(node) => drop(self.register.cut.insert(node)),
        }
        if up {
            let shards = match self.plan.settings.policing {
                Policing::Peer => 0,
                Policing::Lease { shards, .. } => shards,
            };
            for shard in 0..shards {
                let told = match &mut self.remote {
                    Some(remote) => remote.lease(&LeaseWant::Read { shard }),
                    None => self.leases.found(shard),
                };
                self.show_lease(&told);
            }
        }
    }

    /// A node's engine renews its own Lease.
    pub(super) fn on_renew(&mut self, id: NodeId, run: u64) {
        let Some(node) = self.nodes.get(&id).filter(|node| node.run == run && node.machine.is_some()) else { return };
        if !node.paused && self.register.reaches(id) {
            *self.leases.renewals.entry(id).or_default() += 1;
            let after = self.register_delay();
            self.schedule(after, Happening::LeaseTold { node: id, run, ask: None, told: LeaseTold::Renewed });
        }
        self.schedule(self.plan.timing.lease_duration / 4, Happening::Renew { node: id, run });
    }
}

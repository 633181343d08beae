//! One holder of a grant per range and epoch (I1); and what policing is for: no replica ever has to refuse a write of the
//! present epoch because of another writer (I2).

use lockstep_core::{BlockRange, Event, NodeId, Refusal};

use crate::failure::Failure;
use crate::world::World;

impl World {
    /// A machine told something.
    pub(crate) fn check_policing(&mut self, id: NodeId, event: &Event) {
        if let Event::Refused { node, reason: reason @ (Refusal::Grant | Refusal::Overlap) } = event {
            if self.plan.expect.forged {
                return;
            }
            let what = format!("node {id} refuses a write of node {node}: {reason:?}");
            self.fail(Failure::correctness("I2", self.now, what));
        }
    }

    /// A machine has done a step: if it was granted something, nobody else in the same view may hold any of it.
    pub(crate) fn check_only_holder(&mut self, id: NodeId) {
        if self.plan.expect.forged {
            return;
        }
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(machine) = node.machine.as_ref() else { return };
        let run = (node.run, machine.grants_taken());
        if node.grants_seen == run || run.1 == 0 {
            return;
        }
        node.grants_seen = run;
        self.checks.looks += 1;
        let own = machine.status().grants.map(|grants| grants.holds).unwrap_or_default();
        let view = (machine.config().clone(), machine.left().clone());
        let other = self.nodes.iter().filter(|(other, _)| **other != id).find_map(|(other, node)| {
            let machine = node.machine.as_ref()?;
            let same = *machine.config() == view.0 && *machine.left() == view.1;
            let theirs = machine.status().grants.filter(|_| same)?.holds;
            let both = |held: &BlockRange| own.iter().any(|range| range.overlaps(*held));
            theirs.into_iter().find(both).map(|held| (*other, held))
        });
        if let Some((other, held)) = other {
            let what =
                format!("node {id} was granted part of {held:?}, and node {other} holds it, in epoch {}", view.0.epoch);
            self.fail(Failure::correctness("I1", self.now, what));
        }
    }
}

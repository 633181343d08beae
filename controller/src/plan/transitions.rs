//! What became different between two statuses of a volume, in the words that people are told.

use lockstep_api::{MirrorVolumeStatus, REGISTER_LOST, is_true};

use super::status::{DIVERGED, READY, REDUNDANT, SERVING};

/// One thing that became different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// For machines; documented.
    pub reason: &'static str,
    /// What was being done.
    pub action: &'static str,
    /// For people.
    pub message: String,
    /// Somebody should look.
    pub warning: bool,
    /// Nodes tell it themselves, who know more of it: it is only logged here.
    pub told_by_nodes: bool,
}

/// What became different. Nothing, while the volume is being made.
#[must_use]
pub fn plan_transitions(old: &MirrorVolumeStatus, new: &MirrorVolumeStatus) -> Vec<Transition> {
    if !is_true(&old.conditions, READY) {
        return Vec::new();
    }
    let condition = |status: &MirrorVolumeStatus, kind: &str| {
        let found = status.conditions.iter().find(|it| it.type_ == kind);
        found.map(|it| (it.status == "True", it.reason.clone(), it.message.clone())).unwrap_or_default()
    };
    let mut transitions = Vec::new();
    // Where no replica is there, nobody is left on any node who could tell; and nodes look at a register only when they need it.
    let silent = condition(new, SERVING).1 == "NoReplica";
    let mut tell = |reason, action, message: String, warning| {
        let told_by_nodes = reason != "RegisterLost" && !(silent && reason == "NoQuorum");
        transitions.push(Transition { reason, action, message, warning, told_by_nodes });
    };
    let lost: Vec<&str> = old.in_sync.iter().filter(|node| !new.in_sync.contains(node)).map(String::as_str).collect();
    if !lost.is_empty() {
        tell("ReplicaLost", "Mirror", format!("goes on without the replica on {}", lost.join(", ")), true);
    }
    let (was, is) = (condition(old, REDUNDANT), condition(new, REDUNDANT));
    if is.1 == "Resync" && was.1 != "Resync" {
        tell("ResyncStarted", "Resync", is.2.clone(), false);
    }
    if is.0 && !was.0 && !was.1.is_empty() {
        tell("ResyncFinished", "Resync", format!("all replicas are in sync: {}", new.in_sync.join(", ")), false);
    }
    let (was, is) = (condition(old, SERVING), condition(new, SERVING));
    if was.0 && !is.0 {
        tell("NoQuorum", "Serve", is.2, true);
    }
    for (kind, reason) in [(DIVERGED, "Diverged"), (REGISTER_LOST, "RegisterLost")] {
        let (was, is) = (condition(old, kind), condition(new, kind));
        if is.0 && !was.0 {
            tell(reason, "Mirror", is.2, true);
        }
    }
    transitions
}

//! Whether a node may be drained now, as far as storage goes.
//!
//! It may not while it holds the last good copy of a volume that somebody uses: the budget of its guard pod forbids the eviction. And of
//! nodes that share a volume, one goes at a time.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_api::{MirrorVolume, ReplicaRole};

/// What one node's guard is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The node may be drained.
    Open,
    /// It may not.
    Closed {
        /// Why, with the volume.
        reason: String,
    },
}

/// What every node's guard is told. `leaving` are nodes whose guards have been let go and are not back; `lost` are nodes that are not
/// there.
#[must_use]
pub fn plan_guards(
    nodes: &BTreeSet<String>,
    volumes: &[&MirrorVolume],
    leaving: &BTreeSet<String>,
    lost: &BTreeSet<String>,
) -> BTreeMap<String, Guard> {
    let away: BTreeSet<&String> = leaving.union(lost).collect();
    let judge = |node: &String| {
        let closed = volumes.iter().find_map(|volume| obstacle(node, volume, &away));
        (node.clone(), closed.map_or(Guard::Open, |reason| Guard::Closed { reason }))
    };
    nodes.iter().map(judge).collect()
}

/// Why a volume forbids that this node leaves now.
fn obstacle(node: &str, volume: &MirrorVolume, away: &BTreeSet<&String>) -> Option<String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let status = volume.status.as_ref()?;
    let member = |role: ReplicaRole| status.placement.iter().any(|placed| placed.node == node && placed.role == role);
    let others_away = status.placement.iter().find(|placed| placed.node != node && away.contains(&placed.node));
    let takes_part = member(ReplicaRole::Replica) || member(ReplicaRole::TieBreaker);
    // Those that nobody writes lose nothing: all their replicas are equal and stay so.
    let used = !status.writers.is_empty();
    if !used || !takes_part {
        return None;
    }
    if let Some(other) = others_away {
        return Some(format!("{name}: {} is away already", other.node));
    }
    if !member(ReplicaRole::Replica) {
        return None;
    }
    let good: Vec<&String> = status.in_sync.iter().filter(|it| *it != node && !away.contains(it)).collect();
    let is_good = status.in_sync.iter().any(|it| it == node);
    (is_good && good.is_empty()).then(|| format!("{name}: the last replica that is in sync is here"))
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;

//! What is to become of a volume's members while it runs: one change at a time, and none that would take the last good copy away.
//!
//! ```text
//! replica lost for long, or its pool evicted, or more wanted --> add one elsewhere (it joins empty)
//! all that are wanted in sync, and one too many               --> take the worst away
//! tie-breaker lost for long, or its pool evicted              --> another
//! ```

use std::collections::BTreeSet;

use lockstep_api::{Arbiter, MirrorVolume, Placement, ReplicaRole};

use super::Pool;
use super::pairing::{Want, plan_members, plan_tie_breaker};
use super::pools::bytes;

/// One change of a volume's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This one is added: a replica that joins empty, or a tie-breaker.
    Add(Placement),
    /// The part of this node is taken away.
    Remove {
        /// Which node's.
        node: String,
    },
}

/// What is seen of a volume that is created.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The volume.
    pub volume: &'a MirrorVolume,
    /// All pools.
    pub pools: &'a [Pool],
    /// Nodes that have been lost for longer than a replacement waits.
    pub lost_for_long: &'a BTreeSet<String>,
    /// See [`crate::config::Config::overcommit`].
    pub overcommit: f64,
}

/// The next change, if any is due and possible.
#[must_use]
pub fn plan_change(seen: Seen<'_>) -> Option<Change> {
    let status = seen.volume.status.as_ref()?;
    let replicas: Vec<&Placement> = status.placement.iter().filter(|it| it.role == ReplicaRole::Replica).collect();
    let leaves =
        |node: &str| seen.lost_for_long.contains(node) || seen.pools.iter().any(|pool| pool.node == node && pool.evict);
    let in_sync = |node: &str| status.in_sync.iter().any(|it| it == node);
    let wanted = usize::from(seen.volume.spec.replicas);
    let staying = replicas.iter().filter(|it| !leaves(&it.node)).count();
    // One that is being filled is finished first: each addition copies everything once.
    let filling = replicas.iter().any(|it| !in_sync(&it.node) && !leaves(&it.node));
    if staying < wanted && !filling {
        return plan_addition(seen, &replicas).map(Change::Add);
    }
    let good = replicas.iter().filter(|it| in_sync(&it.node) && !leaves(&it.node)).count();
    if good >= wanted && replicas.len() > wanted {
        // Of those that may go, the one that is missed least: lost, then leaving, then the one whose pool is promised most.
        let fill = |node: &str| seen.pools.iter().find(|pool| pool.node == node).map_or(u64::MAX, Pool::fill);
        let worst = replicas.iter().max_by_key(|it| {
            let writes = status.writers.contains(&it.node);
            (leaves(&it.node), !in_sync(&it.node), !writes, fill(&it.node), it.node.clone())
        })?;
        return Some(Change::Remove { node: worst.node.clone() });
    }
    plan_tie_breaker_change(seen, &replicas, &leaves)
}

/// Another node for a replica: as a new volume of one replica more would be placed.
fn plan_addition(seen: Seen<'_>, replicas: &[&Placement]) -> Option<Placement> {
    let spec = &seen.volume.spec;
    let taken: BTreeSet<&str> = seen.volume.status.iter().flat_map(|it| &it.placement).map(|it| &*it.node).collect();
    let zones: BTreeSet<&String> = seen
        .pools
        .iter()
        .filter(|pool| replicas.iter().any(|it| it.node == pool.node) && !seen.lost_for_long.contains(&pool.node))
        .filter_map(|pool| pool.zone.as_ref())
        .collect();
    let free: Vec<Pool> = seen
        .pools
        .iter()
        // A tie-breaker's node becomes a replica's only after another breaks ties: not in one step.
        .filter(|pool| !taken.contains(&*pool.node) && !seen.lost_for_long.contains(&pool.node))
        .cloned()
        .collect();
    let want = Want {
        size: bytes(spec.size_bytes),
        replicas: 1,
        // Who keeps the configuration is decided already.
        arbiter: Some(Arbiter::Lease),
        policing: spec.policing,
        selector: spec.pool_selector.clone(),
        preferred: spec.preferred_nodes.clone(),
        allowed: spec.allowed_nodes.clone(),
    };
    let elsewhere: Vec<Pool> =
        free.iter().filter(|pool| !pool.zone.as_ref().is_some_and(|zone| zones.contains(zone))).cloned().collect();
    let planned =
        plan_members(&want, &elsewhere, seen.overcommit).or_else(|_| plan_members(&want, &free, seen.overcommit));
    planned.ok()?.placement.into_iter().next()
}

/// Three voters stay three: a tie-breaker that is lost or leaves has a successor, and one that is not needed goes.
fn plan_tie_breaker_change(seen: Seen<'_>, replicas: &[&Placement], leaves: &impl Fn(&str) -> bool) -> Option<Change> {
    let status = seen.volume.status.as_ref()?;
    if status.arbiter != Some(Arbiter::Peers) {
        return None;
    }
    let votes: Vec<&Placement> = status.placement.iter().filter(|it| it.role == ReplicaRole::TieBreaker).collect();
    let remove = |placed: &Placement| Change::Remove { node: placed.node.clone() };
    match votes.as_slice() {
        // Three replicas that are in sync are three voters.
        [needless, ..] if replicas.len() >= 3 && status.in_sync.len() >= 3 => Some(remove(needless)),
        // The core knows one tie-breaker at a time: the old one goes first.
        [leaving] if leaves(&leaving.node) && successor(seen, replicas, leaves).is_some() => Some(remove(leaving)),
        [] if replicas.len() == 2 => successor(seen, replicas, leaves).map(Change::Add),
        _ => None,
    }
}

fn successor(seen: Seen<'_>, replicas: &[&Placement], leaves: &impl Fn(&str) -> bool) -> Option<Placement> {
    let of = |placed: &&Placement| seen.pools.iter().find(|pool| pool.node == placed.node);
    let held: Vec<&Pool> = replicas.iter().filter_map(of).collect();
    let voting: BTreeSet<&str> = seen
        .volume
        .status
        .iter()
        .flat_map(|status| &status.placement)
        .filter(|placed| placed.role == ReplicaRole::TieBreaker)
        .map(|placed| &*placed.node)
        .collect();
    let open: Vec<Pool> =
        seen.pools.iter().filter(|pool| !leaves(&pool.node) && !voting.contains(&*pool.node)).cloned().collect();
    let pool = plan_tie_breaker(&held, &open)?;
    Some(Placement {
        node: pool.node.clone(),
        node_id: pool.node_id,
        incarnation: pool.incarnation,
        role: ReplicaRole::TieBreaker,
    })
}

#[cfg(test)]
#[path = "replacement_tests.rs"]
mod tests;

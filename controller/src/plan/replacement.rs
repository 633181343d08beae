//! What is to become of a volume's members while it runs: one change at a time, and none that would take the last good copy away.
//!
//! ```text
//! replica lost for long, or its pool evicted, or more wanted --> add one elsewhere (it joins empty), at last where ties are broken
//! replica gone from a pool that is there                     --> made anew, empty
//! all that are wanted in sync, and one too many              --> take the worst away, or let it break ties
//! tie-breaker lost for long, or its pool evicted             --> another in its place
//! ```

use std::collections::BTreeSet;

use lockstep_api::{Arbiter, MirrorVolume, MirrorVolumeStatus, Placement, ReplicaRole};

use super::Pool;
use super::pairing::{Want, plan_members, plan_tie_breaker};
use super::pools::bytes;

/// Replicas of a volume with which nobody has to break ties.
const VOTES_ENOUGH: usize = 3;

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
    /// The node has something else to do for the volume, and keeps its vote.
    Become {
        /// Which node.
        node: String,
        /// What.
        role: ReplicaRole,
    },
    /// Another tie-breaker takes the place of the one that is there.
    Succeed {
        /// The node of the old one.
        node: String,
        /// The new one.
        by: Placement,
    },
    /// The replica of this node is gone: an empty one is made there, which joins.
    Remake(Placement),
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
    /// Nodes that live, and have said for as long that their replica of the volume is not in their pool any more.
    pub emptied: &'a BTreeSet<String>,
    /// Nodes that live, and whose replica of the volume has for as long been on a disk that failed.
    pub failed: &'a BTreeSet<String>,
    /// See [`crate::config::Config::overcommit`].
    pub overcommit: f64,
}

impl Seen<'_> {
    fn pool(&self, node: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.node == node)
    }

    fn is_lost(&self, node: &str) -> bool {
        self.lost_for_long.contains(node)
    }

    /// Whether what the node has for the volume is given up.
    fn leaves(&self, node: &str) -> bool {
        self.is_lost(node) || self.pool(node).is_some_and(|pool| pool.evict)
    }

    /// The node of a replica that is gone, if another can be made there: its room is reserved.
    fn remade(&self, placed: &Placement) -> Option<Placement> {
        let pool = self.pool(&placed.node).filter(|_| self.emptied.contains(&placed.node))?;
        let usable = pool.engine && pool.storage && !pool.evict && !self.is_lost(&pool.node);
        usable.then(|| pool.place(ReplicaRole::Replica))
    }
}

/// The next change, if any is due and possible.
#[must_use]
pub fn plan_change(seen: Seen<'_>) -> Option<Change> {
    let status = seen.volume.status.as_ref()?;
    let replicas: Vec<&Placement> = status.placement.iter().filter(|it| it.role == ReplicaRole::Replica).collect();
    let gone = |node: &str| seen.emptied.contains(node);
    let leaves = |node: &str| seen.leaves(node) || gone(node) || seen.failed.contains(node);
    let in_sync = |node: &str| status.in_sync.iter().any(|it| it == node) && !gone(node);
    let wanted = usize::from(seen.volume.spec.replicas);
    let staying = replicas.iter().filter(|it| !leaves(&it.node)).count();
    // One that is being filled is finished first: each addition copies everything once.
    let filling = replicas.iter().any(|it| !in_sync(&it.node) && !leaves(&it.node));
    if staying < wanted && !filling {
        return plan_more(seen, status, &replicas);
    }
    let good = replicas.iter().filter(|it| in_sync(&it.node) && !leaves(&it.node)).count();
    if good >= wanted && replicas.len() > wanted {
        // Of those that may go, the one that is missed least: lost, then leaving, then the one whose pool is promised most.
        let fill = |node: &str| seen.pool(node).map_or(u64::MAX, Pool::fill);
        let worst = replicas.iter().max_by_key(|it| {
            let writes = status.writers.contains(&it.node);
            (leaves(&it.node), !in_sync(&it.node), !writes, fill(&it.node), it.node.clone())
        })?;
        return plan_fewer(seen, status, &replicas, &worst.node);
    }
    plan_tie_breaker_change(seen, status, &replicas)
}

/// One more copy is needed.
fn plan_more(seen: Seen<'_>, status: &MirrorVolumeStatus, replicas: &[&Placement]) -> Option<Change> {
    let wanted = usize::from(seen.volume.spec.replicas);
    let serves = |it: &&&Placement| {
        status.in_sync.contains(&it.node) && !seen.is_lost(&it.node) && !seen.emptied.contains(&it.node)
    };
    let serving = replicas.iter().filter(serves).count();
    if serving > 0
        && let Some(anew) = replicas.iter().find_map(|placed| seen.remade(placed))
    {
        return Some(Change::Remake(anew));
    }
    if replicas.len() > wanted {
        // One that was to take another's place and is lost itself makes room for the next: members take one newcomer at a time.
        if let Some(useless) = replicas.iter().rfind(|it| !serves(it)) {
            return Some(Change::Remove { node: useless.node.clone() });
        }
        // Where several are to go, each goes as soon as there is another in its place.
        if serving > wanted
            && let Some(first) = replicas.iter().find(|it| seen.leaves(&it.node))
        {
            return plan_fewer(seen, status, replicas, &first.node);
        }
    }
    if let Some(added) = plan_addition(seen, replicas) {
        return Some(Change::Add(added));
    }
    // A second copy is worth more than a third vote: whoever has it votes all the same.
    let vote = status.placement.iter().find(|it| it.role == ReplicaRole::TieBreaker)?;
    let pool = seen.pool(&vote.node).filter(|pool| !seen.leaves(&pool.node) && !status.writers.contains(&pool.node))?;
    plan_members(&want(seen.volume), std::slice::from_ref(pool), seen.overcommit).ok()?;
    Some(Change::Become { node: vote.node.clone(), role: ReplicaRole::Replica })
}

/// One copy is too many: that of `worst`.
fn plan_fewer(seen: Seen<'_>, status: &MirrorVolumeStatus, replicas: &[&Placement], worst: &str) -> Option<Change> {
    let tie_breaker = status.placement.iter().any(|it| it.role == ReplicaRole::TieBreaker);
    let votes_stay = tie_breaker || status.arbiter != Some(Arbiter::Peers) || replicas.len() > VOTES_ENOUGH;
    let remove = Change::Remove { node: worst.to_owned() };
    match seen.is_lost(worst) {
        _ if votes_stay => Some(remove),
        // Two voters would be stopped by the loss of either: it keeps its vote.
        false => Some(Change::Become { node: worst.to_owned(), role: ReplicaRole::TieBreaker }),
        true => successor(seen, replicas).map(|_| remove),
    }
}

/// What a replica of a volume wants of its pool.
fn want(volume: &MirrorVolume) -> Want {
    let spec = &volume.spec;
    Want {
        size: bytes(spec.size_bytes),
        replicas: 1,
        // Who keeps the configuration is decided already.
        arbiter: Some(Arbiter::Lease),
        policing: spec.policing,
        selector: spec.pool_selector.clone(),
        preferred: spec.preferred_nodes.clone(),
        allowed: spec.allowed_nodes.clone(),
    }
}

/// Another node for a replica: as a new volume of one replica more would be placed.
fn plan_addition(seen: Seen<'_>, replicas: &[&Placement]) -> Option<Placement> {
    let status = seen.volume.status.as_ref()?;
    let taken: BTreeSet<&str> = status.placement.iter().map(|it| &*it.node).collect();
    let zones: BTreeSet<&String> = seen
        .pools
        .iter()
        .filter(|pool| replicas.iter().any(|it| it.node == pool.node) && !seen.is_lost(&pool.node))
        .filter_map(|pool| pool.zone.as_ref())
        .collect();
    let free: Vec<Pool> = seen
        .pools
        .iter()
        .filter(|pool| !taken.contains(&*pool.node) && !seen.is_lost(&pool.node))
        // What is attached gets no replica under it.
        .filter(|pool| !status.writers.contains(&pool.node))
        .cloned()
        .collect();
    let want = want(seen.volume);
    let elsewhere: Vec<Pool> =
        free.iter().filter(|pool| !pool.zone.as_ref().is_some_and(|zone| zones.contains(zone))).cloned().collect();
    let planned =
        plan_members(&want, &elsewhere, seen.overcommit).or_else(|_| plan_members(&want, &free, seen.overcommit));
    planned.ok()?.placement.into_iter().next()
}

/// Three voters stay three: a tie-breaker that is lost or leaves has a successor, and one that is not needed goes.
fn plan_tie_breaker_change(seen: Seen<'_>, status: &MirrorVolumeStatus, replicas: &[&Placement]) -> Option<Change> {
    if status.arbiter != Some(Arbiter::Peers) {
        return None;
    }
    let votes: Vec<&Placement> = status.placement.iter().filter(|it| it.role == ReplicaRole::TieBreaker).collect();
    match votes.as_slice() {
        [needless, ..] if replicas.len() >= VOTES_ENOUGH && status.in_sync.len() >= VOTES_ENOUGH => {
            Some(Change::Remove { node: needless.node.clone() })
        }
        [leaving] if seen.leaves(&leaving.node) => {
            let by = successor(seen, replicas)?;
            Some(Change::Succeed { node: leaving.node.clone(), by })
        }
        [] if replicas.len() == 2 => successor(seen, replicas).map(Change::Add),
        _ => None,
    }
}

fn successor(seen: Seen<'_>, replicas: &[&Placement]) -> Option<Placement> {
    let status = seen.volume.status.as_ref()?;
    let held: Vec<&Pool> = replicas.iter().filter_map(|placed| seen.pool(&placed.node)).collect();
    let votes = |node: &str| status.placement.iter().any(|it| it.role == ReplicaRole::TieBreaker && it.node == node);
    let open: Vec<Pool> =
        seen.pools.iter().filter(|pool| !seen.leaves(&pool.node) && !votes(&pool.node)).cloned().collect();
    plan_tie_breaker(&held, &open).map(|pool| pool.place(ReplicaRole::TieBreaker))
}

#[cfg(test)]
#[path = "replacement_tests.rs"]
mod tests;

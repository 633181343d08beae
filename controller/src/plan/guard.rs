//! Whether a node may be drained now, as far as storage goes.
//!
//! It may not while it holds the last good copy of a volume that somebody uses; and of nodes that share a volume, one goes at a time.
//!
//! Every node has a guard pod, and a budget that may forbid its eviction. The budget of a node that takes part in a volume in use is
//! closed until somebody asks for the node, by cordoning it, and it is the node's turn: so no two drains that begin at the same
//! moment can both go on, whatever this program has seen by then.
//!
//! ```text
//! not cordoned: closed --cordoned, and nothing stands in the way--> open --guard evicted--> left --uncordoned--> closed
//!                 ^                                                  |
//!                 '--uncordoned, or not used and another's turn------'
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lockstep_api::{MirrorVolume, ReplicaRole};

/// So long a node may leave before another one that waits for it may: `kubectl drain` tries every five seconds.
pub const TURN: Duration = Duration::from_secs(30);

/// What is seen of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Somebody wants it to be empty: it is cordoned.
    pub wanted: bool,
    /// Its guard is there, and was not told to end.
    pub guarded: bool,
    /// Its budget lets the guard go.
    pub open: bool,
    /// Since its budget was opened last, for the sake of those who cordoned it.
    pub turn: Option<Duration>,
}

impl Seen {
    /// Its guard was let go: whoever drains it may switch it off at any moment.
    const fn has_left(&self) -> bool {
        self.wanted && !self.guarded
    }

    /// As far as others are concerned. Whoever may leave counts as away until its budget is seen closed: it may be gone by now.
    const fn is_away(&self) -> bool {
        self.has_left() || self.open
    }

    /// It is cordoned, and may not leave yet.
    #[must_use]
    pub const fn waits(&self) -> bool {
        self.wanted && self.guarded && !self.open
    }
}

/// What one node's guard is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// It may be evicted.
    Open,
    /// It may not.
    Closed {
        /// Why, with the volume.
        reason: String,
    },
}

/// What every node's guard is told. `lost` are nodes that are not there.
#[must_use]
pub fn plan_guards(
    nodes: &BTreeMap<String, Seen>,
    volumes: &[&MirrorVolume],
    lost: &BTreeSet<String>,
) -> BTreeMap<String, Guard> {
    let names = |which: fn(&Seen) -> bool| nodes.iter().filter(move |(_, seen)| which(seen)).map(|(node, _)| node);
    let mut away: BTreeSet<&String> = names(Seen::is_away).chain(lost).collect();
    let mut waiting: Vec<&String> = names(Seen::waits).collect();
    // Who never had a turn comes first, then whose was longest ago.
    waiting.sort_by_key(|node| nodes.get(*node).and_then(|seen| seen.turn).map(Reverse));
    let mut guards: BTreeMap<String, Guard> = BTreeMap::new();
    for (node, seen) in nodes {
        let reason = match seen {
            seen if seen.has_left() || seen.waits() => None,
            seen if seen.wanted => obstacle_of(node, volumes, &away).or_else(|| {
                let over = seen.turn.is_some_and(|turn| turn >= TURN);
                let next = waiting.iter().find(|other| is_in_the_way(node, other, volumes, &away));
                next.filter(|_| over).map(|next| format!("{next} is cordoned too, and it is its turn"))
            }),
            _ => stake(node, volumes).map(|volume| format!("{volume} is in use, and the node is not cordoned")),
        };
        guards.insert(node.clone(), reason.map_or(Guard::Open, |reason| Guard::Closed { reason }));
    }
    for node in waiting {
        let guard = obstacle_of(node, volumes, &away).map_or(Guard::Open, |reason| Guard::Closed { reason });
        if guard == Guard::Open {
            away.insert(node);
        }
        guards.insert(node.clone(), guard);
    }
    guards
}

/// Whether all that keeps `waiting` is that `open` may leave.
fn is_in_the_way(open: &String, waiting: &str, volumes: &[&MirrorVolume], away: &BTreeSet<&String>) -> bool {
    let without: BTreeSet<&String> = away.iter().copied().filter(|node| *node != open).collect();
    obstacle_of(waiting, volumes, away).is_some() && obstacle_of(waiting, volumes, &without).is_none()
}

/// A volume in use that the node takes part in. Those that nobody writes lose nothing: all their replicas are equal and stay so.
fn stake<'a>(node: &str, volumes: &[&'a MirrorVolume]) -> Option<&'a str> {
    let staked = volumes.iter().find(|volume| has_stake(node, volume))?;
    Some(staked.metadata.name.as_deref().unwrap_or_default())
}

fn has_stake(node: &str, volume: &MirrorVolume) -> bool {
    volume.status.as_ref().is_some_and(|status| {
        let role = status.placement.iter().find(|placed| placed.node == node).map(|placed| placed.role);
        !status.writers.is_empty() && matches!(role, Some(ReplicaRole::Replica | ReplicaRole::TieBreaker))
    })
}

fn obstacle_of(node: &str, volumes: &[&MirrorVolume], away: &BTreeSet<&String>) -> Option<String> {
    volumes.iter().filter(|volume| has_stake(node, volume)).find_map(|volume| obstacle(node, volume, away))
}

/// Why a volume that the node takes part in forbids that it leaves now.
fn obstacle(node: &str, volume: &MirrorVolume, away: &BTreeSet<&String>) -> Option<String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let status = volume.status.as_ref()?;
    if let Some(other) = status.placement.iter().find(|placed| placed.node != node && away.contains(&placed.node)) {
        return Some(format!("{name}: {} is away, or may leave at any moment", other.node));
    }
    let is_good = status.in_sync.iter().any(|it| it == node);
    let has_others = status.in_sync.iter().any(|it| it != node && !away.contains(it));
    (is_good && !has_others).then(|| format!("{name}: the last replica that is in sync is here"))
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;

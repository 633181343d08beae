//! The pools as the planner sees them: parsed once from the objects of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use lockstep_api::{MirrorPool, MirrorVolume, Placement, ReplicaRole, is_true};

/// Label of nodes whose value is the zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What of a pool must stay free whatever volumes are promised: room for metadata, which must never fail for want of it.
const KEEP_FREE_BYTES: u64 = 64 << 20;

/// One node with an engine, with or without storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The node's name.
    pub node: String,
    /// Its number in the mirror protocol; 0: it never said.
    pub node_id: u32,
    /// Run of its engine.
    pub incarnation: u64,
    /// Labels of the pool, and of its node where the pool has none of that key.
    pub labels: BTreeMap<String, String>,
    /// Its zone, where known.
    pub zone: Option<String>,
    /// Its engine answers: it can vote and hold parts.
    pub engine: bool,
    /// It has storage, and that is open.
    pub storage: bool,
    /// Nothing new is placed here.
    pub cordoned: bool,
    /// What is here is to be moved elsewhere.
    pub evict: bool,
    /// Bytes of its file system.
    pub capacity: u64,
    /// Bytes of it that are free.
    pub free: u64,
    /// Bytes that volumes here may fill.
    pub reserved: u64,
    /// Votes without data that it casts.
    pub votes: usize,
}

impl Pool {
    /// The size in bytes of the largest replica that may still be placed here.
    ///
    /// Pools are thin: a replica takes what was written. What may be *promised* is `capacity * overcommit` in all, so that with 1.0 volumes
    /// alone never fill a pool; and what is free now bounds a single promise in the same ratio, because a directory may share its file
    /// system with others.
    #[must_use]
    pub fn available(&self, overcommit: f64) -> u64 {
        if !self.engine || !self.storage || self.cordoned || self.evict {
            return 0;
        }
        let promised = stretch(self.capacity.saturating_sub(KEEP_FREE_BYTES), overcommit);
        let now = stretch(self.free.saturating_sub(KEEP_FREE_BYTES), overcommit);
        promised.saturating_sub(self.reserved).min(now)
    }

    /// The part of it that is promised, in thousandths: what spreads volumes evenly over pools of different sizes.
    #[must_use]
    pub fn fill(&self) -> u64 {
        let fill = u128::from(self.reserved) * 1000 / u128::from(self.capacity.max(1));
        u64::try_from(fill).unwrap_or(u64::MAX)
    }

    /// A part of a volume, placed here.
    #[must_use]
    pub fn place(&self, role: ReplicaRole) -> Placement {
        Placement { node: self.node.clone(), node_id: self.node_id, incarnation: self.incarnation, role }
    }

    /// It has all these labels.
    #[must_use]
    pub fn matches(&self, selector: &BTreeMap<String, String>) -> bool {
        selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

/// `bytes * ratio`, rounded down.
fn stretch(bytes: u64, ratio: f64) -> u64 {
    let thousandths = (ratio * 1000.0).clamp(0.0, 1e9);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    let thousandths = thousandths as u64;
    u64::try_from(u128::from(bytes) * u128::from(thousandths) / 1000).unwrap_or(u64::MAX)
}

/// Bytes of an object, where negative numbers mean nothing.
#[must_use]
pub fn bytes(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// What a volume takes on each of its nodes, whatever is written down of it: also while it grows.
fn size_of(volume: &MirrorVolume) -> u64 {
    let seen = volume.status.as_ref().map_or(0, |status| status.size_bytes);
    bytes(volume.spec.size_bytes.max(seen))
}

/// Puts together what the planner has to know.
///
/// `volumes` are all that exist, those that are being deleted too: their parts take room until they are gone.
#[must_use]
pub fn parse_pools<'a>(
    pools: impl IntoIterator<Item = &'a MirrorPool>,
    nodes: impl IntoIterator<Item = &'a Node>,
    volumes: impl IntoIterator<Item = &'a MirrorVolume>,
) -> Vec<Pool> {
    let mut reserved: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for volume in volumes {
        for placed in volume.status.iter().flat_map(|status| &status.placement) {
            let (bytes, votes) = reserved.entry(&placed.node).or_default();
            match placed.role {
                ReplicaRole::Replica => *bytes = bytes.saturating_add(size_of(volume)),
                ReplicaRole::TieBreaker => *votes += 1,
                ReplicaRole::Attachment => {}
            }
        }
    }
    let nodes: BTreeMap<String, &Node> = nodes.into_iter().map(|node| (node.name_any(), node)).collect();
    let mut parsed: Vec<Pool> = pools
        .into_iter()
        .map(|pool| parse_pool(pool, nodes.get(&pool.spec.node_name).copied(), reserved.get(&*pool.spec.node_name)))
        .collect();
    parsed.sort_by(|a, b| a.node.cmp(&b.node));
    parsed
}

fn parse_pool(pool: &MirrorPool, node: Option<&Node>, reserved: Option<&(u64, usize)>) -> Pool {
    let status = pool.status.clone().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = node.map(|node| node.labels().clone()).unwrap_or_default();
    let zone = labels.get(ZONE_LABEL).cloned();
    labels.extend(pool.labels().clone());
    let leaving = pool.metadata.deletion_timestamp.is_some();
    // What it says is of another spec: its storage may be another by now.
    let behind = status.observed_generation.is_some_and(|seen| pool.metadata.generation.is_some_and(|now| seen < now));
    let engine = is_true(&status.conditions, "EngineReady") && status.node_id != 0 && status.incarnation != 0;
    let (reserved, votes) = reserved.copied().unwrap_or_default();
    Pool {
        node: pool.spec.node_name.clone(),
        node_id: status.node_id,
        incarnation: status.incarnation,
        labels,
        zone,
        // A node that was deleted may still have an object of ours.
        engine: engine && node.is_some() && !leaving,
        storage: pool.spec.storage.is_some() && is_true(&status.conditions, "Ready"),
        cordoned: pool.spec.cordoned || leaving || behind,
        evict: pool.spec.evict,
        capacity: bytes(status.capacity_bytes),
        free: bytes(status.free_bytes),
        reserved,
        votes,
    }
}

/// Names that occur twice or more among the nodes' numbers: nothing may be placed on these.
#[must_use]
pub fn same_numbers(pools: &[Pool]) -> BTreeSet<u32> {
    let mut seen = BTreeSet::new();
    pools.iter().filter(|pool| pool.node_id != 0 && !seen.insert(pool.node_id)).map(|pool| pool.node_id).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_new_is_placed_in_a_pool_that_its_node_has_not_seen_yet() {
        let cordoned = |seen: i64| {
            let pool: MirrorPool = serde_json::from_value(json!({
                "apiVersion": "lockstep.storage/v1alpha1", "kind": "MirrorPool", "metadata": { "name": "a", "generation": 2 },
                "spec": { "nodeName": "a", "storage": { "directory": "/other" } }, "status": { "observedGeneration": seen },
            }))
            .expect("a pool");
            parse_pools([&pool], [], [])[0].cordoned
        };
        assert_eq!((cordoned(1), cordoned(2)), (true, false));
    }
}

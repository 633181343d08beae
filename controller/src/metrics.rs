//! What Prometheus is told: states of volumes and pools as they were seen last, and what this process did.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_api::{VolumeState, is_true};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::cluster::Cluster;

/// What this process did. All counts rise.
#[derive(Debug, Default)]
pub struct Counts {
    /// It leads.
    pub leading: AtomicBool,
    /// Objects that could not be reconciled; each is tried again.
    pub failed_reconciles: AtomicU64,
    /// Nodes declared dead.
    pub dead_nodes: AtomicU64,
    /// Pods moved away from lost nodes.
    pub moved_pods: AtomicU64,
}

impl Counts {
    pub(crate) fn rise(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfNode {
    node: String,
}

/// Every state, so that a count of none is told too.
const STATES: [VolumeState; 5] = [
    VolumeState::Creating,
    VolumeState::UpToDate,
    VolumeState::Degraded,
    VolumeState::Suspended,
    VolumeState::Deleting,
];

/// The text of one scrape.
#[must_use]
pub fn text(cluster: &Cluster, counts: &Counts) -> String {
    let mut registry = Registry::with_prefix("lockstep_controller");
    let leading = Gauge::<i64>::default();
    leading.set(i64::from(counts.leading.load(Ordering::Relaxed)));
    registry.register("leading", "Whether this replica of the controller leads", leading);
    for (name, help, count) in [
        ("failed_reconciles", "Objects that could not be reconciled and were tried again", &counts.failed_reconciles),
        ("dead_nodes", "Nodes whose Lease was silent and whose engine no member heard", &counts.dead_nodes),
        ("moved_pods", "Pods deleted or evicted because their node's storage was lost", &counts.moved_pods),
    ] {
        let counter = Counter::<u64>::default();
        counter.inc_by(count.load(Ordering::Relaxed));
        registry.register(name, help, counter);
    }
    register_volumes(&mut registry, cluster);
    register_pools(&mut registry, cluster);
    let mut text = String::new();
    // Writing into memory does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn register_volumes(registry: &mut Registry, cluster: &Cluster) {
    let volumes = Family::<State, Gauge>::default();
    let mut counted: BTreeMap<String, i64> = STATES.iter().map(|state| (format!("{state:?}"), 0)).collect();
    let mut dirty = 0_i64;
    for volume in cluster.volumes.state() {
        let status = volume.status.clone().unwrap_or_default();
        *counted.entry(format!("{:?}", status.state)).or_default() += 1;
        dirty = dirty.saturating_add(status.dirty_bytes);
    }
    for (state, count) in counted {
        volumes.get_or_create(&State { state }).set(count);
    }
    registry.register("volumes", "Volumes by state", volumes);
    let gauge = Gauge::<i64>::default();
    gauge.set(dirty);
    registry.register("dirty_bytes", "Bytes that some replica lacks, of all volumes", gauge);
}

fn register_pools(registry: &mut Registry, cluster: &Cluster) {
    let (capacity, free) = (Family::<OfNode, Gauge>::default(), Family::<OfNode, Gauge>::default());
    let (reserved, ready) = (Family::<OfNode, Gauge>::default(), Family::<OfNode, Gauge>::default());
    for pool in cluster.pools.state() {
        let of = OfNode { node: pool.spec.node_name.clone() };
        let status = pool.status.clone().unwrap_or_default();
        capacity.get_or_create(&of).set(status.capacity_bytes);
        free.get_or_create(&of).set(status.free_bytes);
        ready.get_or_create(&of).set(i64::from(is_true(&status.conditions, "EngineReady")));
    }
    for pool in cluster.plan_pools(&BTreeMap::new()) {
        reserved.get_or_create(&OfNode { node: pool.node }).set(i64::try_from(pool.reserved).unwrap_or(i64::MAX));
    }
    registry.register("pool_capacity_bytes", "Bytes of a node's pool", capacity);
    registry.register("pool_free_bytes", "Bytes of a node's pool that are free", free);
    registry.register("pool_promised_bytes", "Bytes that volumes may fill of a node's pool", reserved);
    registry.register("engine_ready", "Whether a node's engine answers its agent", ready);
}

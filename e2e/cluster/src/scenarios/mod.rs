//! What is tried, a function each.

mod basics;
mod control_plane;
mod deletions;
mod fail_over;
mod features;
mod moves;

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cluster::Cluster;
use crate::collector::Collector;

pub use fail_over::{Loss, lose_node};

/// What a scenario works with.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// Who counts what writers were told is safe.
    pub collector: Collector,
    /// A namespace of its own.
    pub namespace: String,
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// Part of the short run.
    pub smoke: bool,
    run: fn(&Stage) -> Result<()>,
}

const fn scenario(name: &'static str, run: fn(&Stage) -> Result<()>) -> Scenario {
    Scenario { name, smoke: false, run }
}

const fn smoke(name: &'static str, run: fn(&Stage) -> Result<()>) -> Scenario {
    Scenario { name, smoke: true, run }
}

/// All of them, in the order in which they run.
pub const ALL: &[Scenario] = &[
    smoke("ext4-claim-in-pod", basics::ext4_claim_in_pod),
    scenario("xfs-claim-in-pod", basics::xfs_claim_in_pod),
    scenario("raw-block", basics::raw_block),
    scenario("two-pods-write-one-block-claim", basics::two_pods_write_one_block_claim),
    scenario("multi-node-file-system-is-refused", basics::multi_node_file_system_is_refused),
    scenario("expansion-online", basics::expansion_online),
    scenario("immediate-binding", features::immediate_binding),
    scenario("three-replicas", features::three_replicas),
    scenario("wrong-parameter-is-named", features::wrong_parameter_is_named),
    scenario("claim-larger-than-any-pool", features::claim_larger_than_any_pool),
    scenario("pod-settings", features::pod_settings),
    scenario("generic-ephemeral-volume", features::generic_ephemeral_volume),
    scenario("read-write-once-pod", features::read_write_once_pod),
    scenario("two-pods-of-one-node", features::two_pods_of_one_node),
    scenario("edits-by-hand-are-refused", deletions::edits_by_hand_are_refused),
    scenario("volume-deleted-by-hand-in-use", deletions::volume_deleted_by_hand_in_use),
    scenario("claim-deleted-while-a-node-is-away", deletions::claim_deleted_while_a_node_is_away),
    scenario("moves-between-nodes", moves::moves_between_nodes),
    smoke("node-killed", fail_over::node_killed),
    scenario("node-paused", fail_over::node_paused),
    scenario("both-replicas-nodes-killed", fail_over::both_replicas_nodes_killed),
    scenario("force-deleted-pod-returns-to-its-node", fail_over::force_deleted_pod_returns_to_its_node),
    scenario("engine-killed-under-writer", moves::engine_killed_under_writer),
    scenario("engine-pod-deleted-under-writer", control_plane::engine_pod_deleted_under_writer),
    scenario("peers-engine-stopped-and-killed", control_plane::peers_engine_stopped_and_killed),
    scenario("plugin-and-kubelet-restarted", control_plane::plugin_and_kubelet_restarted),
    scenario("api-server-away", control_plane::api_server_away),
    scenario("cut-between-two-nodes", control_plane::cut_between_two_nodes),
    scenario("api-cut-for-the-writers-node", control_plane::api_cut_for_the_writers_node),
    scenario("mounted-and-unmounted-often", features::mounted_and_unmounted_often),
    scenario("fifty-claims-at-once", features::fifty_claims_at_once),
];

/// How long what a scenario made may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(120);

impl Scenario {
    /// Runs it in a namespace of its own, and checks that nothing of it is left.
    ///
    /// # Errors
    /// What went wrong, with events.
    pub fn run(&self, cluster: &Cluster, collector: &Collector) -> Result<()> {
        let namespace = format!("e2e-{}", self.name);
        cluster.ensure_namespace(&namespace)?;
        let stage = Stage { cluster: cluster.clone(), collector: collector.clone(), namespace: namespace.clone() };
        (self.run)(&stage).with_context(|| cluster.events(&namespace))?;
        cluster.delete_namespace(&namespace, GONE_WITHIN)?;
        crate::wait::until_true(GONE_WITHIN, "no volume is left", || Ok(cluster.list("mirrorvolume", "")?.is_empty()))
    }
}

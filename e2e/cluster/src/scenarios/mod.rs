//! What is tried, a function each.

mod basics;
pub(crate) mod control_plane;
mod deletions;
mod fail_over;
pub(crate) mod features;
mod maintenance;
mod moves;
mod pools;
mod replays;

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
    scenario("three-pods-write-one-block-claim", basics::three_pods_write_one_block_claim),
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
    scenario("attributes-class", features::attributes_class),
    scenario("discard-gives-space-back", features::discard_gives_space_back),
    scenario("pool-full-under-a-thin-volume", pools::pool_full_under_a_thin_volume),
    scenario("disk-replaced-under-a-writer", pools::disk_replaced_under_a_writer),
    scenario("edits-by-hand-are-refused", deletions::edits_by_hand_are_refused),
    scenario("volume-deleted-by-hand-in-use", deletions::volume_deleted_by_hand_in_use),
    scenario("claim-deleted-while-a-node-is-away", deletions::claim_deleted_while_a_node_is_away),
    scenario("retained-volume-deleted-while-a-node-is-away", deletions::retained_volume_deleted_while_a_node_is_away),
    scenario("namespace-deleted-while-a-node-is-away", deletions::namespace_deleted_while_a_node_is_away),
    scenario("moves-between-nodes", moves::moves_between_nodes),
    smoke("node-killed", fail_over::node_killed),
    scenario("node-paused", fail_over::node_paused),
    scenario("both-replicas-nodes-killed", fail_over::both_replicas_nodes_killed),
    scenario("leaders-node-killed", fail_over::leaders_node_killed),
    scenario("provisioners-node-killed", fail_over::provisioners_node_killed),
    scenario("node-killed-with-lease-arbiter", fail_over::node_killed_with_lease_arbiter),
    scenario("api-servers-node-killed", fail_over::api_servers_node_killed),
    scenario("all-nodes-off-and-on", fail_over::all_nodes_off_and_on),
    scenario("node-re-added-with-empty-disks", fail_over::node_re_added_with_empty_disks),
    scenario("force-deleted-pod-returns-to-its-node", fail_over::force_deleted_pod_returns_to_its_node),
    scenario("engine-killed-under-writer", moves::engine_killed_under_writer),
    scenario("engine-pod-deleted-under-writer", control_plane::engine_pod_deleted_under_writer),
    scenario("peers-engine-stopped-and-killed", control_plane::peers_engine_stopped_and_killed),
    scenario("plugin-and-kubelet-restarted", control_plane::plugin_and_kubelet_restarted),
    scenario("plugin-killed-at-each-csi-step", replays::plugin_killed_at_each_csi_step),
    scenario("api-server-away", control_plane::api_server_away),
    scenario("cut-between-two-nodes", control_plane::cut_between_two_nodes),
    scenario("api-cut-for-the-writers-node", control_plane::api_cut_for_the_writers_node),
    scenario("mirror-network-cut", control_plane::mirror_network_cut),
    scenario("configuration-lease-deleted", control_plane::configuration_lease_deleted),
    scenario("suspended-pod-deleted", control_plane::suspended_pod_deleted),
    scenario("drain-blocked-and-allowed", maintenance::drain_blocked_and_allowed),
    scenario("two-drains-at-once", maintenance::two_drains_at_once),
    scenario("rolling-drain-and-restart", maintenance::rolling_drain_and_restart),
    scenario("engine-upgraded-under-writer", maintenance::engine_upgraded_under_writer),
    scenario("helm-upgrade", maintenance::helm_upgrade),
    scenario("helm-uninstall-is-refused", maintenance::helm_uninstall_is_refused),
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
        on_stage(cluster, collector, self.name, GONE_WITHIN, self.run)
    }
}

/// Runs `body` in a namespace of its own, and waits until nothing of it is left.
///
/// # Errors
/// Those of `body`, with events; or something is left after `gone_within`.
pub(crate) fn on_stage<T>(
    cluster: &Cluster,
    collector: &Collector,
    name: &str,
    gone_within: Duration,
    body: impl FnOnce(&Stage) -> Result<T>,
) -> Result<T> {
    let namespace = format!("e2e-{name}");
    // What an earlier run left.
    cluster.delete_namespace(&namespace, gone_within)?;
    cluster.ensure_namespace(&namespace)?;
    let stage = Stage { cluster: cluster.clone(), collector: collector.clone(), namespace: namespace.clone() };
    let result = body(&stage).with_context(|| cluster.seen(&namespace))?;
    cluster.delete_namespace(&namespace, gone_within)?;
    cluster.wait_no_volume(gone_within)?;
    Ok(result)
}

//! What is deleted leaves nothing behind, also while a node is away; what is in use is not deleted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::Stage;
use super::basics::RUNS_WITHIN;
use super::control_plane::{check_undisturbed, start_writer};
use crate::nodes;
use crate::wait::until_true;
use crate::workload::{Claim, Pod};

pub(super) fn claim_deleted_while_a_node_is_away(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data");
    cluster.apply(&[claim.object(namespace), Pod::idle("pod", &claim).object(cluster, namespace)])?;
    let node = cluster.wait_running(namespace, "pod", RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, "data")?;
    let replicas = cluster.replica_nodes(&volume)?;
    let peer = replicas.iter().find(|replica| **replica != node).context("a peer")?.clone();
    cluster.kubectl(&["delete", "pod", "-n", namespace, "pod", "--wait=true", "--timeout=60s"])?;
    nodes::kill_node(&peer)?;
    let deleted = (|| {
        cluster.kubectl(&["delete", "pvc", "-n", namespace, "data", "--wait=false"])?;
        cluster.wait_gone("pvc", namespace, "data", RUNS_WITHIN)?;
        until_true(RUNS_WITHIN, "nothing of the volume is left on the node that is there", || {
            Ok(nodes::leftovers(&node, &volume)?.trim().is_empty())
        })
    })();
    nodes::start_node(&peer)?;
    deleted?;
    nodes::wait_node_ready(cluster, &peer, true, Duration::from_secs(180))?;
    until_true(Duration::from_secs(180), "nothing of the volume is left on the node that came back", || {
        Ok(nodes::leftovers(&peer, &volume)?.trim().is_empty() && cluster.get("mirrorvolume", "", &volume)?.is_none())
    })
    .with_context(|| nodes::leftovers(&peer, &volume).unwrap_or_default())
}

pub(super) fn volume_deleted_by_hand_in_use(stage: &Stage) -> Result<()> {
    let writer = "by-hand";
    let (_, volume) = start_writer(stage, writer)?;
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    cluster.kubectl(&["delete", "mirrorvolume", &volume, "--wait=false"])?;
    until_true(RUNS_WITHIN, "a condition says why it is not deleted", || {
        let object = cluster.get("mirrorvolume", "", &volume)?.context("the finalizer holds it")?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|one| one["type"] == "DeletionBlocked" && one["status"] == "True"))
    })?;
    check_undisturbed(stage, writer)?;
    cluster.kubectl(&["delete", "pod", "-n", namespace, writer, "--wait=true", "--timeout=60s"])?;
    cluster.wait_gone("mirrorvolume", "", &volume, RUNS_WITHIN)
}

pub(super) fn edits_by_hand_are_refused(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data");
    cluster.apply(&[claim.object(namespace), Pod::idle("pod", &claim).object(cluster, namespace)])?;
    cluster.wait_running(namespace, "pod", RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, "data")?;
    for (change, word) in [
        (json!({"spec": {"sizeBytes": 4096}}), "shrink"),
        (json!({"spec": {"replicas": 7}}), "replicas is 2 or 3"),
        (json!({"spec": {"access": "MultiWriter"}}), "access cannot be changed"),
    ] {
        let patch = change.to_string();
        let output = cluster.try_kubectl(&["patch", "mirrorvolume", &volume, "--type=merge", "-p", &patch])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(word), "{patch}: {said}");
    }
    Ok(())
}

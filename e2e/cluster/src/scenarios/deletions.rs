//! What is deleted leaves nothing behind, also while a node is away; what is in use is not deleted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::Stage;
use super::basics::RUNS_WITHIN;
use super::control_plane::{check_undisturbed, other_replica, start_writer};
use super::fail_over::BACK_WITHIN;
use super::features::{class, drop_class};
use crate::cluster::has_condition;
use crate::nodes;
use crate::wait::until_true;
use crate::workload::{Claim, Pod};

pub(super) fn claim_deleted_while_a_node_is_away(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data");
    cluster.apply(&[claim.object(namespace), Pod::idle("pod", &claim).object(cluster, namespace)])?;
    let node = cluster.wait_running(namespace, "pod", RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, "data")?;
    let peer = other_replica(stage, &volume, &node)?;
    cluster.delete_pod(namespace, "pod")?;
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
    wait_nothing_left(stage, &volume, &[&peer])
}

/// Its persistent volume outlives its claim, and is deleted by hand while a replica's node is away.
pub(super) fn retained_volume_deleted_while_a_node_is_away(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let class = class(stage, |class| class["reclaimPolicy"] = "Retain".into())?;
    let claim = Claim::new("data").class(&class);
    cluster.apply(&[claim.object(namespace), Pod::idle("pod", &claim).object(cluster, namespace)])?;
    let node = cluster.wait_running(namespace, "pod", RUNS_WITHIN)?;
    let persistent = cluster.wait_bound(namespace, "data", RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, "data")?;
    let peer = other_replica(stage, &volume, &node)?;
    cluster.delete_pod(namespace, "pod")?;
    cluster.kubectl(&["delete", "pvc", "-n", namespace, "data", "--wait=true", "--timeout=60s"])?;
    ensure!(cluster.get("mirrorvolume", "", &volume)?.is_some(), "a retained volume was deleted with its claim");
    nodes::kill_node(&peer)?;
    let deleted = (|| {
        let patch = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}).to_string();
        cluster.kubectl(&["patch", "pv", &persistent, "-p", &patch])?;
        cluster.wait_gone("pv", "", &persistent, RUNS_WITHIN)
    })();
    nodes::start_node(&peer)?;
    deleted?;
    wait_nothing_left(stage, &volume, &[&node, &peer])?;
    drop_class(stage)
}

/// Everything in it at once, the writer too.
pub(super) fn namespace_deleted_while_a_node_is_away(stage: &Stage) -> Result<()> {
    let writer = "namespace-deleted";
    let (node, volume) = start_writer(stage, writer)?;
    let peer = other_replica(stage, &volume, &node)?;
    nodes::kill_node(&peer)?;
    let deleted = stage.cluster.delete_namespace(&stage.namespace, Duration::from_secs(180));
    nodes::start_node(&peer)?;
    deleted?;
    wait_nothing_left(stage, &volume, &[&node, &peer])
}

pub(super) fn wait_nothing_left(stage: &Stage, volume: &str, on: &[&str]) -> Result<()> {
    let cluster = &stage.cluster;
    for node in on {
        nodes::wait_node_ready(cluster, node, true, BACK_WITHIN)?;
        until_true(BACK_WITHIN, &format!("nothing of the volume is left on {node}"), || {
            Ok(nodes::leftovers(node, volume)?.trim().is_empty() && cluster.get("mirrorvolume", "", volume)?.is_none())
        })
        .with_context(|| nodes::leftovers(node, volume).unwrap_or_default())?;
    }
    Ok(())
}

pub(super) fn volume_deleted_by_hand_in_use(stage: &Stage) -> Result<()> {
    let writer = "by-hand";
    let (_, volume) = start_writer(stage, writer)?;
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    cluster.kubectl(&["delete", "mirrorvolume", &volume, "--wait=false"])?;
    until_true(RUNS_WITHIN, "a condition says why it is not deleted", || {
        let object = cluster.get("mirrorvolume", "", &volume)?.context("the finalizer holds it")?;
        Ok(has_condition(&object, "DeletionBlocked", "True"))
    })?;
    check_undisturbed(stage, writer)?;
    cluster.delete_pod(namespace, writer)?;
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

//! A pool fills up under volumes that were promised more: pools are thin.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::basics::RUNS_WITHIN;
use super::control_plane::{check_undisturbed, start_writer_as};
use super::fail_over::BACK_WITHIN;
use super::features::{wait_event, with_replicas_on};
use super::{GONE_WITHIN, Stage};
use crate::cluster::{Cluster, condition, has_condition, text};
use crate::nodes::docker;
use crate::wait::{until, until_true};
use crate::workload::{Claim, Pod};

/// A pool on a file system of its own, below the state directory: what is mounted there, agent and engine see.
const SMALL_POOL: &str = "/var/lib/lockstep/small-pool";

/// The file that holds it. It has holes: this machine's disk gives it no more than what the pods write.
const SMALL_FILE: &str = "/var/lib/small-pool.img";

/// Room for both claims, for metadata, and for what must be left free of a pool in which something is placed.
const SMALL_BYTES: u64 = 2 << 30;

/// What is left free of it...
const LEFT_KIB: u32 = 16 << 10;

/// ...and what a pod then writes.
const WRITTEN_MIB: u32 = 64;

/// The pool of one node is filled from outside. A pod there and a pod on the node of the other replica write what it has no room for: their
/// replicas there leave, and the pods do not notice. With room again the replicas come back with the next run of the engine.
pub(super) fn pool_full_under_a_thin_volume(stage: &Stage) -> Result<()> {
    let cluster = &stage.cluster;
    let pair: Vec<String> = cluster.workers()?.into_iter().take(2).collect();
    let [other, full] = pair.as_slice() else { anyhow::bail!("too few workers: {pair:?}") };
    let storage = cluster.get("mirrorpool", "", full)?.context("the node's pool")?["spec"]["storage"].clone();
    let make = format!(
        "mkdir {SMALL_POOL} && truncate -s {SMALL_BYTES} {SMALL_FILE} && mkfs.ext4 -q -m 0 {SMALL_FILE} &&
        mount -o loop {SMALL_FILE} {SMALL_POOL}"
    );
    docker(&["exec", full, "sh", "-c", &make])?;
    let outlived = replace_storage(cluster, full, &json!({"directory": SMALL_POOL}))
        .and_then(|()| with_replicas_on(stage, &pair, "auto", |class| outlive_full_pool(stage, class, full, other)))
        .with_context(|| cluster.seen(&stage.namespace));
    let restored = (|| {
        cluster.delete_namespace(&stage.namespace, GONE_WITHIN)?;
        cluster.wait_no_volume(GONE_WITHIN)?;
        replace_storage(cluster, full, &storage)?;
        let remove =
            format!("{{ ! mountpoint -q {SMALL_POOL} || umount {SMALL_POOL}; }} && rm -d {SMALL_POOL} {SMALL_FILE}");
        until(RUNS_WITHIN, "the small pool is taken away", || docker(&["exec", full, "sh", "-c", &remove]).map(Some))?;
        Ok(())
    })();
    outlived?;
    restored
}

fn outlive_full_pool(stage: &Stage, class: &str, full: &str, other: &str) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let pod = |writer: &str, claim: &Claim, node: &str| Pod::recorder(writer, claim, &stage.collector).on(node);
    let mut writers = Vec::new();
    for (writer, node, moves_to) in [("at-the-full-pool", full, other), ("at-the-other-pool", other, full)] {
        let claim = Claim::new(writer).class(class).size("512Mi");
        let (_, volume) = start_writer_as(stage, &pod(writer, &claim, node), &claim)?;
        writers.push((writer, claim, volume, moves_to));
    }
    fill_pool(cluster, full)?;
    let mut sums = Vec::new();
    for (writer, _, volume, _) in &writers {
        sums.push(cluster.write_file(namespace, writer, WRITTEN_MIB)?);
        cluster.wait_state(volume, "Degraded", RUNS_WITHIN)?;
        wait_failed(cluster, volume, full)?;
        check_undisturbed(stage, writer)?;
    }
    wait_event(stage, "the pool is full")?;
    docker(&["exec", full, "rm", &format!("{SMALL_POOL}/filler")])?;
    cluster.delete_pod_of("engine", full)?;
    for (writer, _, volume, _) in &writers {
        cluster.wait_in_sync(volume, BACK_WITHIN)?;
        check_undisturbed(stage, writer)?;
    }
    // Each volume is read by the other node: one of them from the replica that came back.
    for ((writer, claim, _, moves_to), sum) in writers.iter().zip(sums) {
        cluster.delete_pod(namespace, writer)?;
        cluster.apply(&[pod(writer, claim, moves_to).object(cluster, namespace)])?;
        stage.collector.wait_writing(writer, 1, RUNS_WITHIN)?;
        stage.collector.check_nothing_lost(writer)?;
        let again = cluster.file_sum(namespace, writer)?;
        ensure!(sum == again, "the file of {writer} changed: {sum}, then on {moves_to} {again}");
    }
    Ok(())
}

/// Leaves less of the small pool than what a pod writes. Nothing of this is written to a disk.
fn fill_pool(cluster: &Cluster, node: &str) -> Result<()> {
    let free = format!("$(df -kP {SMALL_POOL} | awk 'END {{print $4}}')");
    let fill = format!("mountpoint -q {SMALL_POOL} && fallocate -l $(({free} - {LEFT_KIB}))K {SMALL_POOL}/filler");
    docker(&["exec", node, "sh", "-ec", &fill])?;
    let mut last = Value::Null;
    until_true(RUNS_WITHIN, &format!("the pool of {node} shows that it is full"), || {
        last = cluster.get("mirrorpool", "", node)?.context("the node's pool")?["status"].take();
        Ok(last["freeBytes"].as_u64().is_some_and(|bytes| bytes < SMALL_BYTES / 10))
    })
    .with_context(|| format!("its status: {last}"))
}

fn wait_failed(cluster: &Cluster, volume: &str, node: &str) -> Result<()> {
    let mut last = Value::Null;
    until_true(RUNS_WITHIN, &format!("the replica of {volume} on {node} says that the pool is full"), || {
        let part = cluster.get("mirrorreplica", "", &format!("{volume}.{node}"))?;
        last = part.context("the replica's object")?["status"].take();
        Ok(last["disk"] == "Failed" && text(&last["message"]) == "the pool is full")
    })
    .with_context(|| format!("its status: {last}"))
}

/// Gives a node, on which nothing is, other storage, as an administrator does.
fn replace_storage(cluster: &Cluster, node: &str, storage: &Value) -> Result<()> {
    let pool = || cluster.get("mirrorpool", "", node)?.context("the node's pool");
    if pool()?["spec"]["storage"] == *storage {
        return Ok(());
    }
    for spec in [json!({"evict": true}), json!({"evict": false, "storage": storage})] {
        let patch = json!({"spec": spec}).to_string();
        cluster.kubectl(&["patch", "mirrorpool", node, "--type=merge", "-p", &patch])?;
    }
    until_true(RUNS_WITHIN, &format!("the pool of {node} waits for another run of the engine"), || {
        Ok(condition(&pool()?, "Ready").is_some_and(|ready| ready["reason"] == "OtherPool"))
    })?;
    cluster.delete_pod_of("engine", node)?;
    until_true(RUNS_WITHIN, &format!("{node} has the pool {storage}"), || {
        let pool = pool()?;
        Ok(["Ready", "EngineReady"].iter().all(|kind| has_condition(&pool, kind, "True")))
    })
}

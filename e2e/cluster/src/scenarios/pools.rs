//! Pools that fill up under volumes that were promised more, for they are thin, and pools that get another disk.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::basics::RUNS_WITHIN;
use super::control_plane::{check_undisturbed, other_replica, start_writer_as};
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

/// Room for what a scenario claims, for metadata, and for what must be left free of a pool in which something is placed.
const SMALL_BYTES: u64 = 2 << 30;

/// What is left free of it...
const LEFT_KIB: u32 = 16 << 10;

/// ...and what a pod then writes.
const WRITTEN_MIB: u32 = 64;

/// A disk that a node gets. Of this machine's disk it has what is written to it.
const NEW_DISK: &str = "/var/lib/new-disk.img";

/// Where the agent mounts a pool that is a device.
const DEVICE_POOL: &str = "/var/lib/lockstep/pool";

/// The pool of one node is filled from outside. A pod there and a pod on the node of the other replica write what it has no room for: their
/// replicas there leave, and the pods do not notice. With room again the replicas come back with the next run of the engine.
pub(super) fn pool_full_under_a_thin_volume(stage: &Stage) -> Result<()> {
    let cluster = &stage.cluster;
    let pair: Vec<String> = cluster.workers()?.into_iter().take(2).collect();
    let [other, full] = pair.as_slice() else { anyhow::bail!("too few workers: {pair:?}") };
    let storage = storage_of(cluster, full)?;
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
        last = pool_of(cluster, node)?["status"].take();
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

/// The disk below a replica is exchanged for a new one while a pod writes: the replica goes to the third node, the new disk is taken, and gets the
/// replica of that node when it is to be empty in its turn. From the new disk the pod then reads all that it wrote.
pub(super) fn disk_replaced_under_a_writer(stage: &Stage) -> Result<()> {
    let (cluster, namespace, writer) = (&stage.cluster, stage.namespace.as_str(), "disk-replaced");
    let claim = Claim::new("data");
    let pod = Pod::recorder(writer, &claim, &stage.collector);
    let (node, volume) = start_writer_as(stage, &pod, &claim)?;
    let renewed = other_replica(stage, &volume, &node)?;
    let workers = cluster.workers()?;
    let third = workers.iter().find(|worker| **worker != node && **worker != renewed).context("a third worker")?;
    let storage = storage_of(cluster, &renewed)?;
    let replaced = (|| {
        let sum = cluster.write_file(namespace, writer, WRITTEN_MIB)?;
        evict(cluster, &renewed, &volume, third)?;
        let make = format!("truncate -s {SMALL_BYTES} {NEW_DISK} && losetup -f --show {NEW_DISK}");
        let device = docker(&["exec", &renewed, "sh", "-ec", &make])?;
        replace_storage(cluster, &renewed, &json!({"device": device.trim()}))?;
        let pool = pool_of(cluster, &renewed)?;
        let capacity = pool["status"]["capacityBytes"].as_u64();
        ensure!(capacity.is_some_and(|bytes| bytes <= SMALL_BYTES), "not the size of the new disk: {pool}");
        evict(cluster, third, &volume, &renewed)?;
        check_undisturbed(stage, writer)?;
        cluster.delete_pod(namespace, writer)?;
        cluster.apply(&[pod.on(&renewed).object(cluster, namespace)])?;
        stage.collector.wait_writing(writer, 1, RUNS_WITHIN)?;
        stage.collector.check_nothing_lost(writer)?;
        let again = cluster.file_sum(namespace, writer)?;
        ensure!(sum == again, "the file changed: {sum}, then from the new disk {again}");
        Ok(())
    })()
    .with_context(|| cluster.seen(namespace));
    let restored = (|| {
        cluster.delete_namespace(namespace, GONE_WITHIN)?;
        cluster.wait_no_volume(GONE_WITHIN)?;
        patch_pool(cluster, third, &json!({"evict": false}))?;
        if storage_of(cluster, &renewed)? != storage {
            set_storage(cluster, &renewed, &storage)?;
            // The device is mounted where the directory is, and does not pass for it.
            wait_not_ready(cluster, &renewed, "NotOpen")?;
            docker(&["exec", &renewed, "umount", DEVICE_POOL])?;
            take_other_pool(cluster, &renewed)?;
        }
        let remove = format!(
            "for device in $(losetup -n -O NAME -j {NEW_DISK}); do losetup -d $device; done && rm -f {NEW_DISK}"
        );
        docker(&["exec", &renewed, "sh", "-ec", &remove]).map(drop)
    })();
    replaced?;
    restored
}

/// Moves a volume's replica from a node's pool, as an administrator does, and waits until it is on `to`.
fn evict(cluster: &Cluster, from: &str, volume: &str, to: &str) -> Result<()> {
    patch_pool(cluster, from, &json!({"evict": true}))?;
    let mut last = Vec::new();
    until_true(BACK_WITHIN, &format!("the replica of {volume} goes from {from} to {to}"), || {
        last = cluster.replica_nodes(volume)?;
        Ok(last.iter().any(|node| node == to) && !last.iter().any(|node| node == from))
    })
    .with_context(|| format!("its replicas: {last:?}"))?;
    cluster.wait_in_sync(volume, BACK_WITHIN)
}

fn pool_of(cluster: &Cluster, node: &str) -> Result<Value> {
    cluster.get("mirrorpool", "", node)?.with_context(|| format!("the pool of {node}"))
}

fn storage_of(cluster: &Cluster, node: &str) -> Result<Value> {
    Ok(pool_of(cluster, node)?["spec"]["storage"].take())
}

fn patch_pool(cluster: &Cluster, node: &str, spec: &Value) -> Result<()> {
    let patch = json!({"spec": spec}).to_string();
    cluster.kubectl(&["patch", "mirrorpool", node, "--type=merge", "-p", &patch]).map(drop)
}

/// Gives a node, on which nothing is, other storage, as an administrator does.
fn replace_storage(cluster: &Cluster, node: &str, storage: &Value) -> Result<()> {
    if storage_of(cluster, node)? == *storage {
        return Ok(());
    }
    set_storage(cluster, node, storage)?;
    take_other_pool(cluster, node)
}

fn set_storage(cluster: &Cluster, node: &str, storage: &Value) -> Result<()> {
    // One kind of storage may be set: the patch takes the other away.
    let mut new = storage.clone();
    new[if storage["device"].is_null() { "device" } else { "directory" }] = Value::Null;
    patch_pool(cluster, node, &json!({"evict": true}))?;
    patch_pool(cluster, node, &json!({"evict": false, "storage": new}))
}

/// An engine takes one pool in its life.
fn take_other_pool(cluster: &Cluster, node: &str) -> Result<()> {
    wait_not_ready(cluster, node, "OtherPool")?;
    cluster.delete_pod_of("engine", node)?;
    until_true(RUNS_WITHIN, &format!("{node} has its new pool"), || {
        let pool = pool_of(cluster, node)?;
        Ok(["Ready", "EngineReady"].iter().all(|kind| has_condition(&pool, kind, "True")))
    })
}

fn wait_not_ready(cluster: &Cluster, node: &str, reason: &str) -> Result<()> {
    let mut last = Value::Null;
    until_true(RUNS_WITHIN, &format!("the pool of {node} is not ready, with the reason {reason}"), || {
        last = pool_of(cluster, node)?;
        Ok(condition(&last, "Ready").is_some_and(|ready| ready["status"] == "False" && ready["reason"] == reason))
    })
    .with_context(|| format!("it says {}", last["status"]["conditions"]))
}

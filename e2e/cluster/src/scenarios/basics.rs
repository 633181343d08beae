//! A claim and a pod, of each kind.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::Stage;
use super::control_plane::{check_undisturbed, other_replica, start_writer_in};
use super::fail_over::BACK_WITHIN;
use crate::ledger::RING_BYTES;
use crate::nodes;
use crate::wait::until_true;
use crate::workload::{Claim, Pod};

/// A claim's way to a running pod, with all images present: a wide bound, the level is measured elsewhere.
pub(super) const RUNS_WITHIN: Duration = Duration::from_secs(90);

pub(super) fn ext4_claim_in_pod(stage: &Stage) -> Result<()> {
    keeps_data_over_pods(stage, &Claim::new("data"), "ext4")
}

pub(super) fn xfs_claim_in_pod(stage: &Stage) -> Result<()> {
    keeps_data_over_pods(stage, &Claim::new("data").class("lockstep-xfs"), "xfs")
}

fn keeps_data_over_pods(stage: &Stage, claim: &Claim, fs: &str) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let first = Pod::idle("first", claim);
    cluster.apply(&[claim.object(namespace), first.object(cluster, namespace)])?;
    cluster.wait_running(namespace, "first", RUNS_WITHIN)?;
    let mounted = cluster.exec(namespace, "first", "grep ' /data ' /proc/mounts")?;
    ensure!(mounted.contains(&format!(" {fs} ")), "expected {fs}: {mounted}");
    let sum = cluster.write_file(namespace, "first", 32)?;
    cluster.delete_pod(namespace, "first")?;
    cluster.apply(&[Pod::idle("second", claim).object(cluster, namespace)])?;
    cluster.wait_running(namespace, "second", RUNS_WITHIN)?;
    let again = cluster.file_sum(namespace, "second")?;
    ensure!(sum == again, "the file changed: {sum} then {again}");
    Ok(())
}

pub(super) fn raw_block(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data").block();
    cluster.apply(&[claim.object(namespace), Pod::idle("first", &claim).object(cluster, namespace)])?;
    cluster.wait_running(namespace, "first", RUNS_WITHIN)?;
    cluster.exec(namespace, "first", "echo here | dd of=/dev/volume bs=4096 conv=sync,fsync 2>/dev/null")?;
    let size = cluster.exec(
        namespace,
        "first",
        "blockdev --getsize64 /dev/volume || cat /sys/class/block/*/size | head -1",
    )?;
    ensure!(size.trim().parse::<u64>().is_ok_and(|size| size == 1 << 30), "size of the device: {size}");
    cluster.delete_pod(namespace, "first")?;
    cluster.apply(&[Pod::idle("second", &claim).object(cluster, namespace)])?;
    cluster.wait_running(namespace, "second", RUNS_WITHIN)?;
    let read = cluster.exec(namespace, "second", "dd if=/dev/volume bs=4096 count=1 2>/dev/null | head -c 4")?;
    ensure!(read == "here", "read back {read:?}");
    Ok(())
}

/// Three pods on three nodes: each keeps a ledger of its own on the device, all the time; in turns each also writes over the
/// same block what the others then have to read.
pub(super) fn three_pods_write_one_block_claim(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("shared").class("lockstep-rwx-block").block().access("ReadWriteMany");
    let nodes = cluster.workers()?;
    let mut objects = vec![claim.object(namespace)];
    let writers: Vec<String> = (0..nodes.len()).map(|number| format!("shared-{number}")).collect();
    for (number, (name, node)) in (1..).zip(writers.iter().zip(&nodes)) {
        let pod = Pod::recorder(name, &claim, &stage.collector).at_offset(number * RING_BYTES).on(node);
        objects.push(pod.object(cluster, namespace));
    }
    cluster.apply(&objects)?;
    for name in &writers {
        cluster.wait_running(namespace, name, RUNS_WITHIN)?;
        stage.collector.wait_writing(name, 0, RUNS_WITHIN)?;
    }
    for turn in 0..9 {
        let writer = &writers[turn % writers.len()];
        let write =
            format!("printf 'turn-{turn}' | dd of=/dev/volume bs=4096 seek=3 conv=sync,fsync oflag=direct 2>/dev/null");
        cluster.exec(namespace, writer, &write)?;
        for reader in &writers {
            let read = "dd if=/dev/volume bs=4096 skip=3 count=1 iflag=direct 2>/dev/null | head -c 6";
            let seen = cluster.exec(namespace, reader, read)?;
            ensure!(seen == format!("turn-{turn}"), "{reader} read {seen:?} in turn {turn}");
        }
    }
    for (number, name) in (1..).zip(&writers) {
        stage.collector.wait_progress(name, 50, RUNS_WITHIN)?;
        cluster.delete_pod(namespace, name)?;
        // By another pod than the one that wrote it, elsewhere.
        let elsewhere = &nodes[number % nodes.len()];
        let reader = Pod::recorder(name, &claim, &stage.collector).at_offset(number as u64 * RING_BYTES).on(elsewhere);
        cluster.apply(&[reader.object(cluster, namespace)])?;
        stage.collector.wait_writing(name, 1, RUNS_WITHIN)?;
        stage.collector.check_nothing_lost(name)?;
    }
    Ok(())
}

pub(super) fn multi_node_file_system_is_refused(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("shared").access("ReadWriteMany");
    cluster.apply(&[claim.object(namespace), Pod::idle("pod", &claim).object(cluster, namespace)])?;
    until_true(RUNS_WITHIN, "an event says why the claim is refused", || {
        let events = cluster.list("events", namespace)?;
        Ok(events.iter().any(|event| {
            event["involvedObject"]["kind"] == "PersistentVolumeClaim"
                && event["message"].as_str().is_some_and(|text| text.contains("file system"))
        }))
    })
}

/// Of xfs: that of ext4 wants CAP_SYS_RESOURCE over the machine's first user namespace to grow while mounted.
pub(super) fn expansion_online(stage: &Stage) -> Result<()> {
    let writer = "grows";
    let (node, volume) = start_writer_in(stage, writer, Claim::new("data").class("lockstep-xfs"))?;
    expand(stage, writer, "2Gi", 1_800_000)?;
    // And without one of its replicas, which learns of it when it is back.
    let peer = other_replica(stage, &volume, &node)?;
    nodes::kill_node(&peer)?;
    let expanded = expand(stage, writer, "3Gi", 2_800_000);
    nodes::start_node(&peer)?;
    expanded?;
    nodes::wait_node_ready(&stage.cluster, &peer, true, BACK_WITHIN)?;
    stage.cluster.wait_in_sync(&volume, BACK_WITHIN)?;
    check_undisturbed(stage, writer).map(|_| ())
}

fn expand(stage: &Stage, writer: &str, size: &str, least_kib: u64) -> Result<()> {
    ask_for_size(stage, size)?;
    wait_expanded(stage, writer, size, least_kib)
}

/// Wants the claim `data` to have this size.
pub(super) fn ask_for_size(stage: &Stage, size: &str) -> Result<()> {
    let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}}).to_string();
    stage.cluster.kubectl(&["patch", "pvc", "-n", &stage.namespace, "data", "-p", &patch]).map(|_| ())
}

/// Waits until the claim `data` has it, in its writer's eyes too.
pub(super) fn wait_expanded(stage: &Stage, writer: &str, size: &str, least_kib: u64) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    until_true(RUNS_WITHIN, &format!("the claim has {size}"), || {
        Ok(cluster.get("pvc", namespace, "data")?.is_some_and(|claim| claim["status"]["capacity"]["storage"] == size))
    })?;
    let found = cluster.data_size_kib(namespace, writer)?;
    ensure!(found > least_kib, "size of the file system of {size}: {found} KiB");
    stage.collector.wait_progress(writer, 50, RUNS_WITHIN)
}

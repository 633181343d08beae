//! A claim and a pod, of each kind.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::Stage;
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
    let sum = cluster.exec(
        namespace,
        "first",
        "dd if=/dev/urandom of=/data/file bs=1M count=32 conv=fsync 2>/dev/null; sha256sum /data/file | cut -c1-64",
    )?;
    cluster.kubectl(&["delete", "pod", "-n", namespace, "first", "--wait=true", "--timeout=60s"])?;
    cluster.apply(&[Pod::idle("second", claim).object(cluster, namespace)])?;
    cluster.wait_running(namespace, "second", RUNS_WITHIN)?;
    let again = cluster.exec(namespace, "second", "sha256sum /data/file | cut -c1-64")?;
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
    cluster.kubectl(&["delete", "pod", "-n", namespace, "first", "--wait=true", "--timeout=60s"])?;
    cluster.apply(&[Pod::idle("second", &claim).object(cluster, namespace)])?;
    cluster.wait_running(namespace, "second", RUNS_WITHIN)?;
    let read = cluster.exec(namespace, "second", "dd if=/dev/volume bs=4096 count=1 2>/dev/null | head -c 4")?;
    ensure!(read == "here", "read back {read:?}");
    Ok(())
}

pub(super) fn two_pods_write_one_block_claim(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("shared").class("lockstep-rwx-block").block().access("ReadWriteMany");
    let nodes = cluster.workers()?;
    let mut objects = vec![claim.object(namespace)];
    for (name, node) in [("left", &nodes[0]), ("right", &nodes[1])] {
        objects.push(Pod::idle(name, &claim).on(node).object(cluster, namespace));
    }
    cluster.apply(&objects)?;
    for name in ["left", "right"] {
        cluster.wait_running(namespace, name, RUNS_WITHIN)?;
    }
    // In turns, each on top of what the other wrote.
    for turn in 0..6 {
        let (writer, reader) = if turn % 2 == 0 { ("left", "right") } else { ("right", "left") };
        let write =
            format!("printf 'turn-{turn}' | dd of=/dev/volume bs=4096 seek=3 conv=sync,fsync oflag=direct 2>/dev/null");
        cluster.exec(namespace, writer, &write)?;
        let read = "dd if=/dev/volume bs=4096 skip=3 count=1 iflag=direct 2>/dev/null | head -c 6";
        let seen = cluster.exec(namespace, reader, read)?;
        ensure!(seen == format!("turn-{turn}"), "{reader} read {seen:?} in turn {turn}");
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

pub(super) fn expansion_online(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data");
    let pod = Pod::recorder("writer", &claim, &stage.collector);
    cluster.apply(&[claim.object(namespace), pod.object(cluster, namespace)])?;
    cluster.wait_running(namespace, "writer", RUNS_WITHIN)?;
    stage.collector.wait_writing("writer", 0, RUNS_WITHIN)?;
    let patch = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}).to_string();
    cluster.kubectl(&["patch", "pvc", "-n", namespace, "data", "-p", &patch])?;
    until_true(RUNS_WITHIN, "the claim has 2Gi", || {
        Ok(cluster.get("pvc", namespace, "data")?.is_some_and(|claim| claim["status"]["capacity"]["storage"] == "2Gi"))
    })?;
    let kilobytes = cluster.exec(namespace, "writer", "df -k /data | tail -1 | awk '{print $2}'")?;
    ensure!(kilobytes.trim().parse::<u64>().is_ok_and(|size| size > 1_800_000), "size of the file system: {kilobytes}");
    stage.collector.wait_progress("writer", 50, RUNS_WITHIN)?;
    stage.collector.check_nothing_lost("writer")
}

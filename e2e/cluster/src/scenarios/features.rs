//! What Kubernetes offers with volumes, one by one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Stage;
use super::basics::RUNS_WITHIN;
use super::control_plane::{check_undisturbed, start_writer};
use crate::cluster::{has_condition, is_ready};
use crate::nodes::docker;
use crate::wait::until_true;
use crate::workload::{Claim, Pod};

/// A class like the default one, with other settings: classes belong to no namespace, so it bears the scenario's name.
pub(crate) fn class(stage: &Stage, change: impl FnOnce(&mut Value)) -> Result<String> {
    let mut class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": stage.namespace},
        "provisioner": "csi.lockstep.storage", "allowVolumeExpansion": true, "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "parameters": {"replicas": "2", "csi.storage.k8s.io/fstype": "ext4"},
    });
    change(&mut class);
    stage.cluster.kubectl(&["delete", "storageclass", &stage.namespace, "--ignore-not-found"])?;
    stage.cluster.apply(&[class])?;
    Ok(stage.namespace.clone())
}

pub(crate) fn drop_class(stage: &Stage) -> Result<()> {
    stage.cluster.kubectl(&["delete", "storageclass", &stage.namespace]).map(|_| ())
}

/// A class with this arbiter whose volumes have their replicas on these nodes, for as long as `body` runs.
pub(super) fn with_replicas_on(
    stage: &Stage,
    nodes: &[String],
    arbiter: &str,
    body: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let (cluster, label) = (&stage.cluster, format!("{}=yes", stage.namespace));
    for node in nodes {
        cluster.kubectl(&["label", "mirrorpool", node, "--overwrite", &label])?;
    }
    let class = class(stage, |class| {
        class["parameters"]["arbiter"] = arbiter.into();
        class["parameters"]["poolSelector"] = label.into();
    })?;
    let result = body(&class);
    for node in nodes {
        cluster.kubectl(&["label", "mirrorpool", node, &format!("{}-", stage.namespace)])?;
    }
    result?;
    drop_class(stage)
}

pub(super) fn immediate_binding(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let class = class(stage, |class| class["volumeBindingMode"] = "Immediate".into())?;
    let claim = Claim::new("data").class(&class);
    cluster.apply(&[claim.object(namespace)])?;
    cluster.wait_bound(namespace, "data", RUNS_WITHIN)?;
    cluster.apply(&[Pod::idle("pod", &claim).object(cluster, namespace)])?;
    cluster.wait_running(namespace, "pod", RUNS_WITHIN)?;
    drop_class(stage)
}

pub(super) fn three_replicas(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let class = class(stage, |class| class["parameters"]["replicas"] = "3".into())?;
    let claim = Claim::new("data").class(&class);
    let pod = Pod::recorder("three", &claim, &stage.collector);
    cluster.apply(&[claim.object(namespace), pod.object(cluster, namespace)])?;
    cluster.wait_running(namespace, "three", RUNS_WITHIN)?;
    stage.collector.wait_writing("three", 0, RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, "data")?;
    cluster.wait_in_sync(&volume, RUNS_WITHIN)?;
    ensure!(cluster.replica_nodes(&volume)?.len() == 3, "replicas: {:?}", cluster.replica_nodes(&volume)?);
    drop_class(stage)
}

pub(super) fn wrong_parameter_is_named(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let class = class(stage, |class| {
        class["volumeBindingMode"] = "Immediate".into();
        class["parameters"]["replicas"] = "5".into();
    })?;
    cluster.apply(&[Claim::new("data").class(&class).object(namespace)])?;
    wait_event(stage, "replicas")?;
    drop_class(stage)
}

pub(super) fn claim_larger_than_any_pool(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let class = class(stage, |class| class["volumeBindingMode"] = "Immediate".into())?;
    cluster.apply(&[Claim::new("data").class(&class).size("100Ti").object(namespace)])?;
    wait_event(stage, "ResourceExhausted")?;
    drop_class(stage)
}

/// Waits for an event of a claim that contains `part`.
pub(super) fn wait_event(stage: &Stage, part: &str) -> Result<()> {
    until_true(RUNS_WITHIN, &format!("an event of a claim says {part:?}"), || {
        let events = stage.cluster.list("events", &stage.namespace)?;
        Ok(events.iter().any(|event| {
            event["involvedObject"]["kind"] == "PersistentVolumeClaim"
                && event["message"].as_str().is_some_and(|text| text.contains(part))
        }))
    })
}

pub(super) fn pod_settings(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data");
    let mut pod = Pod::idle("grouped", &claim).object(cluster, namespace);
    pod["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000});
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "volume", "mountPath": "/data", "subPath": "below/here"},
    ]);
    cluster.apply(&[claim.object(namespace), pod])?;
    cluster.wait_running(namespace, "grouped", RUNS_WITHIN)?;
    let group = cluster.exec(namespace, "grouped", "echo kept > /data/file; stat -c %g /data/file")?;
    ensure!(group.trim() == "2000", "group of a new file: {group}");
    cluster.delete_pod(namespace, "grouped")?;
    let reader = Pod { read_only: true, ..Pod::idle("reader", &claim) };
    cluster.apply(&[reader.object(cluster, namespace)])?;
    cluster.wait_running(namespace, "reader", RUNS_WITHIN)?;
    let read = cluster.exec(namespace, "reader", "cat /data/below/here/file; touch /data/new 2>&1 || true")?;
    ensure!(read.starts_with("kept") && read.contains("Read-only"), "what a reader saw: {read}");
    Ok(())
}

pub(super) fn generic_ephemeral_volume(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("scratch");
    let mut pod = Pod::idle("pod", &claim).object(cluster, namespace);
    let template = claim.object(namespace)["spec"].clone();
    pod["spec"]["volumes"] = json!([{"name": "volume", "ephemeral": {"volumeClaimTemplate": {"spec": template}}}]);
    cluster.apply(&[pod])?;
    cluster.wait_running(namespace, "pod", RUNS_WITHIN)?;
    cluster.exec(namespace, "pod", "echo x > /data/file && sync /data/file")?;
    cluster.delete_pod(namespace, "pod")?;
    cluster.wait_gone("pvc", namespace, "pod-volume", RUNS_WITHIN)
}

pub(super) fn read_write_once_pod(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data").access("ReadWriteOncePod");
    cluster.apply(&[claim.object(namespace), Pod::idle("first", &claim).object(cluster, namespace)])?;
    let node = cluster.wait_running(namespace, "first", RUNS_WITHIN)?;
    cluster.apply(&[Pod::idle("second", &claim).on(&node).object(cluster, namespace)])?;
    until_true(RUNS_WITHIN, "the second pod is not scheduled", || {
        let pod = cluster.get("pod", namespace, "second")?.unwrap_or_default();
        Ok(has_condition(&pod, "PodScheduled", "False"))
    })?;
    cluster.delete_pod(namespace, "first")?;
    cluster.wait_running(namespace, "second", RUNS_WITHIN).map(|_| ())
}

pub(super) fn two_pods_of_one_node(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data");
    cluster.apply(&[claim.object(namespace), Pod::idle("first", &claim).object(cluster, namespace)])?;
    let node = cluster.wait_running(namespace, "first", RUNS_WITHIN)?;
    cluster.apply(&[Pod::idle("second", &claim).on(&node).object(cluster, namespace)])?;
    cluster.wait_running(namespace, "second", RUNS_WITHIN)?;
    cluster.exec(namespace, "first", "echo shared > /data/file")?;
    let seen = cluster.exec(namespace, "second", "cat /data/file")?;
    ensure!(seen.trim() == "shared", "the other pod read {seen}");
    Ok(())
}

/// What may be changed of a volume that is in use.
pub(super) fn attributes_class(stage: &Stage) -> Result<()> {
    let writer = "attributes";
    let (_, volume) = start_writer(stage, writer)?;
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let wanted = "lockstep-durable";
    cluster.apply(&[json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": wanted},
        "driverName": "csi.lockstep.storage", "parameters": {"resyncRate": "50MiB", "ack": "durable"},
    })])?;
    let patch = json!({"spec": {"volumeAttributesClassName": wanted}}).to_string();
    cluster.kubectl(&["patch", "pvc", "-n", namespace, "data", "-p", &patch])?;
    until_true(RUNS_WITHIN, "the claim has the attributes", || {
        let claim = cluster.get("pvc", namespace, "data")?.unwrap_or_default();
        Ok(claim["status"]["currentVolumeAttributesClassName"] == wanted)
    })?;
    let object = cluster.get("mirrorvolume", "", &volume)?.unwrap_or_default();
    ensure!(object["spec"]["resyncRate"] == 50 << 20, "the volume's settings: {}", object["spec"]);
    // The engines go by it when the first replica in sync had it decided.
    let node = cluster.replica_nodes(&volume)?.remove(0);
    until_true(RUNS_WITHIN, "writes are acknowledged when they are durable", || {
        Ok(cluster.volume_status(&node, &volume)?["ack"] == "durable")
    })?;
    check_undisturbed(stage, writer)?;
    cluster.kubectl(&["delete", "volumeattributesclass", wanted, "--wait=false"]).map(|_| ())
}

/// A file that is gone costs no room any more, on any node, once somebody trims.
pub(super) fn discard_gives_space_back(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data");
    cluster.apply(&[claim.object(namespace), Pod::idle("pod", &claim).object(cluster, namespace)])?;
    let node = cluster.wait_running(namespace, "pod", RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, "data")?;
    cluster.wait_in_sync(&volume, RUNS_WITHIN)?;
    let replicas = cluster.replica_nodes(&volume)?;
    let used = |node: &str| -> Result<u64> {
        let script = format!("du -sk /var/lib/lockstep/pool/*{volume}* | awk '{{sum += $1}} END {{print sum}}'");
        Ok(docker(&["exec", node, "sh", "-c", &script])?.trim().parse()?)
    };
    cluster.exec(namespace, "pod", "dd if=/dev/urandom of=/data/file bs=1M count=200 conv=fsync 2>/dev/null")?;
    let full: Vec<u64> = replicas.iter().map(|node| used(node)).collect::<Result<_>>()?;
    ensure!(full.iter().all(|kib| *kib > 200 << 10), "KiB that 200 MiB take on {replicas:?}: {full:?}");
    cluster.exec(namespace, "pod", "rm /data/file && sync -f /data")?;
    let mounted =
        docker(&["exec", &node, "sh", "-c", "findmnt -nro TARGET | grep csi.lockstep.storage | grep globalmount"])?;
    let target = mounted.lines().next().unwrap_or_default();
    docker(&["exec", &node, "fstrim", target])?;
    until_true(RUNS_WITHIN, "the replicas' files are small again", || {
        Ok(replicas.iter().map(|node| used(node)).collect::<Result<Vec<u64>>>()?.iter().all(|kib| *kib < 100 << 10))
    })
}

pub(super) fn fifty_claims_at_once(stage: &Stage) -> Result<()> {
    let took = many_claims_at_once(stage)?;
    println!("    50 claims bound and mounted after {:.1} s", took.as_secs_f64());
    Ok(())
}

/// Fifty claims, each with a pod: how long until all of these run.
pub(crate) fn many_claims_at_once(stage: &Stage) -> Result<Duration> {
    const COUNT: usize = 50;
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let mut objects = Vec::new();
    for number in 0..COUNT {
        let claim = Claim::new(&format!("data-{number}")).size("64Mi");
        objects.push(claim.object(namespace));
        objects.push(Pod::idle(&format!("pod-{number}"), &claim).object(cluster, namespace));
    }
    let start = Instant::now();
    cluster.apply(&objects)?;
    until_true(Duration::from_secs(600), "50 pods run", || {
        Ok(cluster.list("pods", namespace)?.iter().filter(|pod| is_ready(pod)).count() == COUNT)
    })?;
    Ok(start.elapsed())
}

pub(super) fn mounted_and_unmounted_often(stage: &Stage) -> Result<()> {
    const CYCLES: usize = 100;
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data");
    cluster.apply(&[claim.object(namespace)])?;
    let node = cluster.workers()?.into_iter().next().unwrap_or_default();
    let devices = || -> Result<String> {
        let count = "ls /sys/fs/fuse/connections | wc -l; losetup -ln | wc -l";
        docker(&["exec", &node, "sh", "-c", count])
    };
    let mut before = None;
    for cycle in 0..CYCLES {
        let name = format!("pod-{cycle}");
        cluster.apply(&[Pod::idle(&name, &claim).on(&node).object(cluster, namespace)])?;
        cluster.wait_running(namespace, &name, RUNS_WITHIN)?;
        cluster.delete_pod(namespace, &name)?;
        before.get_or_insert(devices()?);
    }
    until_true(RUNS_WITHIN, "as many loop devices and FUSE connections as after the first cycle", || {
        Ok(Some(devices()?) == before)
    })
}

//! What an administrator does to a cluster that is in use: drains, restarts, upgrades.

use anyhow::{Context as _, Result, ensure};

use super::Stage;
use super::basics::RUNS_WITHIN;
use super::control_plane::{check_undisturbed, other_replica, start_writer};
use super::fail_over::{BACK_WITHIN, start_movable_writer};
use crate::cluster::{Cluster, SYSTEM};
use crate::nodes::{self, docker};

/// What a person who drains a node types.
const DRAIN: [&str; 4] = ["drain", "--ignore-daemonsets", "--delete-emptydir-data", "--force"];

fn try_drain(cluster: &Cluster, node: &str, timeout: &str) -> Result<Result<(), String>> {
    let output = cluster.try_kubectl(&[&DRAIN[..], &["--timeout", timeout, node]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(if output.status.success() { Ok(()) } else { Err(said) })
}

fn uncordon(cluster: &Cluster, nodes: &[&str]) -> Result<()> {
    cluster.kubectl(&[&["uncordon"], nodes].concat()).map(|_| ())
}

/// A node whose replica is the last one in sync stays until another is.
pub(super) fn drain_blocked_and_allowed(stage: &Stage) -> Result<()> {
    let writer = "drained";
    let cluster = &stage.cluster;
    let (node, volume) = start_writer(stage, writer)?;
    let peer = other_replica(stage, &volume, &node)?;
    nodes::kill_node(&node)?;
    let blocked = (|| {
        cluster.wait_state(&volume, "Degraded", RUNS_WITHIN)?;
        try_drain(cluster, &peer, "20s")
    })();
    nodes::start_node(&node)?;
    let blocked = blocked?;
    ensure!(blocked.is_err(), "the node of the last replica in sync, {peer}, was drained");
    nodes::wait_node_ready(cluster, &node, true, BACK_WITHIN)?;
    cluster.wait_in_sync(&volume, BACK_WITHIN)?;
    let allowed = try_drain(cluster, &peer, "120s")?;
    uncordon(cluster, &[&peer])?;
    allowed.map_err(|said| anyhow::anyhow!("draining {peer}, with all replicas in sync: {said}"))
}

/// Both replicas' nodes are drained at the same time: one of them has to wait.
pub(super) fn two_drains_at_once(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let name = "two-drains";
    let (node, volume) = start_movable_writer(stage, name)?;
    let pod = format!("{name}-0");
    let peer = other_replica(stage, &volume, &node)?;
    let results = std::thread::scope(|scope| {
        let drains = [&node, &peer].map(|node| scope.spawn(move || try_drain(cluster, node, "40s")));
        drains.map(|drain| drain.join().expect("does not panic"))
    });
    let guards = cluster.guards_left(&[&node, &peer])?;
    uncordon(cluster, &[&node, &peer])?;
    for result in results {
        result?.unwrap_or_else(|said| println!("    a drain was held up: {}", said.lines().last().unwrap_or_default()));
    }
    ensure!(guards > 0, "both nodes of a volume with two replicas were drained at once");
    cluster.wait_running(namespace, &pod, BACK_WITHIN)?;
    stage.collector.wait_progress(name, 50, BACK_WITHIN)?;
    stage.collector.check_nothing_lost(name)?;
    cluster.wait_in_sync(&volume, BACK_WITHIN)
}

/// Node after node is drained, restarted and taken back, as an upgrade of the machines does it.
pub(super) fn rolling_drain_and_restart(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let name = "rolling";
    let (_, volume) = start_movable_writer(stage, name)?;
    let pod = format!("{name}-0");
    for node in cluster.workers()? {
        let drained = try_drain(cluster, &node, "180s")?;
        let restarted = drained
            .map_err(|said| anyhow::anyhow!("draining {node}: {said}"))
            .and_then(|()| docker(&["restart", "--timeout", "20", &node]).map(|_| ()))
            .and_then(|()| nodes::wait_node_ready(cluster, &node, true, BACK_WITHIN));
        uncordon(cluster, &[&node])?;
        restarted?;
        cluster.wait_running(namespace, &pod, BACK_WITHIN)?;
        stage.collector.wait_progress(name, 50, BACK_WITHIN)?;
        cluster.wait_in_sync(&volume, BACK_WITHIN)?;
    }
    stage.collector.check_nothing_lost(name)
}

/// Another image of the engine, the same program by another name, while a pod writes.
pub(super) fn engine_upgraded_under_writer(stage: &Stage) -> Result<()> {
    let writer = "upgraded";
    let cluster = &stage.cluster;
    let (node, volume) = start_writer(stage, writer)?;
    let before = cluster.pod_of("engine", &node)?;
    let engines = cluster.get("daemonset", SYSTEM, "lockstep-engine")?.context("the engines")?;
    let image = crate::cluster::text(&engines["spec"]["template"]["spec"]["containers"][0]["image"]);
    let (name, tag) = image.rsplit_once(':').context("an image with a tag")?;
    let next = if let Some(plain) = tag.strip_suffix("-next") { plain.to_owned() } else { format!("{tag}-next") };
    let mut all = cluster.workers()?;
    all.push(format!("{}-control-plane", cluster.name));
    for node in &all {
        docker(&["exec", node, "ctr", "-n", "k8s.io", "images", "tag", "--force", &image, &format!("{name}:{next}")])?;
    }
    cluster.helm_upgrade(&[&format!("engine.image.tag={next}")])?;
    let after = cluster.pod_of("engine", &node)?;
    ensure!(before != after, "the engine's pod {before} was not replaced");
    cluster.wait_in_sync(&volume, BACK_WITHIN)?;
    let gap = check_undisturbed(stage, writer)?;
    println!("    longest gap while all engines were upgraded: {:.2} s", gap.as_secs_f64());
    Ok(())
}

/// A value that restarts the node's program and the controller.
pub(super) fn helm_upgrade(stage: &Stage) -> Result<()> {
    let writer = "helm-upgrade";
    let (_, volume) = start_writer(stage, writer)?;
    let filter = "log.filter=info\\,lockstep_node=debug";
    stage.cluster.helm_upgrade(&[filter])?;
    stage.cluster.wait_in_sync(&volume, BACK_WITHIN)?;
    check_undisturbed(stage, writer)?;
    stage.cluster.helm_upgrade(&["log.filter=info"])?;
    check_undisturbed(stage, writer).map(|_| ())
}

/// While there is a volume, nothing is uninstalled.
pub(super) fn helm_uninstall_is_refused(stage: &Stage) -> Result<()> {
    let writer = "uninstall";
    let (_, volume) = start_writer(stage, writer)?;
    let cluster = &stage.cluster;
    let output = cluster.try_helm(&["uninstall", "lockstep", "--timeout", "60s"])?;
    ensure!(!output.status.success(), "helm uninstalled Lockstep while there was a volume");
    let logs = cluster.kubectl(&["logs", "-n", SYSTEM, "job/lockstep-uninstall-check"])?;
    ensure!(logs.contains(&volume), "the check does not name {volume}: {logs}");
    for component in ["node", "engine", "holder", "controller"] {
        ensure!(!cluster.pods_of(component)?.is_empty(), "no pod of {component} is left");
    }
    check_undisturbed(stage, writer)?;
    // For Helm the release is half uninstalled until somebody says otherwise.
    let output = cluster.try_helm(&["rollback", "lockstep", "--wait", "--timeout", "5m"])?;
    ensure!(output.status.success(), "helm rollback: {}", String::from_utf8_lossy(&output.stderr));
    check_undisturbed(stage, writer).map(|_| ())
}

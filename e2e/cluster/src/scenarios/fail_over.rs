//! A node is lost under a writer, and its pod goes on elsewhere with everything that it was told is safe.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Stage;
use super::basics::RUNS_WITHIN;
use super::control_plane::{check_undisturbed, other_replica, start_writer};
use super::features::with_replicas_on;
use crate::nodes::{self, docker};
use crate::timeline::Timeline;
use crate::wait::{until, until_true};
use crate::workload::{Claim, Pod};

/// A wide bound: the level (12 s, at most 20 s) is measured by itself.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(90);

/// A node that was lost is back in the cluster, with its replicas in sync.
pub(super) const BACK_WITHIN: Duration = Duration::from_secs(240);

/// The Lease of the provisioner that leads.
pub(super) const PROVISIONER: &str = "csi-lockstep-storage";

/// How a node is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// As by a power loss.
    Killed,
    /// As by a hang of the machine, which then goes on.
    Paused,
}

pub(super) fn node_killed(stage: &Stage) -> Result<()> {
    lose_node(stage, Loss::Killed).map(|_| ())
}

pub(super) fn node_paused(stage: &Stage) -> Result<()> {
    lose_node(stage, Loss::Paused).map(|_| ())
}

/// A writer that a StatefulSet starts again wherever it can, running and in sync. Gives its node and its volume.
pub(super) fn start_movable_writer(stage: &Stage, writer: &str) -> Result<(String, String)> {
    start_movable_writer_of(stage, writer, &Claim::new("volume"), None)
}

/// The same with a claim `volume` of another kind, and a writer that begins on a certain node.
fn start_movable_writer_of(stage: &Stage, writer: &str, claim: &Claim, on: Option<&str>) -> Result<(String, String)> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let mut pod = Pod::recorder(writer, claim, &stage.collector);
    pod.preferred_node = on.map(str::to_owned);
    cluster.apply(&[pod.stateful_set(cluster, namespace, claim)])?;
    let node = cluster.wait_running(namespace, &format!("{writer}-0"), RUNS_WITHIN)?;
    ensure!(on.is_none_or(|on| on == node), "the writer runs on {node}, not on {on:?}");
    stage.collector.wait_writing(writer, 0, RUNS_WITHIN)?;
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, &format!("volume-{writer}-0"))?;
    cluster.wait_in_sync(&volume, RUNS_WITHIN)?;
    Ok((node, volume))
}

/// All nodes with a copy die at the same time, and come back.
pub(super) fn both_replicas_nodes_killed(stage: &Stage) -> Result<()> {
    let (cluster, name) = (&stage.cluster, "both-killed");
    let (_, volume) = start_movable_writer(stage, name)?;
    let both = cluster.replica_nodes(&volume)?;
    let lives = stage.collector.lives(name).len();
    for node in &both {
        nodes::kill_node(node)?;
    }
    for node in &both {
        nodes::start_node(node)?;
    }
    for node in &both {
        nodes::wait_node_ready(cluster, node, true, BACK_WITHIN)?;
    }
    stage.collector.wait_writing(name, lives, BACK_WITHIN)?;
    stage.collector.check_nothing_lost(name)?;
    cluster.wait_in_sync(&volume, BACK_WITHIN)
}

/// The pod is deleted by force and comes back to the node that it ran on.
pub(super) fn force_deleted_pod_returns_to_its_node(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("volume");
    let name = "forced";
    let mut pod = Pod::recorder(name, &claim, &stage.collector);
    let workers = cluster.workers()?;
    pod.node = workers.first().cloned();
    cluster.apply(&[pod.stateful_set(cluster, namespace, &claim)])?;
    let pod = format!("{name}-0");
    cluster.wait_running(namespace, &pod, RUNS_WITHIN)?;
    for life in 0..3 {
        stage.collector.wait_writing(name, life, RUNS_WITHIN)?;
        stage.collector.wait_progress(name, 50, RUNS_WITHIN)?;
        if life < 2 {
            cluster.kubectl(&["delete", "pod", "-n", namespace, &pod, "--grace-period=0", "--force"])?;
        }
    }
    stage.collector.check_nothing_lost(name)
}

/// The node that dies also led: the successor has to be found first.
pub(super) fn leaders_node_killed(stage: &Stage) -> Result<()> {
    lose_leader(stage, "lockstep-controller")
}

pub(super) fn provisioners_node_killed(stage: &Stage) -> Result<()> {
    lose_leader(stage, PROVISIONER)?;
    // Another provisioner takes over.
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("later");
    cluster.apply(&[claim.object(namespace), Pod::idle("later", &claim).object(cluster, namespace)])?;
    cluster.wait_running(namespace, "later", RUNS_WITHIN).map(|_| ())
}

fn lose_leader(stage: &Stage, lease: &str) -> Result<()> {
    let cluster = &stage.cluster;
    let workers = cluster.workers()?;
    // On a worker: the control plane's node takes the API server along, which is another scenario.
    let node = until(RUNS_WITHIN, &format!("a worker's pod holds the Lease {lease}"), || {
        let Ok(node) = cluster.leader_node(lease) else { return Ok(None) };
        if workers.contains(&node) {
            return Ok(Some(node));
        }
        cluster.delete_pod_of("controller", &node)?;
        Ok(None)
    })?;
    lose_node_of(stage, Loss::Killed, &Claim::new("volume"), Some(&node)).map(|_| ())
}

/// Only two nodes have storage, and the third vote is the configuration Lease.
pub(super) fn node_killed_with_lease_arbiter(stage: &Stage) -> Result<()> {
    let pair: Vec<String> = stage.cluster.workers()?.into_iter().take(2).collect();
    with_replicas_on(stage, &pair, "lease", |class| {
        let claim = Claim::new("volume").class(class);
        lose_node_of(stage, Loss::Killed, &claim, Some(&pair[0])).map(|_| ())
    })
}

/// The API server's node dies: writers do not notice. A writer's node dies meanwhile: its pod moves when the API server is back.
pub(super) fn api_servers_node_killed(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let (name, stays) = ("moves", "stays");
    let workers = cluster.workers()?;
    let claim = Claim::new("volume");
    let moving = Pod::recorder(name, &claim, &stage.collector).preferring(&workers[0]);
    let other = Claim::new("other");
    let staying = Pod::recorder(stays, &other, &stage.collector).on(&workers[1]);
    cluster.apply(&[
        moving.stateful_set(cluster, namespace, &claim),
        other.object(namespace),
        staying.object(cluster, namespace),
    ])?;
    let (pod, claim) = (format!("{name}-0"), format!("volume-{name}-0"));
    let node = cluster.wait_running(namespace, &pod, RUNS_WITHIN)?;
    cluster.wait_running(namespace, stays, RUNS_WITHIN)?;
    for writer in [name, stays] {
        stage.collector.wait_writing(writer, 0, RUNS_WITHIN)?;
    }
    let volume = cluster.mirror_volume(namespace, &claim)?;
    cluster.wait_in_sync(&volume, RUNS_WITHIN)?;
    cluster.wait_in_sync(&cluster.mirror_volume(namespace, "other")?, RUNS_WITHIN)?;

    let control_plane = format!("{}-control-plane", cluster.name);
    nodes::kill_node(&control_plane)?;
    let went_on = (|| {
        stage.collector.wait_progress(name, 200, RUNS_WITHIN)?;
        nodes::kill_node(&node)?;
        stage.collector.wait_progress(stays, 500, RUNS_WITHIN)
    })();
    nodes::start_node(&control_plane)?;
    let moved = went_on.and_then(|()| stage.collector.wait_writing(name, 1, BACK_WITHIN));
    nodes::start_node(&node)?;
    moved?;
    stage.collector.check_nothing_lost(name)?;
    nodes::wait_node_ready(cluster, &node, true, BACK_WITHIN)?;
    nodes::wait_node_ready(cluster, &control_plane, true, BACK_WITHIN)?;
    cluster.wait_in_sync(&volume, BACK_WITHIN)?;
    check_undisturbed(stage, stays).map(|_| ())
}

/// The power fails everywhere, and comes back.
pub(super) fn all_nodes_off_and_on(stage: &Stage) -> Result<()> {
    let (cluster, name) = (&stage.cluster, "cold-start");
    let (_, volume) = start_movable_writer(stage, name)?;
    let mut all = cluster.workers()?;
    all.push(format!("{}-control-plane", cluster.name));
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    docker(&[&["kill"], names.as_slice()].concat())?;
    docker(&[&["start"], names.as_slice()].concat())?;
    until_true(BACK_WITHIN, "the API server answers", || Ok(cluster.list("node", "").is_ok()))?;
    for node in &all {
        nodes::wait_node_ready(cluster, node, true, BACK_WITHIN)?;
    }
    let lives = stage.collector.lives(name).len();
    stage.collector.wait_writing(name, lives.max(1), BACK_WITHIN)?;
    stage.collector.check_nothing_lost(name)?;
    cluster.wait_in_sync(&volume, BACK_WITHIN)
}

/// A replica's node comes back as a new one: another node object, and nothing on its disk.
pub(super) fn node_re_added_with_empty_disks(stage: &Stage) -> Result<()> {
    // By default it is waited for what a disk held, in case that it was only not mounted.
    stage.cluster.helm_upgrade(&["controller.replaceAfter=15s"])?;
    let result = re_add_node(stage);
    stage.cluster.helm_upgrade(&["controller.replaceAfter=10m"])?;
    result
}

fn re_add_node(stage: &Stage) -> Result<()> {
    let cluster = &stage.cluster;
    let writer = "re-added";
    let (node, volume) = start_writer(stage, writer)?;
    let peer = other_replica(stage, &volume, &node)?;
    nodes::kill_node(&peer)?;
    let emptied = (|| {
        cluster.kubectl(&["delete", "node", &peer])?;
        std::fs::remove_dir_all(nodes::path_on_host(&peer, "lib/lockstep")?).context("empty its disk")
    })();
    nodes::start_node(&peer)?;
    emptied?;
    nodes::wait_node_registered(cluster, &peer, BACK_WITHIN)?;
    nodes::connect_pods(cluster)?;
    nodes::wait_node_ready(cluster, &peer, true, BACK_WITHIN)?;
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    cluster.wait_in_sync(&volume, BACK_WITHIN)?;
    ensure!(cluster.replica_nodes(&volume)?.len() == 2, "replicas: {:?}", cluster.replica_nodes(&volume)?);
    check_undisturbed(stage, writer).map(|_| ())
}

/// Loses the node of a writer, follows its pod, and waits until the node is back and in sync.
///
/// # Errors
/// The pod does not go on elsewhere, something acknowledged is missing, or the node does not come back.
pub fn lose_node(stage: &Stage, loss: Loss) -> Result<Timeline> {
    lose_node_of(stage, loss, &Claim::new("volume"), None)
}

/// The same with a claim `volume` of another kind, and a writer that begins on a certain node.
fn lose_node_of(stage: &Stage, loss: Loss, claim: &Claim, on: Option<&str>) -> Result<Timeline> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let name = namespace.trim_start_matches("e2e-").to_owned();
    let pod = format!("{name}-0");
    let (node, volume) = start_movable_writer_of(stage, &name, claim, on)?;
    let life = stage.collector.lives(&name).len() - 1;

    let paused = match loss {
        Loss::Killed => {
            nodes::kill_node(&node)?;
            None
        }
        Loss::Paused => Some(nodes::pause_node(&node)?),
    };
    let who = (namespace, pod.as_str(), name.as_str());
    let followed = Timeline::follow(cluster, &stage.collector, who, (&node, life + 1), ELSEWHERE_WITHIN);
    if loss == Loss::Killed {
        nodes::start_node(&node)?;
    }
    drop(paused);
    let timeline = followed?;
    let elsewhere = cluster.wait_running(namespace, &pod, RUNS_WITHIN)?;
    ensure!(elsewhere != node, "the pod runs on the lost node {node}");
    stage.collector.check_nothing_lost(&name)?;
    nodes::wait_node_ready(cluster, &node, true, BACK_WITHIN)?;
    cluster.wait_in_sync(&volume, BACK_WITHIN)?;
    stage.collector.wait_progress(&name, 50, RUNS_WITHIN)?;
    if let Some(writing) = timeline.writing {
        println!("    writes elsewhere after {:.1} s: {timeline:?}", writing.as_secs_f64());
    }
    Ok(timeline)
}

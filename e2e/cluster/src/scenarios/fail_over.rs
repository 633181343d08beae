//! A node is lost under a writer, and its pod goes on elsewhere with everything that it was told is safe.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Stage;
use super::basics::RUNS_WITHIN;
use crate::nodes;
use crate::timeline::Timeline;
use crate::workload::{Claim, Pod};

/// A wide bound: the level (12 s, at most 20 s) is measured by itself.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(90);

/// A node that was lost is back in the cluster, with its replicas in sync.
const BACK_WITHIN: Duration = Duration::from_secs(240);

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

/// All nodes with a copy die at the same time, and come back.
pub(super) fn both_replicas_nodes_killed(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("volume");
    let name = "both-killed";
    let pod = Pod::recorder(name, &claim, &stage.collector);
    cluster.apply(&[pod.stateful_set(cluster, namespace, &claim)])?;
    let pod = format!("{name}-0");
    cluster.wait_running(namespace, &pod, RUNS_WITHIN)?;
    stage.collector.wait_writing(name, 0, RUNS_WITHIN)?;
    stage.collector.wait_progress(name, 100, RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, &format!("volume-{pod}"))?;
    cluster.wait_in_sync(&volume, RUNS_WITHIN)?;
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

/// Loses the node of a writer, follows its pod, and waits until the node is back and in sync.
///
/// # Errors
/// The pod does not go on elsewhere, something acknowledged is missing, or the node does not come back.
pub fn lose_node(stage: &Stage, loss: Loss) -> Result<Timeline> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("volume");
    let name = namespace.trim_start_matches("e2e-").to_owned();
    let pod = Pod::recorder(&name, &claim, &stage.collector);
    cluster.apply(&[pod.stateful_set(cluster, namespace, &claim)])?;
    let (pod, claim) = (format!("{name}-0"), format!("volume-{name}-0"));
    let node = cluster.wait_running(namespace, &pod, RUNS_WITHIN)?;
    let life = stage.collector.lives(&name).len().saturating_sub(1);
    stage.collector.wait_writing(&name, life, RUNS_WITHIN)?;
    stage.collector.wait_progress(&name, 100, RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, &claim)?;
    cluster.wait_in_sync(&volume, RUNS_WITHIN)?;

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

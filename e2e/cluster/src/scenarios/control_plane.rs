//! The API server goes away, networks are cut, the programs of the cluster are restarted: writers do not notice.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::Stage;
use super::basics::RUNS_WITHIN;
use crate::cluster::SYSTEM;
use crate::nodes::{self, Cut, docker};
use crate::workload::{Claim, Pod};

/// A writer, running and in sync. Gives its node and its volume.
pub(super) fn start_writer(stage: &Stage, writer: &str) -> Result<(String, String)> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data");
    let pod = Pod::recorder(writer, &claim, &stage.collector);
    cluster.apply(&[claim.object(namespace), pod.object(cluster, namespace)])?;
    let node = cluster.wait_running(namespace, writer, RUNS_WITHIN)?;
    stage.collector.wait_writing(writer, 0, RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, "data")?;
    cluster.wait_in_sync(&volume, RUNS_WITHIN)?;
    Ok((node, volume))
}

/// The writer lived through all of it, without an error.
pub(super) fn check_undisturbed(stage: &Stage, writer: &str) -> Result<Duration> {
    stage.collector.wait_progress(writer, 50, RUNS_WITHIN)?;
    let lives = stage.collector.lives(writer);
    ensure!(lives.len() == 1, "the writer was started {} times", lives.len());
    ensure!(lives[0].errors.is_empty(), "the writer saw errors: {:?}", lives[0].errors);
    Ok(lives[0].longest_gap)
}

pub(super) fn api_server_away(stage: &Stage) -> Result<()> {
    let writer = "api-away";
    start_writer(stage, writer)?;
    let control_plane = format!("{}-control-plane", stage.cluster.name);
    let stopped = nodes::signal_program(&control_plane, "kube-apiserver", Signal::SIGSTOP)?;
    ensure!(stopped > 0, "no API server to stop");
    // As long as the test says, by the writer's own progress and the clock: nothing else is there to wait for.
    let start = Instant::now();
    let result = (|| {
        while start.elapsed() < Duration::from_secs(60) {
            stage.collector.wait_progress(writer, 20, RUNS_WITHIN)?;
        }
        Ok::<(), anyhow::Error>(())
    })();
    nodes::signal_program(&control_plane, "kube-apiserver", Signal::SIGCONT)?;
    result?;
    let gap = check_undisturbed(stage, writer)?;
    println!("    longest gap while the API server was away for 60 s: {:.2} s", gap.as_secs_f64());
    Ok(())
}

pub(super) fn cut_between_two_nodes(stage: &Stage) -> Result<()> {
    let writer = "cut";
    let (node, volume) = start_writer(stage, writer)?;
    let replicas = stage.cluster.replica_nodes(&volume)?;
    let peer = replicas.iter().find(|replica| **replica != node).context("a peer")?;
    for kind in ["both ways", "to the peer", "from the peer"] {
        let cut = match kind {
            "both ways" => Cut::both_ways(&node, peer)?,
            "to the peer" => Cut::one_way(&node, peer)?,
            _ => Cut::one_way(peer, &node)?,
        };
        stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
        drop(cut);
        stage.cluster.wait_in_sync(&volume, Duration::from_secs(120))?;
    }
    let gap = check_undisturbed(stage, writer)?;
    println!("    longest gap over three cuts: {:.2} s", gap.as_secs_f64());
    Ok(())
}

pub(super) fn api_cut_for_the_writers_node(stage: &Stage) -> Result<()> {
    let writer = "api-cut";
    let (node, volume) = start_writer(stage, writer)?;
    let control_plane = format!("{}-control-plane", stage.cluster.name);
    let cut = Cut::both_ways(&node, &control_plane)?;
    let start = Instant::now();
    // Longer than Kubernetes needs to take the node for dead; its storage is not fenced, since its peers hear it.
    while start.elapsed() < Duration::from_secs(70) {
        stage.collector.wait_progress(writer, 20, RUNS_WITHIN)?;
    }
    drop(cut);
    nodes::wait_node_ready(&stage.cluster, &node, true, Duration::from_secs(120))?;
    stage.cluster.wait_in_sync(&volume, Duration::from_secs(120))?;
    check_undisturbed(stage, writer).map(|_| ())
}

pub(super) fn plugin_and_kubelet_restarted(stage: &Stage) -> Result<()> {
    let writer = "restarts";
    let (node, _) = start_writer(stage, writer)?;
    nodes::signal_program(&node, "lockstep-node", Signal::SIGKILL)?;
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    docker(&["exec", &node, "systemctl", "restart", "containerd", "kubelet"])?;
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    check_undisturbed(stage, writer)?;
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    cluster.kubectl(&["delete", "pod", "-n", namespace, writer, "--wait=true", "--timeout=120s"]).map(|_| ())
}

pub(super) fn engine_pod_deleted_under_writer(stage: &Stage) -> Result<()> {
    let writer = "engine-pod";
    let (node, volume) = start_writer(stage, writer)?;
    let engines = stage.cluster.pods_of("engine")?;
    let (pod, _) = engines.into_iter().find(|(_, at)| *at == node).context("the engine's pod")?;
    stage.cluster.kubectl(&["delete", "pod", "-n", SYSTEM, &pod, "--wait=true", "--timeout=120s"])?;
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    stage.cluster.wait_in_sync(&volume, Duration::from_secs(120))?;
    let gap = check_undisturbed(stage, writer)?;
    println!("    longest gap while the engine's pod was replaced: {:.2} s", gap.as_secs_f64());
    Ok(())
}

pub(super) fn peers_engine_stopped_and_killed(stage: &Stage) -> Result<()> {
    let writer = "peer-engine";
    let (node, volume) = start_writer(stage, writer)?;
    let replicas = stage.cluster.replica_nodes(&volume)?;
    let peer = replicas.iter().find(|replica| **replica != node).context("a peer")?;
    nodes::signal_program(peer, "lockstep-engine", Signal::SIGSTOP)?;
    let progressed = stage.collector.wait_progress(writer, 100, RUNS_WITHIN);
    nodes::signal_program(peer, "lockstep-engine", Signal::SIGCONT)?;
    progressed?;
    nodes::signal_program(peer, "lockstep-engine", Signal::SIGKILL)?;
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    stage.cluster.wait_in_sync(&volume, Duration::from_secs(120))?;
    check_undisturbed(stage, writer).map(|_| ())
}

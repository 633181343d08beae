//! The API server goes away, networks are cut, the programs of the cluster are restarted: writers do not notice.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::Stage;
use super::basics::RUNS_WITHIN;
use super::fail_over::BACK_WITHIN;
use super::features::{class, drop_class};
use crate::cluster::{SYSTEM, has_condition, text};
use crate::nodes::{self, Cut, docker};
use crate::wait::until_true;
use crate::workload::{Claim, Pod};

/// A writer that was told nothing for so long hangs.
const HANGS: Duration = Duration::from_secs(5);

/// A writer, running and in sync. Gives its node and its volume.
pub(crate) fn start_writer(stage: &Stage, writer: &str) -> Result<(String, String)> {
    start_writer_in(stage, writer, Claim::new("data"))
}

/// The same with a claim of another kind.
pub(super) fn start_writer_in(stage: &Stage, writer: &str, claim: Claim) -> Result<(String, String)> {
    start_writer_as(stage, &Pod::recorder(writer, &claim, &stage.collector), &claim)
}

/// The same as this pod.
pub(super) fn start_writer_as(stage: &Stage, pod: &Pod, claim: &Claim) -> Result<(String, String)> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    cluster.apply(&[claim.object(namespace), pod.object(cluster, namespace)])?;
    let node = cluster.wait_running(namespace, &pod.name, RUNS_WITHIN)?;
    stage.collector.wait_writing(&pod.name, 0, RUNS_WITHIN)?;
    let volume = cluster.mirror_volume(namespace, &claim.name)?;
    cluster.wait_in_sync(&volume, RUNS_WITHIN)?;
    Ok((node, volume))
}

/// A node with a replica of a volume that is not this one.
pub(super) fn other_replica(stage: &Stage, volume: &str, node: &str) -> Result<String> {
    let replicas = stage.cluster.replica_nodes(volume)?;
    replicas.into_iter().find(|replica| replica != node).with_context(|| format!("a replica of {volume} beside {node}"))
}

/// The writer lived through all of it, without an error.
pub(super) fn check_undisturbed(stage: &Stage, writer: &str) -> Result<Duration> {
    check_undisturbed_since(stage, writer, 0)
}

/// The same of a writer that was to be started so many times before.
pub(super) fn check_undisturbed_since(stage: &Stage, writer: &str, life: usize) -> Result<Duration> {
    stage.collector.wait_progress(writer, 50, RUNS_WITHIN)?;
    let lives = stage.collector.lives(writer);
    ensure!(lives.len() == life + 1, "the writer was started {} times, not {}", lives.len(), life + 1);
    ensure!(lives[life].errors.is_empty(), "the writer saw errors: {:?}", lives[life].errors);
    Ok(lives[life].longest_gap)
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
    let peer = &other_replica(stage, &volume, &node)?;
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

/// Mirror traffic has a network of its own; without it, it goes over the other.
pub(super) fn mirror_network_cut(stage: &Stage) -> Result<()> {
    let writer = "mirror-cut";
    let (node, volume) = start_writer(stage, writer)?;
    let peer = other_replica(stage, &volume, &node)?;
    let pool = stage.cluster.get("mirrorpool", "", &node)?.context("the node's pool")?;
    let shown = [&pool["status"]["address"], &pool["status"]["dedicatedAddress"]].map(text);
    ensure!(shown.as_slice() == nodes::addresses(&node)?, "the pool of {node} shows its addresses as {shown:?}");
    let cut = Cut::second_network(&node, &peer)?;
    stage.collector.wait_progress(writer, 300, RUNS_WITHIN)?;
    stage.cluster.wait_in_sync(&volume, BACK_WITHIN)?;
    drop(cut);
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    let gap = check_undisturbed(stage, writer)?;
    println!("    longest gap when the mirror network was cut: {:.2} s", gap.as_secs_f64());
    Ok(())
}

/// Somebody deletes the Lease that holds a volume's configuration: the writer goes on, a condition says so, nothing makes it anew
/// silently. An operator puts the newest copy back, and says that it is the one.
pub(super) fn configuration_lease_deleted(stage: &Stage) -> Result<()> {
    let writer = "lease-deleted";
    let class = class(stage, |class| class["parameters"]["arbiter"] = "lease".into())?;
    let (_, volume) = start_writer_in(stage, writer, Claim::new("data").class(&class))?;
    let cluster = &stage.cluster;
    let object = cluster.get("mirrorvolume", "", &volume)?.context("the volume")?;
    let name = format!("lockstep-{}", text(&object["status"]["id"]));
    let lease = cluster.get("lease", SYSTEM, &name)?.context("the configuration Lease")?;
    cluster.kubectl(&["delete", "lease", "-n", SYSTEM, &name, "--wait=false"])?;
    if cluster.get("lease", SYSTEM, &name)?.is_some() {
        let patch = r#"{"metadata":{"finalizers":null}}"#;
        cluster.kubectl(&["patch", "lease", "-n", SYSTEM, &name, "--type=merge", "-p", patch])?;
    }
    until_true(RUNS_WITHIN, "a condition says that the register is lost", || {
        let object = cluster.get("mirrorvolume", "", &volume)?.context("the volume")?;
        Ok(has_condition(&object, "RegisterLost", "True"))
    })?;
    if let Some(again) = cluster.get("lease", SYSTEM, &name)? {
        ensure!(again["metadata"]["uid"] == lease["metadata"]["uid"], "the Lease was made anew: {again}");
    }
    check_undisturbed(stage, writer)?;
    let metadata = &lease["metadata"];
    cluster.apply(&[json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": lease["spec"],
        "metadata": {
            "name": name, "namespace": SYSTEM, "labels": metadata["labels"], "annotations": metadata["annotations"],
        },
    })])?;
    let again = cluster.get("lease", SYSTEM, &name)?.context("the Lease that was put back")?;
    let uid = format!("lockstep.storage/uid={}", text(&again["metadata"]["uid"]));
    cluster.kubectl(&["annotate", "--overwrite", "lease", "-n", SYSTEM, &name, &uid])?;
    until_true(RUNS_WITHIN, "the register is believed again", || {
        let object = cluster.get("mirrorvolume", "", &volume)?.context("the volume")?;
        Ok(!has_condition(&object, "RegisterLost", "True"))
    })?;
    cluster.delete_pod(&stage.namespace, writer)?;
    drop_class(stage)
}

/// Too few of a volume's voters are left: its writer hangs, and yet its pod can be deleted.
pub(super) fn suspended_pod_deleted(stage: &Stage) -> Result<()> {
    let writer = "suspended";
    let (node, volume) = start_writer(stage, writer)?;
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let peer = other_replica(stage, &volume, &node)?;
    let tie_breaker = cluster.part_nodes(&volume, "TieBreaker")?.into_iter().next().context("a tie-breaker")?;
    // It may be where the API server is, which has to stay.
    nodes::signal_program(&tie_breaker, "lockstep-engine", Signal::SIGSTOP)?;
    let deleted = (|| {
        nodes::kill_node(&peer)?;
        until_true(RUNS_WITHIN, "the writer hangs", || {
            let last = stage.collector.lives(writer).last().and_then(|life| life.last_ack);
            Ok(last.is_some_and(|last| last.elapsed() > HANGS))
        })?;
        let start = Instant::now();
        cluster.delete_pod(namespace, writer)?;
        println!("    the pod of the suspended volume was gone after {:.1} s", start.elapsed().as_secs_f64());
        Ok::<(), anyhow::Error>(())
    })();
    nodes::signal_program(&tie_breaker, "lockstep-engine", Signal::SIGCONT)?;
    nodes::start_node(&peer)?;
    deleted?;
    nodes::wait_node_ready(cluster, &peer, true, BACK_WITHIN)?;
    // Nothing is lost: the next pod finds every record.
    let claim = Claim::new("data");
    cluster.apply(&[Pod::recorder(writer, &claim, &stage.collector).object(cluster, namespace)])?;
    stage.collector.wait_writing(writer, 1, BACK_WITHIN)?;
    stage.collector.check_nothing_lost(writer)?;
    cluster.wait_in_sync(&volume, BACK_WITHIN)
}

pub(super) fn plugin_and_kubelet_restarted(stage: &Stage) -> Result<()> {
    let writer = "restarts";
    let (node, _) = start_writer(stage, writer)?;
    nodes::signal_program(&node, "lockstep-node", Signal::SIGKILL)?;
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    docker(&["exec", &node, "systemctl", "restart", "containerd", "kubelet"])?;
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    check_undisturbed(stage, writer)?;
    stage.cluster.delete_pod(&stage.namespace, writer)
}

pub(super) fn engine_pod_deleted_under_writer(stage: &Stage) -> Result<()> {
    let writer = "engine-pod";
    let (node, volume) = start_writer(stage, writer)?;
    stage.cluster.delete_pod_of("engine", &node)?;
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    stage.cluster.wait_in_sync(&volume, Duration::from_secs(120))?;
    let gap = check_undisturbed(stage, writer)?;
    println!("    longest gap while the engine's pod was replaced: {:.2} s", gap.as_secs_f64());
    Ok(())
}

pub(super) fn peers_engine_stopped_and_killed(stage: &Stage) -> Result<()> {
    let writer = "peer-engine";
    let (node, volume) = start_writer(stage, writer)?;
    let peer = &other_replica(stage, &volume, &node)?;
    nodes::signal_program(peer, "lockstep-engine", Signal::SIGSTOP)?;
    let progressed = stage.collector.wait_progress(writer, 100, RUNS_WITHIN);
    nodes::signal_program(peer, "lockstep-engine", Signal::SIGCONT)?;
    progressed?;
    nodes::kill_engine(peer)?;
    stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    stage.cluster.wait_in_sync(&volume, Duration::from_secs(120))?;
    check_undisturbed(stage, writer).map(|_| ())
}

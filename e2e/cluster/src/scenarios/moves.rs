//! Pods that move, and engines that are restarted under them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Stage;
use super::basics::RUNS_WITHIN;
use super::control_plane::start_writer;
use crate::nodes;
use crate::workload::{Claim, Pod};

/// The longest that a writer may notice of an engine's restart. The level (2 s) is measured by itself; a test bounds.
const GAP_MAX: Duration = Duration::from_secs(10);

pub(super) fn moves_between_nodes(stage: &Stage) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let claim = Claim::new("data");
    let workers = cluster.workers()?;
    cluster.apply(&[claim.object(namespace), Pod::idle("pod-0", &claim).on(&workers[0]).object(cluster, namespace)])?;
    cluster.wait_running(namespace, "pod-0", RUNS_WITHIN)?;
    let sum = cluster.write_file(namespace, "pod-0", 16)?;
    let volume = cluster.mirror_volume(namespace, "data")?;
    let with = cluster.replica_nodes(&volume)?;
    ensure!(with.contains(&workers[0]), "the first consumer's node {} has no replica: {with:?}", workers[0]);
    let other = with.iter().find(|node| **node != workers[0]).context("a second replica")?;
    let without = workers.iter().find(|node| !with.contains(node)).context("a node without a replica")?;
    let mut before = "pod-0".to_owned();
    for (step, node) in [other, without, &workers[0]].into_iter().enumerate() {
        let name = format!("pod-{}", step + 1);
        cluster.delete_pod(namespace, &before)?;
        cluster.apply(&[Pod::idle(&name, &claim).on(node).object(cluster, namespace)])?;
        cluster.wait_running(namespace, &name, RUNS_WITHIN)?;
        let again = cluster.file_sum(namespace, &name)?;
        ensure!(sum == again, "on {node} the file is another: {again}");
        before = name;
    }
    Ok(())
}

pub(super) fn engine_killed_under_writer(stage: &Stage) -> Result<()> {
    let writer = "engine-killed";
    let (node, _) = start_writer(stage, writer)?;
    for _ in 0..3 {
        nodes::kill_engine(&node)?;
        stage.collector.wait_progress(writer, 100, RUNS_WITHIN)?;
    }
    let lives = stage.collector.lives(writer);
    ensure!(lives.len() == 1, "the pod was restarted: {lives:?}");
    ensure!(lives[0].errors.is_empty(), "the writer saw errors: {:?}", lives[0].errors);
    ensure!(lives[0].longest_gap <= GAP_MAX, "the longest gap was {:?}", lives[0].longest_gap);
    println!("    longest gap over three kills of the engine: {:.2} s", lives[0].longest_gap.as_secs_f64());
    Ok(())
}

//! One round: disturb, go on, heal, judge.

use super::cluster::{Cluster, FINISH_BOUND, OPERATION_BOUND, VOLUME, Writer, timed};
use super::plan::{AfterWriter, Plan, Role};
use crate::playground::Fault;
use anyhow::{Context, Result, bail, ensure};
use std::time::Duration;

/// Operations before a disturbance: it meets a load that runs.
const OPERATIONS_BEFORE: u64 = 100;
/// Operations after it: the load goes on.
const OPERATIONS_AFTER: u64 = 200;

/// What a round showed.
#[derive(Clone, Debug)]
pub struct RoundResult {
    /// What the victim was.
    pub role: Role,
    /// Its name.
    pub victim: String,
    /// The longest time without a completion, of a load that ran through.
    pub gap: Option<Duration>,
    /// From the disturbance of the writer until a write on another node had completed.
    pub take_over: Option<Duration>,
    /// From healing until all replicas were in sync.
    pub whole_after: Duration,
    /// Writes of a woken writer that were refused.
    pub stale_refused: u64,
    /// Operations that were judged.
    pub judged: usize,
}

/// Runs one round.
pub fn run_round(cluster: &mut Cluster, plan: &Plan) -> Result<RoundResult> {
    let victim = cluster.playground().nodes().get(plan.victim).context("the plan names a node")?.clone();
    let role = role_of(cluster, &victim)?;
    cluster.writer()?.session.wait_progress(OPERATIONS_BEFORE, OPERATION_BOUND).context("before the disturbance")?;

    let disturbed = cluster.now();
    cluster.playground().disturb(&victim, plan.fault, plan.whole_node)?;
    let (mut gap, mut take_over, mut left_behind) = (None, None, None);
    match (role, plan.after_writer) {
        (Role::Writer, AfterWriter::TakeOver) => {
            let successor = successor_of(cluster, &victim)?;
            left_behind = cluster.attach(&successor, true).with_context(|| format!("take over on {successor}"))?;
            let session = &cluster.writer()?.session;
            session.wait_progress(OPERATIONS_AFTER, OPERATION_BOUND).context("after the take-over")?;
            let first = session.first_completed_write(disturbed).context("operations were just counted")?;
            take_over = Some(Duration::from_nanos(first.0 - disturbed.0));
        }
        (Role::Writer, AfterWriter::Return) => {}
        (Role::Peer | Role::TieBreaker, _) => {
            cluster.writer()?.session.wait_progress(OPERATIONS_AFTER, OPERATION_BOUND).context("without the victim")?;
            gap = Some(cluster.recorder().longest_gap(disturbed, cluster.now()));
        }
    }

    let survivors: Vec<String> = cluster.playground().nodes().iter().filter(|node| **node != victim).cloned().collect();
    let refused_before = cluster.counter(&survivors, "stale_refused");
    let paused_writer = left_behind.is_some() && plan.fault == Fault::Pause;
    plan.heal(cluster.playground(), &victim)?;
    if role == Role::Writer && plan.after_writer == AfterWriter::Return {
        return_writer(cluster, &victim, plan)?;
    }
    let ((), whole_after) = timed(|| cluster.wait_whole())?;
    if let Some(old) = left_behind {
        abandon(cluster, old)?;
    }
    let stale_refused = cluster.counter(&survivors, "stale_refused").saturating_sub(refused_before);
    ensure!(
        !paused_writer || stale_refused > 0,
        "a writer that was paused and replaced has woken, and nobody counted a refusal"
    );
    let judged = cluster.judge()?;
    Ok(RoundResult { role, victim, gap, take_over, whole_after, stale_refused, judged })
}

fn role_of(cluster: &Cluster, node: &str) -> Result<Role> {
    Ok(if cluster.writer()?.node == node {
        Role::Writer
    } else if cluster.replica_nodes().iter().any(|replica| replica == node) {
        Role::Peer
    } else {
        Role::TieBreaker
    })
}

/// Another node whose replica is in sync.
fn successor_of(cluster: &Cluster, victim: &str) -> Result<String> {
    let others = cluster.replica_nodes().iter().filter(|node| *node != victim);
    let in_sync = |node: &&String| {
        let status = cluster.playground().status(node, VOLUME);
        status.is_ok_and(|status| status.in_sync.contains(node))
    };
    others
        .clone()
        .find(in_sync)
        .cloned()
        .with_context(|| format!("none of {:?} is in sync", others.collect::<Vec<_>>()))
}

/// The writer's node runs again: its load goes on by itself after a pause, else the volume is attached there anew.
fn return_writer(cluster: &mut Cluster, node: &str, plan: &Plan) -> Result<()> {
    if plan.fault == Fault::Pause {
        let session = &cluster.writer()?.session;
        if session.wait_progress(OPERATIONS_AFTER, OPERATION_BOUND).is_ok() {
            return Ok(());
        }
        // It slept so long that the others expelled it; that is allowed. Then it is attached again like a crashed one.
    }
    let old = cluster.attach(node, false).with_context(|| format!("attach again on {node}"))?;
    if let Some(old) = old {
        old.session.finish(FINISH_BOUND).context("the load of the attachment that was lost")?;
    }
    cluster.writer()?.session.wait_progress(OPERATIONS_AFTER, OPERATION_BOUND).context("after the return")
}

/// The old attachment's load has ended with errors, and its node lets go of the device.
fn abandon(cluster: &Cluster, old: Writer) -> Result<()> {
    let node = old.node;
    let counts = old.session.finish(FINISH_BOUND).with_context(|| format!("the load of the fenced writer {node}"))?;
    if counts.errors == 0 {
        bail!("the fenced writer {node} never saw an error");
    }
    cluster.detach(&node).with_context(|| format!("detach the fenced writer {node}"))
}

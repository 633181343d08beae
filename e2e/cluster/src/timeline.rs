//! Where the seconds of a fail-over went.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cluster::{Cluster, is_ready, text};
use crate::collector::Collector;
use crate::wait::until;

/// What is seen from outside, each as time since the node was lost.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// The controller declared the node lost: its taint is there.
    pub fenced: Option<Duration>,
    /// The old pod is gone.
    pub deleted: Option<Duration>,
    /// The new pod has a node.
    pub scheduled: Option<Duration>,
    /// The new pod's container runs.
    pub running: Option<Duration>,
    /// Its first record is durable.
    pub writing: Option<Duration>,
}

impl Timeline {
    /// Watches until the pod of a StatefulSet writes elsewhere, at most `limit`.
    ///
    /// # Errors
    /// It does not.
    pub fn follow(
        cluster: &Cluster,
        collector: &Collector,
        (namespace, pod, writer): (&str, &str, &str),
        (lost, life): (&str, usize),
        limit: Duration,
    ) -> Result<Self> {
        let start = Instant::now();
        let old = cluster.get("pod", namespace, pod)?.map(|pod| text(&pod["metadata"]["uid"])).unwrap_or_default();
        let mut seen = Self::default();
        until(limit, &format!("pod {pod} of lost node {lost} writes elsewhere"), || {
            let now = start.elapsed();
            if seen.fenced.is_none() && is_fenced(cluster, lost)? {
                seen.fenced = Some(now);
            }
            let current = cluster.get("pod", namespace, pod)?;
            let is_old = |pod: &serde_json::Value| text(&pod["metadata"]["uid"]) == old;
            mark(&mut seen.deleted, !current.as_ref().is_some_and(is_old), now);
            let new = current.filter(|current| !is_old(current));
            mark(&mut seen.scheduled, new.as_ref().is_some_and(|pod| !text(&pod["spec"]["nodeName"]).is_empty()), now);
            mark(&mut seen.running, new.as_ref().is_some_and(is_ready), now);
            let first = collector.lives(writer).get(life).and_then(|life| life.first_ack);
            Ok(first.map(|first| seen.writing = Some(first.saturating_duration_since(start))))
        })?;
        Ok(seen)
    }
}

fn mark(slot: &mut Option<Duration>, is_so: bool, now: Duration) {
    if is_so && slot.is_none() {
        *slot = Some(now);
    }
}

fn is_fenced(cluster: &Cluster, node: &str) -> Result<bool> {
    let Some(node) = cluster.get("node", "", node)? else { return Ok(true) };
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    Ok(taints.iter().any(|taint| taint["key"] == "lockstep.storage/fenced"))
}

/// A table of several fail-overs, in seconds, with medians.
#[must_use]
pub fn table(runs: &[Timeline]) -> String {
    let columns: [(&str, fn(&Timeline) -> Option<Duration>); 5] = [
        ("fenced", |run| run.fenced),
        ("old pod gone", |run| run.deleted),
        ("scheduled", |run| run.scheduled),
        ("running", |run| run.running),
        ("writes", |run| run.writing),
    ];
    let cell =
        |value: Option<Duration>| value.map_or_else(|| "-".to_owned(), |value| format!("{:.1} s", value.as_secs_f64()));
    let mut out = String::from("| run |");
    for (name, _) in &columns {
        out.push_str(&format!(" {name} |"));
    }
    out.push_str("\n|---|---|---|---|---|---|\n");
    for (number, run) in runs.iter().enumerate() {
        out.push_str(&format!("| {} |", number + 1));
        for (_, column) in &columns {
            out.push_str(&format!(" {} |", cell(column(run))));
        }
        out.push('\n');
    }
    out.push_str("| median |");
    for (_, column) in &columns {
        out.push_str(&format!(" {} |", cell(median(runs.iter().filter_map(column).collect()))));
    }
    out.push_str("\n| worst |");
    for (_, column) in &columns {
        out.push_str(&format!(" {} |", cell(runs.iter().filter_map(column).max())));
    }
    out.push('\n');
    out
}

/// The middle of several durations.
#[must_use]
pub fn median(mut all: Vec<Duration>) -> Option<Duration> {
    all.sort();
    all.get(all.len().checked_sub(1)? / 2).copied()
}

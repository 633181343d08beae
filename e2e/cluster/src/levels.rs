//! What is measured, apart from the scenarios: a table for each level.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum as _;

use crate::cluster::Cluster;
use crate::collector::Collector;
use crate::nodes;
use crate::scenarios::control_plane::start_writer;
use crate::scenarios::features::{class, drop_class, many_claims_at_once};
use crate::scenarios::{Loss, lose_node, on_stage};
use crate::timeline::{Timeline, median, table};
use crate::wait::until_true;
use crate::workload::{Claim, Pod};

/// No measurement takes longer; what does has no result.
const BOUND: Duration = Duration::from_secs(600);

/// How long the requests of an idle cluster are counted.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// Volumes of the idle cluster, and how many are there for comparison.
const IDLE_VOLUMES: [usize; 2] = [0, 100];

/// A level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// From a claim to its running pod.
    Claims,
    /// How long a writer waits when its engine is killed.
    EngineKills,
    /// Fifty claims and pods at once.
    ManyClaims,
    /// From a node's loss to its pod writing elsewhere.
    FailOvers,
    /// Requests and watch events of an idle cluster.
    Idle,
}

/// Measures one level, or all, and prints each as soon as it is measured.
///
/// # Errors
/// One of them has no result: what was acknowledged is lost, or a pod does not run within any bound.
pub fn measure(cluster: &Cluster, collector: &Collector, runs: u32, only: Option<Level>) -> Result<()> {
    for level in Level::value_variants() {
        if only.is_some_and(|only| only != *level) {
            continue;
        }
        let (what, table) = match level {
            Level::Claims => ("claim to running pod, images present", claims(cluster, collector, runs)?),
            Level::EngineKills => ("engine killed under a writing pod", engine_kills(cluster, collector, runs)?),
            Level::ManyClaims => ("50 claims bound and mounted", many_claims(cluster, collector)?),
            Level::FailOvers => {
                ("node lost to the pod writing elsewhere", table(&fail_overs(cluster, collector, runs)?))
            }
            Level::Idle => ("idle cluster", idle(cluster, collector)?),
        };
        println!("\n{what}:\n{table}");
    }
    Ok(())
}

/// Both kinds of loss in turns.
fn fail_overs(cluster: &Cluster, collector: &Collector, runs: u32) -> Result<Vec<Timeline>> {
    (0..runs)
        .map(|run| {
            let loss = if run % 2 == 0 { Loss::Killed } else { Loss::Paused };
            println!("run {}: node {loss:?}", run + 1);
            on_stage(cluster, collector, &format!("level-{run}"), BOUND, |stage| lose_node(stage, loss))
        })
        .collect()
}

fn claims(cluster: &Cluster, collector: &Collector, runs: u32) -> Result<String> {
    let mut times = Vec::new();
    for run in 0..runs {
        times.push(on_stage(cluster, collector, &format!("claim-{run}"), BOUND, |stage| {
            let (claim, namespace) = (Claim::new("data"), stage.namespace.as_str());
            let start = Instant::now();
            cluster.apply(&[claim.object(namespace), Pod::idle("pod", &claim).object(cluster, namespace)])?;
            cluster.wait_running(namespace, "pod", BOUND)?;
            Ok(start.elapsed())
        })?);
    }
    Ok(row(&times))
}

fn engine_kills(cluster: &Cluster, collector: &Collector, runs: u32) -> Result<String> {
    let writer = "kills";
    on_stage(cluster, collector, "engine-kills", BOUND, |stage| {
        let (node, _) = start_writer(stage, writer)?;
        let mut gaps = Vec::new();
        for _ in 0..runs {
            collector.forget_gap(writer);
            nodes::kill_engine(&node)?;
            collector.wait_progress(writer, 200, BOUND)?;
            let lives = collector.lives(writer);
            ensure!(lives.len() == 1 && lives[0].errors.is_empty(), "the writer noticed: {lives:?}");
            gaps.push(lives[0].longest_gap);
        }
        Ok(row(&gaps))
    })
}

fn many_claims(cluster: &Cluster, collector: &Collector) -> Result<String> {
    on_stage(cluster, collector, "many-claims", BOUND, |stage| Ok(row(&[many_claims_at_once(stage)?])))
}

/// What the API server counts of our objects and of Leases, while nobody asks for anything.
fn idle(cluster: &Cluster, collector: &Collector) -> Result<String> {
    let nodes = cluster.list("node", "")?.len();
    let mut out = String::from("| volumes | nodes | requests a second | watch events a second |\n|---|---|---|---|\n");
    for volumes in IDLE_VOLUMES {
        let rates = on_stage(cluster, collector, &format!("idle-{volumes}"), BOUND, |stage| {
            let namespace = stage.namespace.as_str();
            let class = class(stage, |class| class["volumeBindingMode"] = "Immediate".into())?;
            let claims = (0..volumes).map(|number| Claim::new(&format!("data-{number}")).class(&class).size("64Mi"));
            let claims: Vec<_> = claims.map(|claim| claim.object(namespace)).collect();
            if !claims.is_empty() {
                cluster.apply(&claims)?;
            }
            until_true(BOUND, &format!("{volumes} claims are bound"), || {
                let claims = cluster.list("pvc", namespace)?;
                Ok(claims.iter().filter(|claim| claim["status"]["phase"] == "Bound").count() == volumes)
            })?;
            let before = counted(cluster)?;
            // A rate is what happens in a time: there is no state to wait for.
            thread::park_timeout(IDLE_FOR);
            let after = counted(cluster)?;
            drop_class(stage)?;
            Ok([0, 1].map(|kind| (after[kind] - before[kind]) / IDLE_FOR.as_secs_f64()))
        })?;
        out.push_str(&format!("| {volumes} | {nodes} | {:.2} | {:.2} |\n", rates[0], rates[1]));
    }
    Ok(out)
}

/// Requests and watch events so far, of our kinds and of Leases (of everybody).
fn counted(cluster: &Cluster) -> Result<[f64; 2]> {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"])?;
    let sum = |metric: &str| {
        let ours = |line: &&str| line.contains("lockstep.storage") || line.contains("coordination.k8s.io");
        let lines = metrics.lines().filter(|line| line.starts_with(&format!("{metric}{{"))).filter(ours);
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    Ok([sum("apiserver_request_total"), sum("apiserver_watch_events_total")])
}

/// Durations, with median and worst.
fn row(all: &[Duration]) -> String {
    let seconds = |value: Duration| format!("{:.2} s", value.as_secs_f64());
    let runs: Vec<String> = all.iter().copied().map(seconds).collect();
    let middle = median(all.to_vec()).map_or_else(|| "-".to_owned(), seconds);
    let worst = all.iter().copied().max().map_or_else(|| "-".to_owned(), seconds);
    format!("| runs | median | worst |\n|---|---|---|\n| {} | {middle} | {worst} |", runs.join(", "))
}

//! Round after round.

use super::cluster::{Cluster, ClusterStart, FrontEnd};
use super::limits::Limits;
use super::plan::Plan;
use super::round::{RoundResult, run_round};
use super::summary::Summary;
use crate::cleanup::Cleanup;
use crate::load::LoadProfile;
use crate::random::Random;
use anyhow::{Context, Result};
use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

const SIZE_BYTES: u64 = 128 << 20;
/// The load touches this much of it: many regions of write intent, and read back in a moment.
const LOAD_BYTES: u64 = 48 << 20;

/// How long and how.
#[derive(Clone, Copy, Debug)]
pub struct SoakOptions<'a> {
    /// The playground's directory, which does not exist yet.
    pub dir: &'a Path,
    /// How long.
    pub limits: Limits,
    /// Two or three.
    pub replicas: usize,
    /// The replicas are compared after so many rounds.
    pub compare_every: u64,
    /// All draws follow from it.
    pub seed: u64,
    /// Only this front end.
    pub front_end: Option<FrontEnd>,
}

/// Runs it. An error names the round and what the nodes say.
pub fn run(options: SoakOptions<'_>, cleanup: &Cleanup) -> Result<Summary> {
    let mut random = Random::new(options.seed);
    let start = ClusterStart {
        dir: options.dir,
        replicas: options.replicas,
        size_bytes: SIZE_BYTES,
        load_bytes: LOAD_BYTES,
        profile: LoadProfile::default(),
        front_end: options.front_end,
        pools: &[],
        nodes: 3,
        start_options: &[],
        volume_options: &[],
    };
    let mut cluster = Cluster::start(start, random.fork(), cleanup)?;
    let mut summary = Summary::default();
    if let Err(error) = run_rounds(&mut cluster, options, &mut random, &mut summary) {
        eprintln!("{summary}\n{}", cluster.describe());
        return Err(error);
    }
    cluster.destroy()?;
    Ok(summary)
}

fn run_rounds(
    cluster: &mut Cluster,
    options: SoakOptions<'_>,
    random: &mut Random,
    summary: &mut Summary,
) -> Result<()> {
    let began = Instant::now();
    attach_somewhere(cluster, random)?;
    for round in options.limits.rounds() {
        let plan = Plan::draw(random, cluster.playground().nodes().len());
        let result = run_round(cluster, &plan).with_context(|| format!("round {round}, {plan:?}"))?;
        summary.add(&plan, &result);
        println!("{}", line(&options.limits.shown(round), &plan, &result, began.elapsed()));
        if round % options.compare_every == 0 {
            compare(cluster, summary).with_context(|| format!("after round {round}"))?;
            attach_somewhere(cluster, random)?;
        }
    }
    compare(cluster, summary).context("at the end")
}

fn compare(cluster: &mut Cluster, summary: &mut Summary) -> Result<()> {
    cluster.release()?;
    cluster.compare()?;
    summary.add_comparison();
    Ok(())
}

fn attach_somewhere(cluster: &mut Cluster, random: &mut Random) -> Result<()> {
    let node = random.pick(cluster.replica_nodes()).context("a volume has replicas")?.clone();
    cluster.attach(&node, false).with_context(|| format!("attach on {node}")).map(|_| ())
}

fn line(round: &impl Display, plan: &Plan, result: &RoundResult, elapsed: Duration) -> String {
    let shown = |name: &str, span: Option<Duration>| {
        span.map_or_else(String::new, |span| format!(", {name} {:.0} ms", span.as_secs_f64() * 1000.0))
    };
    let whole_node = if plan.whole_node { ", whole node" } else { "" };
    format!(
        "[{:6.1} s] {round}: {} {} ({}{whole_node}){}{}{}, {} operations judged",
        elapsed.as_secs_f64(),
        plan.fault.verb(),
        result.victim,
        result.role,
        shown("gap", result.gap),
        shown("taken over", result.take_over),
        shown("whole after", Some(result.whole_after)),
        result.judged
    )
}

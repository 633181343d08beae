//! Several nodes write one volume, each with a recording load of its own, while nodes are killed, paused and stopped, and links between
//! them are cut. One recorder judges what all of them saw.

mod plan;
mod round;
mod writers;

use super::limits::Limits;
use crate::cleanup::Cleanup;
use crate::networks::Dedicated;
use crate::playground::Playground;
use crate::random::Random;
use anyhow::{Context, Result};
use plan::{Cut, SharingPlan};
use round::run_round;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};
use writers::Writers;

const SIZE_BYTES: u64 = 128 << 20;
const LOAD_BYTES: u64 = 48 << 20;
/// Operations of every writer before a disturbance, and of whoever goes on during it.
const OPERATIONS: u64 = 100;

/// What several writers are tried with.
#[derive(Clone, Copy, Debug)]
pub struct SharingOptions<'a> {
    /// The playground's directory, which does not exist yet.
    pub dir: &'a Path,
    /// How long.
    pub limits: Limits,
    /// Two (the third node writes without a replica) or three.
    pub replicas: usize,
    /// Each node has a network namespace of its own, and links between them are cut.
    pub cut_links: bool,
    /// The replicas are compared after so many rounds.
    pub compare_every: u64,
    /// All draws follow from it.
    pub seed: u64,
}

/// What it showed.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharingSummary {
    /// Rounds.
    pub rounds: u64,
    /// Rounds in which a node was killed, paused or stopped.
    pub disturbed: u64,
    /// Rounds in which one network was cut, or each at another place.
    pub cut_one: u64,
    /// Rounds in which both networks were cut at one place.
    pub cut_both: u64,
    /// Attachments that were lost with a process or by expulsion.
    pub lost: u64,
    /// Operations that were judged.
    pub judged: usize,
    /// Longest time in which no survivor completed anything.
    pub longest_gap: Duration,
    /// Longest wait of a writer for a grant.
    pub longest_wait: Duration,
    /// Ranges that went from one writer to another.
    pub transfers: u64,
    /// Comparisons of all replicas.
    pub comparisons: u64,
}

impl SharingSummary {
    fn add(&mut self, plan: &SharingPlan, judged: usize, lost: u64) {
        self.rounds += 1;
        self.disturbed += u64::from(plan.process.is_some());
        match plan.cut {
            None => {}
            Some(Cut::BothNetworks(_)) => self.cut_both += 1,
            Some(Cut::OneNetwork(..) | Cut::Crossed { .. }) => self.cut_one += 1,
        }
        self.lost += lost;
        self.judged += judged;
    }
}

impl fmt::Display for SharingSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds: a node disturbed in {}, one network cut in {}, both in {}; {} attachments lost, {} operations judged, \
             replicas compared {} times, {} ranges given back for others, longest gap of all survivors {}, \
             longest wait for a grant {}",
            self.rounds,
            self.disturbed,
            self.cut_one,
            self.cut_both,
            self.lost,
            self.judged,
            self.comparisons,
            self.transfers,
            millis(self.longest_gap),
            millis(self.longest_wait)
        )
    }
}

fn millis(span: Duration) -> String {
    format!("{:.0} ms", span.as_secs_f64() * 1000.0)
}

/// Runs it. An error names the round and what the nodes say.
pub fn run_sharing(options: SharingOptions<'_>, cleanup: &Cleanup) -> Result<SharingSummary> {
    let mut random = Random::new(options.seed);
    let playground = match options.cut_links {
        true => Playground::start_apart(options.dir, 3, Dedicated::ByAddress, cleanup)?,
        false => Playground::start(options.dir, 3, cleanup)?,
    };
    let mut writers = Writers::start(playground, options.replicas, random.fork())?;
    let mut summary = SharingSummary::default();
    if let Err(error) = run_rounds(&mut writers, options, &mut random, &mut summary) {
        eprintln!("{summary}\n{}", writers.describe());
        return Err(error);
    }
    writers.destroy()?;
    Ok(summary)
}

fn run_rounds(
    writers: &mut Writers,
    options: SharingOptions<'_>,
    random: &mut Random,
    summary: &mut SharingSummary,
) -> Result<()> {
    let began = Instant::now();
    writers.attach_all()?;
    for round in options.limits.rounds() {
        let plan = SharingPlan::draw(random, writers.playground.nodes().len(), options.cut_links);
        let line = run_round(writers, &plan, summary).with_context(|| format!("round {round}, {plan:?}"))?;
        println!("[{:6.1} s] {}: {line}", began.elapsed().as_secs_f64(), options.limits.shown(round));
        if round % options.compare_every == 0 {
            writers.compare(summary).with_context(|| format!("after round {round}"))?;
            writers.attach_all()?;
        }
    }
    writers.compare(summary).context("at the end")
}

//! Several nodes write one volume, each with a recording load of its own, while nodes are killed, paused and stopped. One recorder
//! judges what all of them saw.

use super::cluster::{FINISH_BOUND, FrontEnd, OPERATION_BOUND, VOLUME, Writer, timed};
use super::plan::Plan;
use crate::cleanup::Cleanup;
use crate::load::{LoadProfile, LoadSession, Recorder, RecorderLimits, Target, scan};
use crate::playground::{Fault, Playground, refusal};
use crate::random::Random;
use crate::replicas;
use crate::wait;
use anyhow::{Context, Result, anyhow, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZE_BYTES: u64 = 128 << 20;
const LOAD_BYTES: u64 = 48 << 20;
/// Operations of every writer before a disturbance, and of every survivor after it.
const OPERATIONS: u64 = 100;
const AGENT_BOUND: Duration = Duration::from_secs(20);

/// What several writers are tried with.
#[derive(Clone, Copy, Debug)]
pub struct SharingOptions<'a> {
    /// The playground's directory, which does not exist yet.
    pub dir: &'a Path,
    /// So many rounds.
    pub rounds: u64,
    /// But no new one after this time.
    pub time: Option<Duration>,
    /// Two (the third node writes without a replica) or three.
    pub replicas: usize,
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

impl std::fmt::Display for SharingSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} rounds, {} operations judged, replicas compared {} times, {} ranges given back for others, longest gap of all survivors {:.0} ms, longest wait for a grant {:.0} ms",
            self.rounds,
            self.judged,
            self.comparisons,
            self.transfers,
            self.longest_gap.as_secs_f64() * 1000.0,
            self.longest_wait.as_secs_f64() * 1000.0
        )
    }
}

struct Sharing {
    playground: Playground,
    replica_nodes: Vec<String>,
    recorder: Arc<Recorder>,
    random: Random,
    writers: BTreeMap<String, Writer>,
}

/// Runs it. An error names the round and what the nodes say.
pub fn run_sharing(options: SharingOptions<'_>, cleanup: &Cleanup) -> Result<SharingSummary> {
    let mut random = Random::new(options.seed);
    let playground = Playground::start(options.dir, 3, cleanup)?;
    let replica_nodes: Vec<String> = playground.nodes().iter().take(options.replicas).cloned().collect();
    let on = replica_nodes.join(",");
    let create = ["--on", on.as_str(), "--access", "multi-writer"];
    playground.create("a", VOLUME, &SIZE_BYTES.to_string(), options.replicas, &create)?;
    playground.wait_whole(&replica_nodes, VOLUME)?;
    let recorder = Arc::new(Recorder::new(RecorderLimits { blocks: LOAD_BYTES / 4096, found_max: 20 }));
    let mut sharing = Sharing { playground, replica_nodes, recorder, random: random.fork(), writers: BTreeMap::new() };
    let mut summary = SharingSummary::default();
    if let Err(error) = run_rounds(&mut sharing, options, &mut random, &mut summary) {
        eprintln!("{summary}\n{}", sharing.describe());
        return Err(error);
    }
    drop(sharing.writers);
    sharing.playground.destroy()?;
    Ok(summary)
}

fn run_rounds(
    sharing: &mut Sharing,
    options: SharingOptions<'_>,
    random: &mut Random,
    summary: &mut SharingSummary,
) -> Result<()> {
    let began = Instant::now();
    sharing.attach_all()?;
    for round in 1..=options.rounds {
        if options.time.is_some_and(|time| began.elapsed() >= time) {
            break;
        }
        let plan = Plan::draw(random, sharing.playground.nodes().len());
        let line = run_round(sharing, &plan, summary).with_context(|| format!("round {round}, {plan:?}"))?;
        summary.rounds += 1;
        println!("[{:6.1} s] {round}/{}: {line}", began.elapsed().as_secs_f64(), options.rounds);
        if round % options.compare_every == 0 {
            sharing.compare(summary).with_context(|| format!("after round {round}"))?;
            sharing.attach_all()?;
        }
    }
    sharing.compare(summary).context("at the end")
}

fn run_round(sharing: &mut Sharing, plan: &Plan, summary: &mut SharingSummary) -> Result<String> {
    let victim = sharing.playground.nodes().get(plan.victim).context("the plan names a node")?.clone();
    sharing.wait_progress(None).context("before the disturbance")?;
    let disturbed = sharing.recorder.now();
    sharing.playground.disturb(&victim, plan.fault, plan.whole_node)?;
    sharing.wait_progress(Some(&victim)).context("without the victim")?;
    let gap = sharing.recorder.longest_gap(disturbed, sharing.recorder.now());
    summary.longest_gap = summary.longest_gap.max(gap);
    heal(&sharing.playground, &victim, plan)?;
    let ((), whole_after) = timed(|| sharing.wait_whole())?;
    sharing.bring_back(&victim, plan)?;
    sharing.note_grants(summary);
    let judged = sharing.judge()?;
    summary.judged += judged;
    let whole_node = if plan.whole_node { ", whole node" } else { "" };
    Ok(format!(
        "{} {victim}{whole_node}, gap {:.0} ms, whole after {:.0} ms, {judged} operations judged",
        plan.fault.verb(),
        gap.as_secs_f64() * 1000.0,
        whole_after.as_secs_f64() * 1000.0
    ))
}

fn heal(playground: &Playground, victim: &str, plan: &Plan) -> Result<()> {
    if plan.fault == Fault::Pause {
        return playground.resume(victim, plan.whole_node);
    }
    playground.restart(victim, plan.whole_node)?;
    if plan.kill_again {
        playground.disturb(victim, Fault::Kill, plan.whole_node)?;
        playground.restart(victim, plan.whole_node)?;
    }
    Ok(())
}

impl Sharing {
    fn attach_all(&mut self) -> Result<()> {
        for node in self.playground.nodes().to_vec() {
            self.attach(&node)?;
        }
        Ok(())
    }

    fn attach(&mut self, node: &str) -> Result<()> {
        let front_end = if self.random.percent(50) { FrontEnd::Loop } else { FrontEnd::NbdSocket };
        let attachment = self
            .playground
            .attach(node, VOLUME, &["--front-end", front_end.name()])
            .with_context(|| format!("attach on {node}"))?;
        let target = Target::of(&attachment)?;
        self.begin(node, target, front_end);
        Ok(())
    }

    fn begin(&mut self, node: &str, target: Target, front_end: FrontEnd) {
        let profile = LoadProfile { threads: 3, ..LoadProfile::default() };
        let session = LoadSession::start(&self.recorder, target.clone(), profile, &mut self.random);
        self.writers.insert(node.to_owned(), Writer { node: node.to_owned(), target, front_end, session });
    }

    /// Every writer but one goes on.
    fn wait_progress(&self, but: Option<&String>) -> Result<()> {
        for (node, writer) in self.writers.iter().filter(|(node, _)| Some(*node) != but) {
            writer.session.wait_progress(OPERATIONS, OPERATION_BOUND).with_context(|| format!("the load on {node}"))?;
        }
        Ok(())
    }

    /// The victim writes again: by itself if it only slept and nobody expelled it, else from a new attachment.
    fn bring_back(&mut self, victim: &str, plan: &Plan) -> Result<()> {
        let writer = self.writers.get(victim).context("every node writes")?;
        if plan.fault == Fault::Pause && writer.session.wait_progress(OPERATIONS, OPERATION_BOUND).is_ok() {
            return Ok(());
        }
        let old = self.writers.remove(victim).context("just seen")?;
        self.detach(victim)?;
        self.attach(victim)?;
        // What the old attachment had under way has happened by now, or never will.
        old.session.fence();
        old.session.finish(FINISH_BOUND).with_context(|| format!("the lost load of {victim}"))?;
        self.writers[victim].session.wait_progress(OPERATIONS, OPERATION_BOUND).context("after the return")
    }

    fn detach(&self, node: &str) -> Result<()> {
        match self.playground.detach(node, VOLUME) {
            Err(error) if refusal(&error).is_some_and(|refusal| refusal.kind == "state_forbids") => Ok(()),
            other => other.with_context(|| format!("detach on {node}")),
        }
    }

    fn wait_whole(&self) -> Result<()> {
        for node in self.playground.nodes() {
            wait::until_ok(&format!("{node} answers"), AGENT_BOUND, || {
                self.playground.at(node, &["volume", "list"]).map(Some)
            })?;
        }
        self.playground.wait_whole(&self.replica_nodes, VOLUME)
    }

    /// What a counter of an engine that was restarted had is gone; that is for a summary good enough.
    fn note_grants(&self, summary: &mut SharingSummary) {
        for node in self.playground.nodes() {
            let Ok(status) = self.playground.at(node, &["volume", "status", VOLUME]) else { continue };
            let number = |name: &str| status["grants"][name].as_u64().unwrap_or(0);
            summary.longest_wait = summary.longest_wait.max(Duration::from_micros(number("wait_max_us")));
            summary.transfers = summary.transfers.max(number("given"));
        }
    }

    /// Stops all loads, reads everything back at one node, judges every block's history, and starts the loads again.
    fn judge(&mut self) -> Result<usize> {
        let writers = std::mem::take(&mut self.writers);
        let mut again = Vec::new();
        for (node, writer) in writers {
            writer.session.finish(FINISH_BOUND).with_context(|| format!("stop the load on {node}"))?;
            again.push((node, writer.target, writer.front_end));
        }
        let at = usize::try_from(self.random.below(again.len() as u64)).unwrap_or(0);
        let (_, target, _) = again.get(at).context("somebody writes")?;
        let contents = scan(&self.recorder, target);
        let judged = self.recorder.check().map_err(|found| {
            let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
            anyhow!("the volume is wrong:\n{}", lines.join("\n"))
        })?;
        self.recorder.checkpoint(&contents?);
        for (node, target, front_end) in again {
            self.begin(&node, target, front_end);
        }
        Ok(judged)
    }

    /// Detaches everywhere and compares the replicas: by digest with everything running, byte by byte with everything stopped.
    fn compare(&mut self, summary: &mut SharingSummary) -> Result<()> {
        for (node, writer) in std::mem::take(&mut self.writers) {
            writer.session.finish(FINISH_BOUND).with_context(|| format!("stop the load on {node}"))?;
            self.detach(&node)?;
        }
        let first = self.replica_nodes.first().context("a volume has replicas")?;
        let verified = self.playground.at(first, &["volume", "verify", VOLUME])?;
        ensure!(verified["bytes_different"] == 0, "volume verify says {verified}");
        self.playground.nodes().iter().try_for_each(|node| self.playground.disturb(node, Fault::Stop, true))?;
        let file = |node: &String| replicas::data_file(&self.playground.pool_dir(node)?, SIZE_BYTES);
        let files = self.replica_nodes.iter().map(file).collect::<Result<Vec<_>>>()?;
        replicas::compare(&files, SIZE_BYTES)?;
        self.playground.nodes().iter().try_for_each(|node| self.playground.restart(node, true))?;
        summary.comparisons += 1;
        self.wait_whole()
    }

    fn describe(&self) -> String {
        let show = |node: &String| {
            let status = self.playground.at(node, &["volume", "status", VOLUME]);
            format!("{node}: {}", status.map_or_else(|error| format!("{error:#}"), |it| it.to_string()))
        };
        self.playground.nodes().iter().map(show).collect::<Vec<_>>().join("\n")
    }
}

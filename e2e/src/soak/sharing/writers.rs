//! The nodes of a volume, each with an attachment and a load.

use super::{LOAD_BYTES, OPERATIONS, SIZE_BYTES, SharingSummary};
use crate::load::{LoadProfile, LoadSession, Recorder, RecorderLimits, Target, scan};
use crate::playground::{Fault, Playground};
use crate::random::Random;
use crate::replicas;
use crate::soak::cluster::{FINISH_BOUND, FrontEnd, OPERATION_BOUND, VOLUME, Writer};
use crate::wait;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The playground, the loads on it and what they recorded.
pub(super) struct Writers {
    pub playground: Playground,
    pub recorder: Arc<Recorder>,
    replica_nodes: Vec<String>,
    random: Random,
    by_node: BTreeMap<String, Writer>,
}

/// How far each load has got when it is looked at, and what it is to reach.
pub(super) struct Progress<'a> {
    writers: &'a Writers,
    goals: BTreeMap<&'a str, u64>,
}

impl Progress<'_> {
    fn reached(&self, node: &str) -> bool {
        let completed = self.writers.by_node.get(node).map(|writer| writer.session.counts().completed());
        completed >= self.goals.get(node).copied() && completed.is_some()
    }

    /// Waits until of each of these groups one load has gone on.
    pub fn wait(&self, groups: &[Vec<String>]) -> Result<()> {
        for group in groups {
            wait::until_true(&format!("the load on {} goes on", group.join(" or ")), OPERATION_BOUND, || {
                Ok(group.iter().any(|node| self.reached(node)))
            })
            .with_context(|| {
                format!("{:?}", group.iter().map(|node| self.writers.load_of(node)).collect::<Vec<_>>())
            })?;
        }
        Ok(())
    }
}

impl Writers {
    /// Creates the volume; nothing is attached yet.
    pub fn start(playground: Playground, replicas: usize, random: Random) -> Result<Self> {
        let replica_nodes: Vec<String> = playground.nodes().iter().take(replicas).cloned().collect();
        let on = replica_nodes.join(",");
        let create = ["--on", on.as_str(), "--access", "multi-writer"];
        playground.create("a", VOLUME, &SIZE_BYTES.to_string(), replicas, &create)?;
        playground.wait_whole(&replica_nodes, VOLUME)?;
        let recorder = Arc::new(Recorder::new(RecorderLimits { blocks: LOAD_BYTES / 4096, found_max: 20 }));
        Ok(Writers { playground, recorder, replica_nodes, random, by_node: BTreeMap::new() })
    }

    /// Every load is to go on from here.
    pub fn progress(&self) -> Progress<'_> {
        let goal = |writer: &Writer| writer.session.counts().completed() + OPERATIONS;
        let goals = self.by_node.iter().map(|(node, writer)| (node.as_str(), goal(writer))).collect();
        Progress { writers: self, goals }
    }

    fn load_of(&self, node: &str) -> String {
        self.by_node.get(node).map_or_else(String::new, |writer| {
            format!("{node}: {:?}, last error: {:?}", writer.session.counts(), writer.session.last_error())
        })
    }

    /// Attaches at every node.
    pub fn attach_all(&mut self) -> Result<()> {
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
        self.by_node.insert(node.to_owned(), Writer { node: node.to_owned(), target, front_end, session });
    }

    /// Every node writes again: by itself, or from a new attachment where the old one is lost. Returns how many were lost.
    pub fn bring_back(&mut self, ended: &BTreeSet<String>) -> Result<u64> {
        let mut lost = 0;
        for node in self.playground.nodes().to_vec() {
            if !ended.contains(&node) && !self.is_lost(&node)? {
                continue;
            }
            lost += 1;
            let old = self.by_node.remove(&node).context("every node writes")?;
            self.detach(&node)?;
            self.attach(&node)?;
            // What the old attachment had under way has happened by now, or never will.
            old.session.fence();
            old.session.finish(FINISH_BOUND).with_context(|| format!("the lost load of {node}"))?;
            self.progress().wait(&[vec![node.clone()]]).with_context(|| format!("after the return of {node}"))?;
        }
        Ok(lost)
    }

    /// Either a load goes on, or its node knows that it was expelled: nothing else is left once everything is healed.
    fn is_lost(&self, node: &str) -> Result<bool> {
        let progress = self.progress();
        wait::until_ok(&format!("{node} writes, or knows why not"), OPERATION_BOUND, || {
            if progress.reached(node) {
                return Ok(Some(false));
            }
            let status = self.playground.status(node, VOLUME)?;
            if !status.writers.iter().any(|writer| writer == node) {
                return Ok(Some(true));
            }
            bail!("{}, state {}, writers {:?}", self.load_of(node), status.state, status.writers)
        })
    }

    fn detach(&self, node: &str) -> Result<()> {
        self.playground.detach_if_attached(node, VOLUME).with_context(|| format!("detach on {node}"))
    }

    /// Every agent and engine answers, and every replica is in sync.
    pub fn wait_whole(&self) -> Result<()> {
        self.playground.wait_answers()?;
        self.playground.wait_whole(&self.replica_nodes, VOLUME)
    }

    /// What a counter of an engine that was restarted had is gone; that is for a summary good enough.
    pub fn note_grants(&self, summary: &mut SharingSummary) {
        for node in self.playground.nodes() {
            let Ok(status) = self.playground.at(node, &["volume", "status", VOLUME]) else { continue };
            let number = |name: &str| status["grants"][name].as_u64().unwrap_or(0);
            summary.longest_wait = summary.longest_wait.max(Duration::from_micros(number("wait_max_us")));
            summary.transfers = summary.transfers.max(number("given"));
        }
    }

    /// Stops all loads, reads everything back at one node, judges every block's history, and starts the loads again.
    pub fn judge(&mut self) -> Result<usize> {
        let writers = std::mem::take(&mut self.by_node);
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
    pub fn compare(&mut self, summary: &mut SharingSummary) -> Result<()> {
        for (node, writer) in std::mem::take(&mut self.by_node) {
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

    /// What a person needs to see when something went wrong.
    pub fn describe(&self) -> String {
        let show = |node: &String| {
            let status = self.playground.at(node, &["volume", "status", VOLUME]);
            format!("{node}: {}", status.map_or_else(|error| format!("{error:#}"), |it| it.to_string()))
        };
        self.playground.nodes().iter().map(show).collect::<Vec<_>>().join("\n")
    }

    /// Destroys the playground, and says what went wrong.
    pub fn destroy(self) -> Result<()> {
        drop(self.by_node);
        self.playground.destroy()
    }
}

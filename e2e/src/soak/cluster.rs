//! A playground with one volume, where it is attached, and the load that runs on it.

use crate::cleanup::Cleanup;
use crate::load::{LoadProfile, LoadSession, Recorder, RecorderLimits, Target, scan};
use crate::playground::{Fault, Playground};
use crate::random::Random;
use crate::replicas;
use anyhow::{Context, Result, anyhow, bail, ensure};
use lockstep_sim::history::Moment;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The volume's name.
pub const VOLUME: &str = "soak";
/// No operation may take longer than this, whatever happens to one node (the failure table's longest stall, doubled for a
/// busy machine).
pub const OPERATION_BOUND: Duration = Duration::from_secs(15);
/// For the operations of a session to end once everything runs again.
pub const FINISH_BOUND: Duration = Duration::from_secs(30);

/// How a volume is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontEnd {
    /// A loop device over FUSE.
    Loop,
    /// An NBD socket.
    NbdSocket,
}

impl FrontEnd {
    /// The command line's name for it.
    pub fn name(self) -> &'static str {
        match self {
            FrontEnd::Loop => "loop",
            FrontEnd::NbdSocket => "nbd-socket",
        }
    }
}

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct ClusterStart<'a> {
    /// The playground's directory.
    pub dir: &'a Path,
    /// Two or three.
    pub replicas: usize,
    /// Of the volume.
    pub size_bytes: u64,
    /// The part of it that the load touches.
    pub load_bytes: u64,
    /// What the load does.
    pub profile: LoadProfile,
    /// Only this front end; else any.
    pub front_end: Option<FrontEnd>,
    /// Nodes that keep their replicas elsewhere than in the playground.
    pub pools: &'a [(&'a str, &'a Path)],
    /// How many nodes there are: five at most.
    pub nodes: usize,
    /// Further options of `playground start`.
    pub start_options: &'a [&'a str],
    /// Further options of `volume create`.
    pub volume_options: &'a [&'a str],
}

/// The cluster.
pub struct Cluster {
    playground: Playground,
    replica_nodes: Vec<String>,
    size_bytes: u64,
    profile: LoadProfile,
    front_end: Option<FrontEnd>,
    recorder: Arc<Recorder>,
    random: Random,
    writer: Option<Writer>,
}

/// An attachment with its load.
pub struct Writer {
    /// The node.
    pub node: String,
    /// Where the load goes.
    pub target: Target,
    /// The front end.
    pub front_end: FrontEnd,
    /// The load.
    pub session: LoadSession,
}

impl Cluster {
    /// Starts the nodes and creates the volume; nothing is attached yet.
    pub fn start(start: ClusterStart<'_>, mut random: Random, cleanup: &Cleanup) -> Result<Self> {
        let playground = Playground::start_with(start.dir, start.nodes, start.start_options, cleanup)?;
        for (node, pool) in start.pools {
            playground.set_pool(node, pool)?;
        }
        let replica_nodes: Vec<String> = playground.nodes().iter().take(start.replicas).cloned().collect();
        let on = replica_nodes.join(",");
        let size = start.size_bytes.to_string();
        let options = [&["--on", &on], start.volume_options].concat();
        playground.create("a", VOLUME, &size, start.replicas, &options)?;
        playground.wait_whole(&replica_nodes, VOLUME)?;
        let limits = RecorderLimits { blocks: start.load_bytes / 4096, found_max: 20 };
        Ok(Cluster {
            playground,
            replica_nodes,
            size_bytes: start.size_bytes,
            profile: start.profile,
            front_end: start.front_end,
            recorder: Arc::new(Recorder::new(limits)),
            random: random.fork(),
            writer: None,
        })
    }

    /// The playground.
    pub fn playground(&self) -> &Playground {
        &self.playground
    }

    /// The nodes with replicas.
    pub fn replica_nodes(&self) -> &[String] {
        &self.replica_nodes
    }

    /// What was recorded.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The attachment in use.
    pub fn writer(&self) -> Result<&Writer> {
        self.writer.as_ref().ok_or_else(|| anyhow!("the volume is not attached"))
    }

    /// Attaches at a node and starts the load. Returns the attachment that was in use before, whose load still runs.
    pub fn attach(&mut self, node: &str, take_over: bool) -> Result<Option<Writer>> {
        let front_end =
            self.front_end.unwrap_or(if self.random.percent(50) { FrontEnd::Loop } else { FrontEnd::NbdSocket });
        self.attach_as(node, front_end, take_over)
    }

    /// Like [`Cluster::attach`], with a front end by name.
    pub fn attach_as(&mut self, node: &str, front_end: FrontEnd, take_over: bool) -> Result<Option<Writer>> {
        let mut options = vec!["--front-end", front_end.name()];
        if take_over {
            options.push("--take-over");
        }
        let attachment = self.playground.attach(node, VOLUME, &options)?;
        let target = Target::of(&attachment)?;
        // What the old writer has under way has happened by now, or never will.
        if let Some(old) = &self.writer {
            old.session.fence();
        }
        let session = LoadSession::start(&self.recorder, target.clone(), self.profile, &mut self.random);
        Ok(self.writer.replace(Writer { node: node.to_owned(), target, front_end, session }))
    }

    /// Detaches; the load must have been finished. A node that was expelled meanwhile has nothing to detach.
    pub fn detach(&self, node: &str) -> Result<()> {
        self.playground.detach_if_attached(node, VOLUME)
    }

    /// Waits until every node's agent and engine answer, and every replica is in sync.
    pub fn wait_whole(&self) -> Result<()> {
        self.playground.wait_answers()?;
        self.playground.wait_whole(&self.replica_nodes, VOLUME)
    }

    /// Stops the load, reads everything back, judges every block's history, and starts a new one. The volume
    /// stays attached. Returns how many operations were judged.
    pub fn judge(&mut self) -> Result<usize> {
        let Some(Writer { node, target, front_end, session }) = self.writer.take() else {
            bail!("nothing is attached that could be read");
        };
        session.finish(FINISH_BOUND).with_context(|| format!("stop the load on {node}"))?;
        let contents = scan(&self.recorder, &target);
        // A history that is bad explains a scan that failed.
        let judged = self.recorder.check().map_err(|found| {
            let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
            anyhow!("the volume is wrong:\n{}", lines.join("\n"))
        })?;
        self.recorder.checkpoint(&contents?);
        let session = LoadSession::start(&self.recorder, target.clone(), self.profile, &mut self.random);
        self.writer = Some(Writer { node, target, front_end, session });
        Ok(judged)
    }

    /// Ends the load and the attachment, once its history has been judged.
    pub fn release(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        writer.session.finish(FINISH_BOUND).with_context(|| format!("stop the load on {}", writer.node))?;
        self.detach(&writer.node)
    }

    /// Compares the replicas: by digest with everything running, and byte by byte with everything stopped, and starts all
    /// again. Nothing may be attached.
    pub fn compare(&self) -> Result<()> {
        let first = self.replica_nodes.first().context("a volume has replicas")?;
        let verified = self.playground.at(first, &["volume", "verify", VOLUME])?;
        ensure!(verified["bytes_different"] == 0, "volume verify says {verified}");
        self.stop_all()?;
        self.compare_files()?;
        self.restart_all()?;
        self.wait_whole()
    }

    /// Compares the replicas' files; no engine may run.
    pub fn compare_files(&self) -> Result<()> {
        let paths = self.replica_nodes.iter().map(|node| self.data_file(node)).collect::<Result<Vec<_>>>()?;
        replicas::compare(&paths, self.size_bytes).map(|_| ())
    }

    /// The file of a node's replica.
    pub fn data_file(&self, node: &str) -> Result<PathBuf> {
        replicas::data_file(&self.playground.pool_dir(node)?, self.size_bytes)
    }

    /// Stops all nodes as planned.
    pub fn stop_all(&self) -> Result<()> {
        self.playground.nodes().iter().try_for_each(|node| self.playground.disturb(node, Fault::Stop, true))
    }

    /// Starts all nodes.
    pub fn restart_all(&self) -> Result<()> {
        self.playground.nodes().iter().try_for_each(|node| self.playground.restart(node, true))
    }

    /// The sum of a counter over some nodes; a node that does not answer has none.
    pub fn counter(&self, nodes: &[String], name: &str) -> u64 {
        nodes
            .iter()
            .filter_map(|node| self.playground.status(node, VOLUME).ok())
            .map(|status| status.counter(name))
            .sum()
    }

    /// What a person needs to see of a cluster in which something went wrong.
    pub fn describe(&self) -> String {
        let mut lines = Vec::new();
        for node in self.playground.nodes() {
            let status = self.playground.at(node, &["volume", "status", VOLUME]);
            lines.push(format!("{node}: {}", status.map_or_else(|error| format!("{error:#}"), |it| it.to_string())));
        }
        if let Ok(processes) = self.playground.processes() {
            lines.push(format!("{processes:?}"));
        }
        lines.join("\n")
    }

    /// Destroys it, and says what went wrong.
    pub fn destroy(self) -> Result<()> {
        drop(self.writer);
        self.playground.destroy()
    }

    /// The recorder's clock.
    pub fn now(&self) -> Moment {
        self.recorder.now()
    }
}

/// How long something took.
pub(super) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let began = Instant::now();
    work().map(|result| (result, began.elapsed()))
}

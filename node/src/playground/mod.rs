//! Several nodes on one machine: a directory per node, loopback addresses, the real programs.
//!
//! Everything that a playground has is under its directory or recorded there, and nothing else is ever touched: processes by
//! their records, loop devices by the file behind them, mounts by their place.

mod clean;
mod layout;
mod node;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::failure::Failure;
use crate::process::Observed;
use crate::state_dir::Program;

pub use layout::{NODES_MAX, Playground};

/// How long a clean shutdown may take: everything in flight is flushed, on a disk that may be busy.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// How long a killed process may take to be gone: its disk writes must land first.
const KILL_WITHIN: Duration = Duration::from_secs(30);

/// How long the programs may take until they answer.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Processes of one node, as seen now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeState {
    /// Its name.
    pub node: String,
    /// Keeps devices while the engine restarts.
    pub holder: Observed,
    /// Starts the worker and reports its exit.
    pub supervisor: Observed,
    /// Carries the data.
    pub worker: Observed,
    /// Speaks with the command line.
    pub agent: Observed,
    /// Process ids of what exists.
    pub pids: Pids,
}

/// Process ids of what exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// Of the holder.
    pub holder: Option<i32>,
    /// Of the supervisor.
    pub supervisor: Option<i32>,
    /// Of the worker.
    pub worker: Option<i32>,
    /// Of the agent.
    pub agent: Option<i32>,
}

impl NodeState {
    /// What one of the programs does.
    #[must_use]
    pub const fn of(&self, program: Program) -> Observed {
        match program {
            Program::Holder => self.holder,
            Program::Supervisor => self.supervisor,
            Program::Worker => self.worker,
            Program::Agent => self.agent,
        }
    }
}

/// What can be done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// SIGKILL.
    Kill,
    /// Clean shutdown.
    Stop,
    /// Start what does not run.
    Restart,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
}

/// The default directory of a playground.
#[must_use]
pub fn default_dir() -> PathBuf {
    Path::new("lockstep-playground").to_owned()
}

fn host(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
    let doing = doing.into();
    move |error| Failure::of_host(&doing, &error)
}

//! The program `lockstep-engine`: two processes of one program.
//!
//! The *supervisor* is small and does nothing that could fail: it starts the worker, and when the worker's process is over it
//! says so to the peers, who then need not wait for silence. The *worker* carries the data.

mod admin;
mod attachments;
mod awaiting;
mod engine_port;
mod holder_link;
mod known_nodes;
mod leases;
mod meter;
mod metrics;
mod resume;
mod status;
mod supervisor;
mod worker;

use std::path::PathBuf;

use anyhow::bail;

use self::known_nodes::KnownNodes;
use crate::cluster::{Cluster, Node};
use crate::state_dir::StateDir;

/// What both processes are started with.
#[derive(Clone, Debug, clap::Args)]
pub struct EngineOptions {
    /// The node's state directory
    #[arg(long)]
    pub state_dir: PathBuf,
    /// The cluster file [default: cluster.toml in the state directory]
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// This node's name in the cluster file
    #[arg(long)]
    pub node: String,
    /// The holder's socket [default: holder.sock in the state directory]
    #[arg(long)]
    pub holder: Option<PathBuf>,
    /// Start the worker again when it has crashed, and wait for a cluster file that is not there yet
    #[arg(long)]
    pub restart: bool,
}

/// The options, looked up.
struct Place {
    nodes: KnownNodes,
    me: Node,
    state: StateDir,
}

impl EngineOptions {
    /// Where the holder listens, if one runs.
    fn holder_socket(&self, state: &StateDir) -> PathBuf {
        self.holder.clone().unwrap_or_else(|| state.holder_socket())
    }

    fn place(&self) -> anyhow::Result<Place> {
        let state = StateDir::new(std::path::absolute(&self.state_dir)?);
        let cluster = Cluster::read(&self.config.clone().unwrap_or_else(|| state.cluster_file()))?;
        let Some(me) = cluster.node(&self.node).cloned() else {
            bail!("node {:?} is not in the cluster file", self.node);
        };
        std::fs::create_dir_all(state.path())?;
        Ok(Place { nodes: KnownNodes::open(cluster, me.id, &state)?, me, state })
    }
}

pub use awaiting::await_config;
pub use supervisor::run as supervise;
pub use worker::{Ended, run as work};

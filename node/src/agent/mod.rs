//! The agent of a node: keeps the pool, speaks with the command line, with its engine and with the other agents.
//!
//! It remembers little: which volumes exist, and what it began and has not finished. Everything else it observes, in the
//! engine and on the host, whenever it is asked; so it may be killed at any moment and started again.

mod attach;
mod create;
mod delete;
mod describe;
mod forgotten;
mod leases;
mod peer_calls;
mod plan;
mod program;
mod registry;
mod seal;
mod service;
mod upkeep;
mod volumes;

pub use program::{AgentOptions, run};
pub use seal::random_bytes;

use std::sync::Mutex;
use std::time::Duration;

use lockstep_leases::Leases;
use lockstep_proto::node::v1::engine_client::EngineClient;
use tonic::transport::Channel;

use crate::cluster::{Cluster, Node};
use crate::pool::OpenPool;
use crate::pool::marker::{Marker, MarkerVersion};
use crate::rpc;
use crate::state_dir::StateDir;

use peer_calls::Peers;
use registry::Registry;
use seal::{Challenges, SealKey};

/// How long making, deleting or growing a replica may take: metadata is written and flushed, on a disk that may be busy.
const CHANGE_WITHIN: Duration = Duration::from_secs(30);

/// The agent's state and whom it speaks with.
struct Agent {
    cluster: Cluster,
    me: Node,
    state: StateDir,
    registry: Registry,
    engine: EngineClient<Channel>,
    key: SealKey,
    challenges: Challenges,
    peers: Peers,
    /// Access to Leases, where the cluster file names a kubeconfig.
    leases: Option<Leases>,
    /// The pool, or why it is not open; an empty reason: nobody has looked yet.
    pool: Mutex<Result<Option<OpenPool>, String>>,
    /// Why the engine does not take the pool, if it says so.
    pool_refused: Mutex<String>,
    /// Held while a creation or deletion runs: what is not finished and not running is taken up again.
    changing: tokio::sync::Mutex<()>,
    /// Held while this node's part of a volume is made or deleted, so that nobody takes what is half made for forgotten.
    part: tokio::sync::Mutex<()>,
}

impl Agent {
    fn new(cluster: Cluster, me: Node, state: StateDir, registry: Registry) -> Self {
        let key = SealKey::new(&cluster.psk);
        Self {
            engine: EngineClient::new(rpc::unix_channel(state.engine_socket())),
            peers: Peers::new(&cluster),
            leases: cluster.leases().map(|place| Leases::new(place, me.name.clone())),
            key,
            challenges: Challenges::default(),
            registry,
            pool: Mutex::new(Err(String::new())),
            pool_refused: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            part: tokio::sync::Mutex::new(()),
            cluster,
            me,
            state,
        }
    }

    fn engine(&self) -> EngineClient<Channel> {
        self.engine.clone()
    }

    /// How the engine is called in errors.
    fn engine_name(&self) -> String {
        format!("the engine of node {}", self.me.name)
    }

    fn pool(&self) -> Result<Option<OpenPool>, String> {
        self.pool.lock().expect("no holder panics").clone()
    }
}

/// What marks a pool as the one of node `me`.
#[must_use]
pub fn pool_marker(cluster: &Cluster, me: &Node) -> Marker {
    Marker { version: MarkerVersion::V1, cluster: cluster.psk.fingerprint(), node_id: me.id, node: me.name.clone() }
}

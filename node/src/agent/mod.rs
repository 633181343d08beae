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
mod members;
mod peer_calls;
mod plan;
mod program;
mod registry;
mod seal;
mod service;
mod upkeep;
mod volumes;

pub(crate) use describe::describe_address;
pub(crate) use members::FoundConfiguration;
pub(crate) use program::serve_callers;
pub use program::{AgentOptions, run};
pub use seal::random_bytes;
pub(crate) use upkeep::keep_up;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockstep_leases::Leases;
use lockstep_proto::node::v1 as proto;
use lockstep_proto::node::v1::engine_client::EngineClient;
use tonic::transport::Channel;

use crate::cluster::{Cluster, Node};
use crate::failure::Failure;
use crate::pool::OpenPool;
use crate::pool::marker::{Marker, MarkerVersion};
use crate::rpc;
use crate::spec::Spec;
use crate::state_dir::StateDir;

use peer_calls::Peers;
use registry::Registry;
use seal::{Challenges, SealKey};

/// How long making, deleting or growing a replica may take: metadata is written and flushed, on a disk that may be busy.
const CHANGE_WITHIN: Duration = Duration::from_secs(30);

/// The agent's state and whom it speaks with.
pub(crate) struct Agent {
    /// Of a cluster that Kubernetes keeps it changes while the agent runs.
    cluster: Mutex<Arc<Cluster>>,
    me: Node,
    state: StateDir,
    /// Who makes and deletes volumes.
    keeper: Keeper,
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

/// Who makes and deletes volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// The agents, whenever the command line asks.
    Agents,
    /// A controller, by objects of Kubernetes. This agent then knows the volumes that it has a part of, and no others.
    Kubernetes,
}

impl Agent {
    /// The agent with what it remembers. In a runtime: channels belong to one, even before they connect.
    pub(crate) fn open(
        cluster: Cluster,
        me: Node,
        state: StateDir,
        keeper: Keeper,
    ) -> Result<Self, registry::RegistryError> {
        let registry = Registry::open(&state)?;
        Ok(Self::new((cluster, me), state, registry, keeper))
    }

    fn new((cluster, me): (Cluster, Node), state: StateDir, registry: Registry, keeper: Keeper) -> Self {
        let key = SealKey::new(&cluster.psk);
        Self {
            engine: EngineClient::new(rpc::unix_channel(state.engine_socket())),
            peers: Peers::default(),
            leases: cluster.leases().map(|place| Leases::new(place, me.name.clone())),
            key,
            challenges: Challenges::default(),
            registry,
            keeper,
            pool: Mutex::new(Err(String::new())),
            pool_refused: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            part: tokio::sync::Mutex::new(()),
            cluster: Mutex::new(Arc::new(cluster)),
            me,
            state,
        }
    }

    /// The cluster as it is known now.
    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster.lock().expect("no holder panics"))
    }

    /// Nodes came, moved or went, or the pool's place is known.
    pub(crate) fn set_cluster(&self, cluster: Cluster) {
        let mut known = self.cluster.lock().expect("no holder panics");
        let moved = known.this.pool != cluster.this.pool;
        *known = Arc::new(cluster);
        drop(known);
        if moved {
            *self.pool.lock().expect("no holder panics") = Err(String::new());
        }
    }

    /// This node.
    pub(crate) const fn me(&self) -> &Node {
        &self.me
    }

    /// Where it keeps its state.
    pub(crate) const fn state(&self) -> &StateDir {
        &self.state
    }

    /// A volume that this agent remembers.
    pub(crate) fn known_volume(&self, name: &str) -> Option<Spec> {
        self.registry.volume(name)
    }

    /// Refuses what a controller does, where there is one.
    fn check_keeper(&self, what: &str) -> Result<(), Failure> {
        match self.keeper {
            Keeper::Agents => Ok(()),
            Keeper::Kubernetes => {
                Err(Failure::state_forbids(format!("Kubernetes keeps the volumes here: {what} by a claim")))
            }
        }
    }

    /// What the engine says of itself.
    pub(crate) async fn identity(&self) -> Result<proto::EngineIdentity, Failure> {
        let mut engine = self.engine();
        rpc::answer(&self.engine_name(), rpc::ANSWER_WITHIN, engine.get_identity(proto::GetIdentityRequest {})).await
    }

    pub(crate) fn engine(&self) -> EngineClient<Channel> {
        self.engine.clone()
    }

    /// How the engine is called in errors.
    pub(crate) fn engine_name(&self) -> String {
        format!("the engine of node {}", self.me.name)
    }

    fn pool(&self) -> Result<Option<OpenPool>, String> {
        self.pool.lock().expect("no holder panics").clone()
    }
}

/// What marks a pool as the one of node `me`.
#[must_use]
pub fn pool_marker(cluster: &Cluster, me: &Node) -> Marker {
    let (version, cluster, node) = (MarkerVersion::V1, cluster.psk.fingerprint(), me.name.clone());
    Marker { version, cluster, node_id: me.id, node, device: false }
}

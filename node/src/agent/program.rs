//! The program `lockstep-node`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use lockstep_proto::node::v1::node_server::NodeServer;
use lockstep_proto::node::v1::peer_server::PeerServer;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::peer_calls::PeerService;
use super::service::NodeService;
use super::{Agent, Keeper, upkeep};
use crate::cluster::Cluster;
use crate::host::lock;
use crate::process::{self, Record};
use crate::rpc;
use crate::state_dir::{Program, StateDir};

/// What the agent is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentOptions {
    /// The node's state directory
    #[arg(long)]
    pub state_dir: PathBuf,
    /// The cluster file [default: cluster.toml in the state directory]
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// This node's name in the cluster file
    #[arg(long)]
    pub node: String,
}

/// Runs the agent until it is told to end.
///
/// # Errors
/// What keeps it from starting, or from going on.
pub fn run(options: &AgentOptions) -> anyhow::Result<()> {
    let state = StateDir::new(std::path::absolute(&options.state_dir)?);
    let cluster = Cluster::read(&options.config.clone().unwrap_or_else(|| state.cluster_file()))?;
    let Some(me) = cluster.node(&options.node).cloned() else {
        bail!("node {:?} is not in the cluster file", options.node);
    };
    std::fs::create_dir_all(state.path()).with_context(|| format!("make {}", state.path().display()))?;
    let Some(_lock) = lock::try_lock(&state.path().join("agent.lock"))? else {
        bail!("another agent runs with the state directory {}", state.path().display());
    };
    let pid_file = state.pid_file(Program::Agent);
    Record::of_self()?.write(&pid_file)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // Channels belong to the runtime, even before they connect.
    let served = runtime.block_on(async { serve(Agent::open(cluster, me, state, Keeper::Agents)?).await });
    // Blocking work on a dead disk must not keep the program.
    runtime.shutdown_background();
    process::forget_self(&pid_file);
    served
}

async fn serve(agent: Agent) -> anyhow::Result<()> {
    let agent = Arc::new(agent);
    let callers = serve_callers(&agent)?;
    tracing::info!(node = agent.me.name, address = %agent.me.agent_address(), "agent started");
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        result = callers => result?,
        () = upkeep::keep_up(Arc::clone(&agent)) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(node = agent.me.name, "agent ended");
    if let Err(error) = std::fs::remove_file(agent.state.node_socket()) {
        tracing::debug!(%error, "socket stays");
    }
    Ok(())
}

/// Serves the command line and the other agents. It listens when this returns.
///
/// # Errors
/// An address or a path is taken.
pub(crate) fn serve_callers(agent: &Arc<Agent>) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let (socket, address) = (agent.state.node_socket(), agent.me.agent_address());
    let listener = std::net::TcpListener::bind(address).with_context(|| format!("listen at {address}"))?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener).with_context(|| format!("listen at {address}"))?;
    let incoming = rpc::listen_unix(&socket).with_context(|| format!("listen at {}", socket.display()))?;
    let peers = Server::builder()
        .add_service(PeerServer::new(PeerService(Arc::clone(agent))))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let callers =
        Server::builder().add_service(NodeServer::new(NodeService(Arc::clone(agent)))).serve_with_incoming(incoming);
    Ok(async {
        tokio::select! {
            result = peers => result.context("serve the other agents"),
            result = callers => result.context("serve the command line"),
        }
    })
}

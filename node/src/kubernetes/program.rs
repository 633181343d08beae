//! The program `lockstep-node kubernetes`: everything that the agent of a node in a cluster does, in one runtime.
//!
//! What is attached is nobody's business here when the program ends: engine and devices go on, and the next run finds them.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use lockstep_csi::registration::Registered;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::attacher::Attacher;
use super::cluster_agent::{ClusterAgent, pool_place, write_cluster};
use super::ending_pods::EndingPods;
use super::health::{self, Health};
use super::identity::Identity;
use super::node_lease::{NodeLease, RENEW_WITHIN};
use super::nodes::plan_nodes;
use super::objects::{Objects, connect};
use super::options::{KubernetesOptions, read_key};
use crate::agent::{self, Agent, Keeper};
use crate::cluster::{Cluster, Node, Psk, This};
use crate::csi::users::Users;
use crate::csi::{self, CsiNode, KubeletDir, Place};
use crate::host::lock;
use crate::state_dir::StateDir;

/// Where the CSI services name devices, below the directory in which the agent does. No volume has such a name.
const CSI_DEVICES: &str = "csi.d";

/// Runs the agent of a node in a cluster until it is told to end.
///
/// # Errors
/// What keeps it from starting, or from going on.
pub fn run(options: &KubernetesOptions) -> anyhow::Result<()> {
    options.check()?;
    let key = read_key(&options.key_file)?;
    let state = StateDir::new(std::path::absolute(&options.state_dir)?);
    std::fs::create_dir_all(state.path()).with_context(|| format!("make {}", state.path().display()))?;
    let Some(_lock) = lock::try_lock(&state.path().join("agent.lock"))? else {
        bail!("another agent runs with the state directory {}", state.path().display());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(serve(options, key, state));
    // Blocking work on a dead disk must not keep the program.
    runtime.shutdown_background();
    served
}

async fn serve(options: &KubernetesOptions, key: Psk, state: StateDir) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let health = Health::default();
    let objects = Arc::new(Objects::new(options.node.clone(), connect(options, None).await?));
    let work = async {
        let cluster = find_cluster(options, key, &state, (&objects, &health)).await?;
        work(options, cluster, state, (&objects, &health)).await
    };
    tokio::select! {
        result = work => result?,
        result = health::serve(options.health_address, health.clone()) => result?,
        () = objects.watch() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(node = options.node, "agent ended");
    Ok(())
}

/// The cluster as this node knows it from its last run; at the first run as the API server says it.
async fn find_cluster(
    options: &KubernetesOptions,
    key: Psk,
    state: &StateDir,
    (objects, health): (&Objects, &Health),
) -> anyhow::Result<(Cluster, Node)> {
    let listed = async |what: &str| {
        health.wait_for(what);
        let mut changes = objects.pools.changes();
        while !objects.pools.is_listed() {
            changes.changed().await.context("watch the pools")?;
        }
        anyhow::Ok(changes)
    };
    let identity = match Identity::read(state.path())? {
        Some(identity) => identity,
        None => {
            listed("the API server").await?;
            let pools = objects.pools.all();
            let statuses = pools.iter().filter_map(|pool| pool.status.as_ref());
            let taken: BTreeSet<u32> = statuses.map(|status| status.node_id).collect();
            let made = Identity::make(state.path(), &taken)?;
            tracing::info!(node_id = made.node_id, "identity_made");
            made
        }
    };
    let me = Node {
        id: identity.node_id,
        name: options.node.clone(),
        address: options.address,
        dedicated: options.dedicated.0,
        port: options.port,
    };
    let known = Cluster::read(&state.cluster_file()).ok();
    let known = known.filter(|known| known.node_by_id(me.id).is_some_and(|node| node.name == me.name));
    let (others, pool) = match known {
        Some(known) => (known.nodes, known.this.pool),
        None => {
            let mut changes = listed("this node's MirrorPool").await?;
            let own = loop {
                match objects.pools.get(&options.node) {
                    Some(own) => break own,
                    None => changes.changed().await.context("watch the pools")?,
                }
            };
            (Vec::new(), pool_place(&own))
        }
    };
    let pools = objects.pools.all();
    // While the API server is away, nobody is known to be gone.
    let nodes = match objects.pools.is_listed() {
        true => plan_nodes(&others, &me, &pools).file,
        false => others.into_iter().filter(|node| node.id != me.id).chain([me.clone()]).collect(),
    };
    let cluster = Cluster { psk: key, nodes, this: this(options, me.id, pool) };
    // Read back as the engine will: what it could not read is an error here, not there.
    let file = state.cluster_file();
    let cluster = Cluster::parse(&cluster.to_toml(), &file)?;
    write_cluster(&file, &cluster).with_context(|| format!("write {}", file.display()))?;
    Ok((cluster, me))
}

fn this(options: &KubernetesOptions, id: u32, pool: Option<crate::cluster::PoolPlace>) -> This {
    let loops = options.loops.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    This {
        pool,
        metrics_port: options.metrics(),
        // Nodes that share a machine's devices do not share their names.
        volume_dev_dir: options.volume_dev_dir.join(format!("{}.{id:08x}", options.node)),
        loops,
        kubeconfig: Some(options.access()),
        namespace: options.namespace.clone(),
    }
}

async fn work(
    options: &KubernetesOptions,
    (cluster, me): (Cluster, Node),
    state: StateDir,
    (objects, health): (&Arc<Objects>, &Health),
) -> anyhow::Result<()> {
    let devices = cluster.this.volume_dev_dir.join(CSI_DEVICES);
    let users = Users::new(state.users());
    tracing::info!(node = me.name, node_id = me.id, address = %me.address, port = me.port, "agent started");
    let agent = Arc::new(Agent::open(cluster, me, state, Keeper::Kubernetes)?);
    let shell = Arc::new(ClusterAgent::new(Arc::clone(&agent), Arc::clone(objects)));
    let lease_client = connect(options, Some(RENEW_WITHIN)).await?;
    let lease = NodeLease::new(lease_client, &options.node_leases(), options.node.clone());
    let place = Place { node: options.node.clone(), device_dir: devices.clone() };
    let csi = CsiNode::new(Attacher::new(Arc::clone(&shell)), place).with_users(users.clone());
    let ending_pods = EndingPods::new(Arc::clone(&shell), users, devices);
    let parts = {
        let (shell, health) = (Arc::clone(&shell), health.clone());
        // Many small requests to the engine: none of them waits behind another task.
        tokio::spawn(async move { shell.keep_parts(&health).await })
    };
    health.wait_for("the sockets");
    let callers = agent::serve_callers(&agent)?;
    let (told, _) = watch::channel(Registered::Waiting);
    let kubelet = KubeletDir::new(&options.kubelet_dir);
    let plugin = csi::serve(csi, &kubelet, told, std::future::pending());
    health.ready();
    tokio::select! {
        result = callers => result,
        result = plugin => Ok(result?),
        result = parts => Ok(result?),
        () = agent::keep_up(Arc::clone(&agent)) => Ok(()),
        () = shell.keep_pool() => Ok(()),
        () = ending_pods.watch() => Ok(()),
        () = shell.pool_reports.send() => Ok(()),
        () = shell.part_reports.send() => Ok(()),
        () = shell.events.send(objects) => Ok(()),
        () = lease.keep(&shell.engine) => Ok(()),
    }
}

//! A real API server with our definitions, controllers as real processes, and nodes that are played: they write what a node's agent writes.
#![allow(dead_code, unused_imports, reason = "each test uses a part")]

mod csi;
mod nodes;

pub use csi::{Csi, block_many, filesystem, request};
pub use nodes::{Nodes, attached, seen};

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use lockstep_api::{MirrorPool, MirrorReplica, MirrorVolume, definitions, is_true};
use lockstep_apiserver::{ApiServer, Serves};
use lockstep_processes::cleanup::Cleanup;
use lockstep_processes::process::Process;
use serde_json::json;
use tokio::runtime::Runtime;

/// For a state that must come: long, on a busy machine.
pub const BOUND: Duration = Duration::from_secs(90);
/// Namespace of the installation.
pub const NAMESPACE: &str = "lockstep-system";
/// Namespace of nodes' Leases.
pub const NODE_NAMESPACE: &str = "lockstep-system-nodes";

pub struct Setup {
    pub client: Client,
    pub nodes: Nodes,
    pub runtime: Runtime,
    pub server: ApiServer,
    cleanup: Cleanup,
    home: tempfile::TempDir,
}

/// One replica of the controller.
pub struct Controller {
    pub process: Process,
    pub socket: PathBuf,
    command: Box<dyn Fn() -> Command>,
    runtime: tokio::runtime::Handle,
}

impl Setup {
    /// With these nodes, whose agents run, and no controller.
    pub fn start(names: &[&str]) -> Result<Self> {
        Self::start_serving(Serves::Leases, names)
    }

    /// The same, with another choice of what the API server does.
    pub fn start_serving(serves: Serves, names: &[&str]) -> Result<Self> {
        let mut home = tempfile::Builder::new().prefix("lockstep-controller-").tempdir()?;
        // Its logs are of interest where a test failed.
        home.disable_cleanup(std::env::var_os("LOCKSTEP_KEEP").is_some());
        let cleanup = Cleanup::new();
        let server = ApiServer::start_serving(serves, &home.path().join("apiserver"), &cleanup)?;
        server.make_namespace(NAMESPACE)?;
        server.make_namespace(NODE_NAMESPACE)?;
        server.define(&definitions())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let client = runtime.block_on(server.client())?;
        for name in names {
            let node: Node = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
            runtime.block_on(Api::all(client.clone()).create(&PostParams::default(), &node))?;
        }
        let nodes = Nodes::play(&runtime, &client, names);
        Ok(Self { client, nodes, runtime, server, cleanup, home })
    }

    /// A replica of the controller that runs, with this configuration.
    pub fn controller(&self, name: &'static str, config: &str) -> Result<Controller> {
        self.controller_as(name, config, self.server.kubeconfig())
    }

    /// The same, as the user of a kubeconfig file.
    pub fn controller_as(&self, name: &'static str, config: &str, kubeconfig: &Path) -> Result<Controller> {
        let home = self.home.path().join(name);
        std::fs::create_dir_all(&home)?;
        let file = home.join("config.yaml");
        std::fs::write(&file, config)?;
        let socket = home.join("csi.sock");
        let (kubeconfig, given_socket) = (kubeconfig.to_owned(), socket.clone());
        let command = move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep-controller"));
            command.arg("run").arg("--namespace").arg(NAMESPACE).arg("--node-namespace").arg(NODE_NAMESPACE);
            command.arg("--csi-socket").arg(&given_socket).arg("--health-address").arg("127.0.0.1:0");
            command.arg("--config").arg(&file).arg("--pod").arg(name).arg("--kubeconfig").arg(&kubeconfig);
            command
        };
        let process = Process::new(name, home.join("log"), &self.cleanup);
        process.start(&mut command())?;
        Ok(Controller { process, socket, command: Box::new(command), runtime: self.runtime.handle().clone() })
    }

    /// The usual: pools of this size on every node, and one controller.
    pub fn controller_with_pools(&self, name: &'static str) -> Result<Controller> {
        self.controller(name, POOLS)
    }

    /// A client that takes the first answer: kube's own asks again where a budget refuses an eviction.
    pub fn plain_client(&self, kubeconfig: &Path) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let mut config = self.run(Config::from_custom_kubeconfig(kubeconfig, &options))?;
        (config.default_retry, config.proxy_url) = (false, None);
        let _inside = self.runtime.enter();
        Ok(Client::try_from(config)?)
    }

    /// Where a test may write.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    pub fn volume(&self, name: &str) -> Result<Option<MirrorVolume>> {
        Ok(self.run(self.all::<MirrorVolume>().get_opt(name))?)
    }

    pub fn parts(&self, volume: &str) -> Result<Vec<MirrorReplica>> {
        let mut parts = self.run(self.all::<MirrorReplica>().list(&ListParams::default()))?.items;
        parts.retain(|part| part.spec.volume == volume);
        Ok(parts)
    }

    pub fn pools(&self) -> Result<Vec<MirrorPool>> {
        Ok(self.run(self.all::<MirrorPool>().list(&ListParams::default()))?.items)
    }

    /// Looks until `look` gives something.
    pub fn until<T>(&self, what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let started = Instant::now();
        let found = lockstep_processes::wait::until(what, BOUND, look)?;
        println!("{what}: after {:?}", started.elapsed());
        Ok(found)
    }

    /// Waits until every node's engine is said to be ready, and every node was heard: one that never was is not taken for lost.
    pub fn wait_pools(&self, count: usize) -> Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NODE_NAMESPACE);
        self.until("nodes are heard", || {
            let heard = self.run(leases.list(&ListParams::default()))?.items.len();
            Ok((heard >= count).then_some(()))
        })?;
        self.until("pools are ready", || {
            let pools = self.pools()?;
            let ready = |pool: &MirrorPool| {
                pool.status.as_ref().is_some_and(|status| is_true(&status.conditions, "EngineReady"))
            };
            Ok((pools.len() == count && pools.iter().all(ready)).then_some(()))
        })
    }

    /// Nothing of a volume is left.
    pub fn wait_gone(&self, volume: &str) -> Result<()> {
        let gone = self.until(&format!("{volume} is gone"), || {
            Ok((self.volume(volume)?.is_none() && self.parts(volume)?.is_empty()).then_some(()))
        });
        gone.with_context(|| format!("{:?} {:?}", self.volume(volume), self.parts(volume)))
    }
}

/// A pool on every node.
pub const POOLS: &str = "pools: {default: {directory: /var/lib/lockstep/pool}}\n";

impl Controller {
    pub fn csi(&self) -> Csi {
        let _inside = self.runtime.enter();
        Csi::new(self.socket.clone())
    }

    /// Kills it and starts it again.
    pub fn restart(&self) -> Result<()> {
        self.process.kill()?;
        self.process.start(&mut (self.command)())
    }
}

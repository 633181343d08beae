//! A real API server with the namespace of Lockstep, and volumes' configurations.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, ListParams};
use lockstep_apiserver::ApiServer;
use lockstep_core::{
    Arbiter, Class, Config, Epoch, Generation, Incarnation, NodeId, RegisterAnswer, Settings, VolumeId,
};
use lockstep_leases::{Leases, Place, names};
use lockstep_processes::cleanup::Cleanup;
use tokio::runtime::Runtime;

/// For a state that must come: long, on a busy machine.
pub const BOUND: Duration = Duration::from_secs(60);

/// A server, and a runtime to ask it with.
pub struct Setup {
    pub runtime: Runtime,
    pub server: ApiServer,
    _cleanup: Cleanup,
    _home: tempfile::TempDir,
}

impl Setup {
    pub fn start() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("lockstep-leases-").tempdir()?;
        let cleanup = Cleanup::new();
        let server = ApiServer::start(home.path(), &cleanup)?;
        server.make_namespace(names::NAMESPACE)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Setup { runtime, server, _cleanup: cleanup, _home: home })
    }

    /// Access as the administrator.
    pub fn leases(&self, holder: &str) -> Leases {
        Leases::new(self.place(), holder.to_owned())
    }

    pub fn place(&self) -> Place {
        Place { kubeconfig: self.server.kubeconfig().to_owned(), namespace: names::NAMESPACE.to_owned() }
    }

    /// The bare way to the same objects, of whoever meddles with them.
    pub fn objects(&self) -> Result<Api<Lease>> {
        let client: Client = self.run(self.server.client())?;
        Ok(Api::namespaced(client, names::NAMESPACE))
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub fn read(&self, leases: &Leases, volume: VolumeId) -> RegisterAnswer {
        self.run(leases.read_register(volume))
    }

    /// Version and configuration, which must be there.
    pub fn found(&self, leases: &Leases, volume: VolumeId) -> Result<(u64, Config)> {
        match self.read(leases, volume) {
            RegisterAnswer::Found { version, config } => Ok((version, *config)),
            other => anyhow::bail!("{other:?}, trouble {:?}", leases.trouble(volume)),
        }
    }

    /// How many Leases there are.
    pub fn count(&self) -> Result<usize> {
        let objects = self.objects()?;
        Ok(self.run(objects.list(&ListParams::default())).context("list")?.items.len())
    }

    /// Looks until `look` gives something.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let started = Instant::now();
        let found = lockstep_processes::wait::until(what, BOUND, &mut look)?;
        println!("{what}: after {:?}", started.elapsed());
        Ok(found)
    }
}

/// A volume's first configuration: two replicas, in sync.
pub fn first(number: u8) -> Config {
    let in_sync = [(NodeId(1), Incarnation(11)), (NodeId(2), Incarnation(22))];
    Config {
        volume: VolumeId([number; 16]),
        generation: Generation { id: 7, parent: 0 },
        epoch: Epoch(1),
        size_blocks: 1024,
        settings: Settings { arbiter: Arbiter::Lease, ..Settings::default() },
        priority: Class::default(),
        replicas: in_sync.iter().map(|(node, _)| *node).collect(),
        tie_breaker: None,
        voters: Default::default(),
        in_sync: in_sync.into(),
        joining: Default::default(),
        attached: Default::default(),
        last_in_sync: Default::default(),
        requests: Default::default(),
    }
}

/// What could follow it: without a node.
pub fn without(config: &Config, node: u32) -> Config {
    let mut next = Config { epoch: Epoch(config.epoch.0 + 1), ..config.clone() };
    next.in_sync.remove(&NodeId(node));
    next.last_in_sync.insert(NodeId(node), config.epoch);
    next
}

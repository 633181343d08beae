//! A real API server with the namespace of Lockstep.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, ListParams};
use lockstep_apiserver::ApiServer;
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

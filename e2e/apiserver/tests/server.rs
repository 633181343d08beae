//! The API server that other tests lean on is a real one: it keeps Leases, refuses conflicting updates, and what it
//! keeps outlives it.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{Api, ObjectMeta, PostParams};
use lockstep_apiserver::ApiServer;
use lockstep_processes::cleanup::Cleanup;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time::timeout;

const LEASE: &str = "volume";
/// For one request to a server that runs.
const REQUEST_BOUND: Duration = Duration::from_secs(20);
/// How long a frozen server is given to answer all the same.
const SILENCE: Duration = Duration::from_millis(500);

struct Setup {
    leases: Api<Lease>,
    runtime: Runtime,
    server: ApiServer,
    cleanup: Cleanup,
    _home: tempfile::TempDir,
}

impl Setup {
    fn start() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("lockstep-apiserver-").tempdir()?;
        let started = Instant::now();
        let cleanup = Cleanup::new();
        let server = ApiServer::start(home.path(), &cleanup)?;
        println!("ready after {:?}", started.elapsed());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let leases = Api::namespaced(runtime.block_on(server.client())?, "default");
        Ok(Setup { leases, runtime, server, cleanup, _home: home })
    }

    /// The answer to a request, which comes within the bound.
    fn ask<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<kube::Result<T>> {
        self.runtime.block_on(async { timeout(REQUEST_BOUND, request).await }).context("an answer in time")
    }

    fn create(&self, holder: &str) -> Result<Lease> {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec { holder_identity: Some(holder.to_owned()), ..LeaseSpec::default() }),
        };
        Ok(self.ask(self.leases.create(&PostParams::default(), &lease))??)
    }

    fn replace(&self, lease: &Lease) -> Result<kube::Result<Lease>> {
        self.ask(self.leases.replace(LEASE, &PostParams::default(), lease))
    }

    fn get(&self) -> Result<kube::Result<Lease>> {
        self.ask(self.leases.get(LEASE))
    }
}

fn held_by(lease: &Lease, holder: &str) -> Lease {
    let mut lease = lease.clone();
    lease.spec.get_or_insert_default().holder_identity = Some(holder.to_owned());
    lease
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

#[test]
fn lease_is_changed_by_compare_and_swap_and_outlives_the_server() -> Result<()> {
    let setup = Setup::start()?;
    let created = setup.create("a")?;

    let updated = setup.replace(&held_by(&created, "b"))??;
    ensure!(holder(&updated) == Some("b") && updated.metadata.resource_version != created.metadata.resource_version);
    match setup.replace(&held_by(&created, "c"))? {
        Err(kube::Error::Api(status)) if status.code == 409 && status.is_conflict() => {}
        other => bail!("an update under an old version: {other:?}"),
    }

    setup.server.stop_server()?;
    let answer = setup.get()?;
    ensure!(matches!(answer, Err(ref error) if !matches!(error, kube::Error::Api(_))), "nobody answers: {answer:?}");

    let restarted = Instant::now();
    setup.server.restart_server()?;
    println!("ready again after {:?}", restarted.elapsed());
    let kept = setup.get()??;
    ensure!(kept == updated, "{kept:?} was {updated:?}");
    Ok(())
}

#[test]
fn frozen_server_answers_when_it_runs_on_and_ends_frozen_too() -> Result<()> {
    let setup = Setup::start()?;
    let created = setup.create("a")?;
    setup.server.pause()?;
    setup.runtime.block_on(async {
        let request = setup.leases.get(LEASE);
        tokio::pin!(request);
        ensure!(timeout(SILENCE, &mut request).await.is_err(), "a frozen server answers");
        setup.server.resume()?;
        let found = timeout(REQUEST_BOUND, request).await.context("an answer in time")??;
        ensure!(found == created, "{found:?} was {created:?}");
        anyhow::Ok(())
    })?;

    let pids = setup.server.pids()?;
    setup.server.pause()?;
    setup.cleanup.undo_all();
    for pid in pids {
        ensure!(kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH), "process {pid} is left");
    }
    Ok(())
}

//! Volumes whose configuration a Kubernetes Lease keeps: real processes under load, and a real API server that is away, refuses,
//! or holds what somebody meddled with. I/O needs it only when a node is lost.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use lockstep_apiserver::ApiServer;
use lockstep_e2e::cleanup::Cleanup;
use lockstep_e2e::load::{LoadProfile, Target};
use lockstep_e2e::playground::{Fault, Playground, refusal};
use lockstep_e2e::random::Random;
use lockstep_e2e::soak::{Cluster, ClusterStart, FINISH_BOUND, OPERATION_BOUND, VOLUME};
use lockstep_e2e::turn::turn;
use lockstep_e2e::wait;
use std::path::Path;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const NAMESPACE: &str = "lockstep";
const CONFIGURATION: &str = "lockstep.storage/configuration";
const UID: &str = "lockstep.storage/uid";
const SIZE_BYTES: u64 = 64 << 20;
const LOAD_BYTES: u64 = 32 << 20;
const OPERATIONS: u64 = 300;
const BOUND: Duration = Duration::from_secs(30);
const WRONG_INPUT: i32 = 2;
const STATE_FORBIDS: i32 = 3;
const NOT_REACHABLE: i32 = 4;

/// The API server and what meddles with its objects.
struct Kubernetes {
    server: ApiServer,
    runtime: Runtime,
    leases: Api<Lease>,
}

impl Kubernetes {
    fn start(home: &Path, cleanup: &Cleanup) -> Result<Self> {
        let server = ApiServer::start(&home.join("kubernetes"), cleanup)?;
        server.make_namespace(NAMESPACE)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let leases = Api::namespaced(runtime.block_on(server.client())?, NAMESPACE);
        Ok(Kubernetes { server, runtime, leases })
    }

    fn list(&self) -> Result<Vec<Lease>> {
        Ok(self.runtime.block_on(self.leases.list(&ListParams::default())).context("list the Leases")?.items)
    }

    /// No Lease is left behind. A node's own goes after its last volume.
    fn wait_empty(&self) -> Result<()> {
        wait::until("no Lease is left", BOUND, || Ok(self.list()?.is_empty().then_some(())))
    }

    /// The only Lease with a configuration.
    fn register(&self) -> Result<Lease> {
        let holds = |lease: &Lease| lease.metadata.annotations.iter().any(|it| it.contains_key(CONFIGURATION));
        let found = self.list()?.into_iter().find(holds);
        found.context("there is no register")
    }

    fn annotate(&self, key: &str, value: &str) -> Result<()> {
        let mut lease = self.register()?;
        lease.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        let name = lease.metadata.name.clone().context("a name")?;
        self.runtime.block_on(self.leases.replace(&name, &PostParams::default(), &lease)).context("annotate")?;
        Ok(())
    }
}

struct Running {
    cluster: Cluster,
    kubernetes: Kubernetes,
    _home: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// Two nodes and no third; the nodes have the rights that the documentation names, and no others.
fn start(volume_options: &[&str]) -> Result<Running> {
    let turn = turn();
    let home = tempfile::Builder::new().prefix("lockstep-leases-").tempdir()?;
    let cleanup = Cleanup::new();
    let kubernetes = Kubernetes::start(home.path(), &cleanup)?;
    kubernetes.server.allow(NAMESPACE)?;
    let kubeconfig = kubernetes.server.user_kubeconfig().to_string_lossy().into_owned();
    let start = ClusterStart {
        dir: &home.path().join("playground"),
        replicas: 2,
        size_bytes: SIZE_BYTES,
        load_bytes: LOAD_BYTES,
        profile: LoadProfile::default(),
        front_end: None,
        pools: &[],
        nodes: 2,
        start_options: &["--kubeconfig", &kubeconfig],
        volume_options: &[&["--arbiter", "lease"], volume_options].concat(),
    };
    let mut cluster = Cluster::start(start, Random::new(12), &cleanup)?;
    cluster.attach("a", false)?;
    let running = Running { cluster, kubernetes, _home: home, _turn: turn };
    running.load()?;
    Ok(running)
}

impl Running {
    fn playground(&self) -> &Playground {
        self.cluster.playground()
    }

    fn load(&self) -> Result<()> {
        self.cluster.writer()?.session.wait_progress(OPERATIONS, OPERATION_BOUND)
    }

    fn until(&self, what: &str, node: &str, is: impl Fn(&lockstep_e2e::status::VolumeStatus) -> bool) -> Result<()> {
        let started = Instant::now();
        let mut seen = String::new();
        let found = wait::until_ok(what, BOUND, || {
            let status = self.playground().status(node, VOLUME)?;
            seen = format!(
                "{}, in sync {:?}, configuration {:?}, API server {:?}",
                status.state, status.in_sync, status.configuration_trouble, status.api_server_trouble
            );
            Ok(is(&status).then_some(()))
        });
        println!("{what}: after {:?}", started.elapsed());
        found.with_context(|| seen)
    }

    fn no_errors(&self) -> Result<()> {
        let counts = self.cluster.writer()?.session.counts();
        ensure!(counts.errors == 0, "{counts:?}");
        Ok(())
    }

    /// `b` is lost while its loss cannot be decided: requests wait. `mend` lets it be decided: they go on, and none failed.
    fn lose_b_and_mend(&mut self, reason: &str, mend: impl FnOnce(&Kubernetes) -> Result<()>) -> Result<()> {
        self.load().context("I/O goes on")?;
        self.playground().disturb("b", Fault::Kill, false)?;
        self.until("requests wait", "a", |status| status.state == "Suspended")?;
        self.until("the reason is told", "a", |status| {
            let told = [&status.configuration_trouble, &status.api_server_trouble];
            told.into_iter().flatten().any(|text| text.contains(reason))
        })?;
        mend(&self.kubernetes)?;
        self.until("b is out", "a", |status| status.in_sync == ["a"] && status.state != "Suspended")?;
        self.load()?;
        self.no_errors()?;
        self.playground().restart("b", false)?;
        self.cluster.wait_whole()?;
        self.until("nothing is wrong any more", "a", |status| {
            status.configuration_trouble.is_none() && status.api_server_trouble.is_none()
        })?;
        self.cluster.judge().map(drop)
    }

    fn finish(mut self) -> Result<()> {
        self.cluster.release()?;
        self.cluster.compare()?;
        self.playground().at("b", &["volume", "delete", VOLUME])?;
        self.kubernetes.wait_empty()?;
        self.cluster.destroy()
    }
}

#[test]
fn of_two_nodes_either_goes_on_without_the_other() -> Result<()> {
    lose_each_of_two(&[])
}

#[test]
fn of_two_nodes_either_goes_on_without_the_other_also_if_leases_police() -> Result<()> {
    lose_each_of_two(&["--policing", "lease"])
}

fn lose_each_of_two(options: &[&str]) -> Result<()> {
    let mut running = start(options)?;
    let status = running.playground().status("b", VOLUME)?;
    ensure!(status.arbiter == "lease" && status.voters.is_empty() && status.tie_breaker.is_none(), "{status:?}");
    for (lost, successor) in [("a", "b"), ("b", "a")] {
        running.playground().disturb(lost, Fault::Kill, false)?;
        let started = Instant::now();
        let old = running.cluster.attach(successor, true)?.context("it was attached")?;
        println!("{successor} took over after {:?}", started.elapsed());
        running.load()?;
        running.until("the lost one is out", successor, |status| status.in_sync == [successor])?;
        old.session.finish(FINISH_BOUND)?;
        running.playground().restart(lost, false)?;
        running.cluster.wait_whole()?;
        running.load()?;
    }
    running.cluster.judge()?;
    let sent =
        running.playground().metric("a", "lockstep_lease_requests_total{verb=\"update\",kind=\"configuration\"}")?;
    ensure!(sent > 0, "no swap was counted");
    let error = running.playground().at("a", &["volume", "force", VOLUME, "--i-accept-data-loss"]);
    let error = error.err().context("a Lease was overruled")?;
    let refused = refusal(&error).context("refused")?;
    ensure!(refused.message.contains("a Lease keeps this volume's configuration"), "{refused}");
    running.finish()
}

#[test]
fn without_the_api_server_changes_wait_and_nothing_is_lost() -> Result<()> {
    let mut running = start(&[])?;
    running.kubernetes.server.stop_server()?;
    running.lose_b_and_mend("Connection refused", |kubernetes| kubernetes.server.restart_server())?;
    // It accepts connections and answers nothing: what it was asked meanwhile it may still do.
    running.kubernetes.server.pause()?;
    running.lose_b_and_mend("did not answer within", |kubernetes| kubernetes.server.resume())?;
    running.kubernetes.server.forbid(NAMESPACE)?;
    running.lose_b_and_mend("403", |kubernetes| kubernetes.server.allow(NAMESPACE))?;
    running.finish()
}

#[test]
fn meddling_with_the_lease_stops_changes_and_no_io() -> Result<()> {
    let mut running = start(&[])?;
    let good = running.kubernetes.register()?;
    let whole = good.metadata.annotations.as_ref().context("annotations")?[CONFIGURATION].clone();
    running.kubernetes.annotate(CONFIGURATION, "nonsense")?;
    running
        .lose_b_and_mend("lockstep.storage/configuration", |kubernetes| kubernetes.annotate(CONFIGURATION, &whole))?;
    // An older one is not believed.
    let newest = running.kubernetes.register()?;
    running.kubernetes.annotate(CONFIGURATION, &whole)?;
    let newest = newest.metadata.annotations.context("annotations")?[CONFIGURATION].clone();
    running.lose_b_and_mend("older configuration", |kubernetes| kubernetes.annotate(CONFIGURATION, &newest))?;
    // Deleted, and made again from a copy: another object, which an operator has to confirm.
    let mut copy = running.kubernetes.register()?;
    let name = copy.metadata.name.clone().context("a name")?;
    (copy.metadata.uid, copy.metadata.resource_version) = (None, None);
    let kubernetes = &running.kubernetes;
    kubernetes.runtime.block_on(kubernetes.leases.delete(&name, &DeleteParams::default()))?;
    running.lose_b_and_mend("does not exist", |kubernetes| {
        let made = kubernetes.runtime.block_on(kubernetes.leases.create(&PostParams::default(), &copy))?;
        kubernetes.annotate(UID, made.metadata.uid.as_deref().context("a uid")?)
    })?;
    running.finish()
}

#[test]
fn changes_get_through_when_somebody_stops_changing_the_lease() -> Result<()> {
    let mut running = start(&[])?;
    let stop = AtomicBool::new(false);
    let changes = AtomicU64::new(0);
    let name = running.kubernetes.register()?.metadata.name.context("a name")?;
    let server = &running.kubernetes.server;
    std::thread::scope(|scope| -> Result<()> {
        let other = scope.spawn(|| -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let leases: Api<Lease> = Api::namespaced(runtime.block_on(server.client())?, NAMESPACE);
            while !stop.load(Ordering::SeqCst) {
                let mut lease = runtime.block_on(leases.get(&name))?;
                let count = changes.fetch_add(1, Ordering::SeqCst).to_string();
                lease.metadata.annotations.get_or_insert_default().insert("somebody.dev/count".to_owned(), count);
                match runtime.block_on(leases.replace(&name, &PostParams::default(), &lease)) {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    result => drop(result?),
                }
            }
            Ok(())
        });
        let lost = running.load().and_then(|()| running.playground().disturb("b", Fault::Kill, false));
        // It may get through between two changes, and must not fail any request meanwhile.
        let seen =
            wait::until("many changes by another", BOUND, || Ok((changes.load(Ordering::SeqCst) > 300).then_some(())));
        stop.store(true, Ordering::SeqCst);
        match other.join() {
            Ok(result) => result?,
            Err(_) => bail!("the other client panicked"),
        }
        lost.and(seen)
    })?;
    running.until("b is out", "a", |status| status.in_sync == ["a"] && status.state != "Suspended")?;
    running.load()?;
    running.no_errors()?;
    running.playground().restart("b", false)?;
    running.cluster.wait_whole()?;
    running.cluster.judge()?;
    running.finish()
}

#[test]
fn several_nodes_write_under_leases_and_need_the_api_server_only_for_each_others_shards() -> Result<()> {
    let _turn = turn();
    let home = tempfile::Builder::new().prefix("lockstep-leases-").tempdir()?;
    let cleanup = Cleanup::new();
    let kubernetes = Kubernetes::start(home.path(), &cleanup)?;
    kubernetes.server.allow(NAMESPACE)?;
    let kubeconfig = kubernetes.server.user_kubeconfig().to_string_lossy().into_owned();
    let directory = home.path().join("playground");
    let playground = Playground::start_with(&directory, 3, &["--kubeconfig", &kubeconfig], &cleanup)?;
    let options =
        [&["--arbiter", "lease", "--policing", "lease", "--policing-shards", "4"][..], &["--access", "multi-writer"]];
    playground.create("a", VOLUME, &SIZE_BYTES.to_string(), 2, &options.concat())?;
    let attach = |node: &str| -> Result<Target> {
        Target::of(&playground.attach(node, VOLUME, &["--front-end", "nbd-socket"])?)
    };
    // `c` has no replica.
    let targets = [attach("a")?, attach("b")?, attach("c")?];
    let mut longest = Duration::ZERO;
    for round in 0..30u8 {
        let started = Instant::now();
        targets[usize::from(round) % 3].fill_block(4096, round + 1)?;
        longest = longest.max(started.elapsed());
        for target in &targets {
            ensure!(target.block_byte(4096)? == round + 1, "round {round}: a completed write is not seen");
        }
    }
    println!("a shard changed hands within {longest:?}");
    // Each has a shard of its own.
    let shard_bytes = SIZE_BYTES / 4;
    for (target, shard) in targets.iter().zip(1u8..) {
        target.fill_block(u64::from(shard) * shard_bytes, shard)?;
    }
    let status = playground.at("b", &["volume", "status", VOLUME])?;
    let shards = status["grants"]["shards"].as_array().context("shards")?;
    let holders: Vec<_> = shards.iter().map(|shard| shard["holder"].as_str().unwrap_or_default()).collect();
    ensure!(holders[1..] == ["a", "b", "c"] && status["policing_shards"] == 4, "{status}");

    // Away: what each holds it writes; another's waits, and comes through afterwards.
    kubernetes.server.stop_server()?;
    for (target, shard) in targets.iter().zip(1u8..) {
        target.fill_block(u64::from(shard) * shard_bytes, shard + 10)?;
    }
    let foreign = {
        let target = targets[0].clone();
        std::thread::spawn(move || target.fill_block(2 * shard_bytes, 99))
    };
    let waits = wait::until_ok("a waits for b's shard", BOUND, || {
        let status = playground.at("a", &["volume", "status", VOLUME])?;
        ensure!(!foreign.is_finished(), "it did not need the API server");
        let trouble = status["api_server_trouble"].as_str().unwrap_or_default();
        ensure!(trouble.contains("-grants-2") && trouble.contains("refused"), "{status}");
        let waiting = status["grants"]["waiting"].as_array().is_some_and(|waiting| !waiting.is_empty());
        ensure!(waiting, "nobody is shown to wait: {status}");
        Ok(Some(()))
    });
    targets[1].fill_block(2 * shard_bytes, 12)?;
    kubernetes.server.restart_server()?;
    waits?;
    match foreign.join() {
        Ok(written) => written?,
        Err(_) => bail!("the writer panicked"),
    }
    for (target, shard) in targets.iter().zip(1u8..) {
        let wanted = if shard == 2 { 99 } else { shard + 10 };
        ensure!(target.block_byte(u64::from(shard) * shard_bytes)? == wanted, "shard {shard}");
    }

    // One is deleted, and another edited: everybody comes to an agreement again, and writes.
    for lease in kubernetes.list()? {
        let name = lease.metadata.name.clone().context("a name")?;
        if name.ends_with("-grants-1") {
            kubernetes.runtime.block_on(kubernetes.leases.delete(&name, &DeleteParams::default()))?;
        } else if name.ends_with("-grants-3") {
            let mut edited = lease;
            edited.spec.get_or_insert_default().holder_identity = Some("nobody at all".to_owned());
            kubernetes.runtime.block_on(kubernetes.leases.replace(&name, &PostParams::default(), &edited))?;
        }
    }
    let started = Instant::now();
    for shard in [1, 3] {
        targets[1].fill_block(shard * shard_bytes, 77)?;
        ensure!(targets[2].block_byte(shard * shard_bytes)? == 77);
    }
    println!("written in meddled shards after {:?}", started.elapsed());
    for node in ["a", "b", "c"] {
        playground.detach(node, VOLUME)?;
    }
    playground.at("a", &["volume", "delete", VOLUME])?;
    kubernetes.wait_empty()?;
    playground.destroy()
}

#[test]
fn wrong_wishes_are_named_and_leave_nothing() -> Result<()> {
    let _turn = turn();
    let home = tempfile::Builder::new().prefix("lockstep-leases-").tempdir()?;
    let cleanup = Cleanup::new();
    let kubernetes = Kubernetes::start(home.path(), &cleanup)?;
    let without = Playground::start(&home.path().join("without"), 2, &cleanup)?;
    let refused = |playground: &Playground, exit_code: i32, options: &[&str], field: Option<&str>, says: &str| {
        let arguments = [&["volume", "create", "v", "--size", "8MiB"], options].concat();
        let error = playground.at("a", &arguments).err().with_context(|| format!("not refused: {options:?}"))?;
        let found = refusal(&error).with_context(|| format!("{options:?}: {error:#}"))?;
        ensure!(found.exit_code == Some(exit_code) && found.field.as_deref() == field, "{options:?}: {found:?}");
        ensure!(found.message.contains(says), "{options:?}: {found}");
        Ok(())
    };
    let (lease, multi) = (["--arbiter", "lease"], ["--access", "multi-writer"]);
    let policed = ["--policing", "lease", "--policing-shards"];
    let shards = Some("policing_shards");
    for wrong in ["0", "17", "-1", "x", "4294967297"] {
        let options = [&lease[..], &multi, &policed, &[wrong]].concat();
        refused(&without, WRONG_INPUT, &options, shards, "1 to 16")?;
    }
    refused(&without, WRONG_INPUT, &[&lease[..], &policed, &["2"]].concat(), shards, "must be 1 for")?;
    refused(&without, WRONG_INPUT, &["--policing", "lease"], Some("policing"), "needs a Lease as the arbiter")?;
    refused(&without, WRONG_INPUT, &["--policing-shards", "2"], shards, "only Lease policing")?;
    refused(&without, STATE_FORBIDS, &lease, None, "node a is given no kubeconfig")?;
    without.destroy()?;

    let kubeconfig = kubernetes.server.user_kubeconfig().to_string_lossy().into_owned();
    let with = home.path().join("with");
    let playground = Playground::start_with(&with, 2, &["--kubeconfig", &kubeconfig], &cleanup)?;
    refused(
        &playground,
        WRONG_INPUT,
        &[&lease[..], &["--tie-breaker", "b"]].concat(),
        Some("tie_breaker"),
        "nobody votes",
    )?;
    // Without rights nothing is created, and what was tried is not left behind.
    refused(&playground, NOT_REACHABLE, &lease, None, "403")?;
    kubernetes.server.allow(NAMESPACE)?;
    // A member that has no kubeconfig: what the others made goes again.
    playground.set_kubeconfig("b", None)?;
    let found = wait::until_ok("b refuses", BOUND, || {
        refused(&playground, STATE_FORBIDS, &lease, None, "node b: a Lease is to keep").map(Some)
    });
    found?;
    kubernetes.wait_empty()?;
    for node in playground.nodes() {
        let volumes = playground.at(node, &["volume", "list"])?;
        ensure!(volumes.as_array().is_some_and(Vec::is_empty), "{node}: {volumes}");
    }
    playground.destroy()
}

//! The plugin as a person runs it, against a real API server. No agent runs: what nodes say is written by the test, and live figures are
//! missing.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use lockstep_api::{MirrorPool, MirrorReplica, MirrorVolume, definitions, names};
use lockstep_apiserver::ApiServer;
use lockstep_processes::cleanup::Cleanup;
use lockstep_processes::command::{Ended, PROGRAM_BOUND, run};
use lockstep_processes::process::Process;
use lockstep_processes::wait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// For a program that looks every two seconds to see something, on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// Where an environment may say that a proxy is to be used, for loopback too.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

struct Setup {
    runtime: Runtime,
    client: Client,
    server: ApiServer,
    cleanup: Cleanup,
    home: tempfile::TempDir,
}

impl Setup {
    /// Nodes a, b and c; a volume v on a and b, with a tie-breaker at c, that is in sync and written at b.
    fn start() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("lockstep-kubectl-").tempdir()?;
        let cleanup = Cleanup::new();
        let server = ApiServer::start(&home.path().join("apiserver"), &cleanup)?;
        server.define(&definitions())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(server.client())?;
        let setup = Self { runtime, client, server, cleanup, home };
        for node in ["a", "b", "c"] {
            let spec = json!({ "nodeName": node, "storage": { "directory": "/pool" } });
            let conditions = [held("Ready"), held("EngineReady"), held("RestartInvisible")];
            let status = json!({
                "nodeId": 1, "incarnation": 1, "port": 7501, "capacityBytes": 100_i64 << 30, "freeBytes": 50_i64 << 30,
                "address": "192.0.2.1", "conditions": conditions,
            });
            setup.make::<MirrorPool>(json!({ "metadata": { "name": node }, "spec": spec }), &status)?;
        }
        let claim = json!({ "namespace": "shop", "name": "data", "uid": "1" });
        let placed = |node: &str, role: &str| json!({ "node": node, "nodeId": 1, "incarnation": 1, "role": role });
        let placement = [placed("a", "Replica"), placed("b", "Replica"), placed("c", "TieBreaker")];
        setup.make::<MirrorVolume>(
            json!({ "metadata": { "name": "v" }, "spec": { "sizeBytes": 1 << 30, "replicas": 2, "claim": claim } }),
            &json!({
                "id": "0".repeat(32), "arbiter": "Peers", "state": "UpToDate", "ready": "2/2", "epoch": 3, "writers": ["b"],
                "inSync": ["a", "b"], "placement": placement,
            }),
        )?;
        let in_sync = |attached: Value| json!({ "phase": "Ready", "disk": "UpToDate", "attached": attached, "seen": { "inSync": ["a", "b"] } });
        setup.make_part("a", "Replica", &in_sync(Value::Null))?;
        setup.make_part("b", "Replica", &in_sync(json!("ReadWrite")))?;
        setup.make_part("c", "TieBreaker", &json!({ "phase": "Ready", "disk": "Diskless" }))?;
        let beat = json!({
            "metadata": { "name": "a", "annotations": { names::ANNOTATION_ENGINE: "1" } },
            "spec": { "renewTime": "2026-01-01T00:00:00.000000Z" },
        });
        let leases: Api<Lease> = Api::namespaced(setup.client.clone(), "default");
        setup.runtime.block_on(leases.create(&PostParams::default(), &serde_json::from_value(beat)?))?;
        Ok(setup)
    }

    fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    fn make<K>(&self, mut object: Value, status: &Value) -> Result<()>
    where
        K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Serialize,
    {
        object["apiVersion"] = json!(K::api_version(&()));
        object["kind"] = json!(K::kind(&()));
        let object: K = serde_json::from_value(object)?;
        let name = object.name_any();
        self.runtime.block_on(self.all::<K>().create(&PostParams::default(), &object))?;
        self.say::<K>(&name, status)
    }

    fn make_part(&self, node: &str, role: &str, status: &Value) -> Result<()> {
        let definition = json!({
            "id": "0".repeat(32), "generation": "0".repeat(16), "sizeBytes": 1 << 30, "access": "SingleWriter", "arbiter": "Peers",
            "policingShards": 0, "ack": "Disk", "onQuorumLoss": "Suspend", "replicas": [{ "nodeId": 1, "incarnation": 1 }],
        });
        let metadata = json!({ "name": names::replica_name("v", node), "labels": { names::LABEL_VOLUME: "v" } });
        let spec = json!({ "volume": "v", "nodeName": node, "role": role, "definition": definition });
        self.make::<MirrorReplica>(json!({ "metadata": metadata, "spec": spec }), status)
    }

    /// What a node or the controller says of an object from now on.
    fn say<K>(&self, name: &str, status: &Value) -> Result<()>
    where
        K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let patch = Patch::Merge(json!({ "status": status }));
        let said = self.runtime.block_on(self.all::<K>().patch_status(name, &PatchParams::default(), &patch));
        said.map(drop).with_context(|| format!("the status of {name}"))
    }

    fn pool(&self, node: &str) -> Result<MirrorPool> {
        Ok(self.runtime.block_on(self.all().get(node))?)
    }

    /// The volume leaves node a, and is at b and c.
    fn move_replica(&self) -> Result<()> {
        let placed = |node: &str| json!({ "node": node, "nodeId": 1, "incarnation": 1, "role": "Replica" });
        self.say::<MirrorVolume>("v", &json!({ "placement": [placed("b"), placed("c")] }))?;
        let part = names::replica_name("v", "a");
        self.runtime.block_on(self.all::<MirrorReplica>().delete(&part, &DeleteParams::default()))?;
        Ok(())
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-lockstep"));
        command.args(arguments.split(' ')).env("KUBECONFIG", self.server.kubeconfig());
        for proxy in PROXIES {
            command.env_remove(proxy);
        }
        command
    }

    fn ask(&self, arguments: &str) -> Result<Ended> {
        run(&mut self.command(arguments), PROGRAM_BOUND)
    }

    /// What it prints; it must succeed.
    fn table(&self, arguments: &str) -> Result<String> {
        let ended = self.ask(arguments)?;
        ensure!(ended.status.success(), "{arguments}: {ended}");
        Ok(ended.stdout)
    }

    /// The one JSON value that it prints.
    fn json(&self, arguments: &str) -> Result<Value> {
        let text = self.table(&format!("{arguments} --output json"))?;
        serde_json::from_str(&text).with_context(|| format!("{arguments}: {text}"))
    }

    /// What it says where it does not do what it was asked for.
    fn refusal(&self, arguments: &str) -> Result<String> {
        let ended = self.ask(arguments)?;
        ensure!(!ended.status.success() && ended.stderr.starts_with("kubectl lockstep: "), "{arguments}: {ended}");
        Ok(ended.stderr)
    }
}

fn held(kind: &str) -> Value {
    json!({
        "type": kind, "status": "True", "reason": "Said", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    })
}

fn ensure_says(text: &str, words: &[&str]) -> Result<()> {
    let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} not in: {text}");
    Ok(())
}

#[test]
fn what_is_there_is_shown_to_people_and_to_scripts() -> Result<()> {
    let setup = Setup::start()?;
    ensure_says(&setup.table("status")?, &["NODE", "a ", "b ", "c ", "Volumes: 1 UpToDate"])?;
    ensure_says(&setup.table("volumes")?, &["v ", "shop/data", "UpToDate", "2/2", "1.0 GiB"])?;
    ensure_says(
        &setup.table("volume v")?,
        &["Peers", "epoch 3", "TieBreaker", "ReadWrite", "none: no agent runs on node"],
    )?;
    ensure_says(&setup.table("nodes")?, &["100.0 GiB", "50.0 GiB", "192.0.2.1", "2026-01-01T00:00:00"])?;
    ensure_says(&setup.table("node c")?, &["TieBreaker", "Live figures: none"])?;

    let status = setup.json("status")?;
    ensure!(status["volumes_by_state"] == json!({ "UpToDate": 1 }) && status["troubled"] == json!([]), "{status}");
    let volumes = setup.json("volumes")?;
    ensure!(volumes[0]["volume"] == "v" && volumes[0]["writers"] == json!(["b"]), "{volumes}");
    let volume = setup.json("volume v")?;
    ensure!(volume["parts"].as_array().is_some_and(|parts| parts.len() == 3) && volume["live"].is_null(), "{volume}");
    let nodes = setup.json("nodes")?;
    let replicas: Vec<&Value> = nodes.as_array().context("a list")?.iter().map(|node| &node["replicas"]).collect();
    ensure!(replicas == [&json!(1), &json!(1), &json!(0)], "{nodes}");
    let node = setup.json("node b")?;
    ensure!(node["attached"] == 1 && node["parts"][0]["in_sync"] == true, "{node}");

    ensure_says(&setup.refusal("volume w")?, &["there is no volume \"w\""])?;
    ensure_says(&setup.refusal("node d")?, &["there is no MirrorPool of a node \"d\""])?;
    ensure_says(&setup.refusal("volume data --claim-namespace shop")?, &["there is no claim shop/data"])
}

#[test]
fn a_node_is_drained_unless_it_holds_the_last_copy() -> Result<()> {
    let setup = Setup::start()?;
    setup.table("drain a --dry-run")?;
    ensure!(!setup.pool("a")?.spec.cordoned, "nothing is changed to say what would be");
    ensure_says(&setup.table("drain a")?, &["no new replicas", "copy elsewhere"])?;
    ensure!(setup.pool("a")?.spec.cordoned);
    ensure_says(&setup.table("nodes")?, &["cordoned"])?;
    setup.table("undrain a")?;
    ensure!(!setup.pool("a")?.spec.cordoned);

    setup.say::<MirrorReplica>(&names::replica_name("v", "a"), &json!({ "disk": "Outdated" }))?;
    ensure_says(&setup.refusal("drain b")?, &["node b holds the last up-to-date copy of v"])?;
    ensure_says(&setup.refusal("drain d")?, &["there is no MirrorPool of a node \"d\""])
}

#[test]
fn a_pool_is_emptied_before_its_storage_is_replaced() -> Result<()> {
    let setup = Setup::start()?;
    let refused = setup.refusal("pool replace a --device /dev/new")?;
    ensure_says(&refused, &["the pool of node a holds replicas of v", "kubectl lockstep pool drain a"])?;
    ensure!(!setup.pool("a")?.spec.evict, "who is refused changed nothing");
    ensure_says(&setup.refusal("pool drain d")?, &["there is no MirrorPool of a node \"d\""])?;

    ensure_says(&setup.table("pool drain a --no-wait")?, &["node a: 1 left: v (no other node yet)"])?;
    ensure!(setup.pool("a")?.spec.evict);
    let left = setup.json("pool drain a --no-wait")?;
    ensure!(left["left"][0] == json!({ "volume": "v", "step": "waiting", "to": null, "percent": null }), "{left}");
    setup.table("evict a --undo")?;
    ensure!(!setup.pool("a")?.spec.evict);

    ensure_says(&setup.table("pool replace c --directory /srv/lockstep")?, &["nodes: {c: {directory: /srv/lockstep}}"])
        .context("a vote is not in the pool")?;
    setup.move_replica()?;
    let placed = setup.refusal("pool replace c --device /dev/new")?;
    ensure_says(&placed, &["holds replicas of v"]).context("the volume is placed at c, and not made there yet")?;
    ensure!(!setup.pool("c")?.spec.evict);
    let replaced = setup.json("pool replace a --device /dev/new")?;
    ensure!(replaced["storage"] == json!({ "device": "/dev/new" }), "{replaced}");
    ensure!(replaced["before"] == json!({ "directory": "/pool" }), "{replaced}");
    let pool = setup.pool("a")?.spec;
    let storage = pool.storage.context("it has storage")?;
    ensure!(!pool.evict && storage.directory.is_none() && storage.device.as_deref() == Some("/dev/new"), "{storage:?}");
    ensure_says(&setup.refusal("pool replace b --directory data")?, &["not an absolute path"])?;
    let both = setup.ask("pool replace b --directory /x --device /y")?;
    ensure!(both.status.code() == Some(2) && both.stderr.contains("cannot be used with"), "{both}");
    let neither = setup.ask("pool replace b")?;
    ensure!(neither.status.code() == Some(2) && neither.stderr.contains("--directory"), "{neither}");
    Ok(())
}

#[test]
fn whoever_watches_a_pool_sees_it_become_empty() -> Result<()> {
    let setup = Setup::start()?;
    let log = setup.home.path().join("drain.log");
    let drain = Process::new("pool-drain", log.clone(), &setup.cleanup);
    drain.start(&mut setup.command("pool drain a"))?;
    let wait_said = |words: &str| {
        wait::until_true(&format!("it says {words:?}"), BOUND, || Ok(std::fs::read_to_string(&log)?.contains(words)))
            .with_context(|| drain.log_end())
    };
    wait_said("node a: 1 left: v (no other node yet)")?;
    let tie_breaker = names::replica_name("v", "c");
    let replica = Patch::Merge(json!({ "spec": { "role": "Replica" } }));
    setup.runtime.block_on(setup.all::<MirrorReplica>().patch(&tie_breaker, &PatchParams::default(), &replica))?;
    let resync = json!({ "bytesDone": 1 << 29, "bytesTotal": 1 << 30, "bytesPerSecond": 1 });
    setup.say::<MirrorReplica>(&tie_breaker, &json!({ "disk": "Inconsistent", "resync": resync }))?;
    wait_said("node a: 1 left: v (to c, 50 %)")?;
    setup.move_replica()?;
    wait_said("node a: no replica is left")?;
    wait_said("kubectl lockstep pool replace a --device DEVICE")?;
    ensure!(setup.pool("a")?.spec.evict, "nothing comes back by itself");
    Ok(())
}

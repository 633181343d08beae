//! A cluster without kubelets: etcd, an API server, the controller, nodes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use lockstep_api::{MirrorPool, MirrorReplica, MirrorVolume, is_true};
use lockstep_apiserver::ApiServer;
use lockstep_e2e::playground::built_program;
use lockstep_processes::cleanup::Cleanup;
use lockstep_processes::process::Process;
use lockstep_processes::wait;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::node::{TestNode, loops_of};

const NAMESPACE: &str = "lockstep-system";
const NODE_NAMESPACE: &str = "lockstep-system-nodes";

/// Long enough for everything that the programs do by themselves.
const BOUND: Duration = Duration::from_secs(120);

/// The cluster. What speaks is dropped before what it speaks with.
pub struct TestCluster {
    nodes: Vec<TestNode>,
    controller: Process,
    server: ApiServer,
    runtime: Runtime,
    client: Client,
    network: String,
    cleanup: Cleanup,
    home: tempfile::TempDir,
}

impl TestCluster {
    /// Starts everything, and waits until every node's engine has its pool.
    pub fn start(names: &[&str]) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("lockstep-csi-").tempdir()?;
        let cleanup = Cleanup::new();
        let server = ApiServer::start(&home.path().join("server"), &cleanup)?;
        server.make_namespace(NAMESPACE)?;
        server.make_namespace(NODE_NAMESPACE)?;
        server.define(&lockstep_api::definitions())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(server.client())?;
        // Of the loopback network: nobody else's as long as few tests run.
        let own = std::process::id();
        let network = format!("127.{}.{}", 50 + own % 50, own / 50 % 250);
        let controller = Process::new("lockstep-controller", home.path().join("controller.log"), &cleanup);
        let mut cluster = Self { nodes: Vec::new(), controller, server, runtime, client, network, cleanup, home };
        for name in names {
            cluster.add_node(name)?;
        }
        cluster.start_controller()?;
        cluster.wait_ready()?;
        Ok(cluster)
    }

    fn add_node(&mut self, name: &str) -> Result<()> {
        let object: Node = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        let api: Api<Node> = Api::all(self.client.clone());
        self.runtime.block_on(api.create(&PostParams::default(), &object)).context("make a Node")?;
        let address = format!("{}.{}", self.network, self.nodes.len() + 1);
        let node = TestNode::start(self.home.path(), name, &address, self.server.kubeconfig(), &self.cleanup)?;
        self.nodes.push(node);
        Ok(())
    }

    fn start_controller(&self) -> Result<()> {
        let file = self.home.path().join("config.yaml");
        let pools: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("    {}: {{directory: {}}}\n", node.name, node.pool().display()))
            .collect();
        std::fs::write(&file, format!("pools:\n  nodes:\n{}", pools.concat()))?;
        let mut command = Command::new(built_program("lockstep-controller", "LOCKSTEP_CONTROLLER_BIN")?);
        command
            .args(["run", "--namespace", NAMESPACE, "--node-namespace", NODE_NAMESPACE, "--pod", "controller"])
            .args(["--health-address", "127.0.0.1:0"])
            .arg("--csi-socket")
            .arg(self.controller_socket())
            .arg("--config")
            .arg(file)
            .arg("--kubeconfig")
            .arg(self.server.kubeconfig());
        self.controller.start(&mut command)
    }

    /// Where the provisioner would call.
    pub fn controller_socket(&self) -> PathBuf {
        self.home.path().join("controller.sock")
    }

    fn wait_ready(&self) -> Result<()> {
        let ready = |pool: &MirrorPool| {
            let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            is_true(conditions, "Ready") && is_true(conditions, "EngineReady")
        };
        wait::until_true("every node has its pool, and the controller answers", BOUND, || {
            self.controller.ensure_running()?;
            self.nodes.iter().try_for_each(TestNode::ensure_running)?;
            let pools: Api<MirrorPool> = Api::all(self.client.clone());
            let pools = self.runtime.block_on(pools.list(&ListParams::default()))?.items;
            let sockets = self.nodes.iter().all(|node| node.csi_socket().exists()) && self.controller_socket().exists();
            Ok(sockets && pools.len() == self.nodes.len() && pools.iter().all(ready))
        })
        .with_context(|| self.said())
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&TestNode> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("no node {name}"))
    }

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    /// The end of what all programs said.
    pub fn said(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(TestNode::said).collect();
        format!("--- controller\n{}\n{}", self.controller.log_end(), nodes.join("\n"))
    }

    /// Nothing of any volume is left: no objects, no files in pools, no mounts, no loop devices.
    pub fn wait_empty(&self) -> Result<()> {
        let mut left = Vec::new();
        let waited = wait::until_true("nothing is left", BOUND, || {
            left = self.left_behind()?;
            Ok(left.is_empty())
        });
        waited.with_context(|| format!("left: {:?}\n{}", self.left_behind(), self.said()))
    }

    fn left_behind(&self) -> Result<Vec<String>> {
        let all = ListParams::default();
        let volumes: Api<MirrorVolume> = Api::all(self.client.clone());
        let parts: Api<MirrorReplica> = Api::all(self.client.clone());
        let (volumes, parts) =
            self.runtime.block_on(async { anyhow::Ok((volumes.list(&all).await?, parts.list(&all).await?)) })?;
        let mut left: Vec<String> = volumes.iter().map(|volume| format!("volume {}", volume.name_any())).collect();
        left.extend(parts.iter().map(|part| format!("part {}", part.name_any())));
        for node in &self.nodes {
            for entry in std::fs::read_dir(node.pool())? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name != "lockstep-pool.toml" {
                    left.push(format!("{name} in the pool of {}", node.name));
                }
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let below = |path: &str| Path::new(path).starts_with(self.dir());
        left.extend(mounts.lines().filter(|line| line.split(' ').nth(1).is_some_and(below)).map(str::to_owned));
        left.extend(loops_of(self.dir())?.iter().map(|name| format!("loop device {name}")));
        Ok(left)
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::env::var_os("LOCKSTEP_TEST_LOGS").is_some() {
            eprintln!("{}", self.said());
        }
    }
}

//! A real API server with everything that the chart makes. No program of ours runs, nor any controller: objects are stored, checked and
//! guarded by what the chart installed.

use std::future::Future;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use lockstep_apiserver::{ApiServer, Serves};
use lockstep_processes::cleanup::Cleanup;
use lockstep_processes::command::{PROGRAM_BOUND, program, run};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::helm::{NAMESPACE, NEWEST, NODE_NAMESPACE, kube_program, template};

/// What the chart installs from here, its namespace too.
const VALUES: &[&str] = &[r#"namespace={"create":true}"#];

/// The server, and what asks it. What speaks is dropped before what it speaks with.
pub struct TestCluster {
    pub client: Client,
    runtime: Runtime,
    pub server: ApiServer,
    manifest: PathBuf,
    _cleanup: Cleanup,
    _home: tempfile::TempDir,
}

impl TestCluster {
    /// Starts the server. Only the namespaces are there yet.
    pub fn start() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("lockstep-chart-").tempdir()?;
        let cleanup = Cleanup::new();
        let server = ApiServer::start_serving(Serves::Everything, &home.path().join("server"), &cleanup)?;
        for namespace in [NAMESPACE, NODE_NAMESPACE] {
            server.make_namespace(namespace)?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(server.client())?;
        let manifest = home.path().join("chart.yaml");
        write_manifest(&manifest)?;
        Ok(Self { client, runtime, server, manifest, _cleanup: cleanup, _home: home })
    }

    /// Starts the server, and installs the chart.
    pub fn with_chart() -> Result<Self> {
        let cluster = Self::start()?;
        // These make new kinds, which are not served at once.
        cluster.server.define(&lockstep_api::definitions())?;
        cluster.apply(&[])?;
        Ok(cluster)
    }

    /// Applies what the chart makes, checked strictly by the server. Gives what kubectl said.
    pub fn apply(&self, options: &[&str]) -> Result<String> {
        let mut command = program(&kube_program("kubectl")?.to_string_lossy(), ["--kubeconfig"]);
        command.arg(self.server.kubeconfig());
        command.args(["apply", "--server-side", "--force-conflicts", "--validate=strict"]).args(options);
        command.arg("--filename").arg(&self.manifest);
        let said = run(&mut command, PROGRAM_BOUND)?;
        ensure!(said.status.success(), "{said}");
        // The server takes what it warns of.
        ensure!(!said.stderr.contains("Warning"), "{said}");
        Ok(said.stdout)
    }

    /// Waits for an answer.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Makes an object as an administrator, and gives it the status that stands in it.
    pub fn make(&self, resource: &ApiResource, namespace: Option<&str>, object: &Value) -> Result<()> {
        let api = api(&self.client, resource, namespace);
        let name = object["metadata"]["name"].as_str().context("a name")?;
        let typed: DynamicObject = serde_json::from_value(object.clone())?;
        self.run(api.create(&PostParams::default(), &typed)).with_context(|| format!("make {object}"))?;
        if let Some(status) = object.get("status") {
            let patch = Patch::Merge(serde_json::json!({ "status": status }));
            self.run(api.patch_status(name, &PatchParams::default(), &patch))?;
        }
        Ok(())
    }
}

/// Objects of one kind, in a namespace if they have one.
pub fn api(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

fn write_manifest(path: &Path) -> Result<()> {
    let made = template(NEWEST, VALUES)?;
    ensure!(made.status.success(), "{made}");
    std::fs::write(path, made.stdout).with_context(|| format!("write {}", path.display()))
}

//! A cluster, by its `kubectl`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::wait::{until, until_true};

/// Longest that one call to the API server may take before it is given up: a control plane that died with its node.
const CALL_WITHIN: &str = "--request-timeout=10s";

/// The namespace in which Lockstep is installed.
pub const SYSTEM: &str = "lockstep-system";

/// A cluster with Lockstep on it.
#[derive(Clone, Debug)]
pub struct Cluster {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    /// Its name, as kind knows it.
    pub name: String,
    /// Image of the pods that scenarios start: it has a shell and `recorder`.
    pub tools_image: String,
}

impl Cluster {
    /// The cluster `name` of kind, whose kubeconfig that is.
    #[must_use]
    pub const fn new(kubectl: PathBuf, kubeconfig: PathBuf, name: String, tools_image: String) -> Self {
        Self { kubectl, kubeconfig, name, tools_image }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg(CALL_WITHIN).args(args);
        command
    }

    /// Runs `kubectl` with these arguments, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<Output> {
        self.command(args).stdin(Stdio::null()).output().context("start kubectl")
    }

    /// Runs `kubectl` with these arguments and gives what it printed.
    ///
    /// # Errors
    /// It failed, with what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = self.try_kubectl(args)?;
        if !output.status.success() {
            bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `helm`, which lies beside `kubectl`, with these arguments, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn try_helm(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.kubectl.with_file_name("helm"));
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["--namespace", SYSTEM]).args(args);
        command.stdin(Stdio::null()).output().context("start helm")
    }

    /// Upgrades what is installed, with the values that it has and these, and waits until all of it runs.
    ///
    /// # Errors
    /// It failed, with what it said.
    pub fn helm_upgrade(&self, values: &[&str]) -> Result<()> {
        let mut args = vec!["upgrade", "lockstep", "charts/lockstep", "--reuse-values", "--wait", "--timeout", "5m"];
        for value in values {
            args.extend(["--set", value]);
        }
        let output = self.try_helm(&args)?;
        if !output.status.success() {
            bail!("helm {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Deletes a pod and waits until it is gone.
    ///
    /// # Errors
    /// It is not within two minutes.
    pub fn delete_pod(&self, namespace: &str, pod: &str) -> Result<()> {
        self.kubectl(&["delete", "pod", "-n", namespace, pod, "--wait=true", "--timeout=120s"]).map(|_| ())
    }

    /// Deletes the pod of one of our workloads on a node, which gets another one, and waits until it is gone.
    ///
    /// # Errors
    /// There is none, or it is not gone within two minutes.
    pub fn delete_pod_of(&self, component: &str, node: &str) -> Result<()> {
        self.delete_pod(SYSTEM, &self.pod_of(component, node)?)
    }

    /// Writes so many MiB of chance to `/data/file` of a pod, durably; gives their sum.
    ///
    /// # Errors
    /// The write failed, with what the pod said.
    pub fn write_file(&self, namespace: &str, pod: &str, mib: u32) -> Result<String> {
        self.exec(namespace, pod, &format!("dd if=/dev/urandom of=/data/file bs=1M count={mib} conv=fsync"))?;
        self.file_sum(namespace, pod)
    }

    /// The sum of `/data/file` of a pod.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn file_sum(&self, namespace: &str, pod: &str) -> Result<String> {
        self.exec(namespace, pod, "sha256sum /data/file | cut -c1-64")
    }

    /// The mounted size of a pod's `/data`, in KiB.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn data_size_kib(&self, namespace: &str, pod: &str) -> Result<u64> {
        let text = self.exec(namespace, pod, "df -k /data | tail -n 1 | awk '{print $2}'")?;
        text.trim().parse().with_context(|| format!("a number of KiB: {text:?}"))
    }

    /// Applies objects.
    ///
    /// # Errors
    /// The API server refused one, with what it said.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let mut child = self
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start kubectl")?;
        child.stdin.take().context("kubectl's input")?.write_all(list.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// One object, if it is there.
    ///
    /// # Errors
    /// The API server did not answer.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let text = self.kubectl(&["get", kind, "-n", namespace, name, "-o", "json", "--ignore-not-found"])?;
        if text.trim().is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
    }

    /// All objects of a kind in a namespace (any, for kinds of the whole cluster).
    ///
    /// # Errors
    /// The API server did not answer.
    pub fn list(&self, kind: &str, namespace: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&["get", kind, "-n", namespace, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Makes a namespace for one scenario; pods in it may do what pods by default may.
    ///
    /// # Errors
    /// See [`Cluster::apply`].
    pub fn ensure_namespace(&self, namespace: &str) -> Result<()> {
        self.apply(&[serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})])
    }

    /// Deletes a namespace with everything in it, and waits until it is gone.
    ///
    /// # Errors
    /// It is not gone within `limit`.
    pub fn delete_namespace(&self, namespace: &str, limit: Duration) -> Result<()> {
        self.kubectl(&["delete", "namespace", namespace, "--wait=false", "--ignore-not-found"])?;
        until_true(limit, &format!("namespace {namespace} gone"), || {
            Ok(self.get("namespace", "", namespace)?.is_none())
        })
    }

    /// Waits until a pod runs and is ready; gives the name of its node.
    ///
    /// # Errors
    /// It does not within `limit`; with its events.
    pub fn wait_running(&self, namespace: &str, pod: &str, limit: Duration) -> Result<String> {
        until(limit, &format!("pod {namespace}/{pod} runs"), || {
            Ok(self.get("pod", namespace, pod)?.filter(is_ready).map(|pod| text(&pod["spec"]["nodeName"])))
        })
        .with_context(|| self.events(namespace))
    }

    /// Waits until a pod is gone.
    ///
    /// # Errors
    /// It is not within `limit`.
    pub fn wait_gone(&self, kind: &str, namespace: &str, name: &str, limit: Duration) -> Result<()> {
        until_true(limit, &format!("{kind} {namespace}/{name} gone"), || Ok(self.get(kind, namespace, name)?.is_none()))
            .with_context(|| self.events(namespace))
    }

    /// Runs a shell command in a pod and gives what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn exec(&self, namespace: &str, pod: &str, script: &str) -> Result<String> {
        self.kubectl(&["exec", "-n", namespace, pod, "--", "sh", "-ec", script])
    }

    /// A volume as the engine of a node sees it.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn volume_status(&self, node: &str, volume: &str) -> Result<Value> {
        let pod = self.pod_of("node", node)?;
        let mut words = vec!["exec", "-n", SYSTEM, &pod, "--", "lockstep", "--node", "/var/lib/lockstep/node.sock"];
        words.extend(["--output", "json", "volume", "status", volume]);
        let told = self.kubectl(&words)?;
        serde_json::from_str(&told).with_context(|| format!("node {node} says {told}"))
    }

    /// The name of the volume that a claim is bound to.
    ///
    /// # Errors
    /// It is not bound within `limit`.
    pub fn wait_bound(&self, namespace: &str, claim: &str, limit: Duration) -> Result<String> {
        until(limit, &format!("claim {namespace}/{claim} bound"), || {
            let claim = self.get("pvc", namespace, claim)?;
            Ok(claim
                .filter(|claim| claim["status"]["phase"] == "Bound")
                .map(|claim| text(&claim["spec"]["volumeName"])))
        })
        .with_context(|| self.events(namespace))
    }

    /// Name of the `MirrorVolume` of a claim: the handle of its persistent volume.
    ///
    /// # Errors
    /// The claim has none.
    pub fn mirror_volume(&self, namespace: &str, claim: &str) -> Result<String> {
        let volume = self.wait_bound(namespace, claim, Duration::from_secs(60))?;
        let volume = self.get("pv", "", &volume)?.with_context(|| format!("persistent volume {volume}"))?;
        Ok(text(&volume["spec"]["csi"]["volumeHandle"]))
    }

    /// Waits until all replicas of a volume are in sync.
    ///
    /// # Errors
    /// They are not within `limit`.
    pub fn wait_in_sync(&self, volume: &str, limit: Duration) -> Result<()> {
        self.wait_state(volume, "UpToDate", limit)
    }

    /// Waits until a volume's state is this.
    ///
    /// # Errors
    /// It is not within `limit`.
    pub fn wait_state(&self, volume: &str, state: &str, limit: Duration) -> Result<()> {
        let mut last = String::new();
        until_true(limit, &format!("volume {volume} is {state}"), || {
            let Some(object) = self.get("mirrorvolume", "", volume)? else { return Ok(false) };
            last = object["status"].to_string();
            Ok(object["status"]["state"] == state)
        })
        .with_context(|| format!("its status: {last}"))
    }

    /// Waits until no volume is left.
    ///
    /// # Errors
    /// One is after `limit`.
    pub fn wait_no_volume(&self, limit: Duration) -> Result<()> {
        until_true(limit, "no volume is left", || Ok(self.list("mirrorvolume", "")?.is_empty()))
    }

    /// How many of these nodes still have their drain guard.
    ///
    /// # Errors
    /// The API server did not answer.
    pub fn guards_left(&self, nodes: &[&str]) -> Result<usize> {
        let guards = self.pods_of("guard")?;
        Ok(guards.iter().filter(|(_, node)| nodes.contains(&node.as_str())).count())
    }

    /// Nodes that hold replicas of a volume.
    ///
    /// # Errors
    /// The API server did not answer.
    pub fn replica_nodes(&self, volume: &str) -> Result<Vec<String>> {
        self.part_nodes(volume, "Replica")
    }

    /// Nodes that hold parts of a volume of this role.
    ///
    /// # Errors
    /// The API server did not answer.
    pub fn part_nodes(&self, volume: &str, role: &str) -> Result<Vec<String>> {
        let selector = format!("lockstep.storage/volume={volume}");
        let text_list = self.kubectl(&["get", "mirrorreplica", "-l", &selector, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text_list)?;
        let replicas = list["items"].as_array().cloned().unwrap_or_default();
        let nodes = replicas.iter().filter(|replica| replica["spec"]["role"] == role);
        Ok(nodes.map(|replica| text(&replica["spec"]["nodeName"])).collect())
    }

    /// Names of the workers, in order.
    ///
    /// # Errors
    /// The API server did not answer.
    pub fn workers(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self
            .list("node", "")?
            .iter()
            .filter(|node| node["metadata"]["labels"].get("node-role.kubernetes.io/control-plane").is_none())
            .map(|node| text(&node["metadata"]["name"]))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Pods of one of our workloads: `node`, `engine`, `holder` or `controller`, with the names of their nodes.
    ///
    /// # Errors
    /// The API server did not answer.
    pub fn pods_of(&self, component: &str) -> Result<Vec<(String, String)>> {
        let selector = format!("app.kubernetes.io/component={component}");
        let list = self.kubectl(&["get", "pods", "-n", SYSTEM, "-l", &selector, "-o", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        Ok(pods.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]))).collect())
    }

    /// The pod of one of our workloads on a node.
    ///
    /// # Errors
    /// There is none.
    pub fn pod_of(&self, component: &str, node: &str) -> Result<String> {
        let found = self.pods_of(component)?.into_iter().find(|(_, at)| at == node);
        found.map(|(pod, _)| pod).with_context(|| format!("no pod of {component} is on {node}"))
    }

    /// The node on which the holder of a leader's Lease runs: holders are named by their pods.
    ///
    /// # Errors
    /// Nobody holds it, or the pod is gone.
    pub fn leader_node(&self, lease: &str) -> Result<String> {
        let object = self.get("lease", SYSTEM, lease)?.with_context(|| format!("Lease {lease}"))?;
        let holder = text(&object["spec"]["holderIdentity"]);
        let pods = self.list("pods", SYSTEM)?;
        let pod = pods.iter().find(|pod| holder.contains(&text(&pod["metadata"]["name"])));
        pod.map(|pod| text(&pod["spec"]["nodeName"]))
            .with_context(|| format!("no pod is called as the holder {holder}"))
    }

    /// The last events of a namespace, for messages.
    #[must_use]
    pub fn events(&self, namespace: &str) -> String {
        let args = ["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"];
        let events = self.kubectl(&args).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = events.lines().collect();
        let first = lines.len().saturating_sub(12);
        format!("events of {namespace}:\n{}", lines[first..].join("\n"))
    }

    /// The same, what its pods said last, and how all our pools, volumes and their parts are.
    #[must_use]
    pub fn seen(&self, namespace: &str) -> String {
        let show = |words: &[&str]| self.kubectl(words).unwrap_or_else(|error| format!("{error}\n"));
        let mut seen = show(&["get", "mirrorpools,mirrorvolumes,mirrorreplicas", "-o", "wide"]);
        for pod in self.list("pods", namespace).unwrap_or_default() {
            let name = text(&pod["metadata"]["name"]);
            seen +=
                &format!("{name} says:\n{}", show(&["logs", "-n", namespace, &name, "--all-containers", "--tail=3"]));
        }
        seen + &self.events(namespace)
    }
}

/// The text of a JSON string; empty for anything else.
#[must_use]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Whether a pod runs and says that it is ready.
#[must_use]
pub fn is_ready(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
        && pod["metadata"]["deletionTimestamp"].is_null()
        && has_condition(pod, "Ready", "True")
}

/// Whether an object has a condition of this type with this status.
#[must_use]
pub fn has_condition(object: &Value, kind: &str, status: &str) -> bool {
    condition(object, kind).is_some_and(|one| one["status"] == status)
}

/// An object's condition of this type.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == kind)
}

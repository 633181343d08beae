//! What only a node itself can say or do: `lockstep` in the pod of its agent, run through `kubectl exec`.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::process::Command;

use crate::cluster::Cluster;

/// Where the agent's socket is in its pod.
const SOCKET: &str = "/var/lib/lockstep/node.sock";

/// Runs `kubectl` with these arguments and gives what it printed.
pub(crate) async fn kubectl(cluster: &Cluster, args: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new("kubectl");
    if let Some(context) = &cluster.context {
        command.args(["--context", context]);
    }
    let output = command.args(args).stdin(Stdio::null()).output().await.context("start kubectl")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Runs `lockstep` on a node and gives the JSON value that it printed.
pub(crate) async fn lockstep(cluster: &Cluster, node: &str, args: &[&str]) -> Result<Value> {
    let pod = cluster.agent_pod(node).await?;
    let mut all = vec!["exec", "-n", &cluster.namespace, &pod, "-c", "lockstep-node", "--"];
    all.extend(["lockstep", "--node", SOCKET, "--output", "json"]);
    all.extend(args);
    let text = kubectl(cluster, &all).await.with_context(|| format!("node {node}"))?;
    serde_json::from_slice(&text).with_context(|| format!("node {node}: the answer is no JSON"))
}

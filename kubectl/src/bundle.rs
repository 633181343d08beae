//! A directory with everything that somebody who helps will ask for.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cluster::Cluster;
use crate::{live, view};

/// Lines of log of each container: hours of a quiet one, and never gigabytes.
const LOG_LINES: &str = "--tail=20000";

pub(crate) async fn write(cluster: &Cluster, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let namespace = cluster.namespace.as_str();
    let kinds = "mirrorpools,mirrorvolumes,mirrorreplicas";
    let component = |name: &str| format!("app.kubernetes.io/component={name}");
    let mut questions: Vec<(String, Vec<String>)> = vec![
        ("objects.yaml".to_owned(), ["get", kinds, "-o", "yaml"].map(str::to_owned).to_vec()),
        ("nodes.yaml".to_owned(), ["get", "nodes", "-o", "yaml"].map(str::to_owned).to_vec()),
        ("leases.yaml".to_owned(), ["get", "leases", "-A", "-o", "yaml"].map(str::to_owned).to_vec()),
        (
            "workloads.txt".to_owned(),
            ["get", "pods,daemonsets,deployments", "-n", namespace, "-o", "wide"].map(str::to_owned).to_vec(),
        ),
        ("events.txt".to_owned(), ["get", "events", "-A", "--sort-by=.lastTimestamp"].map(str::to_owned).to_vec()),
    ];
    for name in ["node", "engine", "holder", "controller"] {
        let label = component(name);
        let args = ["logs", "-n", namespace, "-l", &label, "--all-containers", "--prefix", LOG_LINES];
        questions.push((format!("{name}.log"), args.map(str::to_owned).to_vec()));
    }
    let mut missing = Vec::new();
    for (file, args) in &questions {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        eprintln!("writing {file}");
        match live::kubectl(cluster, &args).await {
            Ok(text) => std::fs::write(directory.join(file), text).with_context(|| format!("write {file}"))?,
            Err(error) => missing.push(format!("{file}: {error:#}")),
        }
    }
    for node in view::nodes(cluster).await? {
        let file = format!("live-{}.json", node.node);
        eprintln!("writing {file}");
        match live::lockstep(cluster, &node.node, &["volume", "list"]).await {
            Ok(value) => {
                std::fs::write(directory.join(&file), value.to_string()).with_context(|| format!("write {file}"))?
            }
            Err(error) => missing.push(format!("{file}: {error:#}")),
        }
    }
    if !missing.is_empty() {
        std::fs::write(directory.join("missing.txt"), missing.join("\n")).context("write missing.txt")?;
    }
    println!("{} ({} could not be had)", directory.display(), missing.len());
    Ok(())
}

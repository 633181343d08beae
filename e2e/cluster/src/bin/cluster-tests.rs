//! Runs the end-to-end scenarios on a cluster with Lockstep installed.
//!
//!     cluster-tests --kubeconfig FILE --kubectl FILE run --smoke
//!     cluster-tests --kubeconfig FILE --kubectl FILE levels --runs 10
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use lockstep_cluster::cluster::{Cluster, SYSTEM};
use lockstep_cluster::collector::Collector;
use lockstep_cluster::levels::{Level, measure};
use lockstep_cluster::nodes::docker;
use lockstep_cluster::scenarios::ALL;

/// End-to-end scenarios on a cluster of kind.
#[derive(Parser)]
struct Options {
    /// Of the cluster
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The program
    #[arg(long, default_value = "kubectl")]
    kubectl: PathBuf,
    /// Name of the cluster: of its network in docker, and the beginning of its nodes' names
    #[arg(long, default_value = "lockstep")]
    cluster: String,
    /// Image of the pods: with a shell and `recorder`
    #[arg(long, default_value = "lockstep/e2e-tools:test")]
    tools_image: String,
    /// Where logs of failed scenarios go
    #[arg(long, default_value = "/tmp/lockstep-e2e-logs")]
    logs: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Runs scenarios
    Run {
        /// Only the short ones
        #[arg(long)]
        smoke: bool,
        /// Only those whose name contains this
        #[arg(long)]
        only: Option<String>,
        /// Stop at the first that fails, and leave its objects
        #[arg(long)]
        stop: bool,
    },
    /// Names the scenarios
    List,
    /// Measures fail-overs, and what else has a level
    Levels {
        /// How many of each
        #[arg(long, default_value_t = 10)]
        runs: u32,
        /// Only this one
        #[arg(long, value_enum)]
        only: Option<Level>,
    },
}

fn main() -> ExitCode {
    run(&Options::parse()).unwrap_or_else(|error| {
        eprintln!("cluster-tests: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(options: &Options) -> Result<ExitCode> {
    let cluster = Cluster::new(
        options.kubectl.clone(),
        options.kubeconfig.clone(),
        options.cluster.clone(),
        options.tools_image.clone(),
    );
    match &options.action {
        Action::List => {
            for scenario in ALL {
                println!("{}{}", scenario.name, if scenario.smoke { "  (smoke)" } else { "" });
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Run { smoke, only, stop } => {
            let collector = Collector::start(host_address(&cluster)?)?;
            let wanted = ALL
                .iter()
                .filter(|one| !*smoke || one.smoke)
                .filter(|one| only.as_ref().is_none_or(|part| one.name.contains(part.as_str())));
            let (mut passed, mut failed) = (0, Vec::new());
            for scenario in wanted {
                let start = Instant::now();
                println!("scenario {}", scenario.name);
                match scenario.run(&cluster, &collector) {
                    Ok(()) => {
                        passed += 1;
                        println!("scenario {}: passed in {} s", scenario.name, start.elapsed().as_secs());
                    }
                    Err(error) => {
                        println!("scenario {}: FAILED after {} s: {error:#}", scenario.name, start.elapsed().as_secs());
                        collect_logs(&cluster, &options.logs.join(scenario.name));
                        failed.push(scenario.name);
                        if *stop {
                            break;
                        }
                        // What it left must not be in the way of the next.
                        let _ = cluster.kubectl(&[
                            "delete",
                            "namespace",
                            &format!("e2e-{}", scenario.name),
                            "--wait=false",
                        ]);
                    }
                }
            }
            println!(
                "{passed} passed, {} failed{}",
                failed.len(),
                if failed.is_empty() { String::new() } else { format!(": {}", failed.join(", ")) }
            );
            Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Action::Levels { runs, only } => {
            measure(&cluster, &Collector::start(host_address(&cluster)?)?, *runs, *only)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// This machine, as pods of a kind cluster reach it: the gateway of its network, which is the first address unless docker says another.
fn host_address(cluster: &Cluster) -> Result<IpAddr> {
    let format = "{{range .IPAM.Config}}{{.Gateway}} {{.Subnet}} {{end}}";
    let text = docker(&["network", "inspect", &format!("kind-{}", cluster.name), "-f", format])?;
    let words = text.split_whitespace().filter_map(|word| match word.split_once('/') {
        None => word.parse::<Ipv4Addr>().ok(),
        Some((subnet, _)) => subnet.parse::<Ipv4Addr>().ok().map(|first| Ipv4Addr::from_bits(first.to_bits() + 1)),
    });
    words.into_iter().next().map(IpAddr::V4).context("the cluster's network has no IPv4 gateway")
}

/// What a person wants to see of a failure. As much as can be had.
fn collect_logs(cluster: &Cluster, directory: &std::path::Path) {
    if let Err(error) = std::fs::create_dir_all(directory) {
        println!("logs cannot be kept: {error}");
        return;
    }
    // A pod whose node is away has no logs, and the others still have theirs.
    let how = "--all-containers --tail=-1 --prefix --ignore-errors";
    let logs = |component| format!("logs -n {SYSTEM} -l app.kubernetes.io/component={component} {how}");
    let everything = [
        ("objects", "get pods,pvc,pv,nodes,leases,mirrorpools,mirrorvolumes,mirrorreplicas -A -o wide".to_owned()),
        ("lockstep", "get mirrorpools,mirrorvolumes,mirrorreplicas -o yaml".to_owned()),
        ("events", "get events -A --sort-by=.lastTimestamp".to_owned()),
        ("node", logs("node")),
        ("engine", logs("engine")),
        ("controller", logs("controller")),
    ];
    for (name, command) in everything {
        let args: Vec<&str> = command.split_whitespace().collect();
        let text = match cluster.try_kubectl(&args) {
            Ok(output) => [output.stdout, output.stderr].concat(),
            Err(error) => error.to_string().into_bytes(),
        };
        let _ = std::fs::write(directory.join(name), text);
    }
    println!("logs: {}", directory.display());
}

//! Nodes of a kind cluster, which are containers: killed, started, paused, cut off.
//!
//! Paused means that every process of the container is stopped by a signal from outside: a cgroup's freezer over a FUSE server and
//! its writers never gets them all.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::Cluster;
use crate::wait::until_true;

/// How often the processes of a node are looked at again while it is being stopped: one may have been starting another.
const PASSES_MAX: usize = 20;

/// Runs `docker` with these arguments and gives what it printed.
///
/// # Errors
/// It failed, with what it said.
pub fn docker(args: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(args).stdin(Stdio::null()).output().context("start docker")?;
    if !output.status.success() {
        bail!("docker {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Kills a node, as a power loss does.
///
/// # Errors
/// It does not run.
pub fn kill_node(node: &str) -> Result<()> {
    docker(&["kill", node]).map(|_| ())
}

/// Starts a node that was killed.
///
/// # Errors
/// It cannot be started.
pub fn start_node(node: &str) -> Result<()> {
    docker(&["start", node]).map(|_| ())
}

/// Stops every process of a node, as a hang of the whole machine does. Ends when the guard is dropped.
///
/// # Errors
/// They cannot be found or stopped.
pub fn pause_node(node: &str) -> Result<Paused> {
    let mut stopped: Vec<i32> = Vec::new();
    for _ in 0..PASSES_MAX {
        let all = processes(node)?;
        let new: Vec<i32> = all.into_iter().filter(|pid| !stopped.contains(pid)).collect();
        if new.is_empty() {
            return Ok(Paused { stopped });
        }
        for pid in new {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
            stopped.push(pid);
        }
    }
    bail!("the processes of {node} do not stay the same")
}

/// What was stopped of a node: goes on when this is dropped.
#[derive(Debug)]
pub struct Paused {
    stopped: Vec<i32>,
}

impl Drop for Paused {
    fn drop(&mut self) {
        for pid in self.stopped.iter().rev() {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGCONT);
        }
    }
}

/// The first process of a node, as seen here.
///
/// # Errors
/// The node does not run.
pub fn init_of(node: &str) -> Result<u32> {
    let init: u32 = docker(&["inspect", "-f", "{{.State.Pid}}", node])?.trim().parse().context("process id")?;
    if init == 0 {
        bail!("node {node} does not run");
    }
    Ok(init)
}

/// Process ids, as seen here, of everything that runs in a node, pods included.
fn processes(node: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    collect_tree(init_of(node)?, &mut found);
    Ok(found)
}

/// A process and what it started.
pub(crate) fn collect_tree(pid: u32, found: &mut Vec<i32>) {
    let Ok(raw) = i32::try_from(pid) else { return };
    found.push(raw);
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            collect_tree(child, found);
        }
    }
}

/// Sends a signal to the processes of a node whose command begins with `program`.
///
/// # Errors
/// There is none.
pub fn signal_program(node: &str, program: &str, signal: Signal) -> Result<usize> {
    signal_matching(node, program, signal, |_| true)
}

/// Kills the engine of a node, and not what starts it again: a container that ends again and again is started later and later.
///
/// # Errors
/// There is none.
pub fn kill_engine(node: &str) -> Result<()> {
    signal_matching(node, "lockstep-engine", Signal::SIGKILL, |first| first == "worker").map(|_| ())
}

/// Stops the processes of a node whose command begins with `program`, until the guard is dropped.
///
/// # Errors
/// There is none.
pub fn stop_program(node: &str, program: &str) -> Result<Paused> {
    let stopped = matching(node, program, |_| true)?;
    for pid in &stopped {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGSTOP);
    }
    Ok(Paused { stopped })
}

/// The process of a node whose command is `program` with this first argument.
///
/// # Errors
/// There is none.
pub fn process_of(node: &str, program: &str, argument: &str) -> Result<u32> {
    let found = matching(node, program, |first| first == argument).with_context(|| format!("{program} {argument}"))?;
    u32::try_from(found[0]).context("process id")
}

/// Kills a process.
///
/// # Errors
/// There is none of this number.
pub fn kill_process(pid: u32) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid).context("process id")?);
    kill(pid, Signal::SIGKILL).with_context(|| format!("kill process {pid}"))
}

fn signal_matching(node: &str, program: &str, signal: Signal, matches: impl Fn(&str) -> bool) -> Result<usize> {
    let signalled = |pid: &i32| kill(Pid::from_raw(*pid), signal).is_ok();
    Ok(matching(node, program, matches)?.into_iter().filter(signalled).count())
}

/// Those whose command begins with `program` and whose first argument matches: one at least.
fn matching(node: &str, program: &str, matches: impl Fn(&str) -> bool) -> Result<Vec<i32>> {
    let mut found = processes(node)?;
    found.retain(|pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let mut words = command.split('\0');
        let name = words.next().unwrap_or_default().rsplit('/').next();
        name == Some(program) && matches(words.next().unwrap_or_default())
    });
    if found.is_empty() {
        bail!("no {program} runs in {node}");
    }
    Ok(found)
}

/// Waits until Kubernetes says that a node is ready (or that it is not).
///
/// # Errors
/// It does not within `limit`.
pub fn wait_node_ready(cluster: &Cluster, node: &str, ready: bool, limit: Duration) -> Result<()> {
    let wanted = if ready { "True" } else { "Unknown" };
    until_true(limit, &format!("node {node} Ready={wanted}"), || {
        let object = cluster.get("node", "", node)?.context("node")?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|one| one["type"] == "Ready" && (one["status"] == "True") == ready))
    })
}

/// Waits until the API server knows a node, and has given it addresses for pods.
///
/// # Errors
/// It does not within `limit`.
pub fn wait_node_registered(cluster: &Cluster, node: &str, limit: Duration) -> Result<()> {
    until_true(limit, &format!("node {node} is registered"), || {
        Ok(cluster.get("node", "", node)?.is_some_and(|node| node["spec"]["podCIDR"].is_string()))
    })
}

/// Connects the pods of all nodes again, after one was registered anew and has other addresses for its pods.
///
/// # Errors
/// `scripts/kind` failed, with what it said.
pub fn connect_pods(cluster: &Cluster) -> Result<()> {
    let output = Command::new("scripts/kind").args(["network", &cluster.name]).stdin(Stdio::null()).output();
    let output = output.context("start scripts/kind")?;
    anyhow::ensure!(output.status.success(), "scripts/kind: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Packets from one node to another, dropped at the receiver until this is dropped.
#[derive(Debug)]
pub struct Cut {
    rules: Vec<(String, String)>,
}

impl Cut {
    /// Nothing from `from` reaches `to` any more; the other way stays open.
    ///
    /// # Errors
    /// The rules cannot be made.
    pub fn one_way(from: &str, to: &str) -> Result<Self> {
        let mut cut = Self { rules: Vec::new() };
        for address in addresses(from)? {
            docker(&["exec", to, "iptables", "-I", "INPUT", "-s", &address, "-j", "DROP"])?;
            cut.rules.push((to.to_owned(), address));
        }
        Ok(cut)
    }

    /// Neither reaches the other by the cluster's second network; the first stays whole.
    ///
    /// # Errors
    /// The rules cannot be made, or there is no second network.
    pub fn second_network(one: &str, other: &str) -> Result<Self> {
        let mut cut = Self { rules: Vec::new() };
        for (from, to) in [(one, other), (other, one)] {
            let address =
                addresses(from)?.into_iter().nth(1).with_context(|| format!("{from} has one network only"))?;
            docker(&["exec", to, "iptables", "-I", "INPUT", "-s", &address, "-j", "DROP"])?;
            cut.rules.push((to.to_owned(), address));
        }
        Ok(cut)
    }

    /// Neither reaches the other.
    ///
    /// # Errors
    /// The rules cannot be made.
    pub fn both_ways(one: &str, other: &str) -> Result<Self> {
        let mut cut = Self::one_way(one, other)?;
        let mut back = Self::one_way(other, one)?;
        cut.rules.append(&mut back.rules);
        Ok(cut)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        for (node, address) in &self.rules {
            if let Err(error) = docker(&["exec", node, "iptables", "-D", "INPUT", "-s", address, "-j", "DROP"]) {
                eprintln!("a cut stays: {error}");
            }
        }
    }
}

/// All addresses of a node, on all its networks.
///
/// # Errors
/// There is no such node.
pub fn addresses(node: &str) -> Result<Vec<String>> {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
    let text = docker(&["inspect", "-f", format, node])?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// A directory of a node, as this machine sees it, whether or not the node runs.
///
/// # Errors
/// It does not lie in the node's volume.
pub fn path_on_host(node: &str, below_var: &str) -> Result<PathBuf> {
    let format = r#"{{range .Mounts}}{{if eq .Destination "/var"}}{{.Source}}{{end}}{{end}}"#;
    let source = docker(&["inspect", "-f", format, node])?;
    anyhow::ensure!(!source.trim().is_empty(), "{node} keeps /var in no volume of its own");
    Ok(PathBuf::from(source.trim()).join(below_var))
}

/// What Lockstep holds on a node: loop devices, FUSE connections, files of replicas. For comparing before and after.
///
/// # Errors
/// The node does not answer.
pub fn leftovers(node: &str, volume: &str) -> Result<String> {
    let script = format!(
        "ls -d /var/lib/lockstep/pool/*{volume}* /var/lib/lockstep/engine/*/*{volume}* 2>/dev/null; \
         grep -l {volume} /sys/block/loop*/loop/backing_file 2>/dev/null; grep {volume} /proc/self/mountinfo; true"
    );
    docker(&["exec", node, "sh", "-c", &script])
}

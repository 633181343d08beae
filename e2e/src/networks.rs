//! Nodes in network namespaces, joined by two bridges that can be cut: an ordinary network and a dedicated one.
//!
//! The programs are started here, with a `cluster.toml` of their own: a playground knows only loopback addresses.

use crate::cleanup::{Cleanup, Undo};
use crate::command::{program, run_ok};
use crate::playground::{Cli, built_program};
use crate::wait;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const READY_BOUND: Duration = Duration::from_secs(30);
const PORT: u16 = 7501;
const METRICS_PORT: u16 = 7503;

/// One of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Where `address` is.
    Ordinary,
    /// Where `dedicated` is.
    Dedicated,
}

impl Network {
    const ALL: [Network; 2] = [Network::Ordinary, Network::Dedicated];

    fn bridge(self) -> &'static str {
        match self {
            Network::Ordinary => "br-ordinary",
            Network::Dedicated => "br-dedicated",
        }
    }

    fn interface(self) -> &'static str {
        match self {
            Network::Ordinary => "ordinary",
            Network::Dedicated => "dedicated",
        }
    }

    fn subnet(self) -> &'static str {
        match self {
            Network::Ordinary => "192.0.2",
            Network::Dedicated => "198.51.100",
        }
    }
}

/// Three nodes with two networks between them. Everything goes when it is dropped.
pub struct Namespaces {
    cli: Cli,
    dir: PathBuf,
    prefix: String,
    nodes: Vec<String>,
    _undo: Vec<Undo>,
}

impl Namespaces {
    /// Makes the namespaces and bridges and starts the programs of nodes a, b, c below `dir`.
    pub fn start(dir: &Path, cleanup: &Cleanup) -> Result<Self> {
        let prefix = format!("lockstep-{}", std::process::id());
        let nodes = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut undo = vec![make_switch(&prefix, cleanup)?];
        for (index, node) in nodes.iter().enumerate() {
            undo.push(make_node(&prefix, node, index + 1, cleanup)?);
        }
        let psk = "5a".repeat(32);
        for node in &nodes {
            let state = dir.join(node);
            fs::create_dir_all(state.join("pool")).with_context(|| format!("make {}", state.display()))?;
            fs::write(state.join("cluster.toml"), cluster_file(&psk, &nodes, &state)).context("write cluster.toml")?;
            undo.push(start_programs(&prefix, node, &state, cleanup)?);
        }
        // Guards are dropped in order: programs first, then the namespaces they run in.
        undo.reverse();
        let namespaces = Namespaces { cli: Cli::find()?, dir: dir.to_path_buf(), prefix, nodes, _undo: undo };
        for node in &namespaces.nodes {
            wait::until_ok(&format!("{node} answers"), READY_BOUND, || {
                namespaces.at(node, &["volume", "list"]).map(Some)
            })?;
        }
        Ok(namespaces)
    }

    /// Runs a command at a node.
    pub fn at(&self, node: &str, arguments: &[&str]) -> Result<Value> {
        let socket = self.dir.join(node).join("node.sock");
        let socket = socket.to_string_lossy();
        let mut all = vec!["--node", socket.as_ref()];
        all.extend_from_slice(arguments);
        self.cli.json(&all)
    }

    /// A node's state directory.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    /// Cuts a network between all nodes: packets vanish, nothing is reset.
    pub fn cut(&self, network: Network) -> Result<()> {
        self.set_bridge(network, "down")
    }

    /// Joins it again.
    pub fn join(&self, network: Network) -> Result<()> {
        self.set_bridge(network, "up")
    }

    fn set_bridge(&self, network: Network, state: &str) -> Result<()> {
        let switch = format!("{}-switch", self.prefix);
        run_ok(&mut program("ip", ["-n", &switch, "link", "set", network.bridge(), state])).map(|_| ())
    }
}

fn make_switch(prefix: &str, cleanup: &Cleanup) -> Result<Undo> {
    let name = format!("{prefix}-switch");
    let undo = make_namespace(&name, cleanup)?;
    for network in Network::ALL {
        ip(&["-n", &name, "link", "add", network.bridge(), "type", "bridge"])?;
        ip(&["-n", &name, "link", "set", network.bridge(), "up"])?;
    }
    Ok(undo)
}

fn make_node(prefix: &str, node: &str, number: usize, cleanup: &Cleanup) -> Result<Undo> {
    let (name, switch) = (format!("{prefix}-{node}"), format!("{prefix}-switch"));
    let undo = make_namespace(&name, cleanup)?;
    ip(&["-n", &name, "link", "set", "lo", "up"])?;
    for network in Network::ALL {
        let port = format!("{}-{node}", network.interface());
        let address = format!("{}.{number}/24", network.subnet());
        ip(&[
            "-n",
            &name,
            "link",
            "add",
            network.interface(),
            "type",
            "veth",
            "peer",
            "name",
            &port,
            "netns",
            &switch,
        ])?;
        ip(&["-n", &switch, "link", "set", &port, "master", network.bridge(), "up"])?;
        ip(&["-n", &name, "address", "add", &address, "dev", network.interface()])?;
        ip(&["-n", &name, "link", "set", network.interface(), "up"])?;
    }
    Ok(undo)
}

fn make_namespace(name: &str, cleanup: &Cleanup) -> Result<Undo> {
    let undo = {
        let name = name.to_owned();
        cleanup.defer(move || {
            if let Err(error) = ip(&["netns", "delete", &name]) {
                eprintln!("{error:#}");
            }
        })
    };
    ip(&["netns", "add", name])?;
    Ok(undo)
}

fn ip(arguments: &[&str]) -> Result<()> {
    run_ok(&mut program("ip", arguments)).map(|_| ())
}

fn cluster_file(psk: &str, nodes: &[String], state: &Path) -> String {
    let mut text = format!("psk = \"{psk}\"\n");
    for (number, node) in (1..).zip(nodes) {
        let (ordinary, dedicated) = (Network::Ordinary.subnet(), Network::Dedicated.subnet());
        // The dedicated network is named as a network: each node finds its own address in it.
        text.push_str(&format!(
            "\n[[nodes]]\nid = {number}\nname = \"{node}\"\naddress = \"{ordinary}.{number}\"\n\
             dedicated = \"{dedicated}.0/24\"\nport = {PORT}\n"
        ));
    }
    let state = state.display();
    text.push_str(&format!(
        "\n[this]\npool = {{ directory = \"{state}/pool\" }}\nmetrics_port = {METRICS_PORT}\nvolume_dev_dir = \"{state}/dev\"\n"
    ));
    text
}

/// Supervisor and agent, inside the node's network namespace; the worker is the supervisor's.
fn start_programs(prefix: &str, node: &str, state: &Path, cleanup: &Cleanup) -> Result<Undo> {
    let children: Arc<Mutex<Vec<Child>>> = Arc::default();
    let undo = {
        let (children, worker_pid) = (children.clone(), state.join("worker.pid"));
        cleanup.defer(move || {
            for child in children.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
                end(child, &worker_pid);
            }
        })
    };
    for name in ["lockstep-engine", "lockstep-node"] {
        let log = File::create(state.join(format!("{name}.log"))).context("make a log")?;
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{prefix}-{node}"))
            .arg(built_program(name, &format!("{}_BIN", name.replace('-', "_").to_uppercase()))?)
            .arg("--state-dir")
            .arg(state)
            .arg("--config")
            .arg(state.join("cluster.toml"))
            .args(["--node", node])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {name} of {node}"))?;
        children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }
    Ok(undo)
}

/// Ends a program in order, or else with its worker.
fn end(child: &mut Child, worker_pid: &Path) {
    if let Err(error) = end_in_order(child) {
        eprintln!("{error:#}");
        let worker = fs::read_to_string(worker_pid).ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
        if let Some(worker) = worker {
            let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn end_in_order(child: &mut Child) -> Result<()> {
    let id = i32::try_from(child.id()).context("a process id is small")?;
    kill(Pid::from_raw(id), Signal::SIGTERM).context("ask a program to end")?;
    match crate::command::wait_bounded(child, READY_BOUND)? {
        Some(_) => Ok(()),
        None => bail!("process {id} did not end when asked"),
    }
}

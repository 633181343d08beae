//! Network namespaces for the nodes of a playground, joined by two bridges whose links can be cut: an ordinary network and a
//! dedicated one.

use crate::cleanup::{Cleanup, Undo};
use crate::command::{program, run_ok};
use anyhow::{Context, Result};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where packets of a cut link go: a locally administered address that no interface here has.
const NOWHERE: &str = "02:00:00:00:00:ff";

/// Apart, the tests of one process must not meet.
static MADE: AtomicU32 = AtomicU32::new(0);

/// One of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Where `address` is.
    Ordinary,
    /// Where `dedicated` is.
    Dedicated,
}

impl Network {
    /// Both.
    pub const ALL: [Network; 2] = [Network::Ordinary, Network::Dedicated];

    fn bridge(self) -> &'static str {
        match self {
            Network::Ordinary => "br-ordinary",
            Network::Dedicated => "br-dedicated",
        }
    }

    /// The name, which is that of each node's interface there.
    pub fn name(self) -> &'static str {
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

    fn address(self, number: usize) -> String {
        format!("{}.{number}", self.subnet())
    }
}

/// How a cluster file says where the nodes are on the dedicated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dedicated {
    /// Each node's address.
    ByAddress,
    /// The network: each node finds its own address in it, and the others learn that over the ordinary network.
    ByNetwork,
}

/// A namespace for each node, and one with the bridges between them. All of them go when it is dropped.
pub struct Networks {
    prefix: String,
    nodes: Vec<String>,
    _undo: Vec<Undo>,
}

impl Networks {
    /// Makes them; every node reaches every other on both networks.
    pub fn make(nodes: &[String], cleanup: &Cleanup) -> Result<Self> {
        // The process's number is in the name: whose process is gone has been left behind.
        let prefix = format!("lockstep-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let mut undo = vec![make_switch(&prefix, cleanup)?];
        for (number, node) in (1..).zip(nodes) {
            undo.push(make_node(&prefix, node, number, cleanup)?);
        }
        Ok(Networks { prefix, nodes: nodes.to_vec(), _undo: undo })
    }

    /// A command that runs a program in a node's namespace.
    pub fn command_in(&self, node: &str, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}-{node}", self.prefix)).arg(program);
        command
    }

    /// Gives the nodes of a cluster file their addresses here.
    pub fn place(&self, cluster: &mut toml::Table, dedicated: Dedicated) -> Result<()> {
        let nodes = cluster.get_mut("nodes").and_then(toml::Value::as_array_mut).context("a cluster has nodes")?;
        for (number, node) in (1..).zip(nodes) {
            let node = node.as_table_mut().context("a node is a table")?;
            node.insert("address".to_owned(), Network::Ordinary.address(number).into());
            let place = match dedicated {
                Dedicated::ByAddress => Network::Dedicated.address(number),
                Dedicated::ByNetwork => format!("{}/24", Network::Dedicated.address(0)),
            };
            node.insert("dedicated".to_owned(), place.into());
        }
        Ok(())
    }

    /// Cuts a network between all nodes: packets vanish, nothing is reset.
    pub fn cut(&self, network: Network) -> Result<()> {
        self.set_up(network.bridge(), false)
    }

    /// Joins it again.
    pub fn join(&self, network: Network) -> Result<()> {
        self.set_up(network.bridge(), true)
    }

    /// Cuts one node off a network.
    pub fn cut_node(&self, network: Network, node: &str) -> Result<()> {
        self.set_up(&port(network, node), false)
    }

    /// Joins it again.
    pub fn join_node(&self, network: Network, node: &str) -> Result<()> {
        self.set_up(&port(network, node), true)
    }

    /// Cuts one direction between two nodes: what `from` sends vanishes, what `to` sends arrives.
    pub fn cut_way(&self, network: Network, from: &str, to: &str) -> Result<()> {
        self.neighbour(network, from, to, &["replace"], &["lladdr", NOWHERE, "nud", "permanent"])
    }

    /// Joins it again.
    pub fn join_way(&self, network: Network, from: &str, to: &str) -> Result<()> {
        self.neighbour(network, from, to, &["del"], &[])
    }

    fn neighbour(&self, network: Network, from: &str, to: &str, verb: &[&str], how: &[&str]) -> Result<()> {
        let number = 1 + self.nodes.iter().position(|node| node == to).context("the node has an address")?;
        let (name, address) = (format!("{}-{from}", self.prefix), network.address(number));
        let mut all = vec!["-n", &name, "neigh"];
        all.extend_from_slice(verb);
        all.extend_from_slice(&[&address, "dev", network.name()]);
        all.extend_from_slice(how);
        ip(&all)
    }

    fn set_up(&self, interface: &str, up: bool) -> Result<()> {
        let switch = format!("{}-switch", self.prefix);
        ip(&["-n", &switch, "link", "set", interface, if up { "up" } else { "down" }])
    }
}

/// The bridge's end of a node's link.
fn port(network: Network, node: &str) -> String {
    format!("{}-{node}", network.name())
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
        let (own, port) = (network.name(), port(network, node));
        let address = format!("{}/24", network.address(number));
        ip(&["-n", &name, "link", "add", own, "type", "veth", "peer", "name", &port, "netns", &switch])?;
        ip(&["-n", &switch, "link", "set", &port, "master", network.bridge(), "up"])?;
        ip(&["-n", &name, "address", "add", &address, "dev", own])?;
        ip(&["-n", &name, "link", "set", own, "up"])?;
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

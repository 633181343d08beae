//! `cluster.toml`: the nodes, the key they share, and what this node has. One file per node, parsed once.
//!
//! ```toml
//! psk = "64 hex digits"
//!
//! [[nodes]]
//! id = 1
//! name = "a"
//! address = "192.0.2.1"
//! dedicated = "198.51.100.0/24"   # optional: an address, or the network in which the node finds its own
//! port = 7501                     # mirror traffic; agents speak to each other on port + 1
//!
//! [this]
//! pool = { directory = "/var/lib/lockstep/pool" }   # or { device = "/dev/sdb" }, or none at all
//! metrics_port = 7503
//! volume_dev_dir = "/dev/lockstep"
//! loops = 2                                         # event loops; default: one per processor
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::input;

/// How many nodes one cluster may list. A bound for what is read and walked, not for the protocol; Kubernetes has at most 5,000.
pub const NODES_MAX: usize = 5000;

/// Why a cluster file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParseClusterError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML of this shape.
    #[error("{} is not a cluster file", path.display())]
    ParseToml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value is wrong by itself or beside the others.
    #[error("{}: {field}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value.
        field: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// The key that all nodes of a cluster share.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk(pub [u8; 32]);

impl Psk {
    /// A key for one purpose: no two uses of the shared key see the same bytes.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.0)
    }

    /// Names the cluster without giving its key away.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let key = self.derive("lockstep 2025-11 cluster fingerprint v1");
        input::to_hex(&key[..8])
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Psk({})", self.fingerprint())
    }
}

/// How a node is reached on the dedicated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dedicated {
    /// At this address.
    Address(IpAddr),
    /// At that address of its own which lies in this network.
    Network {
        /// Any address of the network.
        base: IpAddr,
        /// How many leading bits are the network's.
        prefix: u8,
    },
}

impl Dedicated {
    /// Whether `address` may be the node's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match *self {
            Self::Address(own) => own == address,
            Self::Network { base, prefix } => match (base, address) {
                (IpAddr::V4(base), IpAddr::V4(address)) => {
                    leading(u128::from(base.to_bits()) << 96, prefix)
                        == leading(u128::from(address.to_bits()) << 96, prefix)
                }
                (IpAddr::V6(base), IpAddr::V6(address)) => {
                    leading(base.to_bits(), prefix) == leading(address.to_bits(), prefix)
                }
                _ => false,
            },
        }
    }
}

fn leading(bits: u128, prefix: u8) -> u128 {
    if prefix == 0 { 0 } else { bits >> (128 - u32::from(prefix)) }
}

impl FromStr for Dedicated {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is neither an address nor a network like 198.51.100.0/24");
        let Some((base, prefix)) = text.split_once('/') else {
            return text.parse().map(Self::Address).map_err(|_| expected());
        };
        let base: IpAddr = base.parse().map_err(|_| expected())?;
        let prefix: u8 = prefix.parse().map_err(|_| expected())?;
        let bits = if base.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return Err(format!("{text:?}: a prefix has at most {bits} bits"));
        }
        Ok(Self::Network { base, prefix })
    }
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Order of ids is order of nodes.
    pub id: u32,
    /// Unique.
    pub name: String,
    /// On the ordinary network.
    pub address: IpAddr,
    /// On the dedicated network, if it has one.
    pub dedicated: Option<Dedicated>,
    /// Mirror traffic; the agent listens on the next one.
    pub port: u16,
}

impl Node {
    /// Where its agent listens for other agents.
    #[must_use]
    pub fn agent_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port + 1)
    }
}

/// Where a node keeps its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolPlace {
    /// A directory on a local file system.
    Directory(PathBuf),
    /// A whole disk or partition, which the agent formats.
    Device(PathBuf),
}

/// A parsed `cluster.toml`.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Shared by all nodes.
    pub psk: Psk,
    /// Sorted by id.
    pub nodes: Vec<Node>,
    /// What only this node's programs need.
    pub this: This,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct This {
    /// Absent: this node holds no replicas.
    pub pool: Option<PoolPlace>,
    /// Prometheus text on 127.0.0.1; absent: none.
    pub metrics_port: Option<u16>,
    /// Where attached volumes get their names.
    pub volume_dev_dir: PathBuf,
    /// Event loops of the engine.
    pub loops: usize,
    /// How this node reaches the API server: a file, or the word of [`lockstep_leases::IN_CLUSTER`]; absent: it cannot take part in
    /// volumes that Kubernetes Leases arbitrate.
    pub kubeconfig: Option<PathBuf>,
    /// Where the Leases are, the same on all nodes.
    pub namespace: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    psk: String,
    nodes: Vec<NodeTable>,
    #[serde(default)]
    this: ThisTable,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeTable {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dedicated: Option<String>,
    pub(crate) port: u16,
}

impl NodeTable {
    pub(crate) fn of(node: &Node) -> Self {
        Self {
            id: node.id,
            name: node.name.clone(),
            address: node.address,
            dedicated: node.dedicated.map(|dedicated| match dedicated {
                Dedicated::Address(address) => address.to_string(),
                Dedicated::Network { base, prefix } => format!("{base}/{prefix}"),
            }),
            port: node.port,
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ThisTable {
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<PoolPlace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_dev_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loops: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubeconfig: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

impl Cluster {
    /// Reads and parses the file at `path`.
    ///
    /// # Errors
    /// Whatever keeps the file from being a cluster file: unreadable, not TOML, or a value that cannot be.
    pub fn read(path: &Path) -> Result<Self, ParseClusterError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ParseClusterError::ReadFile { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses `text`; `path` is only named in errors.
    ///
    /// # Errors
    /// See [`Cluster::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ParseClusterError> {
        let file: ClusterFile = toml::from_str(text)
            .map_err(|source| ParseClusterError::ParseToml { path: path.to_owned(), source: Box::new(source) })?;
        file.check().map_err(|(field, reason)| ParseClusterError::Value { path: path.to_owned(), field, reason })
    }

    /// The file that [`Cluster::read`] reads back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let nodes = self.nodes.iter().map(NodeTable::of);
        let this = ThisTable {
            pool: self.this.pool.clone(),
            metrics_port: self.this.metrics_port,
            volume_dev_dir: Some(self.this.volume_dev_dir.clone()),
            loops: Some(self.this.loops),
            kubeconfig: self.this.kubeconfig.clone(),
            namespace: Some(self.this.namespace.clone()),
        };
        let file = ClusterFile { psk: input::to_hex(&self.psk.0), nodes: nodes.collect(), this };
        toml::to_string(&file).expect("these tables have only TOML's own types")
    }

    /// Where this node finds Leases, if it can.
    #[must_use]
    pub fn leases(&self) -> Option<lockstep_leases::Place> {
        let kubeconfig = self.this.kubeconfig.clone()?;
        Some(lockstep_leases::Place { kubeconfig, namespace: self.this.namespace.clone() })
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The node of this id.
    #[must_use]
    pub fn node_by_id(&self, id: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The name of the node of this id, or a name that shows that the cluster file has none.
    #[must_use]
    pub fn name_of(&self, id: u32) -> String {
        self.node_by_id(id).map_or_else(|| format!("node-{id}"), |node| node.name.clone())
    }
}

impl ClusterFile {
    fn check(self) -> Result<Cluster, (String, String)> {
        let psk = input::from_hex(&self.psk)
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or_else(|| ("psk".to_owned(), "must be 64 hex digits (32 bytes)".to_owned()))?;
        if self.nodes.is_empty() || self.nodes.len() > NODES_MAX {
            return Err(("nodes".to_owned(), format!("{} nodes; 1 to {NODES_MAX} are possible", self.nodes.len())));
        }
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (index, table) in self.nodes.into_iter().enumerate() {
            let at = |field: &str| format!("nodes[{index}].{field}");
            input::check_node_name("name", &table.name).map_err(|failure| (at("name"), failure.to_string()))?;
            if table.id == 0 {
                return Err((at("id"), "must be 1 or more".to_owned()));
            }
            if table.port == 0 || table.port == u16::MAX {
                return Err((at("port"), "must be 1 to 65534: the agent listens on the next one".to_owned()));
            }
            let dedicated = table.dedicated.map(|text| text.parse::<Dedicated>());
            let dedicated = dedicated.transpose().map_err(|reason| (at("dedicated"), reason))?;
            nodes.push(Node { id: table.id, name: table.name, address: table.address, dedicated, port: table.port });
        }
        nodes.sort_by_key(|node| node.id);
        for (index, node) in nodes.iter().enumerate() {
            for other in &nodes[..index] {
                if other.id == node.id || other.name == node.name {
                    return Err(("nodes".to_owned(), format!("two nodes are {:?} (id {})", node.name, node.id)));
                }
                if other.address == node.address && other.port.abs_diff(node.port) < 2 {
                    return Err((
                        "nodes".to_owned(),
                        format!("{} and {} share a port at {}; each needs two", other.name, node.name, node.address),
                    ));
                }
            }
        }
        let loops = self.this.loops.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        if loops == 0 {
            return Err(("this.loops".to_owned(), "must be 1 or more".to_owned()));
        }
        let namespace = self.this.namespace.unwrap_or_else(|| lockstep_leases::names::NAMESPACE.to_owned());
        // A namespace's name is a DNS label, as a volume's is.
        input::check_name("namespace", &namespace)
            .map_err(|failure| ("this.namespace".to_owned(), failure.to_string()))?;
        let this = This {
            pool: self.this.pool,
            kubeconfig: self.this.kubeconfig,
            namespace,
            metrics_port: self.this.metrics_port,
            volume_dev_dir: self.this.volume_dev_dir.unwrap_or_else(|| PathBuf::from("/dev/lockstep")),
            loops,
        };
        Ok(Cluster { psk: Psk(psk), nodes, this })
    }
}

#[cfg(test)]
mod tests {
    use super::{Cluster, Dedicated, PoolPlace};
    use std::path::Path;

    const PSK: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn parse(text: &str) -> Result<Cluster, String> {
        Cluster::parse(text, Path::new("cluster.toml")).map_err(|error| crate::failure::chain(&error))
    }

    fn two(extra: &str) -> String {
        format!(
            "psk = \"{PSK}\"\n[[nodes]]\nid = 2\nname = \"b\"\naddress = \"127.77.0.2\"\nport = 7501\n\
             [[nodes]]\nid = 1\nname = \"a\"\naddress = \"127.77.0.1\"\nport = 7501\n{extra}"
        )
    }

    #[test]
    fn nodes_are_sorted_by_id_and_defaults_filled_in() {
        let cluster = parse(&two("[this]\npool = { directory = \"/p\" }\n")).expect("is right");
        assert_eq!(cluster.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(cluster.this.pool, Some(PoolPlace::Directory("/p".into())));
        assert_eq!(cluster.this.volume_dev_dir, Path::new("/dev/lockstep"));
        assert_eq!(cluster.nodes[0].agent_address().port(), 7502);
    }

    #[test]
    fn a_written_file_is_read_back() {
        let cluster = parse(&two("dedicated = \"10.0.0.0/8\"\n[this]\nmetrics_port = 9\nkubeconfig = \"/k\"\n"))
            .expect("is right");
        let again = parse(&cluster.to_toml()).expect("is right");
        assert_eq!((again.nodes, again.this), (cluster.nodes, cluster.this));
    }

    #[test]
    fn wrong_values_are_named() {
        let cases = [
            (two("").replace(PSK, "12"), "psk: must be 64 hex digits"),
            (two("").replace("id = 2", "id = 1"), "two nodes are"),
            (two("").replace("id = 2", "id = 0"), "nodes[0].id"),
            (two("").replace("\"b\"", "\"B/\""), "nodes[0].name"),
            (two("").replace("127.77.0.2", "127.77.0.1"), "share a port"),
            (two("dedicated = \"10.0.0.0/33\"\n"), "at most 32 bits"),
            (two("dedicated = \"eth1\"\n"), "neither an address nor a network"),
            (two("[this]\nloops = 0\n"), "this.loops"),
            (two("[this]\nnamespace = \"A b\"\n"), "this.namespace"),
            (two("colour = 1\n"), "unknown field"),
            (format!("psk = \"{PSK}\"\nnodes = []\n"), "0 nodes"),
        ];
        for (text, expected) in cases {
            let error = parse(&text).expect_err(expected);
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_network_contains_its_own_addresses_only() {
        let network: Dedicated = "198.51.100.0/24".parse().expect("is right");
        assert!(network.contains("198.51.100.7".parse().expect("is one")));
        assert!(!network.contains("198.51.101.7".parse().expect("is one")));
        assert!(!network.contains("2001:db8::1".parse().expect("is one")));
        let any: Dedicated = "0.0.0.0/0".parse().expect("is right");
        assert!(any.contains("198.51.101.7".parse().expect("is one")));
    }
}

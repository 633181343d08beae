//! The cluster as this node's engine knows it: the nodes of the cluster file, and those that the agent told since.
//!
//! What was told is kept in a file of its own, because an engine that starts again has to know its peers before anybody tells
//! it. A node in there is newer than the same node in the cluster file.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lockstep_proto::node::v1 as proto;

use crate::cluster::{Cluster, Dedicated, Node, NodeTable};
use crate::failure::Failure;
use crate::host::durable::{self, Readers};
use crate::input;
use crate::state_dir::StateDir;

/// How many nodes an engine may know. Each is an address that is dialed only for a volume that has it among its members, so this
/// bounds memory and the length of a message, nothing else.
const NODES_MAX: usize = 5000;

/// Why the file of nodes that were told cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadNodes {
    /// It cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// It is not what an engine writes.
    #[error("{} is not a list of nodes", .0.display())]
    Parse(PathBuf, #[source] serde_json::Error),
    /// A node in it cannot be one.
    #[error("{}: node {node}: {reason}", path.display())]
    Node {
        /// The file.
        path: PathBuf,
        /// The number of the node.
        node: u32,
        /// What is wrong.
        reason: String,
    },
}

/// The cluster, which changes while the engine runs.
pub(super) struct KnownNodes {
    cluster: Mutex<Arc<Cluster>>,
    /// What the cluster file says: only what differs from it is kept, so that a change of the file is not hidden.
    file_nodes: Vec<Node>,
    /// This node.
    own: u32,
    /// Held while nodes are learned: one message after the other.
    learning: Mutex<()>,
    file: PathBuf,
}

impl KnownNodes {
    /// The cluster file's nodes and those that were told before. What the file says of this node, `own`, is always right: it is where
    /// the engine is to listen.
    pub(super) fn open(mut cluster: Cluster, own: u32, state: &StateDir) -> Result<KnownNodes, ReadNodes> {
        let file = state.path().join("nodes.json");
        let file_nodes = cluster.nodes.clone();
        for node in read(&file)?.into_iter().filter(|node| node.id != own) {
            put(&mut cluster.nodes, node);
        }
        cluster.nodes.sort_by_key(|node| node.id);
        Ok(KnownNodes { cluster: Mutex::new(Arc::new(cluster)), file_nodes, own, learning: Mutex::new(()), file })
    }

    /// As it is now.
    pub(super) fn get(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what the agent told, if `tell` (the engine) does too. Waits for the disk.
    pub(super) fn learn(
        &self,
        request: &proto::LearnNodesRequest,
        tell: impl FnOnce(&Cluster, &[Node]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let _one = self.learning.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = request.nodes.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let mut cluster = Cluster::clone(&self.get());
        cluster.nodes.retain(|node| !request.forget_node_ids.contains(&node.id));
        let mut nodes = nodes;
        let former: Vec<Node> = cluster.nodes.iter().filter(|node| self.is_former(node, &nodes)).map(rename).collect();
        nodes.extend(former);
        nodes.iter().for_each(|node| put(&mut cluster.nodes, node.clone()));
        cluster.nodes.sort_by_key(|node| node.id);
        check(&cluster.nodes)?;
        tell(&cluster, &nodes)?;
        // The engine may know a node that the file does not: the agent tells it again after a crash between the two.
        let told = cluster.nodes.iter().filter(|node| !self.file_nodes.contains(node));
        write(&self.file, told).map_err(|error| Failure::of_host("keep the nodes", &error))?;
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(cluster);
        Ok(())
    }
}

impl KnownNodes {
    /// Whether a node's name is another's now: it lost its identity, and is still a member of volumes as who it was.
    fn is_former(&self, node: &Node, told: &[Node]) -> bool {
        let is_told = told.iter().any(|told| told.id == node.id);
        !is_told && node.id != self.own && told.iter().any(|told| told.name == node.name)
    }
}

/// A name that no node has, for one that is not there any more.
fn rename(node: &Node) -> Node {
    let name = format!("{}.lost-{:08x}", node.name, node.id);
    let name = input::check_node_name("node", &name).map_or_else(|_| format!("lost-{:08x}", node.id), |()| name);
    Node { name, ..node.clone() }
}

fn put(nodes: &mut Vec<Node>, node: Node) {
    nodes.retain(|known| known.id != node.id);
    nodes.push(node);
}

fn parse(told: &proto::NodeAddress) -> Result<Node, Failure> {
    input::check_node_name("node", &told.node)?;
    if told.node_id == 0 {
        return Err(Failure::wrong_input("node_id", 0, "must be 1 or more"));
    }
    let address =
        told.address.parse().map_err(|_| Failure::wrong_input("address", &told.address, "is not an address"))?;
    let port = u16::try_from(told.port).ok().filter(|port| *port != 0 && *port != u16::MAX);
    let port = port.ok_or_else(|| Failure::wrong_input("port", told.port, "must be 1 to 65534"))?;
    let dedicated = match told.dedicated.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|reason: String| Failure::wrong_input("dedicated", text, reason))?),
    };
    Ok(Node { id: told.node_id, name: told.node.clone(), address, dedicated, port })
}

fn check(nodes: &[Node]) -> Result<(), Failure> {
    if nodes.len() > NODES_MAX {
        return Err(Failure::wrong_input("nodes", nodes.len(), format!("an engine knows at most {NODES_MAX} nodes")));
    }
    let mut names = std::collections::BTreeSet::new();
    match nodes.iter().find(|node| !names.insert(node.name.as_str())) {
        Some(node) => Err(Failure::wrong_input("node", &node.name, "two nodes have this name: forget one")),
        None => Ok(()),
    }
}

fn read(file: &Path) -> Result<Vec<Node>, ReadNodes> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ReadNodes::Read(file.to_owned(), error)),
    };
    let kept: Vec<NodeTable> =
        serde_json::from_slice(&text).map_err(|error| ReadNodes::Parse(file.to_owned(), error))?;
    let node = |kept: NodeTable| {
        let NodeTable { id, name, address, dedicated, port } = kept;
        let dedicated = dedicated.map(|text| text.parse::<Dedicated>()).transpose();
        let dedicated = dedicated.map_err(|reason| ReadNodes::Node { path: file.to_owned(), node: id, reason })?;
        Ok(Node { id, name, address, dedicated, port })
    };
    kept.into_iter().map(node).collect()
}

fn write<'a>(file: &Path, nodes: impl Iterator<Item = &'a Node>) -> std::io::Result<()> {
    let text = serde_json::to_vec_pretty(&nodes.map(NodeTable::of).collect::<Vec<_>>())?;
    durable::write(file, &text, Readers::Any)
}

#[cfg(test)]
mod tests {
    use super::{KnownNodes, proto};
    use crate::cluster::Cluster;
    use crate::failure::Failure;
    use crate::state_dir::StateDir;

    const FILE: &str = "psk = \"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\"\n[[nodes]]\nid = 1\n\
                        name = \"a\"\naddress = \"192.0.2.1\"\nport = 7501\n";

    fn told(id: u32, name: &str, address: &str) -> proto::NodeAddress {
        let (node, address) = (name.to_owned(), address.to_owned());
        proto::NodeAddress { node_id: id, node, address, dedicated: "198.51.100.0/24".to_owned(), port: 7501 }
    }

    fn learn(known: &KnownNodes, nodes: Vec<proto::NodeAddress>, forget: Vec<u32>) -> Result<(), Failure> {
        known.learn(&proto::LearnNodesRequest { nodes, forget_node_ids: forget }, |_, _| Ok(()))
    }

    #[test]
    fn what_was_told_is_known_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::new(dir.path());
        let cluster = Cluster::parse(FILE, std::path::Path::new("cluster.toml")).expect("is right");
        let known = KnownNodes::open(cluster.clone(), 1, &state).expect("nothing was told yet");
        learn(&known, vec![told(2, "b", "192.0.2.2"), told(3, "c", "192.0.2.3")], vec![]).expect("is right");
        learn(&known, vec![told(2, "b", "192.0.2.9")], vec![3]).expect("is right");
        let again = KnownNodes::open(cluster, 1, &state).expect("it was written");
        assert_eq!(again.get().nodes, known.get().nodes);
        let nodes: Vec<_> = again.get().nodes.iter().map(|node| (node.id, node.address.to_string())).collect();
        assert_eq!(nodes, [(1, "192.0.2.1".to_owned()), (2, "192.0.2.9".to_owned())]);
    }

    #[test]
    fn a_node_that_lost_its_identity_leaves_its_name_to_the_new_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = Cluster::parse(FILE, std::path::Path::new("cluster.toml")).expect("is right");
        let known = KnownNodes::open(cluster, 1, &StateDir::new(dir.path())).expect("nothing was told yet");
        learn(&known, vec![told(2, "b", "192.0.2.2")], vec![]).expect("is right");
        learn(&known, vec![told(9, "b", "192.0.2.2")], vec![]).expect("is right");
        assert_eq!((known.get().name_of(2).as_str(), known.get().name_of(9).as_str()), ("b.lost-00000002", "b"));
        learn(&known, vec![told(10, "a", "192.0.2.3")], vec![]).expect_err("this node is here");
    }

    #[test]
    fn what_the_engine_refuses_is_not_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = Cluster::parse(FILE, std::path::Path::new("cluster.toml")).expect("is right");
        let known = KnownNodes::open(cluster, 1, &StateDir::new(dir.path())).expect("nothing was told yet");
        let request = proto::LearnNodesRequest { nodes: vec![told(2, "b", "192.0.2.2")], ..Default::default() };
        known.learn(&request, |_, _| Err(Failure::state_forbids("no"))).expect_err("refused");
        assert_eq!(known.get().nodes.len(), 1);
        assert!(!dir.path().join("nodes.json").exists());
    }

    #[test]
    fn wrong_nodes_are_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = Cluster::parse(FILE, std::path::Path::new("cluster.toml")).expect("is right");
        let known = KnownNodes::open(cluster, 1, &StateDir::new(dir.path())).expect("nothing was told yet");
        let cases = [
            (told(0, "b", "192.0.2.2"), "node_id"),
            (told(2, "a", "192.0.2.2"), "node"),
            (told(2, "B/", "192.0.2.2"), "node"),
            (told(2, "b", "here"), "address"),
            (proto::NodeAddress { port: 65535, ..told(2, "b", "192.0.2.2") }, "port"),
            (proto::NodeAddress { dedicated: "1/99".to_owned(), ..told(2, "b", "192.0.2.2") }, "dedicated"),
        ];
        for (node, field) in cases {
            let failure = learn(&known, vec![node], vec![]).expect_err("wrong");
            assert_eq!(failure.field.as_deref(), Some(field), "{failure}");
        }
    }
}

//! The directory of a playground: made, recognised, removed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::node::PlaygroundNode;
use super::{NodeState, READY_WITHIN, clean, host};
use crate::cluster::{Cluster, Dedicated, Node, PoolPlace, Psk, This};
use crate::failure::Failure;
use crate::host::lock;
use crate::rpc::SOCKET_PATH_BYTES_MAX;
use crate::state_dir::StateDir;

/// Most nodes of one playground: their names are letters, and one machine carries them all.
pub const NODES_MAX: usize = 9;

/// The file that makes a directory a playground.
const FILE_NAME: &str = "lockstep-playground.json";

/// Ports are sought from here...
const PORT_FIRST: u16 = 20_000;
/// ...to here: below the range from which the kernel gives ports to outgoing connections.
const PORT_LAST: u16 = 32_000;
/// Ports that one playground may use: two per node at the same numbers, and one for each node's metrics.
const PORTS: u16 = 2 + 9;

/// Longest name under a node's directory: the engine's socket for a volume of the longest name.
const SOCKET_NAME_BYTES_MAX: usize = "/a/engine.sock".len();

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    nodes: Vec<String>,
}

/// A playground on disk.
#[derive(Debug)]
pub struct Playground {
    dir: PathBuf,
    nodes: Vec<PlaygroundNode>,
}

impl Playground {
    /// Makes a playground of `count` nodes at `dir` and starts it; one that is there already is started again.
    ///
    /// # Errors
    /// Something else is in the directory, the playground there has other nodes, or its programs do not start.
    pub fn start(dir: &Path, count: usize, kubeconfig: Option<&Path>) -> Result<Self, Failure> {
        if !(1..=NODES_MAX).contains(&count) {
            return Err(Failure::wrong_input("nodes", count, format!("must be 1 to {NODES_MAX}")));
        }
        let dir = absolute(dir)?;
        let kubeconfig = kubeconfig.map(absolute).transpose()?;
        let longest = dir.as_os_str().len() + SOCKET_NAME_BYTES_MAX;
        if longest > SOCKET_PATH_BYTES_MAX {
            let most = SOCKET_PATH_BYTES_MAX - SOCKET_NAME_BYTES_MAX;
            let message = format!("is too long for unix sockets below it: at most {most} bytes are possible");
            return Err(Failure::wrong_input("dir", dir.display(), message));
        }
        let existed = dir.exists();
        let playground = match Self::read(&dir)? {
            Some(playground) if playground.nodes.len() == count => playground,
            Some(playground) => {
                return Err(Failure::state_forbids(format!(
                    "{} is a playground of {} nodes; destroy it first, or start it with --nodes {}",
                    dir.display(),
                    playground.nodes.len(),
                    playground.nodes.len(),
                )));
            }
            None => Self::make(&dir, count, kubeconfig.as_deref())?,
        };
        let started = playground.start_all();
        if let Err(failure) = started {
            // What was not there before is not left behind half started.
            if !existed && let Err(second) = playground.destroy() {
                return Err(Failure { message: format!("{}; then: {}", failure.message, second.message), ..failure });
            }
            return Err(failure);
        }
        Ok(playground)
    }

    /// The playground at `dir`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let dir = absolute(dir)?;
        Self::read(&dir)?.ok_or_else(|| {
            let message = "is not a playground; `lockstep playground start` makes one";
            Failure::wrong_input("dir", dir.display(), message)
        })
    }

    /// Its nodes, in order.
    #[must_use]
    pub fn nodes(&self) -> &[PlaygroundNode] {
        &self.nodes
    }

    /// The node of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&PlaygroundNode, Failure> {
        self.nodes.iter().find(|node| node.name() == name).ok_or_else(|| {
            let names: Vec<&str> = self.nodes.iter().map(PlaygroundNode::name).collect();
            Failure::wrong_input("node", name, format!("no node has this name; the nodes are {}", names.join(", ")))
        })
    }

    /// What all processes do now.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn observe(&self) -> Result<Vec<NodeState>, Failure> {
        self.nodes.iter().map(PlaygroundNode::observe).collect()
    }

    /// Ends everything and removes the directory.
    ///
    /// # Errors
    /// Something cannot be ended or removed: what, is said, and the rest of the directory stays.
    pub fn destroy(&self) -> Result<(), Failure> {
        for node in &self.nodes {
            node.end_all()?;
        }
        clean::release_devices(&self.dir)?;
        clean::remove_tree(&self.dir)
    }

    fn start_all(&self) -> Result<(), Failure> {
        for node in &self.nodes {
            node.start_missing()?;
        }
        self.nodes.iter().try_for_each(|node| node.wait_ready(READY_WITHIN))
    }

    fn read(dir: &Path) -> Result<Option<Self>, Failure> {
        let path = dir.join(FILE_NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(host(format!("read {}", path.display()))(error)),
        };
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|error| Failure::of_host(&format!("parse {}", path.display()), &error))?;
        if manifest.version != 1 {
            return Err(Failure::state_forbids(format!("{} is of version {}", path.display(), manifest.version)));
        }
        let nodes = manifest.nodes.iter().map(|name| PlaygroundNode::new(dir, name)).collect();
        Ok(Some(Self { dir: dir.to_owned(), nodes }))
    }

    fn make(dir: &Path, count: usize, kubeconfig: Option<&Path>) -> Result<Self, Failure> {
        check_free(dir)?;
        std::fs::create_dir_all(dir).map_err(host(format!("make {}", dir.display())))?;
        // Two who start at once must not find the same ports free.
        let _lock = lock::wait_lock(&std::env::temp_dir().join("lockstep-playground-ports.lock"))
            .map_err(host("take turns for free ports"))?;
        let names: Vec<String> = ('a'..='z').take(count).map(String::from).collect();
        let base = find_ports(count)?;
        let psk = Psk(crate::agent::random_bytes().map_err(host("read random bytes"))?);
        let nodes: Vec<Node> = names.iter().zip(1..).map(|(name, id)| node(name, id, base)).collect();
        for (name, id) in names.iter().zip(1u16..) {
            let state = StateDir::new(dir.join(name));
            std::fs::create_dir_all(state.path()).map_err(host(format!("make {}", state.path().display())))?;
            let this = This {
                pool: Some(PoolPlace::Directory(state.path().join("pool"))),
                metrics_port: Some(base + 1 + id),
                volume_dev_dir: state.path().join("dev"),
                loops: std::thread::available_parallelism().map_or(1, usize::from),
                kubeconfig: kubeconfig.map(Path::to_owned),
                namespace: lockstep_leases::names::NAMESPACE.to_owned(),
            };
            let cluster = Cluster { psk: psk.clone(), nodes: nodes.clone(), this };
            std::fs::write(state.cluster_file(), cluster.to_toml())
                .map_err(host(format!("write {}", state.cluster_file().display())))?;
        }
        let manifest = Manifest { version: 1, nodes: names.clone() };
        let text = serde_json::to_string(&manifest).expect("a manifest has only JSON's own types");
        std::fs::write(dir.join(FILE_NAME), text).map_err(host(format!("write {FILE_NAME}")))?;
        let nodes = names.iter().map(|name| PlaygroundNode::new(dir, name)).collect();
        Ok(Self { dir: dir.to_owned(), nodes })
    }
}

fn node(name: &str, id: u8, port: u16) -> Node {
    Node {
        id: u32::from(id),
        name: name.to_owned(),
        address: ordinary(id),
        dedicated: Some(Dedicated::Address(IpAddr::V4(Ipv4Addr::new(127, 78, 0, id)))),
        port,
    }
}

fn ordinary(id: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 77, 0, id))
}

fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    if dir.as_os_str().is_empty() {
        return Err(Failure::wrong_input("dir", "", "is empty"));
    }
    let path = std::path::absolute(dir).map_err(host(format!("find {}", dir.display())))?;
    // Records of mounts and loop devices hold the path without symbolic links.
    Ok(path.canonicalize().unwrap_or_else(|_| {
        let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
        parent.zip(path.file_name()).map_or_else(|| path.clone(), |(parent, name)| parent.join(name))
    }))
}

fn check_free(dir: &Path) -> Result<(), Failure> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(Failure::state_forbids(format!("{} is not a directory", dir.display())));
        }
        Err(error) => return Err(host(format!("list {}", dir.display()))(error)),
    };
    match entries.next() {
        None => Ok(()),
        Some(entry) => {
            let name = entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).unwrap_or_default();
            let message = format!("{} has files that are not a playground's, like {name}", dir.display());
            Err(Failure::state_forbids(format!("{message}; nothing was written")))
        }
    }
}

/// The first of a run of ports that are free at every address of the playground. Starts at a random place, so that
/// playgrounds which come and go do not meet each other's closing connections.
fn find_ports(count: usize) -> Result<u16, Failure> {
    let places = (PORT_LAST - PORT_FIRST) / PORTS;
    let random: [u8; 2] = crate::agent::random_bytes().map_err(host("read random bytes"))?;
    let first = u16::from_le_bytes(random) % places;
    let ids = 1..=u8::try_from(count).expect("at most NODES_MAX");
    let is_free = |base: u16| {
        let free = |address: IpAddr, port: u16| TcpListener::bind(SocketAddr::new(address, port)).is_ok();
        ids.clone().all(|id| {
            free(ordinary(id), base)
                && free(ordinary(id), base + 1)
                && free(IpAddr::V4(Ipv4Addr::new(127, 78, 0, id)), base)
                && free(IpAddr::V4(Ipv4Addr::LOCALHOST), base + 1 + u16::from(id))
        })
    };
    (0..places)
        .map(|step| PORT_FIRST + (first + step) % places * PORTS)
        .find(|base| is_free(*base))
        .ok_or_else(|| Failure::other(format!("no {PORTS} free ports between {PORT_FIRST} and {PORT_LAST}")))
}

#[cfg(test)]
mod tests {
    use super::{Playground, check_free, find_ports};
    use crate::failure::Kind;

    #[test]
    fn foreign_content_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("thesis.tex"), "mine").expect("writable");
        let failure = Playground::start(dir.path(), 3, None).expect_err("foreign");
        assert_eq!(failure.kind, Kind::StateForbids);
        assert!(failure.message.contains("thesis.tex"), "{failure}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
        assert!(check_free(&dir.path().join("thesis.tex")).is_err());
    }

    #[test]
    fn wrong_counts_and_long_paths_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        for count in [0, 10] {
            assert_eq!(Playground::start(dir.path(), count, None).expect_err("count").field.as_deref(), Some("nodes"));
        }
        let long = dir.path().join("x".repeat(120));
        assert_eq!(Playground::start(&long, 3, None).expect_err("long").field.as_deref(), Some("dir"));
        assert_eq!(Playground::open(dir.path()).expect_err("none").kind, Kind::WrongInput);
    }

    #[test]
    fn made_directories_are_recognised() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("p");
        Playground::make(&path, 3, None).expect("made");
        let playground = Playground::open(&path).expect("there");
        assert_eq!(playground.nodes().len(), 3);
        assert_eq!(playground.node("z").expect_err("none").kind, Kind::WrongInput);
        let failure = Playground::start(&path, 2, None).expect_err("other count");
        assert!(failure.message.contains("playground of 3 nodes"), "{failure}");
        let cluster = crate::cluster::Cluster::read(&path.join("c/cluster.toml")).expect("is right");
        assert_eq!(cluster.nodes.len(), 3);
        playground.destroy().expect("removed");
        assert!(!path.exists());
    }

    #[test]
    fn ports_are_found() {
        assert!(find_ports(9).is_ok());
    }
}

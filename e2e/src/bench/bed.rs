//! A playground that is laid out for one section of the benchmark: pools elsewhere, peers behind relays.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::comparison::write_once;
use super::relay::Relay;
use crate::cleanup::Cleanup;
use crate::load::Target;
use crate::loops::Mounted;
use crate::playground::{Fault, Playground};
use crate::status::{Attachment, VolumeStatus};
use crate::wait;

/// Names are in the order of ids.
const NODES: usize = 3;
const VOLUME_BOUND: Duration = Duration::from_secs(60);

/// A running playground of three nodes. Fields are undone in their order: nodes before the pools and relays they use.
pub struct Bed {
    /// The nodes.
    pub playground: Playground,
    relays: Vec<Relay>,
    _pools: Vec<Mounted>,
}

/// Which of a node's networks are relayed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Relayed {
    /// Both: a slow link.
    BothNetworks,
    /// The dedicated one: it will be cut.
    DedicatedNetwork,
}

/// How the nodes are laid out.
#[derive(Default)]
pub struct Layout<'a> {
    /// Nodes whose pool lies on a tmpfs of its own, and the size of it.
    pub tmpfs_pools: &'a [(&'a str, u64)],
    /// Nodes that the others reach by relays only.
    pub relayed: Option<(Relayed, &'a [&'a str])>,
    /// How long a relay holds back what passes.
    pub delay: Duration,
}

impl Bed {
    /// Starts the nodes below `directory`, and once more where the layout changes their `cluster.toml`.
    pub fn start(directory: &Path, layout: &Layout<'_>, cleanup: &Cleanup) -> Result<Self> {
        let mut pools = Vec::new();
        for (node, bytes) in layout.tmpfs_pools {
            let path = directory.with_extension(format!("pool-{node}"));
            let options = format!("size={bytes}");
            pools.push(Mounted::mount(Path::new("tmpfs"), &path, &["-t", "tmpfs", "-o", &options], cleanup)?);
        }
        let playground = Playground::start(directory, NODES, cleanup)?;
        for ((node, _), pool) in layout.tmpfs_pools.iter().zip(&pools) {
            playground.set_pool(node, pool.path())?;
        }
        let mut bed = Bed { playground, relays: Vec::new(), _pools: pools };
        if let Some((relayed, behind)) = layout.relayed {
            bed.put_behind_relays(relayed, behind, layout.delay, cleanup)?;
        }
        Ok(bed)
    }

    fn put_behind_relays(
        &mut self,
        relayed: Relayed,
        behind: &[&str],
        delay: Duration,
        cleanup: &Cleanup,
    ) -> Result<()> {
        let nodes = self.playground.nodes().to_vec();
        let mut files: Vec<ClusterFile> =
            nodes.iter().map(|node| ClusterFile::read(&self.playground.node_dir(node))).collect::<Result<_>>()?;
        for node in &nodes {
            self.playground.disturb(node, Fault::Stop, true)?;
        }
        for node in behind {
            for (field, prefix) in [("address", 79), ("dedicated", 80)] {
                if relayed == Relayed::DedicatedNetwork && field == "address" {
                    continue;
                }
                let own = files.iter().find(|file| file.node == **node).context("a node of the playground")?;
                let (real, port) = own.address(node, field)?;
                let shown = relay_address(real, prefix)?;
                self.relay(shown, real, port, delay, cleanup)?;
                if field == "address" {
                    // The agent's; whatever it delays is not on the path of a write.
                    self.relay(shown, real, port + 1, Duration::ZERO, cleanup)?;
                }
                for file in files.iter_mut().filter(|file| file.node != **node) {
                    file.set_address(node, field, shown)?;
                }
            }
        }
        for file in &files {
            file.write()?;
        }
        for node in &nodes {
            self.playground.restart(node, true)?;
        }
        Ok(())
    }

    fn relay(&mut self, at: IpAddr, to: IpAddr, port: u16, delay: Duration, cleanup: &Cleanup) -> Result<()> {
        self.relays.push(Relay::start(SocketAddr::new(at, port), SocketAddr::new(to, port), delay, cleanup)?);
        Ok(())
    }

    /// Cuts what is relayed: nothing passes, nobody is told.
    pub fn cut(&self) {
        self.relays.iter().for_each(Relay::cut);
    }

    /// Ends the cut.
    pub fn mend(&self) {
        self.relays.iter().for_each(Relay::mend);
    }

    /// Makes a volume with its replicas on `on` (two nodes: `"a,b"`).
    pub fn create(&self, volume: &str, bytes: u64, on: &str) -> Result<()> {
        let size = format!("{}MiB", bytes >> 20);
        // Right after a start the nodes may not know each other yet.
        wait::until_ok("the volume can be created", VOLUME_BOUND, || {
            self.playground.create("a", volume, &size, 2, &["--on", on]).map(Some)
        })
    }

    /// Attaches through the kernel, and waits for the device.
    pub fn attach(&self, node: &str, volume: &str, options: &[&str]) -> Result<PathBuf> {
        let mut all = vec!["--front-end", "loop"];
        all.extend_from_slice(options);
        let attachment = self.playground.attach(node, volume, &all)?;
        device_of(&attachment)
    }

    /// Makes a volume on nodes a and `peer`, attaches it at a and writes all of it once.
    pub fn written_volume(&self, volume: &str, bytes: u64, peer: &str, options: &[&str]) -> Result<PathBuf> {
        self.create(volume, bytes, &format!("a,{peer}"))?;
        let device = self.attach("a", volume, options)?;
        write_once(&device)?;
        Ok(device)
    }

    /// What node a says of a volume.
    pub fn status(&self, volume: &str) -> Result<VolumeStatus> {
        self.playground.status("a", volume)
    }

    /// Waits until node a sees exactly these replicas in sync and none joining.
    pub fn wait_in_sync(&self, volume: &str, nodes: &[&str]) -> Result<()> {
        wait::until_ok(&format!("in sync: {nodes:?}"), VOLUME_BOUND, || {
            let status = self.status(volume)?;
            let mut in_sync: Vec<&str> = status.in_sync.iter().map(String::as_str).collect();
            in_sync.sort_unstable();
            if in_sync == nodes && status.joining.is_empty() {
                return Ok(Some(()));
            }
            Err(anyhow!("in sync {:?}, joining {:?}", status.in_sync, status.joining))
        })
    }
}

/// The device that an attachment names.
pub fn device_of(attachment: &Attachment) -> Result<PathBuf> {
    match Target::of(attachment)? {
        Target::Device(path) => Ok(path),
        Target::Nbd { socket, .. } => Err(anyhow!("attached at {}, wanted a device", socket.display())),
    }
}

/// The same host number in another loopback network.
fn relay_address(real: IpAddr, second: u8) -> Result<IpAddr> {
    match real {
        IpAddr::V4(address) => {
            let [first, _, third, fourth] = address.octets();
            Ok(IpAddr::from([first, second, third, fourth]))
        }
        IpAddr::V6(_) => Err(anyhow!("a playground has IPv4 loopback addresses, not {real}")),
    }
}

/// A node's `cluster.toml`, edited as an operator would.
struct ClusterFile {
    node: String,
    path: PathBuf,
    table: toml::Table,
}

impl ClusterFile {
    fn read(node_dir: &Path) -> Result<Self> {
        let path = node_dir.join("cluster.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let table = text.parse().with_context(|| format!("parse {}", path.display()))?;
        let node = node_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ClusterFile { node, path, table })
    }

    fn write(&self) -> Result<()> {
        std::fs::write(&self.path, self.table.to_string()).with_context(|| format!("write {}", self.path.display()))
    }

    fn node_table(&mut self, name: &str) -> Result<&mut toml::Table> {
        let nodes = self.table.get_mut("nodes").and_then(toml::Value::as_array_mut).context("[[nodes]] is there")?;
        nodes
            .iter_mut()
            .filter_map(toml::Value::as_table_mut)
            .find(|table| table.get("name").and_then(toml::Value::as_str) == Some(name))
            .with_context(|| format!("no node {name} in the cluster file"))
    }

    /// The address in a field of a node, and its port.
    fn address(&self, name: &str, field: &str) -> Result<(IpAddr, u16)> {
        let nodes = self.table.get("nodes").and_then(toml::Value::as_array).context("[[nodes]] is there")?;
        let node = nodes
            .iter()
            .find(|table| table.get("name").and_then(toml::Value::as_str) == Some(name))
            .with_context(|| format!("no node {name} in the cluster file"))?;
        let text = node.get(field).and_then(toml::Value::as_str).with_context(|| format!("{name} has no {field}"))?;
        let address = text.parse().with_context(|| format!("{field} of {name} is {text:?}"))?;
        let port = node.get("port").and_then(toml::Value::as_integer).context("a node has a port")?;
        Ok((address, u16::try_from(port)?))
    }

    fn set_address(&mut self, name: &str, field: &str, address: IpAddr) -> Result<()> {
        self.node_table(name)?.insert(field.to_owned(), address.to_string().into());
        Ok(())
    }
}

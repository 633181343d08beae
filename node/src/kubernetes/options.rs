//! What `lockstep-node kubernetes` is started with. The chart gives each value by its environment variable.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::cluster::{Dedicated, Psk};
use crate::input;

/// Options of the agent in a cluster.
#[derive(Clone, Debug, clap::Args)]
pub struct KubernetesOptions {
    /// The node's state directory
    #[arg(long, env = "LOCKSTEP_STATE_DIR", default_value = "/var/lib/lockstep")]
    pub state_dir: PathBuf,
    /// This node's name in Kubernetes
    #[arg(long, env = "LOCKSTEP_NODE")]
    pub node: String,
    /// Where Lockstep is installed, and where the Leases of its volumes are
    #[arg(long, env = "LOCKSTEP_NAMESPACE", default_value = "lockstep-system")]
    pub namespace: String,
    /// Where each node has its own Lease [default: the namespace with "-nodes" behind it]
    #[arg(long, env = "LOCKSTEP_NODE_NAMESPACE")]
    pub node_namespace: Option<String>,
    /// Where the other nodes reach this one on the ordinary network
    #[arg(long, env = "LOCKSTEP_ADDRESS")]
    pub address: IpAddr,
    /// Mirror traffic; agents speak to each other on the next port
    #[arg(long, env = "LOCKSTEP_PORT", default_value_t = 7501)]
    pub port: u16,
    /// The engine's metrics, on 127.0.0.1 [default: the port after the agents'; 0: none]
    #[arg(long, env = "LOCKSTEP_METRICS_PORT")]
    pub metrics_port: Option<u16>,
    /// This node on the dedicated network: an address, or the network in which the node finds its own; empty: it is not on one
    #[arg(long, env = "LOCKSTEP_DEDICATED", default_value = "", value_parser = parse_dedicated)]
    pub dedicated: MaybeDedicated,
    /// The file with the key that all nodes share: 64 hex digits
    #[arg(long, env = "LOCKSTEP_KEY_FILE", default_value = "/etc/lockstep/key/psk")]
    pub key_file: PathBuf,
    /// Kubelet's directory
    #[arg(long, env = "LOCKSTEP_KUBELET_DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,
    /// Where GET /healthz and /readyz are answered
    #[arg(long, env = "LOCKSTEP_HEALTH", default_value = "127.0.0.1:7504")]
    pub health_address: SocketAddr,
    /// Where attached volumes get their names
    #[arg(long, env = "LOCKSTEP_VOLUME_DEV_DIR", default_value = "/dev/lockstep")]
    pub volume_dev_dir: PathBuf,
    /// Event loops of the engine [default: one per processor]
    #[arg(long, env = "LOCKSTEP_LOOPS")]
    pub loops: Option<usize>,
    /// How the API server is reached, by this program and by the engine [default: as a pod of the cluster]
    #[arg(long, env = "LOCKSTEP_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

/// What of the dedicated network the options say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaybeDedicated(pub Option<Dedicated>);

fn parse_dedicated(text: &str) -> Result<MaybeDedicated, String> {
    match text.trim() {
        "" => Ok(MaybeDedicated(None)),
        text => text.parse().map(|dedicated| MaybeDedicated(Some(dedicated))),
    }
}

impl KubernetesOptions {
    /// The namespace of the nodes' own Leases.
    #[must_use]
    pub fn node_leases(&self) -> String {
        self.node_namespace.clone().unwrap_or_else(|| format!("{}-nodes", self.namespace))
    }

    /// As the cluster file says it.
    #[must_use]
    pub fn access(&self) -> PathBuf {
        self.kubeconfig.clone().unwrap_or_else(|| PathBuf::from(lockstep_leases::IN_CLUSTER))
    }

    /// The port of the engine's metrics, if there shall be any.
    #[must_use]
    pub fn metrics(&self) -> Option<u16> {
        Some(self.metrics_port.unwrap_or(self.port + 2)).filter(|port| *port != 0)
    }

    /// Whatever of the options is wrong by itself is said before anything is started.
    ///
    /// # Errors
    /// Which, and what would be right.
    pub fn check(&self) -> anyhow::Result<()> {
        input::check_node_name("node", &self.node)?;
        input::check_name("namespace", &self.namespace)?;
        input::check_name("node-namespace", &self.node_leases())?;
        if !(1..=u16::MAX - 3).contains(&self.port) {
            bail!("port {}: must be 1 to {}, for the next two are used too", self.port, u16::MAX - 3);
        }
        if self.loops == Some(0) {
            bail!("loops 0: must be 1 or more");
        }
        Ok(())
    }
}

/// Reads the key that all nodes share.
///
/// # Errors
/// The file cannot be read or is no key. The key is not in the error.
pub fn read_key(path: &Path) -> anyhow::Result<Psk> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read the key {}", path.display()))?;
    let key = input::from_hex(text.trim()).and_then(|bytes| bytes.try_into().ok());
    key.map(Psk).with_context(|| format!("the key {} must be 64 hex digits (32 bytes)", path.display()))
}

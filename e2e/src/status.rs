//! What `volume status --output json` says, as far as the tests look at it.
//!
//! Every field has a default: a test that looks at a field which the program no longer prints fails by its own
//! assertion, with a message, rather than here.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A volume as one node sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// Its name.
    pub volume: String,
    /// Its id, in hex.
    pub id: String,
    /// Its size.
    pub size_bytes: u64,
    /// The lineage of its configuration, in hex.
    pub generation: String,
    /// The number of its configuration.
    pub epoch: u64,
    /// `UpToDate`, `Degraded`, `Suspended`, ...
    pub state: String,
    /// The node that was asked.
    pub this_node: NodeStatus,
    /// All replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// `peers` or `lease`.
    pub arbiter: String,
    /// `peer` or `lease`.
    pub policing: String,
    /// Why the configuration cannot change.
    pub configuration_trouble: Option<String>,
    /// Why the last request to the API server failed.
    pub api_server_trouble: Option<String>,
    /// Names of the nodes that vote.
    pub voters: Vec<String>,
    /// The voter without a replica.
    pub tie_breaker: Option<String>,
    /// Nodes that have it attached for writing.
    pub writers: Vec<String>,
    /// Nodes whose replicas are in sync.
    pub in_sync: Vec<String>,
    /// Nodes whose replicas are joining.
    pub joining: Vec<String>,
    /// The other members, as this node reaches them.
    pub peers: Vec<PeerStatus>,
    /// Per absent peer, how many bytes it lacks.
    pub dirty_bytes: BTreeMap<String, u64>,
    /// Regions with write intent.
    pub intent_regions: u64,
    /// The resync of this node's replica, or the last one.
    pub resync: ResyncStatus,
    /// The verify that runs or ran last.
    pub verify: Value,
    /// The longest time without a completed request while requests waited, of this attachment.
    pub last_gap_ms: Option<f64>,
    /// The latest transitions.
    pub events: Vec<Value>,
}

impl VolumeStatus {
    /// A counter of the node that was asked; 0 if it has none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        self.this_node.counters.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Whether every replica is in sync, none joins, and none is being resynced; as a node sees it that takes part. One that has just
    /// started shows the configuration that it had when it stopped.
    pub fn is_whole(&self) -> bool {
        self.state == "UpToDate"
            && !self.replicas.is_empty()
            && self.joining.is_empty()
            && self.replicas.iter().all(|replica| self.in_sync.contains(&replica.node))
    }
}

/// The node that was asked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// The run of its engine.
    pub incarnation: u64,
    /// `UpToDate`, `Inconsistent`, `Outdated`, `Diskless`, `Failed`.
    pub disk: String,
    /// Why the disk is not up to date.
    pub reason: Option<String>,
    /// `replica`, `tie-breaker`, `diskless`.
    pub role: String,
    /// `rw`, `ro`, `none`.
    pub attached: String,
    /// `loop`, `nbd-socket`, `none`.
    pub front_end: String,
    /// The device, if attached as one.
    pub device: Option<PathBuf>,
    /// Counters by name; some have a level below.
    pub counters: BTreeMap<String, Value>,
}

/// One replica.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReplicaStatus {
    /// Its node.
    pub node: String,
    /// Whether it is in sync.
    pub in_sync: bool,
    /// Whether it is joining.
    pub joining: bool,
}

/// Another member.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// Its node.
    pub node: String,
    /// Whether something was heard of it lately.
    pub reachable: bool,
    /// `dedicated` or `ordinary`: what carries its session.
    pub network: Option<String>,
    /// The number of its session.
    pub session: Option<u64>,
}

/// A resync, running or the last.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResyncStatus {
    /// Whether it runs.
    pub active: bool,
    /// Bytes done of this run.
    pub bytes_done: u64,
    /// Bytes this run has to do.
    pub bytes_total: u64,
    /// Its rate now.
    pub bytes_per_second: f64,
    /// What is left at that rate.
    pub seconds_left: Option<f64>,
    /// Bytes copied since the engine started.
    pub bytes_copied_total: u64,
    /// Bytes compared by digest since the engine started.
    pub bytes_compared_total: u64,
}

/// The answer of `volume attach`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Attachment {
    /// The volume.
    pub volume: String,
    /// The node that has it attached.
    pub node: String,
    /// `loop` or `nbd-socket`.
    pub front_end: String,
    /// The block device.
    pub device: Option<PathBuf>,
    /// The NBD socket.
    pub socket: Option<PathBuf>,
    /// The name to ask for on the NBD socket.
    pub export: Option<String>,
}

/// One line of `playground status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeProcesses {
    /// The node.
    pub node: String,
    /// `running`, `stopped`, `paused`, `exited`.
    pub supervisor: String,
    /// The same words.
    pub worker: String,
    /// The same words.
    pub agent: String,
}

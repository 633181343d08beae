//! The JSON that `--output json` prints. The shapes are stable: scripts read them.

use std::collections::BTreeMap;

use lockstep_proto::node::v1 as proto;
use serde::Serialize;
use serde_json::{Map, Value};

/// Words of the enums, as people and scripts read them.
pub mod words {
    use lockstep_proto::node::v1::{
        Access, Ack, Arbiter, AttachMode, DiskState, FrontEnd, OnQuorumLoss, Policing, Priority, Role, VolumeState,
    };

    /// Acknowledgement level.
    #[must_use]
    pub const fn ack(ack: Ack) -> &'static str {
        match ack {
            Ack::Unspecified | Ack::Disk => "disk",
            Ack::Durable => "durable",
        }
    }

    /// Who may write.
    #[must_use]
    pub const fn access(access: Access) -> &'static str {
        match access {
            Access::Unspecified | Access::SingleWriter => "single-writer",
            Access::MultiWriter => "multi-writer",
        }
    }

    /// Who keeps the configuration.
    #[must_use]
    pub const fn arbiter(arbiter: Arbiter) -> &'static str {
        match arbiter {
            Arbiter::Unspecified | Arbiter::Peers => "peers",
            Arbiter::Lease => "lease",
        }
    }

    /// Who decides who may write where.
    #[must_use]
    pub const fn policing(policing: Policing) -> &'static str {
        match policing {
            Policing::Unspecified | Policing::Peer => "peer",
            Policing::Lease => "lease",
        }
    }

    /// Whose requests for grants go first.
    #[must_use]
    pub const fn priority(priority: Priority) -> &'static str {
        match priority {
            Priority::Low => "low",
            Priority::Unspecified | Priority::Normal => "normal",
            Priority::High => "high",
        }
    }

    /// What requests do without a quorum.
    #[must_use]
    pub const fn on_quorum_loss(choice: OnQuorumLoss) -> &'static str {
        match choice {
            OnQuorumLoss::Unspecified | OnQuorumLoss::Suspend => "suspend",
            OnQuorumLoss::Error => "error",
        }
    }

    /// State of a volume on this node.
    #[must_use]
    pub const fn state(state: VolumeState) -> &'static str {
        match state {
            VolumeState::Unspecified => "Unknown",
            VolumeState::Starting => "Starting",
            VolumeState::UpToDate => "UpToDate",
            VolumeState::Degraded => "Degraded",
            VolumeState::Joining => "Joining",
            VolumeState::Suspended => "Suspended",
            VolumeState::Left => "Left",
            VolumeState::Failed => "Failed",
            VolumeState::Elsewhere => "Elsewhere",
        }
    }

    /// State of the local replica.
    #[must_use]
    pub const fn disk(disk: DiskState) -> &'static str {
        match disk {
            DiskState::Unspecified | DiskState::Diskless => "Diskless",
            DiskState::UpToDate => "UpToDate",
            DiskState::Inconsistent => "Inconsistent",
            DiskState::Outdated => "Outdated",
            DiskState::Failed => "Failed",
            DiskState::Removed => "Removed",
        }
    }

    /// What this node is for a volume.
    #[must_use]
    pub const fn role(role: Role) -> &'static str {
        match role {
            Role::Unspecified | Role::Diskless => "diskless",
            Role::Replica => "replica",
            Role::TieBreaker => "tie-breaker",
        }
    }

    /// How a volume is attached.
    #[must_use]
    pub const fn attached(mode: AttachMode) -> &'static str {
        match mode {
            AttachMode::Unspecified | AttachMode::None => "none",
            AttachMode::ReadWrite => "rw",
            AttachMode::ReadOnly => "ro",
        }
    }

    /// What turns a volume into a block device.
    #[must_use]
    pub const fn front_end(front_end: FrontEnd) -> &'static str {
        match front_end {
            FrontEnd::Unspecified | FrontEnd::None => "none",
            FrontEnd::Auto => "auto",
            FrontEnd::Loop => "loop",
            FrontEnd::NbdSocket => "nbd-socket",
        }
    }
}

/// A volume as one node sees it.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Volume {
    pub volume: String,
    pub id: String,
    pub size_bytes: u64,
    pub generation: String,
    pub epoch: u64,
    pub ack: &'static str,
    pub on_quorum_loss: &'static str,
    pub access: &'static str,
    pub arbiter: &'static str,
    pub policing: &'static str,
    pub policing_shards: Option<u32>,
    pub configuration_trouble: Option<String>,
    pub api_server_trouble: Option<String>,
    pub priority: &'static str,
    pub state: &'static str,
    pub this_node: ThisNode,
    pub replicas: Vec<Replica>,
    pub voters: Vec<String>,
    pub tie_breaker: Option<String>,
    pub writers: Vec<String>,
    pub readers: Vec<String>,
    pub in_sync: Vec<String>,
    pub joining: Vec<String>,
    pub peers: Vec<Peer>,
    pub dirty_bytes: BTreeMap<String, u64>,
    pub intent_regions: u64,
    pub resync: Resync,
    pub verify: Option<Verify>,
    pub last_gap_ms: Option<u64>,
    pub events: Vec<Event>,
    pub grants: Option<Grants>,
}

/// All grants of a volume have moved to one node.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Migration {
    pub volume: String,
    pub node: String,
    pub took_us: u64,
}

/// Grants of a multi-writer volume.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Grants {
    pub held: Vec<GrantedRange>,
    pub all: Vec<GrantedRange>,
    pub waiting: Vec<WaitingWriter>,
    pub shards: Vec<Shard>,
    pub taken: u64,
    pub given: u64,
    pub wait_p50_us: u64,
    pub wait_p99_us: u64,
    pub wait_max_us: u64,
}

/// Part of a volume, and what its grant Lease says.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Shard {
    pub shard: u32,
    pub offset_bytes: u64,
    pub length_bytes: u64,
    pub holder: Option<String>,
    pub trouble: Option<String>,
}

/// Part of a volume that one node may write.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct GrantedRange {
    pub node: String,
    pub offset_bytes: u64,
    pub length_bytes: u64,
}

/// A writer that waits for a range.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct WaitingWriter {
    pub node: String,
    pub offset_bytes: u64,
    pub length_bytes: u64,
    pub class: String,
    pub waited_us: u64,
}

/// What is particular to the node that was asked.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct ThisNode {
    pub node: String,
    pub incarnation: u64,
    pub disk: &'static str,
    pub reason: Option<String>,
    pub role: &'static str,
    pub attached: &'static str,
    pub front_end: &'static str,
    pub device: Option<String>,
    pub socket: Option<String>,
    pub restart_visible: Option<String>,
    pub counters: Value,
}

/// One replica.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Replica {
    pub node: String,
    pub in_sync: bool,
    pub joining: bool,
}

/// Another member.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Peer {
    pub node: String,
    pub reachable: bool,
    pub network: Option<String>,
    pub session: u64,
}

/// A resync of this node's replica.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Resync {
    pub active: bool,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub bytes_per_second: u64,
    pub seconds_left: Option<u64>,
    pub bytes_copied_total: u64,
    pub bytes_compared_total: u64,
    pub source: Option<String>,
}

/// A comparison of all replicas.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Verify {
    pub active: bool,
    pub done: bool,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub bytes_per_second: u64,
    pub seconds_left: Option<u64>,
    pub bytes_different: u64,
    pub bytes_repaired: u64,
    pub identical: bool,
    pub differences: Vec<Difference>,
}

/// Where replicas differ.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Difference {
    pub node: String,
    pub offset_bytes: u64,
    pub length_bytes: u64,
}

/// Something that happened.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Event {
    pub at_ms: u64,
    pub name: String,
    pub text: String,
}

/// An attached volume: a device or a socket.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Attachment {
    pub volume: String,
    pub node: String,
    pub front_end: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
}

/// The node that was asked.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Node {
    pub node: String,
    pub node_id: u32,
    pub cluster: String,
    pub version: String,
    pub engine_ready: bool,
    pub engine_reason: Option<String>,
    pub incarnation: u64,
    pub metrics_port: Option<u32>,
    pub pool: Option<Pool>,
    pub nodes: Vec<NodeAddress>,
}

/// A node's pool.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct Pool {
    pub path: String,
    pub device: Option<String>,
    pub ready: bool,
    pub reason: Option<String>,
    pub size_bytes: u64,
    pub free_bytes: u64,
}

/// How a node is reached.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the protocol, which documents them")]
pub struct NodeAddress {
    pub node_id: u32,
    pub node: String,
    pub address: String,
    pub dedicated: Option<String>,
    pub port: u32,
}

impl From<proto::Grants> for Grants {
    fn from(grants: proto::Grants) -> Self {
        let range = |range: proto::GrantedRange| GrantedRange {
            node: range.node,
            offset_bytes: range.offset_bytes,
            length_bytes: range.length_bytes,
        };
        let waiting = |writer: proto::WaitingWriter| WaitingWriter {
            node: writer.node,
            offset_bytes: writer.offset_bytes,
            length_bytes: writer.length_bytes,
            class: writer.class,
            waited_us: writer.waited_us,
        };
        let shard = |shard: proto::Shard| Shard {
            shard: shard.shard,
            offset_bytes: shard.offset_bytes,
            length_bytes: shard.length_bytes,
            holder: some(shard.holder),
            trouble: some(shard.trouble),
        };
        Self {
            held: grants.held.into_iter().map(range).collect(),
            all: grants.all.into_iter().map(range).collect(),
            waiting: grants.waiting.into_iter().map(waiting).collect(),
            shards: grants.shards.into_iter().map(shard).collect(),
            taken: grants.taken,
            given: grants.given,
            wait_p50_us: grants.wait_p50_us,
            wait_p99_us: grants.wait_p99_us,
            wait_max_us: grants.wait_max_us,
        }
    }
}

fn some(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

impl From<proto::VolumeStatus> for Volume {
    fn from(status: proto::VolumeStatus) -> Self {
        Self {
            ack: words::ack(status.ack()),
            on_quorum_loss: words::on_quorum_loss(status.on_quorum_loss()),
            access: words::access(status.access()),
            arbiter: words::arbiter(status.arbiter()),
            policing: words::policing(status.policing()),
            policing_shards: Some(status.policing_shards).filter(|shards| *shards != 0),
            configuration_trouble: some(status.configuration_trouble.clone()),
            api_server_trouble: some(status.api_server_trouble.clone()),
            priority: words::priority(status.priority()),
            grants: status.grants.clone().map(Grants::from),
            state: words::state(status.state()),
            volume: status.volume,
            id: status.id,
            size_bytes: status.size_bytes,
            generation: status.generation,
            epoch: status.epoch,
            this_node: status.this_node.unwrap_or_default().into(),
            replicas: status
                .replicas
                .into_iter()
                .map(|replica| Replica { node: replica.node, in_sync: replica.in_sync, joining: replica.joining })
                .collect(),
            voters: status.voters,
            tie_breaker: some(status.tie_breaker),
            writers: status.writers,
            readers: status.readers,
            in_sync: status.in_sync,
            joining: status.joining,
            peers: status
                .peers
                .into_iter()
                .map(|peer| Peer {
                    node: peer.node,
                    reachable: peer.reachable,
                    network: some(peer.network),
                    session: peer.session,
                })
                .collect(),
            dirty_bytes: status.dirty_bytes.into_iter().collect(),
            intent_regions: status.intent_regions,
            resync: status.resync.unwrap_or_default().into(),
            verify: status.verify.map(Verify::from),
            last_gap_ms: status.last_gap_ms,
            events: status
                .events
                .into_iter()
                .map(|event| Event { at_ms: event.at_ms, name: event.name, text: event.text })
                .collect(),
        }
    }
}

impl From<proto::ThisNode> for ThisNode {
    fn from(this: proto::ThisNode) -> Self {
        Self {
            disk: words::disk(this.disk()),
            role: words::role(this.role()),
            attached: words::attached(this.attached()),
            front_end: words::front_end(this.front_end()),
            node: this.node,
            incarnation: this.incarnation,
            reason: some(this.reason),
            device: some(this.device),
            restart_visible: some(this.restart_visible),
            socket: some(this.socket),
            counters: nest(this.counters.into_iter().collect()),
        }
    }
}

/// `{"frames_sent.write": 1}` becomes `{"frames_sent": {"write": 1}}`.
fn nest(counters: BTreeMap<String, u64>) -> Value {
    let mut out = Map::new();
    for (name, count) in counters {
        match name.split_once('.') {
            Some((group, name)) => {
                let group = out.entry(group.to_owned()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(group) = group {
                    group.insert(name.to_owned(), count.into());
                }
            }
            None => {
                out.insert(name, count.into());
            }
        }
    }
    Value::Object(out)
}

impl From<proto::Resync> for Resync {
    fn from(resync: proto::Resync) -> Self {
        Self {
            active: resync.active,
            bytes_done: resync.bytes_done,
            bytes_total: resync.bytes_total,
            bytes_per_second: resync.bytes_per_second,
            seconds_left: resync.seconds_left,
            bytes_copied_total: resync.bytes_copied_total,
            bytes_compared_total: resync.bytes_compared_total,
            source: some(resync.source),
        }
    }
}

impl From<proto::Verify> for Verify {
    fn from(verify: proto::Verify) -> Self {
        Self {
            active: verify.active,
            done: verify.done,
            bytes_done: verify.bytes_done,
            bytes_total: verify.bytes_total,
            bytes_per_second: verify.bytes_per_second,
            seconds_left: verify.seconds_left,
            bytes_different: verify.bytes_different,
            bytes_repaired: verify.bytes_repaired,
            identical: verify.done && verify.bytes_different == 0,
            differences: verify
                .differences
                .into_iter()
                .map(|difference| Difference {
                    node: difference.node,
                    offset_bytes: difference.offset_bytes,
                    length_bytes: difference.length_bytes,
                })
                .collect(),
        }
    }
}

impl From<proto::Attachment> for Attachment {
    fn from(attachment: proto::Attachment) -> Self {
        Self {
            front_end: words::front_end(attachment.front_end()),
            volume: attachment.volume,
            node: attachment.node,
            device: some(attachment.device),
            socket: some(attachment.socket),
            export: some(attachment.export),
        }
    }
}

impl From<proto::NodeDescription> for Node {
    fn from(node: proto::NodeDescription) -> Self {
        Self {
            node: node.node,
            node_id: node.node_id,
            cluster: node.cluster,
            version: node.version,
            engine_ready: node.engine_ready,
            engine_reason: some(node.engine_reason),
            incarnation: node.incarnation,
            metrics_port: Some(node.metrics_port).filter(|port| *port != 0),
            pool: node.pool.map(Pool::from),
            nodes: node
                .nodes
                .into_iter()
                .map(|node| NodeAddress {
                    node_id: node.node_id,
                    node: node.node,
                    address: node.address,
                    dedicated: some(node.dedicated),
                    port: node.port,
                })
                .collect(),
        }
    }
}

impl From<proto::Pool> for Pool {
    fn from(pool: proto::Pool) -> Self {
        Self {
            path: pool.path,
            device: some(pool.device),
            ready: pool.ready,
            reason: some(pool.reason),
            size_bytes: pool.size_bytes,
            free_bytes: pool.free_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Volume, proto};

    #[test]
    fn a_status_has_every_key_even_when_there_is_nothing_to_say() {
        let mut status = proto::VolumeStatus { volume: "v1".into(), epoch: 7, ..Default::default() };
        let counters = [("front_reads".to_owned(), 1), ("frames_sent.write".to_owned(), 2)];
        status.this_node = Some(proto::ThisNode { node: "a".into(), counters: counters.into(), ..Default::default() });
        status.set_state(proto::VolumeState::UpToDate);
        let json = serde_json::to_value(Volume::from(status)).expect("is JSON");
        for key in [
            "volume",
            "id",
            "size_bytes",
            "generation",
            "epoch",
            "ack",
            "on_quorum_loss",
            "access",
            "arbiter",
            "policing",
            "policing_shards",
            "configuration_trouble",
            "api_server_trouble",
            "priority",
            "grants",
            "state",
            "this_node",
            "replicas",
            "voters",
            "tie_breaker",
            "writers",
            "in_sync",
            "joining",
            "peers",
            "dirty_bytes",
            "intent_regions",
            "resync",
            "verify",
            "last_gap_ms",
            "events",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["state"], "UpToDate");
        assert_eq!(json["ack"], "disk");
        assert_eq!(json["this_node"]["reason"], serde_json::Value::Null);
        assert_eq!(json["this_node"]["counters"]["frames_sent"]["write"], 2);
        assert_eq!(json["resync"]["active"], false);
    }
}

//! One node's part of a volume.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Ack, Arbiter, OnQuorumLoss, WritePriority};

/// What a node is to a volume.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReplicaRole {
    /// It holds a full copy.
    Replica,
    /// It votes, and holds no data.
    TieBreaker,
    /// It has the volume attached, and holds nothing.
    Attachment,
}

/// One node's part of a volume: made by the controller (attachments: by the node itself at NodeStage).
///
/// Conditions: `Ready` (the engine has made its part), `InSync` (replicas: the part counts as in sync), `Lost` (replicas: it was made, and
/// is not in the node's pool any more).
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "lockstep.storage",
    version = "v1alpha1",
    kind = "MirrorReplica",
    status = "MirrorReplicaStatus",
    shortname = "mrep",
    selectable = ".spec.nodeName",
    selectable = ".spec.volume",
    printcolumn = r#"{"name":"Volume","type":"string","jsonPath":".spec.volume"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName"}"#,
    printcolumn = r#"{"name":"Role","type":"string","jsonPath":".spec.role"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Disk","type":"string","jsonPath":".status.disk"}"#,
    printcolumn = r#"{"name":"Attached","type":"string","jsonPath":".status.attached"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MirrorReplicaSpec {
    /// The volume's name.
    #[x_kube(validation = ("self == oldSelf", "volume cannot be changed"))]
    pub volume: String,
    /// The node.
    #[x_kube(validation = ("self == oldSelf", "nodeName cannot be changed"))]
    pub node_name: String,
    /// What the node is to the volume. A vote may become a replica's and the other way round: the node keeps what it promised.
    #[x_kube(validation = ("self == oldSelf || self != 'Attachment'", "a replica or tie-breaker does not become an attachment"))]
    pub role: ReplicaRole,
    /// The volume as it was created.
    #[x_kube(validation = ("self == oldSelf", "definition cannot be changed"))]
    pub definition: Definition,
    /// The volume exists already, and this part joins it empty; else it is one of those that it is made of.
    #[serde(default)]
    pub joins: bool,
    /// Wanted size; absent: that of the definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Limit of resync in bytes a second; 0: none.
    #[serde(default)]
    pub resync_rate: i64,
    /// Wanted acknowledgement level; absent: whatever the volume has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<Ack>,
    /// Wanted priority of requests to write; absent: whatever the volume has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_priority: Option<WritePriority>,
    /// Whom the volume shall be made of, the same for all its replicas. Members beside them are taken out of it. Empty: nobody is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
}

/// One of those that a volume shall be made of.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The node's number.
    pub node_id: u32,
    /// Replica or tie-breaker.
    pub role: ReplicaRole,
}

/// A volume's first configuration, the same for all its members.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// 32 hex digits.
    pub id: String,
    /// 16 hex digits.
    pub generation: String,
    /// At creation.
    pub size_bytes: i64,
    /// One writer or several.
    pub access: Access,
    /// Who keeps the configuration.
    pub arbiter: Arbiter,
    /// Grant Leases, if Leases police; 0: messages do.
    pub policing_shards: u8,
    /// When a peer acknowledges a write.
    pub ack: Ack,
    /// What requests do without a quorum.
    pub on_quorum_loss: OnQuorumLoss,
    /// The replicas, with the runs of their engines that are in sync at the start.
    pub replicas: Vec<FirstMember>,
    /// The voter without data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie_breaker: Option<u32>,
}

/// A replica of the first configuration.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FirstMember {
    /// The node's number.
    pub node_id: u32,
    /// Run of its engine.
    pub incarnation: u64,
}

/// How far a part is.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The node has not made it yet.
    #[default]
    Pending,
    /// It is there.
    Ready,
    /// It cannot be made or used; the message says why.
    Failed,
    /// It is being taken away.
    Deleting,
}

/// State of a replica's disk.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskState {
    /// Everything is there.
    UpToDate,
    /// It is being filled.
    Inconsistent,
    /// It lacks what was written without it.
    Outdated,
    /// The node holds no data.
    Diskless,
    /// Its disk failed.
    Failed,
}

/// How the node has the volume attached.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attached {
    /// For writing.
    ReadWrite,
    /// For reading.
    ReadOnly,
}

/// What the node says of its part. Written on transitions; progress at most every 10 s and 5 %.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MirrorReplicaStatus {
    /// Of the spec that this status answers.
    pub observed_generation: Option<i64>,
    /// How far it is.
    pub phase: Phase,
    /// Why it is not further; empty: nothing to say.
    pub message: String,
    /// State of its disk.
    pub disk: Option<DiskState>,
    /// How it is attached here; absent: it is not.
    pub attached: Option<Attached>,
    /// The device here, while it is attached.
    pub device: Option<String>,
    /// The configuration as this node knows it.
    pub seen: Seen,
    /// Members whose engines this node's engine does not hear.
    pub unreachable: Vec<String>,
    /// Bytes that some member lacks, as far as this node knows.
    pub dirty_bytes: i64,
    /// Under way to or from here.
    pub resync: Option<Resync>,
    /// Requests wait or fail here: why. Empty: they are served.
    pub suspended: String,
    /// See [`MirrorReplica`].
    pub conditions: Vec<Condition>,
}

/// A configuration, by names of nodes.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Seen {
    /// Lineage: 16 hex digits; empty: unknown.
    pub generation: String,
    /// Of the configuration; 0: unknown.
    pub epoch: u64,
    /// Bytes.
    pub size_bytes: i64,
    /// Nodes whose replicas are in sync.
    pub in_sync: Vec<String>,
    /// Nodes that join.
    pub joining: Vec<String>,
    /// Nodes that have it attached for writing.
    pub writers: Vec<String>,
}

/// Progress of a resync.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resync {
    /// Bytes done.
    pub bytes_done: i64,
    /// Bytes to do in all.
    pub bytes_total: i64,
    /// Bytes a second, lately.
    pub bytes_per_second: i64,
}

impl Resync {
    /// How much is done, in whole per cent; `None` while it is not known how much there is to do.
    #[must_use]
    pub fn percent(&self) -> Option<i64> {
        let total = self.bytes_total;
        (total > 0).then(|| self.bytes_done.clamp(0, total) * 100 / total)
    }
}

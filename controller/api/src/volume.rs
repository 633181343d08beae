//! A volume as the controller sees it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }
    };
}

choice!(/// How many nodes may have the volume attached for writing at once.
Access {
    /// One.
    #[default]
    SingleWriter,
    /// Any number, each range policed.
    MultiWriter,
});
choice!(/// Who keeps the volume's configuration.
Arbiter {
    /// A quorum of its voters.
    #[default]
    Peers,
    /// A Kubernetes Lease.
    Lease,
});
choice!(/// Who decides who may write which range.
Policing {
    /// Its members, by messages.
    #[default]
    Peer,
    /// Kubernetes Leases.
    Lease,
});
choice!(/// When a peer acknowledges a write.
Ack {
    /// When its device completed it.
    #[default]
    Disk,
    /// When it is durable there.
    Durable,
});
choice!(/// What requests do without a quorum.
OnQuorumLoss {
    /// They wait.
    #[default]
    Suspend,
    /// They fail.
    Error,
});
choice!(/// What turns the volume into a block device.
FrontEnd {
    /// What the node has.
    #[default]
    Auto,
    /// FUSE under loop.
    Loop,
});
choice!(/// How FUSE requests reach the engine.
Fuse {
    /// By `/dev/fuse`: an engine may restart under a writer.
    #[default]
    Recoverable,
    /// By io_uring: faster, and a restart is visible.
    IoUring,
});
choice!(/// Who goes first when several nodes want to write one range.
WritePriority {
    /// After the others.
    Low,
    /// As most.
    #[default]
    Normal,
    /// Before the others.
    High,
});
choice!(/// Where the volume as a whole stands.
VolumeState {
    /// Its members are being made.
    #[default]
    Creating,
    /// All replicas are in sync.
    UpToDate,
    /// It serves with fewer.
    Degraded,
    /// It cannot serve: it waits for a quorum, a replica or an operator.
    Suspended,
    /// It is being deleted.
    Deleting,
});

/// A mirrored volume. Written by the controller only; a claim is how a person makes one.
///
/// Conditions: `Ready` (created on all members), `Redundant` (all replicas in sync), `Serving` (reads and writes can be
/// done), `RegisterLost` (its configuration Lease is gone or another), `Diverged` (a replica has a generation of its own),
/// `DeletionBlocked` (why it is not deleted yet).
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "lockstep.storage",
    version = "v1alpha1",
    kind = "MirrorVolume",
    status = "MirrorVolumeStatus",
    shortname = "mvol",
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"In sync","type":"string","jsonPath":".status.ready"}"#,
    printcolumn = r#"{"name":"Size","type":"string","jsonPath":".status.size"}"#,
    printcolumn = r#"{"name":"Writers","type":"string","jsonPath":".status.writers"}"#,
    printcolumn = r#"{"name":"Resync","type":"string","jsonPath":".status.resync"}"#,
    printcolumn = r#"{"name":"Claim","type":"string","jsonPath":".spec.claim.name"}"#,
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.claim.namespace","priority":1}"#,
    printcolumn = r#"{"name":"Arbiter","type":"string","jsonPath":".status.arbiter","priority":1}"#,
    printcolumn = r#"{"name":"Epoch","type":"integer","jsonPath":".status.epoch","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = ("self.metadata.name.size() <= 63", "a volume's name has at most 63 bytes")
)]
#[serde(rename_all = "camelCase")]
pub struct MirrorVolumeSpec {
    /// Wanted size, a multiple of 4096. It only grows.
    #[x_kube(validation = ("self >= oldSelf", "a volume does not shrink"))]
    #[x_kube(validation = ("self >= 4096 && self % 4096 == 0", "sizeBytes is a multiple of 4096"))]
    pub size_bytes: i64,
    /// Wanted replicas: 2 or 3.
    #[x_kube(validation = ("self == 2 || self == 3", "replicas is 2 or 3"))]
    pub replicas: u8,
    /// One writer or several.
    #[serde(default)]
    #[x_kube(validation = ("self == oldSelf", "access cannot be changed"))]
    pub access: Access,
    /// Who keeps the configuration; absent: chosen when the volume is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arbiter: Option<Arbiter>,
    /// Who decides who may write where.
    #[serde(default)]
    #[x_kube(validation = ("self == oldSelf", "policing cannot be changed"))]
    pub policing: Policing,
    /// When a peer acknowledges a write.
    #[serde(default)]
    pub ack: Ack,
    /// What requests do without a quorum.
    #[serde(default)]
    pub on_quorum_loss: OnQuorumLoss,
    /// Pods may run on nodes without a replica.
    #[serde(default = "yes")]
    #[x_kube(validation = ("self == oldSelf", "remoteAccess cannot be changed"))]
    pub remote_access: bool,
    /// What makes it a device.
    #[serde(default)]
    pub front_end: FrontEnd,
    /// How FUSE requests reach the engine.
    #[serde(default)]
    pub fuse: Fuse,
    /// Only pools with these labels hold its replicas.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pool_selector: BTreeMap<String, String>,
    /// Limit of resync in bytes a second; 0: none.
    #[serde(default)]
    pub resync_rate: i64,
    /// Who goes first.
    #[serde(default)]
    pub write_priority: WritePriority,
    /// Nodes that shall hold replicas if they can, best first: that of the first consumer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferred_nodes: Vec<String>,
    /// The only nodes that may hold replicas; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_nodes: Vec<String>,
    /// Whose volume it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimReference>,
    /// The name by which CSI asked for it, as it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_name: Option<String>,
}

const fn yes() -> bool {
    true
}

/// A claim of Kubernetes.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What the members show, put together by the controller.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MirrorVolumeStatus {
    /// Of the spec that this status answers.
    pub observed_generation: Option<i64>,
    /// Where it stands.
    pub state: VolumeState,
    /// In-sync replicas of wanted ones, like `2/2`.
    pub ready: Option<String>,
    /// Its identity: 32 hex digits, made once.
    pub id: Option<String>,
    /// Its first generation: 16 hex digits.
    pub generation: Option<String>,
    /// Who keeps the configuration.
    pub arbiter: Option<Arbiter>,
    /// Size on all in-sync replicas.
    pub size_bytes: i64,
    /// The same for people.
    pub size: Option<String>,
    /// Where its parts are; written before any of them is made.
    pub placement: Vec<Placement>,
    /// Nodes that have it attached for writing.
    pub writers: Vec<String>,
    /// Nodes whose replicas are in sync.
    pub in_sync: Vec<String>,
    /// Of the newest configuration.
    pub epoch: u64,
    /// Bytes that a peer lacks, the most of all.
    pub dirty_bytes: i64,
    /// Resync for people, like `43 %`.
    pub resync: Option<String>,
    /// The last time that its pods were moved because their node was lost.
    pub last_fail_over: Option<FailOver>,
    /// See [`MirrorVolume`].
    pub conditions: Vec<Condition>,
}

/// One member of a volume.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The node's name.
    pub node: String,
    /// Its number in the mirror protocol.
    pub node_id: u32,
    /// Run of its engine when it was chosen.
    pub incarnation: u64,
    /// Replica or tie-breaker.
    pub role: crate::ReplicaRole,
}

/// A fail-over that the controller drove.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailOver {
    /// When the node was declared lost.
    pub at: Time,
    /// The node that was lost.
    pub from: String,
    /// Why.
    pub reason: String,
}

//! The local storage of a node, and how the node is reached.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One node that runs Lockstep. Its name is the node's.
///
/// Conditions: `Ready` (the pool is open, or the node has none), `EngineReady` (the engine answers its agent),
/// `RestartInvisible` (the kernel sends unanswered requests again, so that an engine may restart under a writer), `PartsWanted` (the
/// engine has no part of a volume that no MirrorReplica wants).
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "lockstep.storage",
    version = "v1alpha1",
    kind = "MirrorPool",
    status = "MirrorPoolStatus",
    shortname = "mpool",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Engine","type":"string","jsonPath":".status.conditions[?(@.type=='EngineReady')].status"}"#,
    printcolumn = r#"{"name":"Capacity","type":"string","jsonPath":".status.capacity"}"#,
    printcolumn = r#"{"name":"Free","type":"string","jsonPath":".status.free"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".status.address"}"#,
    printcolumn = r#"{"name":"Dedicated","type":"string","jsonPath":".status.dedicatedAddress","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = ("self.metadata.name == self.spec.nodeName", "a pool bears the name of its node")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("oldSelf.evict || has(self.storage) == has(oldSelf.storage) && (!has(self.storage) || self.storage == oldSelf.storage)",
    "storage cannot be changed while replicas may be there: kubectl lockstep pool drain, then kubectl lockstep pool replace"))]
pub struct MirrorPoolSpec {
    /// The node.
    #[x_kube(validation = ("self == oldSelf", "nodeName cannot be changed"))]
    pub node_name: String,
    /// Where the replicas are kept; absent: the node keeps none, its pods reach volumes through other nodes. Changed only while `evict`
    /// is set, which whoever changes it has waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<PoolStorage>,
    /// No new replicas are placed here.
    #[serde(default)]
    pub cordoned: bool,
    /// All replicas here are to be moved elsewhere; implies `cordoned`.
    #[serde(default)]
    pub evict: bool,
}

/// A directory, or a whole disk or partition; exactly one.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.directory) != has(self.device)", "either directory or device"))]
pub struct PoolStorage {
    /// A directory on a local file system, an absolute path on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// A disk or partition that holds nothing, or this very pool: an absolute path on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// What the node says of itself. Written on transitions, and when free space moved by 5 %.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MirrorPoolStatus {
    /// Of the spec that this status answers.
    pub observed_generation: Option<i64>,
    /// The node's number in the mirror protocol: made once, kept with the node's state. A node that lost its state is another.
    pub node_id: u32,
    /// Run of the engine that answers now; 0: none does.
    pub incarnation: u64,
    /// Where its engine listens on the ordinary network.
    pub address: Option<String>,
    /// Where its engine listens on the dedicated network, if it is on one.
    pub dedicated_address: Option<String>,
    /// Mirror traffic, on both networks; agents speak to each other on the next one.
    pub port: u16,
    /// Bytes of the pool's file system.
    pub capacity_bytes: i64,
    /// Bytes of it that are free.
    pub free_bytes: i64,
    /// `capacity_bytes` for people.
    pub capacity: Option<String>,
    /// `free_bytes` for people.
    pub free: Option<String>,
    /// Program version of the engine.
    pub version: Option<String>,
    /// See [`MirrorPool`].
    pub conditions: Vec<Condition>,
}

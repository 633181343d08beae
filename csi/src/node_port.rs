//! What the Node service needs of whoever attaches and mounts volumes: implemented by the node's agent.
//!
//! Requests arrive parsed. Every operation is *idempotent by observation*: it looks at the host (what is mounted where, which device
//! it is, whether the device answers) and does what is missing, also after this process was killed in the middle. The service
//! above runs one at a time per volume, in a task that goes on when the caller has left; it remembers nothing.
//!
//! There is no attach step: staging *is* the attach. It waits, within what the caller waits, until the former writer has released or is
//! fenced. `within` is how long the caller still waits.
//!
//! **Which error when.** Kubelet takes `StillWorking` and `NotReachable` for "perhaps staged": it will unstage before it forgets. After
//! any other error it forgets without unstaging. So the others may be answered only when the operation has left the host as it was.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use crate::capability::Capability;
use crate::capacity::CapacityRange;
pub use crate::controller_port::Cause;
use crate::health::{StorageHealth, VolumeHealth};
use crate::path::AbsolutePath;
use crate::readiness::Readiness;
use crate::topology::Topology;
use crate::volume::VolumeId;

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDescription {
    /// Its id: at most 192 bytes. The same for the life of the node.
    pub node_id: String,
    /// How many volumes can be staged at once; none: no limit of ours.
    pub volumes_max: Option<u32>,
    /// Where it is. Keys and values stay the same for the life of the node: kubelet refuses a change.
    pub topology: Topology,
}

/// A volume to be attached, and to be mounted if it is a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageVolume {
    /// The volume.
    pub id: VolumeId,
    /// A directory that exists. A file system is mounted on it; for a block device it stays as it is, and the state of the
    /// attachment is kept beside it.
    pub staging_path: AbsolutePath,
    /// How it will be used.
    pub capability: Capability,
    /// What the controller said when the volume was made.
    pub context: BTreeMap<String, String>,
}

/// A volume to be released from a staging path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnstageVolume {
    /// The volume.
    pub id: VolumeId,
    /// Where it was staged.
    pub staging_path: AbsolutePath,
}

/// The pod for which a volume is published, as kubelet names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
}

/// A staged volume to be shown to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishVolume {
    /// The volume.
    pub id: VolumeId,
    /// Where it is staged.
    pub staging_path: AbsolutePath,
    /// What to make and bind to: a directory for a file system, a file for a block device. Its parent exists.
    pub target_path: AbsolutePath,
    /// How it will be used.
    pub capability: Capability,
    /// The pod must not write: by the request, or because the capability is of reading only.
    pub readonly: bool,
    /// What the controller said when the volume was made.
    pub context: BTreeMap<String, String>,
    /// For whom, if kubelet says so. Only for messages: not part of what has to be equal when it is published already.
    pub pod: Option<Pod>,
}

/// A volume to be hidden from a pod again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpublishVolume {
    /// The volume.
    pub id: VolumeId,
    /// What was made for it, and is to be removed.
    pub target_path: AbsolutePath,
}

/// A volume at a path, about which something is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeAt {
    /// The volume.
    pub id: VolumeId,
    /// Where it is thought to be: a staging path or a target path.
    pub volume_path: AbsolutePath,
    /// Where it is staged, if the caller says so.
    pub staging_path: Option<AbsolutePath>,
}

/// A volume that may be staged or published, or that the caller lately tried to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthQuery {
    /// The volume.
    pub id: VolumeId,
    /// Where it is or was to be published, if the caller says so.
    pub publish_path: Option<AbsolutePath>,
    /// Where it is or was to be staged, if the caller says so.
    pub staging_path: Option<AbsolutePath>,
}

/// A file system that is to fill its device, after the volume grew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpandOnNode {
    /// The volume, and where it is.
    pub at: VolumeAt,
    /// What its size has to be within, if the caller says so.
    pub range: Option<CapacityRange>,
    /// How it is used, if the caller says so.
    pub capability: Option<Capability>,
}

/// Numbers of one kind, of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All that there are.
    pub total: u64,
    /// In use.
    pub used: u64,
    /// What an ordinary user can still have: less than the difference, where some are reserved.
    pub available: u64,
}

/// How full a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A block device: nobody knows what of it is in use.
    Block {
        /// Its size in bytes.
        total_bytes: u64,
    },
    /// A file system.
    Filesystem {
        /// In bytes.
        bytes: Counts,
        /// In inodes.
        inodes: Counts,
    },
}

/// Why a node does not say what it is.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// It does not know yet.
    #[error("the node is not known yet: {reason}")]
    Starting {
        /// What is being waited for.
        reason: String,
    },
    /// The host could not be read.
    #[error("the node could not be described")]
    Host {
        /// Why.
        source: Cause,
    },
}

/// Why a volume was not staged.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// There is none of this id.
    #[error("there is no such volume")]
    UnknownVolume,
    /// The volume was not made to be used so.
    #[error("the volume cannot be used so: {reason}")]
    Unsupported {
        /// What does not fit.
        reason: String,
    },
    /// It is staged at this path already, to be used in another way.
    #[error("the volume is staged there already, with another {difference}")]
    OtherCapability {
        /// In what it differs.
        difference: String,
    },
    /// Another node has it attached, lives, and did not release it.
    #[error("node {holder} has the volume attached")]
    HeldElsewhere {
        /// That node's id.
        holder: String,
    },
    /// This node has as many volumes staged as it can.
    #[error("this node has {limit} volumes staged, as many as it can")]
    TooMany {
        /// That number.
        limit: u32,
    },
    /// The state of the volume or of its file system forbids it: no quorum, a foreign signature, replicas that diverged, a journal that
    /// would have to be replayed and must not.
    #[error("the volume cannot be staged now: {reason}")]
    Forbidden {
        /// Which state, and what would be right.
        reason: String,
    },
    /// It is being staged, by work that goes on without the caller: fencing, file system check, mount.
    #[error("the volume is being staged: {state}")]
    StillWorking {
        /// What is being waited for.
        state: String,
    },
    /// The engine or the API server does not answer, and may be about to do what it was asked.
    #[error("{whom} does not answer")]
    NotReachable {
        /// Who.
        whom: String,
        /// Why.
        source: Cause,
    },
    /// The host refused. It is as it was before.
    #[error("{doing} failed")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        source: Cause,
    },
}

/// Why a volume was not unstaged. One that is not staged was.
#[derive(Debug, thiserror::Error)]
pub enum UnstageError {
    /// Pods still have it.
    #[error("the volume is published at {target_path}")]
    Published {
        /// For one of them, where.
        target_path: AbsolutePath,
    },
    /// It is being unstaged, by work that goes on without the caller.
    #[error("the volume is being unstaged: {state}")]
    StillWorking {
        /// What is being waited for.
        state: String,
    },
    /// The engine does not answer.
    #[error("{whom} does not answer")]
    NotReachable {
        /// Who.
        whom: String,
        /// Why.
        source: Cause,
    },
    /// The host refused.
    #[error("{doing} failed")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        source: Cause,
    },
}

/// Why a volume was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There is none of this id.
    #[error("there is no such volume")]
    UnknownVolume,
    /// It is not staged at that path, or what is staged there is dead and could not be staged anew.
    #[error("the volume is not staged at {staging_path}")]
    NotStaged {
        /// That path.
        staging_path: AbsolutePath,
    },
    /// The staged volume cannot be used so.
    #[error("the volume cannot be used so: {reason}")]
    Unsupported {
        /// What does not fit.
        reason: String,
    },
    /// What [`crate::publications::decide`] says.
    #[error(transparent)]
    Refused(#[from] crate::publications::Refusal),
    /// It is being published, by work that goes on without the caller.
    #[error("the volume is being published: {state}")]
    StillWorking {
        /// What is being waited for.
        state: String,
    },
    /// The engine or the API server does not answer, and may be about to do what it was asked.
    #[error("{whom} does not answer")]
    NotReachable {
        /// Who.
        whom: String,
        /// Why.
        source: Cause,
    },
    /// The host refused. It is as it was before.
    #[error("{doing} failed")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        source: Cause,
    },
}

/// Why a volume was not unpublished. One that is not published was.
#[derive(Debug, thiserror::Error)]
pub enum UnpublishError {
    /// It is being unpublished, by work that goes on without the caller.
    #[error("the volume is being unpublished: {state}")]
    StillWorking {
        /// What is being waited for.
        state: String,
    },
    /// The host refused.
    #[error("{doing} failed")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        source: Cause,
    },
}

/// Why nothing can be said about a volume here.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// There is none of this id on this node.
    #[error("there is no such volume on this node")]
    UnknownVolume,
    /// The volume is not at that path.
    #[error("the volume is not at {path}")]
    NotThere {
        /// That path.
        path: AbsolutePath,
    },
    /// Its device fails: the attachment is fenced or has lost its quorum.
    #[error("the volume's device fails: {reason}")]
    DeviceFails {
        /// Why.
        reason: String,
    },
    /// The host refused.
    #[error("{doing} failed")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        source: Cause,
    },
}

/// Why the health of a volume, or of this node's storage, is not known.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// There is none of this id.
    #[error("there is no such volume")]
    UnknownVolume,
    /// The host refused.
    #[error("{doing} failed")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        source: Cause,
    },
}

/// Why a file system does not fill its device.
#[derive(Debug, thiserror::Error)]
pub enum ExpandError {
    /// There is none of this id on this node.
    #[error("there is no such volume on this node")]
    UnknownVolume,
    /// The volume is not at that path.
    #[error("the volume is not at {path}")]
    NotThere {
        /// That path.
        path: AbsolutePath,
    },
    /// The volume's size is not within what is asked: it does not shrink, and it grows by the controller only.
    #[error("the volume has {size_bytes} bytes, which is not within what is asked")]
    OutOfRange {
        /// Its size.
        size_bytes: u64,
    },
    /// It is growing, by work that goes on without the caller.
    #[error("the file system is growing: {state}")]
    StillWorking {
        /// What is being waited for.
        state: String,
    },
    /// The host refused.
    #[error("{doing} failed")]
    Host {
        /// What was tried.
        doing: String,
        /// Why.
        source: Cause,
    },
}

/// Whoever attaches and mounts volumes on this node. Implementations write `async fn`.
pub trait NodePort: Send + Sync + 'static {
    /// Whether calls can be answered. Asked often: must cost nothing and wait for nobody.
    fn readiness(&self) -> impl Future<Output = Readiness> + Send;

    /// What this node is.
    fn describe(&self) -> impl Future<Output = Result<NodeDescription, DescribeError>> + Send;

    /// Attaches the volume and mounts its file system (made first, where the device is blank), or finds it as it was staged
    /// before: what is staged on a dead or fenced device is staged anew.
    fn stage_volume(
        &self,
        request: StageVolume,
        within: Duration,
    ) -> impl Future<Output = Result<(), StageError>> + Send;

    /// Unmounts and detaches. Ends also when the device fails or is fenced.
    fn unstage_volume(
        &self,
        request: UnstageVolume,
        within: Duration,
    ) -> impl Future<Output = Result<(), UnstageError>> + Send;

    /// Binds the staged volume to the target path, where [`crate::publications::decide`] allows it.
    fn publish_volume(
        &self,
        request: PublishVolume,
        within: Duration,
    ) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Unbinds, and removes what was made at the target path.
    fn unpublish_volume(
        &self,
        request: UnpublishVolume,
        within: Duration,
    ) -> impl Future<Output = Result<(), UnpublishError>> + Send;

    /// How full the volume is. May hang with its device: the service above bounds it, and asks again only once it has ended. Must not
    /// block the runtime meanwhile.
    fn usage(&self, at: VolumeAt) -> impl Future<Output = Result<Usage, UsageError>> + Send;

    /// Grows the file system to its device, and answers the volume's size in bytes. Nothing is done for a block device.
    fn expand_volume(
        &self,
        request: ExpandOnNode,
        within: Duration,
    ) -> impl Future<Output = Result<u64, ExpandError>> + Send;

    /// What is wrong with the volume, as this node sees it; nothing: it is as it should be.
    fn volume_health(&self, query: HealthQuery) -> impl Future<Output = Result<Vec<VolumeHealth>, HealthError>> + Send;

    /// What is wrong with this node's storage as a whole; nothing: it is as it should be.
    fn storage_health(&self) -> impl Future<Output = Result<Vec<StorageHealth>, HealthError>> + Send;
}

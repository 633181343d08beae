//! What the CSI node port needs of whoever attaches volumes: the engine, as the agent reaches it.
//!
//! Two implementations: [`super::agent_attach`] over the stand-alone agent's socket, and the one of the agent in a cluster, which makes
//! this node a member of the volume first. Both are thin: what is a device, what is mounted where and whether it answers is looked at by
//! the callers, on the host.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use lockstep_csi::health::{StorageHealth, VolumeHealth};
use lockstep_csi::node_port::Cause;
use lockstep_csi::readiness::Readiness;
use lockstep_csi::volume::VolumeId;

/// A block device's number: what the kernel knows it by. Used again by another device once this one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// Of the driver.
    pub major: u32,
    /// Of the device.
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What a volume is attached for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reading and writing.
    ReadWrite,
    /// Reading.
    ReadOnly,
}

/// How an attachment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What is dirty in the device is written first. Refused while somebody has the device open.
    InOrder,
    /// At once: whoever still has the device open gets errors, and so does what is dirty in it.
    ByForce,
}

/// A volume as far as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeHere {
    /// Its size in bytes, as its configuration says.
    pub size_bytes: u64,
    /// It was made for several nodes that write at once.
    pub several_writers: bool,
    /// How it is attached at this node's engine now; none: it is not, or was taken over by another node.
    pub attached: Option<Mode>,
    /// What is wrong with it.
    pub health: Vec<VolumeHealth>,
}

/// Why a volume was not attached. Nothing of the attempt is left, except where the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is none of this id.
    #[error("there is no such volume")]
    UnknownVolume,
    /// The volume was not made to be used so, or never from this node.
    #[error("the volume cannot be attached so: {reason}")]
    Unsupported {
        /// What does not fit.
        reason: String,
    },
    /// Another node has it attached, lives, and there was no waiting for it.
    #[error("node {holder} has the volume attached")]
    HeldElsewhere {
        /// That node's name.
        holder: String,
    },
    /// The state of the volume forbids it, and waiting would not help.
    #[error("the volume cannot be attached now: {reason}")]
    Forbidden {
        /// Which state.
        reason: String,
    },
    /// It was not decided in time: a former writer has neither released nor is it proven fenced, or a quorum is away. May go on.
    #[error("the volume is not attached yet: {state}")]
    StillWaiting {
        /// For what.
        state: String,
    },
    /// The engine (or the API server) does not answer, and may be about to do it.
    #[error("{whom} does not answer")]
    NotReachable {
        /// Who.
        whom: String,
        /// Why.
        source: Cause,
    },
    /// Anything else.
    #[error("attaching failed")]
    Other {
        /// Why.
        source: Cause,
    },
}

/// Why a volume was not detached. One that is not attached was.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// There is none of this id: nothing is attached.
    #[error("there is no such volume")]
    UnknownVolume,
    /// Somebody has the device open, and goes on using it.
    #[error("the volume's device is in use: {reason}")]
    InUse {
        /// As the engine says it.
        reason: String,
    },
    /// The engine (or the API server) does not answer, or the volume's members do not decide; the device may be gone already.
    #[error("{whom} does not answer")]
    NotReachable {
        /// Who.
        whom: String,
        /// Why.
        source: Cause,
    },
    /// Anything else.
    #[error("detaching failed")]
    Other {
        /// Why.
        source: Cause,
    },
}

/// Why a volume, or this node, could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// There is none of this id that this node knows.
    #[error("there is no such volume")]
    UnknownVolume,
    /// The engine (or the API server) does not answer.
    #[error("{whom} does not answer")]
    NotReachable {
        /// Who.
        whom: String,
        /// Why.
        source: Cause,
    },
}

/// Whoever attaches volumes at this node. Implementations write `async fn`.
///
/// Calls for one volume come one at a time.
pub trait Attach: Send + Sync + 'static {
    /// Attaches the volume with a block device as its front end, and gives that device's number. Takes it over from a writer that is fenced,
    /// waiting at most `within` for the proof. A volume that is attached so already is given as it is, even if its device is dead; one that
    /// another node has taken over since is attached anew, with another device.
    fn attach(
        &self,
        volume: &VolumeId,
        mode: Mode,
        within: Duration,
    ) -> impl Future<Output = Result<DeviceNumber, AttachError>> + Send;

    /// Detaches the volume, and gives up what was made to attach it (this node's membership, if it has no replica).
    fn detach(
        &self,
        volume: &VolumeId,
        ending: Ending,
        within: Duration,
    ) -> impl Future<Output = Result<(), DetachError>> + Send;

    /// Lets every request at the volume's device fail, present and future: nothing waits for the engine any more, whether it lives or not. The
    /// volume stays attached for the engine. Waits for nobody; where there is nothing to fail, nothing happens.
    fn fail_fast(&self, volume: &VolumeId) -> impl Future<Output = Result<(), Cause>> + Send;

    /// The volume as this node knows it.
    fn observe(&self, volume: &VolumeId) -> impl Future<Output = Result<VolumeHere, ObserveError>> + Send;

    /// Whether volumes can be attached. Asked often: answers from what is known and waits for nobody.
    fn readiness(&self) -> impl Future<Output = Readiness> + Send;

    /// What is wrong with this node's engine or pool; nothing: both are as they should be.
    fn storage_health(&self) -> impl Future<Output = Result<Vec<StorageHealth>, ObserveError>> + Send;
}

/// What the engine names the FUSE files after that are under its loop devices: a volume's after its name in there. They are mounted nowhere.
#[must_use]
pub fn front_end_mounts(state: &crate::state_dir::StateDir) -> PathBuf {
    state.engine()
}

//! What the Controller service needs of whoever decides over volumes: implemented by the controller, over the cluster's objects.
//!
//! Requests arrive parsed: no text needs a second look. Each operation that changes something is *idempotent by observation*: it looks
//! at what is there and does what is missing, whoever began it. The service above runs one at a time per volume, in a task that goes
//! on when the caller has left; it remembers no result.
//!
//! `within` is how long the caller still waits. When it has passed while the work goes on (replicas are being made), the operation
//! answers `StillWorking`; a repeated call continues. The errors say which of them may be answered when: callers take some codes
//! for "perhaps still running" and wait for ever.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use crate::capability::Capability;
use crate::capacity::CapacityRange;
use crate::health::VolumeHealth;
use crate::readiness::Readiness;
use crate::topology::{Accessibility, Topology};
use crate::volume::{VolumeId, VolumeName};

/// What made an operation fail, of whatever kind: its chain becomes part of the message.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Parameters by name: of a StorageClass, or of a VolumeAttributesClass.
pub type Parameters = BTreeMap<String, String>;

/// The claim for which a volume is made, as the provisioner names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The claim's namespace.
    pub namespace: String,
    /// The claim's name.
    pub name: String,
}

/// A volume to be made, or to be found as it was made before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateVolume {
    /// What the caller calls it; for people.
    pub name: VolumeName,
    /// What it is called here: [`VolumeId::of_name`]. One name is one volume, also when called by several controllers at once.
    pub id: VolumeId,
    /// Its size in bytes, if it has to be made.
    pub size_bytes: u64,
    /// What its size has to be within, if it exists: see [`CreateVolume::accepts_size`].
    pub range: Option<CapacityRange>,
    /// All the ways in which it will be used; at least one.
    pub capabilities: Vec<Capability>,
    /// Of the StorageClass, without what the provisioner adds about the claim. Unknown ones are an error.
    pub parameters: Parameters,
    /// Of the VolumeAttributesClass; they win over `parameters`. Unknown ones are an error.
    pub mutable_parameters: Parameters,
    /// From where it has to be reachable, if the caller says so.
    pub accessibility: Option<Accessibility>,
    /// For whom it is made, if the caller says so. Not part of what has to be equal when it exists.
    pub claim: Option<Claim>,
}

impl CreateVolume {
    /// A volume that exists with this size is the one that is asked for, as far as its size goes.
    #[must_use]
    pub fn accepts_size(&self, existing_bytes: u64) -> bool {
        self.range.is_none_or(|range| range.accepts(existing_bytes))
    }
}

/// A volume as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Its size in bytes: all of it can be written.
    pub capacity_bytes: u64,
    /// What every later call about it brings along; at most 4 KiB in all, 128 bytes each.
    pub context: BTreeMap<String, String>,
    /// From where it is reachable: any of these.
    pub accessible_topology: Vec<Topology>,
}

/// What space is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapacityQuery {
    /// Of volumes with these parameters.
    pub parameters: Parameters,
    /// Used in these ways; none: in any.
    pub capabilities: Vec<Capability>,
    /// With the first consumer there; none: anywhere.
    pub topology: Option<Topology>,
}

/// How much space there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// What new volumes can have in all, in bytes.
    pub available_bytes: u64,
    /// The largest volume that can be made, in bytes.
    pub largest_volume_bytes: u64,
}

/// Which part of a list is wanted. Lists are in order of ids, so that a page can be continued after its last volume was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Only ids above this one.
    pub after: Option<VolumeId>,
    /// At most so many; none: all that are left.
    pub entries_max: Option<usize>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// Each with the volume's id, in ascending order of ids.
    pub entries: Vec<(VolumeId, T)>,
    /// There are more after the last of them.
    pub more: bool,
}

/// Whether a volume can be used so is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// The volume.
    pub id: VolumeId,
    /// All the ways in which it would be used; at least one.
    pub capabilities: Vec<Capability>,
    /// The context that it is thought to have; empty: not asked about.
    pub context: BTreeMap<String, String>,
    /// The parameters that it is thought to have been made with; empty: not asked about.
    pub parameters: Parameters,
    /// The attributes that it is thought to have; empty: not asked about.
    pub mutable_parameters: Parameters,
}

/// Whether a volume can be used so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, in everything that was asked.
    Confirmed,
    /// No.
    Refused {
        /// What does not fit, for people.
        reason: String,
    },
}

/// Why a volume was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A parameter, mutable parameter or topology that no state would accept. Nothing was made.
    #[error("{reason}")]
    WrongInput {
        /// Names the parameter and what it can be.
        reason: String,
    },
    /// A volume of this name exists, and differs in what was asked.
    #[error("volume {id} exists already, with another {difference}")]
    Exists {
        /// Its id.
        id: VolumeId,
        /// In what it differs.
        difference: String,
    },
    /// No size is possible for what is asked beside it.
    #[error("{reason}")]
    OutOfRange {
        /// Which size would be.
        reason: String,
    },
    /// The pools that may be used have no room. Nothing is reserved: the caller tries elsewhere.
    #[error("no room: {reason}")]
    NoRoom {
        /// Where, and how much is missing.
        reason: String,
    },
    /// It is being made, by work that goes on without the caller.
    #[error("volume {id} is being made: {state}")]
    StillWorking {
        /// Its id.
        id: VolumeId,
        /// What is being waited for.
        state: String,
    },
    /// Nobody knows whether the request took effect: it was sent to the API server, and no answer came.
    #[error("whether the volume was made is not known")]
    Uncertain {
        /// Why.
        source: Cause,
    },
    /// Nothing was begun, for any other reason.
    #[error("the volume was not made")]
    Failed {
        /// Why.
        source: Cause,
    },
}

/// Why a volume was not deleted. One that does not exist was deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// It is staged somewhere. Nothing was altered.
    #[error("the volume is in use on {}", nodes.join(", "))]
    InUse {
        /// On which nodes.
        nodes: Vec<String>,
    },
    /// It is being deleted, by work that goes on without the caller.
    #[error("the volume is being deleted: {state}")]
    StillWorking {
        /// What is being waited for.
        state: String,
    },
    /// Nobody knows whether the request took effect.
    #[error("whether the volume is being deleted is not known")]
    Uncertain {
        /// Why.
        source: Cause,
    },
    /// Nothing was begun, for any other reason.
    #[error("the volume was not deleted")]
    Failed {
        /// Why.
        source: Cause,
    },
}

/// Why a volume did not grow.
#[derive(Debug, thiserror::Error)]
pub enum ExpandError {
    /// There is none.
    #[error("there is no such volume")]
    UnknownVolume,
    /// No size is possible: see [`CapacityRange::growth`].
    #[error("{reason}")]
    OutOfRange {
        /// Which size would be.
        reason: String,
    },
    /// A pool has no room for it. It keeps its size.
    #[error("no room: {reason}")]
    NoRoom {
        /// Where, and how much is missing.
        reason: String,
    },
    /// Its present state does not allow it.
    #[error("the volume cannot grow now: {reason}")]
    Forbidden {
        /// Which state.
        reason: String,
    },
    /// It is growing, by work that goes on without the caller.
    #[error("the volume is growing: {state}")]
    StillWorking {
        /// What is being waited for.
        state: String,
    },
    /// Nobody knows whether the request took effect.
    #[error("whether the volume is growing is not known")]
    Uncertain {
        /// Why.
        source: Cause,
    },
    /// Nothing was begun, for any other reason.
    #[error("the volume did not grow")]
    Failed {
        /// Why.
        source: Cause,
    },
}

/// Why a volume's attributes were not changed. None of them was.
#[derive(Debug, thiserror::Error)]
pub enum ModifyError {
    /// There is none.
    #[error("there is no such volume")]
    UnknownVolume,
    /// An unknown parameter, or an impossible value.
    #[error("{reason}")]
    WrongInput {
        /// Names the parameter and what it can be.
        reason: String,
    },
    /// Its present state does not allow it: replicas are not given up while redundancy is missing.
    #[error("the volume cannot be changed now: {reason}")]
    Forbidden {
        /// Which state.
        reason: String,
    },
    /// No pool has room for one more replica.
    #[error("no room: {reason}")]
    NoRoom {
        /// Where, and how much is missing.
        reason: String,
    },
    /// Nobody knows whether the request took effect.
    #[error("whether the volume was changed is not known")]
    Uncertain {
        /// Why.
        source: Cause,
    },
    /// Nothing was begun, for any other reason.
    #[error("the volume was not changed")]
    Failed {
        /// Why.
        source: Cause,
    },
}

/// Why nothing can be said about a volume.
#[derive(Debug, thiserror::Error)]
pub enum LookUpError {
    /// There is none.
    #[error("there is no such volume")]
    UnknownVolume,
    /// The cluster's objects could not be read.
    #[error("the volume could not be read")]
    Failed {
        /// Why.
        source: Cause,
    },
}

/// Why no list was made.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The cluster's objects could not be read.
    #[error("the volumes could not be read")]
    Failed {
        /// Why.
        source: Cause,
    },
}

/// Why nothing can be said about space.
#[derive(Debug, thiserror::Error)]
pub enum CapacityError {
    /// A parameter or topology that no state would accept.
    #[error("{reason}")]
    WrongInput {
        /// Names the parameter and what it can be.
        reason: String,
    },
    /// The cluster's objects could not be read.
    #[error("the pools could not be read")]
    Failed {
        /// Why.
        source: Cause,
    },
}

/// Whoever decides over volumes. Implementations write `async fn`.
pub trait ControllerPort: Send + Sync + 'static {
    /// Whether calls can be answered. Asked often: must cost nothing and wait for nobody.
    fn readiness(&self) -> impl Future<Output = Readiness> + Send;

    /// Makes a volume, and answers when it can be staged. An equal one that exists is the answer.
    fn create_volume(
        &self,
        request: CreateVolume,
        within: Duration,
    ) -> impl Future<Output = Result<Volume, CreateError>> + Send;

    /// Deletes a volume, and answers when its replicas on the nodes that are there are gone.
    fn delete_volume(&self, id: VolumeId, within: Duration) -> impl Future<Output = Result<(), DeleteError>> + Send;

    /// Grows a volume as [`CapacityRange::growth`] says, and answers its size in bytes when all its replicas have it.
    fn expand_volume(
        &self,
        id: VolumeId,
        range: CapacityRange,
        within: Duration,
    ) -> impl Future<Output = Result<u64, ExpandError>> + Send;

    /// Changes attributes of a volume: all that are named, or none. Those not named stay as they are.
    fn modify_volume(
        &self,
        id: VolumeId,
        mutable_parameters: Parameters,
        within: Duration,
    ) -> impl Future<Output = Result<(), ModifyError>> + Send;

    /// How large a new volume could be.
    fn capacity(&self, query: CapacityQuery) -> impl Future<Output = Result<Capacity, CapacityError>> + Send;

    /// One volume.
    fn volume(&self, id: VolumeId) -> impl Future<Output = Result<Volume, LookUpError>> + Send;

    /// Volumes in order of their ids.
    fn list_volumes(&self, page: Page) -> impl Future<Output = Result<Listed<Volume>, ListError>> + Send;

    /// Whether a volume can be used so.
    fn confirm(&self, question: Confirm) -> impl Future<Output = Result<Verdict, LookUpError>> + Send;

    /// What is wrong with a volume, as the cluster sees it; nothing: it is as it should be.
    fn volume_health(&self, id: VolumeId) -> impl Future<Output = Result<Vec<VolumeHealth>, LookUpError>> + Send;

    /// The volumes with which something is wrong, in order of their ids.
    fn list_volume_health(
        &self,
        page: Page,
    ) -> impl Future<Output = Result<Listed<Vec<VolumeHealth>>, ListError>> + Send;
}

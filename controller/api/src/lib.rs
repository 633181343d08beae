//! What Lockstep keeps in a cluster: the custom resources, and the names that controller and nodes agree on. Types only.
//!
//! Controller and nodes meet in these objects and nowhere else:
//!
//! | object | written by | says |
//! |---|---|---|
//! | [`MirrorPool`] | spec: controller or a person; status: its node | a node's local storage, identity and addresses |
//! | [`MirrorVolume`] | controller | a volume: what is wanted, and what all its members together show |
//! | [`MirrorReplica`] | spec: controller (attachments: their own node); status: its node | one node's part of a volume |
//!
//! Every object is cluster-wide: nothing in them is a secret.
#![forbid(unsafe_code)]

mod conditions;
pub mod names;
mod pool;
mod replica;
mod volume;

pub use conditions::{condition, is_true, set_condition};
pub use pool::{MirrorPool, MirrorPoolSpec, MirrorPoolStatus, PoolStorage};
pub use replica::{
    Attached, Definition, DiskState, FirstMember, MirrorReplica, MirrorReplicaSpec, MirrorReplicaStatus, Phase,
    ReplicaRole, Resync, Seen,
};
pub use volume::{
    Access, Ack, Arbiter, ClaimReference, FailOver, FrontEnd, Fuse, MirrorVolume, MirrorVolumeSpec, MirrorVolumeStatus,
    OnQuorumLoss, Placement, Policing, VolumeState, WritePriority,
};

use kube::CustomResourceExt as _;

/// The definitions of all custom resources, as the chart installs them.
#[must_use]
pub fn definitions() -> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>
{
    vec![MirrorPool::crd(), MirrorVolume::crd(), MirrorReplica::crd()]
}

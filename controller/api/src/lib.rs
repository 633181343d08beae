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

pub use conditions::{LOST, REGISTER_LOST, condition, is_true, set_condition};
pub use pool::{MirrorPool, MirrorPoolSpec, MirrorPoolStatus, PoolStorage};
pub use replica::{
    Attached, Definition, DiskState, FirstMember, Member, MirrorReplica, MirrorReplicaSpec, MirrorReplicaStatus, Phase,
    ReplicaRole, Resync, Seen,
};
pub use volume::{
    Access, Ack, Arbiter, ClaimReference, FailOver, FrontEnd, Fuse, MirrorVolume, MirrorVolumeSpec, MirrorVolumeStatus,
    OnQuorumLoss, Placement, Policing, VolumeState, WritePriority,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt as _;

/// The definitions of all custom resources, as the chart installs them.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![MirrorPool::crd(), MirrorVolume::crd(), MirrorReplica::crd()];
    let versions = definitions.iter_mut().flat_map(|definition| &mut definition.spec.versions);
    for schema in versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut()) {
        drop_unknown_formats(schema);
    }
    definitions
}

/// Takes the formats of unsigned numbers away: the API server knows none of them, and warns of each at every installation.
fn drop_unknown_formats(schema: &mut JSONSchemaProps) {
    if schema.format.as_deref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        drop_unknown_formats(property);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        drop_unknown_formats(values);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => drop_unknown_formats(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(drop_unknown_formats),
        None => {}
    }
}

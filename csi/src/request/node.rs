//! Requests of the Node service.

use std::collections::BTreeMap;

use lockstep_proto::csi::v1 as proto;

use super::Refusal;
use super::capability::{self, offered};
use super::field::{known_id, parse_id_text, parse_map, parse_optional_path, parse_path};
use crate::capability::Capability;
use crate::capacity::CapacityRange;
use crate::node_port::{
    ExpandOnNode, HealthQuery, Pod, PublishVolume, StageVolume, UnpublishVolume, UnstageVolume, VolumeAt,
};

/// What kubelet adds to the volume's context begins so. It is about the pod, not the volume, and may hold tokens.
const OF_KUBELET: &str = "csi.storage.k8s.io/";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";

pub(crate) fn parse_stage(wire: proto::NodeStageVolumeRequest) -> Result<StageVolume, Refusal> {
    let id = parse_id_text(&wire.volume_id)?;
    let staging_path = parse_path("staging_target_path", &wire.staging_target_path)?;
    let capability = capability::parse("volume_capability", wire.volume_capability)?;
    let (context, _) = parse_context(wire.volume_context)?;
    Ok(StageVolume { capability: offered(true, capability)?, id: known_id(id)?, staging_path, context })
}

/// `None`: a volume that cannot be ours, which nobody staged.
pub(crate) fn parse_unstage(wire: &proto::NodeUnstageVolumeRequest) -> Result<Option<UnstageVolume>, Refusal> {
    let id = parse_id_text(&wire.volume_id)?;
    let staging_path = parse_path("staging_target_path", &wire.staging_target_path)?;
    Ok(known_id(id).ok().map(|id| UnstageVolume { id, staging_path }))
}

pub(crate) fn parse_publish(wire: proto::NodePublishVolumeRequest) -> Result<PublishVolume, Refusal> {
    let id = parse_id_text(&wire.volume_id)?;
    let target_path = parse_path("target_path", &wire.target_path)?;
    let capability = capability::parse("volume_capability", wire.volume_capability)?;
    let (context, pod) = parse_context(wire.volume_context)?;
    let staging_path =
        parse_optional_path("staging_target_path", &wire.staging_target_path)?.ok_or(Refusal::NotStaged)?;
    let capability = offered(true, capability)?;
    Ok(PublishVolume {
        id: known_id(id)?,
        staging_path,
        target_path,
        readonly: wire.readonly || capability.mode().is_read_only(),
        capability,
        context,
        pod,
    })
}

/// `None`: a volume that cannot be ours, which nobody published.
pub(crate) fn parse_unpublish(wire: &proto::NodeUnpublishVolumeRequest) -> Result<Option<UnpublishVolume>, Refusal> {
    let id = parse_id_text(&wire.volume_id)?;
    let target_path = parse_path("target_path", &wire.target_path)?;
    Ok(known_id(id).ok().map(|id| UnpublishVolume { id, target_path }))
}

pub(crate) fn parse_usage(wire: &proto::NodeGetVolumeStatsRequest) -> Result<VolumeAt, Refusal> {
    parse_at(&wire.volume_id, &wire.volume_path, &wire.staging_target_path)
}

pub(crate) fn parse_expand(wire: proto::NodeExpandVolumeRequest) -> Result<ExpandOnNode, Refusal> {
    let at = parse_at(&wire.volume_id, &wire.volume_path, &wire.staging_target_path);
    // That the volume, or the place, cannot be ours is said last.
    if let Err(refusal @ (Refusal::Missing { .. } | Refusal::TooLong { .. })) = at {
        return Err(refusal);
    }
    let range = match wire.capacity_range {
        None => None,
        Some(range) => CapacityRange::parse(range.required_bytes, range.limit_bytes)
            .map_err(|error| Refusal::NotOffered { reason: error.to_string() })?,
    };
    let capability: Option<Capability> = wire
        .volume_capability
        .map(|one| capability::parse("volume_capability", Some(one)).and_then(|parsed| offered(true, parsed)))
        .transpose()?;
    Ok(ExpandOnNode { at: at?, range, capability })
}

pub(crate) fn parse_health(wire: &proto::NodeGetVolumeHealthRequest) -> Result<HealthQuery, Refusal> {
    let id = parse_id_text(&wire.volume_id)?;
    let publish_path = parse_optional_path("volume_publish_path", &wire.volume_publish_path)?;
    let staging_path = parse_optional_path("staging_target_path", &wire.staging_target_path)?;
    Ok(HealthQuery { id: known_id(id)?, publish_path, staging_path })
}

fn parse_at(id: &str, volume_path: &str, staging_path: &str) -> Result<VolumeAt, Refusal> {
    let id = parse_id_text(id)?;
    // Nothing is made there: a path that cannot be one of ours is a place where the volume is not (csi-sanity asks with a relative one).
    let elsewhere = |refusal| match refusal {
        Refusal::Wrong { field, reason } => Refusal::NotThere { field, reason },
        other => other,
    };
    let volume_path = parse_path("volume_path", volume_path).map_err(elsewhere)?;
    let staging_path = parse_optional_path("staging_target_path", staging_path).map_err(elsewhere)?;
    Ok(VolumeAt { id: known_id(id)?, volume_path, staging_path })
}

/// The volume's own context, and the pod that kubelet names in it.
fn parse_context(wire: BTreeMap<String, String>) -> Result<(BTreeMap<String, String>, Option<Pod>), Refusal> {
    let mut context = parse_map("volume_context", wire)?;
    if context.get(EPHEMERAL).is_some_and(|value| value == "true") {
        let reason = "inline ephemeral volumes are not offered; generic ephemeral volumes are".to_owned();
        return Err(Refusal::NotOffered { reason });
    }
    let pod = match (context.remove(POD_NAMESPACE), context.remove(POD_NAME), context.remove(POD_UID)) {
        (Some(namespace), Some(name), Some(uid)) => Some(Pod { namespace, name, uid }),
        _ => None,
    };
    context.retain(|key, _| !key.starts_with(OF_KUBELET));
    Ok((context, pod))
}

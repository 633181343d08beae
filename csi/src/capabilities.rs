//! What this version can do. Only what works is advertised; every other RPC answers UNIMPLEMENTED.
//!
//! **Volume health** is advertised in all four forms of specification 1.13, because what they have to say is known without asking
//! anybody: the controller reads the conditions of the volume's object (fewer replicas than wanted: DEGRADED; no quorum: INACCESSIBLE,
//! from every node; the last good replica lost: DATA_LOSS), a node its engine's state (a fenced or suspended attachment: INACCESSIBLE, from
//! there; engine or pool gone: the storage's health). A condition is reported as long as it holds, and volumes without one are
//! left out of the controller's list. LIST_VOLUME_HEALTH obliges to GET_VOLUME_HEALTH, which is there too.
//!
//! **SINGLE_NODE_MULTI_WRITER** is advertised by both services: only then does Kubernetes translate ReadWriteOnce into the mode that lets
//! two pods of one node share a volume, and ReadWriteOncePod into the one that does not.
//!
//! Not there: PUBLISH_UNPUBLISH_VOLUME (staging is the attach), snapshots, clones, groups, VOLUME_MOUNT_GROUP (kubelet applies the group).

use lockstep_proto::csi::v1 as proto;

use proto::controller_service_capability::rpc::Type as ControllerRpc;
use proto::node_service_capability::rpc::Type as NodeRpc;
use proto::plugin_capability::service::Type as Service;
use proto::plugin_capability::volume_expansion::Type as Expansion;

const SERVICES: [Service; 2] = [Service::ControllerService, Service::VolumeAccessibilityConstraints];

const CONTROLLER: [ControllerRpc; 9] = [
    ControllerRpc::CreateDeleteVolume,
    ControllerRpc::ListVolumes,
    ControllerRpc::GetCapacity,
    ControllerRpc::ExpandVolume,
    ControllerRpc::GetVolume,
    ControllerRpc::ModifyVolume,
    ControllerRpc::SingleNodeMultiWriter,
    ControllerRpc::GetVolumeHealth,
    ControllerRpc::ListVolumeHealth,
];

const NODE: [NodeRpc; 6] = [
    NodeRpc::StageUnstageVolume,
    NodeRpc::GetVolumeStats,
    NodeRpc::ExpandVolume,
    NodeRpc::SingleNodeMultiWriter,
    NodeRpc::GetVolumeHealth,
    NodeRpc::GetStorageHealth,
];

pub(crate) fn of_plugin() -> Vec<proto::PluginCapability> {
    use proto::plugin_capability::{Service as WireService, Type, VolumeExpansion};
    let service = |service: Service| Type::Service(WireService { r#type: service.into() });
    let expansion = Type::VolumeExpansion(VolumeExpansion { r#type: Expansion::Online.into() });
    SERVICES
        .into_iter()
        .map(service)
        .chain([expansion])
        .map(|it| proto::PluginCapability { r#type: Some(it) })
        .collect()
}

pub(crate) fn of_controller() -> Vec<proto::ControllerServiceCapability> {
    use proto::controller_service_capability::{Rpc, Type};
    CONTROLLER
        .into_iter()
        .map(|rpc| proto::ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: rpc.into() })) })
        .collect()
}

pub(crate) fn of_node() -> Vec<proto::NodeServiceCapability> {
    use proto::node_service_capability::{Rpc, Type};
    NODE.into_iter()
        .map(|rpc| proto::NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: rpc.into() })) })
        .collect()
}

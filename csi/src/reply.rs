//! From typed values to messages of the wire.

use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use proto::volume_capability::{AccessMode as WireMode, AccessType, BlockVolume, MountVolume};
use tonic::Status;

use crate::capability::{Access, AccessMode, Capability};
use crate::controller_port::Volume;
use crate::health::{Severity, StorageHealth, StorageSeverity, VolumeHealth};
use crate::node_port::{Counts, Usage};
use crate::request::{MAP_BYTES_MAX, map_bytes};
use crate::topology::Topology;
use crate::volume::VolumeId;

/// The wire's signed bytes. No volume has more than [`crate::capacity::LARGEST_BYTES`], no pool more than a machine can hold.
pub(crate) fn bytes(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Holds a new volume to the limits of the wire: what breaks them would be refused by every later call.
///
/// # Errors
/// The port broke them.
pub(crate) fn check_volume(volume: &Volume) -> Result<(), Status> {
    let maps = volume.accessible_topology.iter().map(|it| &it.segments).chain([&volume.context]);
    match maps.map(map_bytes).max() {
        Some(bytes) if bytes > MAP_BYTES_MAX => Err(Status::internal(format!(
            "a context or topology of {bytes} bytes; at most {MAP_BYTES_MAX} are possible"
        ))),
        Some(_) | None => Ok(()),
    }
}

pub(crate) fn volume(volume: Volume) -> proto::Volume {
    proto::Volume {
        capacity_bytes: bytes(volume.capacity_bytes),
        volume_id: volume.id.as_str().to_owned(),
        volume_context: volume.context,
        content_source: None,
        accessible_topology: volume.accessible_topology.into_iter().map(topology).collect(),
    }
}

pub(crate) fn topology(topology: Topology) -> proto::Topology {
    proto::Topology { segments: topology.segments }
}

pub(crate) fn volume_health(id: &VolumeId, conditions: Vec<VolumeHealth>) -> proto::VolumeHealth {
    let entry = |condition: VolumeHealth| proto::volume_health::VolumeHealthEntry {
        status: match condition.severity {
            Severity::Degraded => proto::VolumeHealthErrorType::Degraded,
            Severity::Inaccessible => proto::VolumeHealthErrorType::Inaccessible,
            Severity::DataLoss => proto::VolumeHealthErrorType::DataLoss,
        }
        .into(),
        reason: condition.reason.to_owned(),
        message: condition.message,
    };
    proto::VolumeHealth {
        volume_id: id.as_str().to_owned(),
        health_statuses: conditions.into_iter().map(entry).collect(),
    }
}

pub(crate) fn storage_health(
    condition: StorageHealth,
) -> proto::node_get_storage_health_response::StorageBackendHealth {
    proto::node_get_storage_health_response::StorageBackendHealth {
        status: match condition.severity {
            StorageSeverity::Degraded => proto::StorageHealthErrorType::StorageDegraded,
            StorageSeverity::Unreachable => proto::StorageHealthErrorType::StorageUnreachable,
        }
        .into(),
        reason: condition.reason.to_owned(),
        message: condition.message,
        volume_capability: condition.capability.as_ref().map(capability),
    }
}

pub(crate) fn usage(usage: Usage) -> Vec<proto::VolumeUsage> {
    use proto::volume_usage::Unit;
    let counted = |unit: Unit, counts: Counts| proto::VolumeUsage {
        available: bytes(counts.available),
        total: bytes(counts.total),
        used: bytes(counts.used),
        unit: unit.into(),
    };
    match usage {
        Usage::Block { total_bytes } => {
            vec![proto::VolumeUsage {
                total: bytes(total_bytes),
                unit: Unit::Bytes.into(),
                ..proto::VolumeUsage::default()
            }]
        }
        Usage::Filesystem { bytes, inodes } => vec![counted(Unit::Bytes, bytes), counted(Unit::Inodes, inodes)],
    }
}

fn capability(capability: &Capability) -> proto::VolumeCapability {
    let mode = match capability.mode() {
        AccessMode::SingleNodeWriter => Mode::SingleNodeWriter,
        AccessMode::SingleNodeReaderOnly => Mode::SingleNodeReaderOnly,
        AccessMode::MultiNodeReaderOnly => Mode::MultiNodeReaderOnly,
        AccessMode::MultiNodeSingleWriter => Mode::MultiNodeSingleWriter,
        AccessMode::MultiNodeMultiWriter => Mode::MultiNodeMultiWriter,
        AccessMode::SingleNodeSingleWriter => Mode::SingleNodeSingleWriter,
        AccessMode::SingleNodeMultiWriter => Mode::SingleNodeMultiWriter,
    };
    let access = match capability.access() {
        Access::Block => AccessType::Block(BlockVolume {}),
        Access::Mount(mount) => AccessType::Mount(MountVolume {
            fs_type: mount.filesystem.as_str().to_owned(),
            mount_flags: mount.flags.as_slice().to_vec(),
            volume_mount_group: String::new(),
        }),
    };
    proto::VolumeCapability { access_mode: Some(WireMode { mode: mode.into() }), access_type: Some(access) }
}

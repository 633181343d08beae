//! Requests as callers make them: whole, to be spoiled by a case where it wants to.

use std::path::Path;

use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use proto::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};

use crate::Target;
use crate::steps::Made;

/// A size that a volume of any file system can have: 1 GiB, in bytes.
pub const SIZE_BYTES: i64 = 1 << 30;

/// A block device.
#[must_use]
pub fn block(mode: Mode) -> proto::VolumeCapability {
    proto::VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

/// A file system.
#[must_use]
pub fn mount(mode: Mode, fs_type: &str, flags: &[&str]) -> proto::VolumeCapability {
    let mount = MountVolume {
        fs_type: fs_type.to_owned(),
        mount_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        volume_mount_group: String::new(),
    };
    proto::VolumeCapability { access_type: Some(AccessType::Mount(mount)), ..block(mode) }
}

/// What Kubernetes makes of ReadWriteOnce: an ext4 on one node.
#[must_use]
pub fn ext4() -> proto::VolumeCapability {
    mount(Mode::SingleNodeMultiWriter, "ext4", &[])
}

/// At least and at most so many bytes; zero says nothing.
#[must_use]
pub fn range(required_bytes: i64, limit_bytes: i64) -> Option<proto::CapacityRange> {
    Some(proto::CapacityRange { required_bytes, limit_bytes })
}

/// A volume of [`SIZE_BYTES`].
#[must_use]
pub fn create(target: &Target, name: &str, capability: proto::VolumeCapability) -> proto::CreateVolumeRequest {
    proto::CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: range(SIZE_BYTES, 0),
        volume_capabilities: vec![capability],
        parameters: target.parameters.clone(),
        ..proto::CreateVolumeRequest::default()
    }
}

/// A volume to be deleted.
#[must_use]
pub fn delete(id: &str) -> proto::DeleteVolumeRequest {
    proto::DeleteVolumeRequest { volume_id: id.to_owned(), ..proto::DeleteVolumeRequest::default() }
}

/// A volume to grow.
#[must_use]
pub fn expand(made: &Made, capacity_range: Option<proto::CapacityRange>) -> proto::ControllerExpandVolumeRequest {
    proto::ControllerExpandVolumeRequest {
        volume_id: made.id.clone(),
        capacity_range,
        volume_capability: Some(made.capability.clone()),
        ..proto::ControllerExpandVolumeRequest::default()
    }
}

/// A volume to be staged at its own staging path.
#[must_use]
pub fn stage(target: &Target, made: &Made) -> proto::NodeStageVolumeRequest {
    proto::NodeStageVolumeRequest {
        volume_id: made.id.clone(),
        staging_target_path: text(&made.staging_path(target)),
        volume_capability: Some(made.capability.clone()),
        volume_context: made.context.clone(),
        ..proto::NodeStageVolumeRequest::default()
    }
}

/// A volume to be unstaged from there.
#[must_use]
pub fn unstage(target: &Target, made: &Made) -> proto::NodeUnstageVolumeRequest {
    proto::NodeUnstageVolumeRequest {
        volume_id: made.id.clone(),
        staging_target_path: text(&made.staging_path(target)),
    }
}

/// A volume to be published to a pod of this name.
#[must_use]
pub fn publish(target: &Target, made: &Made, pod: &str) -> proto::NodePublishVolumeRequest {
    proto::NodePublishVolumeRequest {
        volume_id: made.id.clone(),
        staging_target_path: text(&made.staging_path(target)),
        target_path: text(&made.target_path(target, pod)),
        volume_capability: Some(made.capability.clone()),
        volume_context: made.context.clone(),
        ..proto::NodePublishVolumeRequest::default()
    }
}

/// A volume to be hidden from that pod.
#[must_use]
pub fn unpublish(target: &Target, made: &Made, pod: &str) -> proto::NodeUnpublishVolumeRequest {
    proto::NodeUnpublishVolumeRequest { volume_id: made.id.clone(), target_path: text(&made.target_path(target, pod)) }
}

/// The figures of a volume at a path.
#[must_use]
pub fn stats(target: &Target, made: &Made, path: &Path) -> proto::NodeGetVolumeStatsRequest {
    proto::NodeGetVolumeStatsRequest {
        volume_id: made.id.clone(),
        volume_path: text(path),
        staging_target_path: text(&made.staging_path(target)),
    }
}

/// A file system to grow at a path.
#[must_use]
pub fn node_expand(made: &Made, path: &Path, size_bytes: i64) -> proto::NodeExpandVolumeRequest {
    proto::NodeExpandVolumeRequest {
        volume_id: made.id.clone(),
        volume_path: text(path),
        capacity_range: range(size_bytes, 0),
        volume_capability: Some(made.capability.clone()),
        ..proto::NodeExpandVolumeRequest::default()
    }
}

/// Paths of the cases are text.
#[must_use]
pub fn text(path: &Path) -> String {
    path.display().to_string()
}

//! What is not advertised is not there, whatever a request holds.

use anyhow::Result;
use lockstep_proto::csi::v1 as proto;
use proto::group_controller_client::GroupControllerClient;
use proto::snapshot_metadata_client::SnapshotMetadataClient;
use tonic::Code::Unimplemented;

use crate::Target;
use crate::expect::refused;

/// Nor clones: a content source is refused by a case of its own.
pub async fn t07_t08_t12_t17_t18_t19_there_are_no_snapshots(target: &Target) -> Result<()> {
    let mut controller = target.controller();
    let whole = proto::CreateSnapshotRequest {
        source_volume_id: "any".to_owned(),
        name: "any".to_owned(),
        ..proto::CreateSnapshotRequest::default()
    };
    for request in [proto::CreateSnapshotRequest::default(), whole] {
        refused("create", Unimplemented, controller.create_snapshot(request).await)?;
    }
    refused("delete", Unimplemented, controller.delete_snapshot(proto::DeleteSnapshotRequest::default()).await)?;
    refused("list", Unimplemented, controller.list_snapshots(proto::ListSnapshotsRequest::default()).await)?;
    refused("get", Unimplemented, controller.get_snapshot(proto::GetSnapshotRequest::default()).await)?;
    Ok(())
}

/// Staging is the attach step.
pub async fn t13_t14_there_is_no_attach_step(target: &Target) -> Result<()> {
    let mut controller = target.controller();
    let answer = controller.controller_publish_volume(proto::ControllerPublishVolumeRequest::default()).await;
    refused("publish", Unimplemented, answer)?;
    let answer = controller.controller_unpublish_volume(proto::ControllerUnpublishVolumeRequest::default()).await;
    refused("unpublish", Unimplemented, answer)?;
    Ok(())
}

/// The whole service.
pub async fn t34_there_are_no_groups(target: &Target) -> Result<()> {
    let mut groups = GroupControllerClient::new(target.controller.clone());
    let request = proto::GroupControllerGetCapabilitiesRequest::default();
    refused("capabilities", Unimplemented, groups.group_controller_get_capabilities(request).await)?;
    let request = proto::CreateVolumeGroupSnapshotRequest::default();
    refused("create", Unimplemented, groups.create_volume_group_snapshot(request).await)?;
    let request = proto::DeleteVolumeGroupSnapshotRequest::default();
    refused("delete", Unimplemented, groups.delete_volume_group_snapshot(request).await)?;
    let request = proto::GetVolumeGroupSnapshotRequest::default();
    refused("get", Unimplemented, groups.get_volume_group_snapshot(request).await)?;
    Ok(())
}

/// The whole service.
pub async fn t35_there_is_no_snapshot_metadata(target: &Target) -> Result<()> {
    let mut metadata = SnapshotMetadataClient::new(target.controller.clone());
    let request = proto::GetMetadataAllocatedRequest::default();
    refused("allocated", Unimplemented, metadata.get_metadata_allocated(request).await)?;
    let request = proto::GetMetadataDeltaRequest::default();
    refused("delta", Unimplemented, metadata.get_metadata_delta(request).await)?;
    Ok(())
}

//! Requests without what they need, or with too much of it: wrong, before anything is looked up.

use anyhow::Result;
use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use tonic::Code::{InvalidArgument, NotFound};

use crate::Target;
use crate::expect::refused;
use crate::request::{self, ext4, mount};
use crate::steps::Made;

/// A volume that does not exist: whoever looks it up first answers NOT_FOUND where INVALID_ARGUMENT is right.
const NOBODYS: &str = "no-volume-has-this-id";

fn nobodys() -> Made {
    Made { id: NOBODYS.to_owned(), capacity_bytes: 0, context: [].into(), capability: ext4() }
}

/// Capabilities of which something is missing.
fn incomplete() -> [proto::VolumeCapability; 3] {
    [
        proto::VolumeCapability::default(),
        proto::VolumeCapability { access_mode: None, ..ext4() },
        proto::VolumeCapability { access_type: None, ..ext4() },
    ]
}

/// Every call of the Controller service, without each field that it needs.
pub async fn t01_controller_calls_without_required_fields_are_wrong(target: &Target) -> Result<()> {
    let mut controller = target.controller();
    let whole = || request::create(target, &target.unique("t01"), ext4());
    let mut creations = vec![
        proto::CreateVolumeRequest { name: String::new(), ..whole() },
        proto::CreateVolumeRequest { volume_capabilities: vec![], ..whole() },
        proto::CreateVolumeRequest { volume_capabilities: vec![mount(Mode::Unknown, "", &[])], ..whole() },
    ];
    for bad in incomplete() {
        creations.push(proto::CreateVolumeRequest { volume_capabilities: vec![ext4(), bad], ..whole() });
    }
    for bad in creations {
        refused("create", InvalidArgument, controller.create_volume(bad).await)?;
    }
    refused("delete", InvalidArgument, controller.delete_volume(request::delete("")).await)?;
    for capabilities in [vec![], vec![proto::VolumeCapability::default()]] {
        let question = proto::ValidateVolumeCapabilitiesRequest {
            volume_id: NOBODYS.to_owned(),
            volume_capabilities: capabilities,
            ..Default::default()
        };
        refused("validate", InvalidArgument, controller.validate_volume_capabilities(question).await)?;
    }
    let question = proto::ValidateVolumeCapabilitiesRequest { volume_capabilities: vec![ext4()], ..Default::default() };
    refused("validate", InvalidArgument, controller.validate_volume_capabilities(question).await)?;
    for range in [None, request::range(0, 0), request::range(-1, 0), request::range(2, 1)] {
        let answer = controller.controller_expand_volume(request::expand(&nobodys(), range)).await;
        refused("expand", InvalidArgument, answer)?;
    }
    let nameless = Made { id: String::new(), ..nobodys() };
    let answer = controller.controller_expand_volume(request::expand(&nameless, request::range(1, 0))).await;
    refused("expand", InvalidArgument, answer)?;
    let answer = controller.controller_modify_volume(proto::ControllerModifyVolumeRequest::default()).await;
    refused("modify", InvalidArgument, answer)?;
    let answer = controller.controller_get_volume(proto::ControllerGetVolumeRequest::default()).await;
    refused("get", InvalidArgument, answer)?;
    let answer = controller.controller_get_volume_health(proto::ControllerGetVolumeHealthRequest::default()).await;
    refused("health", InvalidArgument, answer)?;
    Ok(())
}

/// Every call of the Node service, without each field that it needs.
pub async fn t01_node_calls_without_required_fields_are_wrong(target: &Target) -> Result<()> {
    let mut node = target.node();
    let made = nobodys();
    let stage = || request::stage(target, &made);
    let mut stagings = vec![
        proto::NodeStageVolumeRequest { volume_id: String::new(), ..stage() },
        proto::NodeStageVolumeRequest { staging_target_path: String::new(), ..stage() },
        proto::NodeStageVolumeRequest { staging_target_path: "relative/path".to_owned(), ..stage() },
        proto::NodeStageVolumeRequest { volume_capability: None, ..stage() },
    ];
    let publish = || request::publish(target, &made, "pod");
    let mut publications = vec![
        proto::NodePublishVolumeRequest { volume_id: String::new(), ..publish() },
        proto::NodePublishVolumeRequest { target_path: String::new(), ..publish() },
        proto::NodePublishVolumeRequest { target_path: "/pods/../../etc".to_owned(), ..publish() },
        proto::NodePublishVolumeRequest { volume_capability: None, ..publish() },
    ];
    for bad in incomplete() {
        stagings.push(proto::NodeStageVolumeRequest { volume_capability: Some(bad.clone()), ..stage() });
        publications.push(proto::NodePublishVolumeRequest { volume_capability: Some(bad), ..publish() });
    }
    for bad in stagings {
        refused("stage", InvalidArgument, node.node_stage_volume(bad).await)?;
    }
    for bad in publications {
        refused("publish", InvalidArgument, node.node_publish_volume(bad).await)?;
    }
    for (id, path) in [("", "/path"), (NOBODYS, ""), (NOBODYS, "path")] {
        let (volume_id, path) = (id.to_owned(), path.to_owned());
        // Where nothing is made or removed, a relative path is a place where no volume is.
        let looking = if path == "path" { NotFound } else { InvalidArgument };
        let unstage =
            proto::NodeUnstageVolumeRequest { volume_id: volume_id.clone(), staging_target_path: path.clone() };
        refused("unstage", InvalidArgument, node.node_unstage_volume(unstage).await)?;
        let unpublish = proto::NodeUnpublishVolumeRequest { volume_id: volume_id.clone(), target_path: path.clone() };
        refused("unpublish", InvalidArgument, node.node_unpublish_volume(unpublish).await)?;
        let (volume_path, staging_target_path) = (path.clone(), String::new());
        let stats = proto::NodeGetVolumeStatsRequest { volume_id: volume_id.clone(), volume_path, staging_target_path };
        refused("stats", looking, node.node_get_volume_stats(stats).await)?;
        let expand = proto::NodeExpandVolumeRequest { volume_id, volume_path: path, ..Default::default() };
        refused("expand", looking, node.node_expand_volume(expand).await)?;
    }
    let answer = node.node_get_volume_health(proto::NodeGetVolumeHealthRequest::default()).await;
    refused("health", InvalidArgument, answer)?;
    Ok(())
}

/// Strings of more than 128 bytes and maps of more than 4 KiB are refused; the largest possible are not.
pub async fn t33_strings_and_maps_have_limits(target: &Target) -> Result<()> {
    let mut controller = target.controller();
    let mut node = target.node();
    let long = "x".repeat(129);
    let large = || [("key".to_owned(), "v".repeat(4094))].into();
    let whole = || request::create(target, &target.unique("t33"), ext4());
    let creations = [
        proto::CreateVolumeRequest { name: long.clone(), ..whole() },
        proto::CreateVolumeRequest { parameters: large(), ..whole() },
        proto::CreateVolumeRequest { mutable_parameters: large(), ..whole() },
        proto::CreateVolumeRequest { volume_capabilities: vec![mount(Mode::SingleNodeWriter, &long, &[])], ..whole() },
    ];
    for bad in creations {
        refused("create", InvalidArgument, controller.create_volume(bad).await)?;
    }
    let answer = controller.controller_get_volume(proto::ControllerGetVolumeRequest { volume_id: long.clone() }).await;
    refused("get", InvalidArgument, answer)?;
    let answer =
        controller.controller_get_volume(proto::ControllerGetVolumeRequest { volume_id: "x".repeat(128) }).await;
    refused("get", NotFound, answer)?;
    let made = nobodys();
    let bad = proto::NodeStageVolumeRequest { volume_context: large(), ..request::stage(target, &made) };
    refused("stage", InvalidArgument, node.node_stage_volume(bad).await)?;
    let bad = proto::NodePublishVolumeRequest { volume_context: large(), ..request::publish(target, &made, "pod") };
    refused("publish", InvalidArgument, node.node_publish_volume(bad).await)?;
    // Paths have the limit of the operating system.
    let deep = format!("/{}", "directory/".repeat(100));
    let unpublish = proto::NodeUnpublishVolumeRequest { volume_id: made.id, target_path: deep };
    crate::expect::done("unpublish", node.node_unpublish_volume(unpublish).await)?;
    Ok(())
}

//! Volumes at their staging paths.

use anyhow::{Result, ensure};
use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use tonic::Code;

use crate::Target;
use crate::expect::{done, refused};
use crate::request::{self, block, ext4, mount};
use crate::steps::Made;

/// Twice, and after unstaging once more.
pub async fn t24_staging_again_is_the_same(target: &Target) -> Result<()> {
    for capability in [ext4(), mount(Mode::SingleNodeWriter, "xfs", &["noatime"]), block(Mode::SingleNodeWriter)] {
        let made = target.make("t24", &capability).await?;
        for _ in 0..2 {
            target.stage(&made).await?;
            target.stage(&made).await?;
            target.unstage(&made).await?;
        }
        target.delete(&made).await?;
    }
    Ok(())
}

/// What is staged in one way is not staged in another beside.
pub async fn t24_another_capability_at_the_same_path_is_refused(target: &Target) -> Result<()> {
    let made = target.make("t24", &ext4()).await?;
    target.stage(&made).await?;
    let others = [
        mount(Mode::SingleNodeMultiWriter, "xfs", &[]),
        mount(Mode::SingleNodeMultiWriter, "ext4", &["noatime"]),
        block(Mode::SingleNodeMultiWriter),
    ];
    for other in others {
        let stage = proto::NodeStageVolumeRequest { volume_capability: Some(other), ..request::stage(target, &made) };
        refused("stage", Code::AlreadyExists, target.node().node_stage_volume(stage).await)?;
    }
    target.stage(&made).await?;
    target.finish(&made).await
}

/// Unknown volumes, and what no volume can be used as.
pub async fn t24_unknown_volumes_and_capabilities_are_refused(target: &Target) -> Result<()> {
    for id in ["no-volume-has-this-id", "../../etc"] {
        let unknown = Made { id: id.to_owned(), capacity_bytes: 0, context: [].into(), capability: ext4() };
        let at = target.path("unknown");
        std::fs::create_dir_all(&at)?;
        let stage = proto::NodeStageVolumeRequest {
            staging_target_path: request::text(&at),
            ..request::stage(target, &unknown)
        };
        refused(id, Code::NotFound, target.node().node_stage_volume(stage).await)?;
    }
    let made = target.make("t24", &ext4()).await?;
    target.prepare_staging(&made)?;
    let unsupported = mount(Mode::SingleNodeMultiWriter, "ntfs", &[]);
    let stage = proto::NodeStageVolumeRequest { volume_capability: Some(unsupported), ..request::stage(target, &made) };
    refused("ntfs", Code::FailedPrecondition, target.node().node_stage_volume(stage).await)?;
    // A volume that was made for one node is not used by several.
    let shared = block(Mode::MultiNodeMultiWriter);
    let stage = proto::NodeStageVolumeRequest { volume_capability: Some(shared), ..request::stage(target, &made) };
    refused("shared", Code::FailedPrecondition, target.node().node_stage_volume(stage).await)?;
    target.delete(&made).await
}

/// Whatever is not there is gone.
pub async fn t29_what_is_not_there_is_unstaged_and_unpublished(target: &Target) -> Result<()> {
    let made = target.make("t29", &ext4()).await?;
    target.unpublish(&made, "pod").await?;
    target.unstage(&made).await?;
    target.stage(&made).await?;
    target.publish(&made, "pod").await?;
    for _ in 0..2 {
        target.unpublish(&made, "pod").await?;
        ensure!(!made.target_path(target, "pod").exists(), "the target path is removed");
    }
    for _ in 0..2 {
        target.unstage(&made).await?;
    }
    target.delete(&made).await?;
    target.unpublish(&made, "pod").await?;
    target.unstage(&made).await?;
    let malformed = Made { id: "A B".to_owned(), ..made };
    target.unpublish(&malformed, "pod").await?;
    target.unstage(&malformed).await
}

/// Bytes and inodes of a file system, the size of a block device; nothing where the volume is not.
pub async fn t30_stats_are_of_what_is_there(target: &Target) -> Result<()> {
    use proto::volume_usage::Unit;
    for (capability, units) in
        [(ext4(), vec![Unit::Bytes, Unit::Inodes]), (block(Mode::SingleNodeWriter), vec![Unit::Bytes])]
    {
        let made = target.make("t30", &capability).await?;
        target.stage(&made).await?;
        target.publish(&made, "pod").await?;
        let published = made.target_path(target, "pod");
        let found =
            done("stats", target.node().node_get_volume_stats(request::stats(target, &made, &published)).await)?;
        let found_units: Vec<Unit> = found.usage.iter().map(proto::VolumeUsage::unit).collect();
        ensure!(found_units == units, "{found:?}");
        for usage in &found.usage {
            ensure!(usage.total > 0 && usage.used >= 0 && usage.available >= 0, "{usage:?}");
            ensure!(units.len() > 1 || (usage.used, usage.available) == (0, 0), "of a device only the size is known");
            ensure!(units.len() == 1 || usage.used + usage.available <= usage.total, "{usage:?}");
        }
        if units.len() == 1 {
            ensure!(found.usage.iter().all(|it| it.total == made.capacity_bytes), "{found:?}");
        }
        let elsewhere = target.path("nothing-is-here");
        let answer = target.node().node_get_volume_stats(request::stats(target, &made, &elsewhere)).await;
        refused("elsewhere", Code::NotFound, answer)?;
        let unknown = Made { id: target.unique("t30"), ..made.clone() };
        let answer = target.node().node_get_volume_stats(request::stats(target, &unknown, &published)).await;
        refused("an unknown volume", Code::NotFound, answer)?;
        target.unpublish(&made, "pod").await?;
        target.finish(&made).await?;
    }
    Ok(())
}

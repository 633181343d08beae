//! Volumes at their target paths.

use anyhow::{Context as _, Result, ensure};
use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use tonic::Code;

use crate::Target;
use crate::expect::{done, refused};
use crate::request::{self, block, ext4, mount};

/// The plugin makes what it binds to, and removes it.
pub async fn t25_blocks_are_files_and_file_systems_directories(target: &Target) -> Result<()> {
    for (capability, is_directory) in [(ext4(), true), (block(Mode::SingleNodeWriter), false)] {
        let made = target.make("t25", &capability).await?;
        target.stage(&made).await?;
        target.publish(&made, "pod").await?;
        let path = made.target_path(target, "pod");
        let there = std::fs::metadata(&path).context("the target path is made")?;
        ensure!(there.is_dir() == is_directory, "{there:?}");
        target.unpublish(&made, "pod").await?;
        ensure!(!path.exists(), "and removed");
        ensure!(made.staging_path(target).is_dir(), "the staging path is kubelet's, and stays");
        target.finish(&made).await?;
    }
    Ok(())
}

/// Neither without a staging path nor at one where nothing is staged.
pub async fn t26_a_volume_is_staged_before_it_is_published(target: &Target) -> Result<()> {
    let made = target.make("t26", &ext4()).await?;
    target.prepare_staging(&made)?;
    target.prepare_target(&made, "pod")?;
    let nowhere = proto::NodePublishVolumeRequest {
        staging_target_path: String::new(),
        ..request::publish(target, &made, "pod")
    };
    let answer = target.node().node_publish_volume(nowhere).await;
    refused("without a staging path", Code::FailedPrecondition, answer)?;
    let answer = target.node().node_publish_volume(request::publish(target, &made, "pod")).await;
    refused("before it is staged", Code::FailedPrecondition, answer)?;
    ensure!(!made.target_path(target, "pod").exists(), "nothing is left of what was refused");
    target.stage(&made).await?;
    target.publish(&made, "pod").await?;
    target.unpublish(&made, "pod").await?;
    target.finish(&made).await
}

/// Again the same is the same; in another way it is refused.
pub async fn t27_the_same_target_is_the_same_publication(target: &Target) -> Result<()> {
    let made = target.make("t27", &ext4()).await?;
    target.stage(&made).await?;
    target.publish(&made, "pod").await?;
    target.publish(&made, "pod").await?;
    let whole = || request::publish(target, &made, "pod");
    let others = [
        proto::NodePublishVolumeRequest { readonly: true, ..whole() },
        proto::NodePublishVolumeRequest {
            volume_capability: Some(mount(Mode::SingleNodeSingleWriter, "ext4", &[])),
            ..whole()
        },
    ];
    for other in others {
        refused("publish", Code::AlreadyExists, target.node().node_publish_volume(other).await)?;
    }
    target.unpublish(&made, "pod").await?;
    let read_only = proto::NodePublishVolumeRequest { readonly: true, ..whole() };
    done("publish", target.node().node_publish_volume(read_only).await)?;
    target.unpublish(&made, "pod").await?;
    target.finish(&made).await
}

/// One pod after the other, or several at once, as the mode says.
pub async fn t27_one_path_or_several(target: &Target) -> Result<()> {
    for (mode, several) in
        [(Mode::SingleNodeWriter, false), (Mode::SingleNodeSingleWriter, false), (Mode::SingleNodeMultiWriter, true)]
    {
        for capability in [mount(mode, "ext4", &[]), block(mode)] {
            let made = target.make("t27", &capability).await?;
            target.stage(&made).await?;
            target.publish(&made, "first").await?;
            target.prepare_target(&made, "second")?;
            let answer = target.node().node_publish_volume(request::publish(target, &made, "second")).await;
            if several {
                done(mode.as_str_name(), answer)?;
            } else {
                refused(mode.as_str_name(), Code::FailedPrecondition, answer)?;
                target.unpublish(&made, "first").await?;
                target.publish(&made, "second").await.context("one after the other")?;
            }
            target.unpublish(&made, "second").await?;
            target.unpublish(&made, "first").await?;
            target.finish(&made).await?;
        }
    }
    Ok(())
}

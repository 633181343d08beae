//! What is running while another call comes, and when its caller leaves.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lockstep_csi::volume::VolumeId;
use lockstep_csi_conformance::expect::{done, refused};
use lockstep_csi_conformance::request::{self, ext4, range};
use tonic::{Code, Request};

use crate::bed::Bed;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t04_a_creation_that_runs_is_aborted_and_goes_on_without_its_caller() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    let wanted = request::create(&target, "claim", ext4());
    bed.cluster.creation.close();
    let first = tokio::spawn({
        let (mut controller, wanted) = (target.controller(), wanted.clone());
        async move { controller.create_volume(wanted).await }
    });
    bed.cluster.creation.wait_for(1).await?;
    let again = target.controller().create_volume(wanted.clone()).await;
    refused("the same again", Code::Aborted, again)?;
    let delete = target.controller().delete_volume(request::delete("claim")).await;
    refused("delete what is being made", Code::Aborted, delete)?;
    first.abort();
    ensure!(first.await.is_err_and(|ended| ended.is_cancelled()), "the caller has left");
    bed.cluster.creation.open();
    let id = VolumeId::parse("claim").context("an id")?;
    while !bed.cluster.volumes().contains_key(&id) {
        tokio::task::yield_now().await;
    }
    ensure!(bed.cluster.creation.arrived() == 1, "nobody else made it");
    let made = target.make_by(wanted).await?;
    ensure!(made.id == "claim" && target.ids().await? == ["claim"], "the replay gets it");
    bed.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t04_a_replay_gets_the_volume_of_a_caller_whose_time_was_up() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    let wanted = request::create(&target, "claim", ext4());
    bed.cluster.creation.close();
    let mut hasty = Request::new(wanted.clone());
    hasty.set_timeout(Duration::from_millis(100));
    ensure!(target.controller().create_volume(hasty).await.is_err(), "it is held up");
    let other = lockstep_proto::csi::v1::CreateVolumeRequest { capacity_range: range(1 << 31, 0), ..wanted.clone() };
    refused("another size", Code::Aborted, target.controller().create_volume(other).await)?;
    // The next caller is refused until the server has seen that the first one left; then it waits in its place, or finds the volume.
    let replay = target.make_by(wanted);
    let opened = async {
        bed.cluster.creation.wait_for(1).await?;
        bed.cluster.creation.open();
        Ok(())
    };
    let (made, opened) = tokio::join!(replay, opened);
    let opened: Result<()> = opened;
    opened?;
    ensure!(made?.id == "claim" && target.ids().await? == ["claim"], "one volume");
    bed.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t36_one_volume_has_one_operation_and_others_go_on() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    let (held, free) = (target.make("held", &ext4()).await?, target.make("free", &ext4()).await?);
    for made in [&held, &free] {
        target.prepare_staging(made)?;
        target.prepare_target(made, "pod")?;
    }
    bed.cluster.staging.close();
    let staging = tokio::spawn({
        let (mut node, stage) = (target.node(), request::stage(&target, &held));
        async move { node.node_stage_volume(stage).await }
    });
    bed.cluster.staging.wait_for(1).await?;
    let mut node = target.node();
    let answer = node.node_stage_volume(request::stage(&target, &held)).await;
    refused("stage", Code::Aborted, answer)?;
    refused("unstage", Code::Aborted, node.node_unstage_volume(request::unstage(&target, &held)).await)?;
    refused("publish", Code::Aborted, node.node_publish_volume(request::publish(&target, &held, "pod")).await)?;
    refused("unpublish", Code::Aborted, node.node_unpublish_volume(request::unpublish(&target, &held, "pod")).await)?;
    let at = held.staging_path(&target);
    let expand = request::node_expand(&held, &at, request::SIZE_BYTES);
    refused("expand", Code::Aborted, node.node_expand_volume(expand).await)?;
    // Whoever only looks is not held up.
    refused("stats", Code::NotFound, node.node_get_volume_stats(request::stats(&target, &held, &at)).await)?;
    // Nor is another volume: its staging comes as far as the first one's.
    let other = tokio::spawn({
        let (mut node, stage) = (target.node(), request::stage(&target, &free));
        async move { node.node_stage_volume(stage).await }
    });
    bed.cluster.staging.wait_for(2).await?;
    bed.cluster.staging.open();
    done("stage", staging.await?)?;
    done("stage", other.await?)?;
    target.publish(&held, "pod").await?;
    bed.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t30_a_device_that_hangs_does_not_hold_up_its_caller() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    let made = target.make("t30", &ext4()).await?;
    target.stage(&made).await?;
    let stats = request::stats(&target, &made, &made.staging_path(&target));
    bed.cluster.usage.close();
    let mut node = target.node();
    let first = tokio::spawn({
        let (mut node, stats) = (target.node(), stats.clone());
        async move { node.node_get_volume_stats(stats).await }
    });
    bed.cluster.usage.wait_for(1).await?;
    refused("a second", Code::Aborted, node.node_get_volume_stats(stats.clone()).await)?;
    refused("the first", Code::DeadlineExceeded, first.await?)?;
    // The volume itself can still be unstaged, and its figures are not asked for again before the first question has ended.
    target.unstage(&made).await?;
    target.stage(&made).await?;
    let next = node.node_get_volume_stats(stats);
    let opened = async {
        ensure!(bed.cluster.usage.arrived() == 1, "only one question is with the device");
        bed.cluster.usage.open();
        Ok(())
    };
    let (next, opened) = tokio::join!(next, opened);
    opened?;
    done("the next", next)?;
    bed.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_though_a_call_hangs_and_what_the_call_began_goes_on() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    bed.cluster.creation.close();
    let mut controller = target.controller();
    let hanging = tokio::spawn({
        let wanted = request::create(&target, "claim", ext4());
        async move { controller.create_volume(wanted).await }
    });
    bed.cluster.creation.wait_for(1).await?;
    let (socket, cluster) = (bed.socket.clone(), Arc::clone(&bed.cluster));
    ensure!(socket.exists(), "it is served");
    bed.stop().await?;
    ensure!(!socket.exists(), "the socket is gone");
    cluster.creation.open();
    let id = VolumeId::parse("claim").context("an id")?;
    while !cluster.volumes().contains_key(&id) {
        tokio::task::yield_now().await;
    }
    hanging.abort();
    Ok(())
}

//! Volumes that are made, and deleted again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use proto::volume_content_source::{SnapshotSource, Type, VolumeSource};
use tokio::task::JoinSet;
use tonic::{Code, Request};

use crate::Target;
use crate::expect::{done, refused};
use crate::request::{self, SIZE_BYTES, block, ext4, mount, range};

/// The same request twice is one volume.
pub async fn t02_the_same_volume_is_made_once(target: &Target) -> Result<()> {
    let request = request::create(target, &target.unique("t02"), ext4());
    let first = target.make_by(request.clone()).await?;
    let second = target.make_by(request.clone()).await?;
    ensure!(first.id == second.id, "one name is one volume: {} and {}", first.id, second.id);
    ensure!(first.capacity_bytes == second.capacity_bytes && first.context == second.context, "and the same one");
    // Another range that the volume's size is within asks for the same volume.
    let wider = proto::CreateVolumeRequest { capacity_range: range(1, first.capacity_bytes), ..request };
    ensure!(target.make_by(wider).await?.id == first.id, "its size is within what is asked");
    let listed = target.ids().await?.into_iter().filter(|id| *id == first.id).count();
    ensure!(listed == 1, "it is listed {listed} times");
    target.delete(&first).await
}

/// Ten callers with the same request at once: each is refused while another is served, and all get the same volume.
pub async fn t02_ten_callers_at_once_make_one_volume(target: &Target) -> Result<()> {
    let before = target.ids().await?.len();
    let request = request::create(target, &target.unique("t02"), ext4());
    let mut callers = JoinSet::new();
    for _ in 0..10 {
        let (target, request) = (target.clone(), request.clone());
        callers.spawn(async move { target.make_by(request).await });
    }
    let made = callers.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    let first = made.first().context("ten callers")?;
    ensure!(made.iter().all(|made| made.id == first.id), "all have the same volume");
    let after = target.ids().await?.len();
    ensure!(after == before + 1, "there were {before} volumes, and now there are {after}");
    target.delete(first).await
}

/// What a volume of the name cannot be at the same time.
pub async fn t03_another_volume_of_the_same_name_is_refused(target: &Target) -> Result<()> {
    let whole = request::create(target, &target.unique("t03"), block(Mode::SingleNodeWriter));
    let made = target.make_by(whole.clone()).await?;
    let size = made.capacity_bytes;
    let others = [
        ("larger", proto::CreateVolumeRequest { capacity_range: range(size + 1, 0), ..whole.clone() }),
        ("smaller", proto::CreateVolumeRequest { capacity_range: range(0, size - 4096), ..whole.clone() }),
        (
            "with other parameters",
            proto::CreateVolumeRequest { parameters: target.other_parameters.clone(), ..whole.clone() },
        ),
        (
            "shared by nodes",
            proto::CreateVolumeRequest { volume_capabilities: vec![block(Mode::MultiNodeMultiWriter)], ..whole },
        ),
    ];
    for (what, other) in others {
        refused(what, Code::AlreadyExists, target.controller().create_volume(other).await)?;
    }
    target.delete(&made).await
}

/// A caller that waits for a moment only loses nothing: its next call gets the volume.
pub async fn t04_a_replay_gets_the_volume_whose_caller_left(target: &Target) -> Result<()> {
    let before = target.ids().await?.len();
    let request = request::create(target, &target.unique("t04"), ext4());
    let mut hasty = Request::new(request.clone());
    hasty.set_timeout(Duration::from_millis(1));
    // It may have been quick enough: then the next call asks for what exists.
    let _ = target.controller().create_volume(hasty).await;
    let made = target.make_by(request.clone()).await?;
    ensure!(target.make_by(request).await?.id == made.id, "one name is one volume");
    let after = target.ids().await?.len();
    ensure!(after == before + 1, "there were {before} volumes, and now there are {after}");
    target.delete(&made).await
}

/// Clones and snapshots are of another version, and the message says so.
pub async fn t06_content_sources_are_refused(target: &Target) -> Result<()> {
    let sources = [
        Type::Snapshot(SnapshotSource { snapshot_id: "any".to_owned() }),
        Type::Volume(VolumeSource { volume_id: "any".to_owned() }),
    ];
    for source in sources {
        let request = proto::CreateVolumeRequest {
            volume_content_source: Some(proto::VolumeContentSource { r#type: Some(source) }),
            ..request::create(target, &target.unique("t06"), ext4())
        };
        let answer = target.controller().create_volume(request).await;
        let reason = refused("a source", Code::InvalidArgument, answer)?;
        ensure!(reason.contains("not offered"), "it says why: {reason}");
    }
    Ok(())
}

/// Without room the caller is to try elsewhere. Any other code would keep the claim where it is, or end it.
pub async fn t09_no_room_is_resource_exhausted(target: &Target) -> Result<()> {
    let request = proto::CreateVolumeRequest {
        capacity_range: range(target.no_room_bytes, 0),
        ..request::create(target, &target.unique("t09"), ext4())
    };
    for attempt in ["the first time", "and again"] {
        let answer = target.controller().create_volume(request.clone()).await;
        refused(attempt, Code::ResourceExhausted, answer)?;
    }
    // Nothing was reserved under the name.
    let smaller = proto::CreateVolumeRequest { capacity_range: range(SIZE_BYTES, 0), ..request };
    let made = target.make_by(smaller).await?;
    target.delete(&made).await
}

/// Names are any text of up to 128 bytes without control characters, and each is a volume of its own.
pub async fn t10_names_are_any_text(target: &Target) -> Result<()> {
    let unique = target.unique("t10");
    let filled = |with: &str| {
        let mut name = unique.clone();
        while name.len() + with.len() <= 128 {
            name.push_str(with);
        }
        name
    };
    let names = [
        filled("x"),
        filled("X"),
        filled("数"),
        format!("../../{unique}"),
        format!("{unique} with spaces; $(and) `more`"),
        format!("-{unique}-"),
        unique.to_uppercase(),
    ];
    let mut made = Vec::new();
    for name in &names {
        made.push(target.make_by(request::create(target, name, ext4())).await.with_context(|| name.clone())?);
    }
    let ids: std::collections::BTreeSet<_> = made.iter().map(|made| &made.id).collect();
    ensure!(ids.len() == names.len(), "different names are different volumes: {ids:?}");
    for bad in ["a\nb", "a\0b", "a\u{7f}b", "a\u{9b}b"] {
        let answer = target.controller().create_volume(request::create(target, bad, ext4())).await;
        refused("a control character", Code::InvalidArgument, answer)?;
    }
    for made in &made {
        target.delete(made).await?;
    }
    Ok(())
}

/// What does not exist, or could not, is deleted.
pub async fn t11_unknown_and_malformed_volumes_are_deleted(target: &Target) -> Result<()> {
    let long = "x".repeat(300);
    for id in ["no-volume-has-this-id", "../../etc", "A B", "数据", &long] {
        done(id, target.controller().delete_volume(request::delete(id)).await)?;
    }
    let made = target.make("t11", &ext4()).await?;
    target.delete(&made).await?;
    ensure!(!target.ids().await?.contains(&made.id), "a deleted volume is not listed");
    target.delete(&made).await
}

/// A staged volume stays, and stays as it is.
pub async fn t11_a_volume_in_use_is_not_deleted(target: &Target) -> Result<()> {
    let made = target.make("t11", &ext4()).await?;
    target.stage(&made).await?;
    let answer = target.controller().delete_volume(request::delete(&made.id)).await;
    refused("delete", Code::FailedPrecondition, answer)?;
    target.publish(&made, "pod").await.context("nothing was altered")?;
    let answer = target.controller().delete_volume(request::delete(&made.id)).await;
    refused("delete", Code::FailedPrecondition, answer)?;
    target.unpublish(&made, "pod").await?;
    target.finish(&made).await
}

/// A parameter that nobody knows, or a value that is none, is named in the refusal; mutable ones are no exception.
pub async fn t23_unknown_parameters_are_refused(target: &Target) -> Result<()> {
    let before = target.ids().await?.len();
    let whole = || request::create(target, &target.unique("t23"), ext4());
    let spoiled = |mut parameters: std::collections::BTreeMap<String, String>, key: &str| {
        parameters.insert(key.to_owned(), "any".to_owned());
        parameters
    };
    let mutable = target.mutable_parameter.0.as_str();
    let requests = [
        ("nobodysKey", proto::CreateVolumeRequest { parameters: spoiled(whole().parameters, "nobodysKey"), ..whole() }),
        ("nobodysKey", proto::CreateVolumeRequest { mutable_parameters: spoiled([].into(), "nobodysKey"), ..whole() }),
        (mutable, proto::CreateVolumeRequest { mutable_parameters: spoiled([].into(), mutable), ..whole() }),
    ];
    for (key, bad) in requests {
        let answer = target.controller().create_volume(bad).await;
        let reason = refused(key, Code::InvalidArgument, answer)?;
        ensure!(reason.contains(key), "the refusal names {key}: {reason}");
    }
    ensure!(target.ids().await?.len() == before, "nothing was made");
    let (key, value) = target.mutable_parameter.clone();
    let made =
        target.make_by(proto::CreateVolumeRequest { mutable_parameters: [(key, value)].into(), ..whole() }).await?;
    target.delete(&made).await
}

/// Nodes that mount one file system at once destroy it: whoever asks for that is told so.
pub async fn multi_node_file_systems_are_refused_wherever_they_stand(target: &Target) -> Result<()> {
    let multi = [Mode::MultiNodeReaderOnly, Mode::MultiNodeSingleWriter, Mode::MultiNodeMultiWriter];
    let blocks = target.make("shared", &block(Mode::MultiNodeMultiWriter)).await?;
    for mode in multi {
        let bad = mount(mode, "ext4", &[]);
        let wrong = [vec![bad.clone()], vec![ext4(), bad.clone()], vec![ext4(), block(mode)]];
        for volume_capabilities in wrong {
            let name = target.unique("shared");
            let request = proto::CreateVolumeRequest { volume_capabilities, ..request::create(target, &name, ext4()) };
            let answer = target.controller().create_volume(request).await;
            let reason = refused("create", Code::InvalidArgument, answer)?;
            ensure!(reason.contains("block"), "it says what would be right: {reason}");
        }
        let query = proto::GetCapacityRequest { volume_capabilities: vec![bad.clone()], ..Default::default() };
        refused("capacity", Code::InvalidArgument, target.controller().get_capacity(query).await)?;
        let stage =
            proto::NodeStageVolumeRequest { volume_capability: Some(bad.clone()), ..request::stage(target, &blocks) };
        refused("stage", Code::InvalidArgument, target.node().node_stage_volume(stage).await)?;
        let publish = proto::NodePublishVolumeRequest {
            volume_capability: Some(bad),
            ..request::publish(target, &blocks, "pod")
        };
        refused("publish", Code::InvalidArgument, target.node().node_publish_volume(publish).await)?;
        let made = target.make("shared", &block(mode)).await.context("block devices are shared")?;
        target.delete(&made).await?;
    }
    target.delete(&blocks).await
}

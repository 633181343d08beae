//! What the ports are handed, and what becomes of their answers.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lockstep_csi::capability::{AccessMode, Filesystem};
use lockstep_csi::controller_port::Claim;
use lockstep_csi::node_port::Pod;
use lockstep_csi::topology::{Accessibility, Topology};
use lockstep_csi::volume::VolumeId;
use lockstep_csi_conformance::expect::{done, refused};
use lockstep_csi_conformance::request::{self, block, ext4, mount};
use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use tonic::{Code, Request};

use crate::bed::Bed;
use crate::cluster::lock;

fn map(entries: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_creation_is_handed_over_parsed() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    let here = proto::Topology { segments: map(&[("topology.csi.lockstep.storage/node", "a")]) };
    let mut wanted = request::create(&target, "pvc-1", mount(Mode::SingleNodeMultiWriter, "xfs", &["noatime"]));
    wanted.parameters.extend(map(&[
        ("csi.storage.k8s.io/pvc/name", "data"),
        ("csi.storage.k8s.io/pvc/namespace", "shop"),
        ("csi.storage.k8s.io/pv/name", "pvc-1"),
    ]));
    wanted.accessibility_requirements =
        Some(proto::TopologyRequirement { requisite: vec![], preferred: vec![here.clone()] });
    let mut call = Request::new(wanted);
    call.set_timeout(Duration::from_secs(60));
    done("create", target.controller().create_volume(call).await)?;
    let (asked, within) = bed.cluster.asked().create.clone().context("it was asked")?;
    ensure!(asked.claim == Some(Claim { namespace: "shop".to_owned(), name: "data".to_owned() }), "{asked:?}");
    ensure!(asked.parameters == target.parameters, "nothing else is a parameter: {asked:?}");
    ensure!(asked.name.as_str() == "pvc-1" && asked.id.as_str() == "pvc-1", "{asked:?}");
    let preferred = vec![Topology { segments: here.segments }];
    ensure!(asked.accessibility == Some(Accessibility { requisite: vec![], preferred }), "{asked:?}");
    let capability = asked.capabilities.first().context("a capability")?;
    let mounted = capability.mount().context("a file system")?;
    ensure!(mounted.filesystem == Filesystem::Xfs && mounted.flags.as_slice() == ["noatime"], "unchanged");
    ensure!(capability.mode() == AccessMode::SingleNodeMultiWriter, "{capability:?}");
    ensure!(within <= Duration::from_secs(59) && within > Duration::from_secs(30), "{within:?} of 60 s");
    bed.stop().await
}

#[tokio::test]
async fn an_impossible_topology_is_refused() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    let nowhere = proto::Topology::default();
    let wanted = proto::CreateVolumeRequest {
        accessibility_requirements: Some(proto::TopologyRequirement { requisite: vec![nowhere], preferred: vec![] }),
        ..request::create(&target, "pvc-1", ext4())
    };
    refused("create", Code::InvalidArgument, target.controller().create_volume(wanted).await)?;
    bed.stop().await
}

#[tokio::test]
async fn what_kubelet_says_of_a_pod_is_no_part_of_the_volume() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    let made = target.make("pod", &mount(Mode::SingleNodeMultiWriter, "", &["context=\"a:b:c:d\""])).await?;
    target.stage(&made).await?;
    target.prepare_target(&made, "pod")?;
    let of_pod = map(&[
        ("csi.storage.k8s.io/pod.name", "web-0"),
        ("csi.storage.k8s.io/pod.namespace", "shop"),
        ("csi.storage.k8s.io/pod.uid", "1-2"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ("csi.storage.k8s.io/serviceAccount.tokens", "{}"),
        ("csi.storage.k8s.io/ephemeral", "false"),
    ]);
    let mut publish = request::publish(&target, &made, "pod");
    publish.volume_context.extend(of_pod);
    done("publish", target.node().node_publish_volume(publish.clone()).await)?;
    let asked = bed.cluster.asked().publish.clone().context("it was asked")?;
    let pod = Pod { namespace: "shop".to_owned(), name: "web-0".to_owned(), uid: "1-2".to_owned() };
    ensure!(asked.pod == Some(pod) && asked.context == made.context, "{asked:?}");
    let staged = bed.cluster.asked().stage.clone().context("it was asked")?;
    let flags = staged.capability.mount().map(|mount| mount.flags.as_slice().to_vec());
    ensure!(flags == Some(vec!["context=\"a:b:c:d\"".to_owned()]), "labels pass unchanged");
    publish.volume_context.extend(map(&[("csi.storage.k8s.io/ephemeral", "true")]));
    refused("inline", Code::InvalidArgument, target.node().node_publish_volume(publish).await)?;
    bed.stop().await
}

#[tokio::test]
async fn t28_readers_get_it_read_only_whatever_else_the_request_says() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    for (mode, readonly, expected) in [
        (Mode::SingleNodeReaderOnly, false, true),
        (Mode::MultiNodeReaderOnly, false, true),
        (Mode::SingleNodeMultiWriter, true, true),
        (Mode::SingleNodeMultiWriter, false, false),
    ] {
        let made = target.make("t28", &block(mode)).await?;
        target.stage(&made).await?;
        target.prepare_target(&made, "pod")?;
        let publish = proto::NodePublishVolumeRequest { readonly, ..request::publish(&target, &made, "pod") };
        done("publish", target.node().node_publish_volume(publish).await)?;
        let asked = bed.cluster.asked().publish.clone().context("it was asked")?;
        ensure!(asked.readonly == expected, "{}: {asked:?}", mode.as_str_name());
    }
    bed.stop().await
}

#[tokio::test]
async fn t13_who_holds_a_volume_is_named() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    let made = target.make("t13", &ext4()).await?;
    target.prepare_staging(&made)?;
    let id = VolumeId::parse(&made.id).context("an id")?;
    bed.cluster.volumes().get_mut(&id).context("it exists")?.held_by = Some("node-b".to_owned());
    let answer = target.node().node_stage_volume(request::stage(&target, &made)).await;
    let reason = refused("stage", Code::FailedPrecondition, answer)?;
    ensure!(reason.contains("node-b"), "{reason}");
    let query = proto::ControllerListVolumeHealthRequest::default();
    let listed = done("health", target.controller().controller_list_volume_health(query).await)?;
    let entry = listed.entries.first().context("it is listed")?;
    let condition = entry.health_statuses.first().context("with what is wrong")?;
    ensure!(
        condition.status() == proto::VolumeHealthErrorType::Degraded && condition.reason == "ReplicaLost",
        "{entry:?}"
    );
    bed.stop().await
}

#[tokio::test]
async fn t33_what_the_ports_say_is_held_to_the_limits_too() -> Result<()> {
    let bed = Bed::start()?;
    let target = bed.target();
    *lock(&bed.cluster.context) = map(&[("key", &"v".repeat(4094))]);
    let answer = target.controller().create_volume(request::create(&target, "pvc-1", ext4())).await;
    refused("a large context", Code::Internal, answer)?;
    for id in [String::new(), "x".repeat(257)] {
        *lock(&bed.cluster.node_id) = id;
        let answer = target.node().node_get_info(proto::NodeGetInfoRequest::default()).await;
        refused("an impossible id", Code::Internal, answer)?;
    }
    bed.stop().await
}

#[tokio::test]
async fn the_health_of_a_nodes_storage_is_passed_on() -> Result<()> {
    let bed = Bed::start()?;
    let query = proto::NodeGetStorageHealthRequest::default();
    let found = done("storage", bed.target().node().node_get_storage_health(query).await)?;
    let condition = found.backend_health.first().context("what is wrong")?;
    let unreachable = proto::StorageHealthErrorType::StorageUnreachable;
    ensure!(condition.status() == unreachable && condition.reason == "EngineAway", "{condition:?}");
    bed.stop().await
}

//! Whether the plugin is ready, which services it has, and how kubelet learns of it.

use std::sync::Arc;

use anyhow::{Result, ensure};
use lockstep_csi::readiness::Readiness;
use lockstep_csi::registration::{Registered, serve_registration};
use lockstep_csi::{DRIVER, Directory, Plugin, Socket};
use lockstep_csi_conformance::expect::{done, refused};
use lockstep_csi_conformance::request::{self, ext4};
use lockstep_proto::csi::v1 as proto;
use lockstep_proto::pluginregistration::v1 as kubelet;
use tokio::sync::{oneshot, watch};
use tonic::Code;

use crate::bed::{Bed, channel};
use crate::cluster::lock;
use crate::node_port::MemoryNode;

#[tokio::test]
async fn t32_who_starts_is_not_ready_and_who_is_broken_says_why() -> Result<()> {
    let bed = Bed::start()?;
    for mut identity in bed.target().identities() {
        *lock(&bed.cluster.readiness) = Readiness::Starting;
        let found = done("probe", identity.probe(proto::ProbeRequest {}).await)?;
        ensure!(found.ready == Some(false), "{found:?}");
        *lock(&bed.cluster.readiness) = Readiness::Unhealthy { reason: "no fuse here".to_owned() };
        let reason = refused("probe", Code::FailedPrecondition, identity.probe(proto::ProbeRequest {}).await)?;
        ensure!(reason == "no fuse here", "{reason}");
        *lock(&bed.cluster.readiness) = Readiness::Ready;
        let found = done("probe", identity.probe(proto::ProbeRequest {}).await)?;
        ensure!(found.ready == Some(true), "{found:?}");
    }
    bed.stop().await
}

#[tokio::test]
async fn a_plugin_has_the_services_that_it_was_given() -> Result<()> {
    let bed = Bed::start_with(|cluster| Plugin::new().with_node(Arc::new(MemoryNode(Arc::clone(cluster)))))?;
    let target = bed.target();
    let answer = target.controller().create_volume(request::create(&target, "pvc-1", ext4())).await;
    refused("create", Code::Unimplemented, answer)?;
    done("node", target.node().node_get_info(proto::NodeGetInfoRequest::default()).await)?;
    bed.stop().await
}

#[tokio::test]
async fn kubelet_finds_the_plugin_and_says_what_became_of_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("csi.lockstep.storage-reg.sock");
    let endpoint = directory.path().join("csi.sock");
    let (told, mut heard) = watch::channel(Registered::Waiting);
    let (stop, stopped) = oneshot::channel::<()>();
    let socket = Socket::listen(&path, Directory::Theirs)?;
    let server = tokio::spawn({
        let endpoint = endpoint.clone();
        async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve_registration(socket, &endpoint, told, stopped).await
        }
    });
    let mut registration = kubelet::registration_client::RegistrationClient::new(channel(&path));
    let found = done("info", registration.get_info(kubelet::InfoRequest {}).await)?;
    let wanted = kubelet::PluginInfo {
        r#type: "CSIPlugin".to_owned(),
        name: DRIVER.to_owned(),
        endpoint: request::text(&endpoint),
        supported_versions: vec!["1.0.0".to_owned()],
    };
    ensure!(found == wanted, "{found:?}");
    for (plugin_registered, error, expected) in
        [(false, "no", Registered::No { reason: "no".to_owned() }), (true, "", Registered::Yes)]
    {
        let status = kubelet::RegistrationStatus { plugin_registered, error: error.to_owned() };
        done("status", registration.notify_registration_status(status).await)?;
        ensure!(*heard.wait_for(|heard| *heard == expected).await? == expected, "it is passed on");
    }
    ensure!(stop.send(()).is_ok(), "it was still served");
    server.await??;
    ensure!(!path.exists(), "kubelet sees that the plugin is gone");
    Ok(())
}

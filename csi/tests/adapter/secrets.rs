//! What is logged, and what never is.

use std::io;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use lockstep_csi_conformance::request::{self, mount};
use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use tracing_subscriber::fmt::MakeWriter;

use crate::bed::Bed;
use crate::cluster::lock;

const SECRET: &str = "open-sesame";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// One thread: whatever server and client do is logged here.
#[tokio::test]
async fn t33_secrets_are_never_logged_and_calls_are() -> Result<()> {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let bed = Bed::start()?;
    let target = bed.target();
    let secrets = || [("password".to_owned(), SECRET.to_owned())].into();
    // The specification counts mount flags among what others must not see.
    let capability = mount(Mode::SingleNodeMultiWriter, "ext4", &[&format!("password={SECRET}")]);
    let create = proto::CreateVolumeRequest { secrets: secrets(), ..request::create(&target, "pvc-1", capability) };
    let made = target.make_by(create).await?;
    target.prepare_staging(&made)?;
    target.prepare_target(&made, "pod")?;
    let (mut controller, mut node) = (target.controller(), target.node());
    let stage = proto::NodeStageVolumeRequest { secrets: secrets(), ..request::stage(&target, &made) };
    node.node_stage_volume(stage).await?;
    let mut publish = proto::NodePublishVolumeRequest { secrets: secrets(), ..request::publish(&target, &made, "pod") };
    publish.volume_context.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), SECRET.to_owned());
    node.node_publish_volume(publish.clone()).await?;
    let elsewhere = proto::NodePublishVolumeRequest { readonly: true, ..publish };
    ensure!(node.node_publish_volume(elsewhere).await.is_err(), "a refusal is logged too");
    let expand = request::expand(&made, request::range(1 << 31, 0));
    let expand = proto::ControllerExpandVolumeRequest { secrets: secrets(), ..expand };
    controller.controller_expand_volume(expand).await?;
    let question = proto::ValidateVolumeCapabilitiesRequest {
        volume_id: made.id.clone(),
        volume_capabilities: vec![made.capability.clone()],
        secrets: secrets(),
        ..Default::default()
    };
    controller.validate_volume_capabilities(question).await?;
    target.unpublish(&made, "pod").await?;
    target.unstage(&made).await?;
    let delete = proto::DeleteVolumeRequest { secrets: secrets(), ..request::delete(&made.id) };
    controller.delete_volume(delete).await?;
    bed.stop().await?;
    drop(guard);
    let text = String::from_utf8(lock(&log.0).clone())?;
    let line = text.lines().find(|line| line.contains(SECRET));
    ensure!(line.is_none(), "a secret is logged: {line:?}");
    for method in ["CreateVolume", "NodeStageVolume", "NodePublishVolume", "DeleteVolume"] {
        let answered = |line: &&str| {
            line.contains(" INFO ") && line.contains(&format!("method=\"{method}\"")) && line.contains("call answered")
        };
        let line = text.lines().find(answered);
        ensure!(line.is_some_and(|line| line.contains("volume=\"pvc-1\"") && line.contains("code=\"Ok\"")), "{line:?}");
    }
    let failed = text.lines().find(|line| line.contains("WARN") && line.contains("call failed"));
    ensure!(failed.is_some_and(|line| line.contains("AlreadyExists") && line.contains("readonly")), "{failed:?}");
    Ok(())
}

//! The life of a volume, step by step, as the orchestrator leads it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use lockstep_proto::csi::v1 as proto;

use crate::expect::{done, done_at_last};
use crate::{Target, request};

/// A volume that a case made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its id.
    pub id: String,
    /// Its size, in bytes.
    pub capacity_bytes: i64,
    /// What every later call brings along.
    pub context: BTreeMap<String, String>,
    /// How it is used.
    pub capability: proto::VolumeCapability,
}

impl Made {
    /// Where it is staged.
    #[must_use]
    pub fn staging_path(&self, target: &Target) -> PathBuf {
        target.path(&self.id).join("staging")
    }

    /// Where it is published to a pod of this name.
    #[must_use]
    pub fn target_path(&self, target: &Target, pod: &str) -> PathBuf {
        target.path(&self.id).join(pod).join("target")
    }
}

impl Target {
    /// Makes a volume.
    ///
    /// # Errors
    /// It was not made.
    pub async fn make(&self, what: &str, capability: &proto::VolumeCapability) -> Result<Made> {
        self.make_by(request::create(self, &self.unique(what), capability.clone())).await
    }

    /// Makes a volume by a request of one capability.
    ///
    /// # Errors
    /// It was not made.
    pub async fn make_by(&self, request: proto::CreateVolumeRequest) -> Result<Made> {
        let capability = request.volume_capabilities.first().context("a request with a capability")?.clone();
        let required = request.capacity_range.map_or(0, |range| range.required_bytes);
        let again = || {
            let (mut controller, request) = (self.controller(), request.clone());
            async move { controller.create_volume(request).await }
        };
        let volume = done_at_last("create", again).await?.volume.context("a volume in the reply")?;
        ensure!(!volume.volume_id.is_empty(), "a volume has an id");
        ensure!(volume.capacity_bytes >= required.max(1), "a volume is as large as required, and the reply says so");
        ensure!(volume.content_source.is_none(), "a volume without a source has none");
        Ok(Made {
            id: volume.volume_id,
            capacity_bytes: volume.capacity_bytes,
            context: volume.volume_context,
            capability,
        })
    }

    /// Deletes a volume.
    ///
    /// # Errors
    /// It was not deleted.
    pub async fn delete(&self, made: &Made) -> Result<()> {
        let again = || {
            let (mut controller, id) = (self.controller(), made.id.clone());
            async move { controller.delete_volume(request::delete(&id)).await }
        };
        done_at_last("delete", again).await.map(drop)
    }

    /// Makes the staging directory, as kubelet does, and stages.
    ///
    /// # Errors
    /// It was not staged.
    pub async fn stage(&self, made: &Made) -> Result<()> {
        self.prepare_staging(made)?;
        done("stage", self.node().node_stage_volume(request::stage(self, made)).await).map(drop)
    }

    /// Makes the staging directory, as kubelet does.
    ///
    /// # Errors
    /// It was not made.
    pub fn prepare_staging(&self, made: &Made) -> Result<()> {
        std::fs::create_dir_all(made.staging_path(self)).context("make the staging path")
    }

    /// Unstages.
    ///
    /// # Errors
    /// It was not unstaged.
    pub async fn unstage(&self, made: &Made) -> Result<()> {
        done("unstage", self.node().node_unstage_volume(request::unstage(self, made)).await).map(drop)
    }

    /// Makes the directory of a target path, as kubelet does, and publishes.
    ///
    /// # Errors
    /// It was not published.
    pub async fn publish(&self, made: &Made, pod: &str) -> Result<()> {
        self.prepare_target(made, pod)?;
        done("publish", self.node().node_publish_volume(request::publish(self, made, pod)).await).map(drop)
    }

    /// Makes the directory of a target path, as kubelet does.
    ///
    /// # Errors
    /// It was not made.
    pub fn prepare_target(&self, made: &Made, pod: &str) -> Result<()> {
        let path = made.target_path(self, pod);
        std::fs::create_dir_all(path.parent().context("a target has a parent")?).context("make the pod's directory")
    }

    /// Unpublishes.
    ///
    /// # Errors
    /// It was not unpublished.
    pub async fn unpublish(&self, made: &Made, pod: &str) -> Result<()> {
        done("unpublish", self.node().node_unpublish_volume(request::unpublish(self, made, pod)).await).map(drop)
    }

    /// Unstages and deletes what nobody has published.
    ///
    /// # Errors
    /// A step failed.
    pub async fn finish(&self, made: &Made) -> Result<()> {
        self.unstage(made).await?;
        self.delete(made).await
    }

    /// The ids of all volumes.
    ///
    /// # Errors
    /// They were not listed.
    pub async fn ids(&self) -> Result<Vec<String>> {
        let listed = done("list", self.controller().list_volumes(proto::ListVolumesRequest::default()).await)?;
        ensure!(listed.next_token.is_empty(), "who asks for everything gets everything");
        listed.entries.into_iter().map(|entry| Ok(entry.volume.context("a volume in each entry")?.volume_id)).collect()
    }
}

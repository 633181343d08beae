//! The node's port, in memory: nothing is attached or mounted, and target paths are made as far as they can be seen.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use lockstep_csi::capability::Access;
use lockstep_csi::health::{StorageHealth, StorageSeverity, VolumeHealth};
use lockstep_csi::node_port::{
    Counts, DescribeError, ExpandError, ExpandOnNode, HealthError, HealthQuery, NodeDescription, NodePort,
    PublishError, PublishVolume, StageError, StageVolume, UnpublishError, UnpublishVolume, UnstageError, UnstageVolume,
    Usage, UsageError, VolumeAt,
};
use lockstep_csi::path::AbsolutePath;
use lockstep_csi::publications::{Decision, Publication, decide};
use lockstep_csi::readiness::Readiness;
use lockstep_csi::topology::Topology;

use crate::cluster::{Cluster, Stored, lock};

pub struct MemoryNode(pub Arc<Cluster>);

fn is_at(stored: &Stored, path: &AbsolutePath) -> bool {
    let staged = stored.staged.as_ref().is_some_and(|(staging_path, _)| staging_path == path);
    staged || stored.published.iter().any(|it| it.target_path == *path)
}

fn host<T>(doing: &str, done: std::io::Result<T>) -> Result<T, (String, std::io::Error)> {
    done.map_err(|error| (doing.to_owned(), error))
}

impl NodePort for MemoryNode {
    async fn readiness(&self) -> Readiness {
        lock(&self.0.readiness).clone()
    }

    async fn describe(&self) -> Result<NodeDescription, DescribeError> {
        let node_id = lock(&self.0.node_id).clone();
        let segments = [("topology.csi.lockstep.storage/node".to_owned(), node_id.clone())].into();
        Ok(NodeDescription { node_id, volumes_max: Some(200), topology: Topology { segments } })
    }

    async fn stage_volume(&self, request: StageVolume, _: Duration) -> Result<(), StageError> {
        self.0.asked().stage = Some(request.clone());
        self.0.staging.pass().await;
        let mut volumes = self.0.volumes();
        let stored = volumes.get_mut(&request.id).ok_or(StageError::UnknownVolume)?;
        if let Some(holder) = &stored.held_by {
            return Err(StageError::HeldElsewhere { holder: holder.clone() });
        }
        let made_for = &stored.request.capabilities;
        if request.capability.mode().is_multi_node() && made_for.iter().all(|it| !it.mode().is_multi_node()) {
            return Err(StageError::Unsupported { reason: "it was made for one node".to_owned() });
        }
        match &stored.staged {
            Some((_, capability)) if *capability != request.capability => {
                return Err(StageError::OtherCapability { difference: "capability".to_owned() });
            }
            Some(_) | None => stored.staged = Some((request.staging_path, request.capability)),
        }
        Ok(())
    }

    async fn unstage_volume(&self, request: UnstageVolume, _: Duration) -> Result<(), UnstageError> {
        if let Some(stored) = self.0.volumes().get_mut(&request.id) {
            if let Some(published) = stored.published.first() {
                return Err(UnstageError::Published { target_path: published.target_path.clone() });
            }
            stored.staged = None;
        }
        Ok(())
    }

    async fn publish_volume(&self, request: PublishVolume, _: Duration) -> Result<(), PublishError> {
        self.0.asked().publish = Some(request.clone());
        let mut volumes = self.0.volumes();
        let stored = volumes.get_mut(&request.id).ok_or(PublishError::UnknownVolume)?;
        if stored.staged.as_ref().is_none_or(|(path, _)| *path != request.staging_path) {
            return Err(PublishError::NotStaged { staging_path: request.staging_path });
        }
        let publication = Publication {
            target_path: request.target_path,
            capability: request.capability,
            readonly: request.readonly,
        };
        if decide(&stored.published, &publication)? == Decision::New {
            let made = match publication.capability.access() {
                Access::Block => fs::write(&publication.target_path, ""),
                Access::Mount(_) => fs::create_dir(&publication.target_path),
            };
            host("make the target path", made)
                .map_err(|(doing, error)| PublishError::Host { doing, source: error.into() })?;
            stored.published.push(publication);
        }
        Ok(())
    }

    async fn unpublish_volume(&self, request: UnpublishVolume, _: Duration) -> Result<(), UnpublishError> {
        let mut volumes = self.0.volumes();
        let Some(stored) = volumes.get_mut(&request.id) else { return Ok(()) };
        let path = &request.target_path;
        if let Some(index) = stored.published.iter().position(|it| it.target_path == *path) {
            let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
            host("remove the target path", removed)
                .map_err(|(doing, error)| UnpublishError::Host { doing, source: error.into() })?;
            stored.published.remove(index);
        }
        Ok(())
    }

    async fn usage(&self, at: VolumeAt) -> Result<Usage, UsageError> {
        self.0.usage.pass().await;
        let volumes = self.0.volumes();
        let stored = volumes.get(&at.id).ok_or(UsageError::UnknownVolume)?;
        if !is_at(stored, &at.volume_path) {
            return Err(UsageError::NotThere { path: at.volume_path });
        }
        let total = stored.volume.capacity_bytes;
        Ok(match stored.staged.as_ref().map(|(_, capability)| capability.access()) {
            Some(Access::Mount(_)) => Usage::Filesystem {
                bytes: Counts { total, used: total / 4, available: total / 2 },
                inodes: Counts { total: 1000, used: 11, available: 989 },
            },
            Some(Access::Block) | None => Usage::Block { total_bytes: total },
        })
    }

    async fn expand_volume(&self, request: ExpandOnNode, _: Duration) -> Result<u64, ExpandError> {
        let volumes = self.0.volumes();
        let stored = volumes.get(&request.at.id).ok_or(ExpandError::UnknownVolume)?;
        if !is_at(stored, &request.at.volume_path) {
            return Err(ExpandError::NotThere { path: request.at.volume_path });
        }
        let size_bytes = stored.volume.capacity_bytes;
        match request.range {
            Some(range) if !range.accepts(size_bytes) => Err(ExpandError::OutOfRange { size_bytes }),
            Some(_) | None => Ok(size_bytes),
        }
    }

    async fn volume_health(&self, query: HealthQuery) -> Result<Vec<VolumeHealth>, HealthError> {
        self.0.volumes().get(&query.id).map(|_| vec![]).ok_or(HealthError::UnknownVolume)
    }

    async fn storage_health(&self) -> Result<Vec<StorageHealth>, HealthError> {
        Ok(vec![StorageHealth {
            severity: StorageSeverity::Unreachable,
            reason: "EngineAway",
            message: "the engine does not answer".to_owned(),
            capability: None,
        }])
    }
}

//! One volume, from the wish to the members that fulfil it: what is missing is done, and what its members show is written down.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use lockstep_api::{MirrorReplica, MirrorVolume, MirrorVolumeStatus, names};

use super::apply::{apply_status, set_finalizer};
use super::{LOOK_EVERY, Leader, ReconcileError};
use crate::plan::status::{Observed, is_created, plan_status};

/// Whether what becomes of a node may change what is to be done for the volume.
pub(super) fn depends_on(volume: &MirrorVolume, node: &str) -> bool {
    let placement = volume.status.as_ref().map_or(&[][..], |status| &status.placement);
    // One without a placement waits for any pool.
    placement.is_empty() || placement.iter().any(|placed| placed.node == node)
}

/// The time that is written down.
pub(super) fn now() -> Time {
    Time(Timestamp::now())
}

impl Leader {
    /// Does for a volume what is missing.
    pub(super) async fn reconcile_volume(&self, volume: &MirrorVolume) -> Result<Action, ReconcileError> {
        self.forget_placed(volume);
        if volume.metadata.deletion_timestamp.is_some() {
            return self.reconcile_deletion(volume).await;
        }
        let client = &self.cluster.client;
        if !volume.finalizers().iter().any(|it| it == names::FINALIZER_VOLUME) {
            // Made by hand: before anything is made for it. The change brings it back here.
            set_finalizer(client, volume, names::FINALIZER_VOLUME, true)
                .await
                .map_err(|source| ReconcileError::Write { what: "put the volume's finalizer", source })?;
            return Ok(Action::await_change());
        }
        let placed = volume.status.as_ref().is_some_and(|status| !status.placement.is_empty());
        if !placed {
            return self.place(volume).await;
        }
        if !is_created(volume) {
            self.ensure_register(volume).await?;
        }
        self.ensure_parts(volume).await?;
        self.write_status(volume).await?;
        Ok(Action::requeue(LOOK_EVERY))
    }

    /// Writes down what the members show, if that differs from what is written.
    pub(super) async fn write_status(&self, volume: &MirrorVolume) -> Result<(), ReconcileError> {
        let parts = self.cluster.parts(&volume.name_any());
        let parts: Vec<&MirrorReplica> = parts.iter().map(|part| &**part).collect();
        let dead = self.cluster.lost_nodes(self.config.fail_over.node_lease_stale_after);
        let status = plan_status(Observed { volume, parts: &parts, dead: &dead }, &now());
        self.put_status(volume, &status).await
    }

    /// Writes a status, if it differs.
    pub(super) async fn put_status(
        &self,
        volume: &MirrorVolume,
        status: &MirrorVolumeStatus,
    ) -> Result<(), ReconcileError> {
        if volume.status.as_ref() == Some(status) {
            return Ok(());
        }
        apply_status(&self.cluster.client, volume, status)
            .await
            .map(drop)
            .map_err(|source| ReconcileError::Write { what: "write the volume's status", source })
    }
}

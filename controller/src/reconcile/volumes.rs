//! One volume, from the wish to the members that fulfil it: what is missing is done, and what its members show is written down.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use lockstep_api::{MirrorReplica, MirrorVolume, MirrorVolumeStatus, names};

use super::apply::{apply_status, set_finalizer};
use super::{LOOK_EVERY, Leader, RETRY_AFTER, ReconcileError};
use crate::plan::status::{Observed, is_created, plan_status};
use crate::plan::transitions::plan_transitions;

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
        let created = is_created(volume);
        if !created && self.is_hopeless(volume) {
            return self.unmake(volume).await;
        }
        if !created {
            self.ensure_register(volume).await?;
        }
        self.ensure_parts(volume).await?;
        if self.write_status(volume).await? {
            // Whatever comes next is decided over what was written, which comes back as an event.
            return Ok(Action::requeue(RETRY_AFTER));
        }
        if created && self.config.change_members {
            self.change_members(volume).await?;
        }
        // Whether a member that is waited for is lost, or has been for long enough, no event says.
        let calm = LOOK_EVERY.min(self.config.replace_after.max(RETRY_AFTER));
        Ok(Action::requeue(if created { calm } else { RETRY_AFTER }))
    }

    /// Writes down what the members show, if that differs from what is written. Says whether it does.
    pub(super) async fn write_status(&self, volume: &MirrorVolume) -> Result<bool, ReconcileError> {
        let status = self.plan_status(volume);
        if volume.status.as_ref() == Some(&status) {
            return Ok(false);
        }
        self.put_status(volume, &status).await?;
        let old = volume.status.clone().unwrap_or_default();
        self.note_transitions(volume, plan_transitions(&old, &status)).await;
        Ok(true)
    }

    /// What the members show.
    pub(super) fn plan_status(&self, volume: &MirrorVolume) -> MirrorVolumeStatus {
        let parts = self.own_parts(volume);
        let parts: Vec<&MirrorReplica> = parts.iter().map(|part| &**part).collect();
        let dead = self.cluster.lost_nodes();
        let register = self.cluster.register_trouble(volume);
        plan_status(Observed { volume, parts: &parts, dead: &dead, register: register.as_deref() }, &now())
    }

    /// The parts of a volume that are of this volume, and not of an earlier attempt to make it, or of an earlier volume of the name.
    pub(super) fn own_parts(&self, volume: &MirrorVolume) -> Vec<Arc<MirrorReplica>> {
        let id = volume.status.as_ref().and_then(|status| status.id.as_deref());
        let mut parts = self.cluster.parts(&volume.name_any());
        parts.retain(|part| Some(&*part.spec.definition.id) == id);
        parts
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

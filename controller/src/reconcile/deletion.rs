//! A volume is deleted: nothing of it is left on any node, also on those that are away now.
//!
//! While it is attached somewhere, nothing is touched. Then all its parts are told to go; a node that is away does it when it is back, and
//! a node that will never come back is given up with its pool. Last go the Leases, then the volume itself.

use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use lockstep_api::{
    Arbiter, MirrorReplica, MirrorVolume, MirrorVolumeStatus, condition, is_true, names, set_condition,
};

use super::apply::{delete, set_finalizer};
use super::volumes::now;
use super::{LOOK_EVERY, Leader, RETRY_AFTER, ReconcileError};
use crate::plan::definition::parse_id;
use crate::plan::status::{DELETING, DELETION_BLOCKED, IN_USE, NODES_AWAY, users};

impl Leader {
    /// Does the next step of a deletion.
    pub(super) async fn reconcile_deletion(&self, volume: &MirrorVolume) -> Result<Action, ReconcileError> {
        if !volume.finalizers().iter().any(|it| it == names::FINALIZER_VOLUME) {
            return Ok(Action::await_change());
        }
        let parts = self.cluster.parts(&volume.name_any());
        let borrowed: Vec<&MirrorReplica> = parts.iter().map(|part| &**part).collect();
        let lost = self.cluster.lost_nodes();
        let users = users(volume, &borrowed, &lost);
        let begun = borrowed.iter().any(|part| part.metadata.deletion_timestamp.is_some());
        if !users.is_empty() && !begun {
            let message = format!("in use on {}: stop the pods that use it", users.join(", "));
            self.put_status(volume, &self.blocked(volume, IN_USE, &message)).await?;
            return Ok(Action::requeue(LOOK_EVERY));
        }
        for part in borrowed.iter().filter(|part| part.metadata.deletion_timestamp.is_none()) {
            delete(&self.cluster.client, *part)
                .await
                .map_err(|source| ReconcileError::Write { what: "delete a part", source })?;
        }
        if !borrowed.is_empty() {
            let of: Vec<&str> = borrowed.iter().map(|part| &*part.spec.node_name).collect();
            let away = of.iter().all(|node| lost.contains(*node) || !self.has_engine(node));
            let (reason, message) = match away {
                true => (NODES_AWAY, format!("{} will delete what it has when it is back", of.join(", "))),
                false => (DELETING, format!("waits for {}", of.join(", "))),
            };
            self.put_status(volume, &self.blocked(volume, reason, &message)).await?;
            return Ok(Action::requeue(RETRY_AFTER));
        }
        self.delete_leases(volume).await?;
        set_finalizer(&self.cluster.client, volume, names::FINALIZER_VOLUME, false)
            .await
            .map_err(|source| ReconcileError::Write { what: "take the volume's finalizer away", source })?;
        tracing::info!(volume = volume.name_any(), "volume_deleted");
        Ok(Action::await_change())
    }

    /// Whether a node can do something now.
    pub(super) fn has_engine(&self, node: &str) -> bool {
        self.cluster
            .pool(node)
            .and_then(|pool| pool.status.as_ref().map(|status| is_true(&status.conditions, "EngineReady")))
            .unwrap_or(false)
    }

    pub(super) async fn delete_leases(&self, volume: &MirrorVolume) -> Result<(), ReconcileError> {
        let status = volume.status.clone().unwrap_or_default();
        if status.arbiter != Some(Arbiter::Lease) {
            return Ok(());
        }
        let Some(id) = status.id.as_deref().and_then(parse_id) else { return Ok(()) };
        self.leases
            .delete_all(lockstep_core::VolumeId(id))
            .await
            .map_err(|error| ReconcileError::Leases { source: Box::new(error) })
    }

    /// The status of a volume that is not deleted yet.
    fn blocked(&self, volume: &MirrorVolume, reason: &str, message: &str) -> MirrorVolumeStatus {
        let mut status = self.plan_status(volume);
        let blocked = condition(DELETION_BLOCKED, true, reason, message, volume.metadata.generation, now());
        set_condition(&mut status.conditions, blocked);
        status
    }
}

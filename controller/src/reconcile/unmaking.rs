//! A volume cannot be made where it was placed, because a member was lost meanwhile: what was made of it goes, and it is placed anew.
//!
//! Nobody can have used it: a volume is told of only when it is created. What a lost node made of it has another identity than what is
//! made next, and goes when that node is back.

use k8s_openapi::jiff::{Timestamp, ToSpan as _};
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt as _};
use lockstep_api::{MirrorVolume, is_true};

use super::apply::delete;
use super::{Leader, RETRY_AFTER, ReconcileError};

/// So long a member may take to make its part before it matters whether it is lost: an engine that starts anew is back by then.
const PATIENCE_SECONDS: i64 = 15;

impl Leader {
    /// Whether a volume that is not created waits for a member that is lost.
    pub(super) fn is_hopeless(&self, volume: &MirrorVolume) -> bool {
        let Some(made) = volume.meta().creation_timestamp.as_ref() else { return false };
        if Timestamp::now() < made.0.saturating_add(PATIENCE_SECONDS.seconds()).unwrap_or(Timestamp::MAX) {
            return false;
        }
        let lost = self.cluster.lost_nodes();
        volume.status.iter().flat_map(|status| &status.placement).any(|placed| {
            let pool = self.cluster.pool(&placed.node);
            let conditions = pool.and_then(|pool| Some(pool.status.as_ref()?.conditions.clone())).unwrap_or_default();
            lost.contains(&placed.node) || !is_true(&conditions, "EngineReady")
        })
    }

    /// Takes away what was made of it. When all that living nodes have is gone, it has no place any more.
    pub(super) async fn unmake(&self, volume: &MirrorVolume) -> Result<Action, ReconcileError> {
        let parts = self.own_parts(volume);
        for part in parts.iter().filter(|part| part.metadata.deletion_timestamp.is_none()) {
            delete(&self.cluster.client, &**part).await.map_err(|source| ReconcileError::Write {
                what: "delete a part of a volume that cannot be made",
                source,
            })?;
        }
        let lost = self.cluster.lost_nodes();
        let waits = |node: &String| !lost.contains(node) && self.has_engine(node);
        if parts.iter().any(|part| waits(&part.spec.node_name) || part.metadata.deletion_timestamp.is_none()) {
            return Ok(Action::requeue(RETRY_AFTER));
        }
        self.delete_leases(volume).await?;
        let mut status = volume.status.clone().unwrap_or_default();
        tracing::warn!(volume = volume.name_any(), "volume_placed_anew");
        (status.id, status.generation, status.arbiter) = (None, None, None);
        status.placement.clear();
        self.put_status(volume, &status).await?;
        Ok(Action::await_change())
    }
}

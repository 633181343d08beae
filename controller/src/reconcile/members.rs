//! The members of a running volume are changed: a lost replica is replaced, a pool is emptied, one more or one fewer is wanted.
//!
//! The placement is the wish and is written first; parts follow it. One that is added joins empty and is admitted by the others;
//! one that is not in the placement any more leaves, and its node takes it away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kube::ResourceExt as _;
use kube::api::Api;
use lockstep_api::{MirrorVolume, ReplicaRole};

use super::apply::{delete, send};
use super::{Leader, ReconcileError};
use crate::cluster::lock;
use crate::plan::replacement::{Change, Seen, plan_change};

/// Since when each node has been lost, on this program's clock.
pub(super) type LostSince = BTreeMap<String, Instant>;

impl Leader {
    /// Does the next change of a volume's members, if one is due.
    pub(super) async fn change_members(&self, volume: &MirrorVolume) -> Result<(), ReconcileError> {
        if self.delete_surplus(volume).await? {
            return Ok(());
        }
        let lost_for_long = self.lost_for_long(Instant::now());
        let change = {
            let placed = lock(&self.placed);
            let pools = self.cluster.plan_pools(&placed);
            let overcommit = self.config.overcommit;
            plan_change(Seen { volume, pools: &pools, lost_for_long: &lost_for_long, overcommit })
        };
        let mut status = volume.status.clone().unwrap_or_default();
        match change {
            None => return Ok(()),
            Some(Change::Add(added)) => {
                tracing::info!(volume = volume.name_any(), node = added.node, role = ?added.role, "member_added");
                status.placement.push(added);
                let reserved = MirrorVolume { status: Some(status.clone()), ..volume.clone() };
                lock(&self.placed).insert(volume.name_any(), reserved);
            }
            Some(Change::Remove { node }) => {
                tracing::info!(volume = volume.name_any(), node, "member_removed");
                status.placement.retain(|placed| placed.node != node);
            }
        }
        self.put_status(volume, &status).await
    }

    /// Tells parts to go that are not in the placement any more. Says whether there are any.
    async fn delete_surplus(&self, volume: &MirrorVolume) -> Result<bool, ReconcileError> {
        let placed = |volume: &MirrorVolume, node: &str| {
            volume.status.iter().flat_map(|status| &status.placement).any(|placed| placed.node == node)
        };
        let mut parts = self.own_parts(volume);
        parts.retain(|part| part.spec.role != ReplicaRole::Attachment && !placed(volume, &part.spec.node_name));
        if parts.is_empty() {
            return Ok(false);
        }
        // The store of volumes may be behind that of parts, when a leader has just begun.
        let write = |source| ReconcileError::Write { what: "take a part out of the volume", source };
        let found = send(Api::<MirrorVolume>::all(self.cluster.client.clone()).get_opt(&volume.name_any())).await;
        let Some(found) = found.map_err(write)? else { return Ok(true) };
        let same = found.uid() == volume.uid();
        for part in parts.iter().filter(|part| part.metadata.deletion_timestamp.is_none()) {
            if same && !placed(&found, &part.spec.node_name) {
                delete(&self.cluster.client, &**part).await.map_err(write)?;
            }
        }
        Ok(true)
    }

    /// Nodes that have been lost for longer than a replacement waits.
    fn lost_for_long(&self, now: Instant) -> BTreeSet<String> {
        let lost = self.cluster.lost_nodes();
        let mut since = lock(&self.lost_since);
        since.retain(|node, _| lost.contains(node));
        for node in lost {
            since.entry(node).or_insert(now);
        }
        let long = |at: &Instant| now.saturating_duration_since(*at) >= self.config.replace_after;
        since.iter().filter(|(_, at)| long(at)).map(|(node, _)| node.clone()).collect()
    }
}

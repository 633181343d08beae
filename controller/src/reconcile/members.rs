//! The members of a running volume are changed: a lost replica is replaced, a pool is emptied, one more or one fewer is wanted.
//!
//! The placement is the wish and is written first; parts follow it. One that is added joins empty and has itself admitted by the others;
//! one that is not in the placement any more has itself taken out, and its node takes it away. Where that node is lost, another member
//! takes it out: each part says whom the volume shall be made of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kube::ResourceExt as _;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;
use lockstep_api::{DiskState, LOST, MirrorReplica, MirrorVolume, Placement, ReplicaRole, is_true};

use super::apply::{delete, send};
use super::{Leader, ReconcileError};
use crate::cluster::lock;
use crate::plan::replacement::{Change, Seen, plan_change};

/// Since when nodes have been lost, and parts gone, on this program's clock.
#[derive(Debug, Default)]
pub(super) struct LostSince {
    nodes: BTreeMap<String, Instant>,
    /// By the names of the parts.
    parts: BTreeMap<String, Instant>,
}

/// Nodes that live and whose replica of a volume is of no use.
#[derive(Debug, Default)]
struct Gone {
    /// It is not in their pool any more.
    emptied: BTreeSet<String>,
    /// Its disk failed.
    failed: BTreeSet<String>,
}

impl Leader {
    /// Does the next change of a volume's members, if one is due.
    pub(super) async fn change_members(&self, volume: &MirrorVolume) -> Result<(), ReconcileError> {
        if self.delete_surplus(volume).await? {
            return Ok(());
        }
        let now = Instant::now();
        let lost_for_long = self.lost_for_long(now);
        let Gone { emptied, failed } = self.gone(volume, now);
        let change = {
            let placed = lock(&self.placed);
            let pools = self.cluster.plan_pools(&placed);
            let overcommit = self.config.overcommit;
            plan_change(Seen {
                volume,
                pools: &pools,
                lost_for_long: &lost_for_long,
                emptied: &emptied,
                failed: &failed,
                overcommit,
            })
        };
        let Some(change) = change else { return Ok(()) };
        tracing::info!(volume = volume.name_any(), ?change, "members_change");
        let mut status = volume.status.clone().unwrap_or_default();
        change_placement(&mut status.placement, &change);
        if matches!(change, Change::Add(_) | Change::Become { role: ReplicaRole::Replica, .. }) {
            let reserved = MirrorVolume { status: Some(status.clone()), ..volume.clone() };
            lock(&self.placed).insert(volume.name_any(), reserved);
        }
        self.put_status(volume, &status).await?;
        match change {
            // Its node forgets what it knew of it, then it is made anew and joins.
            Change::Remake(anew) => self.delete_part_of(volume, &anew.node).await,
            _ => Ok(()),
        }
    }

    async fn delete_part_of(&self, volume: &MirrorVolume, node: &str) -> Result<(), ReconcileError> {
        let mut parts = self.own_parts(volume);
        parts.retain(|part| part.spec.node_name == node && part.metadata.deletion_timestamp.is_none());
        for part in parts {
            delete(&self.cluster.client, &*part)
                .await
                .map_err(|source| ReconcileError::Write { what: "take away what is left of a part", source })?;
        }
        Ok(())
    }

    /// Tells parts to go that are not in the placement any more. Says whether one of them still counts: then it goes first.
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
        let lost = self.cluster.lost_nodes();
        let counts = |part: &MirrorReplica| {
            let mut in_sync = volume.status.iter().flat_map(|status| &status.in_sync);
            !lost.contains(&part.spec.node_name) && in_sync.any(|node| *node == part.spec.node_name)
        };
        Ok(parts.iter().any(|part| counts(part)))
    }

    /// Nodes that have been lost for longer than a replacement waits.
    fn lost_for_long(&self, now: Instant) -> BTreeSet<String> {
        let lost = self.cluster.lost_nodes();
        let since = &mut lock(&self.lost_since).nodes;
        since.retain(|node, _| lost.contains(node));
        for node in lost {
            since.entry(node).or_insert(now);
        }
        let long = |at: &Instant| now.saturating_duration_since(*at) >= self.config.replace_after;
        since.iter().filter(|(_, at)| long(at)).map(|(node, _)| node.clone()).collect()
    }

    /// Nodes that live, and have said for as long that their replica of the volume is of no use any more.
    fn gone(&self, volume: &MirrorVolume, now: Instant) -> Gone {
        let mut gone = Gone::default();
        let dead = self.cluster.lost_nodes();
        let since = &mut lock(&self.lost_since).parts;
        for part in self.own_parts(volume) {
            let status = part.status.clone().unwrap_or_default();
            let of_use = status.disk != Some(DiskState::Failed) && !is_true(&status.conditions, LOST);
            if of_use || part.metadata.deletion_timestamp.is_some() || dead.contains(&part.spec.node_name) {
                since.remove(&part.name_any());
                continue;
            }
            let at = *since.entry(part.name_any()).or_insert(now);
            if now.saturating_duration_since(at) >= self.config.replace_after {
                let kind = if is_true(&status.conditions, LOST) { &mut gone.emptied } else { &mut gone.failed };
                kind.insert(part.spec.node_name.clone());
            }
        }
        since.retain(|name, _| self.cluster.replicas.get(&ObjectRef::new(name)).is_some());
        gone
    }
}

/// The placement after a change.
fn change_placement(placement: &mut Vec<Placement>, change: &Change) {
    match change {
        Change::Add(added) => placement.push(added.clone()),
        Change::Remove { node } => placement.retain(|placed| placed.node != *node),
        Change::Become { node, role } => {
            placement.iter_mut().filter(|placed| placed.node == *node).for_each(|placed| placed.role = *role);
        }
        Change::Succeed { node, by } => {
            placement.retain(|placed| placed.node != *node);
            placement.push(by.clone());
        }
        Change::Remake(anew) => {
            placement.iter_mut().filter(|placed| placed.node == anew.node).for_each(|placed| *placed = anew.clone());
        }
    }
}

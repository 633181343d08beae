//! This node becomes a member of a volume that exists, changes what it is to it, and leaves it.
//!
//! ```text
//! join    placed here? -> the configuration of one in sync -> (what is on record of this node is gone: removed)
//!         -> its part from that -> added -> (a tie-breaker's: data that do not count are deleted)
//! leave   the volume goes on? -> removed, by one in sync -> the part may be deleted
//! ```
//! What is wanted is asked of the API server just before: what the watch showed may be old, and a member that was just taken out must not
//! put itself in again. Everything else is looked up in the engines. So each of it may be interrupted anywhere, and repeated.

use lockstep_api::{MirrorReplica, MirrorReplicaStatus, MirrorVolume, Placement, ReplicaRole, is_true};
use lockstep_proto::node::v1 as proto;

use super::cluster_agent::ClusterAgent;
use super::objects::RequestError;
use super::part_status::READY;
use super::part_step::surplus_member;
use super::part_work::spec_of;
use crate::agent::FoundConfiguration;
use crate::cluster::Node;
use crate::failure::{Failure, Kind};
use crate::input::to_hex;
use crate::spec::Spec;

/// What the engine has of a volume that it shall have a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Here {
    Nothing,
    /// Memory, and no data.
    Memory,
    /// Data of a replica that was removed from the volume.
    Removed,
    /// A replica that counts, or may be made to.
    Replica,
}

impl ClusterAgent {
    /// Makes this node a member without data of a volume that exists, from the configuration that it has now. Idempotent.
    pub(super) async fn admit(&self, spec: &Spec) -> Result<(), Failure> {
        self.agent.register_here(spec)?;
        if self.agent.has_part(&spec.name).await? {
            return Ok(());
        }
        let known = self.in_sync_nodes(spec).await;
        let nodes = known.unwrap_or_else(|_| spec.replicas.keys().copied().collect());
        match self.agent.find_configuration(spec, &nodes).await {
            Ok(found) => self.agent.give_part_here(spec, &found.bytes, false).await,
            // Agents are away more often than engines. As long as one of those that it was made of may still be a member, that one tells.
            Err(failure) if nodes.iter().any(|node| spec.replicas.contains_key(node)) => {
                tracing::info!(volume = spec.name, %failure, "admitted_as_it_was_created");
                self.agent.admit_here(spec).await
            }
            Err(failure) => Err(failure),
        }
    }

    /// Makes this node's part one that the volume counts. Idempotent.
    pub(super) async fn join(&self, object: &MirrorReplica) -> Result<(), Failure> {
        let spec = spec_of(object)?;
        self.check_placed(object).await?;
        self.agent.register_here(&spec)?;
        let here = self.look_here(&spec).await?;
        let nodes = self.in_sync_nodes(&spec).await?;
        let found = self.agent.find_configuration(&spec, &nodes).await?;
        match object.spec.role {
            ReplicaRole::Replica => self.join_as_replica(&spec, here, found).await,
            ReplicaRole::TieBreaker => self.join_as_tie_breaker(&spec, here, found).await,
            ReplicaRole::Attachment => Ok(()),
        }
    }

    async fn join_as_replica(&self, spec: &Spec, here: Here, mut found: FoundConfiguration) -> Result<(), Failure> {
        let me = self.agent.me().id;
        if here != Here::Replica {
            if found.has_replica(me) {
                // What the volume has on record is not here any more. An empty one in its place has to be another one.
                self.agent.ask_to_be_removed(found.at, &spec.name).await?;
                found = self.agent.find_configuration(spec, &[found.at]).await?;
            }
            self.agent.give_part_here(spec, &found.bytes, true).await?;
        }
        match found.has_replica(me) {
            true => Ok(()),
            false => self.agent.ask_to_be_added(found.at, &spec.name, proto::Role::Replica).await,
        }
    }

    async fn join_as_tie_breaker(&self, spec: &Spec, here: Here, found: FoundConfiguration) -> Result<(), Failure> {
        let me = self.agent.me().id;
        if here == Here::Nothing {
            self.agent.give_part_here(spec, &found.bytes, false).await?;
        }
        if !found.is_tie_breaker(me) {
            self.agent.ask_to_be_added(found.at, &spec.name, proto::Role::TieBreaker).await?;
        }
        match here {
            Here::Nothing | Here::Memory => Ok(()),
            // Its data count no more: the vote is kept, and moves out of the pool.
            Here::Removed | Here::Replica => {
                let found = self.agent.find_configuration(spec, &[found.at]).await?;
                if self.look_here(spec).await? != Here::Removed {
                    return Err(Failure::not_reachable("its replica does not know yet that it is none any more"));
                }
                self.agent.give_part_here(spec, &found.bytes, false).await
            }
        }
    }

    /// Before this node's part is deleted: a volume that goes on is told first, and as long as it needs the part it keeps it.
    pub(super) async fn leave(&self, object: &MirrorReplica, spec: &Spec) -> Result<(), Failure> {
        if object.spec.role == ReplicaRole::Attachment {
            return Ok(());
        }
        let Some(volume) = self.objects.volume(&spec.name).await.map_err(not_reachable)? else { return Ok(()) };
        if !goes_on(&volume, object) {
            return Ok(());
        }
        let nodes = self.in_sync_nodes(spec).await?;
        let found = self.agent.find_configuration(spec, &nodes).await?;
        let me = self.agent.me().id;
        let placed = volume.status.iter().flat_map(|status| &status.placement);
        let mut votes = placed.filter(|placed| placed.role == ReplicaRole::TieBreaker);
        if found.is_tie_breaker(me) && votes.any(|placed| placed.node_id != me) {
            return Err(Failure::state_forbids("the next tie-breaker has not taken its place yet"));
        }
        if found.has_replica(me) && !found.others_vote(me) {
            return Err(Failure::not_reachable("another replica has no vote yet"));
        }
        if found.is_tie_breaker(me) || found.has_replica(me) {
            self.agent.ask_to_be_removed(found.at, &spec.name).await?;
        }
        Ok(())
    }

    /// Takes a member out that is not wanted any more, if that is still so.
    pub(super) async fn remove(&self, object: &MirrorReplica, node_id: u32) -> Result<(), Failure> {
        let volume = object.spec.volume.clone();
        let now = self.objects.fresh_part(object).await.map_err(not_reachable)?;
        let engine = self.agent.engine_status(&volume).await?;
        if now.is_none_or(|now| surplus_member(&now.spec, &engine) != Some(node_id)) {
            return Ok(());
        }
        let request = proto::RemoveMemberRequest { volume: volume.clone(), node_id, ..Default::default() };
        self.agent.remove_member_here(request).await?;
        tracing::info!(volume, node = self.agent.cluster().name_of(node_id), node_id, "member_removed");
        Ok(())
    }

    /// The part is still wanted, as this object says.
    async fn check_placed(&self, object: &MirrorReplica) -> Result<(), Failure> {
        let volume = self.objects.volume(&object.spec.volume).await.map_err(not_reachable)?;
        let volume = volume.filter(|volume| volume.metadata.deletion_timestamp.is_none());
        let status = volume
            .and_then(|volume| volume.status)
            .filter(|status| status.id.as_ref() == Some(&object.spec.definition.id));
        let is_here = |placed: &Placement| placed.node == object.spec.node_name && placed.role == object.spec.role;
        match status.is_some_and(|status| status.placement.iter().any(is_here)) {
            true => Ok(()),
            false => Err(Failure::state_forbids("the volume is not placed here any more")),
        }
    }

    async fn look_here(&self, spec: &Spec) -> Result<Here, Failure> {
        let status = match self.agent.engine_status(&spec.name).await {
            Ok(status) => status,
            Err(failure) if failure.kind == Kind::WrongInput => return Ok(Here::Nothing),
            Err(failure) => return Err(failure),
        };
        if status.id != to_hex(&spec.id) {
            return Err(Failure::state_forbids("another volume bears this name on the node"));
        }
        if status.epoch == 0 {
            return Err(Failure::not_reachable("what is here of it is being opened"));
        }
        Ok(match status.this_node.unwrap_or_default().disk() {
            proto::DiskState::Diskless | proto::DiskState::Unspecified => Here::Memory,
            proto::DiskState::Removed => Here::Removed,
            proto::DiskState::UpToDate
            | proto::DiskState::Inconsistent
            | proto::DiskState::Outdated
            | proto::DiskState::Failed => Here::Replica,
        })
    }

    /// Other nodes whose replicas are in sync, by what the volume's members said last; those that are missed by somebody last.
    async fn in_sync_nodes(&self, spec: &Spec) -> Result<Vec<u32>, Failure> {
        let mut parts = self.objects.parts_of(&spec.name).await.map_err(not_reachable)?;
        let id = to_hex(&spec.id);
        parts.retain(|part| part.spec.definition.id == id);
        let said: Vec<&MirrorReplicaStatus> = parts.iter().filter_map(|part| part.status.as_ref()).collect();
        let newest = said.iter().map(|status| &status.seen).filter(|seen| seen.epoch > 0).max_by_key(|seen| seen.epoch);
        let Some(newest) = newest else { return Ok(spec.replicas.keys().copied().collect()) };
        let cluster = self.agent.cluster();
        let others = cluster.nodes.iter().filter(|node| node.id != self.agent.me().id);
        let mut nodes: Vec<&Node> = others.filter(|node| newest.in_sync.contains(&node.name)).collect();
        // Whom others miss may take long not to answer.
        nodes.sort_by_key(|node| said.iter().any(|status| status.unreachable.contains(&node.name)));
        Ok(nodes.into_iter().map(|node| node.id).collect())
    }
}

/// Whether a volume stays when a part of it goes: it was created, and is not being deleted.
fn goes_on(volume: &MirrorVolume, part: &MirrorReplica) -> bool {
    let status = volume.status.as_ref();
    let created = status.is_some_and(|status| is_true(&status.conditions, READY));
    let same = status.and_then(|status| status.id.as_ref()) == Some(&part.spec.definition.id);
    created && same && volume.metadata.deletion_timestamp.is_none()
}

fn not_reachable(error: RequestError) -> Failure {
    Failure::not_reachable(error.to_string())
}

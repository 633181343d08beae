//! Members of a volume that exists: a node that comes fetches the configuration from one whose replica is in sync, makes its part from
//! that, and asks there to be added; one that goes asks there to be removed.
//!
//! Whoever asks decides that it shall be so, the engines whether it can be. Every step may be repeated.

use lockstep_core::{Config, NodeId};
use lockstep_proto::node::v1 as proto;
use proto::peer_reply::Reply;
use proto::peer_request::Request;

use super::{Agent, CHANGE_WITHIN};
use crate::failure::Failure;
use crate::spec::Spec;
use crate::{input, rpc};

/// The configuration of a volume, as a node whose replica is in sync has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundConfiguration {
    /// That node.
    pub(crate) at: u32,
    /// As it travels.
    pub(crate) bytes: Vec<u8>,
    /// What they say.
    pub(crate) config: Config,
}

impl FoundConfiguration {
    /// Whether a node is on record with a replica.
    pub(crate) fn has_replica(&self, node: u32) -> bool {
        self.config.replicas.contains(&NodeId(node))
    }

    /// Whether all replicas that are in sync vote, without that of `node`: one that came is given its vote by a swap of its own.
    pub(crate) fn others_vote(&self, node: u32) -> bool {
        let mut others = self.config.in_sync.keys().filter(|other| **other != NodeId(node));
        self.config.voters.is_empty() || others.all(|other| self.config.voters.contains_key(other))
    }

    /// Whether a node is on record as the tie-breaker.
    pub(crate) fn is_tie_breaker(&self, node: u32) -> bool {
        self.config.tie_breaker == Some(NodeId(node))
    }
}

impl Agent {
    /// The configuration from the first of `nodes` that answers and has its replica in sync.
    pub(crate) async fn find_configuration(&self, spec: &Spec, nodes: &[u32]) -> Result<FoundConfiguration, Failure> {
        let mut why = "no other node is known to hold a replica that is in sync".to_owned();
        for at in nodes.iter().copied().filter(|node| *node != self.me.id) {
            match self.configuration_of(spec, at).await {
                Ok(found) if found.config.in_sync.contains_key(&NodeId(at)) => return Ok(found),
                Ok(_) => why = format!("node {}: its replica is not in sync", self.cluster().name_of(at)),
                Err(failure) => why = format!("node {}: {}", self.cluster().name_of(at), failure.message),
            }
        }
        Err(Failure::not_reachable(format!("the configuration of volume {:?} cannot be fetched: {why}", spec.name)))
    }

    async fn configuration_of(&self, spec: &Spec, at: u32) -> Result<FoundConfiguration, Failure> {
        let asked = Request::Configuration(proto::GetVolumeRequest { volume: spec.name.clone() });
        let Reply::Configuration(proto::VolumeConfiguration { configuration: bytes }) = self.ask(at, asked).await?
        else {
            return Err(Failure::other("it gives an answer of another version"));
        };
        let config = lockstep_engine::decode_configuration(&bytes).map_err(Failure::other)?;
        if config.volume.0 != spec.id {
            return Err(Failure::state_forbids("another volume bears this name there"));
        }
        Ok(FoundConfiguration { at, bytes, config })
    }

    /// Asks a node whose replica is in sync to make this one a replica's or the tie-breaker.
    pub(crate) async fn ask_to_be_added(&self, at: u32, volume: &str, role: proto::Role) -> Result<(), Failure> {
        let request = proto::AddMemberRequest {
            volume: volume.to_owned(),
            role: role.into(),
            node_id: self.me.id,
            ..Default::default()
        };
        self.ask(at, Request::AddMember(request)).await?;
        tracing::info!(volume, role = role.as_str_name(), by = self.cluster().name_of(at), "member_added");
        Ok(())
    }

    /// Asks a node whose replica is in sync to take this one's replica, or its being the tie-breaker, from it.
    pub(crate) async fn ask_to_be_removed(&self, at: u32, volume: &str) -> Result<(), Failure> {
        let request =
            proto::RemoveMemberRequest { volume: volume.to_owned(), node_id: self.me.id, ..Default::default() };
        self.ask(at, Request::RemoveMember(request)).await?;
        tracing::info!(volume, by = self.cluster().name_of(at), "member_removed");
        Ok(())
    }

    /// Gives this node's engine its part of a volume that exists: an empty replica, or memory without data. What it has of that stays.
    pub(crate) async fn give_part_here(&self, spec: &Spec, configuration: &[u8], replica: bool) -> Result<(), Failure> {
        let _part = self.part.lock().await;
        // Meanwhile it may have been deleted.
        if self.registry.volume(&spec.name).is_none_or(|known| known.id != spec.id) {
            return Ok(());
        }
        let request = proto::CreateReplicaRequest {
            spec: Some(proto::VolumeSpec { name: spec.name.clone(), ..Default::default() }),
            exists: true,
            configuration: configuration.to_vec(),
            replica,
        };
        rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().create_replica(request)).await?;
        tracing::info!(volume = spec.name, replica, "part_given");
        Ok(())
    }

    pub(super) async fn configuration_here(&self, volume: &str) -> Result<Vec<u8>, Failure> {
        input::check_name("volume", volume)?;
        let request = proto::GetVolumeRequest { volume: volume.to_owned() };
        let asked =
            rpc::answer(&self.engine_name(), rpc::ANSWER_WITHIN, self.engine().get_configuration(request)).await?;
        Ok(asked.configuration)
    }

    pub(super) async fn add_member_here(
        &self,
        request: proto::AddMemberRequest,
    ) -> Result<proto::VolumeStatus, Failure> {
        rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().add_member(request)).await
    }

    /// Of this node's in-sync replica: takes another node's role from it.
    pub(crate) async fn remove_member_here(
        &self,
        request: proto::RemoveMemberRequest,
    ) -> Result<proto::VolumeStatus, Failure> {
        rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().remove_member(request)).await
    }
}

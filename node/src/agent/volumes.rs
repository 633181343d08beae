//! What is asked about volumes that exist: status, list, growth, comparison, force.

use lockstep_proto::node::v1 as proto;
use proto::peer_reply::Reply;
use proto::peer_request::Request;

use super::{Agent, CHANGE_WITHIN, Keeper};
use crate::failure::{Failure, Kind};
use crate::spec::Spec;
use crate::{input, rpc};

impl Agent {
    /// The volume of this name, from this node's memory or another's.
    pub(super) async fn find_volume(&self, name: &str) -> Result<Option<Spec>, Failure> {
        input::check_name("volume", name)?;
        if let Some(spec) = self.registry.volume(name) {
            return Ok(Some(spec));
        }
        if self.keeper == Keeper::Kubernetes {
            return Ok(None);
        }
        let others: Vec<u32> = self.cluster().nodes.iter().map(|node| node.id).filter(|id| *id != self.me.id).collect();
        let request = Request::Specs(proto::ListSpecsRequest {});
        for (_, reply) in self.ask_all(&others, &request).await {
            let Ok(Reply::Specs(list)) = reply else { continue };
            if let Some(spec) = list.specs.iter().find(|spec| spec.name == name) {
                return Spec::parse(spec).map(Some);
            }
        }
        Ok(None)
    }

    /// The volume of this name, which must exist.
    pub(super) async fn volume(&self, name: &str) -> Result<Spec, Failure> {
        self.find_volume(name).await?.ok_or_else(|| Failure::unknown_volume(name))
    }

    pub(super) async fn status(&self, name: &str) -> Result<proto::VolumeStatus, Failure> {
        let spec = self.volume(name).await?;
        match self.engine_status(name).await {
            Err(failure) if failure.kind == Kind::WrongInput => Ok(self.elsewhere(&spec)),
            result => result,
        }
    }

    pub(super) async fn status_here(&self, name: &str) -> Result<proto::VolumeStatus, Failure> {
        input::check_name("volume", name)?;
        self.engine_status(name).await
    }

    pub(super) async fn list(&self) -> Result<Vec<proto::VolumeStatus>, Failure> {
        let mut volumes = self.list_here().await?;
        for spec in self.registry.volumes() {
            if volumes.iter().all(|status| status.volume != spec.name) {
                volumes.push(self.elsewhere(&spec));
            }
        }
        volumes.sort_by(|a, b| a.volume.cmp(&b.volume));
        Ok(volumes)
    }

    pub(crate) async fn list_here(&self) -> Result<Vec<proto::VolumeStatus>, Failure> {
        let mut engine = self.engine();
        let call = engine.list(proto::ListVolumesRequest {});
        let list = rpc::answer(&self.engine_name(), rpc::ANSWER_WITHIN, call).await?;
        Ok(list.volumes.into_iter().map(|status| self.complete(status)).collect())
    }

    pub(crate) async fn engine_status(&self, name: &str) -> Result<proto::VolumeStatus, Failure> {
        let request = proto::GetVolumeRequest { volume: name.to_owned() };
        let status = rpc::answer(&self.engine_name(), rpc::ANSWER_WITHIN, self.engine().get_status(request)).await?;
        Ok(self.complete(status))
    }

    /// A volume that does not run in the engine has no configuration there: what was created is known here.
    fn complete(&self, status: proto::VolumeStatus) -> proto::VolumeStatus {
        if !status.replicas.is_empty() {
            return self.with_device(status);
        }
        let Some(spec) = self.registry.volume(&status.volume) else { return status };
        let mut this = status.this_node.clone().unwrap_or_default();
        this.set_role(match (spec.replicas.contains_key(&self.me.id), spec.tie_breaker) {
            (true, _) => proto::Role::Replica,
            (false, Some(id)) if id == self.me.id => proto::Role::TieBreaker,
            _ => proto::Role::Diskless,
        });
        proto::VolumeStatus { state: status.state, this_node: Some(this), ..self.elsewhere(&spec) }
    }

    /// The engine tells the kernel's device; this node's users know it by the volume's name.
    fn with_device(&self, mut status: proto::VolumeStatus) -> proto::VolumeStatus {
        let name = self.device_path(&status.volume);
        if let Some(this) = status.this_node.as_mut().filter(|this| !this.device.is_empty())
            && name.exists()
        {
            this.device = name.display().to_string();
        }
        status
    }

    /// A volume that this node has no part of, as far as it is known here.
    fn elsewhere(&self, spec: &Spec) -> proto::VolumeStatus {
        let proto_spec = spec.to_proto();
        let name = |id: u32| self.cluster().name_of(id);
        let mut status = proto::VolumeStatus {
            volume: proto_spec.name,
            id: proto_spec.id,
            size_bytes: proto_spec.size_bytes,
            generation: proto_spec.generation,
            ack: proto_spec.ack,
            on_quorum_loss: proto_spec.on_quorum_loss,
            access: proto_spec.access,
            arbiter: proto_spec.arbiter,
            policing: match proto_spec.policing_shards {
                0 => proto::Policing::Peer,
                _ => proto::Policing::Lease,
            }
            .into(),
            policing_shards: proto_spec.policing_shards,
            tie_breaker: spec.tie_breaker.map(name).unwrap_or_default(),
            tie_breaker_id: spec.tie_breaker.unwrap_or(0),
            voters: spec.voters().map(name).collect(),
            replicas: spec
                .replicas
                .keys()
                .map(|id| proto::ReplicaStatus { node: name(*id), node_id: *id, in_sync: false, joining: false })
                .collect(),
            this_node: Some(proto::ThisNode { node: self.me.name.clone(), ..Default::default() }),
            ..Default::default()
        };
        status.set_state(proto::VolumeState::Elsewhere);
        status
    }

    pub(super) async fn resize(&self, request: proto::ResizeVolumeRequest) -> Result<proto::VolumeStatus, Failure> {
        input::check_size(request.size_bytes)?;
        let spec = self.volume(&request.volume).await?;
        let status = self.engine_status(&spec.name).await.map_err(|failure| self.name_members(&spec, failure))?;
        if request.size_bytes < status.size_bytes {
            let message =
                format!("is less than the volume's {}: volumes only grow", input::show_bytes(status.size_bytes));
            return Err(Failure::wrong_input("size", input::show_exact(request.size_bytes), message));
        }
        self.check_pools(&spec, request.size_bytes).await?;
        let status = rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().resize(request)).await?;
        Ok(self.with_device(status))
    }

    /// The same without asking the pools of the others: who asks has done that.
    pub(crate) async fn resize_here(&self, request: proto::ResizeVolumeRequest) -> Result<(), Failure> {
        rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().resize(request)).await.map(drop)
    }

    async fn check_pools(&self, spec: &Spec, size_bytes: u64) -> Result<(), Failure> {
        let ids: Vec<u32> = spec.replicas.keys().copied().collect();
        for (id, reply) in self.ask_all(&ids, &Request::Describe(proto::GetNodeRequest {})).await {
            // An absent replica grows when it comes back; its pool cannot be asked now.
            let Ok(Reply::Describe(node)) = reply else { continue };
            if let Some(pool) = node.pool.filter(|pool| pool.ready && pool.size_bytes < size_bytes) {
                let most = input::show_bytes(pool.size_bytes);
                let message =
                    format!("is larger than the pool of node {} has: at most {most} fit", self.cluster().name_of(id));
                return Err(Failure::wrong_input("size", input::show_exact(size_bytes), message));
            }
        }
        Ok(())
    }

    /// A volume that exists and is not known to this node's engine is another node's to change.
    pub(super) fn name_members(&self, spec: &Spec, failure: Failure) -> Failure {
        if failure.kind != Kind::WrongInput {
            return failure;
        }
        let nodes: Vec<String> = spec.replicas.keys().map(|id| self.cluster().name_of(*id)).collect();
        let (me, name) = (&self.me.name, &spec.name);
        Failure::state_forbids(format!("node {me} has no part of volume {name:?}: ask {}", nodes.join(" or ")))
    }

    pub(super) async fn verify(
        &self,
        request: proto::VerifyVolumeRequest,
    ) -> Result<tonic::Streaming<proto::Verify>, Failure> {
        let spec = self.volume(&request.volume).await?;
        if !request.repair_from.is_empty() {
            let cluster = self.cluster();
            let source = cluster.node(&request.repair_from).filter(|node| spec.replicas.contains_key(&node.id));
            if source.is_none() {
                let message = "is not a node with a replica of this volume";
                return Err(Failure::wrong_input("repair_from", &request.repair_from, message));
            }
        }
        rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().verify(request))
            .await
            .map_err(|failure| self.name_members(&spec, failure))
    }

    /// Goes on with this node's replica alone, or gives it up for the others': both may lose what somebody was told is safe.
    pub(super) async fn force(
        &self,
        request: proto::ForceVolumeRequest,
        choice: Choice,
    ) -> Result<proto::VolumeStatus, Failure> {
        if !request.accept_data_loss {
            let message = match choice {
                Choice::Force => "must be given: the other replicas' newer data, if they have any, is given up",
                Choice::Rejoin => "must be given: what only this node's replica holds is given up",
            };
            return Err(Failure::wrong_input("i_accept_data_loss", "false", message));
        }
        let spec = self.volume(&request.volume).await?;
        let mut engine = self.engine();
        let status = match choice {
            Choice::Force => rpc::answer(&self.engine_name(), CHANGE_WITHIN, engine.force(request)).await,
            Choice::Rejoin => rpc::answer(&self.engine_name(), CHANGE_WITHIN, engine.rejoin(request)).await,
        };
        Ok(self.with_device(status.map_err(|failure| self.name_members(&spec, failure))?))
    }

    /// What this node's engine makes of a volume, by that call.
    async fn change(
        &self,
        volume: &str,
        call: impl Future<Output = Result<tonic::Response<proto::VolumeStatus>, tonic::Status>>,
    ) -> Result<proto::VolumeStatus, Failure> {
        let spec = self.volume(volume).await?;
        let status = rpc::answer(&self.engine_name(), CHANGE_WITHIN, call).await;
        Ok(self.with_device(status.map_err(|failure| self.name_members(&spec, failure))?))
    }

    pub(crate) async fn set_priority(
        &self,
        request: proto::SetPriorityRequest,
    ) -> Result<proto::VolumeStatus, Failure> {
        let volume = request.volume.clone();
        self.change(&volume, self.engine().set_priority(request)).await
    }

    pub(crate) async fn set_ack(&self, request: proto::SetAckRequest) -> Result<proto::VolumeStatus, Failure> {
        let volume = request.volume.clone();
        self.change(&volume, self.engine().set_ack(request)).await
    }

    /// All grants of a volume move to a node, which may be another one.
    pub(super) async fn migrate(
        &self,
        request: proto::MigrateVolumeRequest,
    ) -> Result<proto::MigrateVolumeReply, Failure> {
        let spec = self.volume(&request.volume).await?;
        let cluster = self.cluster();
        let node = cluster.nodes.iter().find(|node| node.name == request.to);
        let node = node.ok_or_else(|| Failure::wrong_input("to", &request.to, "no node has this name"))?;
        let take = proto::TakeGrantsRequest { volume: spec.name.clone() };
        match self.ask(node.id, Request::TakeGrants(take)).await? {
            Reply::TakeGrants(reply) => Ok(reply),
            _ => Err(Failure::other(format!("node {} gives another answer", node.name))),
        }
    }

    pub(super) async fn take_grants_here(
        &self,
        request: proto::TakeGrantsRequest,
    ) -> Result<proto::MigrateVolumeReply, Failure> {
        rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().take_grants(request)).await
    }

    pub(crate) async fn limit_resync(
        &self,
        request: proto::LimitResyncRequest,
    ) -> Result<proto::VolumeStatus, Failure> {
        let volume = request.volume.clone();
        self.change(&volume, self.engine().limit_resync(request)).await
    }
}

/// What an operator decides about two generations of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This node's replica is the right one.
    Force,
    /// The others' is.
    Rejoin,
}

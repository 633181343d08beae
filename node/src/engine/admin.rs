//! The service on the worker's socket.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_core::{Ack, Command, NodeId, Reply, Role, Setting};
use lockstep_engine::VolumeStatus;
use lockstep_proto::node::v1 as proto;
use lockstep_proto::node::v1::engine_server::Engine;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::attachments::{class_of, run};
use super::status;
use super::worker::Worker;
use crate::failure::Failure;
use crate::spec::Spec;
use crate::{input, spec};

/// How often the progress of a comparison is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// The service.
pub(super) struct EngineService(pub(super) Arc<Worker>);

fn answer<T>(result: Result<T, Failure>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(Status::from)
}

impl Worker {
    fn describe(&self, status: &VolumeStatus) -> proto::VolumeStatus {
        let rate = match status.core.resync {
            Some(progress) => self.resync_meters.look(&status.name, progress.bytes_done, Instant::now()),
            None => {
                self.resync_meters.forget(&status.name);
                None
            }
        };
        let mut out = status::to_proto(status, &self.place.nodes.get(), rate);
        if let (Some(this), Some(attachment)) = (out.this_node.as_mut(), self.attachments.get(&status.name)) {
            this.restart_visible = self.attachments.restart_visible(&attachment).unwrap_or_default();
            this.front_end = attachment.front_end;
            this.device = attachment.device;
            this.socket = attachment.socket;
        }
        out.api_server_trouble =
            self.engine().ok().and_then(|engine| engine.api_server_trouble(status.volume)).unwrap_or_default();
        out.verify = self.verifies.lock().expect("no holder panics").get(&status.name).cloned();
        if let (Some(verify), Some(progress)) = (out.verify.as_mut(), status.core.verify) {
            verify.bytes_done = progress.bytes_done;
            verify.bytes_total = progress.bytes_total;
        }
        out
    }

    async fn status(&self, volume: &str) -> Result<proto::VolumeStatus, Failure> {
        let engine = self.engine()?;
        match engine.status(volume).await {
            Ok(status) => Ok(self.describe(&status)),
            // It is there and does not run: that is its status.
            Err(failure) => engine.describe_absent(volume).ok_or(failure),
        }
    }

    fn node_named(&self, field: &'static str, name: &str) -> Result<NodeId, Failure> {
        let id = self.place.nodes.get().node(name).map(|node| node.id);
        id.map(NodeId).ok_or_else(|| Failure::wrong_input(field, name, "no node has this name"))
    }

    /// A member of which the request gives the name or the number.
    fn member(&self, name: &str, id: u32) -> Result<NodeId, Failure> {
        if id == 0 { self.node_named("node", name) } else { Ok(NodeId(id)) }
    }

    async fn command(&self, volume: &str, command: Command) -> Result<proto::VolumeStatus, Failure> {
        run(&*self.engine()?, volume, command).await?;
        self.status(volume).await
    }

    fn identity(&self) -> proto::EngineIdentity {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        match self.engine() {
            Ok(engine) => {
                let identity = engine.identity();
                proto::EngineIdentity {
                    node_id: identity.node.0,
                    incarnation: identity.incarnation.0,
                    boot_id: format!("{:016x}", identity.boot.0),
                    ready: true,
                    reason: String::new(),
                    version,
                    pool: engine.pool().map(|path| path.display().to_string()).unwrap_or_default(),
                    pool_file_system: engine.pool_file_system().unwrap_or_default(),
                }
            }
            Err(failure) => proto::EngineIdentity {
                node_id: self.place.me.id,
                reason: failure.message,
                version,
                ..Default::default()
            },
        }
    }

    fn learn(&self, learned: &proto::DedicatedAddress) -> Result<(), Failure> {
        let wrong = |reason| Failure::wrong_input("address", &learned.address, reason);
        let cluster = self.place.nodes.get();
        let node = cluster.node_by_id(learned.node_id).ok_or_else(|| wrong("is no node's of this cluster"))?;
        let address = learned.address.parse().map_err(|_| wrong("is not an address"))?;
        if !node.dedicated.is_some_and(|dedicated| dedicated.contains(address)) {
            return Err(wrong("is not in the node's dedicated network"));
        }
        self.engine()?.learn_dedicated(node, address);
        Ok(())
    }

    /// Waits for the loops and the disk.
    fn learn_nodes(&self, request: &proto::LearnNodesRequest) -> Result<(), Failure> {
        let engine = self.engine()?;
        let forgotten = &request.forget_node_ids;
        self.place
            .nodes
            .learn(request, |cluster, nodes| engine.learn_nodes(cluster, (nodes, forgotten), &self.place.me))
    }

    /// Compares, and keeps the state of the comparison for whoever asks for the status.
    async fn verify(
        self: Arc<Self>,
        volume: String,
        command: Command,
        told: tokio::sync::mpsc::Sender<Result<proto::Verify, Status>>,
    ) -> Result<proto::Verify, Failure> {
        let engine = self.engine()?;
        let size_bytes = self.status(&volume).await?.size_bytes;
        let mut answer = engine.command(&volume, command)?;
        let started = proto::Verify { active: true, bytes_total: size_bytes, ..Default::default() };
        self.put_verify(&volume, started.clone());
        let mut tick = tokio::time::interval(TELL_EVERY);
        let reply = loop {
            tokio::select! {
                reply = &mut answer => break reply,
                _ = tick.tick() => {}
            }
            let mut state = started.clone();
            if let Some(progress) = engine.status(&volume).await.ok().and_then(|status| status.core.verify) {
                state.bytes_done = progress.bytes_done;
                state.bytes_total = progress.bytes_total;
                let rate = self.verify_meters.look(&volume, progress.bytes_done, Instant::now());
                state.bytes_per_second = rate.map_or(0, |rate| rate.bytes_per_second);
                state.seconds_left = rate.and_then(|rate| rate.seconds_left(progress.bytes_done, progress.bytes_total));
                self.put_verify(&volume, state.clone());
            }
            // A caller who reads slowly misses steps, a caller who went away misses all: the comparison goes on.
            let _ = told.try_send(Ok(state));
        };
        self.verify_meters.forget(&volume);
        match reply {
            Ok(reply) => {
                let done = verify_result(reply, size_bytes);
                self.put_verify(&volume, done.clone());
                Ok(done)
            }
            Err(failure) => {
                self.verifies.lock().expect("no holder panics").remove(&volume);
                Err(failure)
            }
        }
    }

    fn put_verify(&self, volume: &str, verify: proto::Verify) {
        self.verifies.lock().expect("no holder panics").insert(volume.to_owned(), verify);
    }
}

fn verify_result(reply: Reply, size_bytes: u64) -> proto::Verify {
    let bytes = |blocks: u64| blocks * lockstep_core::range::BLOCK_BYTES;
    let mut done = proto::Verify { done: true, bytes_done: size_bytes, bytes_total: size_bytes, ..Default::default() };
    if let Reply::Verified { blocks, different, repaired } = reply {
        done.bytes_done = bytes(blocks);
        done.bytes_total = bytes(blocks);
        done.bytes_different = bytes(different);
        done.bytes_repaired = bytes(repaired);
    }
    done
}

#[tonic::async_trait]
impl Engine for EngineService {
    type VerifyStream = Pin<Box<dyn Stream<Item = Result<proto::Verify, Status>> + Send>>;

    async fn get_identity(
        &self,
        _: Request<proto::GetIdentityRequest>,
    ) -> Result<Response<proto::EngineIdentity>, Status> {
        Ok(Response::new(self.0.identity()))
    }

    async fn open_pool(
        &self,
        request: Request<proto::OpenPoolRequest>,
    ) -> Result<Response<proto::EngineIdentity>, Status> {
        let path = std::path::PathBuf::from(request.into_inner().path);
        answer(self.0.open_pool(&path).map(|()| self.0.identity()))
    }

    async fn learn_addresses(
        &self,
        request: Request<proto::LearnAddressesRequest>,
    ) -> Result<Response<proto::LearnAddressesReply>, Status> {
        let learned = request.into_inner().addresses.iter().try_for_each(|learned| self.0.learn(learned));
        answer(learned.map(|()| proto::LearnAddressesReply {}))
    }

    async fn learn_nodes(
        &self,
        request: Request<proto::LearnNodesRequest>,
    ) -> Result<Response<proto::LearnNodesReply>, Status> {
        let worker = Arc::clone(&self.0);
        let work = move || worker.learn_nodes(&request.into_inner());
        let learned =
            tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Failure::other(error.to_string())));
        answer(learned.map(|()| proto::LearnNodesReply {}))
    }

    async fn create_replica(
        &self,
        request: Request<proto::CreateReplicaRequest>,
    ) -> Result<Response<proto::CreateReplicaReply>, Status> {
        let proto::CreateReplicaRequest { spec, exists, configuration, replica } = request.into_inner();
        let created = async {
            let (engine, spec) = (self.0.engine()?, spec.unwrap_or_default());
            if !exists || configuration.is_empty() {
                return engine.create(&Spec::parse(&spec)?, exists).await;
            }
            input::check_name("name", &spec.name)?;
            engine.give_part(&spec.name, &configuration, replica).await
        };
        answer(created.await.map(|()| proto::CreateReplicaReply {}))
    }

    async fn get_configuration(
        &self,
        request: Request<proto::GetVolumeRequest>,
    ) -> Result<Response<proto::VolumeConfiguration>, Status> {
        let told = async { self.0.engine()?.configuration(&request.into_inner().volume).await };
        answer(told.await.map(|configuration| proto::VolumeConfiguration { configuration }))
    }

    async fn add_member(
        &self,
        request: Request<proto::AddMemberRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        let request = request.into_inner();
        let added = async {
            let role = match request.role() {
                proto::Role::Replica => Role::Replica,
                proto::Role::TieBreaker => Role::TieBreaker,
                proto::Role::Unspecified | proto::Role::Diskless => {
                    return Err(Failure::wrong_input("role", "", "must be replica or tie-breaker"));
                }
            };
            let node = self.0.member(&request.node, request.node_id)?;
            let instead_of = match request.instead_of.as_str() {
                "" => None,
                name => Some(self.0.node_named("instead_of", name)?),
            };
            self.0.command(&request.volume, Command::AddMember { node, role, instead_of }).await
        };
        answer(added.await)
    }

    async fn remove_member(
        &self,
        request: Request<proto::RemoveMemberRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        let request = request.into_inner();
        let removed = async {
            let node = self.0.member(&request.node, request.node_id)?;
            self.0.command(&request.volume, Command::RemoveMember { node }).await
        };
        answer(removed.await)
    }

    async fn delete_replica(
        &self,
        request: Request<proto::DeleteReplicaRequest>,
    ) -> Result<Response<proto::DeleteReplicaReply>, Status> {
        let request = request.into_inner();
        let deleted = async {
            input::check_name("volume", &request.volume)?;
            let id = match request.id.as_str() {
                "" => None,
                id => Some(spec::parse_id(id)?),
            };
            self.0.engine()?.delete(&request.volume, id).await
        };
        answer(deleted.await.map(|existed| proto::DeleteReplicaReply { existed }))
    }

    async fn attach(
        &self,
        request: Request<proto::EngineAttachRequest>,
    ) -> Result<Response<proto::Attachment>, Status> {
        let engine = self.0.engine()?;
        let (worker, request) = (Arc::clone(&self.0), request.into_inner());
        // This future is dropped with its caller, in the middle of anything. What it began ends in a task of its own, which hears of
        // that.
        let (_caller, gone) = tokio::sync::oneshot::channel();
        let attaching = tokio::spawn(async move { worker.attachments.attach(&engine, &request, gone).await });
        let attachment = attaching.await.unwrap_or_else(|error| Err(Failure::other(error.to_string())));
        let node = self.0.place.me.name.clone();
        answer(attachment.map(|attachment| proto::Attachment { node, ..attachment }))
    }

    async fn detach(
        &self,
        request: Request<proto::EngineDetachRequest>,
    ) -> Result<Response<proto::DetachVolumeReply>, Status> {
        let engine = self.0.engine()?;
        let proto::EngineDetachRequest { volume, force } = request.into_inner();
        let detached = self.0.attachments.detach(&engine, &volume, force).await;
        answer(detached.map(|was_attached| proto::DetachVolumeReply { was_attached }))
    }

    async fn get_status(
        &self,
        request: Request<proto::GetVolumeRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        answer(self.0.status(&request.into_inner().volume).await)
    }

    async fn list(&self, _: Request<proto::ListVolumesRequest>) -> Result<Response<proto::ListVolumesReply>, Status> {
        let volumes = self.0.engine()?.list().await;
        let volumes = volumes
            .into_iter()
            .map(|volume| volume.map_or_else(|absent| absent, |status| self.0.describe(&status)))
            .collect();
        Ok(Response::new(proto::ListVolumesReply { volumes }))
    }

    async fn resize(
        &self,
        request: Request<proto::ResizeVolumeRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        let request = request.into_inner();
        let resized = async {
            input::check_size(request.size_bytes)?;
            let blocks = request.size_bytes / input::BLOCK_BYTES;
            let status = self.0.command(&request.volume, Command::Resize { blocks }).await?;
            // The device follows by itself; the caller should see it when the answer comes.
            if let Err(failure) = self.0.attachments.follow_growth(&self.0.engine()?).await {
                tracing::warn!(volume = request.volume, %failure, "device does not grow yet");
            }
            Ok(status)
        };
        answer(resized.await)
    }

    async fn verify(
        &self,
        request: Request<proto::VerifyVolumeRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let request = request.into_inner();
        let repair_from = match request.repair_from.as_str() {
            "" => None,
            name => Some(self.0.node_named("repair_from", name)?),
        };
        let (told, received) = tokio::sync::mpsc::channel(4);
        let worker = Arc::clone(&self.0);
        tokio::spawn(async move {
            let done = worker.verify(request.volume, Command::Verify { repair_from }, told.clone()).await;
            // Nobody listens any more: the result is in the status.
            let _ = told.send(done.map_err(Status::from)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(received))))
    }

    async fn force(
        &self,
        request: Request<proto::ForceVolumeRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        let request = request.into_inner();
        if !request.accept_data_loss {
            return Err(Failure::wrong_input("accept_data_loss", false, "must be given").into());
        }
        answer(self.0.command(&request.volume, Command::Force).await)
    }

    async fn rejoin(
        &self,
        request: Request<proto::ForceVolumeRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        let request = request.into_inner();
        if !request.accept_data_loss {
            return Err(Failure::wrong_input("accept_data_loss", false, "must be given").into());
        }
        answer(self.0.command(&request.volume, Command::Rejoin).await)
    }

    async fn set_priority(
        &self,
        request: Request<proto::SetPriorityRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        let request = request.into_inner();
        let unknown = || Failure::wrong_input("priority", "", "must be low, normal or high");
        let class = class_of(request.priority()).ok_or_else(unknown)?;
        answer(self.0.command(&request.volume, Command::Set(Setting::Priority(class))).await)
    }

    async fn set_ack(&self, request: Request<proto::SetAckRequest>) -> Result<Response<proto::VolumeStatus>, Status> {
        let request = request.into_inner();
        let ack = match request.ack() {
            proto::Ack::Disk => Ack::Disk,
            proto::Ack::Durable => Ack::Durable,
            proto::Ack::Unspecified => return Err(Failure::wrong_input("ack", "", "must be disk or durable").into()),
        };
        answer(self.0.command(&request.volume, Command::Set(Setting::Ack(ack))).await)
    }

    async fn take_grants(
        &self,
        request: Request<proto::TakeGrantsRequest>,
    ) -> Result<Response<proto::MigrateVolumeReply>, Status> {
        let engine = self.0.engine()?;
        let started = std::time::Instant::now();
        let taken = run(&engine, &request.into_inner().volume, Command::TakeGrants).await;
        let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        answer(taken.map(|_| proto::MigrateVolumeReply { took_us }))
    }

    async fn limit_resync(
        &self,
        request: Request<proto::LimitResyncRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        let proto::LimitResyncRequest { volume, bytes_per_second } = request.into_inner();
        answer(self.0.command(&volume, Command::SetResyncRate { bytes_per_second }).await)
    }

    async fn leave(&self, request: Request<proto::LeaveRequest>) -> Result<Response<proto::LeaveReply>, Status> {
        let engine = self.0.engine()?;
        let left = run(&engine, &request.into_inner().volume, Command::Leave).await;
        answer(left.map(|_| proto::LeaveReply {}))
    }

    async fn shutdown(
        &self,
        request: Request<proto::ShutdownRequest>,
    ) -> Result<Response<proto::ShutdownReply>, Status> {
        self.0.host_goes_down.store(request.into_inner().host_goes_down, std::sync::atomic::Ordering::Relaxed);
        self.0.end.notify_one();
        Ok(Response::new(proto::ShutdownReply {}))
    }
}

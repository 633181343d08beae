//! The service that the command line calls: each call is one function of the agent.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::node::v1 as proto;
use lockstep_proto::node::v1::node_server::Node;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::Agent;
use super::volumes::Choice;
use crate::failure::Failure;

/// Events that wait for a caller who reads slowly.
const EVENTS_QUEUED_MAX: usize = 16;

/// How often a watched status is sent, if its watcher does not say.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// The fastest that a watcher may ask for: a status costs the engine's loop a little.
const WATCH_EVERY_MIN: Duration = Duration::from_millis(50);

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service on the agent's socket.
pub(super) struct NodeService(pub(super) Arc<Agent>);

fn answer<T>(result: Result<T, Failure>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(Status::from)
}

#[tonic::async_trait]
impl Node for NodeService {
    type AttachVolumeStream = Events<proto::AttachVolumeEvent>;
    type WatchVolumeStream = Events<proto::VolumeStatus>;
    type VerifyVolumeStream = Events<proto::Verify>;

    async fn create_volume(
        &self,
        request: Request<proto::CreateVolumeRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        // A caller who goes away does not leave half a volume: the work goes on by itself.
        let agent = Arc::clone(&self.0);
        let work = tokio::spawn(async move { agent.create(request.into_inner()).await });
        answer(work.await.unwrap_or_else(|error| Err(Failure::of_host("create the volume", &error))))
    }

    async fn attach_volume(
        &self,
        request: Request<proto::AttachVolumeRequest>,
    ) -> Result<Response<Self::AttachVolumeStream>, Status> {
        let (events, received) = mpsc::channel(EVENTS_QUEUED_MAX);
        let agent = Arc::clone(&self.0);
        tokio::spawn(async move {
            let attached = agent.attach(request.into_inner(), &events).await;
            let event = attached.map_err(Status::from).map(|attachment| proto::AttachVolumeEvent {
                event: Some(proto::attach_volume_event::Event::Attached(attachment)),
            });
            // Nobody listens any more: the attachment is seen in the status.
            let _ = events.send(event).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(received))))
    }

    async fn detach_volume(
        &self,
        request: Request<proto::DetachVolumeRequest>,
    ) -> Result<Response<proto::DetachVolumeReply>, Status> {
        let detached = self.0.detach(&request.into_inner().volume).await;
        answer(detached.map(|was_attached| proto::DetachVolumeReply { was_attached }))
    }

    async fn get_volume(
        &self,
        request: Request<proto::GetVolumeRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        answer(self.0.status(&request.into_inner().volume).await)
    }

    async fn list_volumes(
        &self,
        _: Request<proto::ListVolumesRequest>,
    ) -> Result<Response<proto::ListVolumesReply>, Status> {
        answer(self.0.list().await.map(|volumes| proto::ListVolumesReply { volumes }))
    }

    async fn watch_volume(
        &self,
        request: Request<proto::WatchVolumeRequest>,
    ) -> Result<Response<Self::WatchVolumeStream>, Status> {
        let request = request.into_inner();
        let every = match request.interval_ms {
            0 => WATCH_EVERY,
            given => Duration::from_millis(given).max(WATCH_EVERY_MIN),
        };
        let agent = Arc::clone(&self.0);
        let (events, received) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(every);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                let status = agent.status(&request.volume).await.map_err(Status::from);
                let last = status.is_err();
                if events.send(status).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(received))))
    }

    async fn resize_volume(
        &self,
        request: Request<proto::ResizeVolumeRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        answer(self.0.resize(request.into_inner()).await)
    }

    async fn verify_volume(
        &self,
        request: Request<proto::VerifyVolumeRequest>,
    ) -> Result<Response<Self::VerifyVolumeStream>, Status> {
        let stream = self.0.verify(request.into_inner()).await?;
        // The engine's details would be lost on the way through a status of ours without this.
        let stream = stream.map(|message| message.map_err(|status| Failure::of_status(&status).into()));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn delete_volume(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Result<Response<proto::DeleteVolumeReply>, Status> {
        let agent = Arc::clone(&self.0);
        let work = tokio::spawn(async move { agent.delete(request.into_inner()).await });
        answer(work.await.unwrap_or_else(|error| Err(Failure::of_host("delete the volume", &error))))
    }

    async fn force_volume(
        &self,
        request: Request<proto::ForceVolumeRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        answer(self.0.force(request.into_inner(), Choice::Force).await)
    }

    async fn rejoin_volume(
        &self,
        request: Request<proto::ForceVolumeRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        answer(self.0.force(request.into_inner(), Choice::Rejoin).await)
    }

    async fn set_priority(
        &self,
        request: Request<proto::SetPriorityRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        answer(self.0.set_priority(request.into_inner()).await)
    }

    async fn set_ack(&self, request: Request<proto::SetAckRequest>) -> Result<Response<proto::VolumeStatus>, Status> {
        answer(self.0.set_ack(request.into_inner()).await)
    }

    async fn migrate_volume(
        &self,
        request: Request<proto::MigrateVolumeRequest>,
    ) -> Result<Response<proto::MigrateVolumeReply>, Status> {
        answer(self.0.migrate(request.into_inner()).await)
    }

    async fn limit_resync(
        &self,
        request: Request<proto::LimitResyncRequest>,
    ) -> Result<Response<proto::VolumeStatus>, Status> {
        answer(self.0.limit_resync(request.into_inner()).await)
    }

    async fn get_pool(&self, _: Request<proto::GetPoolRequest>) -> Result<Response<proto::Pool>, Status> {
        answer(
            self.0.describe_pool().ok_or_else(|| {
                Failure::state_forbids(format!("node {} has no pool in its cluster file", self.0.me.name))
            }),
        )
    }

    async fn get_node(&self, _: Request<proto::GetNodeRequest>) -> Result<Response<proto::NodeDescription>, Status> {
        Ok(Response::new(self.0.describe().await))
    }
}

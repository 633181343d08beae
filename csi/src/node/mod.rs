//! The Node service: parse, ask the port, answer.

mod codes;

use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::csi::v1 as proto;
use proto::node_server::Node;
use tonic::{Request, Response, Status};

use crate::in_flight::{Busy, Lane};
use crate::node_port::{
    ExpandError, ExpandOnNode, NodeDescription, NodePort, PublishError, PublishVolume, StageError, StageVolume,
    UnpublishError, UnpublishVolume, UnstageError, UnstageVolume, Usage, UsageError, VolumeAt,
};
use crate::path::AbsolutePath;
use crate::request::node as request;
use crate::volume::VolumeId;
use crate::{calls, capabilities, deadline, reply, status};

/// How long a volume's figures may take. A statfs(2) on a device that hangs never returns; kubelet asks for every volume, in turn.
pub(crate) const USAGE_WITHIN: Duration = Duration::from_secs(5);

/// Longest node id, in bytes (the specification's own limit for this field).
const NODE_ID_BYTES_MAX: usize = 256;

/// A place about which kubelet asks.
type Place = (VolumeId, AbsolutePath);

/// The Node service over a port.
pub(crate) struct NodeService<P> {
    port: Arc<P>,
    stage: Lane<VolumeId, StageVolume, Result<(), StageError>>,
    unstage: Lane<VolumeId, UnstageVolume, Result<(), UnstageError>>,
    publish: Lane<VolumeId, PublishVolume, Result<(), PublishError>>,
    unpublish: Lane<VolumeId, UnpublishVolume, Result<(), UnpublishError>>,
    expand: Lane<VolumeId, ExpandOnNode, Result<u64, ExpandError>>,
    usage: Lane<Place, VolumeAt, Result<Usage, UsageError>>,
}

impl<P: NodePort> NodeService<P> {
    pub(crate) fn new(port: Arc<P>) -> Self {
        let busy = Busy::new();
        Self {
            port,
            stage: Lane::new(&busy),
            unstage: Lane::new(&busy),
            publish: Lane::new(&busy),
            unpublish: Lane::new(&busy),
            expand: Lane::new(&busy),
            // Whoever only looks is in nobody's way; one that hangs is waited for by the next, so that they do not pile up.
            usage: Lane::new(&Busy::new()),
        }
    }
}

#[tonic::async_trait]
impl<P: NodePort> Node for NodeService<P> {
    async fn node_stage_volume(
        &self,
        call: Request<proto::NodeStageVolumeRequest>,
    ) -> Result<Response<proto::NodeStageVolumeResponse>, Status> {
        let within = deadline::within(call.metadata());
        let request = request::parse_stage(call.into_inner())?;
        calls::concerns(&request.id);
        let (port, wanted) = (Arc::clone(&self.port), request.clone());
        let work = async move { port.stage_volume(wanted, within).await };
        let staged = self.stage.run(request.id.clone(), request, work).await?;
        staged.map_err(|error| status::of(codes::of_stage(&error), &error))?;
        Ok(Response::new(proto::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        call: Request<proto::NodeUnstageVolumeRequest>,
    ) -> Result<Response<proto::NodeUnstageVolumeResponse>, Status> {
        let within = deadline::within(call.metadata());
        if let Some(request) = request::parse_unstage(call.get_ref())? {
            calls::concerns(&request.id);
            let (port, wanted) = (Arc::clone(&self.port), request.clone());
            let work = async move { port.unstage_volume(wanted, within).await };
            let unstaged = self.unstage.run(request.id.clone(), request, work).await?;
            unstaged.map_err(|error| status::of(codes::of_unstage(&error), &error))?;
        }
        Ok(Response::new(proto::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        call: Request<proto::NodePublishVolumeRequest>,
    ) -> Result<Response<proto::NodePublishVolumeResponse>, Status> {
        let within = deadline::within(call.metadata());
        let request = request::parse_publish(call.into_inner())?;
        calls::concerns(&request.id);
        let (port, wanted) = (Arc::clone(&self.port), request.clone());
        let work = async move { port.publish_volume(wanted, within).await };
        let published = self.publish.run(request.id.clone(), request, work).await?;
        published.map_err(|error| status::of(codes::of_publish(&error), &error))?;
        Ok(Response::new(proto::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        call: Request<proto::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<proto::NodeUnpublishVolumeResponse>, Status> {
        let within = deadline::within(call.metadata());
        if let Some(request) = request::parse_unpublish(call.get_ref())? {
            calls::concerns(&request.id);
            let (port, wanted) = (Arc::clone(&self.port), request.clone());
            let work = async move { port.unpublish_volume(wanted, within).await };
            let unpublished = self.unpublish.run(request.id.clone(), request, work).await?;
            unpublished.map_err(|error| status::of(codes::of_unpublish(&error), &error))?;
        }
        Ok(Response::new(proto::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        call: Request<proto::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<proto::NodeGetVolumeStatsResponse>, Status> {
        let at = request::parse_usage(call.get_ref())?;
        calls::concerns(&at.id);
        let (port, wanted) = (Arc::clone(&self.port), at.clone());
        let place = (at.id.clone(), at.volume_path.clone());
        let asked = self.usage.run(place, at, async move { port.usage(wanted).await });
        let found = tokio::time::timeout(USAGE_WITHIN, asked)
            .await
            // The question is still with the device: that it may be running is the truth.
            .map_err(|_| {
                Status::deadline_exceeded("the volume's figures were not there in time: its device hangs")
            })??;
        let usage = reply::usage(found.map_err(|error| status::of(codes::of_usage(&error), &error))?);
        Ok(Response::new(proto::NodeGetVolumeStatsResponse { usage }))
    }

    async fn node_expand_volume(
        &self,
        call: Request<proto::NodeExpandVolumeRequest>,
    ) -> Result<Response<proto::NodeExpandVolumeResponse>, Status> {
        let within = deadline::within(call.metadata());
        let request = request::parse_expand(call.into_inner())?;
        calls::concerns(&request.at.id);
        let (port, wanted) = (Arc::clone(&self.port), request.clone());
        let work = async move { port.expand_volume(wanted, within).await };
        let expanded = self.expand.run(request.at.id.clone(), request, work).await?;
        let size_bytes = expanded.map_err(|error| status::of(codes::of_expand(&error), &error))?;
        Ok(Response::new(proto::NodeExpandVolumeResponse { capacity_bytes: reply::bytes(size_bytes) }))
    }

    async fn node_get_volume_health(
        &self,
        call: Request<proto::NodeGetVolumeHealthRequest>,
    ) -> Result<Response<proto::NodeGetVolumeHealthResponse>, Status> {
        let query = request::parse_health(call.get_ref())?;
        let id = query.id.clone();
        let found = self.port.volume_health(query).await;
        let conditions = found.map_err(|error| status::of(codes::of_health(&error), &error))?;
        let volume_health = Some(reply::volume_health(&id, conditions));
        Ok(Response::new(proto::NodeGetVolumeHealthResponse { volume_health }))
    }

    async fn node_get_storage_health(
        &self,
        _: Request<proto::NodeGetStorageHealthRequest>,
    ) -> Result<Response<proto::NodeGetStorageHealthResponse>, Status> {
        let found = self.port.storage_health().await;
        let conditions = found.map_err(|error| status::of(codes::of_health(&error), &error))?;
        let backend_health = conditions.into_iter().map(reply::storage_health).collect();
        Ok(Response::new(proto::NodeGetStorageHealthResponse { backend_health }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<proto::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<proto::NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(proto::NodeGetCapabilitiesResponse { capabilities: capabilities::of_node() }))
    }

    async fn node_get_info(
        &self,
        _: Request<proto::NodeGetInfoRequest>,
    ) -> Result<Response<proto::NodeGetInfoResponse>, Status> {
        let found = self.port.describe().await;
        let NodeDescription { node_id, volumes_max, topology } =
            found.map_err(|error| status::of(codes::of_describe(&error), &error))?;
        if node_id.is_empty() || node_id.len() > NODE_ID_BYTES_MAX {
            return Err(Status::internal(format!("the node's id has {} bytes", node_id.len())));
        }
        Ok(Response::new(proto::NodeGetInfoResponse {
            node_id,
            max_volumes_per_node: volumes_max.map_or(0, i64::from),
            accessible_topology: Some(reply::topology(topology)),
        }))
    }
}

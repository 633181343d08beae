//! The Controller service: parse, ask the port, answer.

mod codes;

use std::sync::Arc;

use lockstep_proto::csi::v1 as proto;
use proto::controller_server::Controller;
use tonic::{Request, Response, Status};

use crate::controller_port::{
    ControllerPort, CreateError, CreateVolume, DeleteError, ExpandError, Listed, ModifyError, Parameters, Verdict,
    Volume,
};
use crate::in_flight::{Busy, Lane};
use crate::request::controller::{self as request, Question};
use crate::request::token;
use crate::volume::VolumeId;
use crate::{calls, capabilities, capacity, deadline, reply, status};

/// The Controller service over a port.
pub(crate) struct ControllerService<P> {
    port: Arc<P>,
    create: Lane<VolumeId, CreateVolume, Result<Volume, CreateError>>,
    delete: Lane<VolumeId, (), Result<(), DeleteError>>,
    expand: Lane<VolumeId, capacity::CapacityRange, Result<u64, ExpandError>>,
    modify: Lane<VolumeId, Parameters, Result<(), ModifyError>>,
}

impl<P: ControllerPort> ControllerService<P> {
    pub(crate) fn new(port: Arc<P>) -> Self {
        // One volume, one operation that changes it: of whatever kind.
        let busy = Busy::new();
        Self {
            port,
            create: Lane::new(&busy),
            delete: Lane::new(&busy),
            expand: Lane::new(&busy),
            modify: Lane::new(&busy),
        }
    }
}

#[tonic::async_trait]
impl<P: ControllerPort> Controller for ControllerService<P> {
    async fn create_volume(
        &self,
        call: Request<proto::CreateVolumeRequest>,
    ) -> Result<Response<proto::CreateVolumeResponse>, Status> {
        let within = deadline::within(call.metadata());
        let request = request::parse_create(call.into_inner())?;
        calls::concerns(&request.id);
        let (port, wanted) = (Arc::clone(&self.port), request.clone());
        let work = async move { port.create_volume(wanted, within).await };
        let created = self.create.run(request.id.clone(), request, work).await?;
        let volume = created.map_err(|error| status::of(codes::of_create(&error), &error))?;
        reply::check_volume(&volume)?;
        Ok(Response::new(proto::CreateVolumeResponse { volume: Some(reply::volume(volume)) }))
    }

    async fn delete_volume(
        &self,
        call: Request<proto::DeleteVolumeRequest>,
    ) -> Result<Response<proto::DeleteVolumeResponse>, Status> {
        let within = deadline::within(call.metadata());
        if let Some(id) = request::parse_delete(call.get_ref())? {
            calls::concerns(&id);
            let (port, wanted) = (Arc::clone(&self.port), id.clone());
            let work = async move { port.delete_volume(wanted, within).await };
            let deleted = self.delete.run(id, (), work).await?;
            deleted.map_err(|error| status::of(codes::of_delete(&error), &error))?;
        }
        Ok(Response::new(proto::DeleteVolumeResponse {}))
    }

    async fn controller_expand_volume(
        &self,
        call: Request<proto::ControllerExpandVolumeRequest>,
    ) -> Result<Response<proto::ControllerExpandVolumeResponse>, Status> {
        let within = deadline::within(call.metadata());
        let request::Expand { id, range, node_expansion_required } = request::parse_expand(call.into_inner())?;
        calls::concerns(&id);
        let (port, wanted) = (Arc::clone(&self.port), id.clone());
        let work = async move { port.expand_volume(wanted, range, within).await };
        let expanded = self.expand.run(id, range, work).await?;
        let size_bytes = expanded.map_err(|error| status::of(codes::of_expand(&error), &error))?;
        let capacity_bytes = reply::bytes(size_bytes);
        Ok(Response::new(proto::ControllerExpandVolumeResponse { capacity_bytes, node_expansion_required }))
    }

    async fn controller_modify_volume(
        &self,
        call: Request<proto::ControllerModifyVolumeRequest>,
    ) -> Result<Response<proto::ControllerModifyVolumeResponse>, Status> {
        let within = deadline::within(call.metadata());
        let (id, parameters) = request::parse_modify(call.into_inner())?;
        calls::concerns(&id);
        let (port, wanted) = (Arc::clone(&self.port), (id.clone(), parameters.clone()));
        let work = async move { port.modify_volume(wanted.0, wanted.1, within).await };
        let modified = self.modify.run(id, parameters, work).await?;
        modified.map_err(|error| status::of(codes::of_modify(&error), &error))?;
        Ok(Response::new(proto::ControllerModifyVolumeResponse {}))
    }

    async fn get_capacity(
        &self,
        call: Request<proto::GetCapacityRequest>,
    ) -> Result<Response<proto::GetCapacityResponse>, Status> {
        let query = request::parse_capacity(call.into_inner())?;
        let smallest = capacity::smallest(&query.capabilities);
        let found = self.port.capacity(query).await.map_err(|error| status::of(codes::of_capacity(&error), &error))?;
        Ok(Response::new(proto::GetCapacityResponse {
            available_capacity: reply::bytes(found.available_bytes),
            maximum_volume_size: Some(reply::bytes(found.largest_volume_bytes)),
            minimum_volume_size: Some(reply::bytes(smallest)),
        }))
    }

    async fn controller_get_volume(
        &self,
        call: Request<proto::ControllerGetVolumeRequest>,
    ) -> Result<Response<proto::ControllerGetVolumeResponse>, Status> {
        let id = request::parse_volume_id(&call.get_ref().volume_id)?;
        calls::concerns(&id);
        let volume = self.port.volume(id).await.map_err(|error| status::of(codes::of_look_up(&error), &error))?;
        Ok(Response::new(proto::ControllerGetVolumeResponse {
            volume: Some(reply::volume(volume)),
            // Where it is staged is not said: LIST_VOLUMES_PUBLISHED_NODES is for plugins with an attach step.
            status: Some(proto::controller_get_volume_response::VolumeStatus::default()),
        }))
    }

    async fn list_volumes(
        &self,
        call: Request<proto::ListVolumesRequest>,
    ) -> Result<Response<proto::ListVolumesResponse>, Status> {
        let page = request::parse_page(call.get_ref().max_entries, &call.get_ref().starting_token)?;
        let listed = self.port.list_volumes(page).await.map_err(|error| status::of(codes::of_list(&error), &error))?;
        let next_token = token::next(&listed);
        let entry = |volume| proto::list_volumes_response::Entry { volume: Some(reply::volume(volume)), status: None };
        let entries = listed.entries.into_iter().map(|(_, volume)| entry(volume)).collect();
        Ok(Response::new(proto::ListVolumesResponse { entries, next_token }))
    }

    async fn validate_volume_capabilities(
        &self,
        call: Request<proto::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<proto::ValidateVolumeCapabilitiesResponse>, Status> {
        let wire = call.into_inner();
        let failed = |error| status::of(codes::of_look_up(&error), &error);
        let verdict = match request::parse_confirm(&wire)? {
            Question::Ask(question) => self.port.confirm(question).await.map_err(failed)?,
            // No volume can be used so; whether there is this one is said first.
            Question::NotOffered { id, reason } => {
                self.port.volume(id).await.map(|_| Verdict::Refused { reason }).map_err(failed)?
            }
        };
        Ok(Response::new(confirmation(wire, verdict)))
    }

    async fn controller_get_volume_health(
        &self,
        call: Request<proto::ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<proto::ControllerGetVolumeHealthResponse>, Status> {
        let id = request::parse_volume_id(&call.get_ref().volume_id)?;
        let found = self.port.volume_health(id.clone()).await;
        let conditions = found.map_err(|error| status::of(codes::of_look_up(&error), &error))?;
        let volume_health = Some(reply::volume_health(&id, conditions));
        Ok(Response::new(proto::ControllerGetVolumeHealthResponse { volume_health }))
    }

    async fn controller_list_volume_health(
        &self,
        call: Request<proto::ControllerListVolumeHealthRequest>,
    ) -> Result<Response<proto::ControllerListVolumeHealthResponse>, Status> {
        let page = request::parse_page(call.get_ref().max_entries, &call.get_ref().starting_token)?;
        let found = self.port.list_volume_health(page).await;
        let listed: Listed<_> = found.map_err(|error| status::of(codes::of_list(&error), &error))?;
        let next_token = token::next(&listed);
        let entries = listed.entries.into_iter().map(|(id, found)| reply::volume_health(&id, found)).collect();
        Ok(Response::new(proto::ControllerListVolumeHealthResponse { entries, next_token }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<proto::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<proto::ControllerGetCapabilitiesResponse>, Status> {
        let capabilities = capabilities::of_controller();
        Ok(Response::new(proto::ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn controller_publish_volume(
        &self,
        _: Request<proto::ControllerPublishVolumeRequest>,
    ) -> Result<Response<proto::ControllerPublishVolumeResponse>, Status> {
        Err(not_advertised("staging is the attach step: PUBLISH_UNPUBLISH_VOLUME"))
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<proto::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<proto::ControllerUnpublishVolumeResponse>, Status> {
        Err(not_advertised("unstaging is the detach step: PUBLISH_UNPUBLISH_VOLUME"))
    }

    async fn create_snapshot(
        &self,
        _: Request<proto::CreateSnapshotRequest>,
    ) -> Result<Response<proto::CreateSnapshotResponse>, Status> {
        Err(not_advertised("CREATE_DELETE_SNAPSHOT"))
    }

    async fn delete_snapshot(
        &self,
        _: Request<proto::DeleteSnapshotRequest>,
    ) -> Result<Response<proto::DeleteSnapshotResponse>, Status> {
        Err(not_advertised("CREATE_DELETE_SNAPSHOT"))
    }

    async fn list_snapshots(
        &self,
        _: Request<proto::ListSnapshotsRequest>,
    ) -> Result<Response<proto::ListSnapshotsResponse>, Status> {
        Err(not_advertised("LIST_SNAPSHOTS"))
    }

    async fn get_snapshot(
        &self,
        _: Request<proto::GetSnapshotRequest>,
    ) -> Result<Response<proto::GetSnapshotResponse>, Status> {
        Err(not_advertised("GET_SNAPSHOT"))
    }
}

/// What was asked is repeated, so that callers see that all of it was looked at.
fn confirmation(
    wire: proto::ValidateVolumeCapabilitiesRequest,
    verdict: Verdict,
) -> proto::ValidateVolumeCapabilitiesResponse {
    match verdict {
        Verdict::Confirmed => proto::ValidateVolumeCapabilitiesResponse {
            confirmed: Some(proto::validate_volume_capabilities_response::Confirmed {
                volume_context: wire.volume_context,
                volume_capabilities: wire.volume_capabilities,
                parameters: wire.parameters,
                mutable_parameters: wire.mutable_parameters,
            }),
            message: String::new(),
        },
        Verdict::Refused { reason } => proto::ValidateVolumeCapabilitiesResponse { confirmed: None, message: reason },
    }
}

fn not_advertised(capability: &str) -> Status {
    Status::unimplemented(format!("{capability} is not advertised"))
}

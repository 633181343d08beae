//! The Identity service: who the plugin is, what it can do, whether it can do it now.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use lockstep_proto::csi::v1 as proto;
use proto::identity_server::Identity;
use tonic::{Request, Response, Status};

use crate::capabilities;
use crate::readiness::Readiness;

/// The driver's name, as a StorageClass, a CSIDriver object and kubelet name it.
pub const DRIVER: &str = "csi.lockstep.storage";

/// Says whether one of the plugin's services can answer.
pub(crate) type Part = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Readiness> + Send>> + Send + Sync>;

/// The Identity service of a plugin with these parts.
pub(crate) struct IdentityService {
    pub(crate) parts: Vec<Part>,
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<proto::GetPluginInfoRequest>,
    ) -> Result<Response<proto::GetPluginInfoResponse>, Status> {
        Ok(Response::new(proto::GetPluginInfoResponse {
            name: DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..proto::GetPluginInfoResponse::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<proto::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<proto::GetPluginCapabilitiesResponse>, Status> {
        let capabilities = capabilities::of_plugin();
        Ok(Response::new(proto::GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<proto::ProbeRequest>) -> Result<Response<proto::ProbeResponse>, Status> {
        let mut ready = true;
        for part in &self.parts {
            match part().await {
                Readiness::Ready => {}
                Readiness::Starting => ready = false,
                Readiness::Unhealthy { reason } => return Err(Status::failed_precondition(reason)),
            }
        }
        Ok(Response::new(proto::ProbeResponse { ready: Some(ready) }))
    }
}

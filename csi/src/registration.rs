//! How kubelet learns that the plugin is there: it finds a socket in its directory of registrations, asks what that is, connects to
//! the plugin's own socket and says what became of it. This is all that a registrar sidecar does.
//!
//! The plugin's own socket has to listen before this one appears. After kubelet restarted it finds the socket again and asks anew.

use std::future::Future;
use std::path::Path;

use lockstep_proto::pluginregistration::v1 as proto;
use proto::registration_server::{Registration, RegistrationServer};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::identity::DRIVER;
use crate::server::{ServeError, serve_by_path};
use crate::socket::Socket;

/// What kind of plugin this is, in kubelet's words.
const TYPE: &str = "CSIPlugin";

/// Versions of the specification in kubelet's count: it knows one.
const VERSIONS: [&str; 1] = ["1.0.0"];

/// What kubelet last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// Nothing yet.
    Waiting,
    /// It uses the plugin.
    Yes,
    /// It does not.
    No {
        /// Why.
        reason: String,
    },
}

struct Registrar {
    endpoint: String,
    told: watch::Sender<Registered>,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<proto::InfoRequest>) -> Result<Response<proto::PluginInfo>, Status> {
        Ok(Response::new(proto::PluginInfo {
            r#type: TYPE.to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        call: Request<proto::RegistrationStatus>,
    ) -> Result<Response<proto::RegistrationStatusResponse>, Status> {
        let proto::RegistrationStatus { plugin_registered, error } = call.into_inner();
        let told = if plugin_registered { Registered::Yes } else { Registered::No { reason: error } };
        match &told {
            Registered::No { reason } => tracing::error!(reason, "kubelet does not take the plugin"),
            Registered::Yes | Registered::Waiting => tracing::info!("kubelet uses the plugin"),
        }
        self.told.send_replace(told);
        Ok(Response::new(proto::RegistrationStatusResponse {}))
    }
}

/// Answers kubelet on `socket`, which lies in its directory of registrations, until `shutdown` is there.
///
/// `endpoint` is the path of the plugin's own socket *as kubelet sees it*. `told` gets what kubelet says.
///
/// # Errors
/// The server broke.
pub async fn serve_registration(
    socket: Socket,
    endpoint: &Path,
    told: watch::Sender<Registered>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let registrar = Registrar { endpoint: endpoint.display().to_string(), told };
    serve_by_path(Routes::new(RegistrationServer::new(registrar)), socket, shutdown).await
}

//! The plugin as a server on a unix socket.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::csi::v1 as proto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::authority::with_host_name;
use crate::calls::CallLog;
use crate::controller::ControllerService;
use crate::controller_port::ControllerPort;
use crate::identity::{IdentityService, Part};
use crate::node::NodeService;
use crate::node_port::NodePort;
use crate::socket::{File, Socket};

/// How long running calls may take to answer when the server ends. What they began goes on as long as the process does.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// The server broke.
#[derive(Debug, thiserror::Error)]
#[error("serve on the unix socket")]
pub struct ServeError(#[from] tonic::transport::Error);

/// A plugin: Identity, and the services whose ports it was given. Whatever else is called answers UNIMPLEMENTED.
#[derive(Default)]
pub struct Plugin {
    services: Routes,
    parts: Vec<Part>,
}

impl Plugin {
    /// A plugin with the Identity service only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With the Controller service too.
    #[must_use]
    pub fn with_controller<P: ControllerPort>(mut self, port: Arc<P>) -> Self {
        let service = ControllerService::new(Arc::clone(&port));
        self.services = self.services.add_service(proto::controller_server::ControllerServer::new(service));
        self.parts.push(Arc::new(move || {
            let port = Arc::clone(&port);
            Box::pin(async move { port.readiness().await })
        }));
        self
    }

    /// With the Node service too.
    #[must_use]
    pub fn with_node<P: NodePort>(mut self, port: Arc<P>) -> Self {
        let service = NodeService::new(Arc::clone(&port));
        self.services = self.services.add_service(proto::node_server::NodeServer::new(service));
        self.parts.push(Arc::new(move || {
            let port = Arc::clone(&port);
            Box::pin(async move { port.readiness().await })
        }));
        self
    }

    /// Serves until `shutdown` is there; then running calls have five seconds to answer. The socket's file is gone at the end.
    ///
    /// # Errors
    /// The server broke.
    pub async fn serve(self, socket: Socket, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let identity = IdentityService { parts: self.parts };
        let services = self.services.add_service(proto::identity_server::IdentityServer::new(identity));
        serve(services, socket, shutdown).await
    }
}

pub(crate) async fn serve(
    services: Routes,
    socket: Socket,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (listener, file) = socket.into_parts();
    serve_at(services, (UnixListenerStream::new(listener), file), shutdown).await
}

/// Serves callers that name a socket's path where a host belongs: see [`crate::authority`].
pub(crate) async fn serve_by_path(
    services: Routes,
    socket: Socket,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (listener, file) = socket.into_parts();
    let callers = UnixListenerStream::new(listener).map(|caller| caller.map(with_host_name));
    serve_at(services, (callers, file), shutdown).await
}

async fn serve_at<C>(
    services: Routes,
    (callers, _file): (impl Stream<Item = io::Result<C>>, File),
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError>
where
    C: AsyncRead + AsyncWrite + Connected<ConnectInfo: Clone + Send + Sync + 'static> + Unpin + Send + 'static,
{
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder().layer(CallLog).add_routes(services).serve_with_incoming_shutdown(callers, async {
        // Also when the sender is dropped, which only happens as this future ends.
        let _ = stopped.await;
    });
    let mut server = pin!(server);
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        () = shutdown => {}
    }
    // The server waits for it in the same task: it is still there.
    let _ = stop.send(());
    match tokio::time::timeout(LEAVE_WITHIN, server).await {
        Ok(ended) => Ok(ended?),
        Err(_) => {
            tracing::warn!("calls were still running when the server ended");
            Ok(())
        }
    }
}

//! gRPC over unix sockets, and waits that end.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};

use crate::failure::Failure;

/// Longest path that fits into a unix socket's address, without the closing zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How long an answer may take that needs no other node and no disk. A paused process answers never.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A channel to the socket at `path` that connects when first used, and again after the other end restarted.
#[must_use]
pub fn unix_channel(path: PathBuf) -> Channel {
    // The address is never looked up: the connector below decides.
    Endpoint::from_static("http://unix.invalid").connect_timeout(ANSWER_WITHIN).connect_with_connector_lazy(
        tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        }),
    )
}

/// Listens on the unix socket at `path`. The caller holds a lock that makes it the only one who may: an old socket file is
/// what a killed predecessor left.
///
/// # Errors
/// The socket cannot be made.
pub fn listen_unix(path: &Path) -> io::Result<UnixListenerStream> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path).map(UnixListenerStream::new)
}

/// Waits for an answer of `whom`, but not longer than `longest`.
///
/// # Errors
/// What the other end answered, or not reachable.
pub async fn answer<T>(
    whom: &str,
    longest: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(longest, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(name_transport_error(whom, &status)),
        Err(_) => Err(Failure::not_reachable(format!("{whom} has not answered within {} s", longest.as_secs_f32()))),
    }
}

/// A failure of the transport says only that a connection failed: add whose.
#[must_use]
pub fn name_transport_error(whom: &str, status: &Status) -> Failure {
    let failure = Failure::of_status(status);
    if status.details().is_empty() {
        return Failure { message: format!("{whom}: {}", failure.message), ..failure };
    }
    failure
}

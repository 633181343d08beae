//! One line of log for each call: method, code, duration. Never what the call contains.
//!
//! Everything logged while a call runs, in the ports too, stands in its span, which carries its number and the volume.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field};

use crate::volume::VolumeId;

/// Methods that change something. The others are asked often and say little.
const CHANGING: [&str; 9] = [
    "CreateVolume",
    "DeleteVolume",
    "ControllerExpandVolume",
    "ControllerModifyVolume",
    "NodeStageVolume",
    "NodeUnstageVolume",
    "NodePublishVolume",
    "NodeUnpublishVolume",
    "NodeExpandVolume",
];

/// Numbers calls within this run of the program.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// Says in the span of the running call which volume it is about.
pub(crate) fn concerns(id: &VolumeId) {
    Span::current().record("volume", id.as_str());
}

/// The layer that logs calls.
#[derive(Clone, Copy)]
pub(crate) struct CallLog;

/// A service whose calls are logged.
#[derive(Clone)]
pub(crate) struct Logged<S> {
    inner: S,
}

impl<S> Layer<S> for CallLog {
    type Service = Logged<S>;

    fn layer(&self, inner: S) -> Logged<S> {
        Logged { inner }
    }
}

impl<S, B, R> Service<http::Request<B>> for Logged<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let span = tracing::info_span!("csi", method, call = number, volume = field::Empty);
        let answer = span.in_scope(|| self.inner.call(request));
        let work = async move {
            let mut call = Call { method, begun: Instant::now(), answered: false };
            let answer = answer.await;
            if let Ok(response) = &answer {
                call.answer(response.headers());
            }
            answer
        };
        Box::pin(work.instrument(span))
    }
}

/// A call that runs.
struct Call {
    method: String,
    begun: Instant,
    answered: bool,
}

impl Call {
    fn answer(&mut self, headers: &http::HeaderMap) {
        self.answered = true;
        let duration_ms = self.begun.elapsed().as_millis();
        // A call that succeeds carries its status behind the message: what has none yet did.
        let status = Status::from_header_map(headers).unwrap_or_else(|| Status::ok(""));
        let code = format!("{:?}", status.code());
        if status.code() != Code::Ok {
            tracing::warn!(code, duration_ms, reason = status.message(), "call failed");
        } else if CHANGING.contains(&self.method.as_str()) {
            tracing::info!(code, duration_ms, "call answered");
        } else {
            tracing::debug!(code, duration_ms, "call answered");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.answered {
            let duration_ms = self.begun.elapsed().as_millis();
            tracing::warn!(duration_ms, "call left by its caller; what it began goes on");
        }
    }
}

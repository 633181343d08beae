//! `/healthz`, `/readyz` and `/metrics` for kubelet and Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

/// What the three answers are made of.
pub struct Health {
    ready: AtomicBool,
    metrics: Box<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Health").field("ready", &self.ready).finish_non_exhaustive()
    }
}

impl Health {
    /// Not ready; `metrics` is asked with every scrape, for text in Prometheus' format.
    #[must_use]
    pub fn new(metrics: impl Fn() -> String + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { ready: AtomicBool::new(false), metrics: Box::new(metrics) })
    }

    /// Whether requests can be answered from now on.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

/// Answers until `end`.
///
/// # Errors
/// The address cannot be listened at.
pub async fn serve(
    address: SocketAddr,
    health: Arc<Health>,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(listener, routes).with_graceful_shutdown(end).await
}

async fn readyz(State(health): State<Arc<Health>>) -> impl IntoResponse {
    match health.ready.load(Ordering::Acquire) {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the cluster's objects were not listed yet"),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], (health.metrics)())
}

//! Whether the program is well: GET /healthz and /readyz for kubelet.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

/// The program's main loop has not gone round for so long: it hangs, and kubelet shall start it anew. Far above anything that waits for a
/// disk or a server, which no main loop does without a bound.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// What is known of the program's health.
#[derive(Clone, Debug, Default)]
pub(super) struct Health(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// When the main loop went round last; `None`: it has not begun.
    alive: Option<Instant>,
    /// What is being waited for; empty: nothing.
    waits_for: String,
}

impl Health {
    /// Not ready yet.
    pub(super) fn wait_for(&self, what: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.waits_for != what {
            tracing::info!(what, "waiting");
            what.clone_into(&mut known.waits_for);
        }
    }

    /// Everything is served.
    pub(super) fn ready(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).waits_for.clear();
    }

    /// The main loop went round.
    pub(super) fn beat(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).alive = Some(Instant::now());
    }

    fn health(&self) -> Result<(), String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.alive.map(|at| at.elapsed()) {
            Some(silent) if silent >= HANGS_AFTER => Err(format!("hangs for {} s", silent.as_secs())),
            _ => Ok(()),
        }
    }

    fn readiness(&self) -> Result<(), String> {
        self.health()?;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.waits_for.is_empty() { Ok(()) } else { Err(format!("waiting for {}", known.waits_for)) }
    }
}

/// Answers until it is dropped.
pub(super) async fn serve(address: SocketAddr, health: Health) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("listen at {address}"))?;
    let routes = Router::new()
        .route("/healthz", get(async |State(health): State<Health>| answer(health.health())))
        .route("/readyz", get(async |State(health): State<Health>| answer(health.readiness())))
        .with_state(health);
    axum::serve(listener, routes).await.context("answer kubelet's probes")
}

fn answer(known: Result<(), String>) -> (StatusCode, String) {
    match known {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::Health;

    #[test]
    fn a_program_that_waits_is_well_and_not_ready() {
        let health = Health::default();
        health.wait_for("its MirrorPool");
        assert!(health.health().is_ok());
        assert_eq!(health.readiness(), Err("waiting for its MirrorPool".to_owned()));
        health.ready();
        health.beat();
        assert!(health.readiness().is_ok());
    }
}

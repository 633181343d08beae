//! This node's own Lease: says that its agent runs and reaches the API server, and whether its engine does.
//!
//! It has a client of its own: a connection that hangs under large answers must not make the node look dead.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use lockstep_api::names;

use super::engine_seen::EngineSeen;
use super::objects::RequestError;

/// How often it is renewed: three chances before it is stale.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// When others may take it for stale, by their own clocks.
const DURATION_SECONDS: i32 = 6;

/// For one renewal: the next one shall not wait for it.
pub(super) const RENEW_WITHIN: Duration = Duration::from_secs(2);

/// The Lease and how it was seen last.
pub(super) struct NodeLease {
    api: Api<Lease>,
    node: String,
    known: Option<Lease>,
}

impl NodeLease {
    pub(super) fn new(client: Client, namespace: &str, node: String) -> Self {
        Self { api: Api::namespaced(client, namespace), node, known: None }
    }

    /// Renews until it is dropped.
    pub(super) async fn keep(mut self, engine: &EngineSeen) {
        let mut tick = tokio::time::interval(RENEW_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tick.tick().await;
            let renewed = self.renew(engine.incarnation()).await;
            match &renewed {
                Err(reason) if !failing => tracing::warn!(%reason, "node_lease_not_renewed"),
                Ok(()) if failing => tracing::info!("node_lease_renewed_again"),
                _ => {}
            }
            failing = renewed.is_err();
        }
    }

    /// By one request, unless somebody meddled with it.
    async fn renew(&mut self, incarnation: u64) -> Result<(), RequestError> {
        match self.try_renew(incarnation).await {
            Err(RequestError::Missing | RequestError::Conflict) => self.try_renew(incarnation).await,
            result => result,
        }
    }

    async fn try_renew(&mut self, incarnation: u64) -> Result<(), RequestError> {
        if self.known.is_none() {
            self.known = match request(self.api.get_opt(&self.node)).await {
                Ok(found) => found,
                Err(error) => return Err(error),
            };
        }
        let wanted = self.filled(incarnation);
        let renewed = match &self.known {
            Some(_) => request(self.api.replace(&self.node, &PostParams::default(), &wanted)).await,
            None => request(self.api.create(&PostParams::default(), &wanted)).await,
        };
        // Whatever went wrong, the next one looks first.
        self.known = renewed.as_ref().ok().cloned();
        renewed.map(drop)
    }

    fn filled(&self, incarnation: u64) -> Lease {
        let mut lease = self.known.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.node.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        let engine = match incarnation {
            0 => names::ENGINE_DOWN.to_owned(),
            run => run.to_string(),
        };
        lease.metadata.managed_fields = None;
        let annotations: &mut BTreeMap<String, String> = lease.metadata.annotations.get_or_insert_default();
        annotations.insert(names::ANNOTATION_ENGINE.to_owned(), engine);
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.node.clone());
        spec.lease_duration_seconds = Some(DURATION_SECONDS);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        lease
    }
}

async fn request<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
    match tokio::time::timeout(RENEW_WITHIN, super::objects::request(asked)).await {
        Ok(result) => result,
        Err(_) => Err(RequestError::NotReachable(format!("no answer within {} s", RENEW_WITHIN.as_secs()))),
    }
}

//! A node's own Lease: renewed while volumes run there that Leases police, whether or not it holds anything. Others look at it only
//! while they wait for something that the node holds.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use lockstep_core::{Incarnation, NodeId};

use crate::access::RequestError;
use crate::names;
use crate::object;
use crate::register::Leases;
use crate::requests::Kind;

/// How often it is renewed: four chances before others take it for expired.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);
/// What the Lease says of itself, for people. Others count 40 s from what they saw last, on their own clock.
const DURATION_SECONDS: i32 = 40;

/// The own Lease of one run of an engine.
#[derive(Debug)]
pub(crate) struct OwnLease {
    node: NodeId,
    incarnation: Incarnation,
    /// As it was seen last: the next renewal replaces it.
    known: Option<Lease>,
}

impl OwnLease {
    pub(crate) fn new(node: NodeId, incarnation: Incarnation) -> OwnLease {
        OwnLease { node, incarnation, known: None }
    }

    /// Renews it, by one request unless somebody meddled with it; makes it if it is not there.
    pub(crate) async fn renew(&mut self, leases: &Leases) -> Result<(), RequestError> {
        match self.try_renew(leases).await {
            // Not as it was seen last: to look first is all that was missing.
            Err(RequestError::Missing(_) | RequestError::Conflict(_)) => self.try_renew(leases).await,
            result => result,
        }
    }

    async fn try_renew(&mut self, leases: &Leases) -> Result<(), RequestError> {
        let name = names::node_name(self.node);
        if self.known.is_none() {
            self.known = match leases.access.get(Kind::Node, &name).await {
                Ok(found) => Some(found),
                Err(RequestError::Missing(_)) => None,
                Err(error) => return Err(error),
            };
        }
        let renewed = match &self.known {
            Some(known) => leases.access.update(Kind::Node, &name, &self.filled(known)).await,
            None => {
                let bare = object::bare(&name, Kind::Node, None);
                leases.access.create(Kind::Node, &name, &self.filled(&bare)).await
            }
        };
        // Whatever went wrong, the next one looks first.
        self.known = renewed.as_ref().ok().cloned();
        renewed.map(drop)
    }

    /// Takes it away: nothing runs here any more that needs it.
    pub(crate) async fn remove(&mut self, leases: &Leases) -> Result<(), RequestError> {
        match self.known.take() {
            Some(known) => leases.access.delete(Kind::Node, &known).await,
            None => Ok(()),
        }
    }

    fn filled(&self, lease: &Lease) -> Lease {
        let mut lease = lease.clone();
        lease.metadata.managed_fields = None;
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(format!("{}/{}", self.node, self.incarnation));
        spec.lease_duration_seconds = Some(DURATION_SECONDS);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        lease
    }
}

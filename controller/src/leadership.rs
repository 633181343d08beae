//! One of the controller's replicas leads, and only that one writes what it decided: a Lease in the namespace of the installation.
//!
//! A candidate takes the Lease when nobody changed it for its duration, by the candidate's own clock. The leader renews it; when it could
//! not for [`RENEW_WITHIN`], it has lost, before anybody else can have won: the program ends at once, and with it all its writes.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};

/// The Lease's name.
pub const LEASE: &str = "lockstep-controller";

/// How often it is tried to give the leadership away: a renewal that is still on its way may come between.
const RELEASES: u32 = 3;
/// How long nobody else may have changed it before it is taken: as the sidecars have it.
pub const DURATION: Duration = Duration::from_secs(6);
/// How long a leader that cannot renew goes on: less than [`DURATION`], so that its last write comes before a successor's first.
pub const RENEW_WITHIN: Duration = Duration::from_secs(4);
/// How often it is renewed, or looked at.
pub const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Somebody else may lead now.
#[derive(Debug, thiserror::Error)]
pub enum LeadershipLost {
    /// The Lease was not renewed in time.
    #[error("the leadership was not renewed for {RENEW_WITHIN:?}")]
    NotRenewed,
    /// It names another.
    #[error("{holder} leads now")]
    Taken {
        /// Who.
        holder: String,
    },
}

/// One candidate.
#[derive(Debug)]
pub struct Candidate {
    leases: Api<Lease>,
    identity: String,
    /// The Lease as it was seen last, and since when on our clock.
    seen: Option<(Lease, Instant)>,
}

/// What one round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Leading,
    Following,
}

/// What to do about a Lease that was read: pure, so that every case is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is ours: renew it.
    Renew,
    /// It is nobody's, or its holder is silent: take it.
    Take,
    /// Another has it.
    Wait,
}

fn decide(holder: Option<&str>, identity: &str, unchanged_for: Duration) -> Decision {
    match holder {
        Some(holder) if holder == identity => Decision::Renew,
        None | Some("") => Decision::Take,
        Some(_) if unchanged_for >= DURATION => Decision::Take,
        Some(_) => Decision::Wait,
    }
}

impl Candidate {
    /// A candidate; `identity` must be of this run of the program alone.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), identity, seen: None }
    }

    /// Waits until this one leads.
    pub async fn win(&mut self) {
        loop {
            match self.round_within(RENEW_WITHIN).await {
                Ok(Round::Leading) => return tracing::info!(identity = self.identity, "leadership_won"),
                Ok(Round::Following) => {}
                Err(error) => tracing::debug!(error, "leadership_round_failed"),
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Leads until that is lost. To be called after [`Candidate::win`], at once.
    pub async fn keep(&mut self) -> LeadershipLost {
        let mut renewed = Instant::now();
        loop {
            let began = Instant::now();
            let left = RENEW_WITHIN.saturating_sub(renewed.elapsed());
            match self.round_within(left).await {
                // What counts is when the request was sent: the server may have done it then.
                Ok(Round::Leading) => renewed = began,
                Ok(Round::Following) => return LeadershipLost::Taken { holder: self.holder().unwrap_or_default() },
                Err(error) => tracing::warn!(error, "leadership_not_renewed"),
            }
            if renewed.elapsed() >= RENEW_WITHIN {
                return LeadershipLost::NotRenewed;
            }
            tokio::time::sleep(RETRY_EVERY.min(RENEW_WITHIN.saturating_sub(renewed.elapsed()))).await;
        }
    }

    /// Gives it away, so that another need not wait. An error only makes that one wait.
    pub async fn release(&mut self) {
        let mut last = Ok(());
        for _ in 0..RELEASES {
            last = tokio::time::timeout(RENEW_WITHIN, self.give_away())
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {RENEW_WITHIN:?}")));
            if last.is_ok() {
                return;
            }
        }
        if let Err(error) = last {
            tracing::info!(error, "leadership_not_released");
        }
    }

    /// What was seen last is not gone by: a renewal that nobody waited for any more may have been done.
    async fn give_away(&self) -> Result<(), String> {
        let found = self.leases.get_opt(LEASE).await.map_err(|error| error.to_string())?;
        let ours = |lease: &Lease| {
            lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
        };
        let Some(mut lease) = found.filter(ours) else { return Ok(()) };
        lease.spec.get_or_insert_default().holder_identity = None;
        let released = self.leases.replace(LEASE, &PostParams::default(), &lease).await;
        released.map(|_| ()).map_err(|error| error.to_string())
    }

    fn holder(&self) -> Option<String> {
        self.seen.as_ref()?.0.spec.as_ref()?.holder_identity.clone()
    }

    async fn round_within(&mut self, within: Duration) -> Result<Round, String> {
        tokio::time::timeout(within, self.round()).await.map_err(|_| format!("no answer within {within:?}"))?
    }

    async fn round(&mut self) -> Result<Round, String> {
        let found = match self.leases.get_opt(LEASE).await.map_err(|error| error.to_string())? {
            Some(found) => found,
            None => return self.write(None).await,
        };
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let since = match &self.seen {
            Some((known, since)) if version(known) == version(&found) => *since,
            _ => Instant::now(),
        };
        let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        self.seen = Some((found.clone(), since));
        match decide(holder.as_deref(), &self.identity, since.elapsed()) {
            Decision::Wait => Ok(Round::Following),
            Decision::Take | Decision::Renew => self.write(Some(found)).await,
        }
    }

    /// Writes our name, over exactly what was read. Another's write in between is another's win.
    async fn write(&mut self, found: Option<Lease>) -> Result<Round, String> {
        let now = Some(MicroTime(Timestamp::now()));
        let mut lease = found.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec::default()),
        });
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time.clone_from(&now);
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.renew_time = now;
        spec.lease_duration_seconds = Some(6);
        let written = match found {
            Some(_) => self.leases.replace(LEASE, &PostParams::default(), &lease).await,
            None => self.leases.create(&PostParams::default(), &lease).await,
        };
        match written {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(Round::Leading)
            }
            // Changed since it was read: whether by another is what the next look says.
            Err(Error::Api(status)) if status.code == 409 => Err("somebody else wrote at the same time".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_from_nobody_who_is_heard() {
        for (holder, unchanged_for, decision) in [
            (Some("me"), 0, Decision::Renew),
            (Some("me"), 60, Decision::Renew),
            (None, 0, Decision::Take),
            (Some(""), 0, Decision::Take),
            (Some("other"), 5, Decision::Wait),
            (Some("other"), 6, Decision::Take),
        ] {
            assert_eq!(
                decide(holder, "me", Duration::from_secs(unchanged_for)),
                decision,
                "{holder:?} {unchanged_for}"
            );
        }
    }

    #[test]
    fn a_leader_ends_before_another_begins() {
        assert!(RENEW_WITHIN + RETRY_EVERY < DURATION);
    }
}

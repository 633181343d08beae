//! The watch over all grant Leases: one per node, however many volumes.
//!
//! It may be late, repeat itself and leave out what was replaced meanwhile; versions tell. When it breaks, everything is listed anew.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use lockstep_core::{LeaseTold, VolumeId};
use tokio_stream::StreamExt as _;

use crate::again::Again;
use crate::names;
use crate::register::Leases;
use crate::requests::{Kind, Verb};

/// After so long the API server ends a watch, and the next begins where it ended: a connection that died unnoticed is noticed then.
const WATCH_SECONDS: u32 = 60;

/// A watch that broke is begun again after this long, later attempts after up to the longest. An API server that is back has writers
/// waiting for it: a holder that does not watch does not hear that they do.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_LONGEST: Duration = Duration::from_secs(3);

type Place = (VolumeId, u8);

/// What the watch knows.
#[derive(Debug, Default)]
struct Seen {
    there: BTreeSet<Place>,
    /// Those of a list that is being read.
    listed: Option<BTreeSet<Place>>,
}

/// Who hears of what.
pub(crate) trait Audience {
    /// Whether the volume runs here. Of all others nothing is kept.
    fn has(&self, volume: VolumeId) -> bool;
    /// Tells a volume.
    fn tell(&self, volume: VolumeId, told: LeaseTold);
}

/// Watches until it is dropped, and tells each change.
pub(crate) async fn watch(leases: &Leases, audience: &impl Audience) {
    let api = loop {
        match leases.access.leases().await {
            Ok(api) => break api,
            Err(reason) => {
                tracing::warn!(reason, "grant_leases_not_watched");
                tokio::time::sleep(crate::REQUEST_LIMIT).await;
            }
        }
    };
    let selector = format!("{}={}", names::KIND_LABEL, Kind::Grants.name());
    let config = watcher::Config::default().labels(&selector).timeout(WATCH_SECONDS);
    let mut events = pin!(watcher(api, config).backoff(Again::new(AGAIN, AGAIN_LONGEST)));
    let mut seen = Seen::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => on_event(leases, &mut seen, event, audience),
            Err(error) => {
                leases.access.requests.count_failed(Verb::Watch, Kind::Grants);
                tracing::info!(%error, "grant_leases_watched_anew");
            }
        }
    }
}

fn on_event(leases: &Leases, seen: &mut Seen, event: Event<Lease>, audience: &impl Audience) {
    let missing = |at: Place| {
        if audience.has(at.0) {
            audience.tell(at.0, leases.missing(at));
        }
    };
    let place = |lease: &Lease| names::parse_grants_name(lease.metadata.name.as_deref()?);
    match event {
        Event::Init => {
            // A list, and a watch from there on. What continues a watch that ended in order is not told here.
            leases.access.requests.count_sent(Verb::List, Kind::Grants);
            leases.access.requests.count_sent(Verb::Watch, Kind::Grants);
            seen.listed = Some(BTreeSet::new());
        }
        Event::InitApply(lease) | Event::Apply(lease) => {
            let Some(at) = place(&lease) else { return };
            seen.there.insert(at);
            if let Some(listed) = &mut seen.listed {
                listed.insert(at);
            }
            if audience.has(at.0) {
                audience.tell(at.0, leases.see_grants(at, lease));
            }
        }
        Event::InitDone => {
            let listed = seen.listed.take().unwrap_or_default();
            let gone: Vec<Place> = seen.there.difference(&listed).copied().collect();
            seen.there = listed;
            gone.into_iter().for_each(missing);
        }
        Event::Delete(lease) => {
            let Some(at) = place(&lease) else { return };
            seen.there.remove(&at);
            missing(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::utils::Backoff as _;

    #[test]
    fn an_api_server_that_is_back_is_watched_within_seconds() {
        let mut again = Again::new(AGAIN, AGAIN_LONGEST);
        assert!(again.by_ref().take(100).all(|wait| wait >= AGAIN && wait <= AGAIN_LONGEST));
        again.reset();
        assert_eq!(again.next(), Some(AGAIN));
    }
}
